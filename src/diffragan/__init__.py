"""Phase recovery for single-molecule electron diffraction.

From a PDB entry to phases and a map, each step one call and each call a command:

    import diffragan as dg

    dg.prepare("1UBQ", "prepared")                                 # one clean chain
    dg.simulate("prepared", "waves.zarr")                          # exit waves
    pairs = dg.make_pairs("waves.zarr", "pairs.zarr", truth=True)  # as an instrument gives them
    results = dg.phase(pairs, "phased.zarr", method="raar")        # one pair at a time
    print(dg.evaluate(results))                                    # beside the truth
    found = dg.reconstruct(pairs, "map")                           # all views together
    print(found.summary)
    print(dg.build_atoms(found, "atoms").summary)                  # atoms, beyond the patterns

Measured pairs come by `dg.inspect` or `dg.open_pairs`, choices by
`settings=dg.load_settings(...)`, networks by `dg.train`; `dg.export` writes MRC, TIFF and RELION
files; `workers=dg.Workers(scheduler="tcp://...")` spreads long runs over a Dask cluster, and
`dg.join_stores` puts together what several runs wrote. `help(dg.phase)` says what a call takes.
The calls are those of `diffragan.api`; they load what they need when they are first used.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffragan.api import (
        Workers,
        build_atoms,
        evaluate,
        export,
        inspect,
        join_stores,
        load_settings,
        make_pairs,
        open_pairs,
        phase,
        plan,
        prepare,
        reconstruct,
        relion_particles,
        scan,
        simulate,
        simulate_scan,
        train,
    )

__all__ = [
    "Workers",
    "build_atoms",
    "evaluate",
    "export",
    "inspect",
    "join_stores",
    "load_settings",
    "make_pairs",
    "open_pairs",
    "phase",
    "plan",
    "prepare",
    "reconstruct",
    "relion_particles",
    "scan",
    "simulate",
    "simulate_scan",
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
