"""What building atoms costs: seconds against atoms and views, and where they go.

    python benchmarks/atoms.py 1AUP.cif --atoms 400,800,1600,3300 --views 135,270,540,1078
    python benchmarks/atoms.py 1AUP.cif --atoms 3300 --views 1078 --steps

STRUCTURE is a prepared one. Of its atoms those nearest to its centre are taken, so many heavy ones
with their hydrogens; their patterns are computed from the atoms themselves (exact intensities on
the Ewald sphere, first Born approximation), and the map is their potential to the patterns' edge.
So no simulation and no reconstruction is needed, and every case does the same steps. One set of
atoms is built; a run of `diffragan atoms` builds three, of all views and of both halves.

--steps measures a step of each kind alone, with all views and with half of them, and tells by the
settings' numbers of steps what the three sets take.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numba
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from diffragan.atoms.building.build import Built, build, renewed
from diffragan.atoms.building.refine import refine
from diffragan.atoms.building.targets import Target, map_target
from diffragan.atoms.comparison.confirm import match
from diffragan.atoms.model.atoms import Riding, atoms_at, no_hydrogens
from diffragan.atoms.model.density import AtomGrid
from diffragan.atoms.model.hydrogens import riding_hydrogens
from diffragan.evaluation.known_model import KnownModel, read_model
from diffragan.fourier.slices import extract, slices
from diffragan.fourier.volumes import frequency_radius, uncentred, volume_spectrum
from diffragan.optics import Optics
from diffragan.reconstruction.likelihood.patterns import pattern_target
from diffragan.reconstruction.maps.image_transfer import ImageTransfer
from diffragan.reconstruction.maps.views import BLOCK, Views, side_of
from diffragan.rotations import quasi_uniform
from diffragan.settings import AtomsSettings

CORES = numba.get_num_threads()
ENERGY_EV, EDGE_A, MARGIN_A = 200e3, 1.254, 2.5
# What a column holds of the profile: time in these functions themselves, or with all they call.
PARTS = {
    "extract": ("extract_loop",),
    "insert": ("insert_loop",),
    "spread": ("spread_loop",),
    "gather": ("gather_loop",),
    "FFTs": ("c2c", "c2r", "r2c", "fft_rfftn", "fft_irfftn"),
    "peaks": ("peaks",),
    "hydrogens": ("riding_hydrogens",),
}
WHOLE = ("peaks", "hydrogens")
SHOWN = ("total", "map", "patterns", *PARTS, "rest")


@dataclass(frozen=True)
class World:
    """A molecule with its views and its map, in FFT order."""

    places_A: np.ndarray
    views: Views
    volume: Tensor
    mask: Tensor

    def built(self, progress: Callable[..., None]) -> Built:
        """Atoms of the map and the views."""
        trust = torch.ones(int(self.views.flat.radius.max()) + 2)
        count = len(self.places_A)
        return build(self.volume, self.mask, trust, self.views, count, AtomsSettings(), progress)


def nearest(model: KnownModel, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers and places of the heavy atoms nearest to the centre, and of all hydrogens
    that no further atom carries."""
    far = np.linalg.norm(model.places_A, axis=1)
    limit = np.sort(far[model.heavy])[min(count, int(model.heavy.sum())) - 1]
    kept = far <= limit
    return model.numbers[kept], model.places_A[kept]


def world_of(model: KnownModel, atoms: int, views: int, box_A: float, padding: float) -> World:
    """Views of a part of a structure, and its map."""
    numbers, places = nearest(model, atoms)
    blank = blank_views(views, box_A).padded(padding)
    grid = AtomGrid(blank.n, blank.volume_box_A, box_A, ENERGY_EV)
    spectrum = torch.zeros(grid.n, grid.n, grid.n // 2 + 1, dtype=torch.complex64)
    for number in np.unique(numbers):
        some = atoms_at(torch.from_numpy(places[numbers == number]), b_A2=2.0)
        spectrum += grid.of_element(some, int(number))
    volume = torch.fft.irfftn(spectrum, s=(grid.n,) * 3, norm="forward")
    sliced = volume_spectrum(volume)
    for start in range(0, views, BLOCK):
        span = slice(start, start + BLOCK)
        values = extract(sliced, blank.rotations[span], blank.curved.points).abs()
        blank.measured[span] = values.reshape(len(values), 2, -1) * blank.curved.valid
    spectrum *= frequency_radius(grid.n) <= blank.volume_box_A / EDGE_A
    seen = torch.fft.irfftn(spectrum, s=(grid.n,) * 3, norm="forward")
    return World(places[numbers > 1], blank, seen, mask_around(places, grid))


def mask_around(places_A: np.ndarray, grid: AtomGrid) -> Tensor:
    """(n, n, n) bool, FFT order: what lies near an atom."""
    voxel = grid.box_A / grid.n
    x, y, z = np.rint(places_A / voxel).astype(int).T + grid.n // 2
    empty = np.ones((grid.n,) * 3, dtype=bool)
    empty[z, y, x] = False
    return uncentred(torch.from_numpy(distance_transform_edt(empty) * voxel <= MARGIN_A))


def blank_views(count: int, box_A: float) -> Views:
    """Exact patterns to 1.254 Å in even orientations, still empty, without images."""
    optics = Optics(ENERGY_EV, box_A, 0.0)
    m = 2 * int(box_A / EDGE_A) + 4
    axis = torch.arange(m) - m // 2
    radius = torch.hypot(axis[:, None].double(), axis[None, :].double())
    mask = (radius <= box_A / EDGE_A) & (radius > 0.5)
    flat, curved = (
        slices(mask, box_A, optics.wavelength_A, curved=curved) for curved in (False, True)
    )
    return Views(
        optics=optics,
        flat=flat,
        curved=curved,
        n=side_of(flat),
        measured=torch.zeros(count, 2, len(flat)),
        contrast=torch.zeros(count, 1, dtype=torch.complex64),
        transfer=ImageTransfer(torch.ones(1)),
        image_noise=torch.zeros(count),
        rotations=torch.from_numpy(quasi_uniform(count)).float(),
        shifts_A=torch.zeros(count, 2),
        weights=torch.ones(count),
        items=np.arange(count),
    )


def use_threads(count: int) -> None:
    """So many threads for both; Numba first, since its start sets the number that torch sees."""
    numba.set_num_threads(min(count, CORES))
    torch.set_num_threads(count)


def seconds_of(world: World, clock: Callable[[], float]) -> tuple[dict[str, float], Built]:
    """Seconds of a build and of its parts, and what was built."""
    profile = cProfile.Profile(clock)
    marks = [clock()]
    profile.enable()
    built = world.built(lambda *_: marks.append(clock()))
    profile.disable()
    end = clock()
    middle = marks[AtomsSettings().map_cycles]
    spent = {"map": middle - marks[0], "patterns": end - middle, "total": end - marks[0]}
    spent |= parts_of(profile)
    spent["rest"] = spent["total"] - sum(spent[part] for part in PARTS)
    return spent, built


def steps_of(world: World, clock: Callable[[], float], rounds: int) -> dict[str, float]:
    """Seconds of one step against the map and of one against the patterns, of the sums over all
    patterns and of a look for new atoms; of half of the views too; and of a whole run."""
    atoms = atoms_at(torch.from_numpy(world.places_A))
    riding = riding_hydrogens(atoms)
    views, half = world.views, world.views.every_second(0)
    box_A = views.volume_box_A
    grid = AtomGrid(views.n, box_A, views.optics.box_A, ENERGY_EV)
    trust = torch.ones(int(views.flat.radius.max() * views.flat.padding) + 2)
    seen = map_target(world.volume, box_A, (8.0, 1.3), trust, len(atoms))
    both = {"": pattern_target(views), "half ": pattern_target(half)}
    spectrum = grid.spectrum(atoms, riding)
    known = atoms.chosen(torch.arange(len(atoms)) % 20 > 0)

    def step(target: Target, riding: Riding) -> None:
        refine(atoms, grid, target, 1, riding=riding, adapt_every=2)

    def look(target: Target) -> None:
        renewed(known, no_hydrogens(), grid, target, len(atoms), world.mask)

    parts: dict[str, Callable[[], object]] = {
        "map step": lambda: step(seen, no_hydrogens()),
        "map look": lambda: look(seen),
        "riding": lambda: riding_hydrogens(atoms),
    }
    for name, target in both.items():
        parts[f"{name}sums"] = partial(target.sums, spectrum)
        parts[f"{name}step"] = partial(step, target, riding)
        parts[f"{name}look"] = partial(look, target)
    spent = {name: _median(part, clock, rounds) for name, part in parts.items()}
    for name in both:  # a first step weighs the rings, which most steps do not
        spent[f"{name}step"] -= spent[f"{name}sums"]
    s = AtomsSettings()
    looks = s.map_cycles - 2
    total = 3 * (s.map_cycles * s.map_steps * spent["map step"] + (looks + 1) * spent["map look"])
    steps = (s.pattern_cycles + 1) * s.pattern_steps
    for name, sets in (("", 1), ("half ", 2)):
        one = (
            steps * spent[f"{name}step"] + (steps / 5 + 2 * s.pattern_cycles) * spent[f"{name}sums"]
        )
        one += (s.pattern_cycles - 1) * spent[f"{name}look"] + s.pattern_cycles * spent["riding"]
        total += sets * one
    return spent | {"run": total}


def _median(part: Callable[[], object], clock: Callable[[], float], rounds: int) -> float:
    taken = []
    for _ in range(rounds + 1):
        began = clock()
        part()
        taken.append(clock() - began)
    return float(np.median(taken[1:]))


def parts_of(profile: cProfile.Profile) -> dict[str, float]:
    """Seconds of each part; transforms that peaks are looked for with count as peaks."""
    rows = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    spent = dict.fromkeys(PARTS, 0.0)
    for (file, _, name), (_, _, own, whole, callers) in rows.items():
        bare = name.strip("<>{}").split()[-1].split(".")[-1]
        for part, names in PARTS.items():
            if bare not in names or (part == "FFTs" and file != "~"):
                continue
            elsewhere = sum(row[2] for key, row in callers.items() if key[2] == "resized")
            spent[part] += whole if part in WHOLE else own - elsewhere
    return spent


def speed(args: argparse.Namespace) -> None:
    """A row for every case."""
    model, rows = read_model(args.structure), []
    clock = time.process_time if args.cpu else time.perf_counter
    print("CPU seconds" if args.cpu else "seconds")
    use_threads(1)
    small = world_of(model, 20, 40, 40.0, 1.0)
    seconds_of(small, clock)  # compiles, and imports what is imported late
    shown: tuple[str, ...] = SHOWN
    cases = product(*(map(int, text.split(",")) for text in (args.atoms, args.views, args.threads)))
    for number, (atoms, views, threads) in enumerate(cases):
        use_threads(threads)
        world = world_of(model, atoms, views, args.box_A, args.padding)
        case: dict[str, float] = {"atoms": len(world.places_A), "views": views, "threads": threads}
        if args.steps:
            spent = steps_of(world, clock, args.rounds)
            shown = tuple(spent)
        else:
            spent, built = seconds_of(world, clock)
            places = built.atoms.positions_A.double().numpy()
            case["found"] = round(match(places, world.places_A).recall, 3)
        rows.append({**case, "n": world.views.n, "seconds": spent})
        if number == 0:
            print(" ".join(f"{name:>9s}" for name in (*case, *shown)))
        cells = [f"{value:9}" for value in case.values()]
        print(" ".join([*cells, *(f"{spent[name]:9.2f}" for name in shown)]), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("structure", type=Path)
    parser.add_argument("--atoms", default="400,800,1600,3300")
    parser.add_argument("--views", default="135,270,540,1078")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--box-A", type=float, default=80.0)
    parser.add_argument("--padding", type=float, default=1.25)
    parser.add_argument("--steps", action="store_true", help="a step of each kind alone")
    parser.add_argument("--cpu", action="store_true", help="CPU time, where others work too")
    parser.add_argument("--rounds", type=int, default=3, help="of each step with --steps")
    parser.add_argument("--json", type=Path, default=None)
    speed(parser.parse_args())


if __name__ == "__main__":
    main()
