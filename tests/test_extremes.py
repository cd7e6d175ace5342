"""The worst and best textures: the right regions, with the numbers of the right positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection

from dtfn import evaluation, images, paths, subpixel
from dtfn.claims import textures as claims
from dtfn.evaluation import Output
from dtfn.plots import WIDTH, pictures
from dtfn.subpixel import Picture
from dtfn.texture import distortion, extremes

SCALE = 2
PAIRS = {subpixel.NULL: ("l1", "l0"), "nla": ("n", "l0")}
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


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "set" / "HR").mkdir(parents=True)
    for number in range(4):
        images.write(folder / "set" / "HR" / f"p{number}.png", hr_of(number))
    return folder


def samples() -> Any:
    return (Picture("set", f"p{n}", SCALE, hr_of(n), made_of(n)) for n in range(4))


@pytest.fixture(scope="module")
def survey() -> extremes.Survey:
    return extremes.survey(samples(), PAIRS)


@pytest.fixture
def cases(
    survey: extremes.Survey, root: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[extremes.Case]]:
    monkeypatch.setattr(paths, "data_root", lambda: root)
    monkeypatch.setattr(
        evaluation,
        "outputs",
        lambda methods, sample: {
            m: Output(made_of(int(sample.image[1:]))[m], 0.0) for m in methods
        },
    )
    return extremes.cases(survey.regions, "nla", PAIRS, SCALE, most=3, beside=["n", "l1"])


def test_the_planted_textures_come_first(cases: dict[str, list[extremes.Case]]) -> None:
    assert {c.picture.image for c in cases["harm"][:2]} == {"p0", "p1"}
    assert {c.picture.image for c in cases["help"][:2]} == {"p2", "p3"}
    for side, box in (("harm", (10, 15, 12, 15)), ("help", (30, 5, 15, 15))):
        for case in cases[side][:2]:
            r = case.region
            assert np.abs(np.subtract((r.top, r.left, r.height, r.width), box)).max() <= 8
            assert case.networks == ("n", "l0", "l1")
            assert case.outline().sum() == r.area
            height, width = case.window[2:]
            assert case.lr().shape == (height, width, 3)
            assert case.crop(case.picture.hr).shape == (height * SCALE, width * SCALE, 3)
            assert case.crop(case.harms["nla"]).shape == (height, width)
    images_shown = [c.picture.image for c in cases["harm"]]
    assert len(set(images_shown)) == len(images_shown), "one a picture"


def test_what_is_luck_says_so_and_comes_last(cases: dict[str, list[extremes.Case]]) -> None:
    lucky = [case.q > 0.05 for case in cases["harm"]]
    assert lucky == sorted(lucky)


def test_numbers_are_those_of_the_regions_positions(cases: dict[str, list[extremes.Case]]) -> None:
    case = cases["harm"][0]
    table = extremes.numbers([case]).set_index("network")
    n = case.picture.outputs["n"]
    error = subpixel.block_error(n, case.picture.hr, SCALE)
    whole = np.zeros(error.shape, bool)
    r = case.region
    assert r.inside is not None
    whole[r.top : r.top + r.height, r.left : r.left + r.width] = r.inside
    assert table.loc["n", "psnr"] == pytest.approx(10 * np.log10(255**2 / error[whole].mean()))
    turned = distortion.maps(n, case.picture.hr, SCALE)["orientation"]
    assert table.loc["n", "orientation"] == pytest.approx(turned[whole].mean())
    harms = extremes.harms([case]).set_index("pair")["harm"]
    l0 = subpixel.block_error(case.picture.outputs["l0"], case.picture.hr, SCALE)
    assert harms["nla"] == pytest.approx((error - l0)[whole].mean())


def test_no_case_has_tables_without_rows(cases: dict[str, list[extremes.Case]]) -> None:
    for table in (extremes.numbers, extremes.harms):
        assert table([]).empty
        assert list(table([]).columns) == list(table(cases["harm"][:1]).columns)


def test_distortion_is_measured_against_the_twin(survey: extremes.Survey) -> None:
    table = survey.distortions.set_index(["pair", "image", "measure"])
    hr, made = hr_of(0), made_of(0)
    expected = (
        distortion.maps(made["n"], hr, SCALE)["structure"]
        - distortion.maps(made["l0"], hr, SCALE)["structure"]
    )
    assert table.loc[("nla", "p0", "structure"), "gap"] == pytest.approx(
        expected[1:-1, 1:-1].mean()
    )
    assert table.loc[("nla", "p0", "structure"), "harmed"] > 5 * expected.mean()
    net = claims.net_of_null(survey.distortions, "nla", "structure", "gap")
    wide = survey.distortions[survey.distortions["measure"] == "structure"]
    both = wide.pivot(index="image", columns="pair", values="gap")
    assert net.estimate == pytest.approx((both["nla"] - both[subpixel.NULL]).mean())


# ---------------------------------------------------------------- figures


def test_the_gallery_shows_every_network_with_its_own_psnr(
    cases: dict[str, list[extremes.Case]],
) -> None:
    shown = [*cases["harm"], *cases["help"]]
    figure = pictures.texture_gallery(shown)
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


def test_the_distortion_figure_has_one_scale_a_measure(
    cases: dict[str, list[extremes.Case]],
) -> None:
    case = cases["harm"][0]
    figure = pictures.distortion_panel(case)
    figure.draw_without_rendering()
    maps = [ax.get_images()[0] for ax in figure.axes if ax.get_title().startswith("region: ")]
    assert len(maps) == 3 * len(distortion.TITLES)
    scales = [m.get_clim() for m in maps]
    assert len(set(scales)) == len(distortion.TITLES)


def test_no_case_says_so() -> None:
    for figure in (pictures.texture_gallery([]), pictures.distortion_panel(None)):
        assert "no region" in figure.texts[0].get_text()


def test_the_outline_runs_between_inside_and_outside() -> None:
    inside = np.zeros((4, 5), bool)
    inside[1:3, 2] = True
    found = {tuple(sorted(map(tuple, line))) for line in pictures.edges(inside).tolist()}
    assert found == {
        ((1, 2), (1, 3)), ((3, 2), (3, 3)),  # above and below
        ((1, 2), (2, 2)), ((2, 2), (3, 2)), ((1, 3), (2, 3)), ((2, 3), (3, 3)),
    }  # fmt: skip


def test_the_outline_is_drawn_in_the_pixels_of_the_crop(
    cases: dict[str, list[extremes.Case]],
) -> None:
    case = cases["harm"][0]
    ax = pictures.texture_gallery([case]).subfigs[0].axes[4]
    lines = next(c for c in ax.collections if isinstance(c, LineCollection))
    points = np.concatenate(lines.get_segments())
    rows, columns = np.nonzero(case.outline())
    assert points[:, 0].min() == columns.min() * SCALE - 0.5
    assert points[:, 1].max() == (rows.max() + 1) * SCALE - 0.5


# ---------------------------------------------------------------- verdicts


def test_verdicts_say_what_was_planted(survey: extremes.Survey) -> None:
    regions = survey.regions.copy()
    heaviest = regions[(regions["pair"] == "nla") & (regions["side"] == "harm")]["mass"].nlargest(2)
    regions["q"] = np.where(regions.index.isin(heaviest.index), 0.01, 0.5)
    verdicts = {v.claim: v for v in claims.of_textures(regions, survey.distortions)}
    real = next(v for c, v in verdicts.items() if c.startswith("nla harms whole regions"))
    assert real.holds is True
    assert str(real.measured).startswith("2 of")
    assert str(real.measured).endswith("on 2 pictures")
    null = next(v for c, v in verdicts.items() if c.startswith("the null pair"))
    assert null.holds is False
    assert all(v.holds is None for c, v in verdicts.items() if "more than luck" in c), (
        "four pictures give no verdict"
    )


@pytest.mark.parametrize(("shift", "holds"), [(1.0, True), (-1.0, False), (0.0, None)])
def test_distortion_beyond_luck_is_judged_over_pictures(shift: float, holds: bool | None) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"pair": p, "dataset": "d", "image": f"{i}", "measure": m}
        | {"gap": rng.normal(0, 0.3) + shift * (p == "nla"), "harmed": np.nan}
        for p in (subpixel.NULL, "nla")
        for i in range(30)
        for m in distortion.TITLES
    ]
    empty = pd.DataFrame(columns=["pair", "side", "dataset", "image", "area", "mass", "q"])
    found = claims.of_textures(empty, pd.DataFrame(rows))
    turned = next(v for v in found if v.claim.startswith("nla turns the texture more"))
    assert turned.holds is holds
    assert all(v.holds is None for v in found if "where it harms" in v.claim)
