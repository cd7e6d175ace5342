"""The paper's claims 1, 2 and 4 in this project's terms, over all networks with attention."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from dtfn import statistics, studies, subpixel
from dtfn.claims.judging import seeds_agree
from dtfn.reports import Verdict
from dtfn.statistics import LEAST

PAPER: Mapping[str, tuple[str, bool]] = {
    "paper's claim 1: non-local attention can harm (more of what it changes than luck does)":
        ("harm_untied_net", False),
    "paper's claim 2: averages hide it (at an equal PSNR it harms more of what it changes)":
        ("harm_untied_net", True),
    "paper's claim 4: a bound lies above what attention reaches (selection gain above luck's)":
        ("selection_gain_net", False),
}  # fmt: skip
"""A claim of the paper in this project's terms -> the figure that is above 0 if it holds, and
whether it is asked for at an equal PSNR.

That is what a straight line through the pictures says of N and the null pair's L' where
both have the same PSNR. To ask only for pictures on which N's is higher would take those on which N
was lucky, and compare them with a null that was not.

A selection gain rises with how much two networks differ, whatever makes them differ. That it is
above luck's says that there is more to choose from, not that attention is what makes it.
"""

STATES = ("holds", "not shown", "does not hold at this scale of network")
FALSE_DISCOVERIES = 0.05


def of_the_paper(table: pd.DataFrame) -> list[Verdict]:
    """Return the verdicts on the paper's claims 1, 2 and 4, over all networks with attention.

    A family's claim holds where its figure net of luck is above 0 and does not where it is below,
    at a false discovery rate of 0.05 over all families and claims (sign-flip test over pictures),
    if all training seeds agree; else it is not shown. A claim holds if it holds for a family: the
    paper says that attention *can* harm. It does not if it does for none and fails for all.

    Parameters
    ----------
    table
        Of `dtfn.subpixel.measure`; perhaps with a column seed. Networks with TFS, which is there to
        limit the harm, are left out if there are others. Without a null pair there is no verdict.
    """
    if subpixel.NULL not in set(table["pair"]):
        return []
    net = subpixel.net(table)
    names = list(net["pair"].unique())
    plain = [n for n in names if not studies.has_fidelity(n)] or names
    keys = [(claim, name) for claim in PAPER for name in plain]
    tests = [_test(net[net["pair"] == name], *PAPER[claim]) for claim, name in keys]
    adjusted = statistics.false_discovery([p for _, p in tests])
    states = {
        key: _state(value, q) for key, (value, _), q in zip(keys, tests, adjusted, strict=True)
    }
    verdicts = []
    for claim in PAPER:
        found = {name: states[claim, name] for name in plain}
        told = [
            f"{state}: {', '.join(n for n in plain if found[n] == state)}"
            for state in STATES
            if state in found.values()
        ]
        holds = True if STATES[0] in found.values() else None
        if set(found.values()) == {STATES[2]}:
            holds = False
        verdicts.append(Verdict(claim, "; ".join(told), None, holds))
    return verdicts


def _test(part: pd.DataFrame, column: str, at_equal_psnr: bool) -> tuple[float, float]:
    """Return the mean and the p-value of a figure over pictures; NaN where nothing can be told."""
    known = part[np.isfinite(part[[column, "psnr_gain_net"]]).all(axis=1)]
    pictures = known.groupby(["dataset", "image"])[[column, "psnr_gain_net"]].mean()
    if len(pictures) < LEAST:
        return math.nan, math.nan
    if not seeds_agree(known, column):
        return float(pictures[column].mean()), math.nan
    values = pictures[column]
    if at_equal_psnr:
        values = values - _slope(pictures["psnr_gain_net"], values) * pictures["psnr_gain_net"]
    return float(values.mean()), statistics.sign_flip(values)


def _slope(x: pd.Series, y: pd.Series) -> float:
    """Return the slope of the line of least squares; 0 where x is constant but for rounding."""
    return 0.0 if statistics.constant(x) else float(stats.linregress(x, y).slope)


def _state(value: float, q: float) -> str:
    if not q <= FALSE_DISCOVERIES:
        return STATES[1]
    return STATES[0] if value > 0 else STATES[2]
