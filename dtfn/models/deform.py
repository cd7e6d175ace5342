"""Modulated deformable 3x3 convolution, forward and backward.

A sample at a fractional position is a weighted sum of four rows of the (L, C) feature table: an
embedding bag, or on a GPU two Triton kernels. A matrix product over (taps, channels) convolves.
"""

import itertools
import os
from typing import Any

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dtfn.models import layers
from dtfn.models.layers import conv3x3, exact, maps_of, room, rows_of

try:
    import triton
    import triton.language as tl
except ImportError:  # it comes with torch for GPUs
    triton = None

BLOCK = 1 << 12  # positions sampled at once, or those of one picture if there are gradients
KEPT = 1 << 26  # bytes of columns that a layer keeps for backward; larger ones are recomputed


def corners(offset: Tensor, mask: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the four rows of the (L, C) table and weights, (N, L, 9, 4), of every bilinear sample.

    Corners outside of the picture have weight 0. ``offset`` (N, L, 18) has (dy, dx) for each of the
    nine taps, row-major, ``mask`` (N, L, 9) their modulation.
    """
    tap = torch.arange(9, device=offset.device)
    position = torch.arange(height * width, device=offset.device)[:, None]  # (L, 1)
    shift = offset.unflatten(2, (9, 2))
    axes, bases = [], (position // width + tap // 3 - 1, position % width + tap % 3 - 1)
    for axis, (size, base) in enumerate(zip((height, width), bases, strict=True)):
        # Far outside is as good as just outside, and keeps the integers small.
        at = (base.to(offset) + shift[..., axis]).clamp(-2, size + 1)  # (N, L, 9)
        low = at.detach().floor()
        part, row = at - low, low.long()
        pair = (row, 1 - part), (row + 1, part)
        axes.append([(r.clamp(0, size - 1), w * ((r >= 0) & (r < size))) for r, w in pair])
    axes[0] = [(row * width, weight * mask) for row, weight in axes[0]]
    pairs = list(itertools.product(*axes))  # a (N, L, 9) each, faster than dimensions of 2
    rows = torch.stack([y + x for (y, _), (x, _) in pairs], -1)
    return rows, torch.stack([y * x for (_, y), (_, x) in pairs], -1)


def deformable_conv2d(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Modulated deformable 3x3 convolution (DCNv2), zeros outside, as torchvision computes it.

    For x (N, C, H, W), offsets (N, 18, H, W) in pixels, see `corners`, modulation (N, 9, H, W),
    weight (D, C, 3, 3) and bias (D,) or None it is (N, D, H, W) in channels-last memory.
    """
    n, channels, height, width = x.shape
    offset, mask = (rows_of(exact(t)) for t in (offset, mask))  # (N, L, ...)
    table = rows_of(x if fused(x) else exact(x))
    kernel = weight.permute(0, 2, 3, 1).flatten(1)  # (D, 9C): (tap, channel)

    def sampled(table: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        rows, shares = corners(offset, mask, height, width)
        most = room(x, BLOCK)
        together = max(1, most // (height * width))  # pictures
        step = together * height * width if torch.is_grad_enabled() else most
        parts, sets = [], zip(*(t.split(together) for t in (table, rows, shares)), strict=True)
        for some, row, share in sets:
            row = row + torch.arange(len(row), device=x.device).view(-1, 1, 1, 1) * height * width
            blocks = (part.view(-1, 36).split(step) for part in (row, share))
            for index, weights in zip(*blocks, strict=True):
                arguments = some.flatten(0, 1), index.view(-1, 4), weights.view(-1, 4)
                with torch.autocast(x.device.type, enabled=False):
                    bags = WeightedRows.apply(*arguments)  # type: ignore[no-untyped-call]
                columns = bags.view(-1, 9 * channels).to(x.dtype)
                parts.append(layers.fast_products(F.linear)(columns, kernel, bias))
        return torch.cat(parts).view(n, height * width, -1)

    # A single picture that is not in channels-last memory has no contiguous rows.
    arguments = table.contiguous(), offset, mask
    if torch.is_grad_enabled() and 9 * table.numel() * table.element_size() > KEPT:
        how: Any = {"use_reentrant": False, "preserve_rng_state": False}
        return maps_of(checkpoint(sampled, *arguments, **how), height, width)
    return maps_of(sampled(*arguments), height, width)


class WeightedRows(torch.autograd.Function):
    """Weighted sums (B, C) of table rows (T, C): index and share (B, 4); a fast backward."""

    @staticmethod
    def forward(ctx, table, index, share):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(table, index, share)
        if fused(table):
            out = table.new_empty(len(index), table.shape[1])
            _launch(_gather_rows, table, index, share, out)
            return out
        return F.embedding_bag(index, table, mode="sum", per_sample_weights=share)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        table, index, share = ctx.saved_tensors
        grad, count = grad.contiguous(), len(index)
        if fused(table):
            d_table, d_share = torch.zeros_like(table, dtype=torch.float32), torch.empty_like(share)
            _launch(_scatter_rows, table, index, share, grad, d_table, d_share)
            return d_table.to(table.dtype), None, d_share
        starts = torch.arange(0, 4 * count + 1, 4, device=grad.device)
        bags = torch.arange(count, device=grad.device).repeat_interleave(4)
        slopes = torch.ops.aten._embedding_bag_per_sample_weights_backward
        d_share = slopes(grad, table, index.flatten(), starts[:-1], bags, 0).view_as(share)
        if layers.batches(table):
            d_table = torch.zeros_like(table)
            for rows, weights in zip(index.unbind(1), share.unbind(1), strict=True):
                d_table.index_add_(0, rows, grad * weights[:, None])
            return d_table, None, d_share
        # As a sparse matrix: SciPy multiplies by its transpose 8 times as fast as torch scatters.
        parts = (share.numpy().ravel(), index.numpy().ravel(), starts.numpy())
        matrix = csr_array(parts, shape=(count, len(table)))
        return torch.from_numpy(matrix.T @ grad.numpy()), None, d_share


def fused(table: Tensor) -> bool:
    """Return whether the Triton kernels run on a tensor (in a test also on a CPU, interpreted)."""
    if triton is None or table.dtype == torch.float64:
        return False
    return table.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"


def _launch(kernel: object, table: Tensor, index: Tensor, *others: Tensor) -> None:
    count, channels = len(index), table.shape[1]
    width = min(256, triton.next_power_of_2(channels))
    grid = (triton.cdiv(count, 4096 // width),)
    with torch.cuda.device_of(table):
        kernel[grid](table, index, *others, count, channels, BLOCK=4096 // width, WIDTH=width)  # type: ignore[index]


if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator]
    def _gather_rows(  # type: ignore[no-untyped-def]
        table, index, share, out, count, channels, BLOCK: tl.constexpr, WIDTH: tl.constexpr
    ):
        sample = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = sample < count
        for start in range(0, channels, WIDTH):
            channel = start + tl.arange(0, WIDTH)
            here = inside[:, None] & (channel < channels)[None, :]
            total = tl.zeros((BLOCK, WIDTH), tl.float32)
            for corner in tl.static_range(4):
                row = tl.load(index + sample * 4 + corner, mask=inside, other=0)
                weight = tl.load(share + sample * 4 + corner, mask=inside, other=0.0)
                at = table + row[:, None] * channels + channel[None, :]
                value = tl.load(at, mask=here & (weight != 0)[:, None], other=0.0)
                total += weight[:, None] * value.to(tl.float32)
            at = out + sample[:, None] * channels + channel[None, :]
            tl.store(at, total.to(out.dtype.element_ty), mask=here)

    @triton.jit  # type: ignore[untyped-decorator]
    def _scatter_rows(  # type: ignore[no-untyped-def]
        table,
        index,
        share,
        grad,
        d_table,
        d_share,
        count,
        channels,
        BLOCK: tl.constexpr,
        WIDTH: tl.constexpr,
    ):
        sample = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = sample < count
        for corner in tl.static_range(4):
            row = tl.load(index + sample * 4 + corner, mask=inside, other=0)
            weight = tl.load(share + sample * 4 + corner, mask=inside, other=0.0)
            product = tl.zeros((BLOCK,), tl.float32)
            for start in range(0, channels, WIDTH):
                channel = start + tl.arange(0, WIDTH)
                here = inside[:, None] & (channel < channels)[None, :]
                at = grad + sample[:, None] * channels + channel[None, :]
                upstream = tl.load(at, mask=here, other=0.0).to(tl.float32)
                at = row[:, None] * channels + channel[None, :]
                value = tl.load(table + at, mask=here, other=0.0).to(tl.float32)
                product += tl.sum(upstream * value, axis=1)
                here = here & (weight != 0)[:, None]
                tl.atomic_add(d_table + at, upstream * weight[:, None], mask=here, sem="relaxed")
            tl.store(d_share + sample * 4 + corner, product, mask=inside)


class DeformableConv2d(nn.Module):
    """Deformable 3x3 convolution that predicts its offsets; it starts as a plain one."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.offset_conv = conv3x3(in_channels, 18)
        self.modulator_conv = conv3x3(in_channels, 9)
        self.regular_conv = conv3x3(in_channels, out_channels)
        for parameter in (*self.offset_conv.parameters(), *self.modulator_conv.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self.sample(x, self.offset_conv(x), self.modulator_conv(x))

    def sample(self, x: Tensor, offset: Tensor, logit: Tensor) -> Tensor:
        """Return (N, D, H, W) for x, offsets (N, 18, H, W) and modulation logits (N, 9, H, W)."""
        conv = self.regular_conv
        return deformable_conv2d(x, offset, 2 * torch.sigmoid(logit), conv.weight, conv.bias)
