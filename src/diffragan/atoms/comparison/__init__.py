"""Atoms held against each other, and against a known structure."""
