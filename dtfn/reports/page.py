"""Pages: HTML for a run, an index that begins with what was found, and a copy of it to commit.

No page makes a request to any host: images are inside, there is no script, and a content policy
forbids both.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from dtfn import __version__, files, paths
from dtfn.errors import InputError
from dtfn.reports import compare, findings, runs, tables

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
INDEX = "index.html"
THUMBNAIL, SHOWN = 480, 1240  # pixels across, of an overview's picture and of a first screen's
LARGEST = 3_000_000  # bytes
WIDTHS = (1000, 800, 640, 480)  # pixels across of the figures; the first that fits is taken
_README = "README.md"  # the page of a baseline
_MARK = "Written by `dtfn report keep`"  # marks a folder as a baseline
_TEXT = f"""# Where non-local attention harms textures

{_MARK}; nothing here is typed by hand. [index.html](index.html) is the whole report, for a browser.

<!-- picture -->
<!-- end -->

<!-- verdicts -->
<!-- end -->
"""
FEW = ("smoke", "demo")  # tiers of too few pictures to judge by

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
    "moment": lambda text: f"{text[:10]} {text[11:16]} UTC",
    "time": lambda n: f"{n:.0f} s" if n < 100 else f"{n / 60:.0f} min",
}


@dataclass(frozen=True)
class Problem:
    """A notebook that did not run to its end: its name, one line, and where its remains are."""

    notebook: str
    message: str
    folder: Path | None = None


def write_run(notebook: Path) -> Path:
    """Write an executed notebook as HTML next to it and return that file.

    Inputs of cells tagged ``hide-input`` are left out, others are folded. At the end the page says
    what the run used, and names its files.
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
    exporter.environment.filters |= _ENVIRONMENT.filters
    content = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    for cell in content.cells:
        if cell.cell_type == "markdown":  # another notebook's newest run is in the index
            cell.source = re.sub(r"\]\((\w+)\.ipynb\)", r"](../../../index.html#\1)", cell.source)
    ours: dict[str, Any] = {"policy": POLICY, "title": title(notebook), "style": _style()}
    ours |= {"run": runs.read(notebook.parent)}
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


def write_index(reports: Path, problems: Sequence[Problem] = ()) -> Path:
    """Write ``index.html`` and ``verdicts.csv`` over all runs and return the page's path.

    It begins with what the runs of the newest suite found (see `suite_runs`), and shows each of
    them by thumbnails that lead to its own page. Other runs, that a reader started or sent, follow:
    the newest complete one of each name. All runs are listed with their times.

    Parameters
    ----------
    reports
        Folder that holds ``runs/``; the index goes into it.
    problems
        Notebooks that did not run just now. Runs that failed earlier, and were not followed by
        a complete one, are added, and so are runs with a broken manifest.
    """
    records = {folder: runs.read(folder) for folder in runs.finished(reports / "runs")}
    complete = [f for f, record in records.items() if record["status"] == "complete"]
    suite = [folder for folder in suite_runs(reports).values() if folder in complete]
    own = {f.parent.name: f for f in complete if f not in suite and not records[f].get("tier")}
    if not suite:
        own = {f.parent.name: f for f in complete}
    lines = {folder: _line(reports, folder, record) for folder, record in records.items()}
    for folder in [*suite, *own.values()]:
        own_name = "own-" if suite and folder not in suite else ""
        lines[folder]["id"] = own_name + folder.parent.name
        earlier = [f for f in complete[: complete.index(folder)] if f.parent == folder.parent]
        if earlier and records[earlier[-1]]["parameters"] == records[folder]["parameters"]:
            changes = compare.compare(earlier[-1], folder)
            lines[folder]["changes"] = f"Since {earlier[-1].name}: {changes.summary}."
        for figure in lines[folder]["figures"]:
            file = findings.picture(folder, figure["name"])
            figure |= {"thumbnail": _thumbnail(file), "file": f"figures/{file.name}"}
    shown = suite or list(own.values())
    rows = findings.merged(shown)
    exhibits = [
        {"image": base64.b64encode(_webp(found[0], SHOWN)).decode(), "caption": found[1]}
        for names in (findings.CURVE, findings.TEXTURES)
        if (found := findings.exhibit(shown, names))
    ]
    inputs = {
        tuple(key.split("/")[:2]) for f in shown for key in records[f]["inputs"] if "/hr" in key
    }
    text = _ENVIRONMENT.get_template("index.html.j2").render(
        policy=POLICY,
        style=_style(),
        version=__version__,
        made=datetime.datetime.now(datetime.UTC).isoformat(),
        sentences=findings.sentences(rows),
        grid=findings.grid(rows),
        scales=list(rows["scale"].unique()),
        exhibits=exhibits,
        pictures=len(inputs),
        few=bool(shown) and all(records[f].get("tier") in FEW for f in shown),
        cost=sum(lines[f]["seconds"] for f in shown),
        problems=[
            (p, lines.get(p.folder or Path())) for p in _problems(reports, records, problems)
        ],
        suite=[lines[folder] for folder in suite],
        own=[lines[folder] for _, folder in sorted(own.items())],
        everything=list(reversed(lines.values())),
        baseline=_baseline(reports),
    )
    files.write(reports / INDEX, text)
    if len(rows):
        rows = rows[list(findings.COLUMNS)]
        files.write(reports / f"{findings.TABLE}.csv", rows.to_csv(index=False))
    return reports / INDEX


def suite_runs(reports: Path) -> dict[str, Path]:
    """Return name -> folder of the runs of the suite that was reproduced last; none: empty."""
    written = sorted(reports.glob("suite-*.json"), key=lambda file: file.stat().st_mtime_ns)
    asked = files.read_json(written[-1], {}).get("runs", {}) if written else {}
    return {name: reports / "runs" / name / run["key"][:16] for name, run in asked.items()}


def keep(reports: Path, folder: Path) -> Path:
    """Copy the suite that was reproduced last to where it can be committed, and return its page.

    The copy is a report in itself: index, manifests, tables as CSV, and figures as WebP, as wide as
    `LARGEST` allows; without notebooks. Its README.md shows the same where there is no browser.

    Parameters
    ----------
    reports
        The folder of the report.
    folder
        A new folder, or that of an older baseline, whose place a whole new one takes.

    Raises
    ------
    InputError
        There is something else in that place, no suite was reproduced, or the runs are too large.
    """
    kept = suite_runs(reports)
    if not kept:
        wanted, remedy = "runs of a suite", "make them with `dtfn reproduce`"
        raise InputError(reports, wanted, "none", remedy)
    page = folder / _README
    ours = page.is_file() and _MARK in page.read_text(encoding="utf-8", errors="replace")
    if folder.exists() and not ours:
        wanted, remedy = "a new folder, or an older baseline", "choose another folder"
        raise InputError(folder, wanted, "something else", remedy)
    with files.writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        for across in WIDTHS:
            draft = Path(place) / f"{across}"
            size = _write(draft, kept, reports, across)
            if size <= LARGEST:
                break
        else:
            wanted, remedy = f"at most {LARGEST:,} bytes", "save fewer figures or tables"
            raise InputError(reports, wanted, f"{size:,}", remedy)
        if folder.exists():
            folder.rename(Path(place) / "older")
        draft.rename(folder)
    return page


def cut(readme: str, folder: Path, link: str) -> str:
    """Return the README with what a baseline says: its picture and its verdicts.

    They stand between ``<!-- picture ... -->`` or ``<!-- verdicts ... -->`` and ``<!-- end -->``.

    Parameters
    ----------
    readme
        The text.
    folder
        Of the baseline.
    link
        Where it is, seen from the README.
    """
    kept = suite_runs(folder).values()
    found = findings.exhibit(kept, findings.TEXTURES)
    picture = ""
    if found:
        place = found[0].relative_to(folder).as_posix()
        picture = f"![Textures that attention harmed and helped]({link}/{place})\n\n*{found[1]}*\n"
    verdicts = findings.markdown(findings.merged(kept))
    for slot, content in {"picture": picture, "verdicts": verdicts}.items():
        between = re.compile(rf"(<!-- {slot}\b[^>]*-->\n).*?(<!-- end -->)", re.DOTALL)
        readme = between.sub(partial(_filled, content), readme)
    return readme


def _problems(
    reports: Path, records: dict[Path, dict[str, Any]], problems: Sequence[Problem]
) -> list[Problem]:
    """Return the problems with those of earlier runs."""
    known = {problem.notebook for problem in problems}
    newest = {folder.parent.name: folder for folder in records}
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
    return [*problems, *failed, *broken]


def _baseline(reports: Path) -> str | None:
    """Return the link to the baseline's page, if this is a checkout that has one."""
    page = paths.ROOT / "reports" / "baseline" / INDEX
    return os.path.relpath(page, reports) if page.is_file() else None


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


def _thumbnail(file: Path) -> str:
    """Return a figure's thumbnail as text for an address; it is made once."""
    kept = paths.CACHE / "thumbnails" / f"{files.sha256(file)}.webp"
    with contextlib.suppress(OSError):
        return base64.b64encode(kept.read_bytes()).decode()
    text = _webp(file, THUMBNAIL)
    with contextlib.suppress(OSError, InputError):  # the disk may be full
        files.write(kept, text)
    return base64.b64encode(text).decode()


def _webp(file: Path, across: int) -> bytes:
    """Return a picture at most so many pixels across; the file itself has every pixel."""
    with Image.open(file) as picture:
        whole = picture.convert("RGB")
    whole.thumbnail((across, 10 * across))
    buffer = io.BytesIO()
    whole.save(buffer, "WEBP", quality=80, method=4)
    return buffer.getvalue()


def _style() -> str:
    return (Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")


def _filled(content: str, slot: re.Match[str]) -> str:
    return f"{slot[1]}{content}{slot[2]}"


def _write(folder: Path, kept: Mapping[str, Path], reports: Path, across: int) -> int:
    """Write a baseline with figures of a width, and return its bytes."""
    copies = {name: folder / run.relative_to(reports) for name, run in kept.items()}
    for name, run in kept.items():
        record = runs.read(run)
        if not record:
            raise InputError(run, "a complete run", "none", "run it again")
        for kind in ("figures", "tables"):
            (copies[name] / kind).mkdir(parents=True)
        for figure in record["figures"]:
            place = copies[name] / "figures" / f"{figure['name']}.webp"
            place.write_bytes(_webp(findings.picture(run, figure["name"]), across))
        for table in record["tables"]:
            place = copies[name] / "tables" / f"{table['name']}.csv"
            shutil.copyfile(run / "tables" / place.name, place)
        files.write_json(copies[name] / runs.MANIFEST, record | {"data": []})
    suite = reports / f"suite-{record['tier']}.json"
    shutil.copyfile(suite, folder / suite.name)
    (folder / _README).write_text(cut(_TEXT, folder, "."), encoding="utf-8")
    write_index(folder)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
