"""Folders of runs and their manifest.json: where a run is, what it used, what it made."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dtfn import files, provenance
from dtfn.errors import InputError, nearest

MANIFEST = "manifest.json"
PARTIAL = ".partial-"
"""Prefix of the folder of a run that is not finished."""
KINDS = ("figures", "tables", "data")
"""What a notebook saves: the manifest's lists, and the folders of their files."""


def finished(folder: Path) -> list[Path]:
    """Return the complete and failed runs below ``folder``, oldest first."""
    started = {}
    for file in folder.glob(f"*/*/{MANIFEST}"):
        record = read(file.parent)
        if not file.parent.name.startswith(PARTIAL) and {"started", "status"} <= record.keys():
            started[file.parent] = (record["started"], file.parent.name)
    return sorted(started, key=started.__getitem__)


def find(name: str, folder: Path) -> Path:
    """Return the folder of a complete run.

    Parameters
    ----------
    name
        A folder, the name of one, or the name of a notebook: its newest run; ``NAME~1`` is the
        run before that, and so on.
    folder
        The folder of all runs.

    Raises
    ------
    InputError
        There is no such run.
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
    words = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    headings = [line for line in "\n".join(words).splitlines() if line.startswith("# ")]
    return {
        "schema": 1,
        "notebook": notebook.stem,
        "title": headings[0].removeprefix("# ") if headings else notebook.stem,
        "notebook_sha256": files.sha256(notebook),
        "parameters": dict(parameters),
        "code": {"git": sha, "dirty": dirty, "sha256": provenance.code_key(["dtfn"])},
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
