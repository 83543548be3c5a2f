"""The likelihood of patterns and images, and the scatterers that climb it."""
