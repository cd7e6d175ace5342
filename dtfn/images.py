"""Pictures: read, write, Y channel, and MATLAB's bicubic resize.

An array is ``(H, W)`` (grey) or ``(H, W, 2)``, ``3`` or ``4`` (grey and alpha, RGB, RGB and alpha),
uint8 or uint16 as stored: colour profiles and gamma are ignored, as in all code of the field.
"""

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
from PIL import Image, ImageOps
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

# It logs every damaged tag, which without a handler would go to the terminal next to our one line.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def read(path: str | Path) -> Pixels:
    """Read a file at its own depth, see `decode`."""
    if not Path(path).is_file():
        found = "a folder" if Path(path).is_dir() else "nothing"
        raise InputError(path, "an image file", found, "check the path")
    return decode(Path(path).read_bytes(), path)


def decode(data: bytes, what: object) -> Pixels:
    """Return the pixels of a PNG, JPEG, BMP or TIFF file. The content decides, not the suffix.

    Palettes become RGB, 1-, 2- and 4-bit grey becomes 8-bit grey, a transparent colour becomes an
    alpha channel, and an orientation tag is applied. All else is an `InputError`, in which ``what``
    names the file: damage, CMYK, LAB, floats, several pages, 16-bit colour in a PNG.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and odd tags: not for a reader
            pixels = _deep_colour(data) if data.startswith(_TIFF_MAGIC) else None
            return np.ascontiguousarray(_pillow(data) if pixels is None else pixels)  # type: ignore[return-value]
    except Exception as error:  # decoders raise whatever their format makes them trip over
        said = " ".join(str(error).split()).partition(" <")[0] or type(error).__name__
        wanted = "a whole PNG, JPEG, BMP or TIFF file: one grey or RGB picture of at most 16 bits"
        found = f"{len(data)} bytes that begin {data[:24]!r} ({said})"
        remedy = "if it is truncated or damaged, fetch it again; else save it as an 8-bit PNG"
        raise InputError(what, wanted, found, remedy) from error


def _pillow(data: bytes) -> NDArray[np.generic]:
    with Image.open(io.BytesIO(data), formats=("BMP", "JPEG", "PNG", "TIFF")) as file:
        image = ImageOps.exif_transpose(file)  # raises if the file is cut short
        transparent = "transparency" in image.info
        # The depth and the kind of colour stand in the first chunk.
        if file.format == "PNG" and data[24] == 16 and (data[25] != 0 or transparent):
            raise ValueError("a PNG with 16 bits of colour or transparency")
        mode = {"1": "L", "P": "RGB", "PA": "RGBA"}.get(image.mode, image.mode)
        mode += "A" * (transparent and mode in ("L", "RGB"))
        if mode not in ("L", "LA", "RGB", "RGBA", "I;16", "I;16B"):
            raise ValueError(f"{file.format} of mode {image.mode}")
        pixels = np.array(image if mode == image.mode else image.convert(mode))
    return pixels.astype(np.uint16 if mode.startswith("I;16") else np.uint8)


def _deep_colour(data: bytes) -> NDArray[np.generic] | None:
    """Decode a TIFF with 16 bits of colour; None for another sound TIFF."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        if len(file.pages) > 1:
            raise ValueError(f"{len(file.pages)} pages")
        # A strip that is cut short or missing may still decode, to zeros.
        ends = np.add(page.dataoffsets, page.databytecounts)
        parts = math.prod(page.chunked)
        if max(ends) > len(data) or len(ends) < parts or not all(page.databytecounts):
            raise ValueError(f"truncated: {len(ends)} of {parts} strips, up to byte {max(ends)}")
        if page.bitspersample != 16:
            return None
        colour, grey = tifffile.PHOTOMETRIC(page.photometric).name, page.samplesperpixel == 1
        turned = not grey and page.tags.valueof(274, 1) > 1
        sound = colour in ("MINISBLACK", "RGB") and page.dtype == np.uint16 and page.size < 1 << 28
        if not sound or turned:
            raise ValueError(f"TIFF of {page.dtype} {colour} {page.shape}, turned: {turned}")
        separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
        return None if grey else np.moveaxis(page.asarray(), 0 if separate else 2, 2)


def write(path: str | Path, image: Pixels) -> None:
    """Write an image as a PNG, whole or not at all; errors as `encode`."""
    files.write(Path(path), encode(image))


def encode(image: Pixels) -> bytes:
    """Return an image of 8 bits, or of 16 bits of grey, as a PNG."""
    _require(image, "PNG", (np.uint8,) if image.ndim == 3 else (np.uint8, np.uint16))
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def grey_or_rgb(file: Path, *, opaque: bool = False) -> UInt8:
    """Read an image as uint8 RGB ``(H, W, 3)``, or ``(H, W)`` if the file is grey."""
    stored = read(file)
    channels = stored.shape[2] if stored.ndim == 3 else 1
    if opaque and channels in (2, 4) and (stored[..., -1] < np.iinfo(stored.dtype).max).any():
        raise InputError(file, "an opaque picture", "transparent pixels", "save it without alpha")
    rgb = as_rgb(stored)
    return np.ascontiguousarray(rgb[:, :, 0]) if channels <= 2 else rgb


def as_rgb(image: Pixels) -> UInt8:
    """Return any image of `read` as 8-bit RGB ``(H, W, 3)`` in [0, 255].

    Grey is replicated, 16 bits are scaled (65535 -> 255) and rounded. Alpha is composited over
    white, the page that a transparent image is seen on, at the image's own depth.
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
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype not in kinds or image.ndim not in (2, 3) or not (image.size and channels < 5):
        names = " or ".join(kind.__name__ for kind in kinds)
        wanted, found = f"a non-empty {names} image", f"{image.dtype} of shape {image.shape}"
        raise InputError(what, wanted, found, "convert it with as_rgb, or by rounding")


def check_scale(scale: int) -> int:
    """Return ``scale`` if it is 2, 3 or 4; raise `InputError` if it is anything else."""
    if scale not in SCALES:
        raise InputError("scale", "2, 3 or 4", repr(scale), "choose one of these")
    return int(scale)


def luma(image: NDArray[np.generic]) -> Float:
    """Return the Y channel of BT.601 as MATLAB's ``rgb2ycbcr`` has it: float64 (H, W), [16, 235].

    The image is uint8 or float32 RGB ``(H, W, 3)`` in [0, 255], or uint8 grey ``(H, W)``, which
    counts as RGB of three equal channels. Floating ``(H, W)`` is Y already, and must be finite. Y
    is not rounded: that would cost 0.09 dB of PSNR at scale 2.
    """
    if image.ndim == 2 and np.issubdtype(image.dtype, np.floating):
        if not (image.size and np.isfinite(image).all()):
            found, remedy = "NaN, infinity or nothing", "look at the network that made it"
            raise InputError("image or map", "finite numbers", found, remedy)
        return image.astype(np.float64, copy=False)
    _require(image, "image", (np.uint8, np.float32))
    if image.ndim == 3 and image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}"
        raise InputError("image", "(H, W) or (H, W, 3)", found, "convert it with as_rgb")
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
    """Return the LR image of the benchmarks: `modcrop`, then `imresize` by ``1 / scale``."""
    check_scale(scale)
    return imresize(modcrop(hr, scale), 1 / scale)


def imresize(image: UInt8, factor: float | Fraction) -> UInt8:
    """Resize as MATLAB's ``imresize(image, factor, 'bicubic')`` does, bit for bit.

    uint8 ``(H, W[, C])`` becomes uint8 ``(ceil(H * factor), ceil(W * factor)[, C])``. Rows are done
    first, and both passes round to uint8: a single rounding at the end reproduces only 85-90 % of
    the benchmarks' LR pixels. Sparse weights are summed in the order of the taps: BLAS would break
    exact ties.
    """
    _require(image, "imresize", (np.uint8,))
    if not (math.isfinite(factor) and factor > 0):
        raise InputError("factor", "a number above 0", factor, "pass e.g. 1 / 4 or 4")
    for _ in range(2):  # resize the first axis, and put it second
        size, *others = image.shape
        matrix = _weights(size, math.ceil(size * factor), float(factor))
        values = matrix @ image.reshape(size, -1).astype(np.float64)
        # The kernel has negative lobes: clip first. Then all is >= 0, where "half away from zero"
        # is "half up".
        rounded = np.floor(np.clip(values, 0, 255, out=values) + 0.5).astype(np.uint8)
        image = rounded.reshape(-1, *others).swapaxes(0, 1)
    return np.ascontiguousarray(image)


def _weights(size: int, new_size: int, factor: float) -> csr_array:
    """Return (new_size, size) weights as ``contributions`` of MATLAB's ``imresize.m`` does."""
    shrink = min(factor, 1.0)
    support = 4 / shrink
    centre = (np.arange(new_size) + 1) / factor + 0.5 * (1 - 1 / factor)
    first = np.floor(centre - support / 2)
    taps = first[:, None] + np.arange(math.ceil(support) + 2)  # (new_size, taps), from 1
    x = np.abs(shrink * (centre[:, None] - taps))
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weight = np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
    weight /= weight.sum(axis=1, keepdims=True)
    # Symmetric border: ... 1 0 | 0 1 ... n-1 | n-1 n-2 ..., with period 2 n.
    index = (taps.astype(np.int64) - 1) % (2 * size)
    index = np.minimum(index, 2 * size - 1 - index)
    starts = np.arange(new_size + 1) * taps.shape[1]
    return csr_array((weight.ravel(), index.ravel(), starts), shape=(new_size, size))
