"""RELION's maps held to the package's own measures: mask, FSC, truth, and the folder's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan import __version__
from diffragan.errors import DiffraganError
from diffragan.files.mrc import read_map
from diffragan.files.star import by_stack, read_orientations
from diffragan.files.store import ResultStore
from diffragan.fourier.correlation import HALF_SET_THRESHOLD, TRUTH_THRESHOLD, fsc, resolution_at
from diffragan.fourier.slices import slices
from diffragan.fourier.volumes import best_shift, centred, moved, resized, uncentred
from diffragan.pairs.open import open_all
from diffragan.reconstruction.choose_views import missing_cone_deg
from diffragan.reconstruction.maps.mask import envelope
from diffragan.reconstruction.maps.merge_waves import measured_band, merge_waves
from diffragan.reconstruction.maps.views import side_of
from diffragan.relion.particles import ShownParticles
from diffragan.relion.programs.jobs import RefinedMaps
from diffragan.rotations import angle_deg, common_turn, mirrored

_EDGE_A = 5.0  # over which a mask falls from 1 to 0
_MARGIN_A = 3.0


@dataclass(frozen=True)
class JudgedMaps:
    """RELION's maps with what is known of them.

    map, halves: (n, n, n) in FFT order. mask: (n, n, n) from 0 to 1. q: (s,) 1/Å, the shells.
    curves: (s,) each, "half" among them. rotations: (v, 3, 3) in use. numbers: for metrics.json.
    """

    map: Tensor
    halves: tuple[Tensor, Tensor]
    mask: Tensor
    q: Tensor
    curves: dict[str, Tensor]
    rotations: NDArray[np.float64]
    numbers: dict[str, Any]


def volume_of(path: Path) -> Tensor:
    """A map of RELION's, (n, n, n) in FFT order."""
    return uncentred(torch.from_numpy(read_map(path)[0]))


def soft_mask(
    volume: Tensor,
    box_A: float,
    mass_kda: float | None,
    *,
    blur_A: float = 2.0,
    margin_A: float = _MARGIN_A,
    edge_A: float = _EDGE_A,
) -> Tensor:
    """(n, n, n) from 0 to 1: the molecule's outline, with an edge that falls as a cosine; FFT
    order. A sharp one would correlate half maps by itself."""
    from scipy.ndimage import distance_transform_edt

    inside = envelope(volume, box_A, mass_kda, blur_A=blur_A, margin_A=margin_A)
    voxel_A = box_A / volume.shape[-1]
    away = distance_transform_edt(~centred(inside).numpy()) * voxel_A
    soft = 0.5 * (1 + np.cos(np.pi * np.clip(away / edge_A, 0, 1)))
    return uncentred(torch.from_numpy(soft)).float()


def judge(shown: ShownParticles, maps: RefinedMaps, mass_kda: float | None) -> JudgedMaps:
    """The maps with their mask and curves; where the store's input has a truth, held to it."""
    whole, first, second = (volume_of(path) for path in (maps.map, *maps.halves))
    box_A, n = shown.source.box_A, shown.side
    mask = soft_mask(whole, box_A, mass_kda)
    curve = fsc(first * mask, second * mask)[1 : n // 2]
    q = torch.arange(1, len(curve) + 1, dtype=torch.float64) / box_A
    rotations = orientations_of(maps.data, len(shown.rows))
    numbers: dict[str, Any] = {
        "version": __version__,
        "converged": True,
        "fsc_0p143_A": _resolution(curve, q, HALF_SET_THRESHOLD),
        "truth_fsc_0p5_A": None,
        "measured_to_A": float(1 / q[-1]),
        "n_views": len(shown.rows),
        "missing_cone_deg": missing_cone_deg(rotations),
        "box_A": box_A,
        "voxel_A": shown.pixel_A,
    }
    curves = {"half": curve}
    results = shown.source.results
    if results is not None and results.rotation is not None:
        known = torch.from_numpy(results.rotation[shown.rows])
        frame, hand, errors = _laid_on(torch.from_numpy(rotations), known)
        numbers |= {"hand": hand, "orientation_error_deg": float(errors.median())}
        true = _true_map(results, shown, frame, n)
        if true is not None:
            true = moved(true, best_shift(true, torch.fft.rfftn(whole)))
            curves["truth"] = fsc(whole * mask, true * mask)[1 : n // 2]
            numbers["truth_fsc_0p5_A"] = _resolution(curves["truth"], q, TRUTH_THRESHOLD)
    return JudgedMaps(whole, (first, second), mask, q, curves, rotations, numbers)


def _resolution(curve: Tensor, q: Tensor, threshold: float) -> float:
    """`resolution_at`, and the last shell's where shells end before 10 Å."""
    try:
        return resolution_at(curve, q, threshold)
    except DiffraganError:
        return float(1 / q[-1])


def orientations_of(star: Path, count: int) -> NDArray[np.float64]:
    """(count, 3, 3) orientations of particles, in the order of their stack and not of the table,
    which RELION may sort.

    Raises:
        DiffraganError: particles of the stack that the table does not hold once each.
    """
    rotations, _ = read_orientations(star)
    if len(rotations) != count:
        raise DiffraganError(
            f"{star} holds {len(rotations)} images, and {count} were shown to RELION; was it "
            "changed?"
        )
    return by_stack(star, rotations)


def _laid_on(found: Tensor, known: Tensor) -> tuple[Tensor, str, Tensor]:
    """The known orientations (v, 3, 3) in the frame of the found ones, the hand in words, and the
    angles (v,) between them in degrees."""
    best: tuple[Tensor, str, Tensor] | None = None
    for hand, words in (
        (known, "that of the given orientations"),
        (mirrored(known), "the mirror image of the given orientations'"),
    ):
        frame = hand.double() @ common_turn(found, hand)
        errors = angle_deg(frame, found)
        if best is None or errors.median() < best[2].median():
            best = frame, words, errors
    assert best is not None
    return best


def _true_map(
    results: ResultStore, shown: ShownParticles, rotations: Tensor, n: int
) -> Tensor | None:
    """(n, n, n) the map that the true waves of the same views make, None without a truth."""
    if not results.has("wave"):
        return None
    try:
        pairs = open_all([Path(entry["path"]) for entry in results.inputs])
    except (DiffraganError, KeyError):
        return None
    if not pairs.has_truth:
        return None

    def waves(items: NDArray[np.int64]) -> NDArray[np.complex64]:
        true = pairs.truth_wave(items)
        assert true is not None
        return true

    optics = results.optics
    geometry = slices(measured_band(results), optics.box_A, optics.wavelength_A, curved=False)
    items = results.items[shown.rows]
    whole = merge_waves(waves, items, rotations.float(), geometry, side_of(geometry))
    return resized(whole, n)
