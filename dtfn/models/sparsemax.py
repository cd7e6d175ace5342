"""Exact sparsemax attention (HSPA): a dense L x L similarity of which a few entries survive."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from dtfn.models import layers

BLOCK_SCORES = 1 << 20  # scores held at once, in a processor's cache; never (L, L)
BLOCK_SCORES_GPU = 1 << 24
LEAST_ROWS = 32


def threshold(scores: Tensor, topk: int) -> Tensor:
    """Return tau (R, 1) such that ``clamp(scores - tau, min=0)`` sums to 1 in each row of (R, L).

    Martins and Astudillo (2016), algorithm 1. The support is looked for among the ``topk`` largest
    scores; rows whose support fills them are solved again with twice as many.
    """
    return _solve(scores, topk)[0]


def _solve(scores: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """Return tau and the size of the support of each row, both (R, 1)."""
    size = scores.shape[-1]
    k = min(topk, size)
    best = _largest(scores, k)  # (R, k), falling
    # Relative to the row's maximum the sums stay small: no digits are lost.
    top = best[:, :1]
    best = best - top
    sums = best.cumsum(-1) - 1
    rank = torch.arange(1, k + 1, device=scores.device, dtype=scores.dtype)
    support = (rank * best > sums).sum(-1, keepdim=True)
    tau = sums.gather(-1, support - 1) / support + top
    open_rows = (support[:, 0] == k) if k < size else support[:, 0] < 0
    if open_rows.any():
        tau[open_rows], support[open_rows] = _solve(scores[open_rows], 2 * k)
    return tau, support


def _largest(scores: Tensor, count: int) -> Tensor:
    """Return the largest scores of each row, falling; gradients do not pass."""
    if layers.batches(scores):
        return scores.topk(count, -1).values
    # NumPy selects with vector instructions: nine times as fast as topk on rows of 1024.
    first = scores.shape[-1] - count
    best = np.partition(scores.detach().numpy(), first, axis=-1)[:, first:]
    best.sort(axis=-1)
    return torch.from_numpy(best).flip(-1)


def _blocks(query: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield pictures and queries that are compared with all keys at once; on a GPU all pictures."""
    n, length, _ = query.shape
    together, held = (n, BLOCK_SCORES_GPU) if layers.batches(query) else (1, BLOCK_SCORES)
    step = max(LEAST_ROWS, held // (together * length))
    for first in range(0, n, together):
        for start in range(0, length, step):
            yield slice(first, first + together), slice(start, start + step)


class SparsemaxAttention(torch.autograd.Function):
    """``sparsemax(query @ key^T) @ value`` in blocks of queries; backward recomputes the scores."""

    @staticmethod
    def forward(ctx, query, key, value, topk):  # type: ignore[no-untyped-def]
        """Return (N, L, C); arguments as in `sparsemax_attention`."""
        out, tau = torch.empty_like(value), value.new_empty(*value.shape[:2], 1)
        k = topk
        for images, block in _blocks(query):
            scores = torch.bmm(query[images, block], key[images].transpose(1, 2))
            flat, support = _solve(scores.flatten(0, 1), k)
            # The next block's supports are of this size: look for them there at once.
            k = max(topk, int(1.25 * support.float().quantile(0.95)))
            tau[images, block] = flat.view(*scores.shape[:2], 1)
            weights = scores.sub_(tau[images, block]).clamp_(min=0)
            out[images, block] = torch.bmm(weights, value[images])
        ctx.save_for_backward(query, key, value, tau)
        return out

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Return the gradients: on the support, the upstream less its mean over the support."""
        query, key, value, tau = ctx.saved_tensors
        d_query, d_key, d_value = (torch.zeros_like(t) for t in (query, key, value))
        for images, block in _blocks(query):
            q, k, upstream = query[images, block], key[images], grad[images, block]
            weights = torch.bmm(q, k.transpose(1, 2)).sub_(tau[images, block]).clamp_(min=0)
            alive = weights > 0
            d_value[images] += torch.bmm(weights.transpose(1, 2), upstream)
            d_scores = torch.bmm(upstream, value[images].transpose(1, 2)).mul_(alive)
            mean = d_scores.sum(-1, keepdim=True) / alive.sum(-1, keepdim=True)
            d_scores = d_scores.sub_(mean).mul_(alive)
            d_query[images, block] = torch.bmm(d_scores, k)
            d_key[images] += torch.bmm(d_scores.transpose(1, 2), q)
        return d_query, d_key, d_value, None


def sparsemax_attention(query: Tensor, key: Tensor, value: Tensor, topk: int) -> Tensor:
    """Return ``sparsemax(query @ key^T) @ value`` (N, L, C), exact for any ``topk``.

    Queries and keys are (N, L, Cq), values (N, L, C); for ``topk`` see `threshold`.
    """
    return SparsemaxAttention.apply(query, key, value, topk)  # type: ignore[no-untyped-call]
