"""The training loop: what may not depend on interruptions or on the number of processes."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner

from diffragan.engine.processes import Processes
from diffragan.networks.weights import load_weights
from diffragan.settings import Settings, load_settings
from diffragan.training import loop
from diffragan.training.checkpoint import first_difference, save_checkpoint
from diffragan.training.data import ExitWaves, open_exit_waves, split
from diffragan.training.leg import TrainResult
from diffragan.training.validation import mean_over_proteins
from weak_objects import N_PX, sentence, settings, write_store

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data") / "s.zarr")


@pytest.fixture(scope="module")
def data(store: Path) -> ExitWaves:
    return open_exit_waves([store])


def run(data: ExitWaves, out: Path, chosen: Settings, **more: Any) -> TrainResult:
    return loop.train(data, out, chosen, **more)


@pytest.fixture(scope="module")
def whole_run(data: ExitWaves, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five steps without a stop, over one epoch of three batches and into the next."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole") / "run"
    chosen = settings(train__validate_every_steps=2)
    assert run(data, out, chosen).stopped == "finished"
    return out


def flat(state: Any) -> dict[str, Tensor]:
    """All tensors of a nested state, by their path."""
    if isinstance(state, Tensor):
        return {"": state}
    items = (
        state.items()
        if isinstance(state, dict)
        else enumerate(state)
        if isinstance(state, list)
        else ()
    )
    return {f"{k}/{rest}": t for k, v in items for rest, t in flat(v).items()}


def checkpoint(out: Path) -> dict[str, Any]:
    return dict(torch.load(out / "checkpoint.pt", weights_only=True))


def assert_same_run(one: Path, other: Path) -> None:
    """The same weights, optimizers and random states, bit by bit."""
    a, b = checkpoint(one), checkpoint(other)
    tensors_a, tensors_b = flat(a), flat(b)
    assert tensors_a.keys() == tensors_b.keys()
    assert len(tensors_a) > 200
    for name, tensor in tensors_a.items():
        assert torch.equal(tensor, tensors_b[name]), name
    for key in ("step", "epoch", "position"):
        assert a["progress"][key] == b["progress"][key]


def test_a_run_leaves_what_it_promises(whole_run: Path, data: ExitWaves) -> None:
    lines = [json.loads(line) for line in (whole_run / "log.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "generator" in line]
    validations = [line for line in lines if "validation_frc" in line]
    assert [line["step"] for line in losses] == [5]
    assert [line["step"] for line in validations] == [2, 4, 5]
    assert validations[0]["validation_by_structure"].keys() == {"c"}
    assert load_settings(file=whole_run / "settings.toml") == settings(
        train__validate_every_steps=2
    )
    assert len(list((whole_run / "samples").glob("*.png"))) == 3
    last, best = (load_weights(whole_run / f"{name}.safetensors") for name in ("last", "best"))
    assert last.metadata.steps == 5
    assert last.metadata.epochs == pytest.approx(5 / 3)
    assert [s.stem for s in last.metadata.trained_on] == ["a", "b"]
    assert last.metadata.trained_on[0].sha256 == "hash-a"
    assert last.metadata.validation == ("c",)
    assert best.metadata.validation_frc == max(v["validation_frc"] for v in validations)
    assert not list(whole_run.glob(".*"))


def test_the_same_seed_is_the_same_run(whole_run: Path, data: ExitWaves, tmp_path: Path) -> None:
    """Also when it validates at other steps: looking does not change the run."""
    run(data, tmp_path / "run", settings(train__validate_every_steps=2))
    assert_same_run(whole_run, tmp_path / "run")


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_stop_and_resume_equals_not_stopping(
    whole_run: Path, data: ExitWaves, tmp_path: Path, steps: int
) -> None:
    """Inside an epoch, at its end, and after it."""
    out = tmp_path / "run"
    torch.manual_seed(steps)
    for end in (steps, 5):
        run(data, out, settings(train__validate_every_steps=2, train__max_steps=end))
        torch.rand(3)  # what happens between two legs does not matter
    a, b = checkpoint(whole_run), checkpoint(out)
    for key in ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer"):
        for name, tensor in flat(a[key]).items():
            assert torch.equal(tensor, flat(b[key])[name]), f"{key} {name}"
    one, other = (load_weights(o / "last.safetensors") for o in (whole_run, out))
    assert one.sha256 == other.sha256


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_checkpoint_to_go_on_from(
    whole_run: Path, data: ExitWaves, tmp_path: Path, number: int
) -> None:
    out, chosen = tmp_path / "run", settings(train__validate_every_steps=2)
    before = signal.getsignal(number)

    def interrupt(stage: str, step: int, total: int | None = None, word: str = "", /) -> None:
        if step == 3:
            os.kill(os.getpid(), number)

    first = run(data, out, chosen, progress=interrupt)
    assert (first.stopped, first.steps) == ("interrupt", 3)
    assert signal.getsignal(number) == before
    assert run(data, out, chosen).stopped == "finished"
    for key in ("generator", "generator_optimizer"):
        ours = flat(checkpoint(out)[key])
        for name, tensor in flat(checkpoint(whole_run)[key]).items():
            assert torch.equal(tensor, ours[name]), name
    # The log has no line twice.
    steps = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [s["step"] for s in steps if "validation_frc" in s] == [2, 4, 5]


def test_out_of_time_ends_with_weights(data: ExitWaves, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run", settings(), max_minutes=0.0)
    assert (result.stopped, result.steps) == ("time", 1)
    assert load_weights(tmp_path / "run" / "best.safetensors").metadata.steps == 1
    assert checkpoint(tmp_path / "run")["progress"]["step"] == 1


def test_lines_from_a_lost_leg_are_dropped(
    whole_run: Path, data: ExitWaves, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(data, out, settings(train__max_steps=2))
    with (out / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "generator": 1}\n{"step": 4, "gen')  # then the power went
    run(data, out, settings(train__max_steps=3))
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 2, 3, 3]
    assert lines[-2]["generator"] != 1


def test_another_run_in_the_folder_is_refused(whole_run: Path, data: ExitWaves) -> None:
    before = (whole_run / "checkpoint.pt").read_bytes()
    other = settings(train__validate_every_steps=2, train__learning_rate=1e-3)
    sentence(lambda: run(data, whole_run, other), "train.learning_rate", "0.0002", "0.001")
    assert (whole_run / "checkpoint.pt").read_bytes() == before


def test_a_damaged_checkpoint_is_named(data: ExitWaves, whole_run: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes((whole_run / "checkpoint.pt").read_bytes()[:5000])
    sentence(lambda: run(data, tmp_path, settings()), "checkpoint.pt", "remove it")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    data: ExitWaves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    run(data, out, settings(train__max_steps=2))
    before = (out / "checkpoint.pt").read_bytes()
    monkeypatch.setattr(loop, "generator_loss", lambda *_: (torch.tensor(math.nan),) * 2)
    sentence(lambda: run(data, out, settings()), "step 3", "not finite")
    assert (out / "checkpoint.pt").read_bytes() == before


def test_weights_that_are_not_finite_never_reach_a_checkpoint(
    data: ExitWaves, tmp_path: Path
) -> None:
    chosen = settings()
    out = tmp_path / "run"
    run(data, out, settings(train__max_steps=2))
    before = (out / "checkpoint.pt").read_bytes()
    state = loop.fresh_state(data, split(data, chosen)[0], chosen, CPU)
    next(state.generator.parameters()).data.fill_(math.nan)
    sentence(lambda: save_checkpoint(out / "checkpoint.pt", state, {}), "generator")
    assert (out / "checkpoint.pt").read_bytes() == before


def test_a_full_disk_keeps_the_last_checkpoint(
    data: ExitWaves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    run(data, out, settings(train__max_steps=2))
    before = (out / "checkpoint.pt").read_bytes()

    def full(tree: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    sentence(lambda: run(data, out, settings()), "checkpoint.pt", "No space left")
    assert (out / "checkpoint.pt").read_bytes() == before
    assert not list(out.glob(".*"))


def test_training_lowers_the_loss(data: ExitWaves, tmp_path: Path) -> None:
    """On structures that it sees again and again, the L1 term falls by half."""
    seen: list[float] = []
    chosen = settings(network__width=1 / 64, train__max_steps=20, train__learning_rate=5e-3)

    def note_l1(stage: str, step: int, total: int | None = None, word: str = "", /) -> None:
        seen.append(float(word.removeprefix("L1 ")))

    run(data, tmp_path / "run", chosen, progress=note_l1)
    assert np.mean(seen[-5:]) < 0.5 * np.mean(seen[:5])


def test_what_is_kept_is_the_running_average(data: ExitWaves, tmp_path: Path) -> None:
    """It lies between first and last weights, and a run in two sittings has the same."""
    chosen = settings(train__average=0.9)
    run(data, tmp_path / "whole", chosen)
    run(data, tmp_path / "parts", settings(train__average=0.9, train__max_steps=2))
    run(data, tmp_path / "parts", chosen)
    kept, again = (load_weights(tmp_path / k / "last.safetensors") for k in ("whole", "parts"))
    assert kept.sha256 == again.sha256
    state = checkpoint(tmp_path / "whole")
    for name, value in kept.generator.state_dict().items():
        assert torch.equal(value, state["average"][name])
    assert not torch.equal(state["average"]["output.weight"], state["generator"]["output.weight"])
    first = loop.fresh_state(data, split(data, chosen)[0], chosen, CPU).generator.state_dict()
    far = sum(float((state["generator"][k] - v).norm()) for k, v in first.items())
    near = sum(float((state["average"][k] - v).norm()) for k, v in first.items())
    assert 0 < near < far


def test_without_its_weight_there_is_no_discriminator(data: ExitWaves, tmp_path: Path) -> None:
    run(data, tmp_path, settings(train__adversarial_weight=0))
    assert "discriminator" not in checkpoint(tmp_path)
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert line["generator"] == pytest.approx(100 * line["l1"])


def test_validation_is_the_mean_over_proteins(data: ExitWaves) -> None:
    """Two good items of one protein don't outweigh a bad one of another."""
    items = np.array([0, 1, 3])
    curves = torch.stack([torch.ones(N_PX // 2 + 1)] * 2 + [torch.zeros(N_PX // 2 + 1)])
    found = mean_over_proteins(curves, data, items, settings())
    assert found.mean == 0.5
    assert found.by_structure["a"]["frc"] == 1
    assert found.by_structure["b"]["diffraction"] == 0


def test_first_difference_names_the_key() -> None:
    old = {"a": {"b": 1, "c": 2}, "d": 3}
    assert first_difference(old, {"a": {"b": 1, "c": 2}, "d": 3}) is None
    assert first_difference(old, {"a": {"b": 1, "c": 5}, "d": 4}) == ("a.c", 2, 5)
    assert first_difference(old, {"a": {"b": 1}, "d": 3}) == ("a.c", 2, None)


def test_tensorboard_events_are_written(data: ExitWaves, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run(data, tmp_path / "run", settings(train__max_steps=1), tensorboard=True)
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


# Several processes.

SCRIPT = """
import sys
from pathlib import Path
import torch
from torch import distributed
from diffragan.settings import load_settings
from diffragan.training.data import open_exit_waves
from diffragan.training.loop import train

torch.set_num_threads(1)
out = Path(sys.argv[2])
settings = load_settings(file=Path(sys.argv[3]))
result = train(open_exit_waves([Path(sys.argv[1])]), out, settings)
mine = torch.cat([p.detach().flatten() for p in result.generator.parameters()])
every = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
distributed.all_gather(every, mine)
assert len(every) == 2 and torch.equal(every[0], every[1])
distributed.destroy_process_group()
"""


def test_two_processes_train_as_one(store: Path, data: ExitWaves, tmp_path: Path) -> None:
    """Each takes half of every batch; both end with the same bits, and the run is that of one
    process up to rounding, because norms and noise belong to items.

    Compared by outputs: Adam turns even a gradient of pure rounding (that of a bias before a
    norm) into a full step, but no output depends on those.
    """
    from diffragan.settings import settings_to_toml

    chosen = settings(train__max_steps=4, train__learning_rate=2e-5, train__mixed_precision=False)
    script, config, out = tmp_path / "run.py", tmp_path / "s.toml", tmp_path / "two"
    script.write_text(SCRIPT)
    config.write_text(settings_to_toml(chosen))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(script), str(store), str(out), str(config)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    alone = run(data, tmp_path / "one", chosen)
    together = load_weights(out / "last.safetensors").generator
    x = torch.randn(2, 2, 256, 256, generator=torch.Generator().manual_seed(0))
    start = loop.fresh_state(data, split(data, chosen)[0], chosen, CPU).generator
    with torch.no_grad():
        a, b, c = (g(x, [1, 2]) for g in (alone.generator, together, start))
    assert (a - b).norm() < 0.01 * (a - c).norm()
    one, two = (checkpoint(o)["progress"] for o in (tmp_path / "one", out))
    assert one["step"] == two["step"] == 4


def test_a_batch_that_cannot_be_shared_is_refused(
    data: ExitWaves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "start_processes", lambda _: Processes(0, 3))
    sentence(lambda: run(data, tmp_path / "run", settings()), "train.batch_size", "3")


def test_the_published_generator_begins_from_nothing(data: ExitWaves, tmp_path: Path) -> None:
    chosen = settings(train__begin_from="earlier.safetensors")
    sentence(lambda: run(data, tmp_path / "run", chosen), "train.begin_from", "leave it out")


# The command.


def test_command_trains_and_says_how_to_go_on(store: Path, tmp_path: Path) -> None:
    from diffragan.commands.solve.train import train as command

    app = typer.Typer()
    app.command()(command)
    out = tmp_path / "run"
    arguments = [str(store), "--out", str(out), "--set", "network.width=0.0078125"]
    arguments += ["--set", "train.max_steps=2", "--threads", "1", "--device", "cpu"]
    arguments += ["--max-minutes", "0"]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "Out of time after 1 steps" in first.output
    assert "goes on from" in first.output
    second = CliRunner().invoke(app, arguments[:-2])
    assert "Finished after 2 steps" in second.output
    assert load_weights(out / "last.safetensors").metadata.settings.network.width == 1 / 128
