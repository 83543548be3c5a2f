"""Settings of the networks: what they are, how they are trained, and on which measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from diffragan.settings.base import Frozen, NotNegative, Positive

Range = tuple[float, float]


class NetworkSettings(Frozen):
    """Generator and discriminator of a conditional GAN."""

    generator: Literal["published", "maps"] = Field(
        default="published",
        description="the paper's, from pattern and image to a projection; or ours, which draws "
        "maps with the measured amplitudes between its stages. What follows `maps_` is for ours",
    )
    preparation: Literal["published", "amplitude"] = "published"
    pattern_as: Literal["linear", "root", "log", "rings", "blank"] = Field(
        default="linear",
        description="what the published preparation scales: intensities as they are, their root, "
        "their logarithm, amplitudes in parts of their ring's; blank: no pattern, for comparison",
    )
    width: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="factor on every channel count of the published network"
    )
    patch_px: Literal[16, 34, 70, 142, 286] = Field(
        default=16, description="receptive field of one discriminator output"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    maps_channels: Annotated[int, Field(ge=8, multiple_of=8)] = 32
    maps_stages: Annotated[int, Field(ge=1, le=32)] = 4
    maps_finest_A: Positive = Field(
        default=2.5, description="resolution to which phases are drawn; a map's pixel is half of it"
    )
    maps_pattern: Literal["imposed", "picture", "blank"] = Field(
        default="imposed",
        description="how a stage sees the pattern: as its map with the measured amplitudes put in; "
        "for comparison as a picture beside it, or not at all",
    )

    @model_validator(mode="after")
    def _one_way_to_see_a_pattern(self) -> Self:
        if self.preparation == "amplitude" and self.pattern_as != "linear":
            raise ValueError(
                f"pattern_as = '{self.pattern_as}' belongs to preparation = 'published'; "
                "'amplitude' has a scale of its own"
            )
        return self


class TrainSettings(Frozen):
    """The training loop."""

    begin_from: Path | None = Field(
        default=None, description="weights of a generator of maps that are trained on"
    )
    epochs: Annotated[int, Field(ge=1)] = 200
    max_steps: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 1
    learning_rate: Positive = 2e-5
    decay_from: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1.0, description="part of the steps after which the learning rate falls to zero"
    )
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    average: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="memory of the running average of weights that is validated and kept: 0.99 for "
        "some hundred steps; 0 keeps the weights of the last step",
    )
    l1_weight: NotNegative = 100.0
    adversarial_weight: NotNegative = Field(
        default=1.0, description="0 trains no discriminator, in a quarter of the time"
    )
    shell_weight: NotNegative = Field(
        default=0.0, description="of errors by Fourier ring, for maps"
    )
    draws: Annotated[int, Field(ge=1, le=8)] = Field(
        default=1, description="samples of an item in a step; from 2 on their spread is trained too"
    )
    discriminator_loss_factor: NotNegative = 0.5
    augment: bool = Field(default=True, description="turn exit waves by quarters at random")
    validation_structures: tuple[str, ...] = Field(
        default=(), description="stems held out; none: a tenth of the structures, at least one"
    )
    validate_every_steps: Annotated[int, Field(ge=1)] = 500
    checkpoint_every_s: Positive = 300.0
    validation_items: Annotated[int, Field(ge=1)] = 32
    mixed_precision: bool = True


class ConditionsSettings(Frozen):
    """Measurements that a generator of maps is trained on; each batch draws its own."""

    box_A: tuple[Positive, ...] = Field(
        default=(60.0, 70.0, 70.0, 70.0, 80.0, 90.0), description="one of them a batch"
    )
    defocus_A: Range = Field(default=(500.0, 3000.0), description="size of the images' defocus")
    positive_defocus: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.2, description="part of the batches whose images are overfocused"
    )
    defocus_spread_A: NotNegative = 300.0
    aperture_mrad: Range = (4.0, 7.0)
    snr: Range = Field(default=(0.1, 3.0), description="even in its logarithm")
    dose_e_per_A2: Range = Field(
        default=(1e3, 1e7), description="of counted patterns, even in its logarithm"
    )
    counted: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.4, description="part of the batches whose patterns are counted"
    )
    usual: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.3, description="part of the batches under the optics of `image` and `pattern`"
    )
    shift_A: NotNegative = Field(default=3.0, description="how far molecules lie off centre")
