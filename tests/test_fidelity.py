"""Deformable convolution, the contrast gate and texture fidelity, against plain loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dtfn.models.attention import NonLocalAttention
from dtfn.models.deform import DeformableConv2d, deformable_conv2d
from dtfn.models.layers import CCALayer, TextureFidelity

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = function


def pixel(image: Tensor, y: int, x: int) -> Tensor:
    inside = 0 <= y < image.shape[1] and 0 <= x < image.shape[2]
    return image[:, y, x] if inside else torch.zeros_like(image[:, 0, 0])


def deformable_by_loops(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    n, _, height, width = x.shape
    out = bias.view(1, -1, 1, 1).repeat(n, 1, height, width)
    for i, row, column, tap in itertools.product(range(n), range(height), range(width), range(9)):
        dy, dx = offset[i, 2 * tap : 2 * tap + 2, row, column].tolist()
        at_y, at_x = row + tap // 3 - 1 + dy, column + tap % 3 - 1 + dx
        y, left = math.floor(at_y), math.floor(at_x)
        b, a = at_y - y, at_x - left
        sample = (
            (1 - b) * (1 - a) * pixel(x[i], y, left)
            + (1 - b) * a * pixel(x[i], y, left + 1)
            + b * (1 - a) * pixel(x[i], y + 1, left)
            + b * a * pixel(x[i], y + 1, left + 1)
        )
        kernel = weight[:, :, tap // 3, tap % 3]
        out[i, :, row, column] += mask[i, tap, row, column] * (kernel @ sample)
    return out


def deformable_case(
    n: int, height: int, width: int, spread: float, channels: int = 3
) -> tuple[Tensor, ...]:
    return (
        normal(n, channels, height, width),
        spread * normal(n, 18, height, width, seed=1),
        2 * torch.sigmoid(normal(n, 9, height, width, seed=2)),
        normal(4, channels, 3, 3, seed=3),
        normal(4, seed=4),
    )


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 4)])
@pytest.mark.parametrize("spread", [0.0, 0.7, 5.0, 1e9])
def test_deformable_convolution_is_the_loop(
    size: tuple[int, int], spread: float, grad: bool
) -> None:
    case = deformable_case(2, *size, spread)

    with torch.set_grad_enabled(grad):
        found = deformable_conv2d(*case)

    torch.testing.assert_close(found, deformable_by_loops(*case), rtol=0, atol=1e-12)


def test_deformable_convolution_on_whole_pixels() -> None:
    x, offset, mask, weight, bias = deformable_case(1, 6, 5, 2.0)
    case = (x, offset.round(), mask, weight, bias)

    torch.testing.assert_close(
        deformable_conv2d(*case), deformable_by_loops(*case), rtol=0, atol=1e-12
    )


def test_deformable_convolution_starts_as_a_plain_one() -> None:
    layer, x = DeformableConv2d(4, 5).double(), normal(2, 4, 6, 7)

    torch.testing.assert_close(layer(x), layer.regular_conv(x), rtol=0, atol=1e-12)


def test_deformable_convolution_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    case = deformable_case(2, 7, 5, 1.0)
    whole = deformable_conv2d(*case)
    monkeypatch.setattr("dtfn.models.deform.BLOCK", 16)

    with torch.no_grad():
        torch.testing.assert_close(deformable_conv2d(*case), whole, rtol=0, atol=1e-13)


def test_gradients_of_the_deformable_convolution() -> None:
    assert torch.autograd.gradcheck(
        deformable_conv2d, [t.requires_grad_() for t in deformable_case(2, 2, 3, 0.8, channels=2)]
    )


def test_contrast_gate_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    layer, x = CCALayer(32).double(), normal(2, 32, 4, 5)
    contrast = x.std((2, 3), correction=0, keepdim=True) + x.mean((2, 3), keepdim=True)

    torch.testing.assert_close(layer(x), x * layer.conv_du(contrast), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("size", [(1, 1), (4, 4)])
def test_constant_channels_have_gradients(size: tuple[int, int], dtype: torch.dtype) -> None:
    layer = CCALayer(32).to(dtype)
    x = torch.full((2, 32, *size), 0.3, dtype=dtype)
    x[:, ::2] += torch.rand(2, 16, *size, dtype=dtype)
    x.requires_grad_()

    layer(x).sum().backward()

    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad != 0).any()


def test_fidelity_around_a_module_of_yours() -> None:
    torch.manual_seed(0)
    mine = nn.Conv2d(16, 16, 5, padding=2)
    block, x = TextureFidelity(mine, 16, res_scale=0.3).double(), normal(2, 16, 6, 5)

    found = block(x)

    both = torch.cat((x, mine(x)), 1)
    gate, first, second = (block.get_submodule(f"fusion.0.{i}") for i in range(3))
    fused = second(first(gate(both)))
    expected = x + 0.3 * block.shrink(both + fused)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    found.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    assert set(dict(mine.named_parameters())) == {"weight", "bias"}
    assert mine.weight.grad is not None
    assert mine.weight.grad.abs().sum() > 0


def test_fidelity_fuses_the_bare_attention() -> None:
    """Neither the layer's scale nor its skip is inside: what it adds is what is fused."""
    torch.manual_seed(0)
    layer = NonLocalAttention(16, 2, res_scale=0.5)
    block, x = TextureFidelity(layer, 16).double(), normal(1, 16, 4, 4)
    found = block(x)

    block.attention = Function(lambda x: (layer(x) - x) / 0.5)

    torch.testing.assert_close(found, block(x), rtol=0, atol=1e-12)
