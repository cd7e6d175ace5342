"""Files: what is stored comes back, from our writer and from others'; the rest is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dtfn import images
from dtfn.errors import InputError

RNG = np.random.default_rng(0)
SHAPES = [(23, 17), (23, 17, 2), (23, 17, 3), (23, 17, 4)]
SMOOTH = np.round(
    127 + 60 * np.add.outer(np.sin(np.arange(40) / 6), np.cos(np.arange(48) / 7))
).astype(np.uint8)


def _noise(shape: tuple[int, ...], depth: str) -> images.Pixels:
    return RNG.integers(0, np.iinfo(depth).max, shape, dtype=depth, endpoint=True)


def _pillow(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _png(pixels: images.Pixels) -> bytes:
    """Write a PNG by its specification (one IDAT, no filter), independent of any library."""
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">2I5B", width, height, 8 * pixels.itemsize, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


# --- what is stored comes back


KEPT = [(shape, "uint8", s) for shape in SHAPES for s in (".png", ".PNG", ".tif", ".tiff")] + [
    *((shape, "uint16", ".tif") for shape in SHAPES),
    ((23, 17), "uint16", ".png"),
    ((23, 17), "uint8", ".bmp"),
    ((23, 17, 3), "uint8", ".bmp"),
]


@pytest.mark.parametrize(("shape", "depth", "suffix"), KEPT)
def test_lossless_files_keep_every_bit(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], depth: str
) -> None:
    stored = _noise(shape, depth)
    images.write(tmp_path / f"a{suffix}", stored)
    got = images.read(tmp_path / f"a{suffix}")
    assert got.dtype == depth
    np.testing.assert_array_equal(got, stored)
    assert images.encode(stored.copy(), suffix, "b") == (tmp_path / f"a{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
@pytest.mark.parametrize("colour", [False, True])
def test_jpeg_looks_the_same(tmp_path: Path, suffix: str, colour: bool) -> None:
    stored = np.stack([SMOOTH, SMOOTH[::-1], 255 - SMOOTH], axis=2) if colour else SMOOTH
    images.write(tmp_path / f"a{suffix}", stored)
    got = images.read(tmp_path / f"a{suffix}")
    assert got.shape == stored.shape
    assert np.abs(got.astype(int) - stored).max() <= 6


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_png_of_the_specification_is_read_or_refused(
    tmp_path: Path, shape: tuple[int, ...], depth: str
) -> None:
    """Pillow would cut 16 bits of colour to 8 without a word."""
    stored = _noise(shape, depth)
    if depth == "uint16" and len(shape) == 3:
        with pytest.raises(InputError, match="found a PNG with 16 bits of colour or transparency"):
            images.decode(_png(stored), "a.png")
        with pytest.raises(InputError, match=r"8 bits or grey in a PNG.*write a \.tif"):
            images.write(tmp_path / "a.png", stored)
    else:
        np.testing.assert_array_equal(images.decode(_png(stored), "a.png"), stored)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("shape", [(23, 17), (23, 17, 3)])
def test_pillow_reads_what_we_write(suffix: str, shape: tuple[int, ...]) -> None:
    stored = _noise(shape, "uint8")
    got = Image.open(io.BytesIO(images.encode(stored, suffix, "a")))
    np.testing.assert_array_equal(np.asarray(got), stored)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("depth", ["uint8", "uint16"])
def test_tiff_of_tifffile_is_read(
    compression: str | None, order: Literal["<", ">"], planar: str, depth: str
) -> None:
    stored = _noise((23, 17, 3), depth)
    samples = stored if planar == "contig" else np.ascontiguousarray(np.moveaxis(stored, 2, 0))
    options = {"photometric": "rgb", "planarconfig": planar, "compression": compression}
    data = _tiff(samples, byteorder=order, **options)
    np.testing.assert_array_equal(images.decode(data, "a.tif"), stored)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
@pytest.mark.parametrize(("shape", "depth"), [((23, 17, 3), "uint8"), ((23, 17), "uint16")])
def test_tiff_of_pillow_is_read(compression: str, shape: tuple[int, ...], depth: str) -> None:
    stored = _noise(shape, depth)
    data = _pillow(Image.fromarray(stored), "TIFF", compression=compression)
    np.testing.assert_array_equal(images.decode(data, "a.tif"), stored)


def test_colour_of_16_bits_that_nothing_here_unpacks_is_refused() -> None:
    data = bytearray(_tiff(_noise((23, 17, 3), "uint16"), photometric="rgb"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag = file.pages.first.tags["Compression"]
    data[tag.valueoffset] = 5
    with pytest.raises(InputError, match="found 16-bit colour TIFF packed by LZW"):
        images.decode(bytes(data), "a.tif")


# --- kinds that are expanded


def test_a_palette_becomes_its_colours() -> None:
    indexed = Image.fromarray(_noise((23, 17, 3), "uint8")).quantize(16)
    for kind in ("PNG", "BMP", "TIFF"):
        got = images.decode(_pillow(indexed, kind), "a")
        np.testing.assert_array_equal(got, np.asarray(indexed.convert("RGB")))


def test_a_transparent_colour_becomes_alpha() -> None:
    grey = np.array([[0, 7], [7, 255]], np.uint8)
    indexed = Image.fromarray(grey).convert("P")
    for image in (Image.fromarray(grey), indexed):
        got = images.decode(_pillow(image, "PNG", transparency=7), "a.png")
        assert got[:, :, -1].tolist() == [[255, 0], [0, 255]]
        assert got[:, :, 0].tolist() == grey.tolist()
    rgb = Image.fromarray(np.stack([grey, grey, grey], axis=2))
    got = images.decode(_pillow(rgb, "PNG", transparency=(7, 7, 7)), "a.png")
    assert got[:, :, 3].tolist() == [[255, 0], [0, 255]]


def test_black_and_white_becomes_0_and_255() -> None:
    bits = Image.fromarray(SMOOTH).convert("1")
    for kind in ("PNG", "BMP", "TIFF"):
        got = images.decode(_pillow(bits, kind), "a")
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, 255 * np.asarray(bits).astype(int))


@pytest.mark.parametrize("orientation", range(9))
def test_an_orientation_tag_is_applied(orientation: int) -> None:
    """0 is no orientation, but some cameras write it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "JPEG", "TIFF"):
        data = _pillow(Image.fromarray(SMOOTH), kind, exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        np.testing.assert_array_equal(images.decode(data, "a"), expected)
    buffer = io.BytesIO()
    deep = SMOOTH.astype(np.uint16) * 257
    tifffile.imwrite(buffer, deep, extratags=[(0x0112, 3, 1, orientation, True)])
    expected = images.decode(_pillow(Image.fromarray(SMOOTH), "TIFF", exif=exif), "a")
    np.testing.assert_array_equal(images.decode(buffer.getvalue(), "a"), expected * np.uint16(257))


# --- what is refused


def _tiff(pixels: NDArray[np.generic], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


CMYK = Image.fromarray(SMOOTH).convert("CMYK")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (_pillow(CMYK, "JPEG"), "JPEG of mode CMYK"),
        (_pillow(CMYK, "TIFF"), "TIFF of mode CMYK"),
        (_pillow(CMYK.convert("RGB").convert("LAB"), "TIFF"), "TIFF of mode LAB"),
        (_tiff(SMOOTH.astype(np.float32), photometric="minisblack"), "TIFF of float32"),
        (_tiff(np.dstack([SMOOTH] * 3).astype(np.float32), photometric="rgb"), "TIFF of float32"),
        (_tiff(SMOOTH.astype(np.float16), photometric="minisblack"), "TIFF of float16"),
        (_tiff(SMOOTH.astype(np.uint16), photometric="miniswhite"), "TIFF of uint16 MINISWHITE"),
        (_tiff(np.stack([SMOOTH, SMOOTH]), photometric="minisblack"), "2 pages"),
        (_tiff(np.zeros((2, 40, 48), np.uint16), photometric="minisblack"), "2 pages"),
    ],
)
def test_kinds_that_need_a_decision_are_refused(data: bytes, found: str) -> None:
    expected = f"^a: expected one grey or RGB image of at most 16 bits .*; found {found}; convert"
    with pytest.raises(InputError, match=expected):
        images.decode(data, "a")


FILES = {
    "png": images.encode(_noise((40, 48, 3), "uint8"), ".png", "a"),
    "png of 16 bits": images.encode(_noise((40, 48), "uint16"), ".png", "a"),
    "jpeg": images.encode(SMOOTH, ".jpg", "a"),
    "bmp": images.encode(SMOOTH, ".bmp", "a"),
    "tiff": images.encode(_noise((40, 48, 3), "uint8"), ".tif", "a"),
    "tiff, lzw": _pillow(
        Image.fromarray(_noise((40, 48, 3), "uint8")), "TIFF", compression="tiff_lzw"
    ),
    "tiff, plain": _tiff(_noise((40, 48, 3), "uint8"), photometric="rgb"),
    "tiff of 16 bits": images.encode(_noise((40, 48, 3), "uint16"), ".tif", "a"),
    "tiff of 16 bits, plain": _tiff(_noise((40, 48, 3), "uint16"), photometric="rgb"),
    "tiff of 16 bits, lzw": _pillow(
        Image.fromarray(_noise((40, 48), "uint16")), "TIFF", compression="tiff_lzw"
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_truncated_file_is_an_error_that_names_it_or_has_lost_no_pixel(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = FILES[kind]
    path = tmp_path / "cut image"
    errors: list[str] = []
    cuts = [*range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 20, len(whole) - 1]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        try:
            got = images.read(path)
        except InputError as error:
            errors.append(str(error))
        else:
            np.testing.assert_array_equal(got, images.decode(whole, "whole"))
    assert len(errors) >= len(cuts) - 2  # the last bytes of a file may hold no pixel
    for line in errors:
        assert line.startswith(f"{path}: expected a whole PNG, JPEG, BMP or TIFF file; found ")
        assert "truncated" in line
        assert "\n" not in line
    out, err = capfd.readouterr()
    assert out + err == ""  # libraries in C must not talk beside our one line


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "an empty file"),
        (b"hello", r"text \('hello'\)"),
        (_pillow(Image.fromarray(SMOOTH), "GIF"), "a GIF picture"),
        (_pillow(Image.fromarray(SMOOTH), "WEBP"), "a WebP picture"),
        (b"\n<!DOCTYPE html><html>log in</html>", r"a web page \(HTML\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "run `git lfs pull`"),
        (bytes(1000), "1000 bytes that are none of these"),
    ],
)
def test_what_is_no_image_is_named_with_its_content(
    tmp_path: Path, data: bytes, found: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    expected = rf"a\.png: expected a whole PNG, JPEG, BMP or TIFF file; found .*{found}"
    with pytest.raises(InputError, match=expected):
        images.read(path)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png: expected an image file; found nothing"):
        images.read(tmp_path / "a.png")
    with pytest.raises(InputError, match="expected an image file; found a folder"):
        images.read(tmp_path)


@pytest.mark.parametrize(
    ("image", "name", "message"),
    [
        (SMOOTH, "a.gif", r"a\.gif: expected a suffix among .*\.png.*; found '\.gif'"),
        (SMOOTH, "a", "expected a suffix among"),
        (
            SMOOTH / 255,
            "a.png",
            r"a\.png: expected a non-empty uint8 or uint16 image.*; found float64",
        ),
        (np.zeros((4, 4, 5), np.uint8), "a.png", r"found uint8 of shape \(4, 4, 5\)"),
        (SMOOTH[:0], "a.png", r"found uint8 of shape \(0, 48\)"),
        (SMOOTH.astype(np.uint16), "a.jpg", "expected 8 bits and no alpha in a JPEG"),
        (np.zeros((4, 4, 4), np.uint8), "a.bmp", "found uint8 with 4 channels"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(
    tmp_path: Path, image: images.Pixels, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        images.write(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []
