"""Projection algorithms for phase retrieval: ER, HIO, RAAR and RRR over one pair of projections.

The object is the scattered wave at the molecule's centre plane divided by i: wave = b + i o, with
b the direct beam. For a weak phase object o is the projected potential in radians, real and not
negative. Two models of it: *real* (float arrays through rfft; Friedel mates of the pattern are
averaged) and *complex* (Re o not negative, Im o damped).

Objects are (..., m, m) with the zero of space at pixel [0, 0] or anywhere: nothing here depends
on it. Fourier amplitudes are in units of the plane wave (`norm="forward"`), zero frequency first;
those of a real object hold the half plane of rfft, (..., m, m // 2 + 1).

The rule for frequencies: measured pixels go to the nearest allowed amplitude; masked pixels inside
the band (direct beam, beam stop, gaps) are free; everything beyond the band is zero. (Leaving what
is beyond free lets every wrong answer fit.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.phasing.modulus import Modulus, from_fourier, to_fourier
from diffragan.plugins import load_plugins

Constraint = Callable[[Tensor], Tensor]


@dataclass
class RealSpace:
    """What is known of the object in space; change its fields between iterations as you like.

    support: (..., m, m) bool, True where the object may be.
    positive: the (real part of the) object is not negative.
    damping: factor on the imaginary part of a complex object, 1 for none. Below 1 this is a
        relaxation, not a projection.
    """

    support: Tensor
    positive: bool = True
    damping: float = 1.0

    # The projection of k x is k times that of x, for k > 0.
    is_cone: ClassVar[bool] = True

    def __call__(self, x: Tensor) -> Tensor:
        """The nearest object that obeys (damping aside)."""
        support = self.support
        if x.is_complex():
            real = x.real.clamp_min(0) if self.positive else x.real
            return torch.complex(real * support, x.imag * support * self.damping)
        return (x.clamp_min(0) if self.positive else x) * support


@dataclass(frozen=True)
class Steps:
    """One iteration: y = P_M x, z = P_S(a y + b x), x' = c z + d x + e y."""

    a: float
    b: float
    c: float
    d: float
    e: float


Solver = Callable[[float], Steps]

# Those of other packages (entry points `diffragan.solvers`) join when `find_solver` wants them.
SOLVERS: dict[str, Solver] = {}


def solver(name: str) -> Callable[[Solver], Solver]:
    """Register a solver: a function from beta to its `Steps`, for 2D and 3D alike."""

    def register(function: Solver) -> Solver:
        SOLVERS[name] = function
        return function

    return register


def find_solver(name: str) -> Solver:
    """The solver of that name.

    Raises:
        DiffraganError: no such solver here or in an installed plug-in.
    """
    if name not in SOLVERS:
        for other, function in load_plugins("diffragan.solvers").items():
            SOLVERS.setdefault(other, function)
    if name not in SOLVERS:
        raise DiffraganError(
            f"There is no solver '{name}'; choose from {', '.join(sorted(SOLVERS))}."
        )
    return SOLVERS[name]


@solver("er")
def error_reduction(beta: float) -> Steps:
    """Error reduction, x' = P_S P_M x (Gerchberg & Saxton 1972; Fienup 1982)."""
    return Steps(1, 0, 1, 0, 0)


@solver("hio")
def hybrid_input_output(beta: float) -> Steps:
    """Hybrid input-output (Fienup 1982), as x' = x + P_S((1 + beta) P_M x - x) - beta P_M x.

    For a support this is Fienup's own: P_M x inside, x - beta P_M x outside. With positivity it
    is the hybrid projection reflection of Bauschke, Combettes & Luke (2003).
    """
    return Steps(1 + beta, -1, 1, 1, -beta)


@solver("raar")
def relaxed_averaged_alternating_reflections(beta: float) -> Steps:
    """RAAR, x' = beta/2 (R_S R_M + 1) x + (1 - beta) P_M x, R = 2 P - 1 (Luke 2005)."""
    return Steps(2, -1, beta, beta, 1 - 2 * beta)


@solver("rrr")
def relaxed_reflect_reflect(beta: float) -> Steps:
    """RRR, the relaxed difference map, x' = x + beta (P_S(2 P_M x - x) - P_M x) (Elser 2018)."""
    return Steps(2, -1, beta, 1, -beta)


def advance(steps: Steps, x: Tensor, y: Tensor, constraint: Constraint) -> Tensor:
    """The next iterate from x and y = P_M x, in any number of dimensions; x may be changed."""
    # A cone's projection scales with its argument, which saves two passes over memory.
    scale = steps.a if getattr(constraint, "is_cone", False) else 1.0
    goal = torch.mul(y, steps.a / scale)
    z = constraint(goal.add_(x, alpha=steps.b / scale) if steps.b else goal)
    if steps.d == 0 and steps.e == 0:
        return z * (steps.c * scale)
    return x.mul_(steps.d).add_(y, alpha=steps.e).add_(z, alpha=steps.c * scale)


@dataclass
class ProposalPull:
    """A proposal that pulls the spectrum: weight (..., m, ·) in [0, 1] towards `spectrum`."""

    spectrum: Tensor
    weight: Tensor
    strength: float = 1.0


@dataclass
class State:
    """Where a run is after `iteration` steps; its tensors are good until the next step.

    x: the iterate (..., m, m). modulus: P_M of the iterate before, the current answer with the
    measured amplitudes.
    """

    iteration: int
    x: Tensor
    modulus: Tensor


@dataclass
class Run:
    """Iterations of one solver; an iterator of states (`State`) that never ends by itself.

    Everything may be changed between steps: `constraint` (support, damping), `pull` and `steps`.
    """

    x: Tensor
    project_modulus: Modulus
    constraint: Constraint
    steps: Steps
    pull: ProposalPull | None = None
    iteration: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[State]:
        while True:
            yield self.step()

    def step(self) -> State:
        """One iteration."""
        s, x = self.steps, self.x
        spectrum = to_fourier(x)
        pull = self.pull
        if pull is not None and pull.strength > 0:
            weight = (pull.strength * pull.weight).to(spectrum.dtype)
            spectrum = torch.lerp(spectrum, pull.spectrum.to(spectrum.dtype), weight)
        y = from_fourier(self.project_modulus.project_spectrum(spectrum), self.project_modulus.m)
        self.x = advance(s, x, y, self.constraint)
        self.iteration += 1
        return State(self.iteration, self.x, y)


def iterate(
    name: str,
    x: Tensor,
    modulus: Modulus,
    constraint: Constraint,
    *,
    beta: float = 0.8,
    pull: ProposalPull | None = None,
) -> Run:
    """Start a solver of the registry from objects x (..., m, m), float or complex.

    `next(iter(run))` or `run.step()` gives the states one by one.

    Raises:
        DiffraganError: no such solver.
    """
    return Run(x.clone(), modulus, constraint, find_solver(name)(beta), pull)
