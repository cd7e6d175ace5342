"""Harmed and helped textures: contiguous regions, tested against those that chance makes.

Single worst pixels are noise. A region is a connected area whose smoothed harm exceeds what the
controls of a pair show on the same picture (see `dtfn.harm`). Whatever is thresholded has regions,
the controls too: a region is a *discovery* where few of the controls' regions are as strong,
allowing for how many were tried.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.stats import ttest_1samp

from dtfn import statistics
from dtfn.datasets import Sample
from dtfn.metrics import Float
from dtfn.subpixel import psnr_of, signed_root
from dtfn.texture import DISTORTIONS, distortion_maps, severity

SIGMA = 1.5  # LR positions: harm is a matter of textures, which are larger than one block
QUANTILE = 0.99  # of the controls' smoothed harm: the threshold of a region
SMALLEST, LARGEST = 24, 36  # LR positions: sides of a window, so that a figure shows its pixels
LEVEL = 0.05  # of false discoveries
SIDES = {"harm": 1, "help": -1}
FAMILY = ["pair", "kind"]  # the columns that name whose regions they are
COLUMNS = ["side", "top", "left", "height", "width", "area", "mass", "held", "strength", "p"]


@dataclass(frozen=True)
class Region:
    """A rectangle around harmed positions, in LR positions of the whole picture."""

    top: int
    left: int
    height: int
    width: int
    area: int  # positions in it that belong to the region
    mass: float  # their summed harm, MSE times positions
    strength: float = float("nan")  # excess of their smoothed harm, summed, in thresholds
    # Which positions of the rectangle they are, bool (height, width); None: all.
    inside: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)

    def mask(self) -> NDArray[np.bool_]:
        """Return which positions of the rectangle belong to the region."""
        return np.ones((self.height, self.width), bool) if self.inside is None else self.inside

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return what a map ``(H, W)`` of the whole picture has at the region's positions."""
        rows = slice(self.top, self.top + self.height)
        return values[rows, self.left : self.left + self.width][self.mask()]

    def centre(self) -> tuple[int, int]:
        """Return (row, column) of the region's position that is farthest from its edge."""
        depth = distance_transform_edt(np.pad(self.mask(), 1))[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        return self.top + int(row), self.left + int(column)

    def window(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Return a square to show, (top, left, height, width), moved into a map of a shape.

        It holds the region, or its middle where the region is too large to see its pixels.
        """
        side = max(self.height + 4, self.width + 4, SMALLEST)
        middle = (self.top + self.height / 2, self.left + self.width / 2)
        if side > LARGEST + 4:
            side, middle = LARGEST, self.centre()
        side = min(side, *shape)
        top, left = (
            int(np.clip(round(m - side / 2), 0, size - side))
            for m, size in zip(middle, shape, strict=True)
        )
        return top, left, side, side


@dataclass(frozen=True)
class Case:
    """A region with all that shows it; maps are on the whole LR grid ``(H, W)``, MSE."""

    sample: Sample  # the whole picture with the outputs of the methods
    side: str  # harm or help
    pair: str
    methods: tuple[str, ...]  # on and off of the pair, then others
    region: Region
    window: tuple[int, int, int, int]  # what is shown: top, left, height, width (LR positions)
    p: float  # see `judge`, also q; NaN without controls
    q: float
    harm: Float
    errors: dict[str, Float]  # of each method

    @property
    def view(self) -> Sample:
        """The window of LR, HR and all outputs."""
        return self.sample.crop(*self.window)

    @functools.cached_property
    def maps(self) -> dict[str, dict[str, Float]]:
        """Method -> measure -> `dtfn.texture.distortion_maps` of the whole picture."""
        one = self.sample
        return {m: distortion_maps(one.outputs[m], one.hr, one.scale) for m in self.methods}

    def crop(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the window of a map over the LR grid."""
        top, left, height, width = self.window
        return values[top : top + height, left : left + width]

    def outline(self) -> NDArray[np.bool_]:
        """Return which positions of the window belong to the region."""
        whole, r = np.zeros(self.harm.shape, bool), self.region
        whole[r.top : r.top + r.height, r.left : r.left + r.width] = r.mask()
        return self.crop(whole)


def find_regions(harm: Float, limit: float) -> list[Region]:
    """Return the contiguous regions of harm ``(H, W)`` above a limit, the heaviest first.

    The limit is `region_limit` of the controls on the same picture.
    """
    from skimage.measure import label, regionprops

    smooth = smoothed(harm)
    labels = label(smooth > limit, connectivity=1)  # type: ignore[no-untyped-call]
    # Two equal networks leave nothing to measure strength by: any excess is infinite.
    excess = smooth / limit - 1 if limit > 0 else np.where(smooth > 0, np.inf, 0.0)
    found = []
    for part in regionprops(labels):  # type: ignore[no-untyped-call]
        mass, strength = (float(m[part.slice][part.image].sum()) for m in (harm, excess))
        top, left, bottom, right = part.bbox
        size = bottom - top, right - left
        found.append(Region(top, left, *size, int(part.area), mass, strength, part.image))
    return sorted(found, key=lambda r: -r.mass)


def region_limit(chance: Float) -> float:
    """Return the threshold of a region: a quantile of the smoothed harm of controls (n, H, W)."""
    return float(np.quantile(np.abs([smoothed(one) for one in chance]), QUANTILE))


def smoothed(harm: Float) -> Float:
    """Return the signed root of harm under a Gaussian, so that one wild block is no region."""
    return gaussian_filter(signed_root(harm), SIGMA)


def rows(harm: Float, limit: float, replicates: Float) -> Iterator[tuple[object, ...]]:
    """Yield the regions of harm and of help of a map ``(H, W)``: `COLUMNS`, and the region.

    ``replicates`` are harm measured again, with other chance, ``(n, H, W)``. The p-value is that of
    the region's mean mass in them being 0 or less; NaN with fewer than two.
    """
    for side, sign in SIDES.items():
        for r in find_regions(sign * harm, limit):
            again = np.array([sign * r.of(one).sum() for one in replicates])
            held, p = r.mass, float("nan")
            if len(again) > 1:
                held, p = float(again.mean()), float(again[0] <= 0)
                if np.ptp(again) > 1e-12 * np.abs(again).max():  # else nothing is left to chance
                    p = float(ttest_1samp(again, 0, alternative="greater").pvalue)
            place = (side, r.top, r.left, r.height, r.width, r.area)
            yield (*place, r.mass, held, r.strength, p, r)


def judge(table: pd.DataFrame) -> pd.DataFrame:
    """Return the regions of all pictures with p-values, and with q, which allow for their number.

    The table holds pair, kind, role (``pair`` or that of a control), dataset, image, and what
    `rows` yields. Calling all of ``q <= 0.05`` discoveries, one in twenty is expected to be false
    (Benjamini and Hochberg; over all regions of a pair, role and side).

    With replicates, p says whether the region's harm recurs in them: a t-test on its mass there,
    which played no part in finding it. Without replicates, p is the share of the controls' regions,
    of all pictures together, that are at least as strong: the cluster-mass test (Bullmore et al.
    1999) with controls in the place of permutations. Strength is in thresholds of the region's own
    picture, so pictures can be pooled. A handful of regions is then never a discovery: it takes
    some ten that are stronger than all of the controls'. Of a control's own regions, those of other
    pictures count. Without replicates and controls p is NaN.
    """
    table = table.astype({"p": float, "strength": float})
    for _, part in table.groupby(FAMILY):
        ours = part[(part["role"] == "pair") & part["p"].isna()]
        chance = part[part["role"] != "pair"]
        if chance.empty:
            continue
        table.loc[ours.index, "p"] = _shares(ours["strength"], chance["strength"])
        for _, own in chance.groupby(["dataset", "image"]):
            others = chance["strength"].drop(own.index)
            table.loc[own.index, "p"] = _shares(own["strength"], others)
    keys = [*FAMILY, "role", "side"]
    return table.assign(q=table.groupby(keys)["p"].transform(statistics.false_discovery))


def _shares(strengths: pd.Series[float], chance: pd.Series[float]) -> NDArray[np.float64]:
    """Return the share of chance's strengths that are no smaller, each itself counted."""
    smaller = np.searchsorted(np.sort(chance), strengths, side="left")
    return (1 + len(chance) - smaller) / (1 + len(chance))


def discoveries(table: pd.DataFrame) -> pd.DataFrame:
    """Return those regions of `judge`'s table that chance does not make."""
    return table[table["q"] <= LEVEL]


def case_table(cases: Sequence[Case]) -> pd.DataFrame:
    """Return how good each method is in each region: a row a case and method.

    number (from 1), pair, side, dataset, image, top, left, height, width, area, p, q, severity (MSE
    that bicubic has there), method, psnr (dB), and the measures of
    `dtfn.texture.distortion_maps`, all means over the region's positions.
    """
    table = []
    for number, case in enumerate(cases, start=1):
        r, sample = case.region, case.sample
        lost = float(r.of(severity(sample.hr, sample.scale)).mean())
        place = (number, case.pair, case.side, sample.dataset, sample.image)
        where = (r.top, r.left, r.height, r.width, r.area, case.p, case.q, lost)
        for method in case.methods:
            psnr, maps = psnr_of(r.of(case.errors[method])), case.maps[method]
            means = [float(r.of(maps[measure]).mean()) for measure in DISTORTIONS]
            table.append((*place, *where, method, psnr, *means))
    names = ["number", "pair", "side", "dataset", "image", "top", "left", "height", "width"]
    names += ["area", "p", "q", "severity", "method", "psnr", *DISTORTIONS]
    return pd.DataFrame(table, columns=names)
