"""Free atoms from a map: peaks, what they are refined against, cycles of building."""
