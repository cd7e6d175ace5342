"""What harm goes with: rank correlations with its causes, and the claims about them.

Users find these functions in `dtfn.claims`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from dtfn import statistics
from dtfn.claims.judging import verdict
from dtfn.positions import CAUSES
from dtfn.reports.verdicts import Verdict
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
    luck = found[found["pair"] == null].set_index(keys) if null else None
    rows = []
    for group, part in found[found["pair"] != null].groupby(list(by), sort=False):
        own = part.set_index(keys)
        for cause in CAUSES:
            row: dict[str, object] = {**dict(zip(by, group, strict=True)), "cause": cause}
            values = own[cause].dropna()
            row["pictures"] = values.groupby(["dataset", "image"]).ngroups
            row |= _interval("correlation", values)
            if luck is not None:
                beside = luck[cause].reindex(values.index)
                row |= _interval("correlation_null", beside.dropna())
                values = (values - beside).dropna()
                row |= _interval("correlation_net", values)
            signs = values.groupby("seed").mean() > 0
            row["seeds_agree"] = signs.nunique() < 2 if len(signs) > 1 else None
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


def _interval(name: str, values: pd.Series) -> dict[str, float]:
    ends = (f"{name}_low", f"{name}_high")
    if values.empty:
        return dict.fromkeys((name, *ends), float("nan"))
    images = values.groupby(["dataset", "image"]).ngroup()
    found = statistics.mean_interval(values, images)
    return {name: found.estimate, ends[0]: found.low, ends[1]: found.high}
