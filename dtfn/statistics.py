"""Intervals and tests over pictures, which weigh alike: positions of one share its texture."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from dtfn.errors import InputError

Float = NDArray[np.float64]

LEAST = 5  # pictures below which a bootstrap is narrow by itself
PICTURE = ["dataset", "image"]
NETWORK = ["pair", "seed"]  # the variant and the training seed


@dataclass(frozen=True)
class Interval:
    """A figure over pictures and the ends of its 95 % interval: NaN, and a note, without one."""

    estimate: float
    low: float
    high: float
    pictures: int
    note: str = ""

    def columns(self, name: str) -> dict[str, float]:
        """Return what a table holds of it: ``name``, ``name_low``, ``name_high``."""
        return {name: self.estimate, f"{name}_low": self.low, f"{name}_high": self.high}


def mean_interval(values: ArrayLike) -> Interval:
    """Return the mean of pictures' values, with a BCa bootstrap that is narrow for a few."""
    numbers = np.asarray(values, float)
    if not numbers.size or np.isnan(numbers).any():
        found = "NaN" if numbers.size else "none"
        raise InputError("values", "one or more numbers", found, "leave out pictures without one")
    estimate = float(numbers.mean())
    if numbers.size < 2 or np.isinf(numbers).any():
        note = "a single image" if numbers.size < 2 else "infinite values"
        return Interval(estimate, np.nan, np.nan, numbers.size, f"{note}: no interval")
    if np.ptp(numbers) <= 1e-12 * np.abs(numbers).max():  # equal but for rounding
        return Interval(estimate, estimate, estimate, numbers.size, "all images equal")
    from scipy import stats  # takes 0.2 s that the explorer saves

    how = {"n_resamples": 9999, "batch": 1000, "vectorized": True, "rng": np.random.default_rng(0)}
    ends = stats.bootstrap((numbers,), np.mean, **how).confidence_interval
    return Interval(estimate, float(ends.low), float(ends.high), numbers.size)


@dataclass(frozen=True, kw_only=True)
class Crossed(Interval):
    """A mean, or a ratio of means, over pictures and training seeds."""

    each: Float  # the figure of each seed by itself, (seeds,)
    draws: Float  # the bootstrap's values, (resamples,)

    @property
    def seeds(self) -> int:
        """How many training seeds it rests on."""
        return len(self.each)

    @property
    def agree(self) -> bool:
        """Whether the seeds, taken one by one, all have the sign of the estimate."""
        return bool((np.sign(self.each) == np.sign(self.estimate)).all())

    def __sub__(self, other: "Crossed") -> "Crossed":
        estimate, each = self.estimate - other.estimate, self.each - other.each
        return _figure(estimate, self.pictures, each, self.draws - other.draws)

    def p_value(self, effect: float) -> float:
        """Return twice the share of the bootstrap on the wrong side of an effect; never 0."""
        side = np.sign(self.estimate) or 1.0
        wrong = np.count_nonzero(side * self.draws <= effect)
        return float(min(1.0, 2 * (1 + wrong) / (1 + self.draws.size)))


def crossed(
    table: pd.DataFrame, numerator: str, denominator: str = "", seed: str | list[str] = "seed"
) -> Crossed:
    """Return a mean of a column, or the ratio of two, with a bootstrap over pictures and seeds.

    Pictures are drawn with replacement, and training seeds independently of them (Owen 2007): all
    seeds saw the same pictures, so the two are crossed. Rows of one picture and seed are averaged
    first; rows with NaN do not count, and none left is an `InputError`. The interval is of 95 %, by
    percentiles of fixed draws; NaN for a single picture.
    """
    known = table.assign(_one=1.0).dropna(subset=[numerator, denominator or "_one"])
    if known.empty:
        raise InputError(numerator, "a picture that has it", "none", "use other pictures")
    by, names = [seed] if isinstance(seed, str) else seed, [numerator, denominator or "_one"]
    cells = known.groupby([*PICTURE, *by])[names].mean().unstack(by).sort_index(axis=1)[names]
    top, under = cells.to_numpy(float, na_value=0.0).reshape(len(cells), 2, -1).swapaxes(0, 1)
    pictures, seeds = _drawn(*top.shape)
    sums = [((pictures @ part) * seeds).sum(axis=1) for part in (top, under)]
    draws = np.divide(sums[0], sums[1], out=np.zeros(len(sums[0])), where=sums[1] != 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = top.sum(axis=0) / under.sum(axis=0)
        return _figure(float(top.sum() / under.sum()), len(top), each, draws)


@functools.lru_cache(maxsize=8)  # all figures of a report rest on few shapes
def _drawn(*sizes: int) -> list[NDArray[np.uint8]]:
    """Return how often each of so many pictures, and of so many seeds, is drawn: (10000, n)."""
    rng = np.random.default_rng(0)
    return [rng.multinomial(n, np.full(n, 1 / n), 10_000).astype(np.uint8) for n in sizes]


def _figure(estimate: float, pictures: int, each: Float, draws: Float) -> Crossed:
    nan = float("nan")
    low, high = np.quantile(draws, [0.025, 0.975]).tolist() if pictures > 1 else (nan, nan)
    return Crossed(estimate, low, high, pictures, each=each, draws=draws)


def crossed_by(
    table: pd.DataFrame, by: Sequence[str], figures: Sequence[str], denominator: str = ""
) -> pd.DataFrame:
    """Return `crossed` of some columns, a row a group; with seeds and pictures."""
    rows = []
    for key, part in table.groupby(list(by), sort=False):
        row = dict(zip(by, key, strict=True))
        for name in figures:
            one = crossed(part, name, denominator)
            row |= one.columns(name) | {"seeds": one.seeds, "pictures": one.pictures}
        rows.append(row)
    names = [f"{name}{end}" for name in figures for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=[*by, *names, "seeds", "pictures"])


def false_discovery(p_values: ArrayLike) -> Float:
    """Return Benjamini and Hochberg's adjusted p-values; neighbours may depend positively."""
    from scipy import stats

    p = pd.Series(np.asarray(p_values, float))
    known = p.dropna()
    adjusted = pd.Series(stats.false_discovery_control(known), known.index)
    return adjusted.reindex(p.index).to_numpy()
