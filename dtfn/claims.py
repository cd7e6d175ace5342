"""The claims that the notebooks test, each computed from tidy tables with an image's interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

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
        Of `dtfn.subpixel.measure`, with the null pair.
    regions
        Of `dtfn.subpixel.regions.survey`, of the same pictures and pairs.
    """
    verdicts = []
    net = subpixel.net(table)
    share = regions.pivot(index=["dataset", "image"], columns="pair", values="share")
    for pair, part in net.groupby("pair", sort=False):
        gain = statistics.mean_interval(part["psnr_gain"])
        claim = f"{pair} has a higher mean PSNR than its local twin"
        verdicts.append(_verdict(claim, gain, "{:+.3f} dB"))
        for metric, (text, form) in NET_CLAIMS.items():
            found = statistics.mean_interval(part[f"{metric}_net"])
            verdicts.append(_verdict(text.format(pair=pair), found, form))
        found = statistics.difference_interval(share[pair], share[subpixel.NULL])
        claim = f"{pair} harms whole regions more than luck does"
        verdicts.append(_verdict(claim, found, "{:+.2%}"))
    return verdicts


def beside_null(table: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return the means of figures by dataset and pair, beside the null's and net of it.

    Parameters
    ----------
    table
        Of `dtfn.subpixel.measure`, with the null pair.
    metrics
        Some of `dtfn.subpixel.NETTED`.

    Returns
    -------
    dataset, pair, pictures; and for each metric ``m``: m, m_null, m_net, m_net_low, m_net_high,
    the last two being the ends of the 95 % interval.
    """
    net = subpixel.net(table)
    rows = []
    for (dataset, pair), part in net.groupby(["dataset", "pair"], sort=False):
        row: dict[str, object] = {"dataset": dataset, "pair": pair, "pictures": len(part)}
        for metric in metrics:
            row[metric] = part[metric].mean()
            row[f"{metric}_null"] = part[f"{metric}_null"].mean()
            found = statistics.mean_interval(part[f"{metric}_net"])
            row[f"{metric}_net"] = found.estimate
            row[f"{metric}_net_low"], row[f"{metric}_net_high"] = found.low, found.high
        rows.append(row)
    return pd.DataFrame(rows)


def _verdict(claim: str, found: Interval, form: str) -> Verdict:
    if found.clusters < LEAST or math.isnan(found.low):
        return Verdict(claim, found.estimate, None, None, form)
    holds = above_zero(found.low, found.high)
    return Verdict(claim, found.estimate, (found.low, found.high), holds, form)
