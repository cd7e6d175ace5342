"""The attention layers of the family; each maps (N, C, H, W) to itself.

All return ``attend(x) * res_scale + x``. The value branch is the submodule ``conv_assembly``.
Each can be switched off (`Switchable`), and its weights can be changed (`Intervention`). Shapes: N
pictures of L = H * W positions, C channels, embeddings of Cq = C // reduction channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtfn.models import hashing, layers
from dtfn.models.deform import DeformableConv2d, maps_of, rows_of
from dtfn.models.layers import HALF, Switchable, conv3x3, fuse, fusion_layers, scaled

NORM_EPS = 5e-5  # of the authors' key normalisation
# Up to this many positions a training step keeps the (L, L) weights: on a CPU of one picture at a
# time, which fit its cache and under bf16 autocast are three times as fast as the fused kernel; on
# a GPU of all pictures, as long as they take at most `KEPT_GPU` bytes.
MATERIALISED = 4096
KEPT_GPU = 1 << 30
# Scores that sparsemax holds at once, in a processor's cache; never (L, L).
SPARSE_SCORES = 1 << 20
SPARSE_SCORES_GPU = 1 << 24
LEAST_ROWS = 32

# (logits, queries, keys) -> logits, for one picture: logits (..., q, k), and the flat LR positions
# of the queries (..., q) and of the keys (..., k). A logit of -inf removes its key; a query without
# any key attends to nothing.
Intervention = Callable[[Tensor, Tensor, Tensor], Tensor]


def _exact(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors in float32 where they are half precision: scores need the mantissa."""
    return tuple(t.float() if t.dtype in HALF else t for t in tensors)


def _embedding(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.PReLU())


class Attention(Switchable):
    """What all attention layers share: the residual, the switch and the intervention.

    Parameters
    ----------
    res_scale
        Weight of the attention before it is added to the input.

    Attributes
    ----------
    intervene : Intervention or None
        Changes the logits on their way to the softmax, a block of queries of one picture at a time.
        Dense layers show it all keys. Layers with hashing show it the keys of each chunk, in each
        hash round; the softmax then runs over the keys of all rounds together.
    """

    intervene: Intervention | None = None

    def __init__(self, res_scale: float) -> None:
        super().__init__()
        self.res_scale = res_scale

    def attend(self, x: Tensor) -> Tensor:
        """Return what attention adds, before ``res_scale``: (N, C, H, W)."""
        return maps_of(self._attended(x), *x.shape[2:]).to(x.dtype)

    def when_on(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) for x of the same shape, whatever the switch says."""
        return scaled(self.attend(x), self.res_scale) + x

    def _attended(self, x: Tensor) -> Tensor:
        """Return what each position receives: (N, L, C)."""
        raise NotImplementedError

    def weigh(self, logits: Tensor) -> Tensor:
        """Return the weights (q, k) of keys with logits (q, k)."""
        return logits.softmax(-1)

    def _changed(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from all to all with changed logits, a block of queries at a time: (N, L, C)."""
        assert self.intervene is not None
        everything = torch.arange(value.shape[1], device=value.device)
        images = []
        with torch.autocast(value.device.type, enabled=False):
            for q, k, v in zip(*_exact(query, key, value), strict=True):
                parts = []
                for at in everything.split(max(1, hashing.BLOCK_SCORES // len(everything))):
                    logits = self.intervene(q[at] @ k.T, at, everything)
                    alone = (logits == -torch.inf).all(-1, keepdim=True)
                    weights = self.weigh(logits.masked_fill(alone, 0)).masked_fill(alone, 0)
                    parts.append(weights @ v)
                images.append(torch.cat(parts))
        return torch.stack(images)


class PlaceboAttention(Attention):
    """NLSA without matching: every position receives the mean of the values of all positions."""

    def __init__(self, channels: int, res_scale: float = 1.0) -> None:
        super().__init__(res_scale)
        self.conv_assembly = nn.Sequential(nn.Conv2d(channels, channels, 1))

    def _attended(self, x: Tensor) -> Tensor:
        value = rows_of(self.conv_assembly(x))
        if self.intervene is None:
            return value.mean(1, keepdim=True).expand_as(value)
        nothing = torch.zeros_like(value[..., :1])  # equal logits for all keys
        return self._changed(nothing, nothing, value)


class NonLocalAttention(Attention):
    """Dense softmax attention over all positions (NLA, as in HSPAN's repository).

    A subclass may compare something else (`embed`), or weigh in another way (`weigh` and `mix`).
    """

    def __init__(self, channels: int, reduction: int = 2, res_scale: float = 1.0) -> None:
        super().__init__(res_scale)
        self.conv_match1 = _embedding(channels, channels // reduction)
        self.conv_match2 = _embedding(channels, channels // reduction)
        self.conv_assembly = _embedding(channels, channels)

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys (N, Cq, H, W), and values (N, C, H, W)."""
        return self.conv_match1(x), self.conv_match2(x), self.conv_assembly(x)

    def _attended(self, x: Tensor) -> Tensor:
        rows = [rows_of(e).contiguous() for e in self.embed(x)]
        return self.mix(*rows) if self.intervene is None else self._changed(*rows)

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return (N, L, C) for queries and keys (N, L, Cq) and values (N, L, C)."""
        n, length, channels = value.shape
        kept = torch.is_grad_enabled() and length <= MATERIALISED
        if kept and not layers.batches(value):
            images = zip(query, key, value, strict=True)
            return torch.stack([(q @ k.T).softmax(-1) @ v for q, k, v in images])
        query, key = _exact(query, key)
        with torch.autocast(value.device.type, enabled=False):
            if kept and 4 * n * length**2 <= KEPT_GPU:
                weights = torch.bmm(query, key.transpose(1, 2)).softmax(-1)
                return torch.bmm(weights.to(value.dtype), value)
            # Equal widths select the memory-linear kernel; zero channels change no score.
            missing = channels - query.shape[-1]
            query, key = F.pad(query, (0, missing)), F.pad(key, (0, missing))
            q, k, v = (t[:, None] for t in _exact(query, key, value))
            return F.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0]


class HighSimilarityPassAttention(NonLocalAttention):
    """Dense attention whose softmax is replaced by an exact sparsemax (HSPA of HSPAN).

    The support is looked for among the ``topk`` largest scores, doubled until it fits; the result
    does not depend on it. An intervention's logits take the way through the sparsemax, too.
    """

    def __init__(
        self, channels: int, reduction: int = 2, res_scale: float = 1.0, topk: int = 128
    ) -> None:
        super().__init__(channels, reduction, res_scale)
        self.topk = topk

    def weigh(self, logits: Tensor) -> Tensor:
        """Return the weights (q, k) of keys with logits (q, k)."""
        return (logits - threshold(logits, self.topk)[0]).clamp_(min=0)

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return (N, L, C) for queries and keys (N, L, Cq) and values (N, L, C)."""
        query, key, value = _exact(query, key, value)
        with torch.autocast(value.device.type, enabled=False):
            return SparsemaxAttention.apply(query, key, value, self.topk)  # type: ignore[no-untyped-call]


def threshold(scores: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """Return tau such that ``clamp(scores - tau, min=0)`` sums to 1 in each row of (R, L).

    Martins and Astudillo (2016), algorithm 1. The support is looked for among the ``topk`` largest
    scores; rows whose support fills them are solved again with twice as many.

    Returns
    -------
    Tau and the size of the support of each row, both (R, 1).
    """
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
        tau[open_rows], support[open_rows] = threshold(scores[open_rows], 2 * k)
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
    together, held = (n, SPARSE_SCORES_GPU) if layers.batches(query) else (1, SPARSE_SCORES)
    step = max(LEAST_ROWS, held // (together * length))
    for first in range(0, n, together):
        for start in range(0, length, step):
            yield slice(first, first + together), slice(start, start + step)


class SparsemaxAttention(torch.autograd.Function):
    """``sparsemax(query @ key^T) @ value`` in blocks of queries; backward recomputes the scores.

    Arguments of `apply`: queries and keys (N, L, Cq), values (N, L, C), and `threshold`'s ``topk``,
    which does not change the result (N, L, C).
    """

    @staticmethod
    def forward(ctx, query, key, value, topk):  # type: ignore[no-untyped-def]
        """Return (N, L, C)."""
        out, tau = torch.empty_like(value), value.new_empty(*value.shape[:2], 1)
        k = topk
        for images, block in _blocks(query):
            scores = torch.bmm(query[images, block], key[images].transpose(1, 2))
            flat, support = threshold(scores.flatten(0, 1), k)
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


@functools.lru_cache(maxsize=64)
def _seeded(
    draw_rotations: Callable[..., Tensor],
    width: int,
    buckets: int,
    n_hashes: int,
    seed: int,
    layer: int,
    draw: int,
) -> Tensor:
    """Return rotations that depend on these numbers alone: pictures of one size share them."""
    return draw_rotations(width, buckets, n_hashes, hashing.generator(seed, layer, draw))


class HashedAttention(Attention):
    """What the attention layers with hashing share: seeds, rotations, hash codes and chunks.

    Parameters
    ----------
    channels, reduction, res_scale
        As above.
    chunk_size
        m. With L < m positions there is one chunk and no hashing: dense attention.
    n_hashes
        Hash rounds.
    hash_seed
        An integer makes the rotations depend on (hash_seed, layer) alone, and in training on the
        step too. None draws them from torch's global generator, in the authors' order.

    Attributes
    ----------
    layer : int
        Index of the layer in its network; set by the network.
    draws : int
        Number of the training forward pass; set by the trainer when it resumes.
    rotation_bank, rotation_step : Tensor or None
        Rotations (steps, n_hashes, Cq, buckets) of training steps drawn beforehand by `bank`, and
        a tensor (1,) with the row of the bank that the next training pass uses. A CUDA graph then
        replays with fresh rotations; the trainer advances the tensor.
    """

    rotation_bank: Tensor | None = None
    rotation_step: Tensor | None = None
    rotations = staticmethod(hashing.super_bit_rotations)

    def __init__(
        self,
        channels: int,
        reduction: int = 4,
        res_scale: float = 1.0,
        chunk_size: int = 144,
        n_hashes: int = 4,
        hash_seed: int | None = 0,
    ) -> None:
        super().__init__(res_scale)
        self.chunk_size, self.n_hashes, self.hash_seed = chunk_size, n_hashes, hash_seed
        self.layer = self.draws = 0
        self.query_width = channels // reduction
        self._build(channels)

    def _build(self, channels: int) -> None:
        """Add the submodules."""
        raise NotImplementedError

    def order(self, query: Tensor) -> tuple[Tensor, int]:
        """Return the chunked order of the positions for queries (N, L, Cq), and the chunk size.

        With L < m these are all positions, once, and L.
        """
        n, length, width = query.shape
        buckets = hashing.bucket_count(length, self.chunk_size)
        if not buckets:
            everything = torch.arange(length, device=query.device)
            return everything.expand(n, 1, length), length
        if self.training:
            self.draws += 1
        if self.training and self.rotation_bank is not None:
            assert self.rotation_step is not None
            rotations = self.rotation_bank.index_select(0, self.rotation_step)[0]
        else:
            rotations = self._drawn(width, buckets, self.draws if self.training else 0)
        codes = hashing.hash_codes(query.detach(), rotations)
        return hashing.chunk_order(codes, self.chunk_size), self.chunk_size

    def _drawn(self, width: int, buckets: int, draw: int) -> Tensor:
        if self.hash_seed is None:
            return self.rotations(width, buckets, self.n_hashes, None)
        return _seeded(
            self.rotations, width, buckets, self.n_hashes, self.hash_seed, self.layer, draw
        )

    def bank(self, length: int, steps: Sequence[int]) -> Tensor | None:
        """Return the rotations that training passes use if ``draws`` has these values before them.

        Parameters
        ----------
        length
            L, the positions of a training patch.
        steps
            The trainer's step numbers.

        Returns
        -------
        Tensor or None
            (steps, n_hashes, Cq, buckets), on the CPU; None if L is too small to hash, or without a
            hash seed.
        """
        buckets = hashing.bucket_count(length, self.chunk_size)
        if not buckets or self.hash_seed is None:
            return None
        return torch.stack([self._drawn(self.query_width, buckets, step + 1) for step in steps])

    def mix(self, query: Tensor, value: Tensor, score: Tensor | None) -> Tensor:
        """Return (N, L, C) for queries (N, L, Cq), values (N, L, C) and key scores (N, L, m)."""
        (query,) = _exact(query)
        score = _exact(score)[0] if score is not None else None
        if value.dtype == torch.float16:  # too narrow for sums of values; bfloat16 is not
            (value,) = _exact(value)
        with torch.autocast(value.device.type, enabled=False):
            key = F.normalize(query, dim=-1, eps=NORM_EPS)
            order, m = self.order(query)
            if m < self.chunk_size:  # one chunk, thrice among its keys, which changes no softmax
                order = order.repeat(1, 1, 3)
                score = score[..., :m] if score is not None else None
            if self.intervene is None:
                return hashing.chunked_attention(query, key, value, score, order, m)
            return hashing.changed_attention(query, key, value, score, order, m, self.intervene)


class NonLocalSparseAttention(HashedAttention):
    """NLSA of NLSN: spherical LSH; parameters as in `HashedAttention`."""

    rotations = staticmethod(hashing.spherical_rotations)

    def _build(self, channels: int) -> None:
        self.conv_match = nn.Sequential(conv3x3(channels, self.query_width))
        self.conv_assembly = nn.Sequential(nn.Conv2d(channels, channels, 1))

    def _attended(self, x: Tensor) -> Tensor:
        return self.mix(rows_of(self.conv_match(x)), rows_of(self.conv_assembly(x)), None)


class GlobalLearnableAttention(HashedAttention):
    """GLA of DLSN: super-bit LSH and a learned score, an MLP of the key; see `HashedAttention`.

    The MLP maps each key to m numbers, one a query slot of its chunk. It depends on the position
    alone, so it runs once a position, not once a neighbour.
    """

    conv_assembly: nn.Module

    def _build(self, channels: int) -> None:
        relu, m = nn.ReLU(inplace=True), self.chunk_size
        self.conv_match = nn.Sequential(conv3x3(channels, self.query_width), relu)
        self.conv_assembly = nn.Sequential(conv3x3(channels, channels), relu)
        self.conv_assembly_fc = nn.Sequential(conv3x3(channels, channels), relu)
        self.fc = nn.Sequential(nn.Linear(channels, m), relu, nn.Linear(m, m))

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (N, Cq, H, W), values (N, C, H, W) and score features (N, C, H, W)."""
        branches = (self.conv_match, self.conv_assembly, self.conv_assembly_fc)
        query, value, feature = merged_conv(x, *(branch[0] for branch in branches))  # type: ignore[index]
        return query.relu(), value.relu(), feature.relu()

    def _attended(self, x: Tensor) -> Tensor:
        query, value, feature = (rows_of(t) for t in self.embed(x))
        return self.mix(query, value, self.fc(feature))


class DeformableNonLocalFusion(GlobalLearnableAttention):
    """DNLF of DTFN: GLA with deformable values, followed by the texture-fidelity fusion (TFS).

    Without ``fidelity`` the fusion is left out ("DTFN without TFS"). The other parameters are
    those of `HashedAttention`; the authors' chunk size is 128.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 4,
        res_scale: float = 1.0,
        chunk_size: int = 128,
        n_hashes: int = 4,
        hash_seed: int | None = 0,
        fidelity: bool = True,
    ) -> None:
        super().__init__(channels, reduction, res_scale, chunk_size, n_hashes, hash_seed)
        self.conv_assembly = DeformableConv2d(channels, channels)
        if fidelity:
            self.fusion, self.shrink = fusion_layers(channels)
        self.fidelity = fidelity

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (N, Cq, H, W), values (N, C, H, W) and score features (N, C, H, W)."""
        values: DeformableConv2d = self.conv_assembly  # type: ignore[assignment]
        convs = (self.conv_match[0], self.conv_assembly_fc[0], values.offset_conv)
        query, feature, offset, logit = merged_conv(x, *convs, values.modulator_conv)  # type: ignore[arg-type]
        return query.relu(), values.sample(x, offset, logit), feature.relu()

    def when_on(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) for x of the same shape, whatever the switch says."""
        out = self.attend(x)
        if self.fidelity:
            out = fuse(x, out, self.fusion, self.shrink)
        return scaled(out, self.res_scale) + x


def merged_conv(x: Tensor, *convs: nn.Conv2d) -> tuple[Tensor, ...]:
    """Run several padded 3x3 convolutions of one input (N, C, H, W) as one; return each output."""
    weight = torch.cat([conv.weight for conv in convs])
    bias = torch.cat([conv.bias for conv in convs if conv.bias is not None])
    out = F.conv2d(x, weight, bias, padding=1)
    return out.split([conv.out_channels for conv in convs], 1)
