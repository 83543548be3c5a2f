"""Files of an instrument with known faults, and what `diffragan inspect` finds of them.

    python -m benchmarks.virtual_instrument OUT --doses 200,2000,20000

The bundled protein (5L87, six orientations) on a detector of 192 x 192 pixels of 1/100 1/Å, off its
centre, with 0.3 % hot pixels, with the direct beam and behind a beam stop on a thin arm; images of
500 e/Å² and -1000 Å, of a field of 140 Å, pixel 0.9 Å, flipped, the molecule anywhere in 40 Å. Each
case leaves its files and pairs in OUT, and a line of what was found against the truth.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import h5py
import mrcfile
import numpy as np

import diffragan as dg
from diffragan.errors import DiffraganError
from diffragan.files.store import MeasurementStore
from diffragan.inspection.agreement import placed
from diffragan.inspection.camera import Detector, camera_image, detector_counts

SIDE, FIELD_A, BEAM_A = 192, 100.0, 90.0


def write_session(
    folder: Path, dose: float, seed: int, *, stop: bool
) -> tuple[Detector, np.ndarray, np.ndarray]:
    """The files of one case; its detector, hot pixels and the molecules' true places (n, 2), Å."""
    rng, path = np.random.default_rng(seed), Path(dg.__file__).parent / "data/example.zarr.zip"
    store = MeasurementStore(path)
    centre = tuple(float(SIDE / 2 + off) for off in rng.uniform(-6, 6, 2))
    y, x = np.indices((SIDE, SIDE))
    shadow = np.hypot(y - centre[0], x - centre[1]) < 5
    shadow |= (np.abs(y - centre[0]) < 2) & (x < centre[1])
    shadow &= stop
    hot = (rng.random((SIDE, SIDE)) < 0.003) & ~shadow
    extra = np.where(hot, rng.lognormal(math.log(200), 1, hot.shape), 0.0)
    detector = Detector(SIDE, 1 / FIELD_A, (centre[0], centre[1]), hot=extra, blind=shadow)
    waves, optics = store.read("exit_wave"), store.optics
    counts = [detector_counts(w, optics, detector, dose, BEAM_A, rng) for w in waves]
    lens = dg.load_settings(values={"image.dose_e_per_A2": 500.0}).image
    shifts = rng.uniform(-20, 20, (len(waves), 2))
    images = np.stack(
        [
            camera_image(w, optics, lens, field_A=140, n_px=156, shift_A=(s[0], s[1]), rng=rng)
            for w, s in zip(waves, shifts, strict=True)
        ]
    )
    with h5py.File(folder / "run.h5", "w") as file:
        file["entry/data/data_000001"] = np.stack(counts).astype(np.uint32)
        file["entry/instrument/detector/x_pixel_size"] = 75e-6
        file["entry/instrument/detector/detector_distance"] = 75e-6 * FIELD_A / optics.wavelength_A
        file["entry/instrument/beam/incident_energy"] = 200e3
    with mrcfile.new(folder / "overview.mrcs", overwrite=True) as mrc:
        mrc.set_data(placed(images, "flipped").astype(np.float32))
        mrc.set_image_stack()
        mrc.voxel_size = 140 / 156
    return detector, hot, 70 + shifts * (-1, 1)


def measure(folder: Path, dose: float, seed: int, *, stop: bool) -> str:
    """One case in words."""
    folder.mkdir(parents=True, exist_ok=True)
    detector, hot, places = write_session(folder, dose, seed, stop=stop)
    values = {"inspect.beam_diameter_A": BEAM_A}
    try:
        found = dg.inspect(
            folder / "run.h5", folder / "pairs.zarr", image=folder / "overview.mrcs",
            settings=dg.load_settings(values=values), overwrite=True,
        )  # fmt: skip
    except DiffraganError as error:
        return f"refused: {error}"
    centre, pairs = found.patterns.centre, found.pairs
    if pairs is None:
        return "no pairs"
    off = math.hypot(centre.y - detector.centre_px[0], centre.x - detector.centre_px[1])
    false = found.patterns.bad.hot & ~hot
    apart = np.hypot(*(pairs.centres_px * pairs.pixel_A - places).T)
    return (
        f"centre off by {off:.3f} px ({centre.by}, said ±{centre.error_px:.3f}); hot found "
        f"{found.patterns.bad.any[hot].mean():.3f}, false {false.mean():.5f}; dose "
        f"{pairs.dose / dose:.3f} of the true; defocus {pairs.defocus_A:.0f} Å; {pairs.placement}; "
        f"molecule {np.median(apart):.1f} Å from its centre of mass"
    )


def main() -> None:
    """All cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--doses", default="200,2000,20000")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    for dose in (float(word) for word in given.doses.split(",")):
        for stop in (False, True):
            for seed in range(given.seeds):
                name = f"{dose:g}-{'stop' if stop else 'beam'}-{seed}"
                print(name, measure(given.out / name, dose, seed, stop=stop), flush=True)


if __name__ == "__main__":
    main()
