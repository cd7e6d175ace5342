"""Tables of PSNR: bicubic has its known values, and a gain is judged by its interval."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dtfn import studies
from dtfn.statistics import LEAST

RNG = np.random.default_rng(0)


def results(dataset: str, pictures: int, scale: int = 4, **gains: float) -> pd.DataFrame:
    """A table of `evaluate`: bicubic at exactly its known PSNR, others above it by a gain."""
    known = studies.KNOWN_BICUBIC.get((dataset, scale), (0, 25.0))[1]
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
    assert studies.KNOWN_BICUBIC.keys() == rcan.keys()
    for key, (_, psnr) in studies.KNOWN_BICUBIC.items():
        assert psnr == pytest.approx(rcan[key], abs=0.011)


def test_bicubic_is_checked_on_whole_known_benchmarks_only() -> None:
    (verdict,) = studies.bicubic_is_right(results("Set5", 5))
    assert verdict.holds is True
    assert verdict.measured == pytest.approx(28.43)
    assert studies.bicubic_is_right(results("Set5", 4)) == []
    assert studies.bicubic_is_right(results("mini", 7)) == []


def test_a_wrong_bicubic_is_told() -> None:
    wrong = results("Set5", 5).assign(psnr=lambda t: t["psnr"] + 0.09)  # rounded Y
    (verdict,) = studies.bicubic_is_right(wrong)
    assert verdict.holds is False


def test_a_gain_holds_a_loss_does_not_and_noise_is_open() -> None:
    table = results("mini", 20, up=1.0, down=-1.0)
    noise = table[table["method"] == "bicubic"].assign(method="noise")
    noise["psnr"] += RNG.normal(0, 1, 20)
    table = pd.concat([table, noise])
    verdicts = [studies.beats(table, [method])[0] for method in ("up", "down", "noise")]
    assert [v.holds for v in verdicts] == [True, False, None]
    assert verdicts[0].measured == pytest.approx(1.0)
    assert verdicts[0].interval is not None
    assert [v.holds for v in studies.beats(table, ["up", "down"])] == [True, False]
    assert studies.beats(table, []) == []


def test_few_pictures_give_no_verdict() -> None:
    (verdict,) = studies.beats(results("mini", LEAST - 1, up=1.0), ["up"])
    assert (verdict.holds, verdict.interval) == (None, None)
    (verdict,) = studies.beats(results("mini", LEAST + 1, up=1.0), ["up"])
    assert verdict.holds is True, "2 / 2**6"
