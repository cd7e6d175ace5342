"""The state of a training run, and its checkpoints: written whole or not at all, read if whole."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning_fabric as lightning
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dtfn.errors import InputError
from dtfn.recipes import Recipe

KEPT = 2  # checkpoints: if a crash truncates one, the one before is whole
FORMAT = 2  # of a checkpoint


@dataclass
class Tally:
    """What a run counts beside its weights.

    Attributes
    ----------
    step
        Steps done, skipped ones included: the number of the next step.
    skipped
        Steps whose loss or gradient was not finite.
    averaged
        Weights that went into the average.
    loss, losses
        Sum and number of the losses since the last row of the history.
    seconds, waited
        Spent in steps, and within them waiting for a batch.
    history
        Rows of ``history.csv``.
    """

    step: int = 0
    skipped: int = 0
    averaged: int = 0
    loss: float = 0.0
    losses: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class State:
    """What changes during a run: together with the recipe it decides every further step.

    Attributes
    ----------
    network, optimiser
        Being trained; their tensors may be sharded over processes.
    average
        The network with averaged weights, sharded alike; the network itself without averaging.
    tally
        Counters.
    """

    network: nn.Module
    average: nn.Module
    optimiser: Any
    tally: Tally = field(default_factory=Tally)

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Let the trained weights into the average; the first ones replace it."""
        if self.average is self.network:
            return
        into, new = ([_local(p) for p in m.parameters()] for m in (self.average, self.network))
        if self.tally.averaged:
            get_ema_multi_avg_fn(decay)(into, new, self.tally.averaged)  # type: ignore[no-untyped-call]
        else:
            for mean, weight in zip(into, new, strict=True):
                mean.copy_(weight)
        self.tally.averaged += 1

    def save(self, fabric: lightning.Fabric, recipe: Recipe, folder: Path) -> None:
        """Write ``step-N.ckpt`` and drop all but the newest `KEPT`; every process must call it."""
        content = {
            "format": FORMAT,
            "recipe": dataclasses.asdict(recipe),
            "tally": dataclasses.asdict(self.tally),
            "network": gathered(self.network.state_dict()),
            "average": {} if self.average is self.network else gathered(self.average.state_dict()),
            "optimiser": gathered(self.optimiser.state_dict()),
            "precision": fabric.strategy.precision.state_dict(),
        }
        if not fabric.is_global_zero:
            return
        target = folder / f"step-{self.tally.step:08d}.ckpt"
        partial = target.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        # What is partial was left by a run that was killed while it wrote.
        for old in (*checkpoints(folder)[KEPT:], *folder.glob("step-*.partial")):
            old.unlink()

    def restore(self, fabric: lightning.Fabric, recipe: Recipe, folder: Path) -> bool:
        """Continue from the newest whole checkpoint; False if the folder has none at all.

        Every process has to call it and to see the same folder.

        Raises
        ------
        InputError
            The folder holds checkpoints of another recipe, or none that can be read.
        """
        chosen = fabric.broadcast(_newest_whole(folder) if fabric.is_global_zero else None)
        if chosen is None:
            return False
        content = torch.load(chosen, map_location="cpu", weights_only=True)
        _require_same(recipe, content, chosen)
        _load(self.network, content["network"])
        if content["average"]:
            _load(self.average, content["average"])
        self.optimiser.load_state_dict(_spread(content["optimiser"], self.optimiser))
        fabric.strategy.precision.load_state_dict(content["precision"])
        self.tally = Tally(**content["tally"])
        return True


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, newest first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def gathered(value: Any) -> Any:
    """Return a nested state with its sharded tensors whole, on the CPU; others as they are."""
    if isinstance(value, DTensor):
        return value.full_tensor().cpu()
    if isinstance(value, Mapping):
        return {key: gathered(part) for key, part in value.items()}
    return value


def _local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that is in this process."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _like(value: Tensor, model: Tensor) -> Tensor:
    """Return a whole tensor placed, laid out in memory and sharded as the model is.

    The layout matters: a fused Adam walks through a weight and its moments in memory order.
    """
    if not isinstance(model, DTensor):
        return torch.empty_like(model, dtype=value.dtype).copy_(value)
    whole = value.to(model.device).contiguous()
    return distribute_tensor(whole, model.device_mesh, model.placements)


def _load(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = network.state_dict()
    network.load_state_dict({key: _like(value, own[key]) for key, value in state.items()})


def _spread(state: dict[str, Any], optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Return a whole optimiser state with the moments sharded as their parameters are."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    spread: dict[int, dict[str, Tensor]] = {}
    for index, moments in state["state"].items():
        model = parameters[index]
        spread[index] = {
            key: _like(value, model) if value.shape == model.shape else value  # else Adam's step
            for key, value in moments.items()
        }
    return {**state, "state": spread}


def _newest_whole(folder: Path) -> Path | None:
    found = checkpoints(folder)
    for file in found:
        if _whole(file):
            return file
        print(f"{file.name} is damaged; trying the one before")
    if found:
        raise InputError(
            folder, expected="a whole checkpoint", found=f"{len(found)} damaged",
            remedy="delete them to start anew",
        )  # fmt: skip
    return None


def _whole(file: Path) -> bool:
    """Return whether every byte of a checkpoint, which is a zip archive, fits its checksums."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError):
        return False


def _require_same(recipe: Recipe, content: Mapping[str, Any], file: Path) -> None:
    if content.get("format") != FORMAT:
        raise InputError(
            file, expected=f"a checkpoint of format {FORMAT}", found=content.get("format"),
            remedy="go on with the version that wrote it, or choose another --out folder",
        )  # fmt: skip
    mine, its = dataclasses.asdict(recipe), content["recipe"]
    other = sorted(k for k in mine.keys() | its.keys() if mine.get(k) != its.get(k))
    if other:
        raise InputError(
            file.parent, expected="checkpoints of this recipe", found=f"another {', '.join(other)}",
            remedy="choose another --out folder, or ask for the same recipe",
        )  # fmt: skip
