"""Settings: layers, refusals in plain words, and the round trip through a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffragan.errors import DiffraganError
from diffragan.settings import load_settings, preset_names, settings_from_dict, settings_to_toml


def test_layers_win_in_order(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[image]\nsnr = 2.0\ndefocus_A = -500\n")
    found = load_settings("published", file=file, overrides=["image.snr=3"], values={"seed": 5})
    assert found.image.snr == 3
    assert found.image.defocus_A == -500
    assert found.simulate.box_A == 70
    assert found.seed == 5


def test_published_is_the_paper() -> None:
    found = load_settings("published")
    assert (found.train.learning_rate, found.train.beta1, found.train.epochs) == (2e-5, 0.5, 200)
    assert (found.train.l1_weight, found.train.discriminator_loss_factor) == (100.0, 0.5)
    assert (found.image.defocus_A, found.image.aperture_mrad, found.image.snr) == (-1000, 5, 0.8)
    assert (found.network.width, found.network.patch_px) == (1.0, 16)
    assert found.simulate.orientations == 1078
    assert load_settings().simulate.box_A is None


@pytest.mark.parametrize(
    ("pair", "named"),
    [
        ("image.foo=1", ["image.foo", "defocus_A", "snr"]),
        ("image.snr=-1", ["image.snr", "-1", "greater than 0"]),
        ("network.patch_px=17", ["network.patch_px", "17", "16, 34, 70, 142 or 286"]),
        ("image.snr_band_A=[5, 8]", ["image", "coarser"]),
        ("image.defocus_A=nan", ["image.defocus_A", "finite"]),
        ("image.snr", ["key=value"]),
        ("nonsense.a=1", ["nonsense", "image", "pattern"]),
    ],
)
def test_wrong_keys_and_values_are_named(pair: str, named: list[str]) -> None:
    with pytest.raises(DiffraganError) as caught:
        load_settings(overrides=[pair])
    for word in named:
        assert word in str(caught.value)


def test_unknown_presets_and_files(tmp_path: Path) -> None:
    with pytest.raises(DiffraganError, match="default, published"):
        load_settings("nature")
    with pytest.raises(DiffraganError, match=r"none\.toml"):
        load_settings(file=tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("[image\n")
    with pytest.raises(DiffraganError, match=r"bad\.toml is not TOML"):
        load_settings(file=bad)


@pytest.mark.parametrize("preset", preset_names())
def test_files_and_stores_return_the_same_settings(preset: str, tmp_path: Path) -> None:
    settings = load_settings(
        preset, overrides=["image.snr=none", "image.dose_e_per_A2=20", 'prepare.chain="B"']
    )
    assert settings.image.snr is None
    file = tmp_path / "s.toml"
    file.write_text(settings_to_toml(settings))
    assert load_settings("default", file=file) == settings
    assert load_settings("published", file=file) == settings
    assert settings_from_dict(settings.model_dump(mode="json")) == settings
