"""What weight and B tell of an element, learnt from the main chain, which geometry alone finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffragan.atoms.bonds.chain import Fragment
from diffragan.atoms.bonds.graph import AtomGraph

ELEMENTS = ("C", "N", "O", "S")
FRACTIONS = np.array([0.63, 0.17, 0.19, 0.01])  # of a protein's atoms other than hydrogen
_FEWEST = 8  # main-chain atoms of each kind: with fewer, no weights are learnt
# Weights of noise-free atoms of 1DUR, in carbons; see docs/atoms.md.
_USUAL_WEIGHT = np.array([0.95, 0.98, 0.96, 2.1])
_USUAL_SD = np.array([0.12, 0.12, 0.12, 0.3])
_LEAST_SD_WEIGHT, _LEAST_SD_B_A2 = 0.02, 0.3
_SULPHUR = 2.15  # over carbon
_WIDER = 1.5  # side chains differ more among themselves than the main chain
_WRONG = 0.03


@dataclass(frozen=True)
class Scattering:
    """Means and deviations by element (4,): of weights in carbons, and of B, Å²."""

    weight: NDArray[np.float64]
    weight_sd: NDArray[np.float64]
    b_A2: NDArray[np.float64]
    b_sd_A2: NDArray[np.float64]


def learnt(graph: AtomGraph, fragments: Sequence[Fragment]) -> Scattering:
    """From carbonyl and alpha carbons, amide nitrogens and carbonyl oxygens."""
    residues = [residue for fragment in fragments for residue in fragment]
    kinds = [
        [k for r in residues for k in (r.ca, r.c) if k >= 0],
        [r.n for r in residues if r.n >= 0],
        [r.o for r in residues if r.o >= 0],
    ]
    spread = max(float(np.std(graph.b_A2)), 3.0) if len(graph) else 3.0
    weight, weight_sd = _USUAL_WEIGHT.copy(), _USUAL_SD.copy()
    b = np.full(4, float(np.median(graph.b_A2)) if len(graph) else 0.0)
    b_sd = np.full(4, spread)
    if min(map(len, kinds)) >= _FEWEST:
        for e, some in enumerate(kinds):
            weight[e], weight_sd[e] = _robust(graph.weights[some], _LEAST_SD_WEIGHT)
            b[e], b_sd[e] = _robust(graph.b_A2[some], _LEAST_SD_B_A2)
        weight[3], weight_sd[3] = _SULPHUR * weight[0], max(0.25, 2 * weight_sd[0])
        b[3], b_sd[3] = b[0], 2 * spread
    return Scattering(weight, weight_sd, b, b_sd)


def element_evidence(graph: AtomGraph, scattering: Scattering) -> NDArray[np.float64]:
    """(n, 4) log-likelihood of weight and B by element, against that of an atom of any."""
    out = np.zeros((len(graph), 4))
    s = scattering
    for values, mean, sd in (
        (graph.weights, s.weight, s.weight_sd),
        (graph.b_A2, s.b_A2, s.b_sd_A2),
    ):
        wide = _WIDER * sd
        density = np.exp(-0.5 * ((values[:, None] - mean) / wide) ** 2) / wide
        density = (1 - _WRONG) * density + _WRONG / (2 * np.ptp(mean) + 4 * wide.max())
        out += np.log(density)
    any_of = np.log((np.exp(out) * FRACTIONS).sum(1, keepdims=True))
    result: NDArray[np.float64] = out - any_of
    return result


def _robust(values: NDArray[np.float64], least: float) -> tuple[float, float]:
    """Median, and the deviation that a Gaussian of the same quartiles has."""
    middle = float(np.median(values))
    return middle, max(1.4826 * float(np.median(np.abs(values - middle))), least)
