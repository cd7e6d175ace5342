"""The claims that the notebooks test, each computed from tidy tables with an image's interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from dtfn import images, metrics, statistics, subpixel
from dtfn.claims.causes import correlation_table, grows_with
from dtfn.claims.judging import judged, over_pictures, verdict
from dtfn.claims.paper import of_the_paper
from dtfn.images import UInt8
from dtfn.reports import Verdict
from dtfn.statistics import LEAST

__all__ = [
    "KNOWN_BICUBIC", "LEAST", "NET_CLAIMS", "beats", "beside_null", "bicubic_is_right",
    "bicubic_psnr", "bounds_beyond_luck", "by_seed", "correlation_table", "curve",
    "fidelity_gains", "grows_with", "harm_beyond_luck", "net_of_luck", "of_the_paper", "replicated",
]  # fmt: skip

KNOWN_BICUBIC: Mapping[tuple[str, int], tuple[int, float]] = {
    ("Set5", 2): (5, 33.67), ("Set5", 3): (5, 30.40), ("Set5", 4): (5, 28.43),
    ("Set14", 2): (14, 30.23), ("Set14", 3): (14, 27.54), ("Set14", 4): (14, 25.99),
    ("BSD100", 2): (100, 29.56), ("BSD100", 3): (100, 27.21), ("BSD100", 4): (100, 25.96),
    ("Urban100", 2): (100, 26.88), ("Urban100", 3): (100, 24.46), ("Urban100", 4): (100, 23.14),
}  # fmt: skip
"""(benchmark, scale) -> its number of pictures, and bicubic's PSNR in dB on float Y.

Tables of papers differ from these by up to 0.01 dB, as some round Y to whole levels.
"""

NET_CLAIMS: Mapping[str, tuple[str, str]] = {
    "harm_untied": ("{pair} harms more of what it changes than luck does", "{:+.2%}"),
    "harm_share": ("more of the error that {pair} changes is added than of luck's", "{:+.2%}"),
    "selection_gain": ("choosing by position between {pair} and its twin gains more than luck",
                       "{:+.3f} dB"),
    "fusion_gain": ("mixing {pair} with its twin gains more than luck", "{:+.3f} dB"),
}  # fmt: skip
"""Column of `dtfn.subpixel.measure` -> the claim that it is above its null, and its print.

Harm rate and mass are not among them: a network that differs more from its twin than luck does has
more of both, and of help as well. `harm_untied` and `harm_share` are harm beside help.
"""


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
        verdicts.append(verdict(f"{method} beats {base}", found, "{:+.2f} dB"))
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
    regions = regions.assign(more=regions["share"] - regions["share_help"])
    more = regions.pivot(index=["dataset", "image"], columns="pair", values="more")
    for pair, part in net.groupby("pair", sort=False):
        claim = f"{pair} has a higher mean PSNR than its local twin"
        verdicts.append(judged(claim, part, "psnr_gain", "{:+.3f} dB"))
        if not has_null:
            claim = f"{pair} harms more of what it changes than luck does (no null: who can tell?)"
            rate = over_pictures(part, "harm_untied").estimate
            verdicts.append(Verdict(claim, rate, None, None, "{:.1%} harmed"))
            continue
        for metric, (text, form) in NET_CLAIMS.items():
            verdicts.append(judged(text.format(pair=pair), part, f"{metric}_net", form))
        found = statistics.difference_interval(more[pair], more[subpixel.NULL])
        claim = f"{pair} harms more whole regions than it helps, beyond luck (first seed)"
        verdicts.append(verdict(claim, found, "{:+.2%}"))
    return verdicts


def bounds_beyond_luck(table: pd.DataFrame) -> list[Verdict]:
    """Return whether each pair's bounds are above luck's; none without a null pair.

    Parameters
    ----------
    table
        Of `dtfn.subpixel.measure`; of several training seeds, with the column seed.
    """
    if subpixel.NULL not in set(table["pair"]):
        return []
    return [
        judged(
            NET_CLAIMS[metric][0].format(pair=pair), part, f"{metric}_net", NET_CLAIMS[metric][1]
        )
        for pair, part in subpixel.net(table).groupby("pair", sort=False)
        for metric in ("selection_gain", "fusion_gain")
    ]


def fidelity_gains(table: pd.DataFrame, partners: Mapping[str, str | None]) -> list[Verdict]:
    """Return whether TFS raises the PSNR of each network with attention; open if seeds disagree.

    Parameters
    ----------
    table
        Of `dtfn.subpixel.measure`; of several training seeds, with the column seed.
    partners
        Pair -> the pair whose network has TFS in addition; see `dtfn.studies.Study.partners`.
    """
    keys = ["dataset", "image", "scale", *(["seed"] if "seed" in table else [])]
    psnr = table.set_index(keys)
    verdicts = []
    for pair, partner in partners.items():
        plain, fused = (psnr.loc[psnr["pair"] == n, "psnr_with"] for n in (pair, partner))
        gain = (fused - plain).dropna().rename("gain").reset_index()
        if len(gain):
            claim = f"{partner} has a higher mean PSNR than {pair}, which has no TFS"
            verdicts.append(judged(claim, gain, "gain", "{:+.3f} dB"))
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
    dataset, pair, pictures, with a column seed also seeds; and for each metric ``m``: m, m_null and
    m_net (without a null pair only m), each with ``_low`` and ``_high``, the ends of its 95 %
    interval over pictures.
    """
    has_null = subpixel.NULL in set(table["pair"])
    net = subpixel.net(table) if has_null else table
    kinds = ("", "_null", "_net") if has_null else ("",)
    rows = []
    for (dataset, pair), part in net.groupby(["dataset", "pair"], sort=False):
        row: dict[str, object] = {"dataset": dataset, "pair": pair}
        row["pictures"] = part["image"].nunique()
        if "seed" in part:
            row["seeds"] = part["seed"].nunique()
        for name in (f"{metric}{kind}" for metric in metrics for kind in kinds):
            row |= over_pictures(part, name).columns(name)
        rows.append(row)
    return pd.DataFrame(rows)


def net_of_luck(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return harm and bounds over all pictures, net of luck where there is a null pair.

    Parameters
    ----------
    table
        Of `dtfn.subpixel.measure`.

    Returns
    -------
    A row a pair and metric, for `dtfn.plots.estimates`: pair, metric, estimate, low, high; and the
    metrics' titles.
    """
    titles = {
        "harm_untied": "harm rate, ties aside", "harm_share": "harm's share of mass",
        "selection_gain": "selection gain (dB)", "fusion_gain": "fusion gain (dB)",
    }  # fmt: skip
    if subpixel.NULL in set(table["pair"]):
        table = subpixel.net(table)
        titles = {f"{metric}_net": f"{title}, net" for metric, title in titles.items()}
    return statistics.intervals(table, list(titles), by=("pair",)), titles


def curve(table: pd.DataFrame) -> pd.DataFrame:
    """Return the bounds' gain over the better network, for `dtfn.plots.bounds`.

    A row a pair and granularity: pair, granularity, estimate, low, high (dB, 95 % interval over
    pictures).
    """
    return statistics.intervals(subpixel.curve(table), ["gain"], by=("pair", "granularity"))


def by_seed(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a figure of each pair and training seed, with its interval over pictures.

    Net of the null pair where there is one. Columns: pair, seed, pictures, m, m_low, m_high.
    """
    has_null = subpixel.NULL in set(table["pair"])
    net, name = (subpixel.net(table), f"{metric}_net") if has_null else (table, metric)
    rows = []
    for (pair, seed), part in net.groupby(["pair", "seed"], sort=False):
        found = over_pictures(part, name)
        row = {"pair": pair, "seed": seed, "pictures": found.clusters}
        rows.append(row | found.columns(name))
    return pd.DataFrame(rows)


def replicated(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return whether a figure differs from its null pair's on other pictures, and from other seeds.

    Parameters
    ----------
    table
        Of `dtfn.subpixel.measure` with the column seed.
    metric
        Some of `dtfn.subpixel.NETTED`.

    Returns
    -------
    A row a pair of several training seeds: pair, pictures, seeds, and p_pictures, p_seeds, p_both
    of `dtfn.statistics.sign_flip_crossed`; none without a null pair.
    """
    columns = ["pair", "pictures", "seeds", "p_pictures", "p_seeds", "p_both"]
    rows = []
    has_null = subpixel.NULL in set(table["pair"])
    for pair, part in subpixel.net(table).groupby("pair", sort=False) if has_null else ():
        wide = part.pivot(index=["dataset", "image"], columns="seed", values=f"{metric}_net")
        wide = wide.dropna()
        if len(wide) and len(wide.columns) > 1:
            pictures, seeds = (at.ravel() for at in np.indices(wide.shape))
            p = statistics.sign_flip_crossed(wide.to_numpy().ravel(), pictures, seeds)
            row = (pair, *wide.shape, p.images, p.seeds, p.both)
            rows.append(dict(zip(columns, row, strict=True)))
    return pd.DataFrame(rows, columns=columns)
