"""The claims about distorted textures, each with its interval over pictures."""

from __future__ import annotations

import math

import pandas as pd

from dtfn import statistics
from dtfn.claims.judging import beyond
from dtfn.reports import Verdict
from dtfn.statistics import Interval
from dtfn.subpixel import NULL, discoveries

MEASURES = {
    "orientation": ("turns the texture", "{:+.3f}°"),
    "spectrum": ("misses the texture's spectrum", "{:+.3f} dB"),
    "structure": ("loses structure (SSIM)", "{:+.4f}"),
    "gradient": ("misses edges (gradient similarity)", "{:+.4f}"),
}
"""Measure of `dtfn.texture.distortion.maps` -> what a network does where it is higher, its form."""


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
            verdicts.append(beyond(f"{pair} {does} more than luck", gap, 0, form))
            claim = f"{pair} {does} where it harms, more than luck does where luck harms"
            verdicts.append(beyond(claim, harmed, 0, form))
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
