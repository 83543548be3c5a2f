"""Phase recovery for single-molecule electron diffraction."""

from importlib.metadata import version

__version__ = version("diffragan")
