"""Rank correlations whose replicates are images. Users find these in `dtfn.statistics`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from dtfn.errors import InputError
from dtfn.statistics.bootstrap import RESAMPLES, Interval, cluster_means, mean_interval

Float = NDArray[np.float64]

FEWEST = 5  # images to correlate across


def rank_correlation_within(
    x: ArrayLike, y: ArrayLike, clusters: ArrayLike, **options: Any
) -> Interval:
    """Return Spearman's rank correlation of positions within an image, averaged over images.

    Does y rise with x from place to place of one picture? Each image gives one correlation, and
    their mean has a bootstrap interval, images being drawn. So differences between images, which
    would dominate if all positions were pooled, do not enter.

    Parameters
    ----------
    x, y
        Numbers ``(n,)``, a position each. Positions where either is NaN do not count; infinities
        have their rank.
    clusters
        The image of each position, ``(n,)``.
    **options
        As for `dtfn.statistics.mean_interval`.

    Returns
    -------
    Within [-1, 1]. Images in which x or y is constant have no correlation and do not count, which
    the note tells; if none is left, all is NaN.

    Raises
    ------
    InputError
        If the three differ in length or are empty.
    """
    x, y, names = _same_length(x, y, clusters)
    known = ~(np.isnan(x) | np.isnan(y))
    _, index = np.unique(names, return_inverse=True)
    order = np.argsort(index[known], kind="stable")
    ends = np.cumsum(np.bincount(index[known], minlength=index.max() + 1))[:-1]
    parts = zip(np.split(x[known][order], ends), np.split(y[known][order], ends), strict=True)
    each = np.array([spearman(a, b) if a.size else np.nan for a, b in parts])
    left = each[~np.isnan(each)]
    lost = f"{each.size - left.size} of {each.size} images have no correlation"
    if not left.size:
        return Interval(np.nan, np.nan, np.nan, 0, lost)
    found = mean_interval(left, **options)
    notes = [found.note, lost if left.size < each.size else ""]
    return replace(found, note="; ".join(filter(None, notes)))


def rank_correlation_across(
    x: ArrayLike,
    y: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return Spearman's rank correlation across images, and its bootstrap interval.

    Do images with a higher x have a higher y? The means of each image are correlated, and images
    are drawn whole, x and y together.

    Parameters
    ----------
    x, y
        Numbers ``(n,)``, without NaN.
    clusters
        The image of each value; None: each is an image's own.
    confidence, resamples, seed
        As for `dtfn.statistics.mean_interval`.

    Returns
    -------
    Within [-1, 1], with the percentile interval; none for fewer than 5 images. Of 5 images it is
    too narrow where the correlation is high (it covers 0.73 instead of 0.95 at 0.9); of 8 or more
    it is not. (BCa, better for means, fails where the images are in one order.)

    Raises
    ------
    InputError
        As `dtfn.statistics.mean_interval`, or if x and y differ in length.
    """
    x, y, names = _same_length(x, y, np.arange(np.size(x)) if clusters is None else clusters)
    a, b = cluster_means(x, names), cluster_means(y, names)
    estimate = float(spearman(a, b))
    none = Interval(estimate, np.nan, np.nan, a.size)
    if np.isnan(estimate):
        return replace(none, note="the images do not differ: no correlation")
    if a.size < FEWEST:
        return replace(none, note=f"fewer than {FEWEST} images: no interval")
    found = stats.bootstrap(
        (a, b),
        # Where a sample repeats one image only, it shows no correlation.
        lambda a, b, axis: np.nan_to_num(spearman(a, b, axis)),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=1000,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return replace(none, low=float(found.low), high=float(found.high))


def spearman(x: Float, y: Float, axis: int = -1) -> Float:
    """Return Spearman's rank correlation along an axis; NaN where x or y is constant.

    Equals `scipy.stats.spearmanr`, which does one at a time and warns of constants.
    """
    a, b = (stats.rankdata(values, axis=axis) for values in (x, y))
    a -= a.mean(axis=axis, keepdims=True)
    b -= b.mean(axis=axis, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=axis) * (b * b).sum(axis=axis))
    none = np.full_like(scale, np.nan)
    return np.divide((a * b).sum(axis=axis), scale, out=none, where=scale > 0)


def codes(values: ArrayLike) -> NDArray[np.int64]:
    """Return the place of each value among the distinct ones, from 0; -1 for NaN.

    With it, ranks of any part of the values take no sorting: see `ranks` and `spearman_binary`.
    """
    given = np.asarray(values, dtype=float)
    known = ~np.isnan(given)
    found = np.full(given.shape, -1, np.int64)
    found[known] = np.unique(given[known], return_inverse=True)[1]
    return found


def ranks(codes: NDArray[np.int64]) -> Float:
    """Return `scipy.stats.rankdata` (equal values share their mean rank) of what has codes."""
    counts = np.bincount(codes)
    mean: Float = np.cumsum(counts) - (counts - 1) / 2
    return mean[codes]


def spearman_binary(
    flags: NDArray[np.bool_], codes: NDArray[np.int64], kept: NDArray[np.bool_] | None = None
) -> float:
    """Return Spearman's rank correlation of yes or no with values.

    Parameters
    ----------
    flags
        ``(n,)``.
    codes
        Of the values, see `codes`; where these were NaN, they are left out.
    kept
        What to take; None: all.

    Returns
    -------
    `spearman`'s of the same numbers, without sorting; NaN where flags or values are constant.
    """
    known = codes >= 0 if kept is None else kept & (codes >= 0)
    if not known.any():
        return float("nan")
    rank, yes = ranks(codes[known]), flags[known]
    share, middle = float(yes.mean()), (rank.size + 1) / 2
    spread = float(np.sqrt(np.mean((rank - middle) ** 2) * share * (1 - share)))
    if spread == 0:
        return float("nan")
    return share * (float(rank[yes].mean()) - middle) / spread


def _same_length(
    x: ArrayLike, y: ArrayLike, clusters: ArrayLike
) -> tuple[Float, Float, NDArray[Any]]:
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    names = np.asarray(clusters)
    if a.ndim != 1 or not a.size or not a.shape == b.shape == names.shape:
        raise InputError(
            "values to correlate",
            expected="one or more of x, and a y and an image for each",
            found=f"{a.shape}, {b.shape} and {names.shape}",
            remedy="ravel both maps of an image, and repeat its name",
        )
    return a, b, names
