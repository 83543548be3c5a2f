"""What an evaluation gives: the numbers of metrics.json, and what they were computed from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffragan.evaluation.scores import Scores
from diffragan.files.store import ResultStore
from diffragan.pairs.pairs import Pairs


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Mapping[str, Any]):
    """Phased results beside their truth, read like the dictionary of metrics.json.

    results: the phased store. pairs: what it was phased from, with the truth where there is one.
    scores: curves and numbers by item. metrics: those of all items and of each structure.
    page: the report's page, None where none was written.
    """

    results: ResultStore
    pairs: Pairs
    scores: Scores
    metrics: Mapping[str, Any]
    page: Path | None = None

    @property
    def stems(self) -> list[str]:
        """The structure of each result; "" where the store names none."""
        names = [structure.stem for structure in self.results.structures]
        return [names[i] if i < len(names) else "" for i in self.results.structure_index]

    def __getitem__(self, key: str) -> Any:
        return self.metrics[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def __repr__(self) -> str:
        """Method, number of items and how right they are, on one line."""
        n = self["n"]
        parts = [f"{n} {'result' if n == 1 else 'results'} of '{self['method']}'"]
        if self["frc_of"] is None:
            parts.append("no truth")
        else:
            parts.append(f"FRC of the {self['frc_of']} 0.5 at {self['frc_0p5_A']:.2f} Å")
        if self["solved_fraction"] is not None:
            parts.append(f"{self['solved_fraction']:.0%} solved")
        elif self["judged_solved_fraction"] is not None:
            parts.append(f"{self['judged_solved_fraction']:.0%} judged solved")
        if self["r_factor_median"] is not None:
            parts.append(f"R {self['r_factor_median']:.3f}")
        return f"<Evaluation: {', '.join(parts)}>"
