"""Block errors and choices among them: against loops, known answers and their properties."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tiny import refused

from dtfn import bounds, images, subpixel
from dtfn.subpixel import psnr, ssim

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
def test_block_errors_equal_a_loop(pair: tuple[np.ndarray, np.ndarray, int]) -> None:
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


# --- PSNR and SSIM against scikit-image and published numbers ---
SEED = st.integers(0, 2**32 - 1)
RNG = np.random.default_rng(0)
HR = RNG.integers(0, 256, (37, 45, 3), dtype=np.uint8)
SR = np.clip(HR + RNG.normal(0, 20, HR.shape), 0, 255).astype(np.uint8)

# Published by the field's papers (bicubic) and by RCAN (its own pictures).
BICUBIC = {"Set5": (33.67, 30.40, 28.43), "Set14": (30.23, 27.54, 25.99)}
BICUBIC |= {"BSD100": (29.56, 27.21, 25.96), "Urban100": (26.88, 24.46, 23.14)}
RCAN = {2: 38.274, 3: 34.742, 4: 32.634}
SLOW = pytest.mark.slow


@pytest.mark.parametrize("shave", [0, 2, 4])
@pytest.mark.parametrize(("sr", "hr"), [(SR, HR), (SR[..., 0], HR[..., 0])])
def test_metrics_agree_with_scikit_image(sr: np.ndarray, hr: np.ndarray, shave: int) -> None:
    inside = np.s_[shave : 37 - shave, shave : 45 - shave]
    x, y = images.luma(sr)[inside], images.luma(hr)[inside]
    of_paper = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected_psnr = peak_signal_noise_ratio(y, x, data_range=255)  # type: ignore[no-untyped-call]
    expected_ssim = structural_similarity(x, y, data_range=255, **of_paper)  # type: ignore[no-untyped-call]
    assert psnr(sr, hr, shave) == pytest.approx(expected_psnr)
    assert ssim(sr, hr, shave) == pytest.approx(expected_ssim, abs=1e-12)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_rcan_scores_what_it_published(benchmarks: Path, scale: int) -> None:
    folder = benchmarks.parent / "reference_sr" / "RCAN" / "Set5" / f"X{scale}"
    scores = []
    for picture in sorted(folder.glob("*.png")):
        hr = images.read(benchmarks / "Set5" / "HR" / f"{picture.name.split('_')[0]}.png")
        scores.append(psnr(images.read(picture), images.modcrop(hr, scale), scale))
    assert len(scores) == 5
    assert np.mean(scores) == pytest.approx(RCAN[scale], abs=5e-4)


@pytest.mark.parametrize("dataset", [*list(BICUBIC)[:3], pytest.param("Urban100", marks=SLOW)])
def test_bicubic_scores_what_every_paper_states(benchmarks: Path, dataset: str) -> None:
    """By the classical rule for the one grey picture, bridge of Set14; by RGB it has more."""
    scores = []
    for file in sorted((benchmarks / dataset / "HR").iterdir()):
        picture = np.asarray(images.read(file), np.uint8)
        for scale in (2, 3, 4):
            hr = images.modcrop(picture, scale)
            sr = images.imresize(images.degrade(hr, scale), scale)
            rgb = psnr(sr, hr, scale)
            scores.append((rgb if hr.ndim == 3 else psnr(sr, hr, scale, "y"), rgb))
    classical, rgb = np.mean(np.reshape(scores, (-1, 3, 2)), axis=0).T
    assert classical == pytest.approx(BICUBIC[dataset], abs=0.01)
    more = 20 * np.log10(255 / 219) / 14 if dataset == "Set14" else 0.0
    assert rgb == pytest.approx(classical + more)


@given(SEED)
def test_the_two_rules_for_grey_pictures(seed: int) -> None:
    """RGB: grey counts as three equal channels. Y: its full range counts, and so do its errors."""
    sr, hr = np.random.default_rng(seed).integers(0, 256, (2, 17, 19), dtype=np.uint8)
    colour = {"sr": np.dstack([sr] * 3), "hr": np.dstack([hr] * 3)}
    assert psnr(sr, hr, 2) == psnr(colour["sr"], hr, 2) == psnr(sr, colour["hr"], 2)
    assert psnr(colour["hr"], hr, 2, "y") == float("inf")
    mse = np.mean((sr.astype(float) - hr)[2:-2, 2:-2] ** 2)
    assert psnr(colour["sr"], hr, 2, "y") == pytest.approx(10 * np.log10(255**2 / mse))
    assert psnr(sr, hr, 2) - psnr(sr, hr, 2, "y") == pytest.approx(20 * np.log10(255 / 219))
    of_paper = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(sr, hr, data_range=255, **of_paper)  # type: ignore[no-untyped-call]
    assert ssim(colour["sr"], hr, 0, "y") == pytest.approx(expected)
    assert psnr(sr, colour["hr"], 2, "y") == psnr(sr, hr, 2), "a colour file is colour"


ZEROS = np.zeros((12, 12))
BLOCKS: list[Any] = [
    (ZEROS, np.zeros((12, 14)), 2, r"of one size; found 12 x 12 and 14 x 12"),
    (ZEROS, ZEROS, 5, "multiples of the scale, 5; found 12 x 12"),
    (ZEROS * np.nan, ZEROS, 2, "finite numbers; found NaN"),
    (ZEROS, np.full((12, 12), INF), 2, "finite numbers"),
    (np.zeros((12, 12, 3)), np.zeros((12, 12, 3)), 2, "a non-empty uint8 or float32 image"),
    (np.zeros((0, 0)), np.zeros((0, 0)), 2, "NaN, infinity or nothing"),
]
PICTURES: list[Any] = [
    (SR[:-1], HR, 2, "images of one size; found 45 x 36 and 45 x 37"),
    (SR / 255.0, HR, 2, "uint8 .* found float64"),
    (SR, np.dstack([HR, HR[..., :1]]), 2, r"found uint8 \(37, 45, 4\)"),
    (SR, HR, 19, "found 19 of 45 x 37"),
    (SR, HR, -1, "found -1 of"),
]


def test_bad_input_is_refused() -> None:
    refused(r"3 x 3 LR positions or more.*found 2 x 9", subpixel.interior, np.ones((2, 9)))
    for *pictures, message in BLOCKS:
        refused(message, subpixel.block_error, *pictures)
    for *pictures, message in PICTURES:
        refused(message, psnr, *pictures)
        refused(message, ssim, *pictures)


def test_the_smallest_picture_of_each_metric() -> None:
    assert psnr(HR[:5, :5], HR[:5, :5], 2) == float("inf")
    assert ssim(HR[:11, :11], HR[:11, :11], 0) == 1
    refused("leaves 11 x 11", ssim, HR[:14, :15], HR[:14, :15], 2)
    # As MATLAB's rgb2ycbcr of uint8, which some published tables used.
    near = np.clip(HR + RNG.normal(0, 2, HR.shape), 0, 255).astype(np.uint8)
    x, y = (np.round(rgb2ycbcr(image)[4:-4, 4:-4, 0]) for image in (near, HR))
    expected = peak_signal_noise_ratio(y, x, data_range=255)  # type: ignore[no-untyped-call]
    assert psnr(near, HR, 4, rounded=True) == pytest.approx(expected, abs=1e-9)
    assert psnr(near, HR, 4) != pytest.approx(expected, abs=1e-3)
    assert ssim(near, HR, 4, rounded=True) != ssim(near, HR, 4)
