"""Generator weights as one safetensors file that says what they are and came from.

Tensors are float16 or float32; the header's `diffragan` entry is JSON: settings, training set,
scale of the targets, steps. No code is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from diffragan import __version__
from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.networks.generator import PublishedGenerator
from diffragan.networks.maps_generator import MapsGenerator
from diffragan.networks.scaling import TargetScale
from diffragan.settings import NetworkSettings, Settings, settings_from_dict

FORMAT = 1
HEADER_KEY = "diffragan"


@dataclass(frozen=True)
class TrainedOn:
    """One structure of the training set."""

    stem: str
    sha256: str = ""
    sequence: str = ""


@dataclass(frozen=True)
class WeightsMetadata:
    """What a weight file says of itself.

    `n_px` and `box_A` are those of the exit waves trained on; `validation` names the structures
    that were held out, `validation_frc` is their mean FRC over the measured band, if known, and
    `validation_curve` their mean FRC by ring, ring k at q = k / box_A: what the network's phases
    are worth on a protein it has not seen.
    """

    settings: Settings
    n_px: int
    box_A: float
    energy_ev: float
    target: TargetScale | None = None
    trained_on: tuple[TrainedOn, ...] = ()
    validation: tuple[str, ...] = ()
    validation_frc: float | None = None
    validation_curve: tuple[float, ...] = ()
    steps: int = 0
    epochs: float = 0.0
    seed: int = 0
    version: str = __version__


@dataclass(frozen=True)
class LoadedWeights:
    """A generator ready to propose, and where it came from."""

    generator: nn.Module
    metadata: WeightsMetadata
    sha256: str


def save_weights(
    path: Path,
    generator: nn.Module,
    metadata: WeightsMetadata,
    precision: Literal["float16", "float32"] = "float16",
) -> None:
    """Write a generator and its metadata; the file appears whole or not at all.

    Raises:
        DiffraganError: a weight is not finite (in the chosen precision), or the disk refuses.
    """
    dtype = {"float16": torch.float16, "float32": torch.float32}[precision]
    tensors = {
        name: value.detach().to("cpu", dtype).contiguous()
        for name, value in generator.state_dict().items()
    }
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise DiffraganError(
            f"The weights for {path} are not finite in {precision}; nothing was written."
        )
    tree = {**asdict(metadata), "settings": metadata.settings.model_dump(mode="json")}
    header = {HEADER_KEY: json.dumps({"format": FORMAT, **tree})}
    write_atomically(path, save_safetensors(tensors, header))


def load_weights(path: Path, device: torch.device | str = "cpu") -> LoadedWeights:
    """Read a weight file, in float32, on a device.

    Raises:
        DiffraganError: missing, truncated, not safetensors, without diffragan's header, of
            another format, or tensors that don't fit the network it names.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DiffraganError(
            f"The weight file {path} can't be read ({error.strerror or error}); check the name."
        ) from None
    try:
        tensors = load_safetensors(content)
        header = _header(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise DiffraganError(
            f"{path} is no whole safetensors file ({error}); copy it again or train anew with "
            "`diffragan train`."
        ) from None
    metadata = _metadata(path, header)
    generator = new_generator(metadata.settings.network)
    _check_fit(path, generator.state_dict(), tensors)
    generator.load_state_dict({name: value.float() for name, value in tensors.items()})
    generator.to(device).requires_grad_(False).eval()
    return LoadedWeights(generator, metadata, hashlib.sha256(content).hexdigest())


def new_generator(network: NetworkSettings) -> nn.Module:
    """The generator that settings name, not yet trained."""
    if network.generator == "maps":
        return MapsGenerator(
            network.maps_channels, network.maps_stages, pattern=network.maps_pattern
        )
    return PublishedGenerator(network.width, network.dropout)


def _header(content: bytes) -> dict[str, Any]:
    """The JSON that `save_weights` put into the safetensors header."""
    length = int.from_bytes(content[:8], "little")
    tree = json.loads(content[8 : 8 + length])
    return dict(json.loads(tree["__metadata__"][HEADER_KEY]))


def _metadata(path: Path, header: Mapping[str, Any]) -> WeightsMetadata:
    version = header.get("format")
    if version != FORMAT:
        raise DiffraganError(
            f"The weight file {path} has format {version}, and this release reads format {FORMAT}; "
            f"use the release that wrote it ({header.get('version')})."
        )
    fields = {name: value for name, value in header.items() if name != "format"}
    try:
        fields["settings"] = settings_from_dict(fields["settings"])
        target = fields["target"]
        fields["target"] = None if target is None else TargetScale(**target)
        fields["trained_on"] = tuple(TrainedOn(**s) for s in fields["trained_on"])
        fields["validation"] = tuple(fields["validation"])
        fields["validation_curve"] = tuple(fields.get("validation_curve", ()))
        return WeightsMetadata(**fields)
    except (KeyError, TypeError, DiffraganError) as error:
        raise DiffraganError(
            f"The weight file {path} does not describe itself in full ({error}); use the release "
            f"that wrote it ({header.get('version')})."
        ) from None


def _check_fit(
    path: Path, wanted: Mapping[str, torch.Tensor], stored: Mapping[str, torch.Tensor]
) -> None:
    wrong = sorted(set(wanted) ^ set(stored)) or sorted(
        name for name in wanted if wanted[name].shape != stored[name].shape
    )
    if wrong:
        raise DiffraganError(
            f"The weights in {path} don't fit the network that the file names (first at "
            f"'{wrong[0]}'); use the release that wrote it or train anew."
        )
