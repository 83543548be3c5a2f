"""What a viewer shows: surfaces of maps, atoms with their bonds, residues to jump to.

A page fills a `Scene`, and `scene_text` gives what `viewer.js` reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from diffragan.report.viewer.density import Packed

Array = NDArray[Any]

Style = Literal["surface", "clear", "mesh"]


@dataclass(frozen=True)
class Surface:
    """A contour of a map.

    label: beside its checkbox; says whether it is measured or a model's.
    start: the contour at first, in standard deviations above the map's mean.
    presets: further contours by the words on their buttons.
    shown: whether it is drawn at first. fixed: whether the contour stays where it starts.
    about: one sentence on it.
    """

    label: str
    density: Packed
    colour: str
    start: float
    presets: Mapping[str, float] = field(default_factory=dict)
    style: Style = "surface"
    shown: bool = True
    fixed: bool = False
    about: str = ""


@dataclass(frozen=True)
class Residue:
    """Some of the atoms by their place in a chain. confidence: 0 to 1, None where not told."""

    chain: str
    number: int
    name: str
    atoms: tuple[int, ...]
    confidence: float | None = None


def residue_names(residues: Sequence[Residue]) -> list[str]:
    """What each is called; its chain is told where there are several."""
    several = len({one.chain for one in residues}) > 1
    return [f"{one.name} {one.number}" + f" ({one.chain})" * several for one in residues]


@dataclass(frozen=True)
class ShownAtoms:
    """n atoms.

    positions_A: (n, 3), x, y, z from the rotation centre. bonds: (m, 2) indices.
    confirmed: (n,) bool. weights: (n,) carbons. b_A2: (n,). fit: (n,) correlation with the map
    around each, nan where none is told. hydrogens: (h, 4) parent and place of those that ride.
    residues: which atoms are which residue, where that is known. elements: (n,) symbols, likewise.
    """

    positions_A: Array
    bonds: Array
    confirmed: Array
    weights: Array
    b_A2: Array
    fit: Array
    hydrogens: Array = field(default_factory=lambda: np.zeros((0, 4)))
    residues: Sequence[Residue] = ()
    elements: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.positions_A)


@dataclass(frozen=True)
class Peak:
    """A place where data and atoms differ. height: in standard deviations, negative where the
    atoms are too much."""

    position_A: tuple[float, float, float]
    height: float


@dataclass(frozen=True)
class Scene:
    """All that a viewer shows. fallback: name of the figure that stands in without WebGL."""

    surfaces: Sequence[Surface]
    atoms: ShownAtoms | None = None
    peaks: Sequence[Peak] = ()
    fallback: str = ""

    def __bool__(self) -> bool:
        return bool(self.surfaces or self.atoms)


def scene_text(scene: Scene) -> Markup:
    """The scene as JSON that may stand inside a script element."""
    data = {
        "surfaces": [asdict(surface) for surface in scene.surfaces],
        "atoms": _atoms(scene.atoms) if scene.atoms else None,
        "peaks": [asdict(peak) for peak in scene.peaks],
        "fallback": scene.fallback,
    }
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    # "</" inside a script would end it.
    return Markup(text.replace("</", "<\\/"))


def _atoms(atoms: ShownAtoms) -> dict[str, Any]:
    return {
        "places": _rounded(atoms.positions_A, 3),
        "bonds": np.asarray(atoms.bonds, dtype=int).ravel().tolist(),
        "confirmed": np.asarray(atoms.confirmed).astype(int).tolist(),
        "weights": _rounded(atoms.weights, 2),
        "b": _rounded(atoms.b_A2, 1),
        "fit": _rounded(atoms.fit, 3),
        "parents": np.asarray(atoms.hydrogens)[:, 0].astype(int).tolist(),
        "hydrogens": _rounded(np.asarray(atoms.hydrogens)[:, 1:], 2),
        "elements": None if atoms.elements is None else list(atoms.elements),
        "residues": [
            asdict(residue) | {"label": label}
            for residue, label in zip(atoms.residues, residue_names(atoms.residues), strict=True)
        ],
    }


def _rounded(values: Array, digits: int) -> list[float | None]:
    """Flat; what is not a number is null."""
    flat = np.asarray(values, dtype=float).ravel()
    return [round(float(v), digits) if np.isfinite(v) else None for v in flat]
