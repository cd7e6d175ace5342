"""Arrays remembered on disk, such as outputs and maps of networks.

Each lies under the hash of all that it was made from. Whatever goes wrong with the disk, the work
goes on, with a warning, and what cannot be read is made again.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import os
import re
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import diskcache
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from dtfn import paths, provenance
from dtfn.errors import InputError

LIMIT = "12GB"  # some fifty networks on the four benchmarks; the oldest outputs go first
LIMIT_VARIABLE = "DTFN_CACHE_LIMIT"
FORMAT = "2"  # raise it when what is stored, or `dtfn.evaluation.upscale`, changes

FAILURES = (OSError, sqlite3.Error, diskcache.Timeout)
DIGEST = hashlib.sha256().digest_size
_stores: list[diskcache.Cache | None] = []  # the open one, if any

Arrays = dict[str, NDArray[Any]]


class Usage(NamedTuple):
    """What the cache holds: its folder, entries, bytes on disk, and bytes allowed."""

    folder: Path
    entries: int
    bytes: int
    limit: int


def remembered(key: str, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays of a key by name; make and remember them where there are none.

    Processes that ask for the same at one time make it once: the others wait. A process that is
    killed frees the next one.

    Parameters
    ----------
    key
        From `key`.
    make
        Makes the arrays.
    """
    with opened() as store, ExitStack() as stack:
        arrays = _recalled(store, key)
        if arrays is not None:
            return arrays
        try:
            folder = paths.cache("locks")
            folder.mkdir(parents=True, exist_ok=True)
            # One of 256 locks, so that their files never grow in number.
            stack.enter_context(FileLock(folder / key[:2]))
        except (OSError, NotImplementedError) as error:  # a disk without locks
            warnings.warn(f"no lock in {paths.cache('locks')}: {error}", stacklevel=2)
        arrays = _recalled(store, key)
        if arrays is None:
            arrays = make()
            _remember(store, key, arrays)
        return arrays


def missing(key: str) -> bool:
    """Return whether the cache does not hold a key."""
    with opened() as store:
        return store is None or key not in store


def key(*parts: object) -> str:
    """Return what arrays depend on, hashed: texts, numbers and arrays, in their order."""
    digest = hashlib.sha256(FORMAT.encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f" {part.dtype} {part.shape} ".encode() + np.ascontiguousarray(part).data)
        else:
            digest.update(f" {part} ".encode())
    return digest.hexdigest()


@functools.cache
def source(*names: str) -> str:
    """Hash modules of this package, without comments and docstrings, and the version of torch.

    Packages stand for all modules in them. Hashed once a process, since what has been imported
    stays as it was.
    """
    codes = [importlib.metadata.version("torch")]
    for name in names:
        package = provenance.PACKAGE
        files = sorted(package.glob(f"{name}/*.py")) or [package / f"{name}.py"]
        codes += [provenance.source_key(file.read_text(encoding="utf-8")) for file in files]
    return key(*codes)


def limit() -> int:
    """Return how many bytes are kept: ``$DTFN_CACHE_LIMIT``, else 12GB.

    Raises
    ------
    InputError
        The variable is not a size.
    """
    return size(os.environ.get(LIMIT_VARIABLE) or LIMIT, LIMIT_VARIABLE)


def size(text: str, what: str) -> int:
    """Return bytes from text such as ``"500MB"`` or ``"4 GB"`` (a MB is 2^20 bytes).

    Raises
    ------
    InputError
        The text is no size; `what` says of what.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", text.lower())
    if not match:
        raise InputError(what, "a size", repr(text), "write e.g. 500MB or 4GB")
    return int(float(match[1]) * 2 ** (10 * " kmgt".index(match[2] or " ")))


def usage() -> Usage:
    """Return what the cache holds; 0 where there is none."""
    folder = paths.cache("outputs")
    if not folder.is_dir():
        return Usage(folder, 0, 0, limit())
    with diskcache.Cache(str(folder), size_limit=limit()) as store:
        return Usage(folder, len(store), store.volume(), limit())


def clear() -> int:
    """Remove all that the cache holds, and return how many entries that were."""
    if not paths.cache("outputs").is_dir():
        return 0
    with diskcache.Cache(str(paths.cache("outputs"))) as store:
        return int(store.clear())


@contextmanager
def opened() -> Iterator[diskcache.Cache | None]:
    """Open the store, or warn and yield None; inside of another such context, take its store.

    Opening takes as long as reading an output: open it around a loop.
    """
    if _stores:
        yield _stores[-1]
        return
    folder = paths.cache("outputs")
    with ExitStack() as stack:
        try:
            _stores.append(stack.enter_context(diskcache.Cache(str(folder), size_limit=limit())))
        except FAILURES as error:
            warnings.warn(f"no cache of outputs in {folder}: {error}", stacklevel=4)
            _stores.append(None)
        try:
            yield _stores[-1]
        finally:
            _stores.pop()


def _recalled(store: diskcache.Cache | None, key: str) -> Arrays | None:
    """Return what is stored; None where there is nothing, or where it is damaged."""
    try:
        content = None if store is None else store.get(key)
    except (*FAILURES, ValueError, TypeError):
        return None
    if not isinstance(content, bytes):
        return None
    digest, archive = content[:DIGEST], content[DIGEST:]
    if hashlib.sha256(archive).digest() != digest:
        return None
    with np.load(io.BytesIO(archive), allow_pickle=False) as arrays:
        return dict(arrays)


def _remember(store: diskcache.Cache | None, key: str, arrays: Arrays) -> None:
    """Store arrays after their digest; only warn where that fails."""
    if store is None:
        return
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    try:
        store.set(key, hashlib.sha256(stream.getvalue()).digest() + stream.getvalue())
    except FAILURES as error:
        warnings.warn(f"output not cached in {paths.cache('outputs')}: {error}", stacklevel=3)
