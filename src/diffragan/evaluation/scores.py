"""Metrics over a result store: FRC, SSIM, phase errors, by item, by structure and in the mean.

`score` reads results and truth in batches and keeps one curve per item; `metrics_of` turns the
scores into the plain dictionary of metrics.json.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan import __version__
from diffragan.errors import DiffraganError
from diffragan.evaluation.similarity import difference_mask, energy_outside, molecule_mask, ssim
from diffragan.files.store import ResultStore
from diffragan.fourier.correlation import (
    BAND_EDGES_A,
    SOLVED_BAND_A,
    CorrelationSums,
    band_means,
    centred_fourier,
    frc_2d,
    frc_2d_accumulate,
    frc_fourier,
    phase_error_deg,
    resolution_at,
    ring_index,
    ring_q,
    solved,
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


@dataclass
class Scores:
    """Everything measured on a result store; None where there is no truth or no wave."""

    wave: Curves | None = None
    projection: Curves | None = None
    image: Curves | None = None
    phase_error: Curves | None = None
    per_item: dict[str, Tensor] = field(default_factory=dict)
    """ssim, energy_outside, energy_outside_target, difference_fraction: (n,)."""
    sums_2d: dict[str, CorrelationSums] = field(default_factory=dict)
    """By wave, projection and image; zero frequency at the centre."""
    measured_to_A: float | None = None
    measured_rings: Tensor | None = None
    """Rings of the pattern's grid that hold valid pixels, the direct beam's not among them."""

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
    truth: Pairs,
    *,
    batch_size: int = 16,
    progress: Progress = no_progress,
) -> Scores:
    """Compares every result with its truth, `batch_size` at a time.

    Waves are compared over valid pattern pixels, after turning each so that its direct beam has
    phase zero: a wave's overall phase is not observable. Projections are compared on their own
    grid, to 0.8 Å.

    Args:
        truth: the pairs that were phased; where they hold no truth, only what needs none is given.

    Raises:
        DiffraganError: results and truth don't belong together.
    """
    scores = Scores()
    check_match(results, truth)
    mask = torch.as_tensor(np.asarray(truth.pattern_mask), dtype=torch.bool)
    m = mask.shape[-1]
    farthest = float(_distance(m)[mask].max()) if bool(mask.any()) else 0.0
    reach = int(farthest + 1e-9)
    if not reach:
        raise DiffraganError("The pattern mask leaves no valid pixel; there is nothing to compare.")
    scores.measured_to_A = results.box_A / farthest
    measured = torch.unique(ring_index(m)[mask])
    measured = measured[(measured > 0) & (measured <= min(reach, m // 2))]
    scores.measured_rings = measured
    if not truth.has_truth:
        return scores

    rows: dict[str, list[Tensor]] = {}
    done = 0
    for part in _batches(results.n, batch_size):
        for name, values in _compare(results, truth, part, mask, scores.sums_2d).items():
            rows.setdefault(name, []).append(values.cpu())
        done += len(part)
        progress("results compared", done, results.n)
    joined = {name: torch.cat(values) for name, values in rows.items()}

    scores.wave = _curves(joined.pop("wave", None), measured, results.box_A)
    scores.phase_error = _curves(joined.pop("phase_error", None), measured, results.box_A)
    scores.image = _curves(joined.pop("image", None), torch.arange(1, m // 2 + 1), results.box_A)
    if "projection" in joined:
        values = joined.pop("projection")
        q = ring_q(2 * (values.shape[-1] - 1), results.box_A)
        seen = torch.nonzero((q > 0) & (q <= 1 / PROJECTION_END_A + 1e-9)).flatten()
        scores.projection = _curves(values, seen, results.box_A)
    scores.per_item = joined
    return scores


def _compare(
    results: ResultStore,
    truth: Pairs,
    part: NDArray[np.int64],
    mask: Tensor,
    sums: dict[str, CorrelationSums],
) -> dict[str, Tensor]:
    """Curves and numbers of one batch; adds to the sums of the 2D FRC."""
    inputs = results.items[part]
    rows: dict[str, Tensor] = {}
    wave, true_wave = _tensor(results.wave(part)), _tensor(truth.truth_wave(inputs))
    if wave is not None and true_wave is not None:
        f, g = _on_direct_beam(wave), _on_direct_beam(true_wave)
        rows["wave"] = frc_fourier(f, g, mask)
        rows["phase_error"] = phase_error_deg(f, g, mask)
        sums["wave"] = frc_2d_accumulate(f * mask, g * mask, sums.get("wave"))
    target = _tensor(truth.truth_projection(inputs))
    if target is None:
        return rows
    projection = _tensor(results.projection(part))
    if projection is not None:
        target = like(target, projection)
        f, g = centred_fourier(projection), centred_fourier(target)
        rows["projection"] = frc_fourier(f, g)
        sums["projection"] = frc_2d_accumulate(f, g, sums.get("projection"))
        rows["ssim"] = ssim(projection, target)[0]
        rows["difference_fraction"] = (
            difference_mask(projection, target).mask.float().mean((-2, -1))
        )
        pixel_A = results.box_A / target.shape[-1]
        shadow = molecule_mask(target, pixel_A)
        rows["energy_outside"] = energy_outside(projection, target, pixel_A, shadow)
        rows["energy_outside_target"] = energy_outside(target, target, pixel_A, shadow)
    image = _tensor(truth.image(inputs))
    if image is not None:
        f, g = centred_fourier(image), centred_fourier(resample(target, image.shape[-1]))
        rows["image"] = frc_fourier(f, g)
        sums["image"] = frc_2d_accumulate(f, g, sums.get("image"))
    return rows


def metrics_of(results: ResultStore, scores: Scores) -> dict[str, Any]:
    """The dictionary of metrics.json: plain numbers, lists and None, never NaN.

    The FRC keys at the top level, `solved_fraction` among them, are of the wave; a method that
    gives only a projection fills them from the projection and says `frc_of: projection`. The
    same keys stand again for each structure under `structures.<stem>`.
    """
    everything = np.arange(results.n)
    metrics = _block(results, scores, everything)
    metrics["truth"] = scores.primary is not None
    metrics["measured_to_A"] = scores.measured_to_A
    metrics["box_A"] = results.box_A
    metrics["energy_ev"] = results.energy_ev
    metrics["structures"] = {
        structure.stem: _block(results, scores, chosen)
        for i, structure in enumerate(results.structures)
        if len(chosen := np.flatnonzero(results.structure_index == i))
    }
    entry, weights = (results.header.get(key) or {} for key in ("input", "weights"))
    trained_on = {stem.casefold() for stem in weights.get("trained_on", ())}
    metrics["seen_in_training"] = [s for s in metrics["structures"] if s.casefold() in trained_on]
    metrics["provenance"] = {
        "version": __version__,
        "results": str(results.path),
        "results_version": results.header.get("version"),
        "input": ", ".join(str(p["path"]) for p in results.inputs if p.get("path")) or None,
        "input_sha256": entry.get("sha256"),
        "weights": weights.get("path"),
        "weights_sha256": results.weights_sha256,
        "seed": results.settings.get("seed"),
    }
    cleaned: dict[str, Any] = _plain(metrics)
    cleaned["settings"] = results.settings
    return cleaned


def _block(results: ResultStore, scores: Scores, chosen: NDArray[np.int64]) -> dict[str, Any]:
    """The keys that stand at the top level and under every structure."""
    r = None if results.r_factor is None else results.r_factor[chosen]
    primary, error = scores.primary, scores.phase_error
    right = None
    if primary is not None and primary.q[-1] >= 1 / SOLVED_BAND_A[1]:
        right = solved(primary.values[chosen], primary.q).numpy().astype(bool)
    judged = None if results.solved is None else results.solved[chosen]
    return {
        "n": len(chosen),
        "method": results.method,
        "frc_of": scores.frc_of,
        "band_edges_A": list(BAND_EDGES_A),
        **_frc_keys(primary, chosen),
        "solved_fraction": None if right is None else float(right.mean()),
        "judged_solved_fraction": None if judged is None else float(judged.mean()),
        **_judgement(judged, right),
        "r_factor_median": None if r is None or not np.isfinite(r).any() else np.nanmedian(r),
        "ssim_mean": _mean(scores.per_item.get("ssim"), chosen),
        "phase_error_deg": None
        if error is None
        else {
            "resolution_A": error.resolution_A,
            "mean": error.values[chosen].mean(0).tolist(),
        },
        "energy_outside_mean": _mean(scores.per_item.get("energy_outside"), chosen),
        "energy_outside_target_mean": _mean(scores.per_item.get("energy_outside_target"), chosen),
        "difference_fraction_mean": _mean(scores.per_item.get("difference_fraction"), chosen),
        "seconds_per_image": results.seconds_per_image,
        "trust": _trust(results, scores, chosen),
        "projection_frc": _frc_keys(scores.projection, chosen),
        "image_frc": _frc_keys(scores.image, chosen),
    }


def _trust(
    results: ResultStore, scores: Scores, chosen: NDArray[np.int64]
) -> dict[str, Any] | None:
    """What the method itself expects of its phases, by ring: the mean cosine of their error."""
    trust, rings = results.trust, scores.measured_rings
    if trust is None or rings is None or trust.shape[-1] <= int(rings.max()):
        return None
    mean = trust[chosen].mean(0)[rings.numpy()]
    return {"resolution_A": [results.box_A / int(k) for k in rings], "mean": mean.tolist()}


def _judgement(
    judged: NDArray[np.bool_] | None, right: NDArray[np.bool_] | None
) -> dict[str, float | None]:
    """How the verdicts made without a truth compare with it.

    Precision: of those judged solved, the part that is. Recall: of those that are solved, the part
    that was judged so. Null where there is no verdict, no truth, or nothing to divide by.
    """
    if judged is None or right is None:
        return {"judged_precision": None, "judged_recall": None}
    both = float((judged & right).sum())
    return {
        "judged_precision": both / float(judged.sum()) if judged.any() else None,
        "judged_recall": both / float(right.sum()) if right.any() else None,
    }


def _frc_keys(curves: Curves | None, chosen: NDArray[np.int64]) -> dict[str, Any]:
    """frc, frc_0p5_A and band_mean_frc of some items; all None without curves."""
    if curves is None:
        empty = dict.fromkeys(("image", "diffraction", "extrapolated"))
        return {"frc": None, "frc_0p5_A": None, "band_mean_frc": empty}
    mean, p10, p90 = spread(curves, chosen)
    bands = band_means(mean, curves.q)
    return {
        "frc": {
            "resolution_A": curves.resolution_A,
            "mean": mean.tolist(),
            "p10": p10.tolist(),
            "p90": p90.tolist(),
        },
        "frc_0p5_A": resolution_at(mean, curves.q),
        "band_mean_frc": {k: None if v is None else float(v) for k, v in bands.items()},
    }


def spread(curves: Curves, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, 10th and 90th percentile over some items. Each (rings,), float64."""
    values = curves.values[chosen].double()
    low, high = torch.quantile(values, torch.tensor([0.1, 0.9], dtype=values.dtype), dim=0)
    return values.mean(0), low, high


def like(target: Tensor, projection: Tensor) -> Tensor:
    """The target on the projection's grid, resampled in Fourier space where they differ."""
    return resample(target, projection.shape[-1])


def check_match(results: ResultStore, truth: Pairs) -> None:
    """Refuses an input that can't be the one the results came from."""
    if abs(results.box_A - truth.box_A) > 1e-3:
        raise DiffraganError(
            f"The results have a box of {results.box_A:g} Å and the input one of "
            f"{truth.box_A:g} Å; pass the input that was phased."
        )
    if results.n and int(results.items.max()) >= truth.n:
        raise DiffraganError(
            f"The results refer to item {int(results.items.max())}, and the input has {truth.n}; "
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


def _curves(values: Tensor | None, rings: Tensor, box_A: float) -> Curves | None:
    return None if values is None else Curves(rings.double() / box_A, values[:, rings])


def _tensor(array: NDArray[Any] | None) -> Tensor | None:
    return None if array is None else torch.as_tensor(array)


def _mean(values: Tensor | None, chosen: NDArray[np.int64]) -> float | None:
    return None if values is None else float(values[chosen].double().mean())


def _plain(value: Any) -> Any:
    """The same tree with Python numbers of six digits, and None for what is not finite."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
