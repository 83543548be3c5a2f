"""Opens pairs, whatever file they come in."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.formats import read_arrays
from diffragan.files.store import MeasurementStore, SimulationStore, store_kind
from diffragan.pairs.exposures import exposures_in_memory, read_exposures
from diffragan.pairs.from_arrays import ArrayPairs
from diffragan.pairs.imaged import ImagedPairs
from diffragan.pairs.joined import JoinedPairs
from diffragan.pairs.pairs import Pairs
from diffragan.pairs.stored import StoredPairs
from diffragan.settings import Settings, given_by_hand, settings_from_dict

_BLOCK = 64  # patterns read at a time


def open_pairs(
    path: Path,
    *,
    settings: Settings | None = None,
    image: Path | None = None,
    box_A: float | None = None,
    first: int = 0,
) -> Pairs:
    """Pairs from any file the package reads.

    Args:
        path: a store, or the file of the patterns (and of the images, where they share one).
        settings: how a simulation is imaged, or how measured arrays were taken. A measurement
            store carries its own.
        image: the images, where they lie in a file of their own.
        box_A: side of the field; arrays need it unless a map's header tells the pixel size.
        first: number of the first item, where other inputs go before this one.

    Raises:
        DiffraganError: the file is missing, of another kind or damaged, or it does not fit; or a
            setting that was given by hand is not the store's.
    """
    pairs = _opened(path, settings, image, box_A, first)
    _refuse_other_optics([pairs], settings)
    return pairs


def _opened(
    path: Path, settings: Settings | None, image: Path | None, box_A: float | None, first: int
) -> Pairs:
    path = Path(path)
    settings = settings or settings_from_dict({})
    name = path.name.lower()
    if name.endswith((".zarr", ".zarr.zip", ".zarr/")):
        kind = store_kind(path)
        if image is not None:
            raise DiffraganError(f"{path} is a store and holds its own images; leave out --image.")
        if kind == "simulation":
            waves = SimulationStore(path)
            _refuse_other_energy(path, waves.optics.energy_ev, settings)
            return ImagedPairs(waves, settings, first)
        if kind == "measurement":
            store = MeasurementStore(path)
            taken = settings_from_dict(store.settings)
            return StoredPairs(store, replace_run(taken, settings))
        raise DiffraganError(
            f"{path} is a result store; give the pairs it came from ({_input_of(path)})."
        )
    return ArrayPairs(read_exposures(path, image), settings, box_A)


def open_arrays(
    patterns: Any, images: Any, *, settings: Settings | None = None, box_A: float | None = None
) -> Pairs:
    """Pairs of arrays (n, m, m) in memory; what else is known of them is in the settings.

    Raises:
        DiffraganError: they do not fit each other, or nothing tells the side of the field.
    """
    taken = settings or settings_from_dict({})
    return ArrayPairs(exposures_in_memory(patterns, images), taken, box_A)


def mean_pattern(path: Path, electrons: float) -> NDArray[np.float64]:
    """(m, m) mean of a file's patterns, as of positions without a molecule, in fractions of an
    exposure of so many electrons.

    Args:
        path: a store, or a file of patterns (n, m, m): counts, or fractions of the beam.

    Raises:
        DiffraganError: they can't be read, or are no counts.
    """
    if path.suffix == ".zarr":
        pairs = open_pairs(path)
        count, read = pairs.n, pairs.pattern
    else:
        stack = read_arrays(path).get("pattern")
        if stack is None:
            raise DiffraganError(f"{path} has no 'pattern' array; name it so.")
        count, read = len(stack), lambda items: np.asarray(stack[items])
    total: NDArray[np.float64] = np.zeros(read(slice(0, 1)).shape[1:])
    for start in range(0, count, _BLOCK):
        total += read(slice(start, min(start + _BLOCK, count))).sum(0, dtype=np.float64)
    mean = total / count
    if not np.isfinite(mean).all() or (mean < 0).any():
        raise DiffraganError(f"The patterns of {path} are not counts: some are negative or NaN.")
    return mean if mean.sum() <= 1 else mean / electrons


def replace_run(taken: Settings, run: Settings) -> Settings:
    """The optics of the store with the seed and the phasing of the present run."""
    return taken.model_copy(
        update={"seed": run.seed, "phase": run.phase, "network": run.network, "train": run.train}
    )


def _refuse_other_optics(parts: Sequence[Pairs], run: Settings | None) -> None:
    """A measurement was taken once: what is said by hand of how must be what its store says, unless
    there are inputs beside it that it may be said of."""
    if run is None or not all(part.carries_settings for part in parts):
        return
    keys = ["energy_ev"]
    for section in ("pattern", "specimen", "detector", "image", "projection"):
        keys += [f"{section}.{name}" for name in type(getattr(run, section)).model_fields]
    for key in keys:
        own, mine = attrgetter(key)(parts[0].settings), attrgetter(key)(run)
        if own != mine and given_by_hand(run, key):
            raise DiffraganError(
                f"{parts[0].name} was taken with {key} = {own}, and {key} = {mine} was given by "
                "hand; leave out the setting, which the store tells."
            )


def _refuse_other_energy(path: Path, energy_ev: float, run: Settings) -> None:
    """Exit waves are of one energy, which nothing changes afterwards."""
    if run.energy_ev != energy_ev and given_by_hand(run, "energy_ev"):
        raise DiffraganError(
            f"{path} holds exit waves of {energy_ev:g} eV, and energy_ev = {run.energy_ev:g} was "
            "given by hand; leave it out, or simulate anew with it."
        )


def _input_of(path: Path) -> str:
    from diffragan.files.store import ResultStore

    return ", ".join(str(entry["path"]) for entry in ResultStore(path).inputs)


def open_all(
    paths: Sequence[Path],
    *,
    settings: Settings | None = None,
    images: Sequence[Path] = (),
    box_A: float | None = None,
    several: bool = False,
) -> Pairs:
    """The pairs of one input, or of several in the order given; see `open_pairs`.

    Args:
        images: a file of images for each input, or none.
        box_A: side of the field of array files.
        several: the inputs may hold different molecules, to be told apart.

    Raises:
        DiffraganError: an input that can't be read, or inputs that can't make one map.
    """
    if images and len(images) != len(paths):
        raise DiffraganError(
            f"There are {len(paths)} inputs and {len(images)} files of images; give --image once "
            "for each input, in the same order."
        )
    parts: list[Pairs] = []
    for k, path in enumerate(paths):
        first = sum(part.n for part in parts)
        parts.append(_opened(path, settings, images[k] if images else None, box_A, first))
    _refuse_other_optics(parts, settings)
    return parts[0] if len(parts) == 1 else JoinedPairs(parts, several=several)
