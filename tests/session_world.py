"""A small virtual session of two clusters of atoms, and what `diffragan scan` leaves of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffragan.microscope.session.run import simulate_scan
from diffragan.molecules.structure import Structure
from diffragan.scan.run import ScanResult, scan
from diffragan.settings import Settings, load_settings

LIGHT_KDA, HEAVY_KDA = 1.9, 3.6


def clump(stem: str, seed: int, atoms: int, radius_A: float) -> Structure:
    """Carbon, nitrogen and oxygen at random in a ball."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(atoms, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    positions = direction * radius_A * rng.random((atoms, 1)) ** (1 / 3)
    numbers = rng.choice([6, 6, 6, 7, 8], atoms)
    positions -= positions.mean(0)
    return Structure(stem, numbers.astype(np.int64), positions, "GAS" * 10, f"{seed:064d}")


def session_settings(**values: object) -> Settings:
    """A scan of 20 x 20 positions on 64 x 64 pixels, quick to simulate."""
    chosen: dict[str, object] = {
        "seed": 3,
        "pattern.dose_e_per_A2": 1000.0,
        "image.dose_e_per_A2": 1500.0,
        "image.defocus_A": -1000.0,  # so that molecules that lie close stay apart in the overview
        "image.snr": "none",
        "simulate.sampling_A": 0.28,
        "simulate.slice_A": 8.0,
        "session.rows": 20,
        "session.columns": 20,
        "session.step_A": 60.0,
        "session.beam_diameter_A": 110.0,
        "session.beam_edge_A": 12.0,
        "session.molecules": 75,
        "session.aggregates": 3,
        "session.ice_crystals": 3,
        "session.detector_px": 80,
        "session.field_A": 50.0,
        "session.orientations": 12,
        "session.margin_A": 120.0,
        "session.drift_A": 30.0,
    }
    chosen |= {key.replace("__", "."): value for key, value in values.items()}
    return load_settings(values={k: None if v == "none" else v for k, v in chosen.items()})


@dataclass(frozen=True)
class SessionWorld:
    """A session's files and truth, and the folder of its scan."""

    session: Path
    found: ScanResult

    @property
    def folder(self) -> Path:
        """What `diffragan scan` left."""
        return self.found.folder


def make_session(folder: Path, settings: Settings | None = None) -> Path:
    """The files of a virtual session."""
    kinds = [clump("light", 1, 130, 10.0), clump("heavy", 2, 250, 12.5)]
    return simulate_scan(kinds, folder, settings or session_settings(), workers=1)


def scan_settings(**values: object) -> Settings:
    """How it is looked through."""
    chosen: dict[str, object] = {
        "scan.masses_kda": (LIGHT_KDA, HEAVY_KDA),
        "scan.diameter_A": 26.0,
    }
    chosen |= {key.replace("__", "."): value for key, value in values.items()}
    return load_settings(values=chosen)


def make_session_world(folder: Path) -> SessionWorld:
    """A session and its scan, in `folder`/session and `folder`/scan."""
    session = make_session(folder / "session")
    found = scan(
        [session / "scan.h5"],
        session / "overview.mrc",
        folder / "scan",
        scan_settings(),
        box_A=34.0,
    )
    return SessionWorld(session, found)
