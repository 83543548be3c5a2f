"""Training of the conditional GAN: one loop, from top to bottom in `train`.

Under `torchrun` every process runs this loop on its share of each batch and gradients are
averaged. `train.batch_size` counts the items of all processes together. Norms and noise belong
to single items, so the number of processes changes a run by rounding only.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import FrameType

import torch
from torch import distributed, nn

from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.networks.discriminator import PatchDiscriminator
from diffragan.networks.generator import PublishedGenerator, initialise
from diffragan.networks.weights import WeightsMetadata, save_weights
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
from diffragan.training.validation import Validation, validate

LOG_EVERY_STEPS = 10


@dataclass(frozen=True)
class TrainResult:
    """How a run ended, and the generator as it then was (the best one is on disk).

    `stopped` is `finished`, `time` or `interrupt`; `images_per_s` counts this leg, validation and
    saving included.
    """

    generator: PublishedGenerator
    out: Path
    stopped: str
    steps: int
    epochs: float
    best_frc: float | None
    images_per_s: float


@dataclass(frozen=True)
class Processes:
    """This process among those of a run."""

    rank: int = 0
    count: int = 1


def train(
    data: ExitWaves,
    out: Path,
    settings: Settings,
    *,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
    tensorboard: bool = False,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> TrainResult:
    """Train generator and discriminator, or go on with the run that `out` holds.

    Leaves `settings.toml`, `log.jsonl`, `checkpoint.pt`, `last.safetensors`, `best.safetensors`
    (largest validation FRC so far) and `samples/*.png` in `out`. SIGINT, SIGTERM and
    `max_minutes` end the run after the current step with a checkpoint, `max_minutes` with a
    validation too. `on_step` hears the step and its losses.

    Raises:
        DiffraganError: a data set that can't be used, a loss that is not finite, a run in `out`
            with other settings or data, or a disk that refuses. The last checkpoint stays.
    """
    device = torch.device(device)
    processes = start_processes(device)
    first = processes.rank == 0
    config = settings.train
    if config.batch_size % processes.count:
        raise DiffraganError(
            f"train.batch_size is {config.batch_size}, which {processes.count} processes can't "
            f"share evenly; set it to a multiple of {processes.count}."
        )
    train_items, held_items = split(data, settings)
    shown = spread_over_structures(data, held_items, config.validation_items)
    batches = len(epoch_order(train_items, settings.seed, 0, config.batch_size))
    total = total_steps(data, settings)

    torch.manual_seed(settings.seed)
    state = fresh_state(data, train_items, settings, device)
    structures = {s.stem: s.sha256 for s in data.structures}
    identity = run_identity(settings, structures, data.n)
    if (out / NAME).exists():
        state = load_checkpoint(out / NAME, state, identity)
    progress = state.progress
    generator, discriminator = state.generator, state.discriminator
    log = RunLog(out, progress.step, tensorboard=tensorboard, writes=first)
    about = WeightsMetadata(
        settings=settings,
        n_px=data.n_px,
        box_A=data.optics.box_A,
        energy_ev=data.optics.energy_ev,
        target=state.target,
        trained_on=trained_on(data, train_items),
        validation=tuple(s.stem for s in trained_on(data, held_items)),
        seed=settings.seed,
    )
    if first:
        write_atomically(out / "settings.toml", settings_to_toml(settings).encode())

    amp = config.mixed_precision and device.type == "cuda" and torch.cuda.is_bf16_supported()
    started = last_saved = time.monotonic()
    seconds_before, steps_before = progress.seconds, progress.step
    stopped = "finished"

    with caught_signals() as caught:
        while progress.step < total:
            order = epoch_order(train_items, settings.seed, progress.epoch, config.batch_size)
            mine = [b[processes.rank :: processes.count] for b in order[progress.position :]]
            for items, waves in load_ahead(data, mine[: total - progress.step]):
                batch = make_train_batch(
                    waves, items, data.optics, settings, state.target, progress.epoch, device
                )
                inputs = batch.inputs.contiguous(memory_format=memory_format(device))

                with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                    output = generator(inputs, batch.dropout_seeds)
                    real = discriminator(inputs, batch.target)
                    fake = discriminator(inputs, output.detach())
                d_loss = discriminator_loss(real, fake, config)
                d_value = finite(d_loss, "discriminator", progress, out, processes)
                update(state.discriminator_optimizer, d_loss, discriminator, processes)

                discriminator.requires_grad_(False)
                with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                    fake = discriminator(inputs, output)
                g_loss, l1 = generator_loss(fake, output, batch.target, config)
                g_value = finite(g_loss, "generator", progress, out, processes)
                update(state.generator_optimizer, g_loss, generator, processes)
                discriminator.requires_grad_(True)

                progress.step += 1
                progress.position += 1
                if progress.position == batches:
                    progress.epoch, progress.position = progress.epoch + 1, 0
                now = time.monotonic()
                progress.seconds = seconds_before + now - started
                speed = (progress.step - steps_before) * config.batch_size / (now - started)
                losses = {
                    "generator": g_value,
                    "discriminator": d_value,
                    "l1": float(l1.detach()),
                    "images_per_s": speed,
                }
                if progress.step % LOG_EVERY_STEPS == 0 or progress.step == total:
                    log.losses(progress, losses)
                if on_step:
                    on_step(progress.step, losses)

                over_time = max_minutes is not None and now - started > 60 * max_minutes
                interrupted, over_time, save_due = agree(
                    [bool(caught), over_time, now - last_saved > config.checkpoint_every_s],
                    processes,
                )
                last = over_time or progress.step == total
                if first and (last or progress.step % config.validate_every_steps == 0):
                    found = validate(
                        generator,
                        data,
                        shown,
                        settings,
                        state.target,
                        device,
                        grid=out / "samples" / f"{progress.step:07d}.png",
                    )
                    log.validation(progress, found)
                    keep_weights(out, state, about, found, batches)
                if first and (last or interrupted or save_due):
                    save_checkpoint(out / NAME, state, identity)
                    last_saved = time.monotonic()
                if interrupted or over_time:
                    stopped = "interrupt" if interrupted else "time"
                    break
            if stopped != "finished":
                break

    log.close()
    elapsed = max(time.monotonic() - started, 1e-9)
    return TrainResult(
        generator=generator,
        out=out,
        stopped=stopped,
        steps=progress.step,
        epochs=progress.step / batches,
        best_frc=progress.best_frc,
        images_per_s=(progress.step - steps_before) * config.batch_size / elapsed,
    )


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
    out: Path, state: TrainState, about: WeightsMetadata, found: Validation, batches: int
) -> None:
    """Write `last.safetensors`, and `best.safetensors` if no earlier validation was better."""
    progress = state.progress
    frc = found.mean
    metadata = replace(
        about,
        validation_frc=frc,
        validation_curve=tuple(round(float(value), 4) for value in found.curve),
        steps=progress.step,
        epochs=progress.step / batches,
    )
    save_weights(out / "last.safetensors", state.generator, metadata, "float32")
    if progress.best_frc is None or frc > progress.best_frc:
        progress.best_frc, progress.best_step = frc, progress.step
        save_weights(out / "best.safetensors", state.generator, metadata, "float32")


def start_processes(device: torch.device) -> Processes:
    """Join the others if `torchrun` started this process; gloo on CPUs, nccl on GPUs."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes()
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not distributed.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        # The others wait while the first validates, so the default of minutes is too short.
        distributed.init_process_group(backend, timeout=timedelta(hours=2))
    return Processes(distributed.get_rank(), distributed.get_world_size())


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


def average_gradients(parameters: Iterable[nn.Parameter], processes: Processes) -> None:
    """Replace every gradient by its mean over the processes, in one message."""
    if processes.count == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    distributed.all_reduce(flat)
    flat /= processes.count
    parts = torch.split(flat, [g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))


def agree(flags: Sequence[bool], processes: Processes) -> list[bool]:
    """Each flag true for all processes if it is for one, so that they stop at the same step."""
    if processes.count == 1:
        return list(flags)
    values = torch.tensor([float(f) for f in flags])
    if distributed.get_backend() == "nccl":
        values = values.cuda()
    distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return [bool(v > 0) for v in values.tolist()]


def finite(
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


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM add themselves to; a second one acts as usual."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.getsignal(s) for s in wanted}

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        for s in wanted:
            signal.signal(s, before[s])

    try:
        for s in wanted:
            signal.signal(s, note)
        yield caught
    finally:
        for s in wanted:
            signal.signal(s, before[s])
