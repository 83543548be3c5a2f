"""diffragan scan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffragan.terminal import Config, Overwrite, Preset, Set, progress_bars, read_settings


def scan(
    files: Annotated[
        list[Path], typer.Argument(metavar="SCAN...", help="the scan's patterns, one detector")
    ],
    overview: Annotated[Path, typer.Option(help="one image of the place, of high dose")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="folder to write")],
    mass_kda: Annotated[
        list[float] | None,
        typer.Option(
            "--mass-kda", min=0.5, help="weight of a kind of molecule; again for each further kind"
        ),
    ] = None,
    box_A: Annotated[
        float | None,
        typer.Option(
            "--box-A", min=5, help="side of the pairs' field; twice a molecule's diameter"
        ),
    ] = None,
    scan_shape: Annotated[
        str | None, typer.Option(help="rows,columns of the scan, where the file does not tell")
    ] = None,
    step_A: Annotated[
        float | None, typer.Option("--step-A", min=0.1, help="between beam positions, Å")
    ] = None,
    beam_diameter_A: Annotated[
        float | None, typer.Option("--beam-diameter-A", min=1, help="of the beam, Å")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0.01, max=0.99, help="probability from which a pattern is of molecules"),
    ] = None,
    dose: Annotated[
        float | None, typer.Option(min=0.01, help="of a pattern, e/Å²; else by the direct beam")
    ] = None,
    defocus_A: Annotated[
        float | None,
        typer.Option("--defocus-A", help="of the overview, positive under focus, Å; else found"),
    ] = None,
    image_pixel_A: Annotated[
        float | None, typer.Option("--image-pixel-A", min=0.01, help="the overview's pixel, Å")
    ] = None,
    camera_length_mm: Annotated[
        float | None, typer.Option("--camera-length-mm", min=1, help="camera length, mm")
    ] = None,
    detector_pixel_um: Annotated[
        float | None, typer.Option("--detector-pixel-um", min=0.1, help="the detector's pixel, µm")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="file of good pixels, 0 where one is bad")
    ] = None,
    pattern_key: Annotated[
        str | None, typer.Option(help="data set of the patterns, in HDF5 and NPZ files")
    ] = None,
    preset: Preset = "default",
    config: Config = None,
    set_: Set = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn a raster scan and its overview image into pairs.

    Goes through the scan once: background and excess by ring, and what each pattern is of
    (molecule, several, empty, ice crystal, carbon). Lays the scan on the overview by the particles
    there, cuts out the images of those that were alone in the beam, and keeps each molecule's best
    pattern. With the weights of the kinds (--mass-kda) it tells them apart, and `reconstruct
    --structure` takes one. Says what is lost at each step. An interrupted run goes on where it was.

    Leaves in DIR: pairs.zarr, positions.csv, dark_field.mrc, bright_field.mrc, overview.mrc,
    session.json, settings.toml, report.html.

    Examples:

        diffragan scan scan.h5 --overview overview.mrc --out found

        diffragan scan scan_master.h5 --overview overview.mrc --mass-kda 5.6 --mass-kda 8.6
        --beam-diameter-A 160 --step-A 90 --out found
    """
    from diffragan import api
    from diffragan.terminal import two_numbers

    settings = read_settings(
        preset,
        config,
        set_,
        pattern__dose_e_per_A2=dose,
        image__defocus_A=defocus_A,
        inspect__image_pixel_A=image_pixel_A,
        inspect__camera_length_mm=camera_length_mm,
        inspect__detector_pixel_um=detector_pixel_um,
        inspect__scan_shape=two_numbers(scan_shape),
        scan__masses_kda=tuple(mass_kda) if mass_kda else None,
        scan__step_A=step_A,
        scan__beam_diameter_A=beam_diameter_A,
        scan__threshold=threshold,
    )
    with progress_bars() as progress:
        found = api.scan(
            files,
            overview,
            out,
            box_A=box_A,
            mask=mask,
            pattern_key=pattern_key,
            settings=settings,
            overwrite=overwrite,
            progress=progress,
        )
    for line in found.summary:
        typer.echo(line)
    typer.echo(f"{found.pairs}: {found.session['pairs']} pairs. Look at {out / 'report.html'}.")
