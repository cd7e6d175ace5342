"""Files that are written whole or not at all, their hashes, and JSON that survives damage."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from dtfn.errors import InputError

Json = TypeVar("Json", dict[str, Any], list[Any])


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file; hashed again only when its time, size or inode has changed."""
    state = file.stat()
    return _sha256(file.resolve(), state.st_mtime_ns, state.st_size, state.st_ino)


@functools.lru_cache(maxsize=4096)
def _sha256(file: Path, modified: int, size: int, inode: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def writing(
    path: Path, remedy: str = "free some room, get the right to write there, or choose another"
) -> Iterator[None]:
    """Turn what goes wrong while a path is written into one line.

    Raises
    ------
    InputError
        For any `OSError`, e.g. a full disk or a folder that is read-only.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            path, "a place that can be written", error.strerror or error, remedy
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a draft's path in the same folder; it replaces ``path`` at the end, unless that fails.

    The name of the draft is unique, so that processes that write the same file do not meet.
    Folders are made as needed.

    Raises
    ------
    InputError
        If the file cannot be written; what was there stays.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
        try:
            yield draft
            draft.replace(path)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; errors as `replacing`."""
    with replacing(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file whole or not at all; errors as `replacing`."""
    write(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path, empty: Json) -> Json:
    """Return what a JSON file of this project holds.

    An empty or broken file is set aside as ``NAME.broken`` and named in one line of the log: one
    bad file must not stop everything else.

    Parameters
    ----------
    path
        The file.
    empty
        ``{}`` or ``[]``: what the file must hold, and what is returned where there is none.

    Raises
    ------
    InputError
        If the file is there but cannot be read.
    """
    content = _parsed(path, empty)
    if content is None:
        with contextlib.suppress(OSError), _locked(path):
            content = _parsed(path, empty)  # another process may have mended it
            if content is None:
                logging.getLogger("dtfn").warning(
                    f"{path} is empty or broken: it counts as empty, and is kept as "
                    f"{path.name}.broken"
                )
                path.replace(path.with_name(f"{path.name}.broken"))
    return type(empty)() if content is None else content


@contextlib.contextmanager
def updating(path: Path, empty: Json) -> Iterator[Json]:
    """Yield what a JSON file holds, to be changed in place, and write it at the end.

    One process at a time, so that no entry is lost. If the body raises, nothing is written.

    Parameters
    ----------
    path, empty
        As `read_json`.

    Raises
    ------
    InputError
        If the file cannot be read or written.
    """
    with contextlib.ExitStack() as stack:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(path))
        content = read_json(path, empty)
        yield content
        write_json(path, content)


def _locked(path: Path) -> FileLock:
    """Return the lock of a file; a thread that holds it may take it again."""
    return FileLock(path.with_name(f".{path.name}.lock"), is_singleton=True)


def _parsed(path: Path, empty: Json) -> Json | None:
    """Return the content of a JSON file, ``empty`` if there is no file, None if it is broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return type(empty)()
    except ValueError:
        return None
    except OSError as error:
        raise InputError(
            path,
            "a file that can be read",
            error.strerror or error,
            "get the right to read it, or move it away",
        ) from error
    return content if isinstance(content, type(empty)) else None
