"""The pairs of a result store are found again, and others are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffragan.errors import DiffraganError
from diffragan.evaluation.scores import score
from diffragan.pairs.of_results import pairs_of_results
from phased_world import OPTICS, N, World


def test_a_missing_changed_or_foreign_input_is_refused(world: World, tmp_path: Path) -> None:
    """A truth of other pairs would judge these results wrong, whatever they are."""
    gone = world.results(
        "gone", world.true_wave, input={"path": str(tmp_path / "x.zarr"), "sha256": ""}
    )
    with pytest.raises(DiffraganError, match="--input"):
        pairs_of_results(gone)
    assert pairs_of_results(gone, [world.pairs.path]).n == N
    entry = {"path": str(world.pairs.path), "sha256": "0" * 64}
    with pytest.raises(DiffraganError, match=r"changed.*--input"):
        pairs_of_results(world.results("changed", world.true_wave, input=entry))
    foreign = world.results("foreign", world.true_wave, optics={**vars(OPTICS), "box_A": 50.0})
    with pytest.raises(DiffraganError, match="box of 50"):
        score(foreign, world.pairs)
