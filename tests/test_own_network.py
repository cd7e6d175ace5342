"""A user's own network, from a file of code and weights to a map, and all that is refused."""

import os
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_training
import torch
import torch.nn.functional as F
from tiny import crossed, refused, said
from torch import Tensor, nn

from dtfn import audit, capture, cli, evaluation, gate, harm, methods, models, paths, verdicts, zoo
from dtfn.audit import of_methods
from dtfn.causes import looks
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.explorer import opened, page
from dtfn.explorer.state import WITHOUT, Choice, look, usual
from dtfn.images import degrade
from dtfn.interventions import intervened
from dtfn.own import OwnNetwork
from dtfn.reports import tables
from dtfn.suite import absolute
from dtfn.training import train

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "own_network.py"
X = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
L = 63
SLOW = pytest.mark.slow


class Foreign(nn.Module):
    """A network whose attention a function or module computes from features (N, C, H, W)."""

    scale = 2

    def __init__(self, attend: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head: Any = nn.Conv2d(3, 8, 3, padding=1)
        self.attention: Any = attend if isinstance(attend, nn.Module) else Attend(attend)
        self.tail: Any = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.drawn(self.attention(self.head(x)))

    def drawn(self, features: Tensor) -> Tensor:
        return F.pixel_shuffle(self.tail(features), 2)


class Attend(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def part(network: OwnNetwork) -> Any:
    return network.network


def rows(x: Tensor) -> Tensor:
    return x.flatten(2).mT * 3  # (N, L, C)


def logits(x: Tensor) -> Tensor:
    return rows(x) @ rows(x).mT / 8**0.5


def weights_of(x: Tensor) -> Tensor:
    """The weights that all of these have, in a way that nobody intercepts."""
    weights = logits(x).sub(logits(x).amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


def mixed(x: Tensor, weights: Tensor) -> Tensor:
    return (weights @ rows(x)).mT.reshape(x.shape)


def attended(x: Tensor, **how: Any) -> Tensor:
    return F.scaled_dot_product_attention(*3 * (rows(x),), **how).mT.reshape(x.shape)


ATTEND: dict[str, Any] = {
    "functional": lambda x: mixed(x, F.softmax(logits(x), -1)),
    "transposed": lambda x: mixed(x, torch.softmax(logits(x), dim=1).mT),  # (N, S, L) before .mT
    "product": attended,
    "masked": lambda x: attended(x, attn_mask=torch.ones_like(logits(x)[0]).tril() > 0),
    "causal": lambda x: attended(x, is_causal=True),
}


def hidden(x: Tensor) -> Tensor:
    """No softmax at all."""
    return mixed(x, weights_of(x))


class Heads(nn.Module):
    """`torch.nn.MultiheadAttention`, whose fast path would hide its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(*3 * (rows(x),), need_weights=False)[0].mT.reshape(x.shape)


def cut(x: Tensor) -> Tensor:
    """Return windows of 4 x 4 as SwinIR has them, padded with 0: (N * windows, 16, C)."""
    padded = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
    blocks = padded.unflatten(3, (-1, 4)).unflatten(2, (-1, 4))
    return blocks.permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, x.shape[1])


def windows(x: Tensor) -> Tensor:
    """Attention of two heads within windows."""
    heads = cut(x).unflatten(2, (2, -1)).transpose(1, 2)  # (N * windows, heads, 16, C / 2)
    made = F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2)
    rows, columns = -(-x.shape[2] // 4), -(-x.shape[3] // 4)
    back = made.reshape(len(x), rows, columns, 4, 4, -1).permute(0, 5, 1, 3, 2, 4)
    return back.reshape(*x.shape[:2], 4 * rows, 4 * columns)[:, :, : x.shape[2], : x.shape[3]]


class Windows(Attend):
    """The same, with a say about their positions."""

    def attention_positions(self, numbers: Tensor) -> Tensor:
        return cut(numbers).mT  # (windows, 1, 16)


def channels(x: Tensor) -> Tensor:
    """Attention over channels, and a choice of channels: none over positions."""
    flat = x.flatten(2)
    return (flat @ flat.mT).softmax(-1).matmul(flat).reshape(x.shape) * x.softmax(1)


# --- its attention ---
@pytest.mark.parametrize("attend", ATTEND)
@torch.inference_mode()
def test_attention_is_captured_where_it_is_computed(attend: str) -> None:
    network = OwnNetwork("mine", Foreign(ATTEND[attend]))
    plain = network(X)
    with capture.record(network) as record:
        assert torch.equal(network(X), plain), "bit-identical"
    assert torch.equal(network(X), plain)
    assert record.layers == capture.layers(network) == ["attention"]
    expected = weights_of(part(network).head(X))
    if attend in ("masked", "causal"):
        expected = expected.tril() / expected.tril().sum(-1, keepdim=True)
    found = record.maps("attention", [(0, 0), (4, 6)])
    assert torch.allclose(found.flatten(1), expected[0, [0, 34]], atol=1e-6)


@torch.inference_mode()
def test_heads_are_averaged_and_windows_have_maps_if_their_module_says_where() -> None:
    network = OwnNetwork("mine", Foreign(Heads()))
    with capture.record(network) as record:
        plain = network(X)
    x = rows(part(network).head(X))
    _, expected = part(network).attention.inner(x, x, x, need_weights=True)
    found = record.maps("attention.inner", [(4, 6)])
    assert torch.allclose(found.flatten(1), expected[0, [34]], atol=1e-6)
    with intervened(network, "self"):
        assert not torch.allclose(network(X), plain, atol=1e-4)
    assert torch.equal(network(X), plain)
    network = OwnNetwork("mine", Foreign(Windows(windows)))
    plain = network(X)
    with capture.record(network) as record:
        assert torch.equal(network(X), plain), "bit-identical"
    assert record.layers == capture.layers(network) == ["attention"]
    x = part(network).head(X)[0].flatten(1)
    group = torch.arange(L) // 7 // 4 * 2 + torch.arange(L) % 7 // 4
    for here in (0, 34, 62):
        at = (group == group[here]).nonzero()[:, 0]
        expected = torch.zeros(L)
        for head in x.split(4):
            padded = torch.zeros(16)  # logits of 0 for padding
            padded[: len(at)] = head[:, here] @ head[:, at] / 2
            expected[at] += padded.softmax(0)[: len(at)]
        twice = record.maps("attention", [(here // 7, here % 7)] * 2)
        assert torch.allclose(twice.flatten(1), expected / expected.sum(), atol=1e-6)


def test_positions_that_nobody_knows_are_refused() -> None:
    network = OwnNetwork("mine", Foreign(windows))
    assert capture.layers(network) == []
    refused("'attention' with weights .*windows, strips", capture.record(network).__enter__)
    with intervened(network, "uniform"):
        assert network(X).isfinite().all()
    with pytest.raises(InputError, match="expected attention from all positions to all"):
        intervened(network, "window(2)").__enter__()
    for attend, named, text in (
        (channels, [], "found only attention of one size for every picture, as over channels"),
        (hidden, [], "found no softmax and no scaled_dot_product_attention; let the module"),
        (attended, ["head"], "attention in head; let the module of its attention call one"),
    ):
        none = OwnNetwork("mine", Foreign(attend), named)
        with pytest.raises(InputError, match=f"expected attention over positions; .*{text}"):
            intervened(none, "uniform").__enter__()
    refused("did you mean 'attention'", OwnNetwork, "mine", Foreign(attended), ["atention"])
    module = Windows(windows)
    for positions, text in (
        (lambda numbers: numbers[0, 0, 1:], r"to \(30, 2, 16\); found RuntimeError: "),
        (lambda numbers: numbers.new_ones(30, 1, 16), "each of the 480 positions; found 1 pos"),
        (lambda numbers: numbers[:, 1], "IndexError: "),
    ):
        module.attention_positions = positions  # type: ignore[method-assign]
        refused(f"_positions of 'attention': .*{text}", OwnNetwork, "mine", Foreign(module))


@pytest.mark.parametrize("attend", ["functional", "transposed", "product"])
@torch.inference_mode()
def test_interventions_are_what_they_say(attend: str) -> None:
    network = OwnNetwork("mine", Foreign(ATTEND[attend]))
    plain, inner = network(X), part(network)
    value = rows(inner.head(X)).mT.reshape(2, 8, 9, 7)
    uniform = value.mean((2, 3), keepdim=True).expand_as(value)
    for kind, features in {"self": value, "uniform": uniform, "off": 0 * value}.items():
        with intervened(network, kind):
            assert torch.allclose(network(X), inner.drawn(features), atol=1e-5)
    near = [[abs(p // 7 - q // 7) < 3 > abs(p % 7 - q % 7) for q in range(L)] for p in range(L)]
    weights = weights_of(inner.head(X)) * torch.tensor(near)
    features = mixed(inner.head(X), weights / weights.sum(-1, keepdim=True))
    with intervened(network, "window(2)"):
        assert torch.allclose(network(X), inner.drawn(features), atol=1e-5)
    with network.intervene(lambda logits, queries, keys: logits + 0 * keys):
        assert torch.allclose(network(X), plain, atol=1e-5)
    assert torch.equal(network(X), plain)


# --- the contract ---
def test_networks_and_files_that_do_not_serve(tmp_path: Path) -> None:
    for network, text in (
        (Foreign(lambda x: F.dropout(x, 0.5, training=True)), "picture, .*; found another"),
        (Foreign(lambda x: x - x.mean(0, keepdim=True)), "the same picture, alone or in a batch"),
        (Foreign(lambda x: x.reshape(-1, 8, 16, 16)), "of 24 x 20 pixels; found RuntimeError: "),
        (Foreign(lambda x: 500 * x), "as of 0 to 255; divide by 255"),
        (Foreign(lambda x: x / 0), "found NaN; load its trained weights"),
        (nn.Conv2d(3, 3, 1), r"one s of 2, 3 or 4; found \(2, 3, 24, 20\)"),
        (nn.Conv2d(3, 4, 1), r"an output \(N, 3, sH, sW\); found \[\(2, 4, 24, 20\)\]"),
    ):
        refused(text, OwnNetwork, "mine", network)
    file = tmp_path / "mine.py"
    for code, given, text in (
        ("import no_such_module", "", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def network(): return 1", "", "a torch.nn.Module from network; found <class 'int'>"),
        ("def networks(): return 1", "", "did you mean 'networks'"),
        ("def network(weights): return 1", "", "TypeError: .*missing 1 required"),
        ("def network(): return 1", "?weights=none.pt", "none.pt: expected the file of a network"),
        ("def network(): return 1", "?weight=none.pt", "expected weights=FILE, attention=NAME"),
    ):
        file.write_text(code)
        refused(text, methods.network, f"{file}:network{given}")
    refused("file of a network; found no file", methods.network, f"{tmp_path}/none.py:network")


# --- from weights to a map ---
@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The example in a file elsewhere, with weights; small parts in place of whole pictures."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    whole, part = evaluation.samples, (30, 30, 48, 48)
    monkeypatch.setattr(evaluation, "samples", lambda *of: (one.crop(*part) for one in whole(*of)))
    file, weights = tmp_path / "mine.py", tmp_path / "mine.pt"
    file.write_text(EXAMPLE.read_text())
    assert len(EXAMPLE.read_text().splitlines()) <= 60
    torch.save(runpy.run_path(str(file))["network"]().state_dict(), weights)
    return f"{file}:network?weights={weights}"


def test_names_are_read(tmp_path: Path) -> None:
    read = zoo.own("a/b.py:make?weights=w=1.pt&attention=body.0&attention=body.1")
    assert read is not None
    assert (read.file, read.function) == (Path("a/b.py").absolute(), "make")
    assert (read.weights, read.attention) == (Path("w=1.pt").absolute(), ("body.0", "body.1"))
    assert zoo.own(str(read)) == read
    for name in ("a/b.py:make", "a/b.py:make?attention=x", "b.py:m?weights=w.pt&attention=body.1"):
        assert absolute("methods", [name]) == [str(zoo.own(name))]
        assert absolute("methods", f"{name}@uniform") == f"{zoo.own(name)}@uniform"
    assert zoo.own("nlsa-x4-s0") is zoo.own("weights.pt") is None
    for name in ("code.py", "a/code.py:"):
        refused(r"expected FILE\.py:function", zoo.own, name)
    names = {
        "nlsa-x4-s0@off": "nlsa-x4-s0@off",
        "/a/mine.py:make": "mine:make",
        "/a/mine.py:make?weights=/w/one.pt&attention=body.0": "mine:make?one&body.0",
        "/a/mine.py:make?weights=/w@x/1.pt@hash(1)": "mine:make?1@hash(1)",
        "runs/cosine/weights.safetensors": "weights",
    }
    assert methods.labels(names) == names
    two = [f"/{a}/mine.py:make?weights=/{w}/w.pt" for a, w in ("ab", "cd")]
    assert list(methods.labels(two).values()) == ["mine:make?b/w", "mine:make?d/w"]
    two = [f"/{a}/mine.py:make?weights=/w.pt" for a in "ac"]
    assert list(methods.labels(two).values()) == ["a/mine:make?w", "c/mine:make?w"]
    table = pd.DataFrame({"method": two, "gain": [-0.0004, -0.0005]})
    shown = tables.markdown(table, forms={"gain": "{:+.3f}"}).splitlines()[2:]
    assert shown == ["| a/mine:make?w | 0.000 |", "| c/mine:make?w | -0.001 |"]


def test_changes_that_it_was_not_trained_for_are_refused(mine: str) -> None:
    made = evaluation.evaluate([mine, f"{mine}@uniform", f"{mine}@window(4)"], "mini", 4, 1)
    assert made["psnr"].nunique() == 3
    for change, text in {
        "off": "found @off, which is off-distribution",
        "hashing": "found @hashing, which is off-distribution",
        "layers(1)": "it has none",
        "hash(1)": "found a network without hashing",
    }.items():
        refused(text, evaluation.evaluate, f"{mine}@{change}", "mini", 4, 1)
    refused("expected scale 2; found scale 4", evaluation.evaluate, [mine], "mini", 2, 1)


def test_its_choice_of_keys_is_measured_and_not_judged(mine: str) -> None:
    (pair,) = harm.pairs_of_zoo(4, [mine], ("switch",))
    assert (pair.name, pair.kind, pair.off) == ("mine:network?mine", "choice", f"{mine}@uniform")
    plain = mine.partition("?")[0]
    names = [pair.name for pair in harm.pairs_of_zoo(4, [mine, plain])]
    assert names == ["mine:network?mine", "mine:network"], "never seeds of one network"
    measured = harm.measure([pair], evaluation.samples(["mini"], 4, 1))
    costs = gate.costs([mine], ["mini"], 1, ["uniform"])
    rows = measured.pictures.set_index("role")
    assert rows.loc["pair", "gain"] == pytest.approx(costs["cost"].item(), abs=1e-6)
    assert rows.loc["control 1", "gain"] != 0
    found = verdicts.of_pairs([pair], measured, 4, ["mini"], 1)
    assert found["verdict"].tolist() == ["open", *["not testable"] * 4]
    assert found["reason"].str.contains("not trained without its choice").sum() == 3
    assert found["reason"].iloc[-1] == "your network has no twin with TFS"
    assert not harm.cases(measured, pair, 1), "a turn of the picture changes more"


WORDS = {"yes": "chooses", "no": "does not choose"}
WORDS |= {"not testable": "uniform is off-distribution, not interpretable"}


@pytest.mark.parametrize(("answer", "words"), WORDS.items())
def test_each_is_judged_by_the_gate(mine: str, answer: str, words: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(gate, "LEAST", 9.0 if answer == "no" else -9.0)
    monkeypatch.setattr(gate, "COLLAPSE", -9.0 if answer == "not testable" else 9.0)
    pairs = harm.pairs_of_zoo(4, [mine, mine.partition("?")[0]])
    found = verdicts.of_own(pairs, 4, ["mini"], 5)
    gated = gate.table(gate.costs([pair.on for pair in pairs], ["mini"], 5, ["uniform"]))
    claim = next(iter(verdicts.CLAIMS))
    assert found["claim"].tolist() == [f"{claim} ({pair.name})" for pair in pairs]
    assert found["verdict"].tolist() == [answer] * 2
    assert gated["verdict"].tolist() == [words] * 2
    alone = words if answer == "not testable" else "of these weights alone"
    assert found["reason"].tolist() == [alone] * 2
    if answer != "not testable":
        assert found["seeds"].tolist() == [1, 1]
        assert found["low"].tolist() == gated["uniform_low"].tolist()


def test_it_is_compared_with_a_twin_of_one_s_choice(mine: str) -> None:
    compared = of_methods([mine, "bicubic"], ["mini"], 4, 1)
    assert set(compared.inputs) == {"mine.py", "mine.pt"}
    found = audit.look(compared)
    assert found.names == ("mine:network?mine", "bicubic")
    better, worse, _ = found.verdicts()
    claim = "mine:network?mine has a higher PSNR than bicubic"
    assert better.claim == f"{claim} — open on 1 picture; 5 are needed"
    assert worse.measured == "not judged: there is no control; name a second result like B"
    refused("each once", of_methods, [mine, mine], ["mini"], 4)


def test_the_cache_knows_code_and_weights(mine: str) -> None:
    keys = {methods.fingerprint(mine), methods.fingerprint(f"{mine}&attention=attention")}
    file, _, weights = mine.partition(":network?weights=")
    torch.save({}, weights)
    keys.add(methods.fingerprint(mine))
    Path(file).write_text("")
    keys.add(methods.fingerprint(mine))
    assert len(keys) == 4


# Strips of 4 positions, in the example's attention.
WINDOWED = """
        query, key, value = (part.unflatten(2, (-1, 4)) for part in (query, key, value))
        whole = lambda mixed, x: mixed.flatten(2, 3).mT.reshape(x.shape)
"""


def test_from_weights_to_a_map_but_not_of_windows(mine: str) -> None:
    hr = np.random.default_rng(0).integers(0, 256, (64, 48, 3)).astype(np.uint8)
    sample = Sample("mini", "a", 4, degrade(hr, 4), hr)
    ((seen,),) = looks([mine], sample, [(3, 2)]).values()
    assert seen.map.shape == (16, 12)
    assert seen.map.sum() == pytest.approx(1)
    file, before = Path(mine.partition(":")[0]), "        mixed = F.scaled"
    code = file.read_text().replace(before, WINDOWED + before)
    file.write_text(code.replace("mixed.mT.reshape(x.shape)", "whole(mixed, x)"))
    refused("cannot be assigned to positions", looks, [f"{file}:network"], sample, [(3, 2)])
    state = look(Choice("mini", "brick", 4, **usual(4, f"{file}:network"), tile=(0, 0, 16, 20)))
    assert state.attention is None
    assert "'attention' has no map: its module lacks attention_positions" in state.notes
    assert "choice of keys" in page.verdict(state) or "chance" in page.verdict(state)
    assert set(gate.costs([f"{file}:network"], ["mini"], 1)["intervention"]) == set(gate.OWN_KINDS)


@pytest.mark.parametrize("name", ["evaluate", "gate", "explore", pytest.param("run", marks=SLOW)])
def test_readme_commands_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(os, "execve", lambda *_: print("examples/own_network.py:network"))
    section = Path("README.md").read_text().split("## Your own network")[1].split("\n## ")[0]
    (line,) = re.findall(rf"^    dtfn ({name} .*)$", section, re.MULTILINE)
    fewer = {"explore": [], "run": ["-p", "count=1", f"--reports={tmp_path}"]}
    output = said(*line.split(), *fewer.get(name, ["--count=1"]))
    wanted = {"run": "05_attention_maps.html", "explore": "examples/own_network.py:network"}
    assert wanted.get(name, "own_network:network") in output
    if name == "gate":
        assert "examples" not in output
        assert re.search("\nverdict +open: 1 picture; 5 are needed\n", output)
        assert all(f"\n{kind} " in output for kind in gate.OWN_KINDS)
        assert "off-distribution" not in output


def test_the_explorer_takes_it(mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda *given: became.append(given[2]))
    cli.explore(network=mine)
    monkeypatch.setattr(os, "environ", became[0])
    empty = dict.fromkeys(("network", "baseline", "third", "layer"), "")
    given = {"dataset": "mini", "image": "brick", "scale": 2, "hash_seed": 0, "quantile": 0.95}
    state = opened(given | empty | {"control": [], "tile": [0, 0, 16, 20]}).looked((3, 5))
    assert (state.choice.scale, state.choice.network, state.choice.layer) == (4, mine, "attention")
    assert state.choice.baseline == f"{mine}@uniform"
    assert state.choice.control == (f"{mine}@turn(1)", mine)
    assert "compared with itself with equal weights" in state.notes
    assert gate.OFF_DISTRIBUTION not in state.notes
    assert state.attention is not None
    assert state.attention.sum() == pytest.approx(1)
    *_, deeper = state.deeper()
    assert deeper.attribution is not None
    titles = [crop.title for crop in page.crops(deeper, 12)]
    assert titles[2:5] == ["attention on", "uniform weights", WITHOUT]
    assert "attention off" not in titles
    monkeypatch.setattr(gate, "COLLAPSE", -1.0)
    lost = look(state.choice)
    assert gate.OFF_DISTRIBUTION in lost.notes
    assert page.verdict(lost).startswith("Not judged: ")
    refused("expected a name of the zoo", cli.explore, network="none")
    code = "import torch\ndef network(_): return torch.nn.Upsample(None, 4)"
    Path(mine.partition(":")[0]).write_text(code)
    refused("expected attention over positions", cli.explore, network=mine)


def test_a_collapse_is_not_interpreted() -> None:
    costs = {"uniform": 2.1, "random": 1.9, "self": 2.0}
    table = crossed(name=["m"], dataset=["d"], scale=[4], image=range(6), intervention=list(costs))
    table = table.assign(cost=table["intervention"].map(costs), psnr=26.5, bicubic=26.0)
    row = gate.table(table).iloc[0]
    assert row["verdict"] == "uniform is off-distribution, not interpretable"
    assert not row["chooses"]
    assert row["off_distribution"] == "uniform"
    lower = gate.table(table.assign(bicubic=26.2)).iloc[0]
    assert lower["off_distribution"] == "uniform, random, self"


# --- what CONTRIBUTING.md says of an attention that the package does not know ---
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
TOY = ROOT / "examples" / "own_attention.py"
toy = SimpleNamespace(**runpy.run_path(str(TOY)))


def test_the_guide_shows_the_attention_that_is_tested_and_is_short() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    source = TOY.read_text()
    assert all(line in source for line in shown.splitlines())
    assert len(GUIDE.splitlines()) <= 120
    refused("choose another", models.register, "nla", toy.CosineAttention)


def test_it_is_trained_gated_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_training.make(tmp_path)
    tiny_training.enter(monkeypatch, tmp_path)
    small = (("n_feats", 8), ("n_resgroups", 1), ("n_resblocks", 1))
    recipe = tiny_training.recipe("local-x2-s0", network="mini-cosine", hyperparameters=small)
    weights = train(recipe, tmp_path / "out", accelerator="cpu", threads=1)
    network = models.load(weights).eval()
    (layer,) = (m for m in network.modules() if isinstance(m, toy.CosineAttention))
    assert layer.temperature != 4, "it was trained"
    for method in (str(weights), f"{TOY}:network?weights={weights}"):
        assert (gate.costs([method], ["mini"], 1, ["uniform", "self"])["cost"] != 0).all()
    x = torch.rand(1, 3, 9, 7)
    with torch.inference_mode(), capture.record(network) as record:
        network(x)
    (features,) = record.features.values()
    found = capture.attention_map(layer, features, (4, 3))
    query, key, _ = (part.flatten(2)[0].double() for part in layer.embed(features))  # (C, L)
    expected = (query.T @ key).softmax(-1)[4 * 7 + 3]
    torch.testing.assert_close(found.flatten().double(), expected, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        added, values = (f(features)[0].flatten(1) for f in (layer.attend, layer.conv_assembly))
    torch.testing.assert_close(values @ found.flatten(), added[:, 4 * 7 + 3], rtol=1e-4, atol=1e-6)
