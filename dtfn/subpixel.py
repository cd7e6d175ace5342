"""The error of each sub-pixel block, and where one network errs more than another (harm).

One LR position p is one s x s block of HR pixels. Errors are mean squared errors (MSE) on float Y
in [0, 255]. Maps are float64 ``(H, W)`` over the LR grid. N is a network with non-local attention,
L its local twin.

A picture is a uint8 array, RGB ``(sH, sW, 3)`` or grey ``(sH, sW)``, or a floating array
``(sH, sW)``, which is Y in [0, 255] already.
"""

from __future__ import annotations

import numpy as np

from dtfn import images
from dtfn.errors import InputError
from dtfn.metrics import PEAK, Array, Float

__all__ = [
    "block_error",
    "block_mean",
    "decibels",
    "harm",
    "harm_rate",
    "interior",
    "luma",
    "noise_floor",
    "psnr_of",
    "signed_root",
]

UNIT = 85_000
"""Y of 8-bit pictures is 16 and a multiple of 1/85000: (21827 R + 42851 G + 8322 B) / 85000."""

SNAP = 1e-6  # units: rounding of float64 Y is below 1e-7, and 1e-6 is 1e-11 grey levels


def luma(image: Array) -> Float:
    """Return Y of a picture as float64 ``(H, W)``; grey counts as RGB with three equal channels."""
    if np.issubdtype(image.dtype, np.floating) and image.ndim == 2:
        return finite(image, "image")
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2:] == (3,)):
        raise InputError(
            "image",
            "uint8 (H, W, 3) or (H, W), or floating Y (H, W)",
            f"{image.dtype} {image.shape}",
            "use dtfn.images.as_rgb, and round floats to uint8 first",
        )
    return images.luma(image)


def block_error(sr: Array, hr: Array, scale: int) -> Float:
    """Return the mean squared error of each LR position's block, ``(H, W)``.

    Equal errors of 8-bit pictures are equal numbers: their sums are taken over integers.

    Parameters
    ----------
    sr, hr
        Pictures of one size.
    scale
        s, which divides the size.

    Raises
    ------
    InputError
        For sizes that differ or that s does not divide, or arrays that `luma` refuses.
    """
    x, y = same_size(luma(sr), luma(hr))
    difference, unit = difference_in_units(x, y)
    return block_mean(difference**2, scale) / unit**2


def difference_in_units(x: Float, y: Float) -> tuple[Float, float]:
    """Return x - y in whole units and the number of units in a grey level; else x - y and 1.

    Float sums of squares depend on their order, so that equal errors of 8-bit pictures seem to
    differ. In units they are integers of at most 255 * 73000, so that the sum of the squares of 25
    pixels stays below 2**53 and is exact.
    """
    difference = x - y
    scaled = difference * UNIT
    whole = np.rint(scaled)
    if np.abs(scaled - whole).max(initial=0) < SNAP:
        return whole, float(UNIT)
    return difference, 1.0


def block_mean(values: Float, scale: int) -> Float:
    """Return the mean over each s x s block, ``(sH, sW)`` -> ``(H, W)``; s must divide the size."""
    height, width = values.shape
    if scale < 1 or height % scale or width % scale or not values.size:
        raise InputError(
            "image size",
            f"multiples of the scale, {scale}",
            f"{width} x {height} (width x height)",
            "crop HR with dtfn.images.modcrop, or look for a wrong scale",
        )
    # Strided sums: NumPy's mean over two short axes takes several times as long.
    rows: Float = sum((values[i::scale] for i in range(1, scale)), values[::scale])
    blocks: Float = sum((rows[:, j::scale] for j in range(1, scale)), rows[:, ::scale])
    return blocks / scale**2


def interior(error: Float) -> Float:
    """Return the map without its outermost positions: the border of s pixels that the field shaves.

    Raises `InputError` if nothing is left.
    """
    if error.ndim != 2 or min(error.shape) < 3:
        raise InputError(
            "image",
            "3 x 3 LR positions or more, as the outermost are left out",
            " x ".join(map(str, error.shape)),
            "use a larger image",
        )
    return error[1:-1, 1:-1]


def psnr_of(error: Float) -> float:
    """Return the PSNR in dB of a map of errors: of the interior, that with a border of s pixels."""
    return decibels(float(finite(error, "map of errors").mean()))


def harm(n: Array, l: Array, hr: Array | None = None, scale: int | None = None) -> Float:
    """Return by how much N errs more than L at each position (MSE); above 0, N harmed.

    Parameters
    ----------
    n, l
        The block errors of N and L, float ``(H, W)``; with ``hr`` and ``scale`` their pictures.
    hr, scale
        The ground truth and s.

    Raises
    ------
    InputError
        For pictures without ground truth, maps of different sizes, or as `block_error`.
    """
    if hr is not None and scale is not None:
        n, l = block_error(n, hr, scale), block_error(l, hr, scale)
    elif hr is not None or not all(np.issubdtype(error.dtype, np.floating) for error in (n, l)):
        raise InputError(
            "harm",
            "two maps of block errors, or two pictures with ground truth and scale",
            f"arrays of {n.dtype} {n.shape} and {l.dtype} {l.shape}",
            "call harm(sr_n, sr_l, hr, scale), or pass block_error(sr, hr, scale) of both",
        )
    n, l = same_size(n, l)
    return n - l


def harm_rate(harm: Float, tau: float = 0.0) -> float:
    """Return the share of positions whose harm exceeds ``tau``, in [0, 1].

    ``harm_rate(-harm, tau)`` is the share that N helped; a tie belongs to neither.
    """
    return float(np.mean(finite(harm, "harm") > _threshold(tau)))


def noise_floor(null_harm: Float, quantile: float = 0.5) -> float:
    """Return a quantile of the absolute harm of the null pair (MSE): a threshold for harm."""
    return float(np.quantile(np.abs(finite(null_harm, "harm")), quantile))


def signed_root(harm: Float) -> Float:
    """Return sign(h) sqrt(|h|): harm in 8-bit levels, in which small and large both show."""
    return np.sign(harm) * np.sqrt(np.abs(harm))


def decibels(mse: float) -> float:
    """Return the PSNR of a mean squared error; infinite for 0."""
    return float(10 * np.log10(PEAK**2 / mse)) if mse > 0 else float("inf")


def gain(better: float, base: float) -> float:
    """Return the difference of two PSNRs; 0 where both are infinite."""
    return 0.0 if better == base else better - base


def same_size(*arrays: Array) -> tuple[Float, ...]:
    """Return the arrays as float64 if they are finite and of one size; raise `InputError` else."""
    if len({array.shape for array in arrays}) > 1:
        raise InputError(
            "images or maps",
            "one size",
            " and ".join(str(array.shape) for array in arrays),
            "look for a wrong scale, or for a border that was cropped in one of them",
        )
    return tuple(finite(array, "image or map") for array in arrays)


def finite(array: Array, what: str) -> Float:
    """Return the array as float64; raise `InputError` if it is empty or holds NaN or infinity."""
    if array.size == 0 or not np.isfinite(array).all():
        raise InputError(
            what,
            "finite numbers",
            "nothing" if array.size == 0 else "NaN or infinity",
            "look at the network that made it",
        )
    return array.astype(np.float64, copy=False)


def _threshold(tau: float) -> float:
    if not tau >= 0:
        raise InputError("tau", "0 or more (MSE)", tau, "use noise_floor")
    return tau
