"""diffragan train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    stores: Annotated[list[Path], typer.Argument(help="simulation stores to learn from")],
    out: Annotated[Path, typer.Option(help="folder of the run; an unfinished one is continued")],
    preset: Annotated[str, typer.Option(help="published or default")] = "published",
    config: Annotated[Path | None, typer.Option(help="TOML file over the preset")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over both, e.g. network.width=0.25")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1")] = "auto",
    seed: Annotated[int | None, typer.Option(help="of weights, noise, order and split")] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="end after this time, with a checkpoint")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; all unless said otherwise")
    ] = None,
    tensorboard: Annotated[bool, typer.Option(help="also write TensorBoard events")] = False,
) -> None:
    """Train the conditional GAN on simulated exit waves.

    Patterns, images and projections are computed from the exit waves as they are needed. A part
    of the structures is held out, and the generator with the best FRC on them is kept as
    OUT/best.safetensors. Stop with Ctrl-C; the same command goes on where it stopped.

    Examples:

        diffragan train proteins.zarr --out run --preset published --set network.width=0.125

        diffragan train a.zarr b.zarr --out run --set train.batch_size=8 --max-minutes 60

        torchrun --nproc-per-node 2 -m diffragan train a.zarr --out run --set train.batch_size=16
    """
    import torch

    from diffragan.settings import load_settings
    from diffragan.training.data import open_exit_waves
    from diffragan.training.loop import train as run

    if threads is not None:
        torch.set_num_threads(threads)
    settings = load_settings(preset, file=config, overrides=set_ or (), values={"seed": seed})
    result = run(
        open_exit_waves(stores),
        out,
        settings,
        device=pick_device(device),
        max_minutes=max_minutes,
        tensorboard=tensorboard,
    )
    typer.echo(result)


def pick_device(name: str) -> str:
    return "cpu"
