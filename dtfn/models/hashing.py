"""Locality-sensitive hashing, and attention inside chunks of positions that share a hash code.

A hash round sorts the L positions by their code, cuts the sorted list into K chunks of m and lets
each chunk attend to itself and to its two neighbours (cyclic). Everything here works on tables of
rows (L, C); a chunk's 3m neighbours are a strided view where one list is at hand, else a copy.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dtfn.models import layers
from dtfn.models.layers import room

# What a CPU holds at once, see `room`: scores, 4 MB in float32; and positions that are projected.
BLOCK_SCORES = 1 << 20
CODE_BLOCK = 1 << 15
KEPT = 1 << 26  # bytes of attention weights that a layer keeps for backward; more are recomputed
Shape = tuple[int, int, int]  # of rotations: n_hashes, C, buckets


def super_bit_rotations(shape: Shape, source: torch.Generator | None) -> Tensor:
    """Draw the (n_hashes, C, buckets) projections of super-bit LSH (GLA, DTFN) as the authors."""
    draws = [torch.empty(shape[1:]) for _ in range(shape[0])]
    return torch.stack([torch.nn.init.orthogonal_(d, generator=source) for d in draws])


def spherical_rotations(shape: Shape, source: torch.Generator | None) -> Tensor:
    """Draw the (n_hashes, C, buckets) projections ``[R, -R]`` of spherical LSH (NLSA)."""
    n_hashes, channels, buckets = shape
    half = torch.randn(1, channels, n_hashes, buckets // 2, generator=source)[0].permute(1, 0, 2)
    return torch.cat((half, -half), -1)


@functools.lru_cache(maxsize=64)  # pictures of one size share them
def seeded(draw: Any, shape: Shape, seed: int, layer: int, step: int) -> Tensor:
    """Return rotations that depend on these numbers alone; step 0 is evaluation."""
    mixed = (seed * 1_000_003 + layer) * 1_000_003 + step
    return draw(shape, torch.Generator().manual_seed(mixed % (1 << 63)))


@torch.no_grad()
def hash_codes(queries: Tensor, rotations: Tensor) -> Tensor:
    """Return (N, n_hashes, L) uint8 buckets of (N, L, C) by (n_hashes, C, buckets): argmax."""
    n, length, channels = queries.shape
    n_hashes, _, buckets = rotations.shape
    table = rotations.to(queries, non_blocking=True).permute(1, 0, 2).reshape(channels, -1)
    blocks = queries.reshape(-1, channels).split(room(queries, CODE_BLOCK))
    codes = [(block @ table).view(-1, n_hashes, buckets).argmax(-1) for block in blocks]
    return torch.cat(codes).to(torch.uint8).view(n, length, n_hashes).mT.contiguous()


@torch.no_grad()
def chunk_order(codes: Tensor, chunk_size: int) -> Tensor:
    """Return the positions of each round in the order of their codes (N, n_hashes, L), L >= m.

    (N, n_hashes, (K + 2) m): the last, all K, the first chunk. The K-th repeats the last positions.
    """
    if layers.batches(codes):
        order = torch.sort(codes, dim=-1, stable=True).indices
    else:  # NumPy sorts bytes by radix, many times faster
        order = torch.from_numpy(np.argsort(codes.numpy(), axis=-1, kind="stable"))
    repeated = order[..., order.shape[-1] - (-order.shape[-1] % chunk_size) :]
    order = torch.cat((order, repeated), -1)
    return torch.cat((order[..., -chunk_size:], order, order[..., :chunk_size]), -1)


def _windows(rows: Tensor, m: int) -> Tensor:
    """Return overlapping windows (lists * K, 3m, C) of contiguous rows (lists, (K + 2) m, C)."""
    lists, size, width = rows.shape
    shape = (lists, size // m - 2, 3 * m, width)
    view = rows.as_strided(shape, (size * width, m * width, width, 1))
    return view.flatten(0, 1) if lists > 1 else view[0]  # a copy, or the view


def _take(table: Tensor, index: Tensor) -> Tensor:
    """Return rows (G, S, C) of a table (N, L, C) for flat indices (G, S) into N * L."""
    return table.flatten(0, 1).index_select(0, index.flatten()).view(*index.shape, -1)


def _logits(query: Tensor, key: Tensor, score: Tensor | None, run: Tensor, m: int) -> Tensor:
    """Return (lists * K, m, 3m) logits of a run: flat indices (lists, (K + 2) m) of its rows."""
    q = _take(query, run[:, m:-m]).view(-1, m, query.shape[-1])
    logits = torch.bmm(q, _windows(_take(key, run), m).mT)
    if score is not None:
        # Chunks with the query slot first: transposed once, not once for each of three neighbours.
        blocks = _take(score, run).view(len(run), -1, m, m).mT.contiguous()
        count, area = blocks.shape[1] - 2, m * m
        shape, strides = (len(run), count, m, 3, m), ((count + 2) * area, area, m, area, 1)
        logits.view(shape).add_(blocks.as_strided(shape, strides))
    return logits


def _rounds(order: Tensor, m: int, length: int) -> Iterator[tuple[Any, ...]]:
    """Yield hash rounds of as many pictures, or in runs of as many chunks, as there is room for.

    Of each: a slice of pictures; the round's number; runs, as their first chunk and flat indices of
    their rows (pictures, R), neighbours too; where positions were sorted to (pictures, L), flat.
    """
    n, n_hashes, size = order.shape
    chunks, device = size // m - 2, order.device
    most = max(1, room(order, BLOCK_SCORES) // (3 * m * m))
    together = max(1, most // chunks)
    positions = torch.arange(length, device=device)
    for first in range(0, n, together):
        pictures = slice(first, min(n, first + together))
        lists = torch.arange(pictures.stop - first, device=device)[:, None]
        for turn in range(n_hashes):
            rows = order[pictures, turn]
            place = torch.empty_like(rows[:, :length])
            place.scatter_(1, rows[:, m : m + length], positions.expand(len(rows), -1))
            flat = rows + (first + lists) * length
            starts = range(0, chunks, most)
            runs = [(start, flat[:, start * m : (start + most + 2) * m]) for start in starts]
            yield pictures, turn, runs, place + lists * chunks * m


def _softmax(logits: Tensor, lists: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the weights (lists * K, m, 3m) in ``dtype``, and logsumexps (lists, K m, 1)."""
    top, weights = logits.amax(-1), logits.softmax(-1)
    level = top - weights.amax(-1).log_()  # the largest weight is exp(top - logsumexp)
    return weights.to(dtype), level.view(lists, -1, 1)


class ChunkedAttention(torch.autograd.Function):
    """Softmax attention within chunks of m positions, over all hash rounds at once.

    Mixing the rounds by the softmax of their logsumexp is one softmax over the union of all rounds'
    keys. Backward recomputes the weights of each round, so that memory is linear in L, unless they
    take at most `KEPT` bytes. No shape depends on data: a CUDA graph captures a step.

    `apply` takes queries and keys (N, L, Cq) in float32 or float64; values (N, L, C) in the same
    type or bfloat16; scores (N, L, m) or None, which a key adds for each query slot; the
    `chunk_order`; m; perhaps an `Intervention`, which leaves no gradients. It returns (N, L, C).
    """

    @staticmethod
    def forward(ctx, query, key, value, score, order, m, change=None):  # type: ignore[no-untyped-def]
        n, length, channels = value.shape
        out, total = query.new_empty(value.shape), query.new_empty(n, length, 1)
        lowest = torch.finfo(query.dtype).min
        size = order[..., 2 * m :].numel() * 3 * m * value.element_size()
        is_kept, kept = size <= KEPT and any(ctx.needs_input_grad), []
        for pictures, turn, runs, place in _rounds(order, m, length):
            parts, levels = [], []
            for _, run in runs:
                logits = _logits(query, key, score, run, m)
                if change is not None:
                    at = run % length
                    keys = _windows(at[..., None], m)[..., 0]
                    # The lowest number everywhere is a chunk that weighs nothing among the rounds.
                    logits = change(logits, at[:, m:-m].reshape(-1, m), keys)
                    logits = logits.masked_fill((logits == -torch.inf).all(-1, True), lowest)
                weights, level = _softmax(logits, len(run), value.dtype)
                kept += [weights, level] if is_kept else []
                mixed = torch.bmm(weights, _windows(_take(value, run), m))
                parts.append(mixed.view(len(run), -1, channels))
                levels.append(level)
            mixed, level = (_take(torch.cat(t, 1), place) for t in (parts, levels))
            if turn:  # fold this round into the ones before
                before = total[pictures]
                joint = torch.logaddexp(before, level)
                mixed = mixed * (level - joint).exp_()
                mixed.addcmul_(out[pictures], (before - joint).exp_())
                level = joint
            out[pictures], total[pictures] = mixed, level
        if change is not None:
            out.masked_fill_(total < lowest / 2, 0)
            ctx.mark_non_differentiable(out)
        ctx.save_for_backward(query, key, value, score, order, out, total, *kept)
        ctx.m = m
        return out

    @staticmethod
    @layers.fast_products
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        query, key, value, score, order, out, total, *kept = ctx.saved_tensors
        m, half = ctx.m, value.dtype
        length, channels = value.shape[1:]
        # The scores' gradients do not depend on the mean value; without it bfloat16 keeps digits.
        mean = value.mean(1, keepdim=True, dtype=out.dtype)
        centre = (grad * (out - mean)).sum(-1, keepdim=True)  # (N, L, 1)
        # Two more channels subtract the centre: rounded, and the rest. Tensor cores want eight.
        value = F.pad((value - mean).to(half), (0, 8), value=-1)
        grad, rest = F.pad(torch.cat((grad, centre, centre), -1), (0, 6)), channels + 1
        tables = [query, key, value[..., :channels], *([] if score is None else [score])]
        found = [torch.empty_like(table) for table in tables]
        for pictures, turn, runs, place in _rounds(order, m, length):
            lists, chunks = len(place), order.shape[2] // m
            # Gradients of the sorted rows; the first and the last chunk are there twice.
            sums = [t.new_zeros(lists, chunks, m, t.shape[-1]) for t in tables]
            for start, run in runs:
                chosen, count = run[:, m:-m], run.shape[1] // m - 2
                level = _take(total, chosen)  # (lists, count * m, 1)
                level[:, max(0, length - start * m) :] = torch.inf  # repeats have no output
                if kept:  # of this round alone
                    weights, own = kept.pop(0), kept.pop(0)
                else:
                    logits = _logits(query, key, score, run, m)
                    weights, own = _softmax(logits, lists, half)
                # What the joint weights are smaller by scales the rows, not the larger weights.
                rows = _take(grad, chosen) * (own - level).exp_()
                upstream = rows.to(half)
                upstream[..., rest] = rows[..., rest] - upstream[..., rest]
                upstream = upstream.view(-1, m, channels + 8)
                v, k = _windows(_take(value, run), m), _windows(_take(key, run).to(half), m)
                d_value = torch.bmm(weights.mT, upstream[..., :channels])
                d_logits = torch.bmm(upstream, v.mT).mul_(weights)
                q = _take(query, chosen).to(half).view(-1, m, query.shape[-1])
                d_query = torch.bmm(d_logits, k).view(lists, count, m, -1)
                sums[0][:, start + 1 : start + 1 + count] = d_query
                # Each window adds to three chunks. Scores have the query slot first, see `_logits`.
                threes = [torch.bmm(d_logits.mT, q), d_value]
                folded = [part.view(lists, count, 3, m, -1).unbind(2) for part in threes]
                if score is not None:
                    folded.append(d_logits.view(lists, count, m, 3, m).unbind(3))
                for total_of, thirds in zip(sums[1:], folded, strict=True):
                    for shift, third in enumerate(thirds):
                        total_of[:, start + shift : start + shift + count] += third
            if score is not None:
                sums[3] = sums[3].mT
            for total_of, result in zip(sums, found, strict=True):
                total_of[:, -2] += total_of[:, 0]
                total_of[:, 1] += total_of[:, -1]
                rows = total_of[:, 1:-1].reshape(lists, (chunks - 2) * m, -1)
                padding = rows.shape[1] - length
                rows[:, length - padding : length] += rows[:, length:]
                part = _take(rows, place)
                result[pictures] = part.add_(result[pictures]) if turn else part
        return (*found, *([None] * (7 - len(found))))


chunked_attention: Callable[..., Tensor] = ChunkedAttention.apply
