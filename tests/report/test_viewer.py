"""What the viewer of a page draws is what it was given."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from browser import opened
from diffragan.report.html import render
from diffragan.report.viewer.density import crop_of, level_enclosing, packed, smoothed, unpacked
from diffragan.report.viewer.scene import Scene, Surface, scene_text
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
    found = packed(volume, 1.0, crop_of(volume > 0.05, 1.0), finest_A)
    assert found is not None
    values = unpacked(found)
    z, y, x = np.indices(values.shape)[:, 1:-1, 1:-1, 1:-1] * found.voxel_A
    px, py, pz = (o + a for o, a in zip(found.origin_A, (x, y, z), strict=True))
    length = np.sqrt((px - 5) ** 2 + (py + 3) ** 2 + (pz - 8) ** 2)
    true = (1 / (1 + np.exp((length - 9) / 0.8)) - volume.mean()) / volume.std()
    inner = values[1:-1, 1:-1, 1:-1]
    # Steps are finest at low contours: half a step is top / 255 at most.
    assert np.abs(inner - np.clip(true, 0, None)).max() < found.top / 255 + 0.02
    values[1:-1, 1:-1, 1:-1] = 0
    assert not values.any()
    assert math.prod(found.size) < 1.1e6


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
      await settled();
    """.replace("LEVEL", f"{level:.4f}")
    seen = opened(page_of(scene, tmp_path / "page"), tmp_path, steps)
    assert seen.console == []
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
