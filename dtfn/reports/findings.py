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

from dtfn.reports import runs, tables
from dtfn.statistics import false_discovery

TABLE, CURVE, TEXTURES = "verdicts", ("harm_curve",), ("worst_and_best", "textures")
"""Names by which the first screen finds a run's table of verdicts and its two figures."""

COLUMNS = (*("claim", "scale", "verdict", "measured", "low", "high", "unit", "seeds", "pictures"),)
"""Of the table ``verdicts``: ``verdict`` is one of `VERDICTS`, ``low`` and ``high`` are the ends of
the 95 % interval in ``unit``."""

VERDICTS = ("yes", "no", "open", "not testable")
MOST = 8  # rows of a scale
LEVEL = 0.05  # of false discoveries among all rows
SENTENCES = 5
_NONE = "no discovery among all claims"
_COUNTED = {
    "yes": ("holds", "hold"),
    "no": ("does not", "do not"),
    "open": ("is open", "are open"),
    "not testable": ("cannot be tested", "cannot be tested"),
}
_TEMPLATES = {
    "yes": "{claim}{measured}.",
    "no": "It is not so that {claim}{measured}.",
    "open": "It is open whether {claim}{measured}.",
    "not testable": "It cannot be tested here whether {claim}.",
}


def merged(folders: Iterable[Path]) -> pd.DataFrame:
    """Return the rows of all runs: `COLUMNS` and reason, at most `MOST` a scale, large ones first.

    A yes that is no discovery at a rate of 5 % over all these rows becomes open.

    Parameters
    ----------
    folders
        Of complete runs. Of a claim that two runs judge, the last one counts.
    """
    found = [pd.DataFrame(columns=[*COLUMNS, "reason", "p"])]
    for folder in folders:
        file = folder / "tables" / f"{TABLE}.csv"
        frame = pd.read_csv(file) if file.is_file() else pd.DataFrame()
        if set(COLUMNS) <= set(frame):
            found.append(frame)
    rows = pd.concat([part for part in found if len(part)] or found, ignore_index=True)
    rows = rows.reindex(columns=found[0].columns).drop_duplicates(["claim", "scale"], keep="last")
    lost = (rows["verdict"] == "yes") & (false_discovery(rows["p"]) > LEVEL)
    rows["verdict"] = rows["verdict"].mask(lost, "open")
    rows["reason"] = rows["reason"].astype(object).fillna("").mask(lost, _NONE)
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
    part = rows[rows["scale"] == main]
    counted = part["verdict"].value_counts().to_dict()
    parts = [f"{counted[v]} {_COUNTED[v][counted[v] > 1]}" for v in VERDICTS if v in counted]
    first = f"Of {len(part)} claims at ×{main}, {_listed(parts)}."
    others, last = rows[rows["scale"] != main], []
    if len(others):
        both = others.merge(part, on="claim")
        same = int((both["verdict_x"] == both["verdict_y"]).sum())
        scales = _listed([f"×{scale}" for scale in others["scale"].unique()])
        last = [f"At {scales}, {same} of {len(both)} verdicts are the same."]
    order = part["verdict"].map(VERDICTS.index).clip(lower=1)  # yes and no come alike
    order = order - 0.5 * part["reason"].map(_leans)
    chosen = order.sort_values(kind="stable").index[: SENTENCES - 1 - len(last)]
    return [first, *(_sentence(row) for row in part.loc[sorted(chosen)].itertuples()), *last]


def grid(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row a claim: claim, and for each scale the row's verdict and numbers, or None."""
    table: dict[str, dict[Any, Any]] = {}
    for row in rows.itertuples():
        one = table.setdefault(row.claim, dict.fromkeys(rows["scale"].unique()))
        one[row.scale] = {
            "verdict": row.verdict,
            "parts": [part for part in (*_measured(row), row.reason) if part],
            "about": f"{row.seeds} seeds, {row.pictures} pictures",
        }
    return [{"claim": claim, "scales": scales} for claim, scales in table.items()]


def markdown(rows: pd.DataFrame) -> str:
    """Return the sentences and the table in Markdown: a row a claim, a column a scale."""
    cells = [
        {
            f"×{n}": f"{' '.join(['**' + one['verdict'] + '**', *one['parts']])}"
            for n, one in row["scales"].items()
            if one
        }
        for row in grid(rows)
    ]
    table = pd.DataFrame(cells, index=[row["claim"] for row in grid(rows)]).reset_index(
        names="claim"
    )
    said = "".join(f"- {tables.escape(sentence)}\n" for sentence in sentences(rows))
    return f"{said}\n{tables.markdown(table)}" if len(rows) else ""


def exhibit(folders: Iterable[Path], names: Iterable[str]) -> tuple[Path, str] | None:
    """Return the file and the caption of the first figure of these names; None without one."""
    shown = [(f, e["name"], e["caption"]) for f in folders for e in runs.read(f)["figures"]]
    for name in names:
        for folder, other, caption in shown:
            if name == other:
                return picture(folder, name), caption
    return None


def picture(folder: Path, name: str) -> Path:
    """Return the file of a run's figure: of a baseline it is WebP."""
    file = folder / "figures" / f"{name}.webp"
    return file if file.is_file() else file.with_suffix(".png")


def _sentence(row: Any) -> str:
    measured = _measured(row)[0]
    said = f" ({measured})" if measured else ""
    text = _TEMPLATES[row.verdict].format(claim=row.claim, measured=said)
    if row.verdict == "open" and _leans(row.reason):
        text = f"{row.claim}{said}: {row.reason}."
    return text[0].upper() + text[1:]


def _leans(reason: str) -> bool:
    """Return whether an open claim has an answer, but on too few seeds or pictures."""
    return reason.startswith(("yes on ", "no on "))


def _measured(row: Any) -> tuple[str, str]:
    """Return a number with its unit, and its interval, to three digits; empty: none."""
    known = [abs(n) for n in (row.measured, row.low, row.high) if n == n]  # not NaN
    digits = min(3, max(0, 2 - math.floor(math.log10(max([1e-3, *known])))))
    value, low, high = (f"{n:.{digits}f}" for n in (row.measured, row.low, row.high))
    unit = f" {row.unit}" if isinstance(row.unit, str) else ""
    ends = f"[{low}, {high}]" if row.low == row.low else ""
    return (f"{value}{unit}", ends) if row.measured == row.measured else ("", "")


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
