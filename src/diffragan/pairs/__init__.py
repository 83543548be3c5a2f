"""Pattern and image of n exposures, from whatever file."""
