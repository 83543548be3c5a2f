"""Settings of a pair's two exposures: the molecule in its ice, the detector, pattern and image."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from diffragan.settings.base import Frozen, NotNegative, Positive


class PatternSettings(Frozen):
    """The far-field exposure."""

    max_angle_mrad: Annotated[float, Field(gt=0, le=100)] = 20.0
    beam_mask_px: NotNegative = Field(
        default=0.5, description="pixels within this radius of the direct beam are masked"
    )
    dose_e_per_A2: Positive | None = Field(
        default=None, description="none: expected intensities, no counting noise"
    )


class SpecimenSettings(Frozen):
    """The molecule in ice, under the beam. By default it is undamaged, and all are alike."""

    damage: Literal["grant_grigorieff", "b_factor"] | None = Field(
        default=None, description="how coherent scattering fades with exposure; none: it does not"
    )
    damage_b_A2_per_e: Positive = Field(
        default=2.8, description="for b_factor: B in Å² that an exposure of 1 e/Å² adds"
    )
    image_first: bool = Field(default=False, description="the image is taken before the pattern")
    motion_b_A2: NotNegative = Field(
        default=0.0, description="B factor by which molecules differ, in motion and conformation"
    )
    ice_nm: NotNegative = Field(default=0.0, description="thickness of the vitreous ice")
    ice_spread: NotNegative = Field(
        default=0.0, description="of its thickness, from pair to pair: standard deviation over mean"
    )
    beam_diameter_A: Positive | None = Field(
        default=None, description="of the beam that makes a pattern; none: it is the field"
    )
    beam_edge_A: NotNegative | None = Field(
        default=None,
        description="over which the beam falls from full to nothing; none: not told, and its own "
        "diffraction is left out",
    )
    beam_offset_A: NotNegative = Field(
        default=0.0, description="of molecules from the beam's middle, standard deviation in x, y"
    )
    convergence_mrad: NotNegative = Field(
        default=0.0, description="semi-angle of a beam whose directions are independent"
    )
    displaced_water: bool = Field(
        default=False, description="molecules take the place of the ice that they lie in"
    )
    support: Literal["carbon", "graphene"] | None = Field(
        default=None, description="a film behind the molecule: amorphous carbon, or one layer"
    )
    carbon_nm: Positive = Field(default=3.0, description="thickness of the carbon film")
    energy_filter: bool = Field(default=True, description="only electrons without loss count")
    inelastic_mean_free_path_nm: Positive = 285.0
    molecules: Annotated[int, Field(ge=1)] = Field(
        default=1, description="in one orientation, whose exposures each pair is the sum of"
    )

    @model_validator(mode="after")
    def _what_a_beam_needs(self) -> Self:
        if self.beam_diameter_A is None and (self.beam_edge_A is not None or self.beam_offset_A):
            raise ValueError(
                "an edge and an offset are of a beam (beam_edge_A, beam_offset_A); give its "
                "diameter too (beam_diameter_A)"
            )
        if self.displaced_water and not self.ice_nm:
            raise ValueError("without ice no water is displaced; give its thickness (ice_nm)")
        if self.ice_spread and not self.ice_nm:
            raise ValueError("without ice nothing varies (ice_spread); give its thickness (ice_nm)")
        return self


class DetectorSettings(Frozen):
    """The detector of the patterns; by default it counts every electron where it arrives."""

    dqe: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="part of the electrons that are counted"
    )
    blur_px: NotNegative = Field(
        default=0.0, description="standard deviation of the point spread, in pixels of 1 / field"
    )
    dead_fraction: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.0, description="of the pixels, the same in all patterns"
    )
    gap_px: Annotated[int, Field(ge=0)] = Field(
        default=0, description="rows and columns between two modules that count nothing"
    )
    module_px: Annotated[int, Field(ge=8)] = Field(
        default=256, description="side of a module; the beam falls on the middle of one"
    )
    saturation_e: Positive | None = Field(
        default=None, description="electrons beyond which a pixel counts no further"
    )
    gain_spread: NotNegative = Field(
        default=0.0, description="of one electron's signal: standard deviation over mean"
    )
    readout_noise_e: NotNegative = Field(
        default=0.0, description="standard deviation that reading a pixel adds, in electrons"
    )
    centre_error_px: NotNegative = Field(
        default=0.0,
        description="by which the beam misses the middle of each pattern, in pixels of 1 / field: "
        "standard deviation in x and y",
    )
    scale_error: Annotated[float, Field(ge=0, le=0.2)] = Field(
        default=0.0, description="of the camera length, by pattern: standard deviation over mean"
    )
    ellipse: Annotated[float, Field(ge=0, le=0.2)] = Field(
        default=0.0,
        description="by this fraction patterns are longer along an angle, and shorter across it",
    )
    ellipse_deg: Annotated[float, Field(ge=-360, le=360)] = Field(
        default=0.0, description="that angle, from x towards y"
    )

    @property
    def distorts(self) -> bool:
        """Whether a pattern's pixels lie elsewhere than they are thought to."""
        return bool(self.centre_error_px or self.scale_error or self.ellipse)


class ImageSettings(Frozen):
    """The defocused real-space exposure. A dose, where given, wins over `snr`."""

    defocus_A: Annotated[float, Field(ge=-1e6, le=1e6)] = -2000.0
    defocus_spread_A: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=0.0, description="simulated images: standard deviation of their defoci"
    )
    astigmatism_A: Annotated[float, Field(ge=-1e6, le=1e6)] = Field(
        default=0.0, description="defocus along the astigmatism's angle less that across it"
    )
    astigmatism_angle_deg: Annotated[float, Field(ge=-360, le=360)] = Field(
        default=0.0, description="from x towards y, as RELION's rlnDefocusAngle"
    )
    aperture_mrad: Annotated[float, Field(gt=0, le=100)] = 5.0
    cs_mm: Annotated[float, Field(ge=-10, le=10)] = 0.0
    focal_spread_A: NotNegative = 0.0
    dose_e_per_A2: Positive | None = None
    snr: Positive | None = 0.8
    snr_band_A: tuple[Positive, Positive] = (8.0, 5.0)
    snr_field_A: Positive = Field(
        default=70.0, description="side of the field whose noise counts in the SNR"
    )
    shift_A: NotNegative = Field(
        default=0.0,
        description="simulated images: molecules lie off the middle, standard deviation in x, y",
    )
    turn_deg: Annotated[float, Field(ge=0, le=45)] = Field(
        default=0.0,
        description="simulated images: turned against the pattern, about the beam, standard "
        "deviation",
    )
    defocus_error_A: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=0.0,
        description="simulated images: standard deviation of the defocus from what is told",
    )

    @model_validator(mode="after")
    def _band_runs_outward(self) -> Self:
        if self.snr_band_A[0] <= self.snr_band_A[1]:
            raise ValueError("runs from the coarser to the finer resolution, for example [8, 5]")
        return self
