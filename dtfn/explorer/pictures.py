"""Pictures to look at: of a benchmark, of a file, uploaded; with or without the truth; in tiles.

Arrays are those of `dtfn.images`. Sizes and windows are in LR positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dtfn import datasets, images
from dtfn.errors import InputError
from dtfn.images import UInt8

LEAST = 8  # LR positions a side: with fewer there is nothing to attend to
TILE = 128  # LR positions a side at most: a first answer takes seconds, a click far below 0.3 s


@dataclass(frozen=True)
class Window:
    """A rectangle of LR positions."""

    top: int
    left: int
    height: int
    width: int

    def __str__(self) -> str:
        rows = f"rows {self.top}–{self.top + self.height - 1}"
        return f"{rows}, columns {self.left}–{self.left + self.width - 1}"


@dataclass(frozen=True, eq=False)
class Subject:
    """What is looked at.

    Attributes
    ----------
    source, image
        Where it is from (a benchmark, ``"file"`` or ``"upload"``), and its name there.
    scale
        s.
    lr
        uint8 RGB ``(H, W, 3)``.
    hr
        The truth: uint8 RGB ``(sH, sW, 3)`` or grey ``(sH, sW)``; None where nobody knows it.
    window
        Of the whole picture, if this is a tile of it.
    notes
        What was done to the file's pixels, a sentence each.
    """

    source: str
    image: str
    scale: int
    lr: UInt8
    hr: UInt8 | None
    window: Window | None = None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the LR grid, (H, W)."""
        return self.lr.shape[0], self.lr.shape[1]

    @property
    def name(self) -> str:
        """Source, image and window as a reader writes them."""
        return f"{self.source}/{self.image}" + (f", {self.window}" if self.window else "")


def of_benchmark(dataset: str, image: str, scale: int) -> Subject:
    """Return a picture of a benchmark; parameters and errors as `dtfn.datasets.sample`."""
    found = datasets.sample(dataset, image, scale)
    return Subject(found.dataset, found.image, scale, found.lr, found.hr)


def of_bytes(name: str, data: bytes, scale: int, *, truth: bool, source: str = "upload") -> Subject:
    """Return the picture of a file's bytes.

    Parameters
    ----------
    name
        The file's name.
    data
        PNG, JPEG, BMP or TIFF; grey, RGB, with or without alpha, of 8 or 16 bits.
    scale
        2, 3 or 4.
    truth
        Whether it is the HR picture, from which LR is made by the benchmarks' degradation. Else it
        is LR, and there is no truth.
    source
        For `Subject`.

    Raises
    ------
    InputError
        A damaged or unsupported file; fewer than `LEAST` LR positions a side.
    """
    images.check_scale(scale)
    stored = images.decode(data, name)
    rgb = images.as_rgb(stored)
    channels = 1 if stored.ndim == 2 else stored.shape[2]
    notes = []
    if channels in (2, 4):
        notes.append("Its transparency was put on white.")
    if channels <= 2:
        notes.append("It is grey: errors are of the grey values themselves.")
    if stored.dtype != np.uint8:
        notes.append("Its 16 bits were rounded to 8.")
    height, width = (side // scale if truth else side for side in rgb.shape[:2])
    if min(height, width) < LEAST:
        needed = LEAST * scale if truth else LEAST
        raise InputError(
            name, expected=f"{needed} x {needed} pixels or more",
            found=f"{rgb.shape[0]} x {rgb.shape[1]}", remedy="choose a larger picture",
        )  # fmt: skip
    if not truth:
        return Subject(source, name, scale, rgb, None, notes=tuple(notes))
    hr = images.modcrop(np.ascontiguousarray(rgb[:, :, 0]) if channels <= 2 else rgb, scale)
    lr = images.as_rgb(images.degrade(hr, scale))
    return Subject(source, name, scale, lr, hr, notes=tuple(notes))


def of_file(path: str | Path, scale: int, *, truth: bool = True) -> Subject:
    """Return the picture of a file; parameters and errors as `of_bytes` and `dtfn.images.read`."""
    path = Path(path).expanduser()
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise InputError(path, expected="an image file", found=found, remedy="check the path")
    return of_bytes(path.name, path.read_bytes(), scale, truth=truth, source="file")


def tiles(shape: tuple[int, int], side: int = TILE) -> list[Window]:
    """Return windows that cover a grid, row by row; the whole of it where it fits into one.

    Parameters
    ----------
    shape
        (H, W).
    side
        The most that a window has a side.

    Returns
    -------
    Windows of one size, spread evenly; neighbours overlap where the size does not divide.
    """
    (height, tops), (width, lefts) = (_starts(length, side) for length in shape)
    return [Window(top, left, height, width) for top in tops for left in lefts]


def cut(subject: Subject, window: Window) -> Subject:
    """Return a tile of a picture: networks see nothing beyond it.

    Raises
    ------
    InputError
        The window is not inside the picture.
    """
    top, left, height, width = window.top, window.left, window.height, window.width
    rows, columns = subject.shape
    inside = min(top, left) >= 0 and top + height <= rows and left + width <= columns
    if not inside or min(height, width) < LEAST:
        raise InputError(
            "tile", expected=f"{LEAST} or more rows and columns of {rows} x {columns} positions",
            found=str(window), remedy="choose one of the tiles offered",
        )  # fmt: skip
    s = subject.scale
    lr = subject.lr[top : top + height, left : left + width]
    hr = subject.hr
    if hr is not None:
        hr = hr[s * top : s * (top + height), s * left : s * (left + width)]
        hr = np.ascontiguousarray(hr)
    return replace(subject, lr=np.ascontiguousarray(lr), hr=hr, window=window)


def _starts(length: int, side: int) -> tuple[int, list[int]]:
    """Return the size of the pieces of a length, and where they start."""
    size = min(length, side)
    count = math.ceil(length / size)
    return size, [round(i * (length - size) / max(count - 1, 1)) for i in range(count)]
