"""The public face: one call for each step of the chain, the same that the commands make.

Every call takes paths or what an earlier call returned; a `Source` is one path or several. Long
runs go on where they were interrupted. `settings` come from `load_settings`; `overwrite` replaces
what lies at `out`; `progress` is told the stage, how much of it is done, and of how much.
"""

from diffragan.api.atoms import build_atoms
from diffragan.api.measurement import inspect, join_stores, make_pairs, open_pairs
from diffragan.api.phasing import evaluate, export, phase, train
from diffragan.api.planning import plan
from diffragan.api.reconstruction import reconstruct, relion_particles
from diffragan.api.session import scan, simulate_scan
from diffragan.api.simulation import prepare, simulate
from diffragan.engine.workers import Workers
from diffragan.settings import load_settings

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
