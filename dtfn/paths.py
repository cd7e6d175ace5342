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
    """Return the folder that holds the training sets.

    ``$DTFN_TRAIN``; else ``train/`` beside the data root, if it is there alone; else ``train/`` in
    the data root, which is where sets are put that have no place yet.
    """
    chosen = os.environ.get("DTFN_TRAIN")
    if chosen:
        return Path(chosen).expanduser().resolve()
    inside, beside = data_root() / "train", data_root().parent / "train"
    return beside if beside.is_dir() and not inside.is_dir() else inside


def validation_root() -> Path:
    """Return the folder that holds the validation sets: ``val/`` beside the training sets."""
    return training_root().parent / "val"
