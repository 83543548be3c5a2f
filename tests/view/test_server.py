"""What the page's server answers, to whom, and what it refuses."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import matplotlib.image
import numpy as np
import pytest
import torch

from diffragan.files.store import ResultStore, open_results
from diffragan.view.opened import open_path
from phased_world import World
from quick_runs import run
from served import fetched, many, served, told


@pytest.fixture(scope="module")
def address(noisy: ResultStore) -> Iterator[str]:
    """The page of a result store whose input is there."""
    opened = open_path(noisy.path)
    assert opened.items is not None
    opened.items.finish_reading()
    with served(opened) as at:
        yield at


def pixels(data: bytes) -> Any:
    """(y, x, 4) of a PNG file, 0 to 1."""
    return matplotlib.image.imread(io.BytesIO(data))


def test_only_the_token_opens_it(address: str) -> None:
    """Without the token, with another one, or under another name nothing is told, and nothing but
    reading is done."""
    parts = urlsplit(address)
    root = f"http://{parts.netloc}/"
    token = parts.path.strip("/")
    assert len(token) >= 32
    assert fetched(address)[0] == 200
    for wrong in (root, root + "wrong/", root + token[:-1] + "/", root + "api/source"):
        assert fetched(wrong)[0] == 403, wrong
    assert fetched(address, Host="evil.example")[0] == 403
    assert fetched(address, Host=f"evil.example:{parts.port}")[0] == 403
    assert fetched(address, Host=f"localhost:{parts.port}")[0] == 200
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert fetched(address + "api/source", method)[0] in (403, 405)
    assert b"svg" not in fetched(address + "static/..%2f..%2fserver.py")[2]
    assert fetched(address + "static/..%2fserver.py")[0] == 404


def test_what_is_answered_stays_here(address: str) -> None:
    """Headers that keep other pages out and this one from loading anything."""
    for part in ("", "api/source", "picture/pair/0/image.png", "static/view.js", "picture/x.png"):
        headers = fetched(address + part)[1]
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    text = fetched(address)[2].decode()
    assert "http" not in text.replace("http-equiv", "")


def test_pictures_are_the_arrays(address: str, noisy: ResultStore, world: World) -> None:
    """Pixels in grey from black to white, y up; a pattern is clear where it is masked."""
    shown = pixels(fetched(address + "picture/pair/3/phased.png")[2])[::-1]
    values = noisy.projection([3])[0]
    inside = np.abs(values - np.median(values)) < 2 * values.std()
    fit = np.polyfit(values[inside], shown[..., 0][inside], 1)
    assert fit[0] > 0
    assert np.abs(np.polyval(fit, values[inside]) - shown[..., 0][inside]).max() < 0.02
    pattern = pixels(fetched(address + "picture/pair/3/pattern.png")[2])[::-1]
    assert ((pattern[..., 3] > 0) == world.pairs.pattern_mask).all()
    about = told(address + "picture/pair/3/pattern.json")
    m = world.pairs.m
    assert about["centre"] == [m // 2, m // 2]
    assert about["pixel"] == pytest.approx(1 / world.pairs.box_A)
    assert about["rings"][-1] > 1.2


def test_rows_and_items(address: str, noisy: ResultStore) -> None:
    """Sorted and filtered rows, the chosen item's place, and what is known of an item."""
    rows = told(address + "api/rows?sort=-r&filter=structure%20=%201ABC&limit=9&at=1&columns=1")
    assert [row[0] for row in rows["rows"]] == [2, 1, 0]
    assert (rows["total"], rows["n"], rows["place"], rows["later"]) == (3, 5, 1, [])
    names = [column["name"] for column in rows["columns"]]
    assert {"item", "structure", "r", "trust"} <= set(names)
    item = told(address + "api/item/2")
    assert item["kinds"] == ["pattern", "image", "phased", "phase", "target"]
    assert dict(item["facts"])["R"] == "0.030"
    assert item["trust"]["lines"][0]["y"][0] == 1


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("api/rows?sort=wrong", "There is no column “wrong”"),
        ("api/rows?offset=x", "“x” is no whole number"),
        ("api/item/99", "There are 5 items, from 0; there is no 99."),
        ("picture/pair/0/nothing.png", "no picture “nothing”; they have pattern, image"),
        ("picture/elsewhere.png", "There is no picture “elsewhere” here"),
        ("api/scene", "There is no map here."),
    ],
)
def test_bad_questions(address: str, part: str, says: str) -> None:
    """A sentence, and no trace of the program."""
    status, _, body = fetched(address + part)
    assert status == 422
    assert says in told(address + part)["error"]
    assert b"Traceback" not in body


def test_results_without_their_input(world: World, tmp_path: Path) -> None:
    """What is left is shown, and said why the rest is not."""
    results = world.results("alone", world.true_wave, input={"path": str(tmp_path / "gone.zarr")})
    opened = open_path(results.path)
    assert opened.items is not None
    assert list(opened.items.kinds) == ["phased", "phase"]
    assert "gone.zarr, is not there any more" in opened.items.missing
    with served(opened) as at:
        assert told(at + "api/source")["items"]["missing"] == opened.items.missing
        assert fetched(at + "picture/pair/0/phased.png")[0] == 200


def test_an_input_that_has_changed_is_told(world: World) -> None:
    """Its pictures are shown, with a warning."""
    entry = {"path": str(world.pairs.path), "sha256": "0" * 64}
    opened = open_path(world.results("other", world.true_wave, input=entry).path)
    assert opened.items is not None
    opened.items.finish_reading()
    assert "has changed since" in opened.items.warning
    assert "pattern" in opened.items.kinds


def test_a_damaged_item_is_told_and_the_rest_shown(world: World) -> None:
    """Its picture's place says what is wrong."""
    path = world.results("torn", world.true_wave).path
    chunk = path / "projection" / "c" / "2" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with served(open_path(path)) as at:
        assert fetched(at + "picture/pair/1/phased.png")[0] == 200
        said = told(at + "picture/pair/2/phased.png")["error"]
    assert "Item 2 of the array 'projection'" in said
    assert "damaged" in said


def test_simulations_are_imaged_as_they_are_looked_at(world: World) -> None:
    """The same picture for the same item, whatever was looked at between."""
    opened = open_path(world.root / "sim.zarr")
    assert opened.kind == "simulation store"
    with served(opened) as at:
        first = fetched(at + "picture/pair/1/image.png")[2]
        fetched(at + "picture/pair/2/image.png")
    assert opened.items is not None
    again = opened.items.picture(1, "image").values
    assert torch.isfinite(torch.from_numpy(again)).all()
    assert (pixels(first).shape[:2]) == again.shape


def test_a_page_of_a_hundred_thousand_rows(tmp_path: Path) -> None:
    """Any page of any order is a small answer."""
    with served(many(100_000)) as at:
        rows = told(at + "api/rows?sort=r&offset=50000&limit=200&filter=verdict%20=%20solved")
        body = fetched(at + "api/rows?sort=r&offset=50000&limit=200")[2]
    assert rows["total"] == 66_666
    assert len(rows["rows"]) == 200
    r = [float(row[2]) for row in rows["rows"]]
    assert r == sorted(r)
    assert len(body) < 20_000


def test_pictures_by_the_command_are_those_that_the_page_saves(
    address: str, noisy: ResultStore, tmp_path: Path
) -> None:
    """The command that stands under a picture makes the same file."""
    for name in ("pair/2/pattern", "pair/2/phased", "pair/2/trust"):
        out = tmp_path / "picture.png"
        code, text = run("view", noisy.path, "--picture", name, "--out", out)
        assert code == 0, text
        saved = fetched(f"{address}picture/{name}.png?figure")
        assert "attachment" in saved[1]["content-disposition"]
        assert (pixels(saved[2]) == pixels(out.read_bytes())).all()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["missing.zarr"], "There is no store"),
        (["nothing"], "There is nothing at"),
        (["notes.txt"], "can't be viewed; give a store"),
        (["empty"], "is no finished folder of"),
        (["broken.mrc"], "can't be read as MRC"),
    ],
)
def test_what_can_not_be_viewed(tmp_path: Path, words: list[str], says: str) -> None:
    """Exit code 2 and a sentence, before anything is served."""
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "broken.mrc").write_bytes(b"no map")
    (tmp_path / "empty").mkdir()
    code, text = run("view", tmp_path / words[0], "--no-browser")
    assert code == 2
    assert says in text
    assert "\n" not in text.strip()


def test_a_taken_port_and_half_a_request(noisy: ResultStore, address: str, tmp_path: Path) -> None:
    """Both are refused with the remedy."""
    code, text = run("view", noisy.path, "--no-browser", "--port", str(urlsplit(address).port))
    assert (code, "give another with --port" in text) == (2, True)
    code, text = run("view", noisy.path, "--picture", "pair/0/image")
    assert (code, "--picture and --out go together" in text) == (2, True)


def test_the_command_serves_until_ctrl_c(noisy: ResultStore, tmp_path: Path) -> None:
    """It prints its address, answers, ends at once with exit code 0, and leaves the store as it
    was."""
    before = sorted((p, p.stat().st_mtime_ns) for p in noisy.path.rglob("*"))
    words = [sys.executable, "-m", "diffragan", "view", str(noisy.path), "--no-browser"]
    program = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert program.stdout is not None
    at = program.stdout.readline().strip()
    assert at.startswith("http://127.0.0.1:")
    assert told(at + "api/source")["tabs"] == ["pairs", "about"]
    program.send_signal(signal.SIGINT)
    _, said = program.communicate(timeout=15)
    assert program.returncode == 0, said
    assert said.splitlines()[-1] == "diffragan: closed."
    assert not list(tmp_path.iterdir())
    assert sorted((p, p.stat().st_mtime_ns) for p in noisy.path.rglob("*")) == before
    assert open_results(noisy.path).n == 5
