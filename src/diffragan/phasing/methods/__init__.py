"""The methods of `diffragan phase`: a file each, and a line each in this registry.

Lines name what they stand for and import nothing, so the list is complete and quick wherever it is
asked for, and the joint method may live with reconstruction, above this room.
"""

from diffragan.phasing.registry import MethodLine, MethodRegistry

_PACKAGE = "diffragan.phasing.methods"

METHODS = MethodRegistry(
    {
        "image": MethodLine(f"{_PACKAGE}.image:METHOD", "the image's own phases"),
        "published": MethodLine(
            f"{_PACKAGE}.published:METHOD", "the network of Matinyan et al. 2024"
        ),
        "network": MethodLine(
            f"{_PACKAGE}.network:METHOD", "a generator that draws maps between measured amplitudes"
        ),
        "raar": MethodLine(
            f"{_PACKAGE}.raar:METHOD",
            "projection algorithms; the solver is RRR unless set otherwise",
            aliases=("projections",),
        ),
        "hybrid": MethodLine(f"{_PACKAGE}.hybrid:METHOD", "the same from a network's phases"),
        "many-views": MethodLine(
            "diffragan.reconstruction.run:PHASING_METHOD", "all views together, in 3D"
        ),
    }
)

__all__ = ["METHODS"]
