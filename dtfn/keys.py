"""Keys of code: the hash of all that some modules of this package can run, however it is written.

Who keeps a result under such a key computes it again when the code changes, and only then:
comments, docstrings, blank lines and modules that are out of reach do not count.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
_SHIPPED = PACKAGE / "shipped"  # notebooks and networks of an installed package: no code


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
    found |= {data for data in _data() if _package(data) in packages}
    return sorted(file.relative_to(PACKAGE).as_posix() for file in found)


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


def _data() -> list[Path]:
    """Return the files of the package that are no modules."""
    return [
        file
        for file in PACKAGE.rglob("*")
        if file.is_file()
        and file.suffix not in (".py", ".pyc")
        and not file.is_relative_to(_SHIPPED)
    ]


def _package(data: Path) -> Path:
    """Return the innermost package that a data file is in."""
    return next(folder for folder in data.parents if (folder / "__init__.py").is_file())


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
