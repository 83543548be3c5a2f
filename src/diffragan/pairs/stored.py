"""A measurement store as pairs."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.files.store import MeasurementStore, Selection
from diffragan.optics import Defocus
from diffragan.pairs.from_arrays import checked_image, checked_pattern
from diffragan.pairs.pairs import Pairs
from diffragan.settings import Settings


class StoredPairs(Pairs):
    """A measurement store."""

    carries_settings = True

    def __init__(self, store: MeasurementStore, settings: Settings) -> None:
        self.store, self.path, self.n = store, store.path, store.n
        self.optics, self.settings = store.optics, settings
        self.pattern_mask = store.read("pattern_mask").astype(bool)
        self.structures, self.structure_index = store.structures, store.structure_index
        self.rotation = store.rotation

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the same store."""
        return type(self), (self.store, self.settings)

    @cached_property
    def defocus(self) -> Defocus | None:
        return self.store.defocus

    @property
    def has_truth(self) -> bool:
        return self.store.has("exit_wave")

    def pattern(self, items: Selection) -> NDArray[np.float32]:
        return checked_pattern(self.store.read("pattern", items), self.path, self.pattern_mask)

    def image(self, items: Selection) -> NDArray[np.float32]:
        return checked_image(self.store.read("image", items), self.path)

    def image_dose(self, items: Selection) -> NDArray[np.float64]:
        return self.store.read("image_dose", items).astype(np.float64)

    def exit_wave(self, items: Selection) -> NDArray[np.complex64] | None:
        return self.store.read("exit_wave", items) if self.has_truth else None
