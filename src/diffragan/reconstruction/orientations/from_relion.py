"""Orientations from nothing by RELION, from the images with their contrast transfer.

A second opinion to `from_images`, by another program with another cost function: ab initio from
two seeds or more until two agree. Each start's map places all views by expectation and
maximisation. The images end at the aperture, so they are given on as few pixels as hold it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diffragan.files.star import (
    Particles,
    by_stack,
    read_orientations,
    write_projections,
)
from diffragan.optics import Defocus
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.orientations.search_result import OrientationSearchResult
from diffragan.relion.programs.find import find_relion
from diffragan.relion.programs.jobs import RelionProject, initial_model, place_images
from diffragan.rotations import apart_deg
from diffragan.settings import Settings

SAME_DEG = 20.0  # as `from_images`: starts whose views differ by less agree
_STAR, _STACK = "images.star", "images.mrcs"
_CIRCLE = 0.9  # of the box


def find_from_relion(
    views: Views, settings: Settings, scratch: Path, progress: Progress = no_progress
) -> OrientationSearchResult:
    """Orientations and shifts by RELION's ab initio search, until two of its starts agree.

    Args:
        settings: `relion`, `many_views.find_starts`, `seed`, and how the images were taken.
        scratch: where RELION works; an interrupted search goes on there.

    Raises:
        DiffraganError: there is no RELION, or one of its programs fails.
    """
    relion = find_relion()
    diameter_A = settings.relion.diameter_A or _CIRCLE * views.optics.box_A
    done: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    best, agree_deg = 0, math.inf
    for number in range(settings.many_views.find_starts):
        folder = scratch / f"relion-{number + 1}"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / _STAR).exists():
            write_images(views, settings, folder / _STACK)
        seed = 1000 * settings.seed + number + 1
        project = RelionProject(
            relion, folder, _STAR, settings.relion, diameter_A, seed, progress, ctf=True
        )
        start, _ = initial_model(project)
        data = place_images(project, str(start.relative_to(folder)))
        rotations, shifts = (by_stack(data, values) for values in read_orientations(data))
        for earlier, (other, _) in enumerate(done):
            apart = apart_deg(torch.from_numpy(rotations), torch.from_numpy(other)).median()
            if float(apart) < agree_deg:
                best, agree_deg = earlier, float(apart)
        done.append((rotations, shifts))
        word = "" if number == 0 else f"(the best two differ by {agree_deg:.0f}°)"
        progress("starts of RELION", number + 1, settings.many_views.find_starts, word)
        if agree_deg < SAME_DEG:
            break
    rotations, shifts = done[best]
    placed = replace(
        views,
        rotations=torch.from_numpy(rotations).float().to(views.device),
        shifts_A=torch.from_numpy(shifts).float().to(views.device),
    )
    return OrientationSearchResult(
        placed, agree_deg < SAME_DEG, agree_deg=None if len(done) < 2 else agree_deg
    )


def write_images(views: Views, settings: Settings, path: Path) -> None:
    """The images of views as RELION particles with their defocus, on as few pixels as hold what
    the aperture lets through.

    RELION's images are bright where -sin(gamma) of its contrast transfer is positive; ours are
    2 sin(chi) times the object with chi = gamma (`files/star.py`), so they are given inverted.
    """
    box_A, m = views.optics.box_A, views.flat.m
    inner = slice(0, views.contrast.shape[1])
    places = torch.stack((views.flat.pixel[inner], views.flat.mate[inner])).cpu().numpy()
    rows, columns = np.divmod(places, m)
    rows, columns = rows - m // 2, columns - m // 2
    side = 2 * (int(max(np.abs(rows).max(), np.abs(columns).max())) + 1)

    def batches() -> Iterator[NDArray[np.float32]]:
        for block in views.blocks(64):
            contrast = views.spectra(block).cpu().numpy()
            spectrum = np.zeros((len(contrast), side, side), dtype=np.complex64)
            spectrum[:, rows[0] + side // 2, columns[0] + side // 2] = contrast
            spectrum[:, rows[1] + side // 2, columns[1] + side // 2] = contrast.conj()
            image = np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(-2, -1)), norm="forward")
            yield -np.fft.fftshift(image, axes=(-2, -1)).real.astype(np.float32)

    defocus = _defocus_of(views, settings)
    columns_of = {
        "rlnDefocusU": defocus.u_A - views.optics.centre_to_exit_A,
        "rlnDefocusV": defocus.v_A - views.optics.centre_to_exit_A,
        "rlnDefocusAngle": defocus.angle_deg,
    }
    particles = Particles(len(views), columns=columns_of)
    energy_ev, cs_mm = views.optics.energy_ev, settings.image.cs_mm
    write_projections(path, batches(), particles, box_A / side, energy_ev, cs_mm, amplitude=0.0)


def _defocus_of(views: Views, settings: Settings) -> Defocus:
    """Of each image, from where the settings count it."""
    own = views.transfer.own
    if own is None:
        return Defocus.of(np.full(len(views), settings.image.defocus_A))
    mean, a, b = own.terms_A.cpu().numpy().T
    half, angle = np.hypot(a, b), np.rad2deg(np.arctan2(b, a)) / 2
    return Defocus(mean + half, mean - half, angle)
