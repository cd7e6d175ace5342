"""Harmed and helped textures: contiguous regions, tested against those that chance makes.

Single worst pixels are noise. A region is a connected area whose smoothed harm exceeds what the
controls of a pair show on the same picture (see `dtfn.harm`). Whatever is thresholded has regions,
the controls too: a region is a *discovery* where few of the controls' regions are as strong,
allowing for how many were tried.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.stats import ttest_1samp

from dtfn import evaluation, statistics
from dtfn.datasets import Sample
from dtfn.metrics import Float
from dtfn.subpixel import psnr_of, signed_root
from dtfn.texture import DISTORTIONS, distortion_maps, severity

__all__ = [
    "LEVEL",
    "Case",
    "Region",
    "case_table",
    "cases",
    "discoveries",
    "find_regions",
    "judge",
    "region_limit",
    "rows",
    "smoothed",
]

SIGMA = 1.5  # LR positions: harm is a matter of textures, which are larger than one block
QUANTILE = 0.99  # of the controls' smoothed harm: the threshold of a region
SMALLEST, LARGEST = 24, 36  # LR positions: sides of a window, so that a figure shows its pixels
LEVEL = 0.05  # of false discoveries
SIDES = {"harm": 1, "help": -1}
COLUMNS = [
    *("side", "top", "left", "height", "width", "area"),
    *("mass", "held", "strength", "p", "region"),
]
FAMILY = ["pair", "kind"]  # the columns that name whose regions they are


@dataclass(frozen=True)
class Region:
    """A rectangle around harmed positions, in LR positions of the whole picture.

    Attributes
    ----------
    top, left, height, width
        The rectangle.
    area
        Positions in it that belong to the region.
    mass
        Their summed harm (MSE times positions).
    strength
        How far their smoothed harm exceeds the threshold, summed, in thresholds.
    inside
        Which positions of the rectangle they are, bool ``(height, width)``; None: all.
    """

    top: int
    left: int
    height: int
    width: int
    area: int
    mass: float
    strength: float = float("nan")
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
    """A region with all that shows it.

    Attributes
    ----------
    sample
        The whole picture with the outputs of `methods`.
    side, pair
        ``harm`` or ``help``, and the pair's name.
    methods
        (on, off) of the pair, then others that are shown.
    region
        Where.
    window
        (top, left, height, width) in LR positions: what is shown, around the region.
    p, q
        See `judge`; NaN without controls.
    harm
        Of the pair on the whole LR grid, ``(H, W)`` (MSE).
    errors
        Method -> its block errors, the same.
    """

    sample: Sample
    side: str
    pair: str
    methods: tuple[str, ...]
    region: Region
    window: tuple[int, int, int, int]
    p: float
    q: float
    harm: Float
    errors: dict[str, Float]

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

    What is smoothed is the signed root of harm, so that a single wild block makes no region. The
    limit is that of the controls on the same picture, see `region_limit`.
    """
    from skimage.measure import label, regionprops

    smooth = smoothed(harm)
    labels = label(smooth > limit, connectivity=1)  # type: ignore[no-untyped-call]
    # Two equal networks leave nothing to measure strength by: any excess is infinite.
    excess = smooth / limit - 1 if limit > 0 else np.where(smooth > 0, np.inf, 0.0)
    regions = []
    for part in regionprops(labels):  # type: ignore[no-untyped-call]
        mass, strength = (float(m[part.slice][part.image].sum()) for m in (harm, excess))
        top, left, bottom, right = part.bbox
        size = bottom - top, right - left
        regions.append(Region(top, left, *size, int(part.area), mass, strength, part.image))
    return sorted(regions, key=lambda r: -r.mass)


def rows(harm: Float, limit: float, replicates: Float) -> Iterator[tuple[object, ...]]:
    """Yield the regions of harm and of help of a map, as rows of `COLUMNS`.

    Parameters
    ----------
    harm, limit
        As for `find_regions`.
    replicates
        Harm measured again, with other chance, ``(n, H, W)``; fewer than two: no p-value.
    """
    for side, sign in SIDES.items():
        for r in find_regions(sign * harm, limit):
            again = np.array([sign * r.of(one).sum() for one in replicates])
            held, p = (float(again.mean()), _recurs(again)) if len(again) > 1 else (r.mass, np.nan)
            place = (side, r.top, r.left, r.height, r.width, r.area)
            yield (*place, r.mass, held, r.strength, p, r)


def _recurs(masses: NDArray[np.float64]) -> float:
    """Return the p-value of a mean mass of 0 or less (one-sided t-test)."""
    if np.ptp(masses) <= 1e-12 * np.abs(masses).max():
        return float(masses[0] <= 0)  # nothing is left to chance
    return float(ttest_1samp(masses, 0, alternative="greater").pvalue)


def region_limit(chance: Float) -> float:
    """Return the threshold of a region: a quantile of the controls' absolute smoothed harm.

    ``chance`` holds a map a control, ``(n, H, W)``.
    """
    return float(np.quantile(np.abs([smoothed(one) for one in chance]), QUANTILE))


def smoothed(harm: Float) -> Float:
    """Return the signed root of harm under a Gaussian of `SIGMA` positions."""
    return gaussian_filter(signed_root(harm), SIGMA)


def judge(table: pd.DataFrame) -> pd.DataFrame:
    """Return regions with their p-values, and these allowing for their number.

    Parameters
    ----------
    table
        A row a region of all pictures: pair, kind, role (``pair`` or that of a control), dataset,
        image, and the columns of `rows`.

    Returns
    -------
    The table with ``q``: calling all of ``q <= 0.05`` discoveries, one in twenty is expected to be
    false (Benjamini and Hochberg; over all regions of a pair, role and side).

    Notes
    -----
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
        chance = part[part["role"] != "pair"]
        ours = part[(part["role"] == "pair") & part["p"].isna()]
        if chance.empty:
            continue
        table.loc[ours.index, "p"] = p_values(ours["strength"], chance["strength"])
        for _, own in chance.groupby(["dataset", "image"]):
            others = chance["strength"].drop(own.index)
            table.loc[own.index, "p"] = p_values(own["strength"], others)
    keys = [*FAMILY, "role", "side"]
    return table.assign(q=table.groupby(keys)["p"].transform(statistics.false_discovery))


def discoveries(table: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """Return those regions of `judge`'s table that chance does not make."""
    return table[table["q"] <= level]


def p_values(strengths: ArrayLike, null: ArrayLike) -> NDArray[np.float64]:
    """Return the share of the null's strengths ``(m,)`` that are no smaller, itself counted.

    It is never below 1 / (m + 1): few null regions cannot say much.
    """
    ordered = np.sort(np.asarray(null, float))
    smaller = np.searchsorted(ordered, np.asarray(strengths, float), side="left")
    return (1 + ordered.size - smaller) / (1 + ordered.size)


def cases(
    table: pd.DataFrame,
    samples: Iterable[Sample],
    errors: Callable[[Sequence[str], Sample], Mapping[str, Float]],
    methods: Sequence[str],
    most: int = 3,
) -> list[Case]:
    """Return the heaviest regions of harm, then those of help; one a picture and side at most.

    Discoveries come first; where there are fewer than asked for, other regions follow, and their
    ``q`` says so.

    Parameters
    ----------
    table
        The regions of one pair and seed, of `judge`.
    samples
        The pictures; networks run on those that are shown, unless their outputs are there.
    errors
        (methods, picture) -> block errors, as for `dtfn.harm.measure`.
    methods
        (on, off) of the pair, then others that are shown.
    most
        How many of each side.
    """
    ordered = table[table["role"] == "pair"].assign(open=lambda t: ~(t["q"] <= LEVEL))
    order = {"by": ["side", "open", "mass"], "ascending": [True, True, False]}
    chosen = ordered.sort_values(**order, kind="stable")
    chosen = chosen.drop_duplicates(["side", "dataset", "image"]).groupby("side").head(most)
    wanted = {(row.dataset, row.image) for row in chosen.itertuples()}
    found: dict[int, Case] = {}
    for sample in samples:
        if (sample.dataset, sample.image) not in wanted:
            continue
        made = dict(errors(methods, sample))
        lacking = [method for method in methods if method not in sample.outputs]
        outputs = evaluation.outputs(lacking, sample) if lacking else {}
        sample = sample.with_outputs({name: one.image for name, one in outputs.items()})
        harm = made[methods[0]] - made[methods[1]]
        here = (chosen["dataset"] == sample.dataset) & (chosen["image"] == sample.image)
        for index, row in chosen[here].iterrows():
            region = row["region"]
            window, sure = region.window(harm.shape), (float(row["p"]), float(row["q"]))
            place = (row["side"], row["pair"], tuple(methods), region, window)
            found[index] = Case(sample, *place, *sure, harm, made)
        wanted.remove((sample.dataset, sample.image))
        if not wanted:
            break
    return [found[index] for index in chosen.index if index in found]


def case_table(chosen: Sequence[Case]) -> pd.DataFrame:
    """Return how good each method is in each region: a row a case and method.

    number (from 1), pair, side, dataset, image, top, left, height, width, area, p, q, severity (MSE
    that bicubic has there), method, psnr (dB), and the measures of
    `dtfn.texture.distortion_maps`, all means over the region's positions.
    """
    table = []
    for number, case in enumerate(chosen, start=1):
        r, sample, maps = case.region, case.sample, case.maps
        place = (case.pair, case.side, sample.dataset, sample.image, r.top, r.left, r.height)
        lost = float(r.of(severity(sample.hr, sample.scale)).mean())
        for method in case.methods:
            means = [float(r.of(maps[method][measure]).mean()) for measure in DISTORTIONS]
            psnr = psnr_of(r.of(case.errors[method]))
            sure = (case.p, case.q, lost, method, psnr)
            table.append((number, *place, r.width, r.area, *sure, *means))
    place_names = ["pair", "side", "dataset", "image", "top", "left", "height", "width", "area"]
    columns = ["number", *place_names, "p", "q", "severity", "method", "psnr", *DISTORTIONS]
    return pd.DataFrame(table, columns=columns)
