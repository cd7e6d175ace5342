"""Where a network harmed: how its harm is distributed, and the worst contiguous regions.

Single worst pixels are noise. A region is a connected area whose smoothed harm exceeds what the
null pair (two local twins of different seeds) shows on the same picture, ranked by its total harm.
Whether a region is more than the null pair's own regions is tested in `dtfn.subpixel.discoveries`.
Harm, pairs and pictures are those of `dtfn.subpixel`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from dtfn import images, subpixel
from dtfn.subpixel import Pairs, Picture
from dtfn.subpixel.blocks import Float, luma

SIGMA = 1.5  # LR positions: harm is a matter of textures, which are larger than one block
QUANTILE = 0.99  # of the null's smoothed harm; what exceeds it is more than luck
SMALLEST = 24  # LR positions: the least side of a view's window
EDGES = np.linspace(-64, 64, 129)  # signed root of harm, in 8-bit levels


@dataclass(frozen=True)
class Region:
    """A rectangle around harmed positions, in LR positions of the whole picture.

    Attributes
    ----------
    top, left, height, width
        The rectangle.
    area
        Positions in it that belong to the region.
    mass
        Their summed harm (MSE times positions).
    strength
        How far their smoothed harm exceeds the threshold, summed, in thresholds: without unit, so
        that it can be compared between pictures.
    inside
        Which positions of the rectangle they are, bool ``(height, width)``; None: all.
    """

    top: int
    left: int
    height: int
    width: int
    area: int
    mass: float
    strength: float = float("nan")
    inside: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return what a map ``(H, W)`` of the whole picture has at the region's positions."""
        part = values[self.top : self.top + self.height, self.left : self.left + self.width]
        return part.ravel() if self.inside is None else part[self.inside]

    def centre(self) -> tuple[int, int]:
        """Return (row, column) of the region's position that is farthest from its edge."""
        inside = np.ones((self.height, self.width), bool) if self.inside is None else self.inside
        depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        return self.top + int(row), self.left + int(column)


@dataclass(frozen=True)
class View:
    """A region with all that shows it.

    Attributes
    ----------
    picture
        The whole picture, HR and outputs.
    region
        What was found.
    window
        (top, left, height, width) in LR positions: what is shown, around the region.
    without, with_
        Names of L and N.
    error_without, error_with, harm
        Block errors (MSE) and harm on the window, float64 ``(height, width)``.
    """

    picture: Picture
    region: Region
    window: tuple[int, int, int, int]
    without: str
    with_: str
    error_without: Float
    error_with: Float
    harm: Float

    def crop(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the window of an HR-sized image."""
        top, left, height, width = (self.picture.scale * v for v in self.window)
        return image[top : top + height, left : left + width]

    def lr(self) -> NDArray[np.uint8]:
        """Return the window of the LR image, ``(height, width, 3)``."""
        top, left, height, width = self.window
        lr = images.degrade(self.picture.hr, self.picture.scale)
        return images.as_rgb(lr)[top : top + height, left : left + width]


@dataclass(frozen=True)
class Survey:
    """What one look at all pictures found.

    Attributes
    ----------
    density
        How harm is distributed over the interior positions of all pictures: pair, low, high
        (edges of a bin of the signed root of harm, sign(h) sqrt(|h|), in 8-bit levels; the
        outermost bins hold all beyond), share (sums to 1 a pair).
    regions
        Harm beyond luck, a row a picture and pair, the null pair too as its own check: pair,
        dataset, image, regions (their number), share (of the positions), share_help (that of
        regions of help), mass (summed harm over the number of positions, MSE).
    worst
        Pair -> views of its heaviest regions, one a picture at most, heaviest first.
    """

    density: pd.DataFrame
    regions: pd.DataFrame
    worst: dict[str, list[View]]


def survey(
    shown: Iterable[Picture], pairs: Pairs, null: str = subpixel.NULL, most: int = 4
) -> Survey:
    """Look for harm beyond luck in pictures, one in memory at a time beside those shown.

    Parameters
    ----------
    shown
        With the outputs of all networks of the pairs.
    pairs, null
        As for `dtfn.subpixel.measure`.
    most
        How many views to keep a pair; fewer, even none, where there is no harm beyond luck.
    """
    counts = {name: np.zeros(len(EDGES) - 1) for name in pairs}
    worst: dict[str, list[View]] = {name: [] for name in pairs}
    rows = []
    for picture in shown:
        errors = block_errors(picture, {method for two in pairs.values() for method in two})
        harms = {name: subpixel.harm(errors[n], errors[l]) for name, (n, l) in pairs.items()}
        limit = floor(harms[null])
        for name, harm in harms.items():
            counts[name] += _histogram(subpixel.interior(harm))
            smooth = _smoothed(harm)
            found = _above(harm, smooth, limit)
            rows.append(
                {
                    "pair": name,
                    "dataset": picture.dataset,
                    "image": picture.image,
                    "regions": len(found),
                    "share": sum(r.area for r in found) / harm.size,
                    "share_help": float(np.mean(smooth < -limit)),
                    "mass": sum(r.mass for r in found) / harm.size,
                }
            )
            if found:
                views = [*worst[name], _view(picture, found[0], pairs[name], errors)]
                worst[name] = sorted(views, key=lambda v: -v.region.mass)[:most]
    return Survey(_density(counts), pd.DataFrame(rows), worst)


def frame(views: Sequence[View]) -> pd.DataFrame:
    """Return the maps of views as a table, a row an LR position of a window."""
    parts = []
    for view in views:
        top, left, height, width = view.window
        rows, columns = np.mgrid[top : top + height, left : left + width]
        parts.append(
            pd.DataFrame(
                {
                    "dataset": view.picture.dataset,
                    "image": view.picture.image,
                    "row": rows.ravel(),
                    "column": columns.ravel(),
                    "error_without": view.error_without.ravel(),
                    "error_with": view.error_with.ravel(),
                    "harm": view.harm.ravel(),
                }
            )
        )
    columns = ["dataset", "image", "row", "column", "error_without", "error_with", "harm"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def find(harm: Float, limit: float) -> list[Region]:
    """Return the contiguous regions of harm beyond luck, the heaviest first.

    Parameters
    ----------
    harm
        Of the pair, ``(H, W)``. What is smoothed, with a Gaussian of `SIGMA` positions, is its
        signed root: a single wild block then makes no region and widens none.
    limit
        Of the null pair on the same picture, see `floor`.
    """
    return _above(harm, _smoothed(harm), limit)


def _above(harm: Float, smooth: Float, limit: float) -> list[Region]:
    """Return the regions of harm that is smoothed already."""
    from skimage.measure import label, regionprops

    labels = label(smooth > limit, connectivity=1)  # type: ignore[no-untyped-call]
    found = []
    # Two equal networks leave nothing to measure strength by: any excess is infinite.
    excess = smooth / limit - 1 if limit > 0 else np.where(smooth > 0, np.inf, 0.0)
    for part in regionprops(labels):  # type: ignore[no-untyped-call]
        mass, strength = (float(m[part.slice][part.image].sum()) for m in (harm, excess))
        top, left, bottom, right = part.bbox
        size = bottom - top, right - left
        found.append(Region(top, left, *size, int(part.area), mass, strength, part.image))
    return sorted(found, key=lambda r: -r.mass)


def floor(null_harm: Float) -> float:
    """Return the threshold of `find`: the `QUANTILE` of the null pair's absolute smoothed harm.

    The null pair itself has about (1 - QUANTILE) / 2 of its positions above.
    """
    return float(np.quantile(np.abs(_smoothed(null_harm)), QUANTILE))


def block_errors(picture: Picture, methods: Iterable[str]) -> dict[str, Float]:
    """Return each method's block errors, ``(H, W)`` (MSE on float Y)."""
    y = luma(picture.hr, picture.hr)
    return {
        method: subpixel.block_error(luma(picture.outputs[method], picture.hr), y, picture.scale)
        for method in methods
    }


def signed_root(harm: Float) -> Float:
    """Return sign(h) sqrt(|h|): harm in 8-bit levels, in which small and large both show."""
    return np.sign(harm) * np.sqrt(np.abs(harm))


def _smoothed(harm: Float) -> Float:
    return gaussian_filter(signed_root(harm), SIGMA)


def _histogram(harm: Float) -> NDArray[np.int64]:
    return np.histogram(np.clip(signed_root(harm), EDGES[0], EDGES[-1]), EDGES)[0]


def _density(counts: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"pair": name, "low": EDGES[:-1], "high": EDGES[1:], "share": c / c.sum()})
        for name, c in counts.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _view(
    picture: Picture, region: Region, pair: tuple[str, str], errors: dict[str, Float]
) -> View:
    n, l = pair
    shown = window(region, errors[n].shape)
    top, left, height, width = shown
    error_n, error_l = (errors[m][top : top + height, left : left + width] for m in (n, l))
    return View(picture, region, shown, l, n, error_l, error_n, error_n - error_l)


def window(region: Region, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return a square around a region, moved into the picture."""
    side = min(max(region.height + 4, region.width + 4, SMALLEST), *shape)
    middle = (region.top + region.height / 2, region.left + region.width / 2)
    top, left = (
        int(np.clip(round(m - side / 2), 0, size - side))
        for m, size in zip(middle, shape, strict=True)
    )
    return top, left, side, side
