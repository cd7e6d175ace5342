"""PSNR and SSIM against scikit-image, published numbers and each other's edge cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from dtfn import images
from dtfn.errors import InputError
from dtfn.metrics import luma_like, psnr, ssim

RNG = np.random.default_rng(0)
HR = RNG.integers(0, 256, (37, 45, 3), dtype=np.uint8)
SR = np.clip(HR + RNG.normal(0, 20, HR.shape), 0, 255).astype(np.uint8)

# Published by the field's papers (bicubic) and by RCAN (its own pictures).
BICUBIC = {
    "Set5": (33.67, 30.40, 28.43),
    "Set14": (30.23, 27.54, 25.99),
    "BSD100": (29.56, 27.21, 25.96),
    "Urban100": (26.88, 24.46, 23.14),
}
RCAN = {2: 38.274, 3: 34.742, 4: 32.634}


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
    pictures = sorted(
        (benchmarks.parent / "reference_sr" / "RCAN" / "Set5" / f"X{scale}").glob("*.png")
    )
    scores = []
    for picture in pictures:
        hr = images.read(benchmarks / "Set5" / "HR" / f"{picture.name.split('_')[0]}.png")
        scores.append(psnr(images.read(picture), images.modcrop(hr, scale), scale))

    assert len(scores) == 5
    assert np.mean(scores) == pytest.approx(RCAN[scale], abs=5e-4)


@pytest.mark.parametrize(
    "dataset",
    ["Set5", "Set14", "BSD100", pytest.param("Urban100", marks=pytest.mark.slow)],
)
def test_bicubic_scores_what_every_paper_states(benchmarks: Path, dataset: str) -> None:
    scores = []
    for file in sorted((benchmarks / dataset / "HR").iterdir()):
        picture = np.asarray(images.read(file), np.uint8)
        row = []
        for scale in (2, 3, 4):
            hr = images.modcrop(picture, scale)
            sr = images.imresize(images.degrade(hr, scale), scale)
            row.append(psnr(sr, hr, scale))
        scores.append(row)

    assert np.mean(scores, axis=0) == pytest.approx(BICUBIC[dataset], abs=0.01)


def test_equal_pictures_are_perfect() -> None:
    assert psnr(HR, HR, 2) == float("inf")
    assert ssim(HR, HR, 2) == 1


def test_a_known_error_gives_its_decibels() -> None:
    hr = np.full((16, 16), 100, np.uint8)
    sr = hr + np.uint8(5)

    assert psnr(sr, hr, 3) == pytest.approx(10 * np.log10(255**2 / 25))


def test_the_border_is_left_out() -> None:
    sr = HR.copy()
    sr[:3], sr[-3:], sr[:, :3], sr[:, -3:] = 0, 0, 0, 0

    assert psnr(sr, HR, 3) == float("inf")
    assert psnr(sr, HR, 2) < float("inf")


def test_a_colour_output_of_a_grey_picture_is_compared_as_grey() -> None:
    grey = HR[..., 0]
    colour = np.dstack([grey] * 3)

    assert psnr(colour, grey, 2) == float("inf")
    assert psnr(grey, colour, 2) == float("inf")
    # Grey keeps its full range; the Y of colour has 219/255 of it.
    other = np.dstack([SR[..., 0]] * 3)
    assert psnr(other, grey, 2) == pytest.approx(psnr(SR[..., 0], grey, 2))
    assert psnr(other, colour, 2) - psnr(other, grey, 2) == pytest.approx(20 * np.log10(255 / 219))


@given(value=st.integers(0, 255))
def test_grey_survives_colour_exactly(value: int) -> None:
    grey = np.full((1, 1), value, np.uint8)

    assert luma_like(np.dstack([grey] * 3), grey) == value


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("sr", "hr", "shave", "message"),
    [
        (SR[:-1], HR, 2, r"images of one size; found \(36, 45\) and \(37, 45\)"),
        (SR / 255.0, HR, 2, "expected uint8 .* found float64"),
        (SR, HR[..., :2], 2, "expected uint8"),
        (SR, np.dstack([HR, HR[..., :1]]), 2, "expected uint8"),
        (SR, HR, 19, "found 19 of 37 x 45"),
        (SR, HR, -1, "found -1 of"),
    ],
)
def test_bad_input_is_refused(
    metric: object, sr: np.ndarray, hr: np.ndarray, shave: int, message: str
) -> None:
    assert callable(metric)
    with pytest.raises(InputError, match=message):
        metric(sr, hr, shave)


def test_the_smallest_picture_of_each_metric() -> None:
    assert psnr(HR[:5, :5], HR[:5, :5], 2) == float("inf")
    assert ssim(HR[:11, :11], HR[:11, :11], 0) == 1
    with pytest.raises(InputError, match="leaves 11 x 11"):
        ssim(HR[:14, :15], HR[:14, :15], 2)
