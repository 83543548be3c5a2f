"""What a pattern is of: sums by ring, the background, features, classes."""
