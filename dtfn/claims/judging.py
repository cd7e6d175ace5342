"""From an interval to a verdict: whether a claim holds, does not, or is open."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from dtfn import statistics
from dtfn.reports.verdicts import Verdict, above_zero
from dtfn.statistics import Interval

LEAST = 5
"""Pictures below which there is no verdict: a bootstrap of two or three is narrow by itself."""


def verdict(claim: str, found: Interval, form: str) -> Verdict:
    """Return whether what was found lies above 0; open where its interval holds 0 or is none."""
    if found.clusters < LEAST or math.isnan(found.low):
        return Verdict(claim, found.estimate, None, None, form)
    holds = above_zero(found.low, found.high)
    return Verdict(claim, found.estimate, (found.low, found.high), holds, form)


def beyond(claim: str, found: Interval, limit: float, form: str, *, below: bool = False) -> Verdict:
    """Return whether what was found lies above a limit, or below it; open as in `verdict`."""
    if found.clusters < LEAST or math.isnan(found.low):
        measured = None if math.isnan(found.estimate) else found.estimate
        return Verdict(claim, measured, None, None, form)
    holds = above_zero(found.low - limit, found.high - limit)
    if below and holds is not None:
        holds = not holds
    return Verdict(claim, found.estimate, (found.low, found.high), holds, form)


def judged(claim: str, part: pd.DataFrame, column: str, form: str) -> Verdict:
    """Return the verdict on a figure being above 0; open where the training seeds disagree."""
    found = verdict(claim, over_pictures(part, column), form)
    if "seed" in part and found.holds is not None:
        above = part.groupby("seed")[column].mean() > 0
        if above.nunique() > 1:
            return replace(found, holds=None)
    return found


def over_pictures(part: pd.DataFrame, column: str) -> Interval:
    """Return the mean of a figure and its interval; the seeds of a picture are one cluster."""
    known = part[part[column].notna()]
    if known.empty:
        return statistics.NOTHING
    return statistics.mean_interval(known[column], known.groupby(["dataset", "image"]).ngroup())
