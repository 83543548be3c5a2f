"""From a map back to its views: phased waves and projections, as `phase` writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffragan.files.store_writer import ArraySpec, StoreWriter
from diffragan.fourier.correlation import ring_index
from diffragan.fourier.slices import extract
from diffragan.fourier.volumes import volume_spectrum
from diffragan.pairs.pairs import Pairs
from diffragan.phasing.method import Phased, phased_wave
from diffragan.phasing.run import make_pair_batch, result_arrays, result_header, result_specs
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.maps.merge_waves import wave_from_object
from diffragan.reconstruction.maps.view_weights import view_r
from diffragan.reconstruction.maps.views import Views
from diffragan.reconstruction.solve import Solution
from diffragan.settings import Settings

METHOD = "many-views"


_BATCH = 16


def phased_spectrum(spectrum: Tensor, views: Views, block: slice, *, curved: bool) -> Tensor:
    """(b, m * m) spectra of the object o of some views: the map's phases with the measured
    amplitudes; the map's own amplitudes where a pixel is masked, or patterns are sparse counts.

    The molecule stands where its image has it.
    """
    geometry = views.curved if curved else views.flat
    k, m = len(geometry), geometry.m
    slices = extract(spectrum, views.rotations[block], geometry.points)
    pixel, mate = (slices[:, :k], slices[:, k:]) if curved else (slices, slices)
    if views.electrons is None:
        both = views.measured[block]
        valid = geometry.valid
        pixel = torch.where(valid[0], both[:, 0] * torch.sgn(pixel), pixel)
        mate = torch.where(valid[1], both[:, 1] * torch.sgn(mate), mate)
    cycles = (views.shifts_A[block] / views.volume_box_A) @ geometry.points[:k, :2].T
    ramp = torch.polar(torch.ones_like(cycles), -2 * torch.pi * cycles)
    result = torch.zeros((len(pixel), m * m), dtype=torch.complex64)
    result[:, geometry.pixel] = pixel * ramp
    result[:, geometry.mate] = (mate * ramp).conj()
    return result


def write_phased(
    out: Path,
    pairs: Pairs,
    solution: Solution,
    settings: Settings,
    progress: Progress = no_progress,
) -> None:
    """A result store of every view phased by the map of all of them; the run's seconds are shared
    out evenly."""
    views = solution.combined.views
    phase = _phasing(pairs, solution, settings)
    specs = result_specs(phase(slice(0, 1)), pairs)
    specs |= {"rotation": ArraySpec((3, 3), "float64", "1")}
    header = result_header(METHOD, pairs, settings)
    with StoreWriter(out, "result", len(views), specs, header, overwrite=True) as writer:
        writer.put("item", views.items)
        writer.put("structure", pairs.structure_index[views.items].astype(np.int32))
        writer.put("pattern_mask", pairs.pattern_mask)
        writer.put("rotation", views.rotations.double().numpy())
        size = max(_BATCH // writer.block, 1) * writer.block
        for start in range(0, len(views), size):
            block = slice(start, min(start + size, len(views)))
            arrays = result_arrays(phase(block))
            seconds = np.full(block.stop - block.start, solution.seconds / len(views))
            writer.write(np.arange(block.start, block.stop), **arrays, seconds=seconds)
            progress("phasing views", block.stop, len(views))
        writer.finish()


def _phasing(pairs: Pairs, solution: Solution, settings: Settings) -> Callable[[slice], Phased]:
    """What phases a block of views by the map: amplitudes are weighted by the expected correlation
    with the truth by ring, and a view without weight is not trusted."""
    combined, agreement = solution.combined, solution.half_maps.measure
    assert agreement is not None
    views, m = combined.views, combined.views.flat.m
    spectrum = volume_spectrum(combined.map)
    r = view_r(combined.map, views, combined.project.geometry)
    trust = torch.zeros(m // 2 + 1)
    known = agreement.trust[: len(trust)]
    trust[: len(known)] = known
    amplitude = trust[ring_index(m).clamp_max(m // 2)].flatten()

    def phase(block: slice) -> Phased:
        batch = make_pair_batch(pairs, views.items[block], settings, torch.device("cpu"))
        phased = phased_spectrum(spectrum, views, block, curved=settings.many_views.ewald)
        wave = wave_from_object(phased * amplitude, batch.direct_beam, m)
        drawn = phased_wave(wave, batch)
        weight = views.weights[block]
        return Phased(
            drawn.projection,
            drawn.wave,
            r[block],
            weight[:, None] * trust,
            r[block, None],
            (weight >= 0.5) & solution.converged,
        )

    return phase
