"""Network outputs remembered on disk, under the hash of everything that they were made from."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import diskcache
import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from dtfn import paths

LIMIT = 4 * 2**30  # bytes: some twenty networks on the four benchmarks; the oldest go first
FORMAT = "1"  # raise it when `dtfn.evaluation.upscale` makes other pixels of a network's output
FAILURES = (OSError, sqlite3.Error, diskcache.Timeout)


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

    def remember(self, key: str, output: Output) -> None:
        """Store an output as PNG, its seconds in a text chunk; only warn where that fails."""
        if self._store is None:
            return
        text = PngImagePlugin.PngInfo()
        text.add_text("seconds", repr(output.seconds))
        stream = io.BytesIO()
        Image.fromarray(output.image).save(stream, "PNG", pnginfo=text, compress_level=1)
        try:
            self._store.set(key, stream.getvalue())
        except FAILURES as error:
            warnings.warn(f"output not cached in {paths.CACHE}: {error}", stacklevel=2)


@contextmanager
def opened() -> Iterator[Outputs]:
    """Open the cache below ``paths.CACHE``, or warn and go on with one that remembers nothing."""
    try:
        store = diskcache.Cache(str(paths.CACHE / "outputs"), size_limit=LIMIT)
    except FAILURES as error:
        warnings.warn(f"no cache of outputs in {paths.CACHE}: {error}", stacklevel=3)
        yield Outputs(None)
        return
    with store:
        yield Outputs(store)


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


def sha256(file: Path) -> str:
    """Return the sha256 of a file; hashed again only when its time or size has changed."""
    state = file.stat()
    return _sha256(file.resolve(), state.st_mtime_ns, state.st_size)


@functools.cache
def _sha256(file: Path, modified: int, size: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.cache
def _code() -> str:
    """Hash what turns weights and pixels into an output: the networks' source and torch."""
    digest = hashlib.sha256(f"{FORMAT} {importlib.metadata.version('torch')} ".encode())
    for file in sorted((Path(__file__).parents[1] / "models").glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
