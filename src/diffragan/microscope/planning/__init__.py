"""What an experiment needs, before it is done."""
