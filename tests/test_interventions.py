"""Interventions and the gate: one thing in a network changes, nothing else, and it comes back."""

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import crossed, refused, said
from tiny_networks import SMALL, only_self, saved, small
from torch import Tensor, nn

from dtfn import datasets, evaluation, gate, images, interventions, models, paths, zoo
from dtfn.interventions import intervened
from dtfn.models.attention import HashedAttention

OLD = str(Path(__file__).parent / "data" / "old-nlsa-x4.safetensors")
RNG = np.random.default_rng(0)
X = torch.rand(1, 3, 14, 12, generator=torch.Generator().manual_seed(0))
ATTENTIVE = sorted(set(SMALL) - {"edsr"})
Samples = list[datasets.Sample]


@torch.inference_mode()
def output(network: nn.Module, change: AbstractContextManager[object] | None = None) -> Tensor:
    with change or nullcontext():
        return network(X).clone()


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", [*ATTENTIVE, "mini-placebo"])
def test_interventions_are_what_they_say_and_are_undone(name: str) -> None:
    torch.manual_seed(7)
    mini = name.startswith("mini")
    network = models.create(name, 2, n_feats=8).eval() if mini else small(name)
    nn.init.normal_(network.get_parameter("tail.0.weight"), std=0.1) if mini else None
    plain = output(network)

    def logits(change: Any) -> Tensor:
        return output(network, network.intervene(change))

    equal = logits(lambda logits, *_: torch.zeros_like(logits))
    assert close(output(network, intervened(network, "hashing")), equal)
    if not any(isinstance(m, HashedAttention) for m in network.modules()):
        assert close(output(network, intervened(network, "uniform")), equal)
    own = logits(only_self)
    assert close(output(network, intervened(network, "self")), own)
    assert close(output(network, intervened(network, "window(0)")), own)
    assert close(output(network, intervened(network, "window(14)")), plain)
    off = output(network, network.attention(False))
    assert torch.equal(output(network, intervened(network, "off")), off)
    assert torch.equal(output(network), plain)
    with pytest.raises(ZeroDivisionError), intervened(network, "uniform"):
        raise ZeroDivisionError
    assert torch.equal(output(network), plain)


@pytest.mark.parametrize("name", ATTENTIVE)
def test_random_weights_stay_and_values_come_from_drawn_positions(name: str) -> None:
    network = small(name)
    one, again = (output(network, intervened(network, "random")) for _ in range(2))
    assert torch.equal(one, again)
    assert not close(one, output(network))
    for module in network.modules():  # where all values are equal, it does not matter whence
        values = getattr(module, "conv_assembly", None)
        if isinstance(values, nn.Module):
            for weight in values.parameters():
                nn.init.zeros_(weight)
    assert close(output(network, intervened(network, "random")), output(network))


@torch.inference_mode()
def test_uniform_and_random_weights_by_their_formulas() -> None:
    x = torch.rand(1, 8, 7, 9, generator=torch.Generator().manual_seed(1))
    hashed = models.attention.NonLocalSparseAttention(8, 4, 1.0, 16, 2).eval()
    with intervened(nn.Sequential(hashed), "uniform"):
        mean = hashed.conv_assembly(x).mean((2, 3), keepdim=True)
        assert close(hashed.attend(x), mean.expand_as(x))
    layer = models.attention.NonLocalAttention(8).eval()
    branches = (layer.conv_match1, layer.conv_match2, layer.conv_assembly)
    query, key, value = (branch(x).flatten(2).mT for branch in branches)
    drawn = torch.randperm(63, generator=torch.Generator().manual_seed(0))
    expected = (query @ key.mT).softmax(-1) @ value[:, drawn]
    with intervened(nn.Sequential(layer), "random"):
        assert close(layer.attend(x), expected.mT.reshape(x.shape))


@pytest.mark.parametrize("name", ["nlsn", "dlsn", "dtfn", "dlsn+tfs"])
def test_another_hash_seed_is_the_network_built_with_it(name: str) -> None:
    network = small(name)
    other = models.create(name, 2, hash_seed=5, **SMALL[name]).eval()
    other.load_state_dict(network.state_dict())
    before = output(network)
    assert torch.equal(output(network, interventions.hash_seed(network, 5)), output(other))
    assert torch.equal(output(network), before)


def test_what_cannot_be_changed_is_refused() -> None:
    refused("network: expected one with attention", intervened, small("edsr"), "uniform")
    refused("did you mean 'uniform'", intervened, small("nln"), "unifrom")
    refused("a network without hashing", interventions.hash_seed, small("nln"), 1)
    refused("a seed that it does not have; found 0", interventions.hash_seed, small("dtfn"), 0)


def test_an_oracle_matches_by_true_details() -> None:
    network = small("nln")
    details = RNG.normal(size=(14, 12, 4))
    own = output(network, intervened(network, "self"))
    assert close(output(network, interventions.oracle(network, details, 1e-6)), own)
    uniform = output(network, intervened(network, "uniform"))
    assert close(output(network, interventions.oracle(network, 0 * details, 1.0)), uniform)
    table = torch.as_tensor(details, dtype=torch.float32).flatten(0, 1)
    squares = torch.cdist(table, table).square()
    expected = output(network, network.intervene(lambda logits, q, k: -squares[q][:, k] / 0.5))
    assert close(output(network, interventions.oracle(network, details, 0.5)), expected)


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Samples:
    """Two small pictures in place of a benchmark."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    samples = []
    for name in ("a", "b"):
        hr = RNG.integers(0, 256, (28, 24, 3)).astype(np.uint8)
        samples.append(datasets.Sample("mini", name, 2, images.degrade(hr, 2), hr))

    monkeypatch.setattr(evaluation, "samples", lambda _, __, count=None: iter(samples[:count]))
    return samples


@torch.inference_mode()
def psnr(network: nn.Module, sample: datasets.Sample) -> float:
    """PSNR on Y of the output as it is, not rounded to 8 bits."""
    x = torch.from_numpy(sample.lr / np.float32(255)).permute(2, 0, 1)[None]
    made = network(x)[0].clamp(0, 1).double().permute(1, 2, 0).numpy() * 255
    weights = np.array([65.481, 128.553, 24.966]) / 255
    squares = ((made - sample.hr) @ weights)[2:-2, 2:-2] ** 2
    return float(10 * np.log10(255**2 / squares.mean()))


def test_a_method_may_carry_a_change(pictures: Samples, tmp_path: Path) -> None:
    name = saved(tmp_path, "nlsn", res_scale=1.0)
    network, sample = models.load(name), pictures[0]
    methods = [name, *(f"{name}@{kind}" for kind in ["off", "hash(3)", "turn(5)", "layers(11)"])]
    errors = evaluation.block_errors(methods, sample)
    plain, off, _, turned, first = (errors[m] for m in methods)
    np.testing.assert_array_equal(first, plain)  # both layers are on
    assert not np.allclose(off, plain)
    with network.attention(False):
        mse = off[1:-1, 1:-1].mean()
        assert 10 * np.log10(255**2 / mse) == pytest.approx(psnr(network, sample), abs=1e-4)
    with interventions.hash_seed(network, 3):
        expected = evaluation.upscale(network, sample.lr)
    made = evaluation.outputs(methods, sample)
    np.testing.assert_array_equal(made[methods[2]]["image"], expected)
    x = torch.from_numpy(sample.lr / np.float32(255)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = network(x.flip(2).mT).mT.flip(2)
        with intervened(network, "turn(5)"):
            assert close(network(x), expected)
    assert not np.allclose(turned, plain)
    wrong = {"of": "'off'", "layers(1)": "2 digits", "turn(8)": r"did you mean 'turn\(7\)'"}
    for kind, message in wrong.items():
        refused(message, evaluation.block_errors, f"{name}@{kind}", sample)


def test_costs_are_losses_of_psnr(pictures: Samples, tmp_path: Path, monkeypatch: Any) -> None:
    name = saved(tmp_path, "nlsn", res_scale=1.0)
    measured = gate.costs([name], ["mini"])
    assert list(measured["intervention"]) == 2 * [*gate.KINDS, *gate.WINDOWS]
    network = models.load(name)
    for row in measured.itertuples():
        sample = next(s for s in pictures if s.image == row.image)
        plain = psnr(network, sample)
        with intervened(network, str(row.intervention)):
            changed = psnr(network, sample)
        assert row.psnr == pytest.approx(plain, abs=1e-4)
        assert row.cost == pytest.approx(plain - changed, abs=1e-4)
    monkeypatch.setattr(evaluation, "unrounded", None)  # nothing runs again
    pd.testing.assert_frame_equal(gate.costs([name], ["mini"]), measured)
    refused("one with attention", gate.costs, [saved(tmp_path, "edsr")], ["mini"])


def measured(cost: list[float], name: str = "n") -> pd.DataFrame:
    """What `gate.costs` returns where uniform weights cost so much on each picture."""
    parts, images = {"uniform": 1, "window(4)": 2, "window(16)": 3}, range(len(cost))
    table = crossed(name=[name], dataset=["Urban100"], image=images, intervention=list(parts))
    table["cost"] = np.array(cost)[table["image"]] / table["intervention"].map(parts)
    return table.assign(scale=4, psnr=25.0)


def test_the_verdict_rests_on_the_lower_end() -> None:
    chooses = [*np.linspace(0.1, 0.4, 10)]
    one = [0.9, 0.01, 0.02, 0.0, 0.01, 0.03, 0.02]
    frames = [measured(chooses, "a"), measured(one, "b"), measured([0.5], "c")]
    frames.append(measured([0.01, 0.02, 0.03, 0.02, 0.01], "d"))
    table = gate.table(pd.concat(frames)).set_index("name")
    assert table["chooses"].tolist() == [True, False, False, False]
    few, wide = "1 picture; 5 are needed", "the interval of what uniform weights cost holds 0.10 dB"
    verdicts = ["chooses", f"open: {wide}", f"open: {few}", "does not choose"]
    assert table["verdict"].tolist() == verdicts
    assert table.loc["b", "uniform"] > gate.LEAST > table.loc["b", "uniform_low"]
    assert table.loc["a", "window_16"] == pytest.approx(table.loc["a", "uniform"] / 3)
    dose = gate.dose(measured(chooses))
    assert dose["radius"].tolist() == [4, 16, np.inf]
    assert dose["cost"].iloc[0] > dose["cost"].iloc[1] > dose["cost"].iloc[2] == 0


@pytest.mark.usefixtures("pictures")
def test_the_zoo_answers_where_it_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = {"nlsa": True, "placebo": False, "local": None}
    rows = [{"name": f"{n}-x4-s0", "variant": n, "chooses": known[n]} for n in known]
    monkeypatch.setattr(zoo, "registry", lambda: rows)
    assert [gate.chooses(str(row["name"])) for row in rows] == [True, False, False]
    assert not gate.chooses(saved(tmp_path, "nlsn"), ["mini"])


@pytest.mark.usefixtures("pictures")
def test_the_command_prints_verdicts(tmp_path: Path) -> None:
    name = saved(tmp_path, "nlsn")
    command = ["gate", name, "--datasets", "mini", "--count", "1"]
    (row,) = json.loads(said(*command, "--json"))
    assert (row["name"], row["dataset"], row["chooses"]) == (name, "mini", False)
    assert row["uniform_low"] is None, "one picture has no interval"
    assert all(isinstance(row[key], float) for key in ("psnr", "uniform", "random", "off"))
    shown = said(*command)
    assert "open: 1 picture; 5 are needed" in shown
    assert "16" in shown


@pytest.mark.parametrize("name", ["nlsa", "gla", OLD])
def test_networks_from_scratch_pass_and_added_attention_fails(name: str, benchmarks: Path) -> None:
    scratch = benchmarks.parent.parent / "scratch-x4" / f"{name}-x4-s0.safetensors"
    file = OLD if name == OLD else str(scratch)
    row = gate.table(gate.costs([file], count=5, kinds=["uniform"])).iloc[0]
    assert row["chooses"] == (name != OLD)
    assert (abs(row["uniform"]) < 0.05) == (name == OLD)
