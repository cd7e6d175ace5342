"""Where a network harmed: how its harm is distributed, and the worst contiguous regions.

Single worst pixels are noise. A region is a connected area whose smoothed harm exceeds what the
null pair (two local twins of different seeds) shows on the same picture, ranked by its total harm.
Harm, pairs and pictures are those of `dtfn.subpixel`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dtfn import evaluation, images, subpixel
from dtfn.blocks import Float, luma
from dtfn.subpixel import Pairs, Picture

SIGMA = 1.5  # LR positions: harm is a matter of textures, which are larger than one block
QUANTILE = 0.99  # of the null's smoothed harm; what exceeds it is more than luck
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
    """

    top: int
    left: int
    height: int
    width: int
    area: int
    mass: float


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

    def frame(self) -> pd.DataFrame:
        """Return the maps as a table, a row an LR position of the window."""
        top, left, height, width = self.window
        rows, columns = np.mgrid[top : top + height, left : left + width]
        return pd.DataFrame(
            {
                "dataset": self.picture.dataset,
                "image": self.picture.image,
                "row": rows.ravel(),
                "column": columns.ravel(),
                "error_without": self.error_without.ravel(),
                "error_with": self.error_with.ravel(),
                "harm": self.harm.ravel(),
            }
        )


def pictures(
    methods: Sequence[str], datasets: Sequence[str], scale: int, count: int | None = None
) -> Iterator[Picture]:
    """Yield the pictures of benchmarks with the outputs of methods, one in memory at a time.

    Parameters and errors are those of `dtfn.evaluation.evaluate`.
    """
    for sample in evaluation.samples(datasets, scale, count):
        made = {name: out.image for name, out in evaluation.outputs(methods, sample).items()}
        yield Picture(sample.dataset, sample.image, scale, sample.hr, made)


def density(shown: Iterable[Picture], pairs: Pairs) -> pd.DataFrame:
    """Return the distribution of harm over all positions, a row a pair and bin.

    Bins are over the signed root of harm, sign(h) sqrt(|h|), in 8-bit levels; the outermost bins
    hold all that lies beyond.

    Returns
    -------
    pair, low, high (levels), share (of the positions, interior only; sums to 1 a pair).
    """
    counts = {name: np.zeros(len(EDGES) - 1) for name in pairs}
    for picture in shown:
        for name, (n, l) in pairs.items():
            harm = subpixel.interior(harm_map(picture, n, l))
            root = np.clip(np.sign(harm) * np.sqrt(np.abs(harm)), EDGES[0], EDGES[-1])
            counts[name] += np.histogram(root, EDGES)[0]
    return pd.concat(
        [
            pd.DataFrame({"pair": name, "low": EDGES[:-1], "high": EDGES[1:], "share": c / c.sum()})
            for name, c in counts.items()
        ],
        ignore_index=True,
    )


def harm_map(picture: Picture, n: str, l: str) -> Float:
    """Return the harm of N against L at each LR position of a picture, ``(H, W)``."""
    return subpixel.harm(*(error_map(picture, method) for method in (n, l)))


def error_map(picture: Picture, method: str) -> Float:
    """Return the block errors of a method on a picture, ``(H, W)`` (MSE on float Y)."""
    y = luma(picture.hr, picture.hr)
    return subpixel.block_error(luma(picture.outputs[method], picture.hr), y, picture.scale)


def find(harm: Float, null_harm: Float) -> list[Region]:
    """Return the contiguous regions of harm beyond luck, the heaviest first.

    Parameters
    ----------
    harm
        Of the pair, ``(H, W)``; smoothed here with a Gaussian of `SIGMA` positions.
    null_harm
        Of the null pair on the same picture; the `QUANTILE` of its smoothed absolute value is
        the threshold. The null pair itself has about (1 - QUANTILE) / 2 of its positions above.
    """
    from skimage.measure import label, regionprops

    floor = float(np.quantile(np.abs(gaussian_filter(null_harm, SIGMA)), QUANTILE))
    labels = label(gaussian_filter(harm, SIGMA) > floor, connectivity=1)  # type: ignore[no-untyped-call]
    found = []
    for part in regionprops(labels, intensity_image=harm):  # type: ignore[no-untyped-call]
        mass = float(part.image_intensity.sum())
        top, left, bottom, right = part.bbox
        found.append(Region(top, left, bottom - top, right - left, int(part.area), mass))
    return sorted(found, key=lambda r: -r.mass)


def worst(
    shown: Iterable[Picture],
    pair: tuple[str, str],
    null: tuple[str, str],
    most: int = 4,
    smallest: int = 24,
) -> list[View]:
    """Return views of the heaviest harmed regions, one a picture at most.

    Parameters
    ----------
    shown
        Pictures with the outputs of the four networks.
    pair, null
        (with, without) of the pair and of the null pair.
    most
        How many views.
    smallest
        Least side of a view's window in LR positions (less where the picture is smaller).

    Returns
    -------
    Fewer than ``most``, even none, where there is no harm beyond luck.
    """
    best: list[View] = []
    for picture in shown:
        harm = harm_map(picture, *pair)
        regions = find(harm, harm_map(picture, *null))
        if regions:
            best = sorted([*best, _view(picture, regions[0], pair, smallest)], key=_mass)[-most:]
    return best[::-1]


def beyond_luck(shown: Iterable[Picture], pairs: Pairs, null: str) -> pd.DataFrame:
    """Return the share of positions in regions of harm beyond luck, and the regions' number.

    Returns
    -------
    A row a picture and pair (the null pair too, as its own check): pair, dataset, image,
    regions, share (of the positions), mass (summed harm over the positions, MSE).
    """
    rows = []
    for picture in shown:
        floor = harm_map(picture, *pairs[null])
        for name, two in pairs.items():
            found = find(harm_map(picture, *two), floor)
            rows.append(
                {
                    "pair": name,
                    "dataset": picture.dataset,
                    "image": picture.image,
                    "regions": len(found),
                    "share": sum(r.area for r in found) / floor.size,
                    "mass": sum(r.mass for r in found) / floor.size,
                }
            )
    return pd.DataFrame(rows)


def _view(picture: Picture, region: Region, pair: tuple[str, str], smallest: int) -> View:
    n, l = pair
    errors = [error_map(picture, method) for method in (n, l)]
    window = _window(region, errors[0].shape, smallest)
    top, left, height, width = window
    error_n, error_l = (e[top : top + height, left : left + width] for e in errors)
    return View(picture, region, window, l, n, error_l, error_n, error_n - error_l)


def _window(region: Region, shape: tuple[int, ...], smallest: int) -> tuple[int, int, int, int]:
    """Return a square around a region, moved into the picture."""
    side = min(max(region.height + 4, region.width + 4, smallest), *shape)
    middle = (region.top + region.height / 2, region.left + region.width / 2)
    top, left = (
        int(np.clip(round(m - side / 2), 0, size - side))
        for m, size in zip(middle, shape, strict=True)
    )
    return top, left, side, side


def _mass(view: View) -> float:
    return view.region.mass
