"""Upper bounds: what a perfect choice between N and L, or their perfect mixture, would reach.

All of them know the ground truth. They are this project's own definitions; none is the paper's
number. All look like a gain even for two networks that differ by chance alone, so compare each
with the same bound of the null pair. Maps, pictures and units are those of `dtfn.subpixel`.
"""

from __future__ import annotations

import numpy as np

from dtfn.errors import InputError
from dtfn.metrics import Array, Float
from dtfn.subpixel import (
    block_mean,
    decibels,
    difference_in_units,
    interior,
    luma,
    psnr_of,
    same_size,
)

__all__ = [
    "GRANULARITIES",
    "errors_and_bounds",
    "fusion",
    "selection_bound",
]

GRANULARITIES = (None, 32, 16, 8, 4, 2, 1)
"""Cell sizes of the selection bound in LR positions, coarse to fine; None is the whole image."""


def selection_bound(error_n: Float, error_l: Float, granularity: int | None = 1) -> float:
    """Return the PSNR (dB) of taking, cell by cell, the better of N and L.

    Parameters
    ----------
    error_n, error_l
        Block errors ``(H, W)``, commonly the interior.
    granularity
        Cells of g x g positions, laid from the top left; the last ones may be smaller. None:
        the whole image is one cell.

    Raises
    ------
    InputError
        For maps of different sizes, NaN, or a granularity below 1.
    """
    error_n, error_l = same_size(error_n, error_l)
    better = np.minimum(_cell_sums(error_n, granularity), _cell_sums(error_l, granularity))
    return decibels(better.sum() / error_n.size)


def fusion(sr_n: Array, sr_l: Array, hr: Array, scale: int) -> tuple[Float, Float]:
    """Return the weight of N in each block's best mixture with L, and the error of that mixture.

    a = clip(<N - L, HR - L> / |N - L|^2) minimises |a N + (1 - a) L - HR|^2 over [0, 1]; 0 where
    the two are equal. Both maps are ``(H, W)``, the error is an MSE.

    Raises
    ------
    InputError
        As `dtfn.subpixel.block_error`.
    """
    n, l, y = same_size(luma(sr_n), luma(sr_l), luma(hr))
    step = n - l
    length = block_mean(step**2, scale)
    along = block_mean(step * (y - l), scale)
    ratio = np.divide(along, length, out=np.zeros_like(along), where=length > 0)
    weight = np.clip(ratio, 0, 1)
    error = block_mean((l - y) ** 2, scale) - weight * (2 * along - weight * length)
    return weight, np.maximum(error, 0)  # a rounding error below 0 is none


def errors_and_bounds(
    sr_n: Array, sr_l: Array, hr: Array, scale: int
) -> tuple[Float, Float, dict[str, float]]:
    """Return N's and L's block errors without the border, and all bounds in dB, coarse to fine.

    Returns
    -------
    The bounds are ``"image"``, ``"32"`` ... ``"1"`` (selection bound by cell size), ``"subpixel"``
    (the better of N and L for every HR pixel) and ``"fusion"`` (the best mixture in each block: no
    gate that weighs N against L once a block can do better on these two outputs). They never fall
    from one to the next up to ``"subpixel"``, and fusion is not below ``"1"``.
    """
    n, l, y = same_size(luma(sr_n), luma(sr_l), luma(hr))
    squared, errors = [], []
    for made in (n, l):
        difference, unit = difference_in_units(made, y)
        squared.append(difference**2 / unit**2)
        errors.append(interior(block_mean(difference**2, scale) / unit**2))
    bounds = {str(g or "image"): selection_bound(errors[0], errors[1], g) for g in GRANULARITIES}
    bounds["subpixel"] = psnr_of(interior(block_mean(np.minimum(*squared), scale)))
    bounds["fusion"] = psnr_of(interior(fusion(n, l, y, scale)[1]))
    return errors[0], errors[1], bounds


def _cell_sums(error: Float, granularity: int | None) -> Float:
    """Return the sum over each cell, from the top left, the last ones ragged."""
    if granularity is None:
        return error.sum(keepdims=True)
    if granularity < 1:
        raise InputError(
            "granularity", expected="1 or more, or None", found=granularity, remedy="use 1 to 32"
        )
    rows = np.add.reduceat(error, np.arange(0, error.shape[0], granularity), axis=0)
    return np.add.reduceat(rows, np.arange(0, error.shape[1], granularity), axis=1)
