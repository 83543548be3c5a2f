"""A simulation store as pairs, imaged as its items are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.engine.items import first_item
from diffragan.files.store import Selection, SimulationStore
from diffragan.microscope import imaging
from diffragan.microscope.noise import item_seed
from diffragan.optics import Defocus
from diffragan.pairs.pairs import Pairs
from diffragan.settings import Settings


class ImagedPairs(Pairs):
    """A simulation store, imaged as its items are asked for.

    The noise of an item is set by the run's seed and the item's number alone. Among several inputs
    that number counts from `first`, so that no two items share their noise; in the store of a range
    of a run, from the range's first.
    """

    def __init__(self, store: SimulationStore, settings: Settings, first: int = 0) -> None:
        self.store, self.path, self.n = store, store.path, store.n
        self.first = first or first_item(store.header)
        self.optics, self.settings = store.optics, settings
        self.pattern_mask = imaging.measured_mask(self.optics, settings).numpy()
        self.structures, self.structure_index = store.structures, store.structure_index
        self.rotation = store.rotation
        self._last: tuple[bytes, imaging.Measured] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the same store."""
        return type(self), (self.store, self.settings, self.first)

    @cached_property
    def defocus(self) -> Defocus | None:
        return imaging.drawn_defocus(self.settings.image, self._seeds(range(self.n)))

    @property
    def has_truth(self) -> bool:
        return True

    def measured(self, items: Selection) -> imaging.Measured:
        """Patterns and images of the items; the last batch asked for is kept."""
        chosen = np.arange(self.n)[items if isinstance(items, slice) else np.asarray(items)]
        key = chosen.tobytes()
        if self._last is None or self._last[0] != key:
            waves = torch.from_numpy(self.store.exit_wave(chosen))
            measured = imaging.measure(waves, self.optics, self.settings, self._seeds(chosen))
            self._last = (key, measured)
        return self._last[1]

    def _seeds(self, items: Iterable[int]) -> list[int]:
        return [item_seed(self.settings.seed, self.first + int(i)) for i in items]

    def pattern(self, items: Selection) -> NDArray[np.float32]:
        return self.measured(items).pattern.numpy()

    def image(self, items: Selection) -> NDArray[np.float32]:
        return self.measured(items).image.numpy()

    def image_dose(self, items: Selection) -> NDArray[np.float64]:
        return self.measured(items).image_dose_e_per_A2.numpy()

    def exit_wave(self, items: Selection) -> NDArray[np.complex64] | None:
        return self.store.exit_wave(items)
