"""Pictures: MATLAB's bicubic against its own files and exact arithmetic; colour; files."""

import io
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageOps
from skimage.color import rgb2ycbcr
from tiny import pillow, png, refused, tiff

from dtfn import images
from dtfn.errors import InputError
from dtfn.images import UInt8

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (37, 50, 3), dtype=np.uint8)
SHAPES = [(23, 17), (23, 17, 2), (23, 17, 3), (23, 17, 4)]
WAVES = np.add.outer(np.sin(np.arange(40) / 6), np.cos(np.arange(48) / 7))
SMOOTH = np.round(127 + 60 * WAVES).astype(np.uint8)

FACTORS = st.sampled_from([1 / 4, 1 / 3, 1 / 2, 2, 3, 4, Fraction(1, 3), Fraction(5, 2), 0.37, 1])
IMAGES = arrays.arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)))


# --- imresize, degrade ---
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("dataset", "count"), [("Set5", 5), ("Set14", 14)])
def test_degrade_is_as_published(benchmarks: Path, dataset: str, count: int, scale: int) -> None:
    """Read with Pillow, so that our reader cannot hide an error of our own."""
    files = sorted((benchmarks / dataset / "HR").glob("*.png"))
    assert len(files) == count
    for file in files:
        published = benchmarks / dataset / "LR_bicubic" / f"X{scale}" / f"{file.stem}x{scale}.png"
        made = images.degrade(np.asarray(Image.open(file)), scale)
        np.testing.assert_array_equal(made, np.asarray(Image.open(published)), err_msg=file.stem)


@pytest.mark.parametrize("factor", ["1/4", "1/2", "2", "4", "1/3", "3", "5/2", "3/7"])
@given(line=arrays.arrays(np.uint8, st.integers(1, 20)))
def test_one_line_is_the_exact_value_rounded_half_away_from_zero(line: UInt8, factor: str) -> None:
    """Ties survive in float64 for powers of two only: 3 has weights that are not dyadic."""
    exact = _exact(line, Fraction(factor))
    made = images.imresize(line[:, None], Fraction(factor))[:, 0].tolist()
    assert images.imresize(line[None], Fraction(factor))[0].tolist() == made
    if factor in ("1/4", "1/2", "2", "4"):
        assert made == [math.floor(value + Fraction(1, 2)) for value in exact]
    slack = Fraction(1, 2) + Fraction(1, 10**9)
    assert all(abs(m - e) <= slack for m, e in zip(made, exact, strict=True))


def _exact(line: UInt8, factor: Fraction) -> list[Fraction]:
    """Resize one line in rational arithmetic, by the definition; clipped but not rounded."""
    size, mirrored = len(line), np.pad(line, 20, "symmetric")
    shrink = min(factor, Fraction(1))
    values = []
    for i in range(math.ceil(size * factor)):
        centre = (i + Fraction(1, 2)) / factor - Fraction(1, 2)
        reach = math.ceil(2 / shrink) + 1
        taps = range(math.floor(centre) - reach, math.floor(centre) + reach + 1)
        weights = [_keys(shrink * (centre - tap)) for tap in taps]
        pixels = [int(mirrored[tap + 20]) for tap in taps]
        total = sum((w * p for w, p in zip(weights, pixels, strict=True)), Fraction(0))
        value = total / sum(weights, Fraction(0))
        values.append(min(max(value, Fraction(0)), Fraction(255)))
    return values


def _keys(x: Fraction) -> Fraction:
    a, x = Fraction(-1, 2), abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else Fraction(0)


@given(image=IMAGES, factor=FACTORS)
def test_an_image_is_its_columns_resized_then_rows(image: UInt8, factor: float | Fraction) -> None:
    columns = [images.imresize(image[:, j : j + 1], factor)[:, 0] for j in range(image.shape[1])]
    rows = [images.imresize(row[None], factor)[0] for row in np.stack(columns, axis=1)]
    np.testing.assert_array_equal(images.imresize(image, factor), np.stack(rows))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_are_independent_and_memory_layout_does_not_matter(channels: int) -> None:
    image = np.asfortranarray(RNG.integers(0, 256, (21, 60, channels), dtype=np.uint8))[::-1, ::2]
    made = images.imresize(image, 1 / 3)
    assert made.shape == (7, 10, channels)
    assert made.flags.c_contiguous
    for channel in range(channels):
        expected = images.imresize(image[:, :, channel].copy(), 1 / 3)
        np.testing.assert_array_equal(made[:, :, channel], expected)


@given(count=st.integers(1, 10_000), scale=st.sampled_from([2, 3, 4]))
def test_degrade_crops_at_the_top_left_and_divides_evenly(count: int, scale: int) -> None:
    """``ceil(n * (1 / 3))`` must not be one too many for any n."""
    line = np.zeros((count * scale + scale - 1, scale), np.uint8)
    assert images.degrade(line, scale).shape == (count, 1)
    height, width = 37 // scale * scale, 50 // scale * scale
    expected = images.imresize(PHOTO[:height, :width], 1 / scale)
    np.testing.assert_array_equal(images.degrade(PHOTO, scale), expected)


# --- colour ---
def test_luma_is_that_of_scikit_image_and_as_rgb_takes_grey_16_bits_and_alpha() -> None:
    np.testing.assert_allclose(images.luma(PHOTO), rgb2ycbcr(PHOTO)[:, :, 0], atol=1e-10)
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    np.testing.assert_allclose(images.luma(ends), [[16, 235]], atol=1e-12)
    grey = PHOTO[:, :, 0]
    np.testing.assert_array_equal(images.luma(grey), images.luma(np.dstack([grey] * 3)))
    np.testing.assert_array_equal(images.as_rgb(PHOTO), PHOTO)
    grey = PHOTO[:, :, 0]
    for image in (grey, grey[:, :, None]):
        np.testing.assert_array_equal(images.as_rgb(image), np.dstack([grey] * 3))
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    nearest = [round(Fraction(int(v) * 255, 65535)) for v in every.ravel()]
    made = images.as_rgb(every)
    assert made.dtype == np.uint8
    assert made[:, :, 1].ravel().tolist() == nearest
    image = RNG.integers(0, 256, (30, 40, 4), dtype=np.uint8)
    white = Image.new("RGBA", (40, 30), "white")
    expected = np.asarray(Image.alpha_composite(white, Image.fromarray(image)))[:, :, :3]
    assert np.abs(images.as_rgb(image).astype(int) - expected).max() <= 1
    image[:, :, 3] = 255
    np.testing.assert_array_equal(images.as_rgb(image), image[:, :, :3])
    # 16 bits are composited before they are rounded.
    deep = np.array([[[0, 0], [0, 65535], [0, 32768], [40000, 65535]]], np.uint16)
    assert images.as_rgb(deep)[0, :, 0].tolist() == [255, 0, 127, 156]


# --- files: what is stored comes back ---
def _noise(shape: tuple[int, ...], depth: str) -> images.Pixels:
    return RNG.integers(0, np.iinfo(depth).max, shape, dtype=depth, endpoint=True)


def _png(pixels: images.Pixels) -> bytes:
    height, width = pixels.shape[:2]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[pixels[0, 0].size]
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)  # no filter
    return png(width, height, data, 8 * pixels.itemsize, colour)


@pytest.mark.parametrize("shape", [*SHAPES, (24, 18)])
def test_a_png_keeps_every_bit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    stored = _noise(shape, "uint16" if shape == (24, 18) else "uint8")
    images.write(tmp_path / "a.PNG", stored)
    assert images.encode(stored.copy()) == (tmp_path / "a.PNG").read_bytes()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.PNG")), stored)
    for got in (images.read(tmp_path / "a.PNG"), images.decode(_png(stored), "a.png")):
        assert got.dtype == stored.dtype
        np.testing.assert_array_equal(got, stored)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("depth", ["uint8", "uint16"])
def test_tiff(compression: str | None, order: Literal["<", ">"], planar: str, depth: str) -> None:
    stored = _noise((23, 17, 3), depth)
    samples = stored if planar == "contig" else np.ascontiguousarray(np.moveaxis(stored, 2, 0))
    options = {"photometric": "rgb", "planarconfig": planar, "compression": compression}
    data = tiff(samples, byteorder=order, **options)
    np.testing.assert_array_equal(images.decode(data, "a.tif"), stored)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_palettes_and_bits_are_expanded(kind: str) -> None:
    indexed = Image.fromarray(_noise((23, 17, 3), "uint8")).quantize(16)
    for image, mode in ((indexed, "RGB"), (Image.fromarray(SMOOTH).convert("1"), "L")):
        got = images.decode(pillow(image, kind), "a")
        np.testing.assert_array_equal(got, np.asarray(image.convert(mode)))


def test_a_transparent_colour_becomes_alpha() -> None:
    grey = np.array([[0, 7], [7, 255]], np.uint8)
    rgb = Image.fromarray(np.stack([grey, grey, grey], axis=2))
    for image in (Image.fromarray(grey), Image.fromarray(grey).convert("P"), rgb):
        colour = (7, 7, 7) if image is rgb else 7
        got = images.decode(pillow(image, "PNG", transparency=colour), "a.png")
        assert got[:, :, -1].tolist() == [[255, 0], [0, 255]]
        assert got[:, :, 0].tolist() == grey.tolist()


@pytest.mark.parametrize("orientation", range(9))
def test_an_orientation_tag_is_applied(orientation: int) -> None:
    """0 is no orientation, but some cameras write it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "JPEG", "TIFF"):
        data = pillow(SMOOTH, kind, exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        np.testing.assert_array_equal(images.decode(data, "a"), expected)
    data = tiff(SMOOTH.astype(np.uint16) * 257, extratags=[(0x0112, 3, 1, orientation, True)])
    np.testing.assert_array_equal(images.decode(data, "a"), expected * np.uint16(257))


# --- files: what is refused ---
CMYK = Image.fromarray(SMOOTH).convert("CMYK")
DEEP = _noise((23, 17, 3), "uint16")


UNREAD = [
    (pillow(CMYK, "JPEG"), "JPEG of mode CMYK"),
    (pillow(CMYK.convert("RGB").convert("LAB"), "TIFF"), "TIFF of mode LAB"),
    (tiff(SMOOTH.astype(np.float32), photometric="minisblack"), "TIFF of mode F"),
    (tiff(np.dstack([SMOOTH] * 3).astype(np.float32), photometric="rgb"), "begin b'II"),
    (tiff(SMOOTH.astype(np.float16), photometric="minisblack"), "TIFF of float16"),
    (tiff(SMOOTH.astype(np.uint16), photometric="miniswhite"), "TIFF of uint16 MINISWHITE"),
    (tiff(np.stack([SMOOTH, SMOOTH]), photometric="minisblack"), "2 pages"),
    (tiff(DEEP, photometric="rgb", extratags=[(0x0112, 3, 1, 6, True)]), "turned: True"),
    *((_png(_noise(s, "uint16")), "PNG with 16 bits of colour") for s in SHAPES[1:]),
    (b"", "0 bytes"),
    (pillow(SMOOTH, "WEBP"), "begin b'RIFF"),
    (b"\n<!DOCTYPE html><html>log in</html>", r"begin b'\\n<!DOCTYPE html>"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "https://git-lf"),
]


LARGE = _noise((40, 48, 3), "uint8")
LARGE16 = _noise((40, 48, 3), "uint16")
FILES = {  # name: what is stored, and the file
    "png": (LARGE, pillow(LARGE, "PNG")),
    "png of 16 bits": (LARGE16[..., 0], pillow(LARGE16[..., 0], "PNG")),
    "jpeg": (None, pillow(SMOOTH, "JPEG")),
    "bmp": (SMOOTH, pillow(SMOOTH, "BMP")),
    "tiff, plain": (LARGE, tiff(LARGE, photometric="rgb")),
    "tiff of 16 bits, plain": (LARGE16, tiff(LARGE16, photometric="rgb")),
    **{
        f"tiff, {how}": (LARGE, pillow(LARGE, "TIFF", compression=how))
        for how in ("tiff_lzw", "packbits", "tiff_adobe_deflate")
    },
    "tiff of 16 bits": (LARGE16, tiff(LARGE16, photometric="rgb", compression="zlib")),
    "grey tiff": (LARGE16[..., 0], pillow(LARGE16[..., 0], "TIFF", compression="tiff_lzw")),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_cut_file_is_one_line(tmp_path: Path, kind: str, capfd: Any) -> None:
    """Or no pixel is lost. What is whole is read."""
    (stored, whole), path = FILES[kind], tmp_path / "cut image"
    pixels = images.decode(whole, "whole")
    if stored is not None:
        np.testing.assert_array_equal(pixels, stored)
    errors: list[str] = []
    cuts = [*range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 20, len(whole) - 1]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        try:
            got = images.read(path)
        except InputError as error:
            errors.append(str(error))
        else:
            np.testing.assert_array_equal(got, pixels)
    assert len(errors) >= len(cuts) - 2  # the last bytes of a file may hold no pixel
    assert all(line.startswith(f"{path}: expected a whole PNG") for line in errors)
    out, err = capfd.readouterr()
    assert out + err == ""  # libraries in C must not talk beside our one line


FLOAT = PHOTO / 255


REFUSED: list[tuple[Callable[..., object], tuple[Any, ...], str]] = [
    *((images.imresize, (PHOTO, f), "factor: .* above 0") for f in (0, math.nan, math.inf)),
    (images.imresize, (FLOAT, 2), "imresize: expected a non-empty uint8 image"),
    *((images.imresize, (x, 2), "found uint8 of shape") for x in (PHOTO[:0], PHOTO[None])),
    *((images.degrade, (PHOTO, s), "scale: expected 2, 3 or 4") for s in (5, 2.5, "4")),
    (images.degrade, (PHOTO[:3], 4), "expected a non-empty"),  # smaller than the scale
    *((images.luma, (x,), "image: expected") for x in (PHOTO[:, :, :2], FLOAT)),
    *((images.as_rgb, (x,), "as_rgb: expected") for x in (FLOAT, PHOTO[None], PHOTO[0, 0])),
    (images.encode, (FLOAT,), "found float64"),
    (images.encode, (DEEP,), "PNG: expected a non-empty uint8 image; found uint16"),
    (images.read, ("no.png",), r"no\.png: expected an image file; found nothing"),
    (images.read, (".",), "expected an image file; found a folder"),
]


def test_refusals() -> None:
    expected = "^a: expected a whole PNG, JPEG, BMP or TIFF file: .*; found .*{}[^\n]*PNG$"
    for data, found in UNREAD:
        refused(expected.format(found), images.decode, data, "a")
    for function, arguments, message in REFUSED:
        refused(message, function, *arguments)
