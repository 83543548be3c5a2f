"""Keys that settings had in earlier versions, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffragan.errors import DiffraganError

# Old key to the present one, which means the same and takes the same values.
RENAMED = {
    "many_views.march_A": "many_views.resolution_steps_A",
    "many_views.polish": "many_views.error_reduction_iterations",
    "many_views.hold_iterations": "many_views.image_weight_iterations",
    "phase.hold": "phase.proposal_weight",
    "phase.hold_until": "phase.proposal_weight_until",
}

# Old key to why there is nothing left to set.
REMOVED = {
    "network.size_px": "the networks work on 256 pixels a side",
}


def present_keys(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dictionary of settings, in a copy, with the keys of this version.

    For what an earlier version wrote: stores, weight files, settings files. Where both names of a
    renamed key stand, the present one wins.
    """
    present = {k: dict(v) if isinstance(v, Mapping) else v for k, v in tree.items()}
    for old in (*RENAMED, *REMOVED):
        section, name = old.split(".")
        if name not in present.get(section, ()):
            continue
        value = present[section].pop(name)
        if old in RENAMED:
            new_section, new_name = RENAMED[old].split(".")
            present.setdefault(new_section, {}).setdefault(new_name, value)
    return present


def refuse_old_key(key: str) -> None:
    """What is typed now should have its present name.

    Raises:
        DiffraganError: the key was renamed or removed; the message says what to give.
    """
    if key in RENAMED:
        raise DiffraganError(f"The setting {key} is called {RENAMED[key]} now; give that.")
    if key in REMOVED:
        raise DiffraganError(f"There is no setting {key} any more ({REMOVED[key]}); leave it out.")
