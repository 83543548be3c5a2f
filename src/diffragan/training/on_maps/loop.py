"""Training of the generator of maps: `train_on_maps`, over the steps of `MapsLeg`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from diffragan.engine.processes import Processes, start_processes
from diffragan.errors import DiffraganError
from diffragan.microscope.noise import item_seed
from diffragan.networks.discriminator import PatchDiscriminator
from diffragan.networks.generator import initialise
from diffragan.networks.maps_generator import Evidence, ring_weight, to_map, with_amplitude
from diffragan.networks.weights import (
    LoadedWeights,
    WeightsMetadata,
    load_weights,
    new_generator,
)
from diffragan.progress import Progress, no_progress
from diffragan.settings import Settings
from diffragan.training.checkpoint import TrainState, run_identity
from diffragan.training.data import drawn_to_hold_out
from diffragan.training.leg import (
    Leg,
    TrainResult,
    finite_loss,
    follow,
    mixed_precision,
    update,
)
from diffragan.training.losses import adversarial_loss, discriminator_loss
from diffragan.training.on_maps.exposures import Batch, draw_batch
from diffragan.training.on_maps.losses import maps_loss, ring_correlation
from diffragan.training.on_maps.molecules import ROOM_A, Molecules
from diffragan.training.validation import Validation

VALIDATION_BOX_A = 70.0  # the paper's
_TRAIN, _HELD = 0, 1
_SECOND_MOMENT = 0.99  # of Adam
_WEIGHT_DECAY = 1e-4
_LARGEST_GRADIENT = 1.0
_OF_MAPS = {"generator", "maps_channels", "maps_stages", "maps_finest_A", "maps_pattern"}


def train_on_maps(
    molecules: Molecules,
    out: Path,
    settings: Settings,
    *,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
    tensorboard: bool = False,
    progress: Progress = no_progress,
) -> TrainResult:
    """Train a generator of maps on molecules, or go on with the run that `out` holds.

    Leaves what `training.loop.train` leaves, but no pictures. The weights that are validated and
    kept are a running average over steps.

    Raises:
        DiffraganError: too few molecules, a loss that is not finite, a run in `out` with other
            settings or molecules, or a disk that refuses. The last checkpoint stays.
    """
    device = torch.device(device)
    leg = MapsLeg(molecules, out, settings, device, start_processes(device), tensorboard)
    return leg.run(max_minutes, progress)


class MapsLeg(Leg[Batch]):
    """One sitting of training on maps."""

    def __init__(  # long: molecules, place and device of one run
        self,
        molecules: Molecules,
        out: Path,
        settings: Settings,
        device: torch.device,
        processes: Processes,
        tensorboard: bool = False,
    ) -> None:
        self.device = device
        self.mixed = mixed_precision(settings, device)
        self.shown, self.held = split_molecules(molecules, settings)
        earlier = earlier_weights(settings, self.held)
        shown = [one.info for one in self.shown.each]
        before = () if earlier is None else earlier.metadata.trained_on
        stems = {one.stem for one in shown}
        torch.manual_seed(settings.seed)
        about = WeightsMetadata(
            settings=settings,
            n_px=2 * round(VALIDATION_BOX_A / molecules.finest_A),
            box_A=VALIDATION_BOX_A,
            energy_ev=settings.energy_ev,
            trained_on=(*shown, *(one for one in before if one.stem not in stems)),
            validation=tuple(one.info.stem for one in self.held.each),
            seed=settings.seed,
        )
        names = {one.info.stem: one.info.sha256 for one in molecules.each}
        config = settings.train
        steps = max(1, len(self.shown) // config.batch_size)
        super().__init__(
            fresh_state(settings, device, earlier),
            about,
            run_identity(settings, names, len(molecules)),
            out,
            processes,
            total=min(config.epochs * steps, config.max_steps or config.epochs * steps),
            epoch_steps=steps,
            tensorboard=tensorboard,
        )

    def batches(self) -> Iterator[Batch]:
        """Batches of this process, each drawn from its step's own seed."""
        config, rank = self.settings.train, self.processes.rank
        size = config.batch_size // self.processes.count
        while self.state.progress.step < self.total:
            seed = item_seed(self.settings.seed, self.state.progress.step, rank, _TRAIN)
            yield draw_batch(self.shown, self.settings, seed, size, device=self.device)

    def step(self, batch: Batch) -> dict[str, float]:
        """One step of the generator, and before it one of its adversary where it has one."""
        state, config = self.state, self.settings.train
        amplitude = batch.evidence[0].amplitude
        draws = [self.drawn(state.generator, one) for one in batch.evidence]
        loss, l1 = maps_loss(draws, batch.truth, amplitude, config)
        losses = {"l1": float(l1.detach())}
        if config.adversarial_weight:
            judged = _to_judge(batch.evidence[0])
            weight = ring_weight(amplitude)
            made, true = (to_map(x * weight)[:, None] for x in (draws[0][-1], batch.truth))
            losses["discriminator"] = self._judge(judged, true, made.detach())
            state.discriminator.requires_grad_(False)
            adversarial = adversarial_loss(state.discriminator(judged, made), True)
            loss = loss + config.adversarial_weight * adversarial
            state.discriminator.requires_grad_(True)
        losses["generator"] = finite_loss(
            loss, "generator", state.progress, self.out, self.processes
        )
        generator = state.generator
        update(state.optimizers["generator"], loss, generator, self.processes, _LARGEST_GRADIENT)
        follow(state.networks["average"], generator, state.progress.step, config.average)
        return losses

    def _judge(self, inputs: Tensor, true: Tensor, made: Tensor) -> float:
        state, config = self.state, self.settings.train
        discriminator = state.discriminator
        loss = discriminator_loss(discriminator(inputs, true), discriminator(inputs, made), config)
        value = finite_loss(loss, "discriminator", state.progress, self.out, self.processes)
        update(state.optimizers["discriminator"], loss, discriminator, self.processes)
        return value

    def drawn(self, generator: nn.Module, evidence: Evidence) -> list[Tensor]:
        """The spectra of a generator's stages."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            spectra: list[Tensor] = generator(evidence)
        return spectra

    def judged(self) -> nn.Module:
        """The running average."""
        return self.state.networks["average"]

    def validate(self) -> Validation:
        """FRC of molecules held out, in the paper's box and under the settings' own optics."""
        generator, config = self.judged(), self.settings.train
        curves: dict[str, list[Tensor]] = {}
        each = max(1, config.validation_items // len(self.held))
        for k, one in enumerate(self.held.each):
            alone = replace(self.held, each=(one,))
            if 2 * one.radius_A > VALIDATION_BOX_A - ROOM_A:
                continue
            seed = item_seed(self.settings.seed, k, _HELD)
            batch = draw_batch(
                alone, self.settings, seed, each, box_A=VALIDATION_BOX_A, device=self.device
            )
            with torch.no_grad():
                spectra = self.drawn(generator, batch.evidence[0])
            curves[one.info.stem] = [ring_correlation(spectra[-1], batch.truth).mean(0).cpu()]
        return mean_over_molecules({name: some[0] for name, some in curves.items()})


def mean_over_molecules(curves: dict[str, Tensor]) -> Validation:
    """The validation of mean FRC curves by molecule, (rings,) from ring 1 on."""
    mean = torch.stack(list(curves.values())).mean(0)
    q = torch.arange(1, len(mean) + 1) / VALIDATION_BOX_A
    image = q < 1 / 5.02
    bands = {"frc": q > 0, "image": image, "diffraction": ~image}
    by_structure = {
        name: {band: float(curve[which].mean()) for band, which in bands.items()}
        for name, curve in curves.items()
    }
    return Validation(float(mean.mean()), by_structure, torch.cat((torch.ones(1), mean)))


def split_molecules(molecules: Molecules, settings: Settings) -> tuple[Molecules, Molecules]:
    """Molecules to train on, and those held out: `train.validation_structures`, or a tenth of all.

    Raises:
        DiffraganError: a stem to hold out is not there, or nothing is left on one side.
    """
    stems = [one.info.stem for one in molecules.each]
    held = settings.train.validation_structures
    missing = sorted(set(held) - set(stems))
    if missing:
        raise DiffraganError(
            f"train.validation_structures names '{missing[0]}', which is not among the "
            f"{len(stems)} molecules that fit; take it out, or enlarge conditions.box_A."
        )
    held = held or drawn_to_hold_out(stems, settings.seed)
    shown = tuple(one for one in molecules.each if one.info.stem not in held)
    kept = tuple(one for one in molecules.each if one.info.stem in held)
    if kept and not any(2 * one.radius_A <= VALIDATION_BOX_A - ROOM_A for one in kept):
        raise DiffraganError(
            f"None of the molecules held out ({', '.join(one.info.stem for one in kept[:3])}) fits "
            f"the {VALIDATION_BOX_A:g} Å box that validates; name smaller ones in "
            "train.validation_structures."
        )
    if not shown or not kept:
        raise DiffraganError(
            f"Training needs molecules to learn from and others to validate on, and of "
            f"{len(stems)} {len(kept)} would be held out; prepare more structures."
        )
    return replace(molecules, each=shown), replace(molecules, each=kept)


def earlier_weights(settings: Settings, held: Molecules) -> LoadedWeights | None:
    """The weights that a run begins from, `train.begin_from`, if any.

    Raises:
        DiffraganError: they can't be read, are of another network, or learned from a molecule that
            the run holds out.
    """
    path = settings.train.begin_from
    if path is None:
        return None
    loaded = load_weights(path)
    network = settings.network.model_dump()
    for name, theirs in loaded.metadata.settings.network.model_dump().items():
        if name in _OF_MAPS and theirs != network[name]:
            raise DiffraganError(
                f"The weights in {path} have network.{name} = {theirs} and the run "
                f"{network[name]}; set the same, or train from nothing."
            )
    known = {one.stem for one in loaded.metadata.trained_on}
    seen = [one.info.stem for one in held.each if one.info.stem in known]
    if seen:
        raise DiffraganError(
            f"The weights in {path} learned from {len(seen)} of the molecules held out ({seen[0]} "
            "first); name others in train.validation_structures."
        )
    return loaded


def fresh_state(
    settings: Settings, device: torch.device, earlier: LoadedWeights | None = None
) -> TrainState:
    """Networks and optimizers before the first step, the same for the same seed and earlier
    weights."""
    config = settings.train
    generator = new_generator(settings.network).to(device)
    if earlier is not None:
        generator.load_state_dict(earlier.generator.state_dict())
    for module in generator.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(generator).requires_grad_(False)
    networks = {"generator": generator, "average": average}
    moments = (config.beta1, _SECOND_MOMENT)
    optimizers: dict[str, torch.optim.Optimizer] = {
        "generator": torch.optim.AdamW(
            generator.parameters(), config.learning_rate, moments, weight_decay=_WEIGHT_DECAY
        )
    }
    if config.adversarial_weight:
        discriminator = PatchDiscriminator(settings.network.width, settings.network.patch_px)
        initialise(discriminator, (2 * settings.seed + 1) % 2**63)
        networks["discriminator"] = discriminator.to(device)
        optimizers["discriminator"] = torch.optim.Adam(
            discriminator.parameters(), config.learning_rate, moments
        )
    return TrainState(networks, optimizers)


def _to_judge(evidence: Evidence) -> Tensor:
    """(b, 2, n, n) what a patch is judged beside: image and pattern together, and the image."""
    weight = ring_weight(evidence.amplitude)
    image = evidence.proposal * weight
    imposed = with_amplitude(image, evidence.amplitude * weight)
    maps: Sequence[Tensor] = (to_map(imposed), to_map(image))
    return torch.stack(list(maps), 1)
