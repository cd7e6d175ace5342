"""What harm goes with: rank correlations with its causes, and the claims about them.

Users find these functions in `dtfn.claims`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from dtfn.claims.judging import over_pictures, seeds_agree, verdict
from dtfn.positions import CAUSES
from dtfn.reports import Verdict
from dtfn.statistics import Interval


def correlation_table(
    found: pd.DataFrame, null: str | None, by: Sequence[str] = ("pair",)
) -> pd.DataFrame:
    """Return the mean rank correlation of harm with each cause, and net of the null pair's.

    Parameters
    ----------
    found
        `dtfn.positions.Positions.correlations`.
    null
        The null pair's name, if there is one.
    by
        ``pair``, and perhaps ``dataset``.

    Returns
    -------
    A row a group and cause: the columns of ``by``, cause, pictures, correlation
    and, with a null, correlation_null and correlation_net, each with ``_low`` and ``_high``.
    Intervals are over pictures. seeds_agree: whether the last of them has the same sign for all
    training seeds; None of one seed.
    """
    keys = ["dataset", "image", "seed"]
    luck = found.loc[found["pair"] == null, [*keys, *CAUSES]]
    rows = []
    for group, part in found[found["pair"] != null].groupby(list(by), sort=False):
        beside = part.merge(luck, on=keys, how="left", suffixes=("", "_null"))
        for cause in CAUSES:
            row: dict[str, object] = {**dict(zip(by, group, strict=True)), "cause": cause}
            known = beside[beside[cause].notna()].rename(columns={cause: "correlation"})
            last = "correlation"
            row["pictures"] = known.groupby(["dataset", "image"]).ngroups
            row |= over_pictures(known, last).columns(last)
            if null:
                known["correlation_null"] = known[f"{cause}_null"]
                known["correlation_net"] = known["correlation"] - known["correlation_null"]
                for last in ("correlation_null", "correlation_net"):
                    row |= over_pictures(known, last).columns(last)
            several = known["seed"].nunique() > 1
            row["seeds_agree"] = seeds_agree(known, last) if several else None
            rows.append(row)
    return pd.DataFrame(rows)


def grows_with(correlations: pd.DataFrame, causes: Sequence[str]) -> list[Verdict]:
    """Return whether positions are harmed the more often the more there is of a cause.

    Parameters
    ----------
    correlations
        Of `correlation_table`. Net of the null pair where it has one: two twins that
        differ by luck differ most where the texture is lost, too.
    causes
        Some of `dtfn.positions.CAUSES`.
    """
    column = "correlation_net" if "correlation_net" in correlations else "correlation"
    luck = "more than luck's does" if column == "correlation_net" else "(no null pair)"
    verdicts = []
    for row in correlations[correlations["cause"].isin(causes)].to_dict("records"):
        ends = row[f"{column}_low"], row[f"{column}_high"]
        found = Interval(row[column], *ends, int(row["pictures"]))
        claim = f"the harm of {row['pair']} rises with {row['cause']} {luck}"
        made = verdict(claim, found, "{:+.3f}")
        agree = row["seeds_agree"] is not False
        verdicts.append(made if agree else replace(made, holds=None))
    return verdicts
