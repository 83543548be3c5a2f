"""A virtual session: a grid square, a raster scan over it, and its overview image."""
