"""Image-iterations a second of the solver, against a plain NumPy loop and the FFTs alone.

    python benchmarks/solver_speed.py

112 x 112 real RAAR in float32 on all cores, a few images at a time so that the arrays stay in
cache; beside it, in turn, one image at a time in complex128 `np.fft` on one core. Time it on a
quiet machine: with another process on a core, both figures fall and the first falls more.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import torch

from diffragan.phasing.modulus import from_fourier, measured_modulus, to_fourier
from diffragan.phasing.solvers import RealSpace, iterate

M, BETA = 112, 0.8


def masks() -> tuple[torch.Tensor, torch.Tensor]:
    """A round band without the direct beam, zero frequency first, and a square support."""
    f = torch.fft.fftfreq(M, 1 / M)
    valid = (f[:, None] ** 2 + f[None, :] ** 2) < (M / 2 - 1) ** 2
    valid[0, 0] = False
    inside = torch.zeros(M, M, dtype=torch.bool)
    inside[30:80, 30:80] = True
    return valid, inside


def solver_steps(images: int) -> Callable[[], object]:
    """One iteration of the package's solver for so many images."""
    valid, inside = masks()
    generator = torch.Generator().manual_seed(0)
    amplitude = torch.rand(images, M, M, generator=generator) * valid
    start = torch.rand(images, M, M, generator=generator)
    modulus = measured_modulus(amplitude, valid, "real")
    run = iterate("raar", start, modulus, RealSpace(inside.expand(images, M, M)), beta=BETA)
    return run.step


def transforms(images: int) -> Callable[[], object]:
    """The two FFTs of an iteration and nothing else."""
    x = torch.rand(images, M, M)
    spectrum = to_fourier(x)

    def step() -> object:
        return to_fourier(x), from_fourier(spectrum, M)

    return step


def numpy_steps() -> Callable[[], object]:
    """One iteration for one image as one would write it first."""
    valid, inside = (a.numpy() for a in masks())
    rng = np.random.default_rng(0)
    amplitude = rng.random((M, M))
    state = {"x": rng.random((M, M)).astype(complex)}

    def step() -> object:
        x = state["x"]
        spectrum = np.fft.fft2(x)
        spectrum = np.where(valid, amplitude * np.exp(1j * np.angle(spectrum)), spectrum)
        y = np.fft.ifft2(spectrum)
        z = np.maximum((2 * y - x).real, 0) * inside
        state["x"] = BETA * (z + x) + (1 - 2 * BETA) * y
        return state["x"]

    return step


def rate(step: Callable[[], object], images: int, seconds: float) -> float:
    """Image-iterations a second over about so many seconds."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(10):
            step()
        count += 10
    return count * images / (time.perf_counter() - began)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=8, help="worked on together")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--pairs", type=int, default=200, help="for the memory check")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ours, floor, plain = solver_steps(args.images), transforms(args.images), numpy_steps()
    rates: dict[str, list[float]] = {"solver": [], "FFTs alone": [], "NumPy loop": []}
    for _ in range(args.rounds):
        rates["solver"].append(rate(ours, args.images, args.seconds))
        rates["FFTs alone"].append(rate(floor, args.images, args.seconds))
        rates["NumPy loop"].append(rate(plain, 1, args.seconds))
    print(f"{M} x {M} real RAAR, {args.threads} threads, {args.images} images at a time")
    for name, values in rates.items():
        print(f"{name:12s} median {np.median(values):8.0f}  best {max(values):8.0f} iterations/s")
    ratios = np.array(rates["solver"]) / np.array(rates["NumPy loop"])
    share = np.array(rates["solver"]) / np.array(rates["FFTs alone"])
    print(f"solver / NumPy loop, side by side: {np.median(ratios):.1f} x")
    print(f"part of an iteration spent in FFTs: {np.median(share):.0%}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for _ in range(args.pairs):
        step = solver_steps(4)
        step()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"memory: {before:.0f} MiB, {after:.0f} MiB after {args.pairs} more pairs of 4 starts")


if __name__ == "__main__":
    main()
