"""Where things are: the only module that knows directories.

In a checkout, data, weights, cache and reports are in it. An installed package keeps them in the
user's folders (platformdirs), and reports in the working directory; it never writes into itself.
``DTFN_DATA``, ``DTFN_TRAIN``, ``DTFN_WEIGHTS``, ``DTFN_CACHE`` and ``DTFN_REPORTS`` name others.
"""

import os
from pathlib import Path

import platformdirs


def _chosen(variable: str, default: Path) -> Path:
    text = os.environ.get(variable)
    return Path(text).expanduser().resolve() if text else default


PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
CHECKOUT = (ROOT / "pyproject.toml").is_file() and (ROOT / "notebooks").is_dir()
HOME = ROOT / "data" if CHECKOUT else platformdirs.user_data_path("dtfn")

NOTEBOOKS = ROOT / "notebooks" if CHECKOUT else PACKAGE / "shipped" / "notebooks"
ZOO = ROOT / "data" / "zoo" if CHECKOUT else PACKAGE / "shipped" / "zoo"
SNAKEFILE = (ROOT if CHECKOUT else PACKAGE / "shipped") / "Snakefile"
REPORTS = _chosen("DTFN_REPORTS", (ROOT if CHECKOUT else Path.cwd()) / "reports")
RUNS = REPORTS / "runs"
WEIGHTS = _chosen("DTFN_WEIGHTS", HOME / "weights")
_MINE = CHECKOUT and os.access(HOME, os.W_OK)  # a checkout may be shared and read-only
CACHE = _chosen("DTFN_CACHE", HOME / "cache" if _MINE else platformdirs.user_cache_path("dtfn"))


def data_root() -> Path:
    """Return the folder that holds the benchmarks: ``$DTFN_DATA``, else ``data/``."""
    return _chosen("DTFN_DATA", HOME)


def training_root() -> Path:
    """Return the folder of the training sets: ``$DTFN_TRAIN``, else ``train/`` in the data root."""
    inside, outside = data_root() / "train", data_root().parent / "train"
    # Or the one next to the data root, if only that is there, and it is not just any folder.
    sets = ("T91", "General100", "BSD200", "BSDS500_test200", "DIV2K_train_HR")
    known = any((outside / name).is_dir() for name in sets)
    return _chosen("DTFN_TRAIN", outside if known and not inside.is_dir() else inside)


def validation_root() -> Path:
    """Return the folder that holds the validation sets: ``val/`` next to the training sets."""
    return training_root().parent / "val"
