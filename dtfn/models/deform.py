"""Modulated deformable 3x3 convolution in pure torch, for CPU and GPU, forward and backward.

A sample at a fractional position is a weighted sum of four rows of the (L, C) feature table, so all
samples together are one weighted embedding bag, and the convolution that follows is one matrix
product over (taps, channels).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn

from dtfn.models.layers import HALF, conv3x3

BLOCK = 1 << 14  # positions sampled at once without gradients: bounds the (BLOCK, 9, C) columns


def corners(offset: Tensor, mask: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the four rows and weights of every bilinear sample.

    Parameters
    ----------
    offset
        (N, L, 18): (dy, dx) in pixels for each of the nine taps, taps row-major, as in
        ``torchvision.ops.deform_conv2d``.
    mask
        (N, L, 9): modulation of each tap.
    height, width
        Size of the feature map, L = height * width.

    Returns
    -------
    rows, weights : Tensor
        Both (N, L, 9, 4): row of the (L, C) table, and bilinear weight times mask. Corners outside
        the image have weight 0.
    """
    n, length, _ = offset.shape
    device, dtype = offset.device, offset.dtype
    y = torch.arange(height, device=device).view(-1, 1, 1)  # (H, 1, 1)
    x = torch.arange(width, device=device).view(1, -1, 1)  # (1, W, 1)
    tap = torch.arange(9, device=device)
    base_y = (y + tap // 3 - 1).expand(height, width, 9).reshape(1, length, 9).to(dtype)
    base_x = (x + tap % 3 - 1).expand(height, width, 9).reshape(1, length, 9).to(dtype)
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
    offset
        (N, 18, H, W) in pixels, (dy, dx) a tap, taps row-major.
    mask
        (N, 9, H, W).
    weight, bias
        (D, C, 3, 3) and (D,) or None.

    Returns
    -------
    Tensor
        (N, D, H, W), in channels-last memory.
    """
    n, channels, height, width = x.shape
    length = height * width
    half = x.dtype in HALF
    table = rows_of(x.float() if half else x).reshape(n * length, channels)
    # (D, C, 3, 3) -> (D, 9C, 1, 1): columns are ordered (tap, channel)
    kernel = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1, 1, 1)
    offset, mask = (rows_of(t).to(table.dtype) for t in (offset, mask))  # (N, L, 18), (N, L, 9)
    rows, weights = corners(offset, mask, height, width)
    rows = rows + (torch.arange(n, device=x.device) * length).view(n, 1, 1, 1)
    rows, weights = rows.view(n * length, 36), weights.view(n * length, 36)
    step = n * length if torch.is_grad_enabled() else BLOCK
    parts = []
    for start in range(0, n * length, step):
        index = rows[start : start + step].reshape(-1, 4)
        share = weights[start : start + step].reshape(-1, 4)
        with torch.autocast(x.device.type, enabled=False):
            bags = WeightedRows.apply(table, index, share)  # type: ignore[no-untyped-call]
        # A 1x1 convolution over an image of one column: oneDNN multiplies faster than this BLAS.
        image = bags.view(1, -1, 1, 9 * channels).permute(0, 3, 1, 2).to(x.dtype)
        parts.append(F.conv2d(image, kernel, bias).permute(0, 2, 3, 1).flatten(0, 2))
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out.view(n, height, width, -1).permute(0, 3, 1, 2)


class WeightedRows(torch.autograd.Function):
    """Weighted sums of table rows: a weighted embedding bag with a fast backward on CPUs.

    Arguments of `apply`: table (T, C); index (B, 4) int64; share (B, 4). Returns (B, C).
    """

    @staticmethod
    def forward(ctx, table, index, share):  # type: ignore[no-untyped-def]
        """Return ``sum_k share[:, k] * table[index[:, k]]``."""
        ctx.save_for_backward(table, index, share)
        return F.embedding_bag(index, table, mode="sum", per_sample_weights=share)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Return the gradients of the table and of the shares."""
        table, index, share = ctx.saved_tensors
        on_cpu = table.device.type == "cpu"
        with torch.enable_grad():
            leaf = table.detach().requires_grad_(not on_cpu)
            weights = share.detach().requires_grad_()
            bag = F.embedding_bag(index, leaf, mode="sum", per_sample_weights=weights)
        if not on_cpu:
            d_table, d_share = torch.autograd.grad(bag, (leaf, weights), grad)
            return d_table, None, d_share
        (d_share,) = torch.autograd.grad(bag, weights, grad)
        # The bag is a sparse matrix with four entries a row. SciPy multiplies by its transpose
        # eight times as fast as torch scatters rows.
        starts = np.arange(0, index.numel() + 1, 4)
        parts = (share.numpy().ravel(), index.numpy().ravel(), starts)
        matrix = csr_array(parts, shape=(len(index), len(table)))
        return torch.from_numpy(matrix.T @ grad.contiguous().numpy()), None, d_share


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
