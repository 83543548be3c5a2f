"""The figure of docs/networks.md: methods on the same pairs, and `hybrid` by condition.

    python -m benchmarks.network_figure --four four-*.json --aup aup-*.json --study study.json \
        --out networks.png

A file of `benchmarks.projections` holds one method or several.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

ORDER = ("image", "published", "published-tuned", "network", "raar", "hybrid")
COLOURS = ("0.6", "tab:brown", "tab:orange", "tab:blue", "tab:green", "tab:red")


def methods_of(files: list[Path]) -> tuple[dict[str, Any], int]:
    """Rows by method, and how many pairs they are of."""
    rows, n = {}, 0
    for file in files:
        told = json.loads(file.read_text(encoding="utf-8"))
        n = told["n"]
        for name, row in told["rows"].items():
            rows["published-tuned" if name.endswith(".safetensors") else name] = row
    return rows, n


def draw_methods(axis: Axes, rows: dict[str, Any], title: str) -> None:
    """FRC of projections against resolution, a line a method."""
    for name, colour in zip(ORDER, COLOURS, strict=True):
        if name in rows:
            frc = rows[name]["frc"]
            style = "--" if name == "raar" else "-"
            axis.plot(list(frc), list(frc.values()), style, marker="o", color=colour, label=name)
    axis.set(title=title, xlabel="resolution, Å", ylim=(-0.05, 1))


def draw_conditions(axis: Axes, conditions: dict[str, Any]) -> None:
    """Of each condition, what part `hybrid` solves and what part it says it solved, rightly."""
    names = list(conditions)[::-1]
    rows = [next(r for r in conditions[name] if r["method"] == "hybrid") for name in names]
    axis.barh(names, [r["solved"] / r["n"] for r in rows], color="tab:red", alpha=0.4)
    axis.barh(names, [r["said_and_solved"] / r["n"] for r in rows], color="tab:red", height=0.4)
    axis.set(title="hybrid: solved; named rightly (dark)", xlim=(0, 1))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--four", type=Path, nargs="+", required=True, help="of `projections`")
    parser.add_argument("--aup", type=Path, nargs="+", required=True, help="the same, of 1AUP")
    parser.add_argument("--study", type=Path, required=True, help="of `network_study`")
    parser.add_argument("--out", type=Path, required=True, help=".png")
    args = parser.parse_args()
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    one, two, three = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
    for axis, files, name in ((one, args.four, "four proteins"), (two, args.aup, "1AUP")):
        rows, n = methods_of(files)
        draw_methods(axis, rows, f"{name}, {n:,} pairs, 70 Å")
    one.set_ylabel("FRC of projections")
    one.legend(fontsize=8, frameon=False, loc="lower left")
    draw_conditions(three, json.loads(args.study.read_text(encoding="utf-8"))["conditions"])
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
