"""The attention layers of the family; each maps (N, C, H, W) to itself.

All return ``attend(x) * res_scale + x``. The value branch is the submodule ``conv_assembly``.
Each can be switched off (`Switchable`), and its weights can be changed (`Intervention`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtfn.models import hashing, layers
from dtfn.models.deform import DeformableConv2d, maps_of, rows_of
from dtfn.models.fidelity import fuse, fusion_layers
from dtfn.models.layers import HALF, Switchable, conv3x3
from dtfn.models.sparsemax import sparsemax_attention, threshold

NORM_EPS = 5e-5  # of the authors' key normalisation
# Up to this many positions a training step keeps the (L, L) weights: on a CPU of one picture at a
# time, which fit its cache and under bf16 autocast are three times as fast as the fused kernel; on
# a GPU of all pictures, as long as they take at most `KEPT_GPU` bytes.
MATERIALISED = 4096
KEPT_GPU = 1 << 30

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
        raise NotImplementedError

    def when_on(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) for x of the same shape."""
        return self.attend(x) * self.res_scale + x


class PlaceboAttention(Attention):
    """NLSA without matching: every position receives the mean of the values of all positions.

    Parameters
    ----------
    channels
        C of the (N, C, H, W) input and output.
    res_scale
        Weight of the mean before it is added to the input.
    """

    def __init__(self, channels: int, res_scale: float = 1.0) -> None:
        super().__init__(res_scale)
        self.conv_assembly = nn.Sequential(nn.Conv2d(channels, channels, 1))

    def attend(self, x: Tensor) -> Tensor:
        """Return what attention adds, before ``res_scale``: (N, C, H, W)."""
        value = rows_of(self.conv_assembly(x))  # (N, L, C)
        if self.intervene is None:
            mean = value.mean(1, keepdim=True).expand_as(value)
        else:
            nothing = torch.zeros_like(value[..., :1])  # equal logits for all keys
            mean = _dense_changed(nothing, nothing, value, None, self.intervene, _softmax)
        return maps_of(mean, *x.shape[2:]).to(x.dtype)


class NonLocalAttention(Attention):
    """Dense softmax attention over all positions (NLA, as in HSPAN's repository).

    Parameters
    ----------
    channels
        C of the (N, C, H, W) input and output.
    reduction
        The embeddings have C // reduction channels.
    res_scale
        Weight of the attention before it is added to the input.
    """

    def __init__(self, channels: int, reduction: int = 2, res_scale: float = 1.0) -> None:
        super().__init__(res_scale)
        self.conv_match1 = _embedding(channels, channels // reduction)
        self.conv_match2 = _embedding(channels, channels // reduction)
        self.conv_assembly = _embedding(channels, channels)

    def attend(self, x: Tensor) -> Tensor:
        """Return what attention adds, before ``res_scale``: (N, C, H, W)."""
        embedded = (self.conv_match1(x), self.conv_match2(x), self.conv_assembly(x))
        query, key, value = (rows_of(e).contiguous() for e in embedded)
        if self.intervene is None:
            mixed = self.mix(query, key, value)
        else:
            query, key, value = _exact(query, key, value)
            with torch.autocast(value.device.type, enabled=False):
                mixed = _dense_changed(query, key, value, None, self.intervene, self.weigh)
        return maps_of(mixed, *x.shape[2:]).to(x.dtype)

    def weigh(self, logits: Tensor) -> Tensor:
        """Return the attention weights (..., k) of changed logits."""
        return _softmax(logits)

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return (N, L, C) for queries and keys (N, L, Cq) and values (N, L, C)."""
        n, length, _ = value.shape
        kept = torch.is_grad_enabled() and length <= MATERIALISED
        if kept and not layers.batches(value):
            images = zip(query, key, value, strict=True)
            return torch.stack([(q @ k.T).softmax(-1) @ v for q, k, v in images])
        if kept and 4 * n * length**2 <= KEPT_GPU:
            query, key = _exact(query, key)
            with torch.autocast(value.device.type, enabled=False):
                weights = torch.bmm(query, key.transpose(1, 2)).softmax(-1)
                return torch.bmm(weights.to(value.dtype), value)
        # Equal widths select the memory-linear kernel; zero channels change no score.
        missing = value.shape[-1] - query.shape[-1]
        query, key = F.pad(query, (0, missing)), F.pad(key, (0, missing))
        query, key, value = _exact(query, key, value)
        with torch.autocast(value.device.type, enabled=False):
            return F.scaled_dot_product_attention(
                query[:, None], key[:, None], value[:, None], scale=1.0
            )[:, 0]


class HighSimilarityPassAttention(NonLocalAttention):
    """Dense attention whose softmax is replaced by an exact sparsemax (HSPA of HSPAN).

    Parameters
    ----------
    channels, reduction, res_scale
        As in `NonLocalAttention`.
    topk
        The support is looked for among the topk largest scores, doubled until it fits; the result
        does not depend on it.
    """

    def __init__(
        self, channels: int, reduction: int = 2, res_scale: float = 1.0, topk: int = 128
    ) -> None:
        super().__init__(channels, reduction, res_scale)
        self.topk = topk

    def weigh(self, logits: Tensor) -> Tensor:
        """Return the sparsemax of changed logits (q, k): equal logits give equal weights."""
        alone = (logits == -torch.inf).all(-1, keepdim=True)
        logits = logits.masked_fill(alone, 0)
        return (logits - threshold(logits, self.topk)).clamp_(min=0).masked_fill(alone, 0)

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return (N, L, C) for queries and keys (N, L, Cq) and values (N, L, C)."""
        query, key, value = _exact(query, key, value)
        with torch.autocast(value.device.type, enabled=False):
            return sparsemax_attention(query, key, value, self.topk)


class HashedAttention(Attention):
    """What the attention layers with hashing share: seeds, rotations, hash codes and chunks.

    Parameters
    ----------
    channels
        C of the (N, C, H, W) input and output.
    reduction
        The matching embedding has C // reduction channels.
    res_scale
        Weight of the attention before it is added to the input.
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
        Rotations (steps, n_hashes, C // reduction, buckets) of training steps drawn beforehand by
        `bank`, and a tensor (1,) with the row of the bank that the next training pass uses. A CUDA
        graph then replays with fresh rotations; the trainer advances the tensor.
    """

    rotation_bank: Tensor | None = None
    rotation_step: Tensor | None = None

    def __init__(
        self, channels: int, reduction: int, res_scale: float, chunk_size: int, n_hashes: int,
        hash_seed: int | None,
    ) -> None:  # fmt: skip
        super().__init__(res_scale)
        self.chunk_size = chunk_size
        self.n_hashes = n_hashes
        self.hash_seed = hash_seed
        self.layer = 0
        self.draws = 0

    rotations = staticmethod(hashing.super_bit_rotations)

    def order(self, query: Tensor) -> tuple[Tensor, int]:
        """Return the chunked order of the positions for queries (N, L, Cq), and the chunk size."""
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
            source = None
            if self.hash_seed is not None:
                draw = self.draws if self.training else 0
                source = hashing.generator(self.hash_seed, self.layer, draw)
            rotations = self.rotations(width, buckets, self.n_hashes, source)
        codes = hashing.hash_codes(query.detach(), rotations)
        return hashing.chunk_order(codes, self.chunk_size), self.chunk_size

    def bank(self, length: int, steps: Sequence[int]) -> Tensor | None:
        """Return the rotations that training passes with these values of ``draws`` use.

        Parameters
        ----------
        length
            L, the positions of a training patch.
        steps
            Values of ``draws`` before the pass: the trainer's step numbers.

        Returns
        -------
        Tensor or None
            (steps, n_hashes, C // reduction, buckets), on the CPU; None if L is too small to hash.
        """
        buckets = hashing.bucket_count(length, self.chunk_size)
        if not buckets or self.hash_seed is None:
            return None
        match = self.get_submodule("conv_match.0")
        assert isinstance(match, nn.Conv2d)
        return torch.stack(
            [
                self.rotations(
                    match.out_channels,
                    buckets,
                    self.n_hashes,
                    hashing.generator(self.hash_seed, self.layer, step + 1),
                )
                for step in steps
            ]
        )

    def mix(self, query: Tensor, value: Tensor, score: Tensor | None) -> Tensor:
        """Return (N, L, C) for queries (N, L, Cq), values (N, L, C) and key scores (N, L, m)."""
        (query,) = _exact(query)
        score = _exact(score)[0] if score is not None else None
        with torch.autocast(value.device.type, enabled=False):
            key = F.normalize(query, dim=-1, eps=NORM_EPS)
            order, chunk_size = self.order(query)
            # float16 is too narrow for sums of values; bfloat16 is not.
            if chunk_size < self.chunk_size or value.dtype == torch.float16:
                (value,) = _exact(value)
            if chunk_size < self.chunk_size:
                if self.intervene is not None:
                    return _dense_changed(query, key, value, score, self.intervene, _softmax)
                return _dense(query, key, value, score)
            if self.intervene is not None:
                return hashing.changed_attention(
                    query, key, value, score, order, chunk_size, self.intervene
                )
            return hashing.chunked_attention(query, key, value, score, order, chunk_size)


def _softmax(logits: Tensor) -> Tensor:
    """Return softmax over the last axis; 0 where every logit is -inf."""
    alone = (logits == -torch.inf).all(-1, keepdim=True)
    return logits.masked_fill(alone, 0).softmax(-1).masked_fill(alone, 0)


def _dense_changed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score: Tensor | None,
    change: Intervention,
    weigh: Callable[[Tensor], Tensor],
) -> Tensor:
    """Attend from all to all with changed logits, a block of queries at a time: (N, L, C)."""
    length = value.shape[1]
    everything = torch.arange(length, device=value.device)
    images = []
    for image in range(len(value)):
        parts = []
        for at in everything.split(max(1, hashing.BLOCK_SCORES // length)):
            logits = query[image, at] @ key[image].T  # (q, L)
            if score is not None:
                logits = logits + score[image, :, at].T
            parts.append(weigh(change(logits, at, everything)) @ value[image])
        images.append(torch.cat(parts))
    return torch.stack(images)


def _dense(query: Tensor, key: Tensor, value: Tensor, score: Tensor | None) -> Tensor:
    """Attend from all to all: what is left of hashing when positions do not fill a chunk."""
    logits = query @ key.transpose(1, 2)  # (N, L, L)
    if score is not None:
        logits = logits + score[..., : logits.shape[1]].transpose(1, 2)
    return logits.softmax(-1) @ value


class NonLocalSparseAttention(HashedAttention):
    """NLSA of NLSN: spherical LSH; parameters as in `HashedAttention`."""

    rotations = staticmethod(hashing.spherical_rotations)

    def __init__(
        self, channels: int, reduction: int = 4, res_scale: float = 1.0, chunk_size: int = 144,
        n_hashes: int = 4, hash_seed: int | None = 0,
    ) -> None:  # fmt: skip
        super().__init__(channels, reduction, res_scale, chunk_size, n_hashes, hash_seed)
        self.conv_match = nn.Sequential(conv3x3(channels, channels // reduction))
        self.conv_assembly = nn.Sequential(nn.Conv2d(channels, channels, 1))

    def attend(self, x: Tensor) -> Tensor:
        """Return what attention adds, before ``res_scale``: (N, C, H, W)."""
        query, value = rows_of(self.conv_match(x)), rows_of(self.conv_assembly(x))
        return maps_of(self.mix(query, value, None), *x.shape[2:]).to(x.dtype)


class GlobalLearnableAttention(HashedAttention):
    """GLA of DLSN: super-bit LSH and a learned score, an MLP of the key; see `HashedAttention`.

    The MLP maps each key to m numbers, one a query slot of its chunk. It depends on the position
    alone, so it runs once a position, not once a neighbour.
    """

    conv_assembly: nn.Module

    def __init__(
        self, channels: int, reduction: int = 4, res_scale: float = 1.0, chunk_size: int = 144,
        n_hashes: int = 4, hash_seed: int | None = 0,
    ) -> None:  # fmt: skip
        super().__init__(channels, reduction, res_scale, chunk_size, n_hashes, hash_seed)
        relu = nn.ReLU(inplace=True)
        self.conv_match = nn.Sequential(conv3x3(channels, channels // reduction), relu)
        self.conv_assembly = nn.Sequential(conv3x3(channels, channels), relu)
        self.conv_assembly_fc = nn.Sequential(conv3x3(channels, channels), relu)
        self.fc = nn.Sequential(
            nn.Linear(channels, chunk_size), relu, nn.Linear(chunk_size, chunk_size)
        )

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (N, Cq, H, W), values (N, C, H, W) and score features (N, C, H, W)."""
        branches = (self.conv_match, self.conv_assembly, self.conv_assembly_fc)
        query, value, feature = merged_conv(x, *(branch[0] for branch in branches))  # type: ignore[index]
        return query.relu(), value.relu(), feature.relu()

    def attend(self, x: Tensor) -> Tensor:
        """Return what attention adds, before ``res_scale``: (N, C, H, W)."""
        query, value, feature = (rows_of(t) for t in self.embed(x))
        return maps_of(self.mix(query, value, self.fc(feature)), *x.shape[2:]).to(x.dtype)


class DeformableNonLocalFusion(GlobalLearnableAttention):
    """DNLF of DTFN: GLA with deformable values, followed by the texture-fidelity fusion (TFS).

    Parameters
    ----------
    channels, reduction, res_scale, chunk_size, n_hashes, hash_seed
        As in `HashedAttention`.
    fidelity
        False leaves the fusion out ("DTFN without TFS"): ``attend(x) * res_scale + x``.
    """

    def __init__(
        self, channels: int, reduction: int = 4, res_scale: float = 1.0, chunk_size: int = 128,
        n_hashes: int = 4, hash_seed: int | None = 0, fidelity: bool = True,
    ) -> None:  # fmt: skip
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
        """Return (N, C, H, W) for x of the same shape."""
        out = self.attend(x)
        if self.fidelity:
            out = fuse(x, out, self.fusion, self.shrink)
        return out * self.res_scale + x


def merged_conv(x: Tensor, *layers: nn.Conv2d) -> tuple[Tensor, ...]:
    """Run several 3x3 convolutions of one input as one, and split its output.

    Parameters
    ----------
    x
        (N, C, H, W).
    layers
        With 3x3 kernels, zero padding 1 and a bias.
    """
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers if layer.bias is not None])
    out = F.conv2d(x, weight, bias, padding=1)
    return out.split([layer.out_channels for layer in layers], 1)
