"""Attention maps against the layers themselves, and that watching changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dtfn import capture, images, models, texture
from dtfn.errors import InputError
from dtfn.models import attention as kinds
from dtfn.models.deform import rows_of
from dtfn.models.layers import TextureFidelity

DOUBLE = torch.float64
CHANNELS, CHUNK = 16, 8
Build = Callable[[], nn.Module]
EVERY: dict[str, Build] = {
    "nla": lambda: kinds.NonLocalAttention(CHANNELS, 2),
    "hspa": lambda: kinds.HighSimilarityPassAttention(CHANNELS, 2, topk=4),
    "nlsa": lambda: kinds.NonLocalSparseAttention(CHANNELS, 4, 1.0, CHUNK, 3),
    "gla": lambda: kinds.GlobalLearnableAttention(CHANNELS, 4, 1.0, CHUNK, 3),
    "gla, one round": lambda: kinds.GlobalLearnableAttention(CHANNELS, 4, 1.0, CHUNK, 1),
    "dnlf": lambda: kinds.DeformableNonLocalFusion(CHANNELS, 4, 1.0, CHUNK, 3),
    "dnlf without tfs": lambda: kinds.DeformableNonLocalFusion(
        CHANNELS, 4, 1.0, CHUNK, 3, fidelity=False
    ),
}
HASHED = [name for name in EVERY if name not in ("nla", "hspa")]
# L: 1, 6 < chunk; 8 = one chunk; 15 pads one, 16 = two chunks (both neighbours are the same);
# 35 pads five; 96.
SIZES = [(1, 1), (2, 3), (2, 4), (3, 5), (4, 4), (5, 7), (8, 12)]


def built(name: str, dtype: torch.dtype = DOUBLE) -> Any:
    """Build a layer whose scores differ enough, and whose deformable values are deformed."""
    torch.manual_seed(0)
    layer = EVERY[name]()
    for key, weight in layer.named_parameters():
        if "match" in key and weight.ndim > 1:
            weight.data *= 3
        if "offset_conv" in key or "modulator_conv" in key:
            nn.init.normal_(weight, std=0.2)
    return layer.to(dtype).eval()


def picture(height: int, width: int, dtype: torch.dtype = DOUBLE, n: int = 1) -> Tensor:
    source = torch.Generator().manual_seed(1)
    return torch.randn(n, CHANNELS, height, width, dtype=DOUBLE, generator=source).to(dtype)


def everywhere(x: Tensor) -> list[tuple[int, int]]:
    return [(row, column) for row in range(x.shape[2]) for column in range(x.shape[3])]


def matrix(layer: Any, x: Tensor) -> Tensor:
    """Return the layer's own (L, L) attention: what it makes of values that are the identity."""
    length = x.shape[2] * x.shape[3]
    # Values are at least as wide as queries.
    identity = torch.eye(length, max(length, CHANNELS), dtype=x.dtype)[None]
    if isinstance(layer, kinds.NonLocalAttention):
        query, key = rows_of(layer.conv_match1(x)), rows_of(layer.conv_match2(x))
        return layer.mix(query, key, identity)[0, :, :length]
    query, score = rows_of(layer.conv_match(x)), None
    if isinstance(layer, kinds.GlobalLearnableAttention):
        score = layer.fc(rows_of(layer.conv_assembly_fc(x)))
    return layer.mix(query, identity, score)[0, :, :length]


# ---------------------------------------------------------------- maps


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (DOUBLE, 1e-12)])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", EVERY)
def test_map_times_values_is_what_the_layer_adds(
    name: str, size: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    layer, x = built(name, dtype), picture(*size, dtype)

    maps = capture.attention_maps(layer, x, everywhere(x))

    with torch.no_grad():
        added, values = layer.attend(x)[0], layer.conv_assembly(x)[0]
    assert maps.shape == (x.shape[2] * x.shape[3], *size)
    assert not maps.requires_grad
    assert (maps >= 0).all()
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones_like(maps[:, 0, 0]), rtol=0, atol=1e-5)
    found = torch.einsum("qhw,chw->cq", maps, values).view_as(added)
    torch.testing.assert_close(found, added, rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", EVERY)
def test_maps_are_the_whole_matrix(
    name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = built(name), picture(*size)
    with torch.no_grad():
        expected = matrix(layer, x)

    for block in (1, 1 << 22):  # one query at a time, and all at once
        monkeypatch.setattr(capture, "BLOCK", block)
        found = capture.attention_maps(layer, x, everywhere(x)).flatten(1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    if len(expected) > 30:  # no trivial case: it is peaked somewhere, and not at one place only
        assert expected.amax() > 3 / len(expected)
        assert ((expected > 0.01).sum(-1) > 1).any()


def test_one_query_is_a_row_of_several() -> None:
    layer, x = built("dnlf"), picture(5, 7)

    maps = capture.attention_maps(layer, x, np.array([(4, 6), (0, 0), (2, 3)]))

    for query, expected in zip([(4, 6), (0, 0), (2, 3)], maps, strict=True):
        torch.testing.assert_close(capture.attention_map(layer, x, query), expected)
    again = capture.attention_maps(layer, x, torch.tensor([(4, 6), (0, 0), (2, 3)]))
    assert torch.equal(again, maps)


def test_map_inside_texture_fidelity() -> None:
    layer, x = built("nlsa"), picture(5, 7)
    around = TextureFidelity(layer, CHANNELS).double()

    found = capture.attention_map(around, x, (3, 2))

    assert torch.equal(found, capture.attention_map(layer, x, (3, 2)))


def test_sparse_maps_have_exact_zeros() -> None:
    layer, x = built("hspa"), picture(8, 12)

    maps = capture.attention_maps(layer, x, everywhere(x))

    assert 0.2 < (maps == 0).double().mean() < 1


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("seed", [0, 5, None])
@pytest.mark.parametrize("name", HASHED)
def test_maps_leave_the_layer_and_the_generator_alone(
    name: str, seed: int | None, training: bool
) -> None:
    """In training, and without a seed, the map is that of the next pass, and does not use it up."""
    layer, x = built(name).train(training), picture(8, 12)
    layer.hash_seed = seed
    layer.draws = 3
    torch.manual_seed(11)
    before = torch.get_rng_state()

    maps = capture.attention_maps(layer, x, everywhere(x)).flatten(1)

    assert torch.equal(torch.get_rng_state(), before)
    assert (layer.draws, layer.training, layer.hash_seed) == (3, training, seed)
    with torch.no_grad():
        torch.testing.assert_close(maps, matrix(layer, x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", EVERY)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    layer, x = built(name, dtype), picture(8, 12, dtype)

    maps = capture.attention_maps(layer, x, everywhere(x))

    with torch.no_grad():
        added, values = layer.attend(x)[0].double(), layer.conv_assembly(x)[0].double()
    assert maps.dtype == torch.float32
    found = torch.einsum("qhw,chw->cq", maps.double(), values).view_as(added)
    torch.testing.assert_close(found, added, rtol=0, atol=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", EVERY)
def test_maps_on_a_gpu(name: str) -> None:
    layer, x = built(name).cuda(), picture(8, 12).cuda()

    maps = capture.attention_maps(layer, x, everywhere(x))

    assert maps.is_cuda
    with torch.no_grad():
        added, values = layer.attend(x)[0], layer.conv_assembly(x)[0]
    found = torch.einsum("qhw,chw->cq", maps, values).view_as(added)
    torch.testing.assert_close(found, added, rtol=0, atol=1e-12)
    with torch.no_grad(), capture.record(layer) as record:
        layer(x)
    table = record.summary("", details=np.ones((8, 12, 4)), hash_seeds=(0, 1))
    np.testing.assert_allclose(table["disagreeing"], 0, atol=1e-12)
    assert table.notna().all(axis=None)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            # An expanded tensor takes no memory of its own.
            if isinstance(tensor, Tensor) and 0 not in tensor.stride():
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("name", EVERY)
def test_memory_is_that_of_the_queries(name: str) -> None:
    """Rows that were asked for and the layer's own features and hash codes, never L x L."""
    layer, x = built(name, torch.float32), picture(96, 96, torch.float32)
    length = 96 * 96

    with Largest() as seen:
        capture.attention_maps(layer, x, [(0, 0), (50, 3), (95, 95)])

    assert 3 * length <= seen.numel < length**2 / 20


# ---------------------------------------------------------------- sampling points


def test_sampling_points_rebuild_the_value() -> None:
    layer, x = built("dnlf"), picture(6, 7)
    conv = layer.conv_assembly.regular_conv
    values = layer.conv_assembly(x)[0]
    moved = 0.0

    for row, column in everywhere(x):
        points, weights = capture.sampling_points(layer, x, (row, column))
        assert points.shape == (9, 2)
        assert weights.shape == (9,)
        assert (weights >= 0).all()
        assert (weights <= 2).all()
        at = (points.flip(-1) * 2 + 1) / torch.tensor([7, 6]) - 1  # (x, y) in [-1, 1]
        read = F.grid_sample(x, at[None, None], align_corners=False)[0, :, 0]  # (C, 9)
        found = torch.einsum("ck,dck->d", read * weights, conv.weight.flatten(2)) + conv.bias
        torch.testing.assert_close(found, values[:, row, column], rtol=0, atol=1e-12)
        moved = max(moved, float((points[4] - torch.tensor([row, column])).abs().max()))
    assert moved > 0.5


def test_sampling_points_start_on_the_grid() -> None:
    layer, x = EVERY["dnlf"](), picture(6, 7, torch.float32)

    points, weights = capture.sampling_points(layer, x, (2, 3))

    assert points.tolist() == [[r, c] for r in (1, 2, 3) for c in (2, 3, 4)]
    assert weights.tolist() == [1] * 9


# ---------------------------------------------------------------- live networks


NETWORKS = ["mini-nla", "mini-hspa", "mini-nlsa", "mini-gla", "mini-dtfn", "mini-nla+tfs", "nlsn"]


def network(name: str, **options: Any) -> models.Network:
    torch.manual_seed(0)
    small = {} if name.startswith("mini") else {"n_feats": 16, "n_resblocks": 9}
    return models.create(name, 2, **(small | options)).eval()


def rgb(height: int = 9, width: int = 11, n: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    source = torch.Generator().manual_seed(2)
    return torch.rand(n, 3, height, width, generator=source).to(dtype)


def hooks_of(module: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in module.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_record_changes_no_bit_and_leaves_no_hook(name: str) -> None:
    watched, x = network(name), rgb()
    with torch.no_grad():
        before = watched(x)

        with capture.record(watched) as record:
            during = watched(x)
        after = watched(x)

    assert torch.equal(during, before)
    assert torch.equal(after, before)
    assert hooks_of(watched) == 0
    assert record.layers == capture.layers(watched)
    assert len(record.layers) == (2 if name == "nlsn" else 4)


def test_record_changes_no_gradient() -> None:
    watched, x = network("mini-dtfn").train(), rgb()
    watched(x).sum().backward()
    before = [p.grad for p in watched.parameters() if p.grad is not None]
    watched.zero_grad()
    for module in watched.modules():
        if isinstance(module, kinds.HashedAttention):
            module.draws = 0

    with capture.record(watched) as record:
        watched(x).sum().backward()

    after = [p.grad for p in watched.parameters() if p.grad is not None]
    assert len(before) > 50
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert not any(features.requires_grad for features in record.features.values())


def test_record_leaves_no_hook_after_an_error() -> None:
    watched = network("mini-nla")

    with pytest.raises(InputError, match="network input"), capture.record(watched):
        watched(torch.zeros(3))

    assert hooks_of(watched) == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_record_keeps_what_each_layer_got(name: str) -> None:
    watched, x = network(name).double(), rgb(dtype=DOUBLE)
    got: list[Tensor] = []
    hooks = [
        watched.get_submodule(layer).register_forward_pre_hook(lambda _, args: got.append(args[0]))
        for layer in capture.layers(watched)
    ]

    with torch.inference_mode(), capture.record(watched) as record:
        watched(x)

    for hook in hooks:
        hook.remove()
    assert list(record.features) == capture.layers(watched)
    for features, expected in zip(record.features.values(), got, strict=True):
        assert torch.equal(features, expected)
    for layer in record.layers:
        module: Any = watched.get_submodule(layer)
        within: Any = module.attention if isinstance(module, TextureFidelity) else module
        with torch.no_grad():
            values = within.conv_assembly(record.features[layer])[0]
            added = within.attend(record.features[layer])[0]
        maps = record.maps(layer, [(0, 0), (8, 10), (4, 5)])
        found = torch.einsum("qhw,chw->qc", maps, values)
        expected = added[:, [0, 8, 4], [0, 10, 5]].T
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(record.map(layer, (8, 10)), maps[1], rtol=0, atol=1e-15)


def test_names_of_layers() -> None:
    assert capture.layers(network("mini-dtfn")) == [f"body.{i}.body.4" for i in range(4)]
    assert capture.layers(network("mini-gla+tfs")) == capture.layers(network("mini-dtfn"))
    assert capture.layers(network("mini-local")) == []
    assert capture.layers(built("nla")) == [""]


def test_features_can_be_computed_with_after_inference_mode() -> None:
    watched = network("mini-nla")
    with torch.inference_mode(), capture.record(watched) as record:
        watched(rgb())
    features = record.features[record.layers[0]].requires_grad_()

    features.square().sum().backward()

    assert features.grad is not None


@pytest.mark.parametrize("seed", [0, None])
def test_record_of_a_training_pass(seed: int | None) -> None:
    """The maps are those of the pass that was recorded, whatever ran and was drawn since then."""
    watched, x = network("mini-gla", hash_seed=seed).double().train(), rgb(20, 20, dtype=DOUBLE)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, output: seen.update({name: output - args[0]})

    hooks = [
        watched.get_submodule(name).register_forward_hook(keep(name))
        for name in capture.layers(watched)
    ]
    watched(x)
    with capture.record(watched) as record, torch.no_grad():
        watched(x)
    for hook in hooks:
        hook.remove()
    watched(x)
    torch.rand(5)
    state = torch.get_rng_state()

    for name in record.layers:
        layer: Any = watched.get_submodule(name)
        with torch.no_grad():
            values = layer.conv_assembly(record.features[name])[0]
        found = torch.einsum("hw,chw->c", record.map(name, (3, 4)), values) * layer.res_scale
        torch.testing.assert_close(found, seen[name][0, :, 3, 4], rtol=0, atol=1e-11)
        assert layer.draws == 3 if seed is not None else True
    assert torch.equal(torch.get_rng_state(), state)


def test_record_of_a_batch() -> None:
    watched, x = network("mini-dtfn").double(), rgb(12, 12, n=3, dtype=DOUBLE)
    with torch.no_grad():
        with capture.record(watched) as record:
            watched(x)
        with capture.record(watched) as alone:
            watched(x[1:2])

    for layer in record.layers:
        expected = alone.map(layer, (7, 5))
        torch.testing.assert_close(record.map(layer, (7, 5), image=1), expected, rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="0 to 2"):
        record.map(record.layers[0], (7, 5), image=3)


@pytest.mark.parametrize("name", EVERY)
def test_record_under_autocast(name: str) -> None:
    """Maps are those of the recorded pass, though they are asked for in full precision."""
    layer, x = built(name, torch.float32), picture(8, 12, torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with capture.record(layer) as record:
            layer(x)
        expected = matrix(layer, x)

    maps = record.maps("", everywhere(x)).flatten(1)

    torch.testing.assert_close(maps, expected.float(), rtol=0, atol=1e-6)
    with torch.no_grad():
        assert (matrix(layer, x) - maps).abs().amax() > 1e-3


def test_a_second_pass_replaces_the_first() -> None:
    watched = network("mini-nla")
    with torch.no_grad(), capture.record(watched) as record:
        watched(rgb(5, 5))
        first = record.map(record.layers[0], (0, 0))
        watched(rgb(6, 8))

    assert first.shape == (5, 5)
    assert record.map(record.layers[0], (0, 0)).shape == (6, 8)


# ---------------------------------------------------------------- summaries


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("block", [1, 1 << 22])
def test_summary_is_that_of_the_whole_matrix(
    name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "BLOCK", block)
    layer, x = built(name), picture(5, 7)
    details = np.random.default_rng(0).normal(size=(5, 7, 4))
    details[2, 3] = details[4, 4]
    a = capture.attention_maps(layer, x, everywhere(x)).flatten(1).numpy()  # (L, L)

    table = capture.summary(layer, x, details=details, tolerance=1.5)

    at = np.array(everywhere(x))
    np.testing.assert_array_equal(table[["row", "column"]], at)
    distance = np.linalg.norm(at[:, None] - at[None], axis=-1)
    detail = details.reshape(35, 4)
    squared = ((detail[:, None] - detail[None]) ** 2).sum(-1)
    inconsistency = squared / (detail**2).sum(-1, keepdims=True)
    logs = np.log(a, out=np.zeros_like(a), where=a > 0)
    expected = {
        "entropy": -(a * logs).sum(1),
        "support": np.exp(-(a * logs).sum(1)),
        "participation": 1 / (a**2).sum(1),
        "distance": (a * distance).sum(1),
        "on_self": np.diag(a),
        "inconsistency": (a * inconsistency).sum(1),
        "disagreeing": (a * (inconsistency > 1.5)).sum(1),
    }
    assert set(table) == {"row", "column", *expected}
    for column, values in expected.items():
        np.testing.assert_allclose(table[column], values, rtol=0, atol=1e-11, err_msg=column)
    assert 0 < table["disagreeing"].mean() < 1
    some = capture.summary(layer, x, [(2, 3), (0, 6)], details=details, tolerance=1.5)
    np.testing.assert_allclose(some, table.iloc[[17, 6]], rtol=0, atol=1e-11)


def test_summary_of_even_attention() -> None:
    layer, x = built("nla"), picture(5, 7)
    for weight in (*layer.conv_match1.parameters(), *layer.conv_match2.parameters()):
        weight.data.zero_()

    table = capture.summary(layer, x)

    np.testing.assert_allclose(table["entropy"], math.log(35))
    np.testing.assert_allclose(table["support"], 35)
    np.testing.assert_allclose(table["participation"], 35)
    np.testing.assert_allclose(table["on_self"], 1 / 35)


def test_where_there_is_no_detail() -> None:
    layer, x = built("nla"), picture(2, 3)
    details = torch.zeros(2, 3, 4)
    details[0, 1] = 1
    away = 1 - float(capture.attention_map(layer, x, (0, 1))[0, 1])

    table = capture.summary(layer, x, [(0, 0), (0, 1)], details=details)

    assert table.loc[0, ["inconsistency", "disagreeing"]].isna().all()
    assert table["inconsistency"][1] == pytest.approx(away)  # of each flat one it is 1
    assert table["disagreeing"][1] == 0


def test_details_of_a_picture() -> None:
    """Of noise, all weight but the query's own has unrelated detail."""
    watched = network("mini-nla")
    hr = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    lr = images.degrade(hr, 2)
    with torch.no_grad(), capture.record(watched) as record:
        watched(torch.from_numpy(lr).permute(2, 0, 1)[None] / 255)

    details = texture.detail_blocks(hr, 2)
    table = record.summary(record.layers[0], details=details)

    assert table["disagreeing"].median() > 0.7
    inside = (table["inconsistency"] / (1 - table["on_self"])).to_numpy().reshape(10, 12)
    energy = (details**2).sum(-1).reshape(10, 12)
    assert np.average(inside, weights=energy) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("name", HASHED)
def test_agreement_over_hash_seeds(name: str) -> None:
    layer, x = built(name), picture(8, 12)
    seeds = [0, 1, 7]
    maps = []
    for seed in seeds:
        layer.hash_seed = seed
        maps.append(capture.attention_maps(layer, x, everywhere(x)))
    layer.hash_seed = 0

    found = capture.summary(layer, x, hash_seeds=seeds)["agreement"]

    expected = [torch.minimum(*pair).sum((1, 2)) for pair in combinations(maps, 2)]
    np.testing.assert_allclose(found, torch.stack(expected).mean(0), rtol=0, atol=1e-12)
    assert 0.01 < found.mean() < 0.99
    assert layer.hash_seed == 0


@pytest.mark.parametrize(("name", "size"), [("nla", (8, 12)), ("gla", (2, 3))])
def test_without_hashing_all_seeds_agree(name: str, size: tuple[int, int]) -> None:
    table = capture.summary(built(name), picture(*size), hash_seeds=(0, 1))

    np.testing.assert_allclose(table["agreement"], 1)


def test_summary_of_a_record() -> None:
    watched, x = network("mini-dtfn"), rgb()
    with torch.no_grad(), capture.record(watched) as record:
        watched(x)
    name = record.layers[1]

    found = record.summary(name, [(1, 2)], hash_seeds=(0, 1))

    layer = watched.get_submodule(name)
    expected = capture.summary(layer, record.features[name], [(1, 2)], hash_seeds=(0, 1))
    assert found.equals(expected)
    points, _ = record.sampling_points(name, (1, 2))
    assert torch.equal(points[4], torch.tensor([1.0, 2.0]))


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "queries",
    [[(5, 0)], [(0, 7)], [(-1, 0)], [(0, 0), (0, -1)], [], [(1.0, 2.0)], [(1, 2, 3)], [1, 2]],
)
def test_queries_that_do_not_exist(queries: Any) -> None:
    for call in (capture.attention_maps, capture.summary):
        with pytest.raises(InputError, match="query"):
            call(built("nla"), picture(5, 7), queries)


@pytest.mark.parametrize("query", [(5, 0), (0, 7), (-1, 0)])
def test_sampling_points_outside(query: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="7 x 5"):
        capture.sampling_points(built("dnlf"), picture(5, 7), query)


@pytest.mark.parametrize("shape", [(16, 5, 7), (2, 16, 5, 7), (1, 8, 5, 7), (1, 16, 0, 7), (35,)])
@pytest.mark.parametrize("name", EVERY)
def test_features_of_another_shape(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"\(1, 16, H, W\)"):
        capture.attention_map(built(name), torch.zeros(shape), (0, 0))


def test_layers_without_attention() -> None:
    with pytest.raises(InputError, match="Conv2d"):
        capture.attention_map(nn.Conv2d(3, 3, 1), picture(5, 7), (0, 0))
    around = TextureFidelity(nn.Conv2d(16, 16, 1), 16)
    with pytest.raises(InputError, match="TextureFidelity"):
        capture.attention_map(around, picture(5, 7), (0, 0))
    with pytest.raises(InputError, match="deformable"):
        capture.sampling_points(built("gla"), picture(5, 7), (0, 0))
    with (
        pytest.raises(InputError, match="none in mini-local"),
        capture.record(network("mini-local")),
    ):
        pass


def test_names_that_do_not_exist() -> None:
    watched = network("mini-nla")
    with torch.no_grad(), capture.record(watched) as record:
        with pytest.raises(InputError, match="pass of the network"):
            record.map("body.0.body.4", (0, 0))
        watched(rgb())

    with pytest.raises(InputError, match=r"did you mean 'body\.0\.body\.4'"):
        record.map("body.0.bdy.4", (0, 0))
    with pytest.raises(InputError, match=r"a layer without.*choose one of body\.0\.body\.4, body"):
        record.map("body.0.body.3", (0, 0))
    with pytest.raises(InputError, match="query"):
        record.map("body.0.body.4", (9, 0))


@pytest.mark.parametrize(
    "details", [np.zeros((7, 5, 4)), np.zeros((5, 7)), np.full((5, 7, 4), np.nan)]
)
def test_details_that_do_not_fit(details: np.ndarray) -> None:
    with pytest.raises(InputError, match="details"):
        capture.summary(built("nla"), picture(5, 7), details=details)


def test_a_single_hash_seed() -> None:
    with pytest.raises(InputError, match="two or more"):
        capture.summary(built("nlsa"), picture(5, 7), hash_seeds=[3])
