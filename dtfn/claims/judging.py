"""From an interval to a verdict: whether a claim holds, does not, or is open.

Of fewer than `LEAST` pictures there is no verdict.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from dtfn import statistics
from dtfn.reports import Verdict, above_zero
from dtfn.statistics import LEAST, Interval


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
    return found if seeds_agree(part, column) else replace(found, holds=None)


def seeds_agree(part: pd.DataFrame, column: str) -> bool:
    """Return whether the mean of a figure is above 0 for all training seeds, or for none."""
    return "seed" not in part or (part.groupby("seed")[column].mean() > 0).nunique() < 2


def over_pictures(part: pd.DataFrame, column: str) -> Interval:
    """Return the mean of a figure and its interval; the seeds of a picture are one cluster."""
    known = part[part[column].notna()]
    if known.empty:
        return statistics.NOTHING
    return statistics.mean_interval(known[column], known.groupby(["dataset", "image"]).ngroup())
