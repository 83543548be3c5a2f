"""One file a method; importing this package registers them all."""

from diffragan.phasing.methods import hybrid, image, published, raar

__all__ = ["hybrid", "image", "published", "raar"]
