"""A small network from elsewhere, with attention: an example for dtfn.

dtfn evaluate bicubic examples/own_network.py:network
dtfn gate examples/own_network.py:network --datasets mini --count 2

With trained weights: "examples/own_network.py:network?weights=FILE.pt".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE = 4


class Attention(nn.Module):
    """Attention of two heads over all positions of the picture."""

    def __init__(self, channels: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Conv2d(channels, 3 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        parts = self.embed(x).flatten(2).chunk(3, 1)  # (N, C, L) each
        query, key, value = (part.unflatten(1, (self.heads, -1)).mT for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value)  # (N, heads, L, C / heads)
        return x + self.project(mixed.mT.reshape(x.shape))


class Network(nn.Module):
    """Adds details to the bicubic enlargement of a picture in [0, 1]."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.attention = Attention(channels)
        self.body = nn.Conv2d(channels, channels, 3, padding=1)
        self.tail = nn.Conv2d(channels, 3 * SCALE**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, 4H, 4W)."""
        base = F.interpolate(x, scale_factor=SCALE, mode="bicubic")
        features = self.body(self.attention(self.head(x)).relu()).relu()
        return base + 0.01 * F.pixel_shuffle(self.tail(features), SCALE)


def network(weights: str | None = None) -> nn.Module:
    """Return the network: the function that dtfn calls."""
    torch.manual_seed(0)
    model = Network()
    if weights:
        model.load_state_dict(torch.load(weights, weights_only=True))
    return model
