"""Sub-pixel quality: how often, how much non-local attention harms, and what it could reach.

A *pair* is (with, without): two networks that differ in one thing, usually non-local attention. The
*null pair* is two local twins that differ in their training seed only. Picking the better of two
noisy estimates always looks like a gain; the null pair measures that luck, and `net` takes it off.

The functions on one picture are in `blocks`, `bounds` and `twins`, and here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dtfn import evaluation
from dtfn.errors import InputError, nearest
from dtfn.subpixel.blocks import (
    Array,
    HarmMass,
    block_error,
    harm,
    harm_mass,
    harm_rate,
    interior,
    luma,
    noise_floor,
    psnr_of,
)
from dtfn.subpixel.bounds import (
    GRANULARITIES,
    bound_curve,
    fusion_bound,
    fusion_error,
    fusion_weight,
    selection_bound,
    selection_bound_subpixel,
)
from dtfn.subpixel.twins import CURVE, pair

__all__ = [
    "CURVE", "GRANULARITIES", "NETTED", "NULL", "HarmMass", "Picture", "analyse", "block_error",
    "bound_curve", "curve", "fusion_bound", "fusion_error", "fusion_weight", "harm", "harm_mass",
    "harm_rate", "interior", "measure", "net", "noise_floor", "pair", "pictures", "psnr_of",
    "selection_bound", "selection_bound_subpixel",
]  # fmt: skip

Pairs = Mapping[str, tuple[str, str]]

NULL = "null pair"  # not "null", which pandas reads from a CSV file as missing
KEYS = ("dataset", "image", "scale")

NETTED = (
    "psnr_gain", "harm_rate", "help_rate", "harm_untied", "harm_mass", "help_mass", "harm_share",
    "lost_db", "won_db", "harm_rate_tau", "help_rate_tau", "harm_mass_tau", "help_mass_tau",
    "lost_db_tau", "won_db_tau", "selection_gain", "fusion_gain", "gain",
)  # fmt: skip
"""The columns that `net` compares with the null pair; a PSNR by itself is the picture's."""


@dataclass(frozen=True)
class Picture:
    """One picture and what each network made of it.

    Attributes
    ----------
    dataset, image, scale
        What names it.
    hr
        uint8 ``(sH, sW, 3)`` RGB or ``(sH, sW)`` grey.
    outputs
        Network -> the same as ``hr``.
    """

    dataset: str
    image: str
    scale: int
    hr: Array
    outputs: Mapping[str, Array]


def measure(
    pictures: Iterable[Picture], pairs: Pairs, null: str | None = NULL, quantile: float = 0.5,
    *, may_equal: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Return the figures of every pair on every picture, one picture in memory at a time.

    Parameters
    ----------
    pictures
        With the outputs of all networks of the pairs.
    pairs
        Name of the pair -> (with, without).
    null
        The null pair's name. ``tau`` is the noise floor that it has on the same picture. None:
        there is none, and ``tau`` is 0.
    quantile
        Of the noise floor.
    may_equal
        Whether a pair's outputs may be equal on every picture: those of one network, changed.

    Returns
    -------
    A row a picture and pair: pair, with, without, dataset, image, scale, and the keys of `pair`.

    Raises
    ------
    InputError
        For a pair of one and the same network, in name or in the Y of every picture; a null pair
        that is not among the pairs; no picture at all; a picture or output that `pair` refuses.
    """
    _check(pairs, null)
    table = pd.DataFrame(
        [row for picture in pictures for row in _rows(picture, pairs, null, quantile)]
    )
    if table.empty:
        raise InputError("pictures", expected="one or more", found="none", remedy="add some")
    differ = (table["harm_mass"] + table["help_mass"]).groupby(table["pair"]).max() > 0
    for name, (n, l) in pairs.items():
        if not (differ[name] or may_equal):
            _refuse_same(name, n, l, "equal outputs on every picture")
    return table


def analyse(
    pairs: Pairs, datasets: Sequence[str], scale: int, count: int | None = None,
    *, null: str | None = NULL, quantile: float = 0.5,
) -> pd.DataFrame:  # fmt: skip
    """Run each network once on each image and return the figures of every pair.

    Parameters
    ----------
    pairs
        Name of the pair -> (with, without), methods of `dtfn.evaluation.outputs`; one of them is
        the null pair.
    datasets, scale, count
        As for `dtfn.evaluation.evaluate`.
    null, quantile
        As for `measure`.

    Returns
    -------
    The table of `measure`. A figure of a dataset is the mean over its images.

    Raises
    ------
    InputError
        As `measure`; and, before anything runs, for unknown methods, another scale, or a pair of
        two names for the same weights.
    """
    _check(pairs, null)
    methods = list(dict.fromkeys(method for two in pairs.values() for method in two))
    evaluation.require(methods, scale)
    for name, two in pairs.items():
        if evaluation.fingerprint(two[0]) == evaluation.fingerprint(two[1]):
            _refuse_same(name, *two, "the same weights")
    return measure(pictures(methods, datasets, scale, count), pairs, null, quantile)


def net(table: pd.DataFrame, null: str = NULL) -> pd.DataFrame:
    """Return the rows of all other pairs beside their null, image by image.

    Parameters
    ----------
    table
        From `measure`, `analyse` or `curve`; perhaps with a column seed, the training seed.
    null
        The null pair's name.

    Returns
    -------
    The rows of the other pairs; for each column of `NETTED`, ``<column>_null`` is the null pair's
    on the same image (and of the same seed), and ``<column>_net`` the difference.

    Raises
    ------
    InputError
        If the table has no null pair, or lacks it for an image.

    Notes
    -----
    Name the null pair (L', L) with the L of the other pairs. Where L was unlucky, both N and L'
    look better than it, and that cancels; turned round, it would count twice.
    """
    _check_null(null, table["pair"].unique())
    keys = [key for key in (*KEYS, "seed", "granularity") if key in table]
    columns = [column for column in NETTED if column in table]
    is_null = table["pair"] == null
    luck = table.loc[is_null, keys + columns].assign(_found=True)
    joined = table[~is_null].merge(
        luck, on=keys, how="left", suffixes=("", "_null"), validate="many_to_one"
    )
    if joined["_found"].isna().any():
        lacking = joined.loc[joined["_found"].isna(), keys].iloc[0].to_dict()
        raise InputError(
            "null pair",
            expected="a row for every image",
            found=f"none for {lacking}",
            remedy="run the null pair on the same images",
        )
    for column in columns:
        joined[f"{column}_net"] = joined[column] - joined[f"{column}_null"]
    return joined.drop(columns="_found")


def curve(table: pd.DataFrame) -> pd.DataFrame:
    """Return the bounds of `measure`'s table in long form, coarse to fine.

    Returns
    -------
    A row an image, pair and granularity: pair, with, without, dataset, image, scale, granularity
    (the keys of `CURVE`, an ordered category), bound (dB), gain (dB over the better network).
    """
    identity = ["pair", "with", "without", *KEYS, *(["seed"] if "seed" in table else [])]
    best = table["bound_image"]
    parts = []
    for granularity, column in CURVE.items():
        bound = table[column]
        part = table[identity].assign(granularity=granularity, bound=bound)
        parts.append(part.assign(gain=(bound - best).where(bound != best, 0.0)))
    long = pd.concat(parts, ignore_index=True)
    long["granularity"] = pd.Categorical(long["granularity"], list(CURVE), ordered=True)
    return long


def pictures(
    methods: Sequence[str], datasets: Sequence[str], scale: int, count: int | None = None
) -> Iterator[Picture]:
    """Yield the pictures of benchmarks with the outputs of methods, one in memory at a time.

    Parameters and errors are those of `dtfn.evaluation.evaluate`.
    """
    for sample in evaluation.samples(datasets, scale, count):
        made = {name: out.image for name, out in evaluation.outputs(methods, sample).items()}
        yield Picture(sample.dataset, sample.image, scale, sample.hr, made)


def _rows(
    picture: Picture, pairs: Pairs, null: str | None, quantile: float
) -> Iterator[dict[str, object]]:
    """Yield one picture's rows; each network's Y is computed once."""
    try:
        hr = luma(picture.hr, picture.hr)
        made = {method: luma(sr, picture.hr) for method, sr in picture.outputs.items()}
        tau = 0.0
        if null is not None:
            errors = [interior(block_error(made[m], hr, picture.scale)) for m in pairs[null]]
            tau = noise_floor(harm(*errors), quantile)
        for name, (n, l) in pairs.items():
            yield {
                "pair": name,
                "with": n,
                "without": l,
                "dataset": picture.dataset,
                "image": picture.image,
                "scale": picture.scale,
                **pair(made[n], made[l], hr, picture.scale, tau),
            }
    except InputError as error:
        raise InputError(
            f"{picture.dataset}/{picture.image} x{picture.scale}",
            expected="a picture and outputs that can be compared",
            found=str(error),
            remedy="mend or leave out this picture",
        ) from error


def _check(pairs: Pairs, null: str | None) -> None:
    if not pairs:
        raise InputError("pairs", expected="one or more", found="none", remedy="name one")
    if null is not None:
        _check_null(null, pairs)
    for name, (n, l) in pairs.items():
        if n == l:
            _refuse_same(name, n, l, "the same name")


def _check_null(null: str, known: Iterable[str]) -> None:
    known = list(known)
    if null not in known:
        raise InputError(
            "null pair",
            expected=f"a pair named {null!r}: two local twins of different seeds",
            found=", ".join(known),
            remedy=nearest(null, known),
        )


def _refuse_same(name: str, n: str, l: str, why: str) -> None:
    raise InputError(
        f"pair {name!r}",
        expected="two different networks",
        found=f"{n} and {l} are one and the same network ({why})",
        remedy="name another network",
    )
