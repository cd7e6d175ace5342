"""The attention core against plain loops, written from the papers' definitions, in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dtfn.models import attention, hashing, sparsemax
from dtfn.models.deform import DeformableConv2d, deformable_conv2d
from dtfn.models.fidelity import TextureFidelity
from dtfn.models.layers import CCALayer

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = function


def differentiable(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.detach().clone().requires_grad_() for t in tensors)


# ---------------------------------------------------------------- deformable convolution


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
        deformable_conv2d, differentiable(*deformable_case(2, 2, 3, 0.8, channels=2))
    )


def test_deformable_convolution_of_torchvision() -> None:
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    x, offset, mask, weight, bias = deformable_case(2, 9, 8, 2.0)

    expected = ops.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)

    found = deformable_conv2d(x, offset, mask, weight, bias)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# ---------------------------------------------------------------- hashing


def hashed_by_loops(
    query: Tensor, key: Tensor, value: Tensor, score: Tensor | None, codes: Tensor, m: int
) -> Tensor:
    """Attend in each hash round to the own and both neighbour chunks; mix by the rounds' mass."""
    n, n_hashes, length = codes.shape
    images = []
    for i in range(n):
        outs: list[list[Tensor]] = [[] for _ in range(length)]
        masses: list[list[Tensor]] = [[] for _ in range(length)]
        for r in range(n_hashes):
            code = codes[i, r].tolist()
            order = sorted(range(length), key=lambda p: (code[p], p))
            padded = order + order[length - (-length % m) :]
            chunks = [padded[start : start + m] for start in range(0, len(padded), m)]
            for c, chunk in enumerate(chunks):
                keys = [*chunk, *chunks[c - 1], *chunks[(c + 1) % len(chunks)]]
                for slot, p in enumerate(chunk):
                    if c * m + slot >= length:
                        continue  # a repeat
                    logits = key[i, keys] @ query[i, p]
                    if score is not None:
                        logits = logits + score[i, keys, slot]
                    outs[p].append(logits.softmax(0) @ value[i, keys])
                    masses[p].append(logits.logsumexp(0))
        mixed = [
            torch.stack(m).softmax(0) @ torch.stack(o) for o, m in zip(outs, masses, strict=True)
        ]
        images.append(torch.stack(mixed))
    return torch.stack(images)


Hashed = tuple[Tensor, Tensor, Tensor, Tensor | None]


def hashed_case(
    length: int, m: int, n_hashes: int, scored: bool, n: int = 2
) -> tuple[Hashed, Tensor]:
    query, key, value = (normal(n, length, width, seed=s) for s, width in enumerate((3, 3, 5)))
    score = normal(n, length, m, seed=3) if scored else None
    source = torch.Generator().manual_seed(4)
    codes = torch.randint(0, 3, (n, n_hashes, length), generator=source, dtype=torch.uint8)
    return (query, key, value, score), codes


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("n_hashes", [1, 3])
@pytest.mark.parametrize("length", [4, 5, 7, 8, 9, 22])
def test_chunked_attention_is_the_loop(length: int, n_hashes: int, scored: bool) -> None:
    m = 4
    inputs, codes = hashed_case(length, m, n_hashes, scored)
    given = [t.requires_grad_() for t in inputs if t is not None]
    order = hashing.chunk_order(codes, m)
    weight = normal(2, length, 5, seed=9)

    found = hashing.chunked_attention(*inputs, order, m)
    expected = hashed_by_loops(*inputs, codes, m)

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    got = torch.autograd.grad((found * weight).sum(), given)
    wanted = torch.autograd.grad((expected * weight).sum(), given)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [4, 7, 10])
def test_gradients_of_chunked_attention(length: int) -> None:
    inputs, codes = hashed_case(length, 4, 2, True, n=1)
    order = hashing.chunk_order(codes, 4)

    assert torch.autograd.gradcheck(
        lambda q, k, v, s: hashing.chunked_attention(q, k, v, s, order, 4),
        differentiable(*(t for t in inputs if t is not None)),
    )


def test_attention_survives_large_scores() -> None:
    (query, key, value, score), codes = hashed_case(22, 4, 3, True)
    assert score is not None
    order = hashing.chunk_order(codes, 4)

    found = hashing.chunked_attention(1e3 * query, key, value, 1e3 * score, order, 4)

    assert found.isfinite().all()
    expected = hashed_by_loops(1e3 * query, key, value, 1e3 * score, codes, 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@given(st.lists(st.integers(0, 127), min_size=4, max_size=60), st.integers(1, 4))
def test_order_is_stable_padded_and_wrapped(codes: list[int], m: int) -> None:
    order = hashing.chunk_order(torch.tensor(codes, dtype=torch.uint8)[None, None], m)[0, 0]

    length = len(codes)
    middle = sorted(range(length), key=lambda p: (codes[p], p))
    middle += middle[length - (-length % m) :]
    assert order.tolist() == middle[-m:] + middle + middle[:m]


def test_codes_are_the_first_largest_projection() -> None:
    query, rotations = normal(2, 50, 6), normal(3, 6, 8, seed=1)
    query[0, 7] = 0  # all projections are equal

    codes = hashing.hash_codes(query, rotations)

    projections = torch.einsum("nlc,hcb->nhlb", query, rotations)
    np.testing.assert_array_equal(codes.numpy(), projections.numpy().argmax(-1))
    assert (codes[0, :, 7] == 0).all()


def test_codes_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    query, rotations = normal(2, 50, 6), normal(3, 6, 8, seed=1)
    whole = hashing.hash_codes(query, rotations)
    monkeypatch.setattr(hashing, "CODE_BLOCK", 16, raising=False)

    assert torch.equal(hashing.hash_codes(query, rotations), whole)


@pytest.mark.parametrize(
    ("length", "buckets"),
    [(63, 0), (64, 2), (127, 2), (128, 2), (192, 4), (64 * 127, 128), (64 * 999, 128)],
)
def test_number_of_buckets(length: int, buckets: int) -> None:
    assert hashing.bucket_count(length, 64) == buckets


def test_rotations_depend_on_seed_layer_and_draw_alone() -> None:
    def draw(seed: int, layer: int, draw: int) -> Tensor:
        return hashing.super_bit_rotations(8, 4, 2, hashing.generator(seed, layer, draw))

    cases = list(itertools.product((0, 1, 2), repeat=3))
    drawn = [draw(*case) for case in cases]

    torch.rand(3)  # the global generator has no say
    assert all(torch.equal(draw(*case), one) for case, one in zip(cases, drawn, strict=True))
    assert len({tuple(one.flatten().tolist()) for one in drawn}) == len(cases)
    for rotation in drawn[0].double():
        torch.testing.assert_close(
            rotation.T @ rotation, torch.eye(4, dtype=DOUBLE), rtol=0, atol=1e-5
        )


# ---------------------------------------------------------------- dense attention


def simplex(scores: np.ndarray) -> np.ndarray:
    """Project a vector onto the simplex: the support is the largest k that is consistent."""
    for k in range(1, len(scores) + 1):
        top = np.sort(scores)[::-1][:k]
        tau = (top.sum() - 1) / k
        if np.sum(scores > tau) <= k:
            return np.maximum(scores - tau, 0)
    raise AssertionError


@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=40), st.integers(1, 50),
    st.sampled_from([0.01, 0.1, 1.0, 100.0]), st.sampled_from([0.0, 1e3]),
)  # fmt: skip
def test_threshold_projects_onto_the_simplex(
    values: list[int], topk: int, spread: float, shift: float
) -> None:
    scores = spread * np.array(values, dtype=float) + shift  # integers make ties

    tau = sparsemax.threshold(torch.from_numpy(scores)[None], topk)

    found = np.maximum(scores - tau.item(), 0)
    assert found.sum() == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(found, simplex(scores), rtol=0, atol=1e-9)


def dense_case(length: int = 40, n: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (normal(n, length, width, seed=s) for s, width in enumerate((4, 4, 6)))
    return query / 3, key / 3, value


def test_sparse_attention_does_not_depend_on_topk(monkeypatch: pytest.MonkeyPatch) -> None:
    case = dense_case()
    whole = sparsemax.sparsemax_attention(*case, 40)
    weights = (case[0] @ case[1].transpose(1, 2)).numpy()
    expected = np.apply_along_axis(simplex, -1, weights) @ case[2].numpy()
    np.testing.assert_allclose(whole.numpy(), expected, rtol=0, atol=1e-12)

    for topk in (1, 3, 16, 1000):
        found = sparsemax.sparsemax_attention(*case, topk)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-13)
    monkeypatch.setattr(sparsemax, "BLOCK_SCORES", 100, raising=False)
    torch.testing.assert_close(sparsemax.sparsemax_attention(*case, 8), whole, rtol=0, atol=1e-13)


def test_gradients_of_sparse_attention() -> None:
    case = differentiable(*dense_case(6))

    assert torch.autograd.gradcheck(lambda q, k, v: sparsemax.sparsemax_attention(q, k, v, 2), case)


@pytest.mark.parametrize("grad", [False, True])
def test_softmax_attention(grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = dense_case()
    layer = attention.NonLocalAttention(6, 2)
    expected = (query @ key.transpose(1, 2)).softmax(-1) @ value

    for most in (0, 10**9):  # both ways of training: fused, and with the weights kept
        monkeypatch.setattr(attention, "MATERIALISED", most, raising=False)
        with torch.set_grad_enabled(grad):
            found = layer.mix(query, key, value)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 5)])
@pytest.mark.parametrize(
    "kind", [attention.NonLocalSparseAttention, attention.GlobalLearnableAttention]
)
def test_fewer_positions_than_a_chunk_attend_to_all(
    kind: type[attention.HashedAttention], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    layer, x = kind(8, 4, 0.5, 16, 2, 0).double(), normal(2, 8, *size)
    query = layer.get_submodule("conv_match")(x).flatten(2).transpose(1, 2)
    value = layer.get_submodule("conv_assembly")(x).flatten(2).transpose(1, 2)
    logits = query @ nn.functional.normalize(query, dim=-1, eps=5e-5).transpose(1, 2)
    if isinstance(layer, attention.GlobalLearnableAttention):
        feature = layer.conv_assembly_fc(x).flatten(2).transpose(1, 2)
        length = query.shape[1]
        logits = logits + layer.fc(feature)[..., :length].transpose(1, 2)  # slot = position
    expected = (logits.softmax(-1) @ value).transpose(1, 2).reshape(x.shape)

    torch.testing.assert_close(layer.attend(x), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(layer(x), x + 0.5 * expected, rtol=0, atol=1e-13)


# ---------------------------------------------------------------- texture fidelity


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
    layer = attention.NonLocalAttention(16, 2, res_scale=0.5)
    block, x = TextureFidelity(layer, 16).double(), normal(1, 16, 4, 4)
    found = block(x)

    block.attention = Function(lambda x: (layer(x) - x) / 0.5)

    torch.testing.assert_close(found, block(x), rtol=0, atol=1e-12)
