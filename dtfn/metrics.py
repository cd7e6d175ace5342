"""PSNR and SSIM as the field's tables state them: on float Y, with a border left out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from dtfn import images
from dtfn.errors import InputError

Array = NDArray[Any]
Float = NDArray[np.float64]

PEAK = 255.0
WINDOW, SIGMA = 11, 1.5  # SSIM's Gaussian
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def psnr(sr: Array, hr: Array, shave: int) -> float:
    """Return the PSNR of ``sr`` against ``hr`` on float Y.

    Parameters
    ----------
    sr, hr
        uint8 in [0, 255], ``(H, W, 3)`` RGB or ``(H, W)`` grey, of one size.
    shave
        Pixels left out at each side; the field leaves out ``scale``.

    Returns
    -------
    dB; infinite for equal images.

    Raises
    ------
    InputError
        For another dtype or shape, sizes that differ, or a border that leaves nothing.

    Notes
    -----
    Equals ``skimage.metrics.peak_signal_noise_ratio(Y_hr, Y_sr, data_range=255)`` on the shaved Y
    channels. Y is not rounded: that would cost 0.09 dB at scale 2.
    """
    x, y = _shaved_luma(sr, hr, shave, least=1)
    mse = float(np.mean((x - y) ** 2))
    return float(10 * np.log10(PEAK**2 / mse)) if mse else float("inf")


def ssim(sr: Array, hr: Array, shave: int) -> float:
    """Return the SSIM of ``sr`` against ``hr`` on float Y, in [-1, 1].

    Parameters and errors are those of `psnr`, but 11 x 11 pixels must be left.

    Notes
    -----
    Wang et al. 2004: Gaussian window of 11 x 11 with sigma 1.5, K = 0.01 and 0.03, population
    covariance, mean over the positions where the window lies inside. Equals
    ``skimage.metrics.structural_similarity(Y_sr, Y_hr, data_range=255, gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False)`` on the shaved Y channels.
    """
    x, y = _shaved_luma(sr, hr, shave, least=WINDOW)
    radius = WINDOW // 2
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / SIGMA) ** 2)
    taps /= taps.sum()
    moments = np.stack([x, y, x * x + y * y, x * y])  # (4, H, W)
    moments = correlate1d(moments, taps, axis=1)[:, radius:-radius]
    moments = correlate1d(moments, taps, axis=2)[:, :, radius:-radius]
    mean_x, mean_y, squares, product = moments
    means = mean_x**2 + mean_y**2
    both = mean_x * mean_y
    top = (2 * both + C1) * (2 * (product - both) + C2)
    return float(np.mean(top / ((means + C1) * (squares - means + C2))))


def luma_like(image: Array, reference: Array) -> Float:
    """Return the Y channel of ``image`` in the range that the Y of ``reference`` has.

    A grey file is Y itself, in [0, 255], while the Y of a colour picture lies in [16, 235]. So a
    colour output for a grey reference becomes the grey of full range, with the same weights, and
    a grey output for a colour reference counts as the picture whose three channels are equal.

    Parameters
    ----------
    image, reference
        uint8, ``(H, W, 3)`` RGB or ``(H, W)`` grey.

    Returns
    -------
    float64 ``(H, W)``, not rounded.

    Raises
    ------
    InputError
        For another dtype or shape.
    """
    for name, array in (("image", image), ("reference", reference)):
        if array.dtype != np.uint8 or not (array.ndim == 2 or array.shape[2:] == (3,)):
            raise InputError(
                name,
                expected="uint8 (H, W, 3) or (H, W)",
                found=f"{array.dtype} {array.shape}",
                remedy="use dtfn.images.as_rgb, and round floats to uint8 first",
            )
    if image.ndim == 3 and reference.ndim == 2:
        # Whole numbers, so that three equal channels give back exactly their value.
        return image.astype(np.int64) @ np.array([65481, 128553, 24966]) / 219000
    return images.luma(np.dstack([image] * 3) if image.ndim < reference.ndim else image)


def _shaved_luma(sr: Array, hr: Array, shave: int, least: int) -> tuple[Float, Float]:
    """Return both Y channels without their borders; at least ``least`` pixels high and wide."""
    x, y = luma_like(sr, hr), luma_like(hr, hr)
    if x.shape != y.shape:
        raise InputError(
            "SR and HR",
            expected="images of one size",
            found=f"{x.shape} and {y.shape}",
            remedy="crop HR with dtfn.images.modcrop, or look for a wrong scale",
        )
    height, width = y.shape
    if shave < 0 or min(height, width) < 2 * shave + least:
        raise InputError(
            "shave",
            expected=f"a border that leaves {least} x {least} pixels or more",
            found=f"{shave} of {height} x {width}",
            remedy="use a larger image or a smaller border",
        )
    inside = np.s_[shave : height - shave, shave : width - shave]
    return x[inside], y[inside]
