"""The method `hybrid`: projection algorithms started from a network."""

from __future__ import annotations

from diffragan.phasing.method import ITERATION_OPTIONS, Context, Method, PairBatch, Phased
from diffragan.phasing.methods import METHODS
from diffragan.phasing.methods.raar import phased_by_projections, refine_phases
from diffragan.phasing.proposals import image_proposal, more_trusted, network_proposal


def from_network(batch: PairBatch, context: Context) -> Phased:
    """As `raar`, each frequency starting from the image or the network, whichever knows more."""
    projection = METHODS["published"](batch, context).projection
    worth = () if context.weights is None else context.weights.metadata.validation_curve
    network = network_proposal(projection, batch, worth)
    return phased_by_projections(
        batch, refine_phases(batch, more_trusted(image_proposal(batch), network))
    )


METHOD = Method(from_network, needs_weights=True, invents=True, options=ITERATION_OPTIONS)
