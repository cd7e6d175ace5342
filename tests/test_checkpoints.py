"""Weights of others: taken out of their wrappers, loaded whole, or refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_networks import GROUPS, HASHED, IMAGE, same_output, small, state_of, write
from torch import Tensor, nn

from dtfn import zoo
from dtfn.errors import InputError
from dtfn.models import create, inspect, load, load_weights, replace_upsampler, save

ONE = torch.ones(1)


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        prefixed("module."),
        prefixed("model."),
        prefixed("module.model."),
        prefixed("_orig_mod."),
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"n_averaged": torch.tensor(3), **prefixed("module.")(state)},
        lambda state: {"params": state},
        lambda state: {"model": {"state_dict": prefixed("module.")(state)}},
        # The averaged weights are the ones that are published.
        lambda state: {"params": {k: v + 1 for k, v in state.items()}, "params_ema": state},
    ],
)
def test_wrappers_of_the_field(wrap: Callable[[dict[str, Tensor]], object], tmp_path: Path) -> None:
    network = small("dlsn")
    file = write(tmp_path, wrap(state_of(network)), "weights.pth")

    assert same_output(load(file, n_hashes=2), network)


def test_old_and_half_precision_files(tmp_path: Path) -> None:
    network = small("edsr")
    state = state_of(network)
    old = write(tmp_path, state, _use_new_zipfile_serialization=False)
    half = write(tmp_path, {key: value.half() for key, value in state.items()}, "half.pt")

    assert same_output(load(old), network)
    loaded = load(half)
    assert loaded.get_parameter("head.0.weight").dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(loaded(IMAGE), network(IMAGE), rtol=0, atol=1e-2)


def test_foreign_safetensors(tmp_path: Path) -> None:
    network, file = small("hspan"), tmp_path / "weights.safetensors"
    save_file(network.state_dict(), file)

    assert same_output(load(file), network)
    assert inspect(file)["assumed"] == ["res_scale", "topk"]


def test_own_files_know_everything(tmp_path: Path) -> None:
    network, file = small("dtfn", res_scale=0.3), tmp_path / "weights.safetensors"
    save(network, file, steps=5)

    assert load(file).hyperparameters == network.hyperparameters
    assert same_output(load(file), network)
    what = inspect(file)
    assert what["assumed"] == []
    assert what["notes"] == {"steps": 5}
    assert load(file, n_hashes=3).hyperparameters["n_hashes"] == 3
    with pytest.raises(InputError, match=r"chunk_size of .*expected 16.*found 32"):
        load(file, chunk_size=32)
    small_backbone = create("mini-placebo+tfs", 4, n_resgroups=2, n_resblocks=3)
    save(small_backbone, tmp_path / "mini.safetensors")
    assert same_output(load(tmp_path / "mini.safetensors"), small_backbone.eval())
    with pytest.raises(InputError, match=r"'n_hash'.*did you mean 'n_hashes'"):
        load(file, n_hash=3)


def fails(tmp_path: Path, change: Callable[[dict[str, Tensor]], object], match: str) -> None:
    state = state_of(small("dtfn"))
    changed = change(state)
    file = write(tmp_path, state if changed is None else changed)
    with pytest.raises(InputError, match=match):
        load(file)
    with pytest.raises(InputError):
        load_weights(small("dtfn"), file)


def test_every_fault_is_listed(tmp_path: Path) -> None:
    def spoil(state: dict[str, Tensor]) -> None:
        del state["body.1.body.2.shrink.0.bias"]
        del state["head.0.bias"]
        state["body.0.body.9.weight"] = torch.zeros(1)
        state["body.0.body.3.weight"] = torch.zeros(2, 3)

    faults = (
        r"found body\.0\.body\.3\.weight is \(2, 3\), not \(16, 16, 3, 3\)",
        r"missing body\.1\.body\.2\.shrink\.0\.bias",
        r"missing head\.0\.bias",
        r"unexpected body\.0\.body\.9\.weight; load the",
    )
    fails(tmp_path, spoil, "; ".join(faults))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(value: float, tmp_path: Path) -> None:
    def spoil(state: dict[str, Tensor]) -> None:
        state["tail.1.weight"][0, 0, 0, 0] = value

    fails(tmp_path, spoil, r"tail\.1\.weight is not finite")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: {}, "found 0 tensors: nothing"),
        (lambda state: {"conv_first.weight": ONE}, "1 tensors: conv_first.weight"),
        (lambda state: [1, 2], "expected a state dict; found list"),
        (lambda state: {"epoch": 3, "lr": 0.1}, "found the keys epoch, lr"),
        (lambda state: nn.Linear(1, 1), "nothing but tensors"),
        (lambda state: {k: v for k, v in state.items() if not k.startswith("tail")}, "named as in"),
        (lambda state: state.update({"tail.0.2.weight": ONE, "tail.0.4.weight": ONE}), "or x4"),
        (lambda state: state["sub_mean.bias"].add_(0.1), "mean colour of DIV2K"),
        (lambda state: state["sub_mean.weight"].mul_(2), "deviation of 1"),
    ],
)
def test_what_is_no_checkpoint(
    change: Callable[[dict[str, Tensor]], object], match: str, tmp_path: Path
) -> None:
    state = state_of(small("dtfn"))
    changed = change(state)
    file = write(tmp_path, state if changed is None or isinstance(changed, Tensor) else changed)

    with pytest.raises(InputError, match=match):
        load(file)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_files_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    with pytest.raises(InputError, match="expected a weights file; found no such file"):
        load(file)
    file.write_bytes(b"no weights at all")
    with pytest.raises(InputError, match=name) as refused:
        load(file)
    assert "weights_only" not in str(refused.value), "which would run what is in the file"
    file.write_bytes(b"\n<!DOCTYPE html><html>")
    with pytest.raises(InputError, match="found a web page"):
        load(file)
    file.write_bytes(b"")
    with pytest.raises(InputError, match=name):
        load(file)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    file = write(tmp_path, {"head.0.weight": Trap()})

    with pytest.raises(InputError, match="nothing but tensors"):
        load(file)
    assert not (tmp_path / "sprung").exists()


def test_metadata_of_nothing_we_know(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(small("edsr").state_dict(), file, {"build": json.dumps({"name": "edsr"})})

    with pytest.raises(InputError, match="scale"):
        load(file)


def test_another_scale_or_network(tmp_path: Path) -> None:
    file = write(tmp_path, state_of(small("dtfn", 3)))

    with pytest.raises(InputError, match=r"for x2; found dtfn for x3; .*replace_upsampler"):
        load(file, scale=2)
    with pytest.raises(InputError, match=r"expected weights of dtfn x2; found weights of dtfn x3"):
        load_weights(small("dtfn", 2), file)
    with pytest.raises(InputError, match=r"expected weights of dlsn x3; found weights of dtfn x3"):
        load_weights(small("dlsn", 3), file)
    wide = small("dtfn", 3, n_feats=24)
    before = {key: value.clone() for key, value in wide.state_dict().items()}
    with pytest.raises(
        InputError, match=r"head\.0\.weight is \(16, 3, 3, 3\), not \(24, 3, 3, 3\)"
    ):
        load_weights(wide, file)
    assert all(torch.equal(value, before[key]) for key, value in wide.state_dict().items())


def test_mini_networks_must_be_named(tmp_path: Path) -> None:
    network, other = create("mini-nla", 3, n_resgroups=1), create("mini-nla", 3, n_resgroups=1)
    nn.init.normal_(
        network.get_parameter("tail.0.weight")
    )  # it starts at zero, and would hide the rest
    file = write(tmp_path, network.state_dict())

    with pytest.raises(InputError, match="load_weights"):
        load(file)
    load_weights(other, file)
    assert same_output(other, network)


@pytest.mark.parametrize("scale", [3, 4])
@pytest.mark.parametrize("name", ["dtfn", "mini-dtfn"])
def test_replaced_upsampler(name: str, scale: int) -> None:
    network = create(name, 2, hash_seed=5, **GROUPS | HASHED)

    other = replace_upsampler(network, scale)

    assert (other.name, other.scale) == (name, scale)
    assert other.hyperparameters == network.hyperparameters
    assert other.training
    assert {m.hash_seed for m in other.modules() if hasattr(m, "hash_seed")} == {5}
    old, new = network.state_dict(), other.state_dict()
    kept = {key for key in new if not key.startswith("tail.0.")}
    assert kept == {key for key in old if not key.startswith("tail.0.")}
    assert all(torch.equal(old[key], new[key]) for key in kept)
    assert other(IMAGE).shape == (1, 3, 5 * scale, 7 * scale)
    assert not replace_upsampler(network.double().eval(), scale).training


def test_files_with_weights_are_methods(tmp_path: Path) -> None:
    file = write(tmp_path, state_of(small("edsr")))

    assert zoo.file_of(str(file)) == file
