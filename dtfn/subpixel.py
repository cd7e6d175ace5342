"""The error of each sub-pixel block, as mean squared error (MSE) on float Y in [0, 255].

One LR position is one s x s block of HR pixels; maps are float64 ``(H, W)`` over the LR grid. A
picture is uint8, RGB ``(sH, sW, 3)`` or grey ``(sH, sW)``, or floating Y ``(sH, sW)``. Harm is the
block error with attention less that without it.
"""

from __future__ import annotations

import numpy as np

from dtfn import images
from dtfn.errors import InputError
from dtfn.metrics import PEAK, Array, Float

UNIT = 85_000
"""Y of 8-bit pictures is 16 and a multiple of 1/85000: (21827 R + 42851 G + 8322 B) / 85000."""

SNAP = 1e-6  # units: rounding of float64 Y is below 1e-7, and 1e-6 is 1e-11 grey levels


def luma(image: Array) -> Float:
    """Return Y of a picture as float64 ``(H, W)``; grey counts as RGB with three equal channels."""
    if np.issubdtype(image.dtype, np.floating) and image.ndim == 2:
        return finite(image)
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2:] == (3,)):
        wanted = "uint8 (H, W, 3) or (H, W), or floating Y (H, W)"
        found = f"{image.dtype} {image.shape}"
        raise InputError("image", wanted, found, "use dtfn.images.as_rgb, round floats to uint8")
    return images.luma(image)


def block_error(sr: Array, hr: Array, scale: int) -> Float:
    """Return the mean squared error of each LR position's block, ``(H, W)``.

    Raises `InputError` for pictures of different sizes, sizes that ``scale`` does not divide, or
    numbers that are not finite.
    """
    x, y = same_size(luma(sr), luma(hr))
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


def psnr_of(error: Float) -> float:
    """Return the PSNR in dB of a map of errors: of the interior, that with a border of s pixels."""
    return decibels(float(error.mean()))


def decibels(mse: float) -> float:
    """Return the PSNR of a mean squared error; infinite for 0."""
    return float(10 * np.log10(PEAK**2 / mse)) if mse else float("inf")


def gain(better: float, base: float) -> float:
    """Return the difference of two PSNRs; 0 where both are infinite."""
    return 0.0 if better == base else better - base


def same_size(*arrays: Array) -> tuple[Float, ...]:
    """Return the arrays as float64 if they are finite and of one size; raise `InputError` else."""
    if len({array.shape for array in arrays}) > 1:
        found = " and ".join(str(array.shape) for array in arrays)
        remedy = "look for a wrong scale, or for a border that was cropped in one of them"
        raise InputError("images or maps", "one size", found, remedy)
    return tuple(map(finite, arrays))


def finite(array: Array) -> Float:
    """Return the array as float64; raise `InputError` if it is empty or holds NaN or infinity."""
    if array.size == 0 or not np.isfinite(array).all():
        found, remedy = "NaN, infinity or nothing", "look at the network that made it"
        raise InputError("image or map", "finite numbers", found, remedy)
    return array.astype(np.float64, copy=False)
