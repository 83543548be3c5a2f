"""What a search for orientations from nothing gives, whatever it goes by."""

from __future__ import annotations

from dataclasses import dataclass

from diffragan.reconstruction.maps.views import Views


@dataclass(frozen=True)
class OrientationSearchResult:
    """Views with orientations and shifts found from nothing, in one of two hands.

    sure: whether the search has reason to trust them: two answers that could have differed are the
        same.
    starts: what part of the images' signal each random start came to explain; empty for a search
        that has none.
    agree_deg: median angle between the two answers: by the images the two starts that agree best,
        by lines two halves of the core. None if there were not two.
    """

    views: Views
    sure: bool
    starts: tuple[float, ...] = ()
    agree_deg: float | None = None
