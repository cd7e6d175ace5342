"""The eight verdicts, fixed before anybody looked: one row a claim and scale.

Networks of all variants and training seeds are inside of a row; the bootstrap draws pictures and
networks. A claim is answered with *yes* where the whole 95 % interval lies beyond the smallest
effect that counts, three training seeds or more agree, and it is among the discoveries at a false
discovery rate of 5 % over all rows of a report; with *no* where the whole interval lies below that
effect. Everything else is *open*. *Not testable*: there is nothing that could be judged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from dtfn import donors, gate, statistics
from dtfn.harm import EFFECT_DB, EFFECT_SHARE, FIFTHS, Measured, Pair, networks
from dtfn.reports import Verdict
from dtfn.reports.findings import COLUMNS
from dtfn.statistics import Crossed

CLAIMS = (
    ("attention chooses: uniform weights cost PSNR", "dB", gate.LEAST),
    ("attention harms textures, by more than chance does", "dB", EFFECT_DB),
    ("pictures whose PSNR it raises hold harmed textures, too", "dB", EFFECT_DB),
    ("harm grows with severity", "%", EFFECT_SHARE),
    ("harm grows with the inconsistency of what is attended", "%", EFFECT_SHARE),
    ("a better choice of keys would gain", "dB", EFFECT_DB),
    ("TFS lowers the harm and does not lower PSNR", "dB", EFFECT_DB),
    ("inconsistent donors harm where consistent ones help", "%", EFFECT_SHARE),
)
"""Claim, unit of its figure, and the smallest effect that counts."""

SEEDS = 3  # training seeds that a yes or a no needs

_crossed = functools.partial(statistics.crossed, seed="network")


def judge(
    number: int, scale: int, figure: Crossed, seeds: int, unless: str = "", effect: float = 0.0
) -> pd.DataFrame:
    """Return the row of a claim: `dtfn.reports.findings.COLUMNS`, reason (of the verdict) and p.

    ``seeds`` are those of training. ``unless`` says why the claim cannot be *yes* although its
    figure is large enough. ``effect`` is the smallest that counts; 0: that of `CLAIMS`.
    """
    claim, unit, usual = CLAIMS[number]
    effect = effect or usual
    answer = "no" if figure.high < effect else "open"
    if figure.low > effect and figure.agree and not unless:
        answer = "yes"
    reason = unless if figure.low > effect else ""
    enough = {"training seed": (seeds, SEEDS), "picture": (figure.pictures, statistics.LEAST)}
    for what, (have, least) in enough.items():
        if have < least and answer != "open":
            reason = f"{answer} on {have} {what}{'s' * (have > 1)}; {least} are needed"
            answer = "open"
    ends = (figure.estimate, figure.low, figure.high)
    row = (claim, scale, answer, *ends, unit, seeds, figure.pictures)
    return pd.DataFrame([(*row, reason, figure.p_value(effect))], columns=[*COLUMNS, "reason", "p"])


def not_testable(number: int, scale: int, reason: str) -> pd.DataFrame:
    """Return the row of a claim about which nothing can be said, and why."""
    claim, unit, _ = CLAIMS[number]
    row = (claim, scale, "not testable", *[np.nan] * 3, unit, 0, 0, reason, np.nan)
    return pd.DataFrame([row], columns=[*COLUMNS, "reason", "p"])


def of_pairs(
    pairs: Sequence[Pair], measured: Measured, scale: int, sets: Sequence[str], count: int | None
) -> pd.DataFrame:
    """Return the rows of claims 0, 1, 2, 3 and 6 from the pairs of the zoo.

    The pairs of the first kind decide, those whose attention chooses as the zoo's registry says;
    that it does so on these pictures is the row of claim 0.
    """
    first = [pair for pair in pairs if pair.kind == pairs[0].kind]
    choosing = [pair for pair in first if gate.chooses(pair.on, sets, count)]
    tested = choosing or first
    costs = gate.costs([pair.on for pair in tested], sets, count, ["uniform"])
    cost = _crossed(costs.rename(columns={"name": "network"}), "cost")
    needed = max(gate.least(pair.on) for pair in tested)
    rows = [judge(0, scale, cost, len({pair.seed for pair in tested}), effect=needed)]
    chosen = Measured(*(_of(choosing, part) for part in measured))
    if first[0].kind == "choice":
        reason = "a network of yours was not trained without its choice of keys"
        if "off_distribution" in gate.table(costs):
            rows = [not_testable(0, scale, f"uniform weights are {gate.OFF_DISTRIBUTION}")]
        return pd.concat([*rows, *(not_testable(n, scale, reason) for n in (1, 2, 3, 6))])
    plain = Measured(*(part[~part["pair"].str.endswith("+tfs")] for part in chosen))
    if plain.pictures.empty:
        reason = "this attention does not choose"
        return pd.concat([*rows, *(not_testable(n, scale, reason) for n in (1, 2, 3, 6))])
    return pd.concat([*rows, of_harm(plain, scale), of_tfs(chosen.pictures, scale)])


def of_harm(measured: Measured, scale: int) -> pd.DataFrame:
    """Return the rows of claims 1 to 3 from pairs of one kind without TFS.

    How harm grows with severity is net of the controls.
    """
    pictures = networks(measured.pictures[measured.pictures["role"] == "pair"])
    seeds = pictures["seed"].nunique()
    rows = [judge(1, scale, _crossed(pictures, "lost"), seeds)]
    raised = pictures[pictures["gain"] > 0]
    none = not_testable(2, scale, "it raises the PSNR of no picture")
    rows.append(none if raised.empty else judge(2, scale, _crossed(raised, "lost"), seeds))
    fifths = networks(measured.fifths)
    fifths = fifths.assign(net=100 * (fifths["added"] - fifths["removed"]))

    def rise(part: pd.DataFrame) -> Crossed:
        least, most = (_crossed(part[part["fifth"] == n], "net", "off") for n in (1, FIFTHS))
        return most - least

    rows.append(judge(3, scale, _beyond_chance(fifths, rise), seeds))
    return pd.concat(rows, ignore_index=True)


def of_tfs(pictures: pd.DataFrame, scale: int) -> pd.DataFrame:
    """Return the row of claim 6 from pictures of pairs without TFS and of the same with TFS."""
    ours = pictures[pictures["role"] == "pair"]
    has = ours["pair"].str.endswith("+tfs")
    tfs = ours[has].assign(pair=ours["pair"].str.removesuffix("+tfs"))
    keys = ["pair", "seed", "dataset", "image"]
    both = networks(ours[~has].merge(tfs, on=keys, suffixes=("", "_tfs")))
    if both.empty:
        return not_testable(6, scale, "no network is there both with TFS and without")
    less = _crossed(both.assign(less=both["lost"] - both["lost_tfs"]), "less")
    gain = _crossed(both.assign(gain=both["psnr_on_tfs"] - both["psnr_on"]), "gain")
    lowered = "" if gain.low > -EFFECT_DB else f"PSNR changes by {gain.estimate:+.3f} dB"
    return judge(6, scale, less, both["seed"].nunique(), lowered)


def of_causes(
    pairs: Sequence[Pair], pictures: pd.DataFrame, experiment: pd.DataFrame, scale: int
) -> pd.DataFrame:
    """Return the rows of claims 4 and 7 from `dtfn.causes.measure` and `dtfn.donors.measure`.

    ``pairs`` are those whose attention chooses; others do not count. Claim 4: how harm rises with
    k, net of the controls. Claim 7, at the largest dose: what inconsistent donors add to the error
    beyond consistent ones, where consistent ones lower it.
    """
    attended = networks(_of(pairs, pictures[pictures["of"] == "attended"]))
    changes = networks(_of(pairs, donors.effects(experiment)))
    apart = networks(_of(pairs, donors.contrasts(experiment)))
    if attended.empty or apart.empty:
        reason = "no attention that chooses was trained to be switched off"
        return pd.concat([not_testable(n, scale, reason) for n in (4, 7)], ignore_index=True)
    seeds = attended["seed"].nunique()
    rise = _beyond_chance(attended, lambda part: _crossed(part, "slope"))
    most = changes["dose"] == changes["dose"].max()
    agreeing = changes[most & (changes["donor"] == "consistent")]
    helps = _crossed(agreeing, "change", "off").high < 0
    figure = _crossed(apart.assign(contrast=100 * apart["contrast"]), "contrast", "off")
    unless = "" if helps else "consistent donors do not help"
    rows = [judge(4, scale, rise, seeds), judge(7, scale, figure, seeds, unless)]
    return pd.concat(rows, ignore_index=True)


def _of(pairs: Sequence[Pair], table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of some pairs."""
    chosen = {(pair.name, pair.kind, pair.seed) for pair in pairs}
    keys = zip(table["pair"], table["kind"], table["seed"], strict=True)
    return table[np.array([key in chosen for key in keys], bool)]


def _beyond_chance(table: pd.DataFrame, figure: Callable[[pd.DataFrame], Crossed]) -> Crossed:
    """Return a figure of pairs less that of their controls, where there are some."""
    ours = table["role"] == "pair"
    found = figure(table[ours])
    return found if ours.all() else found - figure(table[~ours])


def printed(table: pd.DataFrame) -> list[Verdict]:
    """Return rows as a notebook prints them."""
    made = []
    for row in table.itertuples():
        claim = f"{row.claim} (×{row.scale})"
        if row.verdict == "not testable":
            made.append(Verdict(claim, f"not testable: {row.reason}", None, None))
            continue
        ends = None if np.isnan(row.low) else (row.low, row.high)
        claim += f" — {row.reason}" if row.reason else ""
        form = "{:+.3f} dB" if row.unit == "dB" else "{:+.1f} %"
        holds = {"yes": True, "no": False}.get(row.verdict)
        made.append(Verdict(claim, row.measured, ends, holds, form))
    return made
