"""PSNR and SSIM against scikit-image, published numbers and each other's edge cases."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from dtfn import images
from dtfn.errors import InputError
from dtfn.subpixel import psnr, ssim

SEED = st.integers(0, 2**32 - 1)
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
    "dataset", ["Set5", "Set14", "BSD100", pytest.param("Urban100", marks=pytest.mark.slow)]
)
def test_bicubic_scores_what_every_paper_states(benchmarks: Path, dataset: str) -> None:
    """By the classical rule for the one grey picture, bridge of Set14; by RGB it has more."""
    scores = []
    for file in sorted((benchmarks / dataset / "HR").iterdir()):
        picture = np.asarray(images.read(file), np.uint8)
        row = []
        for scale in (2, 3, 4):
            hr = images.modcrop(picture, scale)
            sr = images.imresize(images.degrade(hr, scale), scale)
            row.append([psnr(sr, hr, scale, "y"), psnr(sr, hr, scale)])
        scores.append(row)
    classical, rgb = np.mean(scores, axis=0).T
    assert classical == pytest.approx(BICUBIC[dataset], abs=0.01)
    more = 20 * np.log10(255 / 219) / 14 if dataset == "Set14" else 0.0
    assert rgb == pytest.approx(classical + more)


@given(SEED)
def test_the_two_rules_for_grey_pictures(seed: int) -> None:
    """RGB: grey counts as three equal channels. Y: its full range counts, and so do its errors."""
    rng = np.random.default_rng(seed)
    sr, hr = rng.integers(0, 256, (2, 17, 19), dtype=np.uint8)
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


@pytest.mark.parametrize(
    ("sr", "hr", "shave", "message"),
    [
        (SR[:-1], HR, 2, "images of one size; found 45 x 36 and 45 x 37"),
        (SR / 255.0, HR, 2, "uint8 .* found float64"),
        (SR, np.dstack([HR, HR[..., :1]]), 2, r"found \(37, 45, 4\)"),
        (SR, HR, 19, "found 19 of 45 x 37"),
        (SR, HR, -1, "found -1 of"),
    ],
)
def test_bad_input_is_refused(sr: np.ndarray, hr: np.ndarray, shave: int, message: str) -> None:
    for metric in (psnr, ssim):
        with pytest.raises(InputError, match=message):
            metric(sr, hr, shave)


def test_the_smallest_picture_of_each_metric() -> None:
    assert psnr(HR[:5, :5], HR[:5, :5], 2) == float("inf")
    assert ssim(HR[:11, :11], HR[:11, :11], 0) == 1
    with pytest.raises(InputError, match="leaves 11 x 11"):
        ssim(HR[:14, :15], HR[:14, :15], 2)


def test_y_is_rounded_only_where_it_is_asked_for() -> None:
    """As MATLAB's rgb2ycbcr of uint8, which some published tables used."""
    near = np.clip(HR + RNG.normal(0, 2, HR.shape), 0, 255).astype(np.uint8)
    x, y = (np.round(rgb2ycbcr(image)[4:-4, 4:-4, 0]) for image in (near, HR))
    expected = peak_signal_noise_ratio(y, x, data_range=255)  # type: ignore[no-untyped-call]
    assert psnr(near, HR, 4, rounded=True) == pytest.approx(expected, abs=1e-9)
    assert psnr(near, HR, 4) != pytest.approx(expected, abs=1e-3)
    assert ssim(near, HR, 4, rounded=True) != ssim(near, HR, 4)
