"""Pictures: MATLAB's bicubic against its own files and exact arithmetic; colour conversions."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from skimage.color import rgb2ycbcr

from dtfn import images
from dtfn.errors import InputError
from dtfn.images import UInt8

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (37, 50, 3), dtype=np.uint8)

FACTORS = st.sampled_from([1 / 4, 1 / 3, 1 / 2, 2, 3, 4, Fraction(1, 3), Fraction(5, 2), 0.37, 1])
IMAGES = arrays.arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)))


# --- imresize


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("dataset", "count"), [("Set5", 5), ("Set14", 14)])
def test_degrade_makes_every_pixel_of_the_published_lr(
    benchmarks: Path, dataset: str, count: int, scale: int
) -> None:
    files = sorted((benchmarks / dataset / "HR").glob("*.png"))
    assert len(files) == count
    for file in files:
        published = benchmarks / dataset / "LR_bicubic" / f"X{scale}" / f"{file.stem}x{scale}.png"
        made = images.degrade(_stored8(file), scale)
        np.testing.assert_array_equal(made, _stored8(published), err_msg=file.stem)


def _stored8(path: Path) -> UInt8:
    """Read with Pillow, so that our reader cannot hide an error of our own."""
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("factor", [Fraction(1, 4), Fraction(1, 2), Fraction(2), Fraction(4)])
@given(line=arrays.arrays(np.uint8, st.integers(1, 20)))
def test_one_line_is_the_exact_value_rounded_half_away_from_zero(
    line: UInt8, factor: Fraction
) -> None:
    """Powers of two, because their ties survive in float64: 3 has weights that are not dyadic."""
    exact = [math.floor(value + Fraction(1, 2)) for value in _exact(line, factor)]
    assert images.imresize(line[:, None], factor)[:, 0].tolist() == exact
    assert images.imresize(line[None], factor)[0].tolist() == exact


@pytest.mark.parametrize("factor", [Fraction(1, 3), Fraction(3), Fraction(5, 2), Fraction(3, 7)])
@given(line=arrays.arrays(np.uint8, st.integers(1, 20)))
def test_one_line_is_the_nearest_level_at_any_factor(line: UInt8, factor: Fraction) -> None:
    exact = _exact(line, factor)
    made = images.imresize(line[:, None], factor)[:, 0].tolist()
    slack = Fraction(1, 2) + Fraction(1, 10**9)
    assert all(abs(m - e) <= slack for m, e in zip(made, exact, strict=True))


def _exact(line: UInt8, factor: Fraction) -> list[Fraction]:
    """Resize one line in rational arithmetic, by the definition; clipped but not rounded."""
    size = len(line)
    shrink = min(factor, Fraction(1))
    values = []
    for i in range(math.ceil(size * factor)):
        centre = (i + Fraction(1, 2)) / factor - Fraction(1, 2)
        reach = math.ceil(2 / shrink) + 1
        taps = range(math.floor(centre) - reach, math.floor(centre) + reach + 1)
        weights = [_keys(shrink * (centre - tap)) for tap in taps]
        pixels = [int(line[_mirrored(tap, size)]) for tap in taps]
        total = sum((w * p for w, p in zip(weights, pixels, strict=True)), Fraction(0))
        value = total / sum(weights, Fraction(0))
        values.append(min(max(value, Fraction(0)), Fraction(255)))
    return values


def _mirrored(index: int, size: int) -> int:
    while not 0 <= index < size:
        index = -1 - index if index < 0 else 2 * size - 1 - index
    return index


def _keys(x: Fraction) -> Fraction:
    a, x = Fraction(-1, 2), abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else Fraction(0)


@given(image=IMAGES, factor=FACTORS)
def test_an_image_is_its_columns_resized_then_its_rows(
    image: UInt8, factor: float | Fraction
) -> None:
    """Both the order of the passes and the rounding between them."""
    columns = [images.imresize(image[:, j : j + 1], factor)[:, 0] for j in range(image.shape[1])]
    rows = [images.imresize(row[None], factor)[0] for row in np.stack(columns, axis=1)]
    np.testing.assert_array_equal(images.imresize(image, factor), np.stack(rows))


@given(count=st.integers(1, 10_000), scale=st.sampled_from([2, 3, 4]))
def test_a_float_factor_divides_evenly(count: int, scale: int) -> None:
    """``ceil(n * (1 / 3))`` must not be one too many for any n."""
    line = np.zeros((count * scale, 1), np.uint8)
    assert images.imresize(line, 1 / scale).shape == (count, 1)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_are_resized_on_their_own(channels: int) -> None:
    image = RNG.integers(0, 256, (21, 30, channels), dtype=np.uint8)
    made = images.imresize(image, 1 / 3)
    assert made.shape == (7, 10, channels)
    for channel in range(channels):
        expected = images.imresize(image[:, :, channel], 1 / 3)
        np.testing.assert_array_equal(made[:, :, channel], expected)


def test_memory_layout_does_not_matter() -> None:
    image = np.asfortranarray(PHOTO)[::-1, ::2]
    expected = images.imresize(image.copy(), 1 / 2)
    made = images.imresize(image, 1 / 2)
    np.testing.assert_array_equal(made, expected)
    assert made.flags.c_contiguous


# --- degrade, modcrop


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_degrade_crops_at_the_top_left_first(scale: int) -> None:
    height, width = 37 // scale, 50 // scale
    cropped = images.modcrop(PHOTO, scale)
    np.testing.assert_array_equal(cropped, PHOTO[: height * scale, : width * scale])
    made = images.degrade(PHOTO, scale)
    assert made.shape == (height, width, 3)
    np.testing.assert_array_equal(made, images.degrade(cropped, scale))


# --- colour


def test_luma_is_that_of_scikit_image_and_not_rounded() -> None:
    np.testing.assert_allclose(images.luma(PHOTO), rgb2ycbcr(PHOTO)[:, :, 0], atol=1e-10)


def test_luma_spans_16_to_235_and_grey_counts_as_rgb() -> None:
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    np.testing.assert_allclose(images.luma(ends), [[16, 235]], atol=1e-12)
    grey = PHOTO[:, :, 0]
    made = images.luma(grey)
    assert made.dtype == np.float64
    np.testing.assert_array_equal(made, images.luma(np.dstack([grey] * 3)))


def test_as_rgb_keeps_rgb_and_replicates_grey() -> None:
    np.testing.assert_array_equal(images.as_rgb(PHOTO), PHOTO)
    grey = PHOTO[:, :, 0]
    expected = np.stack([grey, grey, grey], axis=2)
    np.testing.assert_array_equal(images.as_rgb(grey), expected)
    np.testing.assert_array_equal(images.as_rgb(grey[:, :, None]), expected)


def test_as_rgb_scales_16_bits_to_the_nearest_of_8() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    nearest = [round(Fraction(int(v) * 255, 65535)) for v in every.ravel()]
    made = images.as_rgb(every)
    assert made.dtype == np.uint8
    assert made[:, :, 1].ravel().tolist() == nearest


def test_as_rgb_composites_alpha_over_white_as_pillow_does() -> None:
    image = RNG.integers(0, 256, (30, 40, 4), dtype=np.uint8)
    white = Image.new("RGBA", (40, 30), "white")
    expected = np.asarray(Image.alpha_composite(white, Image.fromarray(image)))[:, :, :3]
    made = images.as_rgb(image)
    assert np.abs(made.astype(int) - expected).max() <= 1
    image[:, :, 3] = 255
    np.testing.assert_array_equal(images.as_rgb(image), image[:, :, :3])
    image[:, :, 3] = 0
    assert (images.as_rgb(image) == 255).all()


def test_as_rgb_composites_16_bit_grey_before_it_rounds() -> None:
    image = np.array([[[0, 0], [0, 65535], [0, 32768], [40000, 65535]]], np.uint16)
    assert images.as_rgb(image)[0, :, 0].tolist() == [255, 0, 127, 156]


# --- what is refused


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        *((images.imresize, (PHOTO, f), "factor: expected a number") for f in (0, -1, math.nan)),
        (images.imresize, (PHOTO, math.inf), "factor: expected a number above 0"),
        (images.imresize, (PHOTO / 255, 2), "imresize: expected a non-empty uint8 image"),
        (images.imresize, (PHOTO.astype(np.uint16), 2), "found uint16"),
        (images.imresize, (PHOTO[:0], 2), r"found uint8 of shape \(0, 50, 3\)"),
        (images.imresize, (PHOTO[None], 2), "found uint8 of shape"),
        *(
            (images.degrade, (PHOTO, s), "scale: expected 2, 3 or 4")
            for s in (0, 5, 2.5, "4", None)
        ),
        (images.degrade, (PHOTO[:3], 4), "expected a non-empty"),  # smaller than the scale
        (images.luma, (PHOTO[:, :, :2],), "luma: expected"),
        (images.luma, (PHOTO / 255,), "luma: expected"),
        (images.as_rgb, (PHOTO / 255,), "as_rgb: expected"),
        (images.as_rgb, (PHOTO[None],), "as_rgb: expected"),
        (images.as_rgb, (PHOTO[0, 0],), "as_rgb: expected"),
    ],
)
def test_what_is_no_picture_is_refused(
    function: Callable[..., UInt8], arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        function(*arguments)
