"""Images: read, write, Y channel, and MATLAB's bicubic resize.

Every array is ``(H, W)`` (grey), ``(H, W, 2)`` (grey, alpha), ``(H, W, 3)`` (RGB) or ``(H, W, 4)``
(RGB, alpha), uint8 in [0, 255] or uint16 in [0, 65535], gamma-encoded (sRGB) as stored.
"""

from __future__ import annotations

import io
import logging
import math
import uuid
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import csr_array

from dtfn.errors import InputError

SCALES = (2, 3, 4)

Float = NDArray[np.float64]
UInt8 = NDArray[np.uint8]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]
Depth = TypeVar("Depth", np.uint8, np.uint16)

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")

_FORMATS = ("BMP", "JPEG", "PNG", "TIFF")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 274  # the tag's number in EXIF and in TIFF
_EXPAND = {"1": "L", "P": "RGB", "PA": "RGBA"}
_SHOW_ALPHA = {"1": "LA", "L": "LA", "P": "RGBA", "RGB": "RGBA"}
_MODES = ("L", "LA", "RGB", "RGBA", "I;16", "I;16L", "I;16B")
_REMEDY = "convert it to an 8- or 16-bit grey or RGB PNG"

# It logs every damaged tag, which without a handler would go to the terminal beside our one line.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def read(path: str | Path) -> Pixels:
    """Read a PNG, JPEG, BMP or TIFF file at its own depth and with its own channels.

    See `decode` for palettes, orientation tags and what is refused.

    Raises
    ------
    InputError
        If there is no such file, or it is damaged, cut short or of an unsupported kind.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise InputError(path, expected="an image file", found=found, remedy="check the path")
    return decode(path.read_bytes(), path)


def write(path: str | Path, image: Pixels) -> None:
    """Write an image; the suffix says how. Folders are made as needed.

    The file appears whole or not at all: it is written beside its place and then renamed. See
    `encode` for what each kind of file can hold.

    Raises
    ------
    InputError
        For an unknown suffix, or an image that such a file cannot hold.
    """
    path = Path(path)
    data = encode(image, path.suffix, path)
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


class UnsupportedError(Exception):
    """A sound file of a kind that has no place here; the message says what it holds."""


def decode(data: bytes, what: object) -> Pixels:
    """Return the pixels of a PNG, JPEG, BMP or TIFF file. The content decides, not the suffix.

    Palettes become RGB (RGBA if a colour is transparent), 1-, 2- and 4-bit grey becomes 8-bit grey,
    a transparent colour becomes an alpha channel, and an orientation tag is applied: the image
    stands as a viewer shows it. CMYK, LAB, float and several pages are refused, since what they
    would become here needs a decision (a profile, a range, a page) that is the user's.

    Parameters
    ----------
    data
        The file's bytes.
    what
        The file's name, for errors.

    Returns
    -------
    uint8 or uint16 ``(H, W)``, ``(H, W, 2)``, ``(H, W, 3)`` or ``(H, W, 4)``.

    Raises
    ------
    InputError
        If the file is damaged, cut short or of an unsupported kind.
    """
    try:
        if data.startswith(_TIFF_MAGIC):
            return _decode_tiff(data)
        return _decode_with_pillow(data)
    except UnsupportedError as error:
        raise InputError(
            what, expected="one grey or RGB image of at most 16 bits", found=error, remedy=_REMEDY
        ) from error
    # Decoders raise whatever their format makes them trip over (OSError, struct.error, IndexError,
    # SyntaxError, ...); to the user all of it means one thing.
    except Exception as error:
        found = f"{len(data)} bytes that do not decode ({_one_line(error)})"
        raise InputError(
            what,
            expected="a whole PNG, JPEG, BMP or TIFF file",
            found=found,
            remedy="it may be truncated or damaged: fetch or save it again",
        ) from error


def encode(image: Pixels, suffix: str, what: object) -> bytes:
    """Return ``image`` as a file of the kind that ``suffix`` names.

    PNG and TIFF are lossless for all that `decode` returns, BMP is for 8 bits without alpha. JPEG
    (quality 95, no chroma subsampling) is not lossless: it is for looking at.

    Parameters
    ----------
    image
        As `decode` returns it.
    suffix
        One of `SUFFIXES`, in any case.
    what
        The file's name, for errors.

    Raises
    ------
    InputError
        For an unknown suffix, or an image that such a file cannot hold.
    """
    kind = suffix.lower()
    channels = image.shape[2] if image.ndim == 3 else 1
    if (
        image.dtype not in (np.uint8, np.uint16)
        or image.ndim not in (2, 3)
        or channels not in (1, 2, 3, 4)
        or image.size == 0
    ):
        raise InputError(
            what,
            expected="a uint8 or uint16 image (H, W) or (H, W, C) of at most 4 channels",
            found=f"{image.dtype} of shape {image.shape}",
            remedy="convert the image first",
        )
    if kind not in SUFFIXES:
        raise InputError(
            what,
            expected=f"a suffix among {', '.join(SUFFIXES)}",
            found=repr(suffix),
            remedy="rename the file",
        )
    if image.ndim == 3 and channels == 1:
        image = image[:, :, 0]
    if kind == ".png":
        return bytes(imagecodecs.png_encode(np.ascontiguousarray(image)))
    if kind in (".tif", ".tiff"):
        return _encode_tiff(image, channels)
    if image.dtype != np.uint8 or channels in (2, 4):
        raise InputError(
            what,
            expected="8 bits and no alpha in a JPEG or BMP",
            found=f"{image.dtype} with {channels} channels",
            remedy="write a .png or .tif, or convert with dtfn.images.as_rgb",
        )
    buffer = io.BytesIO()
    options = {} if kind == ".bmp" else {"quality": 95, "subsampling": 0}
    Image.fromarray(image).save(buffer, "BMP" if kind == ".bmp" else "JPEG", **options)
    return buffer.getvalue()


def _decode_with_pillow(data: bytes) -> Pixels:
    """Decode any file but a 16-bit TIFF."""
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        image.load()  # raises if the file is cut short
        turn = image.getexif().get(_ORIENTATION, 1)
        # imagecodecs 2026.3.6 loses a reference to None at every PNG that it cannot decode, and so
        # in time ends the process: it must see only what Pillow has decoded to the end.
        if image.format == "PNG" and _png_depth(data) == 16:
            return _upright(imagecodecs.png_decode(data), turn)
        mode = _EXPAND.get(image.mode, image.mode)
        if "transparency" in image.info:
            mode = _SHOW_ALPHA.get(image.mode, mode)
        if mode not in _MODES:
            raise UnsupportedError(f"{image.format} of mode {image.mode}")
        pixels = np.array(image if mode == image.mode else image.convert(mode))
    return _upright(pixels.astype(np.uint16 if mode.startswith("I;16") else np.uint8), turn)


def _decode_tiff(data: bytes) -> Pixels:
    """Decode a TIFF of any depth."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if len(file.pages) > 1:
            raise UnsupportedError(f"{len(file.pages)} pages")
        page = file.pages.first
        # The last strip, cut short, may still decode, to a wrong pixel or to zeros.
        ends = np.add(page.dataoffsets, page.databytecounts)
        if max(ends) > len(data):
            raise EOFError(f"pixels up to byte {max(ends)}")
        if page.dtype is not None and page.dtype.kind == "f":
            raise UnsupportedError(f"TIFF of {page.dtype}")
        return _samples16(page) if page.bitspersample == 16 else _decode_with_pillow(data)


def _samples16(page: tifffile.TiffPage) -> Pixels:
    """Return the pixels of a TIFF page of 16 bits a sample."""
    colour = tifffile.PHOTOMETRIC(page.photometric).name
    if colour not in ("MINISBLACK", "RGB") or page.dtype != np.uint16:
        raise UnsupportedError(f"TIFF of {page.dtype} {colour}")
    pixels = page.asarray()
    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (2, 3, 4)):
        raise UnsupportedError(f"samples of shape {pixels.shape}")
    return _upright(pixels, page.tags.valueof(_ORIENTATION, 1))


def _encode_tiff(image: Pixels, channels: int) -> bytes:
    """Return a deflated TIFF; without software and date, so that equal pixels give equal bytes."""
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        image,
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig="contig" if image.ndim == 3 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        software=False,
        metadata=None,
    )
    return buffer.getvalue()


def _upright(pixels: NDArray[np.generic], orientation: int) -> Pixels:
    """Turn the image as EXIF's orientation (1-8; anything else counts as 1) asks."""
    turned = {
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: pixels[::-1].swapaxes(0, 1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: pixels[:, ::-1].swapaxes(0, 1),
    }
    return np.ascontiguousarray(turned.get(orientation, pixels))


def _png_depth(data: bytes) -> int:
    """Return the bits a sample: byte 24 of every PNG, in its first chunk."""
    return data[24]


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
