"""Views of several molecules or conformations, parted and phased class by class."""
