"""Why non-local attention harms: what the degradation took, and whether look-alikes can return it.

Needs no network, so it runs on any picture at once. *Detail* is what the degradation lost: Y of the
picture minus Y of its bicubic down- and upscaled version. Maps are float64 ``(H, W)`` over the LR
grid; the outermost positions are there too, so take `dtfn.subpixel.interior` of maps that stand
beside errors. Y is float, in [0, 255].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage
from skimage.feature import structure_tensor

from dtfn import images
from dtfn.errors import InputError
from dtfn.metrics import PEAK
from dtfn.subpixel.blocks import Array, Float, block_mean, luma
from dtfn.texture.neighbours import COUNT, SIDE, Neighbours, differences, patches, search

BAND = 256  # rows whose Y is computed at once
SIGMA = 1.5  # of the structure tensor's window, in LR pixels: about the area of a 5 x 5 patch


def detail(hr: Array, scale: int, lr: Array | None = None) -> Float:
    """Return what the degradation lost of each HR pixel, ``(sH, sW)``, signed, on Y.

    Parameters
    ----------
    hr
        uint8 RGB or grey of any size that holds an LR pixel; cropped at the top left to a multiple
        of s.
    scale
        s: 2, 3 or 4.
    lr
        `dtfn.images.degrade` of it, where that is known; None: degrade now.

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
    lost = _luma(hr)
    lost -= _luma(np.stack(channels, axis=2).reshape(hr.shape))
    return lost


def severity(hr: Array, scale: int, lr: Array | None = None) -> Float:
    """Return the detail energy that each block lost: mean squared detail, ``(H, W)``, MSE.

    It is the block error of the bicubic picture. Parameters and errors are those of `detail`.
    """
    return block_mean(detail(hr, scale, lr) ** 2, scale)


def decibels(energy: Float) -> Float:
    """Return energy in dB below full range, 10 log10(energy / 255^2); -infinity for none.

    Of `severity` it is the bicubic picture's sub-pixel PSNR with the sign turned: higher is worse.
    """
    with np.errstate(divide="ignore"):
        return 10 * np.log10(energy / PEAK**2)


def aliasing(hr: Array, scale: int) -> Float:
    """Return the share of the texture's energy that the LR grid cannot hold, in [0, 1], ``(H, W)``.

    That is, the energy above the LR Nyquist frequency, 1 / (2 s) cycles a pixel across or down,
    over all energy about the local mean; both within the 5 x 5 LR positions around each. NaN where
    there is no energy. Parameters and errors are those of `detail`.

    Notes
    -----
    An ideal filter on the cosine transform (which mirrors the picture, so that its borders do not
    count as edges). Being ideal it rings: a sharp edge is seen a few positions away.
    """
    hr = images.modcrop(hr, images.check_scale(scale))
    y = _luma(hr)
    # Axis by axis: what the filter stops is not transformed any further.
    low = fft.dct(y, axis=1, norm="ortho")[:, : y.shape[1] // scale]
    low = fft.dct(low, axis=0, norm="ortho")[: y.shape[0] // scale]
    for axis in (0, 1):
        low = fft.idct(low, n=y.shape[axis], axis=axis, norm="ortho")
    above = _window_mean(block_mean((y - low) ** 2, scale))
    # About one grey level of all, or the square of the local mean would swallow the variance.
    low -= low.mean()
    below = _window_mean(block_mean(low**2, scale)) - _window_mean(block_mean(low, scale)) ** 2
    rounding = 1e-12 * PEAK**2  # of the transform: what a constant picture has
    above, below = (np.where(energy > rounding, energy, 0) for energy in (above, below))
    total = above + below
    return np.divide(above, total, out=np.full_like(total, np.nan), where=total > 0)


def inconsistency(hr: Array, scale: int, found: Neighbours | None = None) -> Float:
    """Return how much the details of look-alikes differ from a position's own, ``(H, W)``.

    k(p) = the mean over the K nearest LR patches q of |D(q) - D(p)|^2, over |D(p)|^2, D being the
    details of a block. 0: all look-alikes have the same detail. 1: copying one gains nothing over
    copying none. 2: their details are unrelated, of equal energy. There is no upper limit: where p
    has little detail and its look-alikes much, copying does much harm.

    Parameters
    ----------
    hr, scale
        As for `detail`.
    found
        From `dtfn.texture.neighbours.search` on the LR picture; None: search now.

    Returns
    -------
    NaN where p has no detail at all (as in a constant picture): nothing there can be inconsistent.
    And where p was not asked about.

    Raises
    ------
    InputError
        As `detail` and `neighbours.search`; or neighbours of a picture of another size.

    Notes
    -----
    Energies of single blocks have long tails, and their ratios longer ones: rank k, or take its
    median; for a mean, divide mean by mean. A flat LR patch looks like every other flat one, so its
    neighbours are the first of the picture, whatever texture the degradation erased there.
    """
    found = search(images.degrade(hr, scale), COUNT) if found is None else found
    return _inconsistency(detail_blocks(hr, scale, found), found)


def _inconsistency(blocks: Array, found: Neighbours) -> Float:
    differ = differences(blocks, found).mean(axis=1, dtype=np.float64)  # (n,)
    energy = np.mean(blocks[found.asked].astype(np.float64) ** 2, axis=1)
    nothing = np.full_like(differ, np.nan)
    return found.spread(np.divide(differ, energy, out=nothing, where=energy > 0))


def detail_blocks(hr: Array, scale: int, found: Neighbours | None = None) -> Array:
    """Return the details of each block as float32 ``(H * W, s * s)``, positions in reading order.

    Parameters and errors are those of `inconsistency`, but nothing is searched.
    """
    return _blocks(detail(hr, scale), scale, found)


def _blocks(lost: Float, scale: int, found: Neighbours | None) -> Array:
    height, width = lost.shape[0] // scale, lost.shape[1] // scale
    if found is not None and found.shape != (height, width):
        raise InputError(
            "neighbours",
            expected=f"those of an LR picture of {height} x {width}",
            found=f"{found.shape[0]} x {found.shape[1]}",
            remedy="search dtfn.images.degrade(hr, scale)",
        )
    blocks = lost.astype(np.float32).reshape(height, scale, width, scale).swapaxes(1, 2)
    return blocks.reshape(height * width, scale * scale)


def recurrence(lr: Array, found: Neighbours | None = None) -> Float:
    """Return how unlike the most similar patch of the picture is, ``(H, W)``.

    Root mean squared difference of the two patches without their means, in grey levels. 0: the
    patch recurs exactly. Parameters are those of `neighbours.search`; NaN where not asked.
    """
    found = search(lr, 1) if found is None else found
    nearest = Neighbours(found.shape, found.asked, found.index[:, :1])
    return found.spread(np.sqrt(differences(patches(lr), nearest)[:, 0]))


def variance(lr: Array) -> Float:
    """Return the variance of Y in the 5 x 5 patch around each LR position, ``(H, W)``."""
    energy = np.mean(patches(lr).astype(np.float64) ** 2, axis=1)
    return energy.reshape(lr.shape[:2])


def gradient_energy(lr: Array, sigma: float = SIGMA) -> Float:
    """Return the mean squared slope of Y around each LR position, (grey levels / pixel)^2.

    Sobel derivatives under a Gaussian window of ``sigma`` LR pixels.
    """
    return _tensor(lr, sigma).energy


def coherence(lr: Array, sigma: float = SIGMA) -> Float:
    """Return how much the texture has one direction, in [0, 1]: 0 for none, 1 for stripes.

    (a - b) / (a + b) for the eigenvalues a >= b of the structure tensor; 0 where it is all 0.
    """
    return _tensor(lr, sigma).coherence


def orientation(lr: Array, sigma: float = SIGMA) -> Float:
    """Return the direction along the stripes, in [0, pi): 0 is level, pi / 4 rises to the right.

    An angle and its opposite are one direction: average doubled angles, weighted by `coherence`.
    NaN where the structure tensor prefers none.
    """
    return _tensor(lr, sigma).orientation


def describe(
    hr: Array, scale: int, count: int = COUNT, every: int = 1, *,
    found: Neighbours | None = None, progress: bool = False,
) -> dict[str, Float]:  # fmt: skip
    """Return all maps of one picture by name, each ``(H, W)``; similar patches are searched once.

    Parameters
    ----------
    hr, scale
        As for `detail`.
    count, every, progress
        As for `dtfn.texture.neighbours.search`.
    found
        As for `inconsistency`: instead of the search.

    Returns
    -------
    ``severity`` (MSE), ``severity_db``, ``aliasing``, ``inconsistency`` know the truth;
    ``recurrence``, ``variance``, ``gradient_energy``, ``coherence``, ``orientation`` are made from
    the LR picture alone.

    Raises
    ------
    InputError
        As `detail` and `dtfn.texture.neighbours.search`.
    """
    lr = images.degrade(hr, scale)
    found = found or search(lr, count, every, progress=progress)
    lost = detail(hr, scale, lr)
    energy, tensor = block_mean(lost**2, scale), _tensor(lr, SIGMA)
    return {
        "severity": energy,
        "severity_db": decibels(energy),
        "aliasing": aliasing(hr, scale),
        "inconsistency": _inconsistency(_blocks(lost, scale, found), found),
        "recurrence": recurrence(lr, found),
        "variance": variance(lr),
        "gradient_energy": tensor.energy,
        "coherence": tensor.coherence,
        "orientation": tensor.orientation,
    }


def _luma(image: Array) -> Float:
    """Return Y as `dtfn.subpixel.luma`, a band at a time, which takes a third of the memory."""
    y = np.empty(image.shape[:2])
    for start in range(0, len(image), BAND):
        y[start : start + BAND] = luma(image[start : start + BAND], image)
    return y


class _Tensor(NamedTuple):
    """The structure tensor: products of the slopes down and across, (grey levels / pixel)^2."""

    rows: Float
    mixed: Float
    columns: Float

    @property
    def energy(self) -> Float:
        """Of the slopes: see `gradient_energy`."""
        return self.rows + self.columns

    @property
    def coherence(self) -> Float:
        """See the function of this name."""
        spread, total = np.hypot(self.rows - self.columns, 2 * self.mixed), self.energy
        return np.divide(spread, total, out=np.zeros_like(total), where=total > 0)

    @property
    def orientation(self) -> Float:
        """See the function of this name."""
        # Across the stripes is the gradient's way; rows count downward, hence the sign of `mixed`.
        across = 0.5 * np.arctan2(-2 * self.mixed, self.columns - self.rows)
        none = (self.mixed == 0) & (self.rows == self.columns)
        # The second remainder: -1e-17 modulo pi is pi.
        return np.where(none, np.nan, (across + np.pi / 2) % np.pi % np.pi)


def _tensor(lr: Array, sigma: float) -> _Tensor:
    y = luma(lr, lr)
    parts = structure_tensor(y, sigma, mode="reflect", order="rc")  # type: ignore[no-untyped-call]
    # scikit-image's Sobel gives 8 for a slope of 1.
    return _Tensor(*(part / 64 for part in parts))


def _window_mean(values: Float) -> Float:
    """Return the mean of the 5 x 5 positions around each, mirrored at the border."""
    return ndimage.uniform_filter(values, SIDE, mode="reflect")
