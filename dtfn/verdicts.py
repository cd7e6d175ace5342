"""The eight verdicts, fixed before anybody looked: one row a claim and scale.

Networks of all variants and training seeds are inside of a row; the bootstrap draws pictures and
networks. A claim is answered with *yes* where the whole 95 % interval lies beyond the smallest
effect that counts, three training seeds or more agree, and it is among the discoveries at a false
discovery rate of 5 % over all rows of a report; with *no* where the whole interval lies below that
effect. Everything else is *open*. *Not testable*: there is nothing that could be judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from dtfn import donors, gate
from dtfn.harm import EFFECT_DB, EFFECT_SHARE, FIFTHS, Measured, Pair, networks
from dtfn.reports import Verdict
from dtfn.reports.findings import COLUMNS
from dtfn.statistics import Crossed, crossed

__all__ = [
    "CLAIMS",
    "judge",
    "not_testable",
    "of_causes",
    "of_harm",
    "of_pairs",
    "of_tfs",
    "printed",
]

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
PICTURES = 5  # below this a bootstrap is narrow by itself


def judge(
    number: int,
    scale: int,
    figure: Crossed,
    seeds: int,
    unless: str = "",
    effect: float | None = None,
) -> pd.DataFrame:
    """Return the row of a claim.

    Parameters
    ----------
    number
        Of the claim in `CLAIMS`.
    scale
        2, 3 or 4.
    figure
        What was measured, over pictures and networks.
    seeds
        Training seeds that it rests on.
    unless
        Why the claim cannot be *yes* although its figure is large enough; else empty.
    effect
        The smallest that counts, where it is not that of `CLAIMS`.

    Returns
    -------
    One row: `dtfn.reports.findings.COLUMNS`, and reason (what the verdict rests on) and p.
    """
    claim, unit, usual = CLAIMS[number]
    effect = usual if effect is None else effect
    clear = figure.low > effect and figure.agree and not unless
    answer = "yes" if clear else "no" if figure.high < effect else "open"
    reason = unless if figure.low > effect else ""
    for have, least, what in (
        (seeds, SEEDS, "training seed"),
        (figure.pictures, PICTURES, "picture"),
    ):
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


def of_harm(measured: Measured, scale: int) -> pd.DataFrame:
    """Return the rows of claims 1 to 3: harm, hidden harm, and harm by severity.

    ``measured`` is of pairs of one kind without TFS. How harm grows is net of the controls.
    """
    ours = measured.pictures["role"] == "pair"
    pictures = networks(measured.pictures[ours])
    seeds = pictures["seed"].nunique()
    rows = [judge(1, scale, crossed(pictures, "lost", seed="network"), seeds)]
    raised = pictures[pictures["gain"] > 0]
    if raised.empty:
        rows.append(not_testable(2, scale, "it raises the PSNR of no picture"))
    else:
        rows.append(judge(2, scale, crossed(raised, "lost", seed="network"), seeds))
    fifths = networks(measured.fifths)
    fifths = fifths.assign(net=100 * (fifths["added"] - fifths["removed"]))

    def rise(part: pd.DataFrame) -> Crossed:
        most, least = (part[part["fifth"] == fifth] for fifth in (FIFTHS, 1))
        ends = (crossed(end, "net", "off", seed="network") for end in (most, least))
        return next(ends) - next(ends)

    rows.append(judge(3, scale, _beyond_chance(fifths, rise), seeds))
    return pd.concat(rows, ignore_index=True)


def of_tfs(plain: Measured, fidelity: Measured, scale: int) -> pd.DataFrame:
    """Return the row of claim 6 from pairs without TFS and the same networks with TFS."""
    keys = ["seed", "dataset", "image"]
    parts = []
    for one in (plain, fidelity):
        ours = one.pictures[one.pictures["role"] == "pair"]
        name = ours["pair"].str.removesuffix("+tfs")
        parts.append(ours.assign(pair=name)[["pair", *keys, "lost", "psnr_on"]])
    both = parts[0].merge(parts[1], on=["pair", *keys], suffixes=("", "_tfs"))
    if both.empty:
        return not_testable(6, scale, "no network is there both with TFS and without")
    both = networks(both).assign(
        less=both["lost"] - both["lost_tfs"], gain=both["psnr_on_tfs"] - both["psnr_on"]
    )
    less, gain = (crossed(both, column, seed="network") for column in ("less", "gain"))
    lowered = "" if gain.low > -EFFECT_DB else f"PSNR changes by {gain.estimate:+.3f} dB"
    return judge(6, scale, less, both["seed"].nunique(), lowered)


def of_causes(
    pairs: Sequence[Pair], pictures: pd.DataFrame, experiment: pd.DataFrame, scale: int
) -> pd.DataFrame:
    """Return the rows of claims 4 and 7: inconsistency as observed, and as an experiment.

    Parameters
    ----------
    pairs
        Those whose attention chooses; others do not count.
    pictures
        Of `dtfn.causes.measure`. How harm rises with k is net of the controls.
    experiment
        Of `dtfn.donors.measure`. At the largest dose: what inconsistent donors add to the error
        beyond consistent ones, where consistent ones lower it.
    scale
        2, 3 or 4.
    """
    chosen = {(pair.name, pair.kind, pair.seed) for pair in pairs}

    def ours(table: pd.DataFrame) -> pd.DataFrame:
        keys = zip(table["pair"], table["kind"], table["seed"], strict=True)
        return networks(table[np.array([key in chosen for key in keys], bool)])

    attended = ours(pictures[pictures["of"] == "attended"])
    changes, apart = ours(donors.effects(experiment)), ours(donors.contrasts(experiment))
    if attended.empty or apart.empty:
        reason = "no attention that chooses was trained to be switched off"
        return pd.concat([not_testable(n, scale, reason) for n in (4, 7)], ignore_index=True)
    rise = _beyond_chance(attended, lambda part: crossed(part, "slope", seed="network"))
    seeds = attended["seed"].nunique()
    rows = [judge(4, scale, rise, seeds)]
    most = changes["dose"] == changes["dose"].max()
    agreeing = changes[most & (changes["donor"] == "consistent")]
    helps = crossed(agreeing, "change", "off", seed="network").high < 0
    figure = crossed(
        apart.assign(contrast=100 * apart["contrast"]), "contrast", "off", seed="network"
    )
    rows.append(
        judge(
            7,
            scale,
            figure,
            attended["seed"].nunique(),
            "" if helps else "consistent donors do not help",
        )
    )
    return pd.concat(rows, ignore_index=True)


def printed(table: pd.DataFrame) -> list[Verdict]:
    """Return rows as a notebook prints them."""
    holds = {"yes": True, "no": False}
    made = []
    for row in table.itertuples():
        claim = f"{row.claim} (×{row.scale})"
        if row.verdict == "not testable":
            made.append(Verdict(claim, f"not testable: {row.reason}", None, None))
            continue
        ends = None if np.isnan(row.low) else (row.low, row.high)
        claim += f" — {row.reason}" if row.reason else ""
        form = f"{{:+.3f}} {row.unit}" if row.unit == "dB" else f"{{:+.1f}} {row.unit}"
        made.append(Verdict(claim, row.measured, ends, holds.get(row.verdict), form))
    return made


def _beyond_chance(table: pd.DataFrame, figure: Callable[[pd.DataFrame], Crossed]) -> Crossed:
    """Return a figure of pairs less that of their controls, where there are some."""
    ours = table["role"] == "pair"
    found = figure(table[ours])
    return found if ours.all() else found - figure(table[~ours])


def of_pairs(
    pairs: Sequence[Pair],
    measured: Measured,
    scale: int,
    sets: Sequence[str],
    count: int | None = None,
) -> pd.DataFrame:
    """Return the rows of claims 0, 1, 2, 3 and 6 from the pairs of the zoo.

    The pairs of the first kind that there is decide, those whose attention chooses on Urban100 as
    the zoo's registry says; that it does so on these pictures is the row of claim 0.

    Parameters
    ----------
    pairs, measured
        Of `dtfn.harm.pairs_of_zoo` and `dtfn.harm.measure`.
    scale
        2, 3 or 4.
    sets, count
        The pictures, as for `dtfn.gate.costs`.
    """
    kind = pairs[0].kind
    first = [pair for pair in pairs if pair.kind == kind]
    chosen = {(pair.name, pair.seed) for pair in first if gate.chooses(pair.on, sets, count)}
    tested = [pair for pair in first if (pair.name, pair.seed) in chosen] or first
    costs = gate.costs([pair.on for pair in tested], sets, count, ["uniform"])
    costs = costs.rename(columns={"name": "network"})
    seeds = len({pair.seed for pair in tested})
    needed = max(gate.least(pair.on) for pair in tested)
    rows = [judge(0, scale, crossed(costs, "cost", seed="network"), seeds, effect=needed)]

    def some(fidelity: bool) -> Measured:
        def ours(table: pd.DataFrame) -> pd.DataFrame:
            keys = zip(table["pair"], table["seed"], strict=True)
            here = [key in chosen and key[0].endswith("+tfs") == fidelity for key in keys]
            return table[(table["kind"] == kind) & np.array(here, bool)]

        return Measured(*map(ours, measured))

    plain = some(False)
    if plain.pictures.empty:
        reason = "this attention does not choose"
        return pd.concat([*rows, *(not_testable(n, scale, reason) for n in (1, 2, 3, 6))])
    return pd.concat([*rows, of_harm(plain, scale), of_tfs(plain, some(True), scale)])
