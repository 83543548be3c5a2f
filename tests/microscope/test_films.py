"""Ice, carbon, graphene, displaced water and the beam's edge, against what is known of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from diffragan.errors import DiffraganError
from diffragan.files.store import open_simulation
from diffragan.fourier.grids import frequency_grid
from diffragan.microscope.exit_waves.form_factors import CARBON, form_factor_A, phase_shift_per_A
from diffragan.microscope.imaging import counted_electrons, measure
from diffragan.microscope.matter import water
from diffragan.microscope.matter.beam import SoftDisc
from diffragan.microscope.matter.carbon import carbon_intensity
from diffragan.microscope.matter.graphene import LATTICE_A, graphene_wave
from diffragan.microscope.specimen import Specimen, in_specimen, without_displaced
from diffragan.optics import Optics
from diffragan.settings import load_settings

BOX = Optics(200e3, 50.0, 30.0)
SIDE = 128


def specimen_of(wave: Tensor, optics: Optics, *pairs: str) -> Specimen:
    settings = load_settings(overrides=("pattern.dose_e_per_A2=20", *pairs))
    return in_specimen(wave, optics, settings, list(range(len(wave))))


def empty(copies: int) -> Tensor:
    return torch.ones(copies, SIDE, SIDE, dtype=torch.complex64)


def test_carbon_scatters_as_its_law() -> None:
    """Ring by ring by its structure factor; and a beam wider than the field lights more of it."""
    thin = specimen_of(empty(12), BOX, "specimen.support=carbon", "specimen.carbon_nm=3")
    q = frequency_grid(SIDE, BOX.box_A).sqrt()
    law = carbon_intensity(q, BOX, 3.0, BOX.box_A**2)
    for low, high in ((0.2, 0.3), (0.45, 0.55), (0.7, 0.9)):
        ring = (q > low) & (q < high)
        got = float(thin.intensity()[:, ring].mean() / law[ring].mean())
        assert got == pytest.approx(1, abs=0.06)
    wide = specimen_of(empty(1), BOX, "specimen.support=carbon", "specimen.beam_diameter_A=100")
    ring = (q > 0.4) & (q < 0.9)
    ratio = float(wide.intensity()[0, ring].mean() / law[ring].mean())
    assert ratio == pytest.approx(math.pi / 4 * 100**2 / BOX.box_A**2, rel=0.1)


def test_graphene_is_its_atoms() -> None:
    """Its spots are those of the atoms one by one in a disc, and lie at 2.13 and 1.23 Å."""
    rng = np.random.default_rng(3)
    side, box_A, radius = 96, 40.0, 30.0
    beam = SoftDisc(2 * radius, 0.0)
    wave = graphene_wave(side, box_A, 200e3, lambda y, x: beam.spectrum(torch.hypot(y, x)), rng)
    again = np.random.default_rng(3)
    angle, moved = float(again.uniform(0, math.tau)), again.uniform(0, LATTICE_A, 2)
    # Cell vectors stand a right angle from the other reciprocal vector.
    first, second = (
        LATTICE_A * np.array([math.sin(t), math.cos(t)])
        for t in (angle - math.pi / 6, angle + math.pi / 2)
    )
    bond = LATTICE_A / math.sqrt(3) * np.array([math.sin(angle), math.cos(angle)])
    h, k = (n.reshape(-1, 1) for n in np.meshgrid(*[np.arange(-40, 41)] * 2))
    cells = h * first + k * second + moved
    atoms = np.concatenate((cells, cells + bond))
    middle = box_A / side * (side // 2)
    lit = atoms[np.hypot(*atoms.T) < radius] + middle
    axis = np.fft.fftfreq(side, box_A / side)
    rows, columns = (np.exp(-2j * np.pi * np.outer(axis, lit[:, d])) for d in (0, 1))
    q2 = frequency_grid(side, box_A)
    factor = phase_shift_per_A(200e3, box_A) * form_factor_A(CARBON, q2).numpy()
    explicit = 1j * factor * (rows @ columns.T)
    size = q2.sqrt().numpy()
    for spacing in (2.131, 1.2305):
        near = np.abs(size - 1 / spacing) < 0.04
        a, b = explicit[near], wave.numpy()[near]
        likeness = (a.conj() @ b).real / np.sqrt((np.abs(a) ** 2).sum() * (np.abs(b) ** 2).sum())
        assert likeness > 0.97
        assert (np.abs(b) ** 2).sum() / (np.abs(a) ** 2).sum() == pytest.approx(1, abs=0.06)
    spots = np.abs(wave.numpy()) ** 2
    between = (size > 0.55) & (size < 0.7)
    assert spots[np.abs(size - 1 / 2.131) < 0.04].mean() > 50 * spots[between].mean()


def test_displaced_water_fills_the_molecule(simulated: Path) -> None:
    """The water that is gone has the molecule's volume, 1.21 Å³ a dalton; so much less ice
    scatters; and what it takes from the wave ends at high resolution."""
    store = open_simulation(simulated)
    waves = torch.from_numpy(store.exit_wave([0, 3]))
    optics = store.optics
    spectrum = torch.fft.fft2(waves, norm="forward").to(torch.complex128)
    q = frequency_grid(waves.shape[-1], optics.box_A).sqrt()
    left, thickness = without_displaced(spectrum, q, optics)
    volume = float(thickness.mean()) * optics.box_A**2
    mass = store.structures[int(store.structure_index[0])].mass_kda
    assert volume == pytest.approx(1210 * mass, rel=0.25)
    fine, coarse = (q > 1 / 3) & (q < 0.8), (q > 0) & (q < 1 / 15)
    power = spectrum.abs() ** 2
    assert float((left.abs() ** 2)[:, fine].sum() / power[:, fine].sum()) > 0.97
    assert 0.15 < float((left.abs() ** 2)[:, coarse].sum() / power[:, coarse].sum()) < 0.45
    assert torch.equal(left[:, 0, 0], spectrum[:, 0, 0])
    scattered = []
    for more in ((), ("specimen.displaced_water=true",)):
        film = specimen_of(waves, optics, "specimen.ice_nm=4", *more).films
        assert film is not None
        scattered.append(float((film.abs() ** 2)[:, fine].sum()))
    gone = volume / (optics.box_A**2 * 40)
    assert scattered[1] / scattered[0] == pytest.approx(1 - gone, abs=0.03)


def test_a_beam_diffracts_as_its_amplitude() -> None:
    """A disc as Airy has it, a soft one by Parseval, and its middle is its area."""
    q = torch.linspace(0, 1, 4001, dtype=torch.float64)
    disc = SoftDisc(60.0, 0.0).spectrum(q)
    assert float(disc[0]) == pytest.approx(math.pi * 900, rel=1e-6)
    dark = float(q[(disc[1:] < 0).int().argmax() + 1])
    assert dark == pytest.approx(1.2197 / 60, abs=3e-4)
    soft = SoftDisc(60.0, 20.0)
    spread = soft.spectrum(q)
    power = float(torch.trapezoid(spread**2 * 2 * math.pi * q, q))
    assert power == pytest.approx(soft.area_A2, rel=0.01)
    assert float(spread[q > 0.3].abs().max()) < 0.02 * float(disc[q > 0.3].abs().max())


def test_an_uneven_beam(simulated: Path) -> None:
    """Much wider than the molecule it changes nothing but its own spot; one that misses the
    molecule sees little of it."""
    store = open_simulation(simulated)
    waves, optics = torch.from_numpy(store.exit_wave([0])), store.optics
    ideal = torch.fft.fft2(waves, norm="forward").abs() ** 2
    wide = specimen_of(waves, optics, "specimen.beam_diameter_A=300", "specimen.beam_edge_A=40")
    q = frequency_grid(waves.shape[-1], optics.box_A).sqrt()
    band = (q > 0.2) & (q < 0.8)
    torch.testing.assert_close(
        wide.intensity()[:, band], ideal.double()[:, band], rtol=1e-3, atol=1e-12
    )
    off = specimen_of(
        waves,
        optics,
        "specimen.beam_diameter_A=30",
        "specimen.beam_edge_A=12",
        "specimen.beam_offset_A=40",
    )
    assert float(off.intensity()[:, band].sum()) < 0.7 * float(ideal[:, band].sum())


def test_summed_molecules(simulated: Path) -> None:
    """A pair of many molecules has all of their electrons, the same mean, and the speckle of their
    ice is averaged: its contrast falls with the root of their number."""
    q = frequency_grid(SIDE, BOX.box_A).sqrt()
    ring = (q > 0.45) & (q < 0.55)
    law = water.elastic_intensity(q, BOX, 8.0, BOX.box_A**2)[ring]
    one, many = (
        specimen_of(empty(6), BOX, "specimen.ice_nm=8", f"specimen.molecules={n}").intensity()
        for n in (1, 25)
    )
    one, many = one[:, ring] / law, many[:, ring] / law
    assert float(one.mean()) == pytest.approx(1, abs=0.05)
    assert float(many.mean()) == pytest.approx(1, abs=0.02)
    assert float(one.std()) == pytest.approx(1, abs=0.15)
    assert float(many.std()) == pytest.approx(1 / 5, abs=0.03)
    store = open_simulation(simulated)
    waves, optics = torch.from_numpy(store.exit_wave([0, 3])), store.optics
    summed = load_settings(
        overrides=("pattern.dose_e_per_A2=4", "image.dose_e_per_A2=8", "specimen.molecules=50")
    )
    exact = measure(waves, optics, load_settings(), [1, 2])
    together = measure(waves, optics, summed, [1, 2])
    assert counted_electrons(optics, summed) == 200 * optics.box_A**2
    assert together.image_dose_e_per_A2.tolist() == [400.0, 400.0]
    assert float(together.pattern.sum() / exact.pattern.sum()) == pytest.approx(1, abs=0.03)
    counts = together.pattern * 200 * optics.box_A**2
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=0.02)


def test_what_does_not_go_together() -> None:
    """An edge without a beam, and displaced water without water."""
    dose = "pattern.dose_e_per_A2=4"
    with pytest.raises(DiffraganError, match="beam_diameter_A"):
        load_settings(overrides=(dose, "specimen.beam_edge_A=5"))
    with pytest.raises(DiffraganError, match="ice_nm"):
        load_settings(overrides=(dose, "specimen.displaced_water=true"))
    with pytest.raises(DiffraganError, match="dose_e_per_A2"):
        load_settings(overrides=("specimen.support=carbon",))


def test_water_has_its_potential() -> None:
    """Vitreous water's mean inner potential is some 3.5 to 4.9 V (Harscher & Lichte, ICEM 14, 553,
    1998, measured 3.5; free atoms give more)."""
    interaction = 7.2884e-4  # rad per V Å at 200 keV
    assert 3.4 < water.phase_per_A(200e3) / interaction < 5.0


def test_ice_varies_from_pair_to_pair() -> None:
    """By the spread that is set, about its mean, in the field and beyond it; each pair's by its
    seed alone, and the molecules in it are none the wiser."""
    wide = ("specimen.ice_nm=10", "specimen.beam_diameter_A=90")
    varied = specimen_of(empty(60), BOX, *wide, "specimen.ice_spread=0.4")
    even = specimen_of(empty(60), BOX, *wide)
    q = frequency_grid(SIDE, BOX.box_A).sqrt()
    ring = (q > 0.2) & (q < 0.9)
    share = varied.intensity()[:, ring].mean(1) / even.intensity()[:, ring].mean(1)
    assert float(share.mean()) == pytest.approx(1, abs=0.15)
    assert float(share.std() / share.mean()) == pytest.approx(0.4, abs=0.1)
    assert varied.films is not None
    assert even.films is not None
    inside = (varied.films[:, ring].abs() / even.films[:, ring].abs()).square().mean(1)
    assert float((inside / share - 1).abs().max()) < 1e-6
    again = specimen_of(empty(3), BOX, *wide, "specimen.ice_spread=0.4")
    assert torch.equal(again.intensity(), varied.intensity()[:3])
    with pytest.raises(DiffraganError, match="without ice nothing varies"):
        load_settings(overrides=("specimen.ice_spread=0.4",))
