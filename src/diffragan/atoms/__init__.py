"""From a map and its patterns to atoms."""
