"""One optimiser step: gradients of a batch, taken in parts, on one process or on many."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import lightning_fabric as lightning
import torch
from torch import Tensor, nn

from dtfn.models.attention import HashedAttention
from dtfn.recipes import Recipe
from dtfn.training.states import State, gathered


class Objective(nn.Module):
    """The loss of a network on a uint8 batch.

    Bytes go in, so that no precision plugin can round the images to half precision on the way.
    """

    def __init__(self, network: nn.Module, kind: str) -> None:
        super().__init__()
        self.network, self.kind = network, kind

    def forward(self, lr: Tensor, hr: Tensor) -> Tensor:
        """Return the mean loss for LR (B, 3, p, p) and HR (B, 3, sp, sp)."""
        x, target = (
            part.contiguous(memory_format=torch.channels_last).float().div_(255)
            for part in (lr, hr)
        )
        difference = self.network(x) - target
        if self.kind == "charbonnier":
            return (difference.square() + 1e-6).sqrt().mean()
        return difference.abs().mean()


def hashed(network: nn.Module) -> list[HashedAttention]:
    """Return the layers that draw rotations."""
    return [layer for layer in network.modules() if isinstance(layer, HashedAttention)]


def one_step(
    fabric: lightning.Fabric, recipe: Recipe, state: State, model: Any, lr: Tensor, hr: Tensor,
    accumulate: int = 1, vote: bool = False,
) -> tuple[float, bool, bool]:  # fmt: skip
    """Take one optimiser step; one whose loss or gradient is not finite is skipped and counted.

    In half precision the loss is scaled, so that small gradients do not vanish, and every now and
    then the scale is too large: the gradient overflows although the loss is finite. Then the scaler
    has to see the step, to halve the scale. That is its normal work and no sign of divergence.

    Parameters
    ----------
    lr, hr
        uint8 batches (B, 3, p, p) and (B, 3, sp, sp): the share of this process.
    accumulate
        Parts of the share that are taken one after the other.
    vote
        Anything that all processes shall know; the trainer's "a checkpoint is due".

    Returns
    -------
    The mean loss of the global batch (not finite if the step was skipped), whether an overflow
    was the cause, and whether any process voted.
    """
    step = state.tally.step
    torch.manual_seed((recipe.seed * 1_000_003 + step) % (1 << 63))
    total = torch.zeros((), device=fabric.device)
    parts = list(zip(lr.chunk(accumulate), hr.chunk(accumulate), strict=True))
    for index, part in enumerate(parts):
        for layer in hashed(state.network):
            layer.draws = step  # rotations depend on the step alone, so resuming repeats them
        with _unsynchronised(fabric, model, index + 1 < len(parts)):
            share = [pixels.to(fabric.device, non_blocking=True) for pixels in part]
            loss = model(*share) / accumulate
            fabric.backward(loss)
        total += loss.detach()
    for group in state.optimiser.param_groups:
        group["lr"] = recipe.rate(step)
    norm = fabric.clip_gradients(
        model, state.optimiser, max_norm=recipe.clip or math.inf, error_if_nonfinite=False
    )
    assert norm is not None
    own = torch.stack((total, torch.tensor(float(vote), device=total.device)))
    shared = fabric.all_reduce(own)
    assert isinstance(shared, Tensor)
    # The one place where the CPU waits for the GPU.
    value, votes, length = (*shared.tolist(), float(gathered(norm)))
    good = math.isfinite(value) and math.isfinite(length)
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    overflow = scaler is not None and math.isfinite(value) and not good and scaler.get_scale() > 1
    if good or scaler is not None:
        if not good:
            state.optimiser.zero_grad(set_to_none=True)  # nothing is left to step with
        state.optimiser.step()
    if good:
        state.update_average(recipe.ema)
    else:
        state.tally.skipped += 1
        value = math.nan
    state.optimiser.zero_grad(set_to_none=True)
    state.tally.step += 1
    return value, overflow, votes > 0


def _unsynchronised(
    fabric: lightning.Fabric, model: Any, enabled: bool
) -> contextlib.AbstractContextManager[Any]:
    """Let processes add up gradients by themselves, where there are several."""
    if fabric.world_size == 1:
        return contextlib.nullcontext()
    return fabric.no_backward_sync(model, enabled)
