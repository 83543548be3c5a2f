"""From a PDB entry or a file to one clean chain."""
