"""The way of a GPU, few large operations: on a CPU by force, and on a GPU where there is one."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dtfn.models import create, deform, layers
from dtfn.models.attention import (
    DeformableNonLocalFusion,
    GlobalLearnableAttention,
    HashedAttention,
    HighSimilarityPassAttention,
    NonLocalAttention,
    NonLocalSparseAttention,
    PlaceboAttention,
)
from dtfn.models.layers import TextureFidelity

# Where Triton fails, one test says so, and the others take the plain operations.
pytestmark = pytest.mark.filterwarnings("ignore:Triton is not used")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "placebo": lambda: PlaceboAttention(16),
    "nla": lambda: NonLocalAttention(16),
    "hspa": lambda: HighSimilarityPassAttention(16, topk=4),
    "nlsa": lambda: NonLocalSparseAttention(16, 4, 1.0, 16, 2),
    "gla": lambda: GlobalLearnableAttention(16, 4, 1.0, 16, 3),
    "dnlf": lambda: DeformableNonLocalFusion(16, 4, 1.0, 16, 2),
    "nlsa+tfs": lambda: TextureFidelity(NonLocalSparseAttention(16, 4, 1.0, 16, 2), 16),
    "deformable": lambda: deform.DeformableConv2d(16, 16),
}


def built(name: str) -> nn.Module:
    """Return a layer in float64 that deforms and gates, as a trained one does."""
    torch.manual_seed(0)
    layer = LAYERS[name]().double().eval()
    for parameter in layer.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return layer


def picture(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*size, dtype=dtype, generator=torch.Generator().manual_seed(1))


def answers(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the output without gradients, with them, and all gradients, on the CPU."""
    with torch.no_grad():
        rested = layer(x)
    x = x.detach().requires_grad_()
    inputs = [x, *layer.parameters()]
    out = layer(x)
    weight = picture(*out.shape).to(out)
    return [
        t.detach().cpu() for t in (rested, out, *torch.autograd.grad((out * weight).sum(), inputs))
    ]


@pytest.mark.parametrize("size", [(3, 3), (5, 7), (8, 8)])
@pytest.mark.parametrize("name", LAYERS)
def test_all_pictures_at_once(
    name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = built(name), picture(3, 16, *size)
    x = x.contiguous(memory_format=torch.channels_last)
    expected = answers(layer, x)
    if isinstance(layer, layers.Switchable):  # a switch keeps the batch's shape
        layer.on = torch.tensor([True, False, True])
        expected += answers(layer, x)
    monkeypatch.setattr(layers, "batches", lambda tensor: True)

    for kept in (0, 1 << 40):  # gradients recomputed, and kept
        monkeypatch.setattr(deform, "KEPT_GPU", kept)
        found = answers(layer, x)
        if isinstance(layer, layers.Switchable):
            layer.on = True
            found = answers(layer, x) + found
            layer.on = torch.tensor([True, False, True])
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["nlsa", "gla", "dtfn"])
@torch.no_grad()
def test_rotations_drawn_beforehand(name: str) -> None:
    network, x = (
        create(f"mini-{name}", 2, n_resgroups=2, chunk_size=16).train(),
        picture(1, 3, 9, 9),
    )
    nn.init.normal_(network.get_parameter("tail.0.weight"))
    network, hashed = network.double(), []
    clock = torch.zeros(1, dtype=torch.long)
    expected = [network(x) for _ in range(3)]

    for layer in network.modules():
        if isinstance(layer, HashedAttention):
            layer.rotation_bank, layer.rotation_step = layer.bank(81, range(3)), clock
            hashed.append(layer)

    assert len(hashed) == 2
    for step in (2, 0, 1):
        clock.fill_(step)
        assert torch.equal(network(x), expected[step])
    assert hashed[0].bank(15, range(3)) is None  # fewer positions than a chunk


def test_triton_kernels_are_the_plain_operations() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    program = """
import torch
from dtfn.models.deform import _triton_works, uses_triton
assert uses_triton(torch.zeros(1))
assert _triton_works(torch.device("cpu"))
"""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("size", [(3, 3), (5, 7), (24, 20)])
@pytest.mark.parametrize("name", LAYERS)
def test_gpu_is_the_cpu(name: str, size: tuple[int, int]) -> None:
    layer, x = built(name), picture(3, 16, *size).contiguous(memory_format=torch.channels_last)
    on_gpu = copy.deepcopy(layer).cuda()

    for one, other in zip(answers(on_gpu, x.cuda()), answers(layer, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("triton", ["0", "1"])
@pytest.mark.parametrize("kept", [0, 1 << 40])
def test_deformable_convolution_on_a_gpu(
    triton: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DTFN_TRITON", triton)
    monkeypatch.setattr(deform, "KEPT_GPU", kept)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    layer, x = built("deformable").float(), picture(2, 16, 19, 23, dtype=torch.float32)
    on_gpu = copy.deepcopy(layer).cuda()

    assert deform.uses_triton(x.cuda()) == (triton == "1" and deform.triton is not None)  # type: ignore[attr-defined]
    for one, other in zip(answers(on_gpu, x.cuda()), answers(layer, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
