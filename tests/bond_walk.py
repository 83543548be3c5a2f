"""A molecule for tests that need no chemistry."""

from __future__ import annotations

import numpy as np


def chain(seed: int, n: int = 160) -> np.ndarray:
    """A walk of bonds of 1.5 Å that keeps its distance from itself: compact and chiral."""
    rng = np.random.default_rng(seed)
    places = [np.zeros(3)]
    while len(places) < n:
        step = rng.normal(size=3)
        trial = places[-1] + 1.5 * step / np.linalg.norm(step)
        far = np.linalg.norm(np.array(places) - trial, axis=1)
        if far.min() > 1.3 and np.linalg.norm(trial) < 13:
            places.append(trial)
        elif rng.random() < 0.02:
            places.append(places[rng.integers(len(places))] + rng.normal(size=3))
    return np.array(places)
