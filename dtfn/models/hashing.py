"""Locality-sensitive hashing, and attention inside chunks of positions that share a hash code.

A hash round sorts the L positions by their code, cuts the sorted list into K chunks of m and lets
each chunk attend to itself and to its two neighbours (cyclic). Everything here works on tables of
rows (L, C); a chunk's 3m neighbours are a strided view where one list is at hand, else a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dtfn.models import layers

MAX_BUCKETS = 128  # the authors' ceiling
# Scores held at once: 4 MB in float32 on a CPU, near its cache; 512 MB on a GPU, to fill it.
BLOCK_SCORES = 1 << 20
BLOCK_SCORES_GPU = 1 << 27
KEPT = 1 << 26  # bytes of attention weights that a layer keeps for backward; more are recomputed
CODE_BLOCK = 1 << 15  # positions hashed at once: bounds the (block, buckets) projections
CODE_BLOCK_GPU = 1 << 20


def bucket_count(length: int, chunk_size: int) -> int:
    """Return the number of hash buckets for L positions: even, at most 128, 0 if L < chunk_size."""
    chunks = length // chunk_size
    return min(chunks + chunks % 2, MAX_BUCKETS)


def generator(seed: int, layer: int, draw: int) -> torch.Generator:
    """Return a generator on the CPU that depends on hash seed, layer index and draw alone.

    ``draw`` is 0 in evaluation, and counts the passes in training.
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
    """Return the bucket of each position in each round: (N, n_hashes, L), uint8.

    It is the argmax of the projections of the queries (N, L, C) by the rotations (n_hashes, C,
    buckets), the first of equals.
    """
    n, length, channels = queries.shape
    n_hashes, _, buckets = rotations.shape
    table = rotations.to(queries).permute(1, 0, 2).reshape(channels, -1)
    step = CODE_BLOCK_GPU if layers.batches(queries) else CODE_BLOCK
    codes = [
        (block @ table).view(-1, n_hashes, buckets).argmax(-1)
        for block in queries.reshape(-1, channels).split(step)
    ]
    whole = torch.cat(codes).to(torch.uint8).view(n, length, n_hashes)
    return whole.transpose(1, 2).contiguous()


@torch.no_grad()
def chunk_order(codes: Tensor, chunk_size: int) -> Tensor:
    """Return the positions of each round in the order of their codes (N, n_hashes, L), L >= m.

    These are (N, n_hashes, (K + 2) m) int64: the last chunk, the K chunks, the first chunk. The
    sort is stable; the tail is padded by repeating the last positions, as the authors do.
    """
    length = codes.shape[-1]
    if not layers.batches(codes):  # NumPy sorts bytes by radix, many times faster
        order = torch.from_numpy(np.argsort(codes.numpy(), axis=-1, kind="stable"))
    else:
        order = torch.sort(codes, dim=-1, stable=True).indices
    padding = -length % chunk_size
    if padding:
        order = torch.cat((order, order[..., -padding:]), -1)
    return torch.cat((order[..., -chunk_size:], order, order[..., :chunk_size]), -1)


def windows(rows: Tensor, chunk_size: int) -> Tensor:
    """Return the overlapping windows (lists * K, 3m, C) of sorted rows (lists, (K + 2) m, C).

    The rows are contiguous. Of one list the windows are a view, of many a copy.
    """
    lists, size, width = rows.shape
    shape = (lists, size // chunk_size - 2, 3 * chunk_size, width)
    view = rows.as_strided(shape, (size * width, chunk_size * width, width, 1))
    return view.flatten(0, 1) if lists > 1 else view[0]


def _take(table: Tensor, index: Tensor) -> Tensor:
    """Return rows (G, S, C) of a table (N, L, C) for flat indices (G, S) into N * L."""
    return table.flatten(0, 1).index_select(0, index.flatten()).view(*index.shape, -1)


def _logits(query: Tensor, key: Tensor, score: Tensor | None, run: Tensor, m: int) -> Tensor:
    """Return (lists * K, m, 3m) logits of a run: flat indices (lists, (K + 2) m) of its rows."""
    q = _take(query, run[:, m:-m]).view(-1, m, query.shape[-1])
    logits = torch.bmm(q, windows(_take(key, run), m).transpose(1, 2))
    if score is not None:
        # Chunks with the query slot first: transposed once, not once for each of three neighbours.
        blocks = _take(score, run).view(len(run), -1, m, m).transpose(2, 3).contiguous()
        count, area = blocks.shape[1] - 2, m * m
        shape, strides = (len(run), count, m, 3, m), ((count + 2) * area, area, m, area, 1)
        logits.view(shape).add_(blocks.as_strided(shape, strides))
    return logits


@dataclass(frozen=True)
class _Group:
    """Rounds of pictures that are attended to together. A list is a round of a picture."""

    pictures: slice
    is_first: bool  # no round of these pictures came before
    rows: Tensor  # (lists, (K + 2) m) flat indices into the N * L rows, in the order of the chunks
    place: Tensor  # (lists, L): where each position was sorted to, flat in lists * K * m rows
    rounds: int  # of a picture
    step: int  # chunks of a run
    chunk_size: int  # m

    def runs(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the first chunk and the rows of each run of chunks, with both neighbours."""
        m = self.chunk_size
        for start in range(0, self.rows.shape[1] // m - 2, self.step):
            yield start, self.rows[:, start * m : (start + self.step + 2) * m]

    def unsorted(self, rows: Tensor) -> Tensor:
        """Return sorted rows (lists, K m, C) by position: (pictures, rounds, L, C)."""
        taken = rows.reshape(-1, rows.shape[-1]).index_select(0, self.place.flatten())
        return taken.view(-1, self.rounds, self.place.shape[1], rows.shape[-1])


def _groups(order: Tensor, m: int, length: int) -> Iterator[_Group]:
    """Cut pictures and rounds into groups of at most `BLOCK_SCORES` scores, or runs of a round."""
    n, n_hashes, size = order.shape
    chunks, window, device = size // m - 2, 3 * m * m, order.device
    budget = BLOCK_SCORES_GPU if layers.batches(order) else BLOCK_SCORES
    together = min(n, budget // (n_hashes * chunks * window))
    pictures, rounds = (together, n_hashes) if together else (1, 1)
    step = min(chunks, max(1, budget // window))
    positions = torch.arange(length, device=device).expand(n, n_hashes, -1)
    place = torch.empty_like(positions, memory_format=torch.contiguous_format)
    place.scatter_(2, order[..., m : m + length], positions)
    flat = order + (torch.arange(n, device=device) * length).view(n, 1, 1)
    for first in range(0, n, pictures):
        which = slice(first, first + pictures)
        for turn in range(0, n_hashes, rounds):
            rows = flat[which, turn : turn + rounds].flatten(0, 1)
            at = place[which, turn : turn + rounds].flatten(0, 1)
            at = at + (torch.arange(len(at), device=device) * chunks * m)[:, None]
            yield _Group(which, turn == 0, rows, at, rounds, step, m)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class ChunkedAttention(torch.autograd.Function):
    """Softmax attention within chunks, over all hash rounds at once.

    Mixing the rounds by the softmax of their logsumexp is one softmax over the union of all rounds'
    keys. Backward recomputes the weights from the joint logsumexp, so that memory is linear in L
    and free of the number of keys, unless they take at most `KEPT` bytes.

    Pictures, rounds and chunks are attended to in groups of at most `BLOCK_SCORES` scores, on a GPU
    usually all at once. No shape depends on the data and nothing waits for the GPU, so a step can
    be captured as a CUDA graph.
    """

    @staticmethod
    def forward(ctx, query, key, value, score, order, chunk_size):  # type: ignore[no-untyped-def]
        """Return (N, L, C); arguments as in `chunked_attention`."""
        m = chunk_size
        n, length, channels = value.shape
        out, total = query.new_empty(value.shape), query.new_empty(n, length)
        size = order[..., 2 * m :].numel() * 3 * m * value.element_size()
        is_kept, kept = size <= KEPT and any(ctx.needs_input_grad), []
        for group in _groups(order, m, length):
            parts, levels = [], []
            for _, run in group.runs():
                logits = _logits(query, key, score, run, m)
                top = logits.amax(-1, keepdim=True)  # (lists * K, m, 1)
                weights = logits.softmax(-1)
                # The largest weight is exp(top - logsumexp).
                levels.append((top - weights.amax(-1, keepdim=True).log_()).view(len(run), -1))
                weights = weights.to(value.dtype)
                kept += [weights, levels[-1]] if is_kept else []
                mixed = torch.bmm(weights, windows(_take(value, run), m))
                parts.append(mixed.view(len(run), -1, channels))
            # From the order of the chunks back to that of the picture: (pictures, rounds, L, C).
            mixed = group.unsorted(_joined(parts))
            level = group.unsorted(_joined(levels)[..., None])
            joint = level.logsumexp(1)  # (pictures, L, 1)
            mixed = (mixed * (level - joint[:, None]).exp_()).sum(1)
            if not group.is_first:  # fold these rounds into the ones before
                before, level = total[group.pictures, :, None], joint
                joint = torch.logaddexp(before, level)
                mixed.mul_((level - joint).exp_())
                mixed.addcmul_(out[group.pictures], (before - joint).exp_())
            out[group.pictures], total[group.pictures] = mixed, joint[..., 0]
        ctx.save_for_backward(query, key, value, score, order, out, total, *kept)
        ctx.chunk_size = m
        return out

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Recompute the probabilities and return the gradients of query, key, value and score."""
        query, key, value, score, order, out, total, *kept = ctx.saved_tensors
        m, half = ctx.chunk_size, value.dtype
        length, channels = value.shape[1:]
        grad = grad.contiguous()
        # The scores' gradients do not depend on the mean value; without it bfloat16 keeps digits.
        mean = value.mean(1, keepdim=True, dtype=out.dtype)
        value = (value - mean).to(half)
        centre = (grad * (out - mean)).sum(-1, keepdim=True)  # (N, L, 1)
        grad = grad.to(half)
        total = total[..., None]
        tables = [query, key, value] if score is None else [query, key, value, score]
        found = [torch.empty_like(table) for table in tables]
        for group in _groups(order, m, length):
            lists, chunks = len(group.rows), group.rows.shape[1] // m
            # Gradients of the sorted rows; the first and the last chunk are there twice.
            sums = [t.new_zeros(lists, chunks, m, t.shape[-1]) for t in tables]
            for start, run in group.runs():
                chosen, count = run[:, m:-m], run.shape[1] // m - 2
                level = _take(total, chosen)
                level[:, max(0, length - start * m) :] = torch.inf  # repeats have no output
                if kept:  # (lists * count, m, 3m), of this round alone
                    weights, own = kept.pop(0), kept.pop(0)
                    weights = weights * (own[..., None] - level).exp_().view(-1, m, 1)
                else:
                    weights = _logits(query, key, score, run, m)
                    weights = weights.sub_(level.view(-1, m, 1)).exp_()
                upstream = _take(grad, chosen).view(-1, m, channels)
                v, k = windows(_take(value, run), m), windows(_take(key, run).to(half), m)
                d_value = torch.bmm(weights.to(half).transpose(1, 2), upstream)
                d_logits = torch.bmm(upstream, v.transpose(1, 2))
                d_logits = weights.mul_(d_logits - _take(centre, chosen).view(-1, m, 1))
                q = _take(query, chosen).to(half).view(-1, m, query.shape[-1])
                rounded = d_logits.to(half)
                d_query = torch.bmm(rounded, k).view(lists, count, m, -1)
                sums[0][:, start + 1 : start + 1 + count] = d_query
                _fold(torch.bmm(rounded.transpose(1, 2), q), sums[1], start)
                _fold(d_value, sums[2], start)
                if score is not None:  # with the query slot first, as in `_logits`
                    for shift, part in enumerate(d_logits.view(lists, count, m, 3, m).unbind(3)):
                        sums[3][:, start + shift : start + shift + count] += part
            if score is not None:
                sums[3] = sums[3].transpose(2, 3)
            for total_of, result in zip(sums, found, strict=True):
                total_of[:, -2] += total_of[:, 0]
                total_of[:, 1] += total_of[:, -1]
                rows = total_of[:, 1:-1].reshape(lists, (chunks - 2) * m, -1)
                padding = rows.shape[1] - length
                rows[:, length - padding : length] += rows[:, length:]
                part = group.unsorted(rows).sum(1)
                if group.is_first:
                    result[group.pictures] = part
                else:
                    result[group.pictures] += part
        return (*found, *([None] * (6 - len(found))))


def _fold(parts: Tensor, sums: Tensor, start: int) -> None:
    """Add windows (lists * K, 3m, C) into (lists, all chunks, m, C): the transpose of `windows`."""
    lists, _, m, width = sums.shape
    thirds = parts.view(lists, -1, 3, m, width)
    for shift in range(3):
        sums[:, start + shift : start + shift + thirds.shape[1]] += thirds[:, :, shift]


def chunked_attention(
    query: Tensor, key: Tensor, value: Tensor, score: Tensor | None, order: Tensor, chunk_size: int
) -> Tensor:
    """Attend within chunks.

    Parameters
    ----------
    query, key
        (N, L, Cq), in float32 or float64.
    value
        (N, L, C), in the same type or in bfloat16; then its products are in bfloat16.
    score
        (N, L, m) or None: what a key adds to the score of each of the m query slots.
    order
        (N, n_hashes, (K + 2) m) from `chunk_order`.
    chunk_size
        m.

    Returns
    -------
    (N, L, C) in the type of the queries.
    """
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    score = score.contiguous() if score is not None else None
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
    """Return `chunked_attention` with changed logits, from plain operations.

    ``change(logits, queries, keys)`` is called with logits (K, m, 3m) and the flat positions of the
    queries (K, m) and keys (K, 3m) of a run of K chunks. A key that is met in several rounds counts
    several times, as it does without a change.
    """
    m, length, lowest = chunk_size, value.shape[1], torch.finfo(query.dtype).min
    images = []
    for image in range(len(value)):
        q, k, v = (t[image : image + 1].contiguous() for t in (query, key, value))
        s = score[image : image + 1].contiguous() if score is not None else None
        rounds, levels = [], []
        for group in _groups(order[image : image + 1], m, length):
            parts = []
            for _, run in group.runs():
                keys = windows(run[..., None], m)[..., 0]
                logits = change(_logits(q, k, s, run, m), run[:, m:-m].reshape(-1, m), keys)
                level = logits.logsumexp(-1, keepdim=True)  # -inf where no key is left
                weights = (logits - level.clamp(min=lowest)).exp()
                mixed = torch.bmm(weights, windows(_take(v, run), m).to(weights.dtype))
                parts.append(torch.cat((mixed, level), -1).view(len(run), -1, mixed.shape[-1] + 1))
            by_position = group.unsorted(_joined(parts))[0]  # (rounds, L, C + 1)
            rounds.append(by_position[..., :-1])
            levels.append(by_position[..., -1:])
        out, level = torch.cat(rounds), torch.cat(levels)  # (n_hashes, L, ...)
        share = (level - level.logsumexp(0).clamp(min=lowest)).exp()
        images.append((out * share).sum(0))
    return torch.stack(images)
