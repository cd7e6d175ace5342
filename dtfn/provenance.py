"""Where a result comes from: keys of code and content, commit, libraries, machine.

The key of some modules is the hash of all that they can run, however it is written. Who keeps a
result under such a key computes it again when the code changes, and only then: comments,
docstrings, blank lines and modules that are out of reach do not count.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dtfn import files, paths

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKAGE = paths.PACKAGE
_DECIDE = ("torch", "torchvision", "numpy", "scipy", "pandas", "scikit-image", "matplotlib")


def array_hash(array: NDArray[np.generic]) -> str:
    """Return the SHA-256 of an array's dtype, shape and values: the same picture, the same hash."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def git_state() -> tuple[str, bool]:
    """Return (short commit id, whether tracked files differ from it).

    ``("nogit", False)`` where the code is not a git checkout or git is missing.
    """

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.check_output(
            command, cwd=paths.ROOT, stderr=subprocess.DEVNULL, text=True
        )

    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        # An unpacked archive inside somebody else's repository is not that repository's commit.
        if Path(git("rev-parse", "--show-toplevel").strip()).resolve() == paths.ROOT:
            commit = git("rev-parse", "--short=8", "HEAD").strip()
            return commit, bool(git("status", "--porcelain", "--untracked-files=no"))
    return "nogit", False


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide numbers; no import."""
    found = {}
    for library in ("dtfn", *_DECIDE, "papermill"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    return {"python": platform.python_version(), **found}


def machine() -> dict[str, object]:
    """Return what the run computed on: system, cores, device and number of threads."""
    torch = sys.modules.get("torch")  # asked only where the run has imported it itself
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads() if torch else os.cpu_count(),
    }


# --- keys -----------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """Return the SHA-256 of what JSON can hold; the order of mappings does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def code_key(modules: Iterable[str]) -> str:
    """Return the hash of modules of this package and of all that they import, at whatever depth.

    Modules are full names, such as ``"dtfn.models"``; a name in a module counts as the module.
    ``"dtfn"``, which can be asked for any of its names, stands for the whole package. Data files
    count with the modules of the package that they are in.
    """
    hashes = {}
    for part in reach(modules):
        code = (PACKAGE / part).read_text(encoding="utf-8") if part.endswith(".py") else ""
        hashes[part] = source_key(code) if code else files.sha256(PACKAGE / part)
    return digest(hashes)


def reach(modules: Iterable[str]) -> list[str]:
    """Return the files that `code_key` hashes, relative to the package, sorted."""
    waiting = sorted(PACKAGE.rglob("*.py")) if "dtfn" in modules else [*_files(modules)]
    found: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _files(imported(file.read_text(encoding="utf-8")))
    packages = {file.parent for file in found}
    for data in PACKAGE.rglob("*"):
        shipped = data.is_relative_to(PACKAGE / "shipped")  # notebooks and networks: no code
        if data.is_file() and data.suffix not in (".py", ".pyc") and not shipped:
            home = next(folder for folder in data.parents if (folder / "__init__.py").is_file())
            found |= {data} if home in packages else set()
    return sorted(file.relative_to(PACKAGE).as_posix() for file in found)


@functools.cache
def imported(source: str) -> set[str]:
    """Return what code imports of this package, at its top or in functions, by full names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.partition(".")[0] == "dtfn"}


@functools.cache
def source_key(source: str) -> str:
    """Return the hash of Python source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # a docstring is an expression that is only a text
            texts = [
                x for x in body if isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant)
            ]
            node.body = [line for line in body if line not in texts]  # type: ignore[attr-defined]
    return digest(ast.dump(tree))


def _files(names: Iterable[str]) -> Iterator[Path]:
    """Yield the files that run when names are imported: the packages above them too."""
    for name in names:
        parts = name.split(".")[1:]
        for depth in range(len(parts) + 1):
            place = PACKAGE.joinpath(*parts[:depth])
            candidates = (place / "__init__.py", place.with_suffix(".py"))
            yield from (file for file in candidates if file.is_file())
