"""Where attention harms, and how much is at stake: pairs of methods, measured block by block.

A `Pair` holds two methods that differ in attention, and its controls: methods that differ by chance
alone. Harm of a block is its error with attention less that without it, from outputs that are not
rounded. `measure` looks at every picture once. `curve` and `textures` sum up what it found. They
weigh a block by its error, so a smooth block that differs by a hair counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from dtfn import evaluation, regions, statistics, texture, zoo
from dtfn.datasets import Sample
from dtfn.errors import InputError, nearest
from dtfn.metrics import Float
from dtfn.subpixel import block_error, interior, luma, psnr_of

__all__ = [
    "EFFECT_DB",
    "EFFECT_SHARE",
    "KINDS",
    "Measured",
    "Pair",
    "cases",
    "curve",
    "folder_errors",
    "gains",
    "measure",
    "networks",
    "one_control",
    "pairs_of_zoo",
    "switches",
    "textures",
]

EFFECT_DB = 0.01  # dB of a picture set's PSNR: below it, nothing that matters
EFFECT_SHARE = 0.5  # % of the error of a fifth: the same
FIFTHS = 5
REPLICATES = 4  # of a switch pair
KINDS = ("switch", "placebo", "twin")
PICTURE = ["dataset", "image"]
ROLE = ["pair", "kind", "seed", "role"]

Errors = Callable[[Sequence[str], Sample], Mapping[str, Float]]
"""(methods, picture) -> method -> block errors (H, W)."""


@dataclass(frozen=True)
class Pair:
    """Two methods that differ in attention, and methods that differ by chance alone.

    Attributes
    ----------
    name
        The variant, e.g. ``"nlsa"``.
    kind
        ``"switch"``: attention on and off in one network that was trained for both.
        ``"placebo"``: against the network whose weights were uniform in training, too.
        ``"twin"``: against a network without attention.
    seed
        Training seed.
    on, off
        The methods with attention and without it.
    controls
        (method, method): each pair differs by chance alone.
    replicates
        (with attention, without): each measures the harm of this pair again, with other chance. A
        harmed texture is one where they agree.
    """

    name: str
    kind: str
    seed: int
    on: str
    off: str
    controls: tuple[tuple[str, str], ...] = ()
    replicates: tuple[tuple[str, str], ...] = ()

    @property
    def roles(self) -> dict[str, tuple[str, str]]:
        """``"pair"`` and ``"control 1"`` and so on -> (with attention, without)."""
        named = {f"control {n}": two for n, two in enumerate(self.controls, start=1)}
        return {"pair": (self.on, self.off), **named}


class Measured(NamedTuple):
    """What `measure` found; every row also holds pair, kind, seed, role, dataset and image.

    Attributes
    ----------
    pictures
        A row a picture: psnr_on, psnr_off, gain (dB), mse_on, mse_off, positions, lost, won (dB of
        PSNR in harmed and helped textures that chance does not make), harmed, helped (their share
        of the positions, %).
    fifths
        A row a picture and fifth of severity (1 to 5): positions, off (mean error without
        attention), added, removed (mean error that attention adds, and removes; MSE).
    regions
        A row a texture: side (``harm`` or ``help``), top, left, height, width, area (LR positions),
        mass (MSE times positions), held (mean mass of the replicates), strength, p, q, region.
    """

    pictures: pd.DataFrame
    fifths: pd.DataFrame
    regions: pd.DataFrame


def pairs_of_zoo(
    scale: int,
    variants: Sequence[str] = (),
    kinds: Sequence[str] = KINDS,
    seeds: Sequence[int] = (),
) -> list[Pair]:
    """Return the pairs that the zoo has at a scale, those whose attention does most first.

    Controls and replicates of a switch pair are the same network under other hash seeds, or under
    flips of the picture where it does not hash. Controls of the other kinds are two local networks
    of different training seeds; such a pair without them is left out. Replicates are the pairs of
    other training seeds, where there are two or more.

    Parameters
    ----------
    scale
        2, 3 or 4.
    variants
        With attention, e.g. ``"nlsa"``; none: all that there are.
    kinds
        Some of `KINDS`.
    seeds
        Training seeds; none: all.

    Raises
    ------
    InputError
        For a variant or seed that the zoo does not have at this scale, or no pair at all.
    """
    found = _pairs(scale, variants, kinds, seeds)
    if not found:
        names = [row["name"] for row in zoo.registry() if row["scale"] == scale]
        raise InputError(
            f"zoo x{scale}",
            f"a pair of kind {' or '.join(kinds)}",
            ", ".join(names) or "no network",
            "choose another scale or kind, or train networks with `dtfn train`",
        )
    return found


def _pairs(
    scale: int, variants: Sequence[str], kinds: Sequence[str], seeds: Sequence[int]
) -> list[Pair]:
    rows = {
        (row["variant"], int(row["seed"])): row for row in zoo.registry() if row["scale"] == scale
    }
    attentive = [v for v, _ in rows if not v.startswith("local") and v != "placebo"]
    attentive = list(dict.fromkeys(attentive))
    for given, known in ((variants, attentive), (seeds, sorted({s for _, s in rows}))):
        for one in given:
            if zoo.own(str(one)):
                raise InputError(
                    f"pairs of {one}",
                    "a network of the zoo, whose pairs are known",
                    "a network of your own",
                    (
                        "`dtfn gate` takes it, and 09_audit a twin of your choice: "
                        f"-p methods={one},TWIN,CONTROL"
                    ),
                )
            if one not in known:
                raise InputError(
                    f"zoo x{scale}",
                    f"one of {', '.join(map(str, known)) or 'none'}",
                    repr(one),
                    nearest(str(one), map(str, known)),
                )
    local = {seed: row["name"] for (variant, seed), row in rows.items() if variant == "local"}
    found = []
    strongest = sorted(rows.items(), key=lambda item: -(item[1].get("gate") or 0))
    for (variant, seed), row in strongest:
        if variant not in (variants or attentive) or (seeds and seed not in seeds):
            continue
        name = row["name"]
        if "switch" in kinds and zoo.switched(name):
            found.append(_switch(variant, seed, name))
        others = [local[s] for s in sorted(local, key=lambda s: (s <= seed, s)) if s != seed]
        own = local.get(seed, others[-1] if others else "")
        if "placebo" in kinds and ("placebo", seed) in rows and others:
            placebo = rows["placebo", seed]["name"]
            found.append(Pair(variant, "placebo", seed, name, placebo, ((own, others[0]),)))
        if "twin" in kinds and others and own != others[0]:
            found.append(Pair(variant, "twin", seed, name, others[0], ((own, others[0]),)))
    return [_replicated(pair, found) for pair in found]


def switches(scale: int, variants: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Pair]:
    """Return the switch pairs of the zoo and of weights files; none where there is none.

    Parameters
    ----------
    scale, seeds
        As for `pairs_of_zoo`.
    variants
        Variants of the zoo, or weights files; none: all of the zoo. A user's own network has no
        switch.

    Raises
    ------
    InputError
        For an unknown variant, or a weights file of another scale.
    """
    files = [one for one in variants if Path(one).suffix in zoo.SUFFIXES]
    found = []
    for file in files:
        recipe = zoo.recipe(file)
        if recipe.scale != scale:
            raise InputError(file, f"scale {scale}", recipe.scale, "choose another file")
        if recipe.attention_off:
            found.append(_switch(recipe.network.removeprefix("mini-"), recipe.seed, file))
    names = [one for one in variants if one not in files and not zoo.own(one)]
    return found if variants and not names else [*found, *_pairs(scale, names, ("switch",), seeds)]


def _switch(variant: str, seed: int, name: str) -> Pair:
    off = f"{name}@off"
    if variant.startswith(("nlsa", "gla", "dtfn")):  # they hash
        again = [(f"{name}@hash({k})", off) for k in range(1, REPLICATES + 1)]
    else:
        again = [(f"{name}@turn({k})", f"{off}+turn({k})") for k in range(1, REPLICATES + 1)]
    controls = tuple((on, name) for on, _ in again[:2])
    return Pair(variant, "switch", seed, name, off, controls, tuple(again))


def _replicated(pair: Pair, pairs: Sequence[Pair]) -> Pair:
    """Return a pair with those of other training seeds as its replicates, if it has none."""
    others = [p for p in pairs if (p.name, p.kind) == (pair.name, pair.kind) and p is not pair]
    if pair.replicates or len(others) < 2:
        return pair
    return replace(pair, replicates=tuple((p.on, p.off) for p in others))


def measure(
    pairs: Sequence[Pair], samples: Iterable[Sample], errors: Errors = evaluation.block_errors
) -> Measured:
    """Measure pairs and their controls on pictures, one picture in memory at a time.

    Parameters
    ----------
    pairs
        One or more.
    samples
        The pictures with their truth.
    errors
        Where block errors come from; `folder_errors` for results in folders.

    Raises
    ------
    InputError
        No pair, no picture, or two methods of a pair that are equal on every picture.
    """
    used = [(*pair.roles.values(), *pair.replicates) for pair in pairs]
    methods = list(dict.fromkeys(m for all_ in used for two in all_ for m in two))
    pictures, fifths, textures = [], [], []
    for sample in samples:
        made = errors(methods, sample)
        severity = interior(texture.severity(sample.hr, sample.scale))
        place = (sample.dataset, sample.image)
        for pair in pairs:
            roles = {role: (made[a], made[b]) for role, (a, b) in pair.roles.items()}
            harms = {role: a - b for role, (a, b) in roles.items()}
            chance = [harm for role, harm in harms.items() if role != "pair"]
            limit = regions.region_limit(np.stack(chance or [-harms["pair"]]))
            again = np.array([made[a] - made[b] for a, b in pair.replicates])
            for role, (on, off) in roles.items():
                key = (pair.name, pair.kind, pair.seed, role, *place)
                on, off = interior(on), interior(off)
                psnr = psnr_of(on), psnr_of(off)
                mse = float(on.mean()), float(off.mean())
                rise = psnr[0] - psnr[1] if mse[0] != mse[1] else 0.0
                pictures.append((*key, *psnr, rise, *mse, on.size))
                fifths += [(*key, *row) for row in _fifths(on, off, severity)]
                known = again if role == "pair" else again[:0]
                textures += [(*key, *row) for row in regions.rows(harms[role], limit, known)]
    if not pictures:
        raise InputError("pictures", "one or more", "none", "name some")
    numbers = ["psnr_on", "psnr_off", "gain", "mse_on", "mse_off", "positions"]
    table = pd.DataFrame(pictures, columns=[*ROLE, *PICTURE, *numbers])
    columns = ["fifth", "positions", "off", "added", "removed"]
    by_fifth = pd.DataFrame(fifths, columns=[*ROLE, *PICTURE, *columns])
    for pair in pairs:
        own = by_fifth[(by_fifth["pair"] == pair.name) & (by_fifth["kind"] == pair.kind)]
        if not own.loc[own["role"] == "pair", ["added", "removed"]].any(axis=None):
            raise InputError(
                f"pair {pair.name!r}",
                "two methods that differ",
                f"{pair.on} and {pair.off} have equal outputs on every picture",
                "name another method",
            )
    judged = regions.judge(pd.DataFrame(textures, columns=[*ROLE, *PICTURE, *regions.COLUMNS]))
    return Measured(_at_stake(table, judged), by_fifth, judged)


def folder_errors(methods: Sequence[str], sample: Sample) -> dict[str, Float]:
    """Return the block errors of 8-bit results that the sample holds; ties are exact."""
    y = luma(sample.hr)
    return {m: block_error(sample.outputs[m], y, sample.scale) for m in methods}


def curve(fifths: pd.DataFrame) -> pd.DataFrame:
    """Return the harm curve: what attention does to the error of each fifth of severity.

    Parameters
    ----------
    fifths
        Of `measure`.

    Returns
    -------
    A row a pair, kind, role and fifth: net (the change of error in % of the error without
    attention; above 0, attention harms) with low and high, the ends of its 95 % interval; added and
    removed, its two parts (%); seeds, pictures. All controls of a pair are one role, ``control``.
    """
    table = one_control(fifths.assign(net=fifths["added"] - fifths["removed"]))
    rows = []
    for key, part in table.groupby(["pair", "kind", "role", "fifth"], sort=False):
        net = statistics.crossed(part, "net", "off")
        base = part["off"].sum() or np.nan
        ratio = {name: 100 * part[name].sum() / base for name in ("added", "removed")}
        ends = (100 * net.estimate, 100 * net.low, 100 * net.high)
        rows.append((*key, *ends, *ratio.values(), net.seeds, net.pictures))
    columns = ["pair", "kind", "role", "fifth", "net", "low", "high", "added", "removed"]
    return pd.DataFrame(rows, columns=[*columns, "seeds", "pictures"])


def gains(pictures: pd.DataFrame, columns: Sequence[str] = ("gain", "lost", "won")) -> pd.DataFrame:
    """Return means over pictures and seeds with 95 % intervals, by pair, kind, role and benchmark.

    Parameters
    ----------
    pictures
        Of `measure`.
    columns
        Which of its columns.

    Returns
    -------
    A row a pair, kind, role and dataset: seeds, pictures; and each column with ``_low`` and
    ``_high``. All controls of a pair are one role, ``control``.
    """
    table = one_control(pictures)
    rows = []
    for key, part in table.groupby(["pair", "kind", "role", "dataset"], sort=False):
        row = dict(zip(("pair", "kind", "role", "dataset"), key, strict=True))
        for column in columns:
            one = statistics.crossed(part, column)
            row |= {"seeds": one.seeds, "pictures": one.pictures, **one.columns(column)}
        rows.append(row)
    return pd.DataFrame(rows)


def textures(measured: Measured) -> pd.DataFrame:
    """Return how many textures each pair harms and helps, and what is at stake in them.

    Returns
    -------
    A row a pair, kind and role: seeds, pictures, harmed and helped (textures that chance does not
    make, see `dtfn.regions.judge`: false discovery rate 5 %), harmed_area, helped_area (% of the
    positions), lost, won (dB of PSNR in them, mean over pictures). All controls of a pair are one
    role, ``control``.
    """
    keys = ["pair", "kind", "role"]
    pictures = one_control(measured.pictures)
    found = one_control(regions.discoveries(measured.regions))
    rows = []
    for key, part in pictures.groupby(keys, sort=False):
        ours = found[(found[keys] == list(key)).all(axis=1)]
        count = ours["side"].value_counts()
        means = part[["harmed", "helped", "lost", "won"]].mean()
        size = part["seed"].nunique(), len(part[PICTURE].drop_duplicates())
        rows.append((*key, *size, count.get("harm", 0), count.get("help", 0), *means))
    columns = ["seeds", "pictures", "harmed", "helped", "harmed_area", "helped_area", "lost", "won"]
    return pd.DataFrame(rows, columns=[*keys, *columns])


def one_control(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of `measure` with all controls of a pair as one role, ``control``."""
    return table.assign(role=table["role"].str.split(" ").str[0])


def networks(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the column network: variant and training seed."""
    return table.assign(network=table["pair"] + " " + table["seed"].astype(str))


def cases(
    measured: Measured,
    pair: Pair,
    samples: Iterable[Sample],
    most: int = 3,
    others: Sequence[str] = (),
    errors: Errors = evaluation.block_errors,
) -> list[regions.Case]:
    """Return the heaviest textures of harm, then those of help, of one of the measured pairs.

    Parameters are those of `dtfn.regions.cases`; ``others`` are methods that are shown, too.
    """
    table = measured.regions
    for column, value in (("pair", pair.name), ("kind", pair.kind), ("seed", pair.seed)):
        table = table[table[column] == value]
    methods = list(dict.fromkeys([pair.on, pair.off, *others]))
    return regions.cases(table, samples, errors, methods, most)


def _fifths(on: Float, off: Float, severity: Float) -> Iterator[tuple[float, ...]]:
    """Yield fifth, positions, and the means of e_off and of what attention adds and removes."""
    rank = stats.rankdata(severity, method="ordinal").reshape(severity.shape) - 1
    fifth = rank * FIFTHS // severity.size
    harm = on - off
    for number in range(FIFTHS):
        here = fifth == number
        added, removed = (np.clip(sign * harm[here], 0, None).mean() for sign in (1, -1))
        yield number + 1, int(here.sum()), float(off[here].mean()), float(added), float(removed)


def _at_stake(pictures: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """Return the pictures with what is lost and won in their discoveries."""
    found = regions.discoveries(judged)
    keys = [*ROLE, *PICTURE]
    table = pictures
    for side, (area, decibels) in {"harm": ("harmed", "lost"), "help": ("helped", "won")}.items():
        ours = found[found["side"] == side].groupby(keys)[["area", "held"]].sum()
        ours = ours.rename(columns={"area": area, "held": "_mass"}).reset_index()
        table = table.merge(ours, on=keys, how="left")
        table = table.astype({area: float, "_mass": float}).fillna({area: 0.0, "_mass": 0.0})
        share = table.pop("_mass") / table["positions"]
        base = table["mse_on"] if side == "harm" else table["mse_off"]
        table[area] = 100 * table[area] / table["positions"]
        table[decibels] = -10 * np.log10(1 - (share / base).clip(0, 1 - 1e-12).fillna(0))
    return table
