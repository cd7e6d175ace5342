"""What attention looks at, recorded in live networks without changing a bit of their output.

    with capture.record(network) as record:
        network(x)
    record.layers                                    # ['body.0.body.4', ...]
    record.map("body.0.body.4", (row, column))       # (H, W), sums to 1

Kept is what a layer receives, and the order in which it hashed. Rows of the L x L attention matrix
are computed from that, for layers of `dtfn.models.attention` and for a user's own network alike.
Memory is O(queries x L), never L x L.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from dtfn.errors import InputError, require_known
from dtfn.models.attention import NORM_EPS, Attention, HashedAttention
from dtfn.models.layers import HALF, TextureFidelity
from dtfn.own import OwnNetwork, Weights

__all__ = ["Record", "attention_map", "layers", "record"]

Queries = Sequence[tuple[int, int]] | NDArray[np.integer]
BLOCK = 1 << 20  # numbers held at once for the rows of a block of queries: 4 MB in float32


class Rows(NamedTuple):
    """The L x L attention matrix of one layer on one picture, a block of rows at a time."""

    height: int
    width: int  # L = height * width positions, numbered row by row
    cost: int  # numbers that one row takes while it is computed
    # Flat queries (Q,) -> positions and weights, (Q, S) each. A position occurs once among the
    # weights above 0 of a row. Positions are (1, S) where they are the same for all queries.
    look: Callable[[Tensor], tuple[Tensor, Tensor]]

    def blocks(self, queries: Queries) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield flat queries (Q,), their positions and weights, in blocks that fit `BLOCK`."""
        pairs = np.asarray(queries)
        is_whole = pairs.ndim == 2 and pairs.shape[1] == 2 and pairs.dtype.kind in "iu"
        if not is_whole or ((pairs < 0) | (pairs >= (self.height, self.width))).any():
            wanted = f"(row, column) pairs of the LR grid of {self.width} x {self.height} "
            remedy = "choose positions inside the image"
            raise InputError("query", f"{wanted}(width x height)", queries, remedy)
        flat = torch.from_numpy(pairs[:, 0] * self.width + pairs[:, 1])
        for at in flat.split(max(1, BLOCK // self.cost)):
            with torch.no_grad():
                positions, weights = self.look(at)
            yield at.to(weights.device), positions, weights


class Record:
    """What the attention layers of a network did in their last pass; made by `record`.

    It remains valid after the ``with``. Of a batch, the first picture counts. What a layer's maps
    need is computed for the first of them and kept; the next take about a millisecond.
    """

    def __init__(self) -> None:
        self._passes: dict[str, _LayerPass | _OwnPass] = {}

    @property
    def layers(self) -> list[str]:
        """The layers that ran, in this order."""
        return list(self._passes)

    @property
    def features(self) -> dict[str, Tensor]:
        """Layer -> its input (1, C, H, W); of a user's own network, the network's."""
        # A copy of what inference mode made can be computed with.
        return {name: seen.features.clone() for name, seen in self._passes.items()}

    def module(self, layer: str) -> nn.Module:
        """Return the attention that ran."""
        return self._pass(layer).module

    def map(self, layer: str, query: tuple[int, int]) -> Tensor:
        """Return `attention_map` (H, W) of a layer."""
        return self.maps(layer, [query])[0]

    def maps(self, layer: str, queries: Queries) -> Tensor:
        """Return `attention_map` (Q, H, W) of Q queries, each (row, column).

        Weights of a user's own network are means over heads, and over windows that share a
        position.
        """
        rows = self._pass(layer).rows
        parts = []
        for at, positions, weights in rows.blocks(queries):
            whole = weights.new_zeros(len(at), rows.height * rows.width)
            parts.append(whole.scatter_add_(1, positions.expand_as(weights), weights))
        return torch.cat(parts).unflatten(1, (rows.height, rows.width))

    def summary(
        self, layer: str, queries: Queries, details: ArrayLike | None = None
    ) -> pd.DataFrame:
        """Return how each query spreads its attention a, in numbers.

        Parameters
        ----------
        layer, queries
            As for `maps`.
        details
            (L, D) or (H, W, D): the true detail d of each block, of `dtfn.texture.detail_blocks`.

        Returns
        -------
        DataFrame
            A row a query:

            - ``row``, ``column``
            - ``entropy``: -sum a log a, in nats; ``support``: its exp, the effective number of
              positions; ``participation``: 1 / sum a^2, the same with less weight on a long tail
            - ``distance``: mean Euclidean distance to what is attended, in LR pixels
            - ``on_self``: the query's weight on itself
            - with ``details``, where the inconsistency of q for the query p is
              |d(p) - d(q)|^2 / |d(p)|^2: ``inconsistency``, its mean by weight, and
              ``disagreeing``, the share of the weight with inconsistency above 1, where no detail
              at all is nearer to the truth; NaN where p has no detail
        """
        rows, parts = self._pass(layer).rows, []
        if details is not None:  # in float64: differences of squares lose digits
            detail = torch.as_tensor(details, dtype=torch.float64)
            detail = detail.reshape(rows.height * rows.width, -1)
        for at, positions, a in rows.blocks(queries):
            row, column = at // rows.width, at % rows.width
            down = (positions // rows.width - row[:, None]).to(a)
            right = (positions % rows.width - column[:, None]).to(a)
            entropy = torch.special.entr(a).sum(-1)
            part = {
                "row": row,
                "column": column,
                "entropy": entropy,
                "support": entropy.exp(),
                "participation": 1 / a.square().sum(-1),
                "distance": (a * torch.hypot(down, right)).sum(-1),
                "on_self": (a * (positions == at[:, None])).sum(-1),
            }
            if details is not None:
                detail = detail.to(a.device)
                own, other = detail[at], detail[positions]  # (Q, D), (Q or 1, S, D)
                energy = own.square().sum(-1, keepdim=True)  # (Q, 1)
                product = torch.einsum("qd,qsd->qs", own, other)
                apart = energy - 2 * product + other.square().sum(-1)  # |d(p) - d(q)|^2
                exists = torch.where(energy > 0, 1.0, torch.nan)[:, 0]
                part["inconsistency"] = exists * (a * apart).sum(-1) / energy[:, 0]
                part["disagreeing"] = exists * (a * (apart > energy)).sum(-1)
            parts.append(pd.DataFrame({name: some.cpu().numpy() for name, some in part.items()}))
        return pd.concat(parts, ignore_index=True)

    def means(self, layer: str, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return what a layer of dtfn makes of other values (L, C), at all positions: (L, C).

        These are the means of the values by weight, from the layer's own fast kernel.
        """
        seen = self._pass(layer)
        assert isinstance(seen, _LayerPass)
        return seen.means(torch.from_numpy(values)).double().cpu().numpy()

    def _pass(self, layer: str) -> _LayerPass | _OwnPass:
        require_known(layer, self._passes, "layer", "one with attention that ran in the `with`")
        return self._passes[layer]


def attention_map(module: nn.Module, features: Tensor, query: tuple[int, int]) -> Tensor:
    """Return what one position attends to, on the whole LR grid.

    Parameters
    ----------
    module
        A layer of `dtfn.models.attention`, or a `TextureFidelity` around one. It runs once.
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
        Another module; a query outside.
    """
    with torch.no_grad(), record(module) as kept:
        module(features)
    return kept.map("", query)


def layers(network: nn.Module) -> list[str]:
    """Return the names of the attention layers, in the order of the network's modules.

    A `TextureFidelity` stands for the attention inside it, so that a network with and without TFS
    has the same names. A network without attention has none.
    """
    return network.placed if isinstance(network, OwnNetwork) else list(_layers(network))


def _layers(network: nn.Module) -> dict[str, Any]:
    around = {
        module.attention: name
        for name, module in network.named_modules()
        if isinstance(module, TextureFidelity)
    }
    return {
        around.get(module, name): module
        for name, module in network.named_modules()
        if isinstance(module, Attention) and hasattr(module, "mix")
    }


@contextmanager
def record(network: nn.Module) -> Iterator[Record]:
    """Keep what the attention layers of a network do, while it runs inside the ``with``.

    Parameters
    ----------
    network
        Any module with layers of `dtfn.models.attention` that choose, or a `dtfn.own.OwnNetwork`
        with attention on known positions. Where it runs several times, the last pass is kept.

    Raises
    ------
    InputError
        The network has no such attention, or nobody knows to which positions its weights belong.
    """
    kept = Record()
    with ExitStack() as stack:
        if isinstance(network, OwnNetwork):
            network.require_attention(placed=True)

            def meet(name: str, weights: Weights) -> None:
                seen = _OwnPass(network, name, weights)
                if name in network.placed and seen.fits:
                    kept._passes[name] = seen

            stack.enter_context(network.meeting(meet))
        elif not (named := _layers(network)):
            name = getattr(network, "name", type(network).__name__)
            remedy = "choose a network with attention; for one of yours see dtfn.zoo.own"
            raise InputError(
                "network", "attention layers of dtfn that choose", f"none in {name}", remedy
            )
        else:
            for name, layer in named.items():
                attend = functools.partial(_attend, kept, name, layer, layer.attend)
                stack.enter_context(mock.patch.object(layer, "attend", attend))
        yield kept


def _attend(
    kept: Record, name: str, layer: Any, attend: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    """Attend as the layer does, and keep its input and the order of its hash codes."""
    orders: list[tuple[Tensor, int]] = []

    def order(query: Tensor) -> tuple[Tensor, int]:
        orders.append(own_order(query))
        return orders[-1]

    with ExitStack() as stack:
        if isinstance(layer, HashedAttention):
            own_order = layer.order
            stack.enter_context(mock.patch.object(layer, "order", order))
        out = attend(x)
    kept._passes[name] = _LayerPass(layer, x.detach()[:1], orders[-1] if orders else None)
    return out


# ---------------------------------------------------------------- layers of dtfn


class _LayerPass:
    """What a layer of `dtfn.models.attention` received, and how it sorted the positions."""

    def __init__(self, layer: Any, features: Tensor, order: tuple[Tensor, int] | None) -> None:
        self.module, self.features, self._order = layer, features, order

    @functools.cached_property
    def _compared(self) -> tuple[Tensor, Tensor | None]:
        """Queries (1, L, Cq), and keys (1, L, Cq) or, with hashing, perhaps scores (1, L, m)."""
        given: list[tuple[Tensor, ...]] = []

        def mix(*parts: Tensor) -> Tensor:
            given.append(parts)
            return parts[1 if self._order else 2]  # the values

        with torch.no_grad(), mock.patch.object(self.module, "mix", mix):
            self.module.attend(self.features)
        # Layers that hash take (query, value, score), dense ones (query, key, value).
        pair = given[0][0], given[0][2 if self._order else 1]
        query, other = (
            part.float() if part is not None and part.dtype in HALF else part for part in pair
        )
        return query, other

    @functools.cached_property
    def rows(self) -> Rows:
        """The attention matrix, indexed once."""
        query, other = self._compared
        height, width = self.features.shape[2:]
        if self._order:
            order, m = self._order
            return _hashed(height, width, query[0], other, order[0], m, self.module.chunk_size)
        assert other is not None
        key, everything = other[0], torch.arange(height * width, device=query.device)[None]

        def look(at: Tensor) -> tuple[Tensor, Tensor]:
            return everything, self.module.weigh(query[0][at] @ key.T)  # (1, L), (Q, L)

        return Rows(height, width, height * width, look)

    @torch.no_grad()
    def means(self, values: Tensor) -> Tensor:
        """Return (L, C) for values (L, C)."""
        query, other = self._compared
        # Dense layers pad queries to the width of the values, so that must not be smaller.
        missing = max(0, query.shape[-1] - values.shape[-1])
        rows = F.pad(values.to(query), (0, missing))[None]
        if self._order:  # rotations may come from the global generator: do not draw them again
            order = self._order[0][:1], self._order[1]
            with mock.patch.object(self.module, "order", return_value=order):
                mean = self.module.mix(query, rows, other)
        else:
            mean = self.module.mix(query, other, rows)
        return mean[0, :, : values.shape[-1]]


def _hashed(
    height: int, width: int, query: Tensor, score: Tensor | None, wrapped: Tensor, m: int, size: int
) -> Rows:
    """Index the chunks (n_hashes, (K + 2) m) of all hash rounds by position.

    A query's keys are those of its own chunk and of both neighbours in every round. Mixing the
    rounds by the softmax of their logsumexp is one softmax over all of them together. A position
    that occurs several times (in several rounds, or as padding) gets the sum.
    """
    length, n_hashes = len(query), len(wrapped)
    key = F.normalize(query, dim=-1, eps=NORM_EPS)
    # With one chunk m = L, and the order is not wrapped.
    first, span = (0, m) if m < size else (m, 3 * m)
    place = torch.arange(length, device=query.device).expand(n_hashes, -1)
    rank = torch.empty_like(place, memory_format=torch.contiguous_format)
    rank.scatter_(1, wrapped[:, first : first + length], place)  # where each position was sorted to
    rounds = torch.arange(n_hashes, device=query.device)[None, :, None]
    window = torch.arange(span, device=query.device)

    def look(at: Tensor) -> tuple[Tensor, Tensor]:
        sorted_at = rank[:, at].T[..., None]  # (Q, n_hashes, 1)
        keys = wrapped[rounds, sorted_at // m * m + window]  # (Q, n_hashes, 3m)
        logits = torch.einsum("qc,qrkc->qrk", query[at], key[keys])
        if score is not None:
            logits = logits + score[0][keys, sorted_at % m]
        return _merged(keys.flatten(1), logits.flatten(1).softmax(-1))

    return Rows(height, width, max(length, n_hashes * span * query.shape[1]), look)


def _merged(positions: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Give each position of a row the sum of its weights; what is left over has weight 0."""
    positions, index = positions.sort(-1)  # (Q, S)
    is_new = positions.diff(dim=-1, prepend=positions[:, :1] - 1) != 0
    group = is_new.cumsum(-1) - 1
    merged = torch.zeros_like(weights).scatter_add_(1, group, weights.gather(1, index))
    return torch.zeros_like(positions).scatter_(1, group, positions), merged


# ---------------------------------------------------------------- a user's own network


class _OwnPass:
    """Attention weights (..., L, S) of a user's own network."""

    def __init__(self, network: OwnNetwork, name: str, weights: Weights) -> None:
        self._network, self._name, self._weights = network, name, weights
        self.module = dict(network.network.named_modules()).get(name.split("#")[0], network)
        self.features, self._pictures = network.seen[:1], network.seen.shape
        side = math.prod(self._pictures[2:])
        self.fits = name not in network.dense or weights.shape[-2:] == (side, side)

    @functools.cached_property
    def rows(self) -> Rows:
        """The attention matrix, indexed once."""
        weights, (batch, _, height, width) = self._weights, self._pictures
        side = height * width
        places = self._network.places(self._name, self._pictures, weights.shape)
        everything = torch.arange(side, device=self.features.device)[None]

        def look(at: Tensor) -> tuple[Tensor, Tensor]:
            rows = weights.rows(slice(None) if places else at).float()
            rows = rows.reshape(batch, -1, *rows.shape[-2:])[0]  # heads and windows
            return everything, _placed(rows, *places, at, side) if places else rows.mean(0)

        return Rows(height, width, math.prod(weights.shape[:-2]) * side, look)


def _placed(rows: Tensor, queries: Tensor, keys: Tensor, at: Tensor, side: int) -> Tensor:
    """Return weights (R, L, S) of windows and heads as (Q, H * W) of queries; padding drops out."""
    queries, keys = queries.to(rows.device), keys.to(rows.device)
    asked, again = at.to(rows.device).unique(return_inverse=True)
    number = rows.new_full((side + 1,), -1, dtype=torch.int64)  # its last is that of no position
    number[asked] = torch.arange(len(asked), device=rows.device)
    window, row = (number[queries] >= 0).nonzero(as_tuple=True)
    whole = rows.new_zeros(len(asked), side + 1)
    to = number[queries[window, row]][:, None].expand(-1, keys.shape[1])
    whole.index_put_((to, keys[window]), rows[window, row], accumulate=True)
    whole = whole[:, :side]
    return (whole / whole.sum(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny))[again]
