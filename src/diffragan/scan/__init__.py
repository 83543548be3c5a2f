"""A raster scan with its overview image: which patterns are of molecules, where they lie, pairs."""
