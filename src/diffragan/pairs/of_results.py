"""The pairs that a result store was phased from, found again and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffragan.errors import DiffraganError
from diffragan.files.store import ResultStore
from diffragan.pairs.open import open_all
from diffragan.pairs.pairs import Pairs
from diffragan.settings import settings_from_dict


def pairs_of_results(
    results: ResultStore, input_paths: Sequence[Path] = (), *, verify: bool = True
) -> Pairs:
    """The pairs that were phased, imaged as they were then.

    Args:
        results: knows the paths and hashes of its inputs.
        input_paths: used instead of those paths, whatever their hashes; one for each.
        verify: whether to compare hashes now, which reads all of the input, or leave that to
            `check_unchanged`.

    Raises:
        DiffraganError: the input is missing or changed, and no other was given.
    """
    entries = results.inputs
    settings = settings_from_dict(results.settings)
    if input_paths:
        if len(input_paths) != len(entries):
            raise DiffraganError(
                f"{results.path} was phased from {len(entries)} inputs and {len(input_paths)} are "
                "given; pass --input once for each, in the same order."
            )
        given = open_all(input_paths, settings=settings, box_A=results.box_A, several=True)
        if len(entries) > 1:
            hashes = [part.sha256 for part in given.parts]
            known = [str(entry["sha256"]) for entry in entries]
            if hashes != known and sorted(hashes) == sorted(known):
                raise DiffraganError(
                    f"{results.path} was phased from these inputs in another order: "
                    f"{', '.join(str(entry['path']) for entry in entries)}; pass --input so."
                )
        return given
    paths = [Path(entry["path"]) for entry in entries]
    for path in paths:
        if not path.exists():
            raise DiffraganError(
                f"The input of {results.path}, {path}, is not there any more; "
                "pass it with --input where it is now."
            )
    images = [Path(entry["image"]) for entry in entries if entry.get("image")]
    side_A = results.box_A
    # What may be phased together was told then: classes take several molecules.
    pairs = open_all(paths, settings=settings, images=images, box_A=side_A, several=True)
    if verify:
        check_unchanged(results, pairs)
    return pairs


def check_unchanged(results: ResultStore, pairs: Pairs) -> None:
    """Refuses an input that has changed since it was phased, by its hash.

    Raises:
        DiffraganError: it has.
    """
    for entry, part in zip(results.inputs, pairs.parts, strict=True):
        if entry.get("sha256") not in (None, part.sha256):
            raise DiffraganError(
                f"The input {part.path} has changed since {results.path} was phased from it; pass "
                "--input with the one that was phased, or phase it again."
            )
