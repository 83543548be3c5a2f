"""Frames of an instrument: where the beam is, which pixels count, what a pixel is worth, and how an
image lies to its pattern."""
