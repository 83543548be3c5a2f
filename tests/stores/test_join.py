"""Ranges of a run, each in a store of its own, joined to the store of the whole run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import diffragan as dg
from conftest import cluster
from diffragan.errors import DiffraganError
from diffragan.files.store import open_simulation
from diffragan.microscope.simulate import simulate
from diffragan.settings import Settings, load_settings
from diffragan.stores.join import join_stores
from quick_runs import QUICK, run
from stores_alike import differing

ATOMS = [cluster(f"ball{k}", k, atoms=20, radius_A=6.0) for k in (1, 2)]
RANGES = ("4:", "0:1", "1:4")


@pytest.fixture(scope="module")
def settings() -> Settings:
    """Two molecules in three orientations each."""
    return load_settings(overrides=[*QUICK, "simulate.orientations=3"])


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Path:
    """Waves, pairs and phases in one go, and of three ranges each: waves-0.zarr and so on."""
    folder = tmp_path_factory.mktemp("ranges")
    simulate(ATOMS, folder / "waves.zarr", settings)
    for name, items in [("", None), *((f"-{k}", text) for k, text in enumerate(RANGES))]:
        if items is not None:
            first, _, last = items.partition(":")
            span = slice(int(first), int(last) if last else None)
            simulate(ATOMS, folder / f"waves{name}.zarr", settings, items=span)
        dg.make_pairs(
            folder / "waves.zarr", folder / f"pairs{name}.zarr", items=items, settings=settings
        )
        dg.phase(
            folder / "pairs.zarr",
            folder / f"phased{name}.zarr",
            items=items,
            settings=settings,
            device="cpu",
            warn=lambda sentence: None,
        )
    return folder


@pytest.mark.parametrize("name", ["waves", "pairs", "phased"])
def test_joined_ranges_are_the_run_in_one_go(chain: Path, name: str, tmp_path: Path) -> None:
    """Byte by byte, in whatever order they are named."""
    parts = [str(chain / f"{name}-{k}.zarr") for k in range(3)]
    code, text = run("join", *parts, "--out", tmp_path / "whole.zarr")
    assert code == 0, text
    without = "seconds" if name == "phased" else ""
    assert differing(chain / f"{name}.zarr", tmp_path / "whole.zarr", without=without) == []


def test_so_many_pairs_are_spread_over_all_orientations(
    chain: Path, settings: Settings, tmp_path: Path
) -> None:
    """The first so many of a spiral of orientations would all look from one side."""
    few = dg.make_pairs(
        chain / "waves.zarr", tmp_path / "few.zarr", n=2, orientations=True, settings=settings
    )
    whole = dg.open_pairs(chain / "waves.zarr", settings=settings)
    spread = [0, whole.n // 2]
    assert few.rotation is not None
    assert whole.rotation is not None
    assert (few.rotation == whole.rotation[spread]).all()
    assert (few.image(slice(None)) == whole.image(spread)).all()


def test_a_range_is_imaged_as_in_the_whole(chain: Path, settings: Settings) -> None:
    """The noise of an item hangs on its number in the run, not on that in its store."""
    whole = dg.open_pairs(chain / "waves.zarr", settings=settings)
    part = dg.open_pairs(chain / "waves-2.zarr", settings=settings)
    assert (part.image(slice(0, 3)) == whole.image(slice(1, 4))).all()
    assert (part.image([0]) != whole.image([0])).any()


def test_gaps_and_other_runs_are_refused(chain: Path, settings: Settings, tmp_path: Path) -> None:
    """And the message tells which stores, and what they hold."""
    with pytest.raises(DiffraganError, match=r"items 0:1 and .* 4:6"):
        join_stores([chain / "waves-0.zarr", chain / "waves-1.zarr"], tmp_path / "w.zarr")
    with pytest.raises(DiffraganError, match="different runs"):
        join_stores([chain / "waves-1.zarr", chain / "pairs-2.zarr"], tmp_path / "w.zarr")
    assert list(tmp_path.iterdir()) == []


def test_the_command_repairs_its_store(chain: Path, settings: Settings, tmp_path: Path) -> None:
    """A flipped bit is refused when it is read, and done again by the command that wrote it."""
    out = tmp_path / "waves.zarr"
    shutil.copytree(chain / "waves.zarr", out)
    file = out / "exit_wave" / "c" / "2" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(DiffraganError, match=r"Item 2 .* \(--repair\)"):
        open_simulation(out).exit_wave(slice(0, 6))
    counts: list[int] = []
    simulate(ATOMS, out, settings, repair=True, progress=lambda _, done, *rest: counts.append(done))
    assert counts == [5, 6]
    assert differing(chain / "waves.zarr", out) == []
