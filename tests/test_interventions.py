"""Interventions: one thing in a network changes, nothing else, and it comes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_networks import SMALL, saved, small
from torch import nn

from dtfn import datasets, evaluation, images, interventions, models
from dtfn.errors import InputError

RNG = np.random.default_rng(0)
X = torch.rand(1, 3, 14, 12, generator=torch.Generator().manual_seed(0))
LR = RNG.integers(0, 256, (14, 12, 3)).astype(np.uint8)
ATTENTIVE = sorted(set(SMALL) - {"edsr"})


@torch.inference_mode()
def made(network: nn.Module) -> torch.Tensor:
    return network(X).clone()


@pytest.mark.parametrize("name", ATTENTIVE)
def test_a_knock_out_is_a_network_whose_values_are_nothing(name: str) -> None:
    network = small(name)
    before = made(network)
    with interventions.knocked_out(network):
        off = made(network)
    assert torch.equal(made(network), before)
    # All attentions mix their values linearly: where these are 0, so is what they add.
    for module in network.modules():
        values = getattr(module, "conv_assembly", None)
        if isinstance(values, nn.Module):
            for part in values.modules():
                for weight in part.parameters(recurse=False):
                    nn.init.zeros_(weight)
    assert torch.allclose(off, made(network), atol=1e-6)


@pytest.mark.parametrize("name", ["nlsn", "dlsn", "dtfn", "dtfn+"])
def test_another_hash_seed_is_the_network_built_with_it(name: str) -> None:
    plain = name.removesuffix("+")
    network = small("dlsn+tfs" if name.endswith("+") else plain)
    kind = "dlsn+tfs" if name.endswith("+") else plain
    torch.manual_seed(7)
    other = models.create(kind, 2, hash_seed=5, **SMALL[kind]).eval()
    other.load_state_dict(network.state_dict())
    before = made(network)
    with interventions.hash_seed(network, 5):
        assert torch.equal(made(network), made(other))
    assert torch.equal(made(network), before)


def refuse(context: AbstractContextManager[None]) -> None:
    with context:
        pass


def test_what_cannot_be_changed_is_refused() -> None:
    with pytest.raises(InputError, match="network: expected one with attention"):
        refuse(interventions.knocked_out(small("edsr")))
    with pytest.raises(InputError, match="a network without hashing"):
        refuse(interventions.hash_seed(small("nln"), 1))
    with pytest.raises(InputError, match="a seed that it does not have; found 0"):
        refuse(interventions.hash_seed(small("dtfn"), 0))


def test_an_unknown_change_or_another_scale_is_refused(tmp_path: Path) -> None:
    name = saved(tmp_path, "dtfn")
    hr = RNG.integers(0, 256, (28, 24, 3)).astype(np.uint8)
    for scale in (2, 4):
        sample = datasets.Sample("mini", "a", scale, images.degrade(hr, scale), hr)
        change = interventions.OFF if scale == 4 else "no such change"
        with pytest.raises(InputError, match=r"scale 4; found scale 2|'attention off'; found 'no"):
            interventions.output(name, sample, change)


def test_a_change_is_undone_after_an_error() -> None:
    network = small("dtfn")
    before = made(network)
    with pytest.raises(ZeroDivisionError), interventions.knocked_out(network):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), interventions.hash_seed(network, 3):
        raise ZeroDivisionError
    assert torch.equal(made(network), before)


def test_controls_compare_a_network_with_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dense, hashed = saved(tmp_path, "hspan"), saved(tmp_path, "dtfn", chunk_size=8, res_scale=1.0)
    hr = RNG.integers(0, 256, (28, 24, 3)).astype(np.uint8)
    sample = datasets.Sample("mini", "a", 2, images.degrade(hr, 2), hr)

    def samples(*_: object) -> Iterator[datasets.Sample]:
        yield sample

    monkeypatch.setattr(evaluation, "samples", samples)
    table = interventions.controls([dense, hashed], ["mini"], 2)
    assert list(zip(table["pair"], table["change"], strict=True)) == [
        (dense, interventions.OFF),
        (hashed, interventions.OTHER),
        (hashed, interventions.OFF),
    ]
    network = small("hspan")
    with interventions.knocked_out(network):
        off = evaluation.upscale(network, sample.lr)
    assert table["psnr_without"][0] == pytest.approx(evaluation.psnr(off, hr, 2))
    with monkeypatch.context() as once:
        once.setattr(evaluation, "upscale", None)  # what is known is not made again
        summary = interventions.table([dense, hashed], ["mini"], 2)
    assert summary["harm_rate"].tolist() == table["harm_rate"].tolist()
    assert summary["harm_rate_low"].isna().all(), "one picture has no interval"
    assert interventions.table([], ["mini"], 2).empty


def test_a_change_without_effect_is_a_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = saved(tmp_path, "hspan")
    hr = RNG.integers(0, 256, (28, 24, 3)).astype(np.uint8)
    sample = datasets.Sample("mini", "a", 2, images.degrade(hr, 2), hr)
    monkeypatch.setattr(evaluation, "samples", lambda *_: iter([sample]))
    same = evaluation.outputs([name], sample)[name].image
    monkeypatch.setattr(interventions, "output", lambda *_: same)
    (row,) = interventions.table([name], ["mini"], 2).to_dict("records")
    assert (row["harm_rate"], row["psnr_gain"], row["selection_gain"]) == (0, 0, 0)
    assert np.isnan(row["harm_untied"]), "all tie"
