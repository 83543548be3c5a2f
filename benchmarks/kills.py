"""Kills every long command at random moments, lets it go on, and compares what it leaves.

    python benchmarks/kills.py work --kills 200 --seed 1

Each command runs twice undisturbed: that tells its CPU time, and which files differ from run to
run because they tell times (they are named, and not compared). Then it is started again and again
and killed (SIGKILL) when it has used a random part of that CPU time, the same command each time,
until it comes to its end; what it leaves is compared and removed, and it begins anew, until its
share of the kills is done. Inputs are two pieces of ten residues of the bundled protein.

Runs are forked from one process that has imported the package already; `--workers 1` keeps each in
one process, so that a kill hits the one that writes.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffragan.terminal import NOT_CONVERGED

SMALL = (
    "simulate.sampling_A=0.2",
    "simulate.slice_A=4",
    "simulate.box_A=32",
    "simulate.depth_A=32",
    "pattern.dose_e_per_A2=20000",
    "many_views.mask_margin_A=2.0",
)
BRIEF = ("atoms.map_cycles=2", "atoms.pattern_cycles=2")
ROUGH = (
    "seed=3", "session.rows=20", "session.columns=20", "session.step_A=60",
    "session.beam_diameter_A=110", "session.beam_edge_A=12", "session.molecules=75",
    "session.detector_px=80", "session.field_A=50", "session.orientations=6",
    "session.margin_A=120", "simulate.sampling_A=0.28", "simulate.slice_A=8",
    "pattern.dose_e_per_A2=1000", "image.dose_e_per_A2=1500",
)  # fmt: skip
NARROW = ("network.width=0.015625", "train.max_steps=12", "train.validate_every_steps=4")


@dataclass(frozen=True)
class Case:
    """A command, and the name of what it leaves."""

    name: str
    out: str
    words: tuple[str, ...]


def sets(*pairs: str) -> tuple[str, ...]:
    """Settings as words of a command line."""
    return tuple(word for pair in pairs for word in ("--set", pair))


def cases(whole: Path) -> list[Case]:
    """Every command that takes long elsewhere; the inputs of one are what earlier ones left."""
    views = ("--orientations", "40")
    torch_engine = sets("simulate.engine=torch")
    small, cpu, one = sets(*SMALL), ("--device", "cpu"), ("--workers", "1")
    at = {name: str(whole / name) for name in ("waves.zarr", "pairs.zarr", "phased.zarr", "map")}
    few = sets("phase.iterations=150", "phase.starts=2", "phase.force=true")
    wide = sets("simulate.orientations=4", "simulate.sampling_A=0.2734", "simulate.slice_A=10")
    session = (str(whole / "session" / "scan.h5"), str(whole / "session" / "overview.mrc"))
    return [
        Case(
            "simulate", "waves.zarr", ("simulate", "one.cif", *views, *one, *small, *torch_engine)
        ),
        Case("simulate, abTEM", "by_abtem.zarr", ("simulate", "one.cif", *views, *one, *small)),
        Case("image", "pairs.zarr", ("image", at["waves.zarr"], "--truth", *one, *small)),
        Case(
            "phase",
            "phased.zarr",
            ("phase", at["pairs.zarr"], "--method", "raar", *few, *cpu, *one),
        ),
        Case("evaluate", "report", ("evaluate", at["phased.zarr"], *one)),
        Case("reconstruct", "map", ("reconstruct", at["pairs.zarr"], *small, *cpu)),
        Case("atoms", "atoms", ("atoms", at["map"], *sets(*BRIEF))),
        Case("simulate-scan", "session", ("simulate-scan", "one.cif", *one, *sets(*ROUGH))),
        Case(
            "scan",
            "scan",
            ("scan", session[0], "--overview", session[1], *sets("scan.diameter_A=26")),
        ),
        Case("waves for train", "two.zarr", ("simulate", ".", *one, *wide, *torch_engine)),
        Case("train", "run", ("train", str(whole / "two.zarr"), *sets(*NARROW), *cpu)),
    ]


def make_structures(work: Path) -> None:
    """one.cif and two.cif in `work`, ten residues each."""
    from importlib import resources

    import gemmi

    from diffragan.api import prepare
    from diffragan.molecules.fetch import read_coordinates

    if (work / "two.cif").exists():
        return
    model = Path(str(resources.files("diffragan").joinpath("data", "views_model.cif.gz")))
    for name, first in (("one", 0), ("two", 20)):
        whole = read_coordinates(model)[0]
        piece = gemmi.Structure()
        piece.add_model(gemmi.Model(1))
        piece[0].add_chain(gemmi.Chain("A"))
        for residue in list(whole[0][0])[first : first + 10]:
            piece[0][0].add_residue(residue)
        source = work / "source" / f"{name}.pdb"
        source.parent.mkdir(exist_ok=True)
        piece.write_pdb(str(source))
        prepare(str(source), work)


def start(words: Sequence[str], work: Path, log: Path) -> int:
    """A command in a process of its own; its number."""
    child = os.fork()
    if child:
        return child
    os.chdir(work)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["diffragan", *words]
    code = 1
    try:
        from diffragan.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def cpu_seconds(process: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(words: Sequence[str], work: Path, log: Path, kill_at_s: float | None = None) -> float:
    """CPU seconds of a command run to its end; -1 where it was killed at `kill_at_s` of them."""
    child = start(words, work, log)
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if kill_at_s is not None and cpu_seconds(child) >= kill_at_s:
            os.kill(child, signal.SIGKILL)
            kill_at_s = None
        time.sleep(0.002 if kill_at_s is not None else 0.02)
    if os.WIFSIGNALED(status):
        return -1.0
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, NOT_CONVERGED):
        sys.exit(f"`diffragan {' '.join(words)}` ended with {code}; see {log}.")
    return usage.ru_utime + usage.ru_stime


def content(out: Path) -> dict[str, bytes]:
    """Every file's bytes, but for numbers that tell seconds, where they can be told from others."""
    return dict(_content(out))


def _content(out: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if not path.is_file() or "seconds" in name.split("/"):
            continue
        if path.suffix == ".json" and path.name != "zarr.json":
            yield name, json.dumps(_without_seconds(json.loads(path.read_text()))).encode()
        elif path.suffix == ".csv":
            rows = csv.DictReader(io.StringIO(path.read_text()))
            kept = [{k: v for k, v in row.items() if "second" not in k} for row in rows]
            yield name, json.dumps(kept).encode()
        else:
            yield name, path.read_bytes()


def _without_seconds(tree: Any) -> Any:
    if isinstance(tree, dict):
        told = {k: v for k, v in tree.items() if "second" not in k and k != "provenance"}
        return {k: _without_seconds(v) for k, v in told.items()}
    return [_without_seconds(v) for v in tree] if isinstance(tree, list) else tree


def differing(one: dict[str, bytes], two: dict[str, bytes]) -> set[str]:
    """Names that only one has, or whose bytes differ."""
    return {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}


def remove(out: Path) -> None:
    """An output, and what an unfinished run left beside it."""
    for path in out.parent.glob(f"*{out.name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def try_case(case: Case, work: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """So many kills of one command; what came of them."""
    whole, log = work / "whole", work / "log.txt"
    out = work / "killed" / case.out
    plain = (*case.words, "--out", str(whole / case.out))
    again = (*case.words, "--out", str(out))
    remove(whole / case.out)
    seconds = run(plain, work, log)
    remove(out)
    run(again, work, log)
    known = content(whole / case.out)
    varies = differing(known, content(out))
    done = ends = 0
    changed: set[str] = set()
    remove(out)
    while done < kills:
        if run(again, work, log, chance.uniform(0, seconds)) < 0:
            done += 1
            if done < kills:
                continue
            run(again, work, log)
        ends += 1
        changed |= differing(known, content(out)) - varies
        remove(out)
    return {
        "command": case.name,
        "cpu_s": round(seconds, 2),
        "kills": done,
        "runs_ended": ends,
        "files": len(known),
        "not_compared": sorted(varies),
        "differ": sorted(changed),
    }


def import_all() -> None:
    """What the commands import, once for all that are forked."""
    import abtem  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import torch

    torch.set_num_threads(1)
    for name in ("phasing.run", "reconstruction.run", "atoms.run", "scan.run", "training.loop"):
        __import__(f"diffragan.{name}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder to work in")
    parser.add_argument("--kills", type=int, default=200, help="over all commands together")
    parser.add_argument("--only", help="commands, by commas")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    work = arguments.work.resolve()
    for folder in (work / "whole", work / "killed"):
        folder.mkdir(parents=True, exist_ok=True)
    import_all()
    make_structures(work)
    every = cases(work / "whole")
    chosen = set(arguments.only.split(",")) if arguments.only else {c.name for c in every}
    chance = random.Random(arguments.seed)
    left = arguments.kills
    todo = [case for case in every if case.name in chosen]
    for k, case in enumerate(todo):
        share = round(left / (len(todo) - k))
        left -= share
        found = try_case(case, work, share, chance)
        print(json.dumps(found), flush=True)
        with (work / "kills.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
