"""The attention layers of the family; each maps (N, C, H, W) to itself.

All return ``attend(x) * res_scale + x``. The value branch is the submodule ``conv_assembly``.
Each can be switched off (`Switchable`), and its weights can be changed (`Intervention`). Shapes: N
pictures of L = H * W positions, C channels, embeddings of Cq = C // reduction channels.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtfn.models import hashing, layers
from dtfn.models.deform import DeformableConv2d
from dtfn.models.layers import Fusion, Switchable, conv3x3, exact, maps_of, rows_of

NORM_EPS = 5e-5  # of the authors' key normalisation
# Up to this many positions a training step keeps the (L, L) weights: on a CPU of one picture at a
# time, three times as fast as the fused kernel; on a GPU of all, up to 1 GB.
MATERIALISED = 4096
SPARSE_SCORES = 1 << 20  # that sparsemax holds at once, see `layers.room`; never (L, L)

# (logits (..., q, k), flat LR positions of the queries (..., q), of the keys (..., k)) -> logits. A
# logit of -inf removes its key; a query without any key attends to nothing.
Intervention = Callable[[Tensor, Tensor, Tensor], Tensor]


class Attention(Switchable):
    """What all attention layers share: the residual, the switch and the intervention.

    Dense layers show ``intervene`` all keys, a block of queries at a time; layers with hashing the
    keys of each chunk in each hash round, and the softmax runs over all rounds' keys together.
    """

    intervene: Intervention | None = None
    chooses = False  # whether it compares queries with keys, so that it has maps
    # x -> queries (N, Cq, H, W), keys (N, Cq, H, W) or scores of keys (N, m, H, W), and values
    # (N, C, H, W); rows (N, L, ...) of these three -> what each position receives (N, L, C).
    embed: Callable[[Tensor], tuple[Tensor, Tensor | None, Tensor]]
    mix: Callable[..., Tensor]

    def __init__(self, res_scale: float) -> None:
        super().__init__()
        self.res_scale = res_scale

    def weigh(self, logits: Tensor) -> Tensor:
        """Return the weights (q, k) of keys with logits (q, k)."""
        return logits.softmax(-1)

    def attend(self, x: Tensor) -> Tensor:
        """Return what attention adds, before ``res_scale``: (N, C, H, W)."""
        rows: Any = [None if t is None else rows_of(t).contiguous() for t in self.embed(x)]
        mix = self.mix if self.intervene is None else self.changed
        return maps_of(mix(*rows), *x.shape[2:]).to(x.dtype)

    def changed(self, query: Tensor, key: Any, value: Tensor) -> Tensor:
        """Return `mix` with the logits as `intervene` changes them."""
        assert self.intervene is not None
        everything = torch.arange(value.shape[1], device=value.device)
        images = []
        with torch.autocast(value.device.type, enabled=False):
            for q, k, v in zip(exact(query), exact(key), exact(value), strict=True):
                parts = []
                for at in everything.split(max(1, hashing.BLOCK_SCORES // len(everything))):
                    logits = self.intervene(q[at] @ k.T, at, everything)
                    alone = (logits == -torch.inf).all(-1, keepdim=True)
                    parts.append(self.weigh(logits.masked_fill(alone, 0)).masked_fill(alone, 0) @ v)
                images.append(torch.cat(parts))
        return torch.stack(images)

    def when_on(self, x: Tensor) -> Tensor:
        return torch.add(x, self.attend(x), alpha=self.res_scale)


class PlaceboAttention(Attention):
    """NLSA without matching: every position receives the mean of the values of all positions."""

    def __init__(self, channels: int, res_scale: float = 1.0) -> None:
        super().__init__(res_scale)
        self.conv_assembly = nn.Sequential(nn.Conv2d(channels, channels, 1))

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value = self.conv_assembly(x)
        nothing = torch.zeros_like(value[:, :1])  # equal logits for all keys
        return nothing, nothing, value

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return value.mean(1, keepdim=True).expand_as(value)


class NonLocalAttention(Attention):
    """Dense softmax attention over all positions (NLA, as in HSPAN's repository).

    A subclass may compare something else (`embed`), or weigh in another way (`weigh` and `mix`).
    """

    chooses = True

    def __init__(self, channels: int, reduction: int = 2, res_scale: float = 1.0) -> None:
        super().__init__(res_scale)
        widths = (channels // reduction, channels // reduction, channels)
        embeddings = (nn.Sequential(nn.Conv2d(channels, n, 1), nn.PReLU()) for n in widths)
        self.conv_match1, self.conv_match2, self.conv_assembly = embeddings

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.conv_match1(x), self.conv_match2(x), self.conv_assembly(x)

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        n, length, channels = value.shape
        kept = torch.is_grad_enabled() and length <= MATERIALISED
        if kept and not layers.batches(value):
            images = zip(query, key, value, strict=True)
            return torch.stack([(q @ k.T).softmax(-1) @ v for q, k, v in images])
        query, key = exact(query), exact(key)
        with torch.autocast(value.device.type, enabled=False):
            if kept and 4 * n * length**2 <= 1 << 30:
                return torch.bmm(torch.bmm(query, key.mT).softmax(-1).to(value.dtype), value)
            # Equal widths select the memory-linear kernel; zero channels change no score.
            q, k = (F.pad(t, (0, channels - t.shape[-1]))[:, None] for t in (query, key))
            return F.scaled_dot_product_attention(q, k, exact(value)[:, None], scale=1.0)[:, 0]


class HighSimilarityPassAttention(NonLocalAttention):
    """Dense attention with an exact sparsemax for the softmax (HSPA of HSPAN), see `threshold`."""

    def __init__(self, channels: int, *options: Any, topk: int = 128, **named: Any) -> None:
        super().__init__(channels, *options, **named)
        self.topk = topk

    def weigh(self, logits: Tensor) -> Tensor:
        return (logits - threshold(logits, self.topk)).clamp_(min=0)

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        images = []
        with torch.autocast(value.device.type, enabled=False):
            for q, k, v in zip(exact(query), exact(key), exact(value), strict=True):
                blocks = q.split(max(32, layers.room(v, SPARSE_SCORES) // len(v)))
                images.append(torch.cat([_SparseBlock.apply(b, k, v, self.topk) for b in blocks]))  # type: ignore[no-untyped-call]
        return torch.stack(images)


class _SparseBlock(torch.autograd.Function):
    """``sparsemax(query @ key^T) @ value`` of some queries; backward recomputes the scores."""

    @staticmethod
    def forward(ctx, query, key, value, topk):  # type: ignore[no-untyped-def]
        scores = query @ key.T
        tau = threshold(scores, topk)
        ctx.save_for_backward(query, key, value, tau)
        return scores.sub_(tau).clamp_(min=0) @ value

    @staticmethod
    @layers.fast_products
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        # On the support, the upstream gradient less its mean over the support.
        query, key, value, tau = ctx.saved_tensors
        weights = (query @ key.T).sub_(tau).clamp_(min=0)
        alive = weights > 0
        d_scores = (grad @ value.T).mul_(alive)
        mean = d_scores.sum(-1, keepdim=True) / alive.sum(-1, keepdim=True)
        d_scores = d_scores.sub_(mean).mul_(alive)
        return d_scores @ key, d_scores.T @ query, weights.T @ grad, None


def captured(tensor: Tensor) -> bool:
    """Return whether operations go into a CUDA graph, so that the CPU never sees their results."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def threshold(scores: Tensor, topk: int) -> Tensor:
    """Return tau (R, 1) such that ``clamp(scores - tau, min=0)`` sums to 1 in each row of (R, L).

    Martins and Astudillo (2016), algorithm 1. The support is looked for among the ``topk`` largest
    scores; rows whose support fills them are solved again with more.
    """
    size = scores.shape[-1]
    # What is captured looks at all at once: it cannot know which rows need more.
    k = size if captured(scores) else min(topk, size)
    if layers.batches(scores):
        best = scores.topk(k, -1).values  # (R, k), falling
    else:  # NumPy selects with vector instructions: nine times as fast as topk on rows of 1024
        chosen = np.partition(scores.detach().numpy(), size - k, axis=-1)[:, size - k :]
        chosen.sort(axis=-1)
        best = torch.from_numpy(chosen).flip(-1)
    # Relative to the row's maximum the sums stay small: no digits are lost.
    top = best[:, :1]
    sums = (best - top).cumsum(-1) - 1
    rank = torch.arange(1, k + 1, device=scores.device, dtype=scores.dtype)
    support = (rank * (best - top) > sums).sum(-1, keepdim=True)
    tau = sums.gather(-1, support - 1) / support + top
    open_rows = support[:, 0] == k
    if k < size and open_rows.any():
        tau[open_rows] = threshold(scores[open_rows], 4 * k)
    return tau


class HashedAttention(Attention):
    """What the attention layers with hashing share: seeds, rotations, hash codes and chunks.

    ``chunk_size`` is m, ``n_hashes`` the number of hash rounds. With L < m positions there is one
    chunk and no hashing. Rotations depend on (hash_seed, layer) alone, in training also on
    ``draws``, the number of the pass; None draws them from torch's generator, as the authors do.
    """

    chooses = True
    # What `drawn` gives for all steps, and the row (1,) for the next: a CUDA graph reads both.
    bank: tuple[Tensor, Tensor] | None = None
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

    _build: Callable[[int], None]  # adds the submodules, for C channels

    def order(self, query: Tensor) -> tuple[Tensor, int]:
        """Return the chunked order of positions for queries (N, L, Cq), and m; or all, and L."""
        n, length, _ = query.shape
        if length < self.chunk_size:
            everything = torch.arange(length, device=query.device)
            return everything.expand(n, 1, length), length
        if self.training:
            self.draws += 1
        if self.training and self.bank:
            rotations = self.bank[0].index_select(0, self.bank[1])[0]
        else:
            rotations = self.drawn(length, self.draws if self.training else 0)
        codes = hashing.hash_codes(query.detach(), rotations)
        return hashing.chunk_order(codes, self.chunk_size), self.chunk_size

    def drawn(self, length: int, step: int) -> Tensor:
        """Return rotations for L positions in a training pass, by ``draws``; 0 is evaluation."""
        chunks = length // self.chunk_size
        # An even number of buckets; 128 is the authors' ceiling.
        shape = self.n_hashes, self.query_width, min(chunks + chunks % 2, 128)
        if self.hash_seed is None:
            return self.rotations(shape, None)
        return hashing.seeded(self.rotations, shape, self.hash_seed, self.layer, step)

    def mix(self, query: Tensor, key: Tensor | None, value: Tensor) -> Tensor:
        """Return (N, L, C) for queries (N, L, Cq), key scores (N, L, m), values (N, L, C)."""
        query, score = exact(query), None if key is None else exact(key)
        if value.dtype == torch.float16:  # too narrow for sums of values; bfloat16 is not
            value = exact(value)
        with torch.autocast(value.device.type, enabled=False):
            normal = F.normalize(query, dim=-1, eps=NORM_EPS)
            order, m = self.order(query)
            if m < self.chunk_size:  # one chunk, thrice among its keys, which changes no softmax
                order = order.repeat(1, 1, 3)
                score = score[..., :m] if score is not None else None
            return hashing.chunked_attention(query, normal, value, score, order, m, self.intervene)

    def changed(self, query: Tensor, key: Tensor | None, value: Tensor) -> Tensor:
        return self.mix(query, key, value)


class NonLocalSparseAttention(HashedAttention):
    """NLSA of NLSN: spherical LSH; parameters as in `HashedAttention`."""

    rotations = staticmethod(hashing.spherical_rotations)

    def _build(self, channels: int) -> None:
        self.conv_match = nn.Sequential(conv3x3(channels, self.query_width))
        self.conv_assembly = nn.Sequential(nn.Conv2d(channels, channels, 1))

    def embed(self, x: Tensor) -> tuple[Tensor, None, Tensor]:
        return self.conv_match(x), None, self.conv_assembly(x)


class GlobalLearnableAttention(HashedAttention):
    """GLA of DLSN: super-bit LSH, and a score from an MLP a key and query slot of its chunk."""

    conv_assembly: Any

    def _build(self, channels: int) -> None:
        relu, m = nn.ReLU(inplace=True), self.chunk_size
        self.conv_match = nn.Sequential(conv3x3(channels, self.query_width), relu)
        self.conv_assembly = nn.Sequential(conv3x3(channels, channels), relu)
        self.conv_assembly_fc = nn.Sequential(conv3x3(channels, channels), relu)
        self.fc = nn.Sequential(nn.Linear(channels, m), relu, nn.Linear(m, m))

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        branches: Any = (self.conv_match, self.conv_assembly_fc, self.conv_assembly)
        query, feature, value = _merged(x, *(branch[0] for branch in branches))
        return query.relu(), maps_of(self.fc(rows_of(feature.relu())), *x.shape[2:]), value.relu()


class DeformableNonLocalFusion(GlobalLearnableAttention, Fusion):
    """DNLF of DTFN: GLA with deformable values, and with ``fidelity`` the fusion (TFS) after it."""

    def __init__(self, channels: int, *options: Any, fidelity: bool = True, **named: Any) -> None:
        super().__init__(channels, *options, **named)
        self.conv_assembly = DeformableConv2d(channels, channels)
        self.fidelity = fidelity
        if fidelity:
            self.build_fusion(channels)

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values = self.conv_assembly
        convs: Any = (self.conv_match[0], self.conv_assembly_fc[0], values.offset_conv)
        query, feature, offset, logit = _merged(x, *convs, values.modulator_conv)
        score = maps_of(self.fc(rows_of(feature.relu())), *x.shape[2:])
        return query.relu(), score, values.sample(x, offset, logit)

    def when_on(self, x: Tensor) -> Tensor:
        return self.fuse(x, self.attend(x)) if self.fidelity else super().when_on(x)


def _merged(x: Tensor, *convs: nn.Conv2d) -> tuple[Tensor, ...]:
    """Run several padded 3x3 convolutions of one input (N, C, H, W) as one; return each output."""
    weight = torch.cat([conv.weight for conv in convs])
    bias = torch.cat([conv.bias for conv in convs if conv.bias is not None])
    return F.conv2d(x, weight, bias, padding=1).split([conv.out_channels for conv in convs], 1)
