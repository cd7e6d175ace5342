"""What was found: the rows of all runs' verdicts as one table, five sentences and Markdown.

A notebook saves its rows as the table ``verdicts``, with the columns `COLUMNS`. The sentences are
made from the rows alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from dtfn.reports import tables
from dtfn.statistics import false_discovery

COLUMNS = ("claim", "scale", "verdict", "measured", "low", "high", "unit", "seeds", "pictures")
"""Of the table ``verdicts``: ``verdict`` is yes, no, open or not testable; ``low`` and ``high`` are
the ends of the 95 % interval in ``unit``."""

MOST = 8  # rows of a scale
LEVEL = 0.05  # of false discoveries among all rows
SENTENCES = 5
_COUNTED = {  # verdict -> how one claim and how several are counted, and the sentence of a claim
    "yes": ("holds", "hold", "{claim}{measured}."),
    "no": ("does not", "do not", "It is not so that {claim}{measured}."),
    "open": ("is open", "are open", "It is open whether {claim}{measured}."),
    "not testable": (*["cannot be tested"] * 2, "It cannot be tested here whether {claim}."),
}


def merged(folders: Iterable[Path]) -> pd.DataFrame:
    """Return the rows of all runs: `COLUMNS` and reason, at most `MOST` a scale, large ones first.

    Of a claim that two runs judge, the last one counts. A yes that is no discovery at a rate of 5 %
    over all these rows becomes open.
    """
    found = [pd.DataFrame(columns=[*COLUMNS, "reason", "p"])]
    for folder in folders:
        file = folder / "tables" / "verdicts.csv"
        frame = pd.read_csv(file) if file.is_file() else found[0]
        if len(frame) and set(COLUMNS) <= set(frame):
            found.append(frame)
    rows = pd.concat(found[1:] or found, ignore_index=True).reindex(columns=list(found[0]))
    rows = rows.drop_duplicates(["claim", "scale"], keep="last")
    lost = (rows["verdict"] == "yes") & (false_discovery(rows["p"]) > LEVEL)
    rows["verdict"] = rows["verdict"].mask(lost, "open")
    reason = rows["reason"].astype(object).fillna("")
    rows["reason"] = reason.mask(lost, "no discovery among all claims")
    rows = rows.sort_values("scale", ascending=False, kind="stable").drop(columns="p")
    return rows.groupby("scale", sort=False).head(MOST).reset_index(drop=True)


def sentences(rows: pd.DataFrame) -> list[str]:
    """Return what the rows say, in at most `SENTENCES` sentences.

    The first counts the verdicts of the scale that has most decided ones, the last says how far
    other scales agree, and those between are about claims: decided ones before others.
    """
    if rows.empty:
        return []
    decided = rows["verdict"].isin(["yes", "no"])
    main = decided.groupby(rows["scale"], sort=False).sum().idxmax()
    part, others, last = rows[rows["scale"] == main], rows[rows["scale"] != main], []
    counts = part["verdict"].value_counts()
    words = [f"{counts[v]} {w[int(counts[v] > 1)]}" for v, w in _COUNTED.items() if v in counts]
    first = f"Of {len(part)} claims at ×{main}, {_listed(words)}."
    if len(others):
        both = others.merge(part, on="claim")
        same = (both["verdict_x"] == both["verdict_y"]).sum()
        scales = _listed([f"×{scale}" for scale in others["scale"].unique()])
        last = [f"At {scales}, {same} of {len(both)} verdicts are the same."]
    order = part["verdict"].map(list(_COUNTED).index).clip(lower=1)  # yes and no come alike
    order = order - 0.5 * part["reason"].map(_leans)
    chosen = sorted(order.sort_values(kind="stable").index[: SENTENCES - 1 - len(last)])
    said = []
    for row in part.loc[chosen].itertuples():
        measured = f" ({_measured(row)[0]})" if _measured(row) else ""
        text = _COUNTED[row.verdict][2].format(claim=row.claim, measured=measured)
        if row.verdict == "open" and _leans(row.reason):
            text = f"{row.claim}{measured}: {row.reason}."
        said.append(text[0].upper() + text[1:])
    return [first, *said, *last]


def grid(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row a claim: claim, and for each scale the row's verdict and numbers, or None."""
    table: dict[str, dict[Any, Any]] = {}
    for row in rows.itertuples():
        one = table.setdefault(row.claim, dict.fromkeys(rows["scale"].unique()))
        one[row.scale] = {
            "verdict": row.verdict,
            "parts": [*_measured(row), *([row.reason] if row.reason else [])],
            "about": f"{row.seeds} seeds, {row.pictures} pictures",
        }
    return [{"claim": claim, "scales": scales} for claim, scales in table.items()]


def markdown(rows: pd.DataFrame) -> str:
    """Return the sentences and the table in Markdown: a row a claim, a column a scale."""
    if rows.empty:
        return ""
    cells = [
        {"claim": row["claim"]}
        | {
            f"×{n}": " ".join([f"**{c['verdict']}**", *c["parts"]])
            for n, c in row["scales"].items()
            if c
        }
        for row in grid(rows)
    ]
    said = "".join(f"- {tables.escape(sentence)}\n" for sentence in sentences(rows))
    return f"{said}\n{tables.markdown(pd.DataFrame(cells))}"


def _leans(reason: str) -> bool:
    """Return whether an open claim has an answer, but on too few seeds or pictures."""
    return reason.startswith(("yes on ", "no on "))


def _measured(row: Any) -> list[str]:
    """Return a number with its unit, and its interval, to three digits; none: empty."""
    known = [abs(n) for n in (row.measured, row.low, row.high) if not math.isnan(n)]
    digits = min(3, max(0, 2 - math.floor(math.log10(max([1e-3, *known])))))
    value, low, high = (f"{n:.{digits}f}" for n in (row.measured, row.low, row.high))
    unit = f" {row.unit}" if isinstance(row.unit, str) else ""
    parts = {f"{value}{unit}": row.measured, f"[{low}, {high}]": row.low}
    return [text for text, number in parts.items() if not math.isnan(number)]


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
