"""Settings of phasing pairs one by one."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from diffragan.settings.base import Frozen, Positive


class PhaseSettings(Frozen):
    """Phasing. What follows `sample` is for the methods that iterate: raar and hybrid."""

    method: str = Field(default="image", description="a name in the registry of methods")
    batch_size: Annotated[int, Field(ge=1)] = 8
    mass_kda: Positive | None = Field(
        default=None,
        description="molecular weight, by which ice is told from the molecule; none: the store's",
    )
    background_from: str | None = Field(
        default=None, description="store or file of patterns without a molecule that tell the ice"
    )
    samples: Annotated[int, Field(ge=1)] = Field(
        default=1, description="draws of a network of maps, whose mean is taken"
    )
    sample: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="number of a sample of phases, spread as the network's trust says; none: the "
        "phases of least error, weighted by their trust",
    )
    solver: str = Field(default="rrr", description="er, hio, raar, rrr or another registered")
    beta: Annotated[float, Field(gt=0, le=2)] = 0.7
    starts: Annotated[int, Field(ge=1, le=10_000)] = 4
    iterations: Annotated[int, Field(ge=1)] = 1500
    rounds: Annotated[int, Field(ge=1, le=100)] = Field(
        default=3, description="parts of the run; between two the support is found anew"
    )
    model: Literal["real", "complex"] = "real"
    damping: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5, description="complex model: factor on Im o at each projection, at the start"
    )
    damping_end: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5, description="the same at the end; it changes evenly in between"
    )
    positive: bool = Field(default=True, description="the projected potential is not negative")
    proposal_weight: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1.0, description="weight of the proposal's phases, times trust², at the start"
    )
    proposal_weight_until: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.7, description="part of the first round after which that weight has faded to zero"
    )
    support: Literal["image", "proposal", "radius"] | None = Field(
        default=None,
        description="what the first support is of; none: the proposal where a network drew it, "
        "else the image",
    )
    support_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="first support: threshold, in parts of the 99th percentile"
    )
    support_width_A: Positive = Field(default=4.0, description="blur before that threshold")
    support_radius_A: Positive | None = Field(
        default=None, description="for support = radius; none: a quarter of the box"
    )
    shrink_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.06, description="later supports: threshold on the object of the round before"
    )
    shrink_width_A: Positive = 2.0
    noise: Literal["exact", "bounds", "poisson"] = Field(
        default="bounds", description="what counted patterns allow; without a dose: exact"
    )
    memory_mb: Annotated[int, Field(ge=16)] = Field(
        default=1024, description="limit on the solver's working arrays"
    )
    time_budget_s: Positive | None = Field(
        default=None, description="per image; a run that it ends is not repeatable to the bit"
    )
    force: bool = Field(
        default=False, description="run even where the data can't determine the object"
    )

    @model_validator(mode="after")
    def _radius_goes_with_its_support(self) -> Self:
        if self.support_radius_A is not None and self.support != "radius":
            raise ValueError("has a support_radius_A, which needs support = 'radius'")
        return self
