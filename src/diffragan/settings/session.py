"""Settings of a session at the microscope: a virtual one, and how a scan is looked through."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from diffragan.settings.base import Frozen, NotNegative, Positive

Count = Annotated[int, Field(ge=0)]
Part = Annotated[float, Field(ge=0, le=1)]


class SessionSettings(Frozen):
    """A virtual session: what lies on the grid square, and how beam and detector go over it."""

    rows: Annotated[int, Field(ge=1)] = 64
    columns: Annotated[int, Field(ge=1)] = 64
    step_A: Positive = Field(default=90.0, description="between beam positions")
    beam_diameter_A: Annotated[float, Field(ge=20, le=2000)] = Field(
        default=160.0, description="of the beam, to half its intensity"
    )
    beam_edge_A: NotNegative = Field(
        default=16.0, description="over which the beam falls from full to nothing"
    )
    molecules: Count = Field(default=700, description="of all kinds together, aggregates aside")
    shares: tuple[Positive, ...] = Field(
        default=(), description="parts of the kinds, in the order given; none: alike"
    )
    aggregates: Count = Field(default=12, description="heaps of two to five molecules")
    ice_crystals: Count = 16
    carbon_part: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.06, description="of the square that the carbon film covers, at one side"
    )
    carbon_nm: Positive = Field(default=12.0, description="thickness of that film")
    rotation_deg: Annotated[float, Field(ge=0, le=45)] = Field(
        default=4.0, description="largest angle between scan and overview; the seed draws it"
    )
    distortion: Annotated[float, Field(ge=0, le=0.1)] = Field(
        default=0.015, description="largest error of the scan's steps and shear; the seed draws it"
    )
    drift_A: NotNegative = Field(default=40.0, description="of the stage, over the whole scan")
    detector_px: Annotated[int, Field(ge=32, le=1024, multiple_of=2)] = 192
    field_A: Positive = Field(default=100.0, description="1 / the detector's pixel")
    spot_px: Positive = Field(default=0.35, description="standard deviation of the direct beam")
    overview_pixel_A: Positive = Field(
        default=1.0, description="the overview's pixel, nearly: a multiple of the waves'"
    )
    margin_A: NotNegative = Field(default=250.0, description="of the overview around the scan")
    orientations: Annotated[int, Field(ge=1)] = Field(
        default=400, description="exit waves of each kind at most; molecules share them"
    )
    waves_box_A: Positive | None = Field(
        default=None, description="side of their field; none: 10 Å more than the largest diameter"
    )


class ScanSettings(Frozen):
    """How a scan is looked through."""

    beam_diameter_A: Positive | None = Field(
        default=None, description="of the beam, to half its intensity; none: as the file tells"
    )
    step_A: Positive | None = Field(
        default=None, description="between beam positions; none: as the file tells"
    )
    threshold: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="probability from which a pattern is taken to be of molecules"
    )
    excess_sd: Positive = Field(
        default=5.0, description="standard deviations above background that a hit has at least"
    )
    illumination: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.9, description="part of the full beam that the molecule of a pair gets at least"
    )
    others: Part = Field(
        default=0.02, description="of the beam's full intensity that other particles get at most"
    )
    masses_kda: tuple[Positive, ...] = Field(
        default=(), description="weights of the kinds of molecules, to tell them apart by"
    )
    mass_error: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.2, description="by which a molecule's weight may miss its kind's"
    )
    diameter_A: Positive | None = Field(
        default=None, description="of the molecules, to find them by; none: from their weight"
    )
    turn_deg: Annotated[float, Field(ge=0, le=180)] = Field(
        default=180.0, description="largest angle between scan and overview that is tried"
    )
    likeness: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="correlation of scan and overview below which they don't belong"
    )
    block: Annotated[int, Field(ge=1)] = Field(default=256, description="frames read at a time")
