"""Where a result comes from: keys of code and content, commit, libraries, machine.

The key of some modules is the hash of all that they can run, however it is written. Who keeps a
result under such a key computes it again when the code changes, and only then: comments,
docstrings, blank lines and modules that are out of reach do not count.
"""

from __future__ import annotations

import ast
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

from dtfn import paths

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKAGE = Path(__file__).resolve().parent
_SHIPPED = PACKAGE / "shipped"  # notebooks and networks of an installed package: no code
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


# --- keys -----------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """Return the SHA-256 of what JSON can hold; the order of mappings does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def code_key(modules: Iterable[str]) -> str:
    """Return the hash of modules of this package and of all that they import, at whatever depth.

    Data files count with the modules of the package that they are in.

    Parameters
    ----------
    modules
        Full names, such as ``"dtfn.models"``; a name in a module counts as the module. ``"dtfn"``
        alone, which can be asked for any of its names, stands for the whole package.
    """
    return digest({part: _hash(PACKAGE / part) for part in reach(modules)})


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
        code = data.suffix in (".py", ".pyc") or data.is_relative_to(_SHIPPED)
        if data.is_file() and not code:
            package = next(folder for folder in data.parents if (folder / "__init__.py").is_file())
            found |= {data} if package in packages else set()
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


def source_key(source: str) -> str:
    """Return the hash of Python source without comments, docstrings and layout."""
    return digest(ast.dump(_bare(ast.parse(source))))


def _files(names: Iterable[str]) -> Iterator[Path]:
    """Yield the files that run when names are imported: the packages above them too."""
    for name in names:
        folder = PACKAGE
        for part in name.split(".")[1:]:
            yield folder / "__init__.py"
            if not (folder / part).is_dir():
                if (folder / f"{part}.py").is_file():
                    yield folder / f"{part}.py"
                break
            folder /= part
        else:
            yield folder / "__init__.py"


def _hash(file: Path) -> str:
    state = file.stat()
    return _content(file, state.st_mtime_ns, state.st_size)


@functools.cache
def _content(file: Path, modified: int, size: int) -> str:
    if file.suffix == ".py":
        return source_key(file.read_text(encoding="utf-8"))
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _bare(tree: ast.Module) -> ast.Module:
    """Take the docstrings out of a module: every expression that is only a text."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                line
                for line in body
                if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            ]
    return tree
