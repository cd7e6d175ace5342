"""Pictures: read, write, Y channel, and MATLAB's bicubic resize.

An array is ``(H, W)`` (grey), ``(H, W, 2)`` (grey, alpha), ``(H, W, 3)`` (RGB) or ``(H, W, 4)``
(RGB, alpha), uint8 in [0, 255] or uint16 in [0, 65535], as stored: colour profiles and gamma are
ignored, as in all code of the field.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import csr_array

from dtfn import files
from dtfn.errors import InputError

Float = NDArray[np.float64]
UInt8 = NDArray[np.uint8]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]
Depth = TypeVar("Depth", np.uint8, np.uint16)

SCALES = (2, 3, 4)
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 274  # the tag's number in EXIF and in TIFF
_EXPAND = {"1": "L", "P": "RGB", "PA": "RGBA"}
_SHOW_ALPHA = {"1": "LA", "L": "LA", "P": "RGBA", "RGB": "RGBA"}
_MODES = ("L", "LA", "RGB", "RGBA", "I;16", "I;16B")
_KINDS = {  # what comes under a picture's name without being one, by its first bytes
    b"RIFF": "a WebP picture or another RIFF file",
    b"GIF8": "a GIF picture",
    b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull`",
    b"<": "a web page (HTML) or XML",
    b"PK": "a zip file",
}

# It logs every damaged tag, which without a handler would go to the terminal next to our one line.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class _UnsupportedError(Exception):
    """A sound file of a kind that has no place here; the message says what it holds."""


def read(path: str | Path) -> Pixels:
    """Read a PNG, JPEG, BMP or TIFF file at its own depth; details and errors as `decode`."""
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise InputError(path, "an image file", found, "check the path")
    return decode(path.read_bytes(), path)


def write(path: str | Path, image: Pixels) -> None:
    """Write an image whole or not at all; the suffix says how, see `encode`.

    Raises
    ------
    InputError
        As `encode`, or if the file cannot be written.
    """
    files.write(Path(path), encode(image, Path(path).suffix, path))


def decode(data: bytes, what: object) -> Pixels:
    """Return the pixels of a PNG, JPEG, BMP or TIFF file. The content decides, not the suffix.

    Palettes become RGB (RGBA if a colour is transparent), 1-, 2- and 4-bit grey becomes 8-bit grey,
    a transparent colour becomes an alpha channel, and an orientation tag is applied.

    Parameters
    ----------
    data
        The file's bytes.
    what
        The file's name, for errors.

    Raises
    ------
    InputError
        If the file is damaged, cut short or no such file; or holds CMYK, LAB, floats, several pages
        or more than 16 bits, whose conversion needs a decision that is the user's; or 16-bit colour
        in a PNG, which Pillow would cut to 8 bits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and odd tags: not for a reader
            pixels = _tiff(data) if data.startswith(_TIFF_MAGIC) else _other(data)
    except _UnsupportedError as error:
        raise InputError(
            what,
            "one grey or RGB image of at most 16 bits (colour PNG: 8 bits)",
            error,
            "convert it to an 8-bit PNG or a 16-bit TIFF",
        ) from error
    # Decoders raise whatever their format makes them trip over (OSError, struct.error, IndexError,
    # SyntaxError, ...); to the user all of it means one thing.
    except Exception as error:
        raise InputError(
            what,
            "a whole PNG, JPEG, BMP or TIFF file",
            _content(data, error),
            "it may be truncated or damaged: fetch or save it again",
        ) from error
    whole: Pixels = np.ascontiguousarray(pixels)  # type: ignore[assignment]
    return whole


def _other(data: bytes) -> Pixels:
    """Decode any file but a 16-bit colour TIFF with Pillow."""
    with Image.open(io.BytesIO(data), formats=("BMP", "JPEG", "PNG", "TIFF")) as image:
        image.load()  # raises if the file is cut short
        deep = image.format == "PNG" and data[24] == 16  # bits a sample, in the first chunk
        if deep and (data[25] != 0 or "transparency" in image.info):
            raise _UnsupportedError("a PNG with 16 bits of colour or transparency")
        turn = image.getexif().get(_ORIENTATION, 1)
        mode = _EXPAND.get(image.mode, image.mode)
        if "transparency" in image.info:
            mode = _SHOW_ALPHA.get(image.mode, mode)
        if mode not in _MODES:
            raise _UnsupportedError(f"{image.format} of mode {image.mode}")
        pixels = np.array(image if mode == image.mode else image.convert(mode))
    deep = mode.startswith("I;16")
    return _upright(pixels.astype(np.uint16) if deep else pixels.astype(np.uint8), turn)


def _tiff(data: bytes) -> Pixels:
    """Decode a TIFF of any depth: 16-bit colour with tifffile, all else with Pillow."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if len(file.pages) > 1:
            raise _UnsupportedError(f"{len(file.pages)} pages")
        page = file.pages.first
        # The last strip, cut short, may still decode, to a wrong pixel or to zeros.
        ends = np.add(page.dataoffsets, page.databytecounts)
        if max(ends) > len(data):
            raise EOFError(f"truncated: pixels up to byte {max(ends)}")
        # What has no strip would be read as zeros, and a damaged height as gigabytes of them.
        if len(ends) < math.prod(page.chunked) or not all(page.databytecounts):
            raise EOFError(f"{len(ends)} of {math.prod(page.chunked)} strips")
        colour = tifffile.PHOTOMETRIC(page.photometric).name
        if page.dtype is not None and page.dtype.kind == "f":
            raise _UnsupportedError(f"TIFF of {page.dtype}")
        if page.bitspersample != 16:
            return _other(data)
        if colour not in ("MINISBLACK", "RGB") or page.dtype != np.uint16:
            raise _UnsupportedError(f"TIFF of {page.dtype} {colour}")
        if page.samplesperpixel == 1:
            return _other(data)
        if page.size > 1 << 28:
            raise ValueError(f"{page.size} samples")
        if page.compression not in (1, 8, 32946, 32773):  # none, deflate (twice), PackBits
            packing = tifffile.COMPRESSION(page.compression).name
            raise _UnsupportedError(f"16-bit colour TIFF packed by {packing}")
        pixels = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
            pixels = np.moveaxis(pixels, 0, 2)
        if pixels.ndim != 3 or pixels.shape[2] not in (2, 3, 4):
            raise _UnsupportedError(f"samples of shape {pixels.shape}")
        return _upright(pixels, page.tags.valueof(_ORIENTATION, 1))


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn the image as EXIF's orientation (1-8; anything else counts as 1) asks."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels[::rows, ::columns]


def _content(data: bytes, error: Exception) -> str:
    """Say what a file that does not decode holds."""
    for magic, kind in _KINDS.items():
        if data.lstrip()[: len(magic)] == magic:
            return kind
    if not data:
        return "an empty file"
    if b"\0" not in data and (text := data[:200].decode(errors="replace")).isprintable():
        return f"text ({text[:20]!r})"
    if data.startswith((b"\x89PNG", b"\xff\xd8", b"BM", *_TIFF_MAGIC)):
        said = " ".join(str(error).split()) or type(error).__name__
        said = "truncated" if "0x" in said else said
        return f"{len(data)} bytes that do not decode ({said})"
    return f"{len(data)} bytes that are none of these"


def encode(image: Pixels, suffix: str, what: object) -> bytes:
    """Return an image as a file of the kind that a suffix names.

    PNG (8 bits, or 16 bits of grey) and TIFF are lossless, BMP is for 8 bits without alpha, JPEG
    (quality 95, no chroma subsampling) is for looking at.

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
    _require(image, what, (np.uint8, np.uint16))
    if kind not in SUFFIXES:
        raise InputError(
            what, f"a suffix among {', '.join(SUFFIXES)}", repr(suffix), "rename the file"
        )
    image = image[:, :, 0] if image.shape[2:] == (1,) else image
    channels = image.shape[2] if image.ndim == 3 else 1
    buffer = io.BytesIO()
    if kind in (".tif", ".tiff"):
        tifffile.imwrite(  # without software and date: equal pixels give equal bytes
            buffer,
            np.ascontiguousarray(image),
            photometric="rgb" if channels >= 3 else "minisblack",
            planarconfig="contig" if channels > 1 else None,
            extrasamples=["unassalpha"] if channels in (2, 4) else None,
            compression="zlib",
            software=False,
            metadata=None,
        )
        return buffer.getvalue()
    deep = image.dtype != np.uint8
    if (deep and (kind != ".png" or channels > 1)) or (kind != ".png" and channels in (2, 4)):
        raise InputError(
            what,
            "8 bits and no alpha in a JPEG or BMP, 8 bits or grey in a PNG",
            f"{image.dtype} with {channels} channels",
            "write a .tif, or convert with dtfn.images.as_rgb",
        )
    options = {"quality": 95, "subsampling": 0} if kind.startswith(".jp") else {}
    Image.fromarray(np.ascontiguousarray(image)).save(
        buffer, {".png": "PNG", ".bmp": "BMP"}.get(kind, "JPEG"), **options
    )
    return buffer.getvalue()


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
        found = "pixels that one can see through"
        raise InputError(file, "an opaque picture", found, "save it without alpha")
    grey = stored.ndim == 2 or stored.shape[2] == 2
    rgb = as_rgb(stored)
    return np.ascontiguousarray(rgb[:, :, 0]) if grey else rgb


def as_rgb(image: Pixels) -> UInt8:
    """Return any image as 8-bit RGB ``(H, W, 3)`` in [0, 255].

    Grey is replicated. 16 bits are scaled to 8 (65535 -> 255) and rounded. Alpha is composited
    over white, the page that a transparent image is seen on, at the image's own depth.

    Parameters
    ----------
    image
        uint8 or uint16 ``(H, W)`` or ``(H, W, C)``, C from 1 to 4, as `read` returns it.

    Raises
    ------
    InputError
        For any other shape or type.
    """
    _require(image, "as_rgb", (np.uint8, np.uint16))
    colour = image[:, :, None] if image.ndim == 2 else image
    top = int(np.iinfo(image.dtype).max)
    if colour.shape[2] in (2, 4):
        alpha = colour[:, :, -1:] / top
        colour = np.rint(alpha * colour[:, :, :-1] + (1 - alpha) * top)
    if top > 255:
        colour = np.rint(colour / 257)  # 65535 = 255 * 257, and 257 is odd: there are no ties
    return np.repeat(colour, 3 // colour.shape[2], axis=2).astype(np.uint8)


def _require(image: NDArray[np.generic], what: object, kinds: tuple[type, ...]) -> None:
    """Raise `InputError` unless ``image`` is a non-empty image of one of these types."""
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype not in kinds or image.ndim not in (2, 3) or not (image.size and channels < 5):
        raise InputError(
            what,
            (
                f"a non-empty {' or '.join(kind.__name__ for kind in kinds)} image (H, W) or "
                "(H, W, C) of at most 4 channels"
            ),
            f"{image.dtype} of shape {image.shape}",
            "convert 16-bit images with dtfn.images.as_rgb, floats by rounding",
        )


def check_scale(scale: int) -> int:
    """Return ``scale`` if it is 2, 3 or 4; raise `InputError` if it is anything else."""
    if scale not in SCALES:
        raise InputError("scale", "2, 3 or 4", repr(scale), "choose one of these")
    return int(scale)


def luma(image: UInt8 | NDArray[np.float32]) -> Float:
    """Return the Y channel of BT.601 as MATLAB's ``rgb2ycbcr`` defines it, not rounded.

    Rounding Y costs 0.09 dB of PSNR at scale 2, so it is kept as float.

    Parameters
    ----------
    image
        uint8 RGB ``(H, W, 3)`` in [0, 255], or grey ``(H, W)``, which counts as RGB of three equal
        channels, as in the networks' published tables. Or float32 RGB in [0, 255], such as the
        output of a network that is not rounded.

    Returns
    -------
    float64 ``(H, W)``, in [16, 235].

    Raises
    ------
    InputError
        For any other shape or type.
    """
    _require(image, "luma", (np.uint8, np.float32))
    if image.ndim == 3 and image.shape[2] != 3:
        found = f"shape {image.shape}"
        remedy = "convert with dtfn.images.as_rgb"
        raise InputError("luma", "(H, W) or (H, W, 3)", found, remedy)
    red, green, blue = [image] * 3 if image.ndim == 2 else np.moveaxis(image, 2, 0)
    y = np.multiply(red, 65.481, dtype=np.float64)  # in place: half the time of one expression
    y += np.multiply(green, 128.553)
    y += np.multiply(blue, 24.966)
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
    _require(hr, "degrade", (np.uint8,))
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
    _require(image, "imresize", (np.uint8,))
    if not (math.isfinite(factor) and factor > 0):
        raise InputError("factor", "a number above 0", factor, "pass e.g. 1 / 4 or 4")
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
