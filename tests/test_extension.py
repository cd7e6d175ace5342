"""What CONTRIBUTING.md says of an attention that the package does not know."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_training
import torch
from tiny import refused

from dtfn import capture, gate, models, training

ROOT = Path(__file__).parent.parent
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
    weights = training.train(recipe, tmp_path / "out", accelerator="cpu", threads=1)
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
    mixed = values @ found.flatten()
    torch.testing.assert_close(mixed, added[:, 4 * 7 + 3], rtol=1e-4, atol=1e-6)
