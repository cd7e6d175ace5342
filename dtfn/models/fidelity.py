"""The texture-fidelity strategy (TFS): a learned gate on how much of an attention is admitted.

``z = concat(x, attended); z = z + fusion(z); out = shrink(z) * res_scale + x``
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dtfn.models.layers import Bottleneck, CCALayer, Switchable


def fusion_layers(channels: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Return ``fusion`` and ``shrink`` for C channels, named as in DTFN's checkpoints."""
    double = 2 * channels
    gate = nn.Sequential(CCALayer(double), Bottleneck(double), Bottleneck(double))
    return nn.Sequential(gate), nn.Sequential(nn.Conv2d(double, channels, 1))


def fuse(x: Tensor, attended: Tensor, fusion: nn.Module, shrink: nn.Module) -> Tensor:
    """Return the fused residual (N, C, H, W) of the local x and the non-local ``attended``."""
    both = torch.cat((x, attended), 1)  # (N, 2C, H, W)
    return shrink(both + fusion(both))


class TextureFidelity(Switchable):
    """TFS around any attention.

    Parameters
    ----------
    attention
        A layer of `dtfn.models.attention`, whose bare ``attend(x)`` is fused with x, or any module
        that maps (N, C, H, W) to itself, whose output is fused with x.
    channels
        C.
    res_scale
        Weight of the fused residual before it is added to x.

    The switch of this layer decides; that of ``attention`` inside it is not asked.
    """

    def __init__(self, attention: nn.Module, channels: int, res_scale: float = 1.0) -> None:
        super().__init__()
        self.attention = attention
        self.fusion, self.shrink = fusion_layers(channels)
        self.res_scale = res_scale

    def when_on(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) for x of the same shape."""
        attended = getattr(self.attention, "attend", self.attention)(x)
        return fuse(x, attended, self.fusion, self.shrink) * self.res_scale + x
