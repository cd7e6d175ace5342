"""What a run will cost: the fit, the tiles a budget chooses, and forecasts against real runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_networks as tiny
from hypothesis import given
from hypothesis import strategies as st

from dtfn import datasets, evaluation, models, paths
from dtfn import tiling as costs
from dtfn.errors import InputError
from dtfn.evaluation import Budget, Chop, Tiling, told
from dtfn.tiling import OVERLAP, Cost

POSITIONS = [side**2 for side in costs.SIDES]
DENSE = Cost((0.0, 1e-5, 1e-8), (1e6, 4000.0), 3e8)


@given(st.tuples(*[st.floats(0, 10)] * 3).filter(lambda c: sum(c) > 0.1))
def test_the_fit_finds_the_costs_that_made_the_points(unit: tuple[float, float, float]) -> None:
    made = (unit[0], unit[1] * 1e-3, unit[2] * 1e-6)
    polynomial = np.polynomial.Polynomial(made)
    found = np.polynomial.Polynomial(costs.fit([(L, polynomial(L)) for L in POSITIONS], 2))
    np.testing.assert_allclose(found(1e5), polynomial(1e5), rtol=1e-6)


def test_two_points_make_no_constant() -> None:
    assert costs.fit([(10, 5.0), (20, 10.0)], 2) == pytest.approx((0, 0.5, 0), abs=1e-9)
    assert costs.fit([(10, 5.0), (20, 20.0)], 2) == pytest.approx((0, 0, 0.05), abs=1e-9)
    assert costs.fit([(10, 5.0), (20, 7.0)], 1) == pytest.approx((3, 0.2), abs=1e-9)


def test_a_budget_takes_the_whole_image_where_it_fits() -> None:
    assert Budget(10**12).tiling(DENSE, 500, 400) is None


@pytest.mark.parametrize("memory", [4e8, 5e8, 2e9])
def test_a_budget_takes_the_largest_tiles_that_fit(memory: float) -> None:
    chosen = Budget(int(memory)).tiling(DENSE, 2000, 3000)
    assert chosen is not None
    assert DENSE.bytes_of(chosen.size**2) <= memory
    larger = costs.STEPS[costs.STEPS.index(chosen.size) + 1]
    assert DENSE.bytes_of(larger**2) > costs.SPARE * memory


def test_a_budget_below_every_tile_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected at least 3\d\d MB for this network"):
        Budget(200 * 2**20).tiling(DENSE, 200, 200)


RUN = """
import sys, torch
from dtfn import evaluation, tiling as costs
network = evaluation.network(sys.argv[1], "sha")
x = torch.rand(1, 3, 128, 128)
with torch.inference_mode():
    network(x.contiguous(memory_format=torch.channels_last))
print(costs.peak(torch.device("cpu")))
"""


def test_memory_holds_in_a_fresh_process(tmp_path: Path) -> None:
    """Beyond the network at rest too: else a forecast of nothing would hold for small networks."""
    file = tmp_path / "network.safetensors"
    models.save(tiny.small("dtfn", n_feats=128), file)

    cost = costs.cost(file, "sha")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(file)], capture_output=True, text=True, check=True
    )

    assert float(done.stdout) == pytest.approx(cost.bytes_of(128**2), rel=0.15)
    running = float(done.stdout) - cost.floor
    assert running > cost.floor / 2
    assert running == pytest.approx(cost.bytes_of(128**2) - cost.floor, rel=0.3)


def test_a_trial_that_fails_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.safetensors"
    file.write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"trial of .*broken\.safe.*InputError"):
        costs.cost(file, "sha")


# --- forecasts --------------------------------------------------------------------------------


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A weights file whose cost is known."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(costs, "cost", lambda *_: DENSE)
    file = tmp_path / "edsr.safetensors"
    models.save(tiny.small("edsr", 4), file)
    return str(file)


@pytest.mark.parametrize("tiling", [None, Tiling(64, 8), Chop()])
@pytest.mark.parametrize("self_ensemble", [False, True])
def test_a_forecast_is_the_sum_over_tiles(
    network: str, tiling: Tiling | Chop | None, self_ensemble: bool
) -> None:
    (sample,) = datasets.benchmark("mini", 4, 1)
    size = sample.lr.shape[:2]
    sizes = costs.positions(tiling, *size) * (8 if self_ensemble else 1)

    table = evaluation.forecast(
        ["bicubic", network], ["mini"], 4, 1, tiling=tiling, self_ensemble=self_ensemble
    )

    (row,) = table.to_dict("records")
    assert (row["pictures"], row["tiles"]) == (1, len(sizes))
    assert row["seconds"] == pytest.approx(sum(1e-5 * n + 1e-8 * n**2 for n in sizes))
    assert row["memory"] == pytest.approx(DENSE.bytes_of(max(sizes)) / 2**20)


def test_what_the_cache_holds_costs_nothing(network: str) -> None:
    evaluation.evaluate([network], ["mini"], 4, 1)
    expected = evaluation.forecast([network], ["mini"], 4, 2)
    assert expected["pictures"].tolist() == [1]
    assert evaluation.forecast([network], ["mini"], 4, 1)["seconds"].tolist() == [0]


def test_a_budget_evaluates_in_the_tiles_that_it_chooses(network: str) -> None:
    (sample,) = datasets.benchmark("mini", 4, 1)
    allowed = int(DENSE.bytes_of(64**2) / costs.SPARE) + 1
    by_budget = evaluation.outputs([network], sample, Budget(allowed))[network]
    by_hand = evaluation.outputs([network], sample, Tiling(64, OVERLAP))[network]
    np.testing.assert_array_equal(by_budget.image, by_hand.image)
    assert by_budget.seconds == by_hand.seconds  # remembered under the same key


def test_slow_work_is_told_and_too_large_work_refused() -> None:
    table = pd.DataFrame(
        {"method": ["a", "b", "c"], "pictures": [1, 100, 0], "tiles": [4, 100, 0],
         "seconds": [20.0, 7200.0, 0.0], "memory": [300.0, 900.0, 0.0]}
    )  # fmt: skip
    assert told(table) == [
        "a: about 20 s and 300 MB for 1 picture in 4 runs",
        "b: about 2.0 h and 900 MB for 100 pictures in 100 runs",
    ]
    assert told(table, 60) == told(table)[1:]
    evaluation.require_memory(table, None)
    evaluation.require_memory(table, "1GB")
    with pytest.raises(InputError, match="about 900 MB for b; found 800MB"):
        evaluation.require_memory(table, "800MB")


def test_ways_to_cut_are_read_from_text() -> None:
    assert evaluation.tiling("whole") is None
    assert evaluation.tiling("chop") == Chop()
    assert evaluation.tiling("96") == Tiling(96)
    assert evaluation.tiling("8GB") == Budget(8 * 2**30)
    with pytest.raises(InputError, match="tiling: expected a size; found 'chopp'"):
        evaluation.tiling("chopp")


def test_a_device_that_is_not_there_is_refused(network: str) -> None:
    (sample,) = datasets.benchmark("mini", 4, 1)
    with pytest.raises(InputError, match="device 'cuda:99'"):
        evaluation.outputs([network], sample, device="cuda:99")
