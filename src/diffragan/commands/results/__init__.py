"""What came out: judged against a truth or without, and taken elsewhere."""
