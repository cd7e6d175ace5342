"""The quality of a picture: PSNR and SSIM as the field's tables state them, and block errors.

All are on float Y. The error of a sub-pixel block, s x s HR pixels of one LR position, is a mean
squared error (MSE); maps of it are float64 ``(H, W)`` over the LR grid. A picture is uint8, RGB
``(sH, sW, 3)`` or grey ``(sH, sW)``; for block errors also floating Y ``(sH, sW)``.

Grey pictures follow one of two rules. ``"rgb"``, the rule of EDSR, BasicSR and what came after
them: a grey file is read as RGB, and its Y lies in [16, 235]. ``"y"``, the rule of the classical
bicubic tables: a grey file is Y itself, in [0, 255], which costs 1.32 dB.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from dtfn.errors import InputError
from dtfn.images import luma as luma

Array = NDArray[Any]
Float = NDArray[np.float64]
Grey = Literal["rgb", "y"]

GREY: dict[Grey, str] = {  # in words
    "rgb": "Grey pictures are read as RGB, then Y.",
    "y": "Grey pictures are taken as Y.",
}
PEAK = 255.0
WINDOW, SIGMA = 11, 1.5  # SSIM's Gaussian
# Y of 8-bit pictures is 16 and a multiple of 1/UNIT: (21827 R + 42851 G + 8322 B) / 85000.
UNIT = 85_000
SNAP = 1e-6  # units: rounding of float64 Y is below 1e-7, and 1e-6 is 1e-11 grey levels


def psnr(sr: Array, hr: Array, shave: int, grey: Grey = "rgb", rounded: bool = False) -> float:
    """Return the PSNR of ``sr`` against ``hr`` on float Y, in dB; infinite for equal images.

    Both are uint8 in [0, 255], ``(H, W, 3)`` RGB or ``(H, W)`` grey. ``shave`` pixels are left out
    at each side; the field leaves out ``scale``. ``grey`` is the rule for a grey ``hr``.
    ``rounded``: Y is rounded to whole levels first, as some published tables do (MATLAB's
    ``rgb2ycbcr`` of uint8). That costs about 0.02 dB at scale 4 and 0.09 dB at scale 2.
    """
    x, y = _shaved_luma(sr, hr, shave, 1, grey, rounded)
    return psnr_of((x - y) ** 2)


def ssim(sr: Array, hr: Array, shave: int, grey: Grey = "rgb", rounded: bool = False) -> float:
    """Return the SSIM of ``sr`` against ``hr`` on float Y, in [-1, 1]; 11 x 11 pixels must be left.

    As in Wang et al. 2004: Gaussian window of 11 x 11 with sigma 1.5, K = 0.01 and 0.03, population
    covariance, mean over the positions where the window lies inside.
    """
    x, y = _shaved_luma(sr, hr, shave, WINDOW, grey, rounded)
    return float(ssim_map(x, y)[0])


def ssim_map(x: Float, y: Float) -> tuple[float, Float]:
    """Return `ssim` of two Y channels, and the same at each pixel ``(H, W)``."""
    of_paper = {"gaussian_weights": True, "sigma": SIGMA, "use_sample_covariance": False}
    mean, at = structural_similarity(x, y, data_range=PEAK, full=True, **of_paper)  # type: ignore[no-untyped-call]
    return mean, at


def width_by_height(image: Array) -> str:
    """Return the size of an image as messages write it."""
    return f"{image.shape[1]} x {image.shape[0]}"


def _shaved_luma(
    sr: Array, hr: Array, shave: int, least: int, grey: Grey, rounded: bool
) -> tuple[Float, Float]:
    """Return both Y channels without their borders; at least ``least`` pixels high and wide."""
    x, y = lumas(sr, hr)
    height, width = y.shape
    if shave < 0 or min(height, width) < 2 * shave + least:
        expected = f"a border that leaves {least} x {least} pixels or more"
        found = f"{shave} of {width_by_height(hr)}"
        raise InputError("shave", expected, found, "use a larger image or a smaller border")
    inside = np.s_[shave : height - shave, shave : width - shave]
    if grey == "y" and hr.ndim == 2:
        x, y = ((part - 16) * (255 / 219) for part in (x, y))
    if rounded:
        x, y = (np.floor(part + 0.5) for part in (x, y))
    return x[inside], y[inside]


def lumas(sr: Array, hr: Array) -> tuple[Float, Float]:
    """Return `dtfn.images.luma` of two pictures; of different sizes they are an `InputError`."""
    x, y = luma(sr), luma(hr)
    if x.shape != y.shape:
        found, remedy = f"{width_by_height(sr)} and {width_by_height(hr)}", "look for a wrong scale"
        raise InputError("SR and HR", "images of one size", found, f"{remedy}, or a cropped border")
    return x, y


def block_error(sr: Array, hr: Array, scale: int) -> Float:
    """Return the mean squared error of each LR position's block, ``(H, W)``."""
    x, y = lumas(sr, hr)
    difference = x - y
    # Float sums of squares depend on their order, so that equal errors of 8-bit pictures seem to
    # differ. In units they are integers below 255 * 73000, and the sum of 25 squares is exact.
    units = difference * UNIT
    whole = np.rint(units)
    if np.abs(units - whole).max() < SNAP:
        return block_mean(whole**2, scale) / UNIT**2
    return block_mean(difference**2, scale)


def block_mean(values: Float, scale: int) -> Float:
    """Return the mean over each s x s block, ``(sH, sW)`` -> ``(H, W)``; s must divide the size."""
    height, width = values.shape
    if scale < 1 or height % scale or width % scale or not values.size:
        remedy = "crop HR with dtfn.images.modcrop, or look for a wrong scale"
        found = f"{width} x {height} (width x height)"
        raise InputError("image size", f"multiples of the scale, {scale}", found, remedy)
    # Strided sums: NumPy's mean over two short axes takes several times as long.
    rows: Float = sum((values[i::scale] for i in range(1, scale)), values[::scale])
    blocks: Float = sum((rows[:, j::scale] for j in range(1, scale)), rows[:, ::scale])
    return blocks / scale**2


def interior(error: Float) -> Float:
    """Return the map without its outermost positions, the border of s pixels that tables shave."""
    if error.ndim != 2 or min(error.shape) < 3:
        wanted = "3 x 3 LR positions or more, as the outermost are left out"
        raise InputError("image", wanted, " x ".join(map(str, error.shape)), "use a larger image")
    return error[1:-1, 1:-1]


def signed_root(harm: Float) -> Float:
    """Return sign(h) sqrt(|h|): harm in 8-bit levels, in which small and large both show."""
    return np.sign(harm) * np.sqrt(np.abs(harm))


def psnr_of(error: Float | float) -> float:
    """Return the PSNR in dB of errors (MSE): of the interior, that with a border of s pixels."""
    mse = float(np.mean(error))
    return float(10 * np.log10(PEAK**2 / mse)) if mse else float("inf")
