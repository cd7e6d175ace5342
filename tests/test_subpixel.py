"""Block errors, harm and bounds: against brute-force loops, known answers and their properties."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtfn import bounds, images, metrics, subpixel
from dtfn.errors import InputError

Maps = tuple[np.ndarray, np.ndarray]
Trio = tuple[np.ndarray, np.ndarray, np.ndarray, int]

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
def trios(draw: st.DrawFn) -> Trio:
    """N, L and HR, grey or colour, and a scale."""
    scale = draw(st.sampled_from([2, 3, 4]))
    height, width = draw(st.tuples(st.integers(3, 7), st.integers(3, 7)))
    channels = draw(st.sampled_from([(), (3,)]))
    seed = draw(st.integers(0, 2**32 - 1))
    spread = draw(st.sampled_from([1, 30, 255]))
    rng = np.random.default_rng(seed)
    n, l, hr = rng.integers(
        0, spread, (3, scale * height, scale * width, *channels), np.uint8, endpoint=True
    )
    return n, l, hr, scale


# --- against loops ----------------------------------------------------------------------------


@given(trios())
def test_block_error_equals_a_loop_over_pixels(trio: Trio) -> None:
    sr, _, hr, s = trio
    x, y = images.luma(sr), images.luma(hr)
    height, width = y.shape[0] // s, y.shape[1] // s
    expected = np.zeros((height, width))
    for i in range(s * height):
        for j in range(s * width):
            expected[i // s, j // s] += (x[i, j] - y[i, j]) ** 2 / s**2

    np.testing.assert_allclose(subpixel.block_error(sr, hr, s), expected, rtol=1e-12, atol=1e-12)


@given(trios())
def test_the_interior_scores_the_psnr_of_the_field(trio: Trio) -> None:
    sr, _, hr, s = trio
    found = subpixel.psnr_of(subpixel.interior(subpixel.block_error(sr, hr, s)))

    assert found == pytest.approx(metrics.psnr(sr, hr, s), abs=CLOSE)


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


@given(maps(), st.sampled_from([0.0, 1.0, 2.5]))
def test_harm_equals_a_loop_over_positions(two: Maps, tau: float) -> None:
    n, l = two
    harmed = [a - b for a, b in zip(n.flat, l.flat, strict=True) if a - b > tau]
    assert subpixel.harm_rate(subpixel.harm(n, l), tau) == pytest.approx(len(harmed) / n.size)


# --- properties -------------------------------------------------------------------------------


@given(maps())
def test_finer_cells_never_lower_the_bound(two: Maps) -> None:
    n, l = two
    rising = [bounds.best_choice([n, l], g) for g in bounds.GRANULARITIES]

    assert rising[0] == pytest.approx(max(subpixel.psnr_of(n), subpixel.psnr_of(l)), abs=CLOSE)
    for coarse, fine in itertools.pairwise(rising):
        assert fine >= coarse - CLOSE


@given(maps())
def test_harm_is_antisymmetric(two: Maps) -> None:
    n, l = two
    h = subpixel.harm(n, l)

    np.testing.assert_array_equal(h, -subpixel.harm(l, n))
    ties = float(np.mean(n == l))
    assert subpixel.harm_rate(h) + subpixel.harm_rate(-h) + ties == pytest.approx(1)


# --- known answers ----------------------------------------------------------------------------


def test_a_checkerboard_of_skill_is_all_gain() -> None:
    """N is perfect on half of the blocks, L on the other half: only cells of one block see it."""
    board = np.indices((8, 8)).sum(axis=0) % 2
    n, l = 4.0 * board, 4.0 * (1 - board)

    assert bounds.best_choice([n, l], 2) == subpixel.psnr_of(n)
    assert bounds.best_choice([n, l], 1) == INF


def test_the_noise_floor_is_a_quantile_of_the_absolute_null() -> None:
    null = np.array([[-4.0, 1.0, 2.0, -3.0, 0.0]])

    assert subpixel.noise_floor(null) == 2
    assert subpixel.noise_floor(null, 1.0) == 4
    assert subpixel.harm_rate(null, subpixel.noise_floor(null, 0.75)) == 0
    assert subpixel.harm_rate(null, 1.0) == pytest.approx(1 / 5)  # above, not at


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sr", "hr", "scale", "message"),
    [
        (np.zeros((12, 12)), np.zeros((12, 14)), 2, r"one size; found \(12, 12\) and \(12, 14\)"),
        (np.zeros((12, 12)), np.zeros((12, 12)), 5, "multiples of the scale, 5; found 12 x 12"),
        (np.zeros((12, 12)), np.zeros((12, 12)), 0, "multiples of the scale"),
        (np.full((12, 12), np.nan), np.zeros((12, 12)), 2, "finite numbers; found NaN"),
        (np.zeros((12, 12)), np.full((12, 12), INF), 2, "found NaN or infinity"),
        (np.zeros((12, 12, 3)), np.zeros((12, 12, 3)), 2, "expected uint8"),
        (np.zeros((0, 0)), np.zeros((0, 0)), 2, "found nothing"),
    ],
)
def test_bad_pictures_are_refused(sr: np.ndarray, hr: np.ndarray, scale: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        subpixel.block_error(sr, hr, scale)


def test_bad_maps_and_numbers_are_refused() -> None:
    two, three = np.ones((2, 9)), np.ones((3, 9))
    broken = np.where(np.eye(3), np.nan, 1.0)

    with pytest.raises(InputError, match=r"3 x 3 LR positions or more.*found 2 x 9"):
        subpixel.interior(two)
    assert subpixel.interior(three).shape == (1, 7)
    for call in (subpixel.harm, lambda *errors: bounds.best_choice(errors)):
        with pytest.raises(InputError, match="one size"):
            call(two, three)
        with pytest.raises(InputError, match="NaN"):
            call(broken, broken)
    with pytest.raises(InputError, match="NaN"):
        subpixel.harm_rate(broken)
    with pytest.raises(InputError, match="tau: expected 0 or more"):
        subpixel.harm_rate(two, -1.0)
    with pytest.raises(InputError, match="granularity: expected 1 or more"):
        bounds.best_choice([two, two], 0)


# --- ties -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_equal_errors_of_8_bit_pictures_tie(scale: int, channels: tuple[int, ...]) -> None:
    """Errors of +1 and -1 everywhere: float sums differ by rounding in half of the blocks."""
    rng = np.random.default_rng(0)
    hr = rng.integers(1, 255, (24 * scale, 30 * scale, *channels)).astype(np.uint8)
    up, down = hr + np.uint8(1), hr - np.uint8(1)

    for n, l, truth in ((up, down, hr), *[[images.luma(x) for x in (up, down, hr)]]):
        assert (subpixel.harm(n, l, truth, scale) == 0).all()
    if channels:
        grey = hr[..., 0]
        up, down = (np.dstack([grey] * 3) + np.uint8(step) for step in (1, 255))
        assert (subpixel.harm(up, down, grey, scale) == 0).all(), "colour outputs of a grey picture"


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
    np.testing.assert_array_equal(np.sign(subpixel.harm(n, l, hr, 3)), np.sign(exact[0] - exact[1]))


def test_float_outputs_are_compared_as_they_are() -> None:
    rng = np.random.default_rng(0)
    hr = images.luma(rng.integers(0, 256, (12, 12, 3)).astype(np.uint8))
    made = hr + rng.normal(0, 1, hr.shape)
    expected = ((made - hr) ** 2).reshape(6, 2, 6, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(subpixel.block_error(made, hr, 2), expected, rtol=1e-12)
    assert (subpixel.harm(made + 1e-9, made, hr, 2) != 0).all(), "nothing is rounded away"


def test_ties_of_a_published_network_with_bicubic(benchmarks: Path) -> None:
    """By float sums RCAN harms 612 blocks of `bird`: four of them are ties."""
    file = benchmarks.parent / "reference_sr/RCAN/Set5/X4/bird_RCAN_x4.png"
    hr = images.modcrop(np.asarray(images.read(benchmarks / "Set5/HR/bird.png"), np.uint8), 4)
    rcan = np.asarray(images.read(file), np.uint8)
    bicubic = images.imresize(images.degrade(hr, 4), 4)
    assert np.count_nonzero(subpixel.interior(subpixel.harm(rcan, bicubic, hr, 4)) > 0) == 608


def test_harm_takes_pictures_or_says_what_it_takes() -> None:
    rng = np.random.default_rng(0)
    n, l, hr = rng.integers(0, 256, (3, 12, 12, 3), np.uint8)
    errors = [subpixel.block_error(x, hr, 2) for x in (n, l)]
    np.testing.assert_array_equal(subpixel.harm(n, l, hr, 2), subpixel.harm(errors[0], errors[1]))
    for given_ in ((n, l), (n, l, hr), (n[..., 0], l[..., 0])):
        with pytest.raises(InputError, match=r"call harm\(sr_n, sr_l, hr, scale\)"):
            subpixel.harm(*given_)  # type: ignore[arg-type]


def test_importing_does_not_import_torch() -> None:
    code = "import sys, json, dtfn.harm; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout) is False
