"""Settings of what a run may find anew of each view."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

ViewError = Literal["orientation", "centre", "scale", "ellipse", "background", "damage"]


def _listed(value: Any) -> Any:
    """A list of names, also from words with commas between them."""
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


ViewErrors = Annotated[tuple[ViewError, ...], BeforeValidator(_listed)]
