"""From a coordinate file to exit waves by the public calls."""

from __future__ import annotations

from pathlib import Path

import pytest

import diffragan as dg
from diffragan.errors import DiffraganError
from diffragan.files.star import read_orientations
from diffragan.rotations import quasi_uniform
from peptide import ATOMS, pdb_file, water

COARSE = ["simulate.sampling_A=0.27", "simulate.slice_A=10", "simulate.orientations=2"]


def test_a_prepared_folder_is_what_a_simulation_takes(tmp_path: Path) -> None:
    """An entry as it is published is refused with the remedy; its prepared form goes through, and
    the orientations lie beside the store, as written and as simulated."""
    settings = dg.load_settings(overrides=COARSE)
    entry, prepared = pdb_file(tmp_path / "one.pdb", [*ATOMS, water(99)]), tmp_path / "prepared"
    with pytest.raises(DiffraganError, match=r"one.pdb is not prepared.*diffragan prepare"):
        dg.simulate(entry, tmp_path / "s.zarr", settings=settings, workers=1)
    stages: list[tuple[str, int, int | None]] = []

    def progress(stage: str, done: int, total: int | None = None, word: str = "", /) -> None:
        stages.append((stage, done, total))

    [report] = dg.prepare(entry, prepared, progress=progress)
    assert report.output == prepared / "one.cif"
    assert "10 residues" in repr(report)
    assert stages[-1] == ("preparing structures", 1, 1)
    store = dg.simulate(
        prepared, tmp_path / "s.zarr", settings=settings, workers=1, progress=progress
    )
    assert [s.stem for s in store.structures] == ["one"]
    assert stages[-1] == ("exit waves", 2, 2)
    rotations, _ = read_orientations(tmp_path / "s.orientations.star")
    assert rotations == pytest.approx(quasi_uniform(2, settings.seed), abs=1e-4)
    assert store.read("rotation") == pytest.approx(rotations, abs=1e-4)
