"""Similar patches against a loop; severity, aliasing, inconsistency, descriptors: known answers."""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtfn import datasets, images, metrics, paths, subpixel, texture
from dtfn.errors import InputError
from dtfn.texture import neighbours

SEED = st.integers(0, 2**32 - 1)
AWAY = np.s_[4:-4, 4:-4]  # LR positions that no border reaches


def noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape, np.uint8)


def grating(size: int, angle: float, period: float) -> np.ndarray:
    """Stripes along an angle (degrees, as in a textbook: counter-clockwise, y upward)."""
    down, right = np.mgrid[:size, :size]
    theta = np.deg2rad(angle)
    across = -right * np.sin(theta) - down * np.cos(theta)
    return np.rint(128 + 60 * np.sin(2 * np.pi * across / period)).astype(np.uint8)


# --- similar patches --------------------------------------------------------------------------


@st.composite
def small(draw: st.DrawFn) -> np.ndarray:
    """A small LR picture, with few grey levels at times, so that patches are equal."""
    height, width = draw(st.tuples(st.integers(1, 9), st.integers(4, 9)))
    rng = np.random.default_rng(draw(SEED))
    levels = draw(st.sampled_from([1, 2, 256]))
    channels = draw(st.sampled_from([(), (3,)]))
    return rng.integers(0, levels, (height, width, *channels), np.uint8)


def patch(y: np.ndarray, i: int, j: int) -> np.ndarray:
    """The 5 x 5 patch, pixel by pixel, the picture mirrored beyond its border; no mean."""

    def mirror(k: int, size: int) -> int:
        while not 0 <= k < size:
            k = -1 - k if k < 0 else 2 * size - 1 - k
        return k

    height, width = y.shape
    values = [
        [y[mirror(i + a, height), mirror(j + b, width)] for b in range(-2, 3)] for a in range(-2, 3)
    ]
    return np.array(values).ravel() - np.mean(values)


@given(small(), st.integers(1, 3), st.integers(1, 3))
def test_search_equals_a_loop_over_all_pairs(lr: np.ndarray, count: int, every: int) -> None:
    y = images.luma(lr)
    height, width = y.shape
    vectors = [patch(y, i, j) for i in range(height) for j in range(width)]
    found = neighbours.search(lr, count, every)
    asked = [i * width + j for i in range(0, height, every) for j in range(0, width, every)]

    np.testing.assert_allclose(neighbours.patches(lr), vectors, atol=1e-4)
    assert found.asked.tolist() == asked
    for p, index in zip(asked, found.index.tolist(), strict=True):
        distance = [float(np.sum((vectors[p] - v) ** 2)) for v in vectors]
        expected = sorted(distance[:p] + distance[p + 1 :])[:count]
        # Equal distances make the choice of positions, but never the distances, a matter of order.
        assert [distance[q] for q in index] == pytest.approx(expected, rel=1e-5, abs=1e-2)
        assert p not in index
        assert len(set(index)) == count


def test_neighbours_are_searched_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    lr = noise(np.random.default_rng(3), 12, 9)
    found = neighbours.remembered(lr, 3, 2)
    expected = neighbours.search(lr, 3, 2)
    monkeypatch.setattr(neighbours, "search", None)
    again = neighbours.remembered(lr, 3, 2)
    for one in (found, again):
        assert one.shape == expected.shape
        assert np.array_equal(one.asked, expected.asked)
        assert np.array_equal(one.index, expected.index)
    for other in ((lr[:, ::-1], 3, 2), (lr, 2, 2), (lr, 3, 1), (lr.astype(float), 3, 2)):
        with pytest.raises(TypeError):  # it would search
            neighbours.remembered(*other)


def test_equal_patches_stand_in_reading_order() -> None:
    tile = noise(np.random.default_rng(0), 8, 8)
    lr = np.tile(tile, (4, 4))
    found = neighbours.search(lr, 3)

    p = 10 * 32 + 10  # its patch and those 8 rows or columns away are equal, but for the border
    inner = [i * 32 + j for i in (2, 10, 18, 26) for j in (2, 10, 18, 26) if i * 32 + j != p]
    assert found.index[p].tolist() == inner[:3]


def test_flat_patches_are_exactly_flat() -> None:
    """Whatever the colour: or rounding would decide which flat patches are neighbours."""
    for colour in noise(np.random.default_rng(0), 50, 3):
        assert (neighbours.patches(np.tile(colour, (6, 6, 1))) == 0).all()


def test_many_equal_patches_do_not_find_themselves() -> None:
    found = neighbours.search(np.full((30, 30), 77, np.uint8), 4)

    assert (found.index != found.asked[:, None]).all()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lr, values = noise(np.random.default_rng(1), 20, 31), np.random.default_rng(2).random((620, 7))
    whole = neighbours.search(lr)
    expected = neighbours.differences(values, whole)
    monkeypatch.setattr(neighbours, "QUERIES", 37)
    monkeypatch.setattr(neighbours, "ELEMENTS", 101)
    parts = neighbours.search(lr)

    np.testing.assert_array_equal(parts.index, whole.index)
    np.testing.assert_array_equal(neighbours.differences(values, parts), expected)
    p, q = 5, int(whole.index[5, 2])
    assert expected[5, 2] == pytest.approx(np.mean((values[p] - values[q]) ** 2), rel=1e-5)


@pytest.mark.parametrize(
    ("shape", "count", "every"), [((2, 3), 6, 1), ((2, 3), 0, 1), ((9, 9), 2, 0), ((1, 1), 1, 1)]
)
def test_impossible_searches_are_refused(shape: tuple[int, int], count: int, every: int) -> None:
    with pytest.raises(InputError, match="use a larger picture or a smaller count"):
        neighbours.search(np.zeros(shape, np.uint8), count, every)


@pytest.mark.slow
def test_a_benchmark_s_picture_is_searched_in_ten_seconds() -> None:
    """As large as Urban100's at x4; the search and the inconsistency."""
    rng = np.random.default_rng(0)
    hr = rng.integers(0, 256, (768, 1024, 3)).astype(np.uint8)
    began = time.perf_counter()
    found = neighbours.search(images.degrade(hr, 4), neighbours.COUNT)
    texture.inconsistency(hr, 4, found)
    assert time.perf_counter() - began < 10


@pytest.mark.slow
def test_a_large_picture_is_described_in_bounded_memory() -> None:
    """LR of 2048 x 1536; a process of its own, whose peak is its own."""
    code = """
import resource, sys
import numpy as np
from dtfn import images, positions, texture
from dtfn.texture import neighbours
hr = np.random.default_rng(0).integers(0, 256, (3072, 4096, 3)).astype(np.uint8)
lr = images.degrade(hr, 2)
found = neighbours.search(lr, neighbours.COUNT, positions.every(lr.shape))
texture.describe(hr, 2, found=found)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak * (1 if sys.platform == "darwin" else 1024), lr.shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, shape = done.stdout.split(maxsplit=1)
    assert shape.strip() == "(1536, 2048, 3)"
    assert int(peak) < 3 * 2**30


def test_details_are_compared_in_chunks() -> None:
    """All pairs at once would take 0.3 GB."""
    rng = np.random.default_rng(0)
    values = rng.random((60_000, 16), np.float32)
    index = rng.integers(0, len(values), (60_000, 40)).astype(np.int32)
    found = neighbours.Neighbours((200, 300), np.arange(60_000, dtype=np.int32), index)
    tracemalloc.start()
    result = neighbours.differences(values, found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < result.nbytes + 100e6
    expected = np.mean((values[7] - values[index[7]]) ** 2, axis=1)
    assert result[7] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("first", ["torch", "faiss"])
def test_torch_and_faiss_live_together(first: str) -> None:
    """Both bring an OpenMP; where that breaks, it is by a crash of the process."""
    code = f"""
import {first}, torch, numpy as np
from dtfn.texture import neighbours
neighbours.search(np.zeros((60, 60), np.uint8))
print(float(torch.ones(300, 300).mm(torch.ones(300, 300)).sum()))
neighbours.search(np.zeros((60, 60), np.uint8))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "27000000.0"


# --- severity and aliasing --------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_severity_is_the_block_error_of_bicubic(scale: int, channels: tuple[int, ...]) -> None:
    hr = noise(np.random.default_rng(0), 311, 50, *channels)  # no multiple of any scale
    cropped = images.modcrop(hr, scale)
    bicubic = images.imresize(images.degrade(hr, scale), scale)
    found = texture.severity(hr, scale)

    np.testing.assert_allclose(found, subpixel.block_error(bicubic, cropped, scale), rtol=1e-12)
    inner = subpixel.interior(texture.severity(hr, scale)).mean()
    assert -texture.decibels(inner) == pytest.approx(metrics.psnr(bicubic, cropped, scale))


def test_a_constant_picture_has_nothing_to_lose() -> None:
    maps = texture.describe(np.full((48, 60, 3), (10, 200, 93), np.uint8), 4)

    assert (maps["severity"] == 0).all()
    assert (maps["severity_db"] == -np.inf).all()
    for name in ("aliasing", "inconsistency", "orientation"):  # shares, ratios, angles of nothing
        assert np.isnan(maps[name]).all(), name
    for name in ("recurrence", "variance", "gradient_energy", "coherence"):
        assert (maps[name] == 0).all(), name
    assert {grid.shape for grid in maps.values()} == {(12, 15)}


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("ratio", "share"), [(0.5, 0), (0.8, 0), (1.25, 1), (1.9, 1)])
def test_a_grating_is_aliased_above_the_nyquist_frequency(
    scale: int, ratio: float, share: float
) -> None:
    """Cosines of the transform's own frequencies, so that the answer is exact but for rounding."""
    size = 40 * scale
    order = round(ratio * 40)  # 40 is the LR Nyquist frequency, for each scale
    wave = np.cos(np.pi * (np.arange(size) + 0.5) * order / size)
    across = np.tile(np.rint(128 + 100 * wave).astype(np.uint8), (size, 1))

    for hr in (across, across.T):
        assert texture.aliasing(hr, scale) == pytest.approx(share, abs=1e-3)


@given(SEED)
def test_white_noise_is_aliased_by_the_area_outside_the_lr_band(seed: int) -> None:
    """White noise has equal energy at all frequencies: 1 - 1 / s^2 of them are lost."""
    hr = noise(np.random.default_rng(seed), 192, 192)

    assert texture.aliasing(hr, 2).mean() == pytest.approx(3 / 4, abs=0.03)
    assert texture.aliasing(hr, 4).mean() == pytest.approx(15 / 16, abs=0.03)


def test_brightness_does_not_hide_aliasing() -> None:
    """The same texture, half of it on a darker ground: a local share, not one about all."""
    wave = 40 * np.cos(np.pi * (np.arange(160) + 0.5) * 70 / 160)
    ground = np.where(np.arange(160) < 80, 60, 190)[:, None]
    hr = np.rint(ground + wave).astype(np.uint8)

    assert texture.aliasing(hr, 4)[[4, 36], 10:30] == pytest.approx(1, abs=0.05)


# --- inconsistency ----------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_periodic_texture_is_consistent(scale: int) -> None:
    """A random tile, repeated: each patch has equals elsewhere, and their details are equal too."""
    tile = noise(np.random.default_rng(0), 8 * scale, 8 * scale, 3)
    hr = np.tile(tile, (6, 6, 1))
    maps = texture.describe(hr, scale, count=4)

    assert (maps["inconsistency"][AWAY] == 0).all()
    assert (maps["recurrence"][AWAY] == 0).all()
    assert (maps["severity"][AWAY] > 100).all()


@pytest.mark.parametrize("scale", [2, 4])
def test_noise_is_inconsistent(scale: int) -> None:
    hr = noise(np.random.default_rng(0), 60 * scale, 60 * scale)
    k, energy = texture.inconsistency(hr, scale)[AWAY], texture.severity(hr, scale)[AWAY]

    assert np.mean(k * energy) / np.mean(energy) == pytest.approx(2, abs=0.06)
    # Block by block the energy divided by varies, so the mean of ratios is above the ratio of
    # means: 1 + n / (n - 2) for n independent normal details a block.
    assert np.median(k) == pytest.approx(2, abs=0.3)
    assert np.mean(k) > 2


def test_inconsistency_equals_a_loop() -> None:
    hr, scale, count = noise(np.random.default_rng(3), 33, 38, 3), 3, 5
    found = neighbours.search(images.degrade(hr, scale), count)
    cropped = images.modcrop(hr, scale)
    up = images.imresize(images.degrade(hr, scale), scale)
    lost = images.luma(cropped) - images.luma(up)

    def block(p: int) -> np.ndarray:
        i, j = divmod(int(p), 12)
        return lost[3 * i : 3 * i + 3, 3 * j : 3 * j + 3]

    expected = [
        np.mean([np.mean((block(q) - block(p)) ** 2) for q in row]) / np.mean(block(p) ** 2)
        for p, row in zip(found.asked, found.index, strict=True)
    ]
    k = texture.inconsistency(hr, scale, found)

    np.testing.assert_allclose(k.ravel(), expected, rtol=1e-5)


def test_contrast_does_not_change_inconsistency() -> None:
    """A smooth, even picture, so that rounding and borders are small beside the texture."""
    rng = np.random.default_rng(4)
    pattern = rng.integers(-30, 31, (96, 96))
    weak, strong = 128 + pattern, 128 + 4 * pattern
    a, b = (texture.inconsistency(hr.astype(np.uint8), 4) for hr in (weak, strong))

    assert np.median(a / b) == pytest.approx(1, abs=0.02)


def test_sampling_changes_no_value() -> None:
    hr = noise(np.random.default_rng(5), 88, 60, 3)
    whole, some = texture.describe(hr, 4), texture.describe(hr, 4, every=3)

    for name in ("inconsistency", "recurrence"):
        np.testing.assert_array_equal(some[name][::3, ::3], whole[name][::3, ::3])
        assert np.isfinite(some[name]).sum() == 8 * 5
    np.testing.assert_array_equal(some["severity"], whole["severity"])


def test_a_single_copy_is_found_wherever_it_is() -> None:
    hr = noise(np.random.default_rng(6), 160, 160)
    hr[96:136, 80:120] = hr[8:48, 16:56]
    lr = images.degrade(hr, 4)
    rows, columns = np.s_[6:8], np.s_[8:10]  # of the copied part, what no edge of it reaches

    assert (texture.recurrence(lr)[rows, columns] == 0).all()
    one = neighbours.search(lr, 1)
    assert (texture.inconsistency(hr, 4, one)[rows, columns] == 0).all()


# --- descriptors ------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0, 15, 30, 45, 60, 90, 120, 135, 170])
def test_stripes_have_their_angle(angle: float) -> None:
    lr = grating(64, angle, 7.3)
    found = texture.orientation(lr)[8:-8, 8:-8]
    off = np.rad2deg(found) - angle

    assert ((found >= 0) & (found < np.pi)).all()
    assert np.abs((off + 90) % 180 - 90).max() < 3
    assert texture.coherence(lr)[8:-8, 8:-8].min() > 0.97


def test_noise_has_no_direction() -> None:
    lr = noise(np.random.default_rng(0), 200, 200)

    assert texture.coherence(lr).mean() < 0.35
    assert texture.coherence(lr, sigma=6).mean() < texture.coherence(lr).mean() / 2


@pytest.mark.parametrize(("down", "right"), [(0, 3), (2, 0), (1, 4)])
def test_a_ramp_has_its_slope(down: int, right: int) -> None:
    i, j = np.mgrid[:30, :30]
    lr = (down * i + right * j).astype(np.uint8)
    energy = texture.gradient_energy(lr)[8:-8, 8:-8]

    assert energy == pytest.approx(down**2 + right**2)
    # A uniform row of 5 positions has variance 2.
    assert texture.variance(lr)[8:-8, 8:-8] == pytest.approx(2 * (down**2 + right**2))


def test_floating_y_is_a_picture_too() -> None:
    lr = noise(np.random.default_rng(1), 20, 20, 3)
    y = images.luma(lr)

    for measure in (texture.variance, texture.coherence, texture.recurrence):
        np.testing.assert_array_equal(measure(y), measure(lr))


# --- refusals and real pictures ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: texture.severity(np.zeros((40, 40)), 4), "found float64"),
        (lambda: texture.severity(np.zeros((40, 40), np.uint8), 5), "expected 2, 3 or 4"),
        (lambda: texture.aliasing(np.zeros((40, 40), np.uint8), 1), "expected 2, 3 or 4"),
        (lambda: texture.severity(np.zeros((3, 40), np.uint8), 4), "non-empty"),
        (lambda: texture.describe(np.zeros((8, 8, 3), np.uint8), 4), "use a larger picture"),
        (lambda: texture.variance(np.full((9, 9), np.nan)), "NaN or infinity"),
        (
            lambda: texture.inconsistency(
                np.zeros((40, 40), np.uint8), 4, neighbours.search(np.zeros((9, 10), np.uint8))
            ),
            "LR picture of 10 x 10; found 9 x 10",
        ),
    ],
)
def test_bad_pictures_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_a_picture_of_a_few_pixels_has_maps() -> None:
    maps = texture.describe(noise(np.random.default_rng(0), 9, 8), 3, count=2)

    assert {grid.shape for grid in maps.values()} == {(3, 2)}


def test_real_textures_lie_between_copies_and_noise() -> None:
    """What the claim rests on: a photograph's look-alikes know more of its details than noise."""
    hr = next(iter(datasets.benchmark("mini", 4))).hr[:256, :256]
    maps = texture.describe(hr, 4)
    k, energy = maps["inconsistency"], maps["severity"]

    assert 0.2 < np.nanmean(k * energy) / np.mean(energy) < 2
    assert 0 < np.nanmean(maps["aliasing"]) < 0.5


def test_severity_of_a_benchmark_is_the_known_bicubic_psnr(benchmarks: Path) -> None:
    """The field's tables: bicubic, x4, Set5: 28.43 dB (Y rounded there: 28.42)."""
    folder = benchmarks / "Set5" / "HR"
    scores = [
        -texture.decibels(
            subpixel.interior(texture.severity(images.as_rgb(images.read(file)), 4)).mean()
        )
        for file in sorted(folder.iterdir())
    ]

    assert np.mean(scores) == pytest.approx(28.43, abs=0.01)
