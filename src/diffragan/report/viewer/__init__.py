"""What a page lets its reader turn: maps as surfaces, atoms and bonds, in 3Dmol.js."""
