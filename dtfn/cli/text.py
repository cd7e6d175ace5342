"""What several commands read and print: settings and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtfn.errors import InputError


def settings(given: list[str] | None) -> dict[str, str]:
    """Split ``["scale=4"]`` into ``{"scale": "4"}``.

    Raises
    ------
    InputError
        One of them is not of that form.
    """
    found = {}
    for text in given or []:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise InputError(
                "-p", expected="NAME=VALUE", found=repr(text), remedy="write e.g. -p scale=4"
            )
        found[name.strip()] = value.strip()
    return found


def columns(rows: Sequence[Sequence[Any]]) -> None:
    """Print rows with their columns aligned at the left."""
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(str(c).ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
