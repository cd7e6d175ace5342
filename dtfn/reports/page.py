"""Pages: HTML for a run and an index over all.

No page makes a request to any host: images are inside, there is no script, and a content policy
forbids both.
"""

from __future__ import annotations

import base64
import datetime
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from dtfn import __version__, files
from dtfn.reports import compare, runs, tables

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
INDEX = "index.html"
_THUMBNAIL = 360  # pixels, the longer side of a picture in the overview; shown at half of it
_VERDICTS = 3  # of a run that stand at the top; the others are in its section
_CHANGES = 50  # numbers that are listed; the rest is counted

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("dtfn.reports"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "listed": lambda values: ", ".join(
        f"{key} {tables.MISSING if value in ('', [], None) else value}"
        for key, value in values.items()
    ),
    "number": lambda value: tables.MISSING if value != value else f"{value:.6g}",  # NaN
    "moment": lambda text: f"{text[:10]} {text[11:16]} UTC",
}


@dataclass(frozen=True)
class Problem:
    """A notebook that did not run to its end: its name, one line, and where its remains are."""

    notebook: str
    message: str
    folder: Path | None = None


def write_run(notebook: Path) -> Path:
    """Write an executed notebook as HTML next to it and return that file.

    Inputs of cells tagged ``hide-input`` are left out.
    """
    import nbformat
    from nbconvert.exporters import HTMLExporter
    from traitlets.config import Config

    config = Config()
    # Only what shows without a script; the first that an output has is taken.
    shown = "text/html image/svg+xml image/png image/jpeg text/markdown text/latex text/plain"
    config.NbConvertBase.display_data_priority = shown.split()
    config.CSSHTMLHeaderPreprocessor.style = "default"
    config.CoalesceStreamsPreprocessor.enabled = True  # of a progress bar, only its end
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = {"hide-input"}
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        config=config,
        template_name="lab",
        template_file="run.html.j2",
        extra_template_paths=[str(Path(__file__).parent / "templates")],
        embed_images=True,
    )
    content = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    for cell in content.cells:
        if cell.cell_type == "markdown":  # another notebook's newest run is in the index
            cell.source = re.sub(r"\]\((\w+)\.ipynb\)", r"](../../../index.html#\1)", cell.source)
    ours = {"policy": POLICY, "title": title(notebook), "style": _style()}
    body, _ = exporter.from_notebook_node(content, resources={"dtfn": ours})
    page = notebook.with_suffix(".html")
    files.write(page, body)
    return page


def title(notebook: Path) -> str:
    """Return the first heading of a notebook, else its name."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for line in "".join(cell["source"]).splitlines():
            if cell["cell_type"] == "markdown" and line.startswith("# "):
                return line.removeprefix("# ").strip()
    return notebook.stem


def write_index(
    reports: Path,
    problems: Sequence[Problem] = (),
    shown: Mapping[str, Path] | None = None,
) -> Path:
    """Write ``index.html`` over all runs and return its path.

    The newest complete run of each name is shown with its figures, tables and verdicts, and what
    changed since the one before it; the others are listed. A run with a broken manifest is named.

    Parameters
    ----------
    reports
        Folder that holds ``runs/``; the index goes into it.
    problems
        Notebooks that did not run just now. Runs that failed earlier, and were not followed by
        a complete one, are added.
    shown
        Name -> the run that is shown instead of the newest.
    """
    records = {folder: runs.read(folder) for folder in runs.finished(reports / "runs")}
    newest = {folder.parent.name: folder for folder in records}
    complete = [f for f, record in records.items() if record["status"] == "complete"]
    chosen = {f.parent.name: f for f in complete} | dict(shown or {})
    known = {problem.notebook for problem in problems}
    failed = [
        Problem(name, records[folder]["error"]["message"], folder)
        for name, folder in newest.items()
        if records[folder]["status"] != "complete" and name not in known
    ]
    broken = [
        Problem(file.parent.parent.name, f"the manifest in {file.parent.name} is empty or broken")
        for file in sorted((reports / "runs").glob(f"*/*/{runs.MANIFEST}.broken"))
        if file.parent not in records
    ]
    lines = {folder: _line(reports, folder, record) for folder, record in records.items()}
    sections = []
    for name, folder in sorted(chosen.items()):
        if folder in complete:
            earlier = [f for f in complete[: complete.index(folder)] if f.parent.name == name]
            sections.append(lines[folder] | _section(folder, earlier[-1] if earlier else None))
    page = _ENVIRONMENT.get_template("index.html.j2").render(
        policy=POLICY,
        style=_style(),
        version=__version__,
        made=datetime.datetime.now(datetime.UTC).isoformat(),
        problems=[
            {"problem": p, "link": lines[p.folder]["link"] if p.folder in lines else None}
            for p in [*problems, *failed, *broken]
        ],
        runs=sections,
        shown=_VERDICTS,
        everything=list(reversed(lines.values())),
    )
    files.write(reports / INDEX, page)
    return reports / INDEX


def _line(reports: Path, folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return a run's record with its name and where it is."""
    page = folder / f"{record['notebook']}.html"
    timings = record["timings"]
    return record | {
        "name": folder.parent.name,
        "title": record.get("title", record["notebook"]),
        "folder": folder.relative_to(reports).as_posix(),
        "link": page.relative_to(reports).as_posix() if page.exists() else None,
        "seconds": timings.get("run", timings.get("notebook", 0)),
    }


def _section(folder: Path, before: Path | None) -> dict[str, Any]:
    """Return a run's figures and tables in the order they were made, and what changed."""
    exhibits = []
    for kind, entry in _exhibits(runs.read(folder)):
        file = folder / kind / entry["name"]
        if kind == "tables":
            exhibits.append(entry | {"html": file.with_suffix(".html").read_text("utf-8")})
            continue
        with Image.open(file.with_suffix(".png")) as picture:
            whole = picture.convert("RGB")
        width = whole.width // 2  # saved at twice the density of a screen
        exhibits.append(entry | {"image": _webp(whole), "width": width})
        whole.thumbnail((_THUMBNAIL, _THUMBNAIL))
        exhibits[-1]["thumbnail"] = _webp(whole)
    changes = compare.compare(before, folder) if before else None
    return {"exhibits": exhibits, "changes": changes, "most": _CHANGES}


def _exhibits(record: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return (kind, entry) of a run's figures and tables but its verdicts, in order."""
    found = [("figures", entry) for entry in record["figures"]]
    found += [("tables", entry) for entry in record["tables"] if entry["name"] != "verdicts"]
    return sorted(found, key=lambda pair: float(pair[1]["after_seconds"]))


def _webp(picture: Image.Image) -> str:
    """Return a picture as text for an address; the files next to the page have every pixel."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


def _style() -> str:
    return (Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
