"""Are the sequences to train on related to those to test on?

Two sequences are aligned globally (Needleman-Wunsch) with BLOSUM62 and the gap penalties of
EMBOSS needle (10 to open, 0.5 to extend); gaps at either end are free, so that a domain is
recognised within a longer chain. Identity is the number of identical aligned residues divided
by the length of the shorter sequence.

That figure is generous to a short sequence beside a long one. Random sequences of natural
composition, 100 pairs each, reach (mean, highest) .14, .23 for 300 against 300 residues, .21,
.36 for 76 against 300, .26, .45 for 20 against 300 and .34, .70 for 10 against 300: below 80
residues a pair above 0.35 may be chance. Relatives below about 25 % are not found by sequence
at all; that takes structures.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from diffragan.errors import DiffraganError

OPEN_GAP_SCORE = -10.0
EXTEND_GAP_SCORE = -0.5
UNKNOWN = "X"
_KNOWN = frozenset("ARNDCQEGHILKMFPSTWYV")
_NAMED_PAIRS = 10


class RelatedPair(NamedTuple):
    """Two relatives on either side of a split, and their identity (0 to 1)."""

    train: str
    test: str
    identity: float


def sequence_identity(a: str, b: str) -> float:
    """Identical aligned residues of two one-letter sequences over the shorter length (0 to 1).

    Symmetric. Letters other than the 20 standard ones align as X and are never identical.

    Raises:
        DiffraganError: a sequence is empty.
    """
    first, second = sorted((_standard(a), _standard(b)))
    if not first:
        raise DiffraganError("An empty sequence can't be aligned; name a file with a protein.")
    # Alignments of equal score may differ in identity: the sorted order makes the choice, and
    # with it the figure, independent of the order of the arguments.
    alignment = _aligner().align(first, second)[0]
    bytes_a = np.frombuffer(first.encode("ascii"), dtype=np.uint8)
    bytes_b = np.frombuffer(second.encode("ascii"), dtype=np.uint8)
    identical = 0
    for (start_a, end_a), (start_b, end_b) in zip(*alignment.aligned, strict=True):
        block = bytes_a[start_a:end_a]
        same = (block == bytes_b[start_b:end_b]) & (block != ord(UNKNOWN))
        identical += int(np.count_nonzero(same))
    return identical / min(len(first), len(second))


def check_split(
    train: Mapping[str, str], test: Mapping[str, str], limit: float = 0.35
) -> list[RelatedPair]:
    """Pairs of a train and a test sequence whose identity is above `limit`, highest first.

    Args:
        train, test: one-letter sequence by stem.
        limit: largest identity allowed (0 to 1).

    Every pair is aligned (about 2 ms for two chains of 300 residues): no cheaper bound on the
    identity was tight enough to skip any.

    Raises:
        DiffraganError: a sequence is empty or the limit is not within 0 to 1.
    """
    if not 0 <= limit <= 1:
        raise DiffraganError(f"The identity limit can't be {limit}: it lies between 0 and 1.")
    identities: dict[tuple[str, str], float] = {}
    pairs: list[RelatedPair] = []
    for train_stem, a in train.items():
        for test_stem, b in test.items():
            if (a, b) not in identities:
                identities[a, b] = sequence_identity(a, b)
            if identities[a, b] > limit:
                pairs.append(RelatedPair(train_stem, test_stem, identities[a, b]))
    return sorted(pairs, key=lambda pair: (-pair.identity, pair.train, pair.test))


def require_unrelated(
    train: Mapping[str, str], test: Mapping[str, str], limit: float = 0.35
) -> None:
    """Passes if no train sequence is related to a test sequence above `limit` (0 to 1).

    Raises:
        DiffraganError: there are relatives; the message names the pairs.
    """
    pairs = check_split(train, test, limit)
    if not pairs:
        return
    named = ", ".join(
        f"{p.train} and {p.test} ({100 * p.identity:.0f} %)" for p in pairs[:_NAMED_PAIRS]
    )
    more = f" and {len(pairs) - _NAMED_PAIRS} more pairs" if len(pairs) > _NAMED_PAIRS else ""
    raise DiffraganError(
        f"Training and test structures are related above {100 * limit:.0f} % sequence identity: "
        f"{named}{more}; leave one of each pair out, or raise the limit."
    )


def _standard(sequence: str) -> str:
    return "".join(c if c in _KNOWN else UNKNOWN for c in sequence.upper() if not c.isspace())


@cache
def _aligner() -> Any:
    from Bio import Align

    # Biopython calls itself typed but leaves these two without annotations.
    align: Any = Align
    aligner = align.PairwiseAligner(mode="global")
    aligner.substitution_matrix = align.substitution_matrices.load("BLOSUM62")
    aligner.open_gap_score = OPEN_GAP_SCORE
    aligner.extend_gap_score = EXTEND_GAP_SCORE
    aligner.end_gap_score = 0.0
    return aligner
