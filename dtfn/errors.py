"""The one error a user should ever meet: what was expected, what was found, what to do."""

import difflib
from collections.abc import Collection, Iterable


class InputError(ValueError):
    """Input that is refused: what is wrong (e.g. a file), and what would have been accepted.

    The command line prints it in one line, without a traceback, and exits with code 2.
    """

    def __init__(self, what: object, expected: object, found: object, remedy: str) -> None:
        super().__init__(f"{what}: expected {expected}; found {found}; {remedy}")


class NotebookFailed(RuntimeError):
    """A notebook raised an error; its run is kept in a folder with the traceback."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'x'?"`` for the closest known name, or the whole list."""
    names = sorted(known)
    longer = [other for other in names if name and other.startswith(name)]
    close = longer[:1] or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(names)}"


def require_known(
    name: object, known: Collection[str], what: str, expected: str = "a known name"
) -> None:
    """Raise `InputError` with the nearest known name unless a name is one of these."""
    if name not in known:
        raise InputError(what, expected, repr(name), nearest(str(name), known))
