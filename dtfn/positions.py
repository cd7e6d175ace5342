"""Every LR position of many pictures: where two networks err, and what harm goes with.

One pass over the pictures, one of them in memory at a time; what is kept are counts and means, so
that the four benchmarks take no more memory than one picture. The borders are left out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dtfn import images, statistics, subpixel, texture
from dtfn.errors import InputError
from dtfn.subpixel import Pairs, Picture
from dtfn.subpixel.blocks import Array, Float, interior, luma
from dtfn.texture import neighbours

CAUSES = ("severity", "aliasing", "inconsistency", "recurrence", "coherence", "variance")
"""What harm is correlated with: maps of `dtfn.texture.describe`."""

DECILES = 10
BEST, WORST = 60.0, 10.0  # dB: sub-pixel PSNR beyond these is drawn at the edge
ACROSS = 40  # hexagons across
PITCH = (BEST - WORST) / ACROSS
SEARCHED = 50_000  # positions asked about in a larger picture: some ten seconds


@dataclass(frozen=True)
class Positions:
    """What one look at all positions found; pairs of several training seeds are taken together.

    Attributes
    ----------
    errors
        Sub-pixel PSNR of L against that of N, counted in hexagons: pair, without, with (dB, their
        centres), positions.
    deciles
        Pair, severity, inconsistency (1 to 10, deciles within each picture), positions (where the
        two do not tie), harm_rate (of these).
    phases
        Pair, row, column (of the pixel in its block), without, with (MSE), mean over pictures;
        change: with / without - 1.
    correlations
        A row a pair, seed and picture: pair, dataset, image, seed, and for each of `CAUSES` the
        rank correlation of being harmed with it, over the positions where the two do not tie; NaN
        where there is none. Ties lie in smooth places, and would tell of these.
    """

    errors: pd.DataFrame
    deciles: pd.DataFrame
    phases: pd.DataFrame
    correlations: pd.DataFrame


def every(shape: tuple[int, ...]) -> int:
    """Return for which rows and columns to search, so that some 50 000 positions' work is done.

    1 (all) up to 50 000 LR positions; the time rises with asked positions times all.
    """
    return max(1, math.ceil(shape[0] * shape[1] / SEARCHED))


def sampling(step: int = 0) -> str:
    """Say in words of which positions the look-alikes are searched; ``step`` 0: as `every` says."""
    if step == 1:
        return "Look-alikes of all positions, in the whole picture."
    if step:
        return f"Look-alikes of every {step}th row and column, in the whole picture."
    return (
        f"Look-alikes in the whole picture: of all positions up to {SEARCHED:,} LR pixels, of as "
        "many rows and columns of a larger picture as take no longer."
    )


def describe(hr: Array, scale: int, step: int = 0) -> dict[str, Float]:
    """Return `dtfn.texture.describe` of a picture; ``step`` 0 takes that of `every`."""
    shape = hr.shape[0] // scale, hr.shape[1] // scale
    others = max(1, min(neighbours.COUNT, shape[0] * shape[1] - 1))
    found = neighbours.remembered(images.degrade(hr, scale), others, step or every(shape))
    return texture.describe(hr, scale, found=found)


def survey(pictures: Iterable[Picture], design: Mapping[int, Pairs], step: int = 0) -> Positions:
    """Look at all positions of the pictures.

    Parameters
    ----------
    pictures
        With the outputs of all networks of the pairs.
    design
        Training seed -> pairs, name -> (with, without), the null pair among them if there is one.
    step
        Search for look-alikes at every so many rows and columns; 0: as `every` says.
    """
    hexagons: dict[str, dict[tuple[float, float], int]] = defaultdict(lambda: defaultdict(int))
    counts: dict[str, NDArray[np.int64]] = defaultdict(
        lambda: np.zeros((2, DECILES, DECILES), np.int64)
    )
    phases: dict[str, list[Float]] = defaultdict(list)
    rows = []
    for picture in pictures:
        maps = describe(picture.hr, picture.scale, step)
        codes = {name: statistics.codes(interior(maps[name]).ravel()) for name in CAUSES}
        cells = _cells(codes)
        hr = luma(picture.hr, picture.hr)
        squared = {m: (luma(sr, picture.hr) - hr) ** 2 for m, sr in picture.outputs.items()}
        errors = {m: _block_mean(s, picture.scale).ravel() for m, s in squared.items()}
        for seed, pairs in design.items():
            for name, (n, l) in pairs.items():
                harmed, untied = errors[n] > errors[l], errors[n] != errors[l]
                for centre, number in hexagonal(errors[l], errors[n]).items():
                    hexagons[name][centre] += number
                for kind, flags in enumerate((untied, harmed)):
                    counts[name][kind] += _counted(cells[flags])
                phases[name].append(_phases(squared[n], squared[l], picture.scale))
                identity = {"pair": name, "dataset": picture.dataset, "image": picture.image}
                found = {cause: statistics.spearman_binary(harmed, code, untied)
                         for cause, code in codes.items()}  # fmt: skip
                rows.append(identity | {"seed": seed} | found)
    return Positions(_hexagons(hexagons), _rates(counts), _mean_phases(phases), pd.DataFrame(rows))


def hexagonal(error_l: Float, error_n: Float) -> dict[tuple[float, float], int]:
    """Count positions in hexagons of sub-pixel PSNR: (centre of L, centre of N) in dB -> number.

    The centres lie on two rectangular grids of `PITCH` by `PITCH` times the square root of 3, one
    half a cell further than the other; each position belongs to the nearest centre.
    """
    with np.errstate(divide="ignore"):
        x, y = (
            -texture.decibels(e).ravel().clip(-BEST, -WORST) - WORST for e in (error_l, error_n)
        )
    tall = PITCH * math.sqrt(3)
    near = []
    for shift in (0.0, 0.5):
        column, row = np.round(x / PITCH - shift) + shift, np.round(y / tall - shift) + shift
        near.append(((x - column * PITCH) ** 2 + (y - row * tall) ** 2, column, row))
    (first, *one), (second, *other) = near
    column, row = (np.where(first <= second, a, b) for a, b in zip(one, other, strict=True))
    # Twice a half is whole: the two as one number, of which there are few.
    number = np.bincount((2 * column).astype(int) * 4 * ACROSS + (2 * row).astype(int))
    centres = {}
    for cell in np.flatnonzero(number):
        x_half, y_half = divmod(int(cell), 4 * ACROSS)
        centre = round(WORST + x_half / 2 * PITCH, 6), round(WORST + y_half / 2 * tall, 6)
        centres[centre] = int(number[cell])
    return centres


def example(file: str, pictures: Iterable[Picture], scale: int) -> tuple[str, Array]:
    """Return a picture to describe, its name and its pixels: that of a file, else the first one.

    Raises
    ------
    InputError
        For an unreadable file, or no picture at all.
    """
    if file:
        return Path(file).stem, images.modcrop(images.as_rgb(images.read(Path(file))), scale)
    first = next(iter(pictures), None)
    if first is None:
        raise InputError("pictures", expected="one or more", found="none", remedy="add some")
    return f"{first.dataset} {first.image}", first.hr


def frame(maps: Mapping[str, Float]) -> pd.DataFrame:
    """Return maps ``(H, W)`` as a table, a row an LR position: row, column, and each map."""
    rows, columns = np.indices(next(iter(maps.values())).shape)
    values = {name: values.ravel() for name, values in maps.items()}
    return pd.DataFrame({"row": rows.ravel(), "column": columns.ravel(), **values})


def _block_mean(squared: Float, scale: int) -> Float:
    return interior(subpixel.blocks.block_mean(squared, scale))


def _cells(codes: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return which cell of deciles of severity and inconsistency a position is in, or -1."""
    known = codes["inconsistency"] >= 0
    cells = np.full(known.shape, -1, np.int64)
    if known.any():
        severity, inconsistency = (
            _decile(codes[name][known]) for name in ("severity", "inconsistency")
        )
        cells[known] = severity * DECILES + inconsistency
    return cells


def _counted(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many positions each cell has, ``(10, 10)``."""
    counted = np.bincount(cells[cells >= 0], minlength=DECILES**2)
    return counted.reshape(DECILES, DECILES)


def _decile(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the tenth of the sample that each value falls into, 0 to 9; equal ones together."""
    ranks = statistics.ranks(codes) - 0.5
    return (ranks * DECILES / codes.size).astype(np.int64)


def _phases(squared_n: Float, squared_l: Float, scale: int) -> Float:
    """Return the mean squared error at each pixel of a block, ``(2, s, s)``: L's and N's."""
    both = np.stack((squared_l, squared_n))[:, scale:-scale, scale:-scale]
    height, width = both.shape[1] // scale, both.shape[2] // scale
    mean: Float = both.reshape(2, height, scale, width, scale).mean(axis=(1, 3))
    return mean


def _hexagons(hexagons: Mapping[str, Mapping[tuple[float, float], int]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"pair": pair, "without": x, "with": y, "positions": number}
            for pair, cells in hexagons.items()
            for (x, y), number in sorted(cells.items())
        ]
    )


def _rates(counts: Mapping[str, NDArray[np.int64]]) -> pd.DataFrame:
    parts = []
    for pair, (positions, harmed) in counts.items():
        severity, inconsistency = np.indices(positions.shape) + 1
        rate = np.divide(
            harmed, positions, out=np.full(positions.shape, np.nan), where=positions > 0
        )
        columns = {
            "severity": severity, "inconsistency": inconsistency, "positions": positions,
            "harm_rate": rate,
        }  # fmt: skip
        parts.append(pd.DataFrame({"pair": pair} | {k: v.ravel() for k, v in columns.items()}))
    return pd.concat(parts, ignore_index=True)


def _mean_phases(phases: Mapping[str, list[Float]]) -> pd.DataFrame:
    rows = []
    for pair, each in phases.items():
        without, with_ = np.mean(each, axis=0)
        for (row, column), error in np.ndenumerate(without):
            n = float(with_[row, column])
            change = n / error - 1 if error > 0 else float("nan")
            rows.append(
                {"pair": pair, "row": row, "column": column, "without": float(error), "with": n,
                 "change": change}
            )  # fmt: skip
    return pd.DataFrame(rows)
