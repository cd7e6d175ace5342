"""Upper bounds: what a perfect choice between N and L, or their perfect mixture, would reach.

All of them know the ground truth. They are this project's own definitions, each under its own name;
none is the paper's number. All look like a gain even for two networks that differ by luck alone,
so none means anything but beside the same bound of the null pair. Maps, pictures and units are
those of `dtfn.subpixel.blocks`; users find these functions in `dtfn.subpixel`.
"""

from __future__ import annotations

import numpy as np

from dtfn.errors import InputError
from dtfn.subpixel.blocks import (
    Array,
    Float,
    block_mean,
    decibels,
    interior,
    lumas,
    psnr_of,
    same_size,
)

Bounds = dict[str, float]

GRANULARITIES = (None, 32, 16, 8, 4, 2, 1)
"""Cell sizes of the selection bound in LR positions, coarse to fine; None is the whole image."""


def selection_bound(error_n: Float, error_l: Float, granularity: int | None = 1) -> float:
    """Return the PSNR of taking, cell by cell, the better of N and L.

    Parameters
    ----------
    error_n, error_l
        ``(H, W)``, commonly the interior.
    granularity
        Cells of g x g positions, laid from the top left; the last ones may be smaller. None:
        the whole image is one cell.

    Returns
    -------
    dB; infinite if no error is left.

    Raises
    ------
    InputError
        For maps of different sizes, NaN, or a granularity below 1.
    """
    error_n, error_l = same_size(error_n, error_l)
    better = np.minimum(_cell_sums(error_n, granularity), _cell_sums(error_l, granularity))
    return decibels(better.sum() / error_n.size)


def selection_bound_subpixel(sr_n: Array, sr_l: Array, hr: Array, scale: int) -> float:
    """Return the PSNR of taking the better of N and L for every single HR pixel, border left out.

    Parameters are those of `fusion_error`.
    """
    n, l, y = lumas(sr_n, sr_l, hr)
    return _subpixel((n - y) ** 2, (l - y) ** 2, scale)


def fusion_weight(sr_n: Array, sr_l: Array, hr: Array, scale: int) -> Float:
    """Return for each block the weight of N in the best mixture with L, in [0, 1], ``(H, W)``.

    a = clip(<N - L, HR - L> / |N - L|^2), which minimises |a N + (1 - a) L - HR|^2 over [0, 1].
    0 where the two are equal. Parameters and errors are those of `fusion_error`.
    """
    return _fusion(*lumas(sr_n, sr_l, hr), scale)[0]


def fusion_error(sr_n: Array, sr_l: Array, hr: Array, scale: int) -> Float:
    """Return each block's mean squared error in the best mixture of N and L, ``(H, W)``.

    Parameters
    ----------
    sr_n, sr_l, hr
        uint8 RGB ``(sH, sW, 3)`` or grey ``(sH, sW)``, or floating Y ``(sH, sW)`` in [0, 255].
    scale
        s, which divides the size.

    Raises
    ------
    InputError
        As `dtfn.subpixel.blocks.block_error`.
    """
    return _fusion(*lumas(sr_n, sr_l, hr), scale)[1]


def fusion_bound(sr_n: Array, sr_l: Array, hr: Array, scale: int) -> float:
    """Return the PSNR of the best mixture of N and L in each block, border left out.

    No gate that weighs N against L once a block, in [0, 1], can do better on these two outputs.
    """
    return psnr_of(interior(fusion_error(sr_n, sr_l, hr, scale)))


def bound_curve(sr_n: Array, sr_l: Array, hr: Array, scale: int) -> Bounds:
    """Return all bounds of one image in dB, coarse to fine, border left out.

    Returns
    -------
    ``"image"``, ``"32"`` ... ``"1"`` (selection bound by cell size), ``"subpixel"``, ``"fusion"``.
    The selection bounds never fall from one to the next, and fusion is not below ``"1"``.
    """
    return errors_and_bounds(*lumas(sr_n, sr_l, hr), scale)[2]


def errors_and_bounds(n: Float, l: Float, y: Float, scale: int) -> tuple[Float, Float, Bounds]:
    """Return N's and L's block error without the border, and `bound_curve`, from Y.

    Each pixel is squared once. Y is that of `dtfn.subpixel.blocks.lumas`.
    """
    squared_n, squared_l = (n - y) ** 2, (l - y) ** 2
    error_n, error_l = block_mean(squared_n, scale), block_mean(squared_l, scale)
    inside = interior(error_n), interior(error_l)
    curve = _selection_bounds(*inside)
    curve["subpixel"] = _subpixel(squared_n, squared_l, scale)
    curve["fusion"] = psnr_of(interior(_fusion(n, l, y, scale, error_l)[1]))
    return *inside, curve


def _subpixel(squared_n: Float, squared_l: Float, scale: int) -> float:
    return psnr_of(interior(block_mean(np.minimum(squared_n, squared_l), scale)))


def _fusion(
    n: Float, l: Float, y: Float, scale: int, error_l: Float | None = None
) -> tuple[Float, Float]:
    """Return the best weight and the error that it leaves; L's block error may be known."""
    error_l = block_mean((l - y) ** 2, scale) if error_l is None else error_l
    step = n - l
    length = block_mean(step**2, scale)
    along = block_mean(step * (y - l), scale)
    ratio = np.divide(along, length, out=np.zeros_like(along), where=length > 0)
    weight = np.clip(ratio, 0, 1)
    error = error_l - weight * (2 * along - weight * length)
    return weight, np.maximum(error, 0)  # a rounding error below 0 is none


def _selection_bounds(error_n: Float, error_l: Float) -> Bounds:
    """Return `selection_bound` at all `GRANULARITIES`; each cell is made of four finer ones."""
    found = {}
    finer, n, l = 1, error_n, error_l
    for g in reversed(GRANULARITIES):
        if g is not None and g > 1:
            n, l = _cell_sums(n, g // finer), _cell_sums(l, g // finer)
            finer = g
        if g is None:
            n, l = error_n.sum(), error_l.sum()
        found[str(g or "image")] = decibels(np.minimum(n, l).sum() / error_n.size)
    return dict(reversed(found.items()))


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
