"""Which view shows which molecule, or which of its shapes."""
