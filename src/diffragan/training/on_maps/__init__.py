"""Training of the generator of maps: molecules, what is measured of them, steps."""
