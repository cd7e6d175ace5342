"""Locality-sensitive hashing, and attention inside chunks of positions that share a hash code.

A hash round sorts the L positions by their code, cuts the sorted list into K chunks of m and lets
each chunk attend to itself and to its two neighbours (cyclic). Everything here works on tables of
rows (L, C); a chunk's 3m neighbours are a strided view, never a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

MAX_BUCKETS = 128  # the authors' ceiling
BLOCK_SCORES = 1 << 22  # scores held at once: 16 MB in float32
CODE_BLOCK = 1 << 15  # positions hashed at once: bounds the (block, buckets) projections


def bucket_count(length: int, chunk_size: int) -> int:
    """Return the number of hash buckets for L positions: even, at most 128, 0 if L < chunk_size."""
    chunks = length // chunk_size
    return min(chunks + chunks % 2, MAX_BUCKETS)


def generator(seed: int, layer: int, draw: int) -> torch.Generator:
    """Return a generator that depends on (hash seed, layer, draw) alone, on the CPU.

    Parameters
    ----------
    seed
        The network's hash seed.
    layer
        Index of the attention layer, so that layers do not share rotations.
    draw
        0 in evaluation; the training step in training.
    """
    mixed = (seed * 1_000_003 + layer) * 1_000_003 + draw
    return torch.Generator().manual_seed(mixed % (1 << 63))


def super_bit_rotations(
    channels: int, buckets: int, n_hashes: int, source: torch.Generator | None
) -> Tensor:
    """Draw the (n_hashes, C, buckets) orthogonal projections of super-bit LSH (GLA, DTFN).

    One `torch.nn.init.orthogonal_` draw a round, in float32 on the CPU, as the authors do; with
    ``source=None`` from torch's global generator.
    """
    draws = [torch.empty(channels, buckets) for _ in range(n_hashes)]
    return torch.stack([torch.nn.init.orthogonal_(d, generator=source) for d in draws])


def spherical_rotations(
    channels: int, buckets: int, n_hashes: int, source: torch.Generator | None
) -> Tensor:
    """Draw the (n_hashes, C, buckets) projections ``[R, -R]`` of spherical LSH (NLSA)."""
    normal = torch.randn(1, channels, n_hashes, buckets // 2, generator=source)
    half = normal[0].permute(1, 0, 2)
    return torch.cat((half, -half), -1)


@torch.no_grad()
def hash_codes(queries: Tensor, rotations: Tensor) -> Tensor:
    """Return the bucket of each position in each round.

    Parameters
    ----------
    queries
        (N, L, C).
    rotations
        (n_hashes, C, buckets), cast to the queries' type and device.

    Returns
    -------
    Tensor
        (N, n_hashes, L), uint8, in [0, buckets): the argmax of the projections, first of equals.
    """
    n, length, channels = queries.shape
    n_hashes, _, buckets = rotations.shape
    codes = torch.empty(n, n_hashes, length, dtype=torch.uint8, device=queries.device)
    table = rotations.to(queries).permute(1, 0, 2).reshape(channels, -1)
    for image in range(n):
        for start in range(0, length, CODE_BLOCK):
            block = queries[image, start : start + CODE_BLOCK]
            best = (block @ table).view(-1, n_hashes, buckets).argmax(-1)  # (block, n_hashes)
            codes[image, :, start : start + CODE_BLOCK] = best.T
    return codes


@torch.no_grad()
def chunk_order(codes: Tensor, chunk_size: int) -> Tensor:
    """Return the positions of each round in the order of their codes, padded and wrapped.

    Parameters
    ----------
    codes
        (N, n_hashes, L).
    chunk_size
        m; L >= m.

    Returns
    -------
    Tensor
        (N, n_hashes, (K + 2) m) int64: the last chunk, the K chunks, the first chunk. The sort is
        stable; the tail is padded by repeating the last positions of the round, as the authors do.
    """
    length = codes.shape[-1]
    if codes.device.type == "cpu":  # NumPy sorts bytes by radix, many times faster
        order = torch.from_numpy(np.argsort(codes.numpy(), axis=-1, kind="stable"))
    else:
        order = torch.sort(codes, dim=-1, stable=True).indices
    padding = -length % chunk_size
    if padding:
        order = torch.cat((order, order[..., -padding:]), -1)
    return torch.cat((order[..., -chunk_size:], order, order[..., :chunk_size]), -1)


def windows(rows: Tensor, chunk_size: int) -> Tensor:
    """View ((K + 2) m, C) rows as (K, 3m, C) overlapping windows, without a copy."""
    size, width = rows.shape
    count = size // chunk_size - 2
    return rows.as_strided((count, 3 * chunk_size, width), (chunk_size * width, width, 1))


def fold(parts: Tensor, chunk_size: int) -> Tensor:
    """Add (K, 3m, C) windows back into ((K + 2) m, C) rows: the transpose of `windows`."""
    count, _, width = parts.shape
    rows = parts.new_zeros(count + 2, chunk_size, width)
    for shift, part in enumerate(parts.split(chunk_size, 1)):
        rows[shift : shift + count] += part
    return rows.flatten(0, 1)


def _runs(order: Tensor, chunk_size: int, length: int) -> Iterator[tuple[int, int, Tensor, int]]:
    """Cut all rounds of all images into runs of chunks that are attended to at once.

    Yields the image, the round, the positions of the run with both neighbour chunks, and how many
    of its queries are not padding.
    """
    step = max(1, BLOCK_SCORES // (3 * chunk_size**2))
    for image, rounds in enumerate(order):
        for turn, wrapped in enumerate(rounds):
            for start in range(0, len(wrapped) // chunk_size - 2, step):
                rows = slice(start * chunk_size, (start + step + 2) * chunk_size)
                real = min(step * chunk_size, length - start * chunk_size)
                yield image, turn, wrapped[rows], real


def _scores(query: Tensor, key: Tensor, score: Tensor | None, chunk_size: int) -> Tensor:
    """Return (K, m, 3m) scores of sorted queries (K m, Cq) and wrapped keys ((K + 2) m, Cq)."""
    q = query.view(-1, chunk_size, query.shape[-1])
    k = windows(key, chunk_size).transpose(1, 2)
    if score is None:
        return torch.bmm(q, k)
    return torch.baddbmm(windows(score, chunk_size).transpose(1, 2), q, k)


class ChunkedAttention(torch.autograd.Function):
    """Softmax attention within chunks, over all hash rounds at once.

    Mixing the rounds by the softmax of their logsumexp is one softmax over the union of all rounds'
    keys. So forward folds the rounds in one by one, and backward recomputes the probabilities from
    the joint logsumexp: memory is linear in L and free of the number of keys.

    Arguments of `apply` (all float32 or float64):

    query
        (N, L, Cq).
    key
        (N, L, Cq).
    value
        (N, L, C).
    score
        (N, L, m) or None: what a key adds to the score of each of the m query slots.
    order
        (N, n_hashes, (K + 2) m) from `chunk_order`.
    chunk_size
        m.

    Returns (N, L, C).
    """

    @staticmethod
    def forward(ctx, query, key, value, score, order, chunk_size):  # type: ignore[no-untyped-def]
        """Compute the attention; see the class."""
        m = chunk_size
        n, length, channels = value.shape
        out = torch.empty_like(value)
        total = value.new_empty(n, length)
        for image, turn, wrapped, real in _runs(order, m, length):
            chosen = wrapped[m:-m]
            rows = score[image].index_select(0, wrapped) if score is not None else None
            q, k = query[image].index_select(0, chosen), key[image].index_select(0, wrapped)
            logits = _scores(q, k, rows, m)
            top = logits.amax(-1, keepdim=True)  # (K, m, 1)
            weights = logits.sub_(top).exp_()
            mass = weights.sum(-1, keepdim=True)
            v = windows(value[image].index_select(0, wrapped), m)
            mixed = torch.bmm(weights, v).div_(mass).view(-1, channels)[:real]
            level = top.add_(mass.log_()).view(-1)[:real]
            chosen = chosen[:real]
            if turn:  # fold this round into the ones before
                before = total[image].index_select(0, chosen)
                joint = torch.logaddexp(before, level)
                old = out[image].index_select(0, chosen)
                mixed.mul_(level.sub_(joint).exp_()[:, None])
                mixed.addcmul_(old, before.sub_(joint).exp_()[:, None])
                level = joint
            out[image].index_copy_(0, chosen, mixed)
            total[image].index_copy_(0, chosen, level)
        ctx.save_for_backward(query, key, value, score, order, out, total)
        ctx.chunk_size = m
        return out

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Recompute the probabilities and return the gradients of query, key, value and score."""
        query, key, value, score, order, out, total = ctx.saved_tensors
        m = ctx.chunk_size
        _, length, channels = value.shape
        grad = grad.contiguous()
        centre = (grad * out).sum(-1)  # (N, L)
        d_query, d_key, d_value = (torch.zeros_like(t) for t in (query, key, value))
        d_score = torch.zeros_like(score) if score is not None else None
        for image, _, wrapped, real in _runs(order, m, length):
            chosen = wrapped[m:-m]
            q = query[image].index_select(0, chosen)
            k, v = (t[image].index_select(0, wrapped) for t in (key, value))
            rows = score[image].index_select(0, wrapped) if score is not None else None
            level = total[image].index_select(0, chosen)
            level[real:] = torch.inf  # padded queries are repeats: no output, no weight
            level = level.view(-1, m, 1)
            weights = _scores(q, k, rows, m).sub_(level).exp_()  # (K, m, 3m)
            upstream = grad[image].index_select(0, chosen)
            middle = centre[image].index_select(0, chosen)
            upstream = upstream.view(-1, m, channels)
            d_value[image].index_add_(
                0, wrapped, fold(torch.bmm(weights.transpose(1, 2), upstream), m)
            )
            d_logits = torch.bmm(upstream, windows(v, m).transpose(1, 2))
            d_logits = d_logits.sub_(middle.view(-1, m, 1)).mul_(weights)
            d_query[image].index_add_(
                0, chosen, torch.bmm(d_logits, windows(k, m)).view(-1, q.shape[-1])
            )
            d_rows = d_logits.transpose(1, 2)  # (K, 3m, m)
            d_k = torch.bmm(d_rows, q.view(-1, m, q.shape[-1]))
            d_key[image].index_add_(0, wrapped, fold(d_k, m))
            if d_score is not None:
                d_score[image].index_add_(0, wrapped, fold(d_rows, m))
        return d_query, d_key, d_value, d_score, None, None


def chunked_attention(
    query: Tensor, key: Tensor, value: Tensor, score: Tensor | None, order: Tensor, chunk_size: int
) -> Tensor:
    """Return the (N, L, C) chunked attention; arguments as in `ChunkedAttention`."""
    return ChunkedAttention.apply(  # type: ignore[no-untyped-call]
        query, key, value, score, order, chunk_size
    )


def changed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score: Tensor | None,
    order: Tensor,
    chunk_size: int,
    change: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Return the (N, L, C) chunked attention with changed logits, from plain operations.

    Arguments as in `ChunkedAttention`, and ``change(logits, queries, keys)``, called with logits
    (K, m, 3m) and the flat positions of the queries (K, m) and keys (K, 3m) of a run of K chunks.
    A key that is met in several rounds counts several times, as it does without a change.
    """
    m, (n, length, channels) = chunk_size, value.shape
    lowest = torch.finfo(value.dtype).min
    rounds: list[list[Tensor]] = [[] for _ in range(n)]
    levels: list[list[Tensor]] = [[] for _ in range(n)]
    for image, _, wrapped, real in _runs(order, m, length):
        chosen = wrapped[m:-m]
        rows = score[image].index_select(0, wrapped) if score is not None else None
        q, k, v = query[image, chosen], key[image, wrapped], value[image, wrapped]
        keys = windows(wrapped[:, None], m)[..., 0]
        logits = change(_scores(q, k, rows, m), chosen.view(-1, m), keys)
        level = logits.logsumexp(-1, keepdim=True)  # -inf where no key is left
        mixed = torch.bmm((logits - level.clamp(min=lowest)).exp(), windows(v, m))
        rounds[image].append(mixed.view(-1, channels)[:real])
        levels[image].append(level.view(-1)[:real])
    images = []
    for image in range(n):
        # (n_hashes, L): where each position was sorted to
        place = order[image, :, m : m + length].argsort(-1)
        out = torch.cat(rounds[image]).view(-1, length, channels)
        level = torch.cat(levels[image]).view(-1, length).gather(1, place)
        out = out.gather(1, place[..., None].expand(-1, -1, channels))
        share = (level - level.logsumexp(0).clamp(min=lowest)).exp()
        images.append((out * share[..., None]).sum(0))
    return torch.stack(images)
