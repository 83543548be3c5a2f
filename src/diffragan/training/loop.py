"""Training of the published conditional GAN: `train`, over the steps of `PublishedLeg`.

`train.batch_size` counts the items of all processes together (see `leg.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from diffragan.engine.processes import Processes, start_processes
from diffragan.errors import DiffraganError
from diffragan.networks.discriminator import PatchDiscriminator
from diffragan.networks.generator import PublishedGenerator, initialise
from diffragan.networks.weights import WeightsMetadata
from diffragan.progress import Progress, no_progress
from diffragan.settings import Settings
from diffragan.training.checkpoint import TrainState, run_identity
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
from diffragan.training.leg import (
    Leg,
    TrainResult,
    finite_loss,
    follow,
    mixed_precision,
    update,
)
from diffragan.training.losses import discriminator_loss, generator_loss
from diffragan.training.validation import Validation, validate


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
    if settings.train.begin_from is not None:
        raise DiffraganError(
            "train.begin_from is for a generator of maps (--preset network); the published one "
            "begins from nothing, so leave it out."
        )
    if settings.train.batch_size % processes.count:
        raise DiffraganError(
            f"train.batch_size is {settings.train.batch_size}, which {processes.count} processes "
            f"can't share evenly; set it to a multiple of {processes.count}."
        )
    leg = PublishedLeg(data, out, settings, device, processes, tensorboard=tensorboard)
    return leg.run(max_minutes, progress)


class PublishedLeg(Leg[TrainBatch]):
    """One sitting of the published GAN's training."""

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
        self.data, self.device = data, device
        config = settings.train
        self.mixed = mixed_precision(settings, device)
        self.train_items, held_items = split(data, settings)
        self.shown_items = spread_over_structures(data, held_items, config.validation_items)
        torch.manual_seed(settings.seed)
        state = fresh_state(data, self.train_items, settings, device)
        assert state.target is not None
        self.target = state.target
        structures = {s.stem: s.sha256 for s in data.structures}
        about = WeightsMetadata(
            settings=settings,
            n_px=data.n_px,
            box_A=data.optics.box_A,
            energy_ev=data.optics.energy_ev,
            target=self.target,
            trained_on=trained_on(data, self.train_items),
            validation=tuple(s.stem for s in trained_on(data, held_items)),
            seed=settings.seed,
        )
        super().__init__(
            state,
            about,
            run_identity(settings, structures, data.n),
            out,
            processes,
            total=total_steps(data, settings),
            epoch_steps=len(epoch_order(self.train_items, settings.seed, 0, config.batch_size)),
            tensorboard=tensorboard,
        )

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
                    self.target,
                    epoch,
                    self.device,
                )

    def step(self, batch: TrainBatch) -> dict[str, float]:
        """One step of the discriminator, where there is one, then one of the generator; their
        losses."""
        state, config = self.state, self.settings.train
        inputs = batch.inputs.contiguous(memory_format=memory_format(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            output = state.generator(inputs, batch.dropout_seeds)
        losses: dict[str, float] = {}
        logits = None
        if config.adversarial_weight:
            losses["discriminator"] = self._judge(inputs, batch.target, output.detach())
            state.discriminator.requires_grad_(False)
            logits = self._logits(inputs, output)
        loss, l1 = generator_loss(logits, output, batch.target, config)
        losses["generator"] = finite_loss(
            loss, "generator", state.progress, self.out, self.processes
        )
        update(state.optimizers["generator"], loss, state.generator, self.processes)
        if config.adversarial_weight:
            state.discriminator.requires_grad_(True)
        if config.average:
            follow(state.networks["average"], state.generator, state.progress.step, config.average)
        return losses | {"l1": float(l1.detach())}

    def _judge(self, inputs: Tensor, true: Tensor, made: Tensor) -> float:
        state = self.state
        real, fake = self._logits(inputs, true), self._logits(inputs, made)
        loss = discriminator_loss(real, fake, self.settings.train)
        value = finite_loss(loss, "discriminator", state.progress, self.out, self.processes)
        update(state.optimizers["discriminator"], loss, state.discriminator, self.processes)
        return value

    def _logits(self, inputs: Tensor, candidate: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            logits: Tensor = self.state.discriminator(inputs, candidate)
        return logits

    def judged(self) -> nn.Module:
        """The running average, where there is one."""
        return self.state.networks.get("average", self.state.generator)

    def validate(self) -> Validation:
        """FRC of projections of structures held out, and a picture of some."""
        return validate(
            self.judged(),
            self.data,
            self.shown_items,
            self.settings,
            self.target,
            self.device,
            grid=self.out / "samples" / f"{self.state.progress.step:07d}.png",
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
    networks: dict[str, nn.Module] = {
        "generator": PublishedGenerator(network.width, network.dropout)
    }
    if config.adversarial_weight:
        networks["discriminator"] = PatchDiscriminator(network.width, network.patch_px)
    betas = (config.beta1, 0.999)
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for k, (name, module) in enumerate(networks.items()):
        initialise(module, (2 * settings.seed + k) % 2**63)
        module.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
        optimizers[name] = torch.optim.Adam(module.parameters(), config.learning_rate, betas)
    if config.average:
        networks["average"] = copy.deepcopy(networks["generator"]).requires_grad_(False)
    return TrainState(networks, optimizers, scale_of(data, train_items, settings))


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last for the GPU's tensor cores; a CPU gains nothing from it."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
