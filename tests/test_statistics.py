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


def clustered_sample(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Twenty images of eight values, which share most of their deviation from the mean, 0."""
    images = np.repeat(np.arange(20), 8)
    return rng.normal(0, 1, 20)[images] + rng.normal(0, 0.3, images.size), images


def test_clustered_intervals_cover_the_truth_and_others_do_not() -> None:
    rng = np.random.default_rng(1)
    clustered: list[bool] = []
    naive: list[bool] = []
    for _ in range(300):
        values, images = clustered_sample(rng)
        for hits, groups in ((clustered, images), (naive, None)):
            found = statistics.mean_interval(values, groups, resamples=499)
            hits.append(found.low <= 0 <= found.high)

    # The bootstrap of 20 covers a little less than it says; 300 trials have an error of 1.4 %.
    assert 0.88 <= np.mean(clustered) <= 0.98
    assert np.mean(naive) < 0.65


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

    assert statistics.sign_flip(values) == pytest.approx(min(1, 2 * min(above, below)))


def test_an_image_flips_as_a_whole() -> None:
    values, images = np.repeat([0.3, 0.2, 0.4], 50), np.repeat(["a", "b", "c"], 50)

    assert statistics.sign_flip(values, images) == pytest.approx(2 / 2**3)
    assert statistics.sign_flip(values) < 1e-3


def test_the_test_errs_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    p_values = [statistics.sign_flip(rng.laplace(size=8)) for _ in range(300)]

    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.03)


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


def test_missing_tests_do_not_count() -> None:
    found = statistics.false_discovery([0.01, np.nan, 0.02, 0.5])

    assert found[[0, 2, 3]] == pytest.approx(statistics.false_discovery([0.01, 0.02, 0.5]))
    assert np.isnan(found[1])
    assert np.isnan(statistics.false_discovery([np.nan])).all()
    assert statistics.false_discovery([]).size == 0
    for bad in ([1.1], [-0.1], np.ones((2, 2))):
        with pytest.raises(InputError, match="a row of numbers within"):
            statistics.false_discovery(bad)


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


def test_a_group_without_a_value_has_no_interval() -> None:
    found = statistics.intervals(table().assign(rate=np.nan), ["rate"], by=())
    assert found.loc[0, "clusters"] == 0
    assert np.isnan(found.loc[0, "estimate"])
