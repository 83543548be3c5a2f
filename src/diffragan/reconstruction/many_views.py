"""Many views of one molecule phase each other: the projection algorithm in 3D.

Two half sets are phased apart from the first merge on, each with its own start, mask and run; only
their correlation is looked at together. A half iterates from its images' map by the solver, with
positivity, first at low resolution, where iterations are cheap and few are needed, then with more
and more of the pattern. It is laid on the images again and again, because patterns do not see
where the molecule lies and the map would drift. It ends with error reduction without positivity,
which a band-limited map does not obey.

Where the settings say so, a half climbs the likelihood of its counts instead, as free scatterers
(`likelihood/`): a way that few electrons in all do not stop.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from diffragan.devices import STAYS
from diffragan.fourier.volumes import radius_px, volume_spectrum
from diffragan.microscope.geometry import PatternErrors
from diffragan.reconstruction.likelihood.ascent import Ascent
from diffragan.reconstruction.likelihood.damage import faded_further, found_further
from diffragan.reconstruction.maps.agreement import SHARED_BY_SCATTERERS, Agreement, agreement
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.hand import hand_of
from diffragan.reconstruction.phased_map import MapPlan, PhasedMap
from diffragan.settings import ManyViewsSettings

_TIGHT = 0.40  # of the box: a mask that goes further out asks for padding


_PADDING = 1.25


_GAIN = 0.01  # of the mean agreement: a smaller gain counts as none


_NEARLY = 0.8  # mean agreement from which little is left to gain


HistoryRow = dict[str, Any]


ITERATE, ERROR_REDUCE, CLIMB, DONE = "iterate", "error reduction", "likelihood", "done"


_STORED = (
    "limits_A", "stage", "phase", "iteration", "in_stage", "stalled", "best", "exhausted",
    "history",
)  # fmt: skip


@dataclass
class HalfMaps:
    """The run of both halves, one iteration at a time.

    limits_A: the resolutions to iterate at in turn, None for all that was measured. stage: the
    place in them. phase: `ITERATE`, then `ERROR_REDUCE`, then `DONE`; or `CLIMB` by scatterers,
    at once where orientations are given, else when projections have found them.
    further_b_A2: by how much more than told all patterns have faded, as it was found.
    """

    halves: tuple[PhasedMap, PhasedMap]
    settings: ManyViewsSettings
    limits_A: list[float | None]
    stage: int = 0
    phase: str = ITERATE
    iteration: int = 0
    in_stage: int = 0
    stalled: int = 0
    best: float = -1.0
    exhausted: bool = False
    history: list[HistoryRow] = field(default_factory=list)
    further_b_A2: float = 0.0
    measure: Agreement | None = field(default=None, metadata=STAYS)

    def state(self) -> dict[str, Any]:
        """What `from_state` goes on from, plain values and tensors on the CPU."""
        kept = {name: getattr(self, name) for name in (*_STORED, "further_b_A2")}
        kept["measure"] = None if self.measure is None else asdict(self.measure)
        kept["halves"] = [half.state() for half in self.halves]
        kept["padding"] = self.halves[0].full.flat.padding
        return kept

    @classmethod
    def from_state(
        cls,
        state: dict[str, Any],
        views: Views,
        settings: ManyViewsSettings,
        mass_kda: float | None,
        seed: int,
    ) -> HalfMaps:
        """The run as `state` left it, on the views' device."""
        further_b_A2 = state.get("further_b_A2", 0.0)
        views = faded_further(views.padded(state["padding"]), further_b_A2, mass_kda)
        first, second = (
            PhasedMap.from_state(map_plan(k, settings, mass_kda, seed), views.every_second(k), half)
            for k, half in enumerate(state["halves"])
        )
        measure = None if state["measure"] is None else Agreement(**state["measure"])
        stored = {name: state[name] for name in _STORED}
        return cls((first, second), settings, measure=measure, further_b_A2=further_b_A2, **stored)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.phase == DONE

    def step(self) -> None:
        """One iteration of both halves, and what is due after it."""
        s = self.settings
        self.iteration += 1
        self.in_stage += 1
        if self.phase == ITERATE:
            for half in self.halves:
                half.iterate(self.in_stage, image_weight(s, self.iteration))
                if s.orientations != "given" and self.in_stage % s.realign_every == 0:
                    half.realign()
            last = self.in_stage >= s.iterations
            if self.in_stage % s.check_every == 0 or last:
                self._check()
                if self.stalled >= self._patience() or last:
                    self._go_on()
        elif self.phase == CLIMB:
            if self.in_stage == 1:
                self._find_damage()
            for half in self.halves:
                half.climb((self.in_stage - 1) / s.likelihood_passes)
            if s.refine_views and self.in_stage % s.refine_views_every == 0:
                for half in self.halves:
                    half.refine_views()
                self._find_damage()
            last = self.in_stage >= s.likelihood_passes
            if self.in_stage % s.check_every == 0 or last:
                self._check()
            if last:
                self.phase = DONE
        else:
            for half in self.halves:
                half.error_reduce()
            last = self.in_stage >= error_reduction_steps(s, self.halves[0].views)
            if self.in_stage % s.check_every == 0 or last:
                self._check()
            if last:
                self.phase = DONE

    def _find_damage(self) -> None:
        """One B of all views together, where that is asked for."""
        first, second = self.halves
        mass_kda = first.plan.mass_kda
        if "damage" in self.settings.refine_views and mass_kda is not None:
            by_b_A2 = found_further((first.views, second.views), mass_kda)
            for half in self.halves:
                half.fade_further(by_b_A2)
            self.further_b_A2 = first.full.further_b_A2

    def _patience(self) -> int:
        """Checks without gain that end the present resolution: half as many where the halves
        agree nearly everywhere, and where a resolution only paves the way to the next."""
        full = self.settings.patience
        between = 0 < self.stage < len(self.limits_A) - 1
        return max(1, full // 2) if between or self.best > _NEARLY else full

    def _go_on(self) -> None:
        """To the next resolution, or to error reduction."""
        if self.settings.orientations != "given":
            self.halves[1].align_to(self.halves[0])
        if self.settings.ewald and not self.halves[0].curved:
            self._take_hand()
        if self.stage + 1 < len(self.limits_A):
            self.stage += 1
            for half in self.halves:
                half.refine_to(self.limits_A[self.stage])
        else:
            self.exhausted = self.stalled < self._patience()
            self.phase = ERROR_REDUCE if self.settings.error_reduction_iterations else DONE
            for half in self.halves:
                half.find_mask()
            if self.settings.climb_by == "likelihood":
                self.exhausted, self.phase = False, CLIMB
                for half in self.halves:
                    half.back_to_images()
        self.in_stage, self.stalled, self.best = 0, 0, -1.0

    def _take_hand(self) -> None:
        """Orientations found from nothing: the hand that the Ewald sphere's curvature tells."""
        sigma = sum(hand_of(volume_spectrum(h.map), h.views).sigma for h in self.halves)
        for half in self.halves:
            half.take_hand(mirror=sigma < 0)

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
        if self.phase == CLIMB:
            self.measure = replace(self.measure, shared=SHARED_BY_SCATTERERS)
        mean = self.measure.mean
        gained = mean > self.best + _GAIN
        if self.iteration > self.settings.image_weight_iterations:
            self.stalled = 0 if gained else self.stalled + 1
        self.best = max(self.best, mean)
        for half in self.halves:
            self.history.append(
                {
                    "iteration": self.iteration,
                    "phase": self.phase,
                    "limit_A": self.limits_A[self.stage],
                    "half": half.plan.name,
                    "r_factor": half.r_factor,
                    "resolution_A": self.measure.resolution_A,
                    "agreement": mean,
                    "views_used": int((half.views.weights >= 0.5).sum()),
                }
            )


def turned_as_they_climb(settings: ManyViewsSettings) -> bool:
    """Whether orientations are known nearly, and views are turned as scatterers climb."""
    return settings.orientations == "refine" and "orientation" in settings.refine_views


def image_weight(settings: ManyViewsSettings, iteration: int) -> float:
    """How far the images' frequencies are drawn to their map: 1 at first, fading to 0."""
    fades_over = settings.image_weight_iterations
    return max(0.0, 1 - iteration / fades_over) if fades_over else 0.0


def error_reduction_steps(settings: ManyViewsSettings, views: Views) -> int:
    """Steps at the end: a third for counts, whose noise error reduction would fit."""
    steps = settings.error_reduction_iterations
    return steps if views.electrons is None else (steps + 2) // 3


def resolution_limits(views: Views, settings: ManyViewsSettings) -> list[float | None]:
    """The resolutions to iterate at: those of the settings that end well inside the pattern, then
    all that was measured."""
    edge_A = views.optics.box_A / float(views.flat.radius.max())
    coarse = (r for r in settings.resolution_steps_A if r > 1.15 * edge_A)
    return [*sorted(coarse, reverse=True), None]


def start(views: Views, settings: ManyViewsSettings, mass_kda: float | None, seed: int) -> HalfMaps:
    """Both half sets, even and odd views, each with its own start and mask.

    Where a mask comes close to the box's edge the volume is padded, unless the settings say.
    """
    known = settings.orientations == "given" or turned_as_they_climb(settings)
    at_once = settings.climb_by == "likelihood" and known
    limits_A = resolution_limits(views, settings)
    limits_A = limits_A[-1:] if at_once else limits_A
    if settings.padding is not None:
        views = views.padded(settings.padding)
    halves = _halves(views, settings, mass_kda, seed, limits_A[0])
    if settings.padding is None:
        reach = max(
            float(radius_px(h.views.n, views.device)[h.mask].max()) / h.views.n for h in halves
        )
        if reach > _TIGHT:
            halves = _halves(views.padded(_PADDING), settings, mass_kda, seed, limits_A[0])
    return HalfMaps(halves, settings, limits_A, phase=CLIMB if at_once else ITERATE)


def _halves(
    views: Views,
    settings: ManyViewsSettings,
    mass_kda: float | None,
    seed: int,
    limit_A: float | None,
) -> tuple[PhasedMap, PhasedMap]:
    first, second = (
        PhasedMap.begin(map_plan(k, settings, mass_kda, seed), views.every_second(k), limit_A)
        for k in (0, 1)
    )
    return first, second


def map_plan(k: int, settings: ManyViewsSettings, mass_kda: float | None, seed: int) -> MapPlan:
    """What half set 0 or 1 keeps throughout."""
    return MapPlan(str(k + 1), settings, mass_kda, 2 * seed + k)


def combined(half_maps: HalfMaps, views: Views) -> PhasedMap:
    """All views together, from the mean of the half maps on by error reduction, or by the
    likelihood: the map that is handed out.

    Nothing is left out here, and the half maps stay as they are. The views lie on their device.
    """
    first, second = half_maps.halves
    mass_kda = first.plan.mass_kda
    views = faded_further(views.padded(first.full.flat.padding), half_maps.further_b_A2, mass_kda)
    for name in ("weights", "rotations", "shifts_A"):
        values = getattr(views, name).clone()
        values[0::2], values[1::2] = (getattr(half.full, name) for half in half_maps.halves)
        views = replace(views, **{name: values})
    errors = first.full.errors, second.full.errors
    if errors[0] is not None and errors[1] is not None:
        views = replace(views, errors=PatternErrors.interleaved(errors[0], errors[1]))
    result = PhasedMap.at(
        replace(first.plan, name="all", keep_free=False),
        views,
        0.5 * (first.map + second.map),
        first.mask | second.mask,
        curved=first.curved,
    )
    if half_maps.settings.climb_by == "likelihood":
        _climb_together(half_maps, result)
    else:
        for _ in range(error_reduction_steps(half_maps.settings, views)):
            result.error_reduce()
    result.weigh_views()
    if half_maps.settings.orientations != "given":
        result.find_shifts()
    return result


def _climb_together(half_maps: HalfMaps, whole: PhasedMap) -> None:
    """All views from the mean of the halves' scatterers on, through the second half of a climb."""
    first, second = (half.ascent for half in half_maps.halves)
    assert first is not None
    assert second is not None
    whole.ascent = Ascent.at(0.5 * (first.weights + second.weights))
    settings = half_maps.settings
    count = max(1, settings.likelihood_passes // 2)
    for k in range(count):
        whole.climb(0.5 + 0.5 * k / count)
        if settings.refine_views and (k + 1) % settings.refine_views_every == 0 and k + 1 < count:
            whole.refine_views()
