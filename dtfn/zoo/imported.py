"""Networks that the user has imported, e.g. the authors' checkpoints: what they are and where.

Below ``data/weights``: ``registry.json`` and ``NAME.safetensors`` for each. Imports no torch;
`dtfn.weights` imports them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dtfn import paths
from dtfn.errors import InputError

REGISTRY = "registry.json"


def registry() -> list[dict[str, Any]]:
    """Return the imported networks, by name.

    Each has: name, network, scale, parameters, full_size (whether it is as large as the authors'),
    hyperparameters, assumed (those of them that the weights do not show), file, sha256, source
    (name of the file it came from), source_sha256.
    """
    file = paths.WEIGHTS / REGISTRY
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def record(entry: dict[str, Any]) -> None:
    """Put an entry into the registry, in the place of one of the same name."""
    rows = [row for row in registry() if row["name"] != entry["name"]]
    rows = sorted([*rows, entry], key=lambda row: row["name"])
    partial = paths.WEIGHTS / f"{REGISTRY}.partial"
    partial.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    partial.replace(paths.WEIGHTS / REGISTRY)


def file_of(name: str) -> Path | None:
    """Return the weights file of an imported network; None where there is none of this name.

    Raises
    ------
    InputError
        The registry has the name, but the file is missing.
    """
    entry = next((row for row in registry() if row["name"] == name), None)
    if entry is None:
        return None
    file = paths.WEIGHTS / entry["file"]
    if not file.is_file():
        raise InputError(
            file, expected="the imported weights", found="no file",
            remedy=f"import {entry['source']} again with `dtfn weights import`",
        )  # fmt: skip
    return file
