"""From atoms, or from a microscope's files, to pairs of pattern and image."""
