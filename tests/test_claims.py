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
    regions = table[["pair", "dataset", "image"]].assign(share=0.005)
    verdicts = {v.claim: v.holds for v in claims.harm_beyond_luck(table, regions)}
    assert len(verdicts) == 12
    # Of six true zeros, all may be open; none is far from it.
    assert [holds for claim, holds in verdicts.items() if "same" in claim].count(None) >= 5


def test_a_worse_network_harms_beyond_luck(table: pd.DataFrame) -> None:
    regions = table[["pair", "dataset", "image"]].assign(share=0.005)
    regions.loc[regions["pair"] == "worse", "share"] = RNG.normal(0.3, 0.01, 12)
    verdicts = {v.claim: v for v in claims.harm_beyond_luck(table, regions)}
    assert verdicts["worse has a higher mean PSNR than its local twin"].holds is False
    assert verdicts["worse harms more positions than luck does"].holds is True
    assert verdicts["worse adds more error than luck does"].holds is True
    regional = verdicts["worse harms whole regions more than luck does"]
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
