"""Local attribution: which LR pixels a patch of the super-resolved picture depends on.

The idea of local attribution maps (LAM; Gu and Dong, CVPR 2021): how much detail a network draws in
a patch is attributed to the LR pixels, by integrating gradients along a path from a blurred LR
picture, in which there is nothing to draw, to the LR picture itself. Attention maps say where one
layer looks; attribution says what the whole network used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from dtfn.errors import InputError

Float = NDArray[np.float64]
Detector = Callable[[Tensor], Tensor]
Rectangle = tuple[int, int, int, int]

SIGMA = 1.2  # of the strongest blur, LR pixels: the value of the paper's published demonstration
STEPS = 50
REACH = 4  # where a Gaussian ends, in sigmas
FLAT = 1e-12  # squared slope below which a gradient magnitude is not differentiable in practice


@dataclass(frozen=True)
class Attribution:
    """What a patch of the output owes to each LR pixel.

    The sum of the map is `change`, except for what the steps and the jumps of a hashed attention
    leave out.
    """

    map: Float  # (H, W), signed, summed over the colour channels
    start: float  # the detector on the output for the blurred LR picture
    end: float  # and for the LR picture

    @property
    def change(self) -> float:
        """What there is to attribute: end - start."""
        return self.end - self.start

    @property
    def incompleteness(self) -> float:
        """By how much the map's sum misses `change`, as a share of the larger of its two ends."""
        missed = abs(float(self.map.sum()) - self.change)
        return missed / max(abs(self.start), abs(self.end), FLAT)

    @property
    def diffusion(self) -> float:
        """`diffusion_index` of the map."""
        return diffusion_index(self.map)


def square(middle: tuple[int, int], side: int, shape: tuple[int, ...]) -> Rectangle:
    """Return (top, left, height, width) of a square around a position, moved into the picture."""
    height, width = min(side, shape[0]), min(side, shape[1])
    top = min(max(middle[0] - height // 2, 0), shape[0] - height)
    left = min(max(middle[1] - width // 2, 0), shape[1] - width)
    return top, left, height, width


def attribute(
    network: nn.Module,
    lr: NDArray[np.uint8],
    window: Rectangle,
    *,
    sigma: float = SIGMA,
    steps: int = STEPS,
    detector: Detector | None = None,
) -> Attribution:
    """Return what a patch of a network's output owes to each LR pixel.

    Parameters
    ----------
    network
        Maps RGB in [0, 1] ``(1, 3, H, W)`` to ``(1, 3, sH, sW)``, s being its attribute ``scale``.
        It runs in evaluation mode, in the type and on the device of its weights.
    lr
        uint8 RGB ``(H, W, 3)``. Time is some three passes of the network a step.
    window
        (top, left, height, width) of the patch in LR positions: the blocks whose detail counts.
    sigma
        Of the path's first blur, LR pixels.
    steps
        Of the path; the error falls with their square where the network is smooth.
    detector
        Output of the patch ``(1, 3, s height, s width)`` -> a number; None: `total_slope`.

    Raises
    ------
    InputError
        For another kind of picture, a window that does not lie inside, or a path without steps.

    Notes
    -----
    Gu and Dong's equations: with the path g(a) = blur of sigma (1 - a), pixel i gets the integral
    over a in [0, 1] of dD(F(g(a)))/dg_i dg_i/da. Here each step's difference of g meets the
    gradient at the middle of the step (they take an end of it), so linear networks are exact in
    one step.
    """
    _check(lr, window, sigma, steps)
    measure = total_slope if detector is None else detector
    weight = next(network.parameters())
    scale = int(network.scale)  # type: ignore[arg-type]
    top, left, height, width = (scale * v for v in window)

    def detected(x: Tensor) -> Tensor:
        return measure(network(x)[:, :, top : top + height, left : left + width])

    def tensor(image: Float) -> Tensor:
        return torch.from_numpy(image).permute(2, 0, 1)[None].to(weight)

    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            end = float(detected(tensor(lr / 255)))
            before = _blurred(lr, sigma, sigma)
            start = float(detected(tensor(before)))
        total = np.zeros(lr.shape[:2])
        for step in range(1, steps + 1):
            after = _blurred(lr, sigma * (1 - step / steps), sigma)
            x = tensor((before + after) / 2).requires_grad_()
            (slope,) = torch.autograd.grad(detected(x), x)
            moved = slope[0].permute(1, 2, 0).double().cpu().numpy() * (after - before)
            total += moved.sum(axis=2)
            before = after
    finally:
        network.train(was_training)
    return Attribution(total, start, end)


def total_slope(patch: Tensor) -> Tensor:
    """Return how much detail a patch has: the sum of its gradient magnitudes.

    Parameters
    ----------
    patch
        (1, 3, h, w), in [0, 1]; differences to the next pixel below and to the right.
    """
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


def _blurred(lr: NDArray[np.uint8], sigma: float, widest: float) -> Float:
    """Return the picture in [0, 1], blurred; all with one radius, or the path would jump."""
    image = lr / 255
    if sigma <= 0:
        return image
    radius = int(np.ceil(REACH * widest))
    return ndimage.gaussian_filter(image, sigma, mode="mirror", radius=radius, axes=(0, 1))


def _check(lr: NDArray[np.uint8], window: Rectangle, sigma: float, steps: int) -> None:
    if lr.dtype != np.uint8 or lr.ndim != 3 or lr.shape[2] != 3:
        given, remedy = f"{lr.dtype} {lr.shape}", "use dtfn.images.as_rgb"
        raise InputError("LR image", "uint8 (H, W, 3)", given, remedy)
    top, left, height, width = window
    bottom, right = lr.shape[0] - height, lr.shape[1] - width
    inside = 0 <= top <= bottom and 0 <= left <= right
    if not inside or height < 1 or width < 1:
        wanted = f"(top, left, height, width) within {lr.shape[0]} x {lr.shape[1]} positions"
        remedy = "choose one inside the picture"
        raise InputError("window", wanted, window, remedy)
    if steps < 1 or not sigma > 0:
        raise InputError(
            "path",
            "one step or more, and a sigma above 0",
            f"{steps} steps, sigma {sigma}",
            f"use {STEPS} steps and sigma {SIGMA}",
        )
