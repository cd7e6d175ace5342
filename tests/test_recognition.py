"""A network and its hyperparameters, read back from the weights alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import vectors as golden
from tiny_networks import IMAGE, SMALL, same_output, small, state_of, write
from torch import Tensor, nn

from dtfn.errors import InputError
from dtfn.models import Network, create, inspect, load

# What no weight shows, by network.
HIDDEN = {
    "edsr": {"res_scale"},
    "nln": {"res_scale"},
    "nlsn": {"res_scale", "n_hashes", "chunk_size"},
    "dlsn": {"res_scale", "n_hashes"},
    "hspan": {"res_scale", "topk"},
    "dtfn": {"res_scale", "n_hashes"},
}
OTHER_VALUES: dict[str, Any] = {
    "n_feats": 24, "n_resblocks": 9, "n_resgroups": 3, "reduction": 8, "chunk_size": 8,
    "rgb_range": 255.0, "res_scale": 0.5, "n_hashes": 5, "topk": 7,
}  # fmt: skip
AUTHORS = {"res_scale": 0.1, "n_hashes": 4, "topk": 128, "chunk_size": 144}


def hidden_values(network: Network) -> dict[str, Any]:
    hidden = HIDDEN[network.name.removesuffix("+tfs")]
    return {key: network.hyperparameters[key] for key in hidden}


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", SMALL)
def test_round_trip_of_a_state_dict(name: str, scale: int, tmp_path: Path) -> None:
    network = small(name, scale)
    file = write(tmp_path, state_of(network))

    found = load(file, **hidden_values(network))

    assert (found.name, found.scale) == (name, scale)
    assert found.hyperparameters == network.hyperparameters
    assert not found.training
    assert same_output(found, network)
    what = inspect(file)
    assert (what["name"], what["scale"]) == (name, scale)
    assert set(what["assumed"]) == HIDDEN[name.removesuffix("+tfs")]
    trained = [p for key, p in network.named_parameters() if "_mean." not in key]
    assert what["parameters"] == sum(p.numel() for p in trained)


@pytest.mark.parametrize(
    ("name", "key"),
    [(name, key) for name in HIDDEN for key in create(name, 2, **SMALL[name]).hyperparameters],
)
def test_round_trip_of_a_hyperparameter(name: str, key: str, tmp_path: Path) -> None:
    value = OTHER_VALUES[key]
    network = small(name, **{key: value})
    file = write(tmp_path, state_of(network))
    if key in HIDDEN[name]:
        authors = AUTHORS | ({"n_hashes": 3} if name == "dlsn" else {})
        assert load(file).hyperparameters[key] == authors[key]
        found = load(file, **hidden_values(network) | {key: value})
    else:
        found = load(file, **hidden_values(network))
        with pytest.raises(InputError, match=rf"{key} of .*expected {value}.*found 1[;,]"):
            load(file, **{key: 1})

    assert found.hyperparameters[key] == value
    assert same_output(found, network)


def test_authors_values_are_assumed(tmp_path: Path) -> None:
    network = small("dtfn")

    what = inspect(write(tmp_path, state_of(network)))

    assert what["hyperparameters"] == {
        "n_feats": 16, "n_resblocks": 2, "n_resgroups": 2, "reduction": 4, "chunk_size": 16,
        "rgb_range": 1.0, "res_scale": 0.1, "n_hashes": 4,
    }  # fmt: skip


@pytest.mark.parametrize(("n_feats", "res_scale"), [(64, 1.0), (256, 0.1)])
def test_baseline_of_edsr_is_unscaled(n_feats: int, res_scale: float, tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = create("edsr", 2, n_feats=n_feats, n_resblocks=1).state_dict()
    state = {key: torch.zeros(value.shape) for key, value in shapes.items() if "mean" not in key}

    what = inspect(write(tmp_path, state))

    assert what["hyperparameters"]["res_scale"] == res_scale
    assert "rgb_range" in what["assumed"]


@pytest.mark.parametrize("half", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("white", [1.0, 255.0])
def test_rounded_colours_are_exact(white: float, half: torch.dtype, tmp_path: Path) -> None:
    state = state_of(small("edsr", rgb_range=white))
    file = write(tmp_path, {key: value.to(half) for key, value in state.items()})

    assert load(file).hyperparameters["rgb_range"] == white
    assert load(file, rgb_range=white).rgb_range == white


def test_the_range_of_an_edsr_without_mean_shift_is_asked_for(tmp_path: Path) -> None:
    network = small("edsr", rgb_range=255.0)
    state = {k: v for k, v in state_of(network).items() if "mean" not in k}
    file = write(tmp_path, state)

    with pytest.raises(InputError, match=r"dtfn weights import .* -p rgb_range=255"):
        load(file)
    assert same_output(load(file, rgb_range=255.0), network)
    authors = {k: v for k, v in state_of(small("dtfn")).items() if "mean" not in k}
    assert load(write(tmp_path, authors, "dtfn.pt")).hyperparameters["rgb_range"] == 1.0


def test_names_of_edsr_checkpoints(tmp_path: Path) -> None:
    """The published EDSR x4 has these names, and an RGB range of 255."""

    def conv(out: int, into: int, size: int = 3) -> tuple[Tensor, Tensor]:
        return torch.randn(out, into, size, size) / 10, torch.randn(out) / 10

    c = 8
    layers = {"head.0": conv(c, 3), "tail.0.0": conv(4 * c, c), "tail.0.2": conv(4 * c, c)}
    layers |= {"tail.1": conv(3, c), "body.2": conv(c, c)}
    layers |= {f"body.{i}.body.{j}": conv(c, c) for i in (0, 1) for j in (0, 2)}
    state = {f"{name}.{part}": value for name, pair in layers.items()
             for part, value in zip(("weight", "bias"), pair, strict=True)}  # fmt: skip
    mean = 255 * torch.tensor([0.4488, 0.4371, 0.4040])
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        state[f"{name}.weight"] = torch.eye(3).view(3, 3, 1, 1)
        state[f"{name}.bias"] = sign * mean

    network = load(write(tmp_path, state), res_scale=1.0)

    assert (network.name, network.scale) == ("edsr", 4)
    assert network.hyperparameters == {
        "n_feats": c, "n_resblocks": 2, "res_scale": 1.0, "rgb_range": 255.0,
    }  # fmt: skip

    def apply(name: str, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, *layers[name], padding=1)

    shallow = deep = apply("head.0", 255 * IMAGE - mean.view(3, 1, 1))
    for block in ("body.0.body.", "body.1.body."):
        deep = deep + apply(block + "2", apply(block + "0", deep).relu())
    deep = shallow + apply("body.2", deep)
    for name in ("tail.0.0", "tail.0.2"):
        deep = nn.functional.pixel_shuffle(apply(name, deep), 2)
    expected = (apply("tail.1", deep) + mean.view(3, 1, 1)) / 255
    with torch.no_grad():
        torch.testing.assert_close(network(IMAGE), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["dtfn_x2"])
def test_weights_of_the_authors_code(family: str, tmp_path: Path) -> None:
    state = {key: torch.from_numpy(v) for key, v in golden.read(f"{family}_weights").items()}
    file = write(tmp_path, {"a": torch.zeros(1), **state})
    recorded = golden.read(f"{family}_b1_8x8")

    network = load(file, hash_seed=None, n_hashes=2)

    assert set(inspect(file)["assumed"]) == {"res_scale", "n_hashes", "rgb_range"}
    torch.manual_seed(int(recorded["seed"]))
    with torch.no_grad():
        output = network(torch.from_numpy(recorded["input"]))
    assert golden.distance(output, recorded["output_f32"]) <= golden.TOLERANCES["dtfn"][0]
