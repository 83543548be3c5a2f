"""Orientations by RELION from the images: its contrast transfer is ours, and two starts tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import starfile
import torch
from numpy.typing import NDArray

from diffragan.files.mrc import read_map
from diffragan.files.star import write_relion_angles
from diffragan.fourier.correlation import fsc
from diffragan.fourier.volumes import centred
from diffragan.optics import Defocus
from diffragan.reconstruction.orientations import from_relion
from diffragan.reconstruction.orientations.finders import doubts, find_finder
from diffragan.reconstruction.orientations.from_relion import write_images
from diffragan.relion.programs.find import Relion
from diffragan.relion.programs.jobs import RelionProject
from diffragan.rotations import apart_deg, relion_angles
from diffragan.settings import load_settings
from relion import need_relion, relion
from synthetic_views import APERTURE_A, BOX_A, make_views, molecule, true_volume

COUNT = 120


@pytest.mark.parametrize("own", [False, True])
def test_relion_corrects_our_images(own: bool, tmp_path: Path) -> None:
    """With the defocus that the table tells, images at -1000 Å, or each at its own with
    astigmatism, become the molecule with the right sign as far as their aperture."""
    need_relion()
    defocus = None
    if own:
        mean = np.linspace(-1400.0, -700.0, COUNT)
        defocus = Defocus.of(mean, astigmatism_A=300.0, angle_deg=25.0)
    views = make_views(molecule(3), COUNT, image_dose=1e6, defocus=defocus)
    settings = load_settings(values={"image.defocus_A": -1000.0})
    write_images(views, settings, tmp_path / "i.mrcs")
    tables = starfile.read(tmp_path / "i.star", always_dict=True)
    side = int(tables["optics"]["rlnImageSize"].iloc[0])
    assert side <= 2 * BOX_A / APERTURE_A + 4
    angles = relion_angles(views.rotations.double().numpy())
    for name, angle in zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), angles.T, strict=True):
        tables["particles"][name] = angle
    starfile.write(tables, tmp_path / "i.star", overwrite=True)
    relion(tmp_path, "relion_reconstruct", "--i", "i.star", "--o", "m.mrc", "--ctf")
    found = torch.from_numpy(read_map(tmp_path / "m.mrc")[0])
    curve = fsc(found, centred(true_volume(molecule(3), side, APERTURE_A)))
    assert float(curve[2 : round(BOX_A / APERTURE_A)].min()) > 0.9


def found_by(
    monkeypatch: pytest.MonkeyPatch, folder: Path, answers: list[NDArray[np.float64]]
) -> Any:
    """The finder's result where RELION's jobs answer so, one after the other; their tables are
    sorted in another order than the stack."""
    order = np.random.default_rng(0).permutation(COUNT)

    def place(project: RelionProject, reference: str) -> Path:
        assert project.ctf
        star = project.folder / "found.star"
        write_relion_angles(star, answers.pop(0)[order])
        table = starfile.read(star)
        table["rlnImageName"] = [f"{k + 1:06d}@images.mrcs" for k in order]
        table["rlnOriginXAngst"], table["rlnOriginYAngst"] = -1.5, 0.5
        starfile.write({"particles": table}, star, overwrite=True)
        return star

    monkeypatch.setattr(from_relion, "find_relion", lambda: Relion((3, 1)))
    monkeypatch.setattr(from_relion, "initial_model", lambda p: (p.folder / "m.mrc", p.folder))
    monkeypatch.setattr(from_relion, "place_images", place)
    views = make_views(molecule(3), COUNT)
    settings = load_settings(values={"many_views.find_starts": 3})
    find = find_finder("relion")
    return views, find(views, None, settings, folder, lambda *words: None)


def test_two_starts_that_agree_end_the_search(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One start that went astray between them does no harm."""
    right = make_views(molecule(3), COUNT).rotations.double().numpy()
    wrong = make_views(molecule(3), COUNT, seed=5).rotations.double().numpy()
    views, result = found_by(monkeypatch, tmp_path, [right, wrong, right @ right[7]])
    assert result.sure
    assert result.agree_deg < 1
    assert float(apart_deg(result.views.rotations, views.rotations).median()) < 0.1
    torch.testing.assert_close(result.views.shifts_A[0], torch.tensor([1.5, -0.5]))
    assert not doubts(result, "relion")


def test_starts_that_differ_are_doubtful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers = [
        make_views(molecule(3), COUNT, seed=seed).rotations.double().numpy() for seed in (5, 6, 7)
    ]
    _, result = found_by(monkeypatch, tmp_path, answers)
    assert not result.sure
    assert "RELION's starts" in doubts(result, "relion")[0]
