"""Intervals and tests: known answers, simulated coverage, and what has no answer."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tiny import refused

from dtfn import statistics

RNG = np.random.default_rng(0)


def test_a_large_sample_agrees_with_the_t_interval() -> None:
    values = RNG.normal(3, 2, 400)
    found = statistics.mean_interval(values)
    expected = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert found.estimate == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(expected, abs=0.02)
    assert (found.pictures, found.note) == (400, "")
    assert statistics.mean_interval(values) == found, "the draws are fixed"
    for few, estimate, end, note in (
        ([3.0], 3, np.nan, "a single image: no interval"),
        ([30.0, np.inf], np.inf, np.nan, "infinite values: no interval"),
        ([2.0, 2.0, 2.0], 2, 2, "all images equal"),
    ):
        found = statistics.mean_interval(few)
        assert (found.estimate, found.note) == (estimate, note)
        np.testing.assert_equal([found.low, found.high], [end, end])
        refused("expected one or more numbers", statistics.mean_interval, [*few, np.nan])


def table(pictures: int, seeds: int, between: float = 0, within: float = 1, rng: int = 1) -> Any:
    """Values around 1, which share what is peculiar to a picture and to a seed."""
    draw = np.random.default_rng(rng)
    shift, of_picture = between * draw.normal(size=seeds), draw.normal(size=pictures)
    p, s = np.divmod(np.arange(pictures * seeds), seeds)
    value = 1 + shift[s] + of_picture[p] + within * draw.normal(size=p.size)
    about = {"dataset": "a", "image": p.astype(str), "group": (p % 2).astype(str)}
    return pd.DataFrame(about | {"seed": s, "value": value})


def test_with_one_seed_it_is_the_bootstrap_of_scipy() -> None:
    one = table(30, 1)
    ours = statistics.crossed(one, "value")
    theirs = stats.bootstrap((one["value"],), np.mean, method="percentile").confidence_interval
    assert ours.estimate == pytest.approx(one["value"].mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)
    assert (ours.pictures, ours.seeds) == (30, 1)
    assert np.isnan(statistics.crossed(one[:1], "value").low)
    calm, wild = (statistics.crossed(table(30, 4, b), "value") for b in (0.0, 2.0))
    assert wild.high - wild.low > 2 * (calm.high - calm.low)
    assert calm.agree
    assert not wild.agree


def test_intervals_over_pictures_cover_the_truth_and_others_do_not() -> None:
    """The bootstrap of 20 covers a little less than it says; 120 trials have an error of 2 %."""
    hits: dict[str, list[bool]] = {"pictures": [], "rows": []}
    for trial in range(120):
        one = table(20, 8, within=0.3, rng=trial)
        alone = one.assign(image=np.arange(len(one)).astype(str), seed=0)
        for name, some in (("pictures", one), ("rows", alone)):
            found = statistics.crossed(some, "value")
            hits[name].append(found.low <= 1 <= found.high)
    assert 0.86 <= np.mean(hits["pictures"]) <= 0.98
    assert np.mean(hits["rows"]) < 0.65


def test_ratios_differences_and_groups_by_hand() -> None:
    one = table(12, 3).assign(weight=lambda t: 1.0 + t["seed"], gap=np.nan)
    ratio = statistics.crossed(one, "value", "weight")
    assert ratio.estimate == pytest.approx(one["value"].sum() / one["weight"].sum())
    once = statistics.crossed(one, "value")
    less = statistics.crossed(one.assign(value=2 * one["value"]), "value") - once
    expected = once.estimate, once.low, once.high
    assert (less.estimate, less.low, less.high) == pytest.approx(expected)
    found = statistics.crossed_by(one, ["dataset", "group"], ["value", "weight"])
    assert found["group"].tolist() == ["0", "1"]
    half = statistics.crossed(one[one["group"] == "1"], "value").columns("value")
    assert found.loc[1, list(half)].to_dict() == half
    assert found[["seeds", "pictures"]].to_numpy().tolist() == [[3, 6], [3, 6]]
    names = ["group", "value", "value_low", "value_high", "seeds", "pictures"]
    assert list(statistics.crossed_by(one[:0], ["group"], ["value"])) == names
    refused("a picture that has it", statistics.crossed, one, "gap")


@pytest.mark.parametrize(("effect", "below"), [(0.0, 0.01), (1.0, 2.0)])
def test_a_p_value_is_twice_the_share_on_the_wrong_side(effect: float, below: float) -> None:
    found = statistics.crossed(table(30, 3), "value")
    wrong = (found.draws <= effect).sum()
    assert found.p_value(effect) == pytest.approx(min(1, 2 * (1 + wrong) / 10001))
    assert 0 < found.p_value(effect) < below


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
