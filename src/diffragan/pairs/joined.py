"""Several inputs as one: views of one molecule from several stores or files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.store import Selection
from diffragan.files.store_header import StructureInfo
from diffragan.fourier.grids import resample
from diffragan.optics import Defocus
from diffragan.pairs.pairs import Pairs
from diffragan.settings import Settings

# What every view of a map must share: setting, and what the message calls it. The images' dose and
# SNR may differ, as each view has its own noise; so may dead pixels and the beam stop, as the
# pixels that are valid everywhere are used; the images' defocus, as each view has its own; and the
# projections' defocus, as the first input's is.
_COMMON = {
    "image.aperture_mrad": "the images' aperture",
    "image.cs_mm": "the spherical aberration",
    "image.focal_spread_A": "the focal spread",
    "pattern.dose_e_per_A2": "the patterns' dose",
    "specimen.damage": "the law of damage",
    "specimen.damage_b_A2_per_e": "the damage of 1 e/Å2",
    "specimen.image_first": "whether the image came first",
    "specimen.ice_nm": "the ice's thickness",
    "specimen.beam_diameter_A": "the beam's diameter",
    "specimen.support": "the support",
    "specimen.carbon_nm": "the support's thickness",
    "specimen.molecules": "how many molecules' exposures a pair is the sum of",
    "specimen.energy_filter": "the energy filter",
    "detector.dqe": "the detector's efficiency",
}


_CLOSE = 1e-6


_SIDE_CLOSE_A = 1e-3


Value = TypeVar("Value", bound=np.generic)


class JoinedPairs(Pairs):
    """The items of several inputs, one after the other.

    What all views share is taken from the first; there is a truth where every input has one, and
    likewise orientations. A pixel is valid where it is so in every input.

    Args:
        several: the inputs may hold different molecules, to be told apart.

    Raises:
        DiffraganError: inputs that differ in what all views of a map must share, or one of them
            given twice.
    """

    def __init__(self, parts: Sequence[Pairs], *, several: bool = False) -> None:
        self._parts = tuple(parts)
        first = self.parts[0]
        for k, part in enumerate(self.parts[1:], 1):
            for earlier in self.parts[:k]:
                if earlier.path.resolve() == part.path.resolve():
                    raise DiffraganError(f"{part.name} is given twice; name each input once.")
            _check_alike(first, part)
        self.path, self.image_path, self.optics = first.path, first.image_path, first.optics
        self.settings = _run_settings(self.parts)
        self.pattern_mask = np.logical_and.reduce([part.pattern_mask for part in self.parts])
        counts = np.array([part.n for part in self.parts])
        self.n = int(counts.sum())
        self._starts = np.cumsum(counts) - counts
        self.structures, self.structure_index = _molecules(self.parts, several=several)
        _check_no_copies(self.parts)
        turned = [part.rotation for part in self.parts if part.rotation is not None]
        self.rotation = np.concatenate(turned) if len(turned) == len(self.parts) else None
        if any(part.shifts_A is not None for part in self.parts):
            self.shifts_A = np.concatenate(
                [np.zeros((p.n, 2)) if p.shifts_A is None else p.shifts_A for p in self.parts]
            )

    @property
    def parts(self) -> tuple[Pairs, ...]:
        return self._parts

    @property
    def name(self) -> str:
        names = [part.name for part in self.parts]
        if len(names) > 3:
            return f"{names[0]} and {len(names) - 1} more inputs"
        return f"{', '.join(names[:-1])} and {names[-1]}"

    @cached_property
    def sha256(self) -> str:
        """Hash over the parts' hashes, in their order."""
        return hashlib.sha256("".join(part.sha256 for part in self.parts).encode()).hexdigest()

    @property
    def source(self) -> dict[str, Any]:
        return super().source | {"parts": [part.source for part in self.parts]}

    @property
    def unoriented(self) -> str:
        oriented = [part for part in self.parts if part.rotation is not None]
        without = [part for part in self.parts if part.rotation is None]
        if oriented and without:
            return f"{without[0].name} tells no orientations, and {oriented[0].name} does"
        return f"{self.name} tell no orientations"

    @cached_property
    def defocus(self) -> Defocus | None:
        shared = [part.settings.image.defocus_A for part in self.parts]
        if all(p.defocus is None for p in self.parts) and all(_same(shared[0], d) for d in shared):
            return None
        each = [
            Defocus.of(np.full(part.n, own)) if part.defocus is None else part.defocus
            for part, own in zip(self.parts, shared, strict=True)
        ]
        return Defocus.joined(each)

    @property
    def has_truth(self) -> bool:
        return all(part.has_truth for part in self.parts)

    def pattern(self, items: Selection) -> NDArray[np.float32]:
        pattern = self._gather(items, lambda part, own: part.pattern(own))
        return np.where(self.pattern_mask, pattern, np.float32(0))

    def image(self, items: Selection) -> NDArray[np.float32]:
        return self._gather(items, lambda part, own: part.image(own))

    def image_dose(self, items: Selection) -> NDArray[np.float64]:
        return self._gather(items, lambda part, own: part.image_dose(own))

    def exit_wave(self, items: Selection) -> NDArray[np.complex64] | None:
        """(k, y, x) true exit waves, on the finest of the inputs' grids, or None."""
        if not self.has_truth:
            return None
        side = self._wave_px

        def read(part: Pairs, own: NDArray[np.int64]) -> NDArray[np.complex64]:
            wave = part.exit_wave(own)
            assert wave is not None
            return np.asarray(resample(torch.from_numpy(wave), side).numpy(), np.complex64)

        return self._gather(items, read)

    @cached_property
    def _wave_px(self) -> int:
        probes = [part.exit_wave([0]) for part in self.parts]
        return max(int(probe.shape[-1]) for probe in probes if probe is not None)

    def _gather(
        self,
        items: Selection,
        read: Callable[[Pairs, NDArray[np.int64]], NDArray[Value]],
    ) -> NDArray[Value]:
        """What `read` gives for the items of each part, in the order asked for."""
        asked = items if isinstance(items, slice) else np.asarray(items, dtype=np.int64)
        chosen = np.arange(self.n)[asked]
        owner = np.searchsorted(self._starts, chosen, side="right") - 1
        pieces = [
            read(self.parts[k], chosen[owner == k] - self._starts[k])
            for k in (np.unique(owner) if len(owner) else (0,))
        ]
        if len(pieces) == 1:
            return pieces[0]
        joined = np.concatenate(pieces)
        result = np.empty_like(joined)
        result[np.argsort(owner, kind="stable")] = joined
        return result


def _run_settings(parts: Sequence[Pairs]) -> Settings:
    """The settings that open all parts again as they are.

    A measurement store carries its own; the noise of simulated images, and the dose of array
    files, are in those of the run.
    """
    ruled = [part for part in parts if not part.carries_settings]
    return (ruled or parts)[0].settings


def _check_no_copies(parts: Sequence[Pairs]) -> None:
    """Refuses data given twice under two names: half sets that share them agree by themselves."""
    by_hash: dict[str, Pairs] = {}
    for part in parts:
        other = by_hash.setdefault(part.sha256, part)
        if other is not part:
            raise DiffraganError(
                f"{other.name} and {part.name} hold the same data; leave one of them out."
            )


def _check_alike(first: Pairs, other: Pairs) -> None:
    """Refuses inputs whose views can't make one map."""
    a, b = first.optics, other.optics
    both = f"{first.name} and {other.name} can't make one map"
    if abs(a.box_A - b.box_A) > _SIDE_CLOSE_A:
        raise DiffraganError(
            f"{both}: the field is {a.box_A:g} Å in the one and {b.box_A:g} Å in the other; "
            "array files take theirs from --box-A, other inputs must be reconstructed apart."
        )
    if not math.isclose(a.energy_ev, b.energy_ev, rel_tol=_CLOSE):
        raise DiffraganError(
            f"{both}: the electrons have {a.energy_ev / 1e3:g} keV in the one and "
            f"{b.energy_ev / 1e3:g} keV in the other; array files take theirs from --set "
            "energy_ev=..., other inputs must be reconstructed apart."
        )
    if first.m != other.m:
        raise DiffraganError(
            f"{both}: the patterns have {first.m} pixels a side in the one and {other.m} in the "
            "other; cut them to one largest angle, or reconstruct each by itself."
        )
    if abs(a.centre_to_exit_A - b.centre_to_exit_A) > _SIDE_CLOSE_A:
        raise DiffraganError(
            f"{both}: the defocus counts from {a.centre_to_exit_A:g} Å below the molecule's centre "
            f"in the one and from {b.centre_to_exit_A:g} Å in the other; simulate both with one "
            "simulate.depth_A, or reconstruct each by itself (array files don't go with stores)."
        )
    for key, name in _COMMON.items():
        one, two = (_setting(part.settings, key) for part in (first, other))
        if not _same(one, two):
            raise DiffraganError(
                f"{both}: {name} is {_worded(one)} in the one and {_worded(two)} in the other "
                f"({key}); {_remedy(first, other, key)}."
            )


def _remedy(first: Pairs, other: Pairs, key: str) -> str:
    """What to do about a setting: a measurement store's stands, other inputs take the run's."""
    stored = [part for part in (first, other) if part.carries_settings]
    if len(stored) == 1:
        return (
            f"pass --set {key}={_worded(_setting(stored[0].settings, key))} if that holds for both"
        )
    return "reconstruct each by itself"


def _setting(settings: Settings, key: str) -> bool | float | str | None:
    section, _, name = key.partition(".")
    value: bool | float | str | None = getattr(getattr(settings, section), name)
    return value


def _same(one: bool | float | str | None, two: bool | float | str | None) -> bool:
    if one is None or two is None or isinstance(one, str) or isinstance(two, str):
        return one == two
    return math.isclose(one, two, rel_tol=_CLOSE)


def _worded(value: bool | float | str | None) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else value if isinstance(value, str) else f"{value:.10g}"


def _molecules(
    parts: Sequence[Pairs], *, several: bool
) -> tuple[tuple[StructureInfo, ...], NDArray[np.int64]]:
    """All molecules, each once, and every item's among them.

    An input that doesn't name its molecule shows that of the others. Unless there may be several,
    inputs must share one.

    Raises:
        DiffraganError: inputs of different molecules.
    """
    lead = next((part for part in parts if part.structures and part.names_molecule), None)
    if lead is None:
        return parts[0].structures[:1], np.zeros(sum(part.n for part in parts), dtype=np.int64)
    by_stem: dict[str, StructureInfo] = {info.stem: info for info in lead.structures}
    index = []
    for part in parts:
        if not (part.structures and part.names_molecule):
            if len(lead.structures) > 1 and not several:
                raise DiffraganError(
                    f"{lead.name} holds {len(lead.structures)} molecules and {part.name} doesn't "
                    "name its own; give inputs of one molecule."
                )
            index.append(np.zeros(part.n, dtype=np.int64))
            continue
        shared = [
            info for info in part.structures if info.stem in {s.stem for s in lead.structures}
        ]
        if not shared and not several:
            raise DiffraganError(
                f"{lead.name} and {part.name} can't make one map: the one holds views of "
                f"{lead.structures[0].stem} and the other of {part.structures[0].stem}; give "
                "inputs of one molecule."
            )
        for info in shared:
            same = by_stem[info.stem]
            if info.sequence and same.sequence and info.sequence != same.sequence:
                raise DiffraganError(
                    f"{lead.name} and {part.name} can't make one map: they call different "
                    f"sequences {info.stem}; give inputs of one molecule."
                )
        for info in part.structures:
            by_stem.setdefault(info.stem, info)
        places = [list(by_stem).index(info.stem) for info in part.structures]
        index.append(np.array(places)[part.structure_index])
    return tuple(by_stem.values()), np.concatenate(index)
