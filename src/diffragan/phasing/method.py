"""What a phasing method is: what it is given, what it gives, and its record in the registry.

A method is a function from a batch of pairs to a `Phased`. To add one at run time:

    @method("mine")
    def mine(batch: PairBatch, context: Context) -> Phased:
        wave = ...  # (b, m, m), from batch.amplitude, batch.image and batch.optics
        return phased_wave(wave, batch)

To add one to the package: a file in `methods/` and its line in `methods/__init__.py`. To offer one
from another package: an entry point of the group `diffragan.methods` that names the function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.fourier.correlation import ring_index
from diffragan.fourier.grids import double_angle_grid, even_fast_length, frequency_grid
from diffragan.fourier.volumes import CPU
from diffragan.microscope.alone import MoleculeAlone
from diffragan.microscope.imaging import contrast_of_images, projection_of_centre_wave
from diffragan.optics import Optics, defocus_along
from diffragan.phasing.methods import METHODS
from diffragan.progress import Progress
from diffragan.settings import PhaseSettings, Settings

if TYPE_CHECKING:
    from diffragan.networks.weights import LoadedWeights
    from diffragan.pairs.pairs import Pairs


@dataclass(frozen=True)
class PairBatch:
    """b pairs as a method sees them.

    pattern: (b, m, m) float32, fraction of the beam, zero frequency at [m//2, m//2].
    pattern_mask: (m, m) bool.
    image: (b, m, m) float32, mean 1; image_dose_e_per_A2: (b,).
    seeds: one integer per item for whatever a method draws.
    defocus_terms_A: (b, 3) float64, as `optics.Defocus.terms_A`; None where all images have
        `settings.image.defocus_A` and no astigmatism.
    alone: what the exposures tell of the molecule through damage and ice, `pattern` then being its
        amplitudes squared; None where patterns and images are the molecule's alone.
    """

    pattern: Tensor
    pattern_mask: Tensor
    image: Tensor
    image_dose_e_per_A2: Tensor
    optics: Optics
    settings: Settings
    seeds: Sequence[int]
    defocus_terms_A: Tensor | None = None
    alone: MoleculeAlone | None = None

    def __getitem__(self, items: slice) -> PairBatch:
        """Some of the pairs."""
        terms = self.defocus_terms_A
        return replace(
            self,
            pattern=self.pattern[items],
            image=self.image[items],
            image_dose_e_per_A2=self.image_dose_e_per_A2[items],
            seeds=self.seeds[items],
            defocus_terms_A=None if terms is None else terms[items],
            alone=None if self.alone is None else self.alone[items],
        )

    @property
    def amplitude(self) -> Tensor:
        """(b, m, m) measured amplitudes, zero frequency first, 0 where masked."""
        result: Tensor = torch.fft.ifftshift(self.pattern.clamp_min(0).sqrt(), dim=(-2, -1))
        return result

    @property
    def direct_beam(self) -> Tensor:
        """(b,) amplitude of the direct beam: what the measured band leaves of the beam."""
        return (1 - self.pattern.sum((-2, -1))).clamp_min(0).sqrt()

    @property
    def image_contrast(self) -> Tensor:
        """Contrast of the images per unit of object (`optics.image_contrast`), float64, zero
        frequency first: (b, m, m) where each image has its own defocus, else (m, m) for all."""
        m, device, terms = self.pattern.shape[-1], self.pattern.device, self.defocus_terms_A
        defocus = None if terms is None else defocus_along(terms, double_angle_grid(m, device))
        q2 = frequency_grid(m, self.optics.box_A, device)
        contrast = contrast_of_images(q2, self.optics, self.settings.image, defocus)
        return contrast if self.alone is None else contrast * self.alone.image_fade

    @property
    def image_beside(self) -> Tensor | None:
        """(b, m, m) power of what images show beside the molecule, at each frequency, zero
        frequency first: ice, which passes the same lens. None where there is nothing."""
        if self.alone is None:
            return None
        lens = self.image_contrast / self.alone.image_fade.clamp_min(1e-6)
        result: Tensor = lens**2 * self.alone.image_beside
        return result

    @property
    def projection_px(self) -> int:
        """Side of the projections: fine enough that an intensity of the band does not alias."""
        return max(even_fast_length(256 / 70 * self.optics.box_A), 2 * self.pattern.shape[-1])


@dataclass(frozen=True)
class Phased:
    """What a method gives.

    projection: (b, y, x) float32, mean about 1. wave: (b, m, m) complex64 at the centre plane, or
    None. r_factor: (b,) or None. trust: (b, rings) mean trust by ring, or None.
    start_r: (b, starts) every start's R, or None. solved: (b,) bool, judged without a truth, or
    None.
    """

    projection: Tensor
    wave: Tensor | None = None
    r_factor: Tensor | None = None
    trust: Tensor | None = None
    start_r: Tensor | None = None
    solved: Tensor | None = None


@dataclass(frozen=True)
class Context:
    """What a run gives every batch: weights where the method has a network, and the device.

    weights_path: where the weights were read from; None for the bundled ones.
    """

    weights: LoadedWeights | None = None
    weights_path: Path | None = None
    device: torch.device = CPU

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process reads the same weights."""
        from diffragan.phasing.run import same_context

        if self.weights is None:
            return Context, (None, self.weights_path, self.device)
        path = None if self.weights_path is None else self.weights_path.resolve()
        return same_context, (path, self.weights.sha256, str(self.device))


PairRun = Callable[[PairBatch, Context], Phased]


class JointRun(Protocol):
    """Phases all pairs of one molecule into a result store at `out`; arguments as `api.phase`."""

    def __call__(  # long: all that a caller of `phase` may ask for
        self,
        pairs: Pairs,
        out: Path,
        settings: Settings,
        *,
        limit: int | None,
        device: str,
        overwrite: bool,
        command: str,
        progress: Progress,
        warn: Callable[[str], None],
    ) -> None: ...


@dataclass(frozen=True)
class Method:
    """A method as the registry keeps it; call it with a batch and a context.

    run: of one batch of pairs; of all pairs together for a joint method.
    joint: whether it phases all pairs of one molecule together.
    needs_weights: whether it runs a network: given weights, or those of the name `bundled` in the
        package.
    generators: the kinds of generator (`network.generator`) that it runs.
    invents: whether it may show detail that no measurement determines, as a network does.
    options: fields of `settings.phase` that it reads, besides `batch_size` and `BESIDE_OPTIONS`.
    """

    run: PairRun | JointRun
    joint: bool = False
    needs_weights: bool = False
    bundled: str = "published.safetensors"
    generators: frozenset[str] = frozenset({"published"})
    invents: bool = False
    options: frozenset[str] = frozenset()

    def __call__(self, batch: PairBatch, context: Context) -> Phased:
        """Phase one batch.

        Raises:
            DiffraganError: a joint method, which has no batches.
        """
        if self.joint:
            raise DiffraganError(
                "This method phases all views of a molecule together, so single pairs can't be "
                "phased by it; use `diffragan reconstruct`."
            )
        return cast(PairRun, self.run)(batch, context)

    @property
    def phase_together(self) -> JointRun:
        """The run of a joint method."""
        return cast(JointRun, self.run)

    @property
    def takes(self) -> frozenset[str]:
        """What may be given by hand: fields of `settings.phase`, `weights`, and for a joint method
        the section `many_views`."""
        weights = {"weights"} if self.needs_weights else set()
        single = {"batch_size", *BESIDE_OPTIONS}
        return self.options | weights | {"method"} | ({"many_views"} if self.joint else single)


# What tells a molecule from what lies beside it, for every method of single pairs.
BESIDE_OPTIONS = frozenset({"mass_kda", "background_from"})
# What the methods that iterate read.
ITERATION_OPTIONS = (
    frozenset(PhaseSettings.model_fields)
    - {"method", "batch_size", "samples", "sample"}
    - BESIDE_OPTIONS
)


def as_method(thing: Any, name: str) -> Method:
    """A registered thing as a `Method`; a function alone has no special needs.

    Raises:
        DiffraganError: neither a `Method` nor a function.
    """
    if isinstance(thing, Method):
        return thing
    if not callable(thing):
        raise DiffraganError(
            f"The method '{name}' is a {type(thing).__name__}, neither a function (batch, context) "
            "-> Phased nor a diffragan.phasing.method.Method; repair its package."
        )
    return Method(thing)


def method(name: str) -> Callable[[PairRun], PairRun]:
    """Register a function as a phasing method."""

    def register(function: PairRun) -> PairRun:
        METHODS[name] = Method(function)
        return function

    return register


def phased_wave(
    wave: Tensor, batch: PairBatch, *, trust: Tensor | None = None, r_factor: Tensor | None = None
) -> Phased:
    """A `Phased` from a wave (b, m, m) at the centre plane; `trust` is (b, m, m), FFT order."""
    projection = projection_of_centre_wave(
        wave, batch.optics, batch.settings.projection, batch.projection_px
    )
    rings = None if trust is None else _ring_mean(trust, batch)
    return Phased(projection, wave.to(torch.complex64), r_factor, rings)


def _ring_mean(values: Tensor, batch: PairBatch) -> Tensor:
    """(b, rings) mean over the valid pixels of each ring; 0 where a ring has none."""
    m = values.shape[-1]
    mask = batch.pattern_mask.flatten()
    centred = torch.fft.fftshift(values, dim=(-2, -1)).flatten(-2)[:, mask]
    rings = ring_index(m, device=values.device).flatten()[mask]
    count = m // 2 + 1
    keep = rings < count
    sums = centred.new_zeros(len(values), count).index_add_(-1, rings[keep], centred[:, keep])
    result: Tensor = sums / torch.bincount(rings[keep], minlength=count).clamp_min(1)
    return result
