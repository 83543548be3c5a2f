"""What each pattern is of: a few features that have a meaning, and logistic regression on them.

`benchmarks/scan_classes.py` fitted the coefficients on virtual sessions, and ships them as
`data/scan_classes.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.scan.hits.background import Excess, free_atoms
from diffragan.scan.hits.rings import EDGES_PER_A, SECTORS, RingSums, Values

CLASSES = ("molecule", "empty", "ice", "carbon", "several")
HITS = ("molecule", "several")
FEATURES = (
    "excess",  # log of standard deviations above background
    "brightness",  # log of the counts beyond background over those of this scan's median hit
    "low angles",  # part of the excess between 20 and 5 Å
    "ice ring",  # between 4 and 3.3 Å, over what free atoms would have there
    "carbon ring",  # between 2.2 and 1.8 Å, over what free atoms would have there
    "spots",  # log of the brightest pixel of a ring over what its mean allows
    "speckle",  # variance of a ring's pixels beyond counting noise, over the mean squared
    "lopsidedness",  # log of the variance over directions beyond counting noise
    "beam lost",  # log of the direct beam of an empty pattern over this one's
)


@dataclass(frozen=True)
class Classifier:
    """Multinomial logistic regression on standardised features.

    mean, scale: (f,). coefficients: (classes, f), offsets: (classes,). source: what fitted them.
    """

    mean: Values
    scale: Values
    coefficients: Values
    offsets: Values
    source: str = ""

    def probabilities(self, features: Values) -> Values:
        """(n, classes) of features (n, f)."""
        x = ((features - self.mean) / self.scale).clip(-8, 8)
        score = x @ self.coefficients.T + self.offsets
        score = np.exp(score - score.max(1, keepdims=True))
        result: Values = score / score.sum(1, keepdims=True)
        return result


@lru_cache(maxsize=1)
def shipped() -> Classifier:
    """The one that the package brings."""
    file = resources.files("diffragan").joinpath("data", "scan_classes.json")
    kept: dict[str, Any] = json.loads(file.read_text("utf-8"))
    if tuple(kept["features"]) != FEATURES or tuple(kept["classes"]) != CLASSES:
        raise ValueError("scan_classes.json is of other features; run benchmarks/scan_classes.py")
    mean, scale, coefficients, offsets = (
        np.asarray(kept[k]) for k in ("mean", "scale", "coefficients", "offsets")
    )
    return Classifier(mean, scale, coefficients, offsets, kept["source"])


def features_of(sums: RingSums, excess: Excess, least_sd: float) -> Values:
    """(n, f) `FEATURES` of every pattern.

    Args:
        least_sd: from which a pattern is a hit, to be compared with the others.
    """
    total = excess.rings.sum(1)
    hits = (excess.z > least_sd) & (total > 0)
    typical = float(np.median(total[hits])) if hits.any() else 1.0
    sure = np.maximum(total, 0.05 * typical + 1)
    free = free_atoms(sums.pixels)
    low = EDGES_PER_A[1:] <= 0.2 + 1e-9
    fine = total - excess.rings[:, low].sum(1)
    beam = float(np.median(sums.beam[excess.empty])) if excess.empty.any() else 1.0
    columns = (
        np.log1p(excess.z.clip(min=0)),
        np.log(np.maximum(total, 0.02 * typical) / typical),
        excess.rings[:, low].sum(1) / sure,
        _over_free(excess.rings, free, fine, (0.25, 0.30)),
        _over_free(excess.rings, free, fine, (0.45, 0.55)),
        _spots(sums),
        _speckle(sums, excess),
        _lopsided(sums),
        np.log(max(beam, 1.0) / np.maximum(sums.beam, 0.01 * max(beam, 1.0))),
    )
    result: Values = np.nan_to_num(np.stack(columns, -1))
    return result


def _over_free(rings: Values, free: Values, fine: Values, span: tuple[float, float]) -> Values:
    """Part of the excess beyond 5 Å that lies in a span of q, less what free atoms have there."""
    within = (EDGES_PER_A[:-1] >= span[0] - 1e-9) & (EDGES_PER_A[1:] <= span[1] + 1e-9)
    beyond = EDGES_PER_A[:-1] >= 0.2 - 1e-9
    expected = float(free[within].sum() / max(free[beyond].sum(), 1e-12))
    part = rings[:, within].sum(1) / np.maximum(fine, 10.0)
    result: Values = np.clip(part, -1, 2) - expected
    return result


def _spots(sums: RingSums) -> Values:
    """Of the rings beyond 5 Å: log of the largest count over mean + 4 standard deviations + 4."""
    beyond = EDGES_PER_A[:-1] >= 0.2 - 1e-9
    mean = sums.sums / np.maximum(sums.pixels, 1)
    allowed = mean + 4 * np.sqrt(mean) + 4
    result: Values = np.log(np.maximum(sums.peaks, 0.2) / allowed)[:, beyond].max(1)
    return result


def _speckle(sums: RingSums, excess: Excess) -> Values:
    """Relative variance of a ring's pixels beyond counting noise, weighted over the rings."""
    pixels = np.maximum(sums.pixels, 1)
    mean = sums.sums / pixels
    variance = sums.squares / pixels - mean**2 - mean
    top = (variance * pixels).sum(1)
    # The smallest that noise alone would leave does not blow up where there are few counts.
    bottom = (mean**2 * pixels).sum(1) + np.sqrt(2 * (mean**2 * pixels).sum(1)) + 1
    result: Values = np.log1p(np.clip(top / bottom, 0, 20))
    return result


def _lopsided(sums: RingSums) -> Values:
    """Variance of opposite pairs of sectors over what counting leaves; Friedel mates count once."""
    pairs = sums.sectors[:, : SECTORS // 2] + sums.sectors[:, SECTORS // 2 :]
    mean = pairs.mean(1)
    result: Values = np.log((pairs.var(1, ddof=1) + 1) / (mean + 1))
    return result


def of_molecules(probabilities: Values) -> Values:
    """(n,) probability of being of molecules, one or several."""
    total: Values = probabilities[:, np.isin(CLASSES, HITS)].sum(1)
    return total


def called(
    probabilities: Values, z: Values, read: NDArray[np.bool_], threshold: float, least_sd: float
) -> NDArray[np.str_]:
    """Class of every pattern: of molecules, one or several, where the probability of these reaches
    the threshold, else the likeliest other; nothing where nothing exceeds the background."""
    hit = np.isin(CLASSES, HITS)
    others = np.where(hit, -1, probabilities)
    names = np.array(CLASSES)
    likelier = names[np.where(hit, probabilities, -1).argmax(1)]
    found = np.where(of_molecules(probabilities) >= threshold, likelier, names[others.argmax(1)])
    result: NDArray[np.str_] = np.where((z < least_sd) | ~read, "empty", found)
    return result
