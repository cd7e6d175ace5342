"""Harmed regions: what was planted is found, with its numbers; chance is no discovery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from numpy.typing import NDArray
from scipy import stats
from scipy.ndimage import gaussian_filter

from dtfn import images, regions, subpixel
from dtfn.datasets import Sample
from dtfn.pairs import NULL
from dtfn.plots import WIDTH
from dtfn.plots import pictures as drawn
from dtfn.regions import Case, Region, find_regions, region_limit
from dtfn.texture import distortion_maps

RNG = np.random.default_rng(0)
NOISE = RNG.normal(0, 1, (40, 50))
SCALE = 2


def planted(*boxes: tuple[int, int, int, int, float]) -> NDArray[np.float64]:
    harm = RNG.normal(0, 1, NOISE.shape)
    for top, left, height, width, value in boxes:
        harm[top : top + height, left : left + width] = value
    return harm


def test_a_planted_region_is_found_where_it_is() -> None:
    harm = planted((10, 20, 8, 6, 50.0))
    heaviest = find_regions(harm, region_limit(NOISE))[0]
    # The smoothed region reaches beyond its edge, but not far.
    assert 10 - 5 <= heaviest.top <= 10
    assert 20 - 5 <= heaviest.left <= 20
    assert 18 <= heaviest.top + heaviest.height <= 18 + 5
    assert 26 <= heaviest.left + heaviest.width <= 26 + 5
    assert heaviest.mass == pytest.approx(8 * 6 * 50, rel=0.05)
    assert heaviest.area >= 8 * 6


def test_a_single_wild_position_is_no_region_of_the_size_of_the_noise() -> None:
    assert find_regions(np.zeros(NOISE.shape), region_limit(NOISE)) == []
    alone = np.zeros(NOISE.shape)
    alone[20, 20] = 5.0
    assert find_regions(alone, region_limit(NOISE)) == []


def test_the_null_pair_itself_has_about_half_a_percent() -> None:
    shares = []
    for seed in range(20):
        null = np.random.default_rng(seed).normal(0, 1, (64, 64))
        shares.append(sum(r.area for r in find_regions(null, region_limit(null))) / null.size)
    assert np.mean(shares) == pytest.approx((1 - regions.QUANTILE) / 2, abs=0.002)


def toy(dataset: str, image: str, scale: int, hr: Any, outputs: Mapping[str, Any]) -> Sample:
    return Sample(dataset, image, scale, images.as_rgb(images.degrade(hr, scale)), hr, outputs)


def test_a_window_is_square_and_never_leaves_the_picture() -> None:
    assert Region(0, 0, 5, 9, 45, 1.0).window((10, 12)) == (0, 0, 10, 10)
    assert Region(20, 30, 5, 9, 45, 1.0).window((90, 90)) == (10, 22, 24, 24)
    assert Region(10, 10, 60, 60, 3600, 1.0).window((90, 90)) == (21, 21, 36, 36)


# --- discoveries ------------------------------------------------------------------------------

PAIRS = {NULL: ("l1", "l0"), "twin": ("l2", "l0"), "nla": ("n", "l0")}
BOXES = (np.s_[20:44, 60:80], np.s_[60:80, 10:34])  # HR pixels: 12 x 10 and 10 x 12 positions


def textured(number: int) -> Sample:
    """Three twins that differ by chance; "n" is worse in two boxes of two pictures in three."""
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
    return toy("set", f"{number}", SCALE, hr, made)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return regions.judge(regions.regions_of(textured(n), PAIRS) for n in range(12))


def test_chance_is_no_discovery(table: pd.DataFrame) -> None:
    counts = regions.count_discoveries(table).set_index(["pair", "side"])["discoveries"]
    for pair in (NULL, "twin"):
        for side in regions.SIDES:
            assert counts[pair, side] == 0


def test_p_values_of_chance_are_even(table: pd.DataFrame) -> None:
    """Twins that were not used to find the threshold have nearly even p-values."""
    p = table.loc[table["pair"] == "twin", "p"]
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
        assert row.mass == pytest.approx(12 * 10 * (30 * 219 / 255) ** 2, rel=0.25)
        assert row.region.area == row.area
    count = regions.count_discoveries(table).set_index(["pair", "side"]).loc[("nla", "harm")]
    assert (count["discoveries"], count["pictures"]) == (16, 8)
    assert count["area"] == found["area"].sum()


def test_the_nulls_own_regions_are_compared_with_other_pictures() -> None:
    rows = [(NULL, "a", 5.0), (NULL, "b", 1.0), (NULL, "b", 2.0)]
    rows += [("nla", "a", 3.0)]
    frame = pd.DataFrame(rows, columns=["pair", "image", "strength"])
    frame = frame.assign(side="harm", dataset="set", region=None)

    found = regions.judge([frame])

    assert found["p"].tolist() == [1 / 3, 1, 1, 2 / 4]


def test_no_region_anywhere_is_no_error() -> None:
    same = textured(1)
    flat = toy("set", "flat", SCALE, same.hr, dict.fromkeys(same.outputs, same.hr))
    found = regions.judge([regions.regions_of(flat, PAIRS)])
    assert found.empty
    assert regions.count_discoveries(found).empty
    assert regions.worst_pair(found, ["nla", "twin"]) == "nla"
    assert regions.heaviest_regions(found, "nla").empty


def test_the_worst_pair_and_its_place(table: pd.DataFrame) -> None:
    assert regions.worst_pair(table, ["twin", "nla"]) == "nla"
    chosen = regions.heaviest_regions(table, "nla")
    assert chosen["side"].tolist() == ["harm", "help"]
    assert chosen["image"].nunique() == 1
    harm = table[(table["pair"] == "nla") & (table["side"] == "harm") & (table["q"] <= 0.05)]
    assert chosen.loc[0, "mass"] == harm["mass"].max()
    elsewhere = regions.heaviest_regions(table, "nla", image="2")
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


# --- cases ------------------------------------------------------------------------------------

TWO = {NULL: ("l1", "l0"), "nla": ("n", "l0")}
Tables = tuple[pd.DataFrame, pd.DataFrame]
SIDE = 100


def hr_of(number: int) -> Any:
    rng = np.random.default_rng(number)
    row, column = np.mgrid[:SIDE, :SIDE]
    waves = 128 + 50 * np.sin(row / 3 + number) * np.cos(column / 4)
    return np.clip(waves[..., None] + rng.normal(0, 5, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def made_of(number: int) -> dict[str, Any]:
    """Twins, and "n", that is worse in a box of pictures 0 and 1, and the truth in another's."""
    rng = np.random.default_rng(100 + number)
    hr = hr_of(number)
    made = {
        m: np.clip(hr + rng.normal(0, 6, hr.shape), 0, 255).astype(np.uint8)
        for m in ("l0", "l1", "n")
    }
    if number < 2:
        made["n"][20:44, 30:60] = 255 - made["n"][20:44, 30:60]
    else:
        for method in ("l0", "l1"):
            made[method][60:90, 10:40] = 128
    return made


def samples() -> Any:
    return (toy("set", f"p{n}", SCALE, hr_of(n), made_of(n)) for n in range(4))


@pytest.fixture(scope="module")
def survey() -> Tables:
    return regions.survey(samples(), TWO)


@pytest.fixture(scope="module")
def cases(survey: Tables) -> dict[str, list[Case]]:
    return regions.cases(survey[0], samples(), "nla", TWO, most=3, others=["n", "l1"])


def test_the_planted_textures_come_first(cases: dict[str, list[Case]]) -> None:
    assert {c.sample.image for c in cases["harm"][:2]} == {"p0", "p1"}
    assert {c.sample.image for c in cases["help"][:2]} == {"p2", "p3"}
    for side, box in (("harm", (10, 15, 12, 15)), ("help", (30, 5, 15, 15))):
        for case in cases[side][:2]:
            r = case.region
            assert np.abs(np.subtract((r.top, r.left, r.height, r.width), box)).max() <= 8
            assert case.networks == ("n", "l0", "l1")
            assert case.outline().sum() == r.area
            height, width = case.window[2:]
            assert case.view.lr.shape == (height, width, 3)
            assert case.view.hr.shape == (height * SCALE, width * SCALE, 3)
            error = subpixel.block_error(case.view.outputs["n"], case.view.hr, SCALE)
            assert error == pytest.approx(case.crop(case.errors["n"]))
    shown = [c.sample.image for c in cases["harm"]]
    assert len(set(shown)) == len(shown), "one a picture"


def test_discoveries_come_first(cases: dict[str, list[Case]]) -> None:
    open_ = [case.q > 0.05 for case in cases["harm"]]
    assert open_ == sorted(open_)


def test_numbers_are_those_of_the_regions_positions(cases: dict[str, list[Case]]) -> None:
    case = cases["harm"][0]
    table = regions.case_table([case]).set_index("network")
    n, r = case.sample.outputs["n"], case.region
    error, whole = subpixel.block_error(n, case.sample.hr, SCALE), np.zeros((50, 50), bool)
    whole[r.top : r.top + r.height, r.left : r.left + r.width] = r.mask()
    assert table.loc["n", "psnr"] == pytest.approx(10 * np.log10(255**2 / error[whole].mean()))
    turned = distortion_maps(n, case.sample.hr, SCALE)["orientation"]
    assert table.loc["n", "orientation"] == pytest.approx(turned[whole].mean())
    empty = regions.case_table([])
    assert (len(empty), list(empty)) == (0, list(table.reset_index()[list(empty)]))


def test_distortion_is_measured_against_the_twin(survey: Tables) -> None:
    table = survey[1].set_index(["pair", "image", "measure"])
    hr, made = hr_of(0), made_of(0)
    n, l = (distortion_maps(made[m], hr, SCALE)["structure"] for m in ("n", "l0"))
    row = table.loc[("nla", "p0", "structure")]
    assert row["gap"] == pytest.approx((n - l)[1:-1, 1:-1].mean())
    assert row["harmed"] > 5 * (n - l).mean()


# --- figures ---------------------------------------------------------------------------------


def test_the_gallery_shows_every_network_with_its_own_psnr(
    cases: dict[str, list[Case]],
) -> None:
    shown = [*cases["harm"], *cases["help"]]
    figure = drawn.texture_gallery(shown)
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= WIDTH
    assert len(figure.subfigs) == len(shown)
    for part, case in zip(figure.subfigs, shown, strict=True):
        titles = [ax.get_title() for ax in part.axes]
        assert titles[1:3] == ["LR", "HR"]
        assert [t.partition(":")[0] for t in titles[3:6]] == ["l0", "n", "l1"]
        psnr = subpixel.psnr_of(case.region.of(case.errors["n"]))
        assert titles[4] == f"n: {psnr:.2f}"
        assert {"harm": "worst", "help": "best"}[case.side] in part.get_suptitle()
        for ax in part.axes:
            for image in ax.get_images():
                assert image.get_interpolation() == "nearest"
        low, high = part.axes[-1].get_images()[-1].get_clim()
        assert low == -high, "harm is centred at 0"


def test_no_case_says_so() -> None:
    for figure in (drawn.texture_gallery([]), drawn.distortion_panel(None)):
        assert "no region" in figure.texts[0].get_text()


def test_the_outline_runs_between_inside_and_outside() -> None:
    inside = np.zeros((4, 5), bool)
    inside[1:3, 2] = True
    found = {tuple(sorted(map(tuple, line))) for line in drawn.edges(inside).tolist()}
    assert found == {
        ((1, 2), (1, 3)),
        ((3, 2), (3, 3)),  # above and below
        ((1, 2), (2, 2)),
        ((2, 2), (3, 2)),
        ((1, 3), (2, 3)),
        ((2, 3), (3, 3)),
    }


def test_the_outline_is_drawn_in_the_pixels_of_the_crop(
    cases: dict[str, list[Case]],
) -> None:
    case = cases["harm"][0]
    ax = drawn.texture_gallery([case]).subfigs[0].axes[4]
    lines = next(c for c in ax.collections if isinstance(c, LineCollection))
    points = np.concatenate(lines.get_segments())
    rows, columns = np.nonzero(case.outline())
    assert points[:, 0].min() == columns.min() * SCALE - 0.5
    assert points[:, 1].max() == (rows.max() + 1) * SCALE - 0.5
