"""Textures: what the degradation took, whether the picture repeats itself, and what was distorted.

All maps are float64 ``(H, W)`` over the LR grid, on Y in [0, 255]; take `dtfn.subpixel.interior` of
maps that are compared with errors. *Detail* is what the degradation lost: Y of the picture minus Y
of its bicubic down- and upscaled version. *Similar patches* are those that non-local attention
would look at.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial.distance import cdist

from dtfn import cache, images
from dtfn.errors import InputError
from dtfn.subpixel import Array, Float, block_mean, luma, lumas, ssim_map

SIDE = 5  # of a patch, in LR pixels: the reach of two 3 x 3 convolutions
COUNT = 8  # similar patches
SIGMA = 1.5  # of the structure tensor's window, in LR pixels: about the area of a 5 x 5 patch
DISTORTIONS = {  # the keys of `distortion_maps` -> the title of a map
    "orientation": "orientation error (°)",
    "spectrum": "log-spectrum error (dB)",
    "structure": "1 − SSIM",
    "gradient": "1 − gradient similarity",
}


def similar_patches(lr: Array, count: int = COUNT, every: int = 1) -> NDArray[np.int32]:
    """Return the K most similar patches of an LR picture for its positions, ``(n, K)``.

    Similar means: the least Euclidean distance between 5 x 5 patches without their means. Positions
    are numbers row * W + column; ``every`` asks about every so many rows and columns.
    """
    if count >= lr.shape[0] * lr.shape[1]:
        wanted = f"more than {count} positions"
        raise InputError("picture", wanted, lr.shape[:2], "use a larger one")
    key = cache.key("neighbours", _faiss().__version__, cache.source("texture"), count, every, lr)
    make = lambda: {"index": nearest(patches(lr), _asked(lr.shape, every), count)[0]}  # noqa: E731
    return cache.remembered(key, make)["index"]


def _asked(shape: tuple[int, ...], every: int) -> NDArray[np.int32]:
    grid = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape[:2])
    return grid[::every, ::every].ravel()


def patches(lr: Array) -> NDArray[np.float32]:
    """Return the 5 x 5 patch of each position less its mean, ``(H * W, 25)``, border mirrored."""
    # From float32, so that the mean of 25 equal numbers is that number and flat patches become 0.
    y = luma(lr).astype(np.float32).astype(np.float64)
    windows = sliding_window_view(np.pad(y, SIDE // 2, mode="symmetric"), (SIDE, SIDE))
    vectors = windows.reshape(-1, SIDE * SIDE)
    return (vectors - vectors.mean(axis=1, keepdims=True)).astype(np.float32)


def nearest(
    vectors: Array, asked: NDArray[np.int32], count: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the K nearest of float32 vectors ``(n, D)`` to those asked about, and how near.

    Both are ``(m, K)``, nearest first, equals in their order, themselves left out; how near is the
    mean square of the differences. Exact but for float32 where squared distances are nearly equal.
    """
    _, index = _faiss().knn(vectors[asked], vectors, count + 1)
    # Itself is at distance 0 but not always the first: others may be equal. Among many equal ones
    # it may not even be there; then the last one goes.
    own = index == asked[:, None]
    own[~own.any(axis=1), -1] = True
    index = index[~own].reshape(len(asked), count).astype(np.int32)
    # faiss gets distances as |a|^2 - 2 ab + |b|^2, which rounds; order by the differences.
    apart = _differences(vectors, asked, index)
    order = np.lexsort((index, apart), axis=1)
    return np.take_along_axis(index, order, axis=1), np.take_along_axis(apart, order, axis=1)


def _differences(values: Array, asked: Array, index: Array) -> NDArray[np.float32]:
    own, apart = values[asked], np.empty(index.shape, np.float32)
    for k, others in enumerate(index.T):  # one at a time, so that memory does not rise with K
        step = own - values[others]
        apart[:, k] = np.einsum("nd,nd->n", step, step)
    return apart / np.float32(values.shape[1])


def _faiss() -> Any:
    # On macOS its OpenMP and torch's end the process unless it has one thread.
    if sys.platform == "darwin":
        os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")
    import faiss

    if sys.platform == "darwin":
        faiss.omp_set_num_threads(1)
    return faiss


def detail(hr: Array, scale: int, lr: Array | None = None) -> Float:
    """Return what the degradation lost of each HR pixel, ``(sH, sW)``, signed, on Y.

    HR is uint8, RGB or grey, and cropped to a multiple of s. ``lr`` is `dtfn.images.degrade` of it,
    where that is known. Both resizings round to uint8, so a smooth ramp has some 0.2 MSE.
    """
    hr = images.modcrop(hr, scale)
    lr = images.degrade(hr, scale) if lr is None else lr
    return luma(hr) - luma(images.imresize(lr, scale))


def severity(hr: Array, scale: int) -> Float:
    """Return the mean squared detail of each block, ``(H, W)``: the block error of bicubic, MSE."""
    return block_mean(detail(hr, scale) ** 2, scale)


def detail_blocks(hr: Array, scale: int) -> NDArray[np.float32]:
    """Return the details of each block, ``(H * W, s * s)``, positions in reading order."""
    lost = detail(hr, scale).astype(np.float32)
    blocks = lost.reshape(lost.shape[0] // scale, scale, -1, scale).swapaxes(1, 2)
    return blocks.reshape(-1, scale * scale)


def disagreement(details: Array, asked: Sequence[int] | Array) -> Float:
    """Return |d(p) - d(q)|^2 / |d(p)|^2 of details (L, D), (n, L) for n p; NaN: p has none."""
    details = np.asarray(details, float)  # differences of squares lose digits
    energy = np.sum(details[asked] ** 2, axis=1, keepdims=True)
    apart = cdist(details[asked], details, "sqeuclidean")
    return np.divide(apart, energy, out=np.full_like(apart, np.nan), where=energy > 0)


def inconsistency(hr: Array, scale: int, lr: Array, count: int = COUNT, every: int = 1) -> Float:
    """Return how much the details of similar patches differ from a position's own, ``(H, W)``.

    k(p) = the mean over the K most similar LR patches q of |D(q) - D(p)|^2, over |D(p)|^2, D being
    the details of a block. 0: all have the same detail. 1: copying one gains nothing over copying
    none. 2: they are unrelated, of equal energy. NaN: p has no detail, or was not asked about.
    """
    blocks, at = detail_blocks(hr, scale), _asked(lr.shape, every)
    differ = _differences(blocks, at, similar_patches(lr, count, every)).mean(axis=1, dtype=float)
    energy = np.mean(blocks[at].astype(np.float64) ** 2, axis=1)
    k = np.full(lr.shape[:2], np.nan)
    k.flat[at] = np.divide(differ, energy, out=np.full(len(at), np.nan), where=energy > 0)
    return k


def distortion_maps(sr: Array, hr: Array, scale: int) -> dict[str, Float]:
    """Return the `DISTORTIONS` of an output over its LR grid, each ``(H, W)``; 0: none."""
    x, y = lumas(sr, hr)
    return {
        "orientation": block_mean(orientation_error(x, y, SIGMA * scale), scale),
        "spectrum": spectrum_error(x, y, scale),
        "structure": block_mean(1 - ssim_map(x, y)[1], scale),
        "gradient": block_mean(1 - gradient_similarity(x, y), scale),
    }


def orientation_error(x: Float, y: Float, sigma: float) -> Float:
    """Return the angle between both dominant directions (degrees) times the true coherence.

    Directions are of the structure tensor (Bigun and Granlund 1987). An output without any counts
    as 45 degrees, the mean of a random one.
    """
    from skimage.feature import structure_tensor  # importing takes half a second

    directions = []
    for image in (x, y):
        rows, mixed, columns = structure_tensor(image, sigma, mode="reflect", order="rc")  # type: ignore[no-untyped-call]
        # Across the stripes, the angle doubled: the same for the opposite direction.
        directions.append((columns - rows) + 2j * mixed)
    made, true = directions
    # (a - b) / (a + b) for the eigenvalues a >= b of the truth; 0 where they are all 0.
    total = rows + columns
    coherence = np.divide(np.abs(true), total, out=np.zeros_like(total), where=total > 0)
    angle = np.degrees(np.abs(np.angle(made * np.conj(true)))) / 2
    return np.where(made == 0, 45.0, angle) * coherence


def spectrum_error(x: Float, y: Float, scale: int) -> Float:
    """Return the log-spectral distance of the texture around each LR position, dB, ``(H, W)``.

    The root mean square, over the frequencies but 0 of a Hann window of 5 x 5 LR positions, of the
    difference of both power spectra in dB (Gray and Markel 1976), the power of rounding added (1/12
    a pixel). A shifted texture has none; a blurred one has.
    """
    side, margin = SIDE * scale, SIDE // 2 * scale
    window = np.outer(np.hanning(side), np.hanning(side))
    padded = [np.pad(image, margin, mode="symmetric") for image in (x, y)]
    found = np.empty((x.shape[0] // scale, x.shape[1] // scale))
    for row, line in enumerate(found):
        logs = []
        for image in padded:
            strip = image[row * scale : row * scale + side]
            parts = sliding_window_view(strip, side, axis=1)[:, ::scale].transpose(1, 0, 2)
            parts = parts - parts.mean(axis=(1, 2), keepdims=True)  # (W, side, side)
            power = np.abs(fft.fft2(parts * window)) ** 2
            logs.append(10 * np.log10(power + np.sum(window**2) / 12))
        difference = (logs[0] - logs[1]).reshape(len(line), -1)
        line[:] = np.sqrt(np.mean(difference[:, 1:] ** 2, axis=1))
    return found


def gradient_similarity(x: Float, y: Float) -> Float:
    """Return how alike gradient magnitudes are, in [0, 1], ``(sH, sW)``: Xue et al. 2014, eq. 4."""
    # The paper's taps are 1/3, scipy's are 1; its constant 170 is for Y in [0, 255].
    g_x, g_y = (np.hypot(ndimage.prewitt(v, 0), ndimage.prewitt(v, 1)) / 3 for v in (x, y))
    return (2 * g_x * g_y + 170) / (g_x**2 + g_y**2 + 170)
