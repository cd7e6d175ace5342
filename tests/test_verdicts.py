"""The eight verdicts on controls: what cannot choose, and what chance alone does, is no finding."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from tiny import crossed, refused

from dtfn import causes, datasets, donors, evaluation, gate, harm, models, recipes, verdicts, zoo
from dtfn.datasets import Sample
from dtfn.harm import Pair
from dtfn.regions import discoveries
from dtfn.statistics import NETWORK
from dtfn.statistics import crossed as bootstrap
from dtfn.subpixel import block_error, luma

S = 4
PLACEBO, NLSA = "placebo-x4-s0", "nlsa-x4-s0"


@pytest.fixture
def small_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zoo with a network that hashes, the placebo of its seed, and two without attention."""
    monkeypatch.setattr("dtfn.paths.ZOO", tmp_path)
    for name in (NLSA, PLACEBO, "local-x4-s0", "local-x4-s1"):
        variant, seed = name.partition("-")[0], int(name[-1])
        torch.manual_seed(seed)
        network = models.create(f"mini-{variant}", S, n_feats=8, n_resblocks=1, n_resgroups=2)
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.05)
        file = tmp_path / f"{name}.safetensors"
        models.save(network, file, recipe=dataclasses.asdict(recipes.preset(name)))
        about = {"name": name, "variant": variant, "scale": S, "seed": seed, "file": file.name}
        if variant != "local":
            chooses = variant == "nlsa"
            about |= {"gate": 0.2 * chooses, "gated": 9, "chooses": chooses}
        zoo.record(tmp_path, about)


@pytest.mark.usefixtures("small_zoo")
def test_a_placebo_is_a_control_and_never_part_of_a_number() -> None:
    pairs = harm.pairs_of_zoo(S)
    kinds = [("nlsa", "switch"), ("nlsa", "placebo"), ("nlsa", "twin"), ("placebo", "switch")]
    assert [(pair.name, pair.kind) for pair in pairs] == kinds
    assert [pair.name for pair in harm.switches(S)] == ["nlsa"], "a placebo looks at nothing"
    file = str(zoo.file_of(NLSA))
    assert [pair.on for pair in harm.pairs_of_zoo(S, [file])] == [file]
    refused(r"nlsa s0 \(switch\) twice", harm.pairs_of_zoo, S, [file, "nlsa"])
    refused("without attention_off", harm.pairs_of_zoo, S, [str(zoo.file_of("local-x4-s0"))])
    measured = harm.measure(pairs, datasets.benchmark("mini", S, 2))
    assert set(measured.pictures["pair"]) == {"nlsa", "placebo"}
    rows = verdicts.of_pairs(pairs, measured, S, ["mini"], 2)
    known = rows[rows["measured"].notna()]
    assert set(known["networks"]) == {"nlsa s0"}
    context = known["context"].tolist()
    said = "of 9 pictures of Urban100: uniform weights cost 0.200 to 0.200 dB."
    assert context[0].endswith(said), "the registry, which has no PSNR here"
    ours = measured.fifths[(measured.fifths[["pair", "role"]] == [PLACEBO[:7], "pair"]).all(axis=1)]
    added, removed = (100 * ours[part].mean() / ours["off"].mean() for part in ("added", "removed"))
    assert f"; a placebo adds {added:.2f} % [" in context[1]
    assert f" and removes {removed:.2f} % [" in context[1].partition("; a placebo")[2]
    assert "other training seeds" not in context[1], "there is one"
    least = [gate.LEAST_SWITCHED, *[harm.EFFECT_DB] * (len(known) - 2), 0.5]
    assert known["least"].tolist() == least
    alone = verdicts.of_pairs(pairs[3:], measured, S, ["mini"], 2)
    assert alone["measured"].iloc[0] == 0
    assert alone["verdict"].tolist()[1:] == ["not testable"] * 4

    kinds_ = ["uniform", "off", gate.PLACEBO, "window(32)"]
    costs = gate.costs([NLSA, PLACEBO], ["mini"], 1, kinds_).set_index(["name", "intervention"])
    assert set(costs.loc[PLACEBO].index) == {"uniform", "off"}, "there is no choice to change"
    assert costs.loc[(PLACEBO, "uniform"), "cost"] == 0
    better = costs.loc[(NLSA, "off"), "psnr"] - costs.loc[(PLACEBO, "off"), "psnr"]
    assert costs.loc[(NLSA, gate.PLACEBO), "cost"] == pytest.approx(better)


def gated(name: str, uniform: float, far: float) -> dict[str, object]:
    ends = {"uniform": uniform, "window_32": far}
    row = {f"{kind}{end}": n + d for kind, n in ends.items() for end, d in ENDS.items()}
    about = {"pictures": 10, "few": 5, "least": 0.05, "verdict": "as measured"}
    return {"name": name, "chooses": uniform > 0.06, **about, **row}


ENDS = {"": 0.0, "_low": -0.005, "_high": 0.005}


def test_the_gate_says_which_network_does_not_choose() -> None:
    table = pd.DataFrame([gated("nlsa-x4-s0", 0.1, 0.02), gated("gla-x4-s0", 0.04, 0.0)])
    every, far = verdicts.of_gate(table)
    assert "1 of 2 do; not: gla-x4-s0" in every.claim
    assert (every.measured, every.holds) == (0.04, False)
    between = pd.DataFrame([gated("nlsa-x4-s0", 0.1, 0.02), gated("gla-x4-s0", 0.052, 0.0)])
    (every, _) = verdicts.of_gate(between)
    assert every.holds is None, "its interval holds what is asked"
    assert "1 of 2 do; open: gla-x4-s0" in every.claim
    assert (far.measured, far.holds) == (0.0, False), "one network gains nothing from there"
    assert verdicts.of_gate(between[:1])[1].holds is True
    control = verdicts.of_gate(pd.DataFrame([gated("placebo-x4-s0", 0.0, 0.0)]))
    assert [(one.measured, one.holds) for one in control] == [(0.0, True)]
    few = verdicts.of_gate(table.assign(few=3, pictures=3))
    assert [one.holds for one in few] == [None, None]
    assert "1 of 2" not in few[0].claim, "three pictures do not say so"


def test_a_premise_that_fails_and_the_networks_are_part_of_the_row() -> None:
    table = crossed(pair=["nlsa", "nlsa+tfs"], seed=range(3), dataset=["toy"], image=range(6))
    tfs = table["pair"] == "nlsa+tfs"
    table = table.assign(role="pair", lost=0.1 - 0.05 * tfs, psnr_on=30 - 0.05 * tfs, won=0.2)
    (row,) = verdicts.of_tfs(table, S).to_dict("records")
    assert (row["verdict"], row["measured"]) == ("open", pytest.approx(0.05))
    assert row["reason"] == "TFS changes PSNR by -0.050 dB [-0.050, -0.050]"
    assert row["context"] == "What helped textures win changes by +0.000 dB [0.000, 0.000]."
    assert row["networks"] == "nlsa s0 s1 s2, nlsa+tfs s0 s1 s2"


def test_an_open_verdict_says_why() -> None:
    table = crossed(pair=["nlsa"], seed=range(3), dataset=["toy"], image=range(6))
    least = "the interval holds 0.01 dB, the smallest effect that counts"
    reasons = {least: [0.001, 0.02, 0.01], "training seeds disagree in sign": [-0.2, 0.5, 0.5]}
    for reason, lost in reasons.items():
        table["lost"] = np.array(lost)[table["seed"]]
        figure = bootstrap(table, "lost", seed=NETWORK)
        (row,) = verdicts.judge(1, S, figure, table).to_dict("records")
        assert (row["verdict"], row["reason"]) == ("open", reason)
        (row,) = verdicts.judge(1, S, figure, table, unless="a premise").to_dict("records")
        assert row["reason"] == "a premise"


# --- on real outputs ---
def test_harm_planted_in_real_outputs_is_found_with_its_size(benchmarks: Path) -> None:
    """A pattern of 6 levels in 12 x 16 positions, and noise of half a level everywhere."""
    box, local = (slice(20, 32), slice(24, 40)), "local-x4-s0"
    pattern = 6 * (1 - 2 * (np.indices((S * 12, S * 16)).sum(axis=0) % 2))

    def errors(_: Sequence[str], sample: Sample) -> Mapping[str, NDArray[np.float64]]:
        y = luma(evaluation.outputs([local], sample)[local]["image"]).astype(float)
        truth, made = luma(sample.hr), {}
        for k in range(5):
            noisy = y + np.random.default_rng(k).normal(0, 0.5, y.shape)
            made[f"same{k}"] = block_error(noisy, truth, S)
            noisy[S * 20 : S * 32, S * 24 : S * 40] += pattern
            made[f"on{k}"] = block_error(noisy, truth, S)
        return made | {"off": block_error(y, truth, S)}

    again = tuple((f"on{k}", "off") for k in range(1, 5))
    pair = Pair("nlsa", "switch", 0, "on0", "off", (("same1", "same2"),), again)
    measured = harm.measure([pair], datasets.benchmark("Set5", S), errors)
    found = discoveries(measured.regions)
    found = found[found["role"] == "pair"]
    assert set(found["side"]) == {"harm"}
    assert found["image"].nunique() == len(found) == 5
    for row in found.itertuples():
        assert abs(row.top - box[0].start) <= 7
        assert abs(row.left - box[1].start) <= 7
        assert row.held == pytest.approx(36 * 12 * 16, rel=0.15)
    rows = verdicts.of_harm(measured, S)
    assert rows["reason"].iloc[0] == "yes on 1 training seed; 3 are needed"
    ours = measured.pictures[measured.pictures["role"] == "pair"]
    assert rows["measured"].iloc[0] == pytest.approx(ours["lost"].mean())


def test_another_hash_seed_is_no_cause_and_no_merit_of_tfs(benchmarks: Path) -> None:
    """Claims 4, 6 and 7 where nothing but chance differs; two seeds of it stand for training's."""
    samples = list(datasets.benchmark("Set5", S))
    on = {seed: f"{NLSA}@hash({seed + 1})" for seed in range(6)}
    pairs = [Pair("nlsa", "switch", n, on[n], NLSA, ((on[n + 3], NLSA),)) for n in range(3)]
    both = (("nlsa", 0), ("nlsa+tfs", 3))
    arms = [dataclasses.replace(p, name=n, on=on[p.seed + k]) for p in pairs for n, k in both]
    tables = [harm.measure([arm], samples).pictures for arm in arms]
    rows = [verdicts.of_tfs(pd.concat(tables, ignore_index=True), S)]
    nothing = [dataclasses.replace(pair, on="local-x4-s0") for pair in pairs]
    experiment = donors.measure(nothing, donors.Pool(samples), 10, [2], 1)
    slopes = causes.measure(pairs, samples).pictures
    rows.append(verdicts.of_causes(pairs, slopes, experiment, S))
    table = pd.concat(rows).set_index("claim")
    assert "yes" not in set(table["verdict"])
    assert table.loc[list(verdicts.CLAIMS)[6], "verdict"] == "no"
    donated = table.loc[list(verdicts.CLAIMS)[7]]
    assert donated["measured"] == pytest.approx(0, abs=1e-4)
