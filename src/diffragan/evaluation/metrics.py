"""The dictionary of metrics.json: all items and each structure in the mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan import __version__
from diffragan.evaluation.item_metrics import PER_ITEM
from diffragan.evaluation.scores import Curves, Scores
from diffragan.files.store import ResultStore
from diffragan.fourier.correlation import (
    BAND_EDGES_A,
    SOLVED_BAND_A,
    band_means,
    resolution_at,
    solved,
)


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
    cleaned: dict[str, Any] = _json_ready(metrics)
    cleaned["settings"] = results.settings
    return cleaned


def mean_and_percentiles(
    curves: Curves, chosen: NDArray[np.int64]
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, 10th and 90th percentile over some items. Each (rings,), float64."""
    values = curves.values[chosen].double()
    low, high = torch.quantile(values, torch.tensor([0.1, 0.9], dtype=values.dtype), dim=0)
    return values.mean(0), low, high


def _block(results: ResultStore, scores: Scores, chosen: NDArray[np.int64]) -> dict[str, Any]:
    """The keys that stand at the top level and under every structure."""
    r = None if results.r_factor is None else results.r_factor[chosen]
    primary, error = scores.primary, scores.phase_error
    right = None
    if primary is not None and primary.q[-1] >= 1 / SOLVED_BAND_A[1]:
        right = solved(primary.values[chosen], primary.q).numpy().astype(bool)
    verdicts = None if results.solved is None else results.solved[chosen]
    return {
        "n": len(chosen),
        "method": results.method,
        "frc_of": scores.frc_of,
        "band_edges_A": list(BAND_EDGES_A),
        **_frc_keys(primary, chosen),
        "solved_fraction": None if right is None else float(right.mean()),
        "judged_solved_fraction": None if verdicts is None else float(verdicts.mean()),
        **_judgement(verdicts, right),
        "r_factor_median": None if r is None or not np.isfinite(r).any() else np.nanmedian(r),
        **{f"{name}_mean": _mean(scores.per_item.get(name), chosen) for name in PER_ITEM},
        "phase_error_deg": None
        if error is None
        else {
            "resolution_A": error.resolution_A,
            "mean": error.values[chosen].mean(0).tolist(),
        },
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
    if trust is None or trust.shape[-1] <= int(rings.max()):
        return None
    mean = trust[chosen].mean(0)[rings.numpy()]
    return {"resolution_A": [results.box_A / int(k) for k in rings], "mean": mean.tolist()}


def _judgement(
    verdicts: NDArray[np.bool_] | None, right: NDArray[np.bool_] | None
) -> dict[str, float | None]:
    """How the verdicts made without a truth compare with it.

    Precision: of those judged solved, the part that is. Recall: of those that are solved, the part
    that was judged so. Null where there is no verdict, no truth, or nothing to divide by.
    """
    if verdicts is None or right is None:
        return {"judged_precision": None, "judged_recall": None}
    both = float((verdicts & right).sum())
    return {
        "judged_precision": both / float(verdicts.sum()) if verdicts.any() else None,
        "judged_recall": both / float(right.sum()) if right.any() else None,
    }


def _frc_keys(curves: Curves | None, chosen: NDArray[np.int64]) -> dict[str, Any]:
    """frc, frc_0p5_A and band_mean_frc of some items; all None without curves."""
    if curves is None:
        empty = dict.fromkeys(("image", "diffraction", "extrapolated"))
        return {"frc": None, "frc_0p5_A": None, "band_mean_frc": empty}
    mean, p10, p90 = mean_and_percentiles(curves, chosen)
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


def _mean(values: Tensor | None, chosen: NDArray[np.int64]) -> float | None:
    return None if values is None else float(values[chosen].double().mean())


def _json_ready(value: Any) -> Any:
    """The same tree with Python numbers of six digits, and None for what is not finite."""
    if isinstance(value, dict):
        return {str(k): _json_ready(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
