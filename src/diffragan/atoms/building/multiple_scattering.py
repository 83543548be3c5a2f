"""What multiple scattering adds to the slices of atoms, by a multislice through each view."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diffragan.atoms.model.atoms import Atoms, Riding
from diffragan.atoms.model.density import AtomGrid
from diffragan.atoms.model.multislice import Multislice, plan_multislice
from diffragan.atoms.model.scattering import HYDROGEN
from diffragan.fourier.grids import frequency_grid
from diffragan.fourier.slices import Extractor, Slices
from diffragan.fourier.volumes import volume_spectrum
from diffragan.microscope.exit_waves.form_factors import CARBON
from diffragan.optics import transfer_function
from diffragan.progress import Progress, no_progress
from diffragan.reconstruction.likelihood.patterns import PatternTarget

_FINER = 0.7  # of the patterns' edge: how fine the field is, for what scatters out and back
_EDGE_A = 2.0  # beyond the outermost atom along the beam
_BATCH = 4


def with_multiple_scattering(
    target: PatternTarget,
    atoms: Atoms,
    riding: Riding,
    grid: AtomGrid,
    slice_A: float,
    progress: Progress = no_progress,
) -> PatternTarget:
    """The target of atoms whose multiple scattering is that of these ones.

    Args:
        slice_A: the thickest slice of the multislice.
    """
    views, geometry = target.views, target.geometry
    optics = views.optics
    reach = float(atoms.positions_A.norm(dim=1).max()) + _EDGE_A
    finest_A = _FINER * optics.box_A / float(geometry.radius.max())
    field = plan_multislice(
        optics.box_A, 2 * reach, optics.energy_ev, finest_A=finest_A, slice_A=slice_A
    )
    elements = {CARBON: atoms} | ({HYDROGEN: riding.on(atoms)} if len(riding) else {})
    sliced = Extractor(volume_spectrum(grid.volume(atoms, riding)))
    single = replace(target, beyond=None)
    beyond = torch.empty(len(views), 2 * len(geometry), dtype=torch.complex64, device=views.device)
    with torch.no_grad():
        for start in range(0, len(views), _BATCH):
            block = slice(start, min(start + _BATCH, len(views)))
            waves = field.exit_waves(elements, views.rotations[block])
            beyond[block] = slices_of(waves, field, geometry) - single.slices(sliced, block)
            progress("multiple scattering", block.stop, len(views))
    return replace(target, beyond=beyond)


def slices_of(exit_waves: Tensor, field: Multislice, geometry: Slices) -> Tensor:
    """(b, 2 k) the scattered waves (b, px, px), carried back to the centre plane and over i, at the
    pixels of a pattern, mates conjugated: what a weak object's slice on the Ewald sphere is."""
    q2 = frequency_grid(field.px, field.field_A, exit_waves.device)
    back = transfer_function(q2, field.energy_ev, defocus_A=field.centre_to_exit_A)
    spectrum = torch.fft.fft2(exit_waves, norm="forward") * (-1j * back).to(exit_waves.dtype)
    axis = torch.arange(geometry.m, device=exit_waves.device) - geometry.m // 2
    inner = spectrum[:, axis][:, :, axis].flatten(1)
    return torch.cat((inner[:, geometry.pixel], inner[:, geometry.mate].conj()), 1)
