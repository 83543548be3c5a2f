"""What sorting found of every view, as it lies in the scratch folder and in the STAR file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.files.atomic import save_tensors
from diffragan.files.star import ITEM_COLUMN, Particles, pose_columns, write_tables

KEPT = "classes.pt"  # in the scratch folder


@dataclass(frozen=True)
class SortedViews:
    """Views by class, on the CPU.

    number: (v,) int64, class of each view, 1 and up; 0 for one that was thrown out.
    probability: (v, classes). odds: (v,) natural logarithm of the odds of its class against no map.
    fit: (v,) correlation of pattern and class's map to the images' resolution. rotations:
    (v, 3, 3) and shifts_A: (v, 2), where the view lies in its class's map. means: mean logarithm
    of a view's likelihood by maps that never saw it, for 1 class, 2, and so on, as far as tried.
    warnings: of the search for orientations.
    """

    number: Tensor
    probability: Tensor
    odds: Tensor
    fit: Tensor
    rotations: Tensor
    shifts_A: Tensor
    means: list[float]
    warnings: list[str]

    @property
    def classes(self) -> int:
        """How many there are."""
        return self.probability.shape[1]

    def sizes(self) -> list[int]:
        """Views thrown out, and of each class."""
        sizes: list[int] = torch.bincount(self.number, minlength=self.classes + 1).tolist()
        return sizes

    def save(self, scratch: Path) -> None:
        """Keep it for a run that goes on later."""
        save_tensors(scratch / KEPT, {f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def kept(cls, scratch: Path) -> SortedViews | None:
        """What an interrupted run had found."""
        path = scratch / KEPT
        return cls(**torch.load(path, weights_only=True)) if path.exists() else None

    def write_star(self, path: Path, items: NDArray[np.int64]) -> None:
        """RELION's table of particles, a row a view; class 0 holds those that were thrown out.

        Args:
            items: (v,) numbers of the pairs in the input.
        """
        columns: dict[str, NDArray[Any]] = {
            ITEM_COLUMN: items,
            "rlnClassNumber": self.number.numpy(),
            "rlnMaxValueProbDistribution": self.probability.max(1).values.numpy().round(6),
            "diffraganLogOdds": self.odds.numpy().round(3),
            "diffraganPatternFit": self.fit.numpy().round(4),
        }
        for k, column in enumerate(self.probability.T, 1):
            columns[f"diffraganProbabilityClass{k}"] = column.numpy().round(6)
        rotations, shifts = self.rotations.double().numpy(), self.shifts_A.numpy()
        poses = pose_columns(Particles(len(items), rotations, shifts))
        write_tables(path, {"particles": {**poses, **columns}})


def sorted_right(number: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Part of the views that are sorted right, where it is known which molecule each shows.

    Classes are named so that it is most. Views of a molecule that no class stands for are right if
    they were thrown out.
    """
    from scipy.optimize import linear_sum_assignment

    table = np.zeros((number.max() + 1, truth.max() + 1), dtype=np.int64)
    np.add.at(table, (number, truth), 1)
    # To name molecule t by class k gains what they share, and loses what would be right thrown out.
    gain = np.maximum(table[1:] - table[0], 0)
    rows, columns = linear_sum_assignment(-gain)
    return float(table[0].sum() + gain[rows, columns].sum()) / len(number)
