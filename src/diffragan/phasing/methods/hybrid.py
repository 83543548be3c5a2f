"""The method `hybrid`: projection algorithms started from a network."""

from __future__ import annotations

from diffragan.phasing.method import ITERATION_OPTIONS, Context, Method, PairBatch, Phased
from diffragan.phasing.methods import METHODS
from diffragan.phasing.methods.network import GENERATOR, drawn_phases
from diffragan.phasing.methods.raar import phased_by_projections, refine_phases
from diffragan.phasing.proposals import Proposal, image_proposal, more_trusted, network_proposal


def from_network(batch: PairBatch, context: Context) -> Phased:
    """As `raar`, from what a network proposes."""
    return phased_by_projections(batch, refine_phases(batch, proposed(batch, context)))


def proposed(batch: PairBatch, context: Context) -> Proposal:
    """Phases to start from: those of a generator of maps, which knows the image's trust; or of the
    published one, each frequency from it or from the image, whichever knows more."""
    assert context.weights is not None
    metadata = context.weights.metadata
    if metadata.settings.network.generator == GENERATOR:
        return drawn_phases(batch, context)
    projection = METHODS["published"](batch, context).projection
    network = network_proposal(projection, batch, metadata.validation_curve)
    return more_trusted(image_proposal(batch), network)


METHOD = Method(
    from_network,
    needs_weights=True,
    bundled="network.safetensors",
    generators=frozenset({GENERATOR, "published"}),
    invents=True,
    options=ITERATION_OPTIONS | {"samples"},
)
