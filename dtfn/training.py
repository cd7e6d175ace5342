"""The trainer: one loop for CPU and GPUs, exactly resumable, as every step depends on its number.

`train_together` trains several small networks on one GPU, most of which one of them leaves idle:
each network's whole step (cut patches, forward, backward, clip, Adam, average) is a CUDA graph, and
these are replayed in turn, each on its stream. What depends on the step (patches, rate, rotations)
is in tables that the graph reads at its step counter. Weights agree up to rounding, and either
trainer continues what the other began. Without a GPU the same code runs without graphs.
"""

import copy
import dataclasses
import io
import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
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
from dtfn.recipes import Recipe

BAD_STEPS = 3  # non-finite steps in a row that stop a run, with these words
REMEDY = "--resume from before them in 32-true, or lower learning_rate or clip"
DIVERGED = ("finite losses and gradients", "NaN or infinity", REMEDY)
CHECKPOINT = "state.ckpt"
QUEUED = 20  # rounds that are queued on the GPU before the CPU waits for it
MEASURED = 5  # such queues, after the first, whose time decides how many steps --minutes allows


def train(
    recipe: Recipe,
    out: Path,
    *,
    accumulate: int = 1,
    threads: int = 0,
    compiled: bool = False,
    tensorboard: bool = False,
    resume: bool = True,
    **hardware: Any,
) -> Path:
    """Train a network, or go on where the last run into the same folder stopped.

    ``out``, which all nodes must see, gets the checkpoint, ``history.csv``, ``run.json`` and the
    ``weights.safetensors`` that is returned. ``hardware`` is as for `start`; the precision is the
    recipe's unless one is given. Each process takes its share of a batch in ``accumulate`` parts,
    which changes rounding only. ``threads`` 0 leaves torch's own choice; ``tensorboard`` logs the
    history to ``<out>/tensorboard``, too; without ``resume`` the folder may hold no run.

    Pictures, start, hardware, batch or checkpoint that do not fit the recipe are an `InputError`,
    and so are three steps in a row whose loss or gradient is not finite.
    """
    if threads:
        torch.set_num_threads(threads)
    hardware["precision"] = hardware.get("precision") or recipe.precision
    fabric = start(out if tensorboard else None, **hardware)
    rank, world = fabric.global_rank, fabric.world_size
    if accumulate < 1 or recipe.batch % (world * accumulate):
        wanted = f"a multiple of {world * accumulate}"
        raise InputError("batch", wanted, recipe.batch, "change it, --devices or --accumulate")
    with fabric.rank_zero_first(local=True):  # it fills the caches that the others then find
        patches.guard(recipe)
        pool = patches.pool(recipe)
    run = Run(fabric, recipe, out, compiled)
    run.restore(resume)
    tally, bad, saved = run.tally, 0, time.monotonic()
    shown: dict[str, Any] = {"unit": "step", "mininterval": 1.0, "disable": rank > 0}
    bar = tqdm(range(tally.step, recipe.steps), out.name, recipe.steps, initial=tally.step, **shown)
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
                raise InputError(f"steps {step + 1 - bad} to {step}", *DIVERGED)
            if tally.step % recipe.validate_every == 0 or tally.step == recipe.steps:
                run.look()
            psnr = tally.history[-1]["psnr"] if tally.history else math.nan
            bar.set_postfix(loss=f"{loss:.4f}", psnr=f"{psnr:.2f}", refresh=False)
            if due and not bad:
                run.save()
                saved = time.monotonic()
    used = fabric.strategy.precision.precision
    return run.finish(processes=world, accumulate=accumulate, precision=used)


def start(tensorboard: Path | None = None, **hardware: Any) -> lightning.Fabric:
    """Start the processes of a run and return this one's handle, which logs to ``tensorboard``.

    ``hardware`` is Lightning Fabric's: ``accelerator`` (``"auto"``, ``"cpu"`` or ``"cuda"``),
    ``devices`` (processes on a CPU, or GPUs, a node), ``num_nodes``, ``precision`` and
    ``strategy``: by ``"ddp"`` every process has the whole network, by ``"fsdp"`` a share of it.
    """
    world = hardware.setdefault("devices", 1) * hardware.get("num_nodes", 1)
    if hardware.get("strategy") == "fsdp":
        sharded = ModelParallelStrategy(_shard, data_parallel_size=world, tensor_parallel_size=1)
        hardware["strategy"] = sharded
    # In a Slurm job of one task Fabric starts the processes; else it waits for those of Slurm.
    single = SLURMEnvironment.detect() and os.environ["SLURM_NTASKS"] == "1"
    try:
        plugins = LightningEnvironment() if single else None
        loggers = TensorBoardLogger(tensorboard, "tensorboard", "") if tensorboard else None
        fabric = lightning.Fabric(**hardware, plugins=plugins, loggers=loggers)
        fabric.launch()
    except Exception as error:  # Fabric raises many kinds for what is not there
        found = str(error).splitlines()[0]
        remedy = "change --accelerator, --devices, --strategy, --precision or --tensorboard"
        raise InputError("hardware", "what Lightning Fabric can use", found, remedy) from error
    if fabric.world_size != world:
        raise InputError("processes", world, fabric.world_size, "start as many, or one task in all")
    return fabric


def _shard(module: Any, mesh: Any) -> Any:
    """Spread weights over processes (FSDP): each part of the body by itself, then the rest."""
    module = module.to(memory_format=torch.contiguous_format)
    for part in (*module.body, module):
        fully_shard(part, mesh=mesh["data_parallel"])
    return module


def mean_loss(network: nn.Module, lr: Tensor, hr: Tensor, kind: str) -> Tensor:
    """Return the loss of a network on bytes, LR (B, 3, p, p) and HR (B, 3, sp, sp), in float32."""
    last = torch.channels_last
    x, target = (part.contiguous(memory_format=last).float().div_(255) for part in (lr, hr))
    difference = network(x) - target
    if kind == "charbonnier":
        return (difference.square() + 1e-6).sqrt().mean()
    return difference.abs().mean()


@dataclass
class Tally:
    """What a run counts next to its weights."""

    step: int = 0  # steps done, skipped ones included: the number of the next step
    skipped: int = 0  # steps whose loss or gradient was not finite
    loss: float = 0.0  # the sum of good steps since the last row of the history, as for these:
    seconds: float = 0.0  # spent in steps
    waited: float = 0.0  # of them for a batch
    # Rows of history.csv: step, mean loss since the last row, learning rate, validation PSNR (dB),
    # seconds a step, the loader's share of them in [0, 1], and steps skipped so far.
    history: list[dict[str, float]] = field(default_factory=list)


class Run:
    """A network in training; every process has one, and calls its methods at the same time.

    ``network``, ``optimiser`` and ``average`` (of the weights; else the network itself) may be
    sharded over processes. ``model`` is the network as it is trained, ``judge`` as it is tested.
    """

    def __init__(
        self, fabric: Any, recipe: Recipe, out: Path, compiled: bool = False, **adam: Any
    ) -> None:
        self.fabric, self.recipe, self.out, self.tally = fabric, recipe, out, Tally()
        torch.manual_seed(recipe.seed)
        values = {"hash_seed": recipe.seed, **dict(recipe.hyperparameters)}
        network: Any = models.create(recipe.network, recipe.scale, **values)
        self.fresh = True  # an average holds nothing of weights that nobody has trained
        if recipe.start:
            models.start_from(network, begin := models.load(recipe.start))
            self.fresh = begin.scale != recipe.scale
        self.network = network.to(memory_format=torch.channels_last)
        out.mkdir(parents=True, exist_ok=True)  # fails now, and not after many steps
        average = copy.deepcopy(self.network).requires_grad_(False)
        self.hashed = [m for m in self.network.modules() if isinstance(m, HashedAttention)]
        for layer in self.hashed if compiled else ():
            # Sorting cannot be compiled, and reading the step would compile every step.
            layer.order = torch.compiler.disable(layer.order)  # type: ignore[method-assign]
        if fabric.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # attention's products run on tensor cores
        model = torch.compile(self.network) if compiled else self.network
        self.model: Any = fabric.setup_module(model)
        # A fused Adam unscales gradients by itself, after they would have been clipped.
        fused = fabric.strategy.precision.precision != "16-mixed"
        options = {"lr": recipe.learning_rate, "fused": fused, **adam}
        optimiser = torch.optim.Adam(self.network.parameters(), **options)
        self.optimiser: Any = fabric.setup_optimizers(optimiser)
        self.average = average.to(fabric.device) if recipe.ema else self.network
        if recipe.ema and isinstance(fabric.strategy, ModelParallelStrategy):
            _shard(self.average, fabric.strategy.device_mesh)
        judge = models.create(recipe.network, recipe.scale, **values | dict(recipe.testing))
        self.judge = judge.to(fabric.device)
        self.pairs = patches.validation_pairs(recipe)

    def step(
        self, batch: list[Tensor], accumulate: int = 1, vote: bool = False
    ) -> tuple[float, bool, bool]:
        """Take one optimiser step; one whose loss or gradient is not finite is skipped and counted.

        ``batch`` is this process's, of `dtfn.patches.Pool.batch`. Return the mean loss of the
        global batch (NaN if the step was skipped), whether an overflow in half precision was the
        cause, which is no divergence but which the scaler must see, and whether a process voted.
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
                loss = mean_loss(self.model, lr, hr, recipe.loss) / accumulate
                fabric.backward(loss)
            total += loss.detach()
        self.optimiser.param_groups[0]["lr"] = recipe.rate(tally.step)
        how: Any = {"max_norm": recipe.clip or math.inf, "error_if_nonfinite": False}
        norm: Any = fabric.clip_gradients(self.model, self.optimiser, **how)
        shared: Any = fabric.all_reduce(torch.stack((total, total.new_tensor(vote))))
        value, votes = shared.tolist()  # the one place where the CPU waits for the GPU
        good = math.isfinite(value) and math.isfinite(float(_whole(norm)))
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
                share = self.share(tally.step - tally.skipped)
                torch._foreach_lerp_(_local(self.average), _local(self.network), share)
        self.optimiser.zero_grad(set_to_none=True)
        tally.step += 1
        return value if good else math.nan, overflow, votes > 0

    def share(self, steps: Any) -> Any:
        """Return the share of the next weights in the average, corrected as Adam does its own."""
        return (1 - self.recipe.ema) / (1 - self.recipe.ema ** (steps + 1) if self.fresh else 1)

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
        good = steps - tally.skipped + last["skipped"]
        row = {
            **{"step": tally.step, "loss": tally.loss / good if good else math.nan},
            **{"rate": self.recipe.rate(tally.step - 1), "psnr": self.validate()},
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
        content = {name: dataclasses.asdict(getattr(self, name)) for name in ("recipe", "tally")}
        content["precision"] = self.fabric.strategy.precision.state_dict()
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
        except Exception as error:  # torch raises many kinds for what is cut off
            found, remedy = type(error).__name__, "delete it to begin from the first step"
            raise InputError(file, "a whole checkpoint", found, remedy) from None
        mine = dataclasses.asdict(self.recipe)
        if other := [key for key in mine if mine[key] != content["recipe"].get(key)]:
            found, remedy = f"another {', '.join(other)}", "choose another --out folder"
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
                **{"steps": self.tally.step, "skipped": self.tally.skipped},
                "seconds": round(seconds.sum(), 1),
                "loader_share": round(history["loader_share"].mean(), 5),
                **facts,
                "start": files.sha256(zoo.file_of(start)) if start else "",
                "versions": {"dtfn commit": provenance.git_state()[0], **provenance.versions()},
                "machine": provenance.machine(),
            }
            files.write_json(self.out / "run.json", whole)
        return self.out / "weights.safetensors"


def _local(network: nn.Module) -> list[Tensor]:
    return [(p.to_local() if isinstance(p, DTensor) else p).detach() for p in network.parameters()]


def _whole(value: Any) -> Any:
    if isinstance(value, DTensor):
        return value.full_tensor().cpu()
    if isinstance(value, dict):
        return {key: _whole(part) for key, part in value.items()}
    return value


def _like(value: Tensor, model: Tensor) -> Tensor:
    # The layout matters: a fused Adam walks through a weight and its moments in memory order.
    if not isinstance(model, DTensor):
        return torch.empty_like(model, dtype=value.dtype).copy_(value)
    whole = value.to(model.device).contiguous()
    return distribute_tensor(whole, model.device_mesh, model.placements)


def train_together(
    recipes: Mapping[str, Recipe],
    out: Path,
    *,
    accelerator: str = "auto",
    resume: bool = True,
    minutes: float | None = None,
    keep_every: int = 0,
) -> list[Path]:
    """Train several networks at once, or go on where the last run into the same folder stopped.

    Arguments and errors are as for `train`. ``recipes`` are by their folders' names in ``out``;
    none is in 16-mixed precision. The recipes' steps are lowered so that every network ends its
    whole schedule in ``minutes`` from this call. Every ``keep_every`` steps the averaged weights
    are kept, too, as ``weights-<step>.safetensors``. Returned are the last ones.
    """
    began = time.monotonic()
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # streams that run at once
    if "16-mixed" in [recipe.precision for recipe in recipes.values()]:
        raise InputError("precision", "bf16-mixed or 32-true", "16-mixed", "choose one of these")
    fabric = start(accelerator=accelerator)
    torch.backends.cudnn.benchmark = fabric.device.type == "cuda"
    shared: dict[Any, Any] = {}
    prepared = tqdm(recipes.items(), "prepare", unit="network")
    lanes = [Lane(fabric, recipe, out / name, resume, shared) for name, recipe in prepared]
    saved, marks = time.monotonic(), list[float]()  # the times after each queue
    first = min(lane.tally.step for lane in lanes)
    rounds = max(lane.recipe.steps for lane in lanes)
    with tqdm(desc=f"{len(lanes)} networks", total=rounds, initial=first, unit="round") as bar:
        while busy := [lane for lane in lanes if lane.left]:
            rounds = min(QUEUED, max(lane.left for lane in busy))
            for _ in range(rounds):
                for lane in busy:
                    lane.turn(keep_every)
            lanes[0].wait()
            marks.append(time.monotonic())
            bar.update(rounds)
            bar.set_postfix(loss=f"{np.mean([float(lane.loss) for lane in lanes]):.4f}")
            if minutes and len(marks) == 1 + MEASURED:
                # Without the first queue, which chooses kernels and fills caches.
                round_time = (marks[-1] - marks[0]) / (MEASURED * QUEUED)
                for lane in lanes:  # and the time of validating and of keeping weights
                    lane.validate()  # chooses kernels, too
                    before = time.monotonic()
                    lane.validate()
                    every = [n for n in (lane.recipe.validate_every, keep_every) if n]
                    round_time += (time.monotonic() - before) * sum(1 / n for n in every)
                left = 60 * minutes - (time.monotonic() - began) - 3 - 0.3 * len(lanes)
                steps = bar.n + math.floor(left / round_time)
                bar.total = max(lane.shorten(steps) for lane in lanes)
            if time.monotonic() - saved > min(lane.recipe.checkpoint_every for lane in busy):
                for lane in busy:
                    lane.count()
                    lane.save()
                saved = time.monotonic()
    facts = {"processes": 1, "accumulate": 1, "side by side": len(lanes)}
    return [lane.finish(**facts, precision=lane.recipe.precision) for lane in lanes]


class Lane(Run):
    """A run whose whole step happens on the device; ``shared`` holds what several lanes read."""

    def __init__(self, fabric: Any, recipe: Recipe, out: Path, resume: bool, shared: Any) -> None:
        device, graphs = fabric.device, fabric.device.type == "cuda"
        rate = torch.tensor(recipe.learning_rate, device=device)
        super().__init__(fabric, recipe, out, lr=rate, capturable=graphs)
        self.restore(resume)
        tally, steps = self.tally, range(recipe.steps)
        key: tuple[Any, ...] = (recipe.sets, recipe.exclude, recipe.scale, recipe.patch)
        if key not in shared:
            patches.guard(recipe)
            shared[key] = patches.pool(recipe, device)
        self.pool: patches.Pool = shared[key]
        drawn = zip(*(self.pool.draw(recipe, step) for step in steps), strict=True)
        # Each part of a draw for all steps, (steps, B, ...).
        self.draws = [torch.from_numpy(np.stack(part)).to(device) for part in drawn]
        self.rates = torch.tensor([recipe.rate(step) for step in steps], device=device)
        self.clock = torch.full((1,), tally.step, device=device)
        self.loss, self.total, self.skipped = torch.zeros(3, device=device).unbind()
        self.skipped.fill_(tally.skipped)
        for layer in self.hashed:
            of_layer = (layer.rotations, layer.query_width, layer.chunk_size, layer.n_hashes)
            key = (*of_layer, layer.layer, recipe.patch, recipe.seed, recipe.steps)
            if key not in shared:
                bank = [layer.drawn(recipe.patch**2, step + 1) for step in steps]
                shared[key] = torch.stack(bank).to(device)
            layer.bank = shared[key], self.clock
        self.since = time.monotonic()
        self.replay: Callable[[], None] = self._step
        if graphs and self.left:
            stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()

            def queue(step: Callable[[], None]) -> None:
                with torch.cuda.stream(stream):
                    step()

            self.wait()
            self.replay = partial(queue, self._step)
            for _ in range(min(3, self.left)):  # these create the optimiser's state
                self.turn(0)
            self.wait()
            with torch.cuda.graph(graph, stream=stream):
                self._step()
            self.replay = partial(queue, graph.replay)

    def wait(self) -> None:
        """Wait until the device has done what is queued."""
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize(self.fabric.device)

    @property
    def left(self) -> int:
        """How many steps are left to do."""
        return self.recipe.steps - self.tally.step

    def turn(self, keep_every: int) -> None:
        """Queue one step if one is left, and look at the network where its recipe says so."""
        if not self.left:
            return
        self.replay()
        self.tally.step += 1
        step = self.tally.step
        if keep_every and step % keep_every == 0 and self.left:
            self.wait()
            self.keep(self.out / f"weights-{step:06d}.safetensors")
        if step % self.recipe.validate_every == 0 or not self.left:
            self.count()
            self.look()

    def shorten(self, steps: int) -> int:
        """Lower the number of steps, end the schedule there, and return the number."""
        if steps < self.tally.step + 1 + self.recipe.warmup // 10:
            found, remedy = f"time for {steps}", "allow more, or train fewer networks at once"
            raise InputError("minutes", f"time for more steps of {self.out.name}", found, remedy)
        if steps < self.recipe.steps:
            self.recipe = dataclasses.replace(self.recipe, steps=steps)
            rates = torch.tensor([self.recipe.rate(step) for step in range(steps)])
            self.rates[:steps].copy_(rates)
        return self.recipe.steps

    def count(self) -> None:
        """Bring the counters of the device into the tally, and refuse to go on with bad steps."""
        self.wait()
        tally, skipped, now = self.tally, round(float(self.skipped)), time.monotonic()
        if skipped - tally.skipped >= BAD_STEPS:
            raise InputError(f"{self.out.name} before step {tally.step}", *DIVERGED)
        tally.skipped = skipped
        tally.loss += float(self.total)
        self.total.zero_()
        tally.seconds += now - self.since
        self.since = now

    def _step(self) -> None:
        recipe, adam = self.recipe, self.optimiser.optimizer
        adam.zero_grad(set_to_none=True)
        picture, corner, turn, on = (part.index_select(0, self.clock)[0] for part in self.draws)
        adam.param_groups[0]["lr"].copy_(self.rates.index_select(0, self.clock)[0])
        lr, hr = self.pool.cut(picture, corner, turn)
        if recipe.attention_off:
            self.network.attention(on)
        half = recipe.precision == "bf16-mixed"
        with torch.autocast(self.fabric.device.type, torch.bfloat16, enabled=half):
            loss = mean_loss(self.network, lr, hr, recipe.loss)
        loss.backward()
        weights = list(self.network.parameters())
        with torch.no_grad():
            norm = torch.nn.utils.clip_grad_norm_(weights, recipe.clip or math.inf, foreach=True)
            good = (loss.isfinite() & norm.isfinite()).float()
            adam.found_inf = 1 - good  # a fused Adam leaves its step out where this is 1
            adam.step()
            if recipe.ema:
                averages = _local(self.average)
                share = self.share((self.clock[0] - self.skipped).double()).float() * good
                change = torch._foreach_mul(torch._foreach_sub(weights, averages), share)
                torch._foreach_add_(averages, change)
            self.loss.copy_(loss.detach())
            self.total.add_(torch.where(good > 0, loss.detach(), 0.0))
            self.skipped.add_(1 - good)
            self.clock.add_(1)
