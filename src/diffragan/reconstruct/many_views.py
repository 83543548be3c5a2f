"""Many views of one molecule phase each other: the projection algorithm in 3D.

Two half sets are phased apart from the first merge on, each with its own start, mask and run; only
their correlation is looked at together. A half climbs from its images' map by the solver, with
positivity, first at low resolution, where iterations are cheap and the climb is short, then with
more and more of the pattern. It is laid on the images again and again, because patterns do not see
where the molecule lies and the map would drift. At the end it is polished by error reduction
without positivity, which a band-limited map does not obey.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from diffragan.phasing.solvers import SOLVERS, RealSpace, advance
from diffragan.reconstruct.agreement import Agreement, agreement
from diffragan.reconstruct.data_step import DataStep, free_balls, view_r
from diffragan.reconstruct.envelope import envelope
from diffragan.reconstruct.fourier import radius_px, resized, to_half
from diffragan.reconstruct.hand import hand_of, mirror_image, mirrored
from diffragan.reconstruct.orient import Refined, align_to_images, refine_orientations
from diffragan.reconstruct.start import (
    ImageMap,
    first_guess,
    image_map,
    moved,
    power_of_half,
    ring_power,
    shift_onto,
)
from diffragan.reconstruct.views import Views
from diffragan.settings import ManyViewsSettings

_TIGHT = 0.40  # of the box: a mask that goes further out asks for padding
_PADDING = 1.25
_GAIN = 0.01  # of the mean agreement: a smaller gain counts as none
_NEARLY = 0.8  # mean agreement from which little is left to gain
_STRAY = (3.0, 6.0)  # robust deviations of R between which a view's say falls to nothing
_TURN_DEG = 1.0  # the most a view is turned at once inside the run
_FREE_FROM_A = 6.0  # balls are left out beyond what the images show well

Row = dict[str, Any]


@dataclass
class HalfSet:
    """One half set and where its run is.

    full: its views to the measured edge; views: the same to the present resolution. x: iterate,
    map: what it says the molecule is, both (n, n, n) in FFT order. free_seed: of the balls that
    are left out; None uses all.
    """

    name: str
    full: Views
    settings: ManyViewsSettings
    mass_kda: float | None
    seed: int
    keep_free: bool = True
    curved: bool = field(init=False)
    views: Views = field(init=False)
    power: Tensor = field(init=False)
    image: ImageMap = field(init=False)
    mask: Tensor = field(init=False)
    x: Tensor = field(init=False)
    map: Tensor = field(init=False)
    project: DataStep = field(init=False)
    r_factor: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        # Orientations found from nothing may have either hand, and only flat slices fit both.
        self.curved = self.settings.ewald and self.settings.orientations != "find"

    def begin(self, resolution_A: float | None) -> None:
        """Image map, mask and start at a first resolution (None: all that was measured)."""
        self.views = self.full if resolution_A is None else self.full.limited(resolution_A)
        self.power = ring_power(self.full)
        if self.settings.orientations == "refine":
            self._turn(align_to_images(self.views))
        self.image = image_map(self.views, self.power)
        self.mask = self.find_mask(self.image.volume)
        self.x = first_guess(
            self.image, self._signal(), self.mask, self.seed, self.settings.start_noise
        )
        self.map = self.image.volume * self.mask
        self.prepare()

    def refine_to(self, resolution_A: float | None) -> None:
        """Go on at a finer resolution: what is new begins as faint noise."""
        self.views = self.full if resolution_A is None else self.full.limited(resolution_A)
        n = self.views.n
        self.x, self.map = resized(self.x, n), resized(self.map, n)
        self.image = ImageMap(
            resized(self.image.volume, n),
            torch.fft.rfftn(resized(self.image.volume, n), norm="forward"),
            image_map(self.views, self.power).known,
        )
        self.mask = self.find_mask(self.map)
        self.prepare()

    def realign(self) -> None:
        """Turn every view to where the present map explains it best, and merge anew."""
        views = self.views
        edge_A = views.optics.box_A / float(views.flat.radius.max())
        self._turn(
            refine_orientations(
                to_half(self.map), views, resolution_A=edge_A, max_step_deg=_TURN_DEG, rounds=2
            )
        )
        self.image = image_map(self.views, self.power)
        self.prepare()

    def mirror(self) -> None:
        """Take the other hand: the map's mirror image, with every view half a turn about its
        beam."""
        for name in ("x", "map", "mask"):
            setattr(self, name, mirror_image(getattr(self, name)))
        rotations = mirrored(self.views.rotations)
        self.full = replace(self.full, rotations=rotations)
        self.views = replace(self.views, rotations=rotations)
        self.image = image_map(self.views, self.power)

    def _turn(self, refined: Refined) -> None:
        self.full, self.views = refined.put_into(self.full), refined.put_into(self.views)

    def prepare(self) -> None:
        """Make the data's projection anew: after views or resolution changed."""
        s, views = self.settings, self.views
        free = None
        if self.keep_free and s.free_fraction > 0:
            reach = float(self.full.flat.radius.max())
            free = free_balls(
                views.n,
                views.flat.padding,
                reach,
                s.free_fraction,
                self.seed,
                views.optics.box_A / _FREE_FROM_A,
            )
        geometry = views.curved if self.curved else views.flat
        self.project = DataStep(views, geometry, self.power, s.damping, free, self.image)

    def find_mask(self, volume: Tensor) -> Tensor:
        """The mask of a map, by the rule of `envelope`."""
        s = self.settings
        return envelope(
            volume,
            self.views.volume_box_A,
            self.mass_kda,
            blur_A=s.mask_blur_A,
            margin_A=s.mask_margin_A,
        )

    def climb(self, iteration: int, hold: float) -> None:
        """One iteration of the solver; `hold` is the pull of the images' frequencies."""
        s = self.settings
        self.project.strength = hold
        density = RealSpace(self.mask)
        y = self.project(self.x)
        due = min(s.register_every, s.check_every, s.mask_every)
        if iteration % due == 0:
            self.map = density(y)
        self.x = advance(SOLVERS[s.solver](s.beta), self.x, y, density)
        if iteration % s.register_every == 0:
            self.register()
        if iteration % s.mask_every == 0:
            self.mask = self.find_mask(self.map)

    def polish(self) -> None:
        """One step of error reduction, without positivity."""
        self.project.strength = 0.0
        self.map = RealSpace(self.mask, positive=False)(self.project(self.map))

    def register(self) -> None:
        """Lay the map, and the iterate with it, on the images."""
        shift = shift_onto(self.map, self.image)
        self.x, self.map = moved(self.x, shift), moved(self.map, shift)

    def judge_views(self) -> None:
        """R of every view against the map; views that fit badly lose their say."""
        r = view_r(self.map, self.views, self.project.geometry)
        weights = view_weights(r) if self.settings.reject else torch.ones_like(r)
        self.r_factor = float((r * weights).sum() / weights.sum().clamp_min(1e-6))
        if bool(((weights - self.views.weights).abs() > 0.05).any()):
            self.full = replace(self.full, weights=weights)
            self.views = replace(self.views, weights=weights)
            self.project.views = self.views
            self.project.reweigh()

    def _signal(self) -> Tensor:
        return power_of_half(self.power, self.views.n, self.views.flat.padding)


def view_weights(r: Tensor) -> Tensor:
    """Weights in [0, 1] from the views' R: 1 up to three robust standard deviations above the
    median, 0 from six on."""
    middle = r.median()
    spread = (1.4826 * (r - middle).abs().median()).clamp_min(0.02 * middle)
    low, high = _STRAY
    return (1 - ((r - middle) / spread - low) / (high - low)).clamp(0, 1)


@dataclass
class Solve:
    """The run of both halves, one iteration at a time.

    stage: index in `plan`, the resolutions (None: all), then "polish" and "done" by `phase`.
    """

    halves: tuple[HalfSet, HalfSet]
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

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.phase == "done"

    def step(self, tell: Callable[[Row], None] | None = None) -> None:
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
                self._check(tell)
                if self.stalled >= self._patience() or last:
                    self._go_on()
        else:
            for half in self.halves:
                half.polish()
            last = self.in_stage >= polish_steps(s, self.halves[0].views)
            if self.in_stage % s.check_every == 0 or last:
                self._check(tell)
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
        sigma = sum(hand_of(to_half(h.map), h.views).sigma for h in self.halves)
        for half in self.halves:
            if sigma < 0:
                half.mirror()
            half.curved = True
            half.prepare()

    def _check(self, tell: Callable[[Row], None] | None) -> None:
        """R, weights and the half sets' agreement."""
        for half in self.halves:
            half.judge_views()
        self.measure = agreement(*self.halves)
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
        if tell:
            tell(self.history[-1])


def polish_steps(settings: ManyViewsSettings, views: Views) -> int:
    """Steps of the polish: a third for counts, whose noise error reduction would fit."""
    return settings.polish if views.electrons is None else (settings.polish + 2) // 3


def plan_of(views: Views, settings: ManyViewsSettings) -> list[float | None]:
    """The resolutions of the climb: those of the settings that end well inside the pattern, then
    all that was measured."""
    edge_A = views.optics.box_A / float(views.flat.radius.max())
    march = sorted((r for r in settings.march_A if r > 1.15 * edge_A), reverse=True)
    return [*march, None]


def start(views: Views, settings: ManyViewsSettings, mass_kda: float | None, seed: int) -> Solve:
    """Both half sets, even and odd views, each with its own start and mask.

    Where a mask comes close to the box's edge the volume is padded, unless the settings say.
    """
    plan = plan_of(views, settings)
    if settings.padding is not None:
        views = views.padded(settings.padding)
    halves = _halves(views, settings, mass_kda, seed, plan[0])
    if settings.padding is None:
        reach = max(float(radius_px(h.views.n)[h.mask].max()) / h.views.n for h in halves)
        if reach > _TIGHT:
            halves = _halves(views.padded(_PADDING), settings, mass_kda, seed, plan[0])
    return Solve(halves, settings, plan)


def _halves(
    views: Views,
    settings: ManyViewsSettings,
    mass_kda: float | None,
    seed: int,
    resolution_A: float | None,
) -> tuple[HalfSet, HalfSet]:
    halves = tuple(half_set(k, views, settings, mass_kda, seed) for k in (0, 1))
    for half in halves:
        half.begin(resolution_A)
    return halves[0], halves[1]


def half_set(
    k: int, views: Views, settings: ManyViewsSettings, mass_kda: float | None, seed: int
) -> HalfSet:
    """Half set 0 or 1, not begun yet."""
    return HalfSet(str(k + 1), views.every_second(k), settings, mass_kda, 2 * seed + k)


def joined(solve: Solve, views: Views) -> HalfSet:
    """All views polished together from the mean of the half maps: the map that is handed out.

    Nothing is left out here, and the half maps stay as they are.
    """
    first, second = solve.halves
    views = views.padded(first.full.flat.padding)
    for name in ("weights", "rotations", "shifts_A"):
        whole_array = getattr(views, name).clone()
        whole_array[0::2], whole_array[1::2] = (getattr(h.full, name) for h in solve.halves)
        views = replace(views, **{name: whole_array})
    whole = HalfSet("all", views, solve.settings, first.mass_kda, first.seed, keep_free=False)
    whole.views, whole.power = views, ring_power(views)
    whole.image = image_map(views, whole.power)
    whole.mask, whole.curved = first.mask | second.mask, first.curved
    whole.map = whole.x = 0.5 * (first.map + second.map)
    whole.prepare()
    for _ in range(polish_steps(solve.settings, views)):
        whole.polish()
    whole.judge_views()
    return whole
