"""The claims that the notebooks test, each computed from tidy tables with an image's interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from dtfn import images, statistics, subpixel
from dtfn.evaluation import metrics
from dtfn.images import UInt8
from dtfn.reports.verdicts import Verdict, above_zero
from dtfn.statistics import Interval

KNOWN_BICUBIC: Mapping[tuple[str, int], tuple[int, float]] = {
    ("Set5", 2): (5, 33.67), ("Set5", 3): (5, 30.40), ("Set5", 4): (5, 28.43),
    ("Set14", 2): (14, 30.23), ("Set14", 3): (14, 27.54), ("Set14", 4): (14, 25.99),
    ("BSD100", 2): (100, 29.56), ("BSD100", 3): (100, 27.21), ("BSD100", 4): (100, 25.96),
    ("Urban100", 2): (100, 26.88), ("Urban100", 3): (100, 24.46), ("Urban100", 4): (100, 23.14),
}  # fmt: skip
"""(benchmark, scale) -> its number of pictures, and bicubic's PSNR in dB on float Y.

Tables of papers differ from these by up to 0.01 dB, as some round Y to whole levels.
"""

LEAST = 5
"""Pictures below which there is no verdict: a bootstrap of two or three is narrow by itself."""

NET_CLAIMS: Mapping[str, tuple[str, str]] = {
    "harm_rate": ("{pair} harms more positions than luck does", "{:+.1%}"),
    "harm_mass": ("{pair} adds more error than luck does", "{:+.2f} MSE"),
    "selection_gain": ("choosing by position between {pair} and its twin gains more than luck",
                       "{:+.3f} dB"),
    "fusion_gain": ("mixing {pair} with its twin gains more than luck", "{:+.3f} dB"),
}  # fmt: skip
"""Column of `dtfn.subpixel.measure` -> the claim that it is above its null, and its print."""

PAPER: Mapping[str, str] = {
    "paper's claim 1: non-local attention can harm (harm rate above luck's)": "harm_rate_net",
    "paper's claim 2: averages hide it (where its PSNR is higher, harm costs more than luck's)":
        "lost_db_net",
    "paper's claim 4: a bound lies above what attention reaches (selection gain above luck's)":
        "selection_gain_net",
}  # fmt: skip
"""A claim of the paper in this project's terms -> the figure that is above 0 if it holds."""

STATES = ("holds", "not shown", "does not hold at this scale of network")
FALSE_DISCOVERIES = 0.05


def bicubic_is_right(results: pd.DataFrame) -> list[Verdict]:
    """Return whether bicubic has its known PSNR, a verdict a whole benchmark that is known.

    Parameters
    ----------
    results
        Of `dtfn.evaluation.evaluate`. Benchmarks of which only some pictures were taken, or whose
        answer nobody knows, have no verdict.
    """
    verdicts = []
    bicubic = results[results["method"] == "bicubic"]
    for (dataset, scale), part in bicubic.groupby(["dataset", "scale"], sort=False):
        pictures, known = KNOWN_BICUBIC.get(
            ("BSD100" if dataset == "B100" else str(dataset), int(scale)), (0, 0.0)
        )
        if len(part) == pictures:
            measured = float(part["psnr"].mean())
            claim = f"bicubic on {dataset} ×{scale} has the known {known:.2f} dB, to 0.01 dB"
            # Both are rounded: 28.4351 is 28.43 or 28.44.
            holds = abs(measured - known) < 0.015
            verdicts.append(Verdict(claim, measured, None, holds, "{:.3f} dB"))
    return verdicts


def bicubic_psnr(pairs: Iterable[tuple[UInt8, UInt8]], scale: int) -> float:
    """Return the mean PSNR (dB; Y, border = scale) of bicubic over (LR, HR) pairs, uint8."""
    found = [metrics.psnr(images.imresize(lr, scale), hr, scale) for lr, hr in pairs]
    return sum(found) / len(found)


def beats(results: pd.DataFrame, methods: Sequence[str], base: str = "bicubic") -> list[Verdict]:
    """Return whether each method's mean PSNR over all pictures is above that of `base`."""
    verdicts = []
    keys = ["dataset", "image", "scale"]
    psnr = results.pivot(index=keys, columns="method", values="psnr")
    for method in methods:
        found = statistics.difference_interval(psnr[method], psnr[base])
        verdicts.append(_verdict(f"{method} beats {base}", found, "{:+.2f} dB"))
    return verdicts


def harm_beyond_luck(table: pd.DataFrame, regions: pd.DataFrame) -> list[Verdict]:
    """Return the verdicts on every pair of networks, net of the null pair.

    Parameters
    ----------
    table
        Of `dtfn.subpixel.measure`; of several training seeds, with the column seed. Without a null
        pair only the mean PSNR can be judged, and that is all that is.
    regions
        Of `dtfn.subpixel.regions.survey`, of the same pictures and pairs.
    """
    verdicts = []
    has_null = subpixel.NULL in set(table["pair"])
    net = subpixel.net(table) if has_null else table
    share = regions.pivot(index=["dataset", "image"], columns="pair", values="share")
    for pair, part in net.groupby("pair", sort=False):
        claim = f"{pair} has a higher mean PSNR than its local twin"
        verdicts.append(_judged(claim, part, "psnr_gain", "{:+.3f} dB"))
        if not has_null:
            claim = f"{pair} harms more positions than luck does (no null pair: nobody can tell)"
            rate = float(part["harm_rate"].mean())
            verdicts.append(Verdict(claim, rate, None, None, "{:.1%} harmed"))
            continue
        for metric, (text, form) in NET_CLAIMS.items():
            verdicts.append(_judged(text.format(pair=pair), part, f"{metric}_net", form))
        found = statistics.difference_interval(share[pair], share[subpixel.NULL])
        claim = f"{pair} harms whole regions more than luck does"
        verdicts.append(_verdict(claim, found, "{:+.2%}"))
    return verdicts


def grows_with(correlations: pd.DataFrame, causes: Sequence[str]) -> list[Verdict]:
    """Return whether positions are harmed the more often the more there is of a cause.

    Parameters
    ----------
    correlations
        Of `dtfn.positions.correlation_table`. Net of the null pair where it has one: two twins that
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
        verdicts.append(_verdict(claim, found, "{:+.3f}"))
    return verdicts


def of_the_paper(table: pd.DataFrame) -> list[Verdict]:
    """Return the verdicts on the paper's claims 1, 2 and 4, over all networks with attention.

    A family's claim holds where its figure net of luck is above 0 and does not where it is below,
    at a false discovery rate of 0.05 over all families and claims (sign-flip test over pictures),
    if all training seeds agree; else it is not shown. A claim holds if it holds for a family: the
    paper says that attention *can* harm. It does not if it does for none and fails for all.

    Parameters
    ----------
    table
        Of `dtfn.subpixel.measure`, with the null pair; perhaps with a column seed. Networks with
        TFS, which is there to limit the harm, are left out if there are others.
    """
    net = subpixel.net(table)
    names = list(net["pair"].unique())
    plain = [n for n in names if n != "dtfn" and not n.endswith("+tfs")] or names
    keys = [(claim, name) for claim in PAPER for name in plain]
    tests = [_test(net[net["pair"] == name], PAPER[claim]) for claim, name in keys]
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


def beside_null(table: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return the means of figures by dataset and pair, beside the null's and net of it.

    Parameters
    ----------
    table
        Of `dtfn.subpixel.measure`; of several training seeds, with the column seed.
    metrics
        Some of `dtfn.subpixel.NETTED`.

    Returns
    -------
    dataset, pair, pictures, with a column seed also seeds; and for each metric ``m``: m, m_null,
    m_net, m_net_low, m_net_high, the last two being the ends of the 95 % interval over pictures.
    Without a null pair: m, m_low, m_high.
    """
    has_null = subpixel.NULL in set(table["pair"])
    net = subpixel.net(table) if has_null else table
    rows = []
    for (dataset, pair), part in net.groupby(["dataset", "pair"], sort=False):
        row: dict[str, object] = {"dataset": dataset, "pair": pair}
        row["pictures"] = part["image"].nunique()
        if "seed" in part:
            row["seeds"] = part["seed"].nunique()
        for metric in metrics:
            row[metric] = part[metric].mean()
            name = f"{metric}_net" if has_null else metric
            if has_null:
                row[f"{metric}_null"] = part[f"{metric}_null"].mean()
            found = _over_pictures(part, name)
            row[name] = found.estimate
            row[f"{name}_low"], row[f"{name}_high"] = found.low, found.high
        rows.append(row)
    return pd.DataFrame(rows)


def by_seed(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a figure of each pair and training seed, with its interval over pictures.

    Net of the null pair where there is one. Columns: pair, seed, pictures, m, m_low, m_high.
    """
    has_null = subpixel.NULL in set(table["pair"])
    net, name = (subpixel.net(table), f"{metric}_net") if has_null else (table, metric)
    rows = []
    for (pair, seed), part in net.groupby(["pair", "seed"], sort=False):
        found = _over_pictures(part, name)
        ends = {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append({"pair": pair, "seed": seed, "pictures": found.clusters} | ends)
    return pd.DataFrame(rows)


def _over_pictures(part: pd.DataFrame, column: str) -> Interval:
    """Return the mean of a figure and its interval; the seeds of a picture are one cluster."""
    known = part[part[column].notna()]
    return statistics.mean_interval(known[column], known.groupby(["dataset", "image"]).ngroup())


def _judged(claim: str, part: pd.DataFrame, column: str, form: str) -> Verdict:
    """Return the verdict on a figure being above 0; open where the training seeds disagree."""
    verdict = _verdict(claim, _over_pictures(part, column), form)
    if "seed" in part and verdict.holds is not None:
        above = part.groupby("seed")[column].mean() > 0
        if above.nunique() > 1:
            return replace(verdict, holds=None)
    return verdict


def _test(part: pd.DataFrame, column: str) -> tuple[float, float]:
    """Return the mean and the p-value of a figure over pictures; NaN where nothing can be told."""
    if column == "lost_db_net":  # averages hide harm on the pictures whose average is better
        part = part[part["psnr_gain"] > 0]
    known = part[np.isfinite(part[column])]
    clusters = known.groupby(["dataset", "image"]).ngroup()
    if clusters.nunique() < LEAST:
        return math.nan, math.nan
    seeds = known.groupby("seed")[column].mean() if "seed" in known else known[column].head(0)
    agree = (seeds > 0).nunique() < 2
    p = statistics.sign_flip(known[column], clusters) if agree else math.nan
    return float(known[column].groupby(clusters).mean().mean()), p


def _state(value: float, q: float) -> str:
    if not q <= FALSE_DISCOVERIES:
        return STATES[1]
    return STATES[0] if value > 0 else STATES[2]


def _verdict(claim: str, found: Interval, form: str) -> Verdict:
    if found.clusters < LEAST or math.isnan(found.low):
        return Verdict(claim, found.estimate, None, None, form)
    holds = above_zero(found.low, found.high)
    return Verdict(claim, found.estimate, (found.low, found.high), holds, form)
