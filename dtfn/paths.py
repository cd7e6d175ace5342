"""Where things are: the only module that knows directories."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
REPORTS = ROOT / "reports"
RUNS = REPORTS / "runs"
ZOO = ROOT / "data" / "zoo"
CACHE = ROOT / "data" / "cache"


def data_root() -> Path:
    """Return the folder that holds the benchmarks: ``$DTFN_DATA``, else ``data/``.

    A relative ``DTFN_DATA`` is relative to the working directory.
    """
    chosen = os.environ.get("DTFN_DATA")
    return Path(chosen).expanduser().resolve() if chosen else ROOT / "data"


def training_root() -> Path:
    """Return the folder that holds the training sets: ``$DTFN_TRAIN``, else ``train/`` in the data root or beside it."""
    chosen = os.environ.get("DTFN_TRAIN")
    if chosen:
        return Path(chosen).expanduser().resolve()
    inside = data_root() / "train"
    return inside if inside.is_dir() else data_root().parent / "train"
