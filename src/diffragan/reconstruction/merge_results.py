"""`--method merge`: the phased waves of a result store in one map, whatever phased them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan import __version__
from diffragan.errors import DiffraganError
from diffragan.evaluation.known_model import KnownModel
from diffragan.files.store import ResultStore, open_results
from diffragan.fourier.correlation import fsc, resolution_at, ring_index
from diffragan.fourier.slices import Slices, slices
from diffragan.microscope.imaging import pattern_mask
from diffragan.reconstruction.choose_views import LEAST_VIEWS, missing_cone_deg
from diffragan.reconstruction.maps.agreement import HALF_SET_THRESHOLD
from diffragan.reconstruction.maps.mask import envelope
from diffragan.reconstruction.maps.merge_waves import merge_waves
from diffragan.reconstruction.maps.views import side_of
from diffragan.reconstruction.outputs import MapFolder, write_map_folder
from diffragan.settings import settings_from_dict

_SHARED_PRIOR = (
    "The views were phased by one method; errors that its prior puts into all of them count as "
    "agreement here."
)


_SHARED_PRIOR = (
    "The views were phased by one method; errors that its prior puts into all of them count as "
    "agreement here."
)


def merge_results(
    store: Path,
    out: Path,
    command: str,
    mass_kda: float | None = None,
    model: KnownModel | None = None,
) -> dict[str, Any]:
    """Merge a result store's waves into a map and two half maps; the dictionary of metrics.json.

    Waves are weighted by their trust. The half maps share no view, but where one method with one
    prior phased all views they may share its errors, and the FSC does not see those.

    Raises:
        DiffraganError: no waves, no orientations, several molecules or too few views.
    """
    results = open_results(store)
    rotation = mergeable(results)
    optics, info = results.optics, results.structures[int(results.structure_index[0])]
    measured = measured_band(results)
    geometry = slices(
        phased_band(results, measured), optics.box_A, optics.wavelength_A, curved=True
    )
    every, n, turns = np.arange(results.n), side_of(geometry), torch.from_numpy(rotation).float()
    one, two = (_merged(results, every[k::2], turns, geometry) for k in (0, 1))
    all_views = _merged(results, every, turns, geometry)
    inside = envelope(all_views, optics.box_A, mass_kda or info.mass_kda or None)
    last = int((geometry.radius + 0.5).long().max())
    q = torch.arange(1, last + 1, dtype=torch.float64) / optics.box_A
    curve = fsc(one * inside, two * inside)[1 : last + 1]
    metrics: dict[str, Any] = {
        "method": f"merge of {results.method}",
        "version": __version__,
        "molecule": info.stem,
        "mass_da": 1e3 * info.mass_kda or None,
        "converged": True,
        "fsc_0p143_A": resolution_at(curve, q, HALF_SET_THRESHOLD),
        "truth_fsc_0p5_A": None,
        "measured_to_A": optics.box_A / int(ring_index(measured.shape[-1])[measured].max()),
        "rounds": 1,
        "n_views": results.n,
        "missing_cone_deg": missing_cone_deg(rotation),
        "box_A": optics.box_A,
        "voxel_A": optics.box_A / n,
        "hand": "that of the given orientations",
        "warnings": [_SHARED_PRIOR],
    }
    folder = MapFolder(
        map=all_views,
        halves=(one, two),
        mask=inside,
        voxel_A=optics.box_A / n,
        q=q,
        curves={"half": curve},
        rotations=rotation,
        weights=np.ones(results.n, dtype=np.float32),
        metrics=metrics,
        settings=settings_from_dict(results.settings),
        model=model,
    )
    return write_map_folder(out, folder, command)


def mergeable(results: ResultStore) -> NDArray[np.float64]:
    """The orientations (v, 3, 3) of results that can make a map.

    Raises:
        DiffraganError: no waves, no orientations, several molecules or too few views.
    """
    if not results.has("wave"):
        raise DiffraganError(
            f"{results.path} has projections only (method '{results.method}'); merging needs "
            "waves, as image, raar, hybrid and many-views give them."
        )
    if results.rotation is None:
        raise DiffraganError(
            f"{results.path} tells no orientations; phase pairs that have them, or reconstruct "
            "the pairs with --method many-views --find-orientations."
        )
    if len(np.unique(results.structure_index)) > 1:
        raise DiffraganError(
            f"{results.path} holds several molecules; a map is made of one, so phase one "
            "structure's pairs."
        )
    if results.n < LEAST_VIEWS:
        raise DiffraganError(
            f"{results.path} holds {results.n} views; a map needs at least {LEAST_VIEWS}."
        )
    return results.rotation


def measured_band(results: ResultStore) -> Tensor:
    """(m, m) bool, zero frequency at [m//2, m//2]: where the patterns were measured, the direct
    beam left out.

    A store of an earlier version does not record it; then it is what the settings say. The waves
    do not tell: rounding leaves none of their frequencies at nothing.
    """
    wave = results.wave([0])
    assert wave is not None
    m = wave.shape[-1]
    if results.has("pattern_mask"):
        mask = torch.from_numpy(results.read("pattern_mask").astype(bool))
    else:
        settings = settings_from_dict(results.settings)
        mask = pattern_mask(m, results.optics, settings.pattern)
    mask[m // 2, m // 2] = False
    return mask


def phased_band(results: ResultStore, measured: Tensor) -> Tensor:
    """(m, m) bool: of the measured band the rings in which any view's phases are trusted.

    Raises:
        DiffraganError: there are none.
    """
    if results.trust is None:
        return measured
    rings = ring_index(measured.shape[-1])
    trusted = torch.from_numpy(np.append((results.trust > 0).any(0), False))
    band = measured & trusted[rings.clamp_max(len(trusted) - 1)]
    if not bool(band.any()):
        raise DiffraganError(
            f"The phases of {results.path} are trusted nowhere, so they make no map; phase the "
            "pairs by another method."
        )
    return band


def _merged(
    results: ResultStore, items: NDArray[np.int64], turns: Tensor, geometry: Slices
) -> Tensor:
    """The volume of some of the waves."""

    def waves(some: NDArray[np.int64]) -> NDArray[np.complex64]:
        wave = results.wave(some)
        assert wave is not None
        return wave

    def trust(some: NDArray[np.int64]) -> NDArray[np.float32]:
        assert results.trust is not None
        return results.trust[some]

    weight = None if results.trust is None else trust
    chosen = turns[torch.from_numpy(items)]
    return merge_waves(waves, items, chosen, geometry, side_of(geometry), weight=weight)
