"""Which views take part and how they lie: from the pairs, from a STAR file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffragan.errors import DiffraganError
from diffragan.files.star import read_orientations, write_relion_angles
from diffragan.files.store import open_simulation
from diffragan.pairs.imaged import ImagedPairs
from diffragan.pairs.open import open_pairs
from diffragan.pairs.write import write_pairs
from diffragan.reconstruction.choose_views import choose_views, missing_cone_deg
from diffragan.rotations import relion_angles, rotations_from_relion
from diffragan.settings import Settings


def test_orientations_come_from_a_star_file(
    ball_views: Path, ball_pairs: Path, tmp_path: Path
) -> None:
    """Measured pairs tell none; RELION angles beside them do, and their inverse is exact."""
    rotation = open_simulation(ball_views).rotation
    assert rotation is not None
    np.testing.assert_allclose(rotations_from_relion(relion_angles(rotation)), rotation, atol=1e-9)
    star = tmp_path / "angles.star"
    write_relion_angles(star, rotation)
    found = choose_views(open_pairs(ball_pairs), orientations=star)
    assert found.rotations is not None
    np.testing.assert_allclose(found.rotations, rotation, atol=1e-6)
    np.testing.assert_array_equal(found.shifts_A, 0)


def test_orientations_may_be_kept_without_the_truth(
    ball_views: Path, ball_settings: Settings, tmp_path: Path
) -> None:
    """As if an earlier step had found them: angles, and no wave to judge by."""
    out = write_pairs(
        ImagedPairs(open_simulation(ball_views), ball_settings),
        tmp_path / "known.zarr",
        items=slice(12),
        orientations=True,
    )
    found = open_pairs(out)
    assert not found.has_truth
    assert choose_views(found).rotations is not None


def test_origins_in_a_star_file_turn_their_sign(tmp_path: Path) -> None:
    """rlnOriginXAngst is the move that centres an image, so the molecule lies at its negative."""
    star = tmp_path / "moved.star"
    star.write_text(
        "data_particles\n\nloop_\n_rlnAngleRot #1\n_rlnAngleTilt #2\n_rlnAnglePsi #3\n"
        "_rlnOriginXAngst #4\n_rlnOriginYAngst #5\n10 20 30 1.5 -2\n0 0 0 0 0\n"
    )
    _, shifts = read_orientations(star)
    assert shifts.tolist() == [[-1.5, 2], [0, 0]]


def test_rows_must_match_pairs(ball_pairs: Path, ball_views: Path, tmp_path: Path) -> None:
    rotation = open_simulation(ball_views).rotation
    assert rotation is not None
    write_relion_angles(tmp_path / "few.star", rotation[:5])
    with pytest.raises(DiffraganError, match=r"5 rows and .* 60 pairs"):
        choose_views(open_pairs(ball_pairs), orientations=tmp_path / "few.star")
    (tmp_path / "empty.star").write_text("data_x\n\nloop_\n_rlnImageName #1\n1@a.mrcs\n")
    with pytest.raises(DiffraganError, match="no RELION angles"):
        read_orientations(tmp_path / "empty.star")


def test_several_molecules_need_a_choice(simulated: Path, published: Settings) -> None:
    with pytest.raises(DiffraganError, match="--structure"):
        choose_views(open_pairs(simulated, settings=published))


def test_missing_cone_of_one_direction_and_of_a_tilt_series() -> None:
    """One direction leaves out its own axis altogether; tilts to 60° leave a cone of 30°."""
    same = np.repeat(np.eye(3)[None], 12, 0)
    assert missing_cone_deg(same) == pytest.approx(90, abs=3)
    tilts = np.radians(np.arange(-60, 61, 5))
    turned = np.array(
        [[[1, 0, 0], [0, np.cos(t), -np.sin(t)], [0, np.sin(t), np.cos(t)]] for t in tilts]
    )
    turns = np.radians(np.arange(0, 180, 10))
    spun = np.array(
        [[[np.cos(t), -np.sin(t), 0], [np.sin(t), np.cos(t), 0], [0, 0, 1]] for t in turns]
    )
    conical = np.einsum("aij,bjk->abik", turned, spun).reshape(-1, 3, 3)
    assert missing_cone_deg(conical) == pytest.approx(30, abs=4)
