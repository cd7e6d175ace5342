"""How an LR image is cut into tiles that a network sees one by one, and what a network costs.

Every tile overlaps its neighbours, but each position of the image is kept from exactly one tile.
With enough overlap no seam can be seen; what attention finds, it finds within its tile only.

Cost is measured on small images and extrapolated. Networks without attention and with hashed
attention take so much time a position; dense attention compares every position with every other.
So time is fitted as ``a + b L + c L^2`` of the L positions of a tile, with ``a, b, c >= 0``; and
memory without the square, since all attention here runs in blocks.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dtfn import cache
from dtfn.errors import InputError

if TYPE_CHECKING:
    import torch

OVERLAP = 16  # LR positions
SIDES = (32, 48, 64, 96, 128)  # LR positions a side of the images that are tried
ENOUGH = 2.0  # seconds of a trial after which no larger image is tried
# Tile sides that a budget may choose. Coarse, so that a little more or less of free memory, or
# another machine, chooses the same tiles and thus gives the same pixels.
STEPS = (48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
SPARE = 0.85  # share of a budget that is planned with: allocators do not fill every gap

Coefficients = tuple[float, ...]


@dataclass(frozen=True)
class Span:
    """A stretch of rows or of columns: what a tile sees of them, and what is kept of it.

    Attributes
    ----------
    start, stop
        LR positions that the network sees, of the whole image.
    first, last
        LR positions that are kept, of the whole image: ``start <= first < last <= stop``.
    """

    start: int
    stop: int
    first: int
    last: int

    @property
    def seen(self) -> slice:
        """What the network sees, as a slice of the LR image."""
        return slice(self.start, self.stop)

    def kept(self, scale: int) -> slice:
        """Return what is kept, as a slice of the super-resolved image."""
        return slice(scale * self.first, scale * self.last)

    def inner(self, scale: int) -> slice:
        """Return what is kept, as a slice of the super-resolved tile."""
        return slice(scale * (self.first - self.start), scale * (self.last - self.start))


Tile = tuple[Span, Span]
"""Rows and columns."""


@dataclass(frozen=True)
class Tiling:
    """Square tiles of one size, evenly spread.

    Attributes
    ----------
    size
        LR positions a side that the network sees at once, overlap included; an image is never
        enlarged to fill a tile.
    overlap
        Least LR positions that a tile sees beyond what is kept of it, on each side that has a
        neighbour.

    Raises
    ------
    InputError
        The overlap is negative, or leaves nothing to keep.
    """

    size: int
    overlap: int = OVERLAP

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.overlap < self.size:
            raise InputError(
                "tiling", expected="tiles larger than twice their overlap",
                found=f"size {self.size}, overlap {self.overlap}",
                remedy="choose larger tiles or less overlap",
            )  # fmt: skip

    def tiles(self, height: int, width: int) -> list[Tile]:
        """Return the tiles of an image of ``height x width`` LR positions, row by row."""
        columns = self._spans(width)
        return [(row, column) for row in self._spans(height) for column in columns]

    def _spans(self, length: int) -> list[Span]:
        size = min(self.size, length)
        gaps = -(-(length - size) // (self.size - 2 * self.overlap))  # rounded up
        starts = [i * (length - size) // gaps for i in range(gaps)] + [length - size]
        # Two neighbours share at least 2 * overlap positions: each keeps half of them.
        cuts = [(start + size + after) // 2 for start, after in pairwise(starts)]
        ends = zip([0, *cuts], [*cuts, length], strict=True)
        return [Span(s, s + size, *kept) for s, kept in zip(starts, ends, strict=True)]


@dataclass(frozen=True)
class Chop:
    """What ``--chop`` does in the code of EDSR's descendants, DTFN's among them.

    The image is always cut into four overlapping quarters, and each of them again until a quarter
    has fewer than ``min_size`` positions. A quarter is half the image and ``shave``, rounded up to
    the next multiple of 4 rows and 8 columns (a multiple itself grows too).

    Attributes
    ----------
    shave
        Least LR positions that a quarter sees beyond its half.
    min_size
        LR positions from which a quarter is cut again.

    Notes
    -----
    The authors' code fails where a rounded quarter is larger than the image: a height below 24,
    a width below 24 or of 28 to 31. Here the quarter is then the image's size.
    """

    shave: int = 10
    min_size: int = 120_000

    def tiles(self, height: int, width: int) -> list[Tile]:
        """Return the tiles of an image of ``height x width`` LR positions."""
        return list(self._cut(Span(0, height, 0, height), Span(0, width, 0, width)))

    def _cut(self, rows: Span, columns: Span) -> Iterator[Tile]:
        upper_lower = self._halves(rows, 4)
        left_right = self._halves(columns, 8)
        size = [halves[0].stop - halves[0].start for halves in (upper_lower, left_right)]
        # A quarter as large as what it was cut from would be cut for ever.
        shrinks = size != [rows.stop - rows.start, columns.stop - columns.start]
        for row in upper_lower:
            for column in left_right:
                if row.first >= row.last or column.first >= column.last:
                    continue  # a neighbour keeps all of it
                if size[0] * size[1] >= self.min_size and shrinks:
                    yield from self._cut(row, column)
                else:
                    yield row, column

    def _halves(self, whole: Span, multiple: int) -> tuple[Span, Span]:
        length = whole.stop - whole.start
        half = length // 2
        size = half + self.shave
        size = min(size + multiple - size % multiple, length)
        middle = whole.start + half
        return (
            Span(whole.start, whole.start + size, whole.first, min(middle, whole.last)),
            Span(whole.stop - size, whole.stop, max(middle, whole.first), whole.last),
        )


@dataclass(frozen=True)
class Cost:
    """What one run of a network costs on L positions.

    Attributes
    ----------
    seconds
        a, b and c of the wall time.
    bytes
        a and b of the memory that comes on top of ``floor``.
    floor
        Bytes of a process that has loaded the network and has not run it.
    loading
        The most that it took to load it.
    """

    seconds: Coefficients
    bytes: Coefficients
    floor: float
    loading: float = 0.0

    def seconds_of(self, positions: float) -> float:
        """Return the wall time of one run."""
        return float(np.polynomial.Polynomial(self.seconds)(positions))

    def bytes_of(self, positions: float) -> float:
        """Return the peak memory of a process that runs it."""
        running = float(np.polynomial.Polynomial(self.bytes)(positions))
        return max(self.loading, self.floor + running)


@dataclass(frozen=True)
class Budget:
    """Memory that a process may take: images too large for it are cut into tiles.

    Attributes
    ----------
    bytes
        Of the whole process on a CPU; on a GPU, of that GPU.
    """

    bytes: int

    def tiling(self, cost: Cost, height: int, width: int) -> Tiling | None:
        """Return the largest tiles that fit, or None where the whole image does.

        Raises
        ------
        InputError
            Not even the smallest tiles fit.
        """
        allowed = SPARE * self.bytes
        if cost.bytes_of(height * width) <= allowed:
            return None
        fitting = [side for side in STEPS if cost.bytes_of(side**2) <= allowed]
        if not fitting:
            least = cost.bytes_of(STEPS[0] ** 2) / SPARE
            raise InputError(
                "memory", expected=f"at least {least / 2**20:.0f} MB for this network",
                found=f"{self.bytes / 2**20:.0f} MB", remedy="allow more",
            )  # fmt: skip
        return Tiling(fitting[-1], OVERLAP)


def positions(tiling: Tiling | Chop | None, height: int, width: int) -> list[int]:
    """Return the positions of every tile that a network sees of one image."""
    if tiling is None:
        return [height * width]
    return [
        (rows.stop - rows.start) * (columns.stop - columns.start)
        for rows, columns in tiling.tiles(height, width)
    ]


def told(expected: pd.DataFrame, worth: float = 0.0) -> list[str]:
    """Return a line for each method that will run, for longer than ``worth`` seconds.

    Parameters
    ----------
    expected
        Of `dtfn.evaluation.forecast`.
    worth
        What is quicker is not told.
    """
    return [
        f"{row['method']}: about {_duration(row['seconds'])} and {row['memory']:.0f} MB "
        f"for {row['pictures']} picture{'s' * (row['pictures'] != 1)} in {row['tiles']} runs"
        for row in expected.to_dict("records")
        if row["pictures"] and row["seconds"] >= worth
    ]


def require_memory(expected: pd.DataFrame, memory: str | None) -> None:
    """Check that what is about to run fits into memory such as ``"8GB"``; None: into any.

    Raises
    ------
    InputError
        It does not.
    """
    if memory is None or expected.empty:
        return
    worst = expected.loc[expected["memory"].idxmax()]
    if worst["memory"] * 2**20 > cache.size(memory, "memory"):
        raise InputError(
            "memory", expected=f"about {worst['memory']:.0f} MB for {worst['method']}",
            found=memory, remedy="choose smaller tiles, or only --memory, which finds their size",
        )  # fmt: skip


def _duration(seconds: float) -> str:
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{1 if seconds < 10 * size else 0}f} {unit}"
    return f"{seconds:.0f} s"


def fit(points: list[tuple[float, float]], degree: int) -> Coefficients:
    """Return the coefficients >= 0 of the polynomial of L that misses the values least, relatively.

    Parameters
    ----------
    points
        (L, value), the values above 0.
    degree
        Of the polynomial. With as few points, there is no constant.

    Returns
    -------
    tuple
        From the constant up, ``degree + 1`` of them.
    """
    from scipy.optimize import nnls

    positions, values = np.array(points, float).T
    first = int(len(points) <= degree)
    powers = positions[:, None] ** np.arange(first, degree + 1)
    terms = powers / values[:, None]
    scale = terms.max(axis=0)  # L^2 is so much larger than 1 that the solver would lose digits
    found = nnls(terms / scale, np.ones(len(values)))[0] / scale
    return (0.0,) * first + tuple(map(float, found))


def trial(network: torch.nn.Module) -> list[dict[str, float]]:
    """Run a network on small images, from small to large, until that takes a while.

    Returns
    -------
    A dictionary an image: ``positions``, ``seconds``, and ``bytes``, the peak of the process (of
    the GPU) so far. Before them, without positions: loading the network, and the network at rest.
    """
    import torch

    device = next(network.parameters()).device
    found = [{"positions": 0.0, "seconds": 0.0, "bytes": peak(device)}]
    _forget_peak(device)
    found.append({"positions": 0.0, "seconds": 0.0, "bytes": peak(device)})
    with torch.inference_mode():
        for number, side in enumerate((SIDES[0], *SIDES)):  # the first run warms up
            x = torch.rand(1, 3, side, side, device=device)
            start = time.perf_counter()
            network(x.contiguous(memory_format=torch.channels_last))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - start
            if number:
                found.append(
                    {"positions": float(side**2), "seconds": seconds, "bytes": peak(device)}
                )
            if number > 1 and seconds > ENOUGH:
                break
    return found


def peak(device: torch.device) -> float:
    """Return the most bytes that this process has held, of the GPU if the device is one."""
    import torch

    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would tell the peak of the parent process, if that was higher
        line = next(text for text in status.read_text().splitlines() if text.startswith("VmHWM"))
        return 1024.0 * int(line.split()[1])
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def give_back() -> None:
    """Give memory that was freed back to the system, where glibc has kept it.

    Loading a network frees as much again as its weights take, in pieces that are too small for what
    runs next: in the full-size DTFN's process they would lie idle, 400 MB of them.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _forget_peak(device: torch.device) -> None:
    """Let the peak be what is held now, where the system can."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    give_back()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5)


@functools.cache
def cost(file: Path, weights: str, device: str = "cpu") -> Cost:
    """Return the cost of the network in a file, by a trial in a process of its own.

    Parameters
    ----------
    file
        As for `dtfn.models.load`.
    weights
        Its sha256: a file can be trained anew.
    device
        ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    InputError
        The trial failed.
    """
    call = "import sys; from dtfn import tiling; tiling.print_trial(*sys.argv[1:])"
    command = [sys.executable, "-c", call, str(file), device]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise InputError(
            f"trial of {file}", expected="a network that runs on small images", found=said,
            remedy="check the weights with `dtfn evaluate`",
        )  # fmt: skip
    return _cost(json.loads(done.stdout.splitlines()[-1]))


def _cost(found: list[dict[str, Any]]) -> Cost:
    loaded, rest, *points = found
    floor = rest["bytes"]
    memory = [(p["positions"], max(p["bytes"] - floor, 1.0)) for p in points]
    seconds = [(p["positions"], p["seconds"]) for p in points]
    return Cost(fit(seconds, 2), fit(memory, 1), floor, loaded["bytes"])


def print_trial(file: str, device: str) -> None:
    """Print the trial of the network in a file as JSON: what `cost` calls in its own process."""
    from dtfn import models

    print(json.dumps(trial(models.load(file).to(device))))
