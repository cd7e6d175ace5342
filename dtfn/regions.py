"""Regions: connected areas of harm or help, and which of them chance does not make.

Whatever is thresholded has regions, two networks that differ by chance too. So a region is a
*discovery* only where chance does not make it, allowing for how many were tried, see `judge`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from dtfn import statistics
from dtfn.subpixel import Float, signed_root

SIGMA = 1.5  # LR positions: harm is a matter of textures, which are larger than one block
SMALLEST, LARGEST = 24, 36  # LR positions: sides of a window, so that a figure shows its pixels
LEVEL = 0.05  # of false discoveries
PLACE = ["top", "left", "height", "width", "area"]  # of a region


@dataclass(frozen=True, eq=False)
class Region:
    """A connected area, in LR positions of the whole picture."""

    place: tuple[slice, slice]  # rows and columns of the rectangle around it
    inside: NDArray[np.bool_]  # which positions of the rectangle belong to it

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return what a map ``(H, W)`` of the whole picture has at the region's positions."""
        return values[self.place][self.inside]

    @property
    def numbers(self) -> tuple[int, ...]:
        """Its `PLACE`."""
        rows, columns = self.place
        return rows.start, columns.start, *self.inside.shape, int(self.inside.sum())

    def centre(self) -> tuple[int, int]:
        """Return (row, column) of the region's position that is farthest from its edge."""
        depth = ndimage.distance_transform_edt(np.pad(self.inside, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        return self.place[0].start + int(row), self.place[1].start + int(column)

    def window(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Return a square to show, (top, left, height, width), moved into a map of a shape.

        It holds the region, or its middle where the region is too large to see its pixels.
        """
        side = max(*self.inside.shape, SMALLEST - 4) + 4
        middle: tuple[float, ...] = tuple((span.start + span.stop) / 2 for span in self.place)
        if side > LARGEST + 4:
            side, middle = LARGEST, self.centre()
        side = min(side, *shape)
        ends = zip(middle, shape, strict=True)
        top, left = (int(np.clip(round(m - side / 2), 0, size - side)) for m, size in ends)
        return top, left, side, side


def find_regions(
    harm: Float, limit: float, replicates: Sequence[Float], retrained: Sequence[Float]
) -> Iterator[dict[str, Any]]:
    """Yield the regions where harm, or help, is above a `region_limit`.

    Each is a row of `dtfn.harm.Measured.regions`. Maps are ``(H, W)``: ``replicates`` with other
    chance, ``retrained`` in other trainings. The p-value is that of the region's mean mass in the
    replicates being 0 or less; NaN with fewer than two.
    """
    for side, sign in (("harm", 1), ("help", -1)):
        smooth = _smoothed(sign * harm)
        # Two equal networks leave nothing to measure strength by: any excess is infinite.
        excess = smooth / limit - 1 if limit > 0 else np.where(smooth > 0, np.inf, 0.0)
        labels, _ = ndimage.label(smooth > limit)
        for number, place in enumerate(ndimage.find_objects(labels), start=1):
            region = Region(place, labels[place] == number)
            mass, strength = (float(region.of(m).sum()) for m in (sign * harm, excess))
            again = np.array([sign * region.of(one).sum() for one in replicates])
            held, p = mass, float("nan")
            if len(again) > 1:
                held, p = float(again.mean()), float(again[0] <= 0)
                if np.ptp(again) > 1e-12 * np.abs(again).max():  # else nothing is left to chance
                    from scipy.stats import ttest_1samp  # takes 0.2 s that the explorer saves

                    p = float(ttest_1samp(again, 0, alternative="greater").pvalue)
            elsewhere = [sign * region.of(one).sum() for one in retrained]
            row = {"side": side, **dict(zip(PLACE, region.numbers, strict=True))}
            row |= {"mass": mass, "held": held, "strength": strength, "p": p, "region": region}
            yield row | {"retrained": float(np.mean(elsewhere)) if elsewhere else np.nan}


def region_limit(chance: Sequence[Float]) -> float:
    """Return the 99th percentile of the smoothed harm of controls ``(H, W)``."""
    return float(np.quantile(np.abs([_smoothed(one) for one in chance]), 0.99))


def _smoothed(harm: Float) -> Float:
    """Return the signed root of harm under a Gaussian, so that one wild block is no region."""
    smooth: Float = ndimage.gaussian_filter(signed_root(harm), SIGMA)
    return smooth


def judge(table: pd.DataFrame) -> pd.DataFrame:
    """Return `dtfn.harm.Measured.regions` with p, and with q, which allows for their number.

    Calling all of ``q <= 0.05`` discoveries, one in twenty is expected to be false (Benjamini and
    Hochberg; over a pair, role and side). With replicates, p is that of `find_regions`. Without, it
    is the share of the controls' regions, of all pictures together, that are at least as strong:
    the cluster-mass test (Bullmore et al. 1999) with controls in the place of permutations. Of a
    control's own regions, those of other pictures count. Without both p is NaN.
    """

    def shares(strengths: "pd.Series[float]", chance: "pd.Series[float]") -> Float:
        smaller = np.searchsorted(np.sort(chance), strengths, side="left")
        share: Float = (1 + len(chance) - smaller) / (1 + len(chance))  # each itself counted
        return share

    table = table.astype({"p": float, "strength": float})
    for _, part in table.groupby(["pair", "kind"]):
        ours = part.loc[(part["role"] == "pair") & part["p"].isna(), "strength"]
        chance = part.loc[part["role"] != "pair"]
        if chance.empty:
            continue
        table.loc[ours.index, "p"] = shares(ours, chance["strength"])
        for _, own in chance.groupby(statistics.PICTURE):
            others = chance["strength"].drop(own.index)
            table.loc[own.index, "p"] = shares(own["strength"], others)
    groups = table.groupby(["pair", "kind", "role", "side"])
    return table.assign(q=groups["p"].transform(statistics.false_discovery))


def discoveries(table: pd.DataFrame) -> pd.DataFrame:
    """Return those regions of `judge`'s table that chance does not make."""
    return table[table["q"] <= LEVEL]


def heaviest(table: pd.DataFrame, pair: str, kind: str, seed: int) -> pd.DataFrame:
    """Return a pair's regions of `judge`'s table, discoveries first, then by their mass."""
    ours = (table[["pair", "kind", "seed", "role"]] == [pair, kind, seed, "pair"]).all(axis=1)
    table = table.assign(open=~(table["q"] <= LEVEL), light=-table["mass"])[ours]
    return table.sort_values(["side", "open", "light"], kind="stable")
