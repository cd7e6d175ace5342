"""Tests whose replicates are images or training seeds. Users find these in `dtfn.statistics`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from dtfn.errors import InputError
from dtfn.statistics.bootstrap import RESAMPLES, cluster_means

Alternative = Literal["two-sided", "greater", "less"]


def sign_flip(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    alternative: Alternative = "two-sided",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """Return the p-value of the test that the values are as likely positive as negative.

    If a pair of networks differs by luck alone, the sign of the difference on each image is a coin
    toss. All sign patterns are tried where that takes no more than ``resamples``, so up to 13
    images; n images never give less than 2 / 2**n (two-sided): 0.06 for Set5.

    Parameters
    ----------
    values
        Differences ``(n,)``, without NaN.
    clusters
        The image (or training seed) of each value; a cluster's values flip together.
    alternative
        ``"greater"``: the mean is above 0.
    resamples, seed
        As for `mean_interval`.

    Returns
    -------
    Within [0, 1]; NaN for a single image, which tells nothing.

    Raises
    ------
    InputError
        As `mean_interval`, or if a value is infinite.
    """
    means = cluster_means(values, clusters)
    if not np.isfinite(means).all():
        raise InputError(
            "values", expected="finite numbers", found="infinity", remedy="leave those images out"
        )
    if means.size < 2:
        return float("nan")
    found = stats.permutation_test(
        (means,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=1000,
        alternative=alternative,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


@dataclass(frozen=True)
class Crossed:
    """The p-values of `sign_flip_crossed`.

    Attributes
    ----------
    images
        Would it be so on other images, with networks trained from these seeds?
    seeds
        Would it be so with networks trained from other seeds, on these images?
    both
        The larger of the two: a claim about the method needs both.
    """

    images: float
    seeds: float
    both: float


def sign_flip_crossed(
    values: ArrayLike, images: ArrayLike, seeds: ArrayLike, **options: Any
) -> Crossed:
    """Return the p-values of differences measured on the same images with several training seeds.

    `sign_flip` over the images' means, and over the seeds' means. Taking the larger p-value is the
    intersection-union test (Berger 1982): it errs no more often than it says if either kind of
    replicate differs by luck alone, whatever the other does. Few seeds cannot say much: three never
    give less than 0.25 (two-sided).

    Parameters
    ----------
    values
        Differences ``(n,)``, one an image and seed, without NaN.
    images, seeds
        The image and the seed of each.
    **options
        As for `sign_flip`.

    Raises
    ------
    InputError
        As `sign_flip`, or if an image lacks a seed or has it twice: then the means of the images
        would be those of different networks.
    """
    values = np.asarray(values, dtype=float)
    i, j = (np.unique(np.asarray(names), return_inverse=True)[1] for names in (images, seeds))
    if not values.shape == i.shape == j.shape or not values.size:
        raise InputError(
            "values",
            expected="one or more numbers, and an image and a seed for each",
            found=f"{values.shape}, {i.shape} and {j.shape}",
            remedy="take a row an image and seed",
        )
    count = np.zeros((i.max() + 1, j.max() + 1), int)
    np.add.at(count, (i, j), 1)
    if (count != 1).any():
        raise InputError(
            "images and seeds",
            expected="each image once with each seed",
            found=f"{np.count_nonzero(count == 0)} missing, {np.count_nonzero(count > 1)} repeated",
            remedy="run all seeds on all images",
        )
    over_images, over_seeds = (sign_flip(values, names, **options) for names in (i, j))
    return Crossed(over_images, over_seeds, float(np.maximum(over_images, over_seeds)))


def false_discovery(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values adjusted for their number, so that few discoveries are false.

    Benjamini and Hochberg 1995: call all that are at most q discoveries, and in expectation at most
    a share q of these is false, if the tests are independent or depend positively, as those of
    neighbouring regions do.

    Parameters
    ----------
    p_values
        ``(n,)``, within [0, 1]; NaN where there is no test, which stays NaN and does not count.

    Raises
    ------
    InputError
        For numbers outside [0, 1] or another shape.
    """
    p = np.asarray(p_values, dtype=float)
    known = ~np.isnan(p)
    if p.ndim != 1 or not ((p[known] >= 0) & (p[known] <= 1)).all():
        raise InputError(
            "p-values",
            expected="a row of numbers within [0, 1], or NaN",
            found=f"shape {p.shape}" if p.ndim != 1 else "others",
            remedy="pass what sign_flip returned",
        )
    adjusted = np.full_like(p, np.nan)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p[known])
    return adjusted
