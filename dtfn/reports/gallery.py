"""HTML that anyone can open, mail and print: one file for a run, one index over all of them.

Neither makes a request to any host: images are inside, there is no script, and a content policy
tells the browser so.
"""

from __future__ import annotations

import base64
import datetime
import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from dtfn import __version__
from dtfn.reports import manifest

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
INDEX = "index.html"

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


def write_index(reports: Path, problems: Sequence[Problem] = ()) -> Path:
    """Write ``index.html`` over the newest complete run of each notebook and return its path.

    Parameters
    ----------
    reports
        Folder that holds ``runs/``; the index goes into it.
    problems
        Notebooks that did not run just now. Runs that failed earlier, and were not followed by
        a complete one, are found by themselves.
    """
    # Oldest first, so that the newest of a notebook stays.
    found = [(folder, manifest.read(folder)) for folder in manifest.runs(reports / "runs")]
    newest = {content["notebook"]: (folder, content) for folder, content in found}
    complete = {c["notebook"]: (folder, c) for folder, c in found if c["status"] == "complete"}
    failed = [
        Problem(name, content["error"]["message"], folder)
        for name, (folder, content) in newest.items()
        if content["status"] != "complete" and name not in {p.notebook for p in problems}
    ]
    shown = [_run(reports, folder, content) for _, (folder, content) in sorted(complete.items())]
    page = _ENVIRONMENT.get_template("index.html.j2").render(
        policy=POLICY,
        style=_source("style.css"),
        version=__version__,
        made=_readable(datetime.datetime.now(datetime.UTC).isoformat()),
        problems=[_problem(reports, p) for p in [*problems, *failed]],
        runs=shown,
    )
    reports.mkdir(parents=True, exist_ok=True)
    target = reports / INDEX
    half = target.with_suffix(".partial")
    half.write_text(page, encoding="utf-8")
    half.replace(target)
    return target


def _run(reports: Path, folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return what the template shows of a run."""
    link = folder.relative_to(reports).as_posix()
    name = content["notebook"]
    code, machine, timings = content["code"], content["machine"], content["timings"]
    return {
        "notebook": name,
        "title": content.get("title", name),
        "folder": link,
        "link": f"{link}/{name}.html" if (folder / f"{name}.html").exists() else None,
        "started": _readable(content["started"]),
        "tier": content.get("tier"),
        "duration": f"{timings.get('run', timings.get('notebook', 0)):.0f} s",
        "verdicts": content["verdicts"],
        "exhibits": sorted(
            [_figure(folder, f) for f in content["figures"]]
            + [_table(folder, t) for t in content["tables"] if t["name"] != "verdicts"],
            key=lambda e: float(e["after_seconds"]),
        ),
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


def _figure(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    png = (folder / "figures" / f"{entry['name']}.png").read_bytes()
    return {
        **entry,
        "image": f"data:image/png;base64,{base64.b64encode(png).decode()}",
        # Figures are saved at twice the density of a screen.
        "width": struct.unpack(">I", png[16:20])[0] // 2,
    }


def _table(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    return {
        **entry,
        "html": (folder / "tables" / f"{entry['name']}.html").read_text(encoding="utf-8"),
    }


def _problem(reports: Path, problem: Problem) -> dict[str, str | None]:
    page = problem.folder / f"{problem.notebook}.html" if problem.folder else None
    link = page.relative_to(reports).as_posix() if page is not None and page.exists() else None
    return {"notebook": problem.notebook, "message": problem.message, "link": link}


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _readable(moment: str) -> str:
    return f"{moment[:10]} {moment[11:16]} UTC"


def _source(name: str) -> str:
    assert _ENVIRONMENT.loader is not None
    return _ENVIRONMENT.loader.get_source(_ENVIRONMENT, name)[0]
