"""The state of a training run: from fresh weights over checkpoints to the finished file."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dtfn import evaluation, files, images, leaks, metrics, models, patches, paths, provenance, zoo
from dtfn.errors import InputError
from dtfn.recipes import Recipe

if TYPE_CHECKING:
    import lightning_fabric as lightning

KEPT = 2  # checkpoints: if a crash truncates one, the one before is whole
FORMAT = 3  # of a checkpoint


@dataclass
class Tally:
    """What a run counts next to its weights.

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

    network: Any
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
        # Drafts were left by a run that was killed while it wrote.
        for draft in folder.glob(".*.ckpt"):
            draft.unlink()
        with files.replacing(target) as draft, draft.open("wb") as file:
            try:
                torch.save(content, file)
            except RuntimeError as error:  # torch's, after a write failed
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.flush()
            os.fsync(file.fileno())
        for old in checkpoints(folder)[KEPT:]:
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


def fresh(recipe: Recipe) -> models.Network:
    """Return the network of a recipe before its first step, on the CPU in channels-last memory.

    Raises
    ------
    InputError
        The recipe starts from weights that are not there or do not fit.
    """
    torch.manual_seed(recipe.seed)
    network = models.create(
        recipe.network, recipe.scale, hash_seed=recipe.seed, **dict(recipe.hyperparameters)
    )
    if recipe.start:
        _load_start(network, recipe)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _load_start(network: models.Network, recipe: Recipe) -> None:
    try:
        file = zoo.file_of(recipe.start)
    except InputError as error:
        raise InputError(
            f"start {recipe.start!r}",
            "a weights file or a network of the zoo",
            "neither",
            "train it first, or name it with -p start=FILE",
        ) from error
    begin = models.load(file)
    torch.manual_seed(recipe.seed)
    if begin.scale != network.scale:
        begin = models.replace_upsampler(begin, network.scale)
    if network.name == f"{begin.name}+tfs":
        begin = models.add_fidelity(begin)
    try:
        network.load_state_dict(begin.state_dict())
    except RuntimeError as error:
        raise InputError(
            recipe.start,
            f"weights that fit {network.name}, {network.hyperparameters}",
            f"{begin.name}, {begin.hyperparameters}",
            "choose a start of the same size",
        ) from error


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, newest first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def require_empty(folder: Path, resume: bool) -> None:
    """Raise `InputError` where a folder holds a run, unless it is to be continued."""
    if checkpoints(folder) and not resume:
        raise InputError(
            folder,
            "a folder without a run in it",
            checkpoints(folder)[0].name,
            "add --resume to continue it, or choose another --out folder",
        )


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
    # How Adam runs is this run's choice, not that of the run which wrote the checkpoint.
    groups = [
        {**theirs, **{key: mine[key] for key in ("fused", "capturable", "lr")}}
        for theirs, mine in zip(state["param_groups"], optimiser.param_groups, strict=True)
    ]
    return {"state": spread, "param_groups": groups}


def _newest_whole(folder: Path) -> Path | None:
    files = checkpoints(folder)
    for file in files:
        if _is_whole(file):
            return file
        print(f"{file.name} is damaged; trying the one before")
    if files:
        raise InputError(
            folder, "a whole checkpoint", f"{len(files)} damaged", "delete them to start anew"
        )
    return None


def _is_whole(file: Path) -> bool:
    """Return whether every byte of a checkpoint, which is a zip archive, fits its checksums."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError):
        return False


def _require_same(recipe: Recipe, content: Mapping[str, Any], file: Path) -> None:
    if content.get("format") != FORMAT:
        raise InputError(
            file,
            f"a checkpoint of format {FORMAT}",
            content.get("format"),
            "go on with the version that wrote it, or choose another --out folder",
        )
    mine, its = dataclasses.asdict(recipe), content["recipe"]
    other = sorted(k for k in mine.keys() | its.keys() if mine.get(k) != its.get(k))
    if other:
        raise InputError(
            file.parent,
            "checkpoints of this recipe",
            f"another {', '.join(other)}",
            "choose another --out folder, or ask for the same recipe",
        )


# --- what is seen of a run -----------------------------------------------------------------------


class History:
    """What is known of a run's progress, kept in its tally and in ``history.csv``.

    A row has the step, the mean loss since the last row, the learning rate, the validation PSNR
    (dB), seconds a step, the loader's share of them in [0, 1], and how many steps were skipped
    so far.

    Parameters
    ----------
    out
        Folder.
    tally
        Of the run; rows are added to it, so that checkpoints hold them.
    active
        Whether to write: in the first process.
    tensorboard
        Whether to write to ``<out>/tensorboard`` too.
    """

    def __init__(self, out: Path, tally: Tally, active: bool, tensorboard: bool = False) -> None:
        self.file, self.tally, self.active = out / "history.csv", tally, active
        self._mark = (tally.step, tally.seconds, tally.waited)
        self._writer = _summary_writer(out, tally.step) if tensorboard and active else None
        self._write()  # without rows from after the checkpoint

    def row(self, rate: float, psnr: float) -> None:
        """Add a row and begin the next one."""
        tally, (step, seconds, waited) = self.tally, self._mark
        spent = tally.seconds - seconds
        row = {
            "step": tally.step,
            "loss": tally.loss / tally.losses if tally.losses else math.nan,
            "rate": rate,
            "psnr": psnr,
            "seconds_per_step": spent / max(1, tally.step - step),
            "loader_share": (tally.waited - waited) / max(spent, 1e-9),
            "skipped": tally.skipped,
        }
        tally.loss, tally.losses = 0.0, 0
        self._mark = (tally.step, tally.seconds, tally.waited)
        tally.history.append(row)
        self._write()
        if self._writer is not None:
            for name, value in row.items():
                self._writer.add_scalar(name, value, tally.step)
            self._writer.flush()

    def _write(self) -> None:
        """Write all rows, whole or not at all."""
        if not self.active or not self.tally.history:
            return
        with files.replacing(self.file) as draft, draft.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, self.tally.history[0])
            writer.writeheader()
            writer.writerows(self.tally.history)


def _summary_writer(out: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "TensorBoard",
            "the package tensorboard",
            "none",
            "pip install tensorboard, or leave --tensorboard out; history.csv has it all",
        ) from error
    return SummaryWriter(str(out / "tensorboard"), purge_step=step)  # type: ignore[no-untyped-call]


# --- validation ----------------------------------------------------------------------------------


def validation_pairs(recipe: Recipe) -> list[tuple[images.UInt8, images.UInt8]]:
    """Return (LR, HR) uint8 RGB pairs of the validation pictures.

    The recipe's folder is looked for in `dtfn.paths.validation_root`.

    Raises
    ------
    InputError
        There is no such folder, or no picture in it.
    """
    sources = _validation_sources(recipe).values()
    large = [images.modcrop(patches.decode(source), recipe.scale) for source in sources]
    return [(images.degrade(hr, recipe.scale), hr) for hr in large]


def validation_psnr(
    judge: models.Network,
    weights: Mapping[str, Tensor],
    pairs: Sequence[tuple[images.UInt8, images.UInt8]],
) -> float:
    """Return the mean PSNR (dB; Y, border = scale) of weights on validation pictures.

    ``judge`` is the network as it is tested; the weights are loaded into it.
    """
    judge.load_state_dict(weights)
    outputs = [(evaluation.upscale(judge, lr), hr) for lr, hr in pairs]
    return float(np.mean([metrics.psnr(sr, hr, judge.scale) for sr, hr in outputs]))


def tested(recipe: Recipe) -> models.Network:
    """Return the recipe's network as it is tested, with any weights."""
    values = dict(recipe.hyperparameters) | dict(recipe.testing)
    return models.create(recipe.network, recipe.scale, hash_seed=recipe.seed, **values)


def _validation_sources(recipe: Recipe) -> dict[str, patches.Source]:
    if recipe.validation == patches.EMBEDDED:
        sources = patches.sources([patches.EMBEDDED], ())
    else:
        folder = paths.validation_root() / recipe.validation
        sources = {f"{folder.name}/{file.stem}": file for file in patches.files(folder)}
    return dict(list(sources.items())[: recipe.validation_count])


# --- the end of a run ----------------------------------------------------------------------------


def guarded_pool(recipe: Recipe) -> patches.Pool:
    """Return the decoded training pictures, none of which is a test picture.

    Raises
    ------
    InputError
        No pictures, or a test picture among them.
    """
    looked = leaks.guard(patches.sources(recipe.sets, recipe.exclude) | _validation_sources(recipe))
    print(f"no training picture is a test picture of {', '.join(looked)}", file=sys.stderr)
    return patches.pool(recipe.sets, recipe.scale, recipe.patch, recipe.exclude)


def save_weights(recipe: Recipe, weights: Mapping[str, Tensor], file: Path) -> None:
    """Write weights in the network as it is tested, with the recipe as metadata."""
    shipped = tested(recipe)
    shipped.load_state_dict(weights)
    models.save(shipped, file, recipe=dataclasses.asdict(recipe))


def finish(
    recipe: Recipe, weights: Mapping[str, Tensor], tally: Tally, out: Path, facts: Mapping[str, Any]
) -> Path:
    """Write the averaged weights of a whole run, and ``run.json`` with the facts about it.

    Returns
    -------
    ``<out>/weights.safetensors``, the network as it is tested, with the recipe as metadata.
    """
    file = out / "weights.safetensors"
    save_weights(recipe, weights, file)
    whole = {
        "steps": tally.step,
        "skipped": tally.skipped,
        "seconds": round(tally.seconds, 1),
        "loader_share": round(tally.waited / max(tally.seconds, 1e-9), 5),
        **facts,
        "start": files.sha256(zoo.file_of(recipe.start)) if recipe.start else "",
        "versions": {"dtfn commit": provenance.git_state()[0], **provenance.versions()},
        "machine": provenance.machine(),
    }
    files.write_json(out / "run.json", whole)
    return file
