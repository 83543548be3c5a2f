"""How large a beam stop may be: the bundled pairs with more and more of their middle masked.

    python -m benchmarks.beam_stop --pixels 0.5,1.5,2.5,3.5,5.5

A line for each radius of the mask, in pixels of 1 / box: where the patterns begin, the FRC with the
truth, how many of six pairs are solved, and R, which does not show it.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np

import diffragan as dg
from diffragan.pairs.open import open_pairs


def main() -> None:
    """Masks, phases, judges."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pixels", default="0.5,1.5,2.5,3.5,5.5")
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=600)
    given = parser.parse_args()
    values = {"phase.starts": given.starts, "phase.iterations": given.iterations}
    settings = dg.load_settings(values=values)
    path = Path(str(resources.files("diffragan").joinpath("data", "example.zarr.zip")))
    pairs = open_pairs(path, settings=settings)
    whole = pairs.pattern_mask.copy()
    radius = np.hypot(*(np.indices(whole.shape) - pairs.m // 2))
    for pixels in (float(word) for word in given.pixels.split(",")):
        pairs.pattern_mask = whole & (radius > pixels)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "phased.zarr"
            results = dg.phase(
                pairs, out, method="raar", settings=settings, device="cpu", warn=print
            )
            scores = dg.evaluate(results, input=pairs)
        print(
            f"begins at {pairs.box_A / (int(pixels) + 1):.1f} Å: FRC of 0.5 at "
            f"{scores['frc_0p5_A']:.2f} Å, solved {scores['solved_fraction']:.2f}, judged solved "
            f"{scores['judged_solved_fraction']:.2f}, R {scores['r_factor_median']:.3f}"
        )


if __name__ == "__main__":
    main()
