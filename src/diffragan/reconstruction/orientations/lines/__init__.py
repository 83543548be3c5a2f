"""Lines that two patterns share, and what they vote for."""
