"""The trainer: one loop for CPU and GPUs, exactly resumable, as every step depends on its number.

It reads from top to bottom: `train` starts the hardware, builds a `State`, takes `one_step` after
the other and writes the weights. `dtfn.side_by_side` trains several networks on one GPU at once by
the same steps. Recipes are in `dtfn.recipes`.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning_fabric as lightning
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader
from tqdm import tqdm

from dtfn import patches, states
from dtfn.errors import InputError, require_known
from dtfn.models.attention import HashedAttention
from dtfn.models.networks import ResidualGroup
from dtfn.recipes import Recipe
from dtfn.states import History, State, Tally

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

STRATEGIES = ("auto", "ddp", "fsdp")
BAD_STEPS = 3  # non-finite steps in a row that stop a run


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
    workers: int | None = None,
    compiled: bool = False,
    tensorboard: bool = False,
    resume: bool = True,
    stop_after: int | None = None,
) -> Path:
    """Train a network, or go on where the last run into the same folder stopped.

    Parameters
    ----------
    recipe
        What to train.
    out
        Folder for checkpoints, ``history.csv``, ``run.json`` and the result; all processes and
        nodes must see the same.
    accelerator
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    devices, num_nodes
        Processes (on a CPU) or GPUs a node, and nodes.
    strategy
        ``"auto"``; ``"ddp"``: every process has the whole network; ``"fsdp"``: a share of it.
    precision
        Instead of the recipe's: ``"32"``, ``"bf16-mixed"``, or, on a GPU, ``"16-mixed"``.
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
    resume
        Whether the folder may hold a run to go on with.
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
        is not there, a batch that cannot be divided, checkpoints of another recipe, or any
        checkpoint where ``resume`` is false.
    Diverged
        Three steps in a row with a loss or gradient that is not finite. The checkpoint from before
        them is kept.
    """
    if threads:
        torch.set_num_threads(threads)
    states.require_empty(out, resume)
    fabric = start(accelerator, devices, num_nodes, strategy, precision or recipe.precision)
    parts = fabric.world_size * accumulate
    if accumulate < 1 or recipe.batch % parts:
        raise InputError(
            "batch",
            (
                f"a multiple of {parts} (processes times accumulation), so that the"
                " mean over parts is the mean over the batch"
            ),
            recipe.batch,
            "change the batch of the recipe, --devices or --accumulate",
        )
    with fabric.rank_zero_first(local=True):  # it fills the caches that the others then find
        pool = states.guarded_pool(recipe)
    state, model = _build(fabric, recipe, compiled)
    out.mkdir(parents=True, exist_ok=True)
    state.restore(fabric, recipe, out)
    last = min(recipe.steps, stop_after or recipe.steps)
    on_gpu = fabric.device.type == "cuda"
    workers = (2 if on_gpu else 0) if workers is None else workers
    share = (fabric.global_rank, fabric.world_size)
    batches = patches.Batches(
        pool, recipe.batch, recipe.patch, recipe.seed, recipe.attention_off, *share
    )
    loader: DataLoader[Any] = DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        sampler=range(state.tally.step, last),
        num_workers=workers,
        pin_memory=on_gpu,
    )
    tally, bad, saved = state.tally, 0, time.monotonic()
    history = History(out, tally, fabric.is_global_zero, tensorboard)
    good = tally  # before the first of bad steps in a row
    # A network of its own: the trained one keeps its mode, its counters and its device.
    judge = states.tested(recipe).to(fabric.device) if fabric.is_global_zero else None
    pairs = states.validation_pairs(recipe) if fabric.is_global_zero else []
    bar = tqdm(
        _timed(loader),
        initial=tally.step,
        total=last,
        desc=out.name,
        unit="step",
        mininterval=1.0,
        disable=not fabric.is_global_zero,
    )
    for batch, waited, started in bar:
        due = fabric.is_global_zero and time.monotonic() - saved > recipe.checkpoint_every
        loss, overflow, due = one_step(fabric, recipe, state, model, *batch, accumulate, due)  # type: ignore[call-arg]
        bad = 0 if math.isfinite(loss) else bad if overflow else bad + 1
        if bad == 1 and not overflow:
            good = copy.deepcopy(tally)
            good.step, good.skipped = tally.step - 1, tally.skipped - 1
        if bad == BAD_STEPS:
            _give_up(fabric, recipe, state, good, out)
        tally.waited += waited
        tally.seconds += time.perf_counter() - started
        if math.isfinite(loss):
            tally.loss += loss
            tally.losses += 1
        psnr = tally.history[-1]["psnr"] if tally.history else math.nan
        bar.set_postfix(loss=f"{loss:.4f}", psnr=f"{psnr:.2f}", refresh=False)
        if tally.step == last or tally.step % recipe.validate_every == 0:
            weights = states.gathered(state.average.state_dict())
            psnr = states.validation_psnr(judge, weights, pairs) if judge is not None else math.nan
            history.row(recipe.rate(tally.step - 1), psnr)
        if due and not bad:
            state.save(fabric, recipe, out)
            saved = time.monotonic()
    state.save(fabric, recipe, out)
    if tally.step < recipe.steps:
        return out
    full = states.gathered(state.average.state_dict())
    if not fabric.is_global_zero:
        return out / "weights.safetensors"
    precision = fabric.strategy.precision.precision
    facts = {"processes": fabric.world_size, "accumulate": accumulate, "precision": precision}
    return states.finish(recipe, full, tally, out, facts)


def _timed(loader: DataLoader[Any]) -> Iterator[tuple[Sequence[Tensor], float, float]]:
    """Yield a batch, the seconds spent waiting for it, and when the waiting began."""
    batches = iter(loader)
    while True:
        started = time.perf_counter()
        try:
            batch = next(batches)
        except StopIteration:
            return
        yield batch, time.perf_counter() - started, started


def _give_up(
    fabric: lightning.Fabric, recipe: Recipe, state: State, good: Tally, out: Path
) -> None:
    """Keep the state from before the bad steps, which have changed no weight, and raise."""
    state.tally = good
    state.save(fabric, recipe, out)
    raise Diverged(
        f"steps {good.step} to {good.step + BAD_STEPS - 1}",
        expected="a finite loss and gradient",
        found=f"NaN or infinity {BAD_STEPS} times in a row",
        remedy=f"{states.checkpoints(out)[0] if fabric.is_global_zero else out} is from before"
        " them: go on with --precision 32-true, or train anew with a smaller learning_rate or clip",
    )


# --- one step ------------------------------------------------------------------------------------


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


def one_step(
    fabric: lightning.Fabric,
    recipe: Recipe,
    state: State,
    model: Any,
    lr: Tensor,
    hr: Tensor,
    on: Tensor,
    accumulate: int = 1,
    vote: bool = False,
) -> tuple[float, bool, bool]:
    """Take one optimiser step; one whose loss or gradient is not finite is skipped and counted.

    In half precision the loss is scaled, so that small gradients do not vanish, and every now and
    then the scale is too large: the gradient overflows although the loss is finite. Then the scaler
    has to see the step, to halve the scale. That is its normal work and no sign of divergence.

    Parameters
    ----------
    lr, hr, on
        uint8 batches (B, 3, p, p) and (B, 3, sp, sp), and bool (B,) where attention is on: the
        share of this process.
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
    parts = list(zip(*(whole.chunk(accumulate) for whole in (lr, hr, on)), strict=True))
    for index, part in enumerate(parts):
        for layer in _hashed(state.network):
            layer.draws = step  # rotations depend on the step alone, so resuming repeats them
        low, high, mask = (whole.to(fabric.device, non_blocking=True) for whole in part)
        if recipe.attention_off:
            state.network.attention(mask)
        with fabric.no_backward_sync(model, index + 1 < len(parts)):  # processes add up once
            loss = model(low, high) / accumulate
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
    value, votes, length = (*shared.tolist(), float(states.gathered(norm)))
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


def _hashed(network: nn.Module) -> list[HashedAttention]:
    return [layer for layer in network.modules() if isinstance(layer, HashedAttention)]


def _build(fabric: lightning.Fabric, recipe: Recipe, compiled: bool) -> tuple[State, Any]:
    """Return the state before the first step, and the model that gives the loss of a batch."""
    network = states.fresh(recipe)
    average = copy.deepcopy(network).requires_grad_(False) if recipe.ema else network
    objective: nn.Module = Objective(network, recipe.loss)
    if compiled:
        for layer in _hashed(network):
            # Drawing and sorting cannot be compiled, and reading the step would compile every step.
            layer.order = torch.compiler.disable(layer.order)  # type: ignore[method-assign]
        objective = torch.compile(objective)  # type: ignore[assignment]
    if fabric.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # attention's products run on tensor cores
    model = fabric.setup_module(objective)
    # A fused Adam unscales gradients by itself, after they would have been clipped.
    fused = fabric.strategy.precision.precision != "16-mixed"
    adam = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, fused=fused)
    optimiser = fabric.setup_optimizers(adam)
    if average is not network:  # place the copy where the network is
        average = average.to(fabric.device)
        if isinstance(fabric.strategy, ModelParallelStrategy):
            _shard(average, fabric.strategy.device_mesh)
    return State(network, average, optimiser), model


# --- hardware ------------------------------------------------------------------------------------


def start(
    accelerator: str, devices: int, num_nodes: int, strategy: str, precision: str
) -> lightning.Fabric:
    """Start the processes of a run and return this one's handle; see `train`."""
    require_known(strategy, STRATEGIES, "strategy", " or ".join(STRATEGIES))
    if accelerator == "auto" and not torch.cuda.is_available() and not torch.mps.is_available():
        accelerator = "cpu"
    if accelerator == "cpu" and precision == "16-mixed":
        raise InputError(
            "precision", "bf16-mixed or 32-true on a CPU", precision, "choose one of these"
        )
    chosen: str | ModelParallelStrategy = strategy
    if strategy == "fsdp":
        chosen = ModelParallelStrategy(
            _shard, data_parallel_size=devices * num_nodes, tensor_parallel_size=1
        )
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
        )
        fabric.launch()
    except Exception as error:  # Fabric raises many kinds for what is not there
        raise InputError(
            f"{devices} x {accelerator}, strategy {strategy}, {precision}",
            "hardware that Lightning Fabric can use",
            str(error).splitlines()[0],
            "change --devices, --strategy or --precision",
        ) from error
    if fabric.world_size != devices * num_nodes:
        raise InputError(
            "processes",
            f"{devices} on each of {num_nodes} node(s)",
            f"{fabric.world_size} that were started",
            "start as many tasks a node (srun --ntasks-per-node), or one task in all",
        )
    return fabric


def _shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Spread weights over processes (FSDP): each residual group by itself, then the rest."""
    module = module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for part in module.modules():
        if isinstance(part, ResidualGroup):
            fully_shard(part, mesh=mesh["data_parallel"])
    fully_shard(module, mesh=mesh["data_parallel"])
    return module
