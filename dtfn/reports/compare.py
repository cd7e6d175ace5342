"""Two runs: which numbers changed from one to the other, and by how much."""

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
    """What changed from the run in the folder ``before`` to that in ``after``.

    Attributes
    ----------
    changed
        A row a number that is not the same: file, row, column, before, after, difference; NaN
        where only one run has it. The largest differences, relative to the number, come first.
    numbers
        How many numbers the runs have, costs left out.
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
    these to know them apart (row, column, step); else by their place.
    """
    both = pd.concat({"before": _numbers(before), "after": _numbers(after)}, axis=1).reset_index()
    same = (both["before"] == both["after"]) | (both["before"].isna() & both["after"].isna())
    both["difference"] = both["after"] - both["before"]
    relative = both["difference"].abs() / both[["before", "after"]].abs().max(axis=1)
    order = relative.fillna(float("inf"))[~same].sort_values(ascending=False, kind="stable")
    one, two = runs.read(before), runs.read(after)
    old, new = one["parameters"], two["parameters"]
    pairs = {name: (old.get(name), new.get(name)) for name in dict.fromkeys([*old, *new])}
    said = pd.concat({"before": _answers(one), "after": _answers(two)}, axis=1)
    said = said.fillna("not claimed").rename_axis("claim").reset_index()
    return Comparison(
        before,
        after,
        both.loc[order.index].reset_index(drop=True),
        len(both),
        {name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
        said[said["before"] != said["after"]].reset_index(drop=True),
    )


def fingerprint(file: Path) -> str:
    """Return the SHA-256 of a figure or table, of a CSV file without the columns of costs."""
    if file.suffix != ".csv":
        return files.sha256(file)
    frame = pd.read_csv(file)
    kept = frame[[column for column in frame if not PASSING.search(column)]]
    return hashlib.sha256(kept.to_csv(index=False).encode()).hexdigest()


def _answers(record: dict[str, Any]) -> pd.Series:
    printed = {v["claim"]: v["printed"] for v in record["verdicts"]}
    return pd.Series({c: f"{p['measured']} {p['holds']}" for c, p in printed.items()}, dtype=object)


def _numbers(folder: Path) -> pd.Series:
    """Return every number of a run's CSV files, by file, row and column."""
    parts = [pd.DataFrame({"file": [], "row": [], "column": [], "value": []})]
    for file in sorted(folder.glob("[tf]*/*.csv")):  # tables/ and figures/
        if file.name == "checks.csv":  # the verdicts, see above
            continue
        frame = pd.read_csv(file)
        texts = list(frame.select_dtypes(exclude="number"))
        whole = list(frame.select_dtypes("integer"))
        choices = [texts + whole[:n] for n in range(len(whole) + 1)]
        keys = next((k for k in choices if k and not frame.duplicated(k).any()), None)
        named = frame[keys or []].astype(object).fillna("").to_numpy()
        row = [", ".join(map(str, names)) or f"row {n}" for n, names in enumerate(named, start=1)]
        measured = [c for c in frame if c not in (keys or texts) and not PASSING.search(c)]
        long = frame[measured].astype(float).assign(file=f"{file.parent.name}/{file.name}", row=row)
        parts.append(long.melt(["file", "row"], var_name="column", value_name="value"))
    return pd.concat(parts).set_index(["file", "row", "column"])["value"]
