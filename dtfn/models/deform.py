"""Modulated deformable 3x3 convolution for CPU and GPU, forward and backward.

A sample at a fractional position is a weighted sum of four rows of the (L, C) feature table, and
the convolution that follows is one matrix product over (taps, channels). The weighted sums are an
embedding bag on a CPU, and on a GPU two Triton kernels where Triton is installed and works. The
environment variable ``DTFN_TRITON=0`` replaces them with plain torch operations.
"""

from __future__ import annotations

import os
import warnings
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dtfn.models import layers
from dtfn.models.layers import HALF, conv3x3

try:
    import triton
    import triton.language as tl
except ImportError:  # only on machines with a GPU
    triton = None

BLOCK = 1 << 14  # positions sampled at once without gradients: bounds the (BLOCK, 9, C) columns
BLOCK_GPU = 1 << 16
KEPT_GPU = 1 << 26  # bytes of columns a layer that backward finds kept; larger ones are recomputed
TILE = 1 << 12  # numbers that a Triton program holds of a tensor


def corners(offset: Tensor, mask: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the four rows and weights, both (N, L, 9, 4), of every bilinear sample.

    These are rows of the (L, C) table and bilinear weights times mask; corners outside of the
    picture have weight 0. ``offset`` (N, L, 18) has (dy, dx) for each of the nine taps, row-major,
    ``mask`` (N, L, 9) their modulation.
    """
    n, length, _ = offset.shape
    device, dtype = offset.device, offset.dtype
    y = torch.arange(height, device=device).view(-1, 1, 1)  # (H, 1, 1)
    x = torch.arange(width, device=device).view(1, -1, 1)  # (1, W, 1)
    tap, shape = torch.arange(9, device=device), (height, width, 9)
    base_y = (y + tap // 3 - 1).expand(shape).reshape(1, length, 9).to(dtype)
    base_x = (x + tap % 3 - 1).expand(shape).reshape(1, length, 9).to(dtype)
    shift = offset.view(n, length, 9, 2)
    # Far outside is as good as just outside, and keeps the integers small.
    at_y = (base_y + shift[..., 0]).clamp(-2, height + 1)  # (N, L, 9)
    at_x = (base_x + shift[..., 1]).clamp(-2, width + 1)
    low_y, low_x = at_y.detach().floor(), at_x.detach().floor()
    part_y, part_x = at_y - low_y, at_x - low_x
    row_y, row_x = low_y.long(), low_x.long()

    def axis(row: Tensor, part: Tensor, size: int) -> tuple[Tensor, Tensor]:
        pair = torch.stack((row, row + 1), -1)  # (N, L, 9, 2)
        inside = (pair >= 0) & (pair < size)
        weight = torch.stack((1 - part, part), -1) * inside
        return pair.clamp(0, size - 1), weight

    rows_y, weights_y = axis(row_y, part_y, height)
    rows_x, weights_x = axis(row_x, part_x, width)
    weights_y = weights_y * mask[..., None]
    rows = rows_y[..., :, None] * width + rows_x[..., None, :]  # (N, L, 9, 2, 2)
    weights = weights_y[..., :, None] * weights_x[..., None, :]
    return rows.flatten(-2), weights.flatten(-2)


def deformable_conv2d(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Modulated deformable 3x3 convolution (DCNv2), zeros outside, as torchvision computes it.

    Parameters
    ----------
    x
        (N, C, H, W).
    offset, mask
        (N, 18, H, W) in pixels, (dy, dx) a tap, taps row-major; (N, 9, H, W).
    weight, bias
        (D, C, 3, 3) and (D,) or None.

    Returns
    -------
    (N, D, H, W), in channels-last memory.
    """
    n, channels, height, width = x.shape
    exact = torch.float32 if x.dtype in HALF else x.dtype
    large = layers.batches(x)
    table = rows_of(x if large else x.to(exact)).reshape(-1, channels)
    offset, mask = (rows_of(t).to(exact) for t in (offset, mask))  # (N, L, 18), (N, L, 9)
    # (D, C, 3, 3) -> (D, 9C): columns are ordered (tap, channel)
    kernel = weight.permute(0, 2, 3, 1).flatten(1)
    arguments = (table, offset, mask, kernel, bias, height, width, x.dtype)
    size = 9 * table.numel() * table.element_size()
    if large and size > KEPT_GPU and torch.is_grad_enabled():
        out = checkpoint(_sampled, *arguments, use_reentrant=False, preserve_rng_state=False)
    else:
        out = _sampled(*arguments)
    return out.view(n, height, width, -1).permute(0, 3, 1, 2)


def _sampled(
    table: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    height: int,
    width: int,
    dtype: torch.dtype,
) -> Tensor:
    """Return (N * L, D) for a table (N * L, C), a kernel (D, 9C), and the rest as in `corners`."""
    rows, weights = corners(offset, mask, height, width)
    rows = rows + (torch.arange(len(rows), device=rows.device) * height * width).view(-1, 1, 1, 1)
    rows, weights = rows.view(-1, 36), weights.view(-1, 36)
    large = layers.batches(table)
    step = BLOCK_GPU if large else BLOCK
    parts = []
    for start in range(0, len(rows), len(rows) if torch.is_grad_enabled() else step):
        stop = len(rows) if torch.is_grad_enabled() else start + step
        index, share = rows[start:stop].reshape(-1, 4), weights[start:stop].reshape(-1, 4)
        with torch.autocast(table.device.type, enabled=False):
            bags = WeightedRows.apply(table, index, share)  # type: ignore[no-untyped-call]
        columns = bags.view(-1, kernel.shape[1]).to(dtype)
        if large:
            parts.append(F.linear(columns, kernel, bias))
        else:
            # A 1x1 convolution over a one-column image: oneDNN multiplies faster than this BLAS.
            image = columns.view(1, -1, 1, kernel.shape[1]).permute(0, 3, 1, 2)
            out = F.conv2d(image, kernel[:, :, None, None], bias)
            parts.append(out.permute(0, 2, 3, 1).flatten(0, 2))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class WeightedRows(torch.autograd.Function):
    """Weighted sums of table rows: a weighted embedding bag with a fast backward.

    Arguments of `apply`: table (T, C); index (B, 4) int64; share (B, 4). Returns (B, C) in the type
    of the table.
    """

    @staticmethod
    def forward(ctx, table, index, share):  # type: ignore[no-untyped-def]
        """Return ``sum_k share[:, k] * table[index[:, k]]``."""
        ctx.save_for_backward(table, index, share)
        if uses_triton(table):
            return _triton_forward(table, index, share)
        if not layers.batches(table):
            return F.embedding_bag(index, table, mode="sum", per_sample_weights=share)
        out = share.new_zeros(len(index), table.shape[1])
        for corner in range(4):
            rows = table.index_select(0, index[:, corner])
            out.addcmul_(rows.to(out.dtype), share[:, corner, None])
        return out.to(table.dtype)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Return the gradients of the table and of the shares."""
        table, index, share = ctx.saved_tensors
        grad = grad.contiguous()
        if uses_triton(table):
            d_table, d_share = _triton_backward(table, index, share, grad)
            return d_table, None, d_share
        if layers.batches(table):
            grad = grad.to(share.dtype)
            d_table, d_share = torch.zeros_like(table, dtype=share.dtype), torch.empty_like(share)
            for corner in range(4):
                rows = table.index_select(0, index[:, corner])
                d_share[:, corner] = (grad * rows).sum(-1)
                d_table.index_add_(0, index[:, corner], grad * share[:, corner, None])
            return d_table.to(table.dtype), None, d_share
        starts = np.arange(0, index.numel() + 1, 4)
        bags = torch.arange(len(index)).repeat_interleave(4)
        d_share = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad, table, index.flatten(), torch.from_numpy(starts[:-1]), bags, 0
        ).view_as(share)
        # The bag is a sparse matrix with four entries a row. SciPy multiplies by its transpose
        # eight times as fast as torch scatters rows.
        parts = (share.numpy().ravel(), index.numpy().ravel(), starts)
        matrix = csr_array(parts, shape=(len(index), len(table)))
        return torch.from_numpy(matrix.T @ grad.numpy()), None, d_share


def uses_triton(table: Tensor) -> bool:
    """Return whether `WeightedRows` runs the Triton kernels for this table."""
    wanted = triton is not None and os.environ.get("DTFN_TRITON", "1") != "0"
    if not wanted or table.dtype == torch.float64:
        return False
    if table.device.type == "cuda":
        return _triton_works(table.device)
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _triton_works(device: torch.device) -> bool:
    """Compare the kernels with plain operations, once; a failure is warned of and not fatal."""
    source = torch.Generator().manual_seed(0)
    table, grad = (torch.randn(size, 20, generator=source).to(device) for size in (50, 300))
    index = torch.randint(0, 50, (300, 4), generator=source).to(device)
    share = torch.rand(300, 4, generator=source).to(device)
    try:
        rows = table[index]  # (300, 4, 20)
        d_table = torch.zeros_like(table)
        d_table.index_add_(0, index.flatten(), (share[..., None] * grad[:, None]).flatten(0, 1))
        expected = ((share[..., None] * rows).sum(1), d_table, (grad[:, None] * rows).sum(-1))
        found = (_triton_forward(table, index, share), *_triton_backward(table, index, share, grad))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    except Exception as error:  # a compiler or a driver that does not fit
        warnings.warn(f"Triton is not used: {type(error).__name__}: {error}", stacklevel=2)
        return False
    return True


def _triton_forward(table: Tensor, index: Tensor, share: Tensor) -> Tensor:
    out = table.new_empty(len(index), table.shape[1])
    _launch(_gather_rows, table, index, share, out)
    return out


def _triton_backward(
    table: Tensor, index: Tensor, share: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    d_table, d_share = torch.zeros_like(table, dtype=torch.float32), torch.empty_like(share)
    _launch(_scatter_rows, table, index, share, grad, d_table, d_share)
    return d_table.to(table.dtype), d_share


def _launch(kernel: object, table: Tensor, index: Tensor, *others: Tensor) -> None:
    """Run a kernel on the current stream, some samples a program."""
    count, channels = len(index), table.shape[1]
    width = min(256, triton.next_power_of_2(channels))
    block = TILE // width
    with torch.cuda.device_of(table):
        kernel[(triton.cdiv(count, block),)](  # type: ignore[index]
            table, index, *others, count, channels, BLOCK=block, WIDTH=width
        )


if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator]
    def _gather_rows(  # type: ignore[no-untyped-def]
        table, index, share, out, count, channels, BLOCK: tl.constexpr, WIDTH: tl.constexpr
    ):
        """Write the weighted sums of four rows for BLOCK samples."""
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
        """Add the gradients of BLOCK samples to the table's, and write those of their shares."""
        sample = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = sample < count
        for corner in tl.static_range(4):
            row = tl.load(index + sample * 4 + corner, mask=inside, other=0)
            weight = tl.load(share + sample * 4 + corner, mask=inside, other=0.0)
            product = tl.zeros((BLOCK,), tl.float32)
            for start in range(0, channels, WIDTH):
                channel = start + tl.arange(0, WIDTH)
                here = inside[:, None] & (channel < channels)[None, :]
                upstream = tl.load(
                    grad + sample[:, None] * channels + channel[None, :], mask=here, other=0.0
                ).to(tl.float32)
                at = row[:, None] * channels + channel[None, :]
                value = tl.load(table + at, mask=here, other=0.0).to(tl.float32)
                product += tl.sum(upstream * value, axis=1)
                tl.atomic_add(
                    d_table + at,
                    upstream * weight[:, None],
                    mask=here & (weight != 0)[:, None],
                    sem="relaxed",
                )
            tl.store(d_share + sample * 4 + corner, product, mask=inside)


def rows_of(x: Tensor) -> Tensor:
    """Return (N, C, H, W) as (N, H*W, C); free of a copy in channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def maps_of(rows: Tensor, height: int, width: int) -> Tensor:
    """Return (N, H*W, C) as (N, C, H, W) in channels-last memory: the inverse of `rows_of`."""
    return rows.unflatten(1, (height, width)).permute(0, 3, 1, 2)


class DeformableConv2d(nn.Module):
    """Deformable 3x3 convolution that predicts its own offsets and modulation (``2 * sigmoid``).

    Offsets start at 0 and the modulation at 1, so that it starts as a plain convolution.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.offset_conv = conv3x3(in_channels, 18)
        self.modulator_conv = conv3x3(in_channels, 9)
        self.regular_conv = conv3x3(in_channels, out_channels)
        for layer in (self.offset_conv, self.modulator_conv):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, D, H, W) for x (N, C, H, W)."""
        return self.sample(x, self.offset_conv(x), self.modulator_conv(x))

    def sample(self, x: Tensor, offset: Tensor, logit: Tensor) -> Tensor:
        """Return (N, D, H, W) for x, offsets (N, 18, H, W) and modulation logits (N, 9, H, W)."""
        conv = self.regular_conv
        return deformable_conv2d(x, offset, 2 * torch.sigmoid(logit), conv.weight, conv.bias)
