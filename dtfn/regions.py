"""Harmed and helped textures: contiguous regions, tested against those of the null pair.

Single worst pixels are noise. A region is a connected area whose smoothed harm exceeds what the
null pair (two local networks of different training seeds) shows on the same picture. Whatever is
thresholded has regions, the null pair too: a region is a *discovery* where few of the null pair's
regions are as strong, allowing for how many were tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from dtfn import statistics
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.metrics import Float
from dtfn.pairs import NULL, Pairs, methods_of
from dtfn.subpixel import block_error, harm, interior, luma, psnr_of, signed_root
from dtfn.texture import DISTORTIONS, distortion_maps, severity

__all__ = [
    "LEVEL",
    "Case",
    "Region",
    "case_table",
    "cases",
    "count_discoveries",
    "find_regions",
    "heaviest_regions",
    "judge",
    "regions_of",
    "survey",
    "worst_pair",
]

SIGMA = 1.5  # LR positions: harm is a matter of textures, which are larger than one block
QUANTILE = 0.99  # of the null pair's smoothed harm: the threshold of a region
SMALLEST, LARGEST = 24, 36  # LR positions: sides of a window, so that a figure shows its pixels
LEVEL = 0.05  # of false discoveries
SIDES = {"harm": 1, "help": -1}
PLACE = ["pair", "side", "dataset", "image", "top", "left", "height", "width", "area"]
COLUMNS = [*PLACE, "mass", "strength", "region"]
COUNTS = ["pair", "side", "regions", "discoveries", "pictures", "area", "mass"]


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
        The whole picture with the outputs.
    side, pair
        ``harm`` or ``help``, and of which pair.
    networks
        (with, without) of that pair, then the others that are shown.
    region
        Where.
    window
        (top, left, height, width) in LR positions: what is shown, around the region.
    p, q
        See `judge`; NaN without a null pair.
    harm
        Of the pair on the whole LR grid, ``(H, W)`` (MSE).
    errors
        Network -> its block errors, the same.
    maps
        Network -> measure -> `dtfn.texture.distortion_maps` of the whole picture.
    """

    sample: Sample
    side: str
    pair: str
    networks: tuple[str, ...]
    region: Region
    window: tuple[int, int, int, int]
    p: float
    q: float
    harm: Float
    errors: dict[str, Float]
    maps: dict[str, dict[str, Float]]

    @property
    def view(self) -> Sample:
        """The window of LR, HR and all outputs."""
        return self.sample.crop(*self.window)

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
    limit is that of the null pair on the same picture, see `region_limit`.
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


def region_limit(null_harm: Float) -> float:
    """Return the threshold of a region: a quantile of the null's absolute smoothed harm."""
    return float(np.quantile(np.abs(smoothed(null_harm)), QUANTILE))


def smoothed(harm: Float) -> Float:
    """Return the signed root of harm under a Gaussian of `SIGMA` positions."""
    return gaussian_filter(signed_root(harm), SIGMA)


def block_errors(sample: Sample, networks: Iterable[str]) -> dict[str, Float]:
    """Return the block errors of a sample's outputs, each ``(H, W)`` (MSE on float Y)."""
    y = luma(sample.hr)
    outputs = {network: luma(sample.outputs[network]) for network in networks}
    return {network: block_error(x, y, sample.scale) for network, x in outputs.items()}


def regions_of(sample: Sample, pairs: Pairs, null: str = NULL) -> pd.DataFrame:
    """Return the regions of harm and of help of every pair on one picture, heaviest first.

    A row a region: pair, side (``harm`` or ``help``), dataset, image, top, left, height, width,
    area (LR positions), mass (summed harm, or help, MSE times positions), strength (see `Region`),
    region (the object). Parameters are those of `dtfn.pairs.measure`.
    """
    errors = block_errors(sample, methods_of(pairs))
    harms = {name: harm(errors[n], errors[l]) for name, (n, l) in pairs.items()}
    limit = region_limit(harms[null])
    rows = []
    for name, one in harms.items():
        for side, sign in SIDES.items():
            for r in find_regions(sign * one, limit):
                place = (name, side, sample.dataset, sample.image, r.top, r.left, r.height)
                rows.append((*place, r.width, r.area, r.mass, r.strength, r))
    return pd.DataFrame(rows, columns=COLUMNS)


def judge(tables: Iterable[pd.DataFrame], null: str = NULL) -> pd.DataFrame:
    """Return the regions of all pictures with their p-values, and these allowing for their number.

    Parameters
    ----------
    tables
        Of `regions_of`, one a picture.
    null
        The null pair's name.

    Returns
    -------
    The tables in one, with ``p`` and ``q``: calling all of ``q <= 0.05`` discoveries, one in
    twenty is expected to be false (Benjamini and Hochberg; over all regions of a pair and side).

    Notes
    -----
    p is the share of the null pair's regions, of all pictures together, that are at least as
    strong; of the null pair's own, those of other pictures. Strength is in thresholds of the
    region's own picture, so pictures can be pooled, and the null pair's regions of harm and of help
    are of one kind. This is the cluster-mass test (Bullmore et al. 1999) with a second training in
    the place of a permutation. A handful of regions is never a discovery, however strong: it takes
    some ten that are stronger than all of the null's.
    """
    parts = [table for table in tables if len(table)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    is_null, strength = table["pair"] == null, table["strength"].astype(float)
    table["p"] = p_values(strength, strength[is_null])
    for _, own in table[is_null].groupby(["dataset", "image"]):
        others = strength[is_null].drop(own.index)
        table.loc[own.index, "p"] = p_values(strength[own.index], others)
    table["q"] = table.groupby(["pair", "side"])["p"].transform(statistics.false_discovery)
    return table


def p_values(strengths: ArrayLike, null: ArrayLike) -> NDArray[np.float64]:
    """Return the share of the null's strengths ``(m,)`` that are no smaller, itself counted.

    It is never below 1 / (m + 1): few null regions cannot say much.
    """
    ordered = np.sort(np.asarray(null, float))
    smaller = np.searchsorted(ordered, np.asarray(strengths, float), side="left")
    return (1 + ordered.size - smaller) / (1 + ordered.size)


def count_discoveries(table: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """Return how many regions each pair of `judge`'s table has, and how many are discoveries.

    A row a pair and side: pair, side, regions, discoveries, pictures (with a discovery), area
    (positions of the discoveries), mass (their summed harm or help).
    """
    rows = []
    for (pair, side), part in table.groupby(["pair", "side"], sort=False):
        real = part[part["q"] <= level]
        pictures = len(real[["dataset", "image"]].drop_duplicates())
        sums = int(real["area"].sum()), float(real["mass"].sum())
        rows.append((pair, side, len(part), len(real), pictures, *sums))
    return pd.DataFrame(rows, columns=COUNTS)


def worst_pair(table: pd.DataFrame, pairs: Iterable[str]) -> str:
    """Return which of some pairs has most harm in discoveries; if none has any, in all regions."""
    names = list(pairs)
    harmed = table[(table["side"] == "harm") & table["pair"].isin(names)]
    real = harmed[harmed["q"] <= LEVEL]
    mass = (real if len(real) else harmed).groupby("pair")["mass"].sum()
    return str(mass.idxmax()) if len(mass) else names[0]


def heaviest_regions(table: pd.DataFrame, pair: str, image: str = "") -> pd.DataFrame:
    """Return the heaviest region of harm and that of help of a pair, on one and the same picture.

    Of `judge`'s table: on the named picture, else on that with the heaviest region of harm,
    discoveries first. At most two rows, harm first.
    """
    ours = _ordered(table[table["pair"] == pair])
    if image:
        ours = ours[ours["image"] == image]
    if len(ours):
        first = ours.iloc[0]
        same = (ours["dataset"] == first["dataset"]) & (ours["image"] == first["image"])
        ours = ours[same]
    return ours.drop_duplicates("side").reset_index(drop=True)


def survey(
    samples: Iterable[Sample], pairs: Pairs, null: str = NULL
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Look for regions and measure distortion in pictures, one in memory at a time.

    Parameters are those of `dtfn.pairs.measure`.

    Returns
    -------
    The table of `judge`; and a row a picture, pair and measure of `dtfn.texture.distortion_maps`:
    pair, dataset, image, measure, gap (mean over the interior positions, with less without),
    harmed (the same over the positions in the pair's regions of harm; NaN where it has none).
    """
    tables, rows = [], []
    for sample in samples:
        regions = regions_of(sample, pairs, null)
        tables.append(regions)
        maps = _distorted(sample, methods_of(pairs))
        harmed = regions[regions["side"] == "harm"]
        for name, (n, l) in pairs.items():
            own = harmed.loc[harmed["pair"] == name, "region"]
            for measure in DISTORTIONS:
                gap = maps[n][measure] - maps[l][measure]
                there = np.concatenate([r.of(gap) for r in own]).mean() if len(own) else np.nan
                place = (name, sample.dataset, sample.image, measure)
                rows.append((*place, float(interior(gap).mean()), float(there)))
    if not tables:
        raise InputError("pictures", expected="one or more", found="none", remedy="add some")
    columns = ["pair", "dataset", "image", "measure", "gap", "harmed"]
    return judge(tables, null), pd.DataFrame(rows, columns=columns)


def cases(
    table: pd.DataFrame,
    samples: Iterable[Sample],
    pair: str,
    pairs: Pairs,
    most: int = 3,
    others: Sequence[str] = (),
) -> dict[str, list[Case]]:
    """Return the heaviest regions of harm and of help of a pair, one a picture at most.

    Discoveries come first; where there are fewer than asked for, other regions follow, and their
    ``q`` says so.

    Parameters
    ----------
    table
        Of `judge`.
    samples
        The pictures, with the outputs of all networks that are shown.
    pair
        Whose regions.
    pairs
        Where it is defined.
    most
        How many of each side.
    others
        Networks that are shown with the two of ``pair``.
    """
    networks = tuple(dict.fromkeys([*pairs[pair], *others]))
    ours = _ordered(table[table["pair"] == pair])
    chosen = ours.drop_duplicates(["side", "dataset", "image"]).groupby("side").head(most)
    wanted = {(row["dataset"], row["image"]) for row in chosen.to_dict("records")}
    found: dict[int, Case] = {}
    for sample in samples:
        if (sample.dataset, sample.image) not in wanted:
            continue
        errors, maps = block_errors(sample, networks), _distorted(sample, networks)
        difference = harm(errors[networks[0]], errors[networks[1]])
        here = (chosen["dataset"] == sample.dataset) & (chosen["image"] == sample.image)
        for index, row in chosen[here].iterrows():
            region = row["region"]
            window, sure = region.window(difference.shape), (float(row["p"]), float(row["q"]))
            found[index] = Case(
                sample, row["side"], pair, networks, region, window, *sure, difference, errors, maps
            )
        wanted.remove((sample.dataset, sample.image))
        if not wanted:
            break
    ordered = [found[index] for index in chosen.index if index in found]
    return {side: [case for case in ordered if case.side == side] for side in SIDES}


def case_table(chosen: Sequence[Case]) -> pd.DataFrame:
    """Return how good each network is in each region: a row a case and network.

    number (from 1), pair, side, dataset, image, top, left, height, width, area, p, q, severity (MSE
    that bicubic has there), network, psnr (dB), and the measures of
    `dtfn.texture.distortion_maps`, all means over the region's positions.
    """
    rows = []
    for number, case in enumerate(chosen, start=1):
        r, sample = case.region, case.sample
        place = (case.pair, case.side, sample.dataset, sample.image, r.top, r.left, r.height)
        lost = float(r.of(severity(sample.hr, sample.scale)).mean())
        for network in case.networks:
            means = [float(r.of(case.maps[network][measure]).mean()) for measure in DISTORTIONS]
            psnr = psnr_of(r.of(case.errors[network]))
            rows.append(
                (number, *place, r.width, r.area, case.p, case.q, lost, network, psnr, *means)
            )
    columns = ["number", *PLACE, "p", "q", "severity", "network", "psnr", *DISTORTIONS]
    return pd.DataFrame(rows, columns=columns)


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Return regions of harm before those of help; in each discoveries first, then by mass."""
    keys = table.assign(open=table["q"] > LEVEL)
    ordered = keys.sort_values(
        ["side", "open", "mass"], ascending=[True, True, False], kind="stable"
    )
    return ordered.drop(columns="open")


def _distorted(sample: Sample, networks: Iterable[str]) -> dict[str, dict[str, Float]]:
    return {n: distortion_maps(sample.outputs[n], sample.hr, sample.scale) for n in networks}
