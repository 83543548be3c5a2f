"""Opens pairs, whatever file they come in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffragan.errors import DiffraganError
from diffragan.files import formats as arrays
from diffragan.files.store import MeasurementStore, SimulationStore, store_kind
from diffragan.pairs.from_arrays import ArrayPairs
from diffragan.pairs.imaged import ImagedPairs
from diffragan.pairs.joined import JoinedPairs
from diffragan.pairs.pairs import Pairs
from diffragan.pairs.stored import StoredPairs
from diffragan.settings import Settings, settings_from_dict


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
            return ImagedPairs(SimulationStore(path), settings, first)
        if kind == "measurement":
            store = MeasurementStore(path)
            taken = settings_from_dict(store.settings)
            return StoredPairs(store, replace_run(taken, settings))
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


def _input_of(path: Path) -> str:
    from diffragan.files.store import ResultStore

    return ", ".join(str(entry["path"]) for entry in ResultStore(path).inputs)


def _from_arrays(
    path: Path,
    reader: Callable[[Path], Mapping[str, Any]],
    settings: Settings,
    image: Path | None,
    box_A: float | None,
) -> Pairs:
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
    return ArrayPairs(path, settings, box_A, found["pattern"], images, mask, image, *turned)


def open_all(
    paths: Sequence[Path],
    *,
    settings: Settings | None = None,
    images: Sequence[Path] = (),
    box_A: float | None = None,
) -> Pairs:
    """The pairs of one input, or of several in the order given; see `open_pairs`.

    Args:
        images: a file of images for each input, or none.
        box_A: side of the field of array files.

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
        parts.append(
            open_pairs(
                path,
                settings=settings,
                image=images[k] if images else None,
                box_A=box_A,
                first=sum(part.n for part in parts),
            )
        )
    return parts[0] if len(parts) == 1 else JoinedPairs(parts)
