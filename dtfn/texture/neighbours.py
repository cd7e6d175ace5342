"""The LR patches that look most like each LR patch: what non-local attention would look at.

Exact search by faiss over all positions of a picture. Users find what is made of it in
`dtfn.texture` and `dtfn.exemplars`.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from tqdm import tqdm

from dtfn import cache
from dtfn.errors import InputError
from dtfn.subpixel.blocks import Array, Float, luma

SIDE = 5  # of a patch, in LR pixels: the reach of two 3 x 3 convolutions
COUNT = 8
QUERIES = 2**14  # positions that faiss is asked about at once
ELEMENTS = 2**22  # numbers compared at once


@dataclass(frozen=True)
class Neighbours:
    """For each LR position asked about, the positions whose patches look most like its own.

    Positions are counted in reading order: row * W + column.

    Attributes
    ----------
    shape
        (H, W) of the LR grid.
    asked
        The positions asked about, int32 ``(n,)``, rising.
    index
        Their neighbours, int32 ``(n, K)``, most similar first; never the position itself.
    """

    shape: tuple[int, int]
    asked: NDArray[np.int32]
    index: NDArray[np.int32]

    def spread(self, values: Array) -> Float:
        """Return ``(n,)`` values as a map ``(H, W)``, NaN at positions not asked about."""
        grid = np.full(self.shape, np.nan)
        grid.flat[self.asked] = values
        return grid


def patches(lr: Array) -> NDArray[np.float32]:
    """Return the 5 x 5 patch around each LR position, its mean grey removed.

    Parameters
    ----------
    lr
        uint8 RGB ``(H, W, 3)`` or grey ``(H, W)``, or floating Y ``(H, W)`` in [0, 255].

    Returns
    -------
    float32 ``(H * W, 25)``, in grey levels. Beyond the border the picture is mirrored, edge pixels
    twice, as MATLAB's bicubic does.

    Raises
    ------
    InputError
        As `dtfn.subpixel.blocks.luma`.
    """
    # From float32, so that the mean of 25 equal numbers is that number and flat patches become 0.
    y = luma(lr, lr).astype(np.float32).astype(np.float64)
    windows = sliding_window_view(np.pad(y, SIDE // 2, mode="symmetric"), (SIDE, SIDE))
    found = np.empty((*y.shape, SIDE * SIDE), np.float32)
    for row, strip in zip(found, windows, strict=True):  # row by row, or float64 would be kept
        flat = strip.reshape(-1, SIDE * SIDE)
        row[:] = flat - flat.mean(axis=1, keepdims=True)
    return found.reshape(-1, SIDE * SIDE)


def search(lr: Array, count: int = COUNT, every: int = 1, *, progress: bool = False) -> Neighbours:
    """Return the most similar patches of the same picture, for each LR position.

    Similar means: the least Euclidean distance between patches without their means. All positions
    are candidates, however near; two patches that are equally similar stand in reading order.

    Parameters
    ----------
    lr
        As for `patches`.
    count
        K, the number of neighbours.
    every
        Ask about every so many rows and columns only (all positions stay candidates). The time
        rises with the square of the picture's area: at 2048 x 1536, hours.
    progress
        Show a bar.

    Returns
    -------
    Exact but for float32: of two patches whose distances differ by less than some 1e-6 of their
    energy, either may be the last of the K, and which may depend on the machine. The memory used is
    100 bytes an LR position and 4 K more for each one asked about, beside some 100 MB.

    Raises
    ------
    InputError
        For ``every`` below 1, or a picture with fewer than K + 1 positions.
    """
    vectors = patches(lr)
    shape: tuple[int, int] = lr.shape[0], lr.shape[1]
    if not 1 <= count < len(vectors) or every < 1:
        raise InputError(
            "search for similar patches",
            expected=f"a count from 1 to {len(vectors) - 1} (the picture has that many others) "
            "and every 1st position or fewer",
            found=f"count {count}, every {every}",
            remedy="use a larger picture or a smaller count",
        )
    grid = np.arange(len(vectors), dtype=np.int32).reshape(shape)
    asked = grid[::every, ::every].ravel()
    index = np.empty((len(asked), count), np.int32)
    bar = tqdm(total=len(asked), desc="similar patches", unit="position", disable=not progress)
    with bar:
        for start in range(0, len(asked), QUERIES):
            part = asked[start : start + QUERIES]
            index[start : start + QUERIES] = _nearest(vectors, part, count)
            bar.update(len(part))
    return Neighbours(shape, asked, index)


def remembered(lr: Array, count: int = COUNT, every: int = 1) -> Neighbours:
    """Return `search`, or what it found the last time: it is kept beside the networks' outputs."""
    digest = hashlib.sha256(f"neighbours {_code()} {count} {every} {lr.shape} {lr.dtype}".encode())
    digest.update(np.ascontiguousarray(lr).data)

    def make() -> cache.Arrays:
        found = search(lr, count, every)
        return {"asked": found.asked, "index": found.index}

    with cache.opened() as known:
        return Neighbours((lr.shape[0], lr.shape[1]), **known.arrays(digest.hexdigest(), make))


def differences(values: Array, found: Neighbours) -> NDArray[np.float32]:
    """Return how much the values at each position differ from those at its neighbours.

    Parameters
    ----------
    values
        ``(H * W, D)``.
    found
        The positions and their neighbours.

    Returns
    -------
    Mean squared difference, float32 ``(n, K)``.
    """
    result = np.empty(found.index.shape, np.float32)
    for rows in _chunks(result.shape, values.shape[1]):
        step = values[found.asked[rows], None] - values[found.index[rows]]  # (rows, K, D)
        result[rows] = np.einsum("nkd,nkd->nk", step, step) / values.shape[1]
    return result


def _nearest(
    vectors: NDArray[np.float32], asked: NDArray[np.int32], count: int
) -> NDArray[np.int64]:
    """Return the nearest vectors to some of them, themselves left out, ``(n, count)``."""
    _, index = _faiss().knn(vectors[asked], vectors, count + 1)
    # Itself is at distance 0 but not always the first: others may be equal. Among many equal ones
    # it may not even be there; then the last one goes.
    own = index == asked[:, None]
    own[~own.any(axis=1), -1] = True
    index = index[~own].reshape(len(asked), count)
    # faiss gets distances as |a|^2 - 2 ab + |b|^2, which rounds; order by the difference itself.
    exact = np.empty(index.shape, np.float32)
    for rows in _chunks(exact.shape, vectors.shape[1]):
        step = vectors[asked[rows], None] - vectors[index[rows]]
        exact[rows] = np.einsum("nkd,nkd->nk", step, step)
    return np.take_along_axis(index, np.lexsort((index, exact), axis=1), axis=1)


def _code() -> str:
    """Hash what decides who is whose neighbour: this file and faiss."""
    return f"{_faiss().__version__} {cache.source('texture/neighbours.py')}"


def _chunks(shape: tuple[int, ...], depth: int) -> Iterator[slice]:
    """Yield slices of the n rows of ``(n, K)`` vectors that hold about `ELEMENTS` numbers each."""
    size = max(1, ELEMENTS // (shape[1] * depth))
    return (slice(start, start + size) for start in range(0, shape[0], size))


def _faiss() -> Any:
    """Import faiss, when it is needed.

    On macOS its OpenMP and torch's end the process when both have threads (faiss-wheels issue 73):
    there it gets one, and the runtime is told to bear with the second library.
    """
    if sys.platform == "darwin":
        os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")
    import faiss

    if sys.platform == "darwin":
        faiss.omp_set_num_threads(1)
    return faiss
