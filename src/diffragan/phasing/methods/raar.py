"""The method `raar`: projection algorithms from image and pattern alone, RRR by default.

The name is the family's; `phase.solver` says which algorithm runs. `hybrid` runs the same from a
network's proposal.

A run goes in rounds. In the first, every start has its own random phases and its own threshold
for the support, and the proposal is held by a weight that fades. Between rounds each object is put
where the image wants it, its support is found anew from itself, and the worse half of the starts
begins again around the best. R chooses at the end; what the starts agree on is the trust.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.microscope.alone import films_beside
from diffragan.microscope.imaging import counted_electrons
from diffragan.phasing import support
from diffragan.phasing.method import (
    ITERATION_OPTIONS,
    Context,
    Method,
    PairBatch,
    Phased,
    phased_wave,
)
from diffragan.phasing.modulus import Modulus, friedel_mate, measured_modulus
from diffragan.phasing.proposals import Proposal, image_proposal
from diffragan.phasing.solvers import ProposalPull, RealSpace, Run, iterate
from diffragan.phasing.starts import align, concentration, random_starts
from diffragan.phasing.support import first_support
from diffragan.phasing.trust import verdict
from diffragan.settings import PhaseSettings

_SETTLE = 20  # error-reduction steps that end a round
_RESTART_TRUST = 0.7  # how closely a restarted object follows the best one
_WORKING_ARRAYS = 24  # of (m, m) float32 per start, at the peak


EachRound = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class Phases:
    """What the iterations give for b pairs.

    spectrum: (b, m, m) complex64, zero frequency first: measured amplitude x trust x phase of the
        object o (wave = beam + i o), zero off the measured band.
    trust: (b, m, m) expected cosine of the phase error.
    start_r: (b, starts). solved: (b,) bool.
    """

    spectrum: Tensor
    trust: Tensor
    start_r: Tensor
    solved: Tensor


def from_image(batch: PairBatch, context: Context) -> Phased:
    """Projection algorithms from the image's own phases, without any weights."""
    return phased_by_projections(batch, refine_phases(batch, image_proposal(batch)))


def pattern_modulus(batch: PairBatch, model: str) -> Modulus:
    """The measured amplitudes (b, 1, ·, ·) with what counting allows.

    Raises:
        DiffraganError: the pattern is not the molecule's alone.
    """
    settings, specimen = batch.settings, batch.settings.specimen
    if batch.alone is None and (specimen.damage or films_beside(specimen)):
        raise DiffraganError(
            "These patterns hold more than the molecule; take it out of them first "
            "(`diffragan.phasing.run.of_molecule`)."
        )
    mask = torch.fft.ifftshift(batch.pattern_mask)
    counted = counted_electrons(batch.optics, settings)
    kind = "exact" if counted is None else settings.phase.noise
    electrons = counted or 0.0
    # The square root of a count has a standard deviation of 1/2.
    uncertainty: Tensor | float = 0.5 / electrons**0.5 if kind == "bounds" else 0.0
    if batch.alone is not None:
        if kind == "poisson":
            raise DiffraganError(
                "phase.noise=poisson is of counts of the molecule alone, not through damage or "
                "ice; take bounds."
            )
        deviation = torch.fft.ifftshift(batch.alone.deviation, dim=(-2, -1))[:, None]
        uncertainty = deviation if kind == "bounds" else 0.0
    return measured_modulus(
        batch.amplitude[:, None],
        mask,
        "real" if model == "real" else "complex",
        uncertainty=uncertainty,
        poisson_weight=1.0 if kind == "poisson" else None,
    )


def refine_phases(
    batch: PairBatch,
    proposal: Proposal,
    *,
    fixed_support: Tensor | None = None,
    each_round: EachRound | None = None,
) -> Phases:
    """Iterate from a proposal of the wave's phases, a few pairs at a time.

    On a CPU pairs run one by one, so a pair's result does not depend on its batch; on an
    accelerator as many run together as `memory_mb` holds.

    Args:
        proposal: phases of the wave at the centre plane.
        fixed_support: (b, m, m), a known outline, kept through the run; none: from the image or
            the proposal, and refined.
        each_round: told the iteration and R (pairs, starts) at the end of each round.

    Raises:
        DiffraganError: too few measurements for the support, without `force`.
    """
    settings = batch.settings.phase
    b, m, _ = batch.pattern.shape
    if fixed_support is None:
        supports = first_support(batch, proposal, settings.starts)
    else:
        supports = fixed_support[:, None].expand(b, settings.starts, m, m)
    each = settings.starts * m * m * 4 * _WORKING_ARRAYS * (1 + (settings.model == "complex"))
    size = 1 if batch.pattern.device.type == "cpu" else max(1, settings.memory_mb * 2**20 // each)
    parts = []
    for low in range(0, b, size):
        span = slice(low, low + size)
        parts.append(
            _refine(batch[span], proposal[span], supports[span], fixed_support is None, each_round)
        )
    return Phases(
        torch.cat([p.spectrum for p in parts]),
        torch.cat([p.trust for p in parts]),
        torch.cat([p.start_r for p in parts]),
        torch.cat([p.solved for p in parts]),
    )


def _refine(
    batch: PairBatch,
    proposal: Proposal,
    supports: Tensor,
    shrink: bool,
    each_round: EachRound | None,
) -> Phases:
    settings, box = batch.settings.phase, batch.optics.box_A
    starts, model = settings.starts, settings.model
    amplitude, trust = batch.amplitude, proposal.trust
    phase = (proposal.phase / 1j).to(torch.complex64)  # of o: wave = beam + i o
    # Where an object is the image tells best: what a network draws is twice as far off at SNR 0.1.
    image = image_proposal(batch) if proposal.drawn else proposal
    seen, weight = (image.phase / 1j).to(torch.complex64), concentration(image.trust)
    modulus = pattern_modulus(batch, model)
    x = random_starts(amplitude, phase, trust, batch.seeds, starts, model)
    space = RealSpace(supports, settings.positive, settings.damping)
    pull = _proposal_pull(amplitude * phase, trust, model)
    until = _deadline(settings, len(amplitude))
    lengths = _round_lengths(settings)
    done = 0
    for k, length in enumerate(lengths):
        run = iterate(
            settings.solver, x, modulus, space, beta=settings.beta, pull=None if k else pull
        )
        _iterate(run, space, length, done, settings, until)
        done += length
        settled = iterate("er", run.x, modulus, space)
        for _ in range(_SETTLE):
            state = settled.step()
        r = modulus.r_factor(space(state.modulus))
        if each_round:
            each_round(done, r)
        spectrum = torch.fft.fft2(state.modulus.to(torch.complex64), norm="forward")
        spectrum, _ = align(spectrum, seen[:, None], weight[:, None])
        if k + 1 == len(lengths):
            break
        x = _object(spectrum, model)
        if shrink:
            space.support = support.support_from_density(
                x, box, settings.shrink_fraction, settings.shrink_width_A
            )
        x = _restart(x, space, r, batch, model, k)
    valid = torch.fft.ifftshift(batch.pattern_mask)
    outcome = verdict(spectrum, r, image, proposal, valid, box, _noise_r(batch, valid))
    # Where the run is trusted less than what it began with, the proposal stands.
    fallen = trust * valid > outcome.trust
    best = torch.where(fallen, phase, outcome.phase)
    trust = torch.where(fallen, trust, outcome.trust)
    return Phases(amplitude * trust * best, trust, r, outcome.solved)


def _noise_r(batch: PairBatch, valid: Tensor) -> Tensor:
    """(b,) R between true amplitudes and counted ones: square roots of counts have sd 1/2."""
    electrons = counted_electrons(batch.optics, batch.settings)
    if electrons is None:
        return batch.pattern.new_zeros(len(batch.pattern))
    noise = (valid.sum() / (4 * electrons)).sqrt()
    if batch.alone is not None:
        noise = torch.linalg.vector_norm(batch.alone.deviation, dim=(-2, -1))
    size: Tensor = torch.linalg.vector_norm(batch.amplitude * valid, dim=(-2, -1))
    return noise / size.clamp_min(1e-30)


def _iterate(
    run: Run,
    space: RealSpace,
    length: int,
    done: int,
    settings: PhaseSettings,
    until: float | None,
) -> None:
    for step in range(length):
        part = (done + step) / settings.iterations
        space.damping = settings.damping + part * (settings.damping_end - settings.damping)
        if run.pull is not None:
            faded = step / (length * settings.proposal_weight_until)
            run.pull.strength = settings.proposal_weight * max(0.0, 1 - faded)
        run.step()
        if until is not None and time.perf_counter() > until:
            return


def _restart(
    x: Tensor, space: RealSpace, r: Tensor, batch: PairBatch, model: str, number: int
) -> Tensor:
    """The worse half of the starts begins again around the best, in the best one's support."""
    b, starts = r.shape
    if starts < 2:
        return x
    order = r.argsort(1)
    best = x[torch.arange(b), order[:, 0]]
    around = torch.fft.fft2(best.to(torch.complex64), norm="forward")
    again = random_starts(
        batch.amplitude,
        torch.sgn(around),
        torch.full_like(batch.amplitude, _RESTART_TRUST),
        [seed + 7_919 * (number + 1) for seed in batch.seeds],
        starts - (starts + 1) // 2,
        "real" if model == "real" else "complex",
    )
    x, supports = x.clone(), space.support.contiguous().clone()
    for i in range(b):
        worse = order[i, (starts + 1) // 2 :]
        x[i, worse] = again[i]
        supports[i, worse] = supports[i, order[i, 0]].clone()
    space.support = supports
    return x


def _proposal_pull(target: Tensor, trust: Tensor, model: str) -> ProposalPull:
    """The pull of the proposal (b, m, m), weight trust²."""
    weight = trust**2
    if model == "real":
        half = target.shape[-1] // 2 + 1
        target = 0.5 * (target + friedel_mate(target).conj())[..., :half]
        weight = 0.5 * (weight + friedel_mate(weight))[..., :half]
    return ProposalPull(target[:, None], weight[:, None])


def _object(spectrum: Tensor, model: str) -> Tensor:
    x: Tensor = torch.fft.ifft2(spectrum, norm="forward")
    return x.real.contiguous() if model == "real" else x


def _round_lengths(settings: PhaseSettings) -> list[int]:
    rounds = min(settings.rounds, settings.iterations)
    each = settings.iterations // rounds
    return [each] * (rounds - 1) + [settings.iterations - each * (rounds - 1)]


def _deadline(settings: PhaseSettings, pairs: int) -> float | None:
    if settings.time_budget_s is None:
        return None
    return time.perf_counter() + settings.time_budget_s * pairs


def phased_by_projections(batch: PairBatch, refined: Phases) -> Phased:
    """The waves and projections of what `refine_phases` gave, with its R, trust and verdict."""
    spectrum = 1j * refined.spectrum
    spectrum[..., 0, 0] = batch.direct_beam.to(spectrum)
    wave = torch.fft.ifft2(spectrum, norm="forward")
    phased = phased_wave(wave, batch, trust=refined.trust, r_factor=refined.start_r.min(1).values)
    return replace(phased, start_r=refined.start_r, solved=refined.solved)


METHOD = Method(from_image, options=ITERATION_OPTIONS)
