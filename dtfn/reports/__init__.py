"""What a notebook saves: figures with their data, tables, verdicts, and a manifest of it all.

A notebook begins a run, saves into it and finishes it (`begin`, `Run`). The manifest is written
last, so a folder that has one is a whole run.
"""

from __future__ import annotations

import datetime
import hashlib
import html
import json
import os
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dtfn import cache, files, parameters, paths, provenance
from dtfn.errors import InputError, nearest
from dtfn.files import sha256
from dtfn.reports import tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RUN_DIR = "DTFN_RUN_DIR"  # in the environment `dtfn.suite` names the folder that a run writes to
MANIFEST = "manifest.json"
PARTIAL = ".partial-"  # begins the name of a run's folder that is not finished
# Columns of what a run cost, not of what it found: they differ from run to run.
PASSING = re.compile(r"seconds|minutes|(^|_)time($|_)|loader_share|^memory$| to run$")


@dataclass(frozen=True)
class Verdict:
    """A claim and what a run says about it."""

    claim: str  # a sentence that can be true or false
    measured: float | str | None  # the number that decides, or text
    interval: tuple[float, float] | None  # of 95 %
    holds: bool | None  # None where the run cannot tell
    form: str = "{:.3g}"  # how the numbers are printed, e.g. "{:+.3f} dB"

    def row(self) -> dict[str, str]:
        """Return the verdict as printed: claim, measured, 95 % interval, holds."""
        plain, _, unit = self.form.partition("}")
        ends = " to ".join(tables.number(f"{plain}}}", end) for end in self.interval or ())
        shown = self.measured
        if not isinstance(shown, str):
            shown = tables.MISSING if pd.isna(shown) else tables.number(self.form, shown)
        row = {"claim": self.claim, "measured": shown}
        row["95 % interval"] = ends + unit if ends else tables.MISSING
        return row | {"holds": {True: "✓ yes", False: "✗ no", None: "? open"}[self.holds]}


def above_zero(low: float, high: float) -> bool | None:
    """Return whether an interval lies above 0; None where it holds 0 or is not known (NaN)."""
    return True if low > 0 else False if high < 0 else None


class Run:
    """What a notebook writes into ``folder``; made by `begin`. ``record`` becomes the manifest."""

    def __init__(self, notebook: Path, values: Mapping[str, Any], folder: Path) -> None:
        self.folder = folder
        self.record = new_record(notebook, values)
        self._began = time.perf_counter()

    def uses(self, samples: Iterable[Any] = (), files: Iterable[Path] = ()) -> None:
        """Note the run's inputs by hash: the LR and HR pixels of samples, the bytes of files."""
        for s in samples:
            at = f"{s.dataset}/{s.image}/x{s.scale}"
            self.record["inputs"] |= {f"{at}/lr": cache.key(s.lr), f"{at}/hr": cache.key(s.hr)}
        self.record["inputs"] |= {Path(file).name: sha256(Path(file)) for file in files}

    def figure(self, name: str, figure: Figure, *, data: pd.DataFrame, caption: str) -> None:
        """Save ``figures/name.{svg,png,csv}``, the CSV of ``data``, and show it, with a caption."""
        from IPython.display import Image

        from dtfn import plots

        if place := self._saved("figures", name, caption, data if figure.axes else data[:0]):
            plots.save(figure, place, caption)
            _show(f'<a id="{name}"></a>')
            _show(Image(filename=f"{place}.png", alt=caption, retina=True))  # type: ignore[no-untyped-call]
            _show(f'<p class="caption">{html.escape(caption)}</p>')

    def table(self, name: str, frame: pd.DataFrame, *, caption: str, **how: Any) -> None:
        """Save ``tables/name.{csv,md,tex,html}``, all but the CSV as `printed`, and show it."""
        if place := self._saved("tables", name, caption, frame):
            shown = tables.html(frame, **how)
            plain = f"{tables.markdown(frame, **how)}\n{tables.escape(caption)}\n"
            tex = tables.latex(frame, caption=caption, label=f"tab:{name}", **how)
            for ending, text in {"html": shown, "md": plain, "tex": tex}.items():
                files.write(Path(f"{place}.{ending}"), text)
            _show(f'{shown}<p class="caption">{html.escape(caption)}</p>')

    def data(self, name: str, frame: pd.DataFrame, *, caption: str) -> None:
        """Save ``data/name.csv``: the numbers behind what is shown, too long to show."""
        if self._saved("data", name, caption, frame):
            print(f"data/{name}.csv: {caption}")

    def verdict(self, *verdicts: Verdict) -> None:
        """Add claims to the verdict table that `finish` shows."""
        self.record["verdicts"] += [{**asdict(v), "printed": v.row()} for v in verdicts]

    def finish(self) -> None:
        """Show the verdicts and where the manifest will be, and write it."""
        if self.record["verdicts"]:
            printed = pd.DataFrame([row["printed"] for row in self.record["verdicts"]])
            self.table("checks", printed, caption="What this run says.")
        self.record |= {"status": "complete", "machine": provenance.machine()}
        self.record["timings"]["notebook"] = round(time.perf_counter() - self._began, 3)
        write(self.folder, self.record)
        place = Path(*self.folder.parts[-3:], MANIFEST)
        print("manifest:", str(place).replace(PARTIAL, ""))  # a runner names it at the end

    def _saved(self, kind: str, name: str, caption: str, frame: pd.DataFrame) -> Path | None:
        """Save the numbers of what is shown; return their place without a suffix, None if empty."""
        for known in (kind, "empty"):
            self.record[known] = [e for e in self.record[known] if e["name"] != name]
        self.record["empty" if frame.empty else kind].append({"name": name, "caption": caption})
        if frame.empty:
            _show(f'<p class="caption">Nothing to show for: {html.escape(caption)}</p>')
            return None
        place = self.folder / kind / name
        files.write(Path(f"{place}.csv"), frame.to_csv(index=False))
        return place


def begin(notebook: str, namespace: Mapping[str, Any]) -> Run:
    """Begin the run of a notebook, here or in notebooks/; ``namespace`` is its ``globals()``."""
    file = Path.cwd() / f"{notebook}.ipynb"
    if not file.exists():
        file = paths.NOTEBOOKS / file.name
    values = parameters.check_namespace(file, namespace)
    now = datetime.datetime.now(datetime.UTC)
    name = f"{now:%Y%m%dT%H%M%SZ}-{provenance.git_state()[0]}-{uuid.uuid4().hex[:8]}"
    folder = Path(os.environ.get(RUN_DIR) or paths.RUNS / notebook / name)
    folder.mkdir(parents=True, exist_ok=True)
    return Run(file, values, folder)


def _show(shown: Any) -> None:
    """Display text as HTML, or a picture, where a notebook runs."""
    from IPython import get_ipython
    from IPython.display import HTML, display

    if get_ipython() is not None:
        display(HTML(shown) if isinstance(shown, str) else shown)  # type: ignore[no-untyped-call]


def finished(folder: Path) -> dict[Path, dict[str, Any]]:
    """Return the complete and failed runs below ``folder`` with their records, oldest first."""
    records = {file.parent: read(file.parent) for file in folder.glob(f"*/[!.]*/{MANIFEST}")}
    whole = [f for f, record in records.items() if {"started", "status"} <= record.keys()]
    return {f: records[f] for f in sorted(whole, key=lambda f: (records[f]["started"], f.name))}


def find(name: str, folder: Path) -> Path:
    """Return a run's folder, by its name or a notebook's (the newest); ``NAME~1``: one before."""
    if read(Path(name)):
        return Path(name)
    stem, _, back = name.partition("~")
    complete = [f for f, run in finished(folder).items() if run["status"] == "complete"]
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
        **{kind: [] for kind in ("figures", "tables", "data", "empty")},  # names and captions
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


def compare(before: Path, after: Path) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """Compare the tables, the figures' data and the verdicts of two runs, given by their folders.

    Returned are a sentence; the numbers that differ (file, row, column, before, after, difference),
    the largest share first; and parameters and answers to claims that differ (what, before, after).
    Rows are matched by their texts, by whole numbers where it takes them, else by their place.
    """
    both = pd.concat({"before": _numbers(before), "after": _numbers(after)}, axis=1).reset_index()
    both["difference"] = both["after"] - both["before"]
    relative = both["difference"].abs() / both[["before", "after"]].abs().max(axis=1)
    same = both["before"].eq(both["after"]) | both[["before", "after"]].isna().all(axis=1)
    order = relative[~same].sort_values(ascending=False, kind="stable", na_position="first")
    changed = both.loc[order.index].reset_index(drop=True)
    summary = f"all {len(both)} numbers are the same"
    if len(changed):
        largest = changed["difference"].abs().max()
        what = "" if pd.isna(largest) else f"; the largest difference is {largest:.3g}"
        summary = f"{len(changed)} of {len(both)} numbers changed{what}"
    words = pd.DataFrame({"before": _words(read(before)), "after": _words(read(after))}).fillna("–")
    words = words[words["before"] != words["after"]].rename_axis("what").reset_index()
    return summary, changed, words


def fingerprint(file: Path) -> str:
    """Return the SHA-256 of a figure or table, of a CSV file without the columns of costs."""
    if file.suffix != ".csv":
        return files.sha256(file)
    frame = pd.read_csv(file)
    kept = frame[[column for column in frame if not PASSING.search(column)]]
    return hashlib.sha256(kept.to_csv(index=False).encode()).hexdigest()


def _words(record: Mapping[str, Any]) -> dict[str, str]:
    words = {f"parameter {name}": str(value) for name, value in record["parameters"].items()}
    for row in (verdict["printed"] for verdict in record["verdicts"]):
        words[row["claim"]] = f"{row['measured']} {row['holds']}"
    return words


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
