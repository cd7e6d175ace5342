"""Weights of others: taken out of their wrappers, loaded whole, or refused with a reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_models_golden as golden
import torch
from safetensors.torch import save_file
from tiny import refused
from tiny_networks import GROUPS, HASHED, HIDDEN, IMAGE, SMALL, same_output, small, state_of, write
from torch import Tensor, nn

from dtfn.errors import InputError
from dtfn.models import Network, create, load, save, start_from
from dtfn.recipes import without_tfs

ONE = torch.ones(1)
State = dict[str, Tensor]


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        prefixed("model."),
        prefixed("module.model."),
        prefixed("_orig_mod."),
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"n_averaged": torch.tensor(3), **prefixed("module.")(state)},
        lambda state: {"model": {"state_dict": prefixed("module.")(state)}},
        # The averaged weights are the ones that are published.
        lambda state: {"params": {k: v + 1 for k, v in state.items()}, "params_ema": state},
    ],
)
def test_wrappers_of_the_field(wrap: Callable[[State], object], tmp_path: Path) -> None:
    network = small("dlsn")
    file = write(tmp_path, wrap(state_of(network)), "odd.weights")
    assert same_output(load(file, n_hashes=2), network)


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_old_and_half_precision_files(white: float, tmp_path: Path) -> None:
    network = small("edsr", rgb_range=white)
    state = state_of(network)
    assert same_output(load(write(tmp_path, state, _use_new_zipfile_serialization=False)), network)
    save_file(state, tmp_path / "foreign.safetensors")
    assert same_output(load(tmp_path / "foreign.safetensors"), network)
    for dtype in (torch.float16, torch.bfloat16):
        half = write(tmp_path, {key: value.to(dtype) for key, value in state.items()}, "half.pt")
        loaded = load(half)
        assert loaded.rgb_range == white, "rounded colours are exact"
        with torch.no_grad():
            torch.testing.assert_close(loaded(IMAGE), network(IMAGE), rtol=0, atol=0.1)


def test_own_files_know_everything(tmp_path: Path) -> None:
    network, file = small("dtfn", res_scale=0.3), tmp_path / "weights.safetensors"
    save(network, file, steps=5)
    assert load(file).hyperparameters == network.hyperparameters
    assert load(file).assumed == []
    assert same_output(load(file), network)
    assert load(file, n_hashes=3).hyperparameters["n_hashes"] == 3
    refused(r"size mismatch for .*fc\.0\.weight", load, file, chunk_size=32)
    refused(r"'n_hash'.*did you mean 'n_hashes'", load, file, n_hash=3)
    backbone = create("mini-placebo+tfs", 4, n_resgroups=2, n_resblocks=3)
    save(backbone, tmp_path / "mini.safetensors")
    assert same_output(load(tmp_path / "mini.safetensors"), backbone.eval())


def spoil(state: State) -> None:
    del state["body.1.body.2.shrink.0.bias"]
    state["body.0.body.9.weight"] = torch.zeros(1)
    state["body.0.body.3.weight"] = torch.zeros(2, 3)


FAULTS = r"Missing .*body\.1\.body\.2\.shrink\.0\.bias.*Unexpected .*body\.0\.body\.9\.weight"


CHANGES: list[tuple[Callable[[State], object], str]] = [
    (lambda state: {}, "found 0 tensors: nothing"),
    (lambda state: {"conv_first.weight": ONE}, "1 tensors: conv_first.weight"),
    (lambda state: [1, 2], "expected a state dict.*; found list"),
    (lambda state: {"epoch": 3, "lr": 0.1}, "found epoch, lr"),
    (lambda state: {"tally": {}, "network": state}, "name the weights.safetensors"),
    (lambda state: nn.Linear(1, 1), "nothing but tensors"),
    (lambda state: {k: v for k, v in state.items() if not k.startswith("tail")}, "named as in"),
    (spoil, FAULTS + r".*size mismatch for body\.0\.body\.3\.weight"),
    (lambda state: state["tail.1.weight"][0].fill_(torch.nan), "NaN or infinity in tail"),
    (lambda state: state["tail.1.weight"][0].fill_(torch.inf), "NaN or infinity in tail"),
    (lambda state: state["sub_mean.bias"].add_(0.1), "mean colour of DIV2K"),
    (lambda state: state["sub_mean.weight"].mul_(2), "mean colour of DIV2K"),
    (lambda state: state | {"sub_mean.weight": ONE}, "named as in"),  # of a grey network
    (lambda state: create("mini-nla", 2).state_dict(), "found .* a mini network, whose name"),
]


def test_what_is_refused(tmp_path: Path) -> None:
    for change, match in CHANGES:
        state = state_of(small("dtfn"))
        changed = change(state)
        file = write(tmp_path, state if changed is None or isinstance(changed, Tensor) else changed)
        refused(match, load, file)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_files_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    refused("found no file", load, file)
    for content, words in (
        (b"no weights at all", name),
        (b"", name),
        (b"\n<!DOCTYPE html><html>", "no weights but '<!DOCTYPE"),
        (b"version https://git-lfs.github.com/spec/v1\n", "but 'version https://git-lf.*`git lfs"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=words) as caught:
            load(file)
        assert "weights_only" not in str(caught.value), "which would run what is in the file"


@pytest.mark.parametrize("name", ["dtfn", "mini-dtfn"])
def test_another_scale_starts_from_all_but_the_upsampler(name: str) -> None:
    begin, network = (create(name, scale, **GROUPS | HASHED) for scale in (2, 4))
    fresh = {key: value.clone() for key, value in network.state_dict().items()}
    start_from(network, begin)
    for key, value in network.state_dict().items():
        expected = fresh if key.startswith("tail.0.") else begin.state_dict()
        assert torch.equal(value, expected[key])
    for other in (small("dlsn"), small("nlsn+tfs"), small("nlsn", n_resblocks=7)):
        refused("expected weights that fit nlsn", start_from, small("nlsn"), other)


@pytest.mark.parametrize("name", ["nln+tfs", "nlsn+tfs", "dlsn+tfs", "hspan+tfs", "mini-dtfn"])
def test_added_fidelity_changes_nothing_at_first(name: str) -> None:
    values = SMALL[name.removeprefix("mini-").removesuffix("+tfs")]
    begin, network = (create(one, 2, **values).eval() for one in (without_tfs(name), name))
    for weight in begin.tail.parameters():  # a mini network has none at first
        torch.nn.init.normal_(weight, std=0.05)
    start_from(network, begin)
    torch.testing.assert_close(network(IMAGE), begin(IMAGE), rtol=0, atol=2e-6)
    network(IMAGE).square().mean().backward()
    grads = {key: p.grad for key, p in network.named_parameters()}
    still = [key for key, grad in grads.items() if grad is not None and not grad.any()]
    assert not [key for key in still if key.endswith(("shrink.0.weight", "body.2.weight"))]


OTHER_VALUES: dict[str, Any] = {"n_feats": 24, "n_resblocks": 9, "n_resgroups": 3, "reduction": 8}
OTHER_VALUES |= {"chunk_size": 8, "rgb_range": 255.0, "res_scale": 0.5, "n_hashes": 5, "topk": 7}
AUTHORS = {"res_scale": 0.1, "n_hashes": 4, "topk": 128, "chunk_size": 144}


def hidden_values(network: Network) -> dict[str, Any]:
    return {key: network.hyperparameters[key] for key in HIDDEN[network.name.removesuffix("+tfs")]}


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", SMALL)
def test_round_trip_of_a_state_dict(name: str, scale: int, tmp_path: Path) -> None:
    network = small(name, scale)
    file = write(tmp_path, state_of(network))
    found = load(file, **hidden_values(network))
    assert (found.name, found.scale) == (name, scale)
    assert (found.hyperparameters, found.assumed) == (network.hyperparameters, [])
    assert not found.training
    assert same_output(found, network)
    if name != "edsr":
        assert set(load(file).assumed) == HIDDEN[name.removesuffix("+tfs")]


EVERY = [(name, key) for name in HIDDEN for key in create(name, 2, **SMALL[name]).hyperparameters]


@pytest.mark.parametrize(("name", "key"), EVERY)
def test_round_trip_of_a_hyperparameter(name: str, key: str, tmp_path: Path) -> None:
    value = OTHER_VALUES[key]
    network = small(name, **{key: value})
    file = write(tmp_path, state_of(network))
    if key in HIDDEN[name]:
        authors = AUTHORS | ({"n_hashes": 3} if name == "dlsn" else {})
        assert load(file).hyperparameters[key] == authors[key]
    else:
        with pytest.raises(InputError, match=rf"{key}|Missing|Unexpected|size mismatch"):
            load(file, **hidden_values(network) | {key: 1})
    found = load(file, **hidden_values(network) | {key: value})
    assert found.hyperparameters[key] == value
    assert same_output(found, network)


def test_what_edsr_weights_do_not_show_is_assumed_or_asked_for(tmp_path: Path) -> None:
    for n_feats, res_scale in ((64, 1.0), (16, 0.1)):  # the baseline is unscaled
        file = write(tmp_path, state_of(small("edsr", n_feats=n_feats, n_resblocks=1)))
        assert load(file).hyperparameters["res_scale"] == res_scale
        assert load(file).assumed == ["res_scale"]
    network = small("edsr", rgb_range=255.0)
    file = write(tmp_path, network.state_dict())
    refused(r"dtfn weights import .* -p rgb_range=255", load, file)
    assert same_output(load(file, rgb_range=255.0), network)
    authors = write(tmp_path, small("dtfn").state_dict(), "dtfn.pt")
    assert load(authors).hyperparameters["rgb_range"] == 1.0


def test_names_of_edsr_checkpoints(tmp_path: Path) -> None:
    """The published EDSR x4 has these names, and an RGB range of 255."""
    c, mean = 8, 255 * torch.tensor([0.4488, 0.4371, 0.4040])
    sizes = {"head.0": (c, 3), "tail.0.0": (4 * c, c), "tail.0.2": (4 * c, c)}
    sizes |= {"tail.1": (3, c), "body.2": (c, c)}
    sizes |= {f"body.{i}.body.{j}": (c, c) for i in (0, 1) for j in (0, 2)}
    state = {f"{name}.weight": torch.randn(*size, 3, 3) / 10 for name, size in sizes.items()}
    state |= {f"{name}.bias": torch.randn(out) / 10 for name, (out, _) in sizes.items()}
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        state[f"{name}.weight"] = torch.eye(3).view(3, 3, 1, 1)
        state[f"{name}.bias"] = sign * mean

    network = load(write(tmp_path, state), res_scale=1.0)
    assert (network.name, network.scale) == ("edsr", 4)
    expected = {"n_feats": c, "n_resblocks": 2, "res_scale": 1.0, "rgb_range": 255.0}
    assert network.hyperparameters == expected

    def apply(name: str, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    shallow = deep = apply("head.0", 255 * IMAGE - mean.view(3, 1, 1))
    for block in ("body.0.body.", "body.1.body."):
        deep = deep + apply(block + "2", apply(block + "0", deep).relu())
    deep = shallow + apply("body.2", deep)
    for name in ("tail.0.0", "tail.0.2"):
        deep = nn.functional.pixel_shuffle(apply(name, deep), 2)
    with torch.no_grad():
        wanted = (apply("tail.1", deep) + mean.view(3, 1, 1)) / 255
        torch.testing.assert_close(network(IMAGE), wanted, rtol=1e-5, atol=1e-5)


def test_weights_of_the_authors_code(tmp_path: Path) -> None:
    state = {key: torch.from_numpy(v) for key, v in golden.read("dtfn_x2_weights").items()}
    recorded = golden.read("dtfn_x2_b1_8x8")
    network = load(write(tmp_path, {"a": torch.zeros(1), **state}), hash_seed=None, n_hashes=2)
    assert network.assumed == ["res_scale", "rgb_range"]
    torch.manual_seed(int(recorded["seed"]))
    with torch.no_grad():
        output = network(torch.from_numpy(recorded["input"]))
    assert golden.distance(output, recorded["output_f32"]) <= golden.TOLERANCES["dtfn"][0]
