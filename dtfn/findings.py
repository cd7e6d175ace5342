"""The claims about attention maps and textures, each computed from tables with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from dtfn import statistics
from dtfn.claims import LEAST
from dtfn.reports.verdicts import Verdict, above_zero
from dtfn.statistics import Interval
from dtfn.subpixel import NULL, discoveries

EXACT = 1e-4  # of what a layer adds: float32, and a hash code that flips shows at once
COMPLETE = 0.05  # of the detail in the patch
MEASURES = {
    "orientation": ("turns the texture", "{:+.3f}°"),
    "spectrum": ("misses the texture's spectrum", "{:+.3f} dB"),
    "structure": ("loses structure (SSIM)", "{:+.4f}"),
    "gradient": ("misses edges (gradient similarity)", "{:+.4f}"),
}
"""Measure of `dtfn.texture.distortion.maps` -> what a network does where it is higher, its form."""


def by_layer(table: pd.DataFrame) -> pd.DataFrame:
    """Return the means of summaries by network and layer, all pictures weighing the same.

    Parameters
    ----------
    table
        Of `dtfn.capture.looks.summaries`.
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
        Of `dtfn.capture.looks.summaries`.
    deviations
        Of the looks, see `dtfn.capture.Record.deviation`.
    missed
        Of `dtfn.attribution.frame`.
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
        verdicts.append(_below(claim, share, 0.5, "{:.1%}"))
        known = part["disagreeing"].notna()
        gained = (part["chance"] - part["disagreeing"])[known]
        claim = f"{network} prefers what agrees with the truth, more than chance does"
        verdicts.append(
            _above(claim, statistics.mean_interval(gained, clusters[known]), 0, "{:+.1%}")
        )
        rise = _where_harmed(part)
        claim = f"{network} attends to more that disagrees, net of chance, where it harms most"
        found = statistics.mean_interval(rise) if len(rise) else None
        verdicts.append(
            _above(claim, found, 0, "{:+.1%}") if found else Verdict(claim, None, None, None)
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


def of_textures(regions: pd.DataFrame, distortions: pd.DataFrame) -> list[Verdict]:
    """Return the verdicts on harmed regions and on distortion, net of the null pair.

    Parameters
    ----------
    regions, distortions
        Of `dtfn.texture.extremes.Survey`.
    """
    verdicts = []
    counts = discoveries.count(regions).set_index(["pair", "side"])
    for pair in distortions["pair"].unique():
        real, all_, pictures = 0, 0, 0
        if (pair, "harm") in counts.index:
            row = counts.loc[(pair, "harm")]
            real, all_, pictures = (
                int(row["discoveries"]),
                int(row["regions"]),
                int(row["pictures"]),
            )
        name = "the null pair" if pair == NULL else pair
        claim = f"{name} harms whole regions beyond luck (q ≤ {discoveries.LEVEL:g})"
        measured = f"{real} of {all_} regions, on {pictures} pictures"
        verdicts.append(Verdict(claim, measured, None, real > 0))
    for pair in distortions["pair"].unique():
        if pair == NULL:
            continue
        for measure, (does, form) in MEASURES.items():
            gap, harmed = (net_of_null(distortions, pair, measure, c) for c in ("gap", "harmed"))
            verdicts.append(_above(f"{pair} {does} more than luck", gap, 0, form))
            claim = f"{pair} {does} where it harms, more than luck does where luck harms"
            verdicts.append(_above(claim, harmed, 0, form))
    return verdicts


def net_of_null(
    distortions: pd.DataFrame, pair: str, measure: str, column: str, null: str = NULL
) -> Interval:
    """Return a pair's distortion less the null pair's on the same pictures, over the pictures.

    Parameters
    ----------
    distortions
        Of `dtfn.texture.extremes.Survey`.
    pair, measure
        Which.
    column
        ``gap`` or ``harmed``. Pictures where either pair has no region of harm do not count.
    null
        The null pair's name.
    """
    part = distortions[distortions["measure"] == measure]
    wide = part.pivot(index=["dataset", "image"], columns="pair", values=column)
    difference = (wide[pair] - wide[null]).dropna()
    if difference.empty:
        return Interval(math.nan, math.nan, math.nan, 0, "no picture has a region of both")
    return statistics.mean_interval(difference)


def estimates(distortions: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return `net_of_null` of all pairs and measures: pair, metric, estimate, low, high, pictures.

    Parameters
    ----------
    distortions, column
        As for `net_of_null`.
    """
    rows = []
    for pair in distortions["pair"].unique():
        for measure in MEASURES if pair != NULL else ():
            found = net_of_null(distortions, pair, measure, column)
            rows.append(
                {"pair": pair, "metric": measure, "estimate": found.estimate, "low": found.low}
                | {"high": found.high, "pictures": found.clusters}
            )
    return pd.DataFrame(rows)


def _above(claim: str, found: Interval, limit: float, form: str) -> Verdict:
    if found.clusters < LEAST or math.isnan(found.low):
        measured = None if np.isnan(found.estimate) else found.estimate
        return Verdict(claim, measured, None, None, form)
    holds = above_zero(found.low - limit, found.high - limit)
    return Verdict(claim, found.estimate, (found.low, found.high), holds, form)


def _below(claim: str, found: Interval, limit: float, form: str) -> Verdict:
    verdict = _above(claim, found, limit, form)
    holds = None if verdict.holds is None else not verdict.holds
    return Verdict(claim, verdict.measured, verdict.interval, holds, form)
