"""From pairs to atoms, by the command line, on ten residues."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest
import torch
from markupsafe import escape

import diffragan as dg
from browser import opened
from diffragan.atoms import outputs as atoms_outputs
from diffragan.atoms import run as atoms_run
from diffragan.atoms.building.build import build
from diffragan.atoms.reconstruction_folder import read_reconstruction
from diffragan.files.mrc import read_map, write_map
from diffragan.files.store import open_results
from diffragan.settings import load_settings
from peptide import ATOMS, SEQUENCE, pdb_file
from quick_runs import run

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = [
    "simulate.sampling_A=0.2",
    "simulate.slice_A=4",
    "simulate.box_A=32",
    "simulate.depth_A=32",
    "pattern.dose_e_per_A2=20000",
    "many_views.mask_margin_A=2.0",
]
SET = [word for pair in SMALL for word in ("--set", pair)]
FEW = ["--orientations", "60", "--workers", "1"]
SHORT = ["--set", "atoms.map_cycles=3", "--set", "atoms.pattern_cycles=3"]
BRIEF = ["--set", "atoms.map_cycles=2", "--set", "atoms.pattern_cycles=2"]
FEW_STEPS = ["--set", "atoms.map_steps=12", "--set", "atoms.pattern_steps=10"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the peptide, its counted pairs and their map."""
    folder = tmp_path_factory.mktemp("atoms")
    source = pdb_file(folder / "ten.pdb", ATOMS)
    steps: list[list[str | Path]] = [
        ["prepare", source, "--out", folder],
        ["simulate", folder / "ten.cif", "--out", folder / "waves.zarr", *SET, *FEW],
        ["image", folder / "waves.zarr", "--out", folder / "pairs.zarr", "--truth", *SET],
        ["reconstruct", folder / "pairs.zarr", "--out", folder / "map", "--device", "cpu", *SET],
    ]
    for words in steps:
        code, text = run(*words)
        assert code == 0, text
    return folder


@pytest.fixture(scope="module")
def built(world: Path) -> Path:
    """The peptide's atoms."""
    out = world / "atoms"
    fasta = world / "ten.fasta"
    fasta.write_text(f">ten residues\n{SEQUENCE}\n", "utf-8")
    known: list[str | Path] = ["--model", world / "ten.cif", "--sequence", fasta]
    code, text = run("atoms", world / "map", "--out", out, *known, *SHORT)
    assert code == 0, text
    assert "100% of its residues right" in text
    return out


def test_atoms_are_found_and_carry_past_the_measurement(built: Path) -> None:
    """Patterns to 1.25 Å determine every atom, and atoms know every frequency."""
    metrics = json.loads((built / "metrics.json").read_text("utf-8"))
    atoms = metrics["atoms"]
    assert atoms["recall"] > 0.97
    assert atoms["confirmed_precision"] >= 0.98
    assert atoms["confirmed_recall"] > 0.9
    assert atoms["rms_A"] < 0.1
    # So many electrons leave what halves share, single scattering above all, as most of the error.
    assert 0.5 < atoms["pull_sd"] < 3
    fsc = dict(zip(metrics["truth_fsc"]["resolution_A"], metrics["truth_fsc"]["fsc"], strict=True))
    assert fsc[0.9] > 0.85
    assert metrics["extrapolated_frc"]["band_mean"] > 0.6


def test_a_sequence_makes_a_model(built: Path) -> None:
    """Ten residues with their names and numbers, the main chain where it is."""
    model = json.loads((built / "metrics.json").read_text("utf-8"))["model"]
    assert model["residues_right"] == 1
    assert model["main_chain_rms_A"] < 0.1
    assert model["sequence_coverage"] == 1
    chain = gemmi.read_structure(str(built / "model.cif"))[0]["A"]
    assert gemmi.one_letter_code([residue.name for residue in chain]) == SEQUENCE


def test_files_are_read_by_other_programs(built: Path, world: Path) -> None:
    """Atoms lie where their map has its peaks, and the model's map says that it is one."""
    structure = gemmi.read_structure(str(built / "atoms.cif"))
    places = [atom.pos.tolist() for chain in structure[0] for res in chain for atom in res]
    volume, voxel = read_map(built / "extended.mrc")
    n = volume.shape[0]
    at = np.rint(np.array(places) / voxel).astype(int) + n // 2
    assert np.mean(volume[tuple(at.T[::-1])] > volume.mean() + 3 * volume.std()) > 0.9
    assert open_results(built / "waves.zarr").method == "atoms"
    code, text = run("evaluate", built / "waves.zarr", "--out", world / "report")
    assert code == 0, text


def test_the_page_shows_map_and_atoms_together(built: Path, tmp_path: Path) -> None:
    """Every atom is drawn in the measured map, the model's map is another, and each can be gone
    to."""
    metrics = json.loads((built / "metrics.json").read_text("utf-8"))
    text = (built / "report.html").read_text("utf-8")
    assert len(text) < 8e6
    for words in (
        str(escape(metrics["verdict"])),
        "map, measured",
        "model&#39;s map to 0.9 Å",
        "never seen",
    ):
        assert words in text, words
    names = {path.stem for path in (built / "figures").iterdir()}
    assert names == {"resolution", "close_ups", "residues", "ramachandran", "weights"}
    steps = """
      state.bonds = viewer.dataset.bonds;
      state.residues = [...viewer.querySelectorAll("[data-jump] optgroup")]
        .filter((group) => group.label.startsWith("chain "))
        .reduce((sum, group) => sum + group.children.length, 0);
      for (const number of [1, 2, 3]) part(`[data-surface="${number}"] [data-shown]`).click();
      part("[data-after]").click();
      await settled();
    """
    seen = opened(built / "report.html", tmp_path, steps)
    assert seen.console == []
    state = seen.state
    assert int(state["atoms"]) == metrics["atoms"]["n"]
    assert int(state["seen-bonds"]) > 0.8 * metrics["atoms"]["n"]
    assert state["surfaces"] == "4"
    assert state["chosen"] == "residue 0"
    assert state["seen-residues"] == str(metrics["model"]["residues"])
    assert seen.drawn > 0.05


def test_a_finished_folder_is_kept(built: Path, world: Path) -> None:
    """Results are replaced only where that was asked for."""
    code, text = run("atoms", world / "map", "--out", built)
    assert code == 2
    assert "--overwrite" in text


def test_an_interrupted_run_goes_on_to_the_same_bits(
    world: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one set has is kept when the next is interrupted; other settings are refused, and the
    end is that of a run in one go. A run that is stopped at its page is not finished."""
    out = tmp_path / "out"
    sets = []
    short = load_settings(overrides=SHORT[1::2])

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    def stopped(*args: Any) -> Any:
        sets.append(args[0])
        if len(sets) == 2:
            raise KeyboardInterrupt
        return build(*args)

    monkeypatch.setattr(atoms_run, "build", stopped)
    with pytest.raises(KeyboardInterrupt):
        dg.build_atoms(world / "map", out, settings=short)
    code, text = run("atoms", world / "map", "--out", out, "--set", "atoms.map_cycles=1")
    assert code == 2
    assert "other settings" in text
    with monkeypatch.context() as patch:
        patch.setattr(atoms_outputs, "write_atoms_report", interrupted)
        with pytest.raises(KeyboardInterrupt):
            dg.build_atoms(world / "map", out, settings=short)
    sequence = ("--sequence", world / "ten.fasta")
    code, text = run("atoms", world / "map", "--out", out, *sequence, *SHORT)
    assert code == 0, text
    assert len(sets) == 4  # all views, half 1 twice, half 2
    assert (out / "atoms.cif").read_bytes() == (built / "atoms.cif").read_bytes()
    assert not (out / ".run").exists()
    assert load_settings(file=out / "settings.toml") == short


@pytest.mark.parametrize(("wrong", "words"), [(0.65, "ask for more"), (1.4, "may be less")])
def test_a_wrong_molecular_weight_is_doubted(
    world: Path, tmp_path: Path, wrong: float, words: str
) -> None:
    """Atoms that are missing gain weight when they are tried, and those too many do not last."""
    mass = wrong * json.loads((world / "map" / "metrics.json").read_text())["mass_kda"]
    code, text = run(
        "atoms", world / "map", "--out", tmp_path / "out", "--mass-kda", f"{mass:.3f}", *BRIEF
    )
    assert code == 0, text
    assert words in text
    assert "--mass-kda" in text


def test_noise_gives_no_confirmed_atoms(world: Path, tmp_path: Path) -> None:
    """Peaks of maps that hold only noise are nobody's atoms, and the run says so."""
    wrong = tmp_path / "map"
    shutil.copytree(world / "map", wrong)
    mask, _ = read_map(wrong / "mask.mrc")
    for seed, name in enumerate(("map", "half1", "half2")):
        volume, voxel = read_map(wrong / f"{name}.mrc")
        noise = np.random.default_rng(seed).normal(size=volume.shape)
        spectrum = np.fft.rfftn(volume)
        drawn = np.fft.rfftn(noise)
        drawn *= np.abs(spectrum) / np.abs(drawn)
        noisy = np.fft.irfftn(drawn, s=volume.shape, axes=(0, 1, 2)) * (mask > 0.5)
        write_map(wrong / f"{name}.mrc", torch.from_numpy(noisy), voxel, "noise")
    code, text = run("atoms", wrong, "--out", tmp_path / "out", *BRIEF, *FEW_STEPS)
    assert code == 3, text
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))
    assert metrics["atoms"]["confirmed"] < 0.05 * metrics["atoms"]["expected"]


def test_only_given_orientations_give_a_frame(world: Path) -> None:
    """A structure lies as its map does where the run was told how views lie, and only there."""
    folder = read_reconstruction(world / "map")
    assert folder.orientations_given
    for how in ("refine", "find"):
        results = copy.copy(folder.results)
        many_views = results.settings["many_views"] | {"orientations": how}
        results.settings = results.settings | {"many_views": many_views}
        assert not replace(folder, results=results).orientations_given


def test_what_is_no_reconstruction_is_refused(world: Path, tmp_path: Path) -> None:
    """A folder without what atoms need is named with what it lacks."""
    code, text = run("atoms", world, "--out", tmp_path / "out")
    assert code == 2
    assert "metrics.json" in text
    assert not (tmp_path / "out").exists()
