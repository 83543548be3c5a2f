"""The commands as a user runs them: the chain from a PDB file to a report, and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffragan import cli
from diffragan.files.store import open_results, open_simulation
from diffragan.pairs.open import open_pairs
from diffragan.settings import load_settings

PEPTIDE = Path(__file__).parents[1] / "data" / "ubiquitin_1_10.pdb"
COARSE = ["--set", "simulate.sampling_A=0.27", "--set", "simulate.slice_A=10"]
TINY = ["--set", "network.width=0.0157", "--set", "train.max_steps=3"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of `diffragan ARGUMENTS` in this process."""
    monkeypatch.setattr(sys, "argv", ["diffragan", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """prepare, simulate, image, train, phase, evaluate, in that order, and what they leave."""
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "prepare", PEPTIDE, "--out", "prepared") == 0
    second = tmp_path / "prepared" / "other.cif"
    second.write_bytes((tmp_path / "prepared" / "ubiquitin_1_10.cif").read_bytes())

    simulate = ["simulate", "prepared", "--out", "s.zarr", "--orientations", 3, "--workers", 1]
    simulate += ["--box-A", 70, *COARSE]
    assert run(monkeypatch, *simulate, "--write-rotated") == 0
    assert open_simulation(Path("s.zarr")).n == 6
    assert Path("s.orientations.star").exists()
    assert len(list(Path("s.rotated").glob("*.cif"))) == 6
    assert run(monkeypatch, *simulate) == 0, "a finished run is not repeated"

    assert run(monkeypatch, "image", "s.zarr", "--out", "m.zarr", "--truth", "--limit", 4) == 0
    assert open_pairs(Path("m.zarr")).n == 4

    assert run(monkeypatch, "train", "s.zarr", "--out", "run", *TINY) == 0
    assert Path("run/best.safetensors").exists()

    weights = ["--weights", "run/best.safetensors"]
    phase = ["phase", "m.zarr", "--method", "published", *weights]
    assert run(monkeypatch, *phase, "--out", "p.zarr") == 0
    assert run(monkeypatch, "phase", "s.zarr", "--out", "i.zarr", "--limit", 2) == 0
    assert open_results(Path("p.zarr")).weights_sha256
    assert open_results(Path("i.zarr")).method == "image"

    for name in ("p", "i"):
        again = ["evaluate", f"{name}.zarr", "--out", name, "--stability", 1]
        assert run(monkeypatch, *again) == 0
        metrics = json.loads(Path(name, "metrics.json").read_text())
        assert metrics["band_edges_A"] == [5.02, 1.254]
        assert "ubiquitin_1_10" in metrics["structures"]
        assert metrics["stability"]["other noise"]["n"] == 1
        assert Path(name, "report.html").stat().st_size > 50_000
    assert json.loads(Path("p/metrics.json").read_text())["frc_of"] == "projection"
    assert json.loads(Path("i/metrics.json").read_text())["frc_of"] == "wave"
    assert "diffragan" not in capsys.readouterr().err.split("\n")[0]


def test_measured_files_are_phased_from_the_command_line(
    tmp_path: Path, simulated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patterns and images in files of their own, no truth: phased, and judged without one."""
    monkeypatch.chdir(tmp_path)
    pairs = open_pairs(simulated, settings=load_settings("published"))
    np.save("p.npy", pairs.pattern(slice(0, 2)))
    np.save("i.npy", pairs.image(slice(0, 2)))
    files = ["phase", "p.npy", "--image", "i.npy", "--box-A", 70, "--out", "r.zarr"]
    assert run(monkeypatch, *files) == 0
    assert run(monkeypatch, "evaluate", "r.zarr", "--out", "report") == 0
    metrics = json.loads(Path("report/metrics.json").read_text())
    assert metrics["truth"] is False
    assert metrics["frc"] is None


def test_same_seed_same_result(
    tmp_path: Path, simulated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        arguments = ["phase", simulated, "--out", f"{name}.zarr", "--seed", seed, "--limit", 2]
        assert run(monkeypatch, *arguments) == 0
    a, b, c = (open_results(Path(f"{n}.zarr")).projection(slice(0, 2)) for n in "abc")
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["phase", "none.zarr", "--out", "p.zarr"], "none.zarr"),
        (
            ["phase", "{sim}", "--out", "p.zarr", "--method", "magic"],
            "choose from image, published",
        ),
        (["phase", "{sim}", "--out", "p.zarr", "--set", "image.snr=-3"], "image.snr"),
        (
            ["phase", "{sim}", "--out", "p.zarr", "--preset", "x"],
            "counting-detector, default, experiment, integrating-detector, network, published",
        ),
        (["phase", "{sim}", "--out", "p.txt"], ".zarr"),
        (["phase", "{sim}", "--out", "p.zarr", "--device", "tpu"], "tpu"),
        (["evaluate", "{sim}", "--out", "e"], "simulation store"),
        (["image", "{text}", "--out", "m.zarr"], "text.zarr"),
        (["simulate", "{text}", "--out", "s.zarr"], "text.zarr"),
        (["simulate", "none.cif", "--out", "s.zarr"], "none.cif"),
        (["simulate", ".", "--out", "s.zarr"], "no .cif"),
        (["train", "{sim}", "--out", "r", "--set", "train.batch_size=0"], "train.batch_size"),
        (["prepare", "none.pdb", "--out", "o"], "none.pdb"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    simulated: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.zarr").write_text("no store")
    before = {p.name for p in tmp_path.iterdir()}
    filled = [a.format(sim=simulated, text="text.zarr") for a in arguments]
    assert run(monkeypatch, *filled) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert {p.name for p in tmp_path.iterdir()} <= before | {"r", "o"}


def test_a_full_disk_is_a_sentence(
    tmp_path: Path,
    simulated: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from diffragan.files.store_writer import StoreWriter

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StoreWriter, "write", full)
    assert run(monkeypatch, "image", simulated, "--out", tmp_path / "m.zarr") == 2
    assert "No space left" in capsys.readouterr().err
    assert not (tmp_path / "m.zarr").exists()


def test_help_imports_nothing_heavy() -> None:
    """The command line answers before torch, abTEM or OpenMM are touched."""
    code = (
        "import sys, diffragan.cli; "
        "heavy = {'torch', 'abtem', 'openmm', 'zarr', 'numpy', 'matplotlib', 'pydantic'}; "
        "found = heavy & set(sys.modules); sys.exit(', '.join(found) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert done.returncode == 0


def test_every_command_has_help_with_examples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("demo", "prepare", "simulate", "image", "train", "phase", "evaluate", "view"):
        assert run(monkeypatch, name, "--help") == 0
        assert f"diffragan {name}" in capsys.readouterr().out
    done = subprocess.run(
        [sys.executable, "-m", "diffragan", "plan", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "diffragan plan" in done.stdout


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffragan.devices import pick_device
    from diffragan.errors import DiffraganError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(DiffraganError, match="--device cpu"):
        pick_device("cuda")
