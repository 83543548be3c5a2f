"""One pass over the frames of a scan: sums by ring and sector, what stands out in a ring, the beam.

A few numbers stand for each frame afterwards, so that memory does not grow with the detector.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from diffragan.errors import DiffraganError
from diffragan.files.atomic import replacing
from diffragan.fourier.compiled import parallel_loop, run_loop
from diffragan.inspection.findings import PatternFindings
from diffragan.inspection.frames import Frames
from diffragan.progress import Progress

# Edges of the rings in 1/Å: from 20 Å, beside the beam, to 1.25 Å.
EDGES_PER_A = np.round(np.arange(0.05, 0.801, 0.05), 2)
RINGS, SECTORS = len(EDGES_PER_A) - 1, 12
_SECTOR_REACH = 8  # rings over which sectors are added up: to 2.2 Å
_BEAM_PX, _SPOT_WIDTHS = 4.5, 5.0
_AWAY_PX = 3  # of a frame's centre from the mean one that the map of rings reaches
_KEPT_EVERY = 20  # blocks after which what is done is put on the disk

Values = NDArray[np.float64]


@dataclass(frozen=True)
class RingSums:
    """What one pass leaves of n frames.

    sums, squares, peaks: (n, RINGS) of the counts of a ring's pixels, and the largest. sectors:
    (n, SECTORS) of the counts to 2.2 Å. beam: (n,) counts near the centre. read: (n,) whether the
    frame could be read and holds counts. pixels: (RINGS,) that a ring has.
    """

    sums: Values
    squares: Values
    peaks: Values
    sectors: Values
    beam: Values
    read: NDArray[np.bool_]
    pixels: Values

    @property
    def all_rings(self) -> Values:
        """(n,) counts beyond the beam."""
        total: Values = self.sums.sum(1)
        return total


@dataclass(frozen=True)
class RingMap:
    """Ring and sector of each pixel of a detector, wider by a few pixels on each side, so that it
    can be moved to a frame's own centre: -1 where a pixel takes no part. beam: RINGS near it."""

    ring: NDArray[np.int16]
    sector: NDArray[np.int16]
    centre: tuple[float, float]

    @classmethod
    def of(cls, found: PatternFindings) -> RingMap:
        """The map of a detector whose centre and pixel are known."""
        height, width = found.good.shape
        y, x = np.indices((height + 2 * _AWAY_PX, width + 2 * _AWAY_PX)) - _AWAY_PX
        dy, dx = y - found.centre.y, x - found.centre.x
        distance = np.hypot(dy, dx)
        ring = np.searchsorted(EDGES_PER_A, distance * found.pixel_per_A, side="right") - 1
        ring = np.where((ring < 0) | (ring >= RINGS), -1, ring)
        # Near the direct beam its own spot outshines what is scattered.
        spot = max((_SPOT_WIDTHS * o.width_px + 0.5 for o in found.others), default=0.0)
        beam = distance <= max(min(_BEAM_PX, EDGES_PER_A[0] / found.pixel_per_A), spot)
        ring = np.where(beam, RINGS, ring)
        turn = (np.arctan2(dy, dx) + np.pi) / (2 * np.pi) * SECTORS
        sector = np.floor(turn).astype(int) % SECTORS
        return cls(ring.astype(np.int16), sector.astype(np.int16), (found.centre.y, found.centre.x))

    def pixels(self, good: NDArray[np.bool_]) -> Values:
        """(RINGS,) good pixels in each ring."""
        own = self.ring[_AWAY_PX:-_AWAY_PX, _AWAY_PX:-_AWAY_PX]
        inside = own[good & (own >= 0) & (own < RINGS)]
        return np.bincount(inside, minlength=RINGS)[:RINGS].astype(np.float64)


def measure_rings(
    frames: Frames,
    found: PatternFindings,
    block: int,
    kept: Path,
    progress: Progress,
) -> RingSums:
    """All frames in one pass; what was done before an interrupt is taken from `kept`.

    Raises:
        DiffraganError: no frame can be read.
    """
    where = RingMap.of(found)
    n = len(frames)
    sums = _fresh(n, where.pixels(found.good))
    start = _resume(kept, sums)
    limit = float(frames.told.get("saturation", np.inf))
    for number, (items, counts) in enumerate(_read_blocks(frames, start, n, block)):
        if counts is not None:
            _measure(counts, items, found, where, limit, sums)
        done = int(items[-1]) + 1
        progress("patterns", done, n)
        if (number + 1) % _KEPT_EVERY == 0 and done < n:
            _keep(kept, sums, done)
    if not sums.read.any():
        raise DiffraganError(f"No frame of {frames.path} can be read; copy the file anew.")
    _keep(kept, sums, n)
    return sums


def _fresh(n: int, pixels: Values) -> RingSums:
    first, second, third = (np.zeros((n, RINGS)) for _ in range(3))
    sectors, beam = np.zeros((n, SECTORS)), np.zeros(n)
    return RingSums(first, second, third, sectors, beam, np.zeros(n, bool), pixels)


def _read_blocks(
    frames: Frames, start: int, n: int, block: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any] | None]]:
    """Blocks of frames, the next one read while this one is worked on; None where it can't be
    read."""

    def read(items: NDArray[np.int64]) -> NDArray[Any] | None:
        try:
            return np.asarray(frames.stack[items])
        except (OSError, DiffraganError):
            return None

    parts = [np.arange(i, min(i + block, n)) for i in range(start, n, block)]
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, parts[0]) if parts else None
        for k, items in enumerate(parts):
            assert ahead is not None
            counts = ahead.result()
            if k + 1 < len(parts):
                ahead = reader.submit(read, parts[k + 1])
            if counts is not None or len(items) == 1:
                yield items, counts
                continue
            for one in items:  # one bad frame spoils no others
                yield np.array([one]), read(np.array([one]))


def _measure(
    counts: NDArray[Any],
    items: NDArray[np.int64],
    found: PatternFindings,
    where: RingMap,
    limit: float,
    sums: RingSums,
) -> None:
    """Put what a block of frames holds into `sums`."""
    if counts.dtype.kind == "u" and counts.dtype.itemsize > 1:
        limit = min(limit, float(np.iinfo(counts.dtype).max))
    if counts.dtype.kind not in "ui" or counts.dtype.itemsize > 4:
        counts = np.nan_to_num(counts).astype(np.float32)
    off = np.rint(found.centres[items] - where.centre).clip(-_AWAY_PX, _AWAY_PX).astype(np.int64)
    span = slice(int(items[0]), int(items[-1]) + 1)
    out = np.zeros((len(items), 3, RINGS + 1))
    sectors = np.zeros((len(items), SECTORS))
    run_loop(
        ring_loop, np.ascontiguousarray(counts), found.good, where.ring, where.sector, off,
        np.float64(limit), out, sectors,
    )  # fmt: skip
    sums.sums[span], sums.squares[span] = out[:, 0, :RINGS], out[:, 1, :RINGS]
    sums.peaks[span], sums.sectors[span] = out[:, 2, :RINGS], sectors
    sums.beam[span] = out[:, 0, RINGS]
    sums.read[span] = out[:, 0].sum(1) > 0


@parallel_loop  # type: ignore[untyped-decorator]
def ring_loop(
    counts: Any, good: Any, ring: Any, sector: Any, off: Any, limit: Any, out: Any, sectors: Any
) -> None:  # pragma: no cover - compiled  # long: arrays of a compiled loop
    height, width = good.shape
    for k in numba.prange(counts.shape[0]):
        oy, ox = _AWAY_PX - off[k, 0], _AWAY_PX - off[k, 1]
        for y in range(height):
            for x in range(width):
                value = float(counts[k, y, x])
                if value <= 0 or value >= limit or not good[y, x]:
                    continue
                r = ring[y + oy, x + ox]
                if r < 0:
                    continue
                out[k, 0, r] += value
                out[k, 1, r] += value * value
                if value > out[k, 2, r]:
                    out[k, 2, r] = value
                if r < _SECTOR_REACH:
                    sectors[k, sector[y + oy, x + ox]] += value


def _keep(path: Path, sums: RingSums, done: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez(file, done=np.array(done), **vars(sums))


def _resume(path: Path, sums: RingSums) -> int:
    """How many frames an earlier run did, with what it found; 0 where it was of other frames."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            if not np.array_equal(kept["pixels"], sums.pixels):
                return 0
            for field in fields(sums):
                values: Any = getattr(sums, field.name)
                if kept[field.name].shape != values.shape:
                    return 0
            for field in fields(sums):
                getattr(sums, field.name)[:] = kept[field.name]
            return int(kept["done"])
    except (OSError, KeyError, ValueError):
        return 0
