"""A solver, a method and a reader for diffragan, from another package."""

from pathlib import Path

import numpy as np
import torch

from diffragan.phasing.method import Context, PairBatch, Phased, phased_wave
from diffragan.phasing.solvers import Steps


def averaged_projections(beta: float) -> Steps:
    return Steps(1, 0, beta, 0, 1 - beta)


def zero_phases(batch: PairBatch, context: Context) -> Phased:
    return phased_wave(torch.fft.ifft2(batch.amplitude + 0j, norm="forward"), batch)


def read_pair(path: Path) -> dict[str, np.ndarray]:
    return dict(zip(("pattern", "image"), np.load(path), strict=True))
