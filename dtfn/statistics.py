"""Intervals and tests whose replicates are images, because the pixels of one image are not.

Positions of one image share its texture, so however many there are, they are one observation. Every
function here first takes the mean of each cluster (an image, or an image of a dataset), then treats
those means as the sample: all images weigh the same, as in the field's tables. SciPy does the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from dtfn.errors import InputError

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
"""The interval of a figure that no image has."""


def mean_interval(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
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
    resamples
        Number of bootstrap samples.
    seed
        Of the samples drawn; the result depends on nothing else.

    Raises
    ------
    InputError
        For no value, NaN, or a number of clusters other than that of the values.

    Notes
    -----
    Bias-corrected and accelerated (BCa, Efron 1987). Of few images, as the five of Set5, it is too
    narrow.
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
    ends = stats.bootstrap(
        (means,),
        np.mean,
        n_resamples=resamples,
        batch=1000,
        vectorized=True,
        confidence_level=confidence,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(estimate, float(ends.low), float(ends.high), means.size)


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
        A row an image, e.g. from `dtfn.evaluation.evaluate`.
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
    A row a group and column: those of ``by``, metric, and the fields of `Interval`. A column that
    the table lacks is an `InputError`.
    """
    missing = [name for name in (*columns, *by, *clusters) if name not in table]
    if missing:
        raise InputError(
            "table",
            f"the columns {', '.join(missing)}",
            ", ".join(map(str, table.columns)),
            "choose among these",
        )
    groups = table.groupby(list(by), sort=False) if by else [((), table)]
    rows = []
    for group, part in groups:
        for column in columns:
            known = part[part[column].notna()]
            names = known.groupby(list(clusters)).ngroup()
            one = mean_interval(known[column], names, **options) if len(known) else NOTHING
            rows.append({**dict(zip(by, group, strict=True)), "metric": column, **asdict(one)})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Crossed:
    """A mean, or a ratio of means, over pictures and training seeds with its interval.

    Attributes
    ----------
    estimate, low, high
        The figure and the ends of its interval; NaN ends for a single picture.
    pictures, seeds
        What it rests on.
    each
        The figure of each seed by itself, ``(seeds,)``.
    draws
        The bootstrap's values, ``(resamples,)``.
    """

    estimate: float
    low: float
    high: float
    pictures: int
    seeds: int
    each: NDArray[np.float64]
    draws: NDArray[np.float64]

    @property
    def agree(self) -> bool:
        """Whether the seeds, taken one by one, all have the sign of the estimate."""
        return bool((np.sign(self.each) == np.sign(self.estimate)).all())

    def __sub__(self, other: Crossed) -> Crossed:
        """Return the difference to another figure of the same pictures and seeds."""
        draws = self.draws - other.draws
        ends = _ends(draws) if self.pictures > 1 else (float("nan"), float("nan"))
        size = (self.pictures, self.seeds)
        return Crossed(self.estimate - other.estimate, *ends, *size, self.each - other.each, draws)

    def columns(self, name: str) -> dict[str, float]:
        """Return what a table holds of it: ``name``, ``name_low``, ``name_high``."""
        return {name: self.estimate, f"{name}_low": self.low, f"{name}_high": self.high}

    def p_value(self, effect: float) -> float:
        """Return the two-sided p-value of the figure being no further from 0 than an effect.

        It is the share of the bootstrap on the wrong side of the effect, doubled; never 0.
        """
        side = np.sign(self.estimate) or 1.0
        wrong = np.count_nonzero(side * self.draws <= effect)
        return float(min(1.0, 2 * (1 + wrong) / (1 + self.draws.size)))


def crossed(
    table: pd.DataFrame,
    numerator: str,
    denominator: str | None = None,
    *,
    pictures: Sequence[str] = ("dataset", "image"),
    seed: str = "seed",
    resamples: int = 2000,
) -> Crossed:
    """Return a mean, or a ratio of means, with a crossed bootstrap over pictures and seeds.

    Pictures are drawn with replacement, and training seeds are too, independently of them (Owen
    2007): all seeds saw the same pictures, so the two are crossed, not nested. Rows of one picture
    and seed are averaged first. With a single seed the interval speaks of pictures alone.

    Parameters
    ----------
    table
        A row a picture and seed, perhaps several.
    numerator, denominator
        Columns. Rows where either is NaN do not count.
    pictures, seed
        The columns that name a picture, and the training seed; without such a column there is one.
    resamples
        Size of the bootstrap, whose draws are fixed. The interval is that of 95 %, by percentiles.

    Raises
    ------
    InputError
        No row has the figure.
    """
    known = table.assign(**{seed: 0}) if seed not in table else table
    known = known.assign(_one=1.0)
    bottom = denominator or "_one"
    known = known[known[[numerator, bottom]].notna().all(axis=1)]
    if known.empty:
        raise InputError(numerator, "a picture that has it", "none", "use other pictures")
    cells = known.groupby([*pictures, seed])[[numerator, bottom]].mean().unstack(seed)
    top, under = (cells[name].to_numpy(float) for name in (numerator, bottom))  # (P, S)
    there = ~np.isnan(top)
    top, under = np.where(there, top, 0.0), np.where(there, under, 0.0)
    rng = np.random.default_rng(0)
    counts = [rng.multinomial(n, np.full(n, 1 / n), resamples) for n in top.shape]  # (B, P), (B, S)
    sums = [((counts[0] @ part) * counts[1]).sum(axis=1) for part in (top, under)]
    draws = np.divide(sums[0], sums[1], out=np.zeros(resamples), where=sums[1] != 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = top.sum(axis=0) / under.sum(axis=0)
        estimate = float(top.sum() / under.sum())
    ends = _ends(draws) if len(top) > 1 else (float("nan"), float("nan"))
    return Crossed(estimate, *ends, *top.shape, each, draws)  # type: ignore[call-arg]


def _ends(draws: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def sign_flip(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """Return the p-value of the test that the values are as likely positive as negative.

    If a pair of networks differs by chance alone, the sign of the difference on each image is a
    coin toss (two-sided). All sign patterns are tried where that takes no more than ``resamples``,
    so up to 13 images; n images never give less than 2 / 2**n: 0.06 for Set5.

    Parameters are those of `mean_interval`; a cluster's values flip together. NaN for a single
    image; an `InputError` for an infinite value.
    """
    means = cluster_means(values, clusters)
    if not np.isfinite(means).all():
        raise InputError("values", "finite numbers", "infinity", "leave those images out")
    if means.size < 2:
        return float("nan")
    test = stats.permutation_test(
        (means,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def false_discovery(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values adjusted for their number, so that few discoveries are false.

    Benjamini and Hochberg 1995: call all that are at most q discoveries, and in expectation at most
    a share q of these is false, if the tests are independent or depend positively, as those of
    neighbouring regions do.

    NaN, where there is no test, stays NaN and does not count; other numbers outside [0, 1] are an
    `InputError`.
    """
    p = np.asarray(p_values, dtype=float)
    known = ~np.isnan(p)
    if p.ndim != 1 or not ((p[known] >= 0) & (p[known] <= 1)).all():
        raise InputError(
            "p-values",
            "a row of numbers within [0, 1], or NaN",
            f"shape {p.shape}" if p.ndim != 1 else "others",
            "pass what sign_flip returned",
        )
    adjusted = np.full_like(p, np.nan)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p[known])
    return adjusted


def constant(values: ArrayLike) -> bool:
    """Return whether numbers, one or more, are equal but for rounding."""
    return bool(np.ptp(values) <= ROUNDING * np.abs(values).max())


def cluster_means(values: ArrayLike, clusters: ArrayLike | None) -> NDArray[np.float64]:
    """Return the mean of each cluster, in the order of the clusters' names."""
    values = np.asarray(values, dtype=float)
    labels = np.arange(values.size) if clusters is None else np.asarray(clusters)
    shapes = values.ndim == 1 and values.size and values.shape == labels.shape
    if not shapes or np.isnan(values).any():
        raise InputError(
            "values",
            "one or more numbers, and a cluster for each",
            "NaN" if np.isnan(values).any() else f"{values.shape} and {labels.shape}",
            "leave out the images that have none",
        )
    _, index = np.unique(labels, return_inverse=True)
    with np.errstate(invalid="ignore"):
        return np.bincount(index, values) / np.bincount(index)
