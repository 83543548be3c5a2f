"""`--method merge`: the phased waves of a result store in one map, whatever phased them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffragan import __version__
from diffragan.evaluation.known_model import KnownModel
from diffragan.files.store import open_results
from diffragan.fourier.correlation import HALF_SET_THRESHOLD, fsc, resolution_at, ring_index
from diffragan.fourier.slices import slices
from diffragan.reconstruction.choose_views import mergeable, missing_cone_deg
from diffragan.reconstruction.maps.mask import envelope
from diffragan.reconstruction.maps.merge_waves import measured_band, merge_stored, phased_band
from diffragan.reconstruction.maps.views import side_of
from diffragan.reconstruction.outputs import MapFolder, write_map_folder
from diffragan.settings import settings_from_dict

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
    n, turns = side_of(geometry), torch.from_numpy(rotation).float()
    every = np.arange(results.n)
    rows = (every[0::2], every[1::2], every)
    one, two, all_views = (merge_stored(results, k, turns[k], geometry, n) for k in rows)
    inside = envelope(all_views, optics.box_A, mass_kda or info.mass_kda or None)
    curve = fsc(one * inside, two * inside)[1 : int((geometry.radius + 0.5).long().max()) + 1]
    q = torch.arange(1, len(curve) + 1, dtype=torch.float64) / optics.box_A
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
