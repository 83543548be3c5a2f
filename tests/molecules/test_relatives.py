"""Identity between sequences, and splits that mix relatives."""

from __future__ import annotations

import random

import pytest

from diffragan.errors import DiffraganError
from diffragan.molecules.relatives import check_split, require_unrelated, sequence_identity

UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
# Human NEDD8: its alignment with ubiquitin has no gaps and 44 of 76 residues in common.
NEDD8 = "MLIKVKTLTGKEIEIDIEPTDKVERIKERVEEKEGIPPQQQRLIYSGKQMNDEKTAADYKILGGSVLHLVLALRGG"
LETTERS = "ARNDCQEGHILKMFPSTWYV"


def chance(n: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(LETTERS, k=n))


def test_identity_of_equals_and_of_relatives() -> None:
    assert sequence_identity(UBIQUITIN, UBIQUITIN) == 1
    same = sum(a == b for a, b in zip(UBIQUITIN, NEDD8, strict=True))
    assert sequence_identity(UBIQUITIN, NEDD8) == pytest.approx(same / 76)
    assert sequence_identity(UBIQUITIN, UBIQUITIN.lower()) == 1


def test_identity_counts_over_the_shorter_sequence() -> None:
    # A domain within a longer chain, and one with a piece cut out of its middle.
    assert sequence_identity(chance(60, 1) + UBIQUITIN + chance(60, 2), UBIQUITIN) == 1
    assert sequence_identity(UBIQUITIN[:30] + UBIQUITIN[38:], UBIQUITIN) == 1
    changed = UBIQUITIN[:20].replace("T", "W") + UBIQUITIN[20:]
    assert sequence_identity(changed, UBIQUITIN) == pytest.approx(1 - 4 / 76)


def test_identity_is_symmetric_and_bounded() -> None:
    for seed in range(20):
        a, b = chance(30 + seed, seed), chance(90, seed + 100)
        assert sequence_identity(a, b) == sequence_identity(b, a)
        assert 0 <= sequence_identity(a, b) < 0.6


def test_unknown_residues_match_nothing() -> None:
    assert sequence_identity("XXXXXX", "XXXXXX") == 0
    assert sequence_identity("MQIFXKTLTG", "MQIFUKTLTG") == pytest.approx(0.9)


def test_unrelated_chains_pass() -> None:
    train = {f"train{i}": chance(200, i) for i in range(4)}
    test = {f"test{i}": chance(200, 50 + i) for i in range(3)}
    assert check_split(train, test) == []
    require_unrelated(train, test)
    require_unrelated({}, test)


def test_relatives_are_named_the_closest_first() -> None:
    train = {"1UBQ": UBIQUITIN, "other": chance(150, 7)}
    test = {"1NDD": NEDD8, "copy": UBIQUITIN, "free": chance(150, 8)}
    pairs = check_split(train, test)
    assert [(pair.train, pair.test) for pair in pairs] == [("1UBQ", "copy"), ("1UBQ", "1NDD")]
    identity = pairs[1].identity
    with pytest.raises(DiffraganError, match=r"1UBQ and copy \(100 %\), 1UBQ and 1NDD \(\d+ %\)"):
        require_unrelated(train, test)
    # At the limit is allowed, above is not.
    require_unrelated({"1UBQ": UBIQUITIN}, {"1NDD": NEDD8}, identity)
    with pytest.raises(DiffraganError, match="leave one of each pair out"):
        require_unrelated({"1UBQ": UBIQUITIN}, {"1NDD": NEDD8}, identity - 1e-6)


def test_many_pairs_are_counted() -> None:
    copies = {f"copy{i:02d}": UBIQUITIN for i in range(15)}
    with pytest.raises(DiffraganError, match="and 5 more pairs"):
        require_unrelated(copies, {"1UBQ": UBIQUITIN})


def test_bad_requests() -> None:
    with pytest.raises(DiffraganError, match="empty sequence"):
        sequence_identity("", UBIQUITIN)
    with pytest.raises(DiffraganError, match="between 0 and 1"):
        check_split({}, {}, 35)
