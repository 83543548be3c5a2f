"""Built atoms held against a known structure: which atoms are right, and how far they carry."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffragan.atoms.building.build import Built
from diffragan.atoms.comparison.confirm import match, nearest_pairs
from diffragan.atoms.model.atoms import atoms_at
from diffragan.atoms.model.scattering import object_at, structure_sum
from diffragan.evaluation.fit_model import Fit, fit_model
from diffragan.evaluation.known_model import KnownModel
from diffragan.microscope.exit_waves.form_factors import form_factor_A

RESOLUTIONS_A = (
    *(10.0, 8.0, 6.0, 5.0, 4.0, 3.0, 2.5, 2.0, 1.8, 1.6, 1.4, 1.3, 1.25),
    *(1.2, 1.1, 1.0, 0.95, 0.9, 0.88),
)
_DIRECTIONS = 400
_SHIFTED_A = (0.1, 0.3)
_UNBUILT = 0.5  # of a residue's atoms: with fewer on atoms it is named as not built


def fit_to_atoms(built: Built, confirmed: Tensor, model: KnownModel, *, given: bool) -> Fit:
    """How a model lies on atoms.

    Args:
        confirmed: (n,) bool.
        given: the orientations were given, so model and atoms are turned alike.

    Raises:
        DiffraganError: it does not lie on them.
    """
    places = built.atoms.positions_A.double().numpy()
    sure = confirmed.numpy()
    some = places[sure] if sure.sum() > 20 else places
    return fit_model(model.places_A[model.heavy], some, same_frame=given)


def compared(
    built: Built, confirmed: Tensor, model: KnownModel, field: tuple[float, float], fit: Fit
) -> dict[str, Any]:
    """The metrics of atoms against a model: recall, precision, rms, FSC by resolution, residues.

    rms is after the rigid fit, since patterns leave the molecule's place open, and its orientation
    too where it was found.

    Args:
        confirmed: (n,) bool. field: energy in eV and side of the field in Å.
        fit: how the model lies on the atoms, `fit_to_atoms`.
    """
    heavy = model.places_A[model.heavy]
    places = built.atoms.positions_A.double().numpy()
    sure = confirmed.numpy()
    fitted = fit(heavy)
    everything, certain = match(places, fitted), match(places[sure], fitted)
    return {
        "atoms": {
            "recall": everything.recall,
            "precision": everything.precision,
            "rms_A": everything.rms_A,
            "confirmed_recall": certain.recall,
            "confirmed_precision": certain.precision,
            "confirmed_rms_A": certain.rms_A,
        },
        "truth_fsc": fsc_with(built, model, fit, field),
        "model": {
            "hand": "mirrored" if fit.mirrored else "as given",
            "covered": fit.covered,
            "not_built": residues_not_built(model, fit, places),
        },
    }


def pulls(
    places_A: NDArray[np.float64], errors_A: NDArray[np.float64], known_A: NDArray[np.float64]
) -> dict[str, float]:
    """How true the atoms' errors are: the standard deviation of (found - true) / error over the
    coordinates of right atoms, and the part within 2; 1 and .954 if errors are what they say.

    Args:
        places_A: (n, 3). errors_A: (n,), nan where none is given. known_A: (k, 3), in place.
    """
    given = np.isfinite(errors_A)
    one, other = nearest_pairs(places_A[given], known_A, 0.5)
    if not len(one):
        return {"pull_sd": float("nan"), "pulls_within_2": float("nan")}
    apart = (places_A[given][one] - known_A[other]) / errors_A[given][one][:, None]
    near = float((np.abs(apart) <= 2).mean())
    return {"pull_sd": float(np.sqrt((apart**2).mean())), "pulls_within_2": near}


def fsc_with(
    built: Built, model: KnownModel, fit: Fit, field: tuple[float, float]
) -> dict[str, Any]:
    """FSC of the atoms' potential with that of the model, hydrogens included, on shells sampled in
    400 directions; beside it that of the model's own atoms moved at random by 0.1 and 0.3 Å rms,
    since past the measurement the curve shows how well atoms are placed, not data."""
    generator = np.random.default_rng(0)
    directions = generator.normal(size=(_DIRECTIONS, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    fitted = fit(model.places_A)
    moved = {
        s: fitted + generator.normal(scale=s / np.sqrt(3), size=fitted.shape) for s in _SHIFTED_A
    }
    rows: dict[str, list[float]] = {"fsc": []}
    for s in _SHIFTED_A:
        rows[f"moved_{s:g}_A"] = []
    for resolution in RESOLUTIONS_A:
        points = torch.from_numpy(directions / resolution)
        true = _potential(points, model.numbers, fitted)
        rows["fsc"].append(_correlation(object_at(points, built.atoms, *field, built.riding), true))
        for s in _SHIFTED_A:
            shaken = _potential(points, model.numbers, moved[s])
            rows[f"moved_{s:g}_A"].append(_correlation(shaken, true))
    return {"resolution_A": list(map(float, RESOLUTIONS_A)), **rows}


def residues_not_built(model: KnownModel, fit: Fit, places_A: NDArray[np.float64]) -> list[str]:
    """Residues of the model with atoms on fewer than half of theirs, in its own order."""
    from scipy.spatial import cKDTree

    near = cKDTree(places_A).query(fit(model.places_A))[0] <= 0.5
    counts: dict[str, list[bool]] = {}
    for residue, hit, heavy in zip(model.residues, near, model.heavy, strict=True):
        if heavy:
            counts.setdefault(residue, []).append(bool(hit))
    return [name for name, hits in counts.items() if np.mean(hits) < _UNBUILT]


def _potential(points: Tensor, numbers: NDArray[np.int64], places: NDArray[np.float64]) -> Tensor:
    q2 = (points**2).sum(-1)
    total = torch.zeros(len(points), dtype=torch.complex128)
    for number in np.unique(numbers):
        some = atoms_at(torch.from_numpy(places[numbers == number]), b_A2=0.0)
        total += form_factor_A(int(number), q2) * structure_sum(points, some)
    return total


def _correlation(one: Tensor, other: Tensor) -> float:
    power = (one.abs().square().sum() * other.abs().square().sum()).sqrt()
    return float((one.conj() * other).sum().real / power)
