"""Results against a truth: scores, likeness of pictures, tables."""
