"""From pairs to phases, a map and atoms; and the network that some of it takes."""
