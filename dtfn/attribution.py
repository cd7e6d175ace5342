"""Local attribution: which LR pixels a patch of the super-resolved picture depends on.

The idea of local attribution maps (LAM; Gu and Dong, CVPR 2021): how much detail a network draws in
a patch is attributed to the LR pixels, by integrating gradients along a path from a blurred LR
picture, in which there is nothing to draw, to the LR picture itself. Attention maps say where one
layer looks; attribution says what the whole network used.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

Float = NDArray[np.float64]

SIGMA = 1.2  # of the strongest blur, LR pixels: the value of the paper's published demonstration
RADIUS = 5  # LR pixels: 4 sigmas
STEPS = 50
FLAT = 1e-12  # squared slope below which a gradient magnitude is not differentiable in practice


class Attribution(NamedTuple):
    """What a patch of the output owes to each LR pixel."""

    map: Float  # (H, W), signed, summed over the colour channels
    diffusion: float  # `diffusion_index` of the map


def attribute(
    network: nn.Module, lr: NDArray[np.uint8], window: tuple[int, ...], steps: int = STEPS
) -> Attribution:
    """Return what a patch of a network's output owes to each LR pixel.

    ``lr`` is uint8 RGB ``(H, W, 3)``; ``window`` is (top, left, height, width) of the patch in LR
    positions. A step of the path takes some three passes of the network. The sum of the map is the
    `total_slope` of the patch less that for the blurred LR picture, except for what the steps and
    the jumps of a hashed attention leave out.

    Gu and Dong's equations: with the path g(a) = blur of sigma (1 - a), pixel i gets the integral
    over a in [0, 1] of dD(F(g(a)))/dg_i dg_i/da. Here each step's difference of g meets the
    gradient at the middle of the step (they take an end), so linear networks need one step.
    """
    weight, scale = next(network.parameters()), int(network.scale)  # type: ignore[arg-type]
    top, left, height, width = (scale * v for v in window)
    # All blurs have one radius, or the path would jump; the last has sigma 0 and is the picture.
    path = (
        ndimage.gaussian_filter(
            lr / 255, SIGMA * (1 - n / steps), radius=RADIUS, mode="mirror", axes=(0, 1)
        )
        for n in range(steps + 1)
    )
    total = np.zeros(lr.shape[:2])
    was_training = network.training
    network.eval()
    try:
        for before, after in itertools.pairwise(path):
            x = torch.from_numpy((before + after) / 2).permute(2, 0, 1)[None]
            x = x.to(weight).requires_grad_()
            patch = network(x)[:, :, top : top + height, left : left + width]
            (slope,) = torch.autograd.grad(total_slope(patch), x)
            moved = slope[0].permute(1, 2, 0).double().cpu().numpy() * (after - before)
            total += moved.sum(axis=2)
    finally:
        network.train(was_training)
    return Attribution(total, diffusion_index(total))


def total_slope(patch: Tensor) -> Tensor:
    """Return how much detail a patch (1, 3, h, w) has: the sum of its gradient magnitudes."""
    down = patch[:, :, 1:, :-1] - patch[:, :, :-1, :-1]
    right = patch[:, :, :-1, 1:] - patch[:, :, :-1, :-1]
    return (down.square() + right.square() + FLAT).sqrt().sum()


def diffusion_index(attribution: Float) -> float:
    """Return over how many pixels an attribution is spread, in [0, 100].

    (1 - G) 100, G being the Gini coefficient of the absolute values: 100 where all pixels count
    the same, near 0 where one has all. It depends on the picture's size: compare networks on one
    picture, as Gu and Dong do.
    """
    values = np.sort(np.abs(attribution), axis=None)
    total = values.sum()
    if not total:
        return 100.0
    rank = np.arange(1, values.size + 1)
    # The sum over pairs |a - b| of sorted numbers, without the pairs.
    gini = np.sum((2 * rank - values.size - 1) * values) / (values.size * total)
    return float(100 * (1 - gini))
