"""All positions of pictures: counted and correlated as loops and other libraries do it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from dtfn import claims, images, positions, subpixel, texture
from dtfn.errors import InputError
from dtfn.subpixel import Picture

DESIGN = {
    0: {subpixel.NULL: ("l1", "l0"), "nla": ("n", "l0")},
    1: {subpixel.NULL: ("l0", "l1"), "nla": ("n", "l1")},
}


def picture(seed: int, scale: int = 2, size: int = 40) -> Picture:
    """Noise that grows to the right; the networks differ by noise, "n" most where there is more."""
    rng = np.random.default_rng(seed)
    rough = np.linspace(0, 60, size)[None]
    hr = np.clip(128 + rough * rng.normal(0, 1, (size, size)), 0, 255).astype(np.uint8)
    made = {}
    for name, amount in (("l0", 4.0), ("l1", 4.0), ("n", 4 + rough / 8)):
        noisy = hr + amount * rng.normal(0, 1, hr.shape)
        noisy[:6] = hr[:6]  # where all tie
        made[name] = np.clip(noisy, 0, 255).astype(np.uint8)
    return Picture("mini", f"{seed}", scale, hr, made)


def pictures() -> Iterator[Picture]:
    return (picture(seed) for seed in range(6))


@pytest.fixture(scope="module")
def found() -> positions.Positions:
    return positions.survey(pictures(), DESIGN)


def errors(one: Picture, method: str) -> np.ndarray:
    return subpixel.interior(subpixel.block_error(one.outputs[method], one.hr, one.scale))


def test_hexagons_are_those_of_matplotlib() -> None:
    rng = np.random.default_rng(0)
    l, n = 10 ** rng.uniform(-0.9, 3.5, (2, 70, 80))  # 13 to 57 dB: no ties at the edge
    counted = positions.hexagonal(l, n)
    x, y = (10 * np.log10(255**2 / e.ravel()) for e in (l, n))
    wide, rows = positions.PITCH, 26
    tall = wide * 3**0.5
    left, bottom = positions.WORST - wide, positions.WORST - tall
    columns = positions.ACROSS + 2
    extent = (left, left + columns * wide, bottom, bottom + rows * tall)
    axes = Figure().subplots()
    drawn = axes.hexbin(x, y, gridsize=(columns, rows), extent=extent, mincnt=1)
    numbers = np.asarray(drawn.get_array()).astype(int)
    theirs = {
        (round(a, 3), round(b, 3)): number
        for (a, b), number in zip(np.asarray(drawn.get_offsets()).tolist(), numbers, strict=True)
    }
    ours = {(round(a, 3), round(b, 3)): number for (a, b), number in counted.items()}
    assert ours == theirs


def test_every_position_of_every_seed_is_counted_once(found: positions.Positions) -> None:
    total = 6 * 18 * 18 * len(DESIGN)
    assert (found.errors.groupby("pair")["positions"].sum() == total).all()
    assert (found.deciles.groupby("pair")["positions"].sum() <= total).all()


def test_deciles_equal_a_loop() -> None:
    one = picture(0)
    table = positions.survey([one], {0: DESIGN[0]}).deciles
    maps = texture.describe(one.hr, one.scale)
    severity, inconsistency = (
        subpixel.interior(maps[name]).ravel() for name in ("severity", "inconsistency")
    )
    harmed = (errors(one, "n") > errors(one, "l0")).ravel()
    untied = (errors(one, "n") != errors(one, "l0")).ravel()
    known = ~np.isnan(inconsistency)
    tenths = [
        np.ceil(10 * (stats.rankdata(v[known]) - 0.5) / known.sum()).astype(int)
        for v in (severity, inconsistency)
    ]
    part = table[table["pair"] == "nla"].set_index(["severity", "inconsistency"])
    for i in range(1, 11):
        for j in range(1, 11):
            here = (tenths[0] == i) & (tenths[1] == j) & untied[known]
            assert part.loc[(i, j), "positions"] == here.sum()
            rate = harmed[known][here].mean() if here.any() else np.nan
            assert part.loc[(i, j), "harm_rate"] == pytest.approx(rate, nan_ok=True)


def test_phases_equal_a_loop_over_pixels() -> None:
    one = picture(3)
    table = positions.survey([one], {0: DESIGN[0]}).phases
    y, n, l = (images.luma(images.as_rgb(x)) if x.ndim == 3 else x.astype(float)
               for x in (one.hr, one.outputs["n"], one.outputs["l0"]))  # fmt: skip
    sums = np.zeros((2, 2, 2))
    for i in range(2, 38):
        for j in range(2, 38):
            sums[:, i % 2, j % 2] += (l[i, j] - y[i, j]) ** 2, (n[i, j] - y[i, j]) ** 2
    part = table[table["pair"] == "nla"].sort_values(["row", "column"])
    mean = sums.reshape(2, 4) / 18**2
    assert part["without"].to_numpy() == pytest.approx(mean[0])
    assert part["with"].to_numpy() == pytest.approx(mean[1])
    assert part["change"].to_numpy() == pytest.approx(mean[1] / mean[0] - 1)


def test_correlations_are_those_of_scipy(found: positions.Positions) -> None:
    one = picture(2)
    maps = texture.describe(one.hr, one.scale)
    harmed = (errors(one, "n") > errors(one, "l1")).ravel()
    untied = (errors(one, "n") != errors(one, "l1")).ravel()
    assert not untied.all()
    table = found.correlations
    (row,) = table[
        (table["pair"] == "nla") & (table["seed"] == 1) & (table["image"] == "2")
    ].to_dict("records")
    for cause in positions.CAUSES:
        values = subpixel.interior(maps[cause]).ravel()
        known = untied & ~np.isnan(values)
        expected = stats.spearmanr(harmed[known], values[known]).statistic
        assert row[cause] == pytest.approx(expected), cause


def test_harm_that_goes_with_texture_is_found_beyond_luck(found: positions.Positions) -> None:
    table = claims.correlation_table(found.correlations, subpixel.NULL).set_index("cause")
    assert list(table["pair"].unique()) == ["nla"]
    assert (table["pictures"] == 6).all()
    assert table.loc["severity", "correlation_net_low"] > 0.05
    net = table["correlation"] - table["correlation_null"]
    assert table["correlation_net"].to_numpy() == pytest.approx(net.to_numpy())


def test_correlations_of_a_benchmark_are_those_of_its_pictures(
    found: positions.Positions,
) -> None:
    parts = {name: found.correlations.assign(dataset=name) for name in ("a", "b")}
    parts["b"] = parts["b"][parts["b"]["image"].isin(["0", "1", "2"])]
    both = dataclasses.replace(found, correlations=pd.concat(parts.values()))
    table = claims.correlation_table(both.correlations, subpixel.NULL, ["dataset", "pair"])
    assert table.groupby("dataset")["pictures"].first().to_dict() == {"a": 6, "b": 3}
    alone = claims.correlation_table(found.correlations, subpixel.NULL)
    pd.testing.assert_frame_equal(table[table["dataset"] == "a"][list(alone)], alone)


def test_the_sampling_is_told() -> None:
    assert "all positions, in the whole picture" in positions.sampling(1)
    assert "every 4th row" in positions.sampling(4)
    assert f"{positions.SEARCHED:,}" in positions.sampling()


def test_without_a_null_pair_the_correlations_stand_alone() -> None:
    design = {0: {"with": ("n", "l0")}}
    table = claims.correlation_table(positions.survey(pictures(), design).correlations, None)
    assert "correlation_net" not in table
    assert table["correlation_low"].notna().all()


def test_constant_pictures_have_no_cause() -> None:
    flat = np.full((24, 24), 77, np.uint8)
    off = flat.copy()
    off[8:12] = 90
    one = Picture("mini", "flat", 2, flat, {"n": off, "l0": flat, "l1": flat})
    found = positions.survey([one], {0: DESIGN[0]})
    assert found.deciles["harm_rate"].isna().all()
    assert found.correlations[list(positions.CAUSES)].isna().all(axis=None)
    assert claims.correlation_table(found.correlations, subpixel.NULL)["correlation"].isna().all()


def test_the_smallest_picture_is_surveyed() -> None:
    one = picture(0, size=6)
    assert positions.survey([one], DESIGN).errors["positions"].sum() == 4


def test_large_pictures_are_searched_at_fewer_places() -> None:
    assert positions.every((256, 192)) == 1
    step = positions.every((1536, 2048))
    asked = -(-1536 // step) * -(-2048 // step)
    assert asked * 1536 * 2048 < 1.1 * positions.SEARCHED**2


def test_any_picture_is_an_example(tmp_path: Path) -> None:
    name, pixels = positions.example("", pictures(), 2)
    assert (name, pixels.shape) == ("mini 0", (40, 40))
    images.write(tmp_path / "mine.png", np.zeros((13, 14, 3), np.uint8))
    name, pixels = positions.example(str(tmp_path / "mine.png"), [], 4)
    assert (name, pixels.shape) == ("mine", (12, 12, 3))
    with pytest.raises(InputError, match="pictures: expected one or more"):
        positions.example("", [], 2)


def test_maps_become_a_table() -> None:
    grid = np.arange(6.0).reshape(2, 3)
    table = positions.frame({"x": grid})
    assert table.equals(
        pd.DataFrame({"row": [0, 0, 0, 1, 1, 1], "column": [0, 1, 2] * 2, "x": grid.ravel()})
    )
