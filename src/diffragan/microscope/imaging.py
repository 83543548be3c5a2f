"""Exit wave to pattern, image and projection, with noise: batched, on CPU and GPU.

Waves are (b, y, x) on the store's grid. Patterns and images come out on the measured grid of
m x m pixels, whose reciprocal pixel is 1/L and whose edge is the pattern's largest angle.
Counting noise is that of `noise.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from diffragan.fourier.grids import double_angle_grid, frequency_grid, resample, shift
from diffragan.microscope.detector import converged, detected, integrated, saturated, working_pixels
from diffragan.microscope.geometry import as_detected
from diffragan.microscope.matter.water import zero_loss
from diffragan.microscope.noise import (
    DEFOCUS,
    IMAGE_NOISE,
    PATTERN_NOISE,
    POSE,
    counted,
    image_dose,
)
from diffragan.microscope.specimen import Specimen, in_specimen, is_ideal
from diffragan.optics import (
    Defocus,
    Optics,
    defocus_along,
    image_contrast,
    pattern_pixels,
    propagate,
    q_from_angle,
    transfer_function,
)
from diffragan.settings import ImageSettings, PatternSettings, ProjectionSettings, Settings


@dataclass(frozen=True)
class Measured:
    """What an instrument gives for a batch of b exposures.

    pattern: (b, m, m) float32, fraction of the beam per pixel, zero frequency at [m//2, m//2],
        masked pixels 0.
    pattern_mask: (m, m) bool, True where the pattern is valid.
    image: (b, m, m) float32, mean 1.
    image_dose_e_per_A2: (b,) float64; infinite where the image has no noise.
    """

    pattern: Tensor
    pattern_mask: Tensor
    image: Tensor
    image_dose_e_per_A2: Tensor


def measure(
    exit_wave: Tensor,
    optics: Optics,
    settings: Settings,
    seeds: Sequence[int],
    defocus: Defocus | None = None,
) -> Measured:
    """Pattern and image of each exit wave (b, y, x); `seeds` holds one integer per item.

    Args:
        defocus: of each image; none: as the settings have it, a spread drawn by the seeds.
    """
    ideal = is_ideal(settings.specimen)
    specimen = None if ideal else in_specimen(exit_wave, optics, settings, seeds)
    pattern, mask = _expected_pattern(exit_wave, specimen, optics, settings, seeds)
    pattern, mask = detected(pattern, mask, settings)
    electrons = counted_electrons(optics, settings)
    if electrons is not None:
        pattern = counted(pattern, electrons, seeds, PATTERN_NOISE)
        pattern = saturated(pattern, electrons / settings.specimen.molecules, settings.detector)
        pattern = integrated(pattern, electrons, settings.detector, seeds) * mask
    m = pattern.shape[-1]
    if defocus is None:
        defocus = drawn_defocus(settings.image, seeds)
    defocus = mistold(defocus, settings.image, seeds)
    expected = defocused_image(exit_wave, optics, settings.image, m, defocus)
    dose = image_dose(expected, optics, settings.image)
    moved = settings.image.shift_A or settings.image.turn_deg
    if specimen is not None or moved:
        wave = exit_wave if specimen is None else specimen.imaged_wave(dose)
        wave = posed(wave, optics, settings.image, seeds) if moved else wave
        expected = defocused_image(wave, optics, settings.image, m, defocus)
    dose = dose * settings.specimen.molecules
    if specimen is not None and settings.specimen.ice_nm:
        if settings.specimen.energy_filter:
            dose = dose * zero_loss(settings.specimen)
        else:  # what lost energy is out of focus, and even
            expected = 1 + zero_loss(settings.specimen) * (expected - 1)
    image = counted(expected, dose * (optics.box_A / m) ** 2, seeds, IMAGE_NOISE)
    return Measured(pattern, mask, image, dose)


def _expected_pattern(
    exit_wave: Tensor,
    specimen: Specimen | None,
    optics: Optics,
    settings: Settings,
    seeds: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Expected patterns (b, m, m) before the detector's pixels, and their mask (m, m)."""
    spread = settings.specimen.convergence_mrad
    if settings.detector.distorts:
        m = pattern_pixels(optics.box_A, settings.pattern.max_angle_mrad, optics.energy_ev)
        mask = pattern_mask(m, optics, settings.pattern)
        if specimen is None:
            wave = torch.fft.fft2(exit_wave.to(torch.complex128), norm="forward").cpu()
            smooth = torch.zeros(wave.shape, dtype=torch.float64)
            direct = torch.ones(len(wave), dtype=torch.complex128)
        else:
            wave, smooth = specimen.wave().cpu(), specimen.smooth().cpu()
            direct = specimen.direct.cpu()
        shown = as_detected(wave, direct, smooth, m, settings.detector, seeds)
        if spread:
            shown = torch.fft.ifftshift(shown, dim=(-2, -1))
            shown = torch.fft.fftshift(converged(shown, spread, optics), dim=(-2, -1))
        pattern = shown.to(torch.float32).to(exit_wave.device)
        return pattern * mask.to(exit_wave.device), mask.to(exit_wave.device)
    if specimen is None and not spread:
        return diffraction_pattern(exit_wave, optics, settings.pattern)
    if specimen is None:
        whole = torch.fft.fft2(exit_wave.to(torch.complex128), norm="forward").abs() ** 2
    else:
        whole = specimen.intensity()
    if spread:
        whole = converged(whole, spread, optics)
    return masked_pattern(whole, optics, settings.pattern)


def posed(wave: Tensor, optics: Optics, settings: ImageSettings, seeds: Sequence[int]) -> Tensor:
    """Exit waves (b, y, x) as the image's exposure meets them: turned about the beam, and off the
    middle, by what each item's seed draws."""
    side, out = wave.shape[-1], []
    middle = side // 2
    for one, seed in zip(wave.cpu(), seeds, strict=True):
        rng = np.random.default_rng([seed, POSE])
        dy, dx, turn = rng.standard_normal(3) * (
            settings.shift_A,
            settings.shift_A,
            np.deg2rad(settings.turn_deg),
        )
        values = one.numpy() - 1
        if turn:
            matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            offset = middle - matrix @ (middle, middle)
            values = ndimage.affine_transform(values, matrix, offset, order=5)
        moved = shift(torch.from_numpy(values), (float(dy), float(dx)), optics.box_A)
        out.append(moved + 1)
    return torch.stack(out).to(wave)


def mistold(
    defocus: Defocus | None, settings: ImageSettings, seeds: Sequence[int]
) -> Defocus | None:
    """The defocus that exposures truly have, where what is told of it is wrong."""
    if not settings.defocus_error_A:
        return defocus
    errors = [np.random.default_rng([seed, POSE, 1]).standard_normal() for seed in seeds]
    told = defocus or Defocus.of(
        np.full(len(seeds), settings.defocus_A),
        settings.astigmatism_A,
        settings.astigmatism_angle_deg,
    )
    wrong = settings.defocus_error_A * np.array(errors)
    return Defocus(told.u_A + wrong, told.v_A + wrong, told.angle_deg)


def diffraction_pattern(
    exit_wave: Tensor, optics: Optics, settings: PatternSettings
) -> tuple[Tensor, Tensor]:
    """Expected far-field intensities (b, m, m), fraction of the beam, and their mask (m, m)."""
    m = pattern_pixels(optics.box_A, settings.max_angle_mrad, optics.energy_ev)
    mask = pattern_mask(m, optics, settings).to(exit_wave.device)
    spectrum = torch.fft.fft2(resample(exit_wave, m), norm="forward")
    intensity = torch.fft.fftshift(spectrum.abs() ** 2, dim=(-2, -1)).to(torch.float32)
    return intensity * mask, mask


def masked_pattern(
    intensity: Tensor, optics: Optics, settings: PatternSettings
) -> tuple[Tensor, Tensor]:
    """Patterns (b, m, m) and their mask from intensities (b, y, x) on the exit waves' grid, in FFT
    order."""
    m = pattern_pixels(optics.box_A, settings.max_angle_mrad, optics.energy_ev)
    mask = pattern_mask(m, optics, settings).to(intensity.device)
    centred = torch.fft.fftshift(intensity, dim=(-2, -1))
    side = intensity.shape[-1]
    before = m // 2 - side // 2
    after = m - side - before
    pattern = torch.nn.functional.pad(centred, (before, after, before, after))
    return pattern.to(torch.float32) * mask, mask


def counted_electrons(optics: Optics, settings: Settings) -> float | None:
    """Electrons of a pattern's exposure that a detector would count if nothing scattered; None
    where patterns have no counting noise. A pattern's values are fractions of them."""
    dose = settings.pattern.dose_e_per_A2
    if dose is None:
        return None
    passed = zero_loss(settings.specimen) if settings.specimen.ice_nm else 1.0
    each = dose * optics.box_A**2 * passed * settings.detector.dqe
    return each * settings.specimen.molecules


def measured_mask(optics: Optics, settings: Settings) -> Tensor:
    """Pixels (m, m) bool that simulated patterns are valid at: `pattern_mask`, where the detector
    works."""
    m = pattern_pixels(optics.box_A, settings.pattern.max_angle_mrad, optics.energy_ev)
    return pattern_mask(m, optics, settings.pattern) & working_pixels(m, settings)


def pattern_mask(m: int, optics: Optics, settings: PatternSettings) -> Tensor:
    """Valid pixels (m, m) bool, zero frequency at the centre: inside the largest angle, off the
    direct beam, and not on the grid's unpaired Nyquist lines."""
    q = torch.fft.fftshift(frequency_grid(m, optics.box_A)).sqrt()
    q_max = q_from_angle(settings.max_angle_mrad, optics.energy_ev)
    inside = (q <= q_max) & (q * optics.box_A > settings.beam_mask_px)
    inside[0, :] = False
    inside[:, 0] = False
    result: Tensor = inside
    return result


def drawn_defocus(settings: ImageSettings, seeds: Sequence[int]) -> Defocus | None:
    """Defocus of simulated images, one for each seed; None where all have `settings.defocus_A` and
    no astigmatism. A spread is normal, and an item's draw depends on its seed alone."""
    if not (settings.defocus_spread_A or settings.astigmatism_A):
        return None
    mean = np.full(len(seeds), settings.defocus_A)
    if settings.defocus_spread_A:
        draws = [np.random.default_rng([seed, DEFOCUS]).standard_normal() for seed in seeds]
        mean = mean + settings.defocus_spread_A * np.array(draws)
    return Defocus.of(mean, settings.astigmatism_A, settings.astigmatism_angle_deg)


def defocused_image(
    exit_wave: Tensor,
    optics: Optics,
    settings: ImageSettings,
    m: int,
    defocus: Defocus | None = None,
) -> Tensor:
    """Noise-free intensity (b, m, m), mean 1, of the aperture-limited defocused exposure.

    The intensity is formed on the exit wave's own grid, where it can't alias, and then resampled.

    Args:
        defocus: of each exposure; none: `settings.defocus_A` for all.
    """
    side, device = exit_wave.shape[-1], exit_wave.device
    defocus_A: float | Tensor = settings.defocus_A
    if defocus is not None:
        terms = torch.from_numpy(defocus.terms_A).to(device)
        defocus_A = defocus_along(terms, double_angle_grid(side, device))
    lens = transfer_function(
        frequency_grid(side, optics.box_A, device),
        optics.energy_ev,
        defocus_A=defocus_A,
        cs_mm=settings.cs_mm,
        focal_spread_A=settings.focal_spread_A,
        aperture_mrad=settings.aperture_mrad,
    ).to(exit_wave.dtype)
    intensity = torch.fft.ifft2(torch.fft.fft2(exit_wave) * lens).abs() ** 2
    image = resample(intensity, m).clamp_min(0)
    return (image / image.mean((-2, -1), keepdim=True)).to(torch.float32)


def contrast_of_images(
    q2: Tensor, optics: Optics, settings: ImageSettings, defocus_A: float | Tensor | None = None
) -> Tensor:
    """`optics.image_contrast` on the given q² of images that were taken as the settings say.

    Args:
        defocus_A: of each image and direction (`defocus_along`); none: `settings.defocus_A`.
    """
    return image_contrast(
        q2,
        optics,
        defocus_A=settings.defocus_A if defocus_A is None else defocus_A,
        cs_mm=settings.cs_mm,
        focal_spread_A=settings.focal_spread_A,
        aperture_mrad=settings.aperture_mrad,
    )


def projection(exit_wave: Tensor, optics: Optics, settings: ProjectionSettings) -> Tensor:
    """abs(CTF(exit wave, defocus))², no aperture, mean 1: (b, y, x) float32."""
    moved = propagate(exit_wave, optics.box_A, optics.energy_ev, -settings.defocus_A)
    intensity = moved.abs() ** 2
    return (intensity / intensity.mean((-2, -1), keepdim=True)).to(torch.float32)


def centre_wave(exit_wave: Tensor, optics: Optics, mask: Tensor) -> Tensor:
    """The wave at the molecule's centre plane in the measured band: (b, m, m) complex.

    `mask` is the pattern's (m, m). Frequencies outside it are zero, except the direct beam.
    """
    m = mask.shape[-1]
    wave = propagate(exit_wave, optics.box_A, optics.energy_ev, -optics.centre_to_exit_A)
    keep = torch.fft.ifftshift(mask).to(wave.device)
    keep[0, 0] = True
    result: Tensor = torch.fft.ifft2(torch.fft.fft2(resample(wave, m)) * keep)
    return result


def projection_of_centre_wave(
    wave: Tensor, optics: Optics, settings: ProjectionSettings, n_px: int
) -> Tensor:
    """The projection (b, n_px, n_px) that a wave at the centre plane (b, m, m) would give."""
    at_exit = Optics(optics.energy_ev, optics.box_A, 0.0)
    shifted = ProjectionSettings(defocus_A=settings.defocus_A - optics.centre_to_exit_A)
    return projection(resample(wave, n_px), at_exit, shifted)
