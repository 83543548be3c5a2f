"""How each view lies: refined against a map, found from images, and the hand."""
