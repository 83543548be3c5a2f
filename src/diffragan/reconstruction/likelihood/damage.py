"""Damage that was not told, or too little or much of it: one B for all views, found and applied.

A map alone takes a B on and fits no worse for it. What tells it is how much of a molecule's
scattering the patterns show coherent where they cross (`coherent.py`), and a map has no say in it.
Both half sets share what is found: a single number, told by all of their patterns together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diffragan.microscope.effective_dose import protein_intensity
from diffragan.microscope.geometry import PROFILE_PARTS
from diffragan.reconstruction.likelihood.coherent import coherent_part, ring_intensity
from diffragan.reconstruction.maps.views import Views

_MOST_A2 = 100.0  # of a B that is applied, either way


def faded_further(views: Views, by_b_A2: float, mass_kda: float | None) -> Views:
    """The views, whose coherent intensities have fallen further than they were told, by
    exp(-B q² / 2): counts are divided by as much more, and count as fewer electrons.

    What fades comes back as atoms that scatter by themselves, so it is known beside the molecule
    as soon as the fade is; less than nothing never lies there.

    Args:
        by_b_A2: Å², negative where they fell less. mass_kda: None where nothing lies beside.
    """
    by_b_A2 = max(-_MOST_A2, min(_MOST_A2, views.further_b_A2 + by_b_A2)) - views.further_b_A2
    if by_b_A2 == 0:
        return views
    q = views.flat.radius / views.optics.box_A
    left = torch.exp(-by_b_A2 * q**2 / 2)
    background, errors = views.background, views.errors
    if background is not None and mass_kda is not None:
        own = protein_intensity(q.double(), views.optics, mass_kda).float()
        background = ((background + own) / left - own).clamp_min(0)
    if errors is not None and errors.profile is not None:
        errors = replace(
            errors, profile=errors.profile / _profile_left(errors.profile, by_b_A2, views)
        )
    return replace(
        views,
        further_b_A2=views.further_b_A2 + by_b_A2,
        fade=left if views.fade is None else views.fade * left,
        background=background,
        errors=errors,
    )


def found_further(views: Sequence[Views], mass_kda: float) -> float:
    """B by which the patterns of sets of views fade further than these are told so far, Å²; 0 where
    they are too few to tell."""
    return coherent_part(views, ring_intensity(views[0], mass_kda)).b_A2() or 0.0


def _profile_left(profile: Tensor, b_A2: float, views: Views) -> Tensor:
    """What a B leaves at the places of a profile beside the molecule."""
    radius = torch.arange(len(profile), device=profile.device) / PROFILE_PARTS
    return torch.exp(-b_A2 * (radius / views.optics.box_A) ** 2 / 2)
