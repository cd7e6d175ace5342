"""Every network and attention layer against the recorded answers of their authors' own code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import vectors as golden
from torch import Tensor, nn

from dtfn.models import create, hashing
from dtfn.models.attention import (
    DeformableNonLocalFusion,
    GlobalLearnableAttention,
    HashedAttention,
    HighSimilarityPassAttention,
    NonLocalAttention,
    NonLocalSparseAttention,
)

HASHED: dict[str, Any] = {"reduction": 4, "chunk_size": 64, "n_hashes": 2}
SMALL = {"n_resgroups": 2, "n_resblocks": 2, "n_feats": 32, "res_scale": 0.1} | HASHED
DENSE = {"channels": 32, "reduction": 2}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "dnlf": lambda: DeformableNonLocalFusion(32, **HASHED, hash_seed=None),
    "gla": lambda: GlobalLearnableAttention(32, **HASHED, hash_seed=None),
    "nlsa": lambda: NonLocalSparseAttention(32, **HASHED, hash_seed=None),
    "nla": lambda: NonLocalAttention(**DENSE, res_scale=0.1),
    "hspa_topk16": lambda: HighSimilarityPassAttention(**DENSE, res_scale=1.0, topk=16),
    "hspa_topk128": lambda: HighSimilarityPassAttention(**DENSE, res_scale=0.1, topk=128),
    "hspa_flat_topk16": lambda: HighSimilarityPassAttention(**DENSE, res_scale=1.0, topk=16),
}

PRECISIONS = [pytest.param(0, id="float32"), pytest.param(1, id="float64")]
DTYPES, SUFFIXES = (torch.float32, torch.float64), ("_f32", "_f64")

NETWORKS = golden.vectors("dtfn")
MODULES = [name for name in golden.vectors() if name not in NETWORKS]
DNLFS = golden.vectors("dnlf")


def build(name: str, precision: int) -> nn.Module:
    family = golden.family(name)
    module: nn.Module
    if family.startswith("dtfn"):
        module = create("dtfn", int(family[-1]), hash_seed=None, **SMALL)
    else:
        module = LAYERS[family]()
    golden.load_weights(module, family)
    return module.to(DTYPES[precision]).eval()


def forward(module: nn.Module, recorded: golden.Arrays, precision: int) -> Tensor:
    torch.manual_seed(int(recorded["seed"]))
    return module(golden.tensor(recorded["input"], DTYPES[precision]))


def record_codes(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return a list that grows by the hash codes of each hashed layer that runs from now on."""
    found: list[Tensor] = []
    original = hashing.hash_codes

    def recording(*args: Any, **kwargs: Any) -> Tensor:
        found.append(original(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(hashing, "hash_codes", recording)
    return found


def numbered(codes: Tensor, buckets: int) -> np.ndarray:
    """Return (N, n_hashes, L) codes as the authors count them: (N, n_hashes * L), r * b higher."""
    rounds = torch.arange(codes.shape[1])[:, None] * buckets
    return (codes.long() + rounds).flatten(1).numpy()


def rotations_of(recorded: golden.Arrays) -> Tensor:
    """Return the recorded draws as (n_hashes, C, buckets)."""
    if "rotations" in recorded:
        return torch.from_numpy(recorded["rotations"])
    drawn = torch.from_numpy(recorded["random_draws"])
    if drawn.ndim == 3:
        return drawn
    normal = drawn[0, 0].permute(1, 0, 2)  # NLSA: (1, 1, C, n_hashes, buckets // 2)
    return torch.cat((normal, -normal), -1)


def test_every_kind_has_a_vector() -> None:
    assert {golden.kind(name) for name in golden.vectors()} == set(golden.TOLERANCES)
    assert {golden.family(name) for name in MODULES} == set(LAYERS)


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", golden.vectors())
def test_output(name: str, precision: int, grad: bool) -> None:
    recorded = golden.read(name)

    with torch.set_grad_enabled(grad):
        output = forward(build(name, precision), recorded, precision)

    tolerance = golden.TOLERANCES[golden.kind(name)][precision]
    assert golden.distance(output, recorded["output" + SUFFIXES[precision]]) <= tolerance


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", golden.vectors())
@torch.no_grad()
def test_output_on_a_gpu(name: str) -> None:
    recorded, module = golden.read(name), build(name, 1).cuda()
    torch.manual_seed(int(recorded["seed"]))

    output = module(golden.tensor(recorded["input"], torch.float64).cuda())

    assert golden.distance(output.cpu(), recorded["output_f64"]) <= 1e-10


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_hash_codes_of_a_network(
    name: str, precision: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, codes = golden.read(name), record_codes(monkeypatch)

    forward(build(name, precision), recorded, precision)

    assert len(codes) == SMALL["n_resgroups"]
    for index, found in enumerate(codes):
        buckets = recorded[f"rotations_{index}"].shape[-1]
        np.testing.assert_array_equal(numbered(found, buckets), recorded[f"hash_codes_{index}"])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", DNLFS)
@torch.no_grad()
def test_order_of_a_layer(name: str, precision: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, found = golden.read(name), record_codes(monkeypatch)

    forward(build(name, precision), recorded, precision)

    codes = numbered(found[0], recorded["rotations"].shape[-1])
    np.testing.assert_array_equal(codes, recorded["hash_codes" + SUFFIXES[precision]])
    m, length = 64, recorded["input"].shape[2] * recorded["input"].shape[3]
    order = hashing.chunk_order(found[0], m)[..., m : m + length]  # without the wrapped neighbours
    position = order + torch.arange(2)[:, None] * length
    np.testing.assert_array_equal(position.flatten(1).numpy(), recorded["sorted_indices"])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", DNLFS)
@torch.no_grad()
def test_inside_of_the_fusion_layer(name: str, precision: int) -> None:
    recorded, layer = golden.read(name), build(name, precision)
    assert isinstance(layer, DeformableNonLocalFusion)
    values: Any = layer.conv_assembly
    x = golden.tensor(recorded["input"], DTYPES[precision])
    torch.manual_seed(int(recorded["seed"]))
    found = {
        "attention": layer.attend(x),
        "conv_match": layer.conv_match(x),
        "conv_assembly": values(x),
        "conv_assembly_fc": layer.conv_assembly_fc(x),
        "offset": values.offset_conv(x),
        "modulator_logit": values.modulator_conv(x),
    }

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: found.update({name: output})

    layer.fusion.register_forward_hook(keep("fusion_residual"))
    layer.shrink.register_forward_hook(keep("shrink"))
    forward(layer, recorded, precision)

    tolerance = golden.TOLERANCES["dnlf"][precision]
    for part, output in found.items():
        worst = golden.distance(output, recorded[part + SUFFIXES[precision]])
        assert worst <= tolerance, part


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [n for n in MODULES if golden.kind(n) in ("dnlf", "gla", "nlsa")])
@torch.no_grad()
def test_rotations_drawn_and_injected(name: str, precision: int) -> None:
    recorded, layer = golden.read(name), build(name, precision)
    assert isinstance(layer, HashedAttention)
    expected = rotations_of(recorded)
    torch.manual_seed(int(recorded["seed"]))
    drawn = layer.rotations(8, expected.shape[-1], 2, None)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-6)

    # The seed of the layer's own generator cannot matter where the rotations come from outside.
    layer.hash_seed = 12345
    layer.rotations = lambda *_: expected  # type: ignore[method-assign]
    output = layer(golden.tensor(recorded["input"], DTYPES[precision]))

    tolerance = golden.TOLERANCES[golden.kind(name)][precision]
    assert golden.distance(output, recorded["output" + SUFFIXES[precision]]) <= tolerance


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", DNLFS)
def test_gradients(name: str, precision: int) -> None:
    recorded, layer, dtype = golden.read(name), build(name, precision), DTYPES[precision]
    x = golden.tensor(recorded["input"], dtype).requires_grad_()
    torch.manual_seed(int(recorded["seed"]))

    (layer(x) * golden.tensor(recorded["grad_seed_tensor"], dtype)).sum().backward()

    found = {"grad_input_f64": x.grad}
    found |= {f"grad.{key}": value.grad for key, value in layer.named_parameters()}
    assert set(found) == {key for key in recorded if key.startswith("grad") and "seed" not in key}
    for key, gradient in found.items():
        assert gradient is not None
        largest = np.abs(recorded[key]).max()  # 0 where a ReLU is silent
        worst = golden.distance(gradient, recorded[key])
        assert worst <= golden.GRADIENT[precision] * largest, key
