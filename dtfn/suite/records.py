"""What a plan says and what became of it, for other programs to read."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dtfn.reports import compare, runs
from dtfn.suite.execution import lock
from dtfn.suite.keys import State

# What a table prints is in its CSV.
_SHOWN = {"figures": (".csv", ".png", ".svg"), "tables": (".csv",), "data": (".csv",)}


def described(states: Mapping[str, State], tier: str, folder: Path) -> dict[str, Any]:
    """Return a plan as JSON holds it: ``tier``, ``reports`` and one entry in ``runs`` for each run.

    Parameters
    ----------
    states
        Of `dtfn.suite.keys.states`.
    tier
        The tier.
    folder
        The report's folder.
    """
    return {
        "tier": tier,
        "reports": str(folder),
        "runs": [_described(state) for state in states.values()],
    }


def _described(state: State) -> dict[str, Any]:
    step = state.step
    return {
        "name": step.name,
        "notebook": step.notebook or None,
        "train": step.train or None,
        "parameters": runs.plain(state.values),
        "after": list(step.needs.runs),
        "needs": runs.plain(dataclasses.asdict(step.needs)),
        "makes": list(step.makes),
        "key": state.key,
        "up_to_date": state.folder is not None,
        "reason": state.reason,
        "folder": str(state.folder) if state.folder else None,
        "resources": dataclasses.asdict(step.resources),
    }


def write(
    folder: Path, tier: str, states: Mapping[str, State], complete: Mapping[str, Path]
) -> Path:
    """Write ``suite-TIER.json``, which is the same whenever the results are.

    It holds parameters, verdicts and the hashes of figures, tables and data; no folder and no time.
    Runs that an earlier call completed and this one did not ask for stay in it; one that was asked
    for and failed does not.
    """
    file = folder / f"suite-{tier}.json"
    with lock("records"):  # of two processes, neither forgets what the other one wrote
        runs = json.loads(file.read_text())["runs"] if file.exists() else {}
        runs = {name: run for name, run in runs.items() if name not in states}
        runs |= {name: _result(states[name], done) for name, done in complete.items()}
        text = json.dumps({"tier": tier, "runs": runs}, indent=1, sort_keys=True) + "\n"
        if not file.exists() or file.read_text() != text:
            _replace(file, text)
    return file


def _result(state: State, done: Path) -> dict[str, Any]:
    content = runs.read(done)
    files = [done / name for name in content["outputs"]]
    shown = [f for f in files if f.parent.name in _SHOWN and f.suffix in _SHOWN[f.parent.name]]
    return {
        "key": state.key,
        "notebook": content["notebook"],
        "parameters": content["parameters"],
        "verdicts": [verdict["printed"] for verdict in content["verdicts"]],
        "outputs": {f.relative_to(done).as_posix(): compare.fingerprint(f) for f in shown},
    }


def _replace(file: Path, text: str) -> None:
    """Write a file so that nobody ever reads half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}.{os.getpid()}")
    half.write_text(text, encoding="utf-8")
    half.replace(file)
