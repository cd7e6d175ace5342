"""Files that are written whole or not at all, their hashes, and JSON that survives damage."""

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
def replacing(path: Path) -> Iterator[Path]:
    """Yield a draft in the same folder, made if needed, that replaces ``path`` if all goes well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        if error.filename in (None, str(draft)):  # a full disk names no file
            error.filename = str(path)
        raise
    finally:
        draft.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file whole or not at all."""
    write(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path, empty: Json) -> Json:
    """Return what a JSON file holds, or ``empty``; a broken one is set aside and logged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return type(empty)()
    except ValueError:
        content = None
    if isinstance(content, type(empty)):
        return content
    kept = path.replace(path.with_name(f"{path.name}.broken"))
    logging.getLogger("dtfn").warning(f"{path} is empty or broken: it is kept as {kept.name}")
    return type(empty)()


@contextlib.contextmanager
def updating(path: Path, empty: Json) -> Iterator[Json]:
    """Yield what `read_json` returns, under a lock, to be changed in place and written."""
    with FileLock(path.with_name(f".{path.name}.lock")):
        content = read_json(path, empty)
        yield content
        write_json(path, content)
