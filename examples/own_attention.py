"""An attention that dtfn does not know, for training; CONTRIBUTING.md explains it.

dtfn gate "examples/own_attention.py:network?weights=FILE.safetensors"
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtfn import models
from dtfn.models.attention import NonLocalAttention


class CosineAttention(NonLocalAttention):
    """Non-local attention that compares directions, with a learned temperature."""

    def __init__(self, channels: int, res_scale: float = 1.0, reduction: int = 2) -> None:
        super().__init__(channels, reduction, res_scale)
        self.temperature = nn.Parameter(torch.tensor(4.0))

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys (N, Cq, H, W), and values (N, C, H, W)."""
        query, key, value = super().embed(x)
        return F.normalize(query, dim=1) * self.temperature, F.normalize(key, dim=1), value


models.register("cosine", CosineAttention, reduction=2)


def network(weights: str) -> models.Network:
    """Return a trained network: what ``FILE.py:network?weights=FILE`` calls."""
    return models.load(weights)
