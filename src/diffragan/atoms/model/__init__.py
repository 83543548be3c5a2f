"""Atoms as scatterers: what they are, how they scatter, and their density on a grid."""
