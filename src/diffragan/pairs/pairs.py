"""One door for pairs, whatever file they come in.

`open_pairs` takes a measurement or simulation store (.zarr, or zipped .zarr.zip), arrays
(.npy, .npz), image stacks (.mrc, .mrcs), RELION particles (.star) and HDF5 (.h5). Nothing is read
until items are asked for.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.files.store import Selection, file_sha256
from diffragan.files.store_header import StructureInfo
from diffragan.microscope import imaging
from diffragan.optics import Defocus, Optics
from diffragan.settings import Settings


class Pairs(ABC):
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
    # Whether the input tells how it was taken, and is opened again without the run's settings.
    carries_settings: bool = False
    # Whether `structures` names a molecule; an array file is called by its own name alone.
    names_molecule: bool = True

    def __repr__(self) -> str:
        stems = [info.stem for info in self.structures]
        names = ", ".join(stems[:3]) + (f" and {len(stems) - 3} more" if len(stems) > 3 else "")
        of = f" of {names}" if self.names_molecule and names else ""
        truth = "with the truth" if self.has_truth else "no truth"
        return (
            f"<{type(self).__name__} {self.name}: {self.n} pairs{of}, {self.m} x {self.m} pixels, "
            f"{self.box_A:g} Å, {truth}>"
        )

    @property
    def parts(self) -> tuple[Pairs, ...]:
        """The inputs that the pairs come from, in order."""
        return (self,)

    @property
    def name(self) -> str:
        """The input as a message calls it."""
        return str(self.path)

    @property
    def reopens(self) -> bool:
        """Whether another process can open the same pairs by their paths."""
        return all(part.reopens for part in self.parts if part is not self)

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

    @cached_property
    def defocus(self) -> Defocus | None:
        """Of each image; None where all have `settings.image.defocus_A` and no astigmatism."""
        return None

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
