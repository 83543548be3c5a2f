"""A start from phases that another method found: a network's, or projection algorithms' in 2D."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from diffragan.errors import DiffraganError
from diffragan.files.store import ResultStore, open_results
from diffragan.pairs.pairs import Pairs
from diffragan.reconstruction.many_views import HalfMaps
from diffragan.reconstruction.maps.merge_waves import merge_stored
from diffragan.reconstruction.phased_map import PhasedMap


def begin_from_waves(half_maps: HalfMaps, path: Path, pairs: Pairs) -> None:
    """Put phased waves of the same pairs in the place of each half's start.

    Each half takes the waves of its own views alone, weighted by their trust. The image map stays
    what holds the halves and says where the molecule lies.

    Raises:
        DiffraganError: the results are of other pairs, of some of them only, or have no waves.
    """
    results = open_results(path)
    if results.header["input"]["sha256"] != pairs.sha256:
        raise DiffraganError(f"{path} was phased from other pairs than {pairs.name}.")
    if not results.has("wave"):
        raise DiffraganError(
            f"{path} has projections only (method '{results.method}'); a start needs waves, as "
            "raar or hybrid give them."
        )
    place = {int(item): k for k, item in enumerate(results.items)}
    for half in half_maps.halves:
        missing = [int(i) for i in half.views.items if int(i) not in place]
        if missing:
            raise DiffraganError(
                f"{path} lacks {len(missing)} of the views, pair {missing[0]} first; phase them "
                "all (without --limit)."
            )
        _replace_start(half, results, place)


def _replace_start(half: PhasedMap, results: ResultStore, place: dict[int, int]) -> None:
    views = half.views
    rows = np.array([place[int(i)] for i in views.items])
    volume = merge_stored(results, rows, views.rotations, views.flat, views.n)
    spectrum = torch.lerp(
        torch.fft.rfftn(volume, norm="forward"),
        half.image.spectrum,
        half.image.known.to(torch.complex64),
    )
    n = views.n
    half.x = torch.fft.irfftn(spectrum, s=(n, n, n), norm="forward")
    half.map = half.x * half.mask
