"""Pages: HTML for a run, and an index that begins with what was found.

No page makes a request to any host: images are inside, there is no script, and a content policy
forbids both.
"""

import base64
import datetime
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from dtfn import __version__, files, paths
from dtfn.reports import compare, findings, finished, read, tables

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
INDEX = "index.html"
FEW = ("smoke", "demo")  # tiers of too few pictures to judge by
_THUMBNAIL, _SHOWN = 480, 1240  # pixels across: overview, first screen
CURVE, TEXTURES = ("harm_curve",), ("worst_and_best", "textures")  # the first screen's figures
_TEMPLATES = Path(__file__).parent / "templates"
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.globals |= {
    "policy": POLICY,
    "style": (_TEMPLATES / "style.css").read_text(encoding="utf-8"),
    "version": __version__,
}
_ENVIRONMENT.filters |= {
    "listed": lambda values: ", ".join(
        f"{key} {tables.MISSING if value in ('', [], None) else value}"
        for key, value in values.items()
    ),
    "moment": lambda text: f"{text[:10]} {text[11:16]} UTC",
    "time": lambda n: f"{n:.0f} s" if n < 100 else f"{n / 60:.0f} min",
}


def write_run(notebook: Path, record: Mapping[str, Any]) -> None:
    """Write an executed notebook as HTML next to it, and what its record says that it used."""
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
        extra_template_paths=[str(_TEMPLATES)],
        embed_images=True,
    )
    exporter.environment.filters |= _ENVIRONMENT.filters
    exporter.environment.globals |= _ENVIRONMENT.globals
    content = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    for cell in content.cells:
        if cell.cell_type == "markdown":  # another notebook's newest run is in the index
            cell.source = re.sub(r"\]\((\w+)\.ipynb\)", r"](../../../index.html#\1)", cell.source)
    body, _ = exporter.from_notebook_node(content, resources={"run": record})
    files.write(notebook.with_suffix(".html"), body)


def write_index(reports: Path, killed: Sequence[str] = ()) -> Path:
    """Write ``index.html`` and ``verdicts.csv`` over all runs and return the page's path.

    First come the runs of the newest suite (see `suite_runs`), then the newest complete one of each
    name that a reader started. Runs whose last try failed are named, and the ``killed`` ones.
    """
    records = finished(reports / "runs")
    complete = [folder for folder, record in records.items() if record["status"] == "complete"]
    suite = list(suite_runs(reports).values())
    newest = {f.parent.name: f for f in complete if not suite or not records[f].get("tier")}
    own = [folder for _, folder in sorted(newest.items()) if folder not in suite]
    for folder, record in records.items():
        page = folder / f"{record['notebook']}.html"
        record |= {
            "name": folder.parent.name,
            "folder": folder.relative_to(reports).as_posix(),
            "link": page.relative_to(reports).as_posix() if page.exists() else None,
            "seconds": record["timings"].get("run", record["timings"].get("notebook", 0)),
        }
    for folder in [*suite, *own]:
        record = records[folder]
        record["id"] = f"{'own-' if suite and folder in own else ''}{folder.parent.name}"
        earlier = [f for f in complete[: complete.index(folder)] if f.parent == folder.parent]
        if earlier and records[earlier[-1]]["parameters"] == record["parameters"]:
            changes = compare(earlier[-1], folder)[0]
            record["changes"] = f"Since {earlier[-1].name}: {changes}."
        for figure in record["figures"]:
            file = picture(folder, figure["name"])
            figure |= {"file": file.name, "thumbnail": _embedded(file, _THUMBNAIL)}
    shown = suite or own
    rows = findings.merged(shown)
    exhibits = [exhibit(shown, names) for names in (CURVE, TEXTURES)]
    pictures = {
        key.rsplit("/", 2)[0] for f in shown for key in records[f]["inputs"] if "/hr" in key
    }
    last = {record["name"]: record for record in records.values()}
    failed = [r for n, r in last.items() if r["status"] != "complete" and n not in killed]
    baseline = paths.ROOT / "reports" / "baseline" / INDEX
    text = _ENVIRONMENT.get_template("index.html.j2").render(
        made=datetime.datetime.now(datetime.UTC).isoformat(),
        sentences=findings.sentences(rows),
        words=findings.WORDS,
        grid=findings.grid(rows),
        scales=list(rows["scale"].unique()),
        exhibits=[(_embedded(file, _SHOWN), caption) for file, caption in filter(None, exhibits)],
        pictures=len(pictures),
        few=bool(shown) and all(records[f].get("tier") in FEW for f in shown),
        killed=killed,
        failed=failed,
        suite=[records[folder] for folder in suite],
        own=[records[folder] for folder in own],
        everything=list(reversed(records.values())),
        baseline=os.path.relpath(baseline, reports) if baseline.is_file() else None,
    )
    files.write(reports / INDEX, text)
    (reports / "verdicts.csv").unlink(missing_ok=True)  # of runs that count no more
    if len(rows):
        table = rows[[*findings.COLUMNS, *findings.MORE]].to_csv(index=False)
        files.write(reports / "verdicts.csv", table)
    return reports / INDEX


def suite_runs(reports: Path) -> dict[str, Path]:
    """Return name -> folder of the runs of the suite that was reproduced last; none: empty."""
    written = sorted(reports.glob("suite-*.json"), key=lambda file: file.stat().st_mtime_ns)
    asked = files.read_json(written[-1], {}).get("runs", {}) if written else {}
    folders = {name: reports / "runs" / name / run["key"][:16] for name, run in asked.items()}
    return {name: folder for name, folder in folders.items() if read(folder)}


def exhibit(folders: Iterable[Path], names: Iterable[str]) -> tuple[Path, str] | None:
    """Return the file and the caption of the first figure of these names; None without one."""
    saved = {e["name"]: (f, e) for f in reversed(list(folders)) for e in read(f)["figures"]}
    for name in names:
        if name in saved:
            folder, entry = saved[name]
            return picture(folder, name), entry["caption"]
    return None


def picture(folder: Path, name: str) -> Path:
    """Return the file of a run's figure: of a baseline it is WebP."""
    file = folder / "figures" / f"{name}.webp"
    return file if file.is_file() else file.with_suffix(".png")


def webp(file: Path, across: int) -> bytes:
    """Return a picture at most so many pixels across; it is made once."""
    kept = paths.CACHE / "thumbnails" / f"{files.sha256(file)}-{across}.webp"
    if not kept.is_file():
        with Image.open(file) as picture:
            whole = picture.convert("RGB")
        whole.thumbnail((across, 10 * across))
        buffer = io.BytesIO()
        whole.save(buffer, "WEBP", quality=75, method=6)
        files.write(kept, buffer.getvalue())
    return kept.read_bytes()


def _embedded(file: Path, across: int) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp(file, across)).decode()}"
