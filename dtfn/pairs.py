"""Pairs of networks, measured picture by picture.

A *pair* is (with, without): two networks that differ in one thing, usually non-local attention. The
*null pair* is two local networks that differ in their training seed only. It is the control: what
it shows is chance, and `net` subtracts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pandas as pd

from dtfn import evaluation
from dtfn.bounds import errors_and_bounds
from dtfn.datasets import Sample
from dtfn.errors import InputError, nearest
from dtfn.metrics import Array
from dtfn.subpixel import (
    block_error,
    gain,
    harm,
    harm_mass,
    harm_rate,
    interior,
    luma,
    noise_floor,
    psnr_of,
)

Pairs = Mapping[str, tuple[str, str]]
"""Name of a pair -> (with, without)."""

NULL = "null pair"  # not "null", which pandas reads from a CSV file as missing
KEYS = ("dataset", "image", "scale")

CURVE = {
    **{granularity: f"bound_{granularity}" for granularity in ("image", "32", "16", "8", "4", "2")},
    "1": "selection_bound",
    "subpixel": "bound_subpixel",
    "fusion": "fusion_bound",
}
"""Granularity of a bound, coarse to fine -> its column in `figures`."""

BEYOND = ("harm_rate", "help_rate", "harm_mass", "help_mass", "lost_db", "won_db")
"""Figures that are also there for harm beyond the noise floor, with the ending ``_tau``."""

NETTED = (
    "psnr_gain",
    "harm_untied",
    "harm_share",
    *BEYOND,
    *(f"{name}_tau" for name in BEYOND),
    "selection_gain",
    "fusion_gain",
    "gain",
)
"""The columns that `net` compares with the null pair; a PSNR by itself is the picture's."""


def figures(sr_n: Array, sr_l: Array, hr: Array, scale: int, tau: float = 0.0) -> dict[str, float]:
    """Return all figures of one pair on one picture; the outermost LR positions are left out.

    Parameters
    ----------
    sr_n, sr_l, hr
        What the networks with and without attention made, and the truth: pictures as in
        `dtfn.subpixel`, of one size.
    scale
        s.
    tau
        Threshold of harm (MSE) for the figures that end in ``_tau``; all others take 0.

    Returns
    -------
    ``psnr_with``, ``psnr_without`` (dB) and ``psnr_gain``, their difference; ``harm_rate``,
    ``help_rate`` (shares of the positions); ``harm_untied``, the share of harm among the positions
    where the two do not tie, which is one half of two networks that err equally; ``harm_mass``,
    ``help_mass`` (MSE), ``harm_share``, ``lost_db``, ``won_db``, see `dtfn.subpixel.HarmMass`;
    ``tau``, and the figures of `BEYOND` for it; the bounds of `CURVE` (dB); ``selection_gain`` and
    ``fusion_gain``, what the bounds at one position have over the better network (dB).

    Raises
    ------
    InputError
        As `dtfn.subpixel.block_error`, or if the picture has no interior.
    """
    error_n, error_l, bounds = errors_and_bounds(sr_n, sr_l, hr, scale)
    psnr_n, psnr_l = psnr_of(error_n), psnr_of(error_l)
    h = harm(error_n, error_l)
    row = {"psnr_with": psnr_n, "psnr_without": psnr_l, "psnr_gain": gain(psnr_n, psnr_l)}
    for ending, threshold in (("", 0.0), ("_tau", tau)):
        mass = harm_mass(error_n, error_l, threshold)
        rates = harm_rate(h, threshold), harm_rate(-h, threshold)
        values = (*rates, mass.harmed, mass.helped, mass.lost_db, mass.won_db)
        row |= {f"{name}{ending}": value for name, value in zip(BEYOND, values, strict=True)}
    untied = row["harm_rate"] + row["help_rate"]
    row["harm_untied"] = row["harm_rate"] / untied if untied else float("nan")
    row["harm_share"] = harm_mass(error_n, error_l).share
    row["tau"] = tau
    row |= {CURVE[granularity]: bound for granularity, bound in bounds.items()}
    row["selection_gain"] = gain(bounds["1"], max(psnr_n, psnr_l))
    row["fusion_gain"] = gain(bounds["fusion"], max(psnr_n, psnr_l))
    return row


def measure(samples: Iterable[Sample], pairs: Pairs, null: str | None = NULL) -> pd.DataFrame:
    """Return the figures of every pair on every picture, one picture in memory at a time.

    Parameters
    ----------
    samples
        With the outputs of all networks of the pairs.
    pairs
        What to compare.
    null
        The null pair's name. ``tau`` is the noise floor that it has on the same picture. None:
        there is none, and ``tau`` is 0.

    Returns
    -------
    A row a picture and pair: pair, with, without, dataset, image, scale, and the keys of `figures`.

    Raises
    ------
    InputError
        For a pair of one and the same network, in name or in the Y of every picture; a null pair
        that is not among the pairs; no picture at all; a picture or output that `figures` refuses.
    """
    if not pairs:
        raise InputError("pairs", expected="one or more", found="none", remedy="name one")
    if null is not None:
        _check_null(null, pairs)
    for name, (n, l) in pairs.items():
        if n == l:
            _refuse_same(name, n, l, "the same name")
    table = pd.DataFrame([row for sample in samples for row in _rows(sample, pairs, null)])
    if table.empty:
        raise InputError("pictures", expected="one or more", found="none", remedy="add some")
    differ = (table["harm_mass"] + table["help_mass"]).groupby(table["pair"]).max() > 0
    for name, (n, l) in pairs.items():
        if not differ[name]:
            _refuse_same(name, n, l, "equal outputs on every picture")
    return table


def net(table: pd.DataFrame, null: str = NULL) -> pd.DataFrame:
    """Return the rows of all other pairs with those of the null pair, image by image.

    Parameters
    ----------
    table
        From `measure` or `bound_table`; perhaps with a column seed, the training seed.
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
    Name the null pair (L', L) with the L of the other pairs. Where L erred by chance, both N and L'
    look better than it, and that cancels; turned round, it would count twice.
    """
    _check_null(null, table["pair"].unique())
    keys = [key for key in (*KEYS, "seed", "granularity") if key in table]
    columns = [column for column in NETTED if column in table]
    is_null = table["pair"] == null
    control = table.loc[is_null, keys + columns].assign(_known=True)
    joined = table[~is_null].merge(
        control, on=keys, how="left", suffixes=("", "_null"), validate="many_to_one"
    )
    if joined["_known"].isna().any():
        lacking = joined.loc[joined["_known"].isna(), keys].iloc[0].to_dict()
        raise InputError(
            "null pair",
            expected="a row for every image",
            found=f"none for {lacking}",
            remedy="run the null pair on the same images",
        )
    for column in columns:
        joined[f"{column}_net"] = joined[column] - joined[f"{column}_null"]
    return joined.drop(columns="_known")


def bound_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the bounds of `measure`'s table in long form, coarse to fine.

    Returns
    -------
    A row an image, pair and granularity: pair, with, without, dataset, image, scale, granularity
    (the keys of `CURVE`, an ordered category), bound (dB), gain (dB over the better network).
    """
    identity = ["pair", "with", "without", *KEYS, *(["seed"] if "seed" in table else [])]
    long = table.melt(identity, list(CURVE.values()), "granularity", "bound")
    granularity = {column: name for name, column in CURVE.items()}
    long["granularity"] = pd.Categorical(
        long["granularity"].map(granularity), list(CURVE), ordered=True
    )
    best = pd.concat([table["bound_image"]] * len(CURVE), ignore_index=True)
    # Two infinite PSNRs differ by NaN, and gain nothing.
    return long.assign(gain=(long["bound"] - best).where(long["bound"] != best, 0.0))


def pictures(
    methods: Sequence[str], datasets: Sequence[str], scale: int, count: int | None = None
) -> Iterator[Sample]:
    """Yield the pictures of benchmarks with the outputs of methods, one in memory at a time.

    Parameters and errors are those of `dtfn.evaluation.evaluate`.
    """
    for sample in evaluation.samples(datasets, scale, count):
        made = evaluation.outputs(methods, sample)
        yield sample.with_outputs({name: output.image for name, output in made.items()})


def methods_of(pairs: Pairs) -> list[str]:
    """Return all networks of pairs, each once, in order."""
    return list(dict.fromkeys(method for two in pairs.values() for method in two))


def _rows(sample: Sample, pairs: Pairs, null: str | None) -> Iterator[dict[str, object]]:
    """Yield one picture's rows; each network's Y is computed once."""
    try:
        hr = luma(sample.hr)
        made = {m: luma(sample.outputs[m]) for m in methods_of(pairs)}
        tau = 0.0
        if null is not None:
            n, l = (interior(block_error(made[m], hr, sample.scale)) for m in pairs[null])
            tau = noise_floor(harm(n, l))
        for name, (with_, without) in pairs.items():
            yield {
                "pair": name,
                "with": with_,
                "without": without,
                "dataset": sample.dataset,
                "image": sample.image,
                "scale": sample.scale,
                **figures(made[with_], made[without], hr, sample.scale, tau),
            }
    except InputError as error:
        raise InputError(
            f"{sample.dataset}/{sample.image} x{sample.scale}",
            expected="a picture and outputs that can be compared",
            found=str(error),
            remedy="mend or leave out this picture",
        ) from error


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
