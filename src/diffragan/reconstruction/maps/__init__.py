"""Steps on one map: its views, image map, mask, data step, free set, weights, merging."""
