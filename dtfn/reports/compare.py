"""Two runs side by side: which numbers changed, and by how much."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dtfn import files
from dtfn.reports import runs

PASSING = re.compile(r"seconds|minutes|(^|_)time($|_)|loader_share|^memory$| to run$")
"""Columns of what a run cost, not of what it found: they differ from run to run."""


@dataclass(frozen=True)
class Comparison:
    """What changed from one run to another.

    Attributes
    ----------
    before, after
        The folders of the runs.
    changed
        A row a number that is not the same: file, row, column, before, after, difference; NaN
        where only one run has it. The largest differences, relative to the number, come first.
    numbers
        How many numbers both runs have, costs left out.
    settings
        Parameter -> (before, after), where they differ.
    verdicts
        A row a claim that is not answered as before: claim, before, after.
    """

    before: Path
    after: Path
    changed: pd.DataFrame
    numbers: int
    settings: dict[str, tuple[object, object]]
    verdicts: pd.DataFrame

    @property
    def summary(self) -> str:
        """One line: how many of how many numbers, and the largest difference."""
        if self.changed.empty:
            return f"all {self.numbers} numbers are the same"
        largest = self.changed["difference"].abs().max()
        what = "" if pd.isna(largest) else f"; the largest difference is {largest:.3g}"
        return f"{len(self.changed)} of {self.numbers} numbers changed{what}"


def compare(before: Path, after: Path) -> Comparison:
    """Compare the tables, the figures' data and the verdicts of two runs, given by their folders.

    Rows are matched by their texts (method, dataset, image), and whole numbers where it takes
    these to tell them apart (row, column, step); else by their place.
    """
    values = {"before": _numbers(before), "after": _numbers(after)}
    both = pd.concat(values, axis=1).reset_index()
    same = (both["before"] == both["after"]) | (both["before"].isna() & both["after"].isna())
    both["difference"] = both["after"] - both["before"]
    relative = both["difference"].abs() / both[["before", "after"]].abs().max(axis=1)
    order = relative.fillna(float("inf"))[~same].sort_values(ascending=False, kind="stable")
    records = [runs.read(folder) for folder in (before, after)]
    old, new = (record["parameters"] for record in records)
    pairs = {name: (old.get(name), new.get(name)) for name in dict.fromkeys([*old, *new])}
    return Comparison(
        before,
        after,
        both.loc[order.index].reset_index(drop=True),
        len(both),
        {name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
        _verdicts(*records),
    )


def fingerprint(file: Path) -> str:
    """Return the SHA-256 of a figure or table, of a CSV file without the columns of costs."""
    if file.suffix != ".csv":
        return files.sha256(file)
    frame = _table(file)
    kept = frame[[column for column in frame if not PASSING.search(column)]]
    return hashlib.sha256(kept.to_csv(index=False).encode()).hexdigest()


def _numbers(folder: Path) -> pd.Series:
    """Return every number of a run's CSV files, by file, row and column."""
    found = [
        _long(_table(file), file.relative_to(folder).as_posix())
        for kind in ("tables", "figures")
        for file in sorted((folder / kind).glob("*.csv"))
        if file.name != "checks.csv"
    ]
    blank = pd.DataFrame({"file": [], "row": [], "column": [], "value": []})
    return pd.concat([blank, *found]).set_index(["file", "row", "column"])["value"]


def _table(file: Path) -> pd.DataFrame:
    """Read a CSV file, also one with two lines of names: dataset, and below it the metric."""
    frame = pd.read_csv(file)
    if len(frame) and pd.isna(frame.iloc[0, 0]) and not frame.select_dtypes("number").columns.size:
        frame = pd.read_csv(file, header=[0, 1])
        named = [[part for part in pair if "Unnamed" not in part] for pair in frame.columns]
        frame.columns = [" ".join(parts) for parts in named]
    return frame


def _long(frame: pd.DataFrame, file: str) -> pd.DataFrame:
    """Return the numbers of a table, one a row, each with the name of its row."""
    texts = list(frame.select_dtypes(exclude="number"))
    whole = list(frame.select_dtypes("integer"))
    choices = [texts + whole[:n] for n in range(len(whole) + 1)]
    keys = next((k for k in choices if k and not frame.duplicated(k).any()), None)
    if keys is None:
        row = pd.Series([f"row {number + 1}" for number in range(len(frame))], index=frame.index)
    else:
        named = frame[keys].astype(object).fillna("").astype(str)
        row = pd.Series(map(", ".join, named.to_numpy()), index=frame.index, dtype=str)
    measured = [c for c in frame if c not in (keys or texts) and not PASSING.search(c)]
    long = frame[measured].astype(float).assign(file=file, row=row)
    return long.melt(["file", "row"], var_name="column", value_name="value")


def _verdicts(*records: dict[str, Any]) -> pd.DataFrame:
    one, two = ({v["claim"]: _answer(v["printed"]) for v in r["verdicts"]} for r in records)
    rows = [(c, one.get(c, "not claimed"), two.get(c, "not claimed")) for c in {**one, **two}]
    frame = pd.DataFrame(rows, columns=["claim", "before", "after"])
    return frame[frame["before"] != frame["after"]].reset_index(drop=True)


def _answer(printed: dict[str, str]) -> str:
    return f"{printed['measured']} {printed['holds']}"
