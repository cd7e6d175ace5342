"""Intervals and tests: known answers, simulated coverage, and what has no answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dtfn import statistics
from dtfn.errors import InputError

RNG = np.random.default_rng(0)


# --- bootstrap --------------------------------------------------------------------------------


def test_a_large_sample_agrees_with_the_t_interval() -> None:
    values = RNG.normal(3, 2, 400)
    found = statistics.mean_interval(values)
    expected = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))

    assert found.estimate == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(expected, abs=0.02)
    assert found.clusters == 400
    assert found.note == ""


def test_the_bootstrap_of_two_values_is_known_exactly() -> None:
    """Means of samples from {0, 1}: 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4."""
    found = statistics.mean_interval([0.0, 1.0], method="percentile", confidence=0.4)
    wide = statistics.mean_interval([0.0, 1.0], method="percentile", confidence=0.6)

    assert (found.low, found.high) == (0.5, 0.5)
    assert (wide.low, wide.high) == (0, 1)


def clustered_sample(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Twenty images of eight values, which share most of their deviation from the mean, 0."""
    images = np.repeat(np.arange(20), 8)
    return rng.normal(0, 1, 20)[images] + rng.normal(0, 0.3, images.size), images


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_clustered_intervals_cover_the_truth_and_others_do_not(
    method: statistics.Method,
) -> None:
    rng = np.random.default_rng(1)
    clustered: list[bool] = []
    naive: list[bool] = []
    for _ in range(300):
        values, images = clustered_sample(rng)
        for hits, groups in ((clustered, images), (naive, None)):
            found = statistics.mean_interval(values, groups, method=method, resamples=499)
            hits.append(found.low <= 0 <= found.high)

    # The bootstrap of 20 covers a little less than it says; 300 trials have an error of 1.4 %.
    assert 0.88 <= np.mean(clustered) <= 0.98
    assert np.mean(naive) < 0.65


@given(
    st.lists(st.integers(-1000, 1000), min_size=2, max_size=30),
    st.sampled_from([0.125, 4.0, 1024.0]),  # exact in binary: ties between means stay ties
)
def test_units_do_not_matter(numbers: list[int], unit: float) -> None:
    values = np.array(numbers) / 100
    found = statistics.mean_interval(values, resamples=499)
    scaled = statistics.mean_interval(values * unit, resamples=499)

    assert found.low <= found.high
    assert found.low - 1e-9 <= found.estimate <= found.high + 1e-9
    assert [scaled.low, scaled.high] == pytest.approx([found.low * unit, found.high * unit])


def test_all_images_weigh_the_same() -> None:
    values = [0.0, 0.0, 0.0, 0.0, 4.0, 8.0]
    images = ["a", "a", "a", "a", "b", "c"]

    assert statistics.mean_interval(values, images).estimate == 4
    assert statistics.mean_interval(values, images).clusters == 3
    once = statistics.mean_interval([0.0, 4.0, 8.0])
    assert statistics.mean_interval(values, images) == once


def test_the_seed_alone_decides() -> None:
    values = RNG.normal(size=30)

    assert statistics.mean_interval(values) == statistics.mean_interval(values)
    np.random.default_rng().random()
    assert statistics.mean_interval(values, seed=1) != statistics.mean_interval(values)


def test_differences_are_paired() -> None:
    image = RNG.normal(30, 5, 40)
    a, b = image + 0.1 + RNG.normal(0, 0.01, 40), image
    found = statistics.difference_interval(a, b)

    assert found == statistics.mean_interval(a - b)
    assert 0.09 < found.low < found.high < 0.11  # the spread of the images is not in it


def test_a_ratio_is_that_of_the_means_and_not_of_each_image() -> None:
    part, whole = [1.0, 3.0, 0.5, 2.0], [2.0, 4.0, 0.01, 4.0]
    found = statistics.ratio_interval(part, whole)
    assert found.estimate == pytest.approx(sum(part) / sum(whole))
    assert found.low < found.estimate < found.high
    twice = statistics.ratio_interval(part * 2, whole * 2, list("abcd") * 2)
    assert twice.clusters == 4
    assert twice.estimate == pytest.approx(found.estimate)
    assert (twice.low, twice.high) == pytest.approx((found.low, found.high))


def test_intervals_of_ratios_cover_the_truth() -> None:
    rng = np.random.default_rng(5)
    hits = []
    for _ in range(300):
        whole = rng.gamma(4, 1, 30)
        part = 0.3 * whole + rng.normal(0, 0.5, 30)
        found = statistics.ratio_interval(part, whole, resamples=499)
        hits.append(found.low < 0.3 < found.high)
    assert 0.89 < np.mean(hits) < 0.98


def test_a_share_of_nothing_has_no_interval() -> None:
    negative = statistics.ratio_interval([1.0, 2.0], [-1.0, -3.0])
    assert np.isnan(negative.estimate)
    assert "nothing to gain" in negative.note
    perhaps = statistics.ratio_interval([1.0, 2.0, 1.0], [-1.0, 3.0, -0.5])
    assert np.isfinite(perhaps.estimate)
    assert np.isnan(perhaps.low)
    assert "perhaps" in perhaps.note
    single = statistics.ratio_interval([1.0], [2.0])
    assert (single.estimate, single.note) == (0.5, "a single image: no interval")
    infinite = statistics.ratio_interval([1.0, 2.0], [np.inf, 1.0])
    assert np.isnan(infinite.estimate)
    with pytest.raises(InputError, match="paired values"):
        statistics.ratio_interval([1.0], [1.0, 2.0])
    same = statistics.ratio_interval([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    assert (same.low, same.estimate, same.high) == (0.5, 0.5, 0.5)


def test_what_has_no_interval_says_so() -> None:
    one = statistics.mean_interval([2.0, 4.0], ["a", "a"])
    infinite = statistics.mean_interval([30.0, np.inf])
    equal = statistics.mean_interval([2.0, 2.0, 2.0])

    assert (one.estimate, one.clusters) == (3, 1)
    assert one.note == "a single image: no interval"
    assert infinite.estimate == np.inf
    assert infinite.note == "infinite values: no interval"
    assert np.isnan([one.low, one.high, infinite.low, infinite.high]).all()
    assert (equal.low, equal.high, equal.note) == (2, 2, "all images equal")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.mean_interval([]), "expected one or more numbers"),
        (lambda: statistics.mean_interval([1.0, np.nan]), "found NaN"),
        (lambda: statistics.mean_interval([1.0, 2.0], ["a"]), r"found \(2,\) and \(1,\)"),
        (lambda: statistics.mean_interval(np.ones((2, 2))), r"found \(2, 2\)"),
        (lambda: statistics.difference_interval([1.0, 2.0], [1.0]), "measure both on the same"),
        (lambda: statistics.difference_interval([np.inf], [np.inf]), "found NaN"),
        (lambda: statistics.sign_flip([1.0, np.inf]), "found infinity"),
        (lambda: statistics.sign_flip([]), "expected one or more numbers"),
    ],
)
def test_bad_values_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


# --- permutation ------------------------------------------------------------------------------


def test_all_signs_alike_gives_the_smallest_p_value() -> None:
    values = [0.3, 0.1, 0.2, 0.4, 0.1]

    assert statistics.sign_flip(values) == pytest.approx(2 / 2**5)
    assert statistics.sign_flip(values, alternative="greater") == pytest.approx(1 / 2**5)
    assert statistics.sign_flip(values, alternative="less") == 1
    assert np.isnan(statistics.sign_flip([5.0, 6.0], ["a", "a"]))  # one image tells nothing
    assert statistics.sign_flip([0.0, 0.0, 0.0]) == 1


@settings(max_examples=20)
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=8))
def test_small_samples_equal_a_loop_over_all_sign_patterns(numbers: list[int]) -> None:
    values = np.array(numbers, float)
    sums = [
        float(np.dot(signs, values)) for signs in itertools.product((1, -1), repeat=len(values))
    ]
    above = np.mean([total >= values.sum() for total in sums])
    below = np.mean([total <= values.sum() for total in sums])

    assert statistics.sign_flip(values, alternative="greater") == pytest.approx(above)
    assert statistics.sign_flip(values) == pytest.approx(min(1, 2 * min(above, below)))


def test_an_image_flips_as_a_whole() -> None:
    values, images = np.repeat([0.3, 0.2, 0.4], 50), np.repeat(["a", "b", "c"], 50)

    assert statistics.sign_flip(values, images) == pytest.approx(2 / 2**3)
    assert statistics.sign_flip(values) < 1e-3


def test_the_test_errs_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    p_values = [statistics.sign_flip(rng.laplace(size=8)) for _ in range(300)]

    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.03)


def crossed(rng: np.random.Generator, image: float, seed: float) -> tuple[np.ndarray, ...]:
    """Ten images times six seeds, with effects of the image and of the seed about 0."""
    images, seeds = (names.ravel() for names in np.mgrid[:10, :6])
    values = rng.normal(0, image, 10)[images] + rng.normal(0, seed, 6)[seeds]
    return values + rng.normal(0, 0.1, 60), images, seeds


def test_a_lucky_seed_is_no_method_and_a_lucky_image_neither() -> None:
    """Whichever kind of replicate differs by luck, the test of both errs as often as it says."""
    rng = np.random.default_rng(5)
    for effects in ((0.0, 1.0), (1.0, 0.0), (1.0, 1.0)):
        found = [
            statistics.sign_flip_crossed(*crossed(rng, *effects), resamples=1023)
            for _ in range(150)
        ]
        assert np.mean([p.both <= 0.05 for p in found]) <= 0.08
        # Each test alone is fooled by what it does not draw.
        if effects == (0.0, 1.0):
            assert np.mean([p.images <= 0.05 for p in found]) > 0.5
        if effects == (1.0, 0.0):
            assert np.mean([p.seeds <= 0.05 for p in found]) > 0.5


def test_crossed_tests_are_those_of_the_means() -> None:
    values, images, seeds = crossed(np.random.default_rng(6), 1, 1)
    grid = values.reshape(10, 6)
    order = np.random.default_rng(7).permutation(60)
    found = statistics.sign_flip_crossed(values[order], images[order], seeds[order])

    assert found.images == pytest.approx(statistics.sign_flip(grid.mean(axis=1)))
    assert found.seeds == pytest.approx(statistics.sign_flip(grid.mean(axis=0)))
    assert found.both == max(found.images, found.seeds)


def test_one_seed_tells_nothing_of_others() -> None:
    found = statistics.sign_flip_crossed([0.3, 0.1, 0.2], ["a", "b", "c"], [0, 0, 0])

    assert found.images == pytest.approx(2 / 2**3)
    assert np.isnan([found.seeds, found.both]).all()


@pytest.mark.parametrize(
    ("values", "images", "seeds", "message"),
    [
        ([1.0, 2.0, 3.0], ["a", "a", "b"], [0, 1, 0], "1 missing, 0 repeated"),
        ([1.0, 2.0, 3.0], ["a", "a", "b"], [0, 0, 0], "0 missing, 1 repeated"),
        ([1.0, 2.0], ["a", "b"], [0], r"\(2,\), \(2,\) and \(1,\)"),
        ([], [], [], "expected one or more"),
        ([1.0, np.nan], ["a", "b"], [0, 0], "found NaN"),
    ],
)
def test_incomplete_designs_are_refused(
    values: list[float], images: list[str], seeds: list[int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        statistics.sign_flip_crossed(values, images, seeds)


# --- false discoveries ------------------------------------------------------------------------


@given(st.lists(st.integers(0, 100), min_size=1, max_size=20), st.sampled_from([0.05, 0.2, 0.5]))
def test_discoveries_are_those_of_the_step_up_rule(percents: list[int], q: float) -> None:
    """Benjamini and Hochberg's own words: the largest k with p_(k) <= q k / m, and all before."""
    p = np.array(percents) / 100
    ordered = np.sort(p)
    passing = [k for k in range(1, p.size + 1) if ordered[k - 1] * p.size <= q * k * (1 + 1e-12)]
    limit = ordered[max(passing) - 1] if passing else -1
    found = statistics.false_discovery(p) <= q * (1 + 1e-9)

    assert found.tolist() == (p <= limit).tolist()


def test_few_discoveries_are_false() -> None:
    """Forty regions, thirty of them with nothing: a share of at most q * 30 / 40 is expected."""
    rng = np.random.default_rng(8)
    shares = []
    for _ in range(400):
        effects = np.repeat([0.0, 3.0], [30, 10])
        p = 2 * stats.norm.sf(np.abs(rng.normal(effects)))
        found = statistics.false_discovery(p) <= 0.2
        shares.append(found[:30].sum() / max(1, found.sum()))

    assert np.mean(shares) == pytest.approx(0.2 * 30 / 40, abs=0.02)


def test_missing_tests_do_not_count() -> None:
    found = statistics.false_discovery([0.01, np.nan, 0.02, 0.5])

    assert found[[0, 2, 3]] == pytest.approx(statistics.false_discovery([0.01, 0.02, 0.5]))
    assert np.isnan(found[1])
    assert np.isnan(statistics.false_discovery([np.nan])).all()
    assert statistics.false_discovery([]).size == 0
    for bad in ([1.1], [-0.1], np.ones((2, 2))):
        with pytest.raises(InputError, match="a row of numbers within"):
            statistics.false_discovery(bad)


# --- rank correlation -------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_one_image_has_the_correlation_of_scipy(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, float).T
    found = statistics.rank_correlation_within(x, y, np.zeros(x.size))

    assert np.isnan([found.low, found.high]).all()
    if np.ptp(x) and np.ptp(y):
        assert found.estimate == pytest.approx(stats.spearmanr(x, y).statistic)
        assert found.note == "a single image: no interval"
        across = statistics.rank_correlation_across(x, y, resamples=99)
        assert across.estimate == pytest.approx(found.estimate)
    else:
        assert np.isnan(found.estimate)
        assert found.note == "1 of 1 images have no correlation"


def test_differences_between_images_do_not_enter() -> None:
    """Falling in every image, rising from image to image."""
    rng = np.random.default_rng(9)
    image = np.repeat(np.arange(12), 40)
    inside = rng.normal(size=image.size)
    x, y = 10 * image + inside, 10 * image - inside
    order = rng.permutation(image.size)
    within = statistics.rank_correlation_within(x[order], y[order], image[order])
    across = statistics.rank_correlation_across(x, y, image)

    assert (within.estimate, within.low, within.high) == (-1, -1, -1)
    assert (across.estimate, across.low, across.high) == (1, 1, 1)
    assert within.clusters == across.clusters == 12


def test_correlations_within_images_average_those_of_scipy() -> None:
    rng = np.random.default_rng(10)
    names = np.repeat(["a", "b", "c"], [30, 50, 20])
    x, y = rng.normal(size=100), rng.normal(size=100)
    x[3], y[40], x[60] = np.nan, np.nan, np.inf
    each = []
    for name in "abc":
        here = (names == name) & ~np.isnan(x) & ~np.isnan(y)
        each.append(stats.spearmanr(x[here], y[here]).statistic)
    found = statistics.rank_correlation_within(x, y, names)

    assert found == statistics.mean_interval(each)


def test_images_without_a_correlation_do_not_count() -> None:
    x = [1.0, 2.0, 3.0, 5.0, 5.0, 5.0, 1.0, 2.0, 4.0, np.nan]
    y = [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 3.0, 1.0, 2.0, 1.0]
    names = ["a"] * 3 + ["flat"] * 3 + ["c"] * 3 + ["empty"]
    found = statistics.rank_correlation_within(x, y, names)

    assert found.clusters == 2
    assert found.estimate == pytest.approx((1 - 0.5) / 2)
    assert found.note == "2 of 4 images have no correlation"


def test_intervals_across_images_cover_the_truth() -> None:
    """Normal pairs: Spearman's correlation of the population is 6 / pi * asin(r / 2)."""
    rng = np.random.default_rng(11)
    r, truth, hits = 0.7, 6 / np.pi * np.arcsin(0.35), []
    for _ in range(200):
        x, z = rng.normal(size=(2, 20))
        found = statistics.rank_correlation_across(x, r * x + np.sqrt(1 - r * r) * z, resamples=499)
        hits.append(found.low <= truth <= found.high)

    assert 0.91 <= np.mean(hits) <= 0.99


def test_intervals_within_images_cover_the_truth_and_pooled_ones_do_not() -> None:
    """Images differ in how strongly y follows x: their number, not that of positions, counts."""
    rng = np.random.default_rng(12)
    image = np.repeat(np.arange(20), 60)
    hits, pooled = [], []
    for _ in range(150):
        slope = rng.normal(0, 1, 20)[image]
        x, z = rng.normal(size=(2, image.size))
        y = slope * x + z
        found = statistics.rank_correlation_within(x, y, image, resamples=499)
        hits.append(found.low <= 0 <= found.high)
        pooled.append(stats.spearmanr(x, y).pvalue > 0.05)

    assert 0.88 <= np.mean(hits) <= 0.98
    assert np.mean(pooled) < 0.6


def test_correlations_across_too_few_or_equal_images_say_so() -> None:
    few = statistics.rank_correlation_across([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
    equal = statistics.rank_correlation_across(np.arange(6.0), np.ones(6))

    assert few.estimate == pytest.approx(0.5)
    assert few.note == "fewer than 5 images: no interval"
    assert np.isnan([few.low, few.high, equal.estimate, equal.low]).all()
    assert equal.note == "the images do not differ: no correlation"
    with pytest.raises(InputError, match="ravel both maps"):
        statistics.rank_correlation_within([1.0, 2.0], [1.0], ["a", "a"])
    with pytest.raises(InputError, match="found NaN"):
        statistics.rank_correlation_across([1.0, np.nan], [1.0, 2.0])


# --- tables -----------------------------------------------------------------------------------


def table() -> pd.DataFrame:
    """Two datasets whose images share a name, measured twice each."""
    return pd.DataFrame(
        {
            "pair": "nla",
            "dataset": ["A", "A", "A", "A", "B", "B"],
            "image": ["x", "x", "y", "y", "x", "x"],
            "scale": 4,
            "rate": [0.1, 0.3, 0.6, 0.8, 0.4, 0.5],
            "share": [np.nan, np.nan, 0.6, 0.8, 0.4, 0.5],
        }
    )


def test_intervals_go_group_by_group() -> None:
    found = statistics.intervals(table(), ["rate", "share"]).set_index(["dataset", "metric"])

    assert found.loc[("A", "rate"), "estimate"] == pytest.approx(0.45)
    assert found.loc[("A", "rate"), "clusters"] == 2
    assert found.loc[("A", "share"), "clusters"] == 1  # an image without a share does not count
    assert found.loc[("B", "rate"), "note"] == "a single image: no interval"
    whole = statistics.intervals(table(), ["rate"], by=())
    assert whole.loc[0, "clusters"] == 3  # x of A is not x of B
    assert whole.loc[0, "estimate"] == pytest.approx((0.2 + 0.7 + 0.45) / 3)


def test_intervals_name_the_missing_column() -> None:
    with pytest.raises(InputError, match="the columns harm"):
        statistics.intervals(table(), ["harm"])


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_a_binary_correlation_is_spearman_s(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 12, size).astype(float)
    values[rng.random(size) < 0.2] = np.nan
    flags, kept = rng.random(size) < 0.4, rng.random(size) < 0.8
    codes = statistics.codes(values)
    known = kept & ~np.isnan(values)
    assert statistics.ranks(codes[known]) == pytest.approx(stats.rankdata(values[known]))
    found = statistics.spearman_binary(flags, codes, kept)
    if known.any() and np.ptp(values[known]) and np.ptp(flags[known].astype(int)):
        expected = stats.spearmanr(flags[known], values[known]).statistic
        assert found == pytest.approx(expected, abs=1e-12)
    else:
        assert np.isnan(found)


def test_means_that_differ_by_rounding_are_equal() -> None:
    values = 0.5 + np.array([0, 1, -1, 2]) * 1e-16
    found = statistics.mean_interval(values)
    assert (found.low, found.high, found.note) == (found.estimate,) * 2 + ("all images equal",)
