"""Where a scan lies in its overview: particles, and the raster over them."""
