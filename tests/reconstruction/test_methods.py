"""Both ways to a map: what each takes, what it refuses, and what it gives back."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import diffragan as dg
from diffragan.errors import DiffraganError
from diffragan.reconstruction import run as module
from diffragan.reconstruction.outputs import Destination
from diffragan.reconstruction.run import METHODS, ReconstructionOptions
from diffragan.settings import Settings, load_settings
from quick_runs import run

OPTIONS = [f.name for f in fields(ReconstructionOptions)]
ANY: dict[str, Any] = {
    "image": (Path("i.npy"),),
    "box_A": 50.0,
    "mass_kda": 12.0,
    "orientations": Path("a.star"),
    "start": Path("s.zarr"),
    "structure": "1UBQ",
    "limit": 5,
    "phased": Path("p.zarr"),
    "model": Path("1UBQ.cif"),
    "settings": load_settings(),
    "device": "cpu",
}
# The command has them too, by other words; only `phase` says where the result store goes.
WORDS = {
    "image": ["--image", "i.npy"],
    "box_A": ["--box-A", "50"],
    "orientations": ["--orientations", "a.star"],
    "start": ["--start", "s.zarr"],
    "structure": ["--structure", "1UBQ"],
    "limit": ["--views", "5"],
    "settings": ["--iterations", "3"],
    "device": ["--device", "nonsense"],
}


def test_every_option_is_some_methods() -> None:
    """An option that nobody takes, or that nobody can give, would have no use; beside options a
    method takes sections of the settings."""
    taken = set().union(*(m.takes for m in METHODS.values()))
    assert set(OPTIONS) <= taken <= {*OPTIONS, *Settings.model_fields}
    assert set(OPTIONS) == set(ANY)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_an_option_is_taken_or_refused(
    method: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that was given is dropped in silence: it reaches the run, or is named and refused
    before anything is written."""
    seen: list[ReconstructionOptions] = []

    def note(source: Any, where: Any, options: ReconstructionOptions, *_: Any) -> Any:
        seen.append(options)

    monkeypatch.setitem(METHODS, method, replace(METHODS[method], run=note))
    options = replace(ReconstructionOptions(), **{option: ANY[option]})
    if option in METHODS[method].takes:
        module.reconstruct([], Destination(tmp_path), options, method=method)
        assert seen == [options]
        return
    with pytest.raises(DiffraganError, match=f"'{method}' does not take {option}"):
        module.reconstruct([], Destination(tmp_path), options, method=method)
    assert not seen
    if option not in WORDS:
        return
    code, text = run(
        "reconstruct", "p.zarr", "--out", tmp_path / "o", "--method", method, *WORDS[option]
    )
    assert code == 2
    assert WORDS[option][0] in text
    assert not (tmp_path / "o").exists()


def test_several_options_are_refused_together(tmp_path: Path) -> None:
    words = ["--method", "merge", "--views", "5", "--device", "nonsense", "--iterations", "3"]
    code, text = run("reconstruct", "p.zarr", "--out", tmp_path / "o", *words)
    assert code == 2
    assert text.startswith("The method 'merge' does not take --views (many-views")
    assert "--device" in text
    assert "--iterations" in text


def test_another_way_to_a_map_needs_only_its_registration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is registered is a method of the public call and of the command."""
    for name, method in list(METHODS.items()):
        monkeypatch.setitem(METHODS, name, method)
    monkeypatch.setattr(module, "METHODS", METHODS.copy())

    @module.reconstruction_method("mine", "limit")
    def mine(
        source: Any, where: Destination, options: ReconstructionOptions, progress: Any, warn: Any
    ) -> module.Reconstruction:
        numbers = {"molecule": "x", "n_views": options.limit, "fsc_0p143_A": 2.5}
        return module.Reconstruction(where.folder, numbers | {"converged": True})

    found = dg.reconstruct("p.zarr", tmp_path, method="mine", limit=7)
    assert repr(found) == f"Reconstruction('{tmp_path}': x, 7 views, 2.50 Å, converged)"
    assert found.map == tmp_path / "map.mrc"
    with pytest.raises(DiffraganError, match="does not take device"):
        dg.reconstruct("p.zarr", tmp_path, method="mine", device="cpu")
    with pytest.raises(DiffraganError, match=r"choose from many-views, merge,.* mine"):
        dg.reconstruct("p.zarr", tmp_path, method="none")
