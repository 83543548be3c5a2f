"""README's ten lines of Python, from a PDB entry to a map, cut down to what a test can wait for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_guide import PEPTIDE, blocks

from diffragan.settings import load_settings

README = Path(__file__).parents[2] / "README.md"

# What the lines ask of a real protein, and what a test can wait for.
SMALLER = (
    ('"1UBQ"', f'"{PEPTIDE}"'),
    ('"simulate.orientations=300"', '"simulate.orientations=40", *COARSE'),
    ('"waves.zarr", settings=settings)  #', '"waves.zarr", settings=settings, workers=1)  #'),
    ('build_atoms(found, "atoms")', 'build_atoms(found, "atoms", settings=BRIEF)'),
)
BRIEF = ("atoms.map_cycles=1", "atoms.map_steps=8", "atoms.pattern_cycles=1")
COARSE = (
    "simulate.sampling_A=0.25",
    "simulate.slice_A=10",
    "simulate.box_A=36",
    "simulate.keep_q_per_A=1.0",
    "image.snr=8",
    "image.aperture_mrad=6.5",
    "many_views.iterations=60",
)


def test_ten_lines_from_a_pdb_entry_to_a_map(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    one_thread: None,
) -> None:
    """The lines run as they stand; the map converges and its views' phases are right."""
    monkeypatch.chdir(tmp_path)
    [code] = [
        block for language, block in blocks(README.read_text("utf-8")) if language == "python"
    ]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 10
    for said, tested in SMALLER:
        assert said in code
        code = code.replace(said, tested)
    session: dict[str, Any] = {"COARSE": COARSE, "BRIEF": load_settings(overrides=BRIEF)}
    exec(compile(code, "README.md", "exec", dont_inherit=True), session)
    reconstruction = session["found"]
    assert reconstruction.converged
    assert reconstruction.map.is_file()
    assert reconstruction.report.is_file()
    assert "solved" in capsys.readouterr().out
