"""Studies: the right twins are paired, by seed, and the control with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dtfn import evaluation, images, pairs, paths, studies, subpixel, texture
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.evaluation import Output
from dtfn.pairs import NULL
from dtfn.studies import Study

ZOO = [
    ("local", 4, 0),
    ("local", 4, 1),
    ("local", 4, 2),
    ("nla", 4, 0),
    ("dtfn", 4, 0),
    ("dtfn", 4, 2),
    ("nla+tfs", 4, 0),
    ("local", 2, 0),
    ("nla", 2, 0),
    ("local", 3, 0),
]


@pytest.fixture(autouse=True)
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zoo of files that are no networks; what a method makes is its own noise."""
    rows = []
    for variant, scale, seed in ZOO:
        name = f"{variant}-x{scale}-s{seed}"
        file = f"{name}.safetensors"
        (tmp_path / file).write_text(name)
        rows.append({"name": name, "variant": variant, "scale": scale, "seed": seed, "file": file})
    (tmp_path / "registry.json").write_text(json.dumps(rows))
    monkeypatch.setattr(paths, "ZOO", tmp_path)
    monkeypatch.setattr(evaluation, "require", lambda *_: None)

    def outputs(methods: list[str], sample: Sample) -> dict[str, Output]:
        made = {}
        for method in methods:
            rng = np.random.default_rng(sum(method.encode()))
            noisy = sample.hr + rng.normal(0, 5, sample.hr.shape)
            made[method] = Output(np.clip(noisy, 0, 255).astype(np.uint8), 0.0)
        return made

    monkeypatch.setattr(evaluation, "outputs", outputs)
    hr = np.random.default_rng(0).integers(0, 256, (48, 40, 3)).astype(np.uint8)
    sample = Sample("mini", "a", 4, images.degrade(hr, 4), hr)
    monkeypatch.setattr(evaluation, "samples", lambda *_: iter([sample]))


def test_each_network_stands_against_the_twin_of_its_seed_and_so_does_its_control() -> None:
    study = studies.of_zoo(["mini"], 4)
    assert study.design == {
        0: {
            NULL: ("local-x4-s0", "local-x4-s1"),
            "nla": ("nla-x4-s0", "local-x4-s1"),
            "nla+tfs": ("nla+tfs-x4-s0", "local-x4-s1"),
            "dtfn": ("dtfn-x4-s0", "local-x4-s1"),
        },
        2: {NULL: ("local-x4-s2", "local-x4-s0"), "dtfn": ("dtfn-x4-s2", "local-x4-s0")},
    }
    assert study.names == ["nla", "nla+tfs", "dtfn"]
    assert study.plain == ["nla"]
    assert study.partners == {"nla": "nla+tfs"}
    assert study.first == study.design[0]
    assert set(study.inputs) == {f"{name}.safetensors" for name in study.methods}


def test_variants_and_seeds_can_be_chosen() -> None:
    study = studies.of_zoo(["mini"], 4, variants=["dtfn"], seeds=[2], twin_seed=1)
    assert study.design == {
        2: {NULL: ("local-x4-s2", "local-x4-s1"), "dtfn": ("dtfn-x4-s2", "local-x4-s1")}
    }
    assert study.plain == ["dtfn"], "nothing without TFS is there"
    assert study.partners == {"dtfn": None}


def test_surveys_are_those_of_the_design() -> None:
    study = studies.of_zoo(["mini"], 4)
    assert set(study.survey()[1]["pair"]) == {NULL, *study.names}
    assert set(study.causes()[1]["seed"]) == {0, 2}
    assert study.example()[0] == "mini a"


def test_a_single_twin_has_no_null_pair_and_is_studied_all_the_same() -> None:
    study = studies.of_zoo(["mini"], 2)
    assert study.design == {0: {"nla": ("nla-x2-s0", "local-x2-s0")}}
    assert study.null is None


def test_a_twin_of_the_same_seed_leaves_no_fair_null_pair() -> None:
    study = studies.of_zoo(["mini"], 4, variants=["dtfn"], seeds=[2], twin_seed=2)
    assert study.design == {2: {"dtfn": ("dtfn-x4-s2", "local-x4-s2")}}
    assert study.null is None


@pytest.mark.parametrize(
    ("scale", "options", "message"),
    [
        (4, {"variants": ["nlaa"]}, "variant 'nlaa': .*did you mean 'nla'"),
        (4, {"twin": "local-wide"}, "variant 'local-wide'"),
        (4, {"seeds": [7]}, r"seed: expected one of local x4: \[0, 1, 2\]; found 7"),
        (4, {"twin_seed": 9}, "seed: .*found 9"),
        (4, {"variants": ["nla"], "seeds": [1]}, r"seeds: expected those of nla .* found \[1\]"),
        (3, {}, "zoo x3: expected a network with attention; found local"),
    ],
)
def test_what_the_zoo_lacks_is_told(scale: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        studies.of_zoo(["mini"], scale, **options)


def test_measures_know_their_seed_and_are_netted_within_it() -> None:
    table = studies.of_zoo(["mini"], 4).measure()
    assert table.groupby("seed")["pair"].apply(list).to_dict() == {
        0: [NULL, "nla", "nla+tfs", "dtfn"],
        2: [NULL, "dtfn"],
    }
    net = pairs.net(table)
    own = table.set_index(["seed", "pair"])["harm_rate"]
    for row in net.to_dict("records"):
        control = own[(row["seed"], NULL)]
        assert row["harm_rate_net"] == pytest.approx(own[(row["seed"], row["pair"])] - control)
    curve = pairs.bound_table(table)
    assert len(pairs.net(curve)) == 4 * len(pairs.CURVE)


# --- folders --------------------------------------------------------------------------------


def folders(root: Path) -> list[str]:
    rng = np.random.default_rng(1)
    for name in "ab":
        hr = rng.integers(0, 256, (40, 44, 3)).astype(np.uint8)
        images.write(root / "hr" / f"{name}.png", hr)
        for role in ("with", "without", "null"):
            noisy = np.clip(hr + rng.normal(0, 5, hr.shape), 0, 255).astype(np.uint8)
            images.write(root / role / f"{name}_x4.png", noisy)
    return [str(root / role) for role in ("hr", "with", "without", "null")]


def test_folders_are_studied_as_networks_are(tmp_path: Path) -> None:
    study = studies.choose(folders(tmp_path), ["mini"], 4, 0, variants=["ignored"])
    assert study.names == ["with against without"]
    assert study.null == NULL
    assert study.datasets == ()
    assert set(study.inputs) == {
        f"{role}/{name}{'' if role == 'hr' else '_x4'}.png"
        for role in ("hr", "with", "without", "null")
        for name in "ab"
    }
    assert len(study.measure()) == 4
    _, distortions = study.survey()
    assert set(distortions["pair"]) == {NULL, "with against without"}
    name, hr = study.example()
    assert name == "hr a"
    np.testing.assert_array_equal(hr, images.read(tmp_path / "hr" / "a.png"))


def test_folders_without_a_null_have_worst_regions_but_no_control(tmp_path: Path) -> None:
    study = studies.choose(folders(tmp_path)[:3], ["mini"], 4, 0)
    assert study.null is None
    table, distortions = study.survey()
    assert set(distortions["pair"]) == set(study.names)
    assert table["q"].isna().all()
    for case in study.cases(table, study.names[0])["harm"]:
        assert np.isnan(case.q)


def test_two_folders_are_no_audit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folders: expected those of HR, with, without"):
        studies.choose(folders(tmp_path)[:2], ["mini"], 4, 0)
    assert studies.choose([], ["mini"], 4, 0).names


def test_a_named_twin_is_no_seed_of_the_study_by_itself() -> None:
    study = studies.of_zoo(["mini"], 4, twin_seed=1)
    assert sorted(study.design) == [0, 2]
    assert study.null == NULL
    assert {pairs["dtfn"][1] for pairs in study.design.values()} == {"local-x4-s1"}
    same = studies.of_zoo(["mini"], 4, seeds=[2], twin_seed=2)
    assert (sorted(same.design), same.null) == ([2], None), "asked for in so many words"


# --- causes -----------------------------------------------------------------------------------


def toy(dataset: str, image: str, scale: int, hr: Any, outputs: Mapping[str, Any]) -> Sample:
    return Sample(dataset, image, scale, images.as_rgb(images.degrade(hr, scale)), hr, outputs)


Causes = tuple[pd.DataFrame, pd.DataFrame]
DESIGN = {
    0: {NULL: ("l1", "l0"), "nla": ("n", "l0")},
    1: {NULL: ("l0", "l1"), "nla": ("n", "l1")},
}


def noisy(seed: int, scale: int = 2, size: int = 40) -> Sample:
    """Noise that grows to the right; the networks differ by noise, "n" most where there is more."""
    rng = np.random.default_rng(seed)
    rough = np.linspace(0, 60, size)[None]
    hr = np.clip(128 + rough * rng.normal(0, 1, (size, size)), 0, 255).astype(np.uint8)
    made = {}
    for name, amount in (("l0", 4.0), ("l1", 4.0), ("n", 4 + rough / 8)):
        noisy = hr + amount * rng.normal(0, 1, hr.shape)
        noisy[:6] = hr[:6]  # where all tie
        made[name] = np.clip(noisy, 0, 255).astype(np.uint8)
    return toy("mini", f"{seed}", scale, hr, made)


def surveyed(samples: Iterable[Sample], design: dict[int, dict[str, tuple[str, str]]]) -> Causes:
    one = list(samples)
    return Study(design, NULL, one[0].scale, "l0", lambda _: iter(one), {}).causes()


def pictures() -> Iterator[Sample]:
    return (noisy(seed) for seed in range(6))


@pytest.fixture(scope="module")
def found() -> Causes:
    return surveyed(pictures(), DESIGN)


def errors_of(one: Sample, method: str) -> np.ndarray:
    return subpixel.interior(subpixel.block_error(one.outputs[method], one.hr, one.scale))


def test_deciles_equal_a_loop() -> None:
    one = noisy(0)
    table = surveyed([one], {0: DESIGN[0]})[0]
    maps = texture.describe(one.hr, one.scale)
    severity, inconsistency = (
        subpixel.interior(maps[name]).ravel() for name in ("severity", "inconsistency")
    )
    harmed = (errors_of(one, "n") > errors_of(one, "l0")).ravel()
    untied = (errors_of(one, "n") != errors_of(one, "l0")).ravel()
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


def test_correlations_are_those_of_scipy(found: Causes) -> None:
    one = noisy(2)
    maps = texture.describe(one.hr, one.scale)
    harmed = (errors_of(one, "n") > errors_of(one, "l1")).ravel()
    untied = (errors_of(one, "n") != errors_of(one, "l1")).ravel()
    assert not untied.all()
    table = found[1]
    (row,) = table[
        (table["pair"] == "nla") & (table["seed"] == 1) & (table["image"] == "2")
    ].to_dict("records")
    for cause in studies.CAUSES:
        values = subpixel.interior(maps[cause]).ravel()
        known = untied & ~np.isnan(values)
        expected = stats.spearmanr(harmed[known], values[known]).statistic
        assert row[cause] == pytest.approx(expected), cause


def test_harm_that_goes_with_texture_is_found(found: Causes) -> None:
    wide = found[1].pivot(index=["image", "seed"], columns="pair", values="severity")
    net = wide["nla"] - wide[NULL]
    assert net.mean() > 0.05
    assert len(net) == 12


def test_constant_pictures_have_no_cause() -> None:
    flat = np.full((24, 24), 77, np.uint8)
    off = flat.copy()
    off[8:12] = 90
    one = toy("mini", "flat", 2, flat, {"n": off, "l0": flat, "l1": flat})
    found = surveyed([one], {0: DESIGN[0]})
    assert found[0]["harm_rate"].isna().all()
    assert found[1][list(studies.CAUSES)].isna().all(axis=None)
