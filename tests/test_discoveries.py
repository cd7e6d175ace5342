"""Regions against the null pair's own: luck is called luck, what was planted is discovered."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.ndimage import gaussian_filter

from dtfn import subpixel, zoo
from dtfn.subpixel import Picture, discoveries
from dtfn.subpixel.regions import Region

SCALE = 2
PAIRS = {subpixel.NULL: ("l1", "l0"), "luck": ("l2", "l0"), "nla": ("n", "l0")}
BOXES = (np.s_[20:44, 60:80], np.s_[60:80, 10:34])  # HR pixels: 12 x 10 and 10 x 12 positions


def picture(number: int) -> Picture:
    """Three twins that differ by luck; "n" is worse in two boxes of two pictures in three."""
    rng = np.random.default_rng(number)
    hr = rng.integers(60, 200, (96, 120)).astype(np.uint8)
    made: dict[str, NDArray[np.uint8]] = {}
    for method in ("l0", "l1", "l2", "n"):
        # Errors of networks go together over some positions, as textures do.
        noise = 12 * gaussian_filter(rng.normal(0, 4, hr.shape), 1.5)
        made[method] = np.clip(np.rint(hr + noise), 0, 255).astype(np.uint8)
    if number % 3 < 2:
        for box in BOXES:
            made["n"][box] = hr[box] + 30
    return Picture("set", f"{number}", SCALE, hr, made)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return discoveries.judge(discoveries.regions_of(picture(n), PAIRS) for n in range(12))


def test_luck_is_no_discovery(table: pd.DataFrame) -> None:
    counts = discoveries.count(table).set_index(["pair", "side"])["discoveries"]
    for pair in (subpixel.NULL, "luck"):
        for side in discoveries.SIDES:
            assert counts[pair, side] == 0


def test_p_values_of_luck_are_even(table: pd.DataFrame) -> None:
    """Twins that were not used to find the threshold have nearly even p-values."""
    p = table.loc[table["pair"] == "luck", "p"]
    assert len(p) > 60
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(p <= 0.1) < 0.2


def test_planted_harm_is_discovered_where_it_is(table: pd.DataFrame) -> None:
    found = table[(table["q"] <= 0.05) & (table["pair"] == "nla")]
    assert set(found["side"]) == {"harm"}
    planted = [str(n) for n in range(12) if n % 3 < 2]
    assert sorted(found["image"], key=int) == sorted([*planted, *planted], key=int)
    for row in found.itertuples():
        corner, size = ((10, 30), (12, 10)) if row.left > 20 else ((30, 5), (10, 12))
        assert np.abs(np.subtract((row.top, row.left), corner)).max() <= 4
        assert np.abs(np.subtract((row.height, row.width), size)).max() <= 8
        assert row.mass == pytest.approx(12 * 10 * 900, rel=0.25)
        assert row.region.area == row.area
    count = discoveries.count(table).set_index(["pair", "side"]).loc[("nla", "harm")]
    assert (count["discoveries"], count["pictures"]) == (16, 8)
    assert count["area"] == found["area"].sum()


def test_the_nulls_own_regions_are_compared_with_other_pictures() -> None:
    rows = [(subpixel.NULL, "a", 5.0), (subpixel.NULL, "b", 1.0), (subpixel.NULL, "b", 2.0)]
    rows += [("nla", "a", 3.0)]
    frame = pd.DataFrame(rows, columns=["pair", "image", "strength"])
    frame = frame.assign(side="harm", dataset="set", region=None)

    found = discoveries.judge([frame])

    assert found["p"].tolist() == [1 / 3, 1, 1, 2 / 4]


def test_p_values_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    luck, strengths = rng.integers(0, 9, 40), rng.integers(0, 12, 20)
    expected = [(1 + np.sum(luck >= t)) / 41 for t in strengths]
    np.testing.assert_allclose(discoveries.p_values(strengths, luck), expected)
    assert discoveries.p_values([3.0], []).tolist() == [1.0]


def test_no_region_anywhere_is_no_error() -> None:
    same = picture(1)
    flat = Picture("set", "flat", SCALE, same.hr, dict.fromkeys(("l0", "l1", "l2", "n"), same.hr))
    found = discoveries.judge([discoveries.regions_of(flat, PAIRS)])
    assert found.empty
    assert discoveries.count(found).empty
    assert discoveries.worst(found, ["nla", "luck"]) == "nla"
    assert discoveries.choose(found, "nla").empty


def test_the_worst_pair_and_its_place(table: pd.DataFrame) -> None:
    assert discoveries.worst(table, ["luck", "nla"]) == "nla"
    chosen = discoveries.choose(table, "nla")
    assert chosen["side"].tolist() == ["harm", "help"]
    assert chosen["image"].nunique() == 1
    harm = table[(table["pair"] == "nla") & (table["side"] == "harm") & (table["q"] <= 0.05)]
    assert chosen.loc[0, "mass"] == harm["mass"].max()
    elsewhere = discoveries.choose(table, "nla", image="2")
    assert set(elsewhere["image"]) == {"2"}


def test_the_centre_lies_inside() -> None:
    ring = np.ones((9, 11), bool)
    ring[2:7, 3:9] = False  # its middle does not belong to it
    region = Region(20, 30, 9, 11, int(ring.sum()), 1.0, 1.0, ring)
    row, column = region.centre()
    assert ring[row - 20, column - 30]
    assert Region(2, 3, 5, 7, 35, 1.0).centre()[0] == 4


def test_values_of_a_region() -> None:
    inside = np.array([[True, False], [True, True]])
    region = Region(1, 2, 2, 2, 3, 1.0, 1.0, inside)
    assert region.of(np.arange(20).reshape(4, 5)).tolist() == [7, 12, 13]


def test_replicates_are_those_that_the_zoo_has(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["local-x4-s0", "local-x4-s1", "local-x4-s2", "nla-x4-s0", "nla-x4-s1", "dtfn-x4-s0"]
    monkeypatch.setattr(zoo, "registry", lambda: [{"name": name} for name in names])

    pairs = discoveries.replicated(["nla", "dtfn"], "local", 4, 0, 1, [1, 2, 3])

    assert pairs == {
        subpixel.NULL: ("local-x4-s0", "local-x4-s1"),
        "nla": ("nla-x4-s0", "local-x4-s1"),
        "dtfn": ("dtfn-x4-s0", "local-x4-s1"),
        "nla, seed 1": ("nla-x4-s1", "local-x4-s0"),
        "local, seed 2": ("local-x4-s2", "local-x4-s1"),
    }
