"""Settings of views of several molecules or conformations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from diffragan.settings.base import Frozen


class ClassesSettings(Frozen):
    """How views of several molecules or conformations are parted."""

    number: Annotated[int, Field(ge=1)] | Literal["auto", "motion"] | None = Field(
        default=None,
        description="classes that views are sorted into: so many; auto: as many as they bear; "
        "motion: none, but an order along one motion; none: all are of one molecule",
    )
    most: Annotated[int, Field(ge=1)] = Field(default=5, description="tried at most by auto")
    foreign_below: float = Field(
        default=0.0,
        description="natural logarithm of the odds, a view's class against no map at all, below "
        "which a view is thrown out as of another molecule",
    )
    least_part: Annotated[float, Field(gt=0, le=0.5)] | None = Field(
        default=None,
        description="of the views, that a class must hold; fewer count as foreign; none: 0.15, or "
        "half an even share where that is less",
    )
    starts: Annotated[int, Field(ge=1)] = Field(
        default=3, description="times that sorting is begun anew; the likeliest end is taken"
    )
    frames: Annotated[int, Field(ge=2)] = Field(
        default=11, description="maps of a motion, from one end to the other"
    )
