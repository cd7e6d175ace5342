"""Folders of runs and their manifest.json: what a run used and made, and how two runs differ."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dtfn import files, provenance
from dtfn.errors import InputError, nearest

MANIFEST = "manifest.json"
PARTIAL = ".partial-"  # begins the name of a run's folder that is not finished
KINDS = ("figures", "tables", "data")  # the manifest's lists, and the folders of their files
# Columns of what a run cost, not of what it found: they differ from run to run.
PASSING = re.compile(r"seconds|minutes|(^|_)time($|_)|loader_share|^memory$| to run$")


def finished(folder: Path) -> list[Path]:
    """Return the complete and failed runs below ``folder``, oldest first."""
    places = [file.parent for file in folder.glob(f"*/[!.]*/{MANIFEST}")]
    records = [(read(place), place) for place in places]
    whole = [(r["started"], f.name, f) for r, f in records if {"started", "status"} <= r.keys()]
    return [place for *_, place in sorted(whole)]


def find(name: str, folder: Path) -> Path:
    """Return the folder of a complete run below ``folder``, or raise `InputError`.

    ``name`` is the run's folder or its name, or a notebook's: its newest run; ``NAME~1``: the one
    before.
    """
    if read(Path(name)):
        return Path(name)
    stem, _, back = name.partition("~")
    complete = [f for f in finished(folder) if read(f)["status"] == "complete"]
    fitting = [f for f in complete if name == f.name or stem == f.parent.name]
    steps = 1 + int(back) if back.isdigit() else 1
    if len(fitting) < steps:
        remedy = nearest(stem, {f.parent.name for f in complete}) if complete else "run it first"
        raise InputError("run", f"a complete run below {folder}", repr(name), remedy)
    return fitting[-steps]


def new_record(notebook: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a manifest says about a run before anything is computed."""
    sha, dirty = provenance.git_state()
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    words = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    heading = re.search("^# (.*)", words, re.MULTILINE)
    return {
        "schema": 1,
        "notebook": notebook.stem,
        "title": heading[1] if heading else notebook.stem,
        "notebook_sha256": files.sha256(notebook),
        "parameters": dict(parameters),
        "code": {"git": sha, "dirty": dirty, "sha256": provenance.code_key()},
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "status": "running",
        "inputs": {},
        **{kind: [] for kind in (*KINDS, "empty")},
        "verdicts": [],
        "timings": {},
    }


def read(folder: Path) -> dict[str, Any]:
    """Return the manifest of a run's folder; ``{}`` where there is none, or a broken one."""
    return files.read_json(folder / MANIFEST, {})


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest, with the hashes of all other files of the folder as ``outputs``."""
    outputs = {
        path.relative_to(folder).as_posix(): files.sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST and not path.name.startswith(".")
    }
    files.write_json(folder / MANIFEST, plain({**content, "outputs": outputs}))


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: numpy converted, other objects as text, NaN as None."""
    text = json.dumps(value, default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v))
    return json.loads(text, parse_constant=lambda _: None)


class Comparison(NamedTuple):
    """What changed between two runs."""

    summary: str  # how many of how many numbers, and the largest difference
    changed: pd.DataFrame  # file, row, column, before, after, difference; largest share first
    words: pd.DataFrame  # parameters and answers to claims that differ: what, before, after


def compare(before: Path, after: Path) -> Comparison:
    """Compare the tables, the figures' data and the verdicts of two runs, given by their folders.

    Rows are matched by their texts, by whole numbers where it takes them, else by their place. A
    number that one run lacks is NaN there.
    """
    both = pd.concat({"before": _numbers(before), "after": _numbers(after)}, axis=1).reset_index()
    same = (both["before"] == both["after"]) | (both["before"].isna() & both["after"].isna())
    both["difference"] = both["after"] - both["before"]
    relative = both["difference"].abs() / both[["before", "after"]].abs().max(axis=1)
    order = relative.fillna(float("inf"))[~same].sort_values(ascending=False, kind="stable")
    changed = both.loc[order.index].reset_index(drop=True)
    summary = f"all {len(both)} numbers are the same"
    if len(changed):
        largest = changed["difference"].abs().max()
        what = "" if pd.isna(largest) else f"; the largest difference is {largest:.3g}"
        summary = f"{len(changed)} of {len(both)} numbers changed{what}"
    words = pd.DataFrame({"before": _words(read(before)), "after": _words(read(after))}).fillna("–")
    words = words[words["before"] != words["after"]].rename_axis("what").reset_index()
    return Comparison(summary, changed, words)


def fingerprint(file: Path) -> str:
    """Return the SHA-256 of a figure or table, of a CSV file without the columns of costs."""
    if file.suffix != ".csv":
        return files.sha256(file)
    frame = pd.read_csv(file)
    kept = frame[[column for column in frame if not PASSING.search(column)]]
    return hashlib.sha256(kept.to_csv(index=False).encode()).hexdigest()


def _words(record: Mapping[str, Any]) -> dict[str, str]:
    printed = [verdict["printed"] for verdict in record["verdicts"]]
    settings = {f"parameter {name}": str(value) for name, value in record["parameters"].items()}
    return settings | {row["claim"]: f"{row['measured']} {row['holds']}" for row in printed}


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
