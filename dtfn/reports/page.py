"""Pages: HTML for a run and an index over all, and an excerpt in Markdown that can be committed.

No page makes a request to any host: images are inside, there is no script, and a content policy
forbids both.
"""

from __future__ import annotations

import base64
import datetime
import io
import json
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from PIL import Image

from dtfn import __version__
from dtfn.errors import InputError
from dtfn.reports import compare, runs, tables

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
INDEX = "index.html"
THUMBNAIL = 180  # pixels, the longer side of a picture in the overview
CHANGES = 50  # numbers that are listed; the rest is counted

README = "README.md"  # the page of an excerpt
MARK = "Written by `dtfn report keep`"  # by which an excerpt is known
QUALITY = 75  # of WebP
ACROSS = 1000  # pixels at most: what a page shows
LINES = 90  # of a table's Markdown; a longer one is left out

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("dtfn.reports"),
    autoescape=jinja2.select_autoescape(["html.j2"], default=True),
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Problem:
    """A notebook that did not run to its end: its name, one line, and where its remains are."""

    notebook: str
    message: str
    folder: Path | None = None


def write_run(notebook: Path) -> Path:
    """Write an executed notebook as HTML beside it and return that file.

    Inputs of cells tagged ``hide-input`` are left out.
    """
    import nbformat
    from nbconvert.exporters import HTMLExporter
    from traitlets.config import Config

    config = Config()
    # Only what shows without a script; the first that an output has is taken.
    config.NbConvertBase.display_data_priority = [
        "text/html",
        "image/svg+xml",
        "image/png",
        "image/jpeg",
        "text/markdown",
        "text/latex",
        "text/plain",
    ]
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
        if cell.cell_type == "markdown":  # a neighbour's newest run is in the index
            cell.source = re.sub(r"\]\((\w+)\.ipynb\)", r"](../../../index.html#\1)", cell.source)
    ours = {"policy": POLICY, "title": title(notebook), "style": _source("style.css")}
    body, _ = exporter.from_notebook_node(content, resources={"dtfn": ours})
    page = notebook.with_suffix(".html")
    page.write_text(body, encoding="utf-8")
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
    changed since the one before it; the others are listed.

    Parameters
    ----------
    reports
        Folder that holds ``runs/``; the index goes into it.
    problems
        Notebooks that did not run just now. Runs that failed earlier, and were not followed by
        a complete one, are found by themselves.
    shown
        Name -> the run that is shown instead of the newest.
    """
    found = [(folder, runs.read(folder)) for folder in runs.finished(reports / "runs")]
    # Oldest first, so that the newest of a name stays.
    newest = {folder.parent.name: (folder, content) for folder, content in found}
    complete = [(folder, content) for folder, content in found if content["status"] == "complete"]
    chosen = {folder.parent.name: folder for folder, _ in complete} | dict(shown or {})
    failed = [
        Problem(name, content["error"]["message"], folder)
        for name, (folder, content) in newest.items()
        if content["status"] != "complete" and name not in {p.notebook for p in problems}
    ]
    earlier = _earlier([folder for folder, _ in complete])
    sections = [
        _run(reports, folder, content, earlier[folder])
        for folder, content in sorted(complete, key=lambda pair: pair[0].parent.name)
        if chosen[folder.parent.name] == folder
    ]
    page = _page(
        "index.html.j2",
        problems=[_problem(reports, p) for p in [*problems, *failed]],
        runs=sections,
        everything=[_line(reports, folder, content) for folder, content in reversed(found)],
    )
    reports.mkdir(parents=True, exist_ok=True)
    return _replace(reports / INDEX, page)


def _page(template: str, **content: Any) -> str:
    return _ENVIRONMENT.get_template(template).render(
        policy=POLICY,
        style=_source("style.css"),
        version=__version__,
        made=_readable(datetime.datetime.now(datetime.UTC).isoformat()),
        **content,
    )


def _replace(file: Path, page: str) -> Path:
    """Write a page so that nobody reads half of it, nor two processes write into one."""
    half = file.with_name(f".{file.name}.{os.getpid()}.partial")
    half.write_text(page, encoding="utf-8")
    half.replace(file)
    return file


def _earlier(complete: Sequence[Path]) -> dict[Path, Path | None]:
    """Return run -> the complete run of its name before it."""
    before: dict[str, Path] = {}
    found = {}
    for folder in complete:
        found[folder] = before.get(folder.parent.name)
        before[folder.parent.name] = folder
    return found


def _line(reports: Path, folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return what the list of all runs tells of one."""
    timings = content["timings"]
    return {
        "name": folder.parent.name,
        "status": content["status"],
        "tier": content.get("tier") or "–",
        "started": _readable(content["started"]),
        "duration": f"{timings.get('run', timings.get('notebook', 0)):.0f} s",
        "commit": content["code"]["git"] + ("*" if content["code"]["dirty"] else ""),
        "parameters": _listed(content["parameters"]),
        "folder": folder.relative_to(reports).as_posix(),
        "link": _html(reports, folder, content["notebook"]),
    }


def _run(
    reports: Path, folder: Path, content: dict[str, Any], before: Path | None
) -> dict[str, Any]:
    """Return what the template shows of a run."""
    name = content["notebook"]
    code, machine = content["code"], content["machine"]
    return {
        **_line(reports, folder, content),
        "notebook": name,
        "title": content.get("title", name),
        "verdicts": content["verdicts"],
        "changes": _changes(compare.compare(before, folder), CHANGES) if before else None,
        "exhibits": sorted(
            [_figure(folder, f) for f in content["figures"]]
            + [_table(folder, t) for t in content["tables"] if t["name"] != "verdicts"],
            key=lambda e: float(e["after_seconds"]),
        ),
        "data": content.get("data", []),
        "provenance": {
            "parameters": _listed(content["parameters"]),
            "code": f"{code['git']}{' with local changes' if code['dirty'] else ''}, "
            f"sha256 {code['sha256'][:12]}",
            "notebook": f"sha256 {content['notebook_sha256'][:12]}",
            "inputs": f"{len(content['inputs'])} hashed, listed in the manifest",
            "versions": _listed(content["versions"]),
            "machine": _listed(machine),
        },
    }


def _changes(found: compare.Comparison, most: int | None) -> dict[str, Any]:
    """Return what a page tells of a comparison, at most so many numbers."""
    return {
        "before": found.before.name,
        "after": found.after.name,
        "run": found.after.parent.name,
        "summary": found.summary,
        "settings": found.settings,
        "verdicts": found.verdicts.to_dict("records"),
        "numbers": [
            {**row, **{k: _number(row[k]) for k in ("before", "after", "difference")}}
            for row in found.changed[:most].to_dict("records")
        ],
        "more": len(found.changed[most:]) if most else 0,
    }


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.6g}"


def _figure(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    png = (folder / "figures" / f"{entry['name']}.png").read_bytes()
    small = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        half = image.convert("RGB")
    half.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL))
    half.save(small, "JPEG", quality=80)
    return {
        **entry,
        "image": f"data:image/png;base64,{base64.b64encode(png).decode()}",
        "thumbnail": f"data:image/jpeg;base64,{base64.b64encode(small.getvalue()).decode()}",
        # Figures are saved at twice the density of a screen.
        "width": struct.unpack(">I", png[16:20])[0] // 2,
    }


def _table(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    return {
        **entry,
        "html": (folder / "tables" / f"{entry['name']}.html").read_text(encoding="utf-8"),
    }


def _problem(reports: Path, problem: Problem) -> dict[str, str | None]:
    notebook = runs.read(problem.folder)["notebook"] if problem.folder else ""
    link = _html(reports, problem.folder, notebook) if problem.folder else None
    return {"notebook": problem.notebook, "message": problem.message, "link": link}


def _html(reports: Path, folder: Path, notebook: str) -> str | None:
    """Return the link from the index to a run's own page, if it has one."""
    page = folder / f"{notebook}.html"
    return page.relative_to(reports).as_posix() if page.exists() else None


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _readable(moment: str) -> str:
    return f"{moment[:10]} {moment[11:16]} UTC"


def _source(name: str) -> str:
    assert _ENVIRONMENT.loader is not None
    return _ENVIRONMENT.loader.get_source(_ENVIRONMENT, name)[0]


def write_excerpt(folder: Path, kept: Sequence[Path]) -> Path:
    """Write an excerpt of complete runs and return its page.

    Beside ``README.md`` (all verdicts, then each run's figures and short tables) stands a folder a
    run with its manifest and the figures as WebP, at most `ACROSS` pixels wide. It takes the place
    of an older excerpt when it is whole.

    Parameters
    ----------
    folder
        Where it goes: a new one, or that of an older excerpt.
    kept
        Folders of runs, as `dtfn.reports.runs.find` returns them.

    Raises
    ------
    InputError
        There is something else in that place, a run is not complete, or two have one name.
    """
    names = [run.parent.name for run in kept]
    if len(set(names)) < len(names):
        raise InputError(
            "runs", expected="one of each name", found=", ".join(names), remedy="name fewer"
        )
    _require_ours(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        made = Path(place) / folder.name
        made.mkdir()
        _fill(made, dict(zip(names, kept, strict=True)))
        if folder.exists():
            folder.rename(Path(place) / "older")
        made.rename(folder)
    return folder / README


def _require_ours(folder: Path) -> None:
    """Raise `InputError` where something else than an older excerpt is in the place."""
    page = folder / README
    ours = page.is_file() and MARK in page.read_text(encoding="utf-8", errors="replace")
    if folder.exists() and not ours:
        raise InputError(
            folder, expected="a new folder, or an older excerpt", found="something else",
            remedy="choose another folder",
        )  # fmt: skip


def _fill(folder: Path, kept: Mapping[str, Path]) -> None:
    verdicts, sections = [], []
    for name, run in kept.items():
        content = runs.read(run)
        if content["status"] != "complete":
            raise InputError(
                run, expected="a complete run", found=content["status"], remedy="run it again"
            )
        target = folder / name
        target.mkdir(parents=True)
        shutil.copyfile(run / runs.MANIFEST, target / runs.MANIFEST)
        verdicts += [{**v["printed"], "run": f"[{name}](#{name})"} for v in content["verdicts"]]
        sections.append(_section(name, run, content, target))
    head = (
        "# Where non-local attention harms textures\n\n"
        f"{MARK} of dtfn {__version__}: nothing here is typed by hand. The "
        "manifests beside the figures name code, parameters, pictures and networks by hash.\n\n"
        f"{tables.markdown(pd.DataFrame(verdicts))}"
    )
    (folder / README).write_text("\n".join([head, *sections]), encoding="utf-8")


def _section(name: str, run: Path, content: dict[str, Any], target: Path) -> str:
    code = content["code"]
    changed = " with local changes" if code["dirty"] else ""
    given = "; ".join(f"{key} = {value}" for key, value in content["parameters"].items())
    parts = [
        f'<a id="{name}"></a>\n## {name}: {content["title"]}',
        f"`{name}`, {content['started']}, code {code['git']}{changed}: {given}",
    ]
    exhibits = [("figures", e) for e in content["figures"]]
    exhibits += [("tables", e) for e in content["tables"] if e["name"] != "verdicts"]
    for kind, entry in sorted(exhibits, key=lambda pair: pair[1]["after_seconds"]):
        if kind == "figures":
            file = f"{entry['name']}.webp"
            with Image.open(run / "figures" / f"{entry['name']}.png") as image:
                small = image.convert("RGB")
            small.thumbnail((ACROSS, 10 * ACROSS))
            small.save(target / file, quality=QUALITY, method=6)
            parts.append(f"![{entry['name']}]({name}/{file})\n\n*{entry['caption']}*")
            continue
        text = (run / "tables" / f"{entry['name']}.md").read_text(encoding="utf-8")
        if text.count("\n") <= LINES:
            parts.append(text.rstrip())
    return "\n\n".join(parts) + "\n"
