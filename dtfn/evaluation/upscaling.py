"""Run a network on one picture: whole or in tiles, once or as a self-ensemble."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dtfn.errors import InputError
from dtfn.evaluation.tiling import Chop, Tiling

if TYPE_CHECKING:
    import torch


def upscale(
    network: torch.nn.Module,
    lr: NDArray[np.uint8],
    tiling: Tiling | Chop | None = None,
    self_ensemble: bool = False,
) -> NDArray[np.uint8]:
    """Return the super-resolved image of ``lr``.

    Parameters
    ----------
    network
        Maps RGB in [0, 1] ``(1, 3, H, W)`` to ``(1, 3, sH, sW)``, s being its attribute ``scale``.
        It runs in evaluation mode, on the device of its weights.
    lr
        uint8 ``(H, W, 3)`` RGB.
    tiling
        How the image is cut; None: the network sees it whole.
    self_ensemble
        Average over the 8 flips and quarter turns of the image, each tiled by itself, before
        rounding, as the "+" methods of the field do.

    Returns
    -------
    uint8 ``(sH, sW, 3)``: the output clamped to [0, 1], times 255, rounded half up.

    Raises
    ------
    InputError
        For another input, or an output of another size or with NaN or infinity in it.
    """
    import torch

    if lr.dtype != np.uint8 or lr.ndim != 3 or lr.shape[2] != 3:
        raise InputError(
            "LR image", expected="uint8 (H, W, 3)", found=f"{lr.dtype} {lr.shape}",
            remedy="use dtfn.images.as_rgb",
        )  # fmt: skip
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            x = torch.from_numpy(lr.copy()).to(device).permute(2, 0, 1)[None]  # (1, 3, H, W)
            x = x.float() / 255
            made = _ensemble(network, x, tiling) if self_ensemble else _tiled(network, x, tiling)
            sr = (made[0].clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8).permute(1, 2, 0)
    finally:
        network.train(was_training)
    return np.ascontiguousarray(sr.cpu().numpy())


def _ensemble(
    network: torch.nn.Module, x: torch.Tensor, tiling: Tiling | Chop | None
) -> torch.Tensor:
    """Return the mean (1, 3, sH, sW) over the dihedral group, each turned back."""
    total: torch.Tensor | None = None
    for turned, flips in itertools.product((False, True), ((), (2,), (3,), (2, 3))):
        seen = x.flip(flips).mT if turned else x.flip(flips)
        made = _tiled(network, seen, tiling)
        made = (made.mT if turned else made).flip(flips)
        total = made if total is None else total + made
    assert total is not None
    return total / 8


def _tiled(network: torch.nn.Module, x: torch.Tensor, tiling: Tiling | Chop | None) -> torch.Tensor:
    """Return (1, 3, sH, sW) for x (1, 3, H, W), put together from tiles."""
    if tiling is None:
        return _run(network, x)
    scale = int(network.scale)  # type: ignore[arg-type]
    height, width = x.shape[2:]
    out = x.new_empty(1, 3, scale * height, scale * width)
    for rows, columns in tiling.tiles(height, width):
        made = _run(network, x[:, :, rows.seen, columns.seen])
        kept = made[:, :, rows.inner(scale), columns.inner(scale)]
        out[:, :, rows.kept(scale), columns.kept(scale)] = kept
    return out


def _run(network: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    import torch

    y = network(x.contiguous(memory_format=torch.channels_last)).float()
    scale = int(network.scale)  # type: ignore[arg-type]
    shape = (scale * x.shape[2], scale * x.shape[3], 3)
    found = (*y.shape[2:], y.shape[1])
    finite = bool(torch.isfinite(y).all())
    if not finite or found != shape:
        raise InputError(
            "network output", expected=f"finite numbers of shape {shape}",
            found=f"{'finite numbers' if finite else 'NaN or infinity'}, {found}",
            remedy="the weights or the scale are wrong: load or train the network again",
        )  # fmt: skip
    return y
