"""Phase recovery for single-molecule electron diffraction.

    import diffragan as dg

    pairs = dg.open_pairs("pairs.zarr")

The public calls are those of `diffragan.api`; they load what they need when they are first used.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffragan.api import (
        evaluate,
        export,
        load_settings,
        make_pairs,
        open_pairs,
        phase,
        prepare,
        reconstruct,
        simulate,
        train,
    )

__all__ = [
    "evaluate",
    "export",
    "load_settings",
    "make_pairs",
    "open_pairs",
    "phase",
    "prepare",
    "reconstruct",
    "simulate",
    "train",
]
__version__ = version("diffragan")


def __getattr__(name: str) -> Any:
    if name in __all__:
        from diffragan import api

        return getattr(api, name)
    raise AttributeError(f"module 'diffragan' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
