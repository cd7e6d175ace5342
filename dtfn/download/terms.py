"""The terms of the sets: shown before the first download, accepted once for a data folder."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from dtfn import paths
from dtfn.download.sources import Source
from dtfn.errors import InputError

FILE = "licences.json"

Agree = Callable[[str, list[str]], bool]


def require(sets: Iterable[Source], agree: Agree) -> None:
    """See to it that the user has accepted the terms of all sets, now or earlier.

    What is accepted is the text itself: if it ever changes, it is shown again.

    Parameters
    ----------
    sets
        What is to be downloaded.
    agree
        Called once for each text that is new here, with the names of its sets.

    Raises
    ------
    InputError
        If one is not accepted.
    OSError
        If the answer cannot be stored.
    """
    waiting: dict[str, list[Source]] = {}
    known = _accepted(paths.data_root(), paths.training_root(), paths.validation_root())
    for source in sets:
        if source.terms not in known:
            waiting.setdefault(source.terms, []).append(source)
    for text, of in waiting.items():
        names = [source.name for source in of]
        if not agree(text, names):
            raise InputError(
                ", ".join(names), expected="that you accept its terms", found="no",
                remedy=f"if you agree, answer y or add --yes; they are: {text}",
            )  # fmt: skip
        for root in {source.root for source in of}:
            _store(root, text)


def _accepted(*roots: Path) -> dict[str, str]:
    """Return the accepted texts with the day of each."""
    found: dict[str, str] = {}
    for root in roots:
        # A damaged file costs no more than being asked again.
        with contextlib.suppress(OSError, ValueError, TypeError):
            found |= json.loads((root / FILE).read_text(encoding="utf-8"))
    return found


def _store(root: Path, text: str) -> None:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    root.mkdir(parents=True, exist_ok=True)
    draft = root / f".{FILE}"
    draft.write_text(json.dumps({**_accepted(root), text: today}, indent=1), encoding="utf-8")
    draft.replace(root / FILE)
