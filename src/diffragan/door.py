"""One door for pairs, whatever file they come in.

`open_measurements` takes a measurement or simulation store (.zarr, or zipped .zarr.zip), arrays
(.npy, .npz), image stacks (.mrc, .mrcs), RELION particles (.star) and HDF5 (.h5). Nothing is read
until items are asked for.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan import arrays, imaging
from diffragan.errors import DiffraganError
from diffragan.optics import Optics
from diffragan.settings import Settings, settings_from_dict
from diffragan.store import (
    Selection,
    SimulationStore,
    Store,
    StructureInfo,
    file_sha256,
    store_kind,
)


class Measurements(ABC):
    """Pairs of pattern and image, with the truth beside them where there is one.

    pattern_mask: (m, m) bool, True where the pattern is valid, zero frequency at [m//2, m//2].
    optics: energy, box and object plane; `settings.image` tells how the images were taken.
    rotation: (n, 3, 3) orientations, or None where they are not known.
    shifts_A: (n, 2) x and y of the molecule from its image's centre, or None where it is there.
    """

    n: int
    optics: Optics
    settings: Settings
    pattern_mask: NDArray[np.bool_]
    structures: tuple[StructureInfo, ...]
    structure_index: NDArray[np.int64]
    rotation: NDArray[np.float64] | None
    shifts_A: NDArray[np.float64] | None = None
    path: Path
    image_path: Path | None = None

    @property
    def name(self) -> str:
        """The input as a message calls it."""
        return str(self.path)

    @property
    def source(self) -> dict[str, Any]:
        """Where the pairs come from, as the header of a result store keeps it."""
        return {
            "path": str(self.path.resolve()),
            "image": str(self.image_path.resolve()) if self.image_path else None,
            "sha256": self.sha256,
        }

    @property
    def unoriented(self) -> str:
        """In words, that not all orientations are told."""
        return f"{self.name} tells no orientations"

    @property
    def box_A(self) -> float:
        """Side of the square field, Å."""
        return self.optics.box_A

    @property
    def m(self) -> int:
        """Side of pattern and image in pixels."""
        return int(self.pattern_mask.shape[-1])

    @cached_property
    def sha256(self) -> str:
        """Hash of the input's bytes: the file's, and that of the images where they lie apart."""
        if self.image_path is None:
            return file_sha256(self.path)
        both = file_sha256(self.path) + file_sha256(self.image_path)
        return hashlib.sha256(both.encode()).hexdigest()

    @property
    def has_truth(self) -> bool:
        """Whether a true exit wave lies beside the pairs."""
        return False

    @abstractmethod
    def pattern(self, items: Selection) -> NDArray[np.float32]:
        """(k, m, m) intensities, fraction of the beam per pixel; masked pixels 0."""

    @abstractmethod
    def image(self, items: Selection) -> NDArray[np.float32]:
        """(k, m, m) images, mean 1."""

    @abstractmethod
    def image_dose(self, items: Selection) -> NDArray[np.float64]:
        """(k,) dose of the images in e/Å²; infinite where they have no noise."""

    def exit_wave(self, items: Selection) -> NDArray[np.complex64] | None:
        """(k, y, x) true exit waves, or None."""
        return None

    def truth_wave(self, items: Selection) -> NDArray[np.complex64] | None:
        """(k, m, m) true wave at the molecule's centre plane in the measured band, or None."""
        exit_wave = self.exit_wave(items)
        if exit_wave is None:
            return None
        mask = torch.from_numpy(self.pattern_mask)
        wave = imaging.centre_wave(torch.from_numpy(exit_wave), self.optics, mask)
        return np.asarray(wave.numpy(), dtype=np.complex64)

    def truth_projection(self, items: Selection) -> NDArray[np.float32] | None:
        """(k, y, x) target projections, mean 1, or None."""
        exit_wave = self.exit_wave(items)
        if exit_wave is None:
            return None
        target = imaging.projection(
            torch.from_numpy(exit_wave), self.optics, self.settings.projection
        )
        return np.asarray(target.numpy(), dtype=np.float32)


class StoredMeasurements(Measurements):
    """A measurement store."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.path, self.n = store, store.path, store.n
        self.optics, self.settings = store.optics, settings
        self.pattern_mask = store.read("pattern_mask").astype(bool)
        self.structures, self.structure_index = store.structures, store.structure_index
        self.rotation = store.rotation

    @property
    def has_truth(self) -> bool:
        return self.store.has("exit_wave")

    def pattern(self, items: Selection) -> NDArray[np.float32]:
        return arrays.checked_pattern(
            self.store.read("pattern", items), self.path, self.pattern_mask
        )

    def image(self, items: Selection) -> NDArray[np.float32]:
        return arrays.checked_image(self.store.read("image", items), self.path)

    def image_dose(self, items: Selection) -> NDArray[np.float64]:
        return self.store.read("image_dose", items).astype(np.float64)

    def exit_wave(self, items: Selection) -> NDArray[np.complex64] | None:
        return self.store.read("exit_wave", items) if self.has_truth else None


class SimulatedMeasurements(Measurements):
    """A simulation store, imaged as its items are asked for.

    The noise of an item is set by the run's seed and the item's number alone. Among several inputs
    that number counts from `first`, so that no two items share their noise.
    """

    def __init__(self, store: SimulationStore, settings: Settings, first: int = 0) -> None:
        self.store, self.path, self.n, self.first = store, store.path, store.n, first
        self.optics, self.settings = store.optics, settings
        probe = torch.from_numpy(store.exit_wave([0]))
        _, mask = imaging.diffraction_pattern(probe, self.optics, settings.pattern)
        self.pattern_mask = mask.numpy()
        self.structures, self.structure_index = store.structures, store.structure_index
        self.rotation = store.rotation
        self._last: tuple[bytes, imaging.Measured] | None = None

    @property
    def has_truth(self) -> bool:
        return True

    def measured(self, items: Selection) -> imaging.Measured:
        """Patterns and images of the items; the last batch asked for is kept."""
        chosen = np.arange(self.n)[items if isinstance(items, slice) else np.asarray(items)]
        key = chosen.tobytes()
        if self._last is None or self._last[0] != key:
            waves = torch.from_numpy(self.store.exit_wave(chosen))
            seeds = [imaging.item_seed(self.settings.seed, self.first + int(i)) for i in chosen]
            self._last = (key, imaging.measure(waves, self.optics, self.settings, seeds))
        return self._last[1]

    def pattern(self, items: Selection) -> NDArray[np.float32]:
        return self.measured(items).pattern.numpy()

    def image(self, items: Selection) -> NDArray[np.float32]:
        return self.measured(items).image.numpy()

    def image_dose(self, items: Selection) -> NDArray[np.float64]:
        return self.measured(items).image_dose_e_per_A2.numpy()

    def exit_wave(self, items: Selection) -> NDArray[np.complex64] | None:
        return self.store.exit_wave(items)


class ArrayMeasurements(Measurements):
    """Patterns and images from array files: a measurement without a store.

    Defocus counts from the molecule's own plane here, as an instrument would report it.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        box_A: float,
        patterns: arrays.Stack,
        images: arrays.Stack,
        mask: NDArray[np.bool_] | None,
        image_path: Path | None = None,
        rotation: NDArray[np.float64] | None = None,
        shifts_A: NDArray[np.float64] | None = None,
    ) -> None:
        if len(patterns) != len(images):
            raise DiffraganError(
                f"{path} holds {len(patterns)} patterns and {len(images)} images; each pattern "
                "needs its image, in the same order."
            )
        m = patterns.shape[-1]
        for name, stack in (("pattern", patterns), ("image", images)):
            if stack.shape[1:] != (m, m) or m % 2:
                raise DiffraganError(
                    f"The {name}s of {path} are {stack.shape[1]} x {stack.shape[2]} pixels; "
                    "patterns and images must be square, of one even size, and cover one box."
                )
        self.path, self.n, self.settings = path, len(patterns), settings
        self.optics = Optics(settings.energy_ev, box_A, 0.0)
        default = imaging.pattern_mask(m, self.optics, settings.pattern).numpy()
        if mask is not None and mask.shape != default.shape:
            raise DiffraganError(
                f"The pattern mask of {path} is {mask.shape}, the patterns are {default.shape}; "
                "give one mask of the patterns' size."
            )
        self.pattern_mask = default if mask is None else mask & default
        self._patterns, self._images, self.image_path = patterns, images, image_path
        self.structures = (StructureInfo(path.name.split(".")[0]),)
        self.structure_index = np.zeros(self.n, dtype=np.int64)
        self.rotation, self.shifts_A = rotation, shifts_A

    def pattern(self, items: Selection) -> NDArray[np.float32]:
        raw = np.asarray(self._patterns[items], dtype=np.float32)
        raw = arrays.checked_pattern(raw, self.path, self.pattern_mask)
        if raw.sum((-2, -1)).max(initial=0) <= 1:
            return raw
        dose = self.settings.pattern.dose_e_per_A2
        if dose is None:
            raise DiffraganError(
                f"The patterns of {self.path} are counts, not fractions of the beam; give the dose "
                "they were taken with (--set pattern.dose_e_per_A2=...)."
            )
        return raw / np.float32(dose * self.box_A**2)

    def image(self, items: Selection) -> NDArray[np.float32]:
        raw = arrays.checked_image(np.asarray(self._images[items], np.float32), self.path)
        result: NDArray[np.float32] = raw / raw.mean((-2, -1), keepdims=True)
        return result

    def image_dose(self, items: Selection) -> NDArray[np.float64]:
        image = self.image(items)
        if self.settings.image.dose_e_per_A2 is not None:
            return np.full(len(image), self.settings.image.dose_e_per_A2)
        return arrays.estimated_dose(image, self.optics, self.settings.image)


def open_measurements(
    path: Path,
    *,
    settings: Settings | None = None,
    image: Path | None = None,
    box_A: float | None = None,
    first: int = 0,
) -> Measurements:
    """Pairs from any file the package reads.

    Args:
        path: a store, or the file of the patterns (and of the images, where they share one).
        settings: how a simulation is imaged, or how measured arrays were taken. A measurement
            store carries its own.
        image: the images, where they lie in a file of their own.
        box_A: side of the field; arrays need it unless a map's header tells the pixel size.
        first: number of the first item, where other inputs go before this one.

    Raises:
        DiffraganError: the file is missing, of another kind or damaged, or it does not fit.
    """
    path = Path(path)
    settings = settings or settings_from_dict({})
    name = path.name.lower()
    if name.endswith((".zarr", ".zarr.zip", ".zarr/")):
        kind = store_kind(path)
        if image is not None:
            raise DiffraganError(f"{path} is a store and holds its own images; leave out --image.")
        if kind == "simulation":
            return SimulatedMeasurements(SimulationStore(path), settings, first)
        if kind == "measurement":
            store = _MeasurementStore(path)
            taken = settings_from_dict(store.settings)
            return StoredMeasurements(store, replace_run(taken, settings))
        raise DiffraganError(
            f"{path} is a result store; give the pairs it came from ({_input_of(path)})."
        )
    reader = arrays.reader(path)
    if reader is None:
        raise DiffraganError(
            f"{path} is of no kind this package reads; it takes .zarr, .npy, .npz, .mrc, .mrcs, "
            ".star and .h5."
        )
    return _from_arrays(path, reader, settings, image, box_A)


def replace_run(taken: Settings, run: Settings) -> Settings:
    """The optics of the store with the seed and the phasing of the present run."""
    return taken.model_copy(
        update={"seed": run.seed, "phase": run.phase, "network": run.network, "train": run.train}
    )


class _MeasurementStore(Store):
    kind = "measurement"


def _input_of(path: Path) -> str:
    from diffragan.store import ResultStore

    return ", ".join(str(entry["path"]) for entry in ResultStore(path).inputs)


def _from_arrays(
    path: Path,
    reader: Callable[[Path], Mapping[str, Any]],
    settings: Settings,
    image: Path | None,
    box_A: float | None,
) -> Measurements:
    found = dict(reader(path))
    if image is not None:
        image_reader = arrays.reader(image)
        if image_reader is None:
            raise DiffraganError(f"{image} is of no kind this package reads; give .mrcs or .npy.")
        other = dict(image_reader(image))
        # A file with one unnamed stack gives it as `pattern`; here it is the images.
        found["image"] = other.get("image", other.get("pattern"))
        found["pixel_A"] = other.get("pixel_A")
    for name in ("pattern", "image"):
        if found.get(name) is None:
            raise DiffraganError(
                f"{path} has no '{name}' array; name it so, or pass the images with --image."
            )
    images = found["image"]
    if box_A is None and found.get("pixel_A"):
        box_A = float(found["pixel_A"]) * images.shape[-1]
    box_A = box_A or settings.simulate.box_A
    if box_A is None:
        raise DiffraganError(f"{path} does not tell the side of its field; give --box-A (in Å).")
    mask = found.get("pattern_mask")
    mask = None if mask is None else np.asarray(mask, dtype=bool)
    turned = (found.get("rotation"), found.get("shifts_A"))
    return ArrayMeasurements(path, settings, box_A, found["pattern"], images, mask, image, *turned)
