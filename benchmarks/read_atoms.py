"""Built atoms read anew as a molecule, without building them again.

    python -m benchmarks.read_atoms atoms_ubq_200 --model prep/1UBQ.cif --sequence 1UBQ.fasta

Chain, residues, elements and docking come from `atoms.csv` alone, or from the atoms of all views of
a run that is not finished, so what changed in how atoms are read shows in seconds.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import torch

from diffragan.atoms.checkpoint import SCRATCH, read_built
from diffragan.atoms.comparison.confirm import match
from diffragan.atoms.model.atoms import Atoms
from diffragan.atoms.molecule.docking import read_fasta
from diffragan.atoms.molecule.judge import against_structure
from diffragan.atoms.molecule.model import build_model
from diffragan.atoms.molecule.molecule import read_molecule
from diffragan.evaluation.fit_model import fit_model
from diffragan.evaluation.known_model import KnownModel, read_model


def atoms_of(folder: Path) -> tuple[Atoms, torch.Tensor]:
    """A folder's atoms, and (n,) bool which of them are confirmed; all, where the half sets of an
    unfinished run do not tell yet."""
    unfinished = read_built(folder / SCRATCH / "all_views.pt")
    if unfinished is not None:
        return unfinished.atoms, unfinished.atoms.weights > 0
    with (folder / "atoms.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def column(name: str) -> torch.Tensor:
        return torch.tensor([float(row[name]) for row in rows])

    places = torch.stack([column(f"{axis}_A") for axis in "xyz"], 1)
    return Atoms(places, column("weight"), column("b_A2")), column("confirmed") > 0


def read(folder: Path, known: KnownModel, sequence: str | None, turned: bool) -> dict[str, Any]:
    """What the atoms of a folder read as, against a structure.

    Args:
        turned: the run found its orientations, so that the structure may lie in any way.
    """
    atoms, sure = atoms_of(folder)
    began = time.process_time()
    molecule = read_molecule(atoms, sure.numpy(), sequence)
    model = build_model(molecule)
    seconds = time.process_time() - began
    places = atoms.positions_A.double().numpy()
    some = places[sure.numpy()] if int(sure.sum()) > 20 else places
    fit = fit_model(known.places_A[known.heavy], some, same_frame=not turned)
    found = against_structure(molecule, model, known, fit)
    near = match(places, fit(known.places_A[known.heavy]))
    return {
        "pieces": [len(chain) for chain in molecule.chains],
        "inferred": len(molecule.graph.inferred),
        "docking_z": None if molecule.docking is None else round(molecule.docking.z, 1),
        **{k: found.get(k) for k in ("residues_right", "main_chain_rms_A", "types_right")},
        "elements_right": found["elements_right"],
        "elements_confusion": found["elements_confusion"],
        "found": near.recall,
        "rms_A": near.rms_A,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of `diffragan atoms`")
    parser.add_argument("--model", type=Path, required=True, help="the true structure")
    parser.add_argument("--sequence", type=Path, help="a FASTA file")
    parser.add_argument("--turned", action="store_true", help="orientations were found, not given")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sequence = None if given.sequence is None else read_fasta(given.sequence)
    row = read(given.folder, read_model(given.model), sequence, given.turned)
    print(json.dumps({"atoms": given.folder.name} | row))


if __name__ == "__main__":
    main()
