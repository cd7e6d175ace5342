"""The eight verdicts, fixed before anybody looked: one row a claim and scale.

Networks of all variants and training seeds are in a row; the bootstrap draws pictures and
networks. A claim is answered with *yes* where the whole 95 % interval lies beyond the smallest
effect that counts, three training seeds or more have its sign, and it is among the discoveries at a
false discovery rate of 5 % over all rows of a report; with *no* where the whole interval lies below
that effect, of three training seeds or more. Everything else is *open*. *Not testable*: there is
nothing that could be judged.
"""

import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from dtfn import bounds, donors, gate, recipes, statistics, zoo
from dtfn.harm import EFFECT_DB, EFFECT_SHARE, FIFTHS, Measured, Pair, textures
from dtfn.methods import labels
from dtfn.reports import Verdict
from dtfn.reports.findings import COLUMNS, HARM, MORE
from dtfn.statistics import Crossed

CLAIMS = {
    "attention chooses: uniform weights cost PSNR": "PSNR as trained minus that with equal weights "
    "for all positions, so what hashing chooses counts; Urban100 alone decides where it is one of "
    "the benchmarks",
    HARM: "PSNR lost in harmed textures: found under one hash seed, measured under others",
    "pictures whose PSNR it raises hold harmed textures, too": "the same loss, in the pictures "
    "whose PSNR it raises in the mean of the networks",
    "harm grows with severity": "net change of error in the most severe fifth minus that in the "
    "least; control subtracted",
    "harm grows with the inconsistency of what is attended": "rise of the error from the lowest "
    "tenth of inconsistency to the highest, among blocks of like severity: observed, not caused; "
    "control subtracted",
    "a better choice of keys would gain": "PSNR if the true details choose among all keys, minus "
    "that as trained, or minus the control's where that is higher",
    "TFS lowers the harm and does not lower PSNR": "PSNR lost in harmed textures without TFS, "
    "minus that with it",
    "inconsistent donors harm where consistent ones help": "error with inconsistent donors minus "
    "that with consistent ones",
}
"""Claims, numbered from 0, and what the figure of each is."""

PERCENT = (3, 4, 7)  # claims whose figure is a change of error in %; of the others it is in dB
SEEDS = 3  # training seeds that a yes or a no needs
GATED = "Urban100"  # the benchmark by which the gate is defined
FAR = "window_32"  # of `dtfn.gate.table`: only keys at most 32 LR pixels away
NONE_CHOOSES = "no attention that chooses was trained to be switched off"

_crossed = functools.partial(statistics.crossed, seed=statistics.NETWORK)


def judge(
    number: int,
    scale: int,
    figure: Crossed,
    pooled: pd.DataFrame,
    unless: str = "",
    effect: float = 0.0,
    note: str = "",
    context: str = "",
) -> pd.DataFrame:
    """Return the row of a claim: `dtfn.reports.findings.COLUMNS` and ``MORE``.

    The columns pair, seed and dataset of ``pooled`` say what the figure rests on. ``unless`` says
    why the claim cannot be *yes* however large its figure is. ``effect`` is the smallest that
    counts; 0: that of its unit. ``note`` and ``unless`` become part of the reason.
    """
    row, seeds = not_testable(number, scale, ""), pooled["seed"].nunique()
    effect = effect or row["least"].item()
    answer = "no" if figure.high < effect else "open"
    if figure.low > effect and figure.agree and not unless:
        answer = "yes"
    why = "the opposite holds" if figure.high < -effect else ""
    enough = {"training seed": (seeds, SEEDS), "picture": (figure.pictures, statistics.LEAST)}
    for what, (have, least) in enough.items():
        if have < least and answer != "open":
            why = f"{answer} on {have} {what}{'s' * (have > 1)}; {least} are needed"
            answer = "open"
    if answer == "open" and not why and not unless:
        why = f"the interval holds {effect:g} {row['unit'].item()}, the smallest effect that counts"
        why = why if figure.agree else "training seeds disagree in sign"
        why = why if figure.pictures > 1 else "a single picture has no interval"
    each = pooled[["pair", "seed"]].drop_duplicates().sort_values(["pair", "seed"]).astype(str)
    named = (each["pair"] + " s" + each.groupby("pair")["seed"].transform(" s".join)).unique()
    row = row.assign(verdict=answer, measured=figure.estimate, low=figure.low, high=figure.high)
    row = row.assign(seeds=seeds, pictures=figure.pictures, p=figure.p_value(effect))
    row = row.assign(least=effect, networks=", ".join(named), context=context)
    reason = "; ".join(filter(None, (why, unless, note)))
    return row.assign(reason=reason, sets=", ".join(pooled["dataset"].unique()))


def not_testable(number: int, scale: int, reason: str) -> pd.DataFrame:
    """Return the row of a claim about which nothing can be said, and why."""
    (claim, quantity), percent = list(CLAIMS.items())[number], number in PERCENT
    row = (claim, scale, "not testable", *[np.nan] * 3, "%" if percent else "dB", 0, 0)
    effect = EFFECT_SHARE if percent else EFFECT_DB if number else gate.LEAST
    about = (quantity, effect, "", "", reason, "", np.nan)
    return pd.DataFrame([(*row, *about)], columns=[*COLUMNS, *MORE])


def of_pairs(
    pairs: Sequence[Pair], measured: Measured, scale: int, sets: Sequence[str], count: int | None
) -> pd.DataFrame:
    """Return the rows of claims 0, 1, 2, 3 and 6 from the pairs of the zoo.

    The pairs of the first kind decide, those whose attention chooses as the zoo's registry says.
    The row of claim 0 is about these pictures, of `GATED` if there are some, and names those left
    out. A user's own networks are `of_own`.
    """
    if own := [pair for pair in pairs if pair.kind == "choice"]:
        rows = [of_own(own, scale, sets, count)]
        if rest := [pair for pair in pairs if pair not in own]:
            return pd.concat([*rows, of_pairs(rest, measured, scale, sets, count)])
        reason = "your network was not trained without its choice of keys"
        tfs = "your network has no twin with TFS"
        rows += [not_testable(n, scale, tfs if n == 6 else reason) for n in (1, 2, 3, 6)]
        return pd.concat(rows, ignore_index=True)
    kind = [pair for pair in pairs if pair.kind == pairs[0].kind]
    first = [pair for pair in kind if pair.name != gate.PLACEBO] or kind
    choosing = [pair for pair in first if gate.chooses(pair.on, sets, count)]
    tested = choosing or first
    gated = [GATED] if GATED in sets else sets
    networks = {pair.on: pair.seed for pair in tested}  # variants of a seed share a first stage
    costs = gate.costs([*networks], gated, count, ["uniform"])
    cost = statistics.crossed(costs.assign(seed=costs["name"].map(networks)), "cost")
    needed = max(gate.least(pair.on) for pair in tested)
    left = [f"{pair.name} s{pair.seed}" for pair in first if pair not in tested]
    note = f"left out: {', '.join(left)}, whose card does not show a choice" if left else ""
    rested = [(pair.name, pair.seed, dataset) for pair in tested for dataset in gated]
    pooled = pd.DataFrame(rested, columns=["pair", "seed", "dataset"])
    context, most = _recorded(tested), min(count or 10, 10)
    if len(few := gate.costs([*networks], gated, most, ["hashing"])):
        by_hash = statistics.crossed(few.assign(seed=few["name"].map(networks)), "cost")
        same = f"{_printed(by_hash, '{:.3f} dB')} ({by_hash.pictures} pictures)"
        context = f"Equal weights for the keys that hashing chose cost {same}. {context}"
    rows = [judge(0, scale, cost, pooled, effect=needed, note=note, context=context)]
    chosen = Measured(*(_of(choosing, part) for part in measured))
    bare = [pair for pair in choosing if recipes.without_tfs(pair.name) == pair.name] or choosing
    plain = Measured(*(_of(bare, part) for part in measured))
    if plain.pictures.empty:
        reason = "this attention does not choose"
        return pd.concat([*rows, *(not_testable(n, scale, reason) for n in (1, 2, 3, 6))])
    more, names = "", set(plain.pictures["pair"])
    # Not by textures: a placebo's chance is a turn of the picture, which changes more than a hash.
    placebo = _of([pair for pair in kind if pair.name == gate.PLACEBO], measured.fifths)
    if len(placebo):
        added = [_added(fifths) for fifths in (plain.fifths, placebo)]
        more = " Attention adds {} to the error and removes {}; a placebo adds {} and removes {}."
        more = more.format(*added[0], *added[1])
    if two := [pair for pair in pairs if pair not in kind and pair.name in names]:
        counted = textures(Measured(*(_of(two, part) for part in measured)))
        harmed, helped = counted.loc[counted["role"] == "pair", ["harmed", "helped"]].sum()
        more += (
            f" Between two networks, where chance is another training, {harmed} textures stand out "
            f"as harmed and {helped} as helped."
        )
    return pd.concat([*rows, of_harm(plain, scale, more), of_tfs(chosen.pictures, scale)])


def _recorded(pairs: Sequence[Pair]) -> str:
    """Return what the zoo's registry says of networks on all pictures of `GATED`."""
    known = {row["name"]: row for row in zoo.registry()}
    ours = [known[p.on] for p in pairs if known.get(p.on, {}).get("gate") is not None]
    if not ours:
        return ""
    costs, numbers = [row["gate"] for row in ours], sorted({row["gated"] for row in ours})
    many = " to ".join(map(str, dict.fromkeys((numbers[0], numbers[-1]))))
    text = f"The zoo's cards say, of {many} pictures of {GATED}: uniform weights cost "
    text += f"{min(costs):.3f} to {max(costs):.3f} dB"
    psnr = {name: row.get("psnr", {}).get(GATED) for name, row in known.items()}
    both = [(psnr[row["name"]], psnr.get(gate.placebo_of(row["name"]))) for row in ours]
    if above := [own - placebo for own, placebo in both if own and placebo]:
        text += f", and PSNR is {min(above):+.3f} to {max(above):+.3f} dB above a placebo's where "
        text += f"there is one of the seed ({len(above)} of {len(ours)} networks)"
    return f"{text}."


def of_own(
    pairs: Sequence[Pair], scale: int, sets: Sequence[str], count: int | None
) -> pd.DataFrame:
    """Return the row of claim 0 of each of a user's own networks, as `dtfn.gate.table` has it.

    They are no training seeds of one network, so they are not pooled, and each speaks for itself:
    *yes* and *no* are about these weights alone.
    """
    costs = gate.costs([pair.on for pair in pairs], sets, count, ["uniform"])
    table = gate.table(costs.assign(dataset=" ".join(sets))).set_index("name")
    rows = []
    for pair in pairs:
        found = table.loc[pair.on]
        row = not_testable(0, scale, found["verdict"]).assign(networks=pair.name)
        row["claim"] += f" ({pair.name})"
        if gate.OFF_DISTRIBUTION not in found["verdict"]:
            answer = {gate.CHOOSES: "yes", gate.NOT: "no"}.get(found["verdict"], "open")
            row["reason"] = found["verdict"] if answer == "open" else "of these weights alone"
            row = row.assign(verdict=answer, measured=found["uniform"], low=found["uniform_low"])
            row = row.assign(high=found["uniform_high"], seeds=1, pictures=found["pictures"])
        rows.append(row)
    return pd.concat(rows, ignore_index=True)


def of_harm(measured: Measured, scale: int, more: str = "") -> pd.DataFrame:
    """Return the rows of claims 1 to 3 from pairs of one kind without TFS.

    How harm grows with severity is net of the controls. ``more`` ends the context of claim 1.
    """
    pictures = measured.pictures[measured.pictures["role"] == "pair"]
    gain = _printed(_crossed(pictures, "gain"), "{:+.3f} dB")
    won = _printed(_crossed(pictures, "won"), "{:.3f} dB")
    by_picture = pictures.groupby(statistics.PICTURE)
    each, area = by_picture[["lost", "won"]].mean().median(), pictures[["harmed", "helped"]].mean()
    rest = pictures.assign(rest=pictures["gain"] - pictures["won"] + pictures["lost"])
    elsewhere = _printed(_crossed(rest, "rest"), "{:+.3f} dB")
    context = (
        f"In all, attention changes PSNR by {gain}. Harmed textures are {area['harmed']:.1f} % of "
        f"the positions; helped ones are {area['helped']:.1f} % and win {won}. What changes "
        f"elsewhere adds up to {elsewhere}, nowhere told apart from chance. The median picture "
        f"loses {each['lost']:.3f} dB in harmed and wins {each['won']:.3f} dB in helped textures."
    )
    if pictures["lost_retrained"].notna().any():
        again = _printed(_crossed(pictures, "lost_retrained"), "{:.3f} dB")
        context += f" In networks of other training seeds the same harmed textures lose {again}."
    rows = [judge(1, scale, _crossed(pictures, "lost"), pictures, context=context + more)]
    raised = pictures[by_picture["gain"].transform("mean") > 0]
    none = not_testable(2, scale, "it raises the PSNR of no picture")
    rows.append(none if raised.empty else judge(2, scale, _crossed(raised, "lost"), raised))

    fifths = measured.fifths
    fifths = fifths.assign(added=100 * fifths["added"], removed=100 * fifths["removed"])

    def rise(column: str) -> Crossed:
        least, most = (fifths[fifths["fifth"] == n] for n in (1, FIFTHS))
        return _net(most, column, "off") - _net(least, column, "off")

    added, removed = rise("added"), rise("removed")
    parts = [_printed(one, "{:+.2f} %") for one in (added, removed)]
    context = f"The error that attention adds rises by {parts[0]}, what it removes by {parts[1]}."
    rows.append(judge(3, scale, added - removed, pictures, context=context))
    return pd.concat(rows, ignore_index=True)


def of_tfs(pictures: pd.DataFrame, scale: int) -> pd.DataFrame:
    """Return the row of claim 6 from pictures of pairs without TFS and of the same with TFS."""
    ours = pictures[pictures["role"] == "pair"].reset_index(drop=True)
    plain = ours["pair"].map(recipes.without_tfs)
    has = plain != ours["pair"]
    tfs = ours[has].assign(pair=plain, variant=ours["pair"])
    keys = ["pair", "seed", "dataset", "image"]
    both = ours[~has].merge(tfs, on=keys, suffixes=("", "_tfs"))
    if both.empty:
        return not_testable(6, scale, "no network exists both with and without TFS")
    less = _crossed(both.assign(less=both["lost"] - both["lost_tfs"]), "less")
    gain = _crossed(both.assign(gain=both["psnr_on_tfs"] - both["psnr_on"]), "gain")
    won = _crossed(both.assign(won=both["won_tfs"] - both["won"]), "won")
    changes = f"TFS changes PSNR by {_printed(gain, '{:+.3f} dB')}"
    context = f"What helped textures win changes by {_printed(won, '{:+.3f} dB')}."
    lowered = "" if gain.low > -EFFECT_DB else changes
    context = context if lowered else f"{changes}. {context}"
    both = pd.concat([both, both.assign(pair=both["variant"])])
    return judge(6, scale, less, both, lowered, context=context)


def of_bounds(pairs: Sequence[Pair], table: pd.DataFrame, scale: int) -> pd.DataFrame:
    """Return the row of claim 5 from `dtfn.bounds.measure`, for pairs whose attention chooses."""
    table = _of(pairs, table.assign(kind="switch"))
    if table.empty:
        return not_testable(5, scale, NONE_CHOOSES)
    context = ""
    if "own keys" in set(table["bound"]):
        own = _printed(bounds.net_gain(table, "own keys"), "{:+.3f} dB")
        context = f"Among the keys alone that hashing offers, the truth's choice gains {own}."
    return judge(5, scale, bounds.net_gain(table), table, context=context)


def of_causes(
    pairs: Sequence[Pair], pictures: pd.DataFrame, experiment: pd.DataFrame, scale: int
) -> pd.DataFrame:
    """Return the rows of claims 4 and 7 from `dtfn.causes.measure` and `dtfn.donors.measure`.

    ``pairs`` are those whose attention chooses. Claim 4: how harm rises with k, net of the
    controls. Claim 7, at the largest dose: what inconsistent donors add to the error beyond
    consistent ones, where consistent ones lower it.
    """
    attended = _of(pairs, pictures[pictures["of"] == "attended"])
    changes = _of(pairs, donors.effects(experiment))
    apart = _of(pairs, donors.contrasts(experiment))
    if attended.empty or apart.empty:
        return pd.concat([not_testable(n, scale, NONE_CHOOSES) for n in (4, 7)], ignore_index=True)
    rise = _net(attended, "slope")
    changes = changes[changes["dose"] == changes["dose"].max()]
    changes = changes.assign(change=100 * changes["change"])
    each = {donor: _crossed(part, "change", "off") for donor, part in changes.groupby("donor")}
    helps = each["consistent"]
    figure = _crossed(apart.assign(contrast=100 * apart["contrast"]), "contrast", "off")
    how = "harm" if helps.low > EFFECT_SHARE else "are not shown to help"
    premise = f"consistent donors {how}: the error changes by {_printed(helps, '{:+.2f} %')}"
    unless = "" if helps.high < 0 else premise
    others = [f"{d} ones by {_printed(each[d], '{:+.2f} %')}" for d in each if d != "plain"]
    context = (
        "Against as many patches of plain colour, donors change the error: "
        f"{', '.join(others)}. A consistent donor repeats the texture's own LR patch, so it holds "
        "no pixel that the network does not see already."
    )
    rows = [
        judge(4, scale, rise, attended),
        judge(7, scale, figure, apart, unless, context=context),
    ]
    return pd.concat(rows, ignore_index=True)


def of_gate(table: pd.DataFrame) -> list[Verdict]:
    """Return what `dtfn.gate.table` says of all networks, of the placebo, and of distant keys."""
    table = table.assign(name=table["name"].map(labels(table["name"])))
    table = table[~table["verdict"].str.contains(gate.OFF_DISTRIBUTION, regex=False)]
    placebo = table["name"].str.startswith(gate.PLACEBO)
    ours, control, found = table[~placebo], table[placebo], []

    def add(claim: str, row: pd.Series, kind: str, holds: bool | None) -> None:
        ends = (float(row[f"{kind}_low"]), float(row[f"{kind}_high"]))
        known = row["few" if kind == FAR else "pictures"] >= statistics.LEAST
        interval = None if np.isnan(ends[0]) else ends
        found.append(Verdict(claim, row[kind], interval, holds if known else None, "{:+.3f} dB"))

    if len(ours):
        weakest = ours.loc[(ours["uniform"] - ours["least"]).idxmin()]
        fails, lacking = ours["uniform_high"] < ours["least"], ~ours["chooses"]
        some = ""
        if lacking.any() and ours["pictures"].min() >= statistics.LEAST:
            number, names = ours["name"].nunique(), ours["name"]
            some = f" ({number - names[lacking].nunique()} of {number} do"
            for word, rows in (("not", fails), ("open", lacking & ~fails)):
                some += f"; {word}: {', '.join(names[rows].unique())}" if rows.any() else ""
            some += ")"
        cost = f"equal weights cost {weakest['least']:.2f} dB or more"
        claim = f"every attention chooses{some}: {cost}"
        holds = False if fails.any() else None if lacking.any() else True
        add(f"{claim} ({weakest['name']}, least)", weakest, "uniform", holds)
    if len(control):
        strongest = control.loc[control["uniform"].idxmax()]
        claim = "the placebo, trained with equal weights, does not choose (control)"
        add(claim, strongest, "uniform", not control["chooses"].any())
    if FAR in ours and ours[FAR].notna().any():
        last = ours.loc[ours[FAR].idxmin()]
        claim = "in every network keys more than 32 LR pixels away gain 0.01 dB or more"
        holds = True if last[f"{FAR}_low"] > EFFECT_DB else None
        holds = False if (ours[f"{FAR}_high"] < EFFECT_DB).any() else holds
        add(f"{claim} ({last['name']}, least)", last, FAR, holds)
    return found


def _printed(figure: Crossed, form: str) -> str:
    """Return a figure with its interval, e.g. ``+1.15 % [0.42, 1.86]``; of one picture without."""
    number = form.partition("}")[0].replace("+", "") + "}"
    ends = ", ".join(number.format(end) for end in (figure.low, figure.high))
    return form.format(figure.estimate) + (f" [{ends}]" if figure.pictures > 1 else "")


def _added(fifths: pd.DataFrame) -> list[str]:
    """Return what attention adds to the error and what it removes, with intervals, in %."""
    ours = fifths[fifths["role"] == "pair"].copy()
    ours[["added", "removed"]] *= 100
    return [_printed(_crossed(ours, part, "off"), "{:.2f} %") for part in ("added", "removed")]


def _of(pairs: Sequence[Pair], table: pd.DataFrame) -> pd.DataFrame:
    chosen = {(pair.name, pair.kind, pair.seed) for pair in pairs}
    keys = zip(table["pair"], table["kind"], table["seed"], strict=True)
    return table[np.array([key in chosen for key in keys], bool)]


def _net(table: pd.DataFrame, column: str, under: str = "") -> Crossed:
    """Return the figure of a column in pairs less that in their controls, where there are some."""
    ours = table["role"] == "pair"
    figure = _crossed(table[ours], column, under)
    return figure if ours.all() else figure - _crossed(table[~ours], column, under)


def printed(table: pd.DataFrame) -> list[Verdict]:
    """Return rows as a notebook prints them."""
    made = []
    for row in table.itertuples():
        claim = f"{row.claim} (×{row.scale})"
        if row.verdict == "not testable":
            made.append(Verdict(claim, f"not testable: {row.reason}", None, None))
            continue
        ends = None if np.isnan(row.low) else (row.low, row.high)
        uncertain = row.verdict == "yes" and 2 * len(CLAIMS) * row.p > 0.05
        many = f"p = {row.p:.2g}, before the correction for all claims" if uncertain else ""
        claim += f" — {'; '.join(filter(None, (row.reason, many)))}" if row.reason or many else ""
        form = "{:+.3f} dB" if row.unit == "dB" else "{:+.1f} %"
        holds = {"yes": True, "no": False}.get(row.verdict)
        made.append(Verdict(claim, row.measured, ends, holds, form))
    return made
