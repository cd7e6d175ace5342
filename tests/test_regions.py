"""Harmed regions: planted ones are found, where and as heavy as they were planted."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dtfn import subpixel
from dtfn.subpixel import Picture, regions
from dtfn.subpixel.regions import find, floor

RNG = np.random.default_rng(0)
NOISE = RNG.normal(0, 1, (40, 50))
SCALE = 2
PAIRS = {subpixel.NULL: ("l1", "l0"), "nla": ("n", "l0"), "none": ("l2", "l0")}


def planted(*boxes: tuple[int, int, int, int, float]) -> NDArray[np.float64]:
    harm = RNG.normal(0, 1, NOISE.shape)
    for top, left, height, width, value in boxes:
        harm[top : top + height, left : left + width] = value
    return harm


def test_a_planted_region_is_found_where_it_is() -> None:
    harm = planted((10, 20, 8, 6, 50.0))
    heaviest = find(harm, floor(NOISE))[0]
    # The smoothed region reaches beyond its edge, but not far.
    assert 10 - 5 <= heaviest.top <= 10
    assert 20 - 5 <= heaviest.left <= 20
    assert 18 <= heaviest.top + heaviest.height <= 18 + 5
    assert 26 <= heaviest.left + heaviest.width <= 26 + 5
    assert heaviest.mass == pytest.approx(8 * 6 * 50, rel=0.05)
    assert heaviest.area >= 8 * 6


def test_regions_are_ranked_by_their_total_harm() -> None:
    harm = planted((5, 5, 10, 10, 20.0), (25, 30, 3, 3, 60.0))
    first, second = find(harm, floor(NOISE))[:2]
    assert first.mass == pytest.approx(2000, rel=0.1)
    assert second.mass == pytest.approx(540, rel=0.2)


def test_a_single_wild_position_is_no_region_of_the_size_of_the_noise() -> None:
    assert find(np.zeros(NOISE.shape), floor(NOISE)) == []
    alone = np.zeros(NOISE.shape)
    alone[20, 20] = 5.0
    assert find(alone, floor(NOISE)) == []


def test_help_is_no_harm() -> None:
    assert find(-np.abs(planted((10, 20, 8, 6, 50.0))), floor(NOISE)) == []


def test_the_null_pair_itself_has_about_half_a_percent() -> None:
    shares = []
    for seed in range(20):
        null = np.random.default_rng(seed).normal(0, 1, (64, 64))
        shares.append(sum(r.area for r in find(null, floor(null))) / null.size)
    assert np.mean(shares) == pytest.approx((1 - regions.QUANTILE) / 2, abs=0.002)


# --- a survey -------------------------------------------------------------------------------


def picture(name: str, seed: int) -> Picture:
    """A grey picture with four outputs; "n" is bad in a corner, "l2" is the same as "l0"."""
    rng = np.random.default_rng(seed)
    hr = rng.integers(60, 200, (80, 100)).astype(np.uint8)
    made = {}
    for method in ("l0", "l1", "n"):
        noise = rng.normal(0, 4, hr.shape)
        made[method] = np.clip(hr + noise, 0, 255).astype(np.uint8)
    made["l2"] = made["l0"]
    made["n"][10:30, 60:84] = 255 - made["n"][10:30, 60:84]
    return Picture("set", name, SCALE, hr, made)


@pytest.fixture(scope="module")
def survey() -> regions.Survey:
    return regions.survey([picture("a", 1), picture("b", 2), picture("c", 3)], PAIRS, most=2)


def test_the_density_is_the_histogram_of_all_interior_positions(survey: regions.Survey) -> None:
    assert survey.density.groupby("pair")["share"].sum().to_numpy() == pytest.approx(1)
    part = survey.density[survey.density["pair"] == "nla"]
    harmed = part.loc[part["low"] >= 0, "share"].sum()
    rates = []
    for seed in (1, 2, 3):
        p = picture("", seed)
        e = [subpixel.block_error(p.outputs[m], p.hr, SCALE) for m in ("n", "l0")]
        harm = (e[0] - e[1])[1:-1, 1:-1]
        rates.append(np.mean(harm >= 0))  # 0 itself is in the bin above it
    assert harmed == pytest.approx(np.mean(rates))


def test_the_planted_corner_is_the_worst_place(survey: regions.Survey) -> None:
    views = survey.worst["nla"]
    assert len(views) == 2, "the most that was asked for, one a picture"
    assert views[0].region.mass >= views[1].region.mass
    for view in views:
        assert (view.with_, view.without) == ("n", "l0")
        r = view.region
        assert 0 <= 5 - r.top <= 5
        assert 0 <= 30 - r.left <= 5
        top, left, height, width = view.window
        assert top <= r.top
        assert left <= r.left
        assert r.top + r.height <= top + height <= 40
        assert r.left + r.width <= left + width <= 50
        assert height == width >= regions.SMALLEST
        assert view.harm == pytest.approx(view.error_with - view.error_without)
        assert view.crop(view.picture.hr).shape == (SCALE * height, SCALE * width)
        assert view.lr().shape == (height, width, 3)


def test_a_view_crops_what_its_errors_were_measured_on(survey: regions.Survey) -> None:
    view = survey.worst["nla"][0]
    n, hr = view.crop(view.picture.outputs["n"]), view.crop(view.picture.hr)
    assert subpixel.block_error(n, hr, SCALE) == pytest.approx(view.error_with)


def test_equal_networks_have_no_region(survey: regions.Survey) -> None:
    assert survey.worst["none"] == []
    part = survey.regions[survey.regions["pair"] == "none"]
    assert (part["share"] == 0).all()
    assert len(survey.regions) == 9


def test_the_maps_are_written_position_by_position(survey: regions.Survey) -> None:
    views = survey.worst["nla"]
    frame = regions.frame(views)
    assert len(frame) == sum(v.harm.size for v in views)
    first = frame.iloc[0]
    assert (first["row"], first["column"]) == views[0].window[:2]
    assert first["harm"] == views[0].harm[0, 0]
    assert list(regions.frame([]).columns) == list(frame.columns)


def test_a_window_never_leaves_a_small_picture() -> None:
    region = regions.Region(0, 0, 5, 9, 45, 1.0)
    assert regions.window(region, (10, 12)) == (0, 0, 10, 10)
