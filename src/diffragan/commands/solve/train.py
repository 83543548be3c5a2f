"""diffragan train."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffragan.terminal import (
    Config,
    Device,
    Preset,
    Seed,
    Set,
    note,
    progress_bars,
    read_settings,
)

if TYPE_CHECKING:
    from diffragan.training.leg import TrainResult


def train(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="simulation stores to learn from; with --preset network prepared structures",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="folder of the run; one with a checkpoint is continued")
    ],
    preset: Preset = "published",
    config: Config = None,
    set_: Set = None,
    device: Device = "auto",
    seed: Seed = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="end after this time, with a checkpoint")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; as many as cores unless set")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="write TensorBoard events too")
    ] = False,
) -> None:
    """Train a conditional GAN: the published one on simulated exit waves, ours on structures.

    Patterns, images and projections are computed as they are needed; the generator of --preset
    network sees every molecule in new orientations, under conditions drawn from the settings. Some
    structures are held out (train.validation_structures, or a tenth of them), and the generator
    with the best FRC on those is kept. OUT gets best.safetensors, last.safetensors, log.jsonl,
    settings.toml, samples/*.png and checkpoint.pt. Ctrl-C writes a checkpoint first; the same
    command then goes on where it stopped, and ends in the same weights.

    Examples:

        diffragan train proteins.zarr --out run --set network.width=0.125 --set train.batch_size=8

        diffragan train prepared/ --out run --preset network --max-minutes 90

        diffragan train a.zarr b.zarr --out run --set train.max_steps=300 --max-minutes 10

        torchrun --nproc-per-node 2 -m diffragan train a.zarr --out run --set train.batch_size=8
    """
    import torch

    from diffragan import api

    if threads is not None:
        torch.set_num_threads(threads)
    with progress_bars() as progress:
        result = api.train(
            sources,
            out,
            settings=read_settings(preset, config, set_, seed=seed),
            device=device,
            max_minutes=max_minutes,
            tensorboard=tensorboard,
            progress=progress,
        )
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if os.environ.get("RANK", "0") == "0":
        note(_summary(result))
    if result.stopped == "interrupt":
        raise typer.Exit(130)


def _summary(result: TrainResult) -> str:
    best = "none yet" if result.best_frc is None else f"{result.best_frc:.3f}"
    how = {"finished": "Finished", "time": "Out of time", "interrupt": "Interrupted"}
    again = f" The same command goes on from {result.out / 'checkpoint.pt'}."
    if result.stopped == "finished":
        again = ""
    return (
        f"{how[result.stopped]} after {result.steps} steps ({result.epochs:.2f} epochs, "
        f"{result.images_per_s:.1f} images/s); best validation FRC {best}, in {result.out}.{again}"
    )
