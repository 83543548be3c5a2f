"""Free atoms: places, weights and B factors, bound by nothing but what they scatter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Atoms:
    """n equal-shaped atoms about the volume's rotation centre.

    positions_A: (n, 3) float32, x, y, z in Å.
    weights: (n,) float32, scattering in carbons: about 1 for C, N and O, 2 for S.
    b_A2: (n,) float32 B factors, Å².
    """

    positions_A: Tensor
    weights: Tensor
    b_A2: Tensor

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self) -> str:
        return (
            f"Atoms({len(self)}, median B {float(self.b_A2.median()) if len(self) else 0:.1f} Å²)"
        )

    def chosen(self, which: Tensor) -> Atoms:
        """Some of the atoms: a bool mask (n,) or indices."""
        return Atoms(self.positions_A[which], self.weights[which], self.b_A2[which])

    def to(self, device: torch.device) -> Atoms:
        """The same on a device."""
        return Atoms(*(x.to(device) for x in (self.positions_A, self.weights, self.b_A2)))


def atoms_at(positions_A: Tensor, weight: float = 1.0, b_A2: float = 3.0) -> Atoms:
    """Atoms of one weight and B at places (n, 3), Å."""
    like = torch.ones(len(positions_A), device=positions_A.device)
    return Atoms(positions_A.float(), weight * like, b_A2 * like)


def together(one: Atoms, other: Atoms) -> Atoms:
    """The atoms of both."""
    return Atoms(
        torch.cat((one.positions_A, other.positions_A)),
        torch.cat((one.weights, other.weights)),
        torch.cat((one.b_A2, other.b_A2)),
    )


@dataclass(frozen=True)
class Riding:
    """Hydrogens that move with their parents.

    parent: (h,) int64 index of the atom. offset_A: (h, 3) float32 from it. share: (h,) float32, how
    much of a hydrogen is there: below 1 where it is one of several places, or doubtful.
    """

    parent: Tensor
    offset_A: Tensor
    share: Tensor

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def count(self) -> int:
        """How many hydrogens these places share."""
        return round(float(self.share.sum()))

    def on(self, atoms: Atoms) -> Atoms:
        """The hydrogens as atoms, weights their shares of a hydrogen, B that of their parents."""
        place = atoms.positions_A[self.parent] + self.offset_A
        return Atoms(place, self.share, atoms.b_A2[self.parent])


def no_hydrogens() -> Riding:
    """None at all."""
    return Riding(torch.zeros(0, dtype=torch.long), torch.zeros(0, 3), torch.zeros(0))
