"""Everything an evaluation leaves: metrics.json, CSV tables, figures and one HTML page.

The page holds its figures inside itself and loads nothing, so that it opens offline and can be
mailed. Each file is written under a temporary name and then renamed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.evaluation.evaluation import Evaluation
from diffragan.evaluation.scores import Scores, like
from diffragan.evaluation.tables import frc_csv, item_table
from diffragan.files.atomic import write_atomically
from diffragan.files.store import ResultStore
from diffragan.fourier.correlation import BAND_EDGES_A, SOLVED_BAND_A, band_means, resolution_at
from diffragan.pairs.pairs import Pairs
from diffragan.report import pair_figures as figures
from diffragan.report.html import ReportFigure, png

INVENTING_METHODS = ("published", "network", "hybrid")


TRUST_CAPTION = (
    " The green line is what the method expects of its own phases without knowing the truth."
)


BAND_NAMES = {
    "image": f"image, coarser than {BAND_EDGES_A[0]:g} Å",
    "diffraction": f"diffraction, {BAND_EDGES_A[0]:g} to {BAND_EDGES_A[1]:g} Å",
    "extrapolated": f"extrapolated, finer than {BAND_EDGES_A[1]:g} Å",
}


def write_report(out: Path, evaluation: Evaluation, *, command: str = "") -> Path:
    """Writes metrics.json, frc.csv, items.csv, figures/*.png and report.html into `out`.

    Args:
        out: folder, made if missing; files of the same names are replaced one by one.
        evaluation: if its metrics hold `stability`, the page shows it as a table:
            {perturbation: {"band_mean_frc": {band: value}, "ssim": value}}.
        command: the command line, for the page's end.

    Returns:
        the page's path.
    """
    results, truth, scores = evaluation.results, evaluation.pairs, evaluation.scores
    metrics = evaluation.metrics
    drawn = draw(results, truth, scores, metrics)
    pngs = {one.name: png(one.figure) for one in drawn}
    page = render(metrics, drawn, pngs, command=command)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for name, data in pngs.items():
        write_atomically(out / "figures" / f"{name}.png", data)
    write_atomically(out / "frc.csv", frc_csv(results, scores).encode())
    write_atomically(out / "items.csv", item_table(results, scores).encode())
    write_atomically(out / "report.html", page.encode())
    text = json.dumps(dict(metrics), indent=2, allow_nan=False) + "\n"
    write_atomically(out / "metrics.json", text.encode())
    return out / "report.html"


def draw(
    results: ResultStore, truth: Pairs | None, scores: Scores, metrics: Mapping[str, Any]
) -> list[ReportFigure]:
    """The figures that these results allow, in the order of the page."""
    drawn: list[ReportFigure] = []
    examples = [] if truth is None else choose_examples(results, truth, scores)
    if scores.primary is not None:
        drawn.append(
            ReportFigure(
                "frc",
                figures.frc_figure(metrics),
                "Fourier ring correlation with the truth: mean over all images, and the range "
                "from the 10th to the 90th percentile. Shading marks what the image measures, "
                "what the pattern measures, and what nothing measures. The projection's own "
                "transfer function has a zero inside the measured band, so its curve dips "
                "where a perfect wave would not."
                + (TRUST_CAPTION if metrics["trust"] and metrics["frc_of"] == "wave" else ""),
                "Line plot of Fourier ring correlation against spatial frequency. "
                + " ".join(opening(metrics)[1:3]),
            )
        )
    elif metrics["trust"] is not None:
        drawn.append(
            ReportFigure(
                "trust",
                figures.trust_figure(metrics),
                "The method's own estimate of how right its phases are, by resolution: the "
                "expected cosine of their error, in the mean over all images.",
                "Line plot of trust against spatial frequency.",
            )
        )
    if examples:
        has_target = examples[0].target is not None
        drawn.append(
            ReportFigure(
                "gallery",
                figures.gallery_figure(examples),
                "What was measured and what came out, for the best, the median and the worst "
                "image. Phased and target share one grey scale."
                if has_target
                else "What was measured and what came out, for a few images.",
                "Rows of pictures: diffraction pattern on a log scale, noisy image, phased "
                "projection" + (" and target projection." if has_target else "."),
            )
        )
    drawn += _truth_figures(results, scores, metrics, examples)
    if results.r_factor is not None and np.isfinite(results.r_factor).any():
        at_2A = _frc_at_2A(scores)
        drawn.append(
            ReportFigure(
                "r_factor",
                figures.r_factor_figure(results.r_factor, at_2A),
                "Amplitude R-factor of every image: how far the constrained model is from the "
                "measured amplitudes. It needs no truth, and says nothing of unmeasured detail.",
                "Histogram of R-factors."
                if at_2A is None
                else "R-factor against FRC, a dot per image.",
            )
        )
    return drawn


def _truth_figures(
    results: ResultStore,
    scores: Scores,
    metrics: Mapping[str, Any],
    examples: list[figures.Example],
) -> list[ReportFigure]:
    drawn: list[ReportFigure] = []
    names = {"wave": "Wave", "projection": "Projection", "image": "Image against target"}
    maps = {
        title: found.numpy()
        for name, title in names.items()
        if (found := scores.map_2d(name)) is not None
    }
    if maps:
        drawn.append(
            ReportFigure(
                "frc_2d",
                figures.frc_2d_figure(maps, results.box_A, results.n),
                f"Correlation with the truth at each Fourier pixel over all {results.n} images. "
                "The white line encloses 0.5; dotted circles are the band edges. With n images, "
                f"unrelated data scatter by {1 / np.sqrt(2 * results.n):.2f} around zero.",
                "Maps of the correlation over the Fourier plane for " + ", ".join(maps).lower()
                + ".",
            )
        )  # fmt: skip
    middle = examples[len(examples) // 2] if examples else None
    if middle is not None and middle.target is not None:
        drawn += [
            ReportFigure(
                "ssim",
                figures.ssim_figure(middle),
                "Structural similarity of the median image to its target. The white line "
                "encloses values above 0.7. Empty space around the molecule is alike whatever the "
                "phases are, so look at the molecule itself.",
                f"Target, phased projection and their similarity map; the mean over all images "
                f"is {_number(metrics['ssim_mean'])}.",
            ),
            ReportFigure(
                "difference",
                figures.difference_figure(middle),
                "Where the phased projection of the median image differs from its target: "
                "smoothed absolute difference on an 8-bit scale, and the area above 10 with its "
                "edges over the target.",
                "Phased projection, smoothed difference map, and the outlined area above the "
                "threshold.",
            ),
        ]
    if any(block["frc"] is not None for block in metrics["structures"].values()):
        drawn.append(
            ReportFigure(
                "structures",
                figures.structures_figure(metrics),
                "Mean FRC of each structure over all its orientations.",
                "Mean Fourier ring correlation by structure; the table of structures holds the "
                "numbers.",
            )
        )
    return drawn


def choose_examples(results: ResultStore, truth: Pairs, scores: Scores) -> list[figures.Example]:
    """The best, the median and the worst image by FRC in the diffraction band, or by R."""
    order, labels = np.arange(results.n), ["", "", ""]
    primary = scores.primary
    if primary is not None:
        means = band_means(primary.values, primary.q)
        by = means["diffraction"] if means["diffraction"] is not None else means["image"]
        if by is not None:
            order, labels = np.argsort(-by.numpy(), kind="stable"), ["best", "median", "worst"]
    elif results.r_factor is not None:
        order, labels = np.argsort(results.r_factor), ["lowest R", "median R", "highest R"]
    last = len(order) - 1
    picks = list(dict.fromkeys((0, (last + 1) // 2, last))) if last >= 0 else []
    if len(picks) < 3:
        labels = labels[:1] + labels[2:]
    chosen = order[picks]
    sources = results.items[chosen]
    pattern, image = truth.pattern(sources), truth.image(sources)
    true = truth.truth_projection(sources) if truth.has_truth else None
    target = None if true is None else torch.as_tensor(true)
    phased = torch.as_tensor(results.projection(chosen))
    examples = []
    for k, index in enumerate(chosen):
        lines = [f"{_stem(results, int(index))}, item {sources[k]}"]
        if labels[k]:
            lines.append(labels[k])
        if primary is not None:
            at = resolution_at(primary.values[index], primary.q)
            lines[-1] += f": FRC 0.5 at {at:.2f} Å"
        examples.append(
            figures.Example(
                title="\n".join(lines),
                box_A=results.box_A,
                pattern=np.asarray(pattern[k]),
                pattern_mask=np.asarray(truth.pattern_mask, dtype=bool),
                image=np.asarray(image[k]),
                phased=phased[k].numpy(),
                target=None if target is None else like(target[k], phased[k]).numpy(),
            )
        )
    return examples


def opening(metrics: Mapping[str, Any]) -> list[str]:
    """What was reached and where it ends, in plain sentences."""
    n, count = metrics["n"], len(metrics["structures"])
    said = [
        f"{n} {'pair' if n == 1 else 'pairs'} of pattern and image, from {count} "
        f"{'structure' if count == 1 else 'structures'}, were phased with the method "
        f"“{metrics['method']}”."
    ]
    if metrics["seen_in_training"]:
        said.append(
            f"The weights were trained on {', '.join(metrics['seen_in_training'])}, so what "
            "follows does not tell how they do on unseen structures."
        )
    end_A = metrics["measured_to_A"]
    if metrics["frc"] is None:
        said.append("There is no truth for these data, so nothing here says how right they are.")
        if metrics["r_factor_median"] is not None:
            said.append(
                f"The median R-factor is {metrics['r_factor_median']:.3f}: the agreement with "
                "the measured amplitudes, which wrong phases can reach too."
            )
        if metrics["judged_solved_fraction"] is not None:
            said.append(_verdicts(metrics))
        return said
    of = metrics["frc_of"]
    said.append(f"The FRC of the {of} with the truth {_fall(metrics)} in the mean.")
    projection, image = metrics["projection_frc"], metrics["image_frc"]
    if of == "wave" and projection["frc"] is not None:
        said.append(f"The FRC of the projection with its target {_fall(projection)}.")
    if image["frc"] is not None and projection["frc"] is not None:
        better = projection["frc_0p5_A"] < 0.95 * image["frc_0p5_A"]
        verdict = "phasing went beyond it" if better else "phasing did not go beyond it"
        said.append(f"The FRC of the image alone with that target {_fall(image)}; {verdict}.")
    if end_A is not None:
        beyond = (
            "what a projection shows beyond that, the network invents"
            if metrics["method"] in INVENTING_METHODS
            else "what a projection shows beyond that was not measured"
        )
        said.append(f"The pattern ends at {end_A:.2f} Å; {beyond}.")
    if metrics["solved_fraction"] is not None:
        coarse, fine = SOLVED_BAND_A
        said.append(
            f"{metrics['solved_fraction']:.0%} of the images are solved to 2 Å (their FRC "
            f"averages at least 0.5 from {coarse:g} to {fine:g} Å)."
        )
    if metrics["judged_solved_fraction"] is not None:
        said.append(_verdicts(metrics))
    if metrics["energy_outside_mean"] is not None:
        said.append(
            f"{metrics['energy_outside_mean']:.1%} of the projections' contrast energy lies "
            f"outside the molecule; in the targets it is "
            f"{metrics['energy_outside_target_mean']:.1%}."
        )
    return said


def render(
    metrics: Mapping[str, Any],
    drawn: list[ReportFigure],
    pngs: Mapping[str, bytes],
    *,
    command: str = "",
) -> str:
    """The page as one HTML text, with every figure inside it."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["num"] = _number
    environment.filters["percent"] = partial(_number, form=".0%")
    template = resources.files("diffragan.report").joinpath("template.html").read_text("utf-8")
    stability = metrics.get("stability") or {}
    return environment.from_string(template).render(
        metrics=metrics,
        opening=opening(metrics),
        bands=BAND_NAMES,
        compared=metrics.get("compared") or {},
        stability={k: v for k, v in stability.items() if isinstance(v, Mapping)},
        settings=json.dumps(metrics["settings"], indent=2, ensure_ascii=False),
        provenance={**metrics["provenance"], "command": command or None},
        figures=[
            {
                "name": one.name,
                "uri": "data:image/png;base64," + base64.b64encode(pngs[one.name]).decode(),
                "caption": one.caption,
                "alt": one.alt,
            }
            for one in drawn
        ],
    )


def _verdicts(metrics: Mapping[str, Any]) -> str:
    """What the method itself says is solved, and how right that is where a truth tells."""
    said = f"Without a truth, the method judges {metrics['judged_solved_fraction']:.0%} solved"
    precision, recall = metrics["judged_precision"], metrics["judged_recall"]
    if precision is not None:
        said += f"; {precision:.0%} of these are"
    if recall is not None:
        said += f", and {recall:.0%} of the solved were found"
    return said + "."


def _fall(block: Mapping[str, Any]) -> str:
    at, finest = block["frc_0p5_A"], block["frc"]["resolution_A"][-1]
    if at >= 10:
        return "is below 0.5 already at 10 Å"
    if at <= finest * 1.0001:
        return f"stays above 0.5 to its end at {at:.2f} Å"
    return f"falls below 0.5 at {at:.2f} Å"


def _frc_at_2A(scores: Scores) -> NDArray[Any] | None:
    curves = scores.primary
    if curves is None or curves.q[-1] < 1 / SOLVED_BAND_A[1]:
        return None
    use = (curves.q >= 1 / SOLVED_BAND_A[0]) & (curves.q <= 1 / SOLVED_BAND_A[1])
    return curves.values[:, use].mean(1).numpy() if bool(use.any()) else None


def _stem(results: ResultStore, index: int) -> str:
    which = int(results.structure_index[index])
    return results.structures[which].stem if which < len(results.structures) else "?"


def _number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)
