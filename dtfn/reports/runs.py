"""The folders of runs and their manifest.json: where a run is, what it used, what it made."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dtfn import paths, provenance
from dtfn.errors import InputError, nearest

SCHEMA = 1
"""Version of manifest.json; raised when a key changes its meaning or goes away."""

MANIFEST = "manifest.json"
_PARTIAL = ".partial-"

KINDS = ("figures", "tables", "data")
"""What a notebook saves: the manifest's lists, and the folders of their files."""


def new_folder(folder: Path, notebook: str, parameters: Mapping[str, Any]) -> Path:
    """Make the hidden folder of a new run: ``folder/notebook/.partial-UTC-commit-parameters``.

    A run of the same second, code and parameters gets the suffix ``-2``, ``-3``, ...

    Raises
    ------
    InputError
        All of a thousand names are taken.
    """
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    base = f"{now}-{provenance.git_state()[0]}-{parameter_hash(parameters)}"
    home = folder / notebook
    home.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, 1000):
        name = base if attempt == 1 else f"{base}-{attempt}"
        partial = home / f"{_PARTIAL}{name}"
        try:
            partial.mkdir()
        except FileExistsError:  # another process began the same run in this very second
            continue
        if final_folder(partial).exists() or final_folder(partial, failed=True).exists():
            partial.rmdir()
            continue
        return partial
    raise InputError(
        home,
        expected="a free name for a new run",
        found=f"{base} and its successors taken",
        remedy="remove old runs from that folder",
    )


def final_folder(partial: Path, *, failed: bool = False) -> Path:
    """Return the name that a run's hidden folder gets when it is complete (or has failed)."""
    return partial.with_name(partial.name.removeprefix(_PARTIAL) + ("-failed" if failed else ""))


def finished(folder: Path) -> list[Path]:
    """Return the finished and failed runs below ``folder``, oldest first."""
    found = [file.parent for file in folder.glob(f"*/*/{MANIFEST}")]
    whole = [f for f in found if not f.name.startswith(_PARTIAL)]
    return sorted(whole, key=lambda f: (read(f).get("started", ""), f.name))


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
    if (Path(name) / MANIFEST).is_file():
        return Path(name)
    folder = folder or paths.RUNS
    stem, _, back = name.partition("~")
    complete = [f for f in finished(folder) if read(f)["status"] == "complete"]
    fitting = [f for f in complete if name == f.name] or [
        f for f in complete if stem == f.parent.name
    ]
    steps = int(back) if back.isdigit() else 0
    if len(fitting) <= steps or (back and not back.isdigit()):
        known = {f.parent.name for f in complete}
        raise InputError(
            "run", expected=f"a complete run below {folder}", found=repr(name),
            remedy=nearest(stem, known) if known and not fitting else "see `dtfn report list`",
        )  # fmt: skip
    return fitting[-1 - steps]


def parameter_hash(parameters: Mapping[str, Any]) -> str:
    """Return eight hexadecimal digits that tell two sets of parameters apart, order aside."""
    text = json.dumps(plain(parameters), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def new_record(notebook: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a manifest says about a run before anything is computed."""
    sha, dirty = provenance.git_state()
    return {
        "schema": SCHEMA,
        "notebook": notebook.stem,
        "notebook_sha256": provenance.file_hash(notebook),
        "parameters": dict(parameters),
        "seeds": {k: v for k, v in parameters.items() if "seed" in k},
        "code": {"git": sha, "dirty": dirty, "sha256": provenance.code_hash()},
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
    """Return the manifest of a run's folder, ``{}`` where it has none yet."""
    file = folder / MANIFEST
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def write(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write the manifest, with the hashes of all other files of the folder as ``outputs``."""
    file = folder / MANIFEST
    outputs = {
        path.relative_to(folder).as_posix(): provenance.file_hash(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != file
    }
    text = json.dumps(plain({**content, "outputs": outputs}), indent=1, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")
    return file


def plain(value: Any) -> Any:
    """Return `value` as JSON holds it: numpy converted, other objects as text, NaN as None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, np.ndarray)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
