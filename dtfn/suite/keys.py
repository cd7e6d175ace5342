"""What a result depends on, hashed, so that a run whose hash is known is not run again."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dtfn
from dtfn import datasets, paths, provenance, zoo
from dtfn.errors import InputError
from dtfn.reports import runs as run_folders
from dtfn.suite import plans
from dtfn.suite.plans import Step

FRESH = 2.0  # seconds; a file this young may change again without a change of its time


@dataclass(frozen=True)
class State:
    """A step, what its result depends on, and where the result is if there is one.

    Attributes
    ----------
    step
        The step.
    values
        The value of every parameter.
    parts
        What the result depends on -> its hash: notebook, code, libraries, parameters, inputs,
        weights, runs.
    key
        The hash of all parts.
    folder
        The complete run of this key, with all that it wrote; None if there is none.
    reason
        ``"up to date"``, or why it has to run.
    """

    step: Step
    values: dict[str, Any]
    parts: dict[str, str]
    key: str
    folder: Path | None
    reason: str


class Hashes:
    """Hashes of files; a file is read again only when its time, size or inode has changed.

    What was read is kept in ``paths.CACHE``, between processes; without it all is read anew.
    """

    def __init__(self) -> None:
        self._store = paths.CACHE / "hashes.json"
        try:
            self._known: dict[str, list[Any]] = json.loads(self._store.read_text())
        except (OSError, ValueError):
            self._known = {}
        self._changed = False

    def file(self, file: Path) -> str:
        """Return the SHA-256 of a file's bytes; ``"missing"`` where there is no such file."""
        try:
            state = file.stat()
        except OSError:
            return "missing"
        now = [state.st_mtime_ns, state.st_size, state.st_ino]
        known = self._known.get(str(file))
        if known and known[:3] == now:
            return known[3]
        found = provenance.file_hash(file)
        if time.time() - state.st_mtime > FRESH:
            self._known[str(file)] = [*now, found]
            self._changed = True
        return found

    def files(self, files: Iterable[Path]) -> list[list[str]]:
        """Return [name, hash] of files and of all files in folders, wherever these are."""
        found = []
        for file in files:
            inside = sorted(f for f in file.rglob("*") if f.is_file()) if file.is_dir() else [file]
            found += [[f.name, self.file(f)] for f in inside]
        return found

    def save(self) -> None:
        """Keep what was read, unless the disk refuses."""
        if self._changed:
            with contextlib.suppress(OSError):
                self._store.parent.mkdir(parents=True, exist_ok=True)
                half = self._store.with_suffix(f".{os.getpid()}")
                half.write_text(json.dumps(self._known))
                half.replace(self._store)


def states(steps: list[Step], runs: Path, notebooks: Path) -> dict[str, State]:
    """Return name -> state of every step, in their order, which is that of their needs.

    Parameters
    ----------
    steps
        Of `dtfn.suite.plans.plan`.
    runs
        The folder of all runs.
    notebooks
        The folder of the notebooks.

    Raises
    ------
    InputError
        As `dtfn.suite.plans.values`; weights are missing.
    """
    hashes = Hashes()
    past = run_folders.finished(runs)
    common = {"code": _code(hashes), "libraries": digest(provenance.versions())}
    found: dict[str, State] = {}
    for step in steps:
        before = {name: found[name].key for name in step.needs.runs}
        values, parts = _parts(step, hashes, notebooks)
        parts |= {**common, "runs": digest(before)}
        key = digest(parts)
        home = [folder for folder in past if folder.parent.name == step.name]
        folder, reason = result(home, key, parts, hashes)
        found[step.name] = State(step, values, parts, key, folder, reason)
    hashes.save()
    return found


def _parts(step: Step, hashes: Hashes, notebooks: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of a step's parameters, and the hashes of what is its own."""
    if step.train:
        values = dataclasses.asdict(plans.recipe(step.train, step.parameters))
        source: Any = [step.train, step.options]
        inputs = [paths.training_root() / name for name in values["sets"]]
        inputs.append(paths.validation_root() / values["validation"])
    else:
        notebook = plans.find(step.notebook, notebooks)
        values = plans.values(notebook, step.parameters)
        source = [_cells(notebook), *step.makes]
        inputs = _inputs(step, values, notebook.parent)
    return values, {
        "notebook": digest(source),
        "parameters": digest(run_folders.plain(values)),
        "inputs": digest(hashes.files(inputs)),
        "weights": digest(hashes.files(_weights(step, values, notebooks))),
    }


def result(
    past: list[Path], key: str, parts: Mapping[str, str], hashes: Hashes
) -> tuple[Path | None, str]:
    """Return the newest whole run of this key; or None, and the reason from the newest run."""
    reasons = []
    for folder in reversed(past):
        content = run_folders.read(folder)
        if content.get("key") == key and content["status"] == "complete":
            changed = [n for n, h in content["outputs"].items() if hashes.file(folder / n) != h]
            if not changed:
                return folder, "up to date"
            reasons.append(f"{changed[0]} was changed")
        elif content.get("key") == key:
            reasons.append("failed")
        elif "parts" in content:
            other = [name for name in parts if content["parts"].get(name) != parts[name]]
            reasons.append(f"changed: {', '.join(other)}")
    return None, reasons[0] if reasons else "never ran"


def _cells(notebook: Path) -> list[Any]:
    """Return what decides what a notebook does and says: its cells, without their outputs."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [
        [c["cell_type"], "".join(c["source"]), c.get("metadata", {}).get("tags", [])]
        for c in cells
    ]  # fmt: skip


def _inputs(step: Step, values: Mapping[str, Any], folder: Path) -> list[Path]:
    """Return the files and folders that a notebook reads, weights aside."""
    named = [values.get("datasets", []), values.get("dataset", []), step.needs.datasets]
    names = dict.fromkeys(plans.texts(named))
    found = [file for name in names for file in datasets.files(name)]
    for name in step.needs.files:
        found += [folder / text for text in plans.texts(values.get(name, name))]
    return found


def _weights(step: Step, values: Mapping[str, Any], folder: Path) -> list[Path]:
    """Return the weights that the step or its parameters name."""
    shipped = [paths.ZOO / row["file"] for row in zoo.registry()]
    known = {row["name"] for row in zoo.everything()}
    needs = () if step.train else step.needs.weights
    found = [paths.ZOO / zoo.REGISTRY, *shipped] if plans.ZOO in needs else []
    for name in [*needs, *plans.texts(values)]:
        if name in known:
            found.append(zoo.file_of(name))
        elif Path(name).suffix in zoo.SUFFIXES and not plans.REFERENCE.fullmatch(name):
            found.append(folder / name)
        elif name in needs and name != plans.ZOO:
            raise InputError(
                f"weights of {step.name}",
                expected="zoo, a network of the zoo or an imported one, or a weights file",
                found=repr(name), remedy="see `dtfn zoo list`",
            )  # fmt: skip
    return found


def _code(hashes: Hashes) -> str:
    """Return the hash of all files of this package."""
    package = Path(dtfn.__file__).parent
    files = [f for f in package.rglob("*") if f.is_file() and f.parent.name != "__pycache__"]
    return digest({f.relative_to(package).as_posix(): hashes.file(f) for f in files})


def digest(value: Any) -> str:
    """Return the SHA-256 of what JSON can hold, the order of mappings aside."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
