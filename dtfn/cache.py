"""Arrays remembered on disk, such as outputs and maps of networks.

Each lies under the hash of all that it was made from. Whatever goes wrong with the disk, the work
goes on, with a warning, and what cannot be read is made again.
"""

import functools
import hashlib
import importlib.metadata
import io
import os
import re
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import diskcache
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from dtfn import paths, provenance
from dtfn.errors import InputError

FORMAT = "3"  # raise it when what is stored, or `dtfn.evaluation.upscale`, changes

Arrays = dict[str, NDArray[Any]]

_FAILURES = (OSError, sqlite3.Error, diskcache.Timeout)
_stores: list[Any] = []  # the open one, if any


def remembered(key: str, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays of a key (from `key`) by name; one process makes them if there are none."""
    with opened() as store, ExitStack() as stack:
        if (arrays := _recalled(store, key)) is not None:
            return arrays
        # One of 256 locks, which a thread that holds it may take again. Not every disk has them.
        with suppress(OSError, NotImplementedError):
            stack.enter_context(FileLock(paths.CACHE / "locks" / key[:2], is_singleton=True))
            if (arrays := _recalled(store, key)) is not None:
                return arrays
        arrays, stream = make(), io.BytesIO()
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        try:
            store[key] = stream.getvalue()
        except _FAILURES as error:
            warnings.warn(f"output not cached in {store.directory}: {error}", stacklevel=2)
        return arrays


def key(*parts: object) -> str:
    """Return what arrays depend on, hashed: texts, numbers and arrays, in their order."""
    digest = hashlib.sha256(FORMAT.encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f" {part.dtype} {part.shape} ".encode() + np.ascontiguousarray(part).data)
        else:
            digest.update(f" {part} ".encode())
    return digest.hexdigest()


def limit() -> int:
    """Return the bytes that the cache may hold: ``$DTFN_CACHE_LIMIT``, else 12GB."""
    # Some fifty networks on the four benchmarks; the oldest outputs go first.
    return size(os.environ.get("DTFN_CACHE_LIMIT") or "12GB", "DTFN_CACHE_LIMIT")


@functools.cache
def source(*names: str) -> str:
    """Hash modules of this package and the version of torch, once: imported code stays as it is."""
    return key(importlib.metadata.version("torch"), provenance.code_key(*names))


def size(text: str, what: str) -> int:
    """Return bytes from text such as ``"500MB"`` or ``"4 GB"`` (a MB is 2^20 bytes) of a thing."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", text.lower())
    if not match:
        raise InputError(what, "a size", repr(text), "write e.g. 500MB or 4GB")
    return int(float(match[1]) * 2 ** (10 * " kmgt".index(match[2] or " ")))


@contextmanager
def opened() -> Iterator[Any]:
    """Open the store around a loop, or warn and yield a dict; within such a context share its."""
    if _stores:
        yield _stores[-1]
        return
    folder = paths.CACHE / "outputs"
    with ExitStack() as stack:
        try:
            store = stack.enter_context(diskcache.Cache(str(folder), size_limit=limit()))
        except _FAILURES as error:
            warnings.warn(f"no cache of outputs in {folder}: {error}", stacklevel=4)
            store = {}
        _stores.append(store)
        stack.callback(_stores.pop)
        yield store


def _recalled(store: Any, key: str) -> Arrays | None:
    try:
        with np.load(io.BytesIO(store.get(key)), allow_pickle=False) as arrays:
            return dict(arrays)  # a zip file: each array has a CRC, which is checked
    except Exception:  # nothing is there, or it is damaged
        return None
