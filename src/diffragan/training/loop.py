"""Training of the conditional GAN: one loop, in `train`, over the steps of `_Leg`.

Under `torchrun` every process runs this loop on its share of each batch and gradients are
averaged. `train.batch_size` counts the items of all processes together. Norms and noise belong
to single items, so the number of processes changes a run by rounding only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.networks.discriminator import PatchDiscriminator
from diffragan.networks.generator import PublishedGenerator, initialise
from diffragan.networks.weights import WeightsMetadata, save_weights
from diffragan.progress import Progress, no_progress
from diffragan.settings import Settings, settings_to_toml
from diffragan.training.checkpoint import (
    NAME,
    TrainProgress,
    TrainState,
    load_checkpoint,
    run_identity,
    save_checkpoint,
)
from diffragan.training.data import (
    ExitWaves,
    Items,
    TrainBatch,
    epoch_order,
    load_ahead,
    make_train_batch,
    scale_of,
    split,
    spread_over_structures,
    trained_on,
)
from diffragan.training.log import RunLog
from diffragan.training.losses import discriminator_loss, generator_loss
from diffragan.training.processes import (
    Processes,
    agree,
    average_gradients,
    caught_signals,
    start_processes,
)
from diffragan.training.validation import Validation, validate

LOG_EVERY_STEPS = 10


@dataclass(frozen=True)
class TrainResult:
    """How a run ended, and the generator as it then was (the best one is on disk).

    `stopped` is `finished`, `time` or `interrupt`; `images_per_s` counts this leg, validation and
    saving included.
    """

    generator: PublishedGenerator = field(repr=False)
    out: Path
    stopped: str
    steps: int
    epochs: float
    best_frc: float | None
    images_per_s: float


def train(
    data: ExitWaves,
    out: Path,
    settings: Settings,
    *,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
    tensorboard: bool = False,
    progress: Progress = no_progress,
) -> TrainResult:
    """Train generator and discriminator, or go on with the run that `out` holds.

    Leaves `settings.toml`, `log.jsonl`, `checkpoint.pt`, `last.safetensors`, `best.safetensors`
    (largest validation FRC so far) and `samples/*.png` in `out`. SIGINT, SIGTERM and
    `max_minutes` end the run after the current step with a checkpoint, `max_minutes` with a
    validation too. `progress` is told the steps done and the L1 loss.

    Raises:
        DiffraganError: a data set that can't be used, a loss that is not finite, a run in `out`
            with other settings or data, or a disk that refuses. The last checkpoint stays.
    """
    device = torch.device(device)
    processes = start_processes(device)
    if settings.train.batch_size % processes.count:
        raise DiffraganError(
            f"train.batch_size is {settings.train.batch_size}, which {processes.count} processes "
            f"can't share evenly; set it to a multiple of {processes.count}."
        )
    leg = _Leg(data, out, settings, device, processes, tensorboard=tensorboard)
    stopped = "finished"
    with caught_signals() as caught:
        for batch in leg.batches():
            losses = leg.step(batch)
            leg.count(losses)
            if processes.rank == 0:
                progress("training", leg.state.progress.step, leg.total, f"L1 {losses['l1']:.4f}")
            over_time = max_minutes is not None and leg.seconds > 60 * max_minutes
            stop = leg.look(interrupted=bool(caught), over_time=over_time)
            if stop is not None:
                stopped = stop
                break
    return leg.result(stopped)


class _Leg:
    """One sitting of a run, in one process: from its start or its last checkpoint to its end."""

    def __init__(
        self,
        data: ExitWaves,
        out: Path,
        settings: Settings,
        device: torch.device,
        processes: Processes,
        *,
        tensorboard: bool,
    ) -> None:
        self.data, self.out, self.settings = data, out, settings
        self.device, self.processes = device, processes
        self.first = processes.rank == 0
        config = settings.train
        self.mixed = (
            config.mixed_precision and device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self.train_items, held_items = split(data, settings)
        self.shown_items = spread_over_structures(data, held_items, config.validation_items)
        self.epoch_steps = len(epoch_order(self.train_items, settings.seed, 0, config.batch_size))
        self.total = total_steps(data, settings)

        # Networks, optimizers and log, new or as the run in `out` left them.
        torch.manual_seed(settings.seed)
        self.state = fresh_state(data, self.train_items, settings, device)
        structures = {s.stem: s.sha256 for s in data.structures}
        self.identity = run_identity(settings, structures, data.n)
        if (out / NAME).exists():
            self.state = load_checkpoint(out / NAME, self.state, self.identity)
        progress = self.state.progress
        self.log = RunLog(out, progress.step, tensorboard=tensorboard, writes=self.first)
        self.about = WeightsMetadata(
            settings=settings,
            n_px=data.n_px,
            box_A=data.optics.box_A,
            energy_ev=data.optics.energy_ev,
            target=self.state.target,
            trained_on=trained_on(data, self.train_items),
            validation=tuple(s.stem for s in trained_on(data, held_items)),
            seed=settings.seed,
        )
        if self.first:
            write_atomically(out / "settings.toml", settings_to_toml(settings).encode())
        self.seconds_before, self.steps_before = progress.seconds, progress.step
        self.seconds = 0.0
        self.started = self.last_saved = time.monotonic()

    def batches(self) -> Iterator[TrainBatch]:
        """This process's share of every batch that is left, as `count` moves on."""
        progress, config = self.state.progress, self.settings.train
        rank, count = self.processes.rank, self.processes.count
        while progress.step < self.total:
            epoch = progress.epoch
            order = epoch_order(self.train_items, self.settings.seed, epoch, config.batch_size)
            mine = [b[rank::count] for b in order[progress.position :]]
            for items, waves in load_ahead(self.data, mine[: self.total - progress.step]):
                yield make_train_batch(
                    waves,
                    items,
                    self.data.optics,
                    self.settings,
                    self.state.target,
                    epoch,
                    self.device,
                )

    def step(self, batch: TrainBatch) -> dict[str, float]:
        """One step of the discriminator, then one of the generator; their losses."""
        state, config, processes = self.state, self.settings.train, self.processes
        generator, discriminator = state.generator, state.discriminator
        inputs = batch.inputs.contiguous(memory_format=memory_format(self.device))

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            output = generator(inputs, batch.dropout_seeds)
            real = discriminator(inputs, batch.target)
            fake = discriminator(inputs, output.detach())
        d_loss = discriminator_loss(real, fake, config)
        d_value = finite_loss(d_loss, "discriminator", state.progress, self.out, processes)
        update(state.discriminator_optimizer, d_loss, discriminator, processes)

        discriminator.requires_grad_(False)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            fake = discriminator(inputs, output)
        g_loss, l1 = generator_loss(fake, output, batch.target, config)
        g_value = finite_loss(g_loss, "generator", state.progress, self.out, processes)
        update(state.generator_optimizer, g_loss, generator, processes)
        discriminator.requires_grad_(True)
        return {"generator": g_value, "discriminator": d_value, "l1": float(l1.detach())}

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
        result = validate(
            self.state.generator,
            self.data,
            self.shown_items,
            self.settings,
            self.state.target,
            self.device,
            grid=self.out / "samples" / f"{progress.step:07d}.png",
        )
        self.log.validation(progress, result)
        keep_weights(self.out, self.state, self.about, result, self.epoch_steps)


def total_steps(data: ExitWaves, settings: Settings) -> int:
    """Steps of a whole run: `train.epochs` of full batches, at most `train.max_steps`."""
    config = settings.train
    items, _ = split(data, settings)
    steps = config.epochs * len(epoch_order(items, settings.seed, 0, config.batch_size))
    return min(steps, config.max_steps or steps)


def fresh_state(
    data: ExitWaves, train_items: Items, settings: Settings, device: torch.device
) -> TrainState:
    """Networks and optimizers before the first step, the same for the same seed."""
    network, config = settings.network, settings.train
    generator = PublishedGenerator(network.width, network.dropout)
    discriminator = PatchDiscriminator(network.width, network.patch_px)
    initialise(generator, 2 * settings.seed % 2**63)
    initialise(discriminator, (2 * settings.seed + 1) % 2**63)
    for module in (generator, discriminator):
        module.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]

    def adam(module: nn.Module) -> torch.optim.Adam:
        betas = (config.beta1, 0.999)
        return torch.optim.Adam(module.parameters(), config.learning_rate, betas)

    target = scale_of(data, train_items, settings)
    return TrainState(generator, discriminator, adam(generator), adam(discriminator), target)


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last for the GPU's tensor cores; a CPU gains nothing from it."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def keep_weights(
    out: Path, state: TrainState, about: WeightsMetadata, result: Validation, batches: int
) -> None:
    """Write `last.safetensors`, and `best.safetensors` if no earlier validation was better."""
    progress = state.progress
    frc = result.mean
    metadata = replace(
        about,
        validation_frc=frc,
        validation_curve=tuple(round(float(value), 4) for value in result.curve),
        steps=progress.step,
        epochs=progress.step / batches,
    )
    save_weights(out / "last.safetensors", state.generator, metadata, "float32")
    if progress.best_frc is None or frc > progress.best_frc:
        progress.best_frc, progress.best_step = frc, progress.step
        save_weights(out / "best.safetensors", state.generator, metadata, "float32")


def update(
    optimizer: torch.optim.Optimizer,
    loss: torch.Tensor,
    module: nn.Module,
    processes: Processes,
) -> None:
    """One optimizer step down the loss's gradient, averaged over all processes."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    average_gradients(module.parameters(), processes)
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
