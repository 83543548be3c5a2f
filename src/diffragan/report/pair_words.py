"""What an evaluation says in words: the sentences that open its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffragan.evaluation.evaluation import Evaluation
from diffragan.fourier.correlation import COARSEST_A, SOLVED_BAND_A


def describe_evaluation(evaluation: Evaluation) -> list[str]:
    """What was reached and where it ends, in plain sentences."""
    metrics = evaluation.metrics
    sentences = _data_sentences(metrics)
    if metrics["frc"] is None:
        sentences += _blind_sentences(metrics)
    else:
        sentences += _frc_sentences(metrics)
        sentences += _reach_sentences(metrics, invents=evaluation.results.invents)
    if metrics["judged_solved_fraction"] is not None:
        sentences.append(_verdict_sentence(metrics))
    if metrics["energy_outside_mean"] is not None:
        sentences.append(
            f"{metrics['energy_outside_mean']:.1%} of the projections' contrast energy lies "
            f"outside the molecule; in the targets it is "
            f"{metrics['energy_outside_target_mean']:.1%}."
        )
    return sentences


def _data_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """What was phased, and by weights that saw what."""
    n, count = metrics["n"], len(metrics["structures"])
    sentences = [
        f"{n} {'pair' if n == 1 else 'pairs'} of pattern and image, from {count} "
        f"{'structure' if count == 1 else 'structures'}, were phased with the method "
        f"“{metrics['method']}”."
    ]
    if metrics["seen_in_training"]:
        sentences.append(
            f"The weights were trained on {', '.join(metrics['seen_in_training'])}, so what "
            "follows does not tell how they do on unseen structures."
        )
    return sentences


def _blind_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """What can be said without a truth."""
    sentences = ["There is no truth for these data, so nothing here says how right they are."]
    if metrics["r_factor_median"] is not None:
        sentences.append(
            f"The median R-factor is {metrics['r_factor_median']:.3f}: the agreement with "
            "the measured amplitudes, which wrong phases can reach too."
        )
    return sentences


def _frc_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Where the correlations with the truth end, and whether phasing went beyond the image."""
    of = metrics["frc_of"]
    sentences = [f"The FRC of the {of} with the truth {_fall(metrics)} in the mean."]
    projection, image = metrics["projection_frc"], metrics["image_frc"]
    if of == "wave" and projection["frc"] is not None:
        sentences.append(f"The FRC of the projection with its target {_fall(projection)}.")
    if image["frc"] is not None and projection["frc"] is not None:
        better = projection["frc_0p5_A"] < 0.95 * image["frc_0p5_A"]
        verdict = "phasing went beyond it" if better else "phasing did not go beyond it"
        sentences.append(f"The FRC of the image alone with that target {_fall(image)}; {verdict}.")
    return sentences


def _reach_sentences(metrics: Mapping[str, Any], *, invents: bool) -> list[str]:
    """Where the measurement ends, and how many images are solved."""
    beyond = (
        "what a projection shows beyond that, the network invents"
        if invents
        else "what a projection shows beyond that was not measured"
    )
    sentences = [f"The pattern ends at {metrics['measured_to_A']:.2f} Å; {beyond}."]
    if metrics["solved_fraction"] is not None:
        coarse, fine = SOLVED_BAND_A
        sentences.append(
            f"{metrics['solved_fraction']:.0%} of the images are solved to 2 Å (their FRC "
            f"averages at least 0.5 from {coarse:g} to {fine:g} Å)."
        )
    return sentences


def _verdict_sentence(metrics: Mapping[str, Any]) -> str:
    """What the method itself says is solved, and how right that is where a truth tells."""
    sentence = f"Without a truth, the method judges {metrics['judged_solved_fraction']:.0%} solved"
    precision, recall = metrics["judged_precision"], metrics["judged_recall"]
    if precision is not None:
        sentence += f"; {precision:.0%} of these are"
    if recall is not None:
        sentence += f", and {recall:.0%} of the solved were found"
    return sentence + "."


def _fall(block: Mapping[str, Any]) -> str:
    """Where a mean curve crosses 0.5, as the end of a sentence."""
    at_A, finest_A = block["frc_0p5_A"], block["frc"]["resolution_A"][-1]
    if at_A >= COARSEST_A:
        return f"is below 0.5 already at {COARSEST_A:g} Å"
    if at_A <= finest_A * 1.0001:
        return f"stays above 0.5 to its end at {at_A:.2f} Å"
    return f"falls below 0.5 at {at_A:.2f} Å"
