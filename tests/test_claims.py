"""Claims: each holds, fails or stays open as its numbers say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dtfn import claims, subpixel
from dtfn.subpixel import Picture

RNG = np.random.default_rng(0)


def results(dataset: str, pictures: int, scale: int = 4, **gains: float) -> pd.DataFrame:
    """A table of `evaluate`: bicubic at exactly its known PSNR, others above it by a gain."""
    known = claims.KNOWN_BICUBIC.get((dataset, scale), (0, 25.0))[1]
    spread = np.linspace(-2, 2, pictures)
    return pd.DataFrame(
        [
            {"method": method, "dataset": dataset, "image": f"{i:03}", "scale": scale,
             "psnr": known + spread[i] + gain * (1 + 0.1 * spread[i])}
            for method, gain in {"bicubic": 0.0, **gains}.items()
            for i in range(pictures)
        ]
    )  # fmt: skip


def test_the_known_answers_are_those_of_the_field() -> None:
    """RCAN's table rounds Y, hence 0.01 dB."""
    rcan = {
        ("Set5", 2): 33.66, ("Set5", 3): 30.39, ("Set5", 4): 28.42,
        ("Set14", 2): 30.24, ("Set14", 3): 27.55, ("Set14", 4): 26.00,
        ("BSD100", 2): 29.56, ("BSD100", 3): 27.21, ("BSD100", 4): 25.96,
        ("Urban100", 2): 26.88, ("Urban100", 3): 24.46, ("Urban100", 4): 23.14,
    }  # fmt: skip
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
    verdicts = claims.beats(table, ["up", "down", "noise"])
    assert [v.holds for v in verdicts] == [True, False, None]
    assert verdicts[0].measured == pytest.approx(1.0)
    assert verdicts[0].interval is not None


def test_few_pictures_give_no_verdict() -> None:
    (verdict,) = claims.beats(results("mini", claims.LEAST - 1, up=1.0), ["up"])
    assert (verdict.holds, verdict.interval) == (None, None)
    (verdict,) = claims.beats(results("mini", claims.LEAST, up=1.0), ["up"])
    assert verdict.holds is True


# --- pairs ----------------------------------------------------------------------------------

PAIRS = {subpixel.NULL: ("l1", "l0"), "same": ("l2", "l0"), "worse": ("n", "l0")}


def picture(seed: int) -> Picture:
    """Twins differ by noise, "n" by twice as much of it."""
    rng = np.random.default_rng(seed)
    hr = rng.integers(60, 200, (48, 48)).astype(np.uint8)
    sizes = {"l0": 4, "l1": 4, "l2": 4, "n": 8}
    made = {
        name: np.clip(hr + rng.normal(0, size, hr.shape), 0, 255).astype(np.uint8)
        for name, size in sizes.items()
    }
    return Picture("mini", f"{seed:02}", 2, hr, made)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return subpixel.measure([picture(seed) for seed in range(12)], PAIRS)


def test_a_pair_that_differs_by_luck_claims_nothing(table: pd.DataFrame) -> None:
    regions = table[["pair", "dataset", "image"]].assign(share=0.005, share_help=0.005)
    verdicts = {v.claim: v.holds for v in claims.harm_beyond_luck(table, regions)}
    assert len(verdicts) == 12
    # Of six true zeros, all may be open; none is far from it.
    assert [holds for claim, holds in verdicts.items() if "same" in claim].count(None) >= 5


def test_a_worse_network_harms_beyond_luck(table: pd.DataFrame) -> None:
    regions = table[["pair", "dataset", "image"]].assign(share=0.005, share_help=0.005)
    regions.loc[regions["pair"] == "worse", "share"] = RNG.normal(0.3, 0.01, 12)
    verdicts = {v.claim: v for v in claims.harm_beyond_luck(table, regions)}
    assert verdicts["worse has a higher mean PSNR than its local twin"].holds is False
    assert verdicts["worse harms more of what it changes than luck does"].holds is True
    share = "more of the error that worse changes is added than of luck's"
    assert verdicts[share].holds is True
    regional = verdicts["worse harms more whole regions than it helps, beyond luck (first seed)"]
    assert regional.holds is True
    assert regional.measured == pytest.approx(0.295, abs=0.01)


def test_beside_null_is_the_difference(table: pd.DataFrame) -> None:
    frame = claims.beside_null(table, ["harm_rate", "fusion_gain"])
    assert list(frame["pair"]) == ["same", "worse"]
    assert (frame["pictures"] == 12).all()
    for metric in ("harm_rate", "fusion_gain"):
        net = frame[metric] - frame[f"{metric}_null"]
        assert frame[f"{metric}_net"].to_numpy() == pytest.approx(net.to_numpy())
        assert (frame[f"{metric}_net_low"] < frame[f"{metric}_net"]).all()
        assert (frame[f"{metric}_net"] < frame[f"{metric}_net_high"]).all()
    means = table[table["pair"] == subpixel.NULL]["harm_rate"].mean()
    assert frame["harm_rate_null"].to_numpy() == pytest.approx(means)


def test_who_differs_more_but_no_worse_harms_no_more_of_what_it_changes() -> None:
    """Twins that tie on most blocks, and a network that ties on few: as often better as worse."""

    def mostly_tied(seed: int) -> Picture:
        rng = np.random.default_rng(seed)
        hr = rng.integers(60, 200, (64, 64)).astype(np.uint8)
        base = hr + rng.integers(1, 4, hr.shape)
        made = {"l0": base}
        for name, share in (("l1", 0.1), ("n", 0.8)):
            changed = np.kron(rng.random((32, 32)) < share, np.ones((2, 2)))
            made[name] = base + (changed * rng.choice([-1, 1], hr.shape)).astype(int)
        return Picture(
            "mini", f"{seed:02}", 2, hr, {k: v.astype(np.uint8) for k, v in made.items()}
        )

    pairs = {subpixel.NULL: ("l1", "l0"), "bold": ("n", "l0")}
    table = subpixel.measure([mostly_tied(seed) for seed in range(12)], pairs)
    regions = table[["pair", "dataset", "image"]].assign(share=0.005, share_help=0.005)
    bold = table["pair"] == "bold"
    regions.loc[bold, "share"] = RNG.normal(0.2, 0.01, 12)  # more regions, of either kind
    regions.loc[bold, "share_help"] = RNG.normal(0.2, 0.01, 12)
    verdicts = {v.claim: v for v in claims.harm_beyond_luck(table, regions)}
    means = table.groupby("pair")[["harm_rate", "harm_mass"]].mean()
    assert (means.loc["bold"] > 2 * means.loc[subpixel.NULL]).all()
    for claim in (
        "bold harms more of what it changes than luck does",
        "more of the error that bold changes is added than of luck's",
        "bold harms more whole regions than it helps, beyond luck (first seed)",
    ):
        assert verdicts[claim].holds is not True
        assert abs(float(verdicts[claim].measured)) < 0.03  # type: ignore[arg-type]


# --- several families and seeds -------------------------------------------------------------


def family(sign: dict[int, float], pair: str, pictures: int = 30) -> pd.DataFrame:
    """Rows of a pair whose figures are off luck's by ``sign`` times one, seed by seed."""
    rows = []
    for seed, way in sign.items():
        rng = np.random.default_rng([seed, sum(pair.encode())])
        for i in range(pictures):
            base = {"dataset": "mini", "image": f"{i:02}", "scale": 4, "seed": seed}
            luck = dict.fromkeys(subpixel.NETTED, 5.0) | {"with": "l1", "without": "l0"}
            rows.append(base | luck | {"pair": subpixel.NULL})
            mine = {name: 5 + way + rng.normal(0, 0.3) for name in subpixel.NETTED}
            rows.append(
                base | mine | {"pair": pair, "psnr_gain": 0.1, "with": "n", "without": "l0"}
            )
    return pd.DataFrame(rows)


def families(**signs: dict[int, float]) -> pd.DataFrame:
    table = pd.concat([family(sign, name) for name, sign in signs.items()])
    return table.drop_duplicates(["pair", "image", "seed"], ignore_index=True)


def test_a_claim_holds_if_it_holds_for_one_family() -> None:
    table = families(nla={0: 1.0, 1: 1.0}, gla={0: 0.0}, hspa={0: -1.0}, dtfn={0: 1.0})
    verdicts = claims.of_the_paper(table)
    assert [v.claim[:15] for v in verdicts] == [f"paper's claim {i}" for i in (1, 2, 4)]
    for v in verdicts:
        assert v.holds is True
        told = "holds: nla; not shown: gla; does not hold at this scale of network: hspa"
        assert v.measured == told, "DTFN has TFS and is left out"


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_hidden_harm_is_not_found_in_luck(spread: float) -> None:
    """Whoever gains harms less, N as well as the null, which may differ more or less than N."""
    found = []
    for study in range(60):
        rng = np.random.default_rng([study, 7])
        rows = []
        for i in range(40):
            row = {"dataset": "mini", "image": f"{i:02}", "scale": 4, "seed": 0}
            row |= dict.fromkeys(subpixel.NETTED, 0.0)
            for pair, size in (("nla", spread), (subpixel.NULL, 1.0)):
                gain = rng.normal(0, size)
                harm = 0.5 - 0.02 * gain + rng.normal(0, 0.001)
                rows.append(row | {"pair": pair, "psnr_gain": gain, "harm_untied": harm})
        claim = claims.of_the_paper(pd.DataFrame(rows))[1]
        assert "averages hide it" in claim.claim
        found.append(claim.holds)
    assert found.count(None) >= 56


def test_harm_at_an_equal_average_is_hidden() -> None:
    rng = np.random.default_rng(3)
    rows = []
    for i in range(40):
        row = {"dataset": "mini", "image": f"{i:02}", "scale": 4, "seed": 0}
        row |= dict.fromkeys(subpixel.NETTED, 0.0)
        for pair, better, more in (("nla", 0.5, 0.01), (subpixel.NULL, 0.0, 0.0)):
            gain = better + rng.normal(0, 0.5)
            harm = 0.5 + more - 0.02 * gain + rng.normal(0, 0.001)
            rows.append(row | {"pair": pair, "psnr_gain": gain, "harm_untied": harm})
    first, second, _ = claims.of_the_paper(pd.DataFrame(rows))
    assert first.holds is None, "its gain makes up for it"
    assert second.holds is True


def test_a_claim_that_fails_for_all_does_not_hold() -> None:
    for verdict in claims.of_the_paper(families(nla={0: -1.0}, gla={0: -1.0})):
        assert verdict.holds is False
    for verdict in claims.of_the_paper(families(nla={0: -1.0}, gla={0: 0.0})):
        assert verdict.holds is None
    (first, *_) = claims.of_the_paper(families(dtfn={0: 1.0}))
    assert first.measured == "holds: dtfn", "where nothing else is there, it counts"


def test_seeds_that_disagree_leave_a_claim_open() -> None:
    table = families(nla={0: 2.0, 1: -0.5})
    assert {v.measured for v in claims.of_the_paper(table)} == {"not shown: nla"}
    verdicts = claims.bounds_beyond_luck(table)
    assert [v.holds for v in verdicts] == [None, None]
    assert verdicts[0].interval is not None
    assert verdicts[0].interval[0] > 0, "over pictures alone it would have held"
    assert [v.holds for v in claims.bounds_beyond_luck(families(nla={0: 2.0, 1: 0.5}))] == [
        True
    ] * 2


def test_few_discoveries_of_luck_are_told() -> None:
    """Forty families that differ by luck: hardly one claim about them may hold."""
    names = {f"n{i}": {0: 0.0} for i in range(40)}
    for verdict in claims.of_the_paper(families(**names)):
        told = str(verdict.measured)
        assert told.count("n") > 40
        held = told.partition("not shown")[0]
        assert held.count(",") < 2, told


def test_without_a_null_pair_nothing_is_claimed_beyond_luck() -> None:
    table = families(nla={0: 1.0})
    alone = table[table["pair"] != subpixel.NULL]
    assert claims.of_the_paper(alone) == []
    assert claims.bounds_beyond_luck(alone) == []
    regions = alone[["pair", "dataset", "image"]].assign(share=0.1, share_help=0.1)
    better, harm = claims.harm_beyond_luck(alone, regions)
    assert better.holds is True
    assert harm.holds is None
    assert harm.measured == pytest.approx(alone["harm_untied"].mean())
    frame = claims.beside_null(alone, ["harm_rate"])
    assert list(frame)[-3:] == ["harm_rate", "harm_rate_low", "harm_rate_high"]
    assert claims.replicated(alone.assign(seed=0), "harm_rate").empty
    estimates, titles = claims.net_of_luck(alone)
    assert set(estimates["metric"]) == set(titles) == set(claims.NET_CLAIMS)


def test_seeds_are_told_apart_and_taken_together() -> None:
    table = families(nla={0: 2.0, 1: -0.5})
    seeds = claims.by_seed(table, "harm_rate").set_index("seed")["harm_rate_net"]
    assert seeds.to_dict() == pytest.approx({0: 2.0, 1: -0.5}, abs=0.2)
    (row,) = claims.beside_null(table, ["harm_rate"]).to_dict("records")
    assert (row["pictures"], row["seeds"]) == (30, 2)
    assert row["harm_rate_net"] == pytest.approx(seeds.mean())
    assert set(claims.net_of_luck(table)[1]) == {f"{m}_net" for m in claims.NET_CLAIMS}


def test_a_difference_on_all_pictures_is_no_difference_of_three_seeds() -> None:
    table = families(nla={0: 2.0, 1: 2.0, 2: 2.0}, dtfn={0: 2.0})
    (row,) = claims.replicated(table, "harm_rate").to_dict("records")
    assert (row["pair"], row["pictures"], row["seeds"]) == ("nla", 30, 3)
    assert row["p_pictures"] < 0.001
    assert row["p_seeds"] == row["p_both"] == 0.25, "two of eight sign patterns"


def test_causes_are_judged_by_their_intervals() -> None:
    correlations = pd.DataFrame(
        {"pair": "nla", "cause": ["severity", "inconsistency", "variance"], "pictures": 9,
         "seeds_agree": True,
         "correlation_net": [0.1, -0.2, 0.3], "correlation_net_low": [0.05, -0.3, 0.2],
         "correlation_net_high": [0.2, 0.1, 0.4]}
    )  # fmt: skip
    verdicts = claims.grows_with(correlations, ["severity", "inconsistency"])
    assert [v.holds for v in verdicts] == [True, None]
    apart = correlations.assign(seeds_agree=False)
    assert {v.holds for v in claims.grows_with(apart, ["severity"])} == {None}
