"""Block errors, harm and bounds: against brute-force loops, known answers and their properties."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtfn import evaluation, images, metrics, models, positions, subpixel, texture
from dtfn.cache import Output
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.subpixel import Picture, regions
from dtfn.texture import neighbours

Maps = tuple[np.ndarray, np.ndarray]
Trio = tuple[np.ndarray, np.ndarray, np.ndarray, int]

INF = float("inf")
CLOSE = 1e-9  # dB


@st.composite
def maps(draw: st.DrawFn) -> Maps:
    """Two maps of errors of one size; small whole numbers, so that ties occur."""
    shape = draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, l = rng.integers(0, draw(st.sampled_from([1, 9])), (2, *shape), endpoint=True)
    return n.astype(float), l.astype(float)


@st.composite
def trios(draw: st.DrawFn) -> Trio:
    """N, L and HR, grey or colour, and a scale."""
    scale = draw(st.sampled_from([2, 3, 4]))
    height, width = draw(st.tuples(st.integers(3, 7), st.integers(3, 7)))
    channels = draw(st.sampled_from([(), (3,)]))
    seed = draw(st.integers(0, 2**32 - 1))
    spread = draw(st.sampled_from([1, 30, 255]))
    rng = np.random.default_rng(seed)
    n, l, hr = rng.integers(
        0, spread, (3, scale * height, scale * width, *channels), np.uint8, endpoint=True
    )
    return n, l, hr, scale


# --- against loops ----------------------------------------------------------------------------


@given(trios())
def test_block_error_equals_a_loop_over_pixels(trio: Trio) -> None:
    sr, _, hr, s = trio
    x, y = images.luma(sr), images.luma(hr)
    height, width = y.shape[0] // s, y.shape[1] // s
    expected = np.zeros((height, width))
    for i in range(s * height):
        for j in range(s * width):
            expected[i // s, j // s] += (x[i, j] - y[i, j]) ** 2 / s**2

    np.testing.assert_allclose(subpixel.block_error(sr, hr, s), expected, rtol=1e-12, atol=1e-12)


@given(trios())
def test_the_interior_scores_the_psnr_of_the_field(trio: Trio) -> None:
    sr, _, hr, s = trio
    found = subpixel.psnr_of(subpixel.interior(subpixel.block_error(sr, hr, s)))

    assert found == pytest.approx(metrics.psnr(sr, hr, s), abs=CLOSE)


@given(maps(), st.sampled_from([1, 2, 3, 4, 8, 16, 32]))
def test_selection_equals_a_loop_over_cells(two: Maps, g: int) -> None:
    n, l = two
    best = 0.0
    for i in range(0, n.shape[0], g):
        for j in range(0, n.shape[1], g):
            cell = np.s_[i : i + g, j : j + g]
            best += min(n[cell].sum(), l[cell].sum())
    expected = 10 * np.log10(255**2 * n.size / best) if best else INF

    assert subpixel.selection_bound(n, l, g) == pytest.approx(expected, abs=CLOSE)


@given(trios())
def test_fusion_is_the_best_of_all_weights(trio: Trio) -> None:
    n, l, hr, s = trio
    weight = subpixel.fusion_weight(n, l, hr, s)
    error = subpixel.fusion_error(n, l, hr, s)
    x, y, truth = images.luma(n), images.luma(l), images.luma(hr)

    def mixed(a: np.ndarray) -> np.ndarray:
        spread = np.kron(a, np.ones((s, s)))
        return subpixel.block_error(spread * x + (1 - spread) * y, truth, s)

    assert ((weight >= 0) & (weight <= 1)).all()
    np.testing.assert_allclose(error, mixed(weight), rtol=1e-9, atol=1e-9)
    for a in np.linspace(0, 1, 21):
        assert (error <= mixed(np.full(weight.shape, a)) + 1e-9).all()


@given(trios())
def test_subpixel_selection_equals_a_loop_over_pixels(trio: Trio) -> None:
    n, l, hr, s = trio
    x, y, truth = images.luma(n), images.luma(l), images.luma(hr)
    best = [
        min((x[i, j] - truth[i, j]) ** 2, (y[i, j] - truth[i, j]) ** 2)
        for i in range(s, truth.shape[0] - s)
        for j in range(s, truth.shape[1] - s)
    ]
    expected = 10 * np.log10(255**2 / np.mean(best)) if np.mean(best) else INF

    assert subpixel.selection_bound_subpixel(n, l, hr, s) == pytest.approx(expected, abs=CLOSE)


@given(maps(), st.sampled_from([0.0, 1.0, 2.5]))
def test_harm_equals_a_loop_over_positions(two: Maps, tau: float) -> None:
    n, l = two
    harmed = [a - b for a, b in zip(n.flat, l.flat, strict=True) if a - b > tau]
    helped = [b - a for a, b in zip(n.flat, l.flat, strict=True) if b - a > tau]
    mass = subpixel.harm_mass(n, l, tau)

    assert subpixel.harm_rate(subpixel.harm(n, l), tau) == pytest.approx(len(harmed) / n.size)
    assert mass.harmed == pytest.approx(sum(harmed) / n.size)
    assert mass.helped == pytest.approx(sum(helped) / n.size)


# --- properties -------------------------------------------------------------------------------


@given(maps())
def test_finer_cells_never_lower_the_bound(two: Maps) -> None:
    n, l = two
    bounds = [subpixel.selection_bound(n, l, g) for g in subpixel.GRANULARITIES]

    assert bounds[0] == pytest.approx(max(subpixel.psnr_of(n), subpixel.psnr_of(l)), abs=CLOSE)
    for coarse, fine in itertools.pairwise(bounds):
        assert fine >= coarse - CLOSE


@given(trios())
def test_the_curve_rises_and_fusion_tops_selection(trio: Trio) -> None:
    curve = subpixel.bound_curve(*trio)
    n, l, hr, s = trio

    assert list(curve) == list(subpixel.CURVE)
    *selections, fusion = curve.values()
    for coarse, fine in itertools.pairwise(selections):
        assert fine >= coarse - CLOSE
    assert fusion >= curve["1"] - CLOSE
    assert curve["image"] == pytest.approx(
        max(metrics.psnr(n, hr, s), metrics.psnr(l, hr, s)), abs=CLOSE
    )


@given(trios())
def test_a_network_bounded_by_itself_gains_nothing(trio: Trio) -> None:
    n, _, hr, s = trio
    psnr = metrics.psnr(n, hr, s)

    for bound in subpixel.bound_curve(n, n, hr, s).values():
        assert bound == pytest.approx(psnr, abs=CLOSE)
    assert (subpixel.fusion_weight(n, n, hr, s) == 0).all()


@given(trios())
def test_bounds_do_not_care_which_network_is_which(trio: Trio) -> None:
    n, l, hr, s = trio
    forth, back = subpixel.bound_curve(n, l, hr, s), subpixel.bound_curve(l, n, hr, s)

    assert list(forth.values()) == pytest.approx(list(back.values()), abs=1e-6)


@given(maps())
def test_harm_is_antisymmetric_and_its_parts_are_whole(two: Maps) -> None:
    n, l = two
    h = subpixel.harm(n, l)
    forth, back = subpixel.harm_mass(n, l), subpixel.harm_mass(l, n)

    np.testing.assert_array_equal(h, -subpixel.harm(l, n))
    ties = float(np.mean(n == l))
    assert subpixel.harm_rate(h) + subpixel.harm_rate(-h) + ties == pytest.approx(1)
    assert forth.harmed == pytest.approx(back.helped)
    assert forth.harmed - forth.helped == pytest.approx(n.mean() - l.mean(), abs=1e-12)
    if n.any() and l.any() and np.minimum(n, l).any():
        gap = subpixel.psnr_of(n) - subpixel.psnr_of(l)
        assert forth.won_db - forth.lost_db == pytest.approx(gap, abs=CLOSE)
        assert forth.lost_db == pytest.approx(
            subpixel.selection_bound(n, l, 1) - subpixel.psnr_of(n), abs=CLOSE
        )


@given(maps())
def test_the_order_of_positions_changes_no_rate(two: Maps) -> None:
    n, l = two
    order = np.random.default_rng(0).permutation(n.size)
    m, k = (x.ravel()[order].reshape(x.shape) for x in two)

    assert subpixel.harm_rate(subpixel.harm(m, k)) == subpixel.harm_rate(subpixel.harm(n, l))
    before, after = subpixel.harm_mass(n, l), subpixel.harm_mass(m, k)
    assert before.harmed == pytest.approx(after.harmed)
    assert subpixel.selection_bound(m, k, 1) == pytest.approx(
        subpixel.selection_bound(n, l, 1), abs=CLOSE
    )


def test_units_scale_with_the_square_of_the_error() -> None:
    hr = np.zeros((12, 12))
    one, three = (subpixel.block_error(hr + e, hr, 2) for e in (1, 3))

    np.testing.assert_allclose(three, 9 * one)
    assert subpixel.psnr_of(one) - subpixel.psnr_of(three) == pytest.approx(20 * np.log10(3))


# --- known answers ----------------------------------------------------------------------------


def test_a_checkerboard_of_skill_is_all_gain() -> None:
    """N is perfect on half of the blocks, L on the other half: only cells of one block see it."""
    board = np.indices((8, 8)).sum(axis=0) % 2
    n, l = 4.0 * board, 4.0 * (1 - board)

    assert subpixel.selection_bound(n, l, 2) == subpixel.psnr_of(n)
    assert subpixel.selection_bound(n, l, 1) == INF
    mass = subpixel.harm_mass(n, l)
    assert (mass.harmed, mass.helped, mass.share) == (2, 2, 0.5)
    assert mass.lost_db == mass.won_db == INF


def test_opposite_errors_cancel_in_fusion_only() -> None:
    hr = np.full((12, 12), 100.0)
    n, l = hr + 3, hr - 1

    assert subpixel.fusion_weight(n, l, hr, 2) == pytest.approx(0.25)
    assert subpixel.fusion_bound(n, l, hr, 2) == INF
    assert subpixel.selection_bound_subpixel(n, l, hr, 2) == pytest.approx(20 * np.log10(255))


def test_the_noise_floor_is_a_quantile_of_the_absolute_null() -> None:
    null = np.array([[-4.0, 1.0, 2.0, -3.0, 0.0]])

    assert subpixel.noise_floor(null) == 2
    assert subpixel.noise_floor(null, 1.0) == 4
    assert subpixel.harm_rate(null, subpixel.noise_floor(null, 0.75)) == 0
    assert subpixel.harm_rate(null, 1.0) == pytest.approx(1 / 5)  # above, not at


def test_colour_outputs_of_a_grey_picture_are_compared_as_grey() -> None:
    rng = np.random.default_rng(0)
    n, l, hr = rng.integers(0, 256, (3, 24, 24), np.uint8)
    grey = subpixel.pair(n, l, hr, 2)
    colour = subpixel.pair(np.dstack([n] * 3), np.dstack([l] * 3), hr, 2)

    assert grey == pytest.approx(colour)


# --- one picture ------------------------------------------------------------------------------


def test_pair_agrees_with_the_functions_that_it_gathers() -> None:
    rng = np.random.default_rng(1)
    n, l, hr = rng.integers(0, 256, (3, 32, 28, 3), np.uint8)
    found = subpixel.pair(n, l, hr, 4, tau=500.0)
    e_n, e_l = (subpixel.interior(subpixel.block_error(x, hr, 4)) for x in (n, l))

    assert found["psnr_with"] == pytest.approx(metrics.psnr(n, hr, 4))
    assert found["psnr_without"] == pytest.approx(metrics.psnr(l, hr, 4))
    assert found["harm_rate"] == np.mean(e_n > e_l)
    assert found["harm_rate_tau"] == np.mean(e_n > e_l + 500)
    assert found["help_rate_tau"] == np.mean(e_l > e_n + 500)
    assert found["selection_bound"] == subpixel.selection_bound(e_n, e_l, 1)
    assert found["fusion_bound"] == subpixel.fusion_bound(n, l, hr, 4)
    better = max(found["psnr_with"], found["psnr_without"])
    assert found["selection_gain"] == pytest.approx(found["selection_bound"] - better)
    assert {"tau", *subpixel.CURVE.values()} <= found.keys()


def test_perfect_and_constant_pictures_have_answers() -> None:
    flat = np.full((12, 12, 3), 7, np.uint8)
    both = subpixel.pair(flat, flat, flat, 2)
    one = subpixel.pair(flat, flat + np.uint8(1), flat, 2)

    assert both["psnr_with"] == both["fusion_bound"] == INF
    assert both["harm_rate"] == both["psnr_gain"] == both["selection_gain"] == both["lost_db"] == 0
    assert np.isnan(both["harm_share"])
    assert (one["harm_rate"], one["help_rate"], one["psnr_gain"]) == (0, 1, INF)
    assert one["won_db"] == INF


@pytest.mark.parametrize(
    ("sr", "hr", "scale", "message"),
    [
        (np.zeros((12, 12)), np.zeros((12, 14)), 2, r"one size; found \(12, 12\) and \(12, 14\)"),
        (np.zeros((12, 12)), np.zeros((12, 12)), 5, "multiples of the scale, 5; found 12 x 12"),
        (np.zeros((12, 12)), np.zeros((12, 12)), 0, "multiples of the scale"),
        (np.full((12, 12), np.nan), np.zeros((12, 12)), 2, "finite numbers; found NaN"),
        (np.zeros((12, 12)), np.full((12, 12), INF), 2, "found NaN or infinity"),
        (np.zeros((12, 12, 3)), np.zeros((12, 12, 3)), 2, "expected uint8"),
        (np.zeros((0, 0)), np.zeros((0, 0)), 2, "found nothing"),
    ],
)
def test_bad_pictures_are_refused(sr: np.ndarray, hr: np.ndarray, scale: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        subpixel.block_error(sr, hr, scale)


def test_bad_maps_and_numbers_are_refused() -> None:
    two, three = np.ones((2, 9)), np.ones((3, 9))
    broken = np.where(np.eye(3), np.nan, 1.0)

    with pytest.raises(InputError, match=r"3 x 3 LR positions or more.*found 2 x 9"):
        subpixel.interior(two)
    assert subpixel.interior(three).shape == (1, 7)
    for call in (subpixel.harm, subpixel.harm_mass, subpixel.selection_bound):
        with pytest.raises(InputError, match="one size"):
            call(two, three)
        with pytest.raises(InputError, match="NaN"):
            call(broken, broken)
    with pytest.raises(InputError, match="NaN"):
        subpixel.harm_rate(broken)
    with pytest.raises(InputError, match="tau: expected 0 or more"):
        subpixel.harm_rate(two, -1.0)
    with pytest.raises(InputError, match="granularity: expected 1 or more"):
        subpixel.selection_bound(two, two, 0)


# --- tables -----------------------------------------------------------------------------------

PAIRS = {"nla": ("N", "L"), "null pair": ("L2", "L")}


def pictures(count: int = 3, scale: int = 2) -> Iterator[Picture]:
    rng = np.random.default_rng(2)
    for i in range(count):
        hr = rng.integers(0, 256, (24, 20 + 2 * i, 3), np.uint8)
        made = {
            name: np.clip(hr + rng.normal(0, sigma, hr.shape), 0, 255).astype(np.uint8)
            for name, sigma in {"N": 12.0, "L": 10.0, "L2": 10.0}.items()
        }
        yield Picture("toy", f"p{i}", scale, hr, made)


def test_measure_gives_a_row_a_pair_and_picture() -> None:
    table = subpixel.measure(pictures(), PAIRS)

    assert len(table) == 6
    assert list(table)[:6] == ["pair", "with", "without", "dataset", "image", "scale"]
    for picture in pictures():
        rows = table[table["image"] == picture.image].set_index("pair")
        e, e2 = (
            subpixel.interior(subpixel.block_error(picture.outputs[m], picture.hr, 2))
            for m in ("L", "L2")
        )
        tau = np.median(np.abs(e - e2))
        assert rows["tau"].to_numpy() == pytest.approx([tau, tau])
        row = rows.loc["nla"]
        assert (row["with"], row["without"]) == ("N", "L")
        alone = subpixel.pair(picture.outputs["N"], picture.outputs["L"], picture.hr, 2, tau)
        assert row[list(alone)].to_dict() == pytest.approx(alone)


def test_measure_without_a_null_takes_a_threshold_of_zero() -> None:
    table = subpixel.measure(pictures(), {"nla": ("N", "L")}, null=None)

    assert (table["tau"] == 0).all()
    assert (table["harm_rate_tau"] == table["harm_rate"]).all()


def test_net_takes_each_picture_s_own_null_off() -> None:
    table = subpixel.measure(pictures(), PAIRS)
    net = subpixel.net(table.sample(frac=1, random_state=0))

    assert set(net["pair"]) == {"nla"}
    assert len(net) == 3
    for _, row in net.iterrows():
        rows = table[table["image"] == row["image"]].set_index("pair")
        for column in ("harm_rate", "lost_db", "selection_gain", "harm_rate_tau"):
            luck = rows.loc["null pair", column]
            assert row[f"{column}_null"] == luck
            assert row[f"{column}_net"] == pytest.approx(rows.loc["nla", column] - luck)
    assert "psnr_with_net" not in net


def test_net_of_a_pair_that_is_its_null_is_nothing() -> None:
    table = subpixel.measure(pictures(), {"again": ("L2", "L"), "null pair": ("L2", "L")})
    net = subpixel.net(table)

    assert (net[[column for column in net if column.endswith("_net")]] == 0).all(axis=None)


def test_net_refuses_a_missing_null() -> None:
    table = subpixel.measure(pictures(), PAIRS)
    lacking = table[~((table["pair"] == "null pair") & (table["image"] == "p1"))]

    with pytest.raises(InputError, match=r"none for \{'dataset': 'toy', 'image': 'p1'"):
        subpixel.net(lacking)
    with pytest.raises(
        InputError, match=r"expected a pair named 'nul pair'.*did you mean 'null pair'"
    ):
        subpixel.net(table, "nul pair")


def test_curve_is_the_table_in_long_form_and_can_be_netted() -> None:
    table = subpixel.measure(pictures(), PAIRS)
    long = subpixel.curve(table)

    assert len(long) == len(table) * len(subpixel.CURVE)
    one = long[(long["pair"] == "nla") & (long["image"] == "p0")].set_index("granularity")
    row = table[(table["pair"] == "nla") & (table["image"] == "p0")].iloc[0]
    assert one.loc["1", "bound"] == row["selection_bound"]
    assert one.loc["fusion", "gain"] == pytest.approx(row["fusion_gain"])
    assert one.loc["image", "gain"] == 0
    assert list(long.sort_values("granularity")["granularity"].unique()) == list(subpixel.CURVE)

    net = subpixel.net(long)
    assert len(net) == 3 * len(subpixel.CURVE)
    luck = long[(long["pair"] == "null pair") & (long["image"] == "p2")].set_index("granularity")
    mine = net[net["image"] == "p2"].set_index("granularity")
    assert mine.loc["8", "gain_null"] == luck.loc["8", "gain"]


def test_curve_of_perfect_pictures_gains_nothing() -> None:
    flat = np.full((12, 12), 7, np.uint8)
    picture = Picture("toy", "flat", 2, flat, {"N": flat, "L": flat + np.uint8(1)})
    long = subpixel.curve(subpixel.measure([picture], {"nla": ("N", "L")}, null=None))

    assert (long["gain"] == 0).all()


def test_one_and_the_same_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"pair 'nla'.*N and N are one and the same network"):
        subpixel.measure(pictures(), {"nla": ("N", "N"), "null pair": ("L2", "L")})

    def copied() -> Iterator[Picture]:
        for p in pictures():
            yield Picture(p.dataset, p.image, 2, p.hr, {**p.outputs, "N": p.outputs["L"].copy()})

    with pytest.raises(InputError, match="equal outputs on every picture"):
        subpixel.measure(copied(), PAIRS)


def test_two_networks_may_agree_on_a_flat_picture() -> None:
    flat = np.full((24, 24, 3), 9, np.uint8)
    same = Picture("toy", "flat", 2, flat, dict.fromkeys(("N", "L", "L2"), flat))
    table = subpixel.measure([*pictures(), same], PAIRS)

    assert len(table) == 8


def test_measure_refuses_what_cannot_be_measured() -> None:
    with pytest.raises(InputError, match="pictures: expected one or more"):
        subpixel.measure([], PAIRS)
    with pytest.raises(InputError, match="pairs: expected one or more"):
        subpixel.measure(pictures(), {})
    with pytest.raises(InputError, match="null pair: expected a pair named 'null pair'"):
        subpixel.measure(pictures(), {"nla": ("N", "L")})
    first, second, *_ = pictures()
    wrong = Picture("toy", "odd", 2, first.hr, second.outputs)
    with pytest.raises(InputError, match=r"toy/odd x2: .*one size"):
        subpixel.measure([first, wrong], PAIRS)


# --- with networks ----------------------------------------------------------------------------


@pytest.fixture
def fake_networks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Networks that add noise of their own to bicubic; returns the calls."""
    calls: list[tuple[str, ...]] = []

    def outputs(methods: list[str], sample: Sample) -> Mapping[str, Output]:
        calls.append((sample.dataset, sample.image, *methods))
        made = {}
        for method in methods:
            rng = np.random.default_rng(len(method))
            sr = images.imresize(sample.lr, sample.scale)
            made[method] = Output(sr ^ rng.integers(0, 2, sr.shape, np.uint8), 0.1)
        return made

    monkeypatch.setattr(evaluation, "outputs", outputs)
    monkeypatch.setattr(evaluation, "require", lambda methods, scale: None)
    monkeypatch.setattr(evaluation, "fingerprint", lambda method: method.strip("/"))
    return calls


def test_analyse_runs_each_network_once_an_image(fake_networks: list[tuple[str, ...]]) -> None:
    pairs = {"nla": ("nnn", "l"), "dtfn": ("dddd", "l"), "null pair": ("ll", "l")}

    table = subpixel.analyse(pairs, ["mini"], 4, count=2)

    assert [call[0] for call in fake_networks] == ["mini", "mini"]
    assert all(sorted(call[2:]) == ["dddd", "l", "ll", "nnn"] for call in fake_networks)
    assert len(table) == 6
    assert table["image"].nunique() == 2
    assert (table["selection_gain"] > 0).all()


def test_analyse_refuses_two_names_of_one_network(fake_networks: list[tuple[str, ...]]) -> None:
    with pytest.raises(InputError, match=r"one and the same network .the same weights"):
        subpixel.analyse({"nla": ("nnn", "nnn/"), "null pair": ("ll", "l")}, ["mini"], 4, 1)
    assert fake_networks == []


def test_analyse_refuses_unknown_networks_before_it_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="method 'no-such-network'"):
        subpixel.analyse({"null pair": ("bicubic", "no-such-network")}, ["mini"], 4, 1)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_published_network_against_bicubic(benchmarks: Path, scale: int) -> None:
    """RCAN beats bicubic nearly everywhere: rates and bounds have to say so."""

    def published() -> Iterator[Picture]:
        for file in sorted((benchmarks.parent / f"reference_sr/RCAN/Set5/X{scale}").glob("*.png")):
            name = file.name.split("_")[0]
            picture = np.asarray(images.read(benchmarks / f"Set5/HR/{name}.png"), np.uint8)
            hr = images.modcrop(picture, scale)
            bicubic = images.imresize(images.degrade(hr, scale), scale)
            rcan = np.asarray(images.read(file), np.uint8)
            yield Picture("Set5", name, scale, hr, {"rcan": rcan, "bicubic": bicubic})

    table = subpixel.measure(published(), {"rcan": ("rcan", "bicubic")}, null=None)
    means = table.select_dtypes("number").mean()

    published_psnr = {2: 38.274, 3: 34.742, 4: 32.634}[scale]
    assert means["psnr_with"] == pytest.approx(published_psnr, abs=5e-4)
    assert (table["harm_rate"] < 0.4).all()
    assert (table["harm_share"] < 0.2).all()
    assert (table["lost_db"] < 0.6).all()
    assert means["psnr_with"] < means["selection_bound"] < means["fusion_bound"]


def test_importing_does_not_import_torch() -> None:
    code = "import sys, json, dtfn.subpixel; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout) is False


def test_the_table_survives_a_csv_file(tmp_path: Path) -> None:
    table = subpixel.measure(pictures(), PAIRS)
    table.to_csv(tmp_path / "table.csv", index=False)

    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "table.csv"), table, check_dtype=False)


@pytest.mark.slow
def test_the_analysis_of_a_picture_is_cheap_beside_a_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All but the search, inconsistency and copies, beside one pass of the small DTFN.

    A tenth on a quiet machine; half as much again is allowed here.
    """
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (192, 256, 3)).astype(np.uint8)
    hr = images.imresize(rough, 4)
    lr = images.degrade(hr, 4)
    made = {name: hr ^ rng.integers(0, 4, hr.shape).astype(np.uint8) for name in "nl"}
    picture = Picture("mini", "a", 4, hr, made)
    nobody = neighbours.Neighbours(lr.shape[:2], np.array([0]), np.array([[1]]))
    maps = texture.describe(hr, 4, found=nobody)
    monkeypatch.setattr(positions, "describe", lambda *_: maps)

    def analyse() -> None:
        subpixel.measure([picture], {"nla": ("n", "l")}, None)
        texture.describe(hr, 4, found=nobody)
        positions.survey([picture], {0: {"nla": ("n", "l")}})
        regions.survey([picture], {"nla": ("n", "l")}, "nla")

    network = models.load("dtfn-x4-s0")
    forward = min(seconds(lambda: evaluation.upscale(network, lr)) for _ in range(2))
    assert min(seconds(analyse) for _ in range(4)) < 0.15 * forward


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
