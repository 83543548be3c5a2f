"""RELION particles as pairs: what their STAR files tell is used, or refused in words."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch

from diffragan.errors import DiffraganError
from diffragan.files.star import Particles, write_projections
from diffragan.files.store import open_results
from diffragan.fourier.grids import frequency_grid
from diffragan.microscope.imaging import defocused_image
from diffragan.optics import Optics
from diffragan.pairs.open import open_pairs
from diffragan.pairs.pairs import Pairs
from diffragan.rotations import quasi_uniform
from diffragan.settings import Settings, load_settings, settings_from_dict
from quick_runs import run

N, M, BOX = 3, 112, 70.0


def stack(path: Path, seed: int, n: int = N, side: int = M) -> Path:
    """Images of mean 1 with a little noise, and a pixel of 70 Å / 112."""
    data = np.random.default_rng(seed).normal(1, 0.01, (n, side, side)).astype(np.float32)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(np.abs(data) / side**2 / 2 if seed == 0 else data)
        file.set_image_stack()
        file.voxel_size = BOX / M
    return path


def star(path: Path, name: str = "i.mrcs", /, **columns: Any) -> Path:
    """Particles of a stack, with more columns: a value of the optics group, or one a particle."""
    table = {"rlnImageName": [f"{k + 1:06d}@{name}" for k in range(N)], "rlnOpticsGroup": [1] * N}
    groups: dict[str, Any] = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [BOX / M]}
    for key, value in columns.items():
        if np.ndim(value):
            table[key] = value
        else:
            groups[key] = [value]
    starfile.write({"optics": pd.DataFrame(groups), "particles": pd.DataFrame(table)}, path)
    return path


def pairs_of(folder: Path, settings: Settings | None = None, /, **columns: Any) -> Pairs:
    """Patterns in a stack, images as particles."""
    stack(folder / "i.mrcs", 1)
    image = star(folder / "i.star", **columns)
    return open_pairs(stack(folder / "p.mrcs", 0), image=image, settings=settings)


@pytest.mark.parametrize(("defocus_A", "cs_mm"), [(12000.0, 2.7), (-9000.0, 2.7), (4000.0, 0.0)])
def test_the_contrast_transfer_is_relions(defocus_A: float, cs_mm: float, tmp_path: Path) -> None:
    """The image of a weak phase object is 2 sin(chi) times it, with chi as RELION's CTF has it:
    so its zeros lie where RELION fitted them, and underfocus makes a molecule dark."""
    lens = {"rlnDefocusU": [defocus_A + 2] * N, "rlnDefocusV": [defocus_A - 2] * N}
    pairs = pairs_of(tmp_path, rlnVoltage=300.0, rlnSphericalAberration=cs_mm, **lens)
    image = pairs.settings.image
    assert pairs.optics.energy_ev == pairs.settings.energy_ev == 300e3
    assert (image.defocus_A, image.cs_mm) == (defocus_A, cs_mm)

    q2 = frequency_grid(M, BOX)
    axis = (torch.arange(M, dtype=torch.float64) - M // 2) * BOX / M
    phase = 1e-3 * torch.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / 2)
    optics = Optics(300e3, BOX, pairs.optics.centre_to_exit_A)
    taken = defocused_image(torch.polar(torch.ones_like(phase), phase)[None], optics, image, M)[0]
    ratio = torch.fft.fft2(taken.double() - 1) / torch.fft.fft2(phase)

    wavelength = 12.2643247 / math.sqrt(300e3 * (1 + 300e3 * 0.978466e-6))
    k1, k2 = math.pi * wavelength, math.pi / 2 * cs_mm * 1e7 * wavelength**3
    expected = 2 * torch.sin(-k1 * defocus_A * q2 + k2 * q2**2)
    inside = (q2 > 0) & (q2 < (0.9 * image.aperture_mrad * 1e-3 / wavelength) ** 2)
    torch.testing.assert_close(ratio.real[inside], expected[inside], atol=0.03, rtol=0)
    assert (float(taken[M // 2, M // 2]) < 1) == (defocus_A > 0)


def test_presets_give_way_and_a_hand_does_not(tmp_path: Path) -> None:
    """A preset's defocus is nobody's word; a user's is, and where it differs both are named."""
    lens = {"rlnDefocusU": [5000.0] * N, "rlnDefocusV": [5000.0] * N}
    assert pairs_of(tmp_path, load_settings("published"), **lens).settings.image.defocus_A == 5000
    agreed = load_settings(values={"image.defocus_A": 5001.0})
    assert pairs_of(tmp_path, agreed, **lens).settings.image.defocus_A == 5001
    for key, value, word in (
        ("image.defocus_A", -1000.0, r"i\.star tells image\.defocus_A = 5000.*-1000 was given"),
        ("energy_ev", 200e3, r"i\.star tells energy_ev = 300000.*200000 was given"),
        ("image.cs_mm", 0.0, r"i\.star tells image\.cs_mm = 2\.7.*= 0 was given"),
    ):
        settings = load_settings(values={key: value})
        with pytest.raises(DiffraganError, match=word):
            pairs_of(tmp_path, settings, rlnVoltage=300.0, rlnSphericalAberration=2.7, **lens)


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({"rlnDefocusU": [5000.0] * N, "rlnDefocusV": [4800.0] * N}, r"astigmatic.*200 Å apart"),
        ({"rlnVoltage": [200.0, 300, 300]}, r"differ in rlnVoltage \(200, 300\)"),
        ({"rlnSphericalAberration": [0.0, 2.7, 2.7]}, "differ in rlnSphericalAberration"),
        ({"rlnPhaseShift": [90.0] * N}, "phase plate"),
        ({"rlnDefocusU": [5000.0, math.nan, 5000]}, "no number for every rlnDefocusU"),
        ({"rlnVoltage": 0.0}, r"i\.star tells what can't be.*energy_ev"),
        ({"rlnDefocusU": [2e6] * N}, r"i\.star tells what can't be.*image\.defocus_A"),
        (
            dict.fromkeys(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), [math.nan] * N),
            "no numbers",
        ),
    ],
)
def test_what_one_lens_can_not_be_is_refused(
    columns: dict[str, Any], word: str, tmp_path: Path
) -> None:
    """A run at another lens than the images' would phase noise and say nothing."""
    with pytest.raises(DiffraganError, match=word):
        pairs_of(tmp_path, **columns)


def test_optics_groups_that_differ_are_named(tmp_path: Path) -> None:
    """One run has one energy and one spherical aberration; the message says what to part."""
    stack(tmp_path / "i.mrcs", 1)
    path = star(tmp_path / "i.star", rlnOpticsGroup=[1, 4, 1])
    tables = starfile.read(path, always_dict=True)
    for name, values in (("rlnVoltage", [300, 200]), ("rlnSphericalAberration", [2.7, 0.01])):
        tables["optics"] = pd.DataFrame({"rlnOpticsGroup": [1, 4], name: values})
        starfile.write(tables, path, overwrite=True)
        word = (
            rf"optics groups of .*i\.star.* {name} \({values[0]} in group 1, {values[1]} in group 4"
        )
        with pytest.raises(DiffraganError, match=word):
            open_pairs(stack(tmp_path / "p.mrcs", 0), image=path)
    tables["particles"]["rlnOpticsGroup"] = [1, 3, 1]
    starfile.write(tables, path, overwrite=True)
    with pytest.raises(DiffraganError, match="no number for every rlnSphericalAberration"):
        open_pairs(tmp_path / "p.mrcs", image=path)


def test_each_particle_has_its_own_defocus(tmp_path: Path) -> None:
    """RELION's U, V and angle, in the order of the images; the settings get the mean."""
    lens = {
        "rlnDefocusU": [-1000.0, -1500, -2000],
        "rlnDefocusV": [-1000.0, -1400, -2000],
        "rlnDefocusAngle": [0.0, 30, 90],
    }
    found = pairs_of(tmp_path, **lens)
    assert found.defocus is not None
    for values, told in zip(vars(found.defocus).values(), lens.values(), strict=True):
        np.testing.assert_array_equal(values, told)
    assert found.settings.image.defocus_A == pytest.approx(-8900 / 6)
    again = open_pairs(
        tmp_path / "p.mrcs",
        image=tmp_path / "i.star",
        settings=settings_from_dict(found.settings.model_dump()),
    )
    assert again.defocus is not None
    np.testing.assert_array_equal(again.defocus.terms_A, found.defocus.terms_A)
    assert again.settings == found.settings


def test_one_astigmatism_is_a_setting_too(tmp_path: Path) -> None:
    """An astigmatic lens that is the same for all is told by a file, or by hand for a file that
    tells none; either way the images have it."""
    lens = {"rlnDefocusU": [-900.0] * N, "rlnDefocusV": [-1100.0] * N}
    told = pairs_of(tmp_path, **lens, rlnDefocusAngle=[25.0] * N)
    image = told.settings.image
    assert (image.defocus_A, image.astigmatism_A) == pytest.approx((-1000, 200))
    assert image.astigmatism_angle_deg == pytest.approx(25)
    by_hand = {
        "image.defocus_A": -1000.0,
        "image.astigmatism_A": 200.0,
        "image.astigmatism_angle_deg": 25.0,
    }
    hand = pairs_of(tmp_path, load_settings(values=by_hand))
    assert told.defocus is not None
    assert hand.defocus is not None
    np.testing.assert_allclose(told.defocus.terms_A, hand.defocus.terms_A, atol=1e-9)


@pytest.mark.parametrize(
    ("by_hand", "word"),
    [
        (
            {"defocus_A": -1000.0},
            r"image\.defocus_A = -2000 to -1000, and .*-1000 was given by hand",
        ),
        (
            {"defocus_A": -1500.0},
            r"image\.defocus_A = -2000 to -1000, and .*-1500 was given by hand",
        ),
        ({"astigmatism_A": 0.0}, r"astigmatism_A = 0 to 60 at 0 to 30 degrees, and .* 0 at"),
        ({"astigmatism_angle_deg": 80.0}, r"at 0 to 30 degrees, and .* 20 at 80 degrees was given"),
    ],
)
def test_a_hand_that_disagrees_with_the_particles_is_refused(
    by_hand: dict[str, float], word: str, tmp_path: Path
) -> None:
    """Also where it is the mean of theirs: a run at one defocus would be wrong for most."""
    lens = {
        "rlnDefocusU": [-1000.0, -1440, -2000],
        "rlnDefocusV": [-1000.0, -1500, -2000],
        "rlnDefocusAngle": [0.0, 30, 0],
    }
    settings = load_settings(values={f"image.{key}": value for key, value in by_hand.items()})
    with pytest.raises(DiffraganError, match=r"i\.star tells .*" + word):
        pairs_of(tmp_path, settings, **lens)


def test_unused_optics_groups_do_not_count(tmp_path: Path) -> None:
    """RELION keeps the table of all groups when particles are selected."""
    stack(tmp_path / "i.mrcs", 1)
    path = star(tmp_path / "i.star")
    tables = starfile.read(path, always_dict=True)
    tables["optics"] = pd.DataFrame(
        {"rlnOpticsGroup": [1, 2], "rlnVoltage": [300, 200], "rlnImagePixelSize": [BOX / M, 9]}
    )
    starfile.write(tables, path, overwrite=True)
    pairs = open_pairs(stack(tmp_path / "p.mrcs", 0), image=path)
    assert pairs.optics.energy_ev == 300e3
    assert pairs.box_A == pytest.approx(BOX)


def test_two_files_must_agree_on_the_energy(tmp_path: Path) -> None:
    """A pattern and its image are of one beam; a defocus in the patterns' file gives way."""
    stack(tmp_path / "i.mrcs", 1)
    stack(tmp_path / "p.mrcs", 0)
    lens = {"rlnDefocusU": [5000.0] * N}
    image = star(tmp_path / "i.star", rlnVoltage=300.0, **lens)
    patterns = star(tmp_path / "p.star", "p.mrcs", rlnVoltage=300.0, rlnDefocusU=[9.0] * N)
    found = open_pairs(patterns, image=image)
    assert (found.optics.energy_ev, found.settings.image.defocus_A) == (300e3, 5000)
    patterns = star(tmp_path / "q.star", "p.mrcs", rlnVoltage=200.0)
    with pytest.raises(DiffraganError, match=r"q\.star .* 200 keV and .*i\.star .* 300 keV"):
        open_pairs(patterns, image=image)


def test_a_run_keeps_the_lens_of_its_file(tmp_path: Path) -> None:
    """It is in the result's settings, so that evaluation images the pairs as they were taken."""
    pairs_of(tmp_path, rlnDefocusU=[5000.0] * N, rlnVoltage=300.0)
    files = (tmp_path / "p.mrcs", "--image", tmp_path / "i.star")
    out = tmp_path / "phased.zarr"
    code, text = run("phase", *files, "--out", out, "--method", "image")
    assert code == 0, text
    settings = open_results(out).settings
    assert (settings["image"]["defocus_A"], settings["energy_ev"]) == (5000, 300e3)
    code, text = run("evaluate", out, "--out", tmp_path / "report")
    assert code == 0, text


def test_paths_of_a_relion_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks are named from the project's folder, wherever the command is run."""
    job = tmp_path / "project" / "Extract" / "job001"
    job.mkdir(parents=True)
    stack(job / "i.mrcs", 1)
    patterns = stack(tmp_path / "p.mrcs", 0)
    image = star(job / "particles.star", "Extract/job001/i.mrcs")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder in (tmp_path / "project", elsewhere, job):
        monkeypatch.chdir(folder)
        assert open_pairs(patterns, image=image).n == N
    # Run from the project's root, on a STAR file that lies somewhere else.
    moved = star(elsewhere / "moved.star", "Extract/job001/i.mrcs")
    monkeypatch.chdir(tmp_path / "project")
    assert open_pairs(patterns, image=moved).n == N
    monkeypatch.chdir(elsewhere)
    with pytest.raises(DiffraganError) as caught:
        open_pairs(patterns, image=moved)
    for word in ("Extract/job001/i.mrcs", "moved.star", str(elsewhere), "above the STAR file"):
        assert word in str(caught.value)


def test_a_wrong_name_of_an_image_is_refused(tmp_path: Path) -> None:
    """RELION counts images from 1."""
    for name, word in (("i.mrcs", "NUMBER@STACK"), ("000009@i.mrcs", "image 9 of i.mrcs.* has 3")):
        stack(tmp_path / "i.mrcs", 1)
        table = pd.DataFrame({"rlnImageName": [name] * N})
        starfile.write({"particles": table}, tmp_path / "i.star", overwrite=True)
        with pytest.raises(DiffraganError, match=word):
            open_pairs(stack(tmp_path / "p.mrcs", 0), image=tmp_path / "i.star")


def test_angles_and_origins_of_the_images_are_used(tmp_path: Path) -> None:
    """They come back as `write_projections` wrote them: one sign and one convention."""
    rotations = quasi_uniform(N)
    shifts = np.random.default_rng(3).normal(size=(N, 2))
    patterns = stack(tmp_path / "p.mrcs", 0)
    particles = Particles(N, rotations, shifts)
    noise = np.random.default_rng(1).normal(5, 1, (N, M, M))
    write_projections(tmp_path / "i.mrcs", [noise], particles, BOX / M, 200e3)
    found = open_pairs(patterns, image=tmp_path / "i.star")
    assert found.rotation is not None
    assert found.shifts_A is not None
    np.testing.assert_allclose(found.rotation, rotations, atol=1e-6)
    np.testing.assert_allclose(found.shifts_A, shifts, atol=1e-6)


def test_angles_that_contradict_are_refused(tmp_path: Path) -> None:
    """Where both files have them; origins are the images', as a pattern doesn't move."""
    stack(tmp_path / "i.mrcs", 1)
    stack(tmp_path / "p.mrcs", 0)
    one = {"rlnAngleRot": [10.0, 20, 30], "rlnAngleTilt": [1.0] * N, "rlnAnglePsi": [2.0] * N}
    origin = {"rlnOriginXAngst": [3.0] * N, "rlnOriginYAngst": [-1.0] * N}
    image = star(tmp_path / "i.star", **one, **origin)
    patterns = star(tmp_path / "p.star", "p.mrcs", **one, rlnOriginXAngst=[0.0] * N)
    found = open_pairs(patterns, image=image)
    assert found.shifts_A is not None
    np.testing.assert_array_equal(found.shifts_A, [[-3.0, 1.0]] * N)
    other = one | {"rlnAngleRot": [10.0, 20, 31]}
    patterns = star(tmp_path / "q.star", "p.mrcs", **other)
    with pytest.raises(DiffraganError, match=r"q\.star and .*i\.star tell .* for pair 2"):
        open_pairs(patterns, image=image)


@pytest.mark.parametrize("by_hand", [False, True])
def test_other_sizes_name_both_files_and_fields(by_hand: bool, tmp_path: Path) -> None:
    """Which file is wrong is the user's to say, so both are shown as they are."""
    stack(tmp_path / "i.mrcs", 1, side=100)
    image = star(tmp_path / "i.star")
    patterns = stack(tmp_path / "p.mrcs", 0)
    with pytest.raises(DiffraganError) as caught:
        open_pairs(patterns, image=image, box_A=80.0 if by_hand else None)
    message = str(caught.value)
    field = "80 Å by hand" if by_hand else "70 Å at their pixel"
    for word in ("i.star are 100 pixels", "(62.5 Å)", f"p.mrcs 112 ({field})", "resample"):
        assert word in message
