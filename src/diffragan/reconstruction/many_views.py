"""Many views of one molecule phase each other: the projection algorithm in 3D.

Two half sets are phased apart from the first merge on, each with its own start, mask and run; only
their correlation is looked at together. A half climbs from its images' map by the solver, with
positivity, first at low resolution, where iterations are cheap and the climb is short, then with
more and more of the pattern. It is laid on the images again and again, because patterns do not see
where the molecule lies and the map would drift. At the end it is polished by error reduction
without positivity, which a band-limited map does not obey.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from diffragan.fourier.volumes import radius_px, volume_spectrum
from diffragan.reconstruction.maps.agreement import Agreement, agreement
from diffragan.reconstruction.maps.image_map import image_map, ring_power
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.hand import hand_of
from diffragan.reconstruction.phased_map import PhasedMap
from diffragan.settings import ManyViewsSettings

_TIGHT = 0.40  # of the box: a mask that goes further out asks for padding


_PADDING = 1.25


_GAIN = 0.01  # of the mean agreement: a smaller gain counts as none


_NEARLY = 0.8  # mean agreement from which little is left to gain


Row = dict[str, Any]


@dataclass
class HalfMaps:
    """The run of both halves, one iteration at a time.

    stage: index in `plan`, the resolutions (None: all), then "polish" and "done" by `phase`.
    """

    halves: tuple[PhasedMap, PhasedMap]
    settings: ManyViewsSettings
    plan: list[float | None]
    stage: int = 0
    phase: str = "climb"
    iteration: int = 0
    in_stage: int = 0
    stalled: int = 0
    best: float = -1.0
    exhausted: bool = False
    history: list[Row] = field(default_factory=list)
    measure: Agreement | None = None

    def to(self, device: torch.device) -> HalfMaps:
        """The same run on a device."""
        return replace(self, halves=(self.halves[0].to(device), self.halves[1].to(device)))

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.phase == "done"

    def step(self) -> None:
        """One iteration of both halves, and what is due after it."""
        s = self.settings
        self.iteration += 1
        self.in_stage += 1
        if self.phase == "climb":
            fading = 1 - self.iteration / s.hold_iterations if s.hold_iterations else 0.0
            for half in self.halves:
                half.climb(self.in_stage, max(0.0, fading))
                if s.orientations != "given" and self.in_stage % s.realign_every == 0:
                    half.realign()
            last = self.in_stage >= s.iterations
            if self.in_stage % s.check_every == 0 or last:
                self._check()
                if self.stalled >= self._patience() or last:
                    self._go_on()
        else:
            for half in self.halves:
                half.polish()
            last = self.in_stage >= polish_steps(s, self.halves[0].views)
            if self.in_stage % s.check_every == 0 or last:
                self._check()
            if last:
                self.phase = "done"

    def _patience(self) -> int:
        """Checks without gain that end the present resolution: half as many where the halves
        agree nearly everywhere, and where a resolution only paves the way to the next."""
        full = self.settings.patience
        between = 0 < self.stage < len(self.plan) - 1
        return max(1, full // 2) if between or self.best > _NEARLY else full

    def _go_on(self) -> None:
        """To the next resolution, or to the polish."""
        if self.settings.orientations != "given":
            self.halves[1].align_to(self.halves[0])
        if self.settings.ewald and not self.halves[0].curved:
            self._take_hand()
        if self.stage + 1 < len(self.plan):
            self.stage += 1
            for half in self.halves:
                half.refine_to(self.plan[self.stage])
        else:
            self.exhausted = self.stalled < self._patience()
            self.phase = "polish" if self.settings.polish else "done"
            for half in self.halves:
                half.mask = half.find_mask(half.map)
        self.in_stage, self.stalled, self.best = 0, 0, -1.0

    def _take_hand(self) -> None:
        """Orientations found from nothing: the hand that the Ewald sphere's curvature tells."""
        sigma = sum(hand_of(volume_spectrum(h.map), h.views).sigma for h in self.halves)
        for half in self.halves:
            if sigma < 0:
                half.mirror()
            half.curved = True
            half.prepare()

    def _check(self) -> None:
        """R, weights and the half sets' agreement."""
        for half in self.halves:
            half.weigh_views()
        first, second = self.halves
        self.measure = agreement(
            first.map,
            second.map,
            (first.project, second.project),
            aligned=self.settings.orientations == "given",
        )
        mean = self.measure.mean
        gained = mean > self.best + _GAIN
        if self.iteration > self.settings.hold_iterations:
            self.stalled = 0 if gained else self.stalled + 1
        self.best = max(self.best, mean)
        for half in self.halves:
            self.history.append(
                {
                    "iteration": self.iteration,
                    "phase": self.phase,
                    "limit_A": self.plan[self.stage],
                    "half": half.name,
                    "r_factor": half.r_factor,
                    "resolution_A": self.measure.resolution_A,
                    "agreement": mean,
                    "views_used": int((half.views.weights >= 0.5).sum()),
                }
            )


def polish_steps(settings: ManyViewsSettings, views: Views) -> int:
    """Steps of the polish: a third for counts, whose noise error reduction would fit."""
    return settings.polish if views.electrons is None else (settings.polish + 2) // 3


def plan_of(views: Views, settings: ManyViewsSettings) -> list[float | None]:
    """The resolutions of the climb: those of the settings that end well inside the pattern, then
    all that was measured."""
    edge_A = views.optics.box_A / float(views.flat.radius.max())
    coarse = (r for r in settings.resolution_steps_A if r > 1.15 * edge_A)
    return [*sorted(coarse, reverse=True), None]


def start(views: Views, settings: ManyViewsSettings, mass_kda: float | None, seed: int) -> HalfMaps:
    """Both half sets, even and odd views, each with its own start and mask.

    Where a mask comes close to the box's edge the volume is padded, unless the settings say.
    """
    plan = plan_of(views, settings)
    if settings.padding is not None:
        views = views.padded(settings.padding)
    halves = _halves(views, settings, mass_kda, seed, plan[0])
    if settings.padding is None:
        reach = max(
            float(radius_px(h.views.n, views.device)[h.mask].max()) / h.views.n for h in halves
        )
        if reach > _TIGHT:
            halves = _halves(views.padded(_PADDING), settings, mass_kda, seed, plan[0])
    return HalfMaps(halves, settings, plan)


def _halves(
    views: Views,
    settings: ManyViewsSettings,
    mass_kda: float | None,
    seed: int,
    resolution_A: float | None,
) -> tuple[PhasedMap, PhasedMap]:
    halves = tuple(half_set(k, views, settings, mass_kda, seed) for k in (0, 1))
    for half in halves:
        half.begin(resolution_A)
    return halves[0], halves[1]


def half_set(
    k: int, views: Views, settings: ManyViewsSettings, mass_kda: float | None, seed: int
) -> PhasedMap:
    """Half set 0 or 1, not begun yet."""
    return PhasedMap(str(k + 1), views.every_second(k), settings, mass_kda, 2 * seed + k)


def joined(solve: HalfMaps, views: Views) -> PhasedMap:
    """All views polished together from the mean of the half maps: the map that is handed out.

    Nothing is left out here, and the half maps stay as they are. The views lie on their device.
    """
    first, second = solve.halves
    views = views.padded(first.full.flat.padding)
    for name in ("weights", "rotations", "shifts_A"):
        whole_array = getattr(views, name).clone()
        whole_array[0::2], whole_array[1::2] = (getattr(h.full, name) for h in solve.halves)
        views = replace(views, **{name: whole_array})
    whole = PhasedMap("all", views, solve.settings, first.mass_kda, first.seed, keep_free=False)
    whole.views, whole.power = views, ring_power(views)
    whole.image = image_map(views, whole.power)
    whole.mask, whole.curved = first.mask | second.mask, first.curved
    whole.map = whole.x = 0.5 * (first.map + second.map)
    whole.prepare()
    for _ in range(polish_steps(solve.settings, views)):
        whole.polish()
    whole.weigh_views()
    if solve.settings.orientations != "given":
        whole.place()
    return whole
