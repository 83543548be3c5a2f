"""A map of a set of views: its start, mask, iterations, and what its views are worth to it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from diffragan.devices import to_device
from diffragan.fourier.volumes import CPU, best_shift, moved, resized, rotated, volume_spectrum
from diffragan.microscope.geometry import PatternErrors
from diffragan.phasing.solvers import RealSpace, advance, find_solver
from diffragan.reconstruction.likelihood.ascent import Ascent, Slope, Stage, parts_of_ring
from diffragan.reconstruction.likelihood.damage import faded_further
from diffragan.reconstruction.likelihood.images import image_target
from diffragan.reconstruction.likelihood.patterns import pattern_target
from diffragan.reconstruction.likelihood.refine_views import refine_views
from diffragan.reconstruction.likelihood.scatterers import ScattererGrid
from diffragan.reconstruction.maps.data_step import DataStep
from diffragan.reconstruction.maps.free_set import free_balls
from diffragan.reconstruction.maps.image_map import (
    SECOND_ORDER,
    ImageMap,
    first_guess,
    image_map,
    power_by_voxel,
    ring_power,
    shift_onto,
)
from diffragan.reconstruction.maps.mask import envelope
from diffragan.reconstruction.maps.view_weights import view_r, view_weights
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.hand import mirror_image
from diffragan.reconstruction.orientations.refine import (
    Alignment,
    align_to_images,
    refine_orientations,
)
from diffragan.rotations import mean_rotation, mirrored, part_along
from diffragan.settings import ManyViewsSettings

_TURN_DEG = 1.0  # the most a view is turned at once inside the run
_FRAME_VIEWS = 96  # that tell how one half's frame lies in the other's
_VARIED_BLUR_A = 5.0  # of the images' map squared
_MISLED = 0.6  # of where the map varies: a mask of its density that holds less is not believed
_FREE_FROM_A = 6.0  # balls are left out beyond what the images show well


@dataclass(frozen=True)
class MapPlan:
    """What stays the same while a map is phased.

    name: "1" or "2" of a half set, "all" of all views. mass_kda: of the molecule, None where not
    known. keep_free: whether balls of Fourier space are left out, to judge the map by.
    """

    name: str
    settings: ManyViewsSettings
    mass_kda: float | None
    seed: int
    keep_free: bool = True

    def mask(self, volume: Tensor, views: Views, blur_A: float | None = None) -> Tensor:
        """The mask (n, n, n) of a map, by the rule of `envelope`."""
        s = self.settings
        return envelope(
            volume,
            views.volume_box_A,
            self.mass_kda,
            blur_A=s.mask_blur_A if blur_A is None else blur_A,
            margin_A=s.mask_margin_A,
            reach_A=0.5 * views.optics.box_A,
        )

    def varied(self, volume: Tensor, views: Views) -> Tensor:
        """A mask of where a map varies, which takes no lowest frequencies to tell."""
        return self.mask(volume**2, views, max(_VARIED_BLUR_A, self.settings.mask_blur_A))

    def free(self, full: Views, views: Views) -> Tensor | None:
        """(n, n, n // 2 + 1) bool, the voxels left out, or None."""
        s = self.settings
        if not self.keep_free or s.free_fraction == 0:
            return None
        balls = free_balls(
            views.n,
            views.flat.padding,
            float(full.flat.radius.max()),
            s.free_fraction,
            self.seed,
            views.optics.box_A / _FREE_FROM_A,
            views.symmetry,
        )
        return balls.to(views.device)


@dataclass(kw_only=True)
class PhasedMap:
    """A map of some views and where its run is; valid from the moment that it is made.

    full: its views to the measured edge; views: the same to the present resolution, limit_A (None:
    all that was measured). x: iterate, map: what it says the molecule is, both (n, n, n) in FFT
    order. mask: (n, n, n) bool. power: (rings,) mean measured intensity. image: the images' map.
    curved: whether slices lie on the Ewald sphere. second_order: as `image_map`.
    r_factor: mean amplitude R of the views at the last look. ascent: the scatterers that the map
    is of, once it climbs by them.
    project: the data's projection, at these views and this resolution.
    """

    plan: MapPlan
    full: Views
    limit_A: float | None
    x: Tensor
    map: Tensor
    mask: Tensor
    power: Tensor
    image: ImageMap
    curved: bool
    second_order: float = 0.0
    r_factor: float = 1.0
    ascent: Ascent | None = None
    views: Views = field(init=False)
    project: DataStep = field(init=False)
    _slope: Slope | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._update()

    @classmethod
    def begin(cls, plan: MapPlan, full: Views, limit_A: float | None) -> Self:
        """Image map, mask and start at a first resolution."""
        views = _limited(full, limit_A)
        power = ring_power(full)
        s = plan.settings
        if s.orientations == "refine" and "orientation" not in s.refine_views:
            aligned = align_to_images(views)
            full, views = aligned.put_into(full), aligned.put_into(views)
        second_order = 0.0
        image = image_map(views, power)
        mask, varied = plan.mask(image.volume, views), plan.varied(image.volume, views)
        if float((mask & varied).sum()) < _MISLED * float(varied.sum()):
            # The density lies where nothing varies: the lowest frequencies are not the molecule's.
            second_order = SECOND_ORDER
            image = image_map(views, power, second_order)
            mask = plan.varied(image.volume, views)
        signal = power_by_voxel(power, views.n, views.flat.padding)
        return cls(
            plan=plan,
            full=full,
            limit_A=limit_A,
            x=first_guess(image, signal, mask, plan.seed, plan.settings.start_noise),
            map=image.volume * mask,
            mask=mask,
            power=power,
            image=image,
            # Orientations found from nothing may have either hand: only flat slices fit both.
            curved=plan.settings.ewald and plan.settings.orientations != "find",
            second_order=second_order,
        )

    @classmethod
    def at(cls, plan: MapPlan, full: Views, volume: Tensor, mask: Tensor, *, curved: bool) -> Self:
        """A given map, at all that was measured, with its views' own image map."""
        power = ring_power(full)
        return cls(
            plan=plan,
            full=full,
            limit_A=None,
            x=volume,
            map=volume,
            mask=mask,
            power=power,
            image=image_map(full, power),
            curved=curved,
        )

    def state(self) -> dict[str, Any]:
        """What `from_state` goes on from, apart from the plan and what was measured; its tensors
        lie on the CPU."""
        on_cpu = to_device(self, CPU)
        kept = {name: getattr(on_cpu, name) for name in _STORED}
        kept["image"] = {f.name: getattr(on_cpu.image, f.name) for f in fields(ImageMap)}
        kept["found"] = {name: getattr(on_cpu.full, name) for name in _PER_VIEW}
        if on_cpu.full.errors is not None:
            kept["errors"] = on_cpu.full.errors.arrays()
        if on_cpu.ascent is not None:
            kept["ascent"] = {f.name: getattr(on_cpu.ascent, f.name) for f in fields(Ascent)}
        return kept

    @classmethod
    def from_state(cls, plan: MapPlan, full: Views, state: dict[str, Any]) -> Self:
        """The map as `state` left it, on the device of its views (`full`, as they were read)."""

        def on(value: Any) -> Any:
            return value.to(full.device) if isinstance(value, Tensor) else value

        image = ImageMap(**{name: on(value) for name, value in state["image"].items()})
        per_view = {name: on(value) for name, value in state["found"].items()}
        if "errors" in state:
            errors = {name: on(value) for name, value in state["errors"].items()}
            per_view["errors"] = PatternErrors(**errors)
        stored = {name: on(state[name]) for name in _STORED}
        if "ascent" in state:
            climbed = {name: on(value) for name, value in state["ascent"].items()}
            stored["ascent"] = Ascent(**climbed)
        return cls(plan=plan, full=replace(full, **per_view), image=image, **stored)

    def refine_to(self, limit_A: float | None) -> None:
        """Go on at a finer resolution: what is new begins as faint noise."""
        views = _limited(self.full, limit_A)
        volume = resized(self.map, views.n)
        image = resized(self.image.volume, views.n)
        known = image_map(views, self.power, self.second_order).known
        self._update(
            limit_A=limit_A,
            x=resized(self.x, views.n),
            map=volume,
            mask=self.plan.mask(volume, views),
            image=ImageMap(image, torch.fft.rfftn(image, norm="forward"), known),
        )

    def realign(self) -> None:
        """Turn every view to where the present map explains it best, and merge anew."""
        refined = refine_orientations(
            volume_spectrum(self.map),
            self.views,
            resolution_A=self._edge_A,
            max_step_deg=_TURN_DEG,
            rounds=2,
        )
        self._update(full=refined.put_into(self.full), image=self._images(refined))

    def align_to(self, other: PhasedMap) -> None:
        """Turn and move map and views into the other half's frame, where orientations are free.

        Each half may drift as a whole, since nothing ties its frame. The turn is the common part
        of what brings a sample of the views from here to where the other map explains them; the
        views' own turns are not taken over.
        """
        sample = self.views.sample(_FRAME_VIEWS)
        refined = refine_orientations(
            volume_spectrum(other.map),
            sample,
            resolution_A=max(3.0, self._edge_A),
            max_step_deg=2.0,
            rounds=4,
            shift_reach_A=0.0,
        )
        turn = mean_rotation(sample.rotations.mT @ refined.rotations)
        free = self.views.free_directions()
        if free is not None:
            turn = part_along(turn, free)
        rotations = self.views.rotations @ turn
        x, volume = rotated(self.x, turn), rotated(self.map, turn)
        shift = best_shift(volume, torch.fft.rfftn(other.map))
        if free is not None:
            shift = (free @ shift.flip(0)).flip(0)
        # The images stay: a molecule that lies further on in its map is less far off in them.
        in_view = rotations @ (shift.flip(0) * self.views.voxel_A)
        full = replace(
            self.full, rotations=rotations, shifts_A=self.views.shifts_A - in_view[:, :2]
        )
        self._update(
            full=full, x=moved(x, shift), map=moved(volume, shift), image=self._images(full)
        )

    def take_hand(self, *, mirror: bool) -> None:
        """Fix the hand and go on with slices on the Ewald sphere: the present map, or its mirror
        image, with every view half a turn about its beam."""
        if not mirror:
            self._update(curved=True)
            return
        full = replace(self.full, rotations=mirrored(self.full.rotations))
        self._update(
            curved=True,
            full=full,
            image=self._images(full),
            **{name: mirror_image(getattr(self, name)) for name in ("x", "map", "mask")},
        )

    def find_shifts(self) -> None:
        """Find where each image has the molecule of the present map; orientations stay."""
        refined = refine_orientations(
            volume_spectrum(self.map), self.views, resolution_A=5.0, max_step_deg=0.0, rounds=0
        )
        # Patterns do not see shifts, so the data's projection stays.
        self.full, self.views = refined.put_into(self.full), refined.put_into(self.views)

    def find_mask(self) -> None:
        """The mask anew, from the present map."""
        self.mask = self.plan.mask(self.map, self.views)

    def iterate(self, iteration: int, image_weight: float) -> None:
        """One iteration of the solver; `image_weight` is how far the images' frequencies are drawn
        to their map."""
        s = self.plan.settings
        density = RealSpace(self.mask)
        y = self.project(self.x, image_weight)
        due = min(s.register_every, s.check_every, s.mask_every)
        if iteration % due == 0:
            self.map = density(y)
        self.x = advance(find_solver(s.solver)(s.beta), self.x, y, density)
        if iteration % s.register_every == 0:
            self.register()
        if iteration % s.mask_every == 0:
            self.find_mask()

    def error_reduce(self) -> None:
        """One step of error reduction, without positivity."""
        self.map = RealSpace(self.mask, positive=False)(self.project(self.map))

    def climb(self, done: float) -> None:
        """One pass of free scatterers over the views, up the likelihood; they begin from the map.

        Args:
            done: how much of the climb lies behind it, 0 to 1.
        """
        grid = ScattererGrid.of(self.views, Stage(done).b_A2)
        seed = self.plan.seed
        if self.ascent is None:
            self.ascent = Ascent.at(grid.weights_of(self.map, self.mask, seed))
        if self._slope is None:
            images = image_target(self.views, self.power, self.project.free)
            self._slope = Slope(self.views, images, self.mask, self.project.free)
        self._slope = replace(self._slope, views=self.views)
        self.ascent = self._slope.climb(self.ascent, Stage(done), seed)
        self.x = self.map = grid.volume(self.ascent.weights)

    def fade_further(self, by_b_A2: float) -> None:
        """Take all patterns to have faded by so much more of a B factor, Å²."""
        full = faded_further(self.full, by_b_A2, self.plan.mass_kda)
        self._update(full=full, power=ring_power(full))

    def refine_views(self) -> None:
        """Find anew of each view what the settings ask for, against the present map."""
        what = [name for name in self.plan.settings.refine_views if name != "damage"]
        if not what:
            return
        target = pattern_target(self.views, None, parts_of_ring(self.views))
        sums = target.sums(torch.fft.rfftn(self.map, norm="forward"))
        views = refine_views(self.map, target.weighted_by(sums), sums, what)
        full = replace(self.full, errors=views.errors, rotations=views.rotations)
        if "orientation" in what:
            self._update(full=full, image=self._images(full))
            self.find_shifts()
        else:
            self.full, self.views = full, views
            self.project = replace(self.project, views=views)

    def back_to_images(self) -> None:
        """The images' map in place of the present one, in the present mask."""
        self.x = self.map = self.image.volume * self.mask

    def register(self) -> None:
        """Lay the map, and the iterate with it, on the images."""
        shift = shift_onto(self.map, self.image)
        self.x, self.map = moved(self.x, shift), moved(self.map, shift)

    def weigh_views(self) -> None:
        """R of every view against the map; views that fit badly lose their weight."""
        r = view_r(self.map, self.views, self.project.geometry)
        weights = view_weights(r) if self.plan.settings.reject else torch.ones_like(r)
        self.r_factor = float((r * weights).sum() / weights.sum().clamp_min(1e-6))
        if bool(((weights - self.views.weights).abs() > 0.05).any()):
            self.full = replace(self.full, weights=weights)
            self.views = replace(self.views, weights=weights)
            self.project = replace(self.project, views=self.views)

    @property
    def _edge_A(self) -> float:
        """The present resolution."""
        return self.views.optics.box_A / float(self.views.flat.radius.max())

    def _images(self, placed: Views | Alignment) -> ImageMap:
        """The present views' own map, where they lie otherwise."""
        views = replace(self.views, rotations=placed.rotations, shifts_A=placed.shifts_A)
        return image_map(views, self.power, self.second_order)

    def _update(self, **changes: Any) -> None:
        """Take up changed fields, and make anew what follows from them."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.views = _limited(self.full, self.limit_A)
        geometry = self.views.curved if self.curved else self.views.flat
        free = self.plan.free(self.full, self.views)
        damping = self.plan.settings.damping
        self.project = DataStep(self.views, geometry, self.power, damping, free, self.image)
        self._slope = None


_STORED = ("limit_A", "x", "map", "mask", "power", "curved", "second_order", "r_factor")


_PER_VIEW = ("rotations", "shifts_A", "weights")  # of the views, by the run


def _limited(full: Views, limit_A: float | None) -> Views:
    """The views to a resolution, None for all that was measured."""
    return full if limit_A is None else full.limited(limit_A)
