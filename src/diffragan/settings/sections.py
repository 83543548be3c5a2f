"""Every choice a run depends on, units in the names; frozen, and written into every output."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from diffragan.settings.base import Frozen, NotNegative, Positive
from diffragan.settings.classes import ClassesSettings
from diffragan.settings.exposures import (
    DetectorSettings,
    ImageSettings,
    PatternSettings,
    SpecimenSettings,
)
from diffragan.settings.networks import ConditionsSettings, NetworkSettings, TrainSettings
from diffragan.settings.phase import PhaseSettings
from diffragan.settings.session import ScanSettings, SessionSettings
from diffragan.settings.view_errors import ViewErrors
from diffragan.symmetry import group_name


class PrepareSettings(Frozen):
    """How an entry becomes one clean protein chain."""

    chain: str | None = None
    ph: Annotated[float, Field(ge=0, le=14)] = 7.0
    keep: tuple[Literal["ligands", "waters"], ...] = Field(
        default=(), description="hetero atoms of the chain: ligands (metals too), waters, or both"
    )
    base_url: str = "https://files.rcsb.org/download"
    retries: Annotated[int, Field(ge=0, le=20)] = 3
    cache_dir: Path | None = None


class SimulationSettings(Frozen):
    """Multislice simulation of exit waves."""

    box_A: Positive | None = Field(
        default=None, description="side of the square field; none: twice the largest diameter"
    )
    depth_A: Positive | None = Field(
        default=None, description="along the beam; none: 70 Å, or the diameter + 4 Å if larger"
    )
    engine: Literal["abtem", "torch"] = Field(
        default="abtem", description="torch: our own, atoms exact between pixels; CPU and GPU"
    )
    sampling_A: Annotated[float, Field(gt=0, le=0.3)] = 70 / 512
    slice_A: Annotated[float, Field(gt=0, le=10)] = 3.0
    keep_q_per_A: Annotated[float, Field(gt=0, le=5)] = Field(
        default=256 / 140, description="Nyquist frequency of the stored exit waves, 1/Å"
    )
    stored_as: Literal["complex64", "float16"] = Field(
        default="complex64", description="float16: in less than half the bytes, good to 0.1 %"
    )
    orientations: Annotated[int, Field(ge=1)] = 1078
    max_outside: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.02, description="largest fraction of atoms that may lie outside the box"
    )


class ProjectionSettings(Frozen):
    """The target: the image that phased data should give."""

    defocus_A: Annotated[float, Field(ge=-1e6, le=1e6)] = -50.0


class ManyViewsSettings(Frozen):
    """Phasing all views of one molecule together, in 3D."""

    solver: str = Field(default="raar", description="as phase.solver")
    beta: Annotated[float, Field(gt=0, le=2)] = 0.9
    resolution_steps_A: tuple[Positive, ...] = Field(
        default=(3.0, 2.0), description="resolutions to iterate at before all that was measured"
    )
    iterations: Annotated[int, Field(ge=1)] = Field(
        default=120, description="at each resolution, at most; it goes on by itself"
    )
    error_reduction_iterations: Annotated[int, Field(ge=0)] = Field(
        default=15, description="at the end, without positivity"
    )
    climb_by: Literal["projections", "likelihood"] = Field(
        default="projections",
        description="how a map climbs: by projections on the measured amplitudes, or as free "
        "scatterers by the likelihood of counts, for few electrons in all",
    )
    likelihood_passes: Annotated[int, Field(ge=1)] = Field(
        default=40, description="of scatterers over the views of each half set"
    )
    refine_views: ViewErrors = Field(
        default=(),
        description="of each view's pattern, found anew as scatterers climb: orientation, centre, "
        "scale (camera length), ellipse (alike in all), background (how much), damage (one B)",
    )
    refine_views_every: Annotated[int, Field(ge=1)] = Field(default=5, description="passes")
    background: bool | None = Field(
        default=None,
        description="intensity beside the molecule's is estimated, from its weight; none: where "
        "the specimen has ice or is damaged",
    )
    background_from: str | None = Field(
        default=None, description="store or file of patterns without a molecule that tell it"
    )
    ewald: bool = Field(
        default=True, description="slices on the curved Ewald sphere, Friedel mates apart"
    )
    free_fraction: Annotated[float, Field(ge=0, le=0.2)] = Field(
        default=0.05, description="of Fourier space that a half set never uses, to be judged by"
    )
    image_weight_iterations: Annotated[int, Field(ge=0)] = Field(
        default=20, description="over which the weight of the images' map fades to zero"
    )
    start_noise: NotNegative = Field(
        default=0.3, description="amplitude beyond the images at the start, in parts of the data's"
    )
    mass_kda: Positive | None = Field(
        default=None, description="molecular weight; none: the store's, or the map's own level"
    )
    mask_blur_A: Positive = 2.0
    mask_margin_A: NotNegative = 2.5
    mask_every: Annotated[int, Field(ge=1)] = Field(
        default=20, description="iterations after which the mask is found anew"
    )
    register_every: Annotated[int, Field(ge=1)] = Field(
        default=5, description="iterations after which the map is aligned to the images again"
    )
    check_every: Annotated[int, Field(ge=1)] = Field(
        default=5, description="iterations between looks at FSC, R and the views' weights"
    )
    patience: Annotated[int, Field(ge=1)] = Field(
        default=4, description="checks without gain after which a resolution is done"
    )
    padding: Annotated[float, Field(ge=1, le=2)] | None = Field(
        default=None, description="volume's side over the field's; none: 1, or 1.25 where tight"
    )
    damping: Positive = Field(
        default=0.3, description="slices that a voxel must hold before it follows them fully"
    )
    reject: bool = Field(default=True, description="views that fit badly lose their weight")
    orientations: Literal["given", "refine", "find"] = "given"
    find_by: str = Field(
        default="images",
        description="what orientations are found by: images, lines that patterns share, or "
        "relion on the images",
    )
    symmetry: str = Field(
        default="C1",
        description="of the molecule, by RELION's names: Cn, Dn, T, O, I, with its axes",
    )
    find_starts: Annotated[int, Field(ge=1)] = Field(
        default=12, description="random starts tried at most, until two agree"
    )
    realign_every: Annotated[int, Field(ge=1)] = Field(
        default=10, description="iterations between refinements of orientations, where asked for"
    )

    @field_validator("symmetry")
    @classmethod
    def _known_group(cls, value: str) -> str:
        return group_name(value)

    @model_validator(mode="after")
    def _what_goes_together(self) -> Self:
        if self.refine_views and self.climb_by != "likelihood":
            raise ValueError("refine_views is for climb_by = 'likelihood'; set that too")
        if self.symmetry != "C1" and self.climb_by == "likelihood":
            raise ValueError("climb_by = 'likelihood' takes no symmetry; leave it at C1")
        if self.symmetry != "C1" and self.orientations == "find" and self.find_by != "images":
            raise ValueError(
                f"find_by = '{self.find_by}' does not place the axes of {self.symmetry}; find the "
                "orientations by the images, or leave the symmetry at C1"
            )
        return self


class AtomsSettings(Frozen):
    """Building atoms into a map."""

    map_cycles: Annotated[int, Field(ge=1)] = Field(
        default=5, description="of refinement against the map, dropping and adding atoms"
    )
    map_steps: Annotated[int, Field(ge=1)] = Field(default=20, description="in each of them")
    pattern_cycles: Annotated[int, Field(ge=1)] = Field(
        default=4, description="of refinement against the patterns, at most"
    )
    pattern_steps: Annotated[int, Field(ge=1)] = Field(default=16, description="in each of them")
    coarsest_A: Positive = Field(default=8.0, description="of the map that is refined against")
    finest_A: Positive = Field(default=1.3, description="of the map that is refined against")
    orientation_cycles: Annotated[int, Field(ge=0)] = Field(
        default=0, description="after these, in which views are turned to where atoms fit them"
    )
    multislice_cycles: Annotated[int, Field(ge=0)] = Field(
        default=0, description="at the end, against patterns with multiple scattering"
    )
    slice_A: Positive = Field(default=3.0, description="thickest slice of the multislice")


class RelionSettings(Frozen):
    """A map by RELION's programs. What follows `ranks` is for finding and refining orientations."""

    orientations: Literal["given", "refine", "find"] = "given"
    size_px: Annotated[int, Field(ge=16, multiple_of=2)] | None = Field(
        default=None,
        description="side of the images, cut or padded in Fourier space; none: as it is",
    )
    unsolved: Literal["leave-out", "weigh", "keep"] = Field(
        default="leave-out",
        description="images judged not solved; weigh: every image counts by its mean trust",
    )
    symmetry: str = Field(default="C1", pattern=r"^[A-Za-z0-9]+$")
    ranks: Annotated[int, Field(ge=3)] = Field(
        default=3, description="processes of a refinement: a leader, and followers for each half"
    )
    threads: Annotated[int, Field(ge=1)] = Field(default=1, description="of each process")
    launcher: str = Field(default="mpirun", description="program that starts several processes")
    gpu: bool = False
    diameter_A: Positive | None = Field(
        default=None, description="of the images' mask; none: from the molecule, or 0.9 of the box"
    )
    offset_range_px: Positive = Field(
        default=2.0, description="how far a molecule may lie from its image's centre, pixels"
    )
    initial_iterations: Annotated[int, Field(ge=10)] = Field(
        default=50, description="of the ab initio search"
    )
    initial_resolution_A: tuple[Positive, Positive] = Field(
        default=(15.0, 7.0), description="of its first and last iterations; RELION 3.1"
    )
    initial_subset: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(
        default=(60, 120), description="images in its first and last iterations; RELION 3.1"
    )
    initial_healpix_order: Annotated[int, Field(ge=0, le=4)] = Field(
        default=1, description="of its orientations: 1 for steps of 30°, halved for the likely ones"
    )
    initial_poses: Annotated[int, Field(ge=1)] = Field(
        default=50, description="of an image that count as likely"
    )
    initial_arguments: tuple[str, ...] = Field(
        default=(), description="further words of the ab initio job's command line"
    )
    place_iterations: Annotated[int, Field(ge=1)] = Field(
        default=8,
        description="that place all images, where orientations are found for this package",
    )
    low_pass_A: Positive = Field(
        default=12.0, description="to which a refinement's first map is filtered"
    )
    search_again: bool = Field(
        default=True,
        description="whether a refinement of found orientations looks at all there are again; "
        "false: near those of the ab initio search, in a tenth of the time",
    )
    join_halves_A: Positive = Field(
        default=20.0, description="resolution to which half maps are averaged, to stay in one frame"
    )
    healpix_order: Annotated[int, Field(ge=1, le=5)] = Field(
        default=2, description="of a refinement's first orientations, which it halves twice over"
    )
    refine_arguments: tuple[str, ...] = Field(
        default=(), description="further words of the refinement's command line"
    )


class InspectSettings(Frozen):
    """What files of an instrument do not tell of themselves; none: as they tell, or measured."""

    reciprocal_pixel_per_A: Positive | None = Field(
        default=None, description="side of a detector's pixel in the pattern, 1/Å"
    )
    camera_length_mm: Positive | None = None
    detector_pixel_um: Positive | None = None
    rings_A: tuple[Positive, ...] = Field(
        default=(), description="spacings of rings in the pattern, to calibrate it by"
    )
    centre_px: tuple[float, float] | None = Field(
        default=None, description="row and column of the beam, to look around"
    )
    beam_diameter_A: Positive | None = Field(
        default=None, description="of the beam on the specimen: with the direct beam, the dose"
    )
    counts_per_electron: Positive = 1.0
    image_pixel_A: Positive | None = None
    image_centre_px: tuple[float, float] | None = Field(
        default=None, description="row and column of the molecule in its image; none: found"
    )
    placement: Literal["auto", "as-is", "flipped", "turned", "flipped-turned"] = Field(
        default="auto", description="how images lie to patterns; auto: the likeliest"
    )
    scan_shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None


class Settings(Frozen):
    """All of the above, with the seed that makes a run repeatable."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    energy_ev: Annotated[float, Field(ge=10e3, le=3e6)] = 200e3
    prepare: PrepareSettings = PrepareSettings()
    simulate: SimulationSettings = SimulationSettings()
    pattern: PatternSettings = PatternSettings()
    specimen: SpecimenSettings = SpecimenSettings()
    detector: DetectorSettings = DetectorSettings()
    image: ImageSettings = ImageSettings()
    projection: ProjectionSettings = ProjectionSettings()
    network: NetworkSettings = NetworkSettings()
    train: TrainSettings = TrainSettings()
    conditions: ConditionsSettings = ConditionsSettings()
    phase: PhaseSettings = PhaseSettings()
    many_views: ManyViewsSettings = ManyViewsSettings()
    atoms: AtomsSettings = AtomsSettings()
    inspect: InspectSettings = InspectSettings()
    relion: RelionSettings = RelionSettings()
    session: SessionSettings = SessionSettings()
    scan: ScanSettings = ScanSettings()
    classes: ClassesSettings = ClassesSettings()

    @model_validator(mode="after")
    def _one_symmetric_molecule(self) -> Self:
        if self.many_views.symmetry != "C1" and self.classes.number is not None:
            raise ValueError(
                "Classes are sorted without symmetry (many_views.symmetry); leave it at C1, or "
                "leave out classes.number"
            )
        return self

    @model_validator(mode="after")
    def _specimen_needs_counts(self) -> Self:
        s = self.specimen
        if self.pattern.dose_e_per_A2 is None and (s.damage or s.ice_nm or s.support):
            raise ValueError(
                "Damage, ice and a support (specimen.damage, ice_nm, support) need patterns that "
                "were counted; give their dose (pattern.dose_e_per_A2)"
            )
        return self
