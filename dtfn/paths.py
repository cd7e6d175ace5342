"""Where things are: the only module that knows directories."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
REPORTS = ROOT / "reports"
RUNS = REPORTS / "runs"
ZOO = ROOT / "data" / "zoo"
WEIGHTS = ROOT / "data" / "weights"
CACHE = ROOT / "data" / "cache"

# A folder that holds one of these is a folder of training sets, whatever else is called train/.
_TRAINING_SETS = ("T91", "General100", "BSD200", "BSDS500_test200", "DIV2K_train_HR")


def data_root() -> Path:
    """Return the folder that holds the benchmarks: ``$DTFN_DATA``, else ``data/``.

    A relative ``DTFN_DATA`` is relative to the working directory.
    """
    chosen = os.environ.get("DTFN_DATA")
    return Path(chosen).expanduser().resolve() if chosen else ROOT / "data"


def training_root() -> Path:
    """Return the folder that holds the training sets.

    ``$DTFN_TRAIN``; else ``train/`` in the data root, unless only the one beside the data root has
    some of the known sets. New sets are put there too, so it must not be just any ``train/``.
    """
    chosen = os.environ.get("DTFN_TRAIN")
    if chosen:
        return Path(chosen).expanduser().resolve()
    inside, beside = data_root() / "train", data_root().parent / "train"
    known = any((beside / name).is_dir() for name in _TRAINING_SETS)
    return beside if known and not inside.is_dir() else inside


def validation_root() -> Path:
    """Return the folder that holds the validation sets: ``val/`` beside the training sets."""
    return training_root().parent / "val"
