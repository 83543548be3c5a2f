"""Fragments of main chain docked to a sequence.

A fragment's residues are each more or less likely of each type; the sum over a stretch of sequence
says how well it fits there. Fragments are docked together: no place twice, and no further apart in
space than the residues between them can reach. What the score is worth is told by the same sequence
shuffled: another protein's does no better than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffragan.atoms.bonds.geometry import evidence, geometry
from diffragan.atoms.bonds.side_chains import TYPES
from diffragan.errors import DiffraganError
from diffragan.molecules.clean import ONE_LETTER

LETTERS = "".join(ONE_LETTER[name] for name in TYPES)
UNKNOWN = "X"
_STAND_INS = {"U": "C", "O": "K", "B": UNKNOWN, "Z": UNKNOWN, "J": UNKNOWN}
_MISREAD = 0.03  # of residues look like another type
_JUMP = -12.0  # log odds that two residues traced as neighbours are none
_OVERHANG, _OUTSIDE = 2, -4.0  # residues past an end of the sequence, and what each costs
_STEP_A, _SLACK_A = 3.9, 1.5  # from CA to CA
_TOO_FAR = -6.0  # for each two pieces that the residues between them can't reach across
# Distance of CA some steps apart in the chain, and its deviation; chance spreads it over 20 Å.
_NEAR_A = {1: (3.80, 0.15), 2: (6.1, 0.7), 3: (7.7, 2.0), 4: (9.4, 2.7)}
_CHANCE_A = 20.0
_BEAM, _OFFSETS = 20, 10
# A side chain may pass for a residue or two where the chain is broken: so many may lie on another
# piece's, each at this cost.
_OVERLAP, _OVERLAPS = 3, -3.0
_SURE = 0.9
_SHUFFLES = 200
_FITS_SD, _FITS = 5.0, 6.0


@dataclass(frozen=True)
class Piece:
    """A stretch of a fragment that docks as one: its residues from `start` to `end` (excluded)."""

    fragment: int
    start: int
    end: int


@dataclass(frozen=True)
class Docking:
    """Where the pieces lie in the sequence.

    numbers: by fragment, the place of each residue from 1, or None. certainty: by fragment, the
    probability of that place and type. score: log odds of the docking. shuffled, shuffled_sd,
    shuffled_best: mean, deviation and highest of those of the shuffled sequence.
    """

    sequence: str
    numbers: tuple[tuple[int | None, ...], ...]
    certainty: tuple[tuple[float, ...], ...]
    score: float
    shuffled: float
    shuffled_sd: float
    shuffled_best: float

    @property
    def z(self) -> float:
        """Standard deviations over shuffled sequences."""
        return (self.score - self.shuffled) / max(self.shuffled_sd, 1e-6)

    @property
    def fits(self) -> bool:
        """Whether the sequence is that of the atoms."""
        return self.z >= _FITS_SD and self.score > self.shuffled_best + _FITS

    @property
    def refusal(self) -> str:
        """Why the sequence was not used, in words."""
        return (
            f"The sequence does not fit the atoms: its docking score is {self.score:.1f}, that of "
            f"shuffled sequences {self.shuffled:.1f} ± {self.shuffled_sd:.1f} (the best of "
            f"{_SHUFFLES} {self.shuffled_best:.1f}); give the sequence of this protein, or none."
        )


def read_fasta(path: Path) -> str:
    """The one protein sequence of a FASTA file, in capitals; letters that stand for several
    residues become X.

    Raises:
        DiffraganError: no file, no sequence or several, or letters that are no residues.
    """
    from Bio import SeqIO

    try:
        with path.open(encoding="utf-8") as file:
            records: list[Any] = list(SeqIO.parse(file, "fasta"))  # type: ignore[no-untyped-call]
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DiffraganError(
            f"The sequence {path} can't be read ({error}); give a FASTA file."
        ) from None
    if len(records) != 1:
        raise DiffraganError(
            f"{path} holds {len(records) or 'no'} sequences; give a FASTA file of one protein "
            "chain, its name in a line that starts with >."
        )
    letters = str(records[0].seq).upper().rstrip("*").replace("-", "")
    found = "".join(_STAND_INS.get(letter, letter) for letter in letters)
    wrong = sorted(set(found) - {*LETTERS, UNKNOWN})
    if wrong or not found:
        what = f"the letters {' '.join(wrong)}" if wrong else "no residues"
        raise DiffraganError(f"{path} holds {what}; give a protein's sequence in one-letter code.")
    return found


def dock(
    tables: Sequence[NDArray[np.float64]], places_A: Sequence[NDArray[np.float64]], sequence: str
) -> Docking:
    """The best places of fragments in a sequence.

    Args:
        tables: by fragment, (residues, 20) log evidence of each type, `evidence_table`.
        places_A: by fragment, (residues, 3) of CA.
    """
    odds = [_odds(table) for table in tables]
    pieces = [piece for f, row in enumerate(odds) for piece in _pieces(f, row, sequence)]
    scores = [_offsets(odds[p.fragment][p.start : p.end], sequence) for p in pieces]
    offsets, certainty = _together(pieces, scores, places_A, sequence)
    numbers: list[list[int | None]] = [[None] * len(table) for table in tables]
    sure = [[0.0] * len(table) for table in tables]
    for place, (f, r, p) in _owners(pieces, offsets, certainty, odds, sequence).items():
        numbers[f][r], sure[f][r] = place + 1, p
    trials = _shuffled_scores(odds, sequence)
    return Docking(
        sequence,
        tuple(map(tuple, numbers)),
        tuple(map(tuple, sure)),
        _whole_score(odds, sequence),
        float(trials.mean()),
        float(trials.std()),
        float(trials.max()),
    )


def _owners(
    pieces: Sequence[Piece],
    offsets: Sequence[int | None],
    certainty: Sequence[float],
    odds: Sequence[NDArray[np.float64]],
    sequence: str,
) -> dict[int, tuple[int, int, float]]:
    """Fragment, residue and probability by place in the sequence, from 0. Where two pieces overlap
    the first gives way to the second at the place where both together are most likely."""
    columns = _columns(sequence)
    docked = sorted((offset, k) for k, offset in enumerate(offsets) if offset is not None)
    ends = [
        [max(offset, 0), min(offset + pieces[k].end - pieces[k].start, len(sequence))]
        for offset, k in docked
    ]

    def own(number: int, place: int) -> float:
        offset, k = docked[number]
        row = odds[pieces[k].fragment][pieces[k].start + place - offset]
        return float(row[columns[place]])

    for n in range(len(docked) - 1):
        low, high = ends[n + 1][0], ends[n][1]
        cuts = {
            cut: sum(own(n, x) for x in range(low, cut))
            + sum(own(n + 1, x) for x in range(cut, high))
            for cut in range(low, high + 1)
        }
        if high > low:
            ends[n][1] = ends[n + 1][0] = max(cuts, key=lambda cut: cuts[cut])
    out: dict[int, tuple[int, int, float]] = {}
    for n, (offset, k) in enumerate(docked):
        for place in range(*ends[n]):
            # The residue's own atoms may speak against what the sequence has there.
            sure = 1 - _MISREAD / max(float(np.exp(own(n, place))), _MISREAD)
            r = pieces[k].start + place - offset
            out[place] = (pieces[k].fragment, r, certainty[k] * sure)
    return out


def _odds(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """(residues, 21) log odds of each type, and of an unknown one, against any residue's."""
    prior = np.log([geometry().fractions[name] for name in TYPES])
    whole = np.logaddexp.reduce(table + prior, axis=1, keepdims=True)
    odds = np.log((1 - _MISREAD) * np.exp(table - whole) + _MISREAD)
    return np.concatenate((odds, np.zeros((len(table), 1))), 1)


def _columns(sequence: str) -> NDArray[np.int64]:
    """Column of each letter in a table of odds."""
    return np.array([(LETTERS + UNKNOWN).index(letter) for letter in sequence])


def _offsets(odds: NDArray[np.float64], sequence: str) -> NDArray[np.float64]:
    """Score of a piece at every offset from -2, the sequence padded at both ends."""
    padded = np.pad(
        odds[:, _columns(sequence)], ((0, 0), (_OVERHANG,) * 2), constant_values=_OUTSIDE
    )
    count = padded.shape[1] - len(odds) + 1
    if count <= 0:
        return np.zeros(0)
    rows = np.arange(len(odds))[:, None]
    result: NDArray[np.float64] = padded[rows, rows + np.arange(count)].sum(0)
    return result


def _pieces(fragment: int, odds: NDArray[np.float64], sequence: str) -> list[Piece]:
    """A fragment, cut where its residues jump in the sequence (Viterbi 1967 over places)."""
    gain = odds[:, _columns(sequence)]
    total, back = gain[0].copy(), []
    for row in gain[1:]:
        jump = int(total.argmax())
        onward = np.concatenate(([-np.inf], total[:-1]))
        stays = onward >= total[jump] + _JUMP
        back.append(np.where(stays, np.arange(len(sequence)) - 1, jump))
        total = np.where(stays, onward, total[jump] + _JUMP) + row
    place, cuts = int(total.argmax()), []
    for r in range(len(gain) - 1, 0, -1):
        before = int(back[r - 1][place])
        if before != place - 1:
            cuts.append(r)
        place = before
    edges = [0, *sorted(cuts), len(gain)]
    if len(gain) > len(sequence) + 2 * _OVERHANG and not cuts:
        return []
    return [Piece(fragment, a, b) for a, b in pairwise(edges)]


def _together(
    pieces: Sequence[Piece],
    scores: Sequence[NDArray[np.float64]],
    places_A: Sequence[NDArray[np.float64]],
    sequence: str,
) -> tuple[list[int | None], list[float]]:
    """The best offset of each piece and its probability, given those of all others."""
    prior = np.log(len(sequence))
    order = sorted(range(len(pieces)), key=lambda k: -max(scores[k], default=-np.inf))
    beam: list[tuple[float, dict[int, int]]] = [(0.0, {})]
    for k in order:
        best = np.argsort(-scores[k], kind="stable")[:_OFFSETS]
        grown = list(beam)
        for total, placed in beam:
            for column in best.tolist():
                offset = column - _OVERHANG
                gain = float(scores[k][column]) - prior + _fit(k, offset, placed, pieces, places_A)
                if gain > 0:
                    grown.append((total + gain, {**placed, k: offset}))
        grown.sort(key=lambda row: -row[0])
        beam = grown[:_BEAM]
    placed = beam[0][1]
    offsets: list[int | None] = []
    certainty = []
    for k in range(len(pieces)):
        others = {j: offset for j, offset in placed.items() if j != k}
        odds = {
            column - _OVERHANG: float(score)
            - prior
            + _fit(k, column - _OVERHANG, others, pieces, places_A)
            for column, score in enumerate(scores[k])
        }
        whole = np.logaddexp.reduce([0.0, *odds.values()])
        p = float(np.exp(odds[placed[k]] - whole)) if k in placed else 0.0
        offsets.append(placed[k] if p >= _SURE else None)
        certainty.append(p)
    return offsets, certainty


def _fit(
    k: int,
    offset: int,
    placed: dict[int, int],
    pieces: Sequence[Piece],
    places_A: Sequence[NDArray[np.float64]],
) -> float:
    """What others say of a piece at an offset: no, where it lies on them; little, where they lie
    further apart than the residues between them reach, though a sequence may leave out what was
    never built; yes, where few residues are between them and they lie as near as that."""
    piece = pieces[k]
    size, gain = piece.end - piece.start, 0.0
    for j, other in placed.items():
        length = pieces[j].end - pieces[j].start
        if offset < other + length and other < offset + size:
            both = min(offset + size, other + length) - max(offset, other)
            if both > min(_OVERLAP, size - 1, length - 1):
                return -np.inf
            gain += _OVERLAPS * both
            continue
        first, second, steps = (
            (pieces[j], piece, offset - other - length + 1)
            if other < offset
            else (piece, pieces[j], other - offset - size + 1)
        )
        apart = places_A[first.fragment][first.end - 1] - places_A[second.fragment][second.start]
        apart_A = float(np.linalg.norm(apart))
        if steps in _NEAR_A and apart_A < _CHANCE_A:
            gain += max(float(evidence(apart_A, *_NEAR_A[steps], _CHANCE_A)), _TOO_FAR)
        elif apart_A > _STEP_A * steps + _SLACK_A:
            gain += _TOO_FAR
    return gain


def _whole_score(odds: Sequence[NDArray[np.float64]], sequence: str) -> float:
    """Sum over fragments of their best score, each by itself: quick, for many sequences."""
    scores = [_offsets(row, sequence) for row in odds]
    return float(sum(row.max() for row in scores if len(row)))


def _shuffled_scores(
    odds: Sequence[NDArray[np.float64]], sequence: str, seed: int = 0
) -> NDArray[np.float64]:
    """(200,) scores of the sequence's residues in random order."""
    rng = np.random.default_rng(seed)
    letters = np.array(list(sequence))
    trials = ("".join(rng.permutation(letters)) for _ in range(_SHUFFLES))
    return np.array([_whole_score(odds, trial) for trial in trials])
