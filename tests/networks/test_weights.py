"""Weight files: what goes in comes out, and a spoiled file is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffragan.errors import DiffraganError
from diffragan.networks.generator import parameter_count, propose
from diffragan.networks.scaling import TargetScale
from diffragan.networks.weights import TrainedOn, WeightsMetadata, load_weights, save_weights
from diffragan.settings import Settings, load_settings
from tiny_networks import WIDTH, generator, random

pytestmark = pytest.mark.usefixtures("one_thread")


def metadata(width: float = WIDTH) -> WeightsMetadata:
    settings = load_settings("published", values={"network.width": width})
    return WeightsMetadata(
        settings=settings,
        n_px=256,
        box_A=70.0,
        energy_ev=200e3,
        target=TargetScale(0.6, 1.4, 0.45),
        trained_on=(TrainedOn("1abc", "00ff", "MKV"), TrainedOn("2xyz")),
        validation=("1ubq",),
        validation_frc=0.25,
        steps=120,
        epochs=1.5,
        seed=3,
    )


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_weights_round_trip(tmp_path: Path, precision: str) -> None:
    g, about = generator(), metadata()
    path = tmp_path / "w.safetensors"
    save_weights(path, g, about, precision)  # type: ignore[arg-type]
    loaded = load_weights(path)
    assert loaded.metadata == about
    assert len(loaded.sha256) == 64
    x = random(1, 2, 256, 256)
    tolerance = 0.0 if precision == "float32" else 0.01
    torch.testing.assert_close(
        propose(loaded.generator, x, [4]), propose(g, x, [4]), atol=tolerance, rtol=tolerance
    )
    per_weight = 4 if precision == "float32" else 2
    assert path.stat().st_size < per_weight * parameter_count(WIDTH) + 20_000
    assert list(tmp_path.iterdir()) == [path]


def test_same_weights_have_the_same_hash(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_weights(tmp_path / name, generator(), metadata())
    assert load_weights(tmp_path / "a").sha256 == load_weights(tmp_path / "b").sha256


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    """70,000 is a float32 but not a float16."""
    g = generator()
    next(g.output.parameters()).data.fill_(70_000.0)
    save_weights(tmp_path / "w", g, metadata(), "float32")
    before = (tmp_path / "w").read_bytes()
    with pytest.raises(DiffraganError, match="not finite"):
        save_weights(tmp_path / "w", g, metadata(), "float16")
    assert (tmp_path / "w").read_bytes() == before


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _cut_in_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def _text(path: Path) -> None:
    path.write_text("not weights")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _no_header(path: Path) -> None:
    save_file({"a": torch.zeros(2)}, path)


def _other_format(path: Path) -> None:
    save_file({"a": torch.zeros(2)}, path, {"diffragan": json.dumps({"format": 99})})


def _half_described(path: Path) -> None:
    save_file({"a": torch.zeros(2)}, path, {"diffragan": json.dumps({"format": 1})})


def _gone(path: Path) -> None:
    path.unlink()


def _other_width(path: Path) -> None:
    save_weights(path, generator(), metadata(width=1 / 32))


@pytest.mark.parametrize(
    "spoil",
    [
        _truncated,
        _cut_in_header,
        _text,
        _empty,
        _no_header,
        _other_format,
        _half_described,
        _gone,
        _other_width,
    ],
)
def test_spoiled_weight_files_are_refused_by_name(tmp_path: Path, spoil: object) -> None:
    """One plain sentence that names the file."""
    path = tmp_path / "w.safetensors"
    save_weights(path, generator(), metadata())
    assert callable(spoil)
    spoil(path)
    with pytest.raises(DiffraganError, match=r"w\.safetensors") as caught:
        load_weights(path)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message


def test_metadata_keeps_every_setting(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"image": {"snr": None, "dose_e_per_A2": 30.0}, "network": {"width": WIDTH}}
    )
    about = WeightsMetadata(settings, 256, 70.0, 200e3, TargetScale(0.5, 1.5, 0.5))
    save_weights(tmp_path / "w", generator(), about)
    assert load_weights(tmp_path / "w").metadata.settings == settings
