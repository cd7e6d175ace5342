"""Block errors and choices among them: against loops, known answers and their properties."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtfn import bounds, images, subpixel
from dtfn.errors import InputError

Maps = tuple[np.ndarray, np.ndarray]

INF = float("inf")
CLOSE = 1e-9  # dB


@st.composite
def maps(draw: st.DrawFn) -> Maps:
    """Two maps of errors of one size; small whole numbers, so that ties occur."""
    shape = draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, l = rng.integers(0, draw(st.sampled_from([1, 9])), (2, *shape), endpoint=True)
    return n.astype(float), l.astype(float)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """An output and its truth, grey or colour, and a scale."""
    scale = draw(st.sampled_from([2, 3, 4]))
    height, width = draw(st.tuples(st.integers(3, 7), st.integers(3, 7)))
    shape = (2, scale * height, scale * width, *draw(st.sampled_from([(), (3,)])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sr, hr = rng.integers(0, draw(st.sampled_from([1, 30, 255])), shape, np.uint8, endpoint=True)
    return sr, hr, scale


@given(pairs())
def test_block_errors_equal_a_loop_and_their_interior_has_the_psnr_of_the_field(
    pair: tuple[np.ndarray, np.ndarray, int],
) -> None:
    sr, hr, s = pair
    x, y = images.luma(sr), images.luma(hr)
    expected = np.zeros((y.shape[0] // s, y.shape[1] // s))
    for i, j in np.ndindex(*y.shape):
        expected[i // s, j // s] += (x[i, j] - y[i, j]) ** 2 / s**2
    found = subpixel.block_error(sr, hr, s)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    psnr = subpixel.psnr_of(subpixel.interior(found))
    assert psnr == pytest.approx(subpixel.psnr(sr, hr, s), abs=CLOSE)


@given(maps(), st.sampled_from([1, 2, 3, 4, 8, 16, 32]))
def test_selection_equals_a_loop_over_cells(two: Maps, g: int) -> None:
    n, l = two
    best = 0.0
    for i in range(0, n.shape[0], g):
        for j in range(0, n.shape[1], g):
            cell = np.s_[i : i + g, j : j + g]
            best += min(n[cell].sum(), l[cell].sum())
    expected = 10 * np.log10(255**2 * n.size / best) if best else INF
    assert bounds.best_choice([n, l], g) == pytest.approx(expected, abs=CLOSE)


@given(maps())
def test_finer_cells_never_lower_the_bound(two: Maps) -> None:
    rising = [bounds.best_choice(two, g) for g in bounds.GRANULARITIES]
    assert rising[0] == pytest.approx(max(map(subpixel.psnr_of, two)), abs=CLOSE)
    for coarse, fine in itertools.pairwise(rising):
        assert fine >= coarse - CLOSE


@pytest.mark.parametrize(
    ("sr", "hr", "scale", "message"),
    [
        (np.zeros((12, 12)), np.zeros((12, 14)), 2, r"one size; found \(12, 12\) and \(12, 14\)"),
        (np.zeros((12, 12)), np.zeros((12, 12)), 5, "multiples of the scale, 5; found 12 x 12"),
        (np.full((12, 12), np.nan), np.zeros((12, 12)), 2, "finite numbers; found NaN"),
        (np.zeros((12, 12)), np.full((12, 12), INF), 2, "finite numbers"),
        (np.zeros((12, 12, 3)), np.zeros((12, 12, 3)), 2, "expected uint8"),
        (np.zeros((0, 0)), np.zeros((0, 0)), 2, "NaN, infinity or nothing"),
    ],
)
def test_bad_pictures_are_refused(sr: np.ndarray, hr: np.ndarray, scale: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        subpixel.block_error(sr, hr, scale)
    with pytest.raises(InputError, match=r"3 x 3 LR positions or more.*found 2 x 9"):
        subpixel.interior(np.ones((2, 9)))


def harm(n: np.ndarray, l: np.ndarray, hr: np.ndarray, scale: int) -> np.ndarray:
    return subpixel.block_error(n, hr, scale) - subpixel.block_error(l, hr, scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_equal_errors_of_8_bit_pictures_tie(scale: int, channels: tuple[int, ...]) -> None:
    """Errors of +1 and -1 everywhere: float sums differ by rounding in half of the blocks."""
    rng = np.random.default_rng(0)
    hr = rng.integers(1, 255, (24 * scale, 30 * scale, *channels)).astype(np.uint8)
    up, down = hr + np.uint8(1), hr - np.uint8(1)
    for n, l, truth in ((up, down, hr), [images.luma(x) for x in (up, down, hr)]):
        assert (harm(n, l, truth, scale) == 0).all()
    if channels:
        grey = hr[..., 0]
        up, down = (np.dstack([grey] * 3) + np.uint8(step) for step in (1, 255))
        assert (harm(up, down, grey, scale) == 0).all(), "colour outputs of a grey picture"


@given(st.integers(0, 2**32 - 1))
def test_8_bit_errors_are_compared_as_integers_are(seed: int) -> None:
    """Few grey levels, so that errors tie often; 3 s * s * 219000^2 * 255^2 fits 64 bits."""
    rng = np.random.default_rng(seed)
    hr = rng.integers(0, 3, (24, 24, 3)).astype(np.uint8) * np.uint8(127)
    n, l = (hr ^ rng.integers(0, 2, hr.shape, np.uint8) for _ in range(2))
    weights = np.array([65481, 128553, 24966])
    exact = []
    for made in (n, l):
        error = ((made.astype(np.int64) - hr.astype(np.int64)) @ weights) ** 2
        exact.append(error.reshape(8, 3, 8, 3).sum(axis=(1, 3)))
    np.testing.assert_array_equal(np.sign(harm(n, l, hr, 3)), np.sign(exact[0] - exact[1]))


def test_float_outputs_are_compared_as_they_are() -> None:
    rng = np.random.default_rng(0)
    hr = images.luma(rng.integers(0, 256, (12, 12, 3)).astype(np.uint8))
    made = hr + rng.normal(0, 1, hr.shape)
    expected = ((made - hr) ** 2).reshape(6, 2, 6, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(subpixel.block_error(made, hr, 2), expected, rtol=1e-12)
    assert (harm(made + 1e-9, made, hr, 2) != 0).all(), "nothing is rounded away"


def test_ties_of_a_published_network_with_bicubic(benchmarks: Path) -> None:
    """By float sums RCAN harms 612 blocks of `bird`: four of them are ties."""
    file = benchmarks.parent / "reference_sr/RCAN/Set5/X4/bird_RCAN_x4.png"
    hr = images.modcrop(np.asarray(images.read(benchmarks / "Set5/HR/bird.png"), np.uint8), 4)
    rcan = np.asarray(images.read(file), np.uint8)
    bicubic = images.imresize(images.degrade(hr, 4), 4)
    assert np.count_nonzero(subpixel.interior(harm(rcan, bicubic, hr, 4)) > 0) == 608
