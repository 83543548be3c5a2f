"""Training data: exit waves from simulation stores, imaged as they are needed.

Everything random about an item (its turn, its noise, its dropout) follows from the run's seed,
the epoch and the item's number alone. So a batch is a pure function, and neither a resume nor a
split over several devices changes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.files.store import SimulationStore, open_simulation
from diffragan.fourier.grids import quarter_turn
from diffragan.microscope.imaging import Measured, measure, projection
from diffragan.microscope.noise import item_seed
from diffragan.networks.scaling import (
    TargetScale,
    measure_target_scale,
    prepare_inputs,
    prepare_target,
)
from diffragan.networks.weights import TrainedOn
from diffragan.optics import Optics
from diffragan.settings import Settings

Items = NDArray[np.int64]

NOISE, DROPOUT, TURN = 0, 1, 2
# Validation has no epoch; a number that no epoch reaches keeps its noise apart from training's.
VALIDATION_EPOCH = 2**32 - 1
CACHE_BYTES = 4 * 2**30
SCALE_ITEMS = 64
BATCHES_AHEAD = 2


@dataclass(frozen=True)
class TrainBatch:
    """What one step needs, on the device.

    inputs: (b, 2, 256, 256) and target: (b, 1, 256, 256), both in [-1, 1].
    projection: (b, n, n), mean 1, the target in physical units.
    measured: the measurement before preparation.
    dropout_seeds: one per item.
    """

    inputs: Tensor
    target: Tensor
    projection: Tensor
    measured: Measured
    dropout_seeds: tuple[int, ...]


class ExitWaves:
    """Items of several simulation stores under one numbering, kept in memory as far as they fit.

    Raises:
        DiffraganError: no store, an empty one, or stores that differ in box, energy, plane or
            pixels.
    """

    def __init__(self, stores: Sequence[SimulationStore], cache_bytes: int = CACHE_BYTES) -> None:
        if not stores:
            raise DiffraganError("There is nothing to train on; give at least one store.")
        for store in stores:
            if store.n == 0:
                raise DiffraganError(f"The store {store.path} is empty; simulate it anew.")
            _refuse_mismatch(stores[0], store)
        self.stores = tuple(stores)
        self.optics: Optics = stores[0].optics
        self.n_px = stores[0].n_px
        self.structures = _merge_structures(stores)
        self.starts = np.cumsum([0, *(store.n for store in stores)])
        stems = [s.stem for s in self.structures]
        numbers = [
            np.array([stems.index(s.stem) for s in store.structures], dtype=np.int64)
            for store in stores
        ]
        self.structure = np.concatenate(
            [number[store.structure_index] for number, store in zip(numbers, stores, strict=True)]
        )
        self._cache: dict[int, NDArray[np.complex64]] = {}
        self._room = cache_bytes // (8 * self.n_px**2)

    @property
    def n(self) -> int:
        """Number of items in all stores."""
        return len(self.structure)

    def load(self, items: Items) -> NDArray[np.complex64]:
        """Exit waves (k, n_px, n_px), complex64, in the order asked for.

        Raises:
            DiffraganError: a wave holds NaN or infinity.
        """
        return np.stack([self._one(int(item)) for item in items])

    def _one(self, item: int) -> NDArray[np.complex64]:
        if item in self._cache:
            return self._cache[item]
        number = int(np.searchsorted(self.starts, item, side="right")) - 1
        store = self.stores[number]
        local = item - int(self.starts[number])
        wave: NDArray[np.complex64] = store.exit_wave(slice(local, local + 1))[0]
        if not np.isfinite(wave).all():
            raise DiffraganError(
                f"Exit wave {local} of {store.path} is not finite; simulate the store anew."
            )
        if len(self._cache) < self._room:
            self._cache[item] = wave
        return wave


def open_exit_waves(paths: Sequence[Path], cache_bytes: int = CACHE_BYTES) -> ExitWaves:
    """The items of simulation stores at these paths; errors as `ExitWaves`."""
    return ExitWaves([open_simulation(path) for path in paths], cache_bytes)


def split(data: ExitWaves, settings: Settings) -> tuple[Items, Items]:
    """Items to train on and items to validate on; no structure is in both.

    Held out are `train.validation_structures`, or else a tenth of the structures (at least one),
    drawn by the seed.

    Raises:
        DiffraganError: a stem to hold out is not there, or nothing is left on one side.
    """
    stems = [s.stem for s in data.structures]
    held = settings.train.validation_structures
    missing = sorted(set(held) - set(stems))
    if missing:
        raise DiffraganError(
            f"train.validation_structures names '{missing[0]}', which no store holds; there are "
            f"{', '.join(stems)}."
        )
    held = held or drawn_to_hold_out(stems, settings.seed)
    out = np.isin(data.structure, [stems.index(stem) for stem in held])
    train, validation = np.flatnonzero(~out), np.flatnonzero(out)
    if not len(train) or not len(validation):
        raise DiffraganError(
            f"Training needs structures to learn from and others to validate on, and of "
            f"{len(stems)} ({', '.join(stems[:5])}) {len(held)} would be held out; simulate more "
            "structures."
        )
    return train.astype(np.int64), validation.astype(np.int64)


def drawn_to_hold_out(stems: Sequence[str], seed: int) -> tuple[str, ...]:
    """A tenth of the structures, at least one, drawn by the seed."""
    order = np.random.default_rng([seed, len(stems)]).permutation(len(stems))
    return tuple(stems[i] for i in order[: max(1, len(stems) // 10)])


def spread_over_structures(data: ExitWaves, items: Items, count: int) -> Items:
    """About `count` of the items, the same number of each structure, evenly spaced."""
    present = np.unique(data.structure[items])
    each = max(1, round(count / len(present)))
    chosen = []
    for structure in present:
        own = items[data.structure[items] == structure]
        chosen.append(own[np.unique(np.linspace(0, len(own) - 1, each).round().astype(int))])
    return np.concatenate(chosen)


def trained_on(data: ExitWaves, items: Items) -> tuple[TrainedOn, ...]:
    """The structures that these items show, for the weight file."""
    infos = [data.structures[i] for i in np.unique(data.structure[items])]
    return tuple(infos)


def epoch_order(items: Items, seed: int, epoch: int, batch_size: int) -> NDArray[np.int64]:
    """The epoch's batches (batches, batch_size) of items, drawn without replacement.

    A last, smaller batch is dropped. Its items differ from epoch to epoch.

    Raises:
        DiffraganError: fewer items than one batch.
    """
    batches = len(items) // batch_size
    if batches == 0:
        raise DiffraganError(
            f"The training set has {len(items)} items and a batch {batch_size}; simulate more "
            f"orientations or set train.batch_size to at most {len(items)}."
        )
    order = np.random.default_rng([seed, epoch]).permutation(items)
    return order[: batches * batch_size].reshape(batches, batch_size)


def make_train_batch(
    waves: NDArray[np.complex64],
    items: Items,
    optics: Optics,
    settings: Settings,
    scale: TargetScale,
    epoch: int,
    device: torch.device,
) -> TrainBatch:
    """Image exit waves (b, n, n) of these items as the epoch wants them."""
    seeds = [(int(item), epoch) for item in items]
    wave = torch.from_numpy(waves).to(device)
    if settings.train.augment and epoch != VALIDATION_EPOCH:
        turns = [item_seed(settings.seed, *s, TURN) % 4 for s in seeds]
        # A turn about the beam keeps the molecule. (A mirrored wave would be that of the
        # mirror-image molecule, which does not exist.)
        wave = torch.stack([quarter_turn(w, t) for w, t in zip(wave, turns, strict=True)])
    measured = measure(wave, optics, settings, [item_seed(settings.seed, *s, NOISE) for s in seeds])
    truth = projection(wave, optics, settings.projection)
    return TrainBatch(
        inputs=prepare_inputs(
            measured.pattern, measured.pattern_mask, measured.image, settings.network
        ),
        target=prepare_target(truth, settings.network, scale),
        projection=truth,
        measured=measured,
        dropout_seeds=tuple(item_seed(settings.seed, *s, DROPOUT) for s in seeds),
    )


def scale_of(data: ExitWaves, items: Items, settings: Settings) -> TargetScale:
    """Target scale from up to 64 items spread over the training set."""
    chosen = items[np.linspace(0, len(items) - 1, min(SCALE_ITEMS, len(items))).astype(int)]
    return measure_target_scale(
        projection(torch.from_numpy(data.load(chosen[i : i + 8])), data.optics, settings.projection)
        for i in range(0, len(chosen), 8)
    )


def load_ahead(
    data: ExitWaves, batches: Sequence[Items]
) -> Iterator[tuple[Items, NDArray[np.complex64]]]:
    """Batches of items with their waves, read by a thread while the caller computes.

    A thread, not worker processes: reading releases the interpreter's lock, and zarr does not
    survive a fork.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
        waiting: list[Future[NDArray[np.complex64]]] = []
        try:
            for i, items in enumerate(batches):
                while len(waiting) <= BATCHES_AHEAD and i + len(waiting) < len(batches):
                    waiting.append(reader.submit(data.load, batches[i + len(waiting)]))
                yield items, waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def _refuse_mismatch(first: SimulationStore, other: SimulationStore) -> None:
    pairs = {
        "box (Å)": (first.box_A, other.box_A),
        "energy (eV)": (first.energy_ev, other.energy_ev),
        "exit plane (Å)": (first.centre_to_exit_A, other.centre_to_exit_A),
        "pixels": (float(first.n_px), float(other.n_px)),
    }
    for name, (a, b) in pairs.items():
        if abs(a - b) > 1e-6 * max(abs(a), abs(b)):
            raise DiffraganError(
                f"The stores {first.path} and {other.path} differ in {name}: {a:g} and {b:g}; "
                "simulate them with the same settings."
            )


def _merge_structures(stores: Sequence[SimulationStore]) -> tuple[TrainedOn, ...]:
    """Structures of all stores in order of appearance; one stem is one structure."""
    by_stem: dict[str, tuple[TrainedOn, SimulationStore]] = {}
    for store in stores:
        for s in store.structures:
            info = TrainedOn(s.stem, s.sha256, s.sequence)
            known, where = by_stem.setdefault(s.stem, (info, store))
            if known.sha256 != info.sha256:
                raise DiffraganError(
                    f"The structure '{s.stem}' in {where.path} is not the one in {store.path}; "
                    "rename one of them and simulate it anew."
                )
    return tuple(info for info, _ in by_stem.values())
