"""The loop over all steps, and what comes before and after it."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning_fabric as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dtfn import cache, leaks, models, patches, provenance, recipes, zoo
from dtfn.errors import InputError
from dtfn.recipes import Recipe, preset
from dtfn.training import processes, validation
from dtfn.training.history import History
from dtfn.training.states import State, Tally, checkpoints, gathered
from dtfn.training.steps import Objective, hashed, one_step

BAD_STEPS = 3  # non-finite steps in a row that stop a run


class Diverged(InputError, FloatingPointError):
    """Several steps in a row had a loss or gradient that is not finite."""


def train(
    recipe: Recipe, out: Path, *, accelerator: str = "auto", devices: int = 1, num_nodes: int = 1,
    strategy: str = "auto", precision: str | None = None, accumulate: int = 1, threads: int = 0,
    workers: int | None = None, compiled: bool = False, tensorboard: bool = False,
    stop_after: int | None = None,
) -> Path:  # fmt: skip
    """Train a network, or go on where the last run into the same folder stopped.

    Parameters
    ----------
    recipe
        What to train.
    out
        Folder for checkpoints, ``history.csv``, ``run.json`` and the result; all processes and
        nodes must see the same.
    accelerator, devices, num_nodes, strategy
        See `dtfn.training.processes.start`.
    precision
        Instead of the recipe's.
    accumulate
        Parts in which each process takes its share of a batch, to save memory. The global batch,
        and so the result, stays the same but for rounding.
    threads
        CPU threads; 0 leaves torch's own choice.
    workers
        Processes that cut patches; None for 2 with a GPU and none without one, where cutting takes
        about a hundredth of a step. They make no difference to the result.
    compiled
        Run through `torch.compile`.
    tensorboard
        Also log to ``<out>/tensorboard``; the package has to be installed.
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
        No pictures, a test picture among them, weights to start from that do not fit, hardware that
        is not there, a batch that cannot be divided, checkpoints of another recipe.
    Diverged
        Three steps in a row with a loss or gradient that is not finite. The checkpoint from before
        them is kept.
    """
    if threads:
        torch.set_num_threads(threads)
    fabric = processes.start(
        accelerator, devices, num_nodes, strategy, precision or recipe.precision
    )
    _require_parts(recipe, fabric.world_size, accumulate)
    with fabric.rank_zero_first(local=True):  # it fills the caches that the others then find
        leaks.guard(patches.sources(recipe.sets, recipe.exclude) | validation.sources(recipe))
        pool = patches.pool(recipe.sets, recipe.scale, recipe.patch, recipe.exclude)
    state, model = _build(fabric, recipe, compiled)
    out.mkdir(parents=True, exist_ok=True)
    state.restore(fabric, recipe, out)
    last = min(recipe.steps, stop_after or recipe.steps)
    on_gpu = fabric.device.type == "cuda"
    workers = (2 if on_gpu else 0) if workers is None else workers
    loader: DataLoader[Any] = DataLoader(
        patches.Batches(
            pool, recipe.batch, recipe.patch, recipe.seed, fabric.global_rank, fabric.world_size
        ),  # type: ignore[arg-type]
        batch_size=None, sampler=range(state.tally.step, last), num_workers=workers,
        pin_memory=on_gpu,
    )  # fmt: skip
    with History(out, state.tally, last, fabric.is_global_zero, tensorboard) as history:
        _loop(fabric, recipe, state, model, loader, history, out, last, accumulate)
    state.save(fabric, recipe, out)
    if state.tally.step < recipe.steps:
        return out
    return _finish(fabric, recipe, state, out, accumulate)


def _require_parts(recipe: Recipe, processes_: int, accumulate: int) -> None:
    parts = processes_ * accumulate
    if accumulate < 1 or recipe.batch % parts:
        raise InputError(
            "batch", expected=f"a multiple of {parts} (processes times accumulation), so that the"
            " mean over parts is the mean over the batch", found=recipe.batch,
            remedy="change the batch of the recipe, --devices or --accumulate",
        )  # fmt: skip


def _build(fabric: lightning.Fabric, recipe: Recipe, compiled: bool) -> tuple[State, Any]:
    """Return the state before the first step, and the model that gives the loss of a batch."""
    network = _initial(recipe).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).requires_grad_(False) if recipe.ema else network
    objective: nn.Module = Objective(network, recipe.loss)
    if compiled:
        for layer in hashed(network):
            # Drawing and sorting cannot be compiled, and reading the step would compile every step.
            layer.order = torch.compiler.disable(layer.order)  # type: ignore[method-assign]
        objective = torch.compile(objective)  # type: ignore[assignment]
    model = fabric.setup_module(objective)
    # A fused Adam unscales gradients by itself, after they would have been clipped.
    fused = fabric.strategy.precision.precision != "16-mixed"
    adam = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, fused=fused)
    optimiser = fabric.setup_optimizers(adam)
    if average is not network:
        average = processes.place_like(average, network, fabric)
    return State(network, average, optimiser), model


def _initial(recipe: Recipe) -> models.Network:
    torch.manual_seed(recipe.seed)
    network = models.create(
        recipe.network, recipe.scale, hash_seed=recipe.seed, **dict(recipe.hyperparameters)
    )
    if not recipe.start:
        return network
    try:
        file = zoo.file_of(recipe.start)
    except InputError as error:
        raise InputError(
            f"start {recipe.start!r}", expected="a weights file or a network of the zoo",
            found="neither", remedy="train it first, or name it with -p start=FILE",
        ) from error  # fmt: skip
    begin = models.load(file)
    torch.manual_seed(recipe.seed)
    if begin.scale != network.scale:
        begin = models.replace_upsampler(begin, network.scale)
    if begin.name != network.name:
        begin = models.insert_attention(
            begin, network.name, recipe.seed, **dict(recipe.hyperparameters)
        )
    try:
        network.load_state_dict(begin.state_dict())
    except RuntimeError as error:
        raise InputError(
            recipe.start, expected=f"weights that fit {network.hyperparameters}",
            found=str(begin.hyperparameters), remedy="choose a start of the same size",
        ) from error  # fmt: skip
    return network


def _loop(
    fabric: lightning.Fabric, recipe: Recipe, state: State, model: Any, loader: DataLoader[Any],
    history: History, out: Path, last: int, accumulate: int,
) -> None:  # fmt: skip
    tally, bad, saved = state.tally, 0, time.monotonic()
    good = tally  # before the first of bad steps in a row
    judge = validation.Validation(recipe, fabric)
    for lr, hr, waited, started in _timed(loader):
        due = fabric.is_global_zero and time.monotonic() - saved > recipe.checkpoint_every
        loss, overflow, due = one_step(fabric, recipe, state, model, lr, hr, accumulate, due)
        bad = 0 if math.isfinite(loss) else bad if overflow else bad + 1
        if bad == 1 and not overflow:
            good = copy.deepcopy(tally)
            good.step, good.skipped = tally.step - 1, tally.skipped - 1
        if bad == BAD_STEPS:
            _give_up(fabric, recipe, state, good, out)
        tally.waited += waited
        tally.seconds += time.perf_counter() - started
        history.step(loss)
        if tally.step == last or tally.step % recipe.validate_every == 0:
            history.row(recipe.rate(tally.step - 1), judge.psnr(state.average))
        if due and not bad:
            state.save(fabric, recipe, out)
            saved = time.monotonic()


def _timed(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor, float, float]]:
    """Yield LR, HR, the seconds spent waiting for them, and when the waiting began."""
    batches = iter(loader)
    while True:
        started = time.perf_counter()
        try:
            lr, hr = next(batches)
        except StopIteration:
            return
        yield lr, hr, time.perf_counter() - started, started


def _give_up(
    fabric: lightning.Fabric, recipe: Recipe, state: State, good: Tally, out: Path
) -> None:
    """Keep the state from before the bad steps, which have changed no weight, and raise."""
    state.tally = good
    state.save(fabric, recipe, out)
    first = good.step
    raise Diverged(
        f"steps {first} to {first + BAD_STEPS - 1}", expected="a finite loss and gradient",
        found=f"NaN or infinity {BAD_STEPS} times in a row",
        remedy=f"{checkpoints(out)[0] if fabric.is_global_zero else out} is from before them: go on"
        " with --precision 32-true, or train anew with a smaller learning_rate or clip",
    )  # fmt: skip


def _finish(
    fabric: lightning.Fabric, recipe: Recipe, state: State, out: Path, accumulate: int
) -> Path:
    """Write ``weights.safetensors`` and ``run.json``, and return the former."""
    weights = out / "weights.safetensors"
    full = gathered(state.average.state_dict())
    if not fabric.is_global_zero:
        return weights
    shipped = validation.tested(recipe)
    shipped.load_state_dict(full)
    models.save(shipped, weights, recipe=dataclasses.asdict(recipe))
    tally = state.tally
    facts = {
        "steps": tally.step, "skipped": tally.skipped, "seconds": round(tally.seconds, 1),
        "loader_share": round(tally.waited / max(tally.seconds, 1e-9), 5),
        "processes": fabric.world_size, "accumulate": accumulate,
        "precision": fabric.strategy.precision.precision,
        "start": cache.sha256(zoo.file_of(recipe.start)) if recipe.start else "",
        "versions": {"dtfn commit": provenance.git_state()[0], **provenance.versions()},
        "machine": provenance.machine(),
    }  # fmt: skip
    (out / "run.json").write_text(json.dumps(facts, indent=1) + "\n")
    return weights


def main(
    name: str, settings: Mapping[str, str], out: Path, *, resume: bool = False, **options: Any
) -> Path:
    """Train a preset with settings as text, and say where the result is.

    Parameters
    ----------
    name, settings
        See `dtfn.recipes.preset` and `dtfn.recipes.from_text`.
    out
        Folder of the run.
    resume
        Whether the folder may hold a run to go on with.
    **options
        Of `train`.

    Raises
    ------
    InputError
        As `train`; the folder holds a run and ``resume`` is false.
    """
    recipe = preset(name, **recipes.from_text(settings))
    if checkpoints(out) and not resume:
        raise InputError(
            out, expected="a folder without a run in it", found=checkpoints(out)[0].name,
            remedy="add --resume to go on with it, or choose another --out folder",
        )  # fmt: skip
    return train(recipe, out, **options)
