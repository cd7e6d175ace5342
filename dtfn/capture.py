"""What attention looks at, recorded in live networks without changing a bit of their output.

    with capture.record(network) as record:
        network(x)
    record.layers                                    # ['body.0.body.4', ...]
    record.map("body.0.body.4", (row, column))       # (H, W), sums to 1

Hooks on the named layers copy what a layer receives, and are removed afterwards. Rows of the L x L
attention matrix are then computed from the copy with the layer's own weights, hash codes and seed.
Memory is O(queries x L), never L x L.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from dtfn import evaluation
from dtfn.errors import InputError, nearest
from dtfn.models.attention import (
    NORM_EPS,
    DeformableNonLocalFusion,
    GlobalLearnableAttention,
    HashedAttention,
    NonLocalAttention,
    NonLocalSparseAttention,
    merged_conv,
)
from dtfn.models.deform import DeformableConv2d, rows_of
from dtfn.models.layers import HALF, TextureFidelity
from dtfn.own import OwnNetwork, Places, Weights

__all__ = [
    "Record",
    "attention_map",
    "attention_maps",
    "layers",
    "record",
    "sampling_points",
    "summary",
    "watch",
]

Queries = Sequence[tuple[int, int]] | NDArray[np.integer] | Tensor
Attention = NonLocalAttention | HashedAttention
KINDS = (
    NonLocalAttention,
    NonLocalSparseAttention,
    GlobalLearnableAttention,
    DeformableNonLocalFusion,
)
BLOCK = 1 << 20  # numbers held at once for the rows of a block of queries: 4 MB in float32

# ---------------------------------------------------------------- functions of one layer


def attention_map(module: nn.Module, features: Tensor, query: tuple[int, int]) -> Tensor:
    """Return what one position attends to, on the whole LR grid.

    Parameters
    ----------
    module
        A layer of `dtfn.models.attention`, or a `TextureFidelity` around one.
    features
        (1, C, H, W), the layer's input; `record` keeps it.
    query
        (row, column) of the position.

    Returns
    -------
    Tensor
        (H, W), non-negative, sum 1. The sum over positions of map times ``conv_assembly(features)``
        is what the attention adds at the query, before ``res_scale`` and before a fusion.

    Raises
    ------
    InputError
        Another module; features of another shape; a query outside.

    Notes
    -----
    With hashing, a query's keys are those of its own chunk and of both neighbours in every round.
    Mixing the rounds by the softmax of their logsumexp is one softmax over all of them together. A
    position that occurs several times (in several rounds, or as padding) gets the sum.
    """
    return attention_maps(module, features, [query])[0]


def attention_maps(module: nn.Module, features: Tensor, queries: Queries) -> Tensor:
    """Return (Q, H, W): `attention_map` of Q queries, each (row, column)."""
    whole = _rows(module, features)
    return whole.maps(_flat(queries, whole.height, whole.width, features.device))


def sampling_points(
    module: nn.Module, features: Tensor, query: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return where a deformable layer (DTFN's) reads the value of one position.

    To see what a query copies, ask for the positions that it attends to.

    Returns
    -------
    positions : Tensor
        (9, 2): (row, column) of the bilinear samples in LR pixels, taps row-major. Outside of the
        image the features count as 0.
    weights : Tensor
        (9,): the modulation of the taps, in [0, 2].

    Raises
    ------
    InputError
        As `attention_map`; a layer whose values are not deformable.
    """
    layer = _attention_of(module)
    if not isinstance(layer, DeformableNonLocalFusion):
        raise InputError(
            "sampling points",
            "a layer with deformable values (DTFN's)",
            type(layer).__name__,
            "its values are a plain convolution at the position",
        )
    x = _checked(layer, features)
    row, column = divmod(int(_flat([query], x.shape[2], x.shape[3], x.device)), x.shape[3])
    values: DeformableConv2d = layer.conv_assembly  # type: ignore[assignment]
    with torch.no_grad():
        offset = values.offset_conv(x)[0, :, row, column].view(9, 2)
        modulation = 2 * torch.sigmoid(values.modulator_conv(x)[0, :, row, column])
    tap = torch.arange(9, device=x.device)
    regular = torch.stack((row + tap // 3 - 1, column + tap % 3 - 1), -1)
    return regular + offset, modulation


def summary(
    module: nn.Module,
    features: Tensor,
    queries: Queries | None = None,
    *,
    details: ArrayLike | Tensor | None = None,
    tolerance: float = 1.0,
    hash_seeds: Sequence[int] = (),
) -> pd.DataFrame:
    """Return how each query spreads its attention a, in numbers.

    Parameters
    ----------
    module, features
        As for `attention_map`.
    queries
        Q times (row, column); None: every position of the image.
    details
        (H * W, D) or (H, W, D): the true HR detail of each position's block, of
        `dtfn.texture.detail_blocks`.
    tolerance
        Inconsistency above which two details disagree. Above 1, no detail at all is nearer to the
        truth than the attended one; two unrelated details have 2.
    hash_seeds
        Two or more: compare the maps of these seeds.

    Returns
    -------
    DataFrame
        A row a query:

        - ``row``, ``column``
        - ``entropy``: -sum a log a, in nats; ``support``: its exp, the effective number of
          positions; ``participation``: 1 / sum a^2, the same with less weight on a long tail
        - ``distance``: mean Euclidean distance to what is attended, in LR pixels
        - ``on_self``: the query's weight on itself, in [0, 1]
        - with ``details`` d, where the inconsistency of q for the query p is
          |d(p) - d(q)|^2 / |d(p)|^2: ``inconsistency``, its mean by weight, and ``disagreeing``,
          the share of the weight with inconsistency above ``tolerance``; NaN where p has no detail
        - with ``hash_seeds``: ``agreement``, the mean over pairs of seeds of the overlap
          sum min(a, a') of two maps, in [0, 1]; 1 for layers without hashing

    Raises
    ------
    InputError
        As `attention_map`; details of another size or not finite; a single hash seed.
    """
    columns = _columns(_rows(module, features), queries, details, tolerance, features.device)
    if hash_seeds:
        flat = columns["row"] * features.shape[3] + columns["column"]
        columns["agreement"] = _agreement(module, features, flat, hash_seeds)
    return pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})


def _columns(
    whole: _Rows,
    queries: Queries | None,
    details: ArrayLike | Tensor | None,
    tolerance: float,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Return the columns of `summary` that depend on the maps alone."""
    if queries is None:
        at = torch.arange(whole.height * whole.width, device=device)
    else:
        at = _flat(queries, whole.height, whole.width, device)
    detail = None if details is None else _checked_details(details, whole).to(device)
    columns: dict[str, Tensor] = {}
    start = 0
    for block in whole.blocks(at):
        positions, a = whole.look(block)
        spread = _spread(block, positions, a, whole.width)
        if detail is not None:
            spread |= _disagreement(block, positions, a, detail, tolerance)
        for name, values in spread.items():
            # Small results, kept between large ones that are freed, would break up the heap.
            column = columns.setdefault(name, values.new_empty(len(at)))
            column[start : start + len(block)] = values
        start += len(block)
    return columns


# ---------------------------------------------------------------- live networks


@dataclass(frozen=True)
class _Pass:
    """The input of an attention layer, and all that decides what the layer makes of it."""

    module: nn.Module  # a shallow copy: same weights, its own mode, step and hash seed
    features: Tensor  # (N, C, H, W)
    random: Tensor | None  # torch's global generator, where the rotations are drawn from it
    autocast: Mapping[str, Any]  # arguments for `torch.autocast`


class Record:
    """What every attention layer of a network received in its last pass; made by `record`.

    What a layer's maps need is computed for the first of them and kept; the next take about a
    millisecond. Maps are the attention of the pass up to rounding. In float32 a hash code can flip
    now and then, where the machine rounds one image of a batch otherwise than the whole batch.
    """

    def __init__(self, modules: frozenset[str]) -> None:
        self._modules = modules
        self._passes: dict[str, _Pass] = {}
        self._known: dict[tuple[str, int], _Rows] = {}

    @property
    def layers(self) -> list[str]:
        """The layers that ran, in this order."""
        return list(self._passes)

    @property
    def features(self) -> dict[str, Tensor]:
        """Layer -> its input (N, C, H, W), in the order in which the layers ran."""
        return {name: seen.features for name, seen in self._passes.items()}

    def module(self, layer: str) -> nn.Module:
        """Return a layer as it was in the pass: a shallow copy with the same weights."""
        return self._pass(layer).module

    def map(self, layer: str, query: tuple[int, int], image: int = 0) -> Tensor:
        """Return `attention_map` (H, W) of a layer, for one of the N images."""
        return self.maps(layer, [query], image)[0]

    def maps(self, layer: str, queries: Queries, image: int = 0) -> Tensor:
        """Return `attention_maps` (Q, H, W) of a layer, for one of the N images.

        Raises
        ------
        InputError
            No such layer; a layer without attention; a query or image that does not exist.
        """
        whole = self._known.get((layer, image))
        if whole is None:
            with self._again(layer, image) as (module, features):
                whole = self._known[layer, image] = _rows(module, features)
        device = self._passes[layer].features.device
        return whole.maps(_flat(queries, whole.height, whole.width, device))

    def sampling_points(
        self, layer: str, query: tuple[int, int], image: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return `dtfn.capture.sampling_points` of a layer: (9, 2) positions, (9,) weights."""
        with self._again(layer, image) as (module, features):
            return sampling_points(module, features, query)

    def summary(
        self, layer: str, queries: Queries | None = None, image: int = 0, **options: Any
    ) -> pd.DataFrame:
        """Return `dtfn.capture.summary` of a layer; it takes the same options."""
        with self._again(layer, image) as (module, features):
            return summary(module, features, queries, **options)

    def deviation(self, layer: str, queries: Queries, image: int = 0) -> float:
        """Return by how much map times values misses what a layer adds at queries, at most.

        As a share of the largest number that it adds there: some 1e-6 in float32.
        """
        maps = self.maps(layer, queries, image)
        with self._again(layer, image) as (module, features), torch.no_grad():
            attention = copy.copy(_attention_of(module))  # in training it counts its passes
            x = _checked(attention, features)
            values, added = attention.conv_assembly(x)[0], attention.attend(x)[0]  # type: ignore[operator]
        expected = added.flatten(1)[:, _flat(queries, x.shape[2], x.shape[3], x.device)]
        mixed = torch.einsum("qhw,chw->cq", maps.to(values), values)
        largest = expected.abs().amax()
        return float((mixed - expected).abs().amax() / largest) if largest else 0.0

    def _keep(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Copy what a layer receives: the hook that `record` sets."""
        x: Tensor = args[0]
        layer = _attention_of(module)
        unseeded = isinstance(layer, HashedAttention) and layer.hash_seed is None
        kind = x.device.type
        autocast = {
            "device_type": kind,
            "dtype": torch.get_autocast_dtype(kind),
            "enabled": torch.is_autocast_enabled(kind),
        }
        with torch.inference_mode(False):  # else nobody could compute with the copy later
            features = x.detach().clone()
        random = torch.get_rng_state() if unseeded else None
        self._passes[name] = _Pass(copy.copy(layer), features, random, autocast)
        self._known.clear()

    @contextmanager
    def _again(self, layer: str, image: int) -> Iterator[tuple[nn.Module, Tensor]]:
        """Yield a layer and its input, under the pass's generator and autocast."""
        seen = self._pass(layer)
        if not 0 <= image < len(seen.features):
            wanted = f"0 to {len(seen.features) - 1}"
            remedy = "count the images of the batch from 0"
            raise InputError("image", wanted, image, remedy)
        with (
            torch.random.fork_rng(devices=[], enabled=seen.random is not None),
            torch.autocast(**seen.autocast),
        ):
            if seen.random is not None:
                torch.set_rng_state(seen.random)
            yield seen.module, seen.features[image : image + 1]

    def _pass(self, layer: str) -> _Pass:
        if layer in self._passes:
            return self._passes[layer]
        if not self._passes:
            wanted = "a pass of the network"
            remedy = "call network(x) inside `with capture.record(network) as record:`"
            raise InputError("record", wanted, "none", remedy)
        without = layer in self._modules
        raise InputError(
            "layer",
            "one with attention that ran",
            f"{layer!r}" + (", a layer without" if without else ""),
            nearest("" if without else layer, self._passes),
        )


class _OwnRecord(Record):
    """What the attention of a user's own network was; made by `record`."""

    def __init__(self, network: OwnNetwork) -> None:
        super().__init__(frozenset())
        self._network = network
        self._named: dict[str, nn.Module] = dict(network.network.named_modules())
        self._batch, self._size = 1, (0, 0)
        self._weights: dict[str, Weights] = {}  # (..., L, S)
        self._device = torch.device("cpu")

    @property
    def layers(self) -> list[str]:
        """The attention on known positions that ran, in this order."""
        return list(self._weights)

    def module(self, layer: str) -> nn.Module:
        """Return the submodule that ran it."""
        self._of(layer, 0)
        return self._named.get(layer.split("#")[0]) or self._named[""]

    def maps(self, layer: str, queries: Queries, image: int = 0) -> Tensor:
        """Return (Q, H, W), means over heads, and over windows that share a position."""
        whole = self._of(layer, image)
        return whole.maps(_flat(queries, *self._size, self._device))

    def summary(
        self, layer: str, queries: Queries | None = None, image: int = 0, **options: Any
    ) -> pd.DataFrame:
        """Return the columns of `dtfn.capture.summary`; nothing depends on a hash seed."""
        how = (queries, options.get("details"), options.get("tolerance", 1.0))
        columns = _columns(self._of(layer, image), *how, self._device)
        if options.get("hash_seeds"):
            columns["agreement"] = torch.ones(len(columns["row"]))
        return pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})

    def deviation(self, layer: str, queries: Queries, image: int = 0) -> float:
        """Return 0: these are the very weights of the pass."""
        return 0.0

    def _begin(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        """Note the grid of a pass: the hook that `record` sets."""
        self._weights, self._device = {}, args[0].device
        self._batch, self._size = len(args[0]), tuple(args[0].shape[-2:])

    def _meet(self, name: str, weights: Weights) -> None:
        """Keep weights whose positions are known."""
        side = self._size[0] * self._size[1]
        if name in self._network.placed and (
            name not in self._network.dense or weights.shape[-2:] == (side, side)
        ):
            self._weights[name] = weights

    def _of(self, layer: str, image: int) -> _Rows:
        if layer not in self._weights:
            known = list(self._weights) or ["a pass of the network"]
            wanted, remedy = "attention on known positions that ran", nearest(layer, known)
            raise InputError("layer", wanted, repr(layer), remedy)
        weights = self._weights[layer]
        side = math.prod(self._size)
        everything = torch.arange(side, device=self._device)[None]
        places = self._network.places(layer, self._size, self._batch, weights.shape)

        @torch.no_grad()
        def look(at: Tensor) -> tuple[Tensor, Tensor]:
            if places is None:
                rows = weights.rows(at).float().reshape(self._batch, -1, len(at), side)
                return everything, rows[image].mean(0)  # over heads
            rows = weights.rows(slice(None)).float()
            rows = rows.reshape(self._batch, -1, *weights.shape[-2:])[image]
            return everything, _placed(rows, places, at, side)

        return _Rows(*self._size, math.prod(weights.shape[:-2]) * side, look)


def _placed(rows: Tensor, places: Places, at: Tensor, side: int) -> Tensor:
    """Return weights (R, L, S) of windows and heads as (Q, H * W) of queries; padding drops out."""
    queries, keys = (part.to(rows.device) for part in places)
    asked, again = at.unique(return_inverse=True)
    number = rows.new_full((side + 1,), -1, dtype=torch.int64)  # its last is that of no position
    number[asked] = torch.arange(len(asked), device=rows.device)
    window, row = (number[queries] >= 0).nonzero(as_tuple=True)
    whole = rows.new_zeros(len(asked), side + 1)
    to = number[queries[window, row]][:, None].expand(-1, keys.shape[1])
    whole.index_put_((to, keys[window]), rows[window, row], accumulate=True)
    whole = whole[:, :side]
    return (whole / whole.sum(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny))[again]


def layers(network: nn.Module) -> list[str]:
    """Return the names of the attention layers, in the order of the network's modules.

    A `TextureFidelity` stands for the attention inside it, so that a network with and without TFS
    has the same names. A network without attention has none.
    """
    return network.placed if isinstance(network, OwnNetwork) else list(_watched(network))


@contextmanager
def record(network: nn.Module) -> Iterator[Record]:
    """Keep what the attention layers of a network receive, while it runs inside the ``with``.

    Parameters
    ----------
    network
        Any module with layers of `dtfn.models.attention` in it, or a `dtfn.own.OwnNetwork` with
        attention on known positions (the mean over heads is kept). Where it runs several
        times (tiles, self-ensemble), the last pass is kept.

    Yields
    ------
    Record
        Remains valid after the ``with``.

    Raises
    ------
    InputError
        The network has no attention layer, or nobody knows to which positions its weights belong.
    """
    if isinstance(network, OwnNetwork):
        network.require_attention(placed=True)
        own = _OwnRecord(network)
        with network.register_forward_pre_hook(own._begin), network.meeting(own._meet):
            yield own
        return
    watched = _watched(network)
    if not watched:
        raise InputError(
            "network",
            "one with attention layers of dtfn",
            f"none in {getattr(network, 'name', type(network).__name__)}",
            "choose a network with attention; for one of yours see dtfn.zoo.own",
        )
    kept = Record(frozenset(name for name, _ in network.named_modules()))
    hooks = [
        module.register_forward_pre_hook(partial(kept._keep, name))
        for name, module in watched.items()
    ]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def watch(network: nn.Module, lr: NDArray[np.uint8]) -> tuple[Record, NDArray[np.uint8]]:
    """Run a network with attention on a whole picture, uint8 RGB ``(H, W, 3)``.

    Returns
    -------
    The record, and the output, uint8 ``(sH, sW, 3)`` RGB.
    """
    with record(network) as kept:
        return kept, evaluation.upscale(network, lr)


def _watched(network: nn.Module) -> dict[str, nn.Module]:
    """Return name -> layer, or the `TextureFidelity` around it, which goes past a layer's hooks."""
    inside: set[nn.Module] = set()
    named: dict[str, nn.Module] = {}
    for name, module in network.named_modules():  # parents first
        within = _layer_in(module)
        if within is not None and module not in inside:
            named[name] = module
            inside.add(within)
    return named


def _layer_in(module: nn.Module) -> Attention | None:
    """Return the layer itself, or the one inside a `TextureFidelity`, or None."""
    layer = module.attention if isinstance(module, TextureFidelity) else module
    return layer if isinstance(layer, KINDS) else None


def _attention_of(module: nn.Module) -> Attention:
    layer = _layer_in(module)
    if layer is None:
        wanted = "a layer with non-local attention"
        remedy = "dtfn.capture.layers(network) names those of a network"
        raise InputError("layer", wanted, type(module).__name__, remedy)
    return layer


# ---------------------------------------------------------------- rows of the attention matrix


@dataclass(frozen=True)
class _Rows:
    """The L x L attention matrix of one layer on one image, a block of rows at a time."""

    height: int
    width: int  # L = height * width positions, numbered row by row
    cost: int  # numbers that one row takes while it is computed
    # Flat queries (Q,) -> positions and weights, (Q, S) each. A position occurs once among the
    # weights above 0 of a row. Positions are (1, S) where they are the same for all queries.
    look: Callable[[Tensor], tuple[Tensor, Tensor]]

    def blocks(self, queries: Tensor) -> Iterator[Tensor]:
        """Cut flat queries (Q,) into blocks that fit into `BLOCK`."""
        yield from queries.split(max(1, BLOCK // self.cost))

    def maps(self, queries: Tensor) -> Tensor:
        """Return (Q, H, W) for flat queries (Q,)."""
        parts = []
        for block in self.blocks(queries):
            positions, weights = self.look(block)
            whole = weights.new_zeros(len(block), self.height * self.width)
            parts.append(whole.scatter_add_(1, positions.expand_as(weights), weights))
        return torch.cat(parts).unflatten(-1, (self.height, self.width))


def _rows(module: nn.Module, features: Tensor) -> _Rows:
    """Return the rows of a layer's attention matrix, none of them computed yet.

    Neither the layer's count of training steps nor torch's global generator moves. In training, or
    without a hash seed, the rotations are those of the layer's next pass.
    """
    layer = _attention_of(module)
    x = _checked(layer, features)
    unseeded = isinstance(layer, HashedAttention) and layer.hash_seed is None
    with torch.no_grad(), torch.random.fork_rng(devices=[], enabled=unseeded):
        if isinstance(layer, NonLocalAttention):
            return _dense(layer, x)
        return _hashed(copy.copy(layer), x)  # a shallow copy: same weights, its own count of steps


def _dense(layer: NonLocalAttention, x: Tensor) -> _Rows:
    query, key = (_exact(rows_of(e)[0]) for e in layer.embed(x)[:2])
    everything = torch.arange(len(query), device=x.device)[None]

    def look(at: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            return everything, layer.weigh(query[at] @ key.T)  # (1, L), (Q, L)

    return _Rows(x.shape[2], x.shape[3], cost=len(query), look=look)


def _hashed(layer: HashedAttention, x: Tensor) -> _Rows:
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
    return _Rows(x.shape[2], x.shape[3], cost, look)


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


def _exact(x: Tensor) -> Tensor:
    return x.float() if x.dtype in HALF else x


# ---------------------------------------------------------------- numbers of a summary


def _spread(at: Tensor, positions: Tensor, a: Tensor, width: int) -> dict[str, Tensor]:
    row, column = at // width, at % width
    down = (positions // width).to(a) - row.to(a)[:, None]
    right = (positions % width).to(a) - column.to(a)[:, None]
    entropy = torch.special.entr(a).sum(-1)
    return {
        "row": row,
        "column": column,
        "entropy": entropy,
        "support": entropy.exp(),
        "participation": 1 / a.square().sum(-1),
        "distance": (a * torch.hypot(down, right)).sum(-1),
        "on_self": (a * (positions == at[:, None])).sum(-1),
    }


def _disagreement(
    at: Tensor, positions: Tensor, a: Tensor, detail: Tensor, tolerance: float
) -> dict[str, Tensor]:
    own, other = detail[at], detail[positions]  # (Q, D), (Q or 1, S, D)
    energy = own.square().sum(-1, keepdim=True)  # (Q, 1)
    product = torch.einsum("qd,qsd->qs", own, other)
    squared = energy - 2 * product + other.square().sum(-1)  # |d(p) - d(q)|^2
    exists = torch.where(energy > 0, 1.0, torch.nan)[:, 0]
    return {
        "inconsistency": exists * (a * squared).sum(-1) / energy[:, 0],
        "disagreeing": exists * (a * (squared > tolerance * energy)).sum(-1),
    }


def _agreement(
    module: nn.Module, features: Tensor, at: Tensor, hash_seeds: Sequence[int]
) -> Tensor:
    if len(set(hash_seeds)) < 2:
        raise InputError("hash seeds", "two or more", list(hash_seeds), "add another")
    layer = _attention_of(module)
    if not isinstance(layer, HashedAttention):
        return torch.ones(len(at))
    seeded = [copy.copy(layer) for _ in hash_seeds]  # shallow: the weights are shared
    for other, seed in zip(seeded, hash_seeds, strict=True):
        other.hash_seed = seed
    drawn = [_rows(other, features) for other in seeded]
    overlaps = []
    for block in drawn[0].blocks(at):
        pairs = combinations([one.maps(block) for one in drawn], 2)
        overlaps.append(torch.stack([torch.minimum(*two).sum((1, 2)) for two in pairs]).mean(0))
    return torch.cat(overlaps)


# ---------------------------------------------------------------- checks


def _checked(layer: Attention, features: Tensor) -> Tensor:
    """Return features (1, C, H, W) in the type and on the device of the layer's weights."""
    weight = next(p for name, p in layer.named_parameters() if name.endswith("0.weight"))
    if features.ndim != 4 or features.shape[:2] != (1, weight.shape[1]) or not features.numel():
        wanted = f"(1, {weight.shape[1]}, H, W), the layer's input for one image"
        remedy = "take them from dtfn.capture.record"
        raise InputError("features", wanted, tuple(features.shape), remedy)
    return features.detach().to(weight)


def _checked_details(details: ArrayLike | Tensor, whole: _Rows) -> Tensor:
    """Return (L, D) in float64: differences of squares lose digits."""
    blocks = torch.as_tensor(details, dtype=torch.float64)
    size = (whole.height, whole.width)
    if blocks.ndim == 3 and blocks.shape[:2] == size:
        blocks = blocks.flatten(0, 1)
    finite = bool(blocks.isfinite().all())
    if blocks.ndim != 2 or len(blocks) != size[0] * size[1] or not finite:
        raise InputError(
            "details",
            f"finite numbers of shape {(size[0] * size[1], 'D')}",
            f"{tuple(blocks.shape)}{'' if finite else ' with NaN or infinity'}",
            "pass dtfn.texture.detail_blocks of the HR picture",
        )
    return blocks


def _flat(queries: Queries, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Return (row, column) pairs as flat positions (Q,), int64, after a check."""
    pairs = queries.cpu().numpy() if isinstance(queries, Tensor) else np.asarray(queries)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        wanted = "(row, column) pairs of whole numbers"
        remedy = "pass for example [(0, 0)]"
        raise InputError("query", wanted, queries, remedy)
    outside = ((pairs < 0) | (pairs >= (height, width))).any(1)
    if outside.any():
        raise InputError(
            "query",
            f"a (row, column) of the LR grid of {width} x {height} (width x height)",
            tuple(pairs[outside][0].tolist()),
            "choose one inside the image",
        )
    return torch.tensor(pairs[:, 0] * width + pairs[:, 1], dtype=torch.int64, device=device)
