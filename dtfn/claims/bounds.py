"""Claims about who comes near a bound: TFS, a gate, copies of details. Found in `dtfn.claims`."""

from __future__ import annotations

import pandas as pd

from dtfn import recovery, statistics
from dtfn.claims.judging import judged, verdict
from dtfn.reports.verdicts import Verdict
from dtfn.statistics import Interval


def beats_candidate(found: pd.DataFrame, candidate: str, other: str, claim: str) -> list[Verdict]:
    """Return whether one candidate's PSNR is above another's, a verdict a pair that has both.

    Open where the training seeds disagree.

    Parameters
    ----------
    found
        Of `dtfn.recovery.candidates` or `dtfn.recovery.gated`.
    candidate, other
        Names of candidates, or how they begin; ``other`` empty: N itself.
    claim
        With ``{pair}`` in it, and perhaps ``{candidate}``.
    """
    verdicts = []
    keys = [key for key in ("dataset", "image", "scale", "seed") if key in found]
    for pair, part in found.groupby("pair", sort=False):
        one = part[part["candidate"].str.startswith(candidate)]
        two = part[part["candidate"].str.startswith(other)] if other else one
        base = two[[*keys, "psnr" if other else "psnr_with"]].set_axis([*keys, "base"], axis=1)
        both = one.merge(base, on=keys)
        if not both.empty:
            both["gain"] = both["psnr"] - both["base"]
            text = claim.format(pair=pair, candidate=both["candidate"].iloc[0])
            verdicts.append(judged(text, both, "gain", "{:+.3f} dB"))
    return verdicts


def tfs_recovers(found: pd.DataFrame) -> list[Verdict]:
    """Return whether TFS gains over plain attention, over the local twin, and over luck.

    The claims name the network that has TFS: where it is another family's, more than TFS differs.

    Parameters
    ----------
    found
        Of `dtfn.recovery.candidates`.
    """
    claim = "{pair} {candidate} recovers something of the bound of {pair}"
    beyond = {"": "", recovery.TWIN: " beyond its local twin", recovery.OTHER_TWIN: " beyond luck"}
    return [
        one
        for other, words in beyond.items()
        for one in beats_candidate(found, recovery.FIDELITY, other, claim + words)
    ]


def gate_pays(found: pd.DataFrame) -> list[Verdict]:
    """Return whether a gate beats a coin, the mean of both outputs, and TFS: of `gated`."""
    gate, coin, mean, _ = recovery.GATES.values()
    others = {coin: "a coin", mean: "the mean of both", recovery.FIDELITY: "{pair} with TFS"}
    return [
        one
        for other, words in others.items()
        for one in beats_candidate(found, gate, other, f"a gate of {{pair}} beats {words}")
    ]


def prices(table: pd.DataFrame) -> pd.DataFrame:
    """Return the price of inconsistency: what choosing by likeness loses against the truth.

    Parameters
    ----------
    table
        Of `dtfn.exemplars.measure`.

    Returns
    -------
    A row a dataset and set of candidates: dataset, candidates, pictures; price (PSNR of the best
    candidate over that of the first, dB), price_null (the same among strangers, which is the luck
    of choosing from as many) and price_net, each with ``_low`` and ``_high`` over pictures.
    """
    rows = []
    for (dataset, name), part in table.groupby(["dataset", "candidates"], sort=False):
        price, luck = part["exemplar_price"], part["exemplar_price_random"]
        row: dict[str, object] = {"dataset": dataset, "candidates": name, "pictures": len(part)}
        for kind, values in (("", price), ("_null", luck), ("_net", price - luck)):
            row |= statistics.mean_interval(values).columns(f"price{kind}")
        rows.append(row)
    return pd.DataFrame(rows)


def exemplars_tell(table: pd.DataFrame) -> list[Verdict]:
    """Return what copying details could do, a set of candidates at a time.

    Parameters
    ----------
    table
        Of `dtfn.exemplars.measure`.
    """
    verdicts = []
    for name, part in table.groupby("candidates", sort=False):
        likeness = statistics.difference_interval(
            part["exemplar_similar"], part["exemplar_bicubic"]
        )
        claim = f"copying the detail of the first of the {name} beats bicubic"
        verdicts.append(verdict(claim, likeness, "{:+.3f} dB"))
        strangers = statistics.difference_interval(
            part["exemplar_bound"], part["exemplar_bound_random"]
        )
        claim = f"the best of the {name} beats the best of as many strangers"
        verdicts.append(verdict(claim, strangers, "{:+.3f} dB"))
    return verdicts


def predicts(areas: pd.DataFrame) -> list[Verdict]:
    """Return whether harm can be predicted without the truth: an AUC above 0.5 within pictures.

    Parameters
    ----------
    areas
        Of `dtfn.predictor.areas`.
    """
    verdicts = []
    for row in areas.to_dict("records"):
        estimate, low, high = (row[name] - 0.5 for name in ("auc", "auc_low", "auc_high"))
        claim = f"harm is predicted better than by a coin, held out: {row['held out']} (AUC − 0.5)"
        above = Interval(estimate, low, high, int(row["pictures"]))
        verdicts.append(verdict(claim, above, "{:+.3f}"))
    return verdicts
