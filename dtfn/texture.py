"""Textures: what the degradation took, whether the picture repeats itself, and what was distorted.

All maps are float64 ``(H, W)`` over the LR grid, on Y in [0, 255]; take `dtfn.subpixel.interior` of
maps that are compared with errors. *Detail* is what the degradation lost: Y of the picture minus Y
of its bicubic down- and upscaled version. *Similar patches* are those that non-local attention
would look at.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import fft, ndimage

from dtfn import cache, images
from dtfn.errors import InputError
from dtfn.metrics import PEAK, WINDOW, Array, Float
from dtfn.subpixel import block_mean, luma, same_size

__all__ = [
    "DISTORTIONS",
    "Neighbours",
    "detail",
    "detail_blocks",
    "distortion_maps",
    "inconsistency",
    "nearest",
    "remembered_patches",
    "severity",
    "similar_patches",
]

SIDE = 5  # of a patch, in LR pixels: the reach of two 3 x 3 convolutions
COUNT = 8  # similar patches
QUERIES = 2**14  # positions that faiss is asked about at once
ELEMENTS = 2**22  # numbers compared at once
SIGMA = 1.5  # of the structure tensor's window, in LR pixels: about the area of a 5 x 5 patch
GRADIENT_C = 170.0  # for Y in [0, 255]; Xue et al. 2014
ROUNDING = 1 / 12  # variance of what rounding to whole grey levels adds to a pixel
DISTORTIONS = {
    "orientation": "orientation error (°)",
    "spectrum": "log-spectrum error (dB)",
    "structure": "1 − SSIM",
    "gradient": "1 − gradient similarity",
}
"""The keys of `distortion_maps` -> the title of a map."""


# --- similar patches --------------------------------------------------------------------------


@dataclass(frozen=True)
class Neighbours:
    """For each LR position asked about, the positions with the most similar patches.

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


def similar_patches(lr: Array, count: int = COUNT, every: int = 1) -> Neighbours:
    """Return the most similar patches of the same picture, for each LR position.

    Similar means: the least Euclidean distance between 5 x 5 patches without their means. All
    positions are candidates, however near; two equally similar patches stand in reading order.

    Parameters
    ----------
    lr
        uint8 RGB ``(H, W, 3)`` or grey ``(H, W)``, or floating Y ``(H, W)`` in [0, 255].
    count
        K, the number of neighbours.
    every
        Ask about every so many rows and columns only. The time rises with the square of the
        picture's area: at 2048 x 1536, hours.

    Returns
    -------
    Exact but for float32: of two patches whose distances differ by less than some 1e-6 of their
    energy, either may be the last of the K.

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
            f"a count from 1 to {len(vectors) - 1} and every 1st position or fewer",
            f"count {count}, every {every}",
            "use a larger picture or a smaller count",
        )
    asked = np.arange(len(vectors), dtype=np.int32).reshape(shape)[::every, ::every].ravel()
    return Neighbours(shape, asked, nearest(vectors, asked, count))


def remembered_patches(lr: Array, count: int = COUNT, every: int = 1) -> Neighbours:
    """Return `similar_patches`, from the cache of outputs where they are known."""

    def make() -> cache.Arrays:
        found = similar_patches(lr, count, every)
        return {"asked": found.asked, "index": found.index}

    code = f"{_faiss().__version__} {cache.source('texture')}"
    key = cache.key("neighbours", code, count, every, lr)
    return Neighbours((lr.shape[0], lr.shape[1]), **cache.remembered(key, make))


def patches(lr: Array) -> NDArray[np.float32]:
    """Return the 5 x 5 patch around each LR position without its mean, float32 ``(H * W, 25)``.

    Beyond the border the picture is mirrored, edge pixels twice, as MATLAB's bicubic does.
    """
    # From float32, so that the mean of 25 equal numbers is that number and flat patches become 0.
    y = luma(lr).astype(np.float32).astype(np.float64)
    windows = sliding_window_view(np.pad(y, SIDE // 2, mode="symmetric"), (SIDE, SIDE))
    vectors = np.empty((*y.shape, SIDE * SIDE), np.float32)
    for row, strip in zip(vectors, windows, strict=True):  # row by row, or float64 would be kept
        flat = strip.reshape(-1, SIDE * SIDE)
        row[:] = flat - flat.mean(axis=1, keepdims=True)
    return vectors.reshape(-1, SIDE * SIDE)


def differences(values: Array, found: Neighbours) -> NDArray[np.float32]:
    """Return how ``(H * W, D)`` values differ from the neighbours': mean squares, ``(n, K)``."""
    return _squared(values, found.asked, found.index) / np.float32(values.shape[1])


def nearest(vectors: Array, asked: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """Return the nearest of float32 vectors ``(n, D)`` to some of them, themselves left out.

    Parameters
    ----------
    vectors
        All of them; their distance is Euclidean.
    asked
        Which are asked about, ``(m,)``.
    count
        K.

    Returns
    -------
    ``(m, K)``, exact as that of `similar_patches`.
    """
    found = np.empty((len(asked), count), np.int32)
    for start in range(0, len(asked), QUERIES):
        part = asked[start : start + QUERIES]
        _, index = _faiss().knn(vectors[part], vectors, count + 1)
        # Itself is at distance 0 but not always the first: others may be equal. Among many equal
        # ones it may not even be there; then the last one goes.
        own = index == part[:, None]
        own[~own.any(axis=1), -1] = True
        index = index[~own].reshape(len(part), count)
        # faiss gets distances as |a|^2 - 2 ab + |b|^2, which rounds; order by the differences.
        exact = _squared(vectors, part, index)
        order = np.lexsort((index, exact), axis=1)
        found[start : start + QUERIES] = np.take_along_axis(index, order, axis=1)
    return found


def _squared(values: Array, asked: Array, index: Array) -> NDArray[np.float32]:
    """Return the squared distances of some rows of values to others, ``(n, K)``, in chunks."""
    result = np.empty(index.shape, np.float32)
    size = max(1, ELEMENTS // (index.shape[1] * values.shape[1]))
    for start in range(0, len(index), size):
        rows = slice(start, start + size)
        step = values[asked[rows], None] - values[index[rows]]  # (rows, K, D)
        result[rows] = np.einsum("nkd,nkd->nk", step, step)
    return result


def _faiss() -> Any:
    """Import faiss; on macOS its OpenMP and torch's end the process unless it has one thread."""
    if sys.platform == "darwin":
        os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")
    import faiss

    if sys.platform == "darwin":
        faiss.omp_set_num_threads(1)
    return faiss


# --- causes -----------------------------------------------------------------------------------


def detail(hr: Array, scale: int, lr: Array | None = None) -> Float:
    """Return what the degradation lost of each HR pixel, ``(sH, sW)``, signed, on Y.

    Parameters
    ----------
    hr
        uint8 RGB or grey; cropped at the top left to a multiple of s.
    scale
        s: 2, 3 or 4.
    lr
        `dtfn.images.degrade` of it, where that is known.

    Raises
    ------
    InputError
        As `dtfn.images.degrade`.

    Notes
    -----
    Both resizings round to uint8, as everybody's do. So even a smooth ramp has a detail of some
    0.2 MSE; a constant picture has exactly none.
    """
    hr = images.modcrop(hr, scale)
    lr = images.degrade(hr, scale) if lr is None else lr
    # A channel at a time: the float64 copies of a large picture are larger still.
    channels = [images.imresize(part, scale) for part in np.atleast_3d(lr).transpose(2, 0, 1)]
    lost = luma(hr)
    lost -= luma(np.stack(channels, axis=2).reshape(hr.shape))
    return lost


def severity(hr: Array, scale: int, lr: Array | None = None) -> Float:
    """Return the detail energy that each block lost: mean squared detail, ``(H, W)``, MSE.

    It is the block error of the bicubic picture. Parameters and errors are those of `detail`.
    """
    return block_mean(detail(hr, scale, lr) ** 2, scale)


def inconsistency(hr: Array, scale: int, found: Neighbours | None = None) -> Float:
    """Return how much the details of similar patches differ from a position's own, ``(H, W)``.

    k(p) = the mean over the K nearest LR patches q of |D(q) - D(p)|^2, over |D(p)|^2, D being the
    details of a block. 0: all similar patches have the same detail. 1: copying one gains nothing
    over copying none. 2: their details are unrelated, of equal energy. There is no upper limit.

    Parameters
    ----------
    hr, scale
        As for `detail`.
    found
        From `similar_patches` on the LR picture; None: search now.

    Returns
    -------
    NaN where p has no detail at all (as in a constant picture), and where p was not asked about.
    Ratios have long tails: rank k, or take its median; for a mean, divide mean by mean.

    Raises
    ------
    InputError
        As `detail` and `similar_patches`; or neighbours of a picture of another size.
    """
    found = similar_patches(images.degrade(hr, scale)) if found is None else found
    return _inconsistency(_blocks(detail(hr, scale), scale, found), found)


def detail_blocks(hr: Array, scale: int) -> Array:
    """Return the details of each block as float32 ``(H * W, s * s)``, positions in reading order.

    Parameters and errors are those of `detail`.
    """
    return _blocks(detail(hr, scale), scale)


def _blocks(lost: Float, scale: int, found: Neighbours | None = None) -> Array:
    height, width = lost.shape[0] // scale, lost.shape[1] // scale
    if found is not None and found.shape != (height, width):
        raise InputError(
            "neighbours",
            f"those of an LR picture of {width} x {height} (width x height)",
            f"{found.shape[1]} x {found.shape[0]}",
            "search dtfn.images.degrade(hr, scale)",
        )
    blocks = lost.astype(np.float32).reshape(height, scale, width, scale).swapaxes(1, 2)
    return blocks.reshape(height * width, scale * scale)


def _inconsistency(blocks: Array, found: Neighbours) -> Float:
    differ = differences(blocks, found).mean(axis=1, dtype=np.float64)  # (n,)
    energy = np.mean(blocks[found.asked].astype(np.float64) ** 2, axis=1)
    nothing = np.full_like(differ, np.nan)
    return found.spread(np.divide(differ, energy, out=nothing, where=energy > 0))


class _Tensor(NamedTuple):
    """The structure tensor: products of the slopes down and across, (grey levels / pixel)^2."""

    rows: Float
    mixed: Float
    columns: Float

    @property
    def energy(self) -> Float:
        """The mean squared slope."""
        return self.rows + self.columns

    @property
    def doubled(self) -> NDArray[np.complex128]:
        """The direction across the stripes, its angle doubled: the same for its opposite."""
        return (self.columns - self.rows) + 2j * self.mixed

    @property
    def coherence(self) -> Float:
        """(a - b) / (a + b) for the eigenvalues a >= b; 0 where they are all 0."""
        spread, total = np.hypot(self.rows - self.columns, 2 * self.mixed), self.energy
        return np.divide(spread, total, out=np.zeros_like(total), where=total > 0)


def _tensor(y: Float, sigma: float) -> _Tensor:
    from skimage.feature import structure_tensor  # importing takes half a second

    parts = structure_tensor(y, sigma, mode="reflect", order="rc")  # type: ignore[no-untyped-call]
    # scikit-image's Sobel gives 8 for a slope of 1.
    return _Tensor(*(part / 64 for part in parts))


def _window_mean(values: Float) -> Float:
    """Return the mean of the 5 x 5 positions around each, mirrored at the border."""
    return ndimage.uniform_filter(values, SIDE, mode="reflect")


# --- distortion -------------------------------------------------------------------------------


def distortion_maps(sr: Array, hr: Array, scale: int) -> dict[str, Float]:
    """Return all distortion maps of an output over its LR grid, each ``(H, W)``; 0: none.

    Parameters
    ----------
    sr, hr
        Pictures as in `dtfn.subpixel`, of one size.
    scale
        s, which divides the size.

    Returns
    -------
    ``orientation`` (degrees, in [0, 90]), ``spectrum`` (dB), ``structure`` (1 - SSIM, in [0, 2]),
    ``gradient`` (1 - gradient similarity, in [0, 1]); the mean over a block of maps of pixels.

    Raises
    ------
    InputError
        For sizes that differ, that s does not divide, or below 11 pixels.
    """
    x, y = same_size(luma(sr), luma(hr))
    return {
        "orientation": block_mean(orientation_error(x, y, SIGMA * scale), scale),
        "spectrum": spectrum_error(x, y, scale),
        "structure": block_mean(1 - ssim_map(x, y), scale),
        "gradient": block_mean(1 - gradient_similarity(x, y), scale),
    }


def orientation_error(x: Float, y: Float, sigma: float) -> Float:
    """Return the angle between both dominant directions (degrees) times the true coherence.

    Directions are those of the structure tensor (Bigun and Granlund 1987), ``(sH, sW)``. Where the
    output has no direction at all, the angle counts as 45 degrees, the mean of a random one.
    """
    made, true = _tensor(x, sigma), _tensor(y, sigma)
    angle = np.degrees(np.abs(np.angle(made.doubled * np.conj(true.doubled)))) / 2
    return np.where(made.doubled == 0, 45.0, angle) * true.coherence


def spectrum_error(x: Float, y: Float, scale: int) -> Float:
    """Return the log-spectral distance of the texture around each LR position, dB, ``(H, W)``.

    The root mean square, over the frequencies but 0 of a Hann window of 5 x 5 LR positions, of the
    difference of both power spectra in dB (Gray and Markel 1976). A shifted texture has none; a
    blurred one has. To both spectra the power of rounding to whole levels is added.
    """
    block_mean(x, scale)  # refuses a size that s does not divide
    side, margin = SIDE * scale, SIDE // 2 * scale
    window = np.outer(np.hanning(side), np.hanning(side))
    padded = [np.pad(image, margin, mode="symmetric") for image in (x, y)]
    count = np.full(side // 2 + 1, 2.0)  # how often rfft2's column stands in the whole spectrum
    count[0] = 1
    count[-1] = 1 if side % 2 == 0 else 2
    weight = np.broadcast_to(count, (side, len(count))).copy()
    weight[0, 0] = 0
    weight /= weight.sum()
    distance = np.empty((x.shape[0] // scale, x.shape[1] // scale))
    for row, line in enumerate(distance):
        strips = [image[row * scale : row * scale + side] for image in padded]
        logs = [_log_power(strip, window, scale) for strip in strips]
        line[:] = np.sqrt(np.sum(weight * (logs[0] - logs[1]) ** 2, axis=(1, 2)))
    return distance


def ssim_map(x: Float, y: Float) -> Float:
    """Return SSIM at each pixel, in [-1, 1], ``(sH, sW)``, as `dtfn.metrics.ssim` has its mean."""
    if min(x.shape) < WINDOW:
        raise InputError(
            "image",
            f"{WINDOW} x {WINDOW} pixels or more",
            " x ".join(map(str, x.shape)),
            "use a larger image",
        )
    options = {"data_range": PEAK, "gaussian_weights": True, "sigma": 1.5, "full": True}
    options["use_sample_covariance"] = False
    from skimage.metrics import structural_similarity  # the same

    similarity: Float = structural_similarity(x, y, **options)[1]  # type: ignore[no-untyped-call]
    return similarity


def gradient_similarity(x: Float, y: Float) -> Float:
    """Return how alike the gradient magnitudes are at each pixel, in [0, 1], ``(sH, sW)``.

    (2 g_x g_y + 170) / (g_x^2 + g_y^2 + 170) with Prewitt's gradients: equation 4 of Xue et al.
    2014 (GMSD), who halve the picture first, for a score of whole pictures seen from afar.
    """
    # The paper's taps are 1/3, scipy's are 1.
    g_x, g_y = (np.hypot(ndimage.prewitt(v, 0), ndimage.prewitt(v, 1)) / 3 for v in (x, y))
    return (2 * g_x * g_y + GRADIENT_C) / (g_x**2 + g_y**2 + GRADIENT_C)


def _log_power(strip: Float, window: Float, scale: int) -> Float:
    """Return the spectra of the windows along a strip of rows in dB, ``(W, side, side/2 + 1)``."""
    side = len(window)
    parts = sliding_window_view(strip, side, axis=1)[:, ::scale].transpose(1, 0, 2)
    parts = parts - parts.mean(axis=(1, 2), keepdims=True)  # (W, side, side)
    power = np.abs(fft.rfft2(parts * window)) ** 2
    return 10 * np.log10(power + ROUNDING * np.sum(window**2))
