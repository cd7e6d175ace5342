"""Where a result comes from: keys of code and content, commit, libraries, machine."""

import ast
import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from typing import Any

from dtfn import files, paths

PACKAGE = paths.PACKAGE
_DECIDE = ("torch", "torchvision", "numpy", "scipy", "pandas", "scikit-image", "matplotlib")


def git_state() -> tuple[str, bool]:
    """Return (short commit id, whether tracked files differ from it), or ``("nogit", False)``."""
    how: dict[str, Any] = {"cwd": paths.ROOT, "stderr": subprocess.DEVNULL, "text": True}
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        # An unpacked archive inside somebody else's repository is not that repository's commit.
        if (paths.ROOT / ".git").exists():
            commit = subprocess.check_output(["git", "rev-parse", "--short=8", "HEAD"], **how)
            changes = subprocess.check_output(["git", "status", "--porcelain", "-uno"], **how)
            return commit.strip(), bool(changes)
    return "nogit", False


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide numbers; no import."""
    found = {"python": platform.python_version()}
    for library in ("dtfn", *_DECIDE, "papermill"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    return found


def machine() -> dict[str, object]:
    """Return what the run computed on: system, cores, device and number of threads."""
    torch = sys.modules.get("torch")  # asked only where the run has imported it itself
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads() if torch else os.cpu_count(),
    }


def digest(value: Any) -> str:
    """Return the SHA-256 of what JSON can hold; the order of mappings does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def code_key(*modules: str) -> str:
    """Hash the code of modules and packages of this package, else of all but the commands."""
    parts = {}
    for place in map(PACKAGE.joinpath, modules or [""]):
        for file in sorted(place.rglob("*")) if place.is_dir() else [place.with_suffix(".py")]:
            part = file.relative_to(PACKAGE).as_posix()
            # Shipped notebooks and networks are no code.
            if not (file.is_dir() or file.suffix == ".pyc" or re.match(r"(cli|shipped)\b", part)):
                code = file.suffix == ".py"
                parts[part] = _tree(file.read_bytes()) if code else files.sha256(file)
    return digest(parts)


def reach(source: str) -> set[str]:
    """Return the modules and packages of this package that code imports, at whatever depth."""
    found, waiting = {"__init__"}, [source]
    while waiting:
        for part in _imports(waiting.pop()) - found:
            if code := [*PACKAGE.glob(f"{part}.py"), *PACKAGE.glob(f"{part}/**/*.py")]:
                found.add(part)
                waiting += [file.read_text(encoding="utf-8") for file in code]
    return found


@functools.cache
def _imports(source: str) -> frozenset[str]:
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return frozenset(name.split(".")[1] for name in names if name.startswith("dtfn."))


@functools.cache
def _tree(source: bytes) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    return digest(ast.dump(tree))
