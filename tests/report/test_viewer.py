"""What the viewer of a page draws is what it was given."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from browser import opened
from diffragan.report.html import render
from diffragan.report.viewer.close_ups import close_ups, places
from diffragan.report.viewer.density import crop_of, level_enclosing, packed, smoothed, unpacked
from diffragan.report.viewer.scene import (
    Peak,
    Residue,
    Scene,
    ShownAtoms,
    Surface,
    residue_names,
    scene_text,
)
from page import ball


def page_of(scene: Scene, folder: Path) -> Path:
    """A page with nothing but a viewer."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("summary", "warnings", "figures")
    nothing: dict[str, Any] = {name: [] for name in names} | {"numbers": {}, "provenance": {}}
    text = render(
        "map.html", scene=scene, scene_text=scene_text(scene), failed=False, molecule="test",
        conditions={}, run="test", settings="", **nothing,
    )  # fmt: skip
    path = folder / "page.html"
    path.write_text(text, "utf-8")
    return path


@pytest.fixture(scope="module")
def volume() -> NDArray[np.float64]:
    """A ball of 9 Å off the centre."""
    return ball(48, 9.0, 1.0, (5.0, -3.0, 8.0))


@pytest.mark.parametrize("finest_A", [0.0, 1.3])
def test_a_packed_map_is_the_map(volume: NDArray[np.float64], finest_A: float) -> None:
    """Unpacked at the places that its origin and voxel tell, it has the map's values; its rim
    is 0."""
    density = packed(volume, 1.0, crop_of(volume > 0.05, 1.0), finest_A)
    assert density is not None
    values = unpacked(density)
    z, y, x = np.indices(values.shape)[:, 1:-1, 1:-1, 1:-1] * density.voxel_A
    px, py, pz = (o + a for o, a in zip(density.origin_A, (x, y, z), strict=True))
    length = np.sqrt((px - 5) ** 2 + (py + 3) ** 2 + (pz - 8) ** 2)
    true = (1 / (1 + np.exp((length - 9) / 0.8)) - volume.mean()) / volume.std()
    inner = values[1:-1, 1:-1, 1:-1]
    # Steps are finest at low contours: half a step is top / 255 at most.
    assert np.abs(inner - np.clip(true, 0, None)).max() < density.top / 255 + 0.02
    values[1:-1, 1:-1, 1:-1] = 0
    assert not values.any()
    assert math.prod(density.size) < 1.1e6


def test_levels_enclose_what_they_say(volume: NDArray[np.float64]) -> None:
    """A contour is known by the volume inside it, in standard deviations of the whole map."""
    level = level_enclosing(volume, 1.0, 4 / 3 * np.pi * 9**3)
    assert level is not None
    assert level == pytest.approx((0.5 - volume.mean()) / volume.std(), rel=0.03)
    assert level_enclosing(volume, 1.0, 1e9) is None
    assert level_enclosing(np.zeros((8, 8, 8)), 1.0, 10) is None
    assert packed(np.zeros((8, 8, 8)), 1.0, crop_of(np.ones((8, 8, 8)), 1.0)) is None


def test_smoothing_keeps_the_density(volume: NDArray[np.float64]) -> None:
    """A coarser map has the same sum, and less in the middle."""
    coarse = smoothed(volume, 1.0, 8.0)
    assert coarse.sum() == pytest.approx(volume.sum(), rel=1e-4)
    assert coarse.max() < volume.max()


def test_a_scene_can_not_end_its_script() -> None:
    """Words of a user stand inside a script element."""
    crop = crop_of(np.ones((8, 8, 8)), 1.0)
    density = packed(ball(8, 2, 1.0, (0, 0, 0)), 1.0, crop)
    assert density is not None
    text = scene_text(Scene([Surface("</script><b>", density, "#123456", 1.0)]))
    assert "</" not in text
    assert json.loads(text)["surfaces"][0]["label"] == "</script><b>"


def test_a_contour_lies_where_the_density_is(volume: NDArray[np.float64], tmp_path: Path) -> None:
    """In the browser: closed, at the ball's radius to a fraction of a voxel, faces outward, its
    volume the ball's; near a place only what is near."""
    density = packed(volume, 1.0, crop_of(volume > 0.05, 1.0))
    assert density is not None
    level = (0.5 - volume.mean()) / volume.std()
    scene = Scene([Surface("ball", density, "#56B4E9", level, {"half": level / 2})])
    steps = """
      const { density } = JSON.parse(document.getElementById("scene").textContent).surfaces[0];
      const raw = Uint8Array.from(atob(density.data), (letter) => letter.charCodeAt(0));
      const flow = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
      const grid = {
        values: new Uint8Array(await new Response(flow).arrayBuffer()), size: density.size,
        table: Array.from({ length: 256 }, (_, b) => density.top * (b / 255) ** 2),
        origin: density.origin_A, step: density.voxel_A };
      const found = contour(grid, LEVEL, null), at = found.vertices, f = found.faces;
      const far = at.map((p) => Math.abs(Math.hypot(p.x - 5, p.y + 3, p.z - 8) - 9));
      state.off = Math.max(...far);
      const edges = new Set();
      let volume = 0;
      for (let i = 0; i < f.length; i += 3) {
        const [a, b, c] = [0, 1, 2].map((k) => at[f[i + k]]);
        volume += (a.x * (b.y * c.z - b.z * c.y) - a.y * (b.x * c.z - b.z * c.x)
                   + a.z * (b.x * c.y - b.y * c.x)) / 6;
        [[0, 1], [1, 2], [2, 0]].forEach(([p, q]) => edges.add(`${f[i + p]} ${f[i + q]}`));
      }
      state.volume = volume;
      state.twice = f.length - edges.size;
      state.open = [...edges].filter((e) => !edges.has(e.split(" ").reverse().join(" "))).length;
      const part_of = contour(grid, LEVEL, { at: [14, -3, 8], radius: 3 }).vertices;
      state.near = Math.max(...part_of.map((p) => Math.hypot(p.x - 14, p.y + 3, p.z - 8)));
      state.some = part_of.length / at.length;
      state.before = viewer.dataset.triangles;
      part("[data-preset]").click();
      console.warn("a warning is heard");
      await settled();
    """.replace("LEVEL", f"{level:.4f}")
    seen = opened(page_of(scene, tmp_path / "page"), tmp_path, steps)
    assert len(seen.console) == 1
    assert "a warning is heard" in seen.console[0]
    state = seen.state
    assert float(state["seen-off"]) < 0.15
    assert float(state["seen-volume"]) == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.02)
    assert state["seen-twice"] == state["seen-open"] == "0"
    assert float(state["seen-near"]) < 3 + 2 * density.voxel_A
    assert 0.01 < float(state["seen-some"]) < 0.2
    assert state["surfaces"] == "1"
    assert int(state["triangles"]) > int(state["seen-before"]) > 1000
    assert float(state["levels"]) == pytest.approx(level / 2, abs=0.006)
    assert 0.1 < seen.drawn < 0.9


@pytest.fixture(scope="module")
def chain() -> ShownAtoms:
    """A zigzag of 24 atoms in the plane z = 2 x, six residues of four, with one loose atom."""
    along = np.arange(24)
    places = np.stack([1.3 * along - 15, np.where(along % 2, 0.8, 0.0), 0.0 * along], axis=1)
    turn = np.array([[1, 0, 2], [0, 5**0.5, 0], [-2, 0, 1]]).T / 5**0.5
    places = np.vstack((places @ turn.T, [[0.0, 12.0, 0.0]]))
    fit = np.concatenate((np.linspace(0.9, 0.5, 24), [np.nan]))
    names = ("MET", "GLN", "ILE", "PHE", "VAL", "LYS")
    residues = [
        Residue("A", 10 + k, name, tuple(range(4 * k, 4 * k + 4)), None if k == 5 else 1 - k / 10)
        for k, name in enumerate(names)
    ]
    return ShownAtoms(
        places, np.stack([along[:-1], along[1:]], axis=1), np.arange(25) < 20, np.ones(25),
        np.linspace(2, 9, 25), fit, np.array([[3, *(places[3] + [0, 1, 0])]]), residues,
        ["C", "N", "O", "C", "S"] * 5,
    )  # fmt: skip


def map_of(atoms: ShownAtoms, n: int = 64, voxel_A: float = 0.6) -> NDArray[np.float64]:
    """A blob at every atom."""
    axis = (np.arange(n) - n // 2) * voxel_A
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    squares = [(x - p[0]) ** 2 + (y - p[1]) ** 2 + (z - p[2]) ** 2 for p in atoms.positions_A]
    volume: NDArray[np.float64] = np.sum([np.exp(-square / 0.5) for square in squares], axis=0)
    return volume


def test_close_ups_are_of_the_best_and_the_worst(chain: ShownAtoms) -> None:
    """Residues where they are known, else atoms; each in the plane of its atoms, 5 Å apart."""
    best, worst = places(chain, 2)
    assert [place.title.split(",")[0] for place in best] == ["MET 10", "GLN 11"]
    assert [place.title.split(",")[0] for place in worst] == ["LYS 15", "VAL 14"]
    single = replace(chain, residues=())
    best, worst = places(single, 3)
    assert best[0].title == "atom 1, fit 0.90"
    assert worst[0].title == "atom 24, fit 0.50"
    normal = np.array([-2, 0, 1]) / 5**0.5
    for place in (*best, *worst):
        assert abs(place.right @ normal) < 1e-6
        assert abs(place.up @ normal) < 1e-6
    for some in (best, worst):
        apart = [np.linalg.norm(a.centre_A - b.centre_A) for a in some for b in some if a is not b]
        assert min(apart) >= 5


def test_chains_are_told_where_there_are_several(chain: ShownAtoms) -> None:
    """A number alone would name two residues."""
    assert residue_names(chain.residues)[0] == "MET 10"
    other = replace(chain.residues[0], chain="B")
    assert residue_names([*chain.residues, other])[-1] == "MET 10 (B)"


def test_a_close_up_shows_the_density_under_its_atoms(chain: ShownAtoms) -> None:
    """The drawn section is dark where the atoms are drawn."""
    figure = close_ups(map_of(chain), 0.6, chain, 2).figure
    for axis in figure.axes:
        image = np.asarray(axis.images[0].get_array())
        dots = np.vstack([np.asarray(part.get_offsets()) for part in axis.collections[-2:]])
        assert len(dots) >= 4
        at = np.rint((dots + 4.5) / 0.1).astype(int)
        assert image[at[:, 1], at[:, 0]].min() > image.mean() + image.std()


def test_atoms_residues_and_peaks_in_a_browser(chain: ShownAtoms, tmp_path: Path) -> None:
    """Each kind of place can be gone to, by list and by step; what is not wanted goes."""
    volume = map_of(chain)
    density = packed(volume, 0.6, crop_of(volume > 0.2, 0.6))
    assert density is not None
    surface = Surface("map, measured", density, "#56B4E9", 3.0, {"6 σ": 6.0}, "mesh")
    peaks = [Peak((1.0, 2.0, 3.0), 7.5), Peak((0.0, 0.0, 5.0), -5.25)]
    steps = """
      const set = (name, value) => {
        part(name).value = value;
        part(name).dispatchEvent(new Event("change"));
      };
      const list = part("[data-jump]");
      state.groups = [...list.querySelectorAll("optgroup")].map((one) => one.label).join("; ");
      state.first = list.options[1].textContent;
      state.drawn = [viewer.dataset.atoms, viewer.dataset.bonds, viewer.dataset.peaks].join(" ");
      state.triangles = viewer.dataset.triangles;
      set("[data-jump]", "1");
      await settled();
      state.residue = part(".status").textContent;
      state.near = viewer.dataset.triangles;
      part("[data-before]").click();
      await settled();
      state.before = part(".status").textContent;
      for (const by of ["confidence", "element", "fit", "b"]) set("[data-colour]", by);
      for (const name of ["peaks", "hydrogens", "doubtful"]) part(`[data-${name}]`).click();
      await settled();
      state.fewer = [viewer.dataset.atoms, viewer.dataset.bonds, viewer.dataset.peaks].join(" ");
      const options = [...list.options];
      const peak = options.find((one) => one.textContent.includes("-5.3 sigma"));
      set("[data-jump]", peak.value);
      await settled();
      state.peak = viewer.dataset.chosen + ": " + part(".status").textContent;
      const worst = options.find((one) => one.textContent.startsWith("LYS 15, atom 24"));
      set("[data-jump]", worst.value);
      await settled();
      state.worst = part(".status").textContent;
    """
    seen = opened(page_of(Scene([surface], chain, peaks), tmp_path / "page"), tmp_path, steps)
    assert seen.console == []
    state = {k.removeprefix("seen-"): v for k, v in seen.state.items() if k.startswith("seen-")}
    assert state["groups"] == (
        "chain A; worst fit to the map; best fit to the map; peaks of the difference map"
    )
    assert state["first"] == "MET 10, confidence 1.00"
    assert state["drawn"] == "25 23 0"
    assert state["residue"] == "GLN 11, confidence 0.90"
    assert state["before"] == "MET 10, confidence 1.00"
    assert 0 < int(state["near"]) < int(state["triangles"])
    assert state["fewer"] == "20 19 2"
    assert state["peak"].startswith("peak 1: peak of the difference map, -5.3 sigma")
    assert state["worst"] == (
        "LYS 15, atom 24 (C): not confirmed, weight 1.00 carbons, B 8.7 Å², fit to the map 0.50"
    )
    assert seen.state["chosen"] == "atom 23"
    assert 0.005 < seen.drawn < 0.9
