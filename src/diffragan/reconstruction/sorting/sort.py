"""Views of several molecules or conformations parted into classes, their orientations known.

Expectation and maximisation (Dempster et al. 1977; with maps, Scheres et al., Nat. Methods 4, 27
(2007)) with one difference: a view is only ever judged by maps that the *other* half of the views
made. So no view holds on to the class that it was thrown into by chance, and how likely the views
are tells by itself how many classes there are: a class too many explains nothing new, and empties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from diffragan.fourier.volumes import volume_spectrum
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.maps.image_map import image_map, ring_power
from diffragan.reconstruction.maps.mask import envelope
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.sorting.evidence import (
    RingSums,
    by_no_map,
    likelihood,
    pattern_fit,
    ring_sums,
    spread_of,
)
from diffragan.reconstruction.sorting.variability import directions_of

_BLUR_A, _MARGIN_A = 5.0, 4.0  # of a map squared, for its mask, and how far that is grown
_INNER = 4  # looks at what is left unexplained, for one look at the views
_LOOKS_A = (7.0, 10.0, 5.0)  # resolution at which a start looks for what tells views apart
_TINY = 1e-12


@dataclass(frozen=True)
class Stage:
    """So many turns at one resolution."""

    resolution_A: float
    turns: int


STAGES = (Stage(7.0, 6), Stage(5.0, 8))


@dataclass(frozen=True)
class SortPlan:
    """What is asked of a sort.

    mass_kda: molecular weight, for the maps' masks; None where it is not known.
    foreign_below: logarithm of the odds, a view's class against no map at all, below which it is
        of no class. least_part: of the views, that a class must hold; fewer are foreign.
    starts: how often it is begun anew; the likeliest end is taken.
    """

    mass_kda: float | None = None
    foreign_below: float = 0.0
    least_part: float = 0.15
    starts: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Sorting:
    """Views by class.

    probability: (v, classes) float64, each row adding up to 1. odds: (v,) natural logarithm of the
    odds of a view's class against no map at all. foreign: (v,) bool, views that belong to no
    class. fit: (v,) correlation of a pattern with its class's map as far as images show that,
    rings' means taken out; held_out: (v,) logarithm of each view's likelihood, both by maps that
    the other half of the views made.
    """

    probability: Tensor
    odds: Tensor
    foreign: Tensor
    fit: Tensor
    held_out: Tensor

    @property
    def classes(self) -> int:
        """How many there are."""
        return self.probability.shape[1]

    @property
    def of(self) -> Tensor:
        """(v,) int64, the class of each view from 0 on; -1 for a foreign one."""
        return torch.where(self.foreign, -1, self.probability.argmax(1))


def sort_views(
    views: Views, classes: int, plan: SortPlan = SortPlan(), progress: Progress = no_progress
) -> Sorting:
    """Views parted into that many classes, or fewer, where the views do not bear them.

    Views that one map of all explains not at all are set aside first, where they are too few for a
    class. Every start looks for directions in which the rest vary together (`variability`),
    parts it along these, and goes on from there by turns of all classes' maps and all shares.
    """
    power = ring_power(views)
    whole = _Halves.begun(views, power, plan, _ones(views, 1)).run(STAGES)
    aside = whole.foreign()
    few = float(aside.double().mean()) < plan.least_part
    kept = aside if few else torch.zeros_like(aside)
    if classes == 1:
        return whole.settled().sorting()
    ends = []
    for number in range(plan.starts):
        clean = replace(views, weights=views.weights * ~kept)
        share = _parted(clean, power, classes, plan, number)
        ends.append(_Halves.begun(views, power, plan, share, kept).run(STAGES))
        progress("sorting", number + 1, plan.starts, f"({classes} classes)")
    return max(ends, key=lambda end: end.total).settled().sorting()


def how_many(
    views: Views, most: int, plan: SortPlan = SortPlan(), progress: Progress = no_progress
) -> tuple[Sorting, list[float]]:
    """As many classes as the views bear: one more as long as it makes views likelier, by maps that
    never saw them, by more than two standard errors.

    Returns:
        The classes, and the mean likelihood of a view, a logarithm, for 1 class, 2, and so on as
        far as was tried.
    """
    best = sort_views(views, 1, plan, progress)
    means = [float(best.held_out.mean())]
    for classes in range(2, most + 1):
        tried = sort_views(views, classes, plan, progress)
        gain = tried.held_out - best.held_out
        means.append(float(tried.held_out.mean()))
        error = float(gain.std() / len(gain) ** 0.5)
        if tried.classes <= best.classes or float(gain.mean()) <= 2 * error:
            break
        best = tried
    return best, means


def resorted(views: Views, sorting: Sorting, plan: SortPlan = SortPlan()) -> Sorting:
    """The same classes from where a sort ended, on views that lie otherwise now."""
    halves = _Halves.begun(views, ring_power(views), plan, sorting.probability, sorting.foreign)
    return halves.run(STAGES[-1:]).settled().sorting()


def _ones(views: Views, classes: int) -> Tensor:
    return torch.ones(len(views), classes, dtype=torch.float64, device=views.device)


def _parted(views: Views, power: Tensor, classes: int, plan: SortPlan, number: int) -> Tensor:
    """(v, classes) shares, 0 or 1, by groups along what tells the views apart."""
    from scipy.cluster.vq import kmeans2

    look_A = _LOOKS_A[number % len(_LOOKS_A)]
    seed = 1000 * plan.seed + number
    found = directions_of(views, power, plan.mass_kda, classes - 1, resolution_A=look_A, seed=seed)
    along = torch.stack([direction.coordinate for direction in found], 1).cpu().numpy()
    inside = (views.weights > 0).cpu().numpy()
    middles, _ = kmeans2(along[inside], classes, minit="++", rng=np.random.default_rng(seed))
    near = np.linalg.norm(along[:, None] - middles, axis=-1).argmin(1)
    label = torch.from_numpy(near).to(views.device)
    return torch.nn.functional.one_hot(label, classes).double()


@dataclass(frozen=True)
class _Halves:
    """Both halves of the views, even and odd, at one place of a sort.

    share: (v, classes) parts that views have in classes. aside: (v,) bool, views without a say.
    independent: as `likelihood`. sums: of all views, each by the maps that the other half made.
    """

    views: Views
    power: Tensor
    plan: SortPlan
    share: Tensor
    aside: Tensor
    independent: float
    sums: RingSums | None = None

    @classmethod
    def begun(
        cls,
        views: Views,
        power: Tensor,
        plan: SortPlan,
        share: Tensor,
        aside: Tensor | None = None,
    ) -> _Halves:
        """At shares to begin with, before any map was made."""
        aside = torch.zeros_like(share[:, 0], dtype=torch.bool) if aside is None else aside
        volume = image_map(views, power).volume
        area = float(_mask(volume, views, plan.mass_kda).float().mean()) ** (2 / 3)
        return cls(views, power, plan, share, aside, min(1.0, area))

    @property
    def weight(self) -> Tensor:
        """(v,) float64, how much each view counts."""
        return self.views.weights.double() * ~self.aside

    @property
    def total(self) -> float:
        """Logarithm of the likelihood of all views."""
        return float(self._judged()[0].sum())

    def run(self, stages: Sequence[Stage]) -> _Halves:
        """Turns at the stages' resolutions, as far as images show anything."""
        here = self
        last = float(self.views.flat.radius[self.views.contrast.shape[1] - 1])
        finest_A = self.views.optics.box_A / last
        for stage in stages:
            limited = self.views.limited(max(stage.resolution_A, finest_A))
            for _ in range(stage.turns):
                here = here._turn(limited)
        return here

    def settled(self) -> _Halves:
        """With small classes dissolved and foreign views set aside, and turns after it until both
        stay as they are."""
        here = self
        for _ in range(3):
            part = (here.share * ~here.foreign()[:, None]).sum(0) / len(here.share)
            large = part >= here.plan.least_part
            large[part.argmax()] = True
            foreign = here.foreign()
            if bool(large.all()) and bool((foreign == here.aside).all()):
                break
            gone = here.share[:, ~large].sum(1) > 0.5
            share = here.share[:, large] + _TINY
            share = share / share.sum(1, keepdim=True)
            here = replace(here, share=share, aside=foreign | gone, sums=None).run(STAGES[-1:])
        return replace(here, aside=here.foreign())

    def foreign(self) -> Tensor:
        """(v,) bool, views that no map explains."""
        return self._judged()[2] < self.plan.foreign_below

    def sorting(self) -> Sorting:
        """What has come of it."""
        assert self.sums is not None
        held_out, share, odds = self._judged()
        spread = spread_of(self.sums, share * self.weight[:, None])
        fit = pattern_fit(self.sums, spread).gather(1, share.argmax(1, keepdim=True))[:, 0]
        return Sorting(share, odds, odds < self.plan.foreign_below, fit, held_out)

    def _turn(self, limited: Views) -> _Halves:
        """The odd views by the even ones' maps, then the even ones by the maps that these make."""
        share, seen = self.share.clone(), []
        for judged in (1, 0):
            makers, own = slice(1 - judged, None, 2), slice(judged, None, 2)
            part = share[makers] * ~self.aside[makers, None]
            spectra = class_spectra(
                limited.every_second(1 - judged), part, self.power, self.plan.mass_kda
            )
            sums = ring_sums(spectra, limited.every_second(judged))
            share[own] = _judge(sums, share[own], self.weight[own], self.independent)[1]
            seen.append(sums)
        return replace(self, share=share, sums=seen[1].interleaved(seen[0]))

    def _judged(self) -> tuple[Tensor, Tensor, Tensor]:
        assert self.sums is not None
        return _judge(self.sums, self.share, self.weight, self.independent)


def class_spectra(
    views: Views, share: Tensor, power: Tensor, mass_kda: float | None
) -> list[Tensor]:
    """Spectra, as `volume_spectrum` gives them, of the images' map of each class, in its mask.

    Args:
        share: (v, classes) how far each view belongs to each.
    """
    out = []
    for column in share.float().T:
        volume = image_map(replace(views, weights=views.weights * column), power).volume
        out.append(volume_spectrum(volume * _mask(volume, views, mass_kda)))
    return out


def _mask(volume: Tensor, views: Views, mass_kda: float | None) -> Tensor:
    """(n, n, n) bool, where a map varies: images hold no lowest frequencies."""
    return envelope(volume**2, views.volume_box_A, mass_kda, blur_A=_BLUR_A, margin_A=_MARGIN_A)


def _judge(
    sums: RingSums, share: Tensor, weight: Tensor, independent: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(v,) logarithm of each view's likelihood, by its classes or by no map; (v, classes) its
    shares in these; (v,) logarithm of the odds of all classes against no map."""
    by_classes = none = weight
    for _ in range(_INNER):
        own = share * weight[:, None]
        spread = spread_of(sums, own)
        size = own.sum(0) / weight.sum().clamp_min(_TINY)
        joint = likelihood(sums, spread, independent) + size.clamp_min(_TINY).log()
        by_classes, none = joint.logsumexp(1), by_no_map(sums, spread, independent)
        share = (joint - by_classes[:, None]).exp()
    return torch.logaddexp(by_classes, none), share, by_classes - none
