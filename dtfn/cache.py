"""Network outputs and maps remembered on disk, under the hash of all that they were made from."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import os
import re
import sqlite3
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import diskcache
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from dtfn import paths
from dtfn.errors import InputError

LIMIT = "12GB"  # some sixty networks on the four benchmarks; the oldest go first
LIMIT_VARIABLE = "DTFN_CACHE_LIMIT"
FORMAT = "1"  # raise it when `dtfn.evaluation.upscale` makes other pixels of a network's output
FAILURES = (OSError, sqlite3.Error, diskcache.Timeout)

Arrays = dict[str, NDArray[Any]]
T = TypeVar("T")


@dataclass(frozen=True)
class Output:
    """What a method made of one LR image.

    Attributes
    ----------
    image
        uint8 ``(sH, sW, 3)`` RGB.
    seconds
        Wall time of the run that made it, also where the cache remembered it.
    """

    image: NDArray[np.uint8]
    seconds: float


class Outputs:
    """The outputs in an open cache; one that could not be opened remembers nothing."""

    def __init__(self, store: diskcache.Cache | None) -> None:
        self._store = store

    def recall(self, key: str, shape: tuple[int, ...]) -> Output | None:
        """Return the output of ``key``, or None where there is none or it is damaged.

        Parameters
        ----------
        key
            From `key`.
        shape
            What the image must have, ``(sH, sW, 3)``.
        """
        if self._store is None:
            return None
        try:
            stored = self._store.get(key)
            if stored is None:
                return None
            Image.open(io.BytesIO(stored)).verify()  # the checksums; reading skips them
            with Image.open(io.BytesIO(stored)) as png:
                output = Output(np.array(png), float(png.info["seconds"]))
        except (*FAILURES, ValueError, KeyError, TypeError, SyntaxError):
            return None  # SyntaxError is Pillow's word for a broken PNG
        return output if output.image.shape == shape else None

    def holds(self, key: str) -> bool:
        """Return whether there is an output of ``key``, be it damaged or not."""
        try:
            return self._store is not None and key in self._store
        except FAILURES:
            return False

    def recall_or_make(
        self, key: str, shape: tuple[int, ...], make: Callable[[], Output]
    ) -> Output:
        """Return the output of ``key``; make and remember it where there is none.

        Processes that ask for one output at the same time make it once: the others wait. A process
        that is killed frees the next one.

        Parameters
        ----------
        key, shape
            As for `recall`.
        make
            Makes the output.
        """
        return self._once(key, lambda: self.recall(key, shape), make, self.remember)

    def arrays(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        """Return the arrays of ``key`` by name; make and remember them where there are none."""
        return self._once(key, lambda: self._arrays(key), make, self._remember_arrays)

    def _once(
        self, key: str, recall: Callable[[], T | None], make: Callable[[], T],
        remember: Callable[[str, T], None],
    ) -> T:  # fmt: skip
        found = recall()
        if found is not None:
            return found
        with ExitStack() as stack:
            if self._store is not None:
                try:
                    stack.enter_context(_lock(key))
                except (OSError, NotImplementedError) as error:  # a disk without locks
                    warnings.warn(f"no lock in {paths.CACHE}: {error}", stacklevel=3)
            found = recall()
            if found is None:
                found = make()
                remember(key, found)
        return found

    def remember(self, key: str, output: Output) -> None:
        """Store an output as PNG, its seconds in a text chunk; only warn where that fails."""
        text = PngImagePlugin.PngInfo()
        text.add_text("seconds", repr(output.seconds))
        stream = io.BytesIO()
        Image.fromarray(output.image).save(stream, "PNG", pnginfo=text, compress_level=1)
        self._set(key, stream.getvalue())

    def _arrays(self, key: str) -> Arrays | None:
        try:
            stored = None if self._store is None else self._store.get(key)
            if stored is None:
                return None
            with np.load(io.BytesIO(stored), allow_pickle=False) as archive:  # checks the sums
                return {name: archive[name] for name in archive.files}
        except (*FAILURES, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def _remember_arrays(self, key: str, arrays: Arrays) -> None:
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        self._set(key, stream.getvalue())

    def _set(self, key: str, content: bytes) -> None:
        if self._store is None:
            return
        try:
            self._store.set(key, content)
        except FAILURES as error:
            warnings.warn(f"output not cached in {paths.CACHE}: {error}", stacklevel=5)


@contextmanager
def opened() -> Iterator[Outputs]:
    """Open the cache below ``paths.CACHE``, or warn and go on with one that remembers nothing."""
    try:
        store = diskcache.Cache(str(paths.CACHE / "outputs"), size_limit=limit())
    except FAILURES as error:
        warnings.warn(f"no cache of outputs in {paths.CACHE}: {error}", stacklevel=3)
        yield Outputs(None)
        return
    with store:
        yield Outputs(store)


def limit() -> int:
    """Return how many bytes of outputs are kept: ``$DTFN_CACHE_LIMIT``, else 12GB.

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
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", text.lower())
    if not found:
        raise InputError(
            what, expected="a size", found=repr(text), remedy="write e.g. 500MB or 4GB"
        )
    return int(float(found[1]) * 2 ** (10 * " kmgt".index(found[2] or " ")))


@dataclass(frozen=True)
class Usage:
    """What the cache holds: its folder, outputs and maps, bytes on disk, and bytes allowed."""

    folder: Path
    entries: int
    bytes: int
    limit: int


def usage() -> Usage:
    """Return what the cache holds; 0 where there is none."""
    folder = paths.CACHE / "outputs"
    if not folder.is_dir():
        return Usage(folder, 0, 0, limit())
    with diskcache.Cache(str(folder), size_limit=limit()) as store:
        return Usage(folder, len(store), store.volume(), limit())


def clear(keep: int = 0) -> int:
    """Remove outputs, the oldest first and ten at a time, until at most `keep` bytes are left.

    Returns
    -------
    int
        How many were removed.
    """
    folder = paths.CACHE / "outputs"
    if not folder.is_dir():
        return 0
    with diskcache.Cache(str(folder), size_limit=keep) as store:
        removed = store.cull() if keep else store.clear()
        store.reset("size_limit", limit())
    return removed


def key(weights: str, lr: NDArray[np.uint8], scale: int, way: str = "") -> str:
    """Return what an output depends on, hashed.

    Parameters
    ----------
    weights
        sha256 of the weights file.
    lr
        uint8 ``(H, W, 3)``.
    scale
        2, 3 or 4.
    way
        Names tiling and self-ensemble; empty for one run on the whole image.
    """
    digest = hashlib.sha256(f"{weights} {lr.shape} x{scale} {_code()} {way} ".encode())
    digest.update(np.ascontiguousarray(lr).data)
    return digest.hexdigest()


def _lock(key: str) -> FileLock:
    """Return a lock for the key: one of 256, so that their files never grow in number."""
    folder = paths.CACHE / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / key[:2])


def sha256(file: Path) -> str:
    """Return the sha256 of a file; hashed again only when its time or size has changed."""
    state = file.stat()
    return _sha256(file.resolve(), state.st_mtime_ns, state.st_size)


@functools.cache
def _sha256(file: Path, modified: int, size: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.cache
def source(*names: str) -> str:
    """Hash files of this package by their names in it; without suffix: a module or a folder.

    Hashed once a process, since what has been imported stays as it was.
    """
    package = Path(__file__).parent
    places = [p if (p := package / name).exists() else p.with_suffix(".py") for name in names]
    files = [f for place in places for f in (sorted(place.glob("*.py")) or [place])]
    return hashlib.sha256(" ".join(map(sha256, files)).encode()).hexdigest()


@functools.cache
def _code() -> str:
    """Hash what turns weights and pixels into an output: the networks' source and torch."""
    digest = hashlib.sha256(f"{FORMAT} {importlib.metadata.version('torch')} ".encode())
    for file in sorted((Path(__file__).parent / "models").glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
