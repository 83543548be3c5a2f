"""Packages that only files of instruments need, and the words for those that lack them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffragan.errors import DiffraganError


@contextmanager
def needs_extra(path: Path) -> Iterator[None]:
    """Imports inside become a sentence that names the extra, where a package is missing."""
    try:
        yield
    except ImportError as error:
        raise DiffraganError(
            f"{path} needs the package {error.name or 'RosettaSciIO'}, which is not installed; "
            "run: pip install 'diffragan[instruments]'."
        ) from None
