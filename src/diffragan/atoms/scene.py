"""Atoms as a page shows them: with the map, what they add to it, where data and atoms differ."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.atoms.building.peaks import heights, peaks
from diffragan.atoms.comparison.local_fit import local_fit
from diffragan.atoms.model.density import AtomGrid
from diffragan.atoms.model.hydrogens import bonded
from diffragan.atoms.molecule.molecule import Molecule
from diffragan.atoms.reconstruction_folder import ReconstructionFolder
from diffragan.atoms.result import AtomsResult
from diffragan.fourier.volumes import centred
from diffragan.reconstruction.likelihood.patterns import pattern_target
from diffragan.reconstruction.maps.views import Views
from diffragan.report.plotting import PURPLE, SKY
from diffragan.report.viewer.density import crop_of, packed
from diffragan.report.viewer.scene import Peak, Residue, Scene, ShownAtoms, Style, Surface

_DRAWN = 0.5  # of a hydrogen: one that is spread over several places is not
_MORE, _LESS = "#1e9e50", "#d62728"
_PEAK_SIGMA, _MOST_PEAKS = 4.5, 15  # a map of a million voxels of noise has few above 4.5

_NOISY_A = 0.6  # a difference map's noise hardly compresses, so it is kept coarser


def atoms_scene(
    result: AtomsResult,
    folder: ReconstructionFolder,
    views: Views,
    extended: tuple[NDArray[np.float32], float],
) -> Scene:
    """The scene of a page on built atoms.

    Args:
        extended: the atoms' potential to 0.9 Å, (m, m, m) with its rotation centre at [m // 2] * 3,
            and its voxel.
    """
    atoms, riding = result.atoms, result.all_views.riding
    grid = AtomGrid(views.n, views.volume_box_A, views.optics.box_A, views.optics.energy_ev)
    spectrum = grid.spectrum(atoms, riding)
    measured = folder.maps["map"]
    model = torch.fft.irfftn(spectrum, s=(views.n,) * 3, norm="forward")
    target = pattern_target(views).adapted(spectrum)
    difference = target.difference(spectrum)
    shown = shown_atoms(result, local_fit(atoms.positions_A, measured, model, grid.box_A))
    crop = crop_of(centred(folder.mask).numpy(), folder.voxel_A)
    volumes = {
        "map": (centred(measured).numpy(), folder.voxel_A),
        "model": extended,
        "more": (centred(difference).cpu().numpy(), folder.voxel_A),
        "less": (centred(-difference).cpu().numpy(), folder.voxel_A),
    }
    surfaces = []
    for name, (volume, voxel_A) in volumes.items():
        density = packed(volume, voxel_A, crop, _NOISY_A if name in ("more", "less") else 0.0)
        if density is not None:
            label, colour, start, style, about = _LOOKS[name]
            presets = {f"{level:g} σ": level for level in (start, 2 * start)}
            shows = name == "map"
            surfaces.append(
                Surface(label, density, colour, start, presets, style, shows, about=about)
            )
    return Scene(surfaces, shown, difference_peaks(difference, folder), fallback="close_ups")


def shown_atoms(result: AtomsResult, fit: Tensor) -> ShownAtoms:
    """The atoms with their bonds, and where they were read as a molecule, residues and elements.

    Args:
        fit: (n,) how well the map shows each.
    """
    atoms, riding, molecule = result.atoms, result.all_views.riding, result.molecule
    places = atoms.positions_A.double().cpu().numpy()
    weights = atoms.weights.cpu().numpy()
    neighbours = molecule.graph.neighbours if molecule else bonded(places, weights)
    bonds = [(i, j) for i, near in enumerate(neighbours) for j in near if i < j < len(places)]
    if molecule:
        bonds = list(dict.fromkeys(bonds + [b for group in molecule.unbound for b in group.bonds]))
    hydrogens = torch.cat((riding.parent[:, None].float(), riding.on(atoms).positions_A), dim=1)
    hydrogens = hydrogens[riding.share > _DRAWN]
    return ShownAtoms(
        places,
        np.array(bonds, dtype=int).reshape(-1, 2),
        result.confirmed.cpu().numpy(),
        weights,
        atoms.b_A2.cpu().numpy(),
        fit.numpy(),
        hydrogens.cpu().numpy(),
        shown_residues(molecule) if molecule else (),
        molecule.symbols if molecule else None,
    )


def shown_residues(molecule: Molecule) -> list[Residue]:
    """Residues by the number of their fragment, and their place in the sequence where it is known,
    in the fragment where it is not."""
    return [
        Residue(
            str(fragment),
            place if residue.number is None else residue.number,
            residue.name,
            tuple(k for k in residue.atoms.values() if k < molecule.built),
            residue.probability,
        )
        for fragment, chain in enumerate(molecule.chains, 1)
        for place, residue in enumerate(chain, 1)
    ]


_LOOKS: dict[str, tuple[str, str, float, Style, str]] = {
    "map": (
        "map, measured", SKY, 3.0, "mesh", "map.mrc of the reconstruction, from all views",
    ),
    "model": (
        "model's map to 0.9 Å", PURPLE, 3.0, "clear",
        "extended.mrc: what the atoms add; past the patterns' edge nothing was measured",
    ),
    "more": (
        "difference, data ask for more", _MORE, 5.0, "surface",
        "where the patterns' likelihood rises with density",
    ),
    "less": (
        "difference, atoms too much", _LESS, 5.0, "surface",
        "where the patterns' likelihood rises if density goes",
    ),
}  # fmt: skip


def difference_peaks(difference: Tensor, folder: ReconstructionFolder) -> list[Peak]:
    """The highest and lowest places of a difference map (n, n, n) in FFT order, in standard
    deviations of the map, largest first; those in the mask only."""
    spread = float(difference.std(correction=0))
    places: list[Peak] = []
    for sign in (1, -1):
        at = peaks(sign * difference.cpu(), folder.box_A, _MOST_PEAKS, inside=folder.mask)
        found = heights(difference, folder.box_A, at).tolist()
        for place, height in zip(at.tolist(), found, strict=True):
            if abs(height) >= _PEAK_SIGMA * spread:
                places.append(Peak((place[0], place[1], place[2]), height / spread))
    return sorted(places, key=lambda peak: -abs(peak.height))[:_MOST_PEAKS]
