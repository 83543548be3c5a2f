"""The method `published`: the network of Matinyan et al. (2024)."""

from __future__ import annotations

from diffragan.errors import DiffraganError
from diffragan.phasing.method import Context, Method, PairBatch, Phased

PUBLISHED_BOX_A = 70.0


def published_network(batch: PairBatch, context: Context) -> Phased:
    """The generator of Matinyan et al. (2024): pattern and image in, projection out."""
    from diffragan.networks.generator import propose
    from diffragan.networks.scaling import prepare_inputs, projection_from_output

    box = batch.optics.box_A
    if abs(box - PUBLISHED_BOX_A) > 1e-6:
        raise DiffraganError(
            f"--method published works in the paper's {PUBLISHED_BOX_A:g} Å box and this input's "
            f"is {box:g} Å; simulate with --box-A 70, or use another method."
        )
    weights = context.weights
    assert weights is not None
    network = weights.metadata.settings.network
    inputs = prepare_inputs(batch.pattern, batch.pattern_mask, batch.image, network)
    output = propose(weights.generator, inputs, batch.seeds)
    scale = weights.metadata.target
    assert scale is not None
    return Phased(projection_from_output(output, network, scale, batch.projection_px))


METHOD = Method(published_network, needs_weights=True, invents=True)
