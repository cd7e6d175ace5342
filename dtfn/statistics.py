"""Intervals and tests whose replicates are images, because the pixels of one image are not.

Positions of one image share its texture, so however many they are, they tell about one image. Every
function here first takes the mean of each cluster (an image, or an image of a dataset), then treats
those means as the sample: all images weigh the same, as in the field's tables. SciPy does the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from dtfn.errors import InputError

Method = Literal["BCa", "percentile", "basic"]
Alternative = Literal["two-sided", "greater", "less"]

RESAMPLES = 9999


@dataclass(frozen=True)
class Interval:
    """A mean over clusters with its bootstrap interval.

    Attributes
    ----------
    estimate
        The mean of the clusters' means.
    low, high
        The interval's ends; NaN where there is none.
    clusters
        How many images it rests on.
    note
        Why there is no interval, or what is peculiar about it; else empty.
    """

    estimate: float
    low: float
    high: float
    clusters: int
    note: str = ""


def mean_interval(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    method: Method = "BCa",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the mean and its bootstrap interval, clusters being drawn whole.

    Parameters
    ----------
    values
        Numbers ``(n,)``, without NaN.
    clusters
        The image of each value, ``(n,)``; None: each value is an image's own.
    confidence
        The interval's level, within (0, 1).
    method
        ``"BCa"`` (bias-corrected and accelerated, Efron 1987), ``"percentile"`` or ``"basic"``.
        With few images, as the five of Set5, all of them are too narrow.
    resamples
        Number of bootstrap samples.
    seed
        Of the samples drawn; the result depends on nothing else.

    Raises
    ------
    InputError
        For no value, NaN, or a number of clusters other than that of the values.
    """
    means = _cluster_means(values, clusters)
    estimate = float(means.mean())
    nan = float("nan")
    if not np.isfinite(means).all():
        return Interval(estimate, nan, nan, means.size, "infinite values: no interval")
    if means.size < 2:
        return Interval(estimate, nan, nan, 1, "a single image: no interval")
    if np.ptp(means) == 0:
        return Interval(estimate, estimate, estimate, means.size, "all images equal")
    found = stats.bootstrap(
        (means,),
        np.mean,
        n_resamples=resamples,
        batch=1000,
        vectorized=True,
        confidence_level=confidence,
        method=method,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(estimate, float(found.low), float(found.high), means.size)


def difference_interval(
    a: ArrayLike, b: ArrayLike, clusters: ArrayLike | None = None, **options: Any
) -> Interval:
    """Return the mean of a - b and its interval; a and b are measured on the same images.

    Parameters
    ----------
    a, b
        Numbers ``(n,)``, value i of both from the same image.
    clusters, **options
        As for `mean_interval`.

    Raises
    ------
    InputError
        As `mean_interval`, or if a and b differ in length.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise InputError(
            "paired values",
            expected="as many of one as of the other",
            found=f"{a.shape} and {b.shape}",
            remedy="measure both on the same images",
        )
    with np.errstate(invalid="ignore"):  # two infinite PSNRs: NaN, which is refused below
        return mean_interval(a - b, clusters, **options)


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
    means = _cluster_means(values, clusters)
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


def intervals(
    table: pd.DataFrame,
    columns: Sequence[str],
    by: Sequence[str] = ("pair", "dataset", "scale"),
    clusters: Sequence[str] = ("dataset", "image"),
    **options: Any,
) -> pd.DataFrame:
    """Return the mean of columns of a tidy table with intervals, group by group.

    Parameters
    ----------
    table
        A row an image, e.g. from `dtfn.subpixel.measure` or `dtfn.evaluation.evaluate`.
    columns
        The columns to take the means of. Images where one is NaN do not count for it.
    by
        The columns that make the groups; none: the whole table is one.
    clusters
        The columns that together name an image.
    **options
        As for `mean_interval`.

    Returns
    -------
    A row a group and column: those of ``by``, metric, and the fields of `Interval`.

    Raises
    ------
    InputError
        If the table lacks a column or a group has no value at all.
    """
    missing = [name for name in (*columns, *by, *clusters) if name not in table]
    if missing:
        raise InputError(
            "table",
            expected=f"the columns {', '.join(missing)}",
            found=", ".join(map(str, table.columns)),
            remedy="choose among these",
        )
    groups = table.groupby(list(by), sort=False) if by else [((), table)]
    rows = []
    for group, part in groups:
        for column in columns:
            known = part[part[column].notna()]
            names = known.groupby(list(clusters)).ngroup()
            found = mean_interval(known[column], names, **options)
            rows.append({**dict(zip(by, group, strict=True)), "metric": column, **asdict(found)})
    return pd.DataFrame(rows)


def _cluster_means(values: ArrayLike, clusters: ArrayLike | None) -> NDArray[np.float64]:
    """Return the mean of each cluster, in the order of the clusters' names."""
    values = np.asarray(values, dtype=float)
    labels = np.arange(values.size) if clusters is None else np.asarray(clusters)
    if (
        values.ndim != 1
        or not values.size
        or values.shape != labels.shape
        or np.isnan(values).any()
    ):
        raise InputError(
            "values",
            expected="one or more numbers, and a cluster for each",
            found="NaN" if np.isnan(values).any() else f"{values.shape} and {labels.shape}",
            remedy="leave out the images that have none",
        )
    _, index = np.unique(labels, return_inverse=True)
    with np.errstate(invalid="ignore"):
        return np.bincount(index, values) / np.bincount(index)
