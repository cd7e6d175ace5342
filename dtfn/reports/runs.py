"""Folders of runs and their manifest.json: where a run is, what it used, what it made."""

from __future__ import annotations

import datetime
import logging
import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dtfn import files, paths, provenance
from dtfn.errors import InputError, nearest

SCHEMA = 1
"""Version of manifest.json; raised when a key changes its meaning or goes away."""

MANIFEST = "manifest.json"
PARTIAL = ".partial-"
"""Prefix of the folder of a run that is not finished."""

KINDS = ("figures", "tables", "data")
"""What a notebook saves: the manifest's lists, and the folders of their files."""


def new_folder(folder: Path, notebook: str) -> Path:
    """Make the hidden folder of a new run, ``folder/notebook/.partial-UTC-commit-random``.

    Raises
    ------
    InputError
        The folder cannot be made.
    """
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"{now}-{provenance.git_state()[0]}-{uuid.uuid4().hex[:8]}"
    partial = folder / notebook / f"{PARTIAL}{name}"
    with files.writing(partial):
        partial.mkdir(parents=True)
    return partial


def finished(folder: Path) -> list[Path]:
    """Return the complete and failed runs below ``folder``, oldest first.

    A manifest that is broken, or none of a run, is set aside as ``manifest.json.broken``, and the
    log names it.
    """
    started = {}
    for file in folder.glob(f"*/*/{MANIFEST}"):
        run = file.parent
        if not run.name.startswith(PARTIAL):
            content = read(run)
            if {"started", "status"} <= content.keys():
                started[run] = (content["started"], run.name)
            elif file.exists():
                logging.getLogger("dtfn").warning(f"{file} is no manifest of a run: set aside")
                file.replace(f"{file}.broken")
    return sorted(started, key=started.__getitem__)


def find(name: str, folder: Path | None = None) -> Path:
    """Return the folder of a complete run.

    Parameters
    ----------
    name
        A folder, the name of one, or the name of a notebook: its newest run; ``NAME~1`` is the
        run before that, and so on.
    folder
        The folder of all runs; default reports/runs.

    Raises
    ------
    InputError
        There is no such run.
    """
    if read(Path(name)):
        return Path(name)
    folder = folder or paths.RUNS
    stem, _, back = name.partition("~")
    complete = [f for f in finished(folder) if read(f)["status"] == "complete"]
    named = [f for f in complete if name == f.name]
    fitting = named or [f for f in complete if stem == f.parent.name]
    steps = int(back) if back.isdigit() else 0
    if len(fitting) <= steps or (back and not back.isdigit()):
        known = {f.parent.name for f in complete}
        raise InputError(
            "run",
            f"a complete run below {folder}",
            repr(name),
            nearest(stem, known) if known and not fitting else "see `dtfn report list`",
        )
    return fitting[-1 - steps]


def new_record(notebook: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a manifest says about a run before anything is computed."""
    sha, dirty = provenance.git_state()
    return {
        "schema": SCHEMA,
        "notebook": notebook.stem,
        "notebook_sha256": files.sha256(notebook),
        "parameters": dict(parameters),
        "seeds": {k: v for k, v in parameters.items() if "seed" in k},
        "code": {"git": sha, "dirty": dirty, "sha256": provenance.code_key(["dtfn"])},
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "status": "running",
        "inputs": {},
        **{kind: [] for kind in KINDS},
        "verdicts": [],
        "timings": {},
    }


def read(folder: Path) -> dict[str, Any]:
    """Return the manifest of a run's folder; ``{}`` where there is none, or a broken one.

    A broken one is set aside, see `dtfn.files.read_json`.
    """
    return files.read_json(folder / MANIFEST, {})


def write(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write the manifest, with the hashes of all other files of the folder as ``outputs``."""
    file = folder / MANIFEST
    outputs = {
        path.relative_to(folder).as_posix(): files.sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != file and not path.name.startswith(".")
    }
    files.write_json(file, plain({**content, "outputs": outputs}))
    return file


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: numpy converted, other objects as text, NaN as None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, np.ndarray)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
