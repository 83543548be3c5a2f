"""The classifier of scans: fitted on one virtual session, tried on another with other molecules.

    diffragan simulate-scan 1DUR.cif 1UBQ.cif --dose 1000 ... --out seen
    diffragan simulate-scan 5L87.cif 1CC5.cif --dose 1000 --seed 11 ... --out unseen
    python -m benchmarks.scan_classes --train seen --test unseen \
        --write src/diffragan/data/scan_classes.json

Sessions are recorded at a high dose. Smaller doses are made of the same counts by keeping each
electron with a chance (what is kept of Poisson counts has Poisson statistics), and ice by adding
counts of its mean intensity. Positions at which a molecule gets between 0.1 % and 30 % of the beam
belong to no class and take part in neither.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from diffragan.files.instruments.stacks import FrameStack
from diffragan.inspection.frames import Frames, open_frames
from diffragan.inspection.patterns import inspect_patterns
from diffragan.microscope.matter import water
from diffragan.optics import Optics
from diffragan.progress import no_progress
from diffragan.scan.hits.background import excess_of
from diffragan.scan.hits.classes import CLASSES, FEATURES, Classifier, features_of
from diffragan.scan.hits.rings import measure_rings
from diffragan.settings import load_settings

Values = NDArray[np.float64]
Part = tuple[Values, NDArray[np.int64], Values]

# Dose (e/Å²) and ice (nm).
CASES = (
    (1000.0, 0.0),
    (1000.0, 10.0),
    (200.0, 0.0),
    (200.0, 1.0),
    (50.0, 0.0),
    (20.0, 0.0),
    (20.0, 1.0),
    (3.6, 0.0),
)
_REGULAR = 1.0


def thinned(frames: Frames, part: float, ice: Values, seed: int) -> FrameStack:
    """The frames as of a smaller dose, and with ice of these expected counts (y, x)."""

    def read(items: NDArray[np.int64]) -> NDArray[np.uint32]:
        out = np.asarray(frames.stack[items]).astype(np.int64)
        for k, item in enumerate(items):
            rng = np.random.default_rng([seed, int(item)])
            if part < 1:
                there = out[k] > 0
                out[k][there] = rng.binomial(out[k][there], part)
            if ice.any():
                out[k] += rng.poisson(ice)
        return out.astype(np.uint32)

    n, height, width = (int(side) for side in frames.stack.shape)
    return FrameStack(read, (n, height, width))


def session(folder: Path, dose: float, ice_nm: float, every: int = 1) -> Part:
    """Features, class and significance of the positions of a session that have a class.

    Args:
        every: only every so many rows of the scan.
    """
    settings = load_settings()
    taken = load_settings(file=folder / "settings.toml")
    frames = open_frames([folder / "scan.h5"], "pattern", None)
    found = inspect_patterns(frames, settings, no_progress)
    full = taken.pattern.dose_e_per_A2 or dose
    y, x = np.indices(found.good.shape)
    q = np.hypot(y - found.centre.y, x - found.centre.x) * found.pixel_per_A
    optics = Optics(taken.energy_ev, 1 / found.pixel_per_A, 0.0)
    area = math.pi / 4 * taken.session.beam_diameter_A**2
    layer = water.elastic_intensity(torch.from_numpy(q), optics, ice_nm, area).numpy()
    layer[q < 0.04] = 0
    expected = layer * dose * optics.box_A**2 if ice_nm else np.zeros(q.shape)
    stack = thinned(frames, dose / full, expected, round(dose * 10 + ice_nm))
    rows, columns = frames.told["scan_shape"]
    chosen = np.arange(rows * columns).reshape(rows, columns)[::every].ravel()
    rows = len(chosen) // columns
    part = FrameStack(
        lambda items: stack[chosen[items]], (len(chosen), stack.shape[1], stack.shape[2])
    )
    few = Frames(frames.path, part, {}, frames.valid)
    found = replace(found, centres=found.centres[chosen])
    kept = folder / "rings.part.npz"
    sums = measure_rings(few, found, 64, kept, no_progress)
    kept.unlink()
    excess = excess_of(sums, (rows, columns))
    with (folder / "truth" / "positions.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    told = [listed[k] for k in chosen]
    label = np.array([CLASSES.index(row["class"]) for row in told])
    lit = np.array([float(row["illumination"]) for row in told])
    clear = ~((lit > 0.001) & (lit < 0.3) & (label < 2))
    features = features_of(sums, excess, settings.scan.excess_sd)[clear]
    return features, label[clear], excess.z[clear]


def fitted(features: Values, label: NDArray[np.int64], source: str) -> Classifier:
    """Multinomial logistic regression, rare classes of more weight, held small by its square."""
    mean, scale = features.mean(0), features.std(0) + 1e-6
    x = ((features - mean) / scale).clip(-8, 8)
    k, f = len(CLASSES), x.shape[1]
    weight = 1 / np.sqrt(np.maximum(np.bincount(label, minlength=k), 1))[label]
    weight *= len(label) / weight.sum()
    target = np.eye(k)[label]

    def loss(flat: Values) -> tuple[float, Values]:
        w, b = flat[: k * f].reshape(k, f), flat[k * f :]
        score = x @ w.T + b
        score -= score.max(1, keepdims=True)
        chance = np.exp(score)
        chance /= chance.sum(1, keepdims=True)
        value = -(weight * np.log((chance * target).sum(1) + 1e-300)).sum()
        slope = weight[:, None] * (chance - target)
        value += 0.5 * _REGULAR * (w**2).sum()
        return float(value), np.concatenate(((slope.T @ x + _REGULAR * w).ravel(), slope.sum(0)))

    found = minimize(loss, np.zeros(k * f + k), jac=True, method="L-BFGS-B",
                     options={"maxiter": 2000}).x  # fmt: skip
    return Classifier(mean, scale, found[: k * f].reshape(k, f), found[k * f :], source)


def roc(score: Values, positive: NDArray[np.bool_]) -> tuple[float, list[tuple[float, float]]]:
    """Area under the curve, and (false, true) rates at thresholds of .9, .5 and .1."""
    order = np.argsort(-score)
    hits = np.cumsum(positive[order]) / max(positive.sum(), 1)
    false = np.cumsum(~positive[order]) / max((~positive).sum(), 1)
    points = [
        (float((score >= t)[~positive].mean()), float((score >= t)[positive].mean()))
        for t in (0.9, 0.5, 0.1)
    ]
    return float(np.trapezoid(hits, false)), points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="for the fit, so many rows apart")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    parts = [session(options.train, dose, ice, options.every) for dose, ice in CASES]
    features, label = (np.concatenate([p[k] for p in parts]) for k in (0, 1))
    names = json.loads((options.train / "truth" / "structures.json").read_text("utf-8"))
    stems = " and ".join(name.split()[0] for name in names)
    found = fitted(features, label, f"a virtual session of {stems}, {len(label)} patterns")
    print(
        "| e/Å² | ice | area, molecules or nothing | true / false at .9, .5, .1 | right by class |"
    )
    for dose, ice in CASES:
        x, y, z = session(options.test, dose, ice)
        chance = found.probabilities(x)
        among = np.isin(y, (0, 1, 4))
        area, points = roc((chance[:, 0] + chance[:, 4])[among], (y != 1)[among])
        told = ", ".join(f"{t:.3f} / {f:.3f}" for f, t in points)
        right = [
            f"{name} {(chance.argmax(1) == k)[y == k].mean():.2f}"
            for k, name in enumerate(CLASSES)
            if (y == k).any()
        ]
        middle = float(np.median(z[y == 0]))
        print(
            f"| {dose:g} | {ice:g} nm | {area:.4f} | {told} | {', '.join(right)}; z {middle:.1f} |"
        )
    if options.write:
        kept = {
            "source": found.source,
            "classes": CLASSES,
            "features": FEATURES,
            "mean": np.round(found.mean, 5).tolist(),
            "scale": np.round(found.scale, 5).tolist(),
            "coefficients": np.round(found.coefficients, 5).tolist(),
            "offsets": np.round(found.offsets, 5).tolist(),
        }
        options.write.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
