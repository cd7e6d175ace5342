"""Bootstrap intervals whose replicates are images. Users find these in `dtfn.statistics`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from dtfn.errors import InputError

Method = Literal["BCa", "percentile", "basic"]

RESAMPLES = 9999
LEAST = 5  # images below which a bootstrap is narrow by itself
ROUNDING = 1e-12  # relative: means that differ by less are equal


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

    def columns(self, name: str) -> dict[str, float]:
        """Return what a table holds of it: ``name``, ``name_low``, ``name_high``."""
        return {name: self.estimate, f"{name}_low": self.low, f"{name}_high": self.high}


NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0, "no image has it")
"""What is known of a figure that no image has."""


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
    means = cluster_means(values, clusters)
    estimate = float(means.mean())
    nan = float("nan")
    if not np.isfinite(means).all():
        return Interval(estimate, nan, nan, means.size, "infinite values: no interval")
    if means.size < 2:
        return Interval(estimate, nan, nan, 1, "a single image: no interval")
    if constant(means):
        return Interval(estimate, estimate, estimate, means.size, "all images equal")
    found = _bootstrap((means,), np.mean, confidence, method, resamples, seed)
    return Interval(estimate, *found, means.size)


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
    _require_paired(a, b)
    a, b = np.asarray(a, float), np.asarray(b, float)
    with np.errstate(invalid="ignore"):  # two infinite PSNRs: NaN, which is refused below
        return mean_interval(a - b, clusters, **options)


def ratio_interval(
    part: ArrayLike, whole: ArrayLike, clusters: ArrayLike | None = None, **options: Any
) -> Interval:
    """Return the mean of one figure over the mean of another, and its interval.

    Such as: which share of what could be gained was gained. Not the mean of each image's ratio,
    which images with nearly nothing to gain would dominate.

    Parameters
    ----------
    part, whole
        Numbers ``(n,)``, value i of both from the same image.
    clusters, **options
        As for `mean_interval`.

    Returns
    -------
    None of the ends is finite where a bootstrapped mean of ``whole`` may not be above 0: then the
    share has no meaning, which the note tells.

    Raises
    ------
    InputError
        As `mean_interval`, or if the two differ in length.
    """
    _require_paired(part, whole)
    over = mean_interval(whole, clusters, **options)
    a, b = cluster_means(part, clusters), cluster_means(whole, clusters)
    nan = float("nan")
    if not (np.isfinite(a).all() and np.isfinite(b).all()) or over.estimate <= 0:
        return Interval(nan, nan, nan, a.size, "nothing to gain: no share")
    estimate = float(a.mean() / b.mean())
    if over.clusters < 2 or not over.low > 0:
        note = over.note or "perhaps nothing to gain: no interval"
        return Interval(estimate, nan, nan, a.size, note)
    if np.ptp(a * b.mean() - b * a.mean()) == 0:
        return Interval(estimate, estimate, estimate, a.size, "all images equal")
    found = _bootstrap((a, b), lambda x, y, axis: x.mean(axis) / y.mean(axis), **options)
    return Interval(estimate, *found, a.size)


def constant(values: ArrayLike) -> bool:
    """Return whether numbers, one or more, are equal but for rounding."""
    return bool(np.ptp(values) <= ROUNDING * np.abs(values).max())


def cluster_means(values: ArrayLike, clusters: ArrayLike | None) -> NDArray[np.float64]:
    """Return the mean of each cluster, in the order of the clusters' names.

    Parameters and errors are those of `mean_interval`.
    """
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


def _bootstrap(
    samples: tuple[NDArray[np.float64], ...],
    statistic: Callable[..., Any],
    confidence: float = 0.95,
    method: Method = "BCa",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the ends of the interval of a statistic, value i of all samples drawn together."""
    found = stats.bootstrap(
        samples,
        statistic,
        paired=True,
        n_resamples=resamples,
        batch=1000,
        vectorized=True,
        confidence_level=confidence,
        method=method,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _require_paired(a: ArrayLike, b: ArrayLike) -> None:
    if np.shape(a) != np.shape(b):
        raise InputError(
            "paired values",
            expected="as many of one as of the other",
            found=f"{np.shape(a)} and {np.shape(b)}",
            remedy="measure both on the same images",
        )
