"""What is wrong with pairs, before they are phased: sentences that name it and the remedy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffragan.inspection.agreement import (
    PLACEMENTS,
    Agreement,
    ImagedPatterns,
    agreement,
    best_defocus,
    best_placement,
    sign_of_defocus,
)
from diffragan.inspection.detector.centre import friedel_centre
from diffragan.inspection.findings import SURE, SURE_SIGN
from diffragan.inspection.images import DEFOCI_A
from diffragan.microscope.imaging import counted_electrons
from diffragan.microscope.specimen import is_ideal
from diffragan.pairs.pairs import Pairs
from diffragan.settings import ImageSettings

_LOOKED_AT = 24  # pairs, spread evenly
_LISTED = 5
_OFF_PX = 0.5  # a centre this far off is told
_COARSEST_A = 30.0  # measured: docs/instruments.md


def pair_doubts(pairs: Pairs, items: NDArray[np.int64]) -> list[str]:
    """Sentences on what makes pairs doubtful: centre, beam stop, images that do not fit.

    Looks at no truth, and at 24 of the items, spread evenly.
    """
    few = items
    if len(items) > _LOOKED_AT:
        few = items[(np.arange(_LOOKED_AT) * len(items)) // _LOOKED_AT]
    patterns = pairs.pattern(few).astype(np.float64)
    found = [beam_stop_doubt(pairs.pattern_mask, pairs.box_A)]
    off = centre_doubt(patterns, pairs.pattern_mask, few)
    # Patterns off their centre fit no image.
    found += [off] if off else _image_doubts(pairs, patterns, few)
    return [doubt for doubt in found if doubt is not None]


def beam_stop_doubt(mask: NDArray[np.bool_], box_A: float) -> str | None:
    """A beam stop that hides more of the middle than phasing can fill in.

    Args:
        mask: (m, m), zero frequency at [m // 2, m // 2], True where measured.
    """
    m = mask.shape[-1]
    y, x = np.indices((m, m)) - m // 2
    ring = np.rint(np.hypot(y, x)).astype(int)
    share = np.bincount(ring.ravel(), mask.ravel()) / np.bincount(ring.ravel())
    first = int(np.argmax(share[1:] > 0.5)) + 1  # the first ring of which half is measured
    coarsest = box_A / first
    if coarsest >= _COARSEST_A or first <= 2:
        return None
    return (
        f"The patterns begin at {coarsest:.0f} Å, their middle is masked. Hide more than what is "
        f"coarser than {_COARSEST_A:g} Å, and phasing fails for half of the pairs, soon for all; "
        "use a smaller beam stop."
    )


def centre_doubt(
    patterns: NDArray[np.float64], mask: NDArray[np.bool_], items: NDArray[np.int64]
) -> str | None:
    """Patterns (n, m, m) that are symmetric about another pixel than [m // 2, m // 2].

    Args:
        items: (n,) their numbers, to be named.
    """
    middle = mask.shape[-1] // 2
    off: list[tuple[int, float, float]] = []
    for item, pattern in zip(items, patterns, strict=True):
        level = float(np.median(pattern[mask])) if mask.any() else 0.0
        bright = pattern * (10 / level) if level > 0 else pattern / max(pattern.max(), 1e-30) * 100
        here = friedel_centre(bright, mask, (float(middle), float(middle)), 8.0)
        if here and max(abs(here.y - middle), abs(here.x - middle)) > max(
            _OFF_PX, 4 * here.error_px
        ):
            off.append((int(item), here.y - middle, here.x - middle))
    if len(off) <= 0.1 * len(items):
        return None
    _, dy, dx = off[len(off) // 2]
    return (
        f"{_named([k for k, _, _ in off], len(items), 'pattern')} symmetric about a point off the "
        f"centre (by {dy:+.1f} rows and {dx:+.1f} columns in one of them), which makes results "
        "useless; centre them, or let `diffragan inspect` do it."
    )


def _image_doubts(
    pairs: Pairs, patterns: NDArray[np.float64], items: NDArray[np.int64]
) -> list[str | None]:
    """Images that do not fit their patterns, and what would make them. Through ice, and of a
    molecule that fades, a pattern is not the molecule's alone, and says nothing of its image."""
    if not is_ideal(pairs.settings.specimen):
        return []
    lens, optics, mask = pairs.settings.image, pairs.optics, pairs.pattern_mask
    defocus = pairs.defocus
    if defocus is not None and len(defocus):
        mean = float((defocus[items].u_A + defocus[items].v_A).mean() / 2)
        lens = lens.model_copy(update={"defocus_A": mean})
    images, dose = pairs.image(items).astype(np.float64), pairs.image_dose(items)
    electrons = counted_electrons(optics, pairs.settings)
    data = ImagedPatterns(patterns, mask, images, dose, optics, electrons)
    here = agreement(data, lens, None)
    ways = best_placement(data, lens, None)
    best = next(iter(ways))
    ahead = ways[best].total - here.total
    if best != "as-is" and ways[best].total > 0 and ahead > SURE:
        return [
            f"The images fit their patterns {PLACEMENTS[best]} better than as they are (log "
            f"likelihood {ahead:.0f} more); lay them so, or let `diffragan inspect` do it."
        ]
    if here.total < -SURE * len(items):
        return [_lost(data, lens, here)]
    odd = [int(k) for k, gain in zip(items, here.gain, strict=True) if gain < -2 * SURE]
    found: list[str | None] = []
    if here.total > 0 and odd:
        found.append(
            f"{_named(odd, len(items), 'image')} no match for the pattern beside it: another "
            "molecule, or another orientation; leave such pairs out."
        )
    if here.total > SURE:
        sign = sign_of_defocus(data, lens)
        if sign < -SURE_SIGN:
            found.append(
                f"With a defocus of {lens.defocus_A:.0f} Å the molecules come out negative "
                f"({-sign:.1f} sd), as they would with the wrong sign; check it."
            )
    return found


def _lost(data: ImagedPatterns, lens: ImageSettings, here: Agreement) -> str:
    """Images that fit nowhere as they are taken: whether another defocus makes them fit."""
    plane = data.optics.centre_to_exit_A
    likeliest, _, gain = best_defocus(data, lens, DEFOCI_A)
    # Counted from the molecules' plane; its modulus is all that is known.
    size, taken = abs(likeliest - plane), lens.defocus_A - plane
    if gain > SURE and abs(size - abs(taken)) > 0.2 * abs(taken):
        signed = math.copysign(size, taken) + plane
        return (
            f"The images do not fit their patterns at {lens.defocus_A:.0f} Å of defocus, and would "
            f"at about {signed:.0f} Å; correct image.defocus_A."
        )
    return (
        f"The images do not fit their patterns (log likelihood {here.total:.0f} below chance), as "
        "they are, flipped or turned, at any defocus: are they of the same molecules, in the same "
        "order, on the same field?"
    )


def _named(items: Sequence[int], of: int, noun: str) -> str:
    """`3 of 24 patterns (4, 7, 9) are`."""
    numbers = ", ".join(str(k) for k in items[:_LISTED])
    more = ", ..." if len(items) > _LISTED else ""
    is_are = "is" if len(items) == 1 else "are"
    return f"{len(items)} of {of} {noun}s looked at ({numbers}{more}) {is_are}"
