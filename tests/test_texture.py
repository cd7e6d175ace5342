"""Textures: similar patches against a loop, causes with known answers, planted distortions."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.feature import structure_tensor
from tiny import refused
from torchmetrics.functional.image import structural_similarity_index_measure

from dtfn import images, paths, subpixel, texture

SEED = st.integers(0, 2**32 - 1)
AWAY = np.s_[4:-4, 4:-4]  # LR positions that no border reaches


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@st.composite
def small(draw: st.DrawFn) -> np.ndarray:
    """A small LR picture, with few grey levels at times, so that patches are equal."""
    height, width = draw(st.tuples(st.integers(1, 9), st.integers(4, 9)))
    rng = np.random.default_rng(draw(SEED))
    levels = draw(st.sampled_from([1, 2, 256]))
    return rng.integers(0, levels, (height, width, *draw(st.sampled_from([(), (3,)]))), np.uint8)


def patch(y: np.ndarray, i: int, j: int) -> np.ndarray:
    """The 5 x 5 patch, pixel by pixel, the picture mirrored beyond its border; no mean."""

    def mirror(k: int, size: int) -> int:
        while not 0 <= k < size:
            k = -1 - k if k < 0 else 2 * size - 1 - k
        return k

    near = range(-2, 3)
    values = [y[mirror(i + a, len(y)), mirror(j + b, len(y[0]))] for a in near for b in near]
    return np.array(values) - np.mean(values)


@given(small(), st.integers(1, 3), st.integers(1, 3))
def test_search_equals_a_loop_over_all_pairs(lr: np.ndarray, count: int, every: int) -> None:
    y = images.luma(lr)
    height, width = y.shape
    vectors = [patch(y, i, j) for i in range(height) for j in range(width)]
    found = texture.similar_patches(lr, count, every)
    asked = [i * width + j for i in range(0, height, every) for j in range(0, width, every)]
    np.testing.assert_allclose(texture.patches(lr), vectors, atol=1e-4)
    for p, index in zip(asked, found.tolist(), strict=True):
        distance = [float(np.sum((vectors[p] - v) ** 2)) for v in vectors]
        expected = sorted(distance[:p] + distance[p + 1 :])[:count]
        # Equal distances make the choice of positions, but never the distances, a matter of order.
        assert [distance[q] for q in index] == pytest.approx(expected, rel=1e-5, abs=1e-2)
        assert p not in index
        assert len(set(index)) == count


def test_patches_are_searched_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    # Whatever the colour: or rounding would decide which flat patches are texture.
    for colour in noise(0, 50, 3):
        assert (texture.patches(np.tile(colour, (6, 6, 1))) == 0).all()
    found = texture.similar_patches(np.tile(noise(0, 8, 8), (4, 4)), 3)
    p = 10 * 32 + 10  # its patch and those 8 rows or columns away are equal, but for the border
    inner = [i * 32 + j for i in (2, 10, 18, 26) for j in (2, 10, 18, 26) if i * 32 + j != p]
    assert found[p].tolist() == inner[:3]
    lr = noise(3, 12, 9)
    found = texture.similar_patches(lr, 3, 2)
    monkeypatch.setattr(texture, "nearest", None)
    np.testing.assert_array_equal(texture.similar_patches(lr, 3, 2), found)
    for other in ((lr[:, ::-1], 3, 2), (lr, 2, 2), (lr, 3, 1), (lr.astype(float), 3, 2)):
        with pytest.raises(TypeError):  # it would search
            texture.similar_patches(*other)
    refused("use a larger one", texture.similar_patches, lr, 108)


@pytest.mark.parametrize("first", ["torch", "faiss"])
def test_torch_and_faiss_live_together(first: str) -> None:
    """Both bring an OpenMP; where that breaks, it is by a crash of the process."""
    code = f"""import {first}, torch, numpy as np
from dtfn import texture
texture.similar_patches(np.zeros((60, 60), np.uint8))
print(float(torch.ones(300, 300).mm(torch.ones(300, 300)).sum()))
texture.similar_patches(np.zeros((60, 60), np.uint8))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "27000000.0"


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_severity_is_the_block_error_of_bicubic(scale: int, channels: tuple[int, ...]) -> None:
    hr = noise(0, 311, 50, *channels)  # no multiple of any scale
    cropped = images.modcrop(hr, scale)
    bicubic = images.imresize(images.degrade(hr, scale), scale)
    found = texture.severity(hr, scale)
    np.testing.assert_allclose(found, subpixel.block_error(bicubic, cropped, scale), rtol=1e-12)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_periodic_texture_is_consistent_and_noise_is_not(scale: int) -> None:
    """A random tile, repeated: each patch has equals elsewhere, and their details are equal too."""
    tile = noise(0, 8 * scale, 8 * scale, 3)
    hr = np.tile(tile, (6, 6, 1))
    assert (texture.inconsistency(hr, scale, images.degrade(hr, scale), count=4)[AWAY] == 0).all()
    assert (texture.severity(hr, scale)[AWAY] > 100).all()
    hr = noise(0, 60 * scale, 60 * scale)
    k = texture.inconsistency(hr, scale, images.degrade(hr, scale))[AWAY]
    energy = texture.severity(hr, scale)[AWAY]
    assert np.mean(k * energy) / np.mean(energy) == pytest.approx(2, abs=0.06)


def test_inconsistency_equals_a_loop() -> None:
    hr, scale, count = noise(3, 33, 38, 3), 3, 5
    lr, cropped = images.degrade(hr, scale), images.modcrop(hr, scale)
    lost = images.luma(cropped) - images.luma(images.imresize(lr, scale))

    def block(p: int) -> np.ndarray:
        i, j = divmod(int(p), 12)
        return lost[3 * i : 3 * i + 3, 3 * j : 3 * j + 3]

    rows = enumerate(texture.similar_patches(lr, count))
    apart = ((p, np.mean([np.mean((block(q) - block(p)) ** 2) for q in row])) for p, row in rows)
    expected = [mean / np.mean(block(p) ** 2) for p, mean in apart]
    k = texture.inconsistency(hr, scale, lr, count)
    np.testing.assert_allclose(k.ravel(), expected, rtol=1e-5)
    some = texture.inconsistency(hr, scale, lr, count, every=2)
    np.testing.assert_array_equal(some[::2, ::2], k[::2, ::2])
    assert np.isnan(some[1::2]).all()
    assert np.isnan(texture.inconsistency(0 * hr, scale, lr)).all()


NOISE = np.random.default_rng(0).uniform(0, 255, (2, 48, 60))


def test_orientations_are_those_of_a_second_library_by_the_coherence_of_the_truth() -> None:
    sr, hr = NOISE
    angles, coherence = [], np.zeros(hr.shape)
    for y in (sr, hr):
        row, mixed, column = structure_tensor(y, 4, mode="reflect", order="rc")  # type: ignore[no-untyped-call]
        tensors = np.array([[row, mixed], [mixed, column]]).transpose(2, 3, 0, 1)
        values, vectors = np.linalg.eigh(tensors)
        coherence = (values[..., 1] - values[..., 0]) / values.sum(-1)
        angles.append(vectors[..., :, 1] @ [1j, 1])
    turn = np.degrees(np.angle(angles[0] / angles[1])) % 180
    expected = np.minimum(turn, 180 - turn) * coherence
    np.testing.assert_allclose(texture.orientation_error(sr, hr, 4), expected, atol=1e-6)
    flat = texture.orientation_error(np.full(hr.shape, 100.0), hr, 4)
    np.testing.assert_allclose(flat, 45 * coherence, atol=1e-6, err_msg="half a right angle")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_spectrum_is_that_of_every_window(scale: int) -> None:
    sr, hr = NOISE[:, : 12 * scale, : 15 * scale] if scale < 4 else NOISE
    found = texture.spectrum_error(sr, hr, scale)
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


def test_the_ssim_map_is_that_of_a_second_library() -> None:
    sr, hr = (torch.from_numpy(y)[None, None] for y in NOISE)
    how: dict[str, Any] = {"data_range": 255.0, "return_full_image": True}
    _, expected = structural_similarity_index_measure(sr, hr, **how)
    edge = np.s_[5:-5, 5:-5]
    found = subpixel.ssim_map(*NOISE)[1][edge]
    np.testing.assert_allclose(found, expected[0, 0].numpy()[edge], atol=1e-9)
    sr, hr = NOISE
    found = texture.gradient_similarity(sr, hr)
    kernel = np.array([[1, 0, -1]] * 3) / 3
    for row, column in [(1, 1), (20, 30), (46, 58)]:
        near = np.s_[row - 1 : row + 2, column - 1 : column + 2]
        g_x, g_y = (np.hypot((y[near] * kernel).sum(), (y[near] * kernel.T).sum()) for y in NOISE)
        expected = (2 * g_x * g_y + 170) / (g_x**2 + g_y**2 + 170)
        assert found[row, column] == pytest.approx(expected)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_maps_lie_on_the_lr_grid_and_are_0_for_the_truth(scale: int) -> None:
    hr = noise(0, 12 * scale, 15 * scale, 3)
    same, other = (texture.distortion_maps(sr, hr, scale) for sr in (hr, hr[::-1].copy()))
    assert set(same) == set(texture.DISTORTIONS)
    limits = {"orientation": 90, "spectrum": np.inf, "structure": 2, "gradient": 1}
    for name, values in same.items():
        assert values.shape == (12, 15)
        np.testing.assert_allclose(values, 0, atol=1e-12)
        assert (other[name] >= 0).all()
        assert (other[name] <= limits[name]).all()
        assert other[name].mean() > 0.01
