"""The claims that the notebooks test, each computed from tidy tables.

A claim about networks is one verdict: it names the networks for which it holds, for which it is
open, and for which the opposite holds. Replicates are pictures. A network's claim holds if its
figure is above 0 at a false discovery rate of 5 % over all networks and claims of a notebook (sign-
flip test over pictures), on five pictures or more, in all training seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from dtfn import images, metrics, statistics, zoo
from dtfn.images import UInt8
from dtfn.pairs import NULL, net
from dtfn.regions import LEVEL, count_discoveries
from dtfn.reports import Verdict
from dtfn.statistics import LEAST
from dtfn.studies import CAUSES, without_fidelity

__all__ = [
    "KNOWN_BICUBIC",
    "beats",
    "bicubic_is_right",
    "bicubic_psnr",
    "layer_means",
    "of_attention",
    "of_bounds",
    "of_harm",
    "of_textures",
    "with_control",
]

Judged = tuple[list[Verdict], pd.DataFrame]
"""The verdicts, and a row a claim and network with the numbers behind them."""

KNOWN_BICUBIC: Mapping[tuple[str, int], tuple[int, float]] = {
    (name, scale): (pictures, psnr)
    for name, pictures, *known in (
        ("Set5", 5, 33.67, 30.40, 28.43),
        ("Set14", 14, 30.23, 27.54, 25.99),
        ("BSD100", 100, 29.56, 27.21, 25.96),
        ("Urban100", 100, 26.88, 24.46, 23.14),
    )
    for scale, psnr in zip((2, 3, 4), known, strict=True)
}
"""(benchmark, scale) -> its number of pictures, and bicubic's PSNR in dB on float Y.

Tables of papers differ from these by up to 0.01 dB, as some round Y to whole levels.
"""

NO_TWIN = "not judged: no twin was trained like a network of your own"
STATES = {1: "holds", 0: "open", -1: "opposite"}
EXACT = 1e-4  # of what a layer adds: float32, and a hash code that flips shows at once
COMPLETE = 0.05  # of the detail in the patch
SUMMARIES = (
    "entropy",
    "support",
    "share",
    "participation",
    "distance",
    "on_self",
    "inconsistency",
    "disagreeing",
    "chance",
    "agreement",
)
"""Columns of the table of what attention looks at."""


def judge_claims(
    claims: Mapping[str, Mapping[str, pd.DataFrame]],
    form: str = "{:+.3g}",
    *,
    of_twins: bool = True,
) -> Judged:
    """Return a verdict a claim that a figure is above 0, and the numbers behind it.

    Parameters
    ----------
    claims
        Claim -> network -> a row a picture and training seed: dataset, image, perhaps seed, and
        value. Rows without a finite value do not count.
    form
        How a number is printed, where a claim is about one network only.
    of_twins
        The claims are about a network and a twin that was trained like it. No twin of the zoo is
        one of a user's own network, about which these claims are left open.

    Returns
    -------
    A claim holds if it does for one of the networks or more, and does not if the opposite holds for
    all. The table: claim, network, pictures, seeds, estimate, low, high (95 % interval over
    pictures), p, q (allowing for the number of tests), state.
    """
    rows = [
        {"claim": claim, "network": network, **_tested(part)}
        for claim, parts in claims.items()
        for network, part in parts.items()
    ]
    columns = ["claim", "network", "pictures", "seeds", "estimate", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=columns)
    q = statistics.false_discovery(table["p"].to_numpy(float))
    signs = np.where(q <= LEVEL, np.sign(table["estimate"].to_numpy(float)), 0).astype(int)
    own = np.array([of_twins and zoo.own(str(name)) is not None for name in table["network"]], bool)
    signs[own] = 0
    table = table.assign(q=q, state=[STATES[sign] for sign in signs])
    verdicts = []
    for claim, part in table.groupby("claim", sort=False):
        if own[part.index].all():
            verdicts.append(Verdict(claim, NO_TWIN, None, None))
            continue
        states = set(part["state"])
        holds = True if STATES[1] in states else False if states == {STATES[-1]} else None
        if len(part) == 1:
            one = part.iloc[0]
            ends = (one["low"], one["high"])
            known = one["pictures"] >= LEAST and not math.isnan(one["low"])
            verdicts.append(Verdict(claim, one["estimate"], ends if known else None, holds, form))
            continue
        names = {s: list(part.loc[part["state"] == s, "network"]) for s in STATES.values()}
        text = "; ".join(f"{state}: {', '.join(some)}" for state, some in names.items() if some)
        verdicts.append(Verdict(claim, text, None, holds))
    return verdicts, table


def of_harm(table: pd.DataFrame, correlations: pd.DataFrame) -> Judged:
    """Judge whether attention harms, whether averages hide it, and what harm goes with.

    ``table`` is of `dtfn.pairs.measure`, ``correlations`` of `dtfn.studies.Study.causes`. Without a
    null pair only the PSNR can be judged.

    Notes
    -----
    Harm rates count what was changed: a network that differs more from its twin harms and helps
    more blocks, but not more of the one than of the other. *At an equal PSNR*: what a straight line
    through the pictures says of N and the control where both have the same PSNR. To ask only for
    pictures on which N's is higher would take those on which N erred least by chance.
    """
    claims = {"attention raises the mean PSNR (dB)": _by_network(table, "psnr_gain")}
    if NULL not in set(table["pair"]):
        return judge_claims(claims, "{:+.3f} dB")
    netted = net(table)
    harmed = _by_network(netted, "harm_untied_net")
    claims["attention harms a larger share of the blocks that it changes than the control"] = harmed
    claims["at an equal PSNR, attention still harms a larger share than the control"] = {
        name: _at_equal_psnr(part) for name, part in harmed.items()
    }
    joined = _beside_control(correlations)
    for cause in ("severity", "inconsistency"):
        text = f"harm rises with {cause} (rank correlation), more than the control's"
        claims[text] = _by_network(joined, cause, lambda t, c: t[c] - t[f"{c}_null"])
    return judge_claims(claims)


def of_bounds(table: pd.DataFrame, partners: Mapping[str, str | None]) -> Judged:
    """Judge whether a choice would gain more than chance, and whether TFS raises the PSNR.

    ``table`` is of `dtfn.pairs.measure`, ``partners`` of `dtfn.studies.Study.partners`: network ->
    the one that has TFS in addition.
    """
    claims: dict[str, dict[str, pd.DataFrame]] = {}
    if NULL in set(table["pair"]):
        netted = net(table)
        for way, what in (("selection", "choosing"), ("fusion", "mixing")):
            text = f"{what} between attention and its twin gains more than the control"
            claims[text] = _by_network(netted, f"{way}_gain_net")
    keys = ["dataset", "image", "scale", *(["seed"] if "seed" in table else [])]
    psnr = table.set_index(keys)
    gains = {}
    for pair, partner in partners.items():
        plain, fused = (psnr.loc[psnr["pair"] == n, "psnr_with"] for n in (pair, partner))
        gain = (fused - plain).dropna().rename("value").reset_index()
        if len(gain):
            gains[f"{pair} → {partner}"] = gain
    if gains:
        claims["TFS raises the mean PSNR"] = gains
    return judge_claims(claims, "{:+.3f} dB")


def of_textures(regions: pd.DataFrame, distortions: pd.DataFrame) -> Judged:
    """Judge whether textures are harmed, and distorted, more than in the control.

    Both tables are of `dtfn.regions.survey`.
    """
    wide = distortions.pivot(index=["dataset", "image", "measure"], columns="pair", values="gap")
    names = [name for name in wide if name != NULL]
    long = wide[names].sub(wide[NULL], axis=0).reset_index()
    texts = {
        "orientation": "attention turns textures more than the control",
        "spectrum": "attention misses the spectrum of textures more than the control",
        "structure": "attention loses more structure (SSIM) than the control",
        "gradient": "attention misses more edges (gradient similarity) than the control",
    }
    verdicts, table = judge_claims(
        {
            text: {n: long[long["measure"] == m].assign(value=lambda t, n=n: t[n]) for n in names}
            for m, text in texts.items()
        }
    )
    counts = count_discoveries(regions)
    harmed = counts[counts["side"] == "harm"].set_index("pair")["discoveries"]
    found = {name: int(harmed.get(name, 0)) for name in [*names, NULL]}
    claim = f"attention harms whole textures, more than the control (q ≤ {LEVEL:g})"
    counted = ", ".join(f"{name} {number}" for name, number in found.items()) + " regions"
    alike = [name for name in names if not zoo.own(str(name))]
    holds = any(found[name] for name in alike) if alike else None
    first = Verdict(claim, counted if alike else NO_TWIN, None, holds)
    return [first, *verdicts], table


def of_attention(
    table: pd.DataFrame, deviations: Sequence[float], missed: pd.DataFrame
) -> list[Verdict]:
    """Judge what attention looks at.

    Parameters
    ----------
    table
        A row a query: network, dataset, image, place, share, disagreeing, chance, harm; of
        `dtfn.attended.summaries`.
    deviations
        By how much map times values differs from what a layer adds, relative, a number a look.
    missed
        Of `dtfn.attribution.frame`.
    """
    worst = max(deviations, default=math.nan)
    incomplete = float(missed["incompleteness"].max()) if len(missed) else math.nan
    claim = f"map times values is what the layer adds, to {EXACT:g} of it"
    exact = Verdict(claim, worst, None, worst < EXACT if deviations else None, "{:.1e}")
    claim = f"attributions sum to the detail drawn, to {COMPLETE:.0%} of it"
    sums = incomplete < COMPLETE if len(missed) else None
    complete = Verdict(claim, incomplete, None, sums, "{:.1%}")
    if table.empty:
        return [exact, complete]
    parts = {str(name): part for name, part in table.groupby("network", sort=False)}
    figures: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
        "attention selects: its weight is on less than half of the picture": lambda part: (
            part.assign(value=0.5 - part["share"])
        ),
        "attention prefers what agrees with the truth, more than chance does": lambda part: (
            part.assign(value=part["chance"] - part["disagreeing"])
        ),
        "attention looks at more that disagrees, net of chance, where it harms most": _where_harmed,
    }
    verdicts, _ = judge_claims(
        {text: {n: figure(part) for n, part in parts.items()} for text, figure in figures.items()},
        "{:+.1%}",
        of_twins=False,
    )
    return [exact, complete, *verdicts]


def bicubic_is_right(results: pd.DataFrame) -> list[Verdict]:
    """Return whether bicubic has its known PSNR: a verdict a whole benchmark that is known."""
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
    psnr = [metrics.psnr(images.imresize(lr, scale), hr, scale) for lr, hr in pairs]
    return sum(psnr) / len(psnr)


def beats(results: pd.DataFrame, methods: Sequence[str], base: str = "bicubic") -> list[Verdict]:
    """Return the verdict on each method having a higher mean PSNR over all pictures than `base`."""
    psnr = results.pivot(index=["dataset", "image", "scale"], columns="method", values="psnr")
    gains = {m: (psnr[m] - psnr[base]).rename("value").reset_index() for m in methods}
    text = f"{methods[0]} beats {base}" if len(methods) == 1 else f"networks beat {base}"
    return judge_claims({text: gains}, "{:+.2f} dB", of_twins=False)[0] if methods else []


def with_control(table: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return the means of figures by dataset and pair, with the control's and net of it.

    ``table`` is of `dtfn.pairs.measure`, ``metrics`` are some of `dtfn.pairs.NETTED`. Columns:
    dataset, pair, pictures; and for each metric ``m``: m, m_null and m_net (without a null pair
    only m), each with ``_low`` and ``_high``, the ends of its 95 % interval over pictures.
    """
    kinds = ("", "_null", "_net") if NULL in set(table["pair"]) else ("",)
    names = [f"{metric}{kind}" for metric in metrics for kind in kinds]
    known = net(table) if len(kinds) > 1 else table
    found = statistics.intervals(known, names, by=("dataset", "pair"))
    rows = []
    for (dataset, pair), part in found.groupby(["dataset", "pair"], sort=False):
        row = {"dataset": dataset, "pair": pair, "pictures": part["clusters"].max()}
        for one in part.itertuples():
            row |= {one.metric: one.estimate, f"{one.metric}_low": one.low}
            row[f"{one.metric}_high"] = one.high
        rows.append(row)
    return pd.DataFrame(rows)


def layer_means(table: pd.DataFrame) -> pd.DataFrame:
    """Return the means of `SUMMARIES` by network and layer, all pictures weighing the same."""
    if table.empty:
        return table
    columns = [c for c in SUMMARIES if c in table]
    keys = ["network", "place"]
    pictures = table.groupby([*keys, "dataset", "image"], sort=False)[columns].mean()
    return pictures.groupby(keys, sort=False).mean().reset_index()


def _by_network(
    table: pd.DataFrame,
    column: str,
    value: Callable[[pd.DataFrame, str], pd.Series] = lambda table, column: table[column],
) -> dict[str, pd.DataFrame]:
    """Return the rows of each network without TFS, with what is judged as ``value``."""
    names = without_fidelity([name for name in table["pair"].unique() if name != NULL])
    table = table.assign(value=value(table, column))
    return {name: table[table["pair"] == name] for name in names}


def _tested(part: pd.DataFrame) -> dict[str, float]:
    """Return the mean over pictures with its interval, and the p-value; NaN if seeds disagree."""
    known = part[np.isfinite(part["value"].to_numpy(float))]
    (found,) = statistics.intervals(known, ["value"], by=()).to_dict("records")
    seeds = known.groupby("seed")["value"].mean() if "seed" in known else pd.Series([0.0])
    p = math.nan
    if found["clusters"] >= LEAST and (seeds > 0).nunique() == 1:
        p = statistics.sign_flip(known["value"], known.groupby(["dataset", "image"]).ngroup())
    ends = {name: found[name] for name in ("estimate", "low", "high")}
    return {"pictures": found["clusters"], "seeds": len(seeds), **ends, "p": p}


def _at_equal_psnr(part: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the part of the value that a gain in PSNR does not explain."""
    known = part[np.isfinite(part[["value", "psnr_gain_net"]]).all(axis=1)]
    means = known.groupby(["dataset", "image"])[["value", "psnr_gain_net"]].mean()
    if len(means) < 2 or statistics.constant(means["psnr_gain_net"]):
        return known
    slope = stats.linregress(means["psnr_gain_net"], means["value"]).slope
    return known.assign(value=known["value"] - slope * known["psnr_gain_net"])


def _beside_control(correlations: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs' rows with the null pair's values as ``<cause>_null``, if there is one."""
    is_null = correlations["pair"] == NULL
    if not is_null.any():
        return correlations
    keys = ["dataset", "image", "seed"]
    control = correlations.loc[is_null, [*keys, *CAUSES]]
    return correlations[~is_null].merge(control, on=keys, how="left", suffixes=("", "_null"))


def _where_harmed(part: pd.DataFrame) -> pd.DataFrame:
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
        return pd.DataFrame(columns=["dataset", "image", "value"])
    rise = (means[True] - means[False]).dropna().groupby(["dataset", "image"]).mean()
    return rise.rename("value").reset_index()
