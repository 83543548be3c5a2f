"""The bundled example and weights: what they claim to be, and the demo from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffragan.commands.demo import demo, example_path, value_at
from diffragan.networks.weights import load_weights
from diffragan.pairs.open import open_pairs
from diffragan.phasing.run import bundled_weights


@pytest.mark.parametrize("name", ["published.safetensors", "network.safetensors"])
def test_the_bundled_weights_never_saw_the_example(name: str) -> None:
    """By name, by file hash, and by sequence: no relative among what they learnt.

    Sequences as short as the example's, 62 residues, reach 45 % by chance (`relatives.py`)."""
    from diffragan.molecules.relatives import check_split

    molecule = open_pairs(example_path()).structures[0]
    metadata = load_weights(bundled_weights(name)).metadata
    assert len(metadata.trained_on) > 50
    seen = {s.stem: s.sequence for s in metadata.trained_on}
    assert molecule.stem not in seen
    assert molecule.sha256 not in {s.sha256 for s in metadata.trained_on}
    assert all(seen.values())
    assert check_split(seen, {molecule.stem: molecule.sequence}, limit=0.4) == []


def test_the_package_stays_small() -> None:
    assert example_path().stat().st_size < 4e6
    for name in ("published.safetensors", "network.safetensors"):
        assert bundled_weights(name).stat().st_size < 20e6


def test_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread: None) -> None:
    """Prints its table and leaves the report and the numbers; a second run replaces the first."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text("from an earlier run")
    demo(tmp_path / "out")
    printed = capsys.readouterr().out
    assert "published" in printed
    assert printed.index("diffragan simulate-scan") < printed.index("diffragan view") < 800
    assert "8 Å" in printed
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["method"] == "raar"
    assert metrics["frc_of"] == "wave"
    assert set(metrics["compared"]) == {"image", "published", "network", "raar"}
    assert metrics["stability"]["other noise"]["n"] == 2
    assert metrics["band_mean_frc"]["diffraction"] > 0.7
    assert metrics["judged_precision"] == 1.0
    assert metrics["many_views"]["converged"]
    assert metrics["many_views"]["truth_fsc_0p5_A"] < 1.5
    assert (tmp_path / "out" / "many-views" / "map.mrc").exists()
    assert metrics["atoms"]["recall"] > 0.99
    assert metrics["atoms"]["confirmed_precision"] > 0.98
    assert metrics["atoms"]["fsc_at_0p9_A"] > 0.9
    assert metrics["atoms"]["residues_right"] > 0.95
    assert (tmp_path / "out" / "atoms" / "model.cif").exists()
    assert (tmp_path / "out" / "atoms" / "atoms.cif").exists()
    image = metrics["compared"]["image"]["projection_frc"]["frc"]
    assert value_at(image, 8.0) > 0.6
    assert (tmp_path / "out" / "report.html").stat().st_size > 100_000


def test_value_at_takes_the_nearest_ring() -> None:
    curve = {"resolution_A": [10.0, 5.0, 2.5], "mean": [0.9, 0.5, 0.1]}
    assert value_at(curve, 5.3) == 0.5
    assert value_at(curve, 2.0) == 0.1
