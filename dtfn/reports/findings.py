"""What was found: the rows of all runs' verdicts as one table and a few sentences.

A notebook saves its rows as the table ``verdicts``, with the columns `COLUMNS` and `MORE`. The
sentences are made from the rows alone, and every claim is in one of them.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from dtfn.statistics import false_discovery

COLUMNS = ("claim", "scale", "verdict", "measured", "low", "high", "unit", "seeds", "pictures")
"""Of the table ``verdicts``: ``verdict`` is yes, no, open or not testable; ``low`` and ``high`` are
the ends of the 95 % interval in ``unit``."""

MORE = ("quantity", "least", "networks", "sets", "reason", "context", "p")
"""Of the same table: what was measured, the smallest effect that counts (in ``unit``), the variants
and training seeds that the number pools, the benchmarks, why the verdict is not plain, what else
was measured that a reader must know, in sentences, and the p-value, of all rows together adjusted
for a false discovery rate."""

HARM = "attention harms textures, by more than chance does"
"""The claim whose context is said at once, for its number alone would mislead."""

WORDS = {  # what the claims' terms mean, said where they are first used
    "Attention off": "the same network with its attention skipped, as in half of its training",
    "Harm": "error with attention on minus error with attention off",
    "Chance": "what another hash seed changes, or without hashing another orientation of the "
    "picture; between two networks, another training seed",
    "Control": "the same measurement where nothing but chance differs",
    "Placebo": "a network with equal attention weights in training and testing: it cannot choose",
    "Donors": "patches pasted where only attention sees them: consistent ones repeat the texture, "
    "inconsistent ones look like it in LR and have other true detail",
    "TFS": "the paper's gate on what attention adds",
    "Severity": "energy of the detail that the degradation took from a block",
    "Inconsistency": "how far the true details of the attended positions are from a position's "
    "own: 0 the same, 1 as far as no detail, 2 unrelated",
}

ONE_OF_MANY = "not significant after correction for the number of claims"


def merged(folders: Iterable[Path]) -> pd.DataFrame:
    """Return the rows of all runs: `COLUMNS`, `MORE`; at most 8 a scale, large ones first.

    Of a claim that two runs judge, the last one counts. A yes that is no discovery at a rate of 5 %
    over all these rows becomes open.
    """
    files, columns = (f / "tables" / "verdicts.csv" for f in folders), [*COLUMNS, *MORE]
    frames = [pd.read_csv(file) for file in files if file.is_file()]
    frames = [frame for frame in frames if set(COLUMNS) <= set(frame)]
    rows = pd.concat(frames or [pd.DataFrame(columns=columns)], ignore_index=True)
    rows = rows.reindex(columns=columns).drop_duplicates(["claim", "scale"], keep="last")
    rows["p"] = false_discovery(rows["p"])
    lost = (rows["verdict"] == "yes") & (rows["p"] > 0.05)
    rows["verdict"] = rows["verdict"].mask(lost, "open")
    texts = ["quantity", "networks", "sets", "reason", "context"]
    rows[texts] = rows[texts].astype(object).fillna("")
    why = f"{ONE_OF_MANY}; " + rows["reason"]
    rows["reason"] = rows["reason"].mask(lost, why.str.removesuffix("; "))
    rows = rows.sort_values("scale", ascending=False, kind="stable")
    return rows.groupby("scale", sort=False).head(8).reset_index(drop=True)


def sentences(rows: pd.DataFrame) -> list[str]:
    """Return what the rows say: a sentence an answer, each with all of its claims.

    They are about the scale that has most decided claims. Around them stands what else is to be
    known of `HARM`: its first sentence before, the others after. The last names the claims that are
    answered differently at another scale.
    """
    if rows.empty:
        return []
    rows = rows.assign(answer=[_answer(row) for row in rows.itertuples()])
    decided = rows["verdict"].isin(["yes", "no"])
    main = decided.groupby(rows["scale"], sort=False).sum().idxmax()
    part, others = rows[rows["scale"] == main], rows[rows["scale"] != main]
    net, _, details = " ".join(part.loc[part["claim"] == HARM, "context"]).partition(". ")
    said = [f"{net.removesuffix('.')}."] if net else []
    for answer in ("yes", "no", "yes so far", "no so far", "open", "not testable"):
        claims = [_claim(row) for row in part[part["answer"] == answer].itertuples()]
        few = ", on fewer seeds or pictures than a verdict needs" * answer.endswith("so far")
        said += [f"{answer.capitalize()} at ×{main}{few}: {'; '.join(claims)}."] * bool(claims)
    said += [details] if details else []
    both = others.merge(part[["claim", "answer"]], on="claim", suffixes=("", "_main"))
    both = both[~both[["answer", "answer_main"]].isin(["not testable"]).any(axis=1)]
    for scale, differ in both[both["answer"] != both["answer_main"]].groupby("scale", sort=False):
        claims = [f"{row.claim} ({row.answer})" for row in differ.itertuples()]
        said.append(f"Different at ×{scale}: {'; '.join(claims)}.")
    return said


def grid(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row a claim: claim, about, and for each scale verdict, parts, basis, context.

    ``about`` says what was measured and from where on it counts, ``basis`` on which networks and
    pictures; ``parts`` are the number, its interval and the reason.
    """
    scales, table = rows["scale"].unique(), dict[str, dict[str, Any]]()
    for row in rows.itertuples():
        empty = {"claim": row.claim, "about": "", "scales": dict.fromkeys(scales)}
        one = table.setdefault(row.claim, empty)
        if row.least > 0 and row.measured == row.measured and not one["about"]:
            one["about"] = f"{row.quantity}; smallest effect that counts {row.least:g} {row.unit}"
        basis = f"{row.networks}; {row.pictures} pictures" if row.networks else ""
        basis += f" of {row.sets}" if row.sets else ""
        parts = _measured(row)
        if row.reason:
            parts = [*parts[:-1], *(f"{part};" for part in parts[-1:]), row.reason]
        cell = {"verdict": row.verdict, "parts": parts, "basis": basis, "context": row.context}
        one["scales"][row.scale] = cell
    return list(table.values())


def _answer(row: Any) -> str:
    """Return the verdict; ``yes so far`` if it is open for too few seeds or pictures."""
    lean = str(row.reason).partition(" on ")[0]
    return f"{lean} so far" if row.verdict == "open" and lean in ("yes", "no") else row.verdict


def _claim(row: Any) -> str:
    about = _measured(row)[:1] or [str(row.reason)]
    return f"{row.claim} ({about[0]})" if about[0] else str(row.claim)


def _measured(row: Any) -> list[str]:
    """Return a number with its unit, and its interval, to three digits; none: empty."""
    known = [abs(n) for n in (row.measured, row.low, row.high) if not math.isnan(n)]
    digits = min(3, max(0, 2 - math.floor(math.log10(max([1e-3, *known])))))
    value, low, high = (f"{n:.{digits}f}" for n in (row.measured, row.low, row.high))
    unit = f" {row.unit}" if isinstance(row.unit, str) else ""
    parts = {f"{value}{unit}": row.measured, f"[{low}, {high}]": row.low}
    return [text for text, number in parts.items() if not math.isnan(number)]
