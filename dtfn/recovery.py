"""How much of what could be gained is gained: by TFS, by a gate, by doing nothing clever.

The share is (PSNR of the candidate - PSNR of N) / (bound - PSNR of N), N being the network with
plain attention: 0 is N itself, 1 the bound. A candidate that has nothing to do with attention, as
another local twin, has a share as well; it stands beside as the null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from dtfn import statistics, subpixel
from dtfn.errors import InputError

BOUNDS = ("selection_bound", "fusion_bound")
TWIN, OTHER_TWIN = "its local twin", "another local twin (luck)"
FIDELITY = "with TFS"

GATES = {
    "psnr_gate": "gate: twin where harm is predicted",
    "psnr_coin": "coin: twin as often, at random",
    "psnr_mean": "mean of both outputs",
    "psnr_without": TWIN,
}
"""Columns of `dtfn.predictor.gate` -> what they are called."""


def candidates(
    table: pd.DataFrame, plain: str, fidelity: str | None = None, null: str | None = subpixel.NULL
) -> pd.DataFrame:
    """Return who might recover a network's bound, picture by picture.

    Parameters
    ----------
    table
        Of `dtfn.subpixel.measure`, perhaps with a column seed.
    plain
        The pair whose N has attention without TFS.
    fidelity
        The pair whose N has TFS; it is compared where it has the same training seed.
    null
        The null pair.

    Returns
    -------
    A row a candidate, seed and picture: pair (``plain``), candidate, dataset, image, seed, psnr,
    psnr_with (of N), and the `BOUNDS` (dB).

    Raises
    ------
    InputError
        If the table lacks a pair.
    """
    keys = [key for key in ("dataset", "image", "scale", "seed") if key in table]
    for name in (plain, *filter(None, (fidelity, null))):
        if name not in set(table["pair"]):
            raise InputError(
                "table", expected=f"the pair {name!r}", found=", ".join(table["pair"].unique()),
                remedy="measure it too",
            )  # fmt: skip
    own = table[table["pair"] == plain]
    base = own[[*keys, "psnr_with", *BOUNDS]]
    made = {TWIN: own[[*keys, "psnr_without"]].rename(columns={"psnr_without": "psnr"})}
    others = {fidelity: f"{FIDELITY} ({fidelity})", null: OTHER_TWIN}
    for other, title in others.items():
        if other:
            part = table.loc[table["pair"] == other, [*keys, "psnr_with"]]
            made[title] = part.rename(columns={"psnr_with": "psnr"})
    parts = [base.merge(each, on=keys).assign(candidate=title) for title, each in made.items()]
    return pd.concat(parts, ignore_index=True).assign(pair=plain)


def gated(scores: pd.DataFrame, pair: str, made: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the candidates of `dtfn.predictor.gate`, in the form of `candidates`.

    Parameters
    ----------
    scores
        Of `dtfn.predictor.gate`: a row a picture.
    pair
        Whose N has the gate; of several training seeds, the first.
    made
        Of `candidates`: what has TFS is a candidate here too, on the pictures of ``scores``.
    """
    keep = ["dataset", "image", "psnr_with", "selection_bound"]
    parts = [
        scores[keep].assign(candidate=title, psnr=scores[column]) for column, title in GATES.items()
    ]
    if made is not None:
        tfs = made[(made["pair"] == pair) & made["candidate"].str.startswith(FIDELITY)]
        if "seed" in tfs:
            tfs = tfs[tfs["seed"] == tfs["seed"].min()]
        parts.append(scores[keep].merge(tfs[["dataset", "image", "candidate", "psnr"]]))
    return pd.concat(parts, ignore_index=True).assign(pair=pair)


def shares(
    found: pd.DataFrame,
    bounds: Sequence[str] = BOUNDS,
    by: Sequence[str] = ("pair", "candidate"),
) -> pd.DataFrame:
    """Return what each candidate gains over N, and which share of each bound that is.

    Parameters
    ----------
    found
        Of `candidates` or `gated`, several put together if need be.
    bounds
        Some of `BOUNDS`.
    by
        ``pair`` and ``candidate``, and perhaps ``dataset``.

    Returns
    -------
    A row a group: the columns of ``by``, pictures, recovery (dB over N), recovery_low,
    recovery_high; and for each bound ``b``: b_share, b_share_low, b_share_high. Intervals are over
    pictures; a share has none where there may be nothing to gain.
    """
    rows = []
    for group, part in found.groupby(list(by), sort=False):
        clusters = part.groupby(["dataset", "image"]).ngroup()
        gain = statistics.difference_interval(part["psnr"], part["psnr_with"], clusters)
        row: dict[str, object] = {**dict(zip(by, group, strict=True)), "pictures": gain.clusters}
        row |= gain.columns("recovery")
        for bound in bounds:
            share = statistics.ratio_interval(
                part["psnr"] - part["psnr_with"], part[bound] - part["psnr_with"], clusters
            )
            row |= share.columns(f"{bound.removesuffix('_bound')}_share")
        rows.append(row)
    return pd.DataFrame(rows)


def with_fidelity(
    table: pd.DataFrame, names: Sequence[str], partners: Mapping[str, str | None], null: str | None
) -> pd.DataFrame:
    """Return `candidates` of several networks with plain attention, put together.

    Parameters
    ----------
    table, null
        As for `candidates`.
    names
        Pairs whose N has no TFS.
    partners
        Such a pair -> the one with TFS, or None.
    """
    parts = [candidates(table, name, partners.get(name), null) for name in names]
    return pd.concat(parts, ignore_index=True)
