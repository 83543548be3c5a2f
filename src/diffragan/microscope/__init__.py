"""Atoms to exit wave, and exit wave to pattern, image and projection."""
