"""Settings: layers, refusals in plain words, and the round trip through a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffragan.errors import DiffraganError
from diffragan.settings import (
    given_by_hand,
    load_settings,
    preset_names,
    settings_from_dict,
    settings_to_toml,
)


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
    with pytest.raises(DiffraganError, match="default, experiment, integrating-detector, n"):
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


OLD: dict[str, dict[str, Any]] = {
    "many_views": {"march_A": [4.0], "polish": 4, "hold_iterations": 9, "beta": 0.8},
    "phase": {"hold": 0.5, "hold_until": 0.25, "solver": "er"},
    "network": {"size_px": 256, "width": 0.5},
}


def test_what_an_earlier_version_wrote_is_read(tmp_path: Path) -> None:
    """A renamed key keeps its value and a removed one goes, in stores as in settings files."""
    file = tmp_path / "old.toml"
    file.write_text(
        "[many_views]\nmarch_A = [4.0]\npolish = 4\nhold_iterations = 9\n"
        "[phase]\nhold = 0.5\nhold_until = 0.25\n[network]\nsize_px = 256\n"
    )
    for found in (settings_from_dict(OLD), load_settings(file=file)):
        assert found.many_views.resolution_steps_A == (4.0,)
        assert found.many_views.error_reduction_iterations == 4
        assert found.many_views.image_weight_iterations == 9
        assert found.phase.proposal_weight == 0.5
        assert found.phase.proposal_weight_until == 0.25
    assert settings_from_dict(OLD).many_views.beta == 0.8
    assert settings_from_dict(OLD).network.width == 0.5
    assert settings_from_dict(OLD).phase.solver == "er"
    assert OLD["many_views"]["march_A"] == [4.0]


@pytest.mark.parametrize(
    ("pair", "word"),
    [
        ("many_views.march_A=[4]", r"many_views\.resolution_steps_A"),
        ("many_views.polish=3", r"many_views\.error_reduction_iterations"),
        ("phase.hold=0.5", r"phase\.proposal_weight now"),
        ("network.size_px=256", "256 pixels.*leave it out"),
    ],
)
def test_an_old_key_that_is_typed_is_refused_with_the_new_one(pair: str, word: str) -> None:
    """Who types it can type the present one."""
    with pytest.raises(DiffraganError, match=word):
        load_settings(overrides=[pair])


def test_what_was_given_by_hand_is_known(tmp_path: Path) -> None:
    """A file, --set and options are the user's word; presets and defaults are not."""
    file = tmp_path / "mine.toml"
    file.write_text("[image]\ncs_mm = 2.7\n")
    found = load_settings(
        "published", file=file, overrides=["image.snr=none"], values={"energy_ev": 300e3}
    )
    for key in ("image.cs_mm", "image.snr", "energy_ev"):
        assert given_by_hand(found, key), key
    for key in ("image.defocus_A", "simulate.box_A", "seed", "pattern.max_angle_mrad"):
        assert not given_by_hand(found, key), key
    assert found.image.defocus_A == -1000
    assert not given_by_hand(settings_from_dict({}), "image.defocus_A")


def test_published_tuned_differs_from_the_paper_in_the_training_alone() -> None:
    """Its pairs are the paper's, so the two generators are shown the same measurements."""
    tuned, printed = (load_settings(name) for name in ("published-tuned", "published"))
    for section in ("pattern", "image", "projection", "specimen", "detector"):
        assert getattr(tuned, section) == getattr(printed, section), section
    assert tuned.simulate.box_A == printed.simulate.box_A
    assert tuned.network.generator == printed.network.generator
    assert tuned.train.adversarial_weight == 0
    assert tuned.phase.method == printed.phase.method == "published"
