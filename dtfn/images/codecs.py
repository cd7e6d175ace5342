"""Image files: bytes to pixels and back, at the depth and with the channels that the file has.

No one library does it. Pillow reads the most kinds of file but turns 16-bit colour into 8 bits
without a word; imagecodecs (PNG) and tifffile (TIFF; imagecodecs decompresses for it) keep all 16.
Both are what scikit-image's authors maintain and use. Colour profiles and gamma are ignored, as in
all code of the field.
"""

from __future__ import annotations

import io
import logging

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from dtfn.errors import InputError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

_FORMATS = ("BMP", "JPEG", "PNG", "TIFF")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 274  # the tag's number in EXIF and in TIFF
_EXPAND = {"1": "L", "P": "RGB", "PA": "RGBA"}
_SHOW_ALPHA = {"1": "LA", "L": "LA", "P": "RGBA", "RGB": "RGBA"}
_MODES = ("L", "LA", "RGB", "RGBA", "I;16", "I;16L", "I;16B")
_REMEDY = "convert it to an 8- or 16-bit grey or RGB PNG"

# It logs every damaged tag, which without a handler would go to the terminal beside our one line.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


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
