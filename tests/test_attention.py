"""The attention core against plain loops, written from the papers' definitions, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dtfn.models import attention, hashing

DOUBLE = torch.float64
sparsemax: Callable[..., Tensor] = attention.SparsemaxAttention.apply


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def differentiable(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.detach().clone().requires_grad_() for t in tensors)


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


@pytest.mark.parametrize("kept", [0, 1 << 26])  # the weights recomputed by backward, and kept
@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("n_hashes", [1, 3])
@pytest.mark.parametrize("length", [4, 5, 7, 8, 9, 22])
def test_chunked_attention_is_the_loop(
    length: int, n_hashes: int, scored: bool, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "KEPT", kept)
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


def test_chunked_attention_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, codes = hashed_case(22, 4, 3, True)
    order, weight = hashing.chunk_order(codes, 4), normal(2, 22, 5, seed=9)
    given = [t.requires_grad_() for t in inputs if t is not None]

    def answer() -> list[Tensor]:
        found = hashing.chunked_attention(*inputs, order, 4)
        return [found, *torch.autograd.grad((found * weight).sum(), given)]

    whole = answer()
    for chunks in (1, 2, 4, 18, 40):  # runs of a round; all rounds of one picture, of both
        monkeypatch.setattr(hashing, "BLOCK_SCORES", chunks * 3 * 4**2)
        for one, other in zip(answer(), whole, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_gradients_survive_what_only_a_repeat_scores() -> None:
    """Position 4 is alone in slot 0 of the second chunk, and repeated as padding in slot 3."""
    query, key, value = (torch.ones(1, 5, 3, requires_grad=True) for _ in range(3))
    score = torch.zeros(1, 5, 4)
    score[..., 3] = 1e3
    score.requires_grad_()
    order = hashing.chunk_order(torch.zeros(1, 1, 5, dtype=torch.uint8), 4)

    hashing.chunked_attention(query, key, value, score, order, 4).square().sum().backward()

    for tensor in (query, key, value, score):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


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


@pytest.mark.parametrize("block", [16, 1 << 15])
def test_codes_are_the_first_largest_projection(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "CODE_BLOCK", block)
    query, rotations = normal(2, 50, 6), normal(3, 6, 8, seed=1)
    query[0, 7] = 0  # all projections are equal

    codes = hashing.hash_codes(query, rotations)

    projections = torch.einsum("nlc,hcb->nhlb", query, rotations)
    np.testing.assert_array_equal(codes.numpy(), projections.numpy().argmax(-1))
    assert (codes[0, :, 7] == 0).all()


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
    st.lists(st.integers(-40, 40), min_size=1, max_size=40),
    st.integers(1, 50),
    st.sampled_from([0.01, 0.1, 1.0, 100.0]),
    st.sampled_from([0.0, 1e3]),
)
def test_threshold_projects_onto_the_simplex(
    values: list[int], topk: int, spread: float, shift: float
) -> None:
    scores = spread * np.array(values, dtype=float) + shift  # integers make ties

    tau = attention.threshold(torch.from_numpy(scores)[None], topk)[0]

    found = np.maximum(scores - tau.item(), 0)
    assert found.sum() == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(found, simplex(scores), rtol=0, atol=1e-9)


def dense_case(length: int = 40, n: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (normal(n, length, width, seed=s) for s, width in enumerate((4, 4, 6)))
    return query / 3, key / 3, value


def test_sparse_attention_does_not_depend_on_topk(monkeypatch: pytest.MonkeyPatch) -> None:
    case = dense_case()
    whole = sparsemax(*case, 40)
    weights = (case[0] @ case[1].transpose(1, 2)).numpy()
    expected = np.apply_along_axis(simplex, -1, weights) @ case[2].numpy()
    np.testing.assert_allclose(whole.numpy(), expected, rtol=0, atol=1e-12)

    for topk in (1, 3, 16, 1000):
        found = sparsemax(*case, topk)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-13)
    monkeypatch.setattr(attention, "SPARSE_SCORES", 100)
    monkeypatch.setattr(attention, "LEAST_ROWS", 1)
    torch.testing.assert_close(sparsemax(*case, 8), whole, rtol=0, atol=1e-13)


def test_gradients_of_sparse_attention() -> None:
    case = differentiable(*dense_case(6))

    assert torch.autograd.gradcheck(lambda q, k, v: sparsemax(q, k, v, 2), case)


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


# ---------------------------------------------------------------- interventions

KINDS: dict[str, Callable[[], attention.Attention]] = {
    "placebo": lambda: attention.PlaceboAttention(8),
    "nla": lambda: attention.NonLocalAttention(8),
    "hspa": lambda: attention.HighSimilarityPassAttention(8, topk=4),
    "nlsa": lambda: attention.NonLocalSparseAttention(8, 4, 1.0, 16, 2),
    "gla": lambda: attention.GlobalLearnableAttention(8, 4, 1.0, 16, 2),
    "dnlf": lambda: attention.DeformableNonLocalFusion(8, 4, 1.0, 16, 2, fidelity=False),
}


def only_self(logits: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    return logits.masked_fill(queries[..., :, None] != keys[..., None, :], -torch.inf)


@pytest.mark.parametrize("size", [(2, 3), (5, 7), (4, 8)])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_interventions(kind: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = KINDS[kind]().double().eval(), normal(2, 8, *size)
    assert isinstance(layer.conv_assembly, nn.Module)
    plain, value = layer.attend(x), layer.conv_assembly(x)
    monkeypatch.setattr(hashing, "BLOCK_SCORES", 1)

    def attended(change: attention.Intervention) -> Tensor:
        layer.intervene = change
        return layer.attend(x)

    same = attended(lambda logits, queries, keys: logits)
    torch.testing.assert_close(same, plain, rtol=0, atol=1e-12)
    torch.testing.assert_close(attended(only_self), value, rtol=0, atol=1e-12)
    nothing = attended(lambda logits, queries, keys: torch.full_like(logits, -torch.inf))
    assert not nothing.any()
    uniform = attended(lambda logits, queries, keys: torch.zeros_like(logits))
    if not isinstance(layer, attention.HashedAttention) or size == (2, 3):
        mean = value.mean((2, 3), keepdim=True).expand_as(value)
        torch.testing.assert_close(uniform, mean, rtol=0, atol=1e-12)
    shift = attended(lambda logits, queries, keys: logits + 7.0)
    torch.testing.assert_close(shift, plain, rtol=0, atol=1e-12)


def test_uniform_weights_over_the_keys_of_all_rounds() -> None:
    (query, key, value, score), codes = hashed_case(22, 4, 3, True)
    order = hashing.chunk_order(codes, 4)

    found = hashing.changed_attention(
        query, key, value, score, order, 4, lambda logits, *_: torch.zeros_like(logits)
    )

    expected = hashed_by_loops(0 * query, key, value, None, codes, 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
