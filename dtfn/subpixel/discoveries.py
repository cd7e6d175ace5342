"""Which harmed regions are more than luck: tested against the null pair's own regions.

Whatever is thresholded has regions, two twins of different seeds too. A region of a pair is a
discovery where few of the null pair's regions are as strong, allowing for how many were tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from dtfn import statistics, zoo
from dtfn.subpixel import NULL, Pairs, Picture, harm
from dtfn.subpixel.regions import block_errors, find, floor

LEVEL = 0.05  # of false discoveries
SIDES = {"harm": 1, "help": -1}


def replicated(
    variants: Sequence[str], twin: str, scale: int, seed: int, twin_seed: int, seeds: Sequence[int]
) -> dict[str, tuple[str, str]]:
    """Return the null pair, each variant against its local twin, and what replicates them.

    Parameters
    ----------
    variants, twin
        Of the zoo, with and without attention.
    scale, seed, twin_seed
        Which networks: variants of ``seed``, all against the twin of ``twin_seed``; the null pair
        is the twin of ``seed`` against it, which differs from the variants in attention alone.
    seeds
        Further training seeds, used where the zoo has them: variants and twins against a twin of
        another seed than theirs. The twins ought to harm no region.
    """

    def name(variant: str, seed: int) -> str:
        return f"{variant}-x{scale}-s{seed}"

    local = name(twin, twin_seed)
    pairs = {NULL: (name(twin, seed), local)}
    pairs |= {variant: (name(variant, seed), local) for variant in variants}
    known = {row["name"] for row in zoo.registry()}
    more = {}
    for other in seeds:
        against = name(twin, seed) if other == twin_seed else local
        if other not in (seed, twin_seed):
            more[f"{twin}, seed {other}"] = (name(twin, other), against)
        if other != seed:
            more |= {f"{v}, seed {other}": (name(v, other), against) for v in variants}
    return pairs | {key: two for key, two in more.items() if set(two) <= known}


def regions_of(picture: Picture, pairs: Pairs, null: str = NULL) -> pd.DataFrame:
    """Return the regions of harm and of help of every pair on one picture, heaviest first.

    Parameters
    ----------
    picture
        With the outputs of all networks of the pairs.
    pairs, null
        As for `dtfn.subpixel.measure`.

    Returns
    -------
    A row a region: pair, side (``harm`` or ``help``), dataset, image, top, left, height, width,
    area (LR positions), mass (summed harm, or help, MSE times positions), strength (see
    `dtfn.subpixel.regions.Region`), region (the object).
    """
    errors = block_errors(picture, {method for two in pairs.values() for method in two})
    harms = {name: harm(errors[n], errors[l]) for name, (n, l) in pairs.items()}
    limit = floor(harms[null])
    rows = []
    for name, one in harms.items():
        for side, sign in SIDES.items():
            for region in find(sign * one, limit):
                fields = ("top", "left", "height", "width", "area", "mass", "strength")
                rows.append(
                    {"pair": name, "side": side, "dataset": picture.dataset}
                    | {"image": picture.image, **{f: getattr(region, f) for f in fields}}
                    | {"region": region}
                )
    return pd.DataFrame(rows, columns=COLUMNS)


COLUMNS = [
    "pair", "side", "dataset", "image", "top", "left", "height", "width", "area", "mass",
    "strength", "region",
]  # fmt: skip


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
    region's own picture, so pictures can be pooled. The null pair's twins are exchangeable, so its
    regions of harm and of help are of one kind, and both are taken. This is the cluster-mass test
    (Bullmore et al. 1999) with a second training in the place of a permutation: what it says of
    luck is what the training seeds of one null pair show. The null pair has about as many regions
    as a pair, so a handful of regions is never a discovery, however strong: it takes some ten that
    are stronger than all of the null's.
    """
    parts = [table for table in tables if len(table)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    is_null = table["pair"] == null
    luck = table.loc[is_null, "strength"].to_numpy(float)
    table["p"] = p_values(table["strength"].to_numpy(float), luck)
    pictures = table.groupby(["dataset", "image"]).ngroup().to_numpy()
    for picture in np.unique(pictures[is_null]):
        own = is_null & (pictures == picture)
        others = table.loc[is_null & ~own, "strength"].to_numpy(float)
        table.loc[own, "p"] = p_values(table.loc[own, "strength"].to_numpy(float), others)
    table["q"] = table.groupby(["pair", "side"])["p"].transform(statistics.false_discovery)
    return table


def worst(table: pd.DataFrame, pairs: Iterable[str]) -> str:
    """Return which of some pairs has most harm in discoveries; if none has any, in all regions.

    Parameters
    ----------
    table
        Of `judge`.
    pairs
        Names, the first of which it is where none has a region.
    """
    names = list(pairs)
    harmed = table[(table["side"] == "harm") & table["pair"].isin(names)]
    real = harmed[harmed["q"] <= LEVEL]
    mass = (real if len(real) else harmed).groupby("pair")["mass"].sum()
    return str(mass.idxmax()) if len(mass) else names[0]


def choose(table: pd.DataFrame, pair: str, image: str = "") -> pd.DataFrame:
    """Return the heaviest region of harm and that of help of a pair, on one and the same picture.

    Parameters
    ----------
    table
        Of `judge`.
    pair
        Whose regions.
    image
        On which picture; empty: on that with the heaviest region of harm. Discoveries come first.

    Returns
    -------
    At most two rows, harm first; none where the pair has no region at all.
    """
    ours = table[table["pair"] == pair]
    if image:
        ours = ours[ours["image"] == image]
    ours = ours.assign(luck=ours["q"] > LEVEL)
    ours = ours.sort_values(["side", "luck", "mass"], ascending=[True, True, False], kind="stable")
    if len(ours):
        first = ours.iloc[0]
        same = (ours["dataset"] == first["dataset"]) & (ours["image"] == first["image"])
        ours = ours[same]
    return ours.drop_duplicates("side").drop(columns="luck").reset_index(drop=True)


def p_values(strengths: ArrayLike, luck: ArrayLike) -> NDArray[np.float64]:
    """Return the share of the null's strengths that are no smaller, each strength itself counted.

    Parameters
    ----------
    strengths
        ``(n,)``, to be tested.
    luck
        ``(m,)``, of the null.

    Returns
    -------
    ``(n,)``, never below 1 / (m + 1): so few null regions cannot say much.
    """
    ordered = np.sort(np.asarray(luck, float))
    smaller = np.searchsorted(ordered, np.asarray(strengths, float), side="left")
    return (1 + ordered.size - smaller) / (1 + ordered.size)


def count(table: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """Return how many regions each pair has and how many of them are discoveries.

    Parameters
    ----------
    table
        Of `judge`.
    level
        Of ``q``.

    Returns
    -------
    A row a pair and side: pair, side, regions, discoveries, pictures (with a discovery), area
    (positions of the discoveries), mass (their summed harm or help).
    """
    found = table["q"] <= level
    rows = []
    for (pair, side), part in table.groupby(["pair", "side"], sort=False):
        real = part[found[part.index]]
        rows.append(
            {
                "pair": pair,
                "side": side,
                "regions": len(part),
                "discoveries": len(real),
                "pictures": len(real[["dataset", "image"]].drop_duplicates()),
                "area": int(real["area"].sum()),
                "mass": float(real["mass"].sum()),
            }
        )
    columns = ["pair", "side", "regions", "discoveries", "pictures", "area", "mass"]
    return pd.DataFrame(rows, columns=columns)
