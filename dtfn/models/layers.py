"""Plain layers that every network of the family shares; names follow the authors' checkpoints."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size (zero padding)."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def exact(x: Tensor) -> Tensor:
    """Return a tensor in float32 where it is half precision: scores and positions need digits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def batches(tensor: Tensor) -> bool:
    """Return whether a tensor's device is fastest with few large operations: all but CPUs are."""
    return tensor.device.type != "cpu"


def room(tensor: Tensor, numbers: int) -> int:
    """Return how much is held at once on a tensor's device: ``numbers`` fit a CPU's cache."""
    return 32 * numbers if batches(tensor) else numbers


def rows_of(x: Tensor) -> Tensor:
    """Return (N, C, H, W) as (N, H*W, C); free of a copy in channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def maps_of(rows: Tensor, height: int, width: int) -> Tensor:
    """Return (N, H*W, C) as (N, C, H, W) in channels-last memory: the inverse of `rows_of`."""
    return rows.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def fast_products(function: Any) -> Any:
    """Let oneDNN multiply float32 matrices on a CPU in a function: on AMD's twice as fast as MKL.

    A shape that is new costs it about a megabyte, and milliseconds. The setting is the process's.
    """

    def fast(*arguments: Any) -> Any:
        setting: Any = getattr(torch.backends.mkldnn, "matmul", None)  # from torch 2.9
        if torch.compiler.is_compiling() or not setting or setting.fp32_precision != "none":
            return function(*arguments)
        setting.fp32_precision = "bf16"
        try:
            if not _keeps_digits():
                setting.fp32_precision = "none"
            return function(*arguments)
        finally:
            setting.fp32_precision = "none"

    return fast


@functools.cache
def _keeps_digits() -> bool:
    """Return whether products that oneDNN may round now are exact, as on CPUs without AMX."""
    how: Any = {"dtype": torch.float32, "device": "cpu"}
    fine = torch.full((8, 64, 64), 1 + 2.0**-20, **how)
    with torch.autocast("cpu", enabled=False):
        return torch.equal(fine @ torch.eye(64, **how), fine)


class Switchable(nn.Module):
    """A layer that maps (N, C, H, W) to itself, by `when_on`, and can be skipped.

    Where ``on`` is False it returns its input. A bool tensor (N,) decides for each picture of the
    batch; it may be overwritten in place between the replays of a CUDA graph.
    """

    on: bool | Tensor = True
    when_on: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        # Small networks are tested on pictures of many sizes, and would fill oneDNN's memory.
        often = torch.is_grad_enabled() or x.shape[1] >= 128
        return (fast_products(self._switched) if often else self._switched)(x)

    def _switched(self, x: Tensor) -> Tensor:
        on = self.on
        if not isinstance(on, Tensor):
            return self.when_on(x) if on else x
        if not batches(x):
            some = on.nonzero()[:, 0]
            # With none the whole batch runs: then all parameters have gradients, if of zeros.
            if 0 < len(some) < len(x):
                part = x.index_select(0, some)
                if x.is_contiguous(memory_format=torch.channels_last):
                    part = part.contiguous(memory_format=torch.channels_last)
                return x.index_copy(0, some, self.when_on(part).to(x.dtype))
        return torch.where(on.view(-1, 1, 1, 1), self.when_on(x), x)


class Residual(nn.Module):
    """Some layers around a skip: ``body(x) * res_scale + x``, (N, C, H, W) like x."""

    def __init__(self, *body: nn.Module, res_scale: float = 1.0) -> None:
        super().__init__()
        self.body, self.res_scale = nn.Sequential(*body), res_scale

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.body(x), alpha=self.res_scale)


class CCALayer(nn.Module):
    """Contrast-aware channel attention (IMDN): a gate a channel from its standard deviation + mean.

    The gradient is 0 where a channel is constant; a bare square root would give NaN there.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // 16)
        down, up = nn.Conv2d(channels, narrow, 1), nn.Conv2d(narrow, channels, 1)
        self.conv_du = nn.Sequential(down, nn.ReLU(inplace=True), up, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        rows = rows_of(exact(x))  # (N, L, C)
        mean = rows.mean(1, keepdim=True)
        # Two plain passes over rows: torch.var_mean is forty times slower in channels-last memory.
        variance = (rows - mean).square().mean(1, keepdim=True)
        flat = variance <= 0
        std = torch.where(flat, variance, variance.masked_fill(flat, 1.0).sqrt())
        contrast = (std + mean).transpose(1, 2)[..., None].to(x.dtype)  # (N, C, 1, 1)
        return x * self.conv_du(contrast)


class Fusion(nn.Module):
    """TFS: ``z = concat(x, attended); out = shrink(z + fusion(z)) * res_scale + x``."""

    res_scale: float

    def build_fusion(self, channels: int) -> None:
        """Add ``fusion`` and ``shrink`` for C channels."""
        double = 2 * channels
        gate: list[nn.Module] = [CCALayer(double)]
        for _ in range(2):
            down, up = nn.Conv2d(double, channels, 1), nn.Conv2d(channels, double, 1)
            gate.append(Residual(down, nn.ReLU(inplace=True), up))
        self.fusion: Any = nn.Sequential(nn.Sequential(*gate))
        self.shrink: Any = nn.Sequential(nn.Conv2d(double, channels, 1))

    def fuse(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return (N, C, H, W) for the local x and the non-local ``attended`` of the same shape."""
        both = torch.cat((x, attended), 1)  # (N, 2C, H, W)
        return torch.add(x, self.shrink(both + self.fusion(both)), alpha=self.res_scale)

    @torch.no_grad()
    def begin_as_attention(self) -> None:
        """Set the weights of the fusion so that at first it changes nothing about the attention."""
        gate, shrink = self.fusion[0], self.shrink[0]
        for last in (gate[0].conv_du[2], gate[1].body[2], gate[2].body[2], shrink):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        # The gate is 1/2 now, so the fusion adds half of what it gets: 1.5 times is passed on.
        attended = shrink.weight[:, shrink.out_channels :, 0, 0]  # (C, C) of (C, 2C, 1, 1)
        scale = getattr(getattr(self, "attention", self), "res_scale", 1.0)
        attended.fill_diagonal_(scale / (1.5 * self.res_scale))


class TextureFidelity(Fusion, Switchable):
    """The texture-fidelity strategy around any attention: a gate on what it may add.

    What is fused is the bare ``attend(x)`` of a layer of `dtfn.models.attention`, or else the
    output of any module that maps (N, C, H, W) to itself.
    """

    def __init__(self, attention: nn.Module, channels: int, res_scale: float = 1.0) -> None:
        super().__init__()
        self.attention, self.res_scale = attention, res_scale
        self.build_fusion(channels)

    def when_on(self, x: Tensor) -> Tensor:
        return self.fuse(x, getattr(self.attention, "attend", self.attention)(x))
