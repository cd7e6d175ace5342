"""What a notebook saves: figures with their data, tables, verdicts, and a manifest of it all.

A notebook begins a run, saves into it and finishes it::

    run = reports.begin("02_benchmark", globals())
    run.figure("gains", curves.psnr_gains(results), data=results, caption="...")
    run.verdict(*claims.beats(results, methods))
    run.finish()

The folder has a hidden name until it is complete, so whatever has a run's name is a whole run.
"""

from __future__ import annotations

import html
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dtfn import files, parameters, paths, provenance
from dtfn.errors import InputError
from dtfn.files import sha256
from dtfn.reports import runs, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RUN_DIR = "DTFN_RUN_DIR"
"""Environment variable with the folder that a notebook writes to, set by `dtfn.suite`."""

_HOLDS = {True: "✓ yes", False: "✗ no", None: "? open"}


@dataclass(frozen=True)
class Verdict:
    """A claim and what a run says about it.

    Attributes
    ----------
    claim
        A sentence that can be true or false.
    measured, interval
        The number that decides (or text) and its 95 % interval, or None.
    holds
        True, False, or None where the run cannot tell.
    form
        How the numbers are printed, e.g. ``"{:+.3f} dB"``.
    """

    claim: str
    measured: float | str | None
    interval: tuple[float, float] | None
    holds: bool | None
    form: str = "{:.3g}"

    def row(self) -> dict[str, str]:
        """Return the verdict as printed: claim, measured, 95 % interval, holds."""
        number, brace, unit = self.form.partition("}")
        ends = [(number + brace).format(end) for end in self.interval or ()]
        measured = self.measured
        if measured is None or measured != measured:  # NaN
            measured = tables.MISSING
        return {
            "claim": self.claim,
            "measured": measured if isinstance(measured, str) else self.form.format(measured),
            "95 % interval": " to ".join(ends) + unit if ends else tables.MISSING,
            "holds": _HOLDS[self.holds],
        }


def above_zero(low: float, high: float) -> bool | None:
    """Return whether an interval lies above 0; None where it holds 0 or is not known (NaN)."""
    return True if low > 0 else False if high < 0 else None


class Run:
    """What a notebook writes to; made by `begin`.

    Parameters
    ----------
    notebook
        The notebook's file.
    values
        The parameters it runs with.
    folder
        An existing folder to write to.
    managed
        Whether a runner gives the folder its name when the notebook has ended.
    """

    def __init__(
        self, notebook: Path, values: Mapping[str, Any], folder: Path, *, managed: bool
    ) -> None:
        self.folder = folder
        self.record = runs.new_record(notebook, values)
        self.verdicts: list[Verdict] = []
        self._managed = managed
        self._began = time.perf_counter()

    def uses(self, samples: Iterable[Any] = (), files: Iterable[Path] = ()) -> None:
        """Note the run's inputs by hash.

        Parameters
        ----------
        samples
            `dtfn.datasets.Sample` objects; their LR and HR pixels are hashed.
        files
            Files such as weights; their bytes are hashed.
        """
        inputs = self.record["inputs"]
        for s in samples:
            for kind in ("lr", "hr"):
                key = f"{s.dataset}/{s.image}/x{s.scale}/{kind}"
                inputs[key] = provenance.array_hash(getattr(s, kind))
        inputs |= {Path(file).name: sha256(Path(file)) for file in files}

    def figure(self, name: str, figure: Figure, *, data: pd.DataFrame, caption: str) -> None:
        """Save ``figures/name.{svg,png,csv}`` and show the figure with its caption.

        Parameters
        ----------
        name
            File name without extension; a second figure of the name replaces the first.
        figure
            What a function of `dtfn.plots` returned.
        data
            The numbers drawn.
        caption
            What is seen; with metric, channel and border where pixels are compared.

        Without any data, or of a figure without axes, a sentence says that there is nothing.
        """
        from dtfn import plots

        if data.empty or not figure.axes:
            self._nothing("figures", name, caption)
            return
        folder = self._folder("figures")
        plots.save(figure, folder / name, caption)
        data.to_csv(folder / f"{name}.csv", index=False)
        self._note("figures", name, caption)
        if _in_notebook():
            from IPython.display import Image, display

            _show(f'<a id="{name}"></a>')
            image = Image(filename=str(folder / f"{name}.png"), alt=caption, retina=True)  # type: ignore[no-untyped-call]
            display(image)  # type: ignore[no-untyped-call]
            _show(f'<p class="caption">{html.escape(caption)}</p>')

    def table(
        self,
        name: str,
        frame: pd.DataFrame,
        *,
        caption: str,
        best: Mapping[str, tables.Direction] | None = None,
        forms: Mapping[str, str] | None = None,
        groups: str | None = None,
    ) -> None:
        """Save ``tables/name.{csv,md,tex,html}`` and show the table with its caption.

        The CSV keeps every digit; `best`, `forms` and `groups` as in
        `dtfn.reports.tables.markdown`. Without any row the caption says that there is none.
        """
        if frame.empty:
            self._nothing("tables", name, caption)
            return
        folder = self._folder("tables")
        frame.to_csv(folder / f"{name}.csv", index=False)
        shown = tables.html(frame, best, forms, groups)
        plain = tables.markdown(frame, best, forms, groups) + f"\n{tables.escape(caption)}\n"
        tex = tables.latex(frame, best, forms, groups, caption=caption, label=f"tab:{name}")
        for ending, text in {"html": shown, "md": plain, "tex": tex}.items():
            files.write(folder / f"{name}.{ending}", text)
        self._note("tables", name, caption)
        _show(f'{shown}<p class="caption">{html.escape(caption)}</p>')

    def data(self, name: str, frame: pd.DataFrame, *, caption: str) -> None:
        """Save ``data/name.csv``: the numbers behind what is shown, too long to show."""
        if frame.empty:
            self._nothing("data", name, caption)
            return
        file = self._folder("data") / f"{name}.csv"
        frame.to_csv(file, index=False)
        self._note("data", name, caption)
        print(f"{file.relative_to(self.folder)}: {caption}")

    def verdict(self, *verdicts: Verdict) -> None:
        """Add claims to the verdict table that `finish` shows."""
        self.verdicts += verdicts

    def finish(self) -> None:
        """Show the verdicts and where the manifest will be, and write it."""
        rows = [v.row() for v in self.verdicts]
        if rows:
            self.table("checks", pd.DataFrame(rows), caption="What this run says.")
        pairs = zip(self.verdicts, rows, strict=True)
        self.record |= {
            "status": "complete",
            "machine": provenance.machine(),
            "verdicts": [{**asdict(v), "printed": row} for v, row in pairs],
        }
        self.record["timings"]["notebook"] = self._seconds()
        runs.write(self.folder, self.record)
        final = self.folder.with_name(self.folder.name.removeprefix(runs.PARTIAL))
        if not self._managed:
            self.folder = self.folder.rename(final)
        where = final / runs.MANIFEST
        inside = where.is_relative_to(paths.ROOT)
        print("manifest:", where.relative_to(paths.ROOT) if inside else where)

    def _folder(self, kind: str) -> Path:
        folder = self.folder / kind
        folder.mkdir(exist_ok=True)
        return folder

    def _seconds(self) -> float:
        return round(time.perf_counter() - self._began, 3)

    def _nothing(self, kind: str, name: str, caption: str) -> None:
        """Say in a sentence what there is nothing of."""
        self.record[kind][:] = [e for e in self.record[kind] if e["name"] != name]
        self._note("empty", name, caption)
        _show(f'<p class="caption">Nothing to show for: {html.escape(caption)}</p>')

    def _note(self, kind: str, name: str, caption: str) -> None:
        entries = self.record.setdefault(kind, [])
        # A cell that is run again replaces what it saved before.
        entries[:] = [e for e in entries if e["name"] != name]
        entries.append({"name": name, "caption": caption, "after_seconds": self._seconds()})


def begin(notebook: str, namespace: Mapping[str, Any]) -> Run:
    """Begin the run of a notebook.

    Parameters
    ----------
    notebook
        Its name without extension; looked for in the working directory, then in notebooks/.
    namespace
        Where the parameters live, i.e. ``globals()``. Their names are read from the notebook's
        own ``parameters`` cell, so none can be left out of the manifest.

    Raises
    ------
    InputError
        There is no such notebook, or a parameter has no value.
    """
    candidates = [folder / f"{notebook}.ipynb" for folder in (Path.cwd(), paths.NOTEBOOKS)]
    file = next((f for f in candidates if f.exists()), None)
    if file is None:
        raise InputError(
            notebook,
            "the name of a notebook in the working directory or in notebooks/",
            "no such file",
            "pass the notebook's own file name without .ipynb",
        )
    values = parameters.check_namespace(file, namespace)
    given = os.environ.get(RUN_DIR)
    folder = Path(given) if given else runs.new_folder(paths.RUNS, notebook)
    return Run(file, values, folder, managed=bool(given))


def _in_notebook() -> bool:
    from IPython import get_ipython

    return get_ipython() is not None


def _show(text: str) -> None:
    if _in_notebook():
        from IPython.display import HTML, display

        display(HTML(text))  # type: ignore[no-untyped-call]
