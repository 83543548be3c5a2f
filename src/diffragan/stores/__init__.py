"""Whole stores: put together from parts."""
