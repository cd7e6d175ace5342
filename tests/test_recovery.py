"""Recovery: shares of a bound, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dtfn import claims, recovery, subpixel
from dtfn.errors import InputError

NULL = subpixel.NULL


def table(seeds: tuple[int, ...] = (0, 1), pictures: int = 8) -> pd.DataFrame:
    """N has 30 dB, its bound 31, TFS 30.5, another twin 30.1, the twin 29.8, all a bit spread."""
    rows = []
    rng = np.random.default_rng(0)
    for seed in seeds:
        for i in range(pictures):
            level = 30 + i
            for pair, psnr in (("nla", 30.0), ("nla+tfs", 30.5), (NULL, 30.1)):
                rows.append(
                    {"pair": pair, "dataset": "mini", "image": f"{i}", "scale": 4, "seed": seed,
                     "psnr_with": psnr - 30 + level + rng.normal(0, 0.01),
                     "psnr_without": level - 0.2 + rng.normal(0, 0.01),
                     "selection_bound": level + 1, "fusion_bound": level + 2}
                )  # fmt: skip
    return pd.DataFrame(rows)


def test_shares_are_those_by_hand() -> None:
    found = recovery.candidates(table(), "nla", "nla+tfs")
    shares = recovery.shares(found).set_index("candidate")
    expected = {"with TFS (nla+tfs)": 0.5, recovery.OTHER_TWIN: 0.1, recovery.TWIN: -0.2}
    assert set(shares.index) == set(expected)
    for name, gain in expected.items():
        row = shares.loc[name]
        assert row["recovery"] == pytest.approx(gain, abs=0.01)
        assert row["selection_share"] == pytest.approx(gain, abs=0.01)
        assert row["fusion_share"] == pytest.approx(gain / 2, abs=0.01)
        assert row["selection_share_low"] < row["selection_share"] < row["selection_share_high"]
        assert row["pictures"] == 8, "the seeds of a picture are one"


def test_a_seed_is_compared_with_its_own() -> None:
    frame = table()
    mine = frame[(frame["pair"] != "nla+tfs") | (frame["seed"] == 1)]
    found = recovery.candidates(mine, "nla", "nla+tfs")
    assert set(found.loc[found["candidate"].str.startswith("with TFS"), "seed"]) == {1}


def test_nothing_to_gain_has_no_share() -> None:
    frame = table().assign(selection_bound=lambda t: t["psnr_with"])
    shares = recovery.shares(recovery.candidates(frame, "nla", None, None))
    assert shares["candidate"].tolist() == [recovery.TWIN]
    assert shares["selection_share"].isna().all()
    assert shares["fusion_share"].notna().all()


def test_a_pair_that_was_not_measured_is_told() -> None:
    with pytest.raises(InputError, match="expected the pair 'dtfn'"):
        recovery.candidates(table(), "nla", "dtfn")


def test_families_are_put_together() -> None:
    found = recovery.with_fidelity(table(), ["nla"], {"nla": "nla+tfs"}, NULL)
    assert found.equals(recovery.candidates(table(), "nla", "nla+tfs"))


def test_gates_take_the_place_of_tfs() -> None:
    scores = pd.DataFrame(
        {"dataset": "mini", "image": ["0", "1"], "psnr_with": 30.0, "psnr_without": 29.0,
         "psnr_gate": [30.4, 30.6], "psnr_coin": 29.5, "psnr_mean": 30.2, "selection_bound": 31.0}
    )  # fmt: skip
    shares = recovery.shares(recovery.gated(scores, "nla"), ["selection_bound"])
    found = shares.set_index("candidate")["selection_share"].to_dict()
    assert found == pytest.approx(
        {recovery.GATES["psnr_gate"]: 0.5, recovery.GATES["psnr_coin"]: -0.5,
         recovery.GATES["psnr_mean"]: 0.2, recovery.TWIN: -1.0}
    )  # fmt: skip


def test_benchmarks_are_told_apart() -> None:
    frame = pd.concat([table(), table().assign(dataset="other", selection_bound=40.0)])
    found = recovery.candidates(frame, "nla", "nla+tfs")
    by = ["dataset", "pair", "candidate"]
    apart = recovery.shares(found, by=by)
    alone = recovery.shares(recovery.candidates(table(), "nla", "nla+tfs"))
    mini = apart[apart["dataset"] == "mini"].reset_index(drop=True)
    pd.testing.assert_frame_equal(mini[list(alone)], alone)
    assert (apart["pictures"] == 8).all()
    assert len(apart) == 2 * len(alone)


def test_tfs_is_a_gate_s_rival_on_the_gate_s_pictures() -> None:
    made = recovery.candidates(table(), "nla", "nla+tfs")
    first = table().query("pair == 'nla' and seed == 0 and image in ['2', '5']")
    scores = first[["dataset", "image", "psnr_with", "psnr_without", "selection_bound"]].assign(
        psnr_gate=lambda t: t["psnr_with"] + 0.4, psnr_coin=0.0, psnr_mean=0.0
    )
    doors = recovery.gated(scores, "nla", made)
    tfs = doors[doors["candidate"] == "with TFS (nla+tfs)"]
    expected = table().query("pair == 'nla+tfs' and seed == 0 and image in ['2', '5']")
    assert tfs["image"].tolist() == ["2", "5"]
    assert tfs["psnr"].tolist() == expected["psnr_with"].tolist()
    assert "with TFS (nla+tfs)" not in set(recovery.gated(scores, "nla")["candidate"])


def test_the_gate_is_judged_against_coin_mean_and_tfs() -> None:
    rows = table().query("pair == 'nla' and seed == 0")
    rows = rows.assign(
        psnr_gate=rows["psnr_with"] + 0.4,
        psnr_coin=rows["psnr_with"] - 0.1,
        psnr_mean=rows["psnr_with"] + 0.7,
    )
    made = recovery.candidates(table(), "nla", "nla+tfs")
    verdicts = claims.gate_pays(recovery.gated(rows, "nla", made))
    assert [(v.claim, v.holds) for v in verdicts] == [
        ("a gate of nla beats a coin", True),
        ("a gate of nla beats the mean of both", False),
        ("a gate of nla beats nla with TFS", False),
    ]
    verdicts = claims.tfs_recovers(made)
    assert [v.holds for v in verdicts] == [True, True, True]
    told = "nla with TFS (nla+tfs) recovers something of the bound of nla"
    assert [v.claim.removeprefix(told) for v in verdicts] == [
        "", " beyond its local twin", " beyond luck",
    ]  # fmt: skip


def test_seeds_that_disagree_leave_recovery_open() -> None:
    frame = table()
    worse = (frame["pair"] == "nla+tfs") & (frame["seed"] == 1)
    frame.loc[worse, "psnr_with"] -= 0.7
    found = recovery.candidates(frame, "nla", "nla+tfs")
    (verdict, *_) = claims.tfs_recovers(found)
    assert verdict.interval is not None
    assert verdict.interval[0] > 0
    assert verdict.holds is None


def test_claims_compare_candidates() -> None:
    found = recovery.candidates(table(), "nla", "nla+tfs")
    (over_n,) = claims.beats_candidate(found, "with TFS", "", "{pair}: TFS recovers")
    assert (over_n.claim, over_n.holds) == ("nla: TFS recovers", True)
    assert over_n.measured == pytest.approx(0.5, abs=0.01)
    (over_twin,) = claims.beats_candidate(found, "with TFS", recovery.TWIN, "{pair}")
    assert over_twin.measured == pytest.approx(0.7, abs=0.01)
    (worse,) = claims.beats_candidate(found, recovery.TWIN, recovery.OTHER_TWIN, "{pair}")
    assert worse.holds is False
    assert claims.beats_candidate(found, "gate", "", "{pair}") == []
