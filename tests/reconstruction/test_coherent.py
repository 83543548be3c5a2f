"""What is coherent in patterns: found at any scale of the maps, beside a background."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffragan.reconstruction.likelihood.coherent import coherent_part
from diffragan.reconstruction.maps.image_map import ring_of
from diffragan.reconstruction.maps.views import Views
from synthetic_views import make_views, molecule, true_volume

ATOMS = molecule(1)

pytestmark = pytest.mark.usefixtures("one_thread")


def means(views: Views) -> torch.Tensor:
    """(rings,) mean intensity of exact patterns."""
    rings = ring_of(views)
    each = views.observed(slice(0, len(views)), views.flat).double().square().mean(0)
    total = torch.zeros(int(rings.max()) + 1, dtype=torch.float64).index_add_(0, rings, each)
    return total / torch.bincount(rings).clamp_min(1)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_what_fades_beyond_what_was_told_is_found(scale: float) -> None:
    """Half of the intensity coherent, told; a further B that was not; three times the molecule's
    intensity beside it; and maps of any scale. Sixty atoms obey Wilson's statistics to a fifth."""
    own = means(make_views(ATOMS, 100))
    told = make_views(ATOMS, 100, dose=2e4, left=0.5, beside=3.0)
    q = told.flat.radius / told.optics.box_A
    volume = scale * true_volume(ATOMS, told.n)
    fitted = []
    for b_A2 in (0.0, 6.0):
        views = replace(told, measured=told.measured * torch.exp(-b_A2 * q**2 / 2))
        halves = views.every_second(0), views.every_second(1)
        found = coherent_part((volume, volume), halves, views.curved, own)
        far = found.q > 0.2
        wanted = torch.exp(-b_A2 * found.q**2 / 2)
        assert float((found.part / wanted)[far].mean()) == pytest.approx(1, abs=0.2)
        assert float((found.error / found.part)[far].max()) < 0.15
        assert [row["coherent"] for row in found.rows()] == found.part[1:].tolist()
        b = found.b_A2()
        assert b is not None
        fitted.append(b)
    assert fitted[0] == pytest.approx(0, abs=2)
    assert fitted[1] - fitted[0] == pytest.approx(6, abs=0.6)


def test_maps_that_have_nothing_in_common_tell_nothing() -> None:
    views = make_views(ATOMS, 40, dose=2e4, beside=3.0)
    one, two = (
        torch.randn((views.n,) * 3, generator=torch.Generator().manual_seed(k)) for k in (1, 2)
    )
    halves = views.every_second(0), views.every_second(1)
    found = coherent_part((one, two), halves, views.curved, means(make_views(ATOMS, 40)))
    assert found.b_A2() is None
