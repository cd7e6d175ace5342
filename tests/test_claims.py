"""Claims: each holds, fails or stays open as its numbers say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dtfn import claims, pairs, regions
from dtfn.datasets import Sample
from dtfn.pairs import NULL
from dtfn.statistics import LEAST
from dtfn.studies import CAUSES
from dtfn.texture import DISTORTIONS

RNG = np.random.default_rng(0)


def results(dataset: str, pictures: int, scale: int = 4, **gains: float) -> pd.DataFrame:
    """A table of `evaluate`: bicubic at exactly its known PSNR, others above it by a gain."""
    known = claims.KNOWN_BICUBIC.get((dataset, scale), (0, 25.0))[1]
    spread = np.linspace(-2, 2, pictures)
    return pd.DataFrame(
        [
            {
                "method": method,
                "dataset": dataset,
                "image": f"{i:03}",
                "scale": scale,
                "psnr": known + spread[i] + gain * (1 + 0.1 * spread[i]),
            }
            for method, gain in {"bicubic": 0.0, **gains}.items()
            for i in range(pictures)
        ]
    )


def test_the_known_answers_are_those_of_the_field() -> None:
    """RCAN's table rounds Y, hence 0.01 dB."""
    rcan = {
        ("Set5", 2): 33.66,
        ("Set5", 3): 30.39,
        ("Set5", 4): 28.42,
        ("Set14", 2): 30.24,
        ("Set14", 3): 27.55,
        ("Set14", 4): 26.00,
        ("BSD100", 2): 29.56,
        ("BSD100", 3): 27.21,
        ("BSD100", 4): 25.96,
        ("Urban100", 2): 26.88,
        ("Urban100", 3): 24.46,
        ("Urban100", 4): 23.14,
    }
    assert claims.KNOWN_BICUBIC.keys() == rcan.keys()
    for key, (_, psnr) in claims.KNOWN_BICUBIC.items():
        assert psnr == pytest.approx(rcan[key], abs=0.011)


def test_bicubic_is_checked_on_whole_known_benchmarks_only() -> None:
    (verdict,) = claims.bicubic_is_right(results("Set5", 5))
    assert verdict.holds is True
    assert verdict.measured == pytest.approx(28.43)
    assert claims.bicubic_is_right(results("Set5", 4)) == []
    assert claims.bicubic_is_right(results("mini", 7)) == []


def test_a_wrong_bicubic_is_told() -> None:
    wrong = results("Set5", 5).assign(psnr=lambda t: t["psnr"] + 0.09)  # rounded Y
    (verdict,) = claims.bicubic_is_right(wrong)
    assert verdict.holds is False


def test_a_gain_holds_a_loss_does_not_and_noise_is_open() -> None:
    table = results("mini", 20, up=1.0, down=-1.0)
    noise = table[table["method"] == "bicubic"].assign(method="noise")
    noise["psnr"] += RNG.normal(0, 1, 20)
    table = pd.concat([table, noise])
    verdicts = [claims.beats(table, [method])[0] for method in ("up", "down", "noise")]
    assert [v.holds for v in verdicts] == [True, False, None]
    assert verdicts[0].measured == pytest.approx(1.0)
    assert verdicts[0].interval is not None
    (all_,) = claims.beats(table, ["up", "down", "noise"])
    assert (all_.holds, all_.measured) == (True, "holds: up; open: noise; opposite: down")
    assert claims.beats(table, []) == []


def test_few_pictures_give_no_verdict() -> None:
    (verdict,) = claims.beats(results("mini", LEAST - 1, up=1.0), ["up"])
    assert (verdict.holds, verdict.interval) == (None, None)
    (verdict,) = claims.beats(results("mini", LEAST + 1, up=1.0), ["up"])
    assert verdict.holds is True, "2 / 2**6"


# --- pairs ----------------------------------------------------------------------------------

PAIRS = {NULL: ("l1", "l0"), "same": ("l2", "l0"), "worse": ("n", "l0")}


def picture(seed: int) -> Sample:
    """Twins differ by noise, "n" by twice as much of it."""
    rng = np.random.default_rng(seed)
    hr = rng.integers(60, 200, (48, 48)).astype(np.uint8)
    sizes = {"l0": 4, "l1": 4, "l2": 4, "n": 8}
    made = {
        name: np.clip(hr + rng.normal(0, size, hr.shape), 0, 255).astype(np.uint8)
        for name, size in sizes.items()
    }
    return Sample("mini", f"{seed:02}", 2, np.zeros((24, 24, 3), np.uint8), hr, made)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pairs.measure([picture(seed) for seed in range(12)], PAIRS)


def correlations(**rises: float) -> pd.DataFrame:
    """Rank correlations of a null pair at 0.1, and of networks above it."""
    rng = np.random.default_rng(4)
    return pd.DataFrame(
        [
            {"pair": pair, "dataset": "mini", "image": f"{i:02}", "seed": 0}
            | {cause: 0.1 + rise + rng.normal(0, 0.02) for cause in CAUSES}
            for pair, rise in {NULL: 0.0, **rises}.items()
            for i in range(12)
        ]
    )


def test_a_worse_network_harms_more_than_the_control(table: pd.DataFrame) -> None:
    verdicts, judged = claims.of_harm(table, correlations(same=0.0, worse=0.1))
    assert len(verdicts) == 5
    assert [v.holds for v in verdicts[:2] + verdicts[3:]] == [None, True, True, True]
    assert verdicts[0].measured == "open: same; opposite: worse", "of the PSNR"
    assert verdicts[1].measured == "holds: worse; open: same"
    assert (judged.loc[judged["network"] == "same", "state"] == "open").sum() >= 4
    assert judged["q"].to_numpy() == pytest.approx(
        stats.false_discovery_control(judged["p"].to_numpy())
    )
    alone = table[table["pair"] != NULL]
    (better,), _ = claims.of_harm(alone, correlations())
    assert "PSNR" in better.claim, "without a control nothing is said about harm"


def test_with_control_is_the_difference(table: pd.DataFrame) -> None:
    frame = claims.with_control(table, ["harm_rate", "fusion_gain"])
    assert list(frame["pair"]) == ["same", "worse"]
    assert (frame["pictures"] == 12).all()
    for metric in ("harm_rate", "fusion_gain"):
        net = frame[metric] - frame[f"{metric}_null"]
        assert frame[f"{metric}_net"].to_numpy() == pytest.approx(net.to_numpy())
        assert (frame[f"{metric}_net_low"] < frame[f"{metric}_net"]).all()
        assert (frame[f"{metric}_net"] < frame[f"{metric}_net_high"]).all()
    means = table[table["pair"] == NULL]["harm_rate"].mean()
    assert frame["harm_rate_null"].to_numpy() == pytest.approx(means)
    alone = claims.with_control(table[table["pair"] != NULL], ["harm_rate"])
    assert list(alone)[-3:] == ["harm_rate", "harm_rate_low", "harm_rate_high"]


def test_who_differs_more_but_no_worse_harms_no_more_of_what_it_changes() -> None:
    """Twins that tie on most blocks, and a network that ties on few: as often better as worse."""

    def mostly_tied(seed: int) -> Sample:
        rng = np.random.default_rng(seed)
        hr = rng.integers(60, 200, (64, 64)).astype(np.uint8)
        base = hr + rng.integers(1, 4, hr.shape)
        made = {"l0": base.astype(np.uint8)}
        for name, share in (("l1", 0.1), ("n", 0.8)):
            changed = np.kron(rng.random((32, 32)) < share, np.ones((2, 2)))
            made[name] = (base + changed * rng.choice([-1, 1], hr.shape)).astype(np.uint8)
        return Sample("mini", f"{seed:02}", 2, np.zeros((32, 32, 3), np.uint8), hr, made)

    two = {NULL: ("l1", "l0"), "bold": ("n", "l0")}
    table = pairs.measure([mostly_tied(seed) for seed in range(12)], two)
    means = table.groupby("pair")[["harm_rate", "harm_mass"]].mean()
    assert (means.loc["bold"] > 2 * means.loc[NULL]).all()
    verdicts, judged = claims.of_harm(table, correlations(bold=0.0))
    assert verdicts[1].holds is None
    assert abs(judged["estimate"][1]) < 0.03


# --- several networks and seeds -------------------------------------------------------------


def family(sign: dict[int, float], pair: str, pictures: int = 30) -> pd.DataFrame:
    """Rows of a pair whose figures are off the control's by ``sign`` times one, seed by seed."""
    rows = []
    for seed, way in sign.items():
        rng = np.random.default_rng([seed, sum(pair.encode())])
        for i in range(pictures):
            base = {"dataset": "mini", "image": f"{i:02}", "scale": 4, "seed": seed}
            control = dict.fromkeys(pairs.NETTED, 5.0)
            rows.append(base | control | {"pair": NULL, "psnr_with": 30.0})
            mine = {name: 5 + way + rng.normal(0, 0.3) for name in pairs.NETTED}
            rows.append(base | mine | {"pair": pair, "psnr_gain": 0.1, "psnr_with": 30 + way})
    return pd.DataFrame(rows)


def families(**signs: dict[int, float]) -> pd.DataFrame:
    table = pd.concat([family(sign, name) for name, sign in signs.items()])
    return table.drop_duplicates(["pair", "image", "seed"], ignore_index=True)


def test_a_claim_holds_if_it_holds_for_one_network() -> None:
    table = families(nla={0: 1.0, 1: 1.0}, gla={0: 0.0}, hspa={0: -1.0}, dtfn={0: 1.0})
    verdicts, judged = claims.of_bounds(table, {})
    assert len(verdicts) == 2
    for v in verdicts:
        assert v.holds is True
        assert v.measured == "holds: nla; open: gla; opposite: hspa", "DTFN has TFS: left out"
    row = judged.set_index("network").iloc[0]
    assert (row["pictures"], row["seeds"]) == (30, 2)
    assert row["low"] < row["estimate"] < row["high"]


def test_a_claim_that_fails_for_all_does_not_hold() -> None:
    for sign, holds in ((-1.0, False), (0.0, None)):
        verdicts, _ = claims.of_bounds(families(nla={0: -1.0}, gla={0: sign}), {})
        assert {v.holds for v in verdicts} == {holds}
    verdicts, _ = claims.of_bounds(families(dtfn={0: 1.0}), {})
    assert verdicts[0].holds is True, "where nothing else is there, it counts"
    assert verdicts[0].measured == pytest.approx(1.0, abs=0.2), "of one network: the number"


def test_seeds_that_disagree_leave_a_claim_open() -> None:
    verdicts, judged = claims.of_bounds(families(nla={0: 2.0, 1: -0.5}), {})
    assert [v.holds for v in verdicts] == [None, None]
    assert (judged["low"] > 0).all(), "over pictures alone it would have held"
    verdicts, _ = claims.of_bounds(families(nla={0: 2.0, 1: 0.5}), {})
    assert [v.holds for v in verdicts] == [True, True]


def test_tfs_is_judged_against_the_same_network_without() -> None:
    table = families(**{"nla": {0: 0.0, 1: 0.0}, "nla+tfs": {0: 1.0, 1: 0.5}})
    *_, last = claims.of_bounds(table, {"nla": "nla+tfs", "gla": None})[0]
    assert (last.claim, last.holds) == ("TFS raises the mean PSNR", True)
    assert last.measured == pytest.approx(0.75)


def test_few_of_many_claims_about_chance_hold() -> None:
    """Forty networks that differ by chance: hardly one claim about them may hold."""
    _, judged = claims.of_bounds(families(**{f"n{i}": {0: 0.0} for i in range(40)}), {})
    assert len(judged) == 80
    assert (judged["state"] != "open").sum() <= 2
    assert claims.of_bounds(families(nla={0: 1.0})[lambda t: t["pair"] != NULL], {})[0] == []


def equal_psnr(gain: float, more: float, spread: float, seed: int) -> bool | None:
    """Judge harm at an equal PSNR, where who gains harms less, N as well as the control."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(40):
        row = {"dataset": "mini", "image": f"{i:02}", "scale": 4, "seed": 0}
        row |= dict.fromkeys(pairs.NETTED, 0.0)
        for pair, size, mine in (("nla", spread, 1), (NULL, 1.0, 0)):
            psnr = mine * gain + rng.normal(0, size)
            harm = 0.5 + mine * more - 0.02 * psnr + rng.normal(0, 0.001)
            rows.append(row | {"pair": pair, "psnr_gain": psnr, "harm_untied": harm})
    return claims.of_harm(pd.DataFrame(rows), correlations(nla=0.0))[0][2].holds


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_hidden_harm_is_not_found_in_chance(spread: float) -> None:
    assert [equal_psnr(0, 0, spread, seed) for seed in range(20)].count(None) >= 18


def test_harm_at_an_equal_average_is_found() -> None:
    assert equal_psnr(0.5, 0.01, 0.5, 3) is True


# --- textures -------------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "holds"), [(1.0, True), (-1.0, False), (0.0, None)])
def test_distortion_is_judged_over_pictures(shift: float, holds: bool | None) -> None:
    rng = np.random.default_rng(1)
    rows = [
        {"pair": p, "dataset": "d", "image": f"{i}", "measure": m}
        | {"gap": rng.normal(0, 0.3) + shift * (p == "nla"), "harmed": np.nan}
        for p in (NULL, "nla")
        for i in range(30)
        for m in DISTORTIONS
    ]
    found = pd.DataFrame(
        {"pair": "nla", "side": "harm", "dataset": "d", "image": ["0", "1", "2"], "area": 9}
        | {"mass": 1.0, "q": [0.01, 0.04, 0.2]}
    )
    (regional, *verdicts), _ = claims.of_textures(found, pd.DataFrame(rows))
    assert [v.holds for v in verdicts] == [holds] * 4
    assert (regional.holds, regional.measured) == (True, "nla 2, null pair 0 regions")
    nothing = claims.of_textures(found.iloc[2:], pd.DataFrame(rows))[0][0]
    assert nothing.holds is False
    assert regions.LEVEL == 0.05
