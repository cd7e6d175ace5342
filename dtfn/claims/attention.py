"""The claims about what attention looks at, each with its interval over pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from dtfn import statistics
from dtfn.claims.judging import beyond
from dtfn.reports import Verdict

EXACT = 1e-4  # of what a layer adds: float32, and a hash code that flips shows at once
COMPLETE = 0.05  # of the detail in the patch


def by_layer(table: pd.DataFrame) -> pd.DataFrame:
    """Return the means of summaries by network and layer, all pictures weighing the same.

    Parameters
    ----------
    table
        Of `dtfn.attended.summaries`.
    """
    if table.empty:
        return table
    columns = [c for c in SUMMARIES if c in table]
    keys = ["network", "place"]
    pictures = table.groupby([*keys, "dataset", "image"], sort=False)[columns].mean()
    return pictures.groupby(keys, sort=False).mean().reset_index()


SUMMARIES = (
    "entropy", "support", "share", "participation", "distance", "on_self", "inconsistency",
    "disagreeing", "chance", "agreement",
)  # fmt: skip


def of_attention(
    table: pd.DataFrame, deviations: Sequence[float], missed: pd.DataFrame
) -> list[Verdict]:
    """Return the verdicts on what attention does.

    Parameters
    ----------
    table
        Of `dtfn.attended.summaries`.
    deviations
        Of the looks, see `dtfn.capture.Record.deviation`.
    missed
        Of `dtfn.attribution.numbers`.
    """
    worst = max(deviations, default=math.nan)
    claim = f"map times values is what the layer adds, to {EXACT:g} of it"
    exact = Verdict(claim, worst, None, worst < EXACT if deviations else None, "{:.1e}")
    incomplete = float(missed["incompleteness"].max()) if len(missed) else math.nan
    claim = f"attributions sum to the detail drawn, to {COMPLETE:.0%} of it"
    complete = Verdict(claim, incomplete, None, incomplete < COMPLETE if len(missed) else None,
                       "{:.1%}")  # fmt: skip
    verdicts = [exact, complete]
    for network in table["network"].unique() if len(table) else ():
        part = table[table["network"] == network]
        clusters = part.groupby(["dataset", "image"]).ngroup()
        share = statistics.mean_interval(part["share"], clusters)
        claim = f"{network} selects: its weight is on less than half of the picture"
        verdicts.append(beyond(claim, share, 0.5, "{:.1%}", below=True))
        known = part["disagreeing"].notna()
        gained = (part["chance"] - part["disagreeing"])[known]
        claim = f"{network} prefers what agrees with the truth, more than chance does"
        verdicts.append(
            beyond(claim, statistics.mean_interval(gained, clusters[known]), 0, "{:+.1%}")
        )
        rise = _where_harmed(part)
        claim = f"{network} attends to more that disagrees, net of chance, where it harms most"
        found = statistics.mean_interval(rise) if len(rise) else None
        verdicts.append(
            beyond(claim, found, 0, "{:+.1%}") if found else Verdict(claim, None, None, None)
        )
    return verdicts


def _where_harmed(part: pd.DataFrame) -> pd.Series:
    """Return, by picture, what disagrees in the decile of most harm less that elsewhere.

    Both net of chance: harm is largest where there is much detail, and the less detail a query has,
    the more of the picture disagrees with it.
    """
    part = part[part["disagreeing"].notna()]
    part = part.assign(net=part["disagreeing"] - part["chance"])
    keys = ["dataset", "image", "place"]
    most = part["harm"] > part.groupby(keys)["harm"].transform("quantile", 0.9)
    means = part.groupby([*keys, most.rename("most")])["net"].mean().unstack("most")
    if len(means.columns) < 2:
        return pd.Series(dtype=float)
    return (means[True] - means[False]).dropna().groupby(["dataset", "image"]).mean()
