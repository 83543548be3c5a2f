"""`--method merge`: the phased waves of a result store in one map, whatever phased them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan import __version__
from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.files.mrc import write_map
from diffragan.files.star import write_fsc
from diffragan.files.store import ResultStore, open_results
from diffragan.fourier.correlation import fsc, resolution_at
from diffragan.fourier.slices import Slices, slices
from diffragan.fourier.volumes import centred
from diffragan.pairs.pairs import Pairs
from diffragan.reconstruction.choose_views import LEAST_VIEWS, missing_cone_deg
from diffragan.reconstruction.maps.agreement import HALF_SET_THRESHOLD
from diffragan.reconstruction.maps.mask import envelope
from diffragan.reconstruction.maps.merge_waves import merge_waves
from diffragan.reconstruction.maps.views import side_of
from diffragan.report.map_page import write_map_report
from diffragan.report.map_report import MapReport
from diffragan.settings import settings_from_dict, settings_to_toml


def merge_results(
    store: Path,
    out: Path,
    *,
    pairs: Pairs | None = None,
    command: str,
    mass_kda: float | None = None,
) -> dict[str, Any]:
    """Merge a result store's waves into a map and two half maps; the dictionary of metrics.json.

    Waves are weighted by their trust. The half maps share no view, but where one method with one
    prior phased all views they may share its errors, and the FSC does not see those.

    Raises:
        DiffraganError: no waves, no orientations, several molecules or too few views.
    """
    results = open_results(store)
    rotation = results.rotation
    if not results.has("wave"):
        raise DiffraganError(
            f"{store} has projections only (method '{results.method}'); merging needs waves, as "
            "image, raar, hybrid and many-views give them."
        )
    if rotation is None:
        raise DiffraganError(
            f"{store} tells no orientations; phase pairs that have them, or reconstruct the pairs "
            "with --method many-views --find-orientations."
        )
    if len(np.unique(results.structure_index)) > 1:
        raise DiffraganError(
            f"{store} holds several molecules; a map is made of one, so phase one structure's "
            "pairs."
        )
    if results.n < LEAST_VIEWS:
        raise DiffraganError(
            f"{store} holds {results.n} views; a map needs at least {LEAST_VIEWS}."
        )
    probe = results.wave([0])
    assert probe is not None
    m = probe.shape[-1]
    mask = torch.from_numpy(np.abs(np.fft.fftshift(np.fft.fft2(probe[0]))) > 0)
    mask[m // 2, m // 2] = False
    optics = results.optics
    geometry = slices(mask, optics.box_A, optics.wavelength_A, curved=True)
    n = side_of(geometry)
    turn = torch.from_numpy(rotation).float()
    halves = [_merged(results, np.arange(k, results.n, 2), turn, geometry, n) for k in (0, 1)]
    whole = _merged(results, np.arange(results.n), turn, geometry, n)
    info = results.structures[int(results.structure_index[0])]
    inside = envelope(whole, optics.box_A, mass_kda or info.mass_kda or None)
    last = int((geometry.radius + 0.5).long().max())
    q = torch.arange(1, last + 1, dtype=torch.float64) / optics.box_A
    curve = fsc(halves[0] * inside, halves[1] * inside)[1 : last + 1]
    voxel = optics.box_A / n
    out.mkdir(parents=True, exist_ok=True)
    label = f"diffragan {__version__} {info.stem}"
    write_map(out / "map.mrc", centred(whole), voxel, f"{label}, merged")
    for k, half in enumerate(halves, 1):
        write_map(out / f"half{k}.mrc", centred(half), voxel, f"{label}, half of the views")
    write_map(out / "mask.mrc", centred(inside).float(), voxel, f"{label}, mask")
    write_fsc(out, q, {"half": curve})
    resolution = resolution_at(curve, q, HALF_SET_THRESHOLD)
    cone = missing_cone_deg(rotation)
    settings = settings_to_toml(settings_from_dict(results.settings))
    metrics: dict[str, Any] = {
        "method": f"merge of {results.method}",
        "version": __version__,
        "molecule": info.stem,
        "mass_da": 1e3 * info.mass_kda or None,
        "converged": True,
        "fsc_0p143_A": resolution,
        "truth_fsc_0p5_A": None,
        "measured_to_A": float(1 / q[-1]),
        "rounds": 1,
        "n_views": results.n,
        "missing_cone_deg": cone,
        "box_A": optics.box_A,
        "voxel_A": voxel,
        "hand": "that of the given orientations",
        "warnings": [
            "The views were phased by one method; errors that its prior puts into all of them "
            "count as agreement here."
        ],
    }
    write_atomically(out / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())
    write_atomically(out / "settings.toml", settings.encode())
    report = MapReport(
        map=centred(whole),
        voxel_A=voxel,
        mask=centred(inside),
        q=q,
        fsc_half=curve,
        fsc_truth=None,
        history=[],
        rotations=rotation,
        weights=np.ones(results.n),
        metrics=metrics,
        settings_toml=settings,
    )
    write_map_report(out, report, command)
    return metrics


def _merged(
    results: ResultStore, places: NDArray[np.int64], rotations: Tensor, geometry: Slices, n: int
) -> Tensor:
    def waves(chosen: NDArray[np.int64]) -> NDArray[np.complex64]:
        found = results.wave(chosen)
        assert found is not None
        return found

    def trust(chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        assert results.trust is not None
        return results.trust[chosen]

    turn = rotations[torch.from_numpy(places)]
    weight = None if results.trust is None else trust
    return merge_waves(waves, places, turn, geometry, n, weight=weight)
