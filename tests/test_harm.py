"""Harm: planted harm is found where it is and as large as it is; chance ends in nothing."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure
from tiny import refused
from tiny_networks import saved

from dtfn import datasets, evaluation, harm, images, methods, regions, subpixel, texture, verdicts
from dtfn.datasets import Sample
from dtfn.harm import Pair

S = 4
SHAPE = (40, 48)
BOX = (slice(12, 22), slice(20, 32))  # where harm is planted, in LR positions
Errors = Mapping[str, NDArray[np.float64]]


def picture(number: int) -> Sample:
    """A textured picture whose severity varies."""
    rng = np.random.default_rng(number)
    noise = ndimage.gaussian_filter(rng.normal(size=(S * SHAPE[0], S * SHAPE[1])), 1.2)
    slope = np.linspace(0.2, 1, S * SHAPE[1])
    hr = np.clip(128 + 300 * slope * noise, 0, 255).astype(np.uint8)
    return Sample("toy", f"{number:02}", S, images.degrade(images.as_rgb(hr), S), hr)


PICTURES = [picture(number) for number in range(8)]


def base(sample: Sample) -> NDArray[np.float64]:
    """Errors of a method without attention."""
    rng = np.random.default_rng(int(sample.image) + 100)
    return 20 * rng.gamma(4, 0.25, SHAPE)


def planted(methods: Sequence[str], sample: Sample) -> Errors:
    """``off``; ``on0`` and so on: harmed in a box, of equal error elsewhere but for chance."""
    made = {"off": base(sample)}
    for k in range(8):
        chance = np.random.default_rng((int(sample.image), k)).normal(0, 0.6, SHAPE)
        made[f"on{k}"] = base(sample) + chance  # which takes away as much as it adds
        made[f"same{k}"] = made[f"on{k}"].copy()
        made[f"on{k}"][BOX] += 30
    return made


def switch(name: str, seed: int = 0) -> Pair:
    controls = tuple((f"{name}{k}", f"{name}{k + 1}") for k in (1, 3))
    again = tuple((f"{name}{k}", "off") for k in range(1, 5))
    return Pair(name, "switch", seed, f"{name}0", "off", controls, again)


def test_planted_harm_is_found_where_it_is_and_costs_what_it_costs() -> None:
    measured = harm.measure([switch("on")], PICTURES, planted)
    found = regions.discoveries(measured.regions)
    assert set(found["side"]) == {"harm"}
    assert set(found["image"]) == {sample.image for sample in PICTURES}
    for row in found.itertuples():
        assert 7 <= row.top <= 13
        assert 15 <= row.left <= 21
        assert row.held == pytest.approx(30 * 120, rel=0.1)
    ours = measured.pictures[measured.pictures["role"] == "pair"]
    for row in ours.itertuples():
        expected = 10 * np.log10(row.mse_on / (row.mse_on - 30 * 120 / (38 * 46)))
        assert row.lost == pytest.approx(expected, rel=0.1)
        assert row.won == 0
    assert ours["lost_retrained"].isna().all(), "there is one training seed"
    counted = harm.textures(measured).set_index("role")[["harmed", "helped", "lost"]].T
    assert list(counted["pair"])[:2] == [8, 0]
    assert counted["control"]["lost"] == 0


def test_a_harm_of_one_training_is_not_that_of_the_others() -> None:
    """The trainings ``on`` share the planted box; a training where it is helped pays it back."""

    def errors(methods: Sequence[str], sample: Sample) -> Errors:
        made = dict(planted(methods, sample))
        made["better"] = base(sample)
        made["better"][BOX] -= 10
        return made

    trained = [switch("on", 0), switch("on", 1)]
    trained[1] = dataclasses.replace(trained[1], on="on7")
    measured = harm.measure(trained, PICTURES, errors)
    row = verdicts.of_harm(measured, S)["context"][0]
    ours = measured.pictures[measured.pictures["role"] == "pair"]
    np.testing.assert_allclose(ours["lost_retrained"], ours["lost"], rtol=0.1)
    assert "In networks of other training seeds the same harmed textures lose 0." in row
    trained[1] = dataclasses.replace(trained[1], on="better")
    measured = harm.measure(trained, PICTURES, errors)
    ours = measured.pictures[(measured.pictures[["role", "seed"]] == ["pair", 0]).all(axis=1)]
    share = 1 - 10 ** (-ours[["lost", "lost_retrained"]] / 10)
    assert (share["lost_retrained"] / share["lost"]).mean() == pytest.approx(-10 / 30, abs=0.03)


def test_chance_alone_has_no_texture_and_no_curve() -> None:
    measured = harm.measure([switch("same", seed) for seed in range(3)], PICTURES, planted)
    assert len(measured.regions) > 20, "there is something to be mistaken about"
    assert len(regions.discoveries(measured.regions)) <= 1
    curve = harm.curve(measured.fifths)
    ours = curve[curve["role"] == "pair"]
    assert (ours[["low", "high"]].abs() < harm.EFFECT_SHARE).all(axis=None)
    rows = verdicts.of_harm(measured, S)
    assert "yes" not in set(rows["verdict"])
    assert (rows.loc[rows["unit"] == "dB", "high"] < harm.EFFECT_DB).all()


def test_the_curve_weighs_blocks_by_their_error() -> None:
    """The fifth of the most severe blocks errs 10 % more; so says SciPy's ranking of severity."""

    def errors(_: Sequence[str], sample: Sample) -> Errors:
        severity = texture.severity(sample.hr, S)
        inner = subpixel.interior(severity)
        most = severity >= np.quantile(inner, 0.8)
        flicker = np.where(np.indices(SHAPE).sum(axis=0) % 2, 0.01, -0.01)
        error = base(sample)
        return {"a": np.where(most, 1.1 * error, error + flicker), "b": error}

    measured = harm.measure([Pair("a", "twin", 0, "a", "b")], PICTURES, errors)
    curve = harm.curve(measured.fifths).set_index("fifth")
    assert curve.loc[5, "net"] == pytest.approx(10, abs=0.2)
    assert curve.loc[5, "removed"] == pytest.approx(0, abs=0.01)
    assert (curve.loc[:4, "net"].abs() < 0.1).all()
    assert (curve.loc[5, "low"], curve.loc[5, "high"]) == pytest.approx((10, 10), abs=0.3)
    row = verdicts.of_harm(measured, S).set_index("claim").loc["harm grows with severity"]
    assert row["measured"] == pytest.approx(10, abs=0.3)
    assert (row["verdict"], row["reason"]) == ("open", "yes on 1 training seed; 3 are needed")


@pytest.mark.parametrize("effect", ["shift", "noise", "hash seed", "local seeds"])
def test_what_is_nothing_ends_in_nothing_on_real_outputs(effect: str, benchmarks: Path) -> None:
    local, other, nlsa = "local-x4-s0", "local-x4-s1", "nlsa-x4-s0"
    pairs = {
        "shift": Pair("a", "twin", 0, "changed0", local, ((other, local),)),
        "local seeds": Pair("a", "twin", 0, other, local, ((other, local),)),
        "noise": Pair(
            *("a", "switch", 0, "changed0", local, (("changed1", "changed2"),)),
            tuple((f"changed{k}", local) for k in range(1, 5)),
        ),
        "hash seed": Pair(
            *("a", "switch", 0, f"{nlsa}@hash(1)", nlsa, ((f"{nlsa}@hash(8)", nlsa),)),
            tuple((f"{nlsa}@hash({k})", f"{nlsa}@hash({k + 1})") for k in (2, 4, 6)),
        ),
    }

    def errors(methods: Sequence[str], sample: Sample) -> Errors:
        real = [method for method in methods if not method.startswith("changed")]
        made = dict(evaluation.block_errors(real, sample))
        y = subpixel.luma(evaluation.outputs([local], sample)[local]["image"])
        for k in range(5 if effect in ("shift", "noise") else 0):
            noise = np.random.default_rng(k).normal(0, 0.5, y.shape)
            changed = y + (0.25 if effect == "shift" else noise)
            made[f"changed{k}"] = subpixel.block_error(changed, subpixel.luma(sample.hr), S)
        if effect in ("shift", "noise"):  # what it is added to was rounded, too
            made[local] = subpixel.block_error(y, subpixel.luma(sample.hr), S)
        return made

    measured = harm.measure([pairs[effect]], datasets.benchmark("Set5", 4), errors)
    rows = verdicts.of_harm(measured, S)
    assert "yes" not in set(rows["verdict"])
    assert not rows["reason"].str.startswith("yes").any()
    decibels = rows[(rows["unit"] == "dB") & rows["measured"].notna()]
    assert (decibels["measured"] < harm.EFFECT_DB).all()


def test_a_pair_of_equals_is_refused() -> None:
    refused("equal outputs", harm.measure, [Pair("a", "twin", 0, "off", "off")], PICTURES, planted)
    refused("one or more", harm.measure, [switch("on")], [], planted)


def test_regions_are_those_of_a_second_library() -> None:
    rng = np.random.default_rng(0)
    field, again = rng.normal(size=(2, *SHAPE))
    smooth, chance = (
        ndimage.gaussian_filter(subpixel.signed_root(one), regions.SIGMA) for one in (field, again)
    )
    above = smooth > np.quantile(np.abs(chance), 0.99)
    labels = measure.label(above, connectivity=1)  # type: ignore[no-untyped-call]
    expected = measure.regionprops(labels, intensity_image=field)  # type: ignore[no-untyped-call]
    every = regions.find_regions(field, regions.region_limit([again]), [], [])
    found = [row for row in every if row["side"] == "harm"]
    assert [row["area"] for row in found] == [one.area for one in expected]
    masses = [one.intensity_mean * one.area for one in expected]
    np.testing.assert_allclose([row["mass"] for row in found], masses)
    noise, *controls = np.random.default_rng(0).normal(size=(3, *SHAPE))
    noise[20, 20] = 60
    wild = regions.find_regions(noise, regions.region_limit(controls), [], [])
    assert max(row["area"] for row in wild) < 25


@pytest.mark.parametrize("where", [np.s_[0:3, 0:3], np.s_[37:40, 45:48], np.s_[5:39, 5:39]])
def test_a_window_is_square_and_never_leaves_the_picture(where: tuple[slice, slice]) -> None:
    r, c, height, width = regions.Region(where, np.ones(SHAPE, bool)[where]).window(SHAPE)
    assert height == width >= regions.SMALLEST
    assert 0 <= r <= SHAPE[0] - height
    assert 0 <= c <= SHAPE[1] - width


def test_without_replicates_regions_are_compared_with_those_of_chance() -> None:
    strengths = {"pair": [9.0] * 30 + [0.5] * 10, "control 1": list(np.linspace(0, 1, 60))}
    rows = [(role, str(n % 6), s) for role in strengths for n, s in enumerate(strengths[role])]
    table = pd.DataFrame(rows, columns=["role", "image", "strength"])
    about = {"pair": "a", "kind": "twin", "seed": 0, "dataset": "toy", "side": "harm"}
    judged = regions.judge(table.assign(**about, p=np.nan))
    found = regions.discoveries(judged)
    assert set(found["role"]) == {"pair"}
    assert (found["strength"] == 9).all()
    assert len(found) == 30


def test_the_gallery_shows_the_planted_texture_first(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = dict.fromkeys(("on0", "off"), PICTURES[0].hr)
    samples = [dataclasses.replace(s, outputs=outputs) for s in PICTURES]
    measured = harm.measure([switch("on")], samples, planted)
    monkeypatch.setattr(evaluation, "block_errors", planted)
    cases = harm.cases(measured, switch("on"), 2, samples)
    assert [case.side for case in cases][:2] == ["harm", "harm"]
    assert cases[0].outline().sum() == cases[0].region.inside.sum()
    table = harm.case_table(cases[:1]).set_index("method")
    inside = cases[0].region.of(planted([], cases[0].sample)["on0"])
    assert table.loc["on0", "psnr"] == pytest.approx(10 * np.log10(255**2 / inside.mean()))


def test_the_network_says_whether_it_hashes(tmp_path: Path) -> None:
    """A variant of any name: turned pictures are the controls where nothing is hashed."""
    assert methods.hashes(saved(tmp_path, "dlsn"))
    assert not methods.hashes(saved(tmp_path, "hspan"))
