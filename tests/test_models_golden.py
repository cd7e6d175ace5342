"""Every network and attention layer against the recorded answers of their authors' own code.

The golden vectors are in tests/golden, or DTFN_GOLDEN; see golden/README.txt.
"""

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dtfn.models import attention, create, hashing

FOLDER = Path(os.environ.get("DTFN_GOLDEN") or Path(__file__).parent / "golden").resolve()
NAME = re.compile(r"\w+_b\d+_\d+x\d+")

# The largest absolute difference that a correct implementation may show: float32, float64.
TOLERANCES = {"dtfn": (5e-6, 1e-12), "hspa": (1e-4, 1e-11)}
TOLERANCES |= dict.fromkeys(("dnlf", "gla", "nlsa", "nla"), (1e-5, 1e-12))
GRADIENT = (2e-5, 1e-11)  # relative to the largest gradient of the tensor

Arrays = Mapping[str, NDArray[np.generic]]


def vectors(kind: str = "") -> list[str]:
    found = sorted(file.stem for file in FOLDER.glob(f"{kind}*.npz"))
    return [name for name in found if NAME.fullmatch(name)]


def read(name: str) -> Arrays:
    with np.load(FOLDER / f"{name}.npz") as content:
        return dict(content)


def family(name: str) -> str:
    """Return ``"dtfn_x2"`` for ``"dtfn_x2_b1_8x8"``."""
    return name.rpartition("_b")[0]


def kind(name: str) -> str:
    return name.split("_")[0]


def distance(found: Tensor, expected: NDArray[np.generic]) -> float:
    """Return the largest absolute difference; the shapes must be equal."""
    values = found.detach().double().numpy()
    assert values.shape == expected.shape
    return float(np.abs(values - expected).max())


HASHED: dict[str, Any] = {"reduction": 4, "chunk_size": 64, "n_hashes": 2}
SMALL = {"n_resgroups": 2, "n_resblocks": 2, "n_feats": 32, "res_scale": 0.1} | HASHED
Sparse = partial(attention.HighSimilarityPassAttention, 32, 2)
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "dnlf": partial(attention.DeformableNonLocalFusion, 32, **HASHED, hash_seed=None),
    "gla": partial(attention.GlobalLearnableAttention, 32, **HASHED, hash_seed=None),
    "nlsa": partial(attention.NonLocalSparseAttention, 32, **HASHED, hash_seed=None),
    "nla": partial(attention.NonLocalAttention, 32, 2, res_scale=0.1),
    "hspa_topk16": partial(Sparse, res_scale=1.0, topk=16),
    "hspa_topk128": partial(Sparse, res_scale=0.1, topk=128),
    "hspa_flat_topk16": partial(Sparse, res_scale=1.0, topk=16),
}

PRECISIONS = pytest.mark.parametrize("precision", [0, 1], ids=["float32", "float64"])
DTYPES, SUFFIXES = (torch.float32, torch.float64), ("_f32", "_f64")

NETWORKS = vectors("dtfn")
MODULES = [name for name in vectors() if name not in NETWORKS]
DNLFS = vectors("dnlf")


def build(name: str, precision: int) -> Any:
    """Load a family's weights; nothing may be unexpected, and only PReLU's constants missing."""
    kin = family(name)
    module: nn.Module
    if kin.startswith("dtfn"):
        module = create("dtfn", int(kin[-1]), hash_seed=None, **SMALL)
    else:
        module = LAYERS[kin]()
    state = {key: torch.from_numpy(value) for key, value in read(f"{kin}_weights").items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(re.search(r"conv_(match1|match2|assembly)\.1\.weight$", key) for key in missing)
    return module.to(DTYPES[precision]).eval()


def forward(module: nn.Module, recorded: Arrays, precision: int) -> Tensor:
    torch.manual_seed(int(recorded["seed"]))
    return module(torch.from_numpy(recorded["input"]).to(DTYPES[precision]))


def codes_of(module: nn.Module, recorded: Arrays, precision: int) -> list[Tensor]:
    """Return the hash codes (N, n_hashes, L) of each hashed layer that runs."""
    found: list[Tensor] = []
    original = hashing.hash_codes

    def recording(*arguments: Tensor) -> Tensor:
        found.append(original(*arguments))
        return found[-1]

    with mock.patch.object(hashing, "hash_codes", recording):
        forward(module, recorded, precision)
    return found


def numbered(codes: Tensor, buckets: int) -> np.ndarray:
    """Return (N, n_hashes, L) codes as the authors count them: (N, n_hashes * L), r * b higher."""
    return (codes.long() + torch.arange(codes.shape[1])[:, None] * buckets).flatten(1).numpy()


def test_every_kind_has_a_vector() -> None:
    assert {kind(name) for name in vectors()} == set(TOLERANCES)
    assert {family(name) for name in MODULES} == set(LAYERS)


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@PRECISIONS
@pytest.mark.parametrize("name", vectors())
def test_output(name: str, precision: int, grad: bool) -> None:
    recorded = read(name)
    with torch.set_grad_enabled(grad):
        output = forward(build(name, precision), recorded, precision)
    tolerance = TOLERANCES[kind(name)][precision]
    assert distance(output, recorded["output" + SUFFIXES[precision]]) <= tolerance


@pytest.mark.gpu
@pytest.mark.parametrize("name", vectors())
@torch.no_grad()
def test_output_on_a_gpu(name: str) -> None:
    recorded, module = read(name), build(name, 1).cuda()
    torch.manual_seed(int(recorded["seed"]))
    output = module(torch.from_numpy(recorded["input"]).double().cuda())
    assert distance(output.cpu(), recorded["output_f64"]) <= 1e-10


@PRECISIONS
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_hash_codes_of_a_network(name: str, precision: int) -> None:
    recorded = read(name)
    codes = codes_of(build(name, precision), recorded, precision)
    assert len(codes) == SMALL["n_resgroups"]
    for index, found in enumerate(codes):
        buckets = recorded[f"rotations_{index}"].shape[-1]
        np.testing.assert_array_equal(numbered(found, buckets), recorded[f"hash_codes_{index}"])


@PRECISIONS
@pytest.mark.parametrize("name", DNLFS)
@torch.no_grad()
def test_inside_of_the_fusion_layer(name: str, precision: int) -> None:
    recorded, layer = read(name), build(name, precision)
    (codes,) = codes_of(layer, recorded, precision)
    numbers = numbered(codes, recorded["rotations"].shape[-1])
    np.testing.assert_array_equal(numbers, recorded["hash_codes" + SUFFIXES[precision]])
    m, length = 64, recorded["input"].shape[2] * recorded["input"].shape[3]
    order = hashing.chunk_order(codes, m)[..., m : m + length]  # without the wrapped neighbours
    position = order + torch.arange(2)[:, None] * length
    np.testing.assert_array_equal(position.flatten(1).numpy(), recorded["sorted_indices"])

    x = torch.from_numpy(recorded["input"]).to(DTYPES[precision])
    torch.manual_seed(int(recorded["seed"]))
    found = {"attention": layer.attend(x), "offset": layer.conv_assembly.offset_conv(x)}
    for part in ("conv_match", "conv_assembly", "conv_assembly_fc"):
        found[part] = layer.get_submodule(part)(x)
    found["modulator_logit"] = layer.conv_assembly.modulator_conv(x)
    for part, name in (("fusion_residual", "fusion"), ("shrink", "shrink")):
        module = layer.get_submodule(name)
        module.register_forward_hook(lambda *a, part=part: found.update({part: a[2]}))
    forward(layer, recorded, precision)
    for part, output in found.items():
        worst = distance(output, recorded[part + SUFFIXES[precision]])
        assert worst <= TOLERANCES["dnlf"][precision], part


@PRECISIONS
@pytest.mark.parametrize("name", DNLFS)
def test_gradients(name: str, precision: int) -> None:
    recorded, layer, dtype = read(name), build(name, precision), DTYPES[precision]
    x = torch.from_numpy(recorded["input"]).to(dtype).requires_grad_()
    torch.manual_seed(int(recorded["seed"]))
    (layer(x) * torch.from_numpy(recorded["grad_seed_tensor"]).to(dtype)).sum().backward()
    found = {"grad_input_f64": x.grad}
    found |= {f"grad.{key}": value.grad for key, value in layer.named_parameters()}
    assert set(found) == {key for key in recorded if key.startswith("grad") and "seed" not in key}
    for key, gradient in found.items():
        assert gradient is not None
        largest = np.abs(recorded[key]).max()  # 0 where a ReLU is silent
        assert distance(gradient, recorded[key]) <= GRADIENT[precision] * largest, key
