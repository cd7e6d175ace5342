"""Images: read, write, Y channel, and MATLAB's bicubic resize.

Every array is ``(H, W)`` (grey), ``(H, W, 2)`` (grey, alpha), ``(H, W, 3)`` (RGB) or ``(H, W, 4)``
(RGB, alpha), uint8 in [0, 255] or uint16 in [0, 65535], gamma-encoded (sRGB) as stored.
"""

from __future__ import annotations

import math
import uuid
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dtfn.errors import InputError
from dtfn.images import codecs
from dtfn.images.codecs import Pixels

SCALES = (2, 3, 4)

Float = NDArray[np.float64]
UInt8 = NDArray[np.uint8]
Depth = TypeVar("Depth", np.uint8, np.uint16)


def read(path: str | Path) -> Pixels:
    """Read a PNG, JPEG, BMP or TIFF file at its own depth and with its own channels.

    See `dtfn.images.codecs.decode` for palettes, orientation tags and what is refused.

    Raises
    ------
    InputError
        If there is no such file, or it is damaged, cut short or of an unsupported kind.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise InputError(path, expected="an image file", found=found, remedy="check the path")
    return codecs.decode(path.read_bytes(), path)


def write(path: str | Path, image: Pixels) -> None:
    """Write an image; the suffix says how. Folders are made as needed.

    The file appears whole or not at all: it is written beside its place and then renamed. See
    `dtfn.images.codecs.encode` for what each kind of file can hold.

    Raises
    ------
    InputError
        For an unknown suffix, or an image that such a file cannot hold.
    """
    path = Path(path)
    data = codecs.encode(image, path.suffix, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def grey_or_rgb(file: Path, *, opaque: bool = False) -> UInt8:
    """Read an image as uint8 RGB ``(H, W, 3)``, or ``(H, W)`` if the file is grey.

    Raises
    ------
    InputError
        As `read`; or, if it must be ``opaque``, for pixels that one can see through.
    """
    stored = read(file)
    has_alpha = stored.ndim == 3 and stored.shape[2] in (2, 4)
    if opaque and has_alpha and (stored[..., -1] < np.iinfo(stored.dtype).max).any():
        raise InputError(
            file, expected="an opaque picture", found="pixels that one can see through",
            remedy="save it without alpha",
        )  # fmt: skip
    grey = stored.ndim == 2 or stored.shape[2] == 2
    rgb = as_rgb(stored)
    return np.ascontiguousarray(rgb[:, :, 0]) if grey else rgb


def as_rgb(image: Pixels) -> UInt8:
    """Return any image as 8-bit RGB.

    Grey is replicated. 16 bits are scaled to 8 (65535 -> 255) and rounded. Alpha is composited
    over white, the page that a transparent image is seen on, at the image's own depth.

    Parameters
    ----------
    image
        uint8 or uint16 ``(H, W)`` or ``(H, W, C)``, C from 1 to 4, as `read` returns it.

    Returns
    -------
    uint8 ``(H, W, 3)`` in [0, 255].

    Raises
    ------
    InputError
        For any other shape or type.
    """
    colour = image[:, :, None] if image.ndim == 2 else image
    if image.dtype not in (np.uint8, np.uint16) or colour.ndim != 3 or colour.shape[2] > 4:
        raise InputError(
            "as_rgb",
            expected="a uint8 or uint16 image (H, W) or (H, W, C) of at most 4 channels",
            found=f"{image.dtype} of shape {image.shape}",
            remedy="convert the image first",
        )
    top = int(np.iinfo(image.dtype).max)
    if colour.shape[2] in (2, 4):
        alpha = colour[:, :, -1:] / top
        colour = np.rint(alpha * colour[:, :, :-1] + (1 - alpha) * top)
    if top > 255:
        colour = np.rint(colour / 257)  # 65535 = 255 * 257, and 257 is odd: there are no ties
    return np.repeat(colour, 3 // colour.shape[2], axis=2).astype(np.uint8)


def check_scale(scale: int) -> int:
    """Return ``scale`` if it is one of the field's factors (2, 3, 4).

    Raises
    ------
    InputError
        If it is anything else.
    """
    if scale not in SCALES:
        raise InputError(
            "scale", expected="2, 3 or 4", found=repr(scale), remedy="choose one of these"
        )
    return int(scale)


def luma(image: UInt8) -> Float:
    """Return the Y channel of BT.601 as MATLAB's ``rgb2ycbcr`` defines it, not rounded.

    Rounding Y costs 0.09 dB of PSNR at scale 2, so it is kept as float.

    Parameters
    ----------
    image
        uint8 RGB ``(H, W, 3)`` in [0, 255], or grey ``(H, W)``, which is Y itself.

    Returns
    -------
    float64 ``(H, W)``; in [16, 235] for RGB, [0, 255] for grey.

    Raises
    ------
    InputError
        For any other shape or type.
    """
    _require_uint8(image, "luma")
    if image.ndim == 2:
        return image.astype(np.float64)
    if image.shape[2] != 3:
        raise InputError(
            "luma",
            expected="grey (H, W) or RGB (H, W, 3)",
            found=f"shape {image.shape}",
            remedy="convert with dtfn.images.as_rgb",
        )
    y = np.multiply(image[..., 0], 65.481)  # in place: half the time of one expression
    y += np.multiply(image[..., 1], 128.553)
    y += np.multiply(image[..., 2], 24.966)
    y /= 255
    y += 16
    return y


def modcrop(image: NDArray[Depth], scale: int) -> NDArray[Depth]:
    """Crop at the top left to the largest height and width that ``scale`` divides."""
    height, width = image.shape[:2]
    return image[: height - height % scale, : width - width % scale]


def degrade(hr: UInt8, scale: int) -> UInt8:
    """Return the LR image of the benchmarks: `modcrop`, then `imresize` by ``1 / scale``.

    Parameters
    ----------
    hr
        uint8 ``(H, W)`` or ``(H, W, C)``.
    scale
        2, 3 or 4.

    Returns
    -------
    uint8 ``(H // scale, W // scale)`` or ``(H // scale, W // scale, C)``.

    Raises
    ------
    InputError
        For another scale, or an image smaller than ``scale``.
    """
    check_scale(scale)
    _require_uint8(hr, "degrade")
    return imresize(modcrop(hr, scale), 1 / scale)


def imresize(image: UInt8, factor: float | Fraction) -> UInt8:
    """Resize as MATLAB's ``imresize(image, factor, 'bicubic')`` does, bit for bit.

    Cubic kernel with a = -0.5, widened when shrinking (antialiasing), symmetric borders. Rows are
    done first, and the result is rounded (half away from zero) to uint8 after each of the two
    passes: a single rounding at the end reproduces only 85-90 % of the benchmarks' LR pixels.

    Parameters
    ----------
    image
        uint8 ``(H, W)`` or ``(H, W, C)``; channels are independent.
    factor
        Output size over input size; below 1 shrinks.

    Returns
    -------
    uint8 ``(ceil(H * factor), ceil(W * factor))``, with the channels of ``image``.

    Raises
    ------
    InputError
        If ``image`` is not a non-empty uint8 image or ``factor`` not positive and finite.

    Notes
    -----
    Both passes are products with a sparse matrix in float64, whose terms are summed in the order
    of the taps: BLAS would sum in an order of its own, and so break exact ties.
    """
    _require_uint8(image, "imresize")
    if not (math.isfinite(factor) and factor > 0):
        raise InputError(
            "factor", expected="a number above 0", found=factor, remedy="pass e.g. 1 / 4 or 4"
        )
    rows = _resize_rows(image, factor)
    columns = _resize_rows(rows.swapaxes(0, 1), factor)
    return np.ascontiguousarray(columns.swapaxes(0, 1))


def _resize_rows(image: UInt8, factor: float | Fraction) -> UInt8:
    """Resize along the first axis; uint8 ``(H, ...)`` -> uint8 ``(ceil(H * factor), ...)``."""
    height, *others = image.shape
    matrix = _weights(height, math.ceil(height * factor), float(factor))
    values = matrix @ image.reshape(height, -1).astype(np.float64)
    # The kernel has negative lobes: clip first. Then all is >= 0, where "half away from zero" is
    # "half up".
    rounded = np.floor(np.clip(values, 0, 255, out=values) + 0.5).astype(np.uint8)
    return rounded.reshape(-1, *others)


def _weights(size: int, new_size: int, factor: float) -> csr_array:
    """Return the bicubic weights ``(new_size, size)``; a row sums to 1.

    The formulas are those of MATLAB's ``imresize.m`` (function ``contributions``), with its
    order of operations; positions count from 0 here, from 1 there.
    """
    shrink = min(factor, 1.0)
    support = 4 / shrink
    centre = (np.arange(new_size) + 1) / factor + 0.5 * (1 - 1 / factor)
    first = np.floor(centre - support / 2)
    taps = first[:, None] + np.arange(math.ceil(support) + 2)  # (new_size, taps), from 1
    weight = _cubic(shrink * (centre[:, None] - taps))
    weight /= weight.sum(axis=1, keepdims=True)
    # Symmetric border: ... 1 0 | 0 1 ... n-1 | n-1 n-2 ..., with period 2 n.
    index = (taps.astype(np.int64) - 1) % (2 * size)
    index = np.minimum(index, 2 * size - 1 - index)
    starts = np.arange(new_size + 1) * taps.shape[1]
    return csr_array((weight.ravel(), index.ravel(), starts), shape=(new_size, size))


def _cubic(x: Float) -> Float:
    """Return Keys' cubic convolution kernel with a = -0.5 (Keys 1981, eq. 15)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _require_uint8(image: NDArray[np.generic], what: str) -> None:
    """Raise `InputError` unless ``image`` is a non-empty uint8 ``(H, W)`` or ``(H, W, C)``."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.size == 0:
        raise InputError(
            what,
            expected="a non-empty uint8 image (H, W) or (H, W, C)",
            found=f"{image.dtype} of shape {image.shape}",
            remedy="convert 16-bit images with dtfn.images.as_rgb",
        )
