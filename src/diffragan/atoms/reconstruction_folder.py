"""What a folder of `diffragan reconstruct` holds, read back: maps, views, trust."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.files.mrc import read_map
from diffragan.files.store import ResultStore, open_results
from diffragan.fourier.volumes import uncentred
from diffragan.pairs.of_results import pairs_of_results
from diffragan.pairs.pairs import Pairs
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.likelihood.damage import faded_further
from diffragan.reconstruction.maps.load_views import load_views
from diffragan.reconstruction.maps.views import Views
from diffragan.settings import settings_from_dict

_FILES = ("metrics.json", "map.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "fsc.csv", "phased.zarr")


@dataclass(frozen=True)
class ReconstructionFolder:
    """A finished `many-views` run: its maps in FFT order, and what it says of itself.

    maps: "map", "half1", "half2", (n, n, n) float32. mask: the same, bool. trust: (rings,)
    expected correlation with the truth, ring k at k / field.
    """

    path: Path
    maps: dict[str, Tensor]
    mask: Tensor
    voxel_A: float
    trust: Tensor
    metrics: dict[str, Any]
    results: ResultStore

    @property
    def box_A(self) -> float:
        """Side of the volume, Å."""
        return self.voxel_A * self.mask.shape[-1]

    @property
    def orientations_given(self) -> bool:
        """Whether the run was told how its views lie, so that its map is turned as the structure
        that they were told of; one that found them may be turned in any way."""
        settings = settings_from_dict(self.results.settings)
        return settings.many_views.orientations == "given"


def read_reconstruction(path: Path) -> ReconstructionFolder:
    """A folder of `diffragan reconstruct`.

    Raises:
        DiffraganError: something is missing or damaged, or the run was a merge.
    """
    missing = [name for name in _FILES if not (path / name).exists()]
    if missing:
        raise DiffraganError(
            f"{path} holds no {missing[0]}; give a finished folder of `diffragan reconstruct "
            "--method many-views`."
        )
    try:
        metrics: dict[str, Any] = json.loads((path / "metrics.json").read_text("utf-8"))
        with (path / "fsc.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        trust = torch.tensor([1.0] + [float(row["expected"] or 0) for row in rows])
    except (ValueError, KeyError) as error:
        raise DiffraganError(
            f"{path} can't be read ({error}); reconstruct it anew with --method many-views."
        ) from None
    maps = {name: read_map(path / f"{name}.mrc") for name in ("map", "half1", "half2", "mask")}
    shapes = {volume.shape for volume, _ in maps.values()}
    if len(shapes) > 1:
        raise DiffraganError(f"The maps of {path} differ in size; reconstruct it anew.")
    volumes = {name: uncentred(torch.from_numpy(v)) for name, (v, _) in maps.items()}
    mask = volumes.pop("mask") > 0.5
    if not bool(mask.any()):
        raise DiffraganError(f"The mask of {path} is empty, so no atom can lie in it.")
    voxel_A = maps["map"][1]
    results = open_results(path / "phased.zarr")
    return ReconstructionFolder(path, volumes, mask, voxel_A, trust, metrics, results)


def open_views(
    folder: ReconstructionFolder,
    scratch: Path,
    inputs: tuple[Path, ...] = (),
    progress: Progress = no_progress,
) -> tuple[Pairs, Views]:
    """The pairs that the map was made from, and their views at the run's final orientations.

    Args:
        scratch: where the views' arrays lie while they are used.
        inputs: the pairs' files, where they are not any more where the run found them.

    Raises:
        DiffraganError: the pairs are missing or changed.
    """
    results = folder.results
    if results.rotation is None:
        raise DiffraganError(f"{results.path} tells no orientations; reconstruct it anew.")
    pairs = pairs_of_results(results, inputs)
    views = load_views(
        pairs,
        results.items,
        results.rotation,
        scratch,
        progress=progress,
    )
    views = faded_further(views, folder.metrics.get("damage_found_b_A2", 0.0), None)
    padding = folder.box_A / pairs.box_A
    # A map's header keeps its voxel as float32.
    views = views.padded(round(padding, 4) if math.isfinite(padding) else 1.0)
    if views.n != folder.mask.shape[-1]:
        raise DiffraganError(
            f"The map of {folder.path} has {folder.mask.shape[-1]} voxels a side and its patterns "
            f"ask for {views.n}; reconstruct it anew from {pairs.name}."
        )
    return pairs, views
