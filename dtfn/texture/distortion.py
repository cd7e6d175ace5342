"""How a super-resolved texture differs from the true one: direction, spectrum, structure, edges.

Maps are float64 on Y in [0, 255], non-negative, 0 where nothing is wrong. A texture can have a
small squared error and yet run the wrong way, or have no energy at its true frequencies: these
maps see what PSNR averages away. `maps` returns all four over the LR grid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.signal.windows import hann
from skimage.feature import structure_tensor
from skimage.metrics import structural_similarity

from dtfn.errors import InputError
from dtfn.metrics import PEAK, WINDOW
from dtfn.subpixel.blocks import Array, Float, block_mean, luma, same_size
from dtfn.texture import SIGMA
from dtfn.texture.neighbours import SIDE

GRADIENT_C = 170.0  # for Y in [0, 255]; Xue et al. 2014
ROUNDING = 1 / 12  # variance of what rounding to whole grey levels adds to a pixel
TITLES = {
    "orientation": "orientation error (°)",
    "spectrum": "log-spectrum error (dB)",
    "structure": "1 − SSIM",
    "gradient": "1 − gradient similarity",
}
"""The keys of `maps` -> what stands beside a map of it."""


def maps(sr: Array, hr: Array, scale: int) -> dict[str, Float]:
    """Return all distortion maps of a picture over its LR grid, each ``(H, W)``.

    Parameters
    ----------
    sr, hr
        uint8 RGB ``(sH, sW, 3)`` or grey ``(sH, sW)``, or floating Y ``(sH, sW)`` in [0, 255].
    scale
        s, which divides the size.

    Returns
    -------
    ``orientation`` (degrees, in [0, 90]), ``spectrum`` (dB), ``structure`` (1 - SSIM, in [0, 2]),
    ``gradient`` (1 - gradient similarity, in [0, 1]): the functions below, the mean over a block
    where they are maps of pixels.

    Raises
    ------
    InputError
        For sizes that differ, that s does not divide, or below 11 pixels.
    """
    x, y = same_size(luma(sr, hr), luma(hr, hr))
    return {
        "orientation": block_mean(orientation_error(x, y, SIGMA * scale), scale),
        "spectrum": spectrum_error(x, y, scale),
        "structure": block_mean(1 - ssim_map(x, y), scale),
        "gradient": block_mean(1 - gradient_similarity(x, y), scale),
    }


def orientation_error(sr: Array, hr: Array, sigma: float) -> Float:
    """Return by how much the direction is wrong, weighted by how clear it is, ``(sH, sW)``.

    The angle between the dominant directions of both pictures, in [0, 90] degrees, times the
    coherence of the true one, in [0, 1]: a wrong direction counts where the truth has one.

    Parameters
    ----------
    sr, hr
        As for `maps`.
    sigma
        Of the structure tensor's Gaussian window, HR pixels.

    Notes
    -----
    With z = (J_cc - J_rr) + 2i J_rc of the structure tensor J (Bigun and Granlund 1987), the
    direction has the angle arg(z) / 2 and the coherence |z| / (J_cc + J_rr); the doubled angle is
    the same for a direction and its opposite. Where the output has no direction at all, the
    angle counts as 45 degrees, the mean of a random one.
    """
    x, y = same_size(luma(sr, hr), luma(hr, hr))
    z_x, _ = _doubled(x, sigma)
    z_y, energy = _doubled(y, sigma)
    angle = np.degrees(np.abs(np.angle(z_x * np.conj(z_y)))) / 2
    angle = np.where(z_x == 0, 45.0, angle)
    return angle * np.divide(np.abs(z_y), energy, out=np.zeros_like(energy), where=energy > 0)


def spectrum_error(sr: Array, hr: Array, scale: int) -> Float:
    """Return the log-spectral distance of the texture around each LR position, dB, ``(H, W)``.

    The root mean square, over the frequencies of a window of 5 x 5 LR positions, of the difference
    of both power spectra in dB. A shifted texture has none; a blurred one has.

    Parameters
    ----------
    sr, hr, scale
        As for `maps`.

    Notes
    -----
    Gray and Markel 1976, in two dimensions. Local means are taken off, so frequency 0 is left out.
    The window is Hann's, the picture is mirrored at its border, and to both spectra the power of
    rounding to whole levels is added, below which there is nothing to compare.
    """
    x, y = same_size(luma(sr, hr), luma(hr, hr))
    block_mean(x, scale)  # refuses a size that s does not divide
    side, margin = SIDE * scale, SIDE // 2 * scale
    window = np.outer(hann(side), hann(side))
    padded = [np.pad(image, margin, mode="symmetric") for image in (x, y)]
    count = np.full(side // 2 + 1, 2.0)  # how often rfft2's column stands in the whole spectrum
    count[0] = 1
    count[-1] = 1 if side % 2 == 0 else 2
    weight = np.broadcast_to(count, (side, len(count))).copy()
    weight[0, 0] = 0
    weight /= weight.sum()
    found = np.empty((x.shape[0] // scale, x.shape[1] // scale))
    for row, line in enumerate(found):
        strips = [image[row * scale : row * scale + side] for image in padded]
        logs = [_log_power(strip, window, scale) for strip in strips]
        line[:] = np.sqrt(np.sum(weight * (logs[0] - logs[1]) ** 2, axis=(1, 2)))
    return found


def ssim_map(sr: Array, hr: Array) -> Float:
    """Return SSIM at each pixel, in [-1, 1], ``(sH, sW)``.

    Wang et al. 2004, with the window and constants of `dtfn.metrics.ssim`, whose value
    is the mean of this map over the pixels where the window lies inside. scikit-image's, mirrored
    at the border.

    Parameters
    ----------
    sr, hr
        As for `maps`.

    Raises
    ------
    InputError
        As `maps`.
    """
    x, y = same_size(luma(sr, hr), luma(hr, hr))
    if min(x.shape) < WINDOW:
        raise InputError(
            "image",
            expected=f"{WINDOW} x {WINDOW} pixels or more",
            found=" x ".join(map(str, x.shape)),
            remedy="use a larger image",
        )
    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        x, y, data_range=PEAK, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        full=True,
    )  # fmt: skip
    return similarity


def gradient_similarity(sr: Array, hr: Array) -> Float:
    """Return how alike the gradient magnitudes g are at each pixel, in [0, 1], ``(sH, sW)``.

    (2 g_x g_y + c) / (g_x^2 + g_y^2 + c), with c = 170 and Prewitt's gradients: a slope of 1 has
    g = 2.

    Parameters
    ----------
    sr, hr
        As for `maps`.

    Notes
    -----
    Xue et al. 2014 (GMSD), equation 4. They halve the picture first, for a score of whole pictures
    seen from afar; here textures are looked at pixel by pixel, so it is not halved.
    """
    x, y = same_size(luma(sr, hr), luma(hr, hr))
    g_x, g_y = _slope(x), _slope(y)
    return (2 * g_x * g_y + GRADIENT_C) / (g_x**2 + g_y**2 + GRADIENT_C)


def _doubled(y: Float, sigma: float) -> tuple[NDArray[np.complex128], Float]:
    """Return the structure tensor's direction as a complex number of doubled angle, and its sum."""
    rows, mixed, columns = structure_tensor(y, sigma, mode="reflect", order="rc")  # type: ignore[no-untyped-call]
    return (columns - rows) + 2j * mixed, columns + rows


def _log_power(strip: Float, window: Float, scale: int) -> Float:
    """Return the spectra of the windows along a strip of rows in dB, ``(W, side, side/2 + 1)``."""
    side = len(window)
    patches = np.lib.stride_tricks.sliding_window_view(strip, side, axis=1)[:, ::scale]
    patches = patches.transpose(1, 0, 2)  # (W, side, side)
    patches = patches - patches.mean(axis=(1, 2), keepdims=True)
    power = np.abs(fft.rfft2(patches * window)) ** 2
    return 10 * np.log10(power + ROUNDING * np.sum(window**2))


def _slope(y: Float) -> Float:
    # The paper's taps are 1/3, scipy's are 1.
    return np.hypot(ndimage.prewitt(y, 0), ndimage.prewitt(y, 1)) / 3
