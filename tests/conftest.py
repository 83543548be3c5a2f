"""Shared small data: clusters of atoms, their exit waves in the paper's box, and a ball of atoms
with its map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xdist.scheduler import LoadScopeScheduling

from diffragan.files.store import ResultStore, open_simulation
from diffragan.microscope.simulate import simulate
from diffragan.molecules.structure import Structure
from diffragan.pairs.imaged import ImagedPairs
from diffragan.pairs.write import write_pairs
from diffragan.settings import Settings, load_settings
from phased_world import World, make_world, noisy_results
from quick_runs import QUICK, SET, run
from session_world import SessionWorld, make_session_world

# Files that take longest go first, by measured CPU time, so that no worker is left with one at the
# end.
LONGEST = (
    "commands/test_demo.py",
    "atoms/test_run.py",
    "by_relion/test_back.py",
    "scan/test_scan_run.py",
    "engine/test_cluster.py",
    "reconstruction/test_from_images.py",
    "training/test_loop.py",
    "reconstruction/test_checkpoint.py",
    "files/test_damaged_stores.py",
    "reconstruction/test_processes.py",
    "reconstruction/test_classes.py",
    "microscope/test_simulate.py",
    "reconstruction/test_lost_views.py",
    "pairs/test_joined.py",
    "docs/test_readme.py",
    "docs/test_notebook.py",
    "reconstruction/test_from_lines.py",
    "reconstruction/test_device.py",
    "phasing/test_without_truth.py",
    "docs/test_guide.py",
    "atoms/molecule/test_inferred.py",
    "commands/test_cli.py",
    "inspection/test_formats.py",
    "reconstruction/test_symmetric_maps.py",
    "fourier/test_interpolation.py",
    "phasing/test_registry.py",
    "view/test_server.py",
    "test_plugins.py",
    "training/test_on_maps.py",
    "view/test_page.py",
)
# Files that share what takes long to make go to one worker of several, which makes it once.
TOGETHER = {
    "ball": ("by_relion/test_back.py", "reconstruction/test_merge_results.py",
             "reconstruction/test_reconstruct.py", "reconstruction/test_refusals.py"),
    "session": ("scan/test_scan_run.py", "view/test_made_by_scan.py"),
}  # fmt: skip
COARSE = ["simulate.sampling_A=0.27", "simulate.slice_A=10", "simulate.orientations=4"]


def group(nodeid: str) -> str:
    """What goes to one worker as a whole: a test's file, or the name of those with one fixture."""
    file = nodeid.partition("::")[0]
    return next((name for name, files in TOGETHER.items() if file.endswith(files)), file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, each with those that share its fixtures; the others keep their order."""

    def place(item: pytest.Item) -> int:
        files = TOGETHER.get(group(item.nodeid), (item.path.as_posix(),))
        long = [k for k, end in enumerate(LONGEST) if any(f.endswith(end) for f in files)]
        return min(long, default=len(LONGEST))

    items.sort(
        key=lambda item: (place(item), group(item.nodeid) if place(item) < len(LONGEST) else "")
    )


class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
    """Whole groups to workers. xdist's own `loadgroup` tells them by a suffix of the test's name,
    which pytest 9.2 drops: every worker then makes every fixture anew."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup:
    return ByGroup(config, log)


def cluster(stem: str, seed: int, atoms: int = 150, radius_A: float = 12.0) -> Structure:
    """Carbon, nitrogen and oxygen at random in a ball: protein-like scattering, no chemistry."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(atoms, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    positions = direction * radius_A * rng.random((atoms, 1)) ** (1 / 3)
    numbers = rng.choice([6, 7, 8], atoms)
    positions -= np.average(positions, axis=0, weights=numbers.astype(float))
    return Structure(stem, numbers.astype(np.int64), positions, "GAS" * 10, f"{seed:064d}")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny networks and volumes are fastest on one thread, and runs to compare use the same
    number."""
    import numba
    import torch

    before = numba.get_num_threads(), torch.get_num_threads()
    numba.set_num_threads(1)  # first: its start sets the number that torch sees
    torch.set_num_threads(1)
    yield
    numba.set_num_threads(before[0])
    torch.set_num_threads(before[1])


@pytest.fixture(scope="session")
def published() -> Settings:
    """The paper's settings on a coarse multislice grid."""
    return load_settings("published", overrides=COARSE)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory, published: Settings) -> Path:
    """Two clusters in four orientations each, 70 Å box."""
    out = tmp_path_factory.mktemp("simulated") / "clusters.zarr"
    return simulate([cluster("one", 1), cluster("two", 2)], out, published, workers=1)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A simulation, its pairs with and without truth, and a folder for results."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def noisy(world: World) -> ResultStore:
    """Right phases to about 4 Å and wrong ones beyond; the method saw these structures."""
    return noisy_results(world)


@pytest.fixture(scope="session")
def ball_settings() -> Settings:
    """Settings that make a reconstruction of the ball quick."""
    return load_settings(overrides=[*QUICK, "simulate.orientations=60"])


@pytest.fixture(scope="session")
def ball_views(tmp_path_factory: pytest.TempPathFactory, ball_settings: Settings) -> Path:
    """Sixty exit waves of a ball of 70 atoms, 7 Å in radius."""
    out = tmp_path_factory.mktemp("views") / "ball.zarr"
    return simulate([cluster("ball", 5, atoms=70, radius_A=7.0)], out, ball_settings, workers=1)


@pytest.fixture(scope="session")
def ball_pairs(
    tmp_path_factory: pytest.TempPathFactory, ball_views: Path, ball_settings: Settings
) -> Path:
    """The same as an instrument would give them: no truth, no orientations."""
    out = tmp_path_factory.mktemp("pairs") / "pairs.zarr"
    return write_pairs(ImagedPairs(open_simulation(ball_views), ball_settings), out)


@pytest.fixture(scope="session")
def ball_map(tmp_path_factory: pytest.TempPathFactory, ball_views: Path) -> Path:
    """The folder of a finished reconstruction of the ball."""
    out = tmp_path_factory.mktemp("map") / "out"
    code, text = run("reconstruct", ball_views, "--out", out, *SET)
    assert code == 0, text
    return out


@pytest.fixture(scope="session")
def session_world(tmp_path_factory: pytest.TempPathFactory) -> SessionWorld:
    """A virtual session of 20 x 20 positions and its scan; not to be changed."""
    return make_session_world(tmp_path_factory.mktemp("session"))
