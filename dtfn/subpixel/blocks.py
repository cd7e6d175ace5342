"""The error of each sub-pixel block, and where one network errs more than another (harm).

One LR position p is one s x s block of HR pixels. Errors are mean squared errors on float Y in
[0, 255]; maps are float64 ``(H, W)`` over the LR grid. N is a network with non-local attention, L
its local twin. Users find these functions in `dtfn.subpixel`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtfn.errors import InputError
from dtfn.metrics import PEAK, luma_like

Array = NDArray[Any]
Float = NDArray[np.float64]


def luma(image: Array, reference: Array) -> Float:
    """Return Y as float64 ``(H, W)``, in the range that the Y of ``reference`` has.

    Parameters
    ----------
    image, reference
        uint8 RGB ``(H, W, 3)`` or grey ``(H, W)``; or floating ``(H, W)``, which is Y in [0, 255]
        already.

    Raises
    ------
    InputError
        For another kind of array, or Y that is not finite.
    """
    if np.issubdtype(image.dtype, np.floating) and image.ndim == 2:
        return _finite(image, "image")
    # Floating Y does not tell whether its picture was grey: then the image goes by its own kind.
    return luma_like(image, reference if reference.dtype == np.uint8 else image)


def lumas(sr_n: Array, sr_l: Array, hr: Array) -> tuple[Float, Float, Float]:
    """Return Y of N, of L and of the truth, each as `luma`.

    Raises
    ------
    InputError
        As `luma`, or for sizes that differ.
    """
    n, l, y = same_size(luma(sr_n, hr), luma(sr_l, hr), luma(hr, hr))
    return n, l, y


def block_error(sr: Array, hr: Array, scale: int) -> Float:
    """Return the mean squared error of each LR position's block, ``(H, W)``.

    Parameters
    ----------
    sr, hr
        uint8 RGB ``(sH, sW, 3)`` or grey ``(sH, sW)``, or floating Y ``(sH, sW)`` in [0, 255].
    scale
        s, which divides the size.

    Raises
    ------
    InputError
        For sizes that differ or that s does not divide, or arrays that `luma` refuses.
    """
    x, y = same_size(luma(sr, hr), luma(hr, hr))
    return block_mean((x - y) ** 2, scale)


def block_mean(values: Float, scale: int) -> Float:
    """Return the mean over each s x s block: ``(sH, sW)`` -> ``(H, W)``.

    Raises
    ------
    InputError
        If s does not divide the size.
    """
    height, width = values.shape
    if scale < 1 or height % scale or width % scale or not values.size:
        raise InputError(
            "image size",
            expected=f"multiples of the scale, {scale}",
            found=f"{height} x {width}",
            remedy="crop HR with dtfn.images.modcrop, or look for a wrong scale",
        )
    # Strided sums: NumPy's mean over two short axes takes several times as long.
    rows: Float = sum((values[i::scale] for i in range(1, scale)), values[::scale])
    blocks: Float = sum((rows[:, j::scale] for j in range(1, scale)), rows[:, ::scale])
    return blocks / scale**2


def interior(error: Float) -> Float:
    """Return the map without its outermost positions: the border of s pixels that the field shaves.

    Raises
    ------
    InputError
        If nothing is left.
    """
    if error.ndim != 2 or min(error.shape) < 3:
        raise InputError(
            "image",
            expected="3 x 3 LR positions or more, as the outermost are left out",
            found=" x ".join(map(str, error.shape)),
            remedy="use a larger image",
        )
    return error[1:-1, 1:-1]


def psnr_of(error: Float) -> float:
    """Return the PSNR in dB of a map of errors; infinite if all are 0.

    Of the interior it is `dtfn.metrics.psnr` with a border of s pixels.
    """
    return decibels(float(_finite(error, "map of errors").mean()))


def harm(error_n: Float, error_l: Float) -> Float:
    """Return by how much N errs more than L at each position (MSE); above 0, N harmed."""
    error_n, error_l = same_size(error_n, error_l)
    return error_n - error_l


def harm_rate(harm: Float, tau: float = 0.0) -> float:
    """Return the share of positions whose harm exceeds ``tau``, in [0, 1].

    ``harm_rate(-harm, tau)`` is the share that N helped; a tie belongs to neither.

    Raises
    ------
    InputError
        For a negative ``tau``, or harm that is not finite.
    """
    return float(np.mean(_finite(harm, "harm") > _threshold(tau)))


def noise_floor(null_harm: Float, quantile: float = 0.5) -> float:
    """Return a threshold for harm: a quantile of the absolute harm of the null pair (MSE).

    The null pair is two local twins that differ in their training seed only. With the median,
    half of the positions differ by more than this though no attention is involved.
    """
    return float(np.quantile(np.abs(_finite(null_harm, "harm")), quantile))


@dataclass(frozen=True)
class HarmMass:
    """How much N harmed and how much it helped.

    Attributes
    ----------
    harmed, helped
        The sum of the positive harm, and that of the negative without its sign, each divided by
        the number of positions (MSE), so that images of different sizes can be averaged.
        harmed - helped = MSE of N - MSE of L, for ``tau = 0``.
    share
        harmed / (harmed + helped), in [0, 1]: 0.5 where they balance; NaN where both are 0.
    lost_db
        What N's PSNR would gain, had it L's error where it harmed.
    won_db
        What L's PSNR would gain, had it N's error where N helped.
        won_db - lost_db = PSNR of N - PSNR of L, for ``tau = 0``.
    """

    harmed: float
    helped: float
    share: float
    lost_db: float
    won_db: float


def harm_mass(error_n: Float, error_l: Float, tau: float = 0.0) -> HarmMass:
    """Return how much N harmed and helped, where the two differ by more than ``tau`` (MSE)."""
    h = harm(error_n, error_l)
    tau = _threshold(tau)
    n, l = error_n.mean(), error_l.mean()
    repaired_n = np.where(h > tau, error_l, error_n).mean()
    repaired_l = np.where(h < -tau, error_n, error_l).mean()
    harmed, helped = h[h > tau].sum() / h.size, -h[h < -tau].sum() / h.size
    return HarmMass(
        harmed=float(harmed),
        helped=float(helped),
        share=float(harmed / (harmed + helped)) if harmed + helped else float("nan"),
        lost_db=gain(decibels(repaired_n), decibels(n)),
        won_db=gain(decibels(repaired_l), decibels(l)),
    )


def decibels(mse: float) -> float:
    """Return the PSNR of a mean squared error; infinite for 0."""
    return float(10 * np.log10(PEAK**2 / mse)) if mse > 0 else float("inf")


def gain(better: float, base: float) -> float:
    """Return the difference of two PSNRs; 0 where both are infinite."""
    return 0.0 if better == base else better - base


def same_size(*arrays: Float) -> tuple[Float, ...]:
    """Return the arrays if they are finite, ``(H, W)`` and of one size; raise `InputError` else."""
    if len({array.shape for array in arrays}) > 1:
        raise InputError(
            "images or maps",
            expected="one size",
            found=" and ".join(str(array.shape) for array in arrays),
            remedy="look for a wrong scale, or for a border that was cropped in one of them",
        )
    return tuple(_finite(array, "image or map") for array in arrays)


def _finite(array: Array, what: str) -> Float:
    if array.size == 0 or not np.isfinite(array).all():
        raise InputError(
            what,
            expected="finite numbers",
            found="nothing" if array.size == 0 else "NaN or infinity",
            remedy="look at the network that made it",
        )
    return array.astype(np.float64, copy=False)


def _threshold(tau: float) -> float:
    if not tau >= 0:
        raise InputError("tau", expected="0 or more (MSE)", found=tau, remedy="use noise_floor")
    return tau
