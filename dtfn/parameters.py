"""The parameters of a notebook: read from its tagged cell, checked before anything runs."""

from __future__ import annotations

import ast
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtfn.errors import InputError, nearest


@dataclass(frozen=True)
class Parameter:
    """One line ``name: kind = default`` of a notebook's parameters cell.

    Attributes
    ----------
    name
        Its name.
    kind
        The type it is annotated with, e.g. ``list[str]``; else the type of the default.
    default
        Its value when nothing is given.
    """

    name: str
    kind: Any
    default: Any


def read(notebook: Path) -> dict[str, Parameter]:
    """Return the parameters of a notebook by name, in order; ``{}`` where no cell is tagged.

    Raises
    ------
    InputError
        The file is not a notebook, or a line of the cell is not ``name: type = literal``.
    """
    found: dict[str, Parameter] = {}
    for node in ast.parse(_tagged_source(notebook)).body:
        line = ast.unparse(node)
        try:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                raise ValueError(line)
            assert node.value is not None
            default = ast.literal_eval(node.value)
            kind = _kind(ast.unparse(node.annotation))
        except (ValueError, AssertionError, NameError, TypeError):
            raise InputError(
                f"parameters of {notebook.name}",
                expected="lines of the form 'name: type = literal'",
                found=repr(line),
                remedy="write it so, or move the line to another cell",
            ) from None
        found[node.target.id] = Parameter(node.target.id, kind, default)
    return found


def check(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values given, each converted to the type of its parameter.

    Text, as a command line gives it, is read as that type: ``"2"`` for int, ``"Set5,Set14"`` for
    ``list[str]``.

    Raises
    ------
    InputError
        A name that the notebook does not have (the nearest known one is named), or a value that
        is not of the type.
    """
    known = read(notebook)
    values = {}
    for name, value in given.items():
        if name not in known:
            raise InputError(
                f"parameter {name!r} of {notebook.stem}",
                expected=f"one of {', '.join(known) or 'none: it has no parameters'}",
                found="an unknown name",
                remedy=nearest(name, known) if known else "leave it out",
            )
        try:
            values[name] = convert(value, known[name].kind)
        except (ValueError, TypeError):
            raise InputError(
                f"parameter {name!r} of {notebook.stem}",
                expected=f"{type_name(known[name].kind)} such as {known[name].default!r}",
                found=repr(value),
                remedy="pass a value of that type",
            ) from None
    return values


def convert(value: Any, kind: Any) -> Any:
    """Return `value` as `kind`: int, float, bool, str, None, list, dict or a union of these.

    Raises
    ------
    ValueError
        It cannot be that without loss: ``"two"`` or ``2.5`` for int, ``1`` for bool.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _first_fitting(value, arguments)
    if kind in (None, types.NoneType):
        if value is None or value in ("", "None", "none", "null"):
            return None
    elif kind is list or origin is list:
        parts = _split(value) if isinstance(value, str) else value
        if isinstance(parts, (list, tuple)):
            return [convert(part, *arguments) if arguments else part for part in parts]
    elif kind is dict or origin is dict:
        value = json.loads(value) if isinstance(value, str) else value
        if isinstance(value, dict):
            return value
    elif kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
    elif kind in (int, float) and isinstance(value, (int, float, str)):
        return _number(value, kind)
    elif kind is str and isinstance(value, str):
        return value
    raise ValueError(value)


def type_name(kind: Any) -> str:
    """Return how a type is written: ``int``, ``list[str]``."""
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


def _tagged_source(notebook: Path) -> str:
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            notebook,
            expected="a Jupyter notebook",
            found=f"{type(error).__name__}: {error}",
            remedy="restore the file, e.g. with git",
        ) from None
    tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", [])]
    return "".join(tagged[0]["source"]) if tagged else ""


def _kind(annotation: str) -> Any:
    """Turn an annotation's text into a type: ``"list[str]"`` -> ``list[str]``."""
    holder = types.SimpleNamespace(__annotations__={"value": annotation})
    return typing.get_type_hints(holder)["value"]


def _first_fitting(value: Any, kinds: tuple[Any, ...]) -> Any:
    # Text fits str always, so str is tried last.
    for kind in sorted(kinds, key=lambda k: k is str):
        try:
            return convert(value, kind)
        except ValueError:
            continue
    raise ValueError(value)


def _split(text: str) -> list[Any]:
    if text.lstrip().startswith("["):
        parts = json.loads(text.replace("'", '"'))
        return parts if isinstance(parts, list) else [parts]
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(value: float | str, kind: type) -> int | float:
    if isinstance(value, bool):
        raise ValueError(value)
    number: int | float = kind(value)
    if not isinstance(value, str) and number != value:
        raise ValueError(value)
    return number
