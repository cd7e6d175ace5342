"""Texture distortion: planted distortions are measured as they were planted, against brute force
and second libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import structure_tensor, structure_tensor_eigenvalues
from torchmetrics.functional.image import structural_similarity_index_measure

from dtfn import datasets, images, metrics
from dtfn.errors import InputError
from dtfn.texture import distortion

Float = NDArray[np.float64]

RNG = np.random.default_rng(0)
NOISE = RNG.uniform(0, 255, (2, 48, 60))


def stripes(angle: float, period: float = 10, size: int = 64, phase: float = 0) -> Float:
    """Return stripes that run along `angle` degrees, counter-clockwise from level."""
    row, column = np.mgrid[:size, :size]
    across = np.radians(angle) + np.pi / 2
    way = column * np.cos(across) - row * np.sin(across)
    return 128 + 60 * np.sin(2 * np.pi * way / period + phase)


def middle(values: Float) -> Float:
    edge = len(values) // 4
    return values[edge:-edge, edge:-edge]


# ---------------------------------------------------------------- orientation


@pytest.mark.parametrize(
    ("true", "drawn"), [(0, 0), (10, 40), (170, 5), (90, 1), (45, 135), (3, 177)]
)
def test_the_angle_between_two_gratings(true: float, drawn: float) -> None:
    found = middle(distortion.orientation_error(stripes(drawn), stripes(true), sigma=6))

    turn = abs(true - drawn) % 180
    # One degree: Sobel is not quite the same in all directions.
    assert found == pytest.approx(min(turn, 180 - turn), abs=1)


def test_where_the_truth_has_no_direction_none_is_wrong() -> None:
    flat = np.full((32, 32), 100.0)
    assert (distortion.orientation_error(stripes(30, size=32), flat, 4) == 0).all()


def test_an_output_without_direction_is_wrong_by_half_a_right_angle() -> None:
    found = distortion.orientation_error(np.full((64, 64), 100.0), stripes(30), 6)
    assert middle(found) == pytest.approx(45, abs=0.5)


def test_the_weight_is_the_coherence_of_the_truth() -> None:
    sr, hr = NOISE
    found = distortion.orientation_error(sr, hr, 4)

    angles, coherence = [], np.zeros(hr.shape)
    for y in (sr, hr):
        tensor = structure_tensor(y, 4, mode="reflect", order="rc")  # type: ignore[no-untyped-call]
        large, small = structure_tensor_eigenvalues(tensor)  # type: ignore[no-untyped-call]
        coherence = (large - small) / (large + small)
        row, mixed, column = tensor
        angles.append([
            np.linalg.eigh(np.array([[r, m], [m, c]]))[1][:, 1] @ [1j, 1]
            for r, m, c in zip(row.flat, mixed.flat, column.flat, strict=True)
        ])  # fmt: skip
    turn = np.degrees(np.angle(np.array(angles[0]) / np.array(angles[1]))) % 180
    expected = np.minimum(turn, 180 - turn).reshape(hr.shape) * coherence
    np.testing.assert_allclose(found, expected, atol=1e-6)


# ---------------------------------------------------------------- spectrum


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_spectrum_is_that_of_every_window(scale: int) -> None:
    sr, hr = NOISE[:, : 12 * scale, : 15 * scale] if scale < 4 else NOISE
    found = distortion.spectrum_error(sr, hr, scale)

    side, half = 5 * scale, 2 * scale
    taps = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(side) / (side - 1))
    window = taps[:, None] * taps
    assert found.shape == (hr.shape[0] // scale, hr.shape[1] // scale)
    for row, column in [(0, 0), (3, 4), (5, 7), (found.shape[0] - 1, found.shape[1] - 1)]:
        powers = []
        for y in (sr, hr):
            grown = np.pad(y, half, mode="symmetric")
            top, left = row * scale, column * scale
            patch = grown[top : top + side, left : left + side]
            spectrum = np.fft.fft2((patch - patch.mean()) * window)
            powers.append(10 * np.log10(np.abs(spectrum) ** 2 + (window**2).sum() / 12))
        difference = ((powers[0] - powers[1]) ** 2).ravel()[1:]
        assert found[row, column] == pytest.approx(np.sqrt(difference.mean()))


def test_the_spectrum_sees_lost_energy_and_not_a_shift() -> None:
    true, shifted = stripes(0), stripes(0, phase=np.pi)
    blurred = ndimage.gaussian_filter(true, 3)
    moved, lost = (middle(distortion.spectrum_error(x, true, 2)) for x in (shifted, blurred))

    assert np.mean((shifted - true) ** 2) > np.mean((blurred - true) ** 2)
    assert moved.mean() < 0.2 * lost.mean()


# ---------------------------------------------------------------- structure and gradient


def test_the_ssim_map_has_the_mean_that_the_field_reports() -> None:
    hr = next(datasets.benchmark("mini", 4, 1)).hr
    sr = images.imresize(images.degrade(hr, 4), 4)
    found = distortion.ssim_map(sr, hr)

    assert found.shape == hr.shape[:2]
    assert found[5:-5, 5:-5].mean() == pytest.approx(metrics.ssim(sr, hr, 0), abs=1e-12)


def test_the_ssim_map_is_that_of_a_second_library() -> None:
    sr, hr = (torch.from_numpy(y)[None, None] for y in NOISE)
    _, expected = structural_similarity_index_measure(
        sr, hr, data_range=255.0, return_full_image=True
    )
    edge = np.s_[5:-5, 5:-5]
    found = distortion.ssim_map(*NOISE)[edge]
    np.testing.assert_allclose(found, expected[0, 0].numpy()[edge], atol=1e-9)


def test_gradient_similarity_is_that_of_every_pixel() -> None:
    sr, hr = NOISE
    found = distortion.gradient_similarity(sr, hr)

    kernel = np.array([[1, 0, -1]] * 3) / 3
    for row, column in [(1, 1), (20, 30), (46, 58)]:
        near = np.s_[row - 1 : row + 2, column - 1 : column + 2]
        g_x, g_y = (np.hypot((y[near] * kernel).sum(), (y[near] * kernel.T).sum()) for y in NOISE)
        expected = (2 * g_x * g_y + 170) / (g_x**2 + g_y**2 + 170)
        assert found[row, column] == pytest.approx(expected)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_maps_lie_on_the_lr_grid_and_are_0_for_the_truth(scale: int) -> None:
    hr = RNG.integers(0, 256, (12 * scale, 15 * scale, 3), dtype=np.uint8)

    same, other = distortion.maps(hr, hr, scale), distortion.maps(hr[::-1].copy(), hr, scale)

    assert set(same) == set(distortion.TITLES)
    limits = {"orientation": 90, "spectrum": np.inf, "structure": 2, "gradient": 1}
    for name, values in same.items():
        assert values.shape == (12, 15)
        np.testing.assert_allclose(values, 0, atol=1e-12)
        assert (other[name] >= 0).all()
        assert (other[name] <= limits[name]).all()
        assert other[name].mean() > 0.01


def test_a_grey_picture_and_its_colour_output_are_compared_in_one_range() -> None:
    grey = RNG.integers(0, 256, (48, 48), dtype=np.uint8)
    for values in distortion.maps(np.dstack([grey] * 3), grey, 2).values():
        np.testing.assert_allclose(values, 0, atol=1e-9)


def test_sizes_that_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="one size"):
        distortion.maps(NOISE[0], NOISE[1][:-2], 2)
    with pytest.raises(InputError, match="multiples of the scale"):
        distortion.spectrum_error(NOISE[0][:-1], NOISE[1][:-1], 2)
    with pytest.raises(InputError, match="11 x 11"):
        distortion.ssim_map(NOISE[0][:10], NOISE[1][:10])
