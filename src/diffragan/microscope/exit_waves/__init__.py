"""Atoms in vacuum to the wave that leaves them."""
