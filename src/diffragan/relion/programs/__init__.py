"""RELION's programs: where they are, how they are called, watched and taken up again."""
