"""Exemplar bound: against a loop that builds each picture, known answers, and its properties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_networks import saved, small

from dtfn import capture, datasets, evaluation, exemplars, images
from dtfn.errors import InputError
from dtfn.evaluation import metrics
from dtfn.texture import neighbours
from dtfn.texture.neighbours import Neighbours


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def noisy(height: int, width: int) -> datasets.Sample:
    hr = noise(0, 2 * height, 2 * width, 3)
    return datasets.Sample("set", "noise", 2, images.degrade(hr, 2), hr)


def copied(hr: np.ndarray, scale: int, choice: np.ndarray) -> np.ndarray:
    """The bicubic Y picture with the detail of the chosen position in each block."""
    y = images.luma(hr)
    up = images.luma(images.imresize(images.degrade(hr, scale), scale))
    width, s = y.shape[1] // scale, scale
    result = up.copy()
    for p, q in enumerate(choice.tolist()):
        (i, j), (k, l) = divmod(p, width), divmod(q, width)
        theirs = np.s_[k * s : k * s + s, l * s : l * s + s]
        result[i * s : i * s + s, j * s : j * s + s] += y[theirs] - up[theirs]
    return result


def psnr(x: np.ndarray, y: np.ndarray, border: int) -> float:
    inside = np.s_[border:-border, border:-border]
    return float(10 * np.log10(255**2 / np.mean((x[inside] - y[inside]) ** 2)))


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 4]), st.integers(1, 4))
def test_scores_are_those_of_the_pictures_one_would_build(seed: int, s: int, count: int) -> None:
    hr = noise(seed, 6 * s, 7 * s, 3)
    y = images.luma(hr)
    found = neighbours.search(images.degrade(hr, s), count)
    scores = exemplars.exemplar_bound(hr, s, found)
    pictures = np.stack([copied(hr, s, found.index[:, k]) for k in range(count)])
    errors = ((pictures - y) ** 2).reshape(count, 6, s, 7, s).mean(axis=(2, 4))
    best = errors.min(axis=0)[1:-1, 1:-1].mean()

    assert scores["exemplar_similar"] == pytest.approx(psnr(pictures[0], y, s), abs=1e-4)
    assert scores["exemplar_bound"] == pytest.approx(10 * np.log10(255**2 / best), abs=1e-4)
    bicubic = images.imresize(images.degrade(hr, s), s)
    assert scores["exemplar_bicubic"] == pytest.approx(metrics.psnr(bicubic, hr, s), abs=1e-4)


@given(st.integers(0, 2**32 - 1))
def test_more_candidates_never_lower_the_bound(seed: int) -> None:
    hr = noise(seed, 40, 36)
    found = neighbours.search(images.degrade(hr, 4), 6)
    bounds = []
    for count in range(1, 7):
        fewer = Neighbours(found.shape, found.asked, found.index[:, :count])
        bounds.append(exemplars.exemplar_bound(hr, 4, fewer))

    curve = [bound["exemplar_bound"] for bound in bounds]
    assert curve == sorted(curve)
    assert {bound["exemplar_similar"] for bound in bounds} == {curve[0]}
    assert bounds[0]["exemplar_price"] == 0
    assert all(bound["exemplar_price_random"] >= 0 for bound in bounds)


@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_rest_does_not_matter(seed: int) -> None:
    hr = noise(seed, 24, 24)
    found = neighbours.search(images.degrade(hr, 4), 5)
    order = [0, *(1 + np.random.default_rng(seed).permutation(4))]
    shuffled = Neighbours(found.shape, found.asked, found.index[:, order])

    assert exemplars.exemplar_bound(hr, 4, shuffled) == exemplars.exemplar_bound(hr, 4, found)


def test_a_periodic_texture_costs_nothing() -> None:
    hr = np.tile(noise(0, 32, 32, 3), (6, 6, 1))
    errors = exemplars.exemplar_errors(hr, 4)
    inner = {name: error[4:-4, 4:-4] for name, error in errors.items()}

    assert (inner["similar"] == 0).all()
    assert (inner["best"] == 0).all()
    assert inner["bicubic"].min() > 0
    # A stranger in 63 of 64 cases: the tile has 64 positions.
    assert (inner["random"] == 0).mean() == pytest.approx(1 / 64, abs=0.02)


def test_the_bound_finds_the_one_candidate_that_likeness_misses() -> None:
    """A position's attended set in which the twin of each stands last."""
    hr = np.tile(noise(1, 80, 80), (2, 1))
    lr = images.degrade(hr, 4)
    grid = np.arange(lr.size).reshape(lr.shape)
    twin = np.roll(grid, 20, axis=0).ravel()
    index = np.stack([np.roll(grid, 7, axis=1).ravel(), np.roll(grid, 9, axis=1).ravel(), twin], 1)
    found = Neighbours(
        (lr.shape[0], lr.shape[1]), grid.ravel().astype(np.int32), index.astype(np.int32)
    )
    errors = exemplars.exemplar_errors(hr, 4, found)
    away = np.s_[4:16, 4:-4]  # of the seam and the border

    assert (errors["best"][away] == 0).all()
    assert (errors["similar"][away] > 0).all()


def test_among_strangers_likeness_gains_nothing_and_the_truth_still_does() -> None:
    scores = exemplars.exemplar_bound(noise(2, 320, 320), 4)

    assert scores["exemplar_similar"] == pytest.approx(scores["exemplar_random"], abs=0.1)
    assert scores["exemplar_bound"] == pytest.approx(scores["exemplar_bound_random"], abs=0.1)
    assert scores["exemplar_price_random"] > 0.5
    assert scores["exemplar_random"] < scores["exemplar_bicubic"] - 2.5  # twice the energy: 3 dB


def test_lots_are_even_and_never_the_position_itself() -> None:
    found = neighbours.search(noise(3, 5, 5), 8)
    drawn = np.stack([exemplars._lots(found, 25, seed) for seed in range(200)])

    assert (drawn != found.asked[:, None]).all()
    assert (drawn.min(), drawn.max()) == (0, 24)
    counts = np.bincount(drawn.ravel(), minlength=25)
    assert counts / counts.mean() == pytest.approx(1, abs=0.15)


def test_the_seed_decides_the_lots_alone() -> None:
    hr = noise(4, 60, 60)
    a, b, c = (exemplars.exemplar_bound(hr, 3, seed=seed) for seed in (0, 0, 1))

    assert a == b
    assert a["exemplar_bound"] == c["exemplar_bound"]
    assert a["exemplar_random"] != c["exemplar_random"]


def test_positions_that_were_not_asked_about_do_not_count() -> None:
    hr = noise(5, 84, 84)
    found = neighbours.search(images.degrade(hr, 4), every=2)
    whole, some = exemplars.exemplar_errors(hr, 4), exemplars.exemplar_errors(hr, 4, found)

    np.testing.assert_array_equal(some["best"][::2, ::2], whole["best"][::2, ::2])
    assert np.isnan(some["best"]).sum() == 21 * 21 - 11 * 11
    inside = some["best"][1:-1, 1:-1]
    assert exemplars.exemplar_bound(hr, 4, found)["exemplar_bound"] == pytest.approx(
        10 * np.log10(255**2 / np.nanmean(inside))
    )


def test_a_constant_picture_is_perfect_already() -> None:
    scores = exemplars.exemplar_bound(np.full((40, 40), 9, np.uint8), 4)

    assert {score for name, score in scores.items() if "price" not in name} == {np.inf}
    assert scores["exemplar_price"] == scores["exemplar_price_random"] == 0


def test_real_look_alikes_beat_strangers() -> None:
    hr = next(iter(datasets.benchmark("mini", 4))).hr[:256, :256]
    scores = exemplars.exemplar_bound(hr, 4)

    assert scores["exemplar_similar"] > scores["exemplar_random"]
    assert scores["exemplar_bound"] > scores["exemplar_bound_random"]
    assert scores["exemplar_price"] > 0.5


@pytest.mark.parametrize("size", [(8, 8), (4, 4)])
def test_pictures_without_enough_positions_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="larger picture"):
        exemplars.exemplar_bound(np.zeros(size, np.uint8), 4)
    found = neighbours.search(np.zeros((2, 2), np.uint8), 1)
    with pytest.raises(InputError, match="larger image"):  # no interior
        exemplars.exemplar_bound(np.zeros((8, 8), np.uint8), 4, found)


# --- what a network attends to --------------------------------------------------------------


@pytest.mark.parametrize("name", ["nln", "dtfn", "hspan"])
def test_attended_positions_are_those_of_most_weight(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, file, sample = small(name), saved(tmp_path, name), noisy(9, 11)
    found = exemplars.attended(file, sample, count=5, every=2)
    assert found.shape == (9, 11)
    x = torch.from_numpy(sample.lr).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode(), capture.record(network) as record:
        network(x)
    for position, index in zip(found.asked.tolist(), found.index.tolist(), strict=True):
        row, column = divmod(position, 11)
        assert (row % 2, column % 2) == (0, 0)
        maps = [record.map(layer, (row, column)).double().ravel() for layer in record.layers]
        weights = torch.stack(maps).sum(0).numpy()
        weights[position] = -1
        assert position not in index or (weights <= 0).all()
        best = np.sort(weights)[::-1][:5]
        best = np.where(best > 0, best, best[0])
        assert weights[index] == pytest.approx(best, abs=1e-5)
    monkeypatch.setattr(evaluation, "upscale", None)  # what is known is not found again
    again = exemplars.attended(file, sample, count=5, every=2)
    assert np.array_equal(again.index, found.index)


def test_measure_scores_each_set_at_the_same_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hr = noise(5, 48, 56, 3)
    sample = datasets.Sample("mini", "a", 2, images.degrade(hr, 2), hr)
    monkeypatch.setattr(evaluation, "samples", lambda *_: iter([sample]))
    net = saved(tmp_path, "nln")
    table = exemplars.measure(["mini"], 2, networks=[net], every=3)
    assert table["candidates"].tolist() == [exemplars.LOOK_ALIKES, f"places attended by {net}"]
    assert table["exemplar_bicubic"].nunique() == 1
    alone = exemplars.exemplar_bound(hr, 2, neighbours.search(sample.lr, 8, 3))
    assert table["exemplar_bound"][0] == pytest.approx(alone["exemplar_bound"])
    gains = exemplars.over_bicubic(table).set_index(["candidates", "metric"])["estimate"]
    expected = alone["exemplar_similar"] - alone["exemplar_bicubic"]
    assert gains[(exemplars.LOOK_ALIKES, "exemplar_similar")] == pytest.approx(expected)


def test_attention_to_more_than_there_is_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="attended positions: expected 1 to 8; found 9"):
        exemplars.attended(saved(tmp_path, "nln"), noisy(3, 3), count=9)
