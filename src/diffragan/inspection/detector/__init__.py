"""Steps on frames of one detector: faults, centre, scale, and the way to another grid."""
