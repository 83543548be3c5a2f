"""From a map back to its views: phased waves and projections, as `phase` writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.fourier.slices import extract
from diffragan.fourier.volumes import volume_spectrum
from diffragan.pairs.pairs import Pairs
from diffragan.phasing.method import Phased, phased_wave
from diffragan.phasing.run import make_pair_batch, result_arrays, result_header, result_specs
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.maps.merge_waves import wave_from_object
from diffragan.reconstruction.maps.view_weights import view_r
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.phased_map import PhasedMap
from diffragan.settings import Settings

METHOD = "many-views"


_BATCH = 16


def phased_spectrum(half: Tensor, views: Views, block: slice, *, curved: bool) -> Tensor:
    """(b, m * m) spectra of the object o of some views: the map's phases with the measured
    amplitudes; the map's own amplitudes where a pixel is masked, or patterns are sparse counts.

    The molecule stands where its image has it.
    """
    geometry = views.curved if curved else views.flat
    k, m = len(geometry), geometry.m
    slices = extract(half, views.rotations[block], geometry.points)
    pixel, mate = (slices[:, :k], slices[:, k:]) if curved else (slices, slices)
    if views.electrons is None:
        both = views.measured[block]
        valid = geometry.valid
        pixel = torch.where(valid[0], both[:, 0] * torch.sgn(pixel), pixel)
        mate = torch.where(valid[1], both[:, 1] * torch.sgn(mate), mate)
    cycles = (views.shifts_A[block] / views.volume_box_A) @ geometry.points[:k, :2].T
    ramp = torch.polar(torch.ones_like(cycles), -2 * torch.pi * cycles)
    spectrum = torch.zeros((len(pixel), m * m), dtype=torch.complex64)
    spectrum[:, geometry.pixel] = pixel * ramp
    spectrum[:, geometry.mate] = (mate * ramp).conj()
    return spectrum


def write_phased(
    out: Path,
    pairs: Pairs,
    whole: PhasedMap,
    trust: Tensor,
    settings: Settings,
    *,
    converged: bool,
    seconds: float,
    progress: Progress = no_progress,
) -> Path:
    """A result store of every view phased by the map of all of them.

    Args:
        trust: (rings,) expected correlation with the truth by ring, ring r at r / box; amplitudes
            are weighted by it. A view that lost its say has none.
        seconds: of the whole run, shared out evenly.
    """
    views, curved = whole.views, settings.many_views.ewald
    half = volume_spectrum(whole.map)
    r = view_r(whole.map, views, whole.project.geometry)
    m = views.flat.m
    by_ring = torch.zeros(m // 2 + 1)
    by_ring[: min(len(trust), len(by_ring))] = trust[: len(by_ring)]
    axis = torch.arange(m) - m // 2
    rings = torch.floor(torch.hypot(axis[:, None].double(), axis[None, :].double()) + 0.5).long()
    weight = by_ring[rings.clamp_max(m // 2)].flatten()

    def phase(places: slice) -> Phased:
        items = views.items[places]
        batch = make_pair_batch(pairs, items, settings, torch.device("cpu"))
        spectrum = phased_spectrum(half, views, places, curved=curved) * weight
        wave = wave_from_object(spectrum, batch.direct_beam, m)
        drawn = phased_wave(wave, batch)
        say = views.weights[places]
        return Phased(
            drawn.projection,
            drawn.wave,
            r[places],
            say[:, None] * by_ring,
            r[places, None],
            (say >= 0.5) & converged,
        )

    header = result_header(METHOD, pairs, settings)
    first = phase(slice(0, 1))
    specs = result_specs(first, pairs) | {"rotation": ArraySpec((3, 3), "float64", "1")}
    writer = StoreWriter(out, "result", len(views), specs, header, overwrite=True)
    writer.put("item", views.items)
    writer.put("structure", pairs.structure_index[views.items].astype(np.int32))
    writer.put("rotation", views.rotations.double().numpy())
    each = seconds / len(views)
    size = max(_BATCH // writer.block, 1) * writer.block
    for start in range(0, len(views), size):
        places = slice(start, min(start + size, len(views)))
        arrays = result_arrays(phase(places))
        spent = np.full(places.stop - places.start, each)
        writer.write(np.arange(places.start, places.stop), **arrays, seconds=spent)
        progress("phasing views", places.stop, len(views))
    writer.finish()
    return out
