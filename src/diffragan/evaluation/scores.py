"""Results beside their truth, item by item: FRC curves, phase errors, numbers, 2D correlations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.engine.pace import Pace
from diffragan.engine.tasks import run_tasks
from diffragan.engine.workers import HERE, Workers
from diffragan.errors import DiffraganError
from diffragan.evaluation.item_metrics import PER_ITEM, Comparison
from diffragan.files.store import ResultStore
from diffragan.fourier.correlation import (
    CorrelationSums,
    centred_fourier,
    frc_2d,
    frc_2d_accumulate,
    frc_fourier,
    joined_sums,
    phase_error_deg,
    ring_index,
    ring_q,
)
from diffragan.fourier.grids import resample
from diffragan.pairs.pairs import Pairs
from diffragan.progress import Progress, no_progress

# Projections are compared this far out, so that the extrapolated band is seen.
PROJECTION_END_A = 0.8


@dataclass(frozen=True)
class Curves:
    """One curve per item: `values` (n, rings) at the frequencies `q` (rings,) in 1/Å."""

    q: Tensor
    values: Tensor

    @property
    def resolution_A(self) -> list[float]:
        """1 / q of each ring."""
        return [float(1 / q) for q in self.q]


@dataclass(frozen=True)
class Scores:
    """Everything measured on a result store; without a truth or a wave, what needs it is None.

    measured_to_A: where the pattern ends. measured_rings: rings of the pattern's grid that hold
        valid pixels, the direct beam's not among them.
    wave, projection, image, phase_error: curves of every item.
    per_item: (n,) by the names of `diffragan.evaluation.item_metrics.PER_ITEM`.
    sums_2d: by wave, projection and image; zero frequency at the centre.
    """

    measured_to_A: float
    measured_rings: Tensor
    wave: Curves | None = None
    projection: Curves | None = None
    image: Curves | None = None
    phase_error: Curves | None = None
    per_item: Mapping[str, Tensor] = field(default_factory=dict)
    sums_2d: Mapping[str, CorrelationSums] = field(default_factory=dict)

    @property
    def primary(self) -> Curves | None:
        """The curves that fill the top level: of the wave where there is one."""
        return self.projection if self.wave is None else self.wave

    @property
    def frc_of(self) -> str | None:
        """What `primary` is of."""
        return None if self.primary is None else "projection" if self.wave is None else "wave"

    def map_2d(self, name: str) -> Tensor | None:
        """2D FRC (n, n) of wave, projection or image, or None."""
        return frc_2d(self.sums_2d[name]) if name in self.sums_2d else None


def score(
    results: ResultStore,
    pairs: Pairs,
    *,
    batch_size: int = 16,
    workers: Workers = HERE,
    progress: Progress = no_progress,
) -> Scores:
    """Compares every result with its truth, `batch_size` at a time.

    Waves are compared over valid pattern pixels, after turning each so that its direct beam has
    phase zero: a wave's overall phase is not observable. Projections are compared on their own
    grid, to 0.8 Å.

    Args:
        pairs: those that were phased; where they hold no truth, only what needs none is given.
        workers: who does it; for arrays in memory it is this process.

    Raises:
        DiffraganError: results and pairs don't belong together.
    """
    check_match(results, pairs)
    mask = torch.as_tensor(np.asarray(pairs.pattern_mask), dtype=torch.bool)
    measured_to_A, rings = _measured(mask, results.box_A)
    if not pairs.has_truth:
        return Scores(measured_to_A, rings)

    rows: dict[str, list[Tensor]] = {}
    sums: dict[str, CorrelationSums] = {}
    pace = Pace(progress, "results compared", results.n)
    parts = list(_batches(results.n, batch_size))
    by = workers if pairs.reopens else HERE
    # Sums have one order, whoever has added.
    with closing(
        run_tasks(_compare, _Compared(results, pairs, mask), parts, by, ordered=True)
    ) as finished:
        for done in finished:
            part_rows, part_sums = done.result
            for name, values in part_rows.items():
                rows.setdefault(name, []).append(values)
            for name, new in part_sums.items():
                sums[name] = joined_sums(sums[name], new) if name in sums else new
            pace.add(len(parts[done.number]), done.workers)
    columns = {name: torch.cat(values) for name, values in rows.items()}

    def curves(name: str, rings: Tensor | None) -> Curves | None:
        if rings is None or name not in columns:
            return None
        return Curves(rings.double() / results.box_A, columns[name][:, rings])

    return Scores(
        measured_to_A,
        rings,
        wave=curves("wave", rings),
        projection=curves("projection", _compared_rings(columns.get("projection"), results.box_A)),
        image=curves("image", torch.arange(1, mask.shape[-1] // 2 + 1)),
        phase_error=curves("phase_error", rings),
        per_item={name: columns[name] for name in PER_ITEM if name in columns},
        sums_2d=sums,
    )


def _measured(mask: Tensor, box_A: float) -> tuple[float, Tensor]:
    """Where the valid pixels (m, m) end, Å, and the rings that hold some."""
    m = mask.shape[-1]
    farthest = float(_distance(m)[mask].max()) if bool(mask.any()) else 0.0
    reach = int(farthest + 1e-9)
    if not reach:
        raise DiffraganError("The pattern mask leaves no valid pixel; there is nothing to compare.")
    rings = torch.unique(ring_index(m)[mask])
    return box_A / farthest, rings[(rings > 0) & (rings <= min(reach, m // 2))]


def _compared_rings(curves: Tensor | None, box_A: float) -> Tensor | None:
    """The rings of projections that are compared; None without projections."""
    if curves is None:
        return None
    q = ring_q(2 * (curves.shape[-1] - 1), box_A)
    return torch.nonzero((q > 0) & (q <= 1 / PROJECTION_END_A + 1e-9)).flatten()


@dataclass(frozen=True)
class _Compared:
    """Results, the pairs that they are of, and the valid pixels of these (m, m)."""

    results: ResultStore
    pairs: Pairs
    mask: Tensor


def _compare(
    what: _Compared, part: NDArray[np.int64]
) -> tuple[dict[str, Tensor], dict[str, CorrelationSums]]:
    """Curves and numbers of one batch, and its sums for the 2D FRC."""
    results, pairs, mask = what.results, what.pairs, what.mask
    inputs = results.items[part]
    rows: dict[str, Tensor] = {}
    sums: dict[str, CorrelationSums] = {}
    wave, true_wave = _tensor(results.wave(part)), _tensor(pairs.truth_wave(inputs))
    if wave is not None and true_wave is not None:
        f, g = _on_direct_beam(wave), _on_direct_beam(true_wave)
        rows["wave"] = frc_fourier(f, g, mask)
        rows["phase_error"] = phase_error_deg(f, g, mask)
        sums["wave"] = frc_2d_accumulate(f * mask, g * mask)
    target = _tensor(pairs.truth_projection(inputs))
    if target is None:
        return rows, sums
    projection = _tensor(results.projection(part))
    if projection is not None:
        target = resample(target, projection.shape[-1])
        f, g = centred_fourier(projection), centred_fourier(target)
        rows["projection"] = frc_fourier(f, g)
        sums["projection"] = frc_2d_accumulate(f, g)
        pair = Comparison(projection, target, results.box_A / target.shape[-1])
        rows |= {name: metric.compute(pair) for name, metric in PER_ITEM.items()}
    image = _tensor(pairs.image(inputs))
    if image is not None:
        f, g = centred_fourier(image), centred_fourier(resample(target, image.shape[-1]))
        rows["image"] = frc_fourier(f, g)
        sums["image"] = frc_2d_accumulate(f, g)
    return rows, sums


def check_match(results: ResultStore, pairs: Pairs) -> None:
    """Refuses an input that can't be the one the results came from."""
    if abs(results.box_A - pairs.box_A) > 1e-3:
        raise DiffraganError(
            f"The results have a box of {results.box_A:g} Å and the input one of "
            f"{pairs.box_A:g} Å; pass the input that was phased."
        )
    if results.n and int(results.items.max()) >= pairs.n:
        raise DiffraganError(
            f"The results refer to item {int(results.items.max())}, and the input has {pairs.n}; "
            "pass the input that was phased."
        )


def _batches(n: int, size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, n, size):
        yield np.arange(start, min(start + size, n))


def _distance(n_px: int) -> Tensor:
    axis = (torch.arange(n_px) - n_px // 2).double()
    return torch.hypot(axis[:, None], axis[None, :])


def _on_direct_beam(wave: Tensor) -> Tensor:
    """Fourier transform, zero frequency at the centre, turned to a direct beam of phase 0."""
    f = centred_fourier(wave)
    centre = f.shape[-1] // 2
    beam = f[..., centre, centre, None, None]
    return f * torch.where(beam.abs() > 0, torch.sgn(beam).conj(), torch.ones_like(beam))


def _tensor(array: NDArray[Any] | None) -> Tensor | None:
    return None if array is None else torch.as_tensor(array)
