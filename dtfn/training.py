"""The trainer: one loop for CPU and GPUs, exactly resumable, because every step is a function of its number."""

from __future__ import annotations

import copy
import csv
import dataclasses
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning_fabric as lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from dtfn import datasets, evaluation, images, models, patches, paths
from dtfn.errors import InputError, nearest
from dtfn.models.attention import HashedAttention

KEPT = 2  # checkpoints: if a crash truncates one, the one before is whole
BAD_STEPS = 3  # non-finite steps in a row that stop a run


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights of a training run, beside the software.

    Attributes
    ----------
    network, scale, seed, hyperparameters
        See `dtfn.models.create`; the seed decides initial weights, patches and hash rotations.
    sets
        Training sets (see `dtfn.patches.pool`).
    validation, validation_count
        Folder of validation pictures (or ``"embedded"``), and how many of them.
    steps, batch, patch
        Optimiser steps, patches of a global batch, LR size of a patch.
    learning_rate, warmup
        Peak, reached linearly after ``warmup`` steps; then a cosine down to 0.
    ema
        Decay of the averaged weights, which are validated and shipped; 0 for none.
    clip
        Largest gradient norm; 0 for none.
    loss
        ``"l1"`` or ``"charbonnier"``.
    validate_every, checkpoint_every
        In steps and in seconds.
    """

    network: str
    scale: int
    seed: int = 0
    hyperparameters: tuple[tuple[str, Any], ...] = ()
    sets: tuple[str, ...] = ("T91", "BSD200", "General100", "BSDS500_test200")
    validation: str = "DIV2K_valid_crop256"
    validation_count: int = 12
    steps: int = 4000
    batch: int = 16
    patch: int = 32
    learning_rate: float = 1e-3
    warmup: int = 200
    ema: float = 0.999
    clip: float = 1.0
    loss: str = "l1"
    validate_every: int = 500
    checkpoint_every: float = 120.0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _mini(variant: str, scale: int, seed: int = 0, **changes: Any) -> Recipe:
    return Recipe(network=f"mini-{variant}", scale=scale, seed=seed, **changes)


def preset(name: str, **changes: Any) -> Recipe:
    """Return a named recipe, with changes.

    Parameters
    ----------
    name
        ``<variant>-x<scale>-s<seed>`` of the zoo, e.g. ``"nla-x4-s0"``; or ``"demo-..."`` for a
        short run of the same network on the embedded pictures.
    **changes
        Fields of `Recipe` to change.

    Raises
    ------
    InputError
        Unknown name or field, or a value of the wrong type.
    """
    base, demo = name.removeprefix("demo-"), name.startswith("demo-")
    variant, _, rest = base.rpartition("-x")
    scale, _, seed = rest.partition("-s")
    if f"mini-{variant}" not in models.known_names() or not (scale.isdigit() and seed.isdigit()):
        known = [f"{n.removeprefix('mini-')}-x4-s0" for n in models.known_names() if "mini-" in n]
        raise InputError(
            "preset", expected="<variant>-x<scale>-s<seed>", found=repr(name), remedy=nearest(base, known)
        )
    recipe = _mini(variant, int(scale), int(seed))
    if demo:
        recipe = dataclasses.replace(
            recipe, sets=("embedded",), validation="embedded", validation_count=1, steps=200,
            patch=24, batch=8, warmup=20, ema=0.98, validate_every=50,
        )  # fmt: skip
    return dataclasses.replace(recipe, **_checked(changes))


def _checked(changes: dict[str, Any]) -> dict[str, Any]:
    fields = {f.name: f for f in dataclasses.fields(Recipe)}
    for key, value in changes.items():
        if key not in fields:
            raise InputError(
                "recipe", expected="a known field", found=repr(key), remedy=nearest(key, fields)
            )
        wanted = str(fields[key].type).partition("[")[0]
        accepted = {"int": int, "float": (int, float), "str": str, "tuple": tuple}[wanted]
        if not isinstance(value, accepted) or isinstance(value, bool):
            raise InputError(
                f"{key} of a recipe", expected=wanted, found=repr(value), remedy=f"pass a {wanted}"
            )
    return changes


@dataclass
class State:
    """What changes during a run: together with the recipe it decides every further step."""

    network: nn.Module
    average: AveragedModel
    optimiser: torch.optim.Optimizer
    step: int = 0
    skipped: int = 0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def save(self, recipe: Recipe, folder: Path) -> None:
        """Write ``step-N.ckpt`` whole or not at all, and drop all but the newest `KEPT`."""
        content = {
            "recipe": dataclasses.asdict(recipe), "step": self.step, "skipped": self.skipped,
            "history": self.history, "network": self.network.state_dict(),
            "average": self.average.state_dict(), "optimiser": self.optimiser.state_dict(),
        }  # fmt: skip
        target = folder / f"step-{self.step:08d}.ckpt"
        partial = target.with_suffix(".partial")
        torch.save(content, partial)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(target)
        for old in sorted(folder.glob("step-*.ckpt"))[:-KEPT]:
            old.unlink()

    def restore(self, recipe: Recipe, folder: Path) -> bool:
        """Continue from the newest whole checkpoint of this recipe; False if there is none.

        Raises
        ------
        InputError
            The folder holds checkpoints of another recipe, or none that can be read.
        """
        found = sorted(folder.glob("step-*.ckpt"), reverse=True)
        for file in found:
            try:
                content = torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # noqa: BLE001 - any unreadable file is a truncated one
                print(f"{file.name} cannot be read ({type(error).__name__}); trying the one before")
                continue
            mine = dataclasses.asdict(recipe)
            other = {k for k, v in content["recipe"].items() if _plain(mine.get(k)) != _plain(v)}
            if other:
                raise InputError(
                    folder, expected="checkpoints of this recipe",
                    found=f"another {', '.join(sorted(other))}", remedy="choose another --out folder",
                )  # fmt: skip
            self.network.load_state_dict(content["network"])
            self.average.load_state_dict(content["average"])
            self.optimiser.load_state_dict(content["optimiser"])
            self.step, self.skipped = content["step"], content["skipped"]
            self.history = content["history"]
            return True
        if found:
            raise InputError(
                folder, expected="a whole checkpoint", found=f"{len(found)} unreadable ones",
                remedy="delete them to start anew",
            )  # fmt: skip
        return False


def _plain(value: Any) -> Any:
    """Return nested tuples as lists: a checkpoint does not keep the difference."""
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def train(
    recipe: Recipe, out: Path, *, accelerator: str = "auto", devices: int = 1, num_nodes: int = 1,
    strategy: str = "auto", precision: str = "bf16-mixed", threads: int = 0,
    stop_after: int | None = None,
) -> Path:  # fmt: skip
    """Train a network, or go on where the last run into the same folder stopped.

    Parameters
    ----------
    recipe
        What to train.
    out
        Folder for checkpoints, ``history.csv`` and the result.
    accelerator, devices, num_nodes, strategy, precision
        As in Lightning Fabric.
    threads
        CPU threads; 0 leaves torch's own choice.
    stop_after
        Stop (resumably) after this step.

    Returns
    -------
    Path
        ``<out>/weights.safetensors``, with the averaged weights and the recipe as metadata; or the
        folder itself if the run was stopped before its end.

    Raises
    ------
    InputError
        No pictures, checkpoints of another recipe.
    FloatingPointError
        Three steps in a row with a loss or gradient that is not finite.
    """
    if threads:
        torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    fabric = lightning.Fabric(
        accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy=strategy,
        precision=precision,  # type: ignore[arg-type]
    )  # fmt: skip
    fabric.launch()
    if fabric.is_global_zero:
        pool = patches.pool(recipe.sets, recipe.scale, recipe.patch)
    fabric.barrier()
    pool = patches.pool(recipe.sets, recipe.scale, recipe.patch)
    torch.manual_seed(recipe.seed)
    network: nn.Module = models.create(
        recipe.network, recipe.scale, hash_seed=recipe.seed, **dict(recipe.hyperparameters)
    ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, fused=True)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
    state = State(network, average, optimiser)
    state.restore(recipe, out)
    average.to(fabric.device)
    model, optimiser = fabric.setup(Objective(network, recipe.loss), optimiser)
    state.network, state.optimiser = network, optimiser
    data = patches.Batches(
        pool, recipe.batch, recipe.patch, recipe.seed, fabric.global_rank, fabric.world_size
    )
    last = min(recipe.steps, stop_after or recipe.steps)
    loader = DataLoader(data, batch_size=None, sampler=range(state.step, last), num_workers=0)  # type: ignore[arg-type]
    _loop(fabric, recipe, state, model, loader, out, last)
    if fabric.is_global_zero:
        state.save(recipe, out)
    return finish(recipe, state, out) if state.step == recipe.steps else out


def _loop(
    fabric: lightning.Fabric, recipe: Recipe, state: State, model: Any, loader: DataLoader,
    out: Path, last: int,
) -> None:  # fmt: skip
    chief = fabric.is_global_zero
    bar = tqdm(initial=state.step, total=last, desc=out.name, disable=not chief, mininterval=1.0)
    saved, mark, bad = time.monotonic(), (time.monotonic(), state.step), 0
    losses: list[float] = []
    validation = validation_samples(recipe) if chief else []
    for lr, hr in loader:
        loss = one_step(fabric, recipe, state, model, lr, hr)
        bad = 0 if math.isfinite(loss) else bad + 1
        if bad == BAD_STEPS:
            raise FloatingPointError(
                f"the loss is not finite in {bad} steps in a row up to step {state.step}; the newest "
                f"checkpoint in {out} is from before; lower the learning rate or raise the precision"
            )
        losses.append(loss)
        bar.update()
        done = state.step == last
        if chief and (done or state.step % recipe.validate_every == 0):
            seconds = (time.monotonic() - mark[0]) / max(1, state.step - mark[1])
            row = {
                "step": state.step, "loss": float(np.nanmean(losses)), "rate": recipe.rate(state.step - 1),
                "psnr": validation_psnr(state.average.module, validation),
                "seconds_per_step": seconds, "skipped": state.skipped,
            }  # fmt: skip
            state.history.append(row)
            write_history(state.history, out / "history.csv")
            bar.set_postfix(loss=f"{row['loss']:.4f}", psnr=f"{row['psnr']:.2f}")
            losses, mark = [], (time.monotonic(), state.step)
        if chief and time.monotonic() - saved > recipe.checkpoint_every and not bad:
            state.save(recipe, out)
            saved = time.monotonic()
    bar.close()


def one_step(
    fabric: lightning.Fabric, recipe: Recipe, state: State, model: Any, lr: Any, hr: Any
) -> float:
    """Take one optimiser step; a loss or gradient that is not finite is skipped and counted.

    Parameters
    ----------
    lr, hr
        uint8 batches (B, 3, p, p) and (B, 3, sp, sp).

    Returns
    -------
    float
        The loss, NaN or infinite if the step was skipped.
    """
    for layer in state.network.modules():
        if isinstance(layer, HashedAttention):
            layer.draws = state.step  # rotations depend on the step, so resuming repeats them
    loss = model(*(torch.as_tensor(part).to(fabric.device, non_blocking=True) for part in (lr, hr)))
    fabric.backward(loss)
    for group in state.optimiser.param_groups:
        group["lr"] = recipe.rate(state.step)
    parameters = [p for p in state.network.parameters() if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(parameters, recipe.clip or math.inf)
    value = loss.item()
    if math.isfinite(value) and torch.isfinite(norm):
        state.optimiser.step()
        state.average.update_parameters(state.network)
    else:
        state.skipped += 1
        value = math.nan
    state.optimiser.zero_grad(set_to_none=True)
    state.step += 1
    return value


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
            part.contiguous(memory_format=torch.channels_last).float().div_(255) for part in (lr, hr)
        )
        difference = self.network(x) - target
        if self.kind == "charbonnier":
            return (difference.square() + 1e-6).sqrt().mean()
        return difference.abs().mean()


def validation_samples(recipe: Recipe) -> list[tuple[images.UInt8, images.UInt8]]:
    """Return (LR, HR) uint8 RGB pairs of the validation pictures."""
    if recipe.validation == "embedded":
        stored = list(datasets.embedded_training().values())
    else:
        root = paths.training_root().parent / "val"
        stored = [images.read(f) for f in patches.files(recipe.validation, root)]
    large = [images.modcrop(images.as_rgb(s), recipe.scale) for s in stored[: recipe.validation_count]]
    return [(images.degrade(hr, recipe.scale), hr) for hr in large]


def validation_psnr(network: nn.Module, samples: Sequence[tuple[Any, Any]]) -> float:
    """Return the mean PSNR (Y, border = scale) of the network over (LR, HR) pairs."""
    network = copy.deepcopy(network).eval()
    scale = samples[0][1].shape[0] // samples[0][0].shape[0]
    scores = [evaluation.psnr(evaluation.upscale(network, lr), hr, scale) for lr, hr in samples]
    return float(np.mean(scores))


def write_history(history: Sequence[dict[str, float]], file: Path) -> None:
    """Write the history as CSV, whole or not at all."""
    partial = file.with_suffix(".partial")
    with partial.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, history[0])
        writer.writeheader()
        writer.writerows(history)
    partial.replace(file)


def finish(recipe: Recipe, state: State, out: Path) -> Path:
    """Write the averaged weights as ``weights.safetensors`` and return the file."""
    weights = out / "weights.safetensors"
    models.save(state.average.module, weights, recipe=dataclasses.asdict(recipe))
    return weights
