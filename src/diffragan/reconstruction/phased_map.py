"""One half set of views: its start, mask, iterations, and what its views are worth to it."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from diffragan.fourier.volumes import best_shift, moved, resized, rotated, volume_spectrum
from diffragan.phasing.solvers import RealSpace, advance, find_solver
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
from diffragan.rotations import mean_rotation, mirrored
from diffragan.settings import ManyViewsSettings

_TURN_DEG = 1.0  # the most a view is turned at once inside the run


_FRAME_VIEWS = 96  # that tell how one half's frame lies in the other's


_VARIED_BLUR_A = 5.0  # of the images' map squared


_MISLED = 0.6  # of where the map varies: a mask of its density that holds less is not believed


_FREE_FROM_A = 6.0  # balls are left out beyond what the images show well


@dataclass
class PhasedMap:
    """One half set and where its run is.

    full: its views to the measured edge; views: the same to the present resolution. x: iterate,
    map: what it says the molecule is, both (n, n, n) in FFT order. keep_free: whether balls of
    Fourier space are left out.
    """

    name: str
    full: Views
    settings: ManyViewsSettings
    mass_kda: float | None
    seed: int
    keep_free: bool = True
    curved: bool = field(init=False)
    second_order: float = field(default=0.0, init=False)
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
        self.image = self._images()
        self.mask = self.find_mask(self.image.volume)
        varied = self._varied()
        if float((self.mask & varied).sum()) < _MISLED * float(varied.sum()):
            # The density lies where nothing varies: the lowest frequencies are not the molecule's.
            self.second_order = SECOND_ORDER
            self.image = self._images()
            self.mask = self._varied()
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
            self._images().known,
        )
        self.mask = self.find_mask(self.map)
        self.prepare()

    def realign(self) -> None:
        """Turn every view to where the present map explains it best, and merge anew."""
        views = self.views
        edge_A = views.optics.box_A / float(views.flat.radius.max())
        self._turn(
            refine_orientations(
                volume_spectrum(self.map),
                views,
                resolution_A=edge_A,
                max_step_deg=_TURN_DEG,
                rounds=2,
            )
        )
        self.image = self._images()
        self.prepare()

    def align_to(self, other: PhasedMap) -> None:
        """Turn and move map and views into the other half's frame, where orientations are free.

        Each half may drift as a whole, since nothing ties its frame. The turn is the common part
        of what brings a sample of the views from here to where the other map explains them; the
        views' own turns are not taken over.
        """
        few = self.views.sample(_FRAME_VIEWS)
        edge_A = self.views.optics.box_A / float(self.views.flat.radius.max())
        there = refine_orientations(
            volume_spectrum(other.map),
            few,
            resolution_A=max(3.0, edge_A),
            max_step_deg=2.0,
            rounds=4,
            shift_reach_A=0.0,
        )
        turn = mean_rotation(few.rotations.mT @ there.rotations)
        rotations = self.views.rotations @ turn
        self.x, self.map = rotated(self.x, turn), rotated(self.map, turn)
        shift = best_shift(self.map, torch.fft.rfftn(other.map))
        self.x, self.map = moved(self.x, shift), moved(self.map, shift)
        in_view = rotations @ (shift.flip(0) * self.views.voxel_A)
        changed: dict[str, Any] = {
            "rotations": rotations,
            "shifts_A": self.views.shifts_A + in_view[:, :2],
        }
        self.full, self.views = replace(self.full, **changed), replace(self.views, **changed)
        self.image = self._images()
        self.prepare()

    def mirror(self) -> None:
        """Take the other hand: the map's mirror image, with every view half a turn about its
        beam."""
        for name in ("x", "map", "mask"):
            setattr(self, name, mirror_image(getattr(self, name)))
        rotations = mirrored(self.views.rotations)
        self.full = replace(self.full, rotations=rotations)
        self.views = replace(self.views, rotations=rotations)
        self.image = self._images()

    def place(self) -> None:
        """Find where each image has the molecule of the present map; orientations stay."""
        self._turn(
            refine_orientations(
                volume_spectrum(self.map), self.views, resolution_A=5.0, max_step_deg=0.0, rounds=0
            )
        )

    def _turn(self, refined: Alignment) -> None:
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
            ).to(views.device)
        geometry = views.curved if self.curved else views.flat
        self.project = DataStep(views, geometry, self.power, s.damping, free, self.image)

    def _images(self) -> ImageMap:
        """The present views' own map."""
        return image_map(self.views, self.power, self.second_order)

    def _varied(self) -> Tensor:
        """A mask of where the images' map varies, which takes no lowest frequencies to tell."""
        blur_A = max(_VARIED_BLUR_A, self.settings.mask_blur_A)
        return self.find_mask(self.image.volume**2, blur_A)

    def find_mask(self, volume: Tensor, blur_A: float | None = None) -> Tensor:
        """The mask of a map, by the rule of `envelope`."""
        s = self.settings
        return envelope(
            volume,
            self.views.volume_box_A,
            self.mass_kda,
            blur_A=s.mask_blur_A if blur_A is None else blur_A,
            margin_A=s.mask_margin_A,
            reach_A=0.5 * self.views.optics.box_A,
        )

    def to(self, device: torch.device) -> PhasedMap:
        """The same half set, begun, on a device."""
        moved = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor | Views | ImageMap | DataStep):
                setattr(moved, name, value.to(device))
        return moved

    def climb(self, iteration: int, hold: float) -> None:
        """One iteration of the solver; `hold` is the pull of the images' frequencies."""
        s = self.settings
        self.project.strength = hold
        density = RealSpace(self.mask)
        y = self.project(self.x)
        due = min(s.register_every, s.check_every, s.mask_every)
        if iteration % due == 0:
            self.map = density(y)
        self.x = advance(find_solver(s.solver)(s.beta), self.x, y, density)
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

    def weigh_views(self) -> None:
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
        return power_by_voxel(self.power, self.views.n, self.views.flat.padding)
