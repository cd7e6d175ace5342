"""The L x L matrix of an attention layer on one image, a block of rows at a time.

Rows are recomputed from the layer's input with the layer's own weights, hash codes and seed. Memory
is O(queries x L), never L x L.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtfn.errors import InputError
from dtfn.models.attention import (
    NORM_EPS,
    DeformableNonLocalFusion,
    GlobalLearnableAttention,
    HashedAttention,
    HighSimilarityPassAttention,
    NonLocalAttention,
    NonLocalSparseAttention,
    merged_conv,
)
from dtfn.models.deform import DeformableConv2d, rows_of
from dtfn.models.fidelity import TextureFidelity
from dtfn.models.layers import HALF
from dtfn.models.sparsemax import threshold

Attention = NonLocalAttention | HashedAttention
KINDS = (
    NonLocalAttention, NonLocalSparseAttention, GlobalLearnableAttention, DeformableNonLocalFusion,
)  # fmt: skip
BLOCK = 1 << 20  # numbers held at once for the rows of a block of queries: 4 MB in float32

Look = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Rows:
    """The attention matrix of one layer on one image, a block of rows at a time.

    Attributes
    ----------
    height, width
        L = height * width positions, numbered row by row.
    cost
        Numbers that one row takes while it is computed.
    look
        Flat queries (Q,) -> positions and weights, (Q, S) each: what a query attends to. A position
        occurs once among the weights above 0 of a row, and they sum to 1. Positions are (1, S)
        where they are the same for all queries.
    """

    height: int
    width: int
    cost: int
    look: Look

    def blocks(self, queries: Tensor) -> Iterator[Tensor]:
        """Cut flat queries (Q,) into blocks that fit into `BLOCK`."""
        yield from queries.split(max(1, BLOCK // self.cost))

    def maps(self, queries: Tensor) -> Tensor:
        """Return (Q, H, W) for flat queries (Q,)."""
        parts = [self._dense(block) for block in self.blocks(queries)]
        return torch.cat(parts).unflatten(-1, (self.height, self.width))

    def _dense(self, queries: Tensor) -> Tensor:
        positions, weights = self.look(queries)
        whole = weights.new_zeros(len(queries), self.height * self.width)
        return whole.scatter_add_(1, positions.expand_as(weights), weights)


def rows(module: nn.Module, features: Tensor) -> Rows:
    """Return the rows of a layer's attention matrix, none of them computed yet.

    The layer keeps its state: neither its count of training steps nor torch's global random
    generator moves, although in training, or without a hash seed, its rotations come from there.
    They are then those of the layer's next pass.

    Parameters
    ----------
    module, features
        As for `attention_map`.
    """
    layer = attention_of(module)
    x = checked(layer, features)
    unseeded = isinstance(layer, HashedAttention) and layer.hash_seed is None
    with torch.no_grad(), torch.random.fork_rng(devices=[], enabled=unseeded):
        if isinstance(layer, NonLocalAttention):
            return _dense(layer, x)
        return _hashed(copy.copy(layer), x)  # a shallow copy: same weights, own count of steps


def layer_in(module: nn.Module) -> Attention | None:
    """Return the layer itself, or the one inside a `TextureFidelity`, or None."""
    layer = module.attention if isinstance(module, TextureFidelity) else module
    return layer if isinstance(layer, KINDS) else None


def attention_of(module: nn.Module) -> Attention:
    """Return `layer_in`; raise `InputError` if there is none."""
    layer = layer_in(module)
    if layer is None:
        raise InputError(
            "layer", expected="a layer with non-local attention", found=type(module).__name__,
            remedy="dtfn.capture.layers(network) names those of a network",
        )  # fmt: skip
    return layer


def checked(layer: Attention, features: Tensor) -> Tensor:
    """Return features (1, C, H, W) in the type and on the device of the layer's weights.

    Raises
    ------
    InputError
        Features of another shape.
    """
    weight = next(p for name, p in layer.named_parameters() if name.endswith("0.weight"))
    if features.ndim != 4 or features.shape[:2] != (1, weight.shape[1]) or not features.numel():
        raise InputError(
            "features", expected=f"(1, {weight.shape[1]}, H, W), the layer's input for one image",
            found=tuple(features.shape), remedy="take them from dtfn.capture.record",
        )  # fmt: skip
    return features.detach().to(weight)


def _exact(x: Tensor) -> Tensor:
    return x.float() if x.dtype in HALF else x


def _dense(layer: NonLocalAttention, x: Tensor) -> Rows:
    query, key = (_exact(rows_of(e(x))[0]) for e in (layer.conv_match1, layer.conv_match2))
    everything = torch.arange(len(query), device=x.device)[None]

    def look(at: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            scores = query[at] @ key.T  # (Q, L)
        if isinstance(layer, HighSimilarityPassAttention):
            return everything, (scores - threshold(scores, layer.topk)).clamp_(min=0)
        return everything, scores.softmax(-1)

    return Rows(x.shape[2], x.shape[3], cost=len(query), look=look)


def _hashed(layer: HashedAttention, x: Tensor) -> Rows:
    """Index the chunks of all hash rounds by position; see the notes of `attention_map`."""
    query, score = _embedded(layer, x)  # (1, L, Cq), (L, m) or None
    length, m = query.shape[1], layer.chunk_size
    key = F.normalize(query, dim=-1, eps=NORM_EPS)[0]
    with torch.autocast(x.device.type, enabled=False):
        order, m = layer.order(query)
    query, wrapped = query[0], order[0]  # (L, Cq), (n_hashes, (K + 2) m)
    one_chunk = length < layer.chunk_size  # then m = L, and the order is not wrapped
    first, span = (0, m) if one_chunk else (m, 3 * m)
    n_hashes = len(wrapped)
    place = torch.arange(length, device=x.device).expand(n_hashes, -1)
    rank = torch.empty_like(place, memory_format=torch.contiguous_format)
    rank.scatter_(1, wrapped[:, first : first + length], place)  # where each position was sorted to
    rounds = torch.arange(n_hashes, device=x.device)[None, :, None]
    window = torch.arange(span, device=x.device)

    def look(at: Tensor) -> tuple[Tensor, Tensor]:
        sorted_at = rank[:, at].T[..., None]  # (Q, n_hashes, 1)
        keys = wrapped[rounds, sorted_at // m * m + window]  # (Q, n_hashes, 3m)
        with torch.autocast(x.device.type, enabled=False):
            logits = torch.einsum("qc,qrkc->qrk", query[at], key[keys])
        if score is not None:
            logits = logits + score[keys, sorted_at % m]
        return _merged(keys.flatten(1), logits.flatten(1).softmax(-1))

    cost = max(length, n_hashes * span * query.shape[1])
    return Rows(x.shape[2], x.shape[3], cost, look)


def _embedded(layer: HashedAttention, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return queries (1, L, Cq) and key scores (L, m), by the layer's own operations.

    Hash codes flip where a query moves in its last digit, so the convolutions run merged as they
    do in the layer; only the sampling of deformable values is left out.
    """
    if not isinstance(layer, GlobalLearnableAttention):
        return _exact(rows_of(layer.conv_match(x))), None  # type: ignore[operator]
    if isinstance(layer, DeformableNonLocalFusion):
        values: DeformableConv2d = layer.conv_assembly  # type: ignore[assignment]
        convs = (layer.conv_match[0], layer.conv_assembly_fc[0], values.offset_conv)
        query, feature, _, _ = merged_conv(x, *convs, values.modulator_conv)  # type: ignore[arg-type]
        query, feature = query.relu(), feature.relu()
    else:
        query, _, feature = layer.embed(x)
    return _exact(rows_of(query)), _exact(layer.fc(rows_of(feature)))[0]


def _merged(positions: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Give each position of a row the sum of its weights; what is left over has weight 0."""
    positions, index = positions.sort(-1)  # (Q, S)
    is_new = positions.diff(dim=-1, prepend=positions[:, :1] - 1) != 0
    group = is_new.cumsum(-1) - 1
    merged = torch.zeros_like(weights).scatter_add_(1, group, weights.gather(1, index))
    return torch.zeros_like(positions).scatter_(1, group, positions), merged
