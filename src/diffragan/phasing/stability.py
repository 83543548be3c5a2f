"""How far a result moves when the same pair is measured a little differently.

Where a true exit wave is known it is shifted, turned by a small angle, or given other noise, and
measured again. A measured pair can only be changed in ways that keep its pixels: the image is
shifted (the pattern of a shifted object is the same), and both are turned by a quarter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from diffragan.engine.items import choose_items
from diffragan.errors import DiffraganError
from diffragan.evaluation.similarity import ssim
from diffragan.files.store import ResultStore
from diffragan.fourier.correlation import band_means, frc, ring_q
from diffragan.fourier.grids import quarter_turn, shift
from diffragan.microscope import imaging
from diffragan.microscope.alone import films_beside
from diffragan.microscope.noise import item_seed
from diffragan.pairs.pairs import Pairs
from diffragan.phasing.method import Context, PairBatch
from diffragan.phasing.methods import METHODS
from diffragan.phasing.run import METHOD_NOISE, load_context, make_pair_batch
from diffragan.settings import Settings, settings_from_dict

SHIFT_A = (1.0, 0.6)
TURN_DEG = 3.0


@dataclass(frozen=True)
class Perturbation:
    """A changed batch, and how its projections are brought back for comparison."""

    name: str
    batch: PairBatch
    bring_back: Callable[[Tensor], Tensor]


def stability(
    pairs: Pairs, items: NDArray[np.int64], settings: Settings, context: Context
) -> dict[str, Any]:
    """Agreement of each item's projection with that of the changed pair, one row per change.

    Returns:
        {change: {"band_mean_frc": {band: mean FRC}, "ssim": mean, "n": items}}, the projections
        of both runs compared with each other, never with a truth.
    """
    method = METHODS[settings.phase.method]
    rows: dict[str, list[tuple[Tensor, Tensor]]] = {}
    box = pairs.box_A
    if settings.specimen.damage or films_beside(settings.specimen):
        raise DiffraganError(
            "How far a result moves is told of pairs in vacuum, undamaged; leave out --stability."
        )
    for item in items:
        one = np.array([item])
        batch = make_pair_batch(pairs, one, settings, context.device)
        plain = method(batch, context).projection.cpu()
        for change in _perturbations(pairs, one, settings, batch):
            moved = change.bring_back(method(change.batch, context).projection.cpu())
            rows.setdefault(change.name, []).append((frc(plain, moved), ssim(moved, plain)[0]))
    result: dict[str, Any] = {}
    for name, row in rows.items():
        curve = torch.cat([curves for curves, _ in row]).mean(0)
        bands = band_means(curve, ring_q(2 * (len(curve) - 1), box))
        result[name] = {
            "band_mean_frc": {
                band: None if value is None else float(value) for band, value in bands.items()
            },
            "ssim": float(torch.stack([value.mean() for _, value in row]).mean()),
            "n": len(row),
        }
    return result


def stability_of_results(results: ResultStore, pairs: Pairs, count: int) -> dict[str, Any]:
    """How far `count` results, spread evenly over the store, move; see `stability`.

    Args:
        pairs: those that the results were phased from.

    Raises:
        DiffraganError: the method phases all views together, or the weights of the first phasing
            are gone or changed.
    """
    if METHODS[results.method].joint:
        raise DiffraganError(
            f"{results.method} phases all views together, so single pairs can't be phased again; "
            "leave out --stability (its two half sets say how far to trust it)."
        )
    record = results.header.get("weights") or {}
    path = Path(record["path"]) if record.get("path") else None
    context = load_context(results.method, path)
    if context.weights and context.weights.sha256 != results.weights_sha256:
        raise DiffraganError(
            f"The weights that {results.path} was phased with have changed since, so the pairs "
            "can't be phased again alike; leave out --stability, or phase them anew."
        )
    items = results.items[choose_items(results.n, count)]
    return stability(pairs, items, settings_from_dict(results.settings), context)


def rotate_image(array: Tensor, angle_deg: float) -> Tensor:
    """An array (b, y, x) turned about its centre pixel n//2 by quintic splines, periodic."""
    n = array.shape[-1]
    angle = math.radians(angle_deg)
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    centre = np.full(2, n // 2)
    offset = centre - matrix @ centre

    def spline(values: NDArray[Any]) -> NDArray[Any]:
        turned: NDArray[Any] = ndimage.affine_transform(
            values, matrix, offset, order=5, mode="grid-wrap"
        )
        return turned

    slices = []
    for values in array.numpy():
        if np.iscomplexobj(values):
            slices.append(spline(values.real) + 1j * spline(values.imag))
        else:
            slices.append(spline(values))
    return torch.from_numpy(np.stack(slices)).to(array.dtype)


def _quarter_turned(terms_A: Tensor) -> Tensor:
    """Defocus terms (b, 3) of images turned by 90 degrees: cos 2 phi and sin 2 phi change sign."""
    return terms_A * terms_A.new_tensor([1, -1, -1])


def _perturbations(
    pairs: Pairs, item: NDArray[np.int64], settings: Settings, batch: PairBatch
) -> list[Perturbation]:
    box, terms, defocus = pairs.box_A, batch.defocus_terms_A, pairs.defocus
    back = (-SHIFT_A[0], -SHIFT_A[1])
    moved = f"shifted by {math.hypot(*SHIFT_A):.1f} Å"
    exit_wave = pairs.exit_wave(item)
    if exit_wave is None:
        return [
            Perturbation(
                moved,
                replace(batch, image=shift(batch.image, SHIFT_A, box)),
                lambda p: shift(p, back, box),
            ),
            Perturbation(
                "turned by 90 degrees",
                replace(
                    batch,
                    pattern=quarter_turn(batch.pattern),
                    pattern_mask=quarter_turn(batch.pattern_mask),
                    image=quarter_turn(batch.image),
                    defocus_terms_A=terms if terms is None else _quarter_turned(terms),
                ),
                lambda p: quarter_turn(p, -1),
            ),
        ]
    wave = torch.from_numpy(exit_wave)

    def again(new_wave: Tensor, seed: int) -> PairBatch:
        seeds = [item_seed(seed, int(i)) for i in item]
        lens = None if defocus is None else defocus[item]
        measured = imaging.measure(new_wave, pairs.optics, settings, seeds, lens)
        return replace(
            batch,
            pattern=measured.pattern.to(batch.pattern),
            image=measured.image.to(batch.image),
            image_dose_e_per_A2=measured.image_dose_e_per_A2.to(batch.image_dose_e_per_A2),
            seeds=[item_seed(seed, int(i), METHOD_NOISE) for i in item],
        )

    seed = settings.seed
    return [
        Perturbation(moved, again(shift(wave, SHIFT_A, box), seed), lambda p: shift(p, back, box)),
        Perturbation(
            f"turned by {TURN_DEG:g} degrees",
            again(rotate_image(wave, TURN_DEG), seed),
            lambda p: rotate_image(p, -TURN_DEG),
        ),
        Perturbation("other noise", again(wave, seed + 1), lambda p: p),
    ]
