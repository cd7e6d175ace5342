"""The trainer: one loop for CPU and GPUs, exactly resumable, as every step depends on its number.

`train` starts the hardware, builds a `Run`, takes one step after the other and writes the weights.
`dtfn.side_by_side` trains several networks on one GPU at once by the same steps.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning_fabric as lightning
import numpy as np
import pandas as pd
import torch
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from tqdm import tqdm

from dtfn import evaluation, files, models, patches, provenance, subpixel, zoo
from dtfn.errors import InputError
from dtfn.models.attention import HashedAttention
from dtfn.models.networks import ResidualGroup
from dtfn.recipes import Recipe

BAD_STEPS = 3  # non-finite steps in a row that stop a run
CHECKPOINT = "state.ckpt"


class Diverged(InputError, FloatingPointError):
    """Several steps in a row had a loss or gradient that is not finite."""


def train(
    recipe: Recipe,
    out: Path,
    *,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    precision: str | None = None,
    accumulate: int = 1,
    threads: int = 0,
    compiled: bool = False,
    tensorboard: bool = False,
    resume: bool = True,
) -> Path:
    """Train a network, or go on where the last run into the same folder stopped.

    Parameters
    ----------
    out
        Folder for the checkpoint, ``history.csv``, ``run.json`` and the returned
        ``weights.safetensors``, which has the averaged weights and the recipe; all processes and
        nodes must see the same.
    accelerator, devices, num_nodes
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``; processes (on a CPU) or GPUs a node; nodes.
    strategy
        ``"auto"``; ``"ddp"``: every process has the whole network; ``"fsdp"``: a share of it.
    precision, threads
        Instead of the recipe's; CPU threads, 0 leaves torch's own choice.
    accumulate
        Parts in which each process takes its share of a batch, to save memory; it changes the
        result by rounding only.
    compiled, tensorboard, resume
        Whether to run through `torch.compile`; to log to ``<out>/tensorboard``, too; and whether
        the folder may hold a run to go on with.

    Raises
    ------
    InputError
        Pictures, weights to start from, hardware, batch or checkpoint do not fit the recipe.
    Diverged
        Three steps in a row with a loss or gradient that is not finite.
    """
    if threads:
        torch.set_num_threads(threads)
    how = (accelerator, devices, num_nodes, strategy, precision or recipe.precision)
    fabric = start(*how, out if tensorboard else None)
    rank, world = fabric.global_rank, fabric.world_size
    if accumulate < 1 or recipe.batch % (world * accumulate):
        wanted = f"a multiple of {world * accumulate} (processes times accumulation)"
        raise InputError("batch", wanted, recipe.batch, "change it, --devices or --accumulate")
    with fabric.rank_zero_first(local=True):  # it fills the caches that the others then find
        patches.guard(recipe)
        pool = patches.pool(recipe)
    run = Run(fabric, recipe, out, compiled)
    run.restore(resume)
    tally, bad, saved = run.tally, 0, time.monotonic()
    shown: dict[str, Any] = {"unit": "step", "mininterval": 1.0, "disable": rank > 0}
    steps = range(tally.step, recipe.steps)
    bar = tqdm(steps, out.name, recipe.steps, initial=tally.step, **shown)
    with ThreadPoolExecutor(1) as cutter:  # cuts the next batch during a step
        upcoming = cutter.submit(pool.batch, recipe, tally.step, rank, world)
        for step in bar:
            started = time.perf_counter()
            batch = upcoming.result()
            upcoming = cutter.submit(pool.batch, recipe, step + 1, rank, world)
            tally.waited += time.perf_counter() - started
            due = rank == 0 and time.monotonic() - saved > recipe.checkpoint_every
            loss, overflow, due = run.step(batch, accumulate, due)
            tally.seconds += time.perf_counter() - started
            bad = 0 if math.isfinite(loss) else bad if overflow else bad + 1
            if bad == BAD_STEPS:
                what = f"steps {step + 1 - bad} to {step}"
                remedy = "--resume from before them in 32-true, or lower learning_rate or clip"
                raise Diverged(what, "finite losses and gradients", "NaN or infinity", remedy)
            if tally.step % recipe.validate_every == 0 or tally.step == recipe.steps:
                run.look()
            psnr = tally.history[-1]["psnr"] if tally.history else math.nan
            bar.set_postfix(loss=f"{loss:.4f}", psnr=f"{psnr:.2f}", refresh=False)
            if due and not bad:
                run.save()
                saved = time.monotonic()
    used = fabric.strategy.precision.precision
    return run.finish(processes=world, accumulate=accumulate, precision=used)


def start(
    accelerator: str,
    devices: int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    precision: str = "32-true",
    tensorboard: Path | None = None,
) -> lightning.Fabric:
    """Start the processes of a run and return this one's handle; see `train`."""
    world = devices * num_nodes
    chosen: Any = strategy
    if strategy == "fsdp":
        chosen = ModelParallelStrategy(_shard, data_parallel_size=world, tensor_parallel_size=1)
    # In a Slurm job of one task Fabric starts the processes; else it waits for those of Slurm.
    single = SLURMEnvironment.detect() and os.environ["SLURM_NTASKS"] == "1"
    try:
        fabric = lightning.Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=chosen,
            precision=precision,  # type: ignore[arg-type]
            plugins=[LightningEnvironment()] if single else [],
            loggers=[TensorBoardLogger(tensorboard, "tensorboard", "")] if tensorboard else [],
        )
        fabric.launch()
    except Exception as error:  # Fabric raises many kinds for what is not there
        what = f"{devices} x {accelerator}, {strategy}, {precision}"
        found = str(error).splitlines()[0]
        remedy = "change --accelerator, --devices, --strategy, --precision or --tensorboard"
        raise InputError(what, "what Lightning Fabric can use here", found, remedy) from error
    if fabric.world_size != world:
        wanted, found = f"{devices} on each of {num_nodes} node(s)", f"{fabric.world_size} started"
        remedy = "start as many tasks a node (srun --ntasks-per-node), or one task in all"
        raise InputError("processes", wanted, found, remedy)
    return fabric


def _shard(module: nn.Module, mesh: Any) -> nn.Module:
    """Spread weights over processes (FSDP): each residual group by itself, then the rest."""
    module = module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for part in module.modules():
        if isinstance(part, ResidualGroup):
            fully_shard(part, mesh=mesh["data_parallel"])
    fully_shard(module, mesh=mesh["data_parallel"])
    return module


class Objective(nn.Module):
    """The loss of a network on a batch of bytes, which no precision plugin can round to half."""

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


# --- a run ---------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What a run counts next to its weights."""

    step: int = 0  # steps done, skipped ones included: the number of the next step
    skipped: int = 0  # steps whose loss or gradient was not finite
    # Since the last row of the history: the sum of the losses, and seconds spent in steps, of these
    # waiting for a batch.
    loss: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    # Rows of history.csv: step, mean loss since the last row, learning rate, validation PSNR (dB),
    # seconds a step, the loader's share of them in [0, 1], and steps skipped so far.
    history: list[dict[str, float]] = field(default_factory=list)


class Run:
    """A network in training; every process has one, and calls its methods at the same time.

    The tensors of ``network``, ``optimiser`` and ``average`` (of the weights; the network itself
    without averaging) may be sharded over processes. ``model`` gives the loss, ``judge`` is the
    network as it is tested: the trained one keeps its mode and its counters.
    """

    def __init__(
        self, fabric: Any, recipe: Recipe, out: Path, compiled: bool = False, **adam: Any
    ) -> None:
        self.fabric, self.recipe, self.out, self.tally = fabric, recipe, out, Tally()
        self.network: Any = fresh(recipe)
        out.mkdir(parents=True, exist_ok=True)  # fails now, and not after many steps
        average = copy.deepcopy(self.network).requires_grad_(False)
        objective: nn.Module = Objective(self.network, recipe.loss)
        self.hashed = [m for m in self.network.modules() if isinstance(m, HashedAttention)]
        if compiled:
            for layer in self.hashed:
                # Sorting cannot be compiled, and reading the step would compile every step.
                layer.order = torch.compiler.disable(layer.order)  # type: ignore[method-assign]
            objective = torch.compile(objective)  # type: ignore[assignment]
        if fabric.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # attention's products run on tensor cores
        self.model: Any = fabric.setup_module(objective)
        # A fused Adam unscales gradients by itself, after they would have been clipped.
        fused = fabric.strategy.precision.precision != "16-mixed"
        options = {"lr": recipe.learning_rate, "fused": fused, **adam}
        optimiser = torch.optim.Adam(self.network.parameters(), **options)
        self.optimiser: Any = fabric.setup_optimizers(optimiser)
        self.average = average.to(fabric.device) if recipe.ema else self.network
        if recipe.ema and isinstance(fabric.strategy, ModelParallelStrategy):
            _shard(self.average, fabric.strategy.device_mesh)
        testing = dict(recipe.hyperparameters) | dict(recipe.testing)
        judge = models.create(recipe.network, recipe.scale, hash_seed=recipe.seed, **testing)
        self.judge = judge.to(fabric.device)
        self.pairs = patches.validation_pairs(recipe)

    def step(
        self, batch: list[Tensor], accumulate: int = 1, vote: bool = False
    ) -> tuple[float, bool, bool]:
        """Take one optimiser step; one whose loss or gradient is not finite is skipped and counted.

        ``batch`` is from `dtfn.patches.Pool.batch`, the share of this process, and is taken in
        ``accumulate`` parts. Return the mean loss of the global batch (not finite if the step was
        skipped), whether an overflow was the cause, and whether any process voted.

        In half precision a scale of the loss that is too large makes the gradient overflow although
        the loss is finite. Then the scaler has to see the step, to halve the scale. That is no sign
        of divergence.
        """
        fabric, recipe, tally = self.fabric, self.recipe, self.tally
        torch.manual_seed((recipe.seed * 1_000_003 + tally.step) % (1 << 63))
        total = torch.zeros((), device=fabric.device)
        parts = list(zip(*(whole.chunk(accumulate) for whole in batch), strict=True))
        for index, part in enumerate(parts):
            for layer in self.hashed:
                layer.draws = tally.step  # rotations depend on the step, so resuming repeats them
            lr, hr, on = (whole.to(fabric.device, non_blocking=True) for whole in part)
            if recipe.attention_off:
                self.network.attention(on)
            with fabric.no_backward_sync(self.model, index + 1 < len(parts)):  # add up once
                loss = self.model(lr, hr) / accumulate
                fabric.backward(loss)
            total += loss.detach()
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate(tally.step)
        norm: Any = fabric.clip_gradients(
            self.model, self.optimiser, max_norm=recipe.clip or math.inf, error_if_nonfinite=False
        )
        shared: Any = fabric.all_reduce(torch.stack((total, total.new_tensor(vote))))
        value, votes = shared.tolist()  # the one place where the CPU waits for the GPU
        length = float(_whole(norm))
        good = math.isfinite(value) and math.isfinite(length)
        scaler = getattr(fabric.strategy.precision, "scaler", None)
        overflow = bool(scaler and not good and math.isfinite(value) and scaler.get_scale() > 1)
        if not good:
            self.optimiser.zero_grad(set_to_none=True)  # nothing is left to step with
            tally.skipped += 1
        if good or scaler:
            self.optimiser.step()
        if good:
            tally.loss += value
            if recipe.ema:
                # The first weights replace the average.
                share = 1 - recipe.ema if tally.step > tally.skipped else 1.0
                torch._foreach_lerp_(_local(self.average), _local(self.network), share)
        self.optimiser.zero_grad(set_to_none=True)
        tally.step += 1
        return value if good else math.nan, overflow, votes > 0

    def validate(self) -> float:
        """Return the mean PSNR (dB; Y) of the averaged weights on the validation pictures."""
        self.judge.load_state_dict(_whole(self.average.state_dict()))
        outputs = [(evaluation.upscale(self.judge, lr), hr) for lr, hr in self.pairs]
        return float(np.mean([subpixel.psnr(sr, hr, self.recipe.scale) for sr, hr in outputs]))

    def look(self) -> None:
        """Validate, and add a row to the history."""
        tally = self.tally
        last = tally.history[-1] if tally.history else {"step": 0, "skipped": 0}
        steps = tally.step - last["step"]
        good = steps - (tally.skipped - last["skipped"])
        row = {
            "step": tally.step,
            "loss": tally.loss / good if good else math.nan,
            "rate": self.recipe.rate(tally.step - 1),
            "psnr": self.validate(),
            "seconds_per_step": tally.seconds / steps,
            "loader_share": tally.waited / max(tally.seconds, 1e-9),
            "skipped": tally.skipped,
        }
        tally.loss = tally.seconds = tally.waited = 0.0
        tally.history.append(row)
        self.fabric.log_dict(row, tally.step)
        if self.fabric.is_global_zero:
            files.write(self.out / "history.csv", pd.DataFrame(tally.history).to_csv(index=False))

    def save(self) -> None:
        """Write the checkpoint."""
        content = {
            "recipe": dataclasses.asdict(self.recipe),
            "tally": dataclasses.asdict(self.tally),
            "precision": self.fabric.strategy.precision.state_dict(),
        }
        for name in ("network", "average", "optimiser"):
            content[name] = _whole(getattr(self, name).state_dict())
        if self.fabric.is_global_zero:
            stream = io.BytesIO()  # a full disk is no OSError of torch.save's
            torch.save(content, stream)
            files.write(self.out / CHECKPOINT, stream.getvalue())

    def restore(self, resume: bool) -> None:
        """Continue from the checkpoint, if there is one: it must be of the same recipe."""
        file = self.out / CHECKPOINT
        if not file.exists():
            return
        if not resume:
            remedy = "add --resume to continue it, or choose another --out folder"
            raise InputError(self.out, "a folder without a run in it", CHECKPOINT, remedy)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            remedy = "delete it, and the run begins from the first step"
            raise InputError(file, "a whole checkpoint", type(error).__name__, remedy) from None
        mine, its = dataclasses.asdict(self.recipe), content["recipe"]
        other = [key for key in mine if mine[key] != its.get(key)]
        if other:
            remedy = "choose another --out folder, or ask for the same recipe"
            found = f"another {', '.join(other)}"
            raise InputError(file, "a checkpoint of this recipe", found, remedy)
        for name in ("network", "average"):
            own = (network := getattr(self, name)).state_dict()
            network.load_state_dict({k: _like(v, own[k]) for k, v in content[name].items()})
        parameters = list(self.network.parameters())
        moments = {
            index: {k: _like(v, parameters[index]) if v.ndim else v for k, v in state.items()}
            for index, state in content["optimiser"]["state"].items()
        }
        # How Adam runs is this run's choice, not that of the run which wrote the checkpoint.
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.fabric.strategy.precision.load_state_dict(content["precision"])
        self.tally = Tally(**content["tally"])

    def keep(self, file: Path) -> None:
        """Write the averaged weights in the network as it is tested, with the recipe."""
        self.judge.load_state_dict(_whole(self.average.state_dict()))
        if self.fabric.is_global_zero:
            models.save(self.judge, file, recipe=dataclasses.asdict(self.recipe))

    def finish(self, **facts: Any) -> Path:
        """Write the checkpoint, the weights and ``run.json`` with the facts; return the weights."""
        self.save()
        self.keep(self.out / "weights.safetensors")
        if self.fabric.is_global_zero:
            history, start = pd.DataFrame(self.tally.history), self.recipe.start
            seconds = history["seconds_per_step"] * history["step"].diff().fillna(history["step"])
            whole = {
                "steps": self.tally.step,
                "skipped": self.tally.skipped,
                "seconds": round(seconds.sum(), 1),
                "loader_share": round(history["loader_share"].mean(), 5),
                **facts,
                "start": files.sha256(zoo.file_of(start)) if start else "",
                "versions": {"dtfn commit": provenance.git_state()[0], **provenance.versions()},
                "machine": provenance.machine(),
            }
            files.write_json(self.out / "run.json", whole)
        return self.out / "weights.safetensors"


def fresh(recipe: Recipe) -> models.Network:
    """Return the network of a recipe before its first step, on the CPU in channels-last memory."""
    torch.manual_seed(recipe.seed)
    values = dict(recipe.hyperparameters)
    network = models.create(recipe.network, recipe.scale, hash_seed=recipe.seed, **values)
    if recipe.start:
        try:
            file = zoo.file_of(recipe.start)
        except InputError as error:
            remedy = "train it first, or name it with -p start=FILE"
            raise InputError("start", "weights", f"no {recipe.start!r}", remedy) from error
        models.start_from(network, models.load(file))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


# --- tensors that may be sharded over processes --------------------------------------------------


def _local(network: nn.Module) -> list[Tensor]:
    return [(p.to_local() if isinstance(p, DTensor) else p).detach() for p in network.parameters()]


def _whole(value: Any) -> Any:
    """Return a nested state with its sharded tensors whole, on the CPU; others as they are."""
    if isinstance(value, DTensor):
        return value.full_tensor().cpu()
    if isinstance(value, dict):
        return {key: _whole(part) for key, part in value.items()}
    return value


def _like(value: Tensor, model: Tensor) -> Tensor:
    """Return a whole tensor placed, laid out in memory and sharded as the model is.

    The layout matters: a fused Adam walks through a weight and its moments in memory order.
    """
    if not isinstance(model, DTensor):
        return torch.empty_like(model, dtype=value.dtype).copy_(value)
    whole = value.to(model.device).contiguous()
    return distribute_tensor(whole, model.device_mesh, model.placements)
