"""What a notebook saves: figures with their data, tables, verdicts, and a manifest of it all.

A notebook begins a run, saves into it and finishes it::

    run = reports.begin("02_benchmark", globals())
    run.figure("gains", curves.psnr_gains(results), data=results, caption="...")
    run.verdict(*published.beats(results, methods))
    run.finish()

The manifest is written last, so a folder that has one is a whole run.
"""

from __future__ import annotations

import datetime
import html
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dtfn import files, parameters, paths, provenance
from dtfn.files import sha256
from dtfn.reports import runs, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RUN_DIR = "DTFN_RUN_DIR"
"""Variable of the environment that `dtfn.suite` sets: the folder that a notebook writes to."""

_HOLDS = {True: "✓ yes", False: "✗ no", None: "? open"}


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
        return row | {"holds": _HOLDS[self.holds]}


def above_zero(low: float, high: float) -> bool | None:
    """Return whether an interval lies above 0; None where it holds 0 or is not known (NaN)."""
    return True if low > 0 else False if high < 0 else None


class Run:
    """What a notebook writes into ``folder``; made by `begin`. ``record`` becomes the manifest."""

    def __init__(self, notebook: Path, values: Mapping[str, Any], folder: Path) -> None:
        self.folder = folder
        self.record = runs.new_record(notebook, values)
        self.verdicts: list[Verdict] = []
        self._began = time.perf_counter()

    def uses(self, samples: Iterable[Any] = (), files: Iterable[Path] = ()) -> None:
        """Note the run's inputs by hash: the LR and HR pixels of samples, the bytes of files."""
        inputs = self.record["inputs"]
        for s in samples:
            for kind in ("lr", "hr"):
                key = f"{s.dataset}/{s.image}/x{s.scale}/{kind}"
                inputs[key] = provenance.array_hash(getattr(s, kind))
        inputs |= {Path(file).name: sha256(Path(file)) for file in files}

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
        """Save ``tables/name.{csv,md,tex,html}`` and show the table with its caption.

        The CSV keeps every digit; for ``how`` the others print, see `dtfn.reports.tables.printed`.
        """
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
        self.verdicts += verdicts

    def finish(self) -> None:
        """Show the verdicts and where the manifest will be, and write it."""
        rows = [{**asdict(v), "printed": v.row()} for v in self.verdicts]
        if rows:
            printed = pd.DataFrame([row["printed"] for row in rows])
            self.table("checks", printed, caption="What this run says.")
        self.record |= {"status": "complete", "machine": provenance.machine(), "verdicts": rows}
        self.record["timings"]["notebook"] = round(time.perf_counter() - self._began, 3)
        runs.write(self.folder, self.record)
        place = Path(*self.folder.parts[-3:], runs.MANIFEST)
        print("manifest:", str(place).replace(runs.PARTIAL, ""))  # a runner names it at the end

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
    if given := os.environ.get(RUN_DIR):
        return Run(file, values, Path(given))
    now = datetime.datetime.now(datetime.UTC)
    name = f"{now:%Y%m%dT%H%M%SZ}-{provenance.git_state()[0]}-{uuid.uuid4().hex[:8]}"
    folder = paths.RUNS / notebook / name
    folder.mkdir(parents=True)
    return Run(file, values, folder)


def _show(shown: Any) -> None:
    """Display text as HTML, or a picture, where a notebook runs."""
    from IPython import get_ipython
    from IPython.display import HTML, display

    if get_ipython() is not None:
        display(HTML(shown) if isinstance(shown, str) else shown)  # type: ignore[no-untyped-call]
