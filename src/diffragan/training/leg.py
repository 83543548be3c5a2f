"""One sitting of a training run, whatever is trained: steps, log, checkpoints, validation.

Under `torchrun` every process runs this loop on its share of each batch and gradients are
averaged. Noise belongs to single items, so the number of processes changes a run by rounding only.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from diffragan.engine.processes import Processes
from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.networks.weights import WeightsMetadata, save_weights
from diffragan.progress import Progress
from diffragan.settings import Settings, TrainSettings, settings_to_toml
from diffragan.training.checkpoint import (
    NAME,
    TrainProgress,
    TrainState,
    load_checkpoint,
    save_checkpoint,
)
from diffragan.training.log import RunLog
from diffragan.training.processes import agree, average_gradients, caught_signals
from diffragan.training.validation import Validation

LOG_EVERY_STEPS = 10

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class TrainResult:
    """How a run ended, and the generator as it then was (the best one is on disk).

    `stopped` is `finished`, `time` or `interrupt`; `images_per_s` counts this leg, validation and
    saving included.
    """

    generator: nn.Module = field(repr=False)
    out: Path
    stopped: str
    steps: int
    epochs: float
    best_frc: float | None
    images_per_s: float


class Leg(ABC, Generic[Batch]):
    """One sitting of a run, in one process: from its start or its last checkpoint to its end.

    Args:
        state: networks and optimizers before the first step.
        about: what weights say of themselves; validation and steps are filled in.
        identity: what must be the same for a run in `out` to go on.
        total, epoch_steps: steps of the whole run, and of an epoch.
    """

    def __init__(  # long: a run is its state, its place and what both must agree with
        self,
        state: TrainState,
        about: WeightsMetadata,
        identity: dict[str, Any],
        out: Path,
        processes: Processes,
        *,
        total: int,
        epoch_steps: int,
        tensorboard: bool,
    ) -> None:
        self.settings, self.out, self.processes = about.settings, out, processes
        self.about, self.identity = about, identity
        self.total, self.epoch_steps = total, epoch_steps
        self.first = processes.rank == 0
        self.state = state
        if (out / NAME).exists():
            self.state = load_checkpoint(out / NAME, state, identity)
        progress = self.state.progress
        self.log = RunLog(out, progress.step, tensorboard=tensorboard, writes=self.first)
        if self.first:
            write_atomically(out / "settings.toml", settings_to_toml(self.settings).encode())
        self.seconds_before, self.steps_before = progress.seconds, progress.step
        self.seconds = 0.0
        self.started = self.last_saved = time.monotonic()

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """This process's share of every batch that is left, as `count` moves on."""

    @abstractmethod
    def step(self, batch: Batch) -> dict[str, float]:
        """One step of training; its losses, `l1` among them."""

    @abstractmethod
    def validate(self) -> Validation:
        """How good the generator is on what it has not seen."""

    def judged(self) -> nn.Module:
        """The generator that is validated and kept."""
        return self.state.generator

    def run(self, max_minutes: float | None, progress: Progress) -> TrainResult:
        """All steps that are left, or those that the time allows."""
        stopped = "finished"
        with caught_signals() as caught:
            for batch in self.batches():
                self._set_rates()
                losses = self.step(batch)
                self.count(losses)
                if self.first:
                    step = self.state.progress.step
                    progress("training", step, self.total, f"L1 {losses['l1']:.4f}")
                over_time = max_minutes is not None and self.seconds > 60 * max_minutes
                stop = self.look(interrupted=bool(caught), over_time=over_time)
                if stop is not None:
                    stopped = stop
                    break
        return self.result(stopped)

    def _set_rates(self) -> None:
        rate = learning_rate(self.state.progress.step, self.total, self.settings.train)
        for optimizer in self.state.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate

    def count(self, losses: dict[str, float]) -> None:
        """Count a step that is done, and log its losses now and then."""
        progress = self.state.progress
        progress.step += 1
        progress.position += 1
        if progress.position == self.epoch_steps:
            progress.epoch, progress.position = progress.epoch + 1, 0
        self.seconds = time.monotonic() - self.started
        progress.seconds = self.seconds_before + self.seconds
        if progress.step % LOG_EVERY_STEPS == 0 or progress.step == self.total:
            self.log.losses(progress, losses | {"images_per_s": self._speed(self.seconds)})

    def look(self, *, interrupted: bool, over_time: bool) -> str | None:
        """Validate and save where it is time to; why the run stops here, if it does."""
        progress = self.state.progress
        save_due = self.started + self.seconds - self.last_saved
        interrupted, over_time, due = agree(
            [interrupted, over_time, save_due > self.settings.train.checkpoint_every_s],
            self.processes,
        )
        last = over_time or progress.step == self.total
        if self.first and (last or progress.step % self.settings.train.validate_every_steps == 0):
            self._validate()
        if self.first and (last or interrupted or due):
            save_checkpoint(self.out / NAME, self.state, self.identity)
            self.last_saved = time.monotonic()
        return "interrupt" if interrupted else "time" if over_time else None

    def result(self, stopped: str) -> TrainResult:
        """Close the log; how the leg ended."""
        self.log.close()
        progress = self.state.progress
        return TrainResult(
            generator=self.state.generator,
            out=self.out,
            stopped=stopped,
            steps=progress.step,
            epochs=progress.step / self.epoch_steps,
            best_frc=progress.best_frc,
            images_per_s=self._speed(max(time.monotonic() - self.started, 1e-9)),
        )

    def _speed(self, seconds: float) -> float:
        """Images a second, of all processes together."""
        steps = self.state.progress.step - self.steps_before
        return steps * self.settings.train.batch_size / seconds

    def _validate(self) -> None:
        progress = self.state.progress
        result = self.validate()
        self.log.validation(progress, result)
        keep_weights(self.out, self.judged(), self.about, result, progress, self.epoch_steps)


def mixed_precision(settings: Settings, device: torch.device) -> bool:
    """Whether convolutions run in bfloat16: where it is wanted and gains time, on GPUs and on
    CPUs that multiply in it."""
    if not settings.train.mixed_precision:
        return False
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported()) if device.type == "cpu" else False


def follow(average: nn.Module, now: nn.Module, step: int, memory: float) -> None:
    """Move a running average of weights towards those of a step; quickly at first.

    It keeps `memory` of itself in each step, so it spans about 1 / (1 - memory) steps.
    """
    keep = min(memory, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, one in zip(average.parameters(), now.parameters(), strict=True):
            mean.lerp_(one, 1 - keep)


def learning_rate(step: int, total: int, train: TrainSettings) -> float:
    """The rate of a step: as set, and from `decay_from` of all steps on evenly to zero."""
    start = train.decay_from * total
    left = 1.0 if step < start else (total - step) / max(total - start, 1)
    return train.learning_rate * left


def keep_weights(
    out: Path,
    generator: nn.Module,
    about: WeightsMetadata,
    result: Validation,
    progress: TrainProgress,
    batches: int,
) -> None:
    """Write `last.safetensors`, and `best.safetensors` if no earlier validation was better."""
    frc = result.mean
    metadata = replace(
        about,
        validation_frc=frc,
        validation_curve=tuple(round(float(value), 4) for value in result.curve),
        steps=progress.step,
        epochs=progress.step / batches,
    )
    save_weights(out / "last.safetensors", generator, metadata, "float32")
    if progress.best_frc is None or frc > progress.best_frc:
        progress.best_frc, progress.best_step = frc, progress.step
        save_weights(out / "best.safetensors", generator, metadata, "float32")


def update(
    optimizer: torch.optim.Optimizer,
    loss: torch.Tensor,
    module: nn.Module,
    processes: Processes,
    largest: float | None = None,
) -> None:
    """One optimizer step down the loss's gradient, averaged over all processes, of a norm of
    `largest` at most."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    average_gradients(module.parameters(), processes)
    if largest is not None:
        nn.utils.clip_grad_norm_(module.parameters(), largest)
    optimizer.step()


def finite_loss(
    loss: torch.Tensor, name: str, progress: TrainProgress, out: Path, processes: Processes
) -> float:
    """The loss as a number; stops the run, in all processes, before a NaN reaches a weight."""
    value = float(loss.detach())
    (bad,) = agree([value != value or abs(value) == float("inf")], processes)
    if bad:
        raise DiffraganError(
            f"The {name}'s loss was not finite at step {progress.step + 1}; {out / NAME} keeps the "
            "last good state if one was written, lower train.learning_rate or look at the data."
        )
    return value
