"""What attention looks at, recorded in live networks without changing a bit of their output.

    with capture.record(network) as record:
        network(x)
    record.map(record.layers[0], (row, column))      # (H, W), sums to 1

Kept is what a layer receives, and the order in which it hashed. Rows of the L x L attention matrix
are computed from that, for layers of `dtfn.models.attention` and for a user's own network alike.
Memory is O(queries x L), never L x L. Maps say where one layer looks; `attribute` says which LR
pixels a patch of the output depends on through the whole network.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from dtfn.errors import InputError, require_known
from dtfn.images import UInt8
from dtfn.models.attention import NORM_EPS, Attention, HashedAttention
from dtfn.models.layers import TextureFidelity, exact, rows_of
from dtfn.models.networks import assign
from dtfn.own import OwnNetwork, Weights
from dtfn.subpixel import Float

Rows = tuple[int, Callable[[Tensor], Tensor]]  # numbers held for a row; flat queries -> (Q, L)
BLOCK = 1 << 20  # numbers held at once for the rows of a block of queries: 4 MB in float32


class Record:
    """What the attention layers of a network did to the first picture of their last pass."""

    def __init__(self) -> None:
        self._passes: dict[str, Any] = {}  # layer -> `_LayerPass` or `_OwnPass`

    @property
    def layers(self) -> list[str]:
        """The layers that ran, in this order."""
        return list(self._passes)

    @property
    def features(self) -> dict[str, Tensor]:
        """Layer -> a copy of its input (1, C, H, W); for a user's own network, the network's."""
        return {name: seen.features.clone() for name, seen in self._passes.items()}

    def module(self, layer: str) -> nn.Module:
        """Return the attention that ran."""
        return self._pass(layer).module

    def map(self, layer: str, query: tuple[int, int]) -> Tensor:
        """Return `attention_map` (H, W) of a layer."""
        return self.maps(layer, [query])[0]

    @torch.no_grad()
    def maps(self, layer: str, queries: Sequence[tuple[int, int]]) -> Tensor:
        """Return the maps (Q, H, W) of Q queries; a user's own are means over heads and windows."""
        seen, pairs = self._pass(layer), np.asarray(queries)
        height, width = seen.features.shape[2:]
        is_fit = pairs.ndim == 2 and pairs.shape[1] == 2 and pairs.dtype.kind in "iu"
        if not is_fit or ((pairs < 0) | (pairs >= (height, width))).any():
            wanted = f"(row, column) pairs of the LR grid of {width} x {height} (width x height)"
            raise InputError("query", wanted, queries, "choose positions inside the image")
        cost, rows = seen.rows
        flat = torch.from_numpy(pairs[:, 0] * width + pairs[:, 1]).to(seen.features.device)
        parts = [rows(at) for at in flat.split(max(1, BLOCK // cost))]
        return torch.cat(parts).unflatten(1, (height, width))

    @torch.no_grad()
    def means(self, layer: str, values: NDArray[Any]) -> Float:
        """Return the means by weight of other values (L, C) at all positions, by its kernel."""
        seen = self._pass(layer)
        query, other = seen.compared
        # Dense layers pad queries to the width of the values, so that must not be smaller.
        missing = max(0, query.shape[-1] - values.shape[1])
        table = F.pad(torch.from_numpy(values).to(query), (0, missing))[None]
        # Rotations may come from the global generator: do not draw them again.
        with assign([seen.module] if seen.order else [], "order", lambda _: seen.order):
            mean = seen.module.mix(query, other, table)
        made: Float = mean[0, :, : values.shape[1]].double().cpu().numpy()
        return made

    def _pass(self, layer: str) -> Any:
        require_known(layer, self._passes, "layer", "one with attention that ran in the `with`")
        return self._passes[layer]


def attention_map(module: nn.Module, features: Tensor, query: tuple[int, int]) -> Tensor:
    """Return what one position (row, column) attends to: (H, W), non-negative, sum 1.

    The module is a layer of `dtfn.models.attention`, or a `TextureFidelity` around one; features
    (1, C, H, W) are its input, which `record` keeps. The sum of map times
    ``conv_assembly(features)`` is what attention adds there, before ``res_scale`` and a fusion.
    """
    with torch.no_grad(), record(module) as kept:
        module(features)
    return kept.map("", query)


def layers(network: nn.Module) -> list[str]:
    """Return the names of the attention layers in order, the same with TFS and without."""
    return network.placed if isinstance(network, OwnNetwork) else list(_layers(network))


def _layers(network: nn.Module) -> dict[str, Any]:
    found, around = dict[str, Any](), dict[nn.Module, str]()
    for name, module in network.named_modules():  # what is around comes first
        if isinstance(module, TextureFidelity):
            around[module.attention] = name
        elif isinstance(module, Attention) and module.chooses:
            found[around.get(module, name)] = module
    return found


@contextmanager
def record(network: nn.Module) -> Iterator[Record]:
    """Keep what the attention layers of a network do in their last pass inside the ``with``.

    The network has layers of `dtfn.models.attention` that choose, or is a `dtfn.own.OwnNetwork`
    with attention on known positions; any other is an `InputError`.
    """
    kept = Record()

    def attend(name: str, layer: Any, own: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        kept._passes[name] = _LayerPass(layer, x.detach()[:1])
        return own(x)

    def order(name: str, own: Callable[[Tensor], tuple[Tensor, int]], query: Tensor) -> Any:
        made, m = own(query)
        kept._passes[name].order = made[:1], m
        return made, m

    def meet(name: str, weights: Weights) -> None:
        if name in network.placed:  # type: ignore[operator]
            kept._passes[name] = _OwnPass(network, name, weights)

    with ExitStack() as stack:
        if isinstance(network, OwnNetwork):
            network.require_attention(placed=True)
            stack.enter_context(network.meeting(meet))
        elif not (named := _layers(network)):
            found = f"none in {getattr(network, 'name', type(network).__name__)}"
            remedy = "choose a network with attention; for one of yours see dtfn.zoo.own"
            raise InputError("network", "attention layers of dtfn that choose", found, remedy)
        else:
            for name, layer in named.items():
                changed = functools.partial(attend, name, layer, layer.attend)
                stack.enter_context(assign([layer], "attend", changed))
                if isinstance(layer, HashedAttention):
                    ordered = functools.partial(order, name, layer.order)
                    stack.enter_context(assign([layer], "order", ordered))
        yield kept


class _LayerPass:
    """What a layer of `dtfn.models.attention` received, and how it sorted the positions."""

    order: tuple[Tensor, int] | None = None

    def __init__(self, layer: Any, features: Tensor) -> None:
        self.module, self.features = layer, features

    @functools.cached_property
    def compared(self) -> list[Any]:
        """Queries (1, L, Cq), and keys (1, L, Cq) or, with hashing, perhaps scores (1, L, m)."""
        with torch.no_grad():
            query, other, _ = self.module.embed(self.features)
        return [None if part is None else exact(rows_of(part)) for part in (query, other)]

    @functools.cached_property
    def rows(self) -> Rows:
        """Keys are those of the query's chunk and both neighbours in every round of hashing.

        Mixing the rounds by the softmax of their logsumexp is one softmax over all of them; repeats
        add up.
        """
        query, other = self.compared
        query, length = query[0], query.shape[1]
        if self.order is None:
            return length, lambda at: self.module.weigh(query[at] @ other[0].T)
        (wrapped,), m = self.order  # (n_hashes, (K + 2) m)
        key = F.normalize(query, dim=-1, eps=NORM_EPS)
        # With one chunk m = L, and the order is not wrapped.
        first, span = (0, m) if m < self.module.chunk_size else (m, 3 * m)
        place = torch.arange(length, device=query.device).expand(len(wrapped), -1)
        rank = torch.empty_like(place, memory_format=torch.contiguous_format)
        rank.scatter_(1, wrapped[:, first : first + length], place)  # where each was sorted to
        rounds = torch.arange(len(wrapped), device=query.device)[None, :, None]
        window = torch.arange(span, device=query.device)

        def rows(at: Tensor) -> Tensor:
            sorted_at = rank[:, at].T[..., None]  # (Q, n_hashes, 1)
            keys = wrapped[rounds, sorted_at // m * m + window]  # (Q, n_hashes, 3m)
            logits = torch.einsum("qc,qrkc->qrk", query[at], key[keys])
            if other is not None:
                logits = logits + other[0][keys, sorted_at % m]
            weights = logits.flatten(1).softmax(-1)
            return weights.new_zeros(len(at), length).scatter_add_(1, keys.flatten(1), weights)

        return max(length, len(wrapped) * span * query.shape[1]), rows


class _OwnPass:
    """Attention weights (..., L, S) of a user's own network."""

    def __init__(self, network: Any, name: str, weights: Weights) -> None:
        self.features, self.module = network.seen[:1], network.parts[name.split("#")[0]]
        self._where = functools.partial(network.places, name, network.seen.shape, weights.shape)
        self._batch, self._weights = len(network.seen), weights

    @functools.cached_property
    def rows(self) -> Rows:
        """The rows of its attention matrix; padding drops out."""
        weights, places = self._weights, self._where()
        side = self.features[0, 0].numel()

        def rows(at: Tensor) -> Tensor:
            met = weights.rows(slice(None) if places else at).float()
            met = met.reshape(self._batch, -1, *met.shape[-2:])[0]  # of heads and windows
            if places is None:
                return met.mean(0)
            queries, keys = (part.to(met.device) for part in places)  # (R, L), (R, S)
            number = at.new_full((side + 1,), -1)  # its last is that of no position
            number[at] = torch.arange(len(at), device=at.device)
            window, row = (number[queries] >= 0).nonzero(as_tuple=True)
            to = number[queries[window, row]][:, None].expand(-1, keys.shape[1])
            whole = met.new_zeros(len(at), side + 1)
            whole.index_put_((to, keys[window]), met[window, row], accumulate=True)
            whole = whole[number[at], :side]  # a query may be asked about twice
            return whole / whole.sum(-1, keepdim=True).clamp(min=torch.finfo(met.dtype).tiny)

        return math.prod(weights.shape[:-2]) * side, rows


def mixed_patch(picture: UInt8, weights: Float, side: int) -> UInt8:
    """Return the mean by weight (H, W) of the patches around all positions, ``side`` LR pixels."""
    (height, width), reach = weights.shape, side // 2
    scale = picture.shape[0] // height
    blocks = picture.reshape(height, scale, width, scale, 3).transpose(1, 3, 4, 0, 2)
    edges = [(0, 0)] * 3 + [(reach, reach)] * 2
    padded = np.pad(blocks.astype(np.float32), edges, mode="edge")
    views = sliding_window_view(padded, weights.shape, axis=(3, 4))  # (s, s, 3, side, side, H, W)
    mixed = np.einsum("abcijhw,hw->iajbc", views, weights.astype(np.float32))
    made: UInt8 = np.rint(mixed.reshape(side * scale, -1, 3)).clip(0, 255).astype(np.uint8)
    return made


class Attribution(NamedTuple):
    """What a patch of the output owes to each LR pixel."""

    map: Float  # (H, W), signed, summed over the colour channels
    diffusion: float  # `diffusion_index` of the map


def attribute(network: nn.Module, lr: UInt8, window: tuple[int, ...], steps: int) -> Attribution:
    """Return what a patch of a network's output owes to each pixel of ``lr``, uint8 ``(H, W, 3)``.

    ``window`` is (top, left, height, width) of the patch in LR positions. These are local
    attribution maps (LAM; Gu and Dong, CVPR 2021): gradients of how much detail is drawn there are
    integrated along a path from a blurred LR picture, in which there is nothing to draw. So the map
    sums to the `total_slope` of the patch less that for the blurred picture, but for the steps and
    the jumps of hashed attention.

    With the path g(a) = blur of sigma (1 - a), pixel i gets the integral over a in [0, 1] of
    dD(F(g(a)))/dg_i dg_i/da. Here each step's difference of g meets the gradient at the middle of
    the step (Gu and Dong take an end), so linear networks need one step.
    """
    weight, scale = next(network.parameters()), int(network.scale)  # type: ignore[arg-type]
    top, left, height, width = (scale * v for v in window)
    # All blurs have one radius, or the path would jump; the last has sigma 0 and is the picture.
    how: dict[str, Any] = {"radius": 5, "mode": "mirror", "axes": (0, 1)}
    sigmas = 1.2 * (1 - np.arange(steps + 1) / steps)  # 1.2: as in LAM's published demonstration
    path = (ndimage.gaussian_filter(lr / 255, sigma, **how) for sigma in sigmas)
    total = np.zeros(lr.shape[:2])
    for before, after in itertools.pairwise(path):
        x = torch.from_numpy((before + after) / 2).permute(2, 0, 1)[None]
        x = x.to(weight).requires_grad_()
        patch = network(x)[:, :, top : top + height, left : left + width]
        (slope,) = torch.autograd.grad(total_slope(patch), x)
        moved = slope[0].permute(1, 2, 0).double().cpu().numpy() * (after - before)
        total += moved.sum(axis=2)
    return Attribution(total, diffusion_index(total))


def total_slope(patch: Tensor) -> Tensor:
    """Return how much detail a patch (1, 3, h, w) has: the sum of its gradient magnitudes."""
    down = patch[:, :, 1:, :-1] - patch[:, :, :-1, :-1]
    right = patch[:, :, :-1, 1:] - patch[:, :, :-1, :-1]
    return (down.square() + right.square() + 1e-12).sqrt().sum()  # else 0 has no gradient


def diffusion_index(attribution: Float) -> float:
    """Return 100 (1 - Gini) of absolute values: 100 if all are the same, near 0 if one has all."""
    values = np.sort(np.abs(attribution), axis=None)
    total, rank = values.sum(), np.arange(1, values.size + 1)
    if not total:
        return 100.0
    # The sum over pairs |a - b| of sorted numbers, without the pairs.
    gini = np.sum((2 * rank - values.size - 1) * values) / (values.size * total)
    return float(100 * (1 - gini))
