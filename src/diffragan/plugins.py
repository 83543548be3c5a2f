"""What other packages add: objects behind the entry points of one group, loaded when asked for."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from diffragan.errors import DiffraganError, one_line


def load_plugins(group: str) -> dict[str, Any]:
    """The objects that installed packages offer under a group of entry points, by their names.

    Loading imports the packages behind them, so it waits until a name is unknown or all names are
    wanted.

    Args:
        group: `diffragan.readers`, `diffragan.methods` or `diffragan.solvers`.

    Raises:
        DiffraganError: a plug-in can't be imported, or two packages claim one name.
    """
    loaded: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for entry in entry_points(group=group):
        owner = entry.dist.name if entry.dist else entry.module
        if owners.setdefault(entry.name, owner) != owner:
            raise DiffraganError(
                f"The packages {owners[entry.name]} and {owner} both offer '{entry.name}' as a "
                f"plug-in ({group}); uninstall one of them."
            )
        try:
            loaded[entry.name] = entry.load()
        except Exception as error:  # a plug-in's import may fail in any way
            raise DiffraganError(
                f"The plug-in '{entry.name}' of the package {owner} ({group}) can't be loaded "
                f"({one_line(error)}); repair or uninstall that package."
            ) from None
    return loaded
