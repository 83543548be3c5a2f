"""diffragan inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffragan.terminal import Config, Overwrite, Preset, Set, progress_bars, read_settings


def inspect(
    files: Annotated[list[Path], typer.Argument(help="files of patterns, of one detector")],
    out: Annotated[Path, typer.Option(help="measurement store to write, PAIRS.zarr")],
    image: Annotated[
        list[Path] | None, typer.Option(help="the images, in the patterns' order; again for more")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="file of good pixels, 0 where one is bad")
    ] = None,
    reciprocal_pixel: Annotated[
        float | None, typer.Option(min=1e-6, help="a detector's pixel in 1/Å")
    ] = None,
    camera_length_mm: Annotated[
        float | None, typer.Option("--camera-length-mm", min=1, help="camera length, mm")
    ] = None,
    detector_pixel_um: Annotated[
        float | None, typer.Option("--detector-pixel-um", min=0.1, help="the detector's pixel, µm")
    ] = None,
    rings_A: Annotated[
        str | None, typer.Option("--rings-A", help="spacings of rings to calibrate by: 3.67,2.25")
    ] = None,
    centre: Annotated[
        str | None, typer.Option(help="row,column of the beam, to look around")
    ] = None,
    energy_kev: Annotated[float | None, typer.Option(min=10, help="beam energy, keV")] = None,
    dose: Annotated[float | None, typer.Option(min=0.01, help="of a pattern, e/Å²")] = None,
    beam_diameter_A: Annotated[
        float | None,
        typer.Option("--beam-diameter-A", min=1, help="of the beam; tells the dose, if it is seen"),
    ] = None,
    image_pixel_A: Annotated[
        float | None, typer.Option("--image-pixel-A", min=0.01, help="the images' pixel, Å")
    ] = None,
    defocus_A: Annotated[
        float | None, typer.Option("--defocus-A", help="of the images, positive under focus, Å")
    ] = None,
    placement: Annotated[
        str | None,
        typer.Option(
            help="how images lie: as-is, flipped, turned, flipped-turned; auto if not said"
        ),
    ] = None,
    box_A: Annotated[
        float | None,
        typer.Option("--box-A", min=1, help="side of the field, Å; the detector's own"),
    ] = None,
    scan_shape: Annotated[
        str | None, typer.Option(help="rows,columns of the scan that the frames are of")
    ] = None,
    pattern_key: Annotated[
        str | None, typer.Option(help="data set of the patterns, in HDF5 and NPZ files")
    ] = None,
    image_key: Annotated[str | None, typer.Option(help="data set of the images")] = None,
    preset: Preset = "default",
    config: Config = None,
    set_: Set = None,
    overwrite: Overwrite = False,
) -> None:
    """Look at files of an instrument, and make pairs of them.

    Finds the beam's centre, hot and dead pixels and the beam stop, takes calibration, voltage and
    defocus from the files or measures them, brings patterns and images to one field, tries how the
    images lie, and tells all of it with how sure it is. Leaves the pairs, a picture to confirm
    (PAIRS.png) and the numbers (PAIRS.json). Without --image no pairs are written.

    Reads HDF5 (NeXus, Dectris, py4DSTEM), TRPX, MIB, BLO, EMD, HSPY, DM3, DM4, SER, TVIPS, EMPAD,
    TIFF, MRC, STAR, NPY, NPZ, and folders of .npy. Some need pip install 'diffragan[instruments]'.

    Examples:

        diffragan inspect scan_master.h5 --image overview.mrc --out pairs.zarr

        diffragan inspect patterns.mib --image images.dm4 --camera-length-mm 300
        --detector-pixel-um 55 --defocus-A 1200 --out pairs.zarr

        diffragan inspect gold.tif --rings-A 2.355,2.039,1.442 --out gold.zarr
    """
    from diffragan import api

    settings = read_settings(
        preset,
        config,
        set_,
        energy_ev=None if energy_kev is None else energy_kev * 1e3,
        pattern__dose_e_per_A2=dose,
        image__defocus_A=defocus_A,
        inspect__reciprocal_pixel_per_A=reciprocal_pixel,
        inspect__camera_length_mm=camera_length_mm,
        inspect__detector_pixel_um=detector_pixel_um,
        inspect__rings_A=_numbers(rings_A),
        inspect__centre_px=_numbers(centre),
        inspect__beam_diameter_A=beam_diameter_A,
        inspect__image_pixel_A=image_pixel_A,
        inspect__placement=placement,
        inspect__scan_shape=_numbers(scan_shape),
    )
    with progress_bars() as progress:
        found = api.inspect(
            files,
            out,
            image=image or (),
            box_A=box_A,
            mask=mask,
            pattern_key=pattern_key,
            image_key=image_key,
            settings=settings,
            overwrite=overwrite,
            progress=progress,
        )
    for line in found.words():
        typer.echo(line)
    n = len(found.patterns.centres)
    if found.pairs is None:
        typer.echo("No pairs are written, as there are no images (--image).")
    else:
        typer.echo(f"{out}: {n} {'pair' if n == 1 else 'pairs'}")
    typer.echo(f"Look at {out.with_suffix('.png')} before you go on.")


def _numbers(words: str | None) -> list[float] | None:
    """Numbers between commas.

    Raises:
        DiffraganError: one of them is none.
    """
    from diffragan.errors import DiffraganError

    if words is None:
        return None
    try:
        return [float(word) for word in words.split(",")]
    except ValueError:
        raise DiffraganError(f"'{words}' are no numbers between commas; write 12.5,30.") from None
