"""Where a result comes from: hashes, code version, libraries, machine."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dtfn import files, paths

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIBRARIES = (
    "dtfn",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pandas",
    "scikit-image",
    "matplotlib",
    "papermill",
)


def array_hash(array: NDArray[np.generic]) -> str:
    """Return the SHA-256 of an array's dtype, shape and values: the same picture, the same hash.

    Independent of the file format the pixels came from.
    """
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


@functools.cache
def code_hash() -> str:
    """Return the SHA-256 over all modules of this package: names and bytes, sorted by name."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for module in sorted(package.rglob("*.py")):
        digest.update(f"{module.relative_to(package).as_posix()} {files.sha256(module)}\n".encode())
    return digest.hexdigest()


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=paths.ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def git_state() -> tuple[str, bool]:
    """Return (short commit id, whether tracked files differ from it).

    ``("nogit", False)`` where the code is not a git checkout or git is missing.
    """
    try:
        # An unpacked archive inside somebody else's repository is not that repository's commit.
        if Path(_git("rev-parse", "--show-toplevel")).resolve() != paths.ROOT:
            return "nogit", False
        return _git("rev-parse", "--short=8", "HEAD"), bool(
            _git("status", "--porcelain", "--untracked-files=no")
        )
    except (OSError, subprocess.CalledProcessError):
        return "nogit", False


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide numbers; no import."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = "missing"
    return found


def machine() -> dict[str, object]:
    """Return what the run computed on: system, processor, device and number of threads.

    Asks torch only where the run has imported it itself.
    """
    torch = sys.modules.get("torch")
    gpu = torch is not None and torch.cuda.is_available()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch is not None and gpu else "cpu",
        "threads": torch.get_num_threads() if torch is not None else os.cpu_count(),
    }
