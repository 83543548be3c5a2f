"""Multislice: known answers for one atom, conservation, rotation, resume."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from conftest import cluster
from diffragan.errors import DiffraganError
from diffragan.files.store import open_simulation
from diffragan.fourier.grids import frequency_grid
from diffragan.microscope.exit_waves.by_abtem import exit_wave
from diffragan.microscope.exit_waves.field import Field, plan_field
from diffragan.microscope.simulate import simulate
from diffragan.optics import Optics, propagate, wavelength_A
from diffragan.rotations import quasi_uniform, relion_angles
from diffragan.settings import Settings, load_settings

ENERGY = 200e3
SMALL = Field(box_A=16.0, depth_A=12.0, grid_px=128, slices=6, stored_px=60)


def scattered(wave: NDArray[np.complex64]) -> torch.Tensor:
    """Fourier amplitudes of the scattered wave, beam amplitude 1."""
    exit_wave = torch.from_numpy(wave).to(torch.complex128)
    found: torch.Tensor = torch.fft.fft2(exit_wave - 1, norm="forward")
    return found


def test_vacuum_leaves_the_wave_alone() -> None:
    far = np.array([[100.0, 0.0, 0.0]])
    wave = exit_wave(np.array([6]), far, SMALL, ENERGY)
    np.testing.assert_allclose(wave, 1.0, atol=1e-6)


def test_intensity_is_conserved() -> None:
    """A real potential absorbs nothing; only the anti-aliasing aperture loses a little."""
    atoms = cluster("c", 3, atoms=40, radius_A=4.0)
    wave = exit_wave(atoms.numbers, atoms.positions_A, SMALL, ENERGY)
    assert float((np.abs(wave) ** 2).mean()) == pytest.approx(1.0, abs=2e-4)


def test_one_atom_scatters_as_tabulated() -> None:
    """First Born approximation: |F(q)| = lambda gamma f_e(q) / L², f_e of Lobato and Van Dyck.

    Hydrogen is weak enough for first order. The bilinear placing of atoms on the grid, exact here
    on a grid point, costs nothing.
    """
    from abtem.parametrizations import LobatoParametrization

    wave = exit_wave(np.array([1]), np.zeros((1, 3)), SMALL, ENERGY)
    amplitude = scattered(wave).abs()
    q = frequency_grid(SMALL.stored_px, SMALL.box_A).sqrt()
    band = (q > 0.2) & (q < 0.8)
    # abTEM tabulates f_e by k²; gamma is the relativistic mass factor.
    table = LobatoParametrization().scattering_factor("H")(q[band].numpy() ** 2)
    gamma = 1 + ENERGY / 510998.95
    expected = wavelength_A(ENERGY) * gamma * table / SMALL.box_A**2
    np.testing.assert_allclose(amplitude[band].numpy(), expected, rtol=0.02)


def test_the_object_plane_is_where_a_weak_atom_is_a_pure_phase() -> None:
    """Carried back by `centre_to_exit_A`, the wave of a centred hydrogen is imaginary; planes
    8 Å to either side are clearly not."""
    wave = exit_wave(np.array([1]), np.zeros((1, 3)), SMALL, ENERGY)
    q = frequency_grid(SMALL.stored_px, SMALL.box_A).sqrt()
    band = (q > 0.3) & (q < 0.8)

    def impurity(distance: float) -> float:
        there = propagate(torch.from_numpy(wave).to(torch.complex128), 16.0, ENERGY, -distance)
        part = torch.fft.ifft2(torch.fft.fft2(there) * band)
        return float((part.real**2).sum() / (part.imag**2).sum())

    scan = SMALL.centre_to_exit_A + np.arange(-8, 8.1, 0.5)
    found = [impurity(float(d)) for d in scan]
    # An atom at a slice's border lies anywhere in that slice, hence one slice of tolerance.
    assert abs(scan[int(np.argmin(found))] - SMALL.centre_to_exit_A) <= SMALL.slice_A
    assert min(found) < 1e-3
    assert found[0] > 10 * min(found)
    assert found[-1] > 10 * min(found)


def test_rotating_atoms_rotates_the_wave() -> None:
    """A quarter turn about the beam: rotation then projection = projection, then rotation; and
    abTEM's [x, y] arrays come out as [y, x]."""
    atoms = cluster("c", 4, atoms=12, radius_A=4.0)
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    plain = exit_wave(atoms.numbers, atoms.positions_A, SMALL, ENERGY)
    turned = exit_wave(atoms.numbers, atoms.positions_A @ turn.T, SMALL, ENERGY)
    # x' = -y, y' = x: the value at (y', x') = (x, -y), about the centre pixel n//2.
    n = SMALL.stored_px
    index = (-(np.arange(n) - n // 2)) % n
    centred = np.roll(plain, (0, 0), (0, 1))
    expected = centred.T[:, (index + n // 2) % n]
    error = np.linalg.norm(turned - expected) / np.linalg.norm(expected - 1)
    assert error < 0.02
    wrong = np.linalg.norm(turned - expected.T) / np.linalg.norm(expected - 1)
    assert wrong > 0.3


def test_stored_waves_keep_what_the_pattern_needs(simulated: Path) -> None:
    store = open_simulation(simulated)
    assert store.n == 8
    assert store.n_px == 256
    assert store.box_A == 70.0
    assert store.centre_to_exit_A == pytest.approx(35 + 5)
    assert [s.stem for s in store.structures] == ["one", "two"]
    power = (np.abs(store.exit_wave([0, 5])) ** 2).mean((-2, -1))
    np.testing.assert_allclose(power, 1.0, atol=1e-3)
    rotation = store.rotation
    assert rotation is not None
    np.testing.assert_allclose(rotation[:4], rotation[4:])


def test_an_interrupted_run_ends_the_same(
    tmp_path: Path, published: Settings, simulated: Path
) -> None:
    """Stopped after three items and continued by other processes: every array bit by bit equal."""
    structures = [cluster("one", 1), cluster("two", 2)]
    out = tmp_path / "clusters.zarr"

    def stop(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(structures, out, published, workers=1, progress=stop)
    assert not out.exists()
    with pytest.raises(DiffraganError, match="not finished"):
        open_simulation(out)
    started: list[tuple[int, int | None]] = []

    def note(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
        started.append((done, total))

    simulate(structures, out, published, workers=2, progress=note)
    assert started[0][0] == 3
    assert started[-1][0] == started[-1][1]
    whole, resumed = open_simulation(simulated), open_simulation(out)
    for name in ("exit_wave", "rotation", "structure", "outside"):
        np.testing.assert_array_equal(whole.read(name), resumed.read(name))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the children from /proc")
def test_workers_end_with_a_killed_run(tmp_path: Path) -> None:
    """SIGKILL leaves no process behind, and what was finished stays."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; "
        "from conftest import COARSE, cluster; from diffragan.settings import load_settings; "
        "from diffragan.microscope.simulate import simulate; "
        "s = load_settings('published', overrides=[*COARSE, 'simulate.orientations=500']); "
        "simulate([cluster('one', 1)], Path(sys.argv[2]), s, workers=2, "
        "progress=lambda stage, n, *rest: print(n, flush=True))"
    )
    here, out = str(Path(__file__).parents[1]), tmp_path / "k.zarr"
    with subprocess.Popen(
        [sys.executable, "-c", code, here, str(out)], stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        while run.stdout.readline().strip() != "3":
            assert run.poll() is None
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        run.kill()
    assert len(children) >= 2
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "workers outlived their parent"
        time.sleep(0.1)
    assert not out.exists()
    assert (tmp_path / "k.zarr.part").exists()


def test_another_run_does_not_overwrite(tmp_path: Path, published: Settings) -> None:
    few = published.model_copy(
        update={"simulate": published.simulate.model_copy(update={"orientations": 1})}
    )
    out = tmp_path / "x.zarr"
    simulate([cluster("one", 1)], out, few, workers=1)
    simulate([cluster("one", 1)], out, few, workers=1)
    with pytest.raises(DiffraganError, match="other settings"):
        simulate([cluster("other", 5)], out, few, workers=1)
    simulate([cluster("other", 5)], out, few, workers=1, overwrite=True)
    assert open_simulation(out).structures[0].stem == "other"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.zarr"]


def test_default_box_is_twice_the_molecule() -> None:
    settings = load_settings().simulate
    field = plan_field([51.5, 40.0], settings)
    assert 103 <= field.box_A < 107
    assert field.depth_A == 70
    assert field.box_A / field.stored_px == pytest.approx(70 / 256)
    assert plan_field([80.0], settings).depth_A == 84
    with pytest.raises(DiffraganError, match="depth"):
        plan_field([80.0], settings.model_copy(update={"depth_A": 60.0}))


def test_molecules_that_leave_the_box(tmp_path: Path) -> None:
    """A few atoms outside are left out with a warning, many are refused with a box that fits."""
    settings = load_settings(
        "published", overrides=["simulate.box_A=24", "simulate.orientations=3"]
    )
    settings = settings.model_copy(
        update={"simulate": settings.simulate.model_copy(update={"sampling_A": 0.27})}
    )
    edge = cluster("edge", 6, atoms=200, radius_A=10.0)
    edge.positions_A[0] = [17.5, 0.0, 0.0]
    edge.positions_A[1] = [0.0, 17.5, 0.0]
    edge.positions_A[2] = [0.0, 0.0, 17.5]
    heard: list[str] = []
    store = open_simulation(
        simulate([edge], tmp_path / "e.zarr", settings, workers=1, warn=heard.append)
    )
    assert "edge" in heard[0]
    assert 0 < store.read("outside").max() < 0.02
    big = cluster("big", 7, atoms=200, radius_A=20.0)
    with pytest.raises(DiffraganError, match=r"big is .* a box of 4\d Å"):
        simulate([big], tmp_path / "b.zarr", settings, workers=1)
    assert not (tmp_path / "b.zarr.part").exists()


def test_orientations_are_rotations_spread_evenly() -> None:
    """Proper rotations; every one has a neighbour at about the spacing of an even cover: 1078
    cells of equal volume in SO(3) have a radius of 12 degrees."""
    rotations = quasi_uniform(1078, seed=3)
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0)
    np.testing.assert_array_equal(rotations, quasi_uniform(1078, seed=3))
    assert not np.allclose(rotations, quasi_uniform(1078, seed=4))
    trace = np.einsum("nij,mij->nm", rotations, rotations)
    np.fill_diagonal(trace, -1)
    nearest = np.degrees(np.arccos(np.clip((trace.max(1) - 1) / 2, -1, 1)))
    assert nearest.min() > 15
    assert nearest.max() < 26
    # A mean of many evenly spread rotations vanishes.
    assert np.abs(rotations.mean(0)).max() < 0.01


def test_relion_angles_return_the_rotation() -> None:
    """RELION's matrix of (rot, tilt, psi), as its documentation writes it out, maps the volume's
    frame to the view's: it is R itself."""
    rotations = quasi_uniform(5, seed=1)
    for matrix, (rot, tilt, psi) in zip(rotations, relion_angles(rotations), strict=True):
        a, b, g = (math.radians(x) for x in (rot, tilt, psi))
        ca, sa, cb, sb, cg, sg = (f(x) for x in (a, b, g) for f in (math.cos, math.sin))
        euler = np.array(
            [
                [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
                [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
                [sb * ca, sb * sa, cb],
            ]
        )
        np.testing.assert_allclose(matrix, euler, atol=1e-9)


def test_optics_of_a_store_tells_the_plane(simulated: Path) -> None:
    assert open_simulation(simulated).optics == Optics(200e3, 70.0, 40.0)


def test_waves_in_half_precision(tmp_path: Path) -> None:
    """Half the bytes of each wave; within 0.1 % in every ring that a pattern may be measured in,
    phases included, and the mean as it was."""
    ball = cluster("ball", 3, atoms=200, radius_A=9.0)
    stores = {}
    for stored_as in ("complex64", "float16"):
        values = {
            "simulate.engine": "torch",
            "simulate.orientations": 3,
            "simulate.stored_as": stored_as,
        }
        settings = load_settings(values=values)
        simulate([ball], tmp_path / f"{stored_as}.zarr", settings, workers=1)
        stores[stored_as] = open_simulation(tmp_path / f"{stored_as}.zarr")
    arrays = [store.read("exit_wave") for store in stores.values()]
    assert arrays[1].nbytes == arrays[0].nbytes / 2
    whole, half = (torch.from_numpy(store.exit_wave([0, 2])) for store in stores.values())
    assert half.dtype == torch.complex64
    spectrum = torch.fft.fft2(whole.to(torch.complex128))
    error = torch.fft.fft2(half.to(torch.complex128)) - spectrum
    q = frequency_grid(whole.shape[-1], stores["float16"].box_A).sqrt()
    for low in np.arange(0.0, 1.6, 0.1):
        ring = (q > max(low, 1e-6)) & (q <= low + 0.1)
        assert float(error[:, ring].norm() / spectrum[:, ring].norm()) < 1e-3
    assert float((error[:, 0, 0] / spectrum[:, 0, 0]).abs().max()) < 1e-5
    assert stores["float16"].n_px == stores["complex64"].n_px
