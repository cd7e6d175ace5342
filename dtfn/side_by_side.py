"""Train several small networks on one GPU at once.

A small network leaves most of a GPU idle: its step is hundreds of kernels of a few microseconds.
So each network's whole step (cut the patches, forward, backward, clip, Adam, average) is captured
as one CUDA graph, and the graphs of all networks are replayed in turn, each on its own stream.
All that depends on the step (patches, rate, rotations of the hash) is prepared beforehand in
tables that the graph reads at its own step counter.

The steps are those of `dtfn.training`: same patches, rotations, schedule and average, so the
weights agree up to rounding, and checkpoints can be continued by either trainer. Without a GPU
the same code runs without graphs.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dtfn import models, patches, states, training
from dtfn.errors import InputError
from dtfn.models.attention import HashedAttention
from dtfn.recipes import Recipe

EAGER = 3  # first steps, taken without a graph: they create the optimiser's state
QUEUED = 20  # rounds that are queued on the GPU before the CPU waits for it
MEASURED = 100  # rounds whose time decides how many steps fit into --minutes


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

    Parameters
    ----------
    recipes
        Name of each network, which is its folder's name, and its recipe.
    out
        Folder of the folders; each is like one of `dtfn.training.train`.
    accelerator
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    resume
        Whether the folders may hold runs to continue.
    minutes
        Time that all of it may take, from this call to the last file. The recipes' steps are
        lowered so that every network ends its whole schedule in time.
    keep_every
        Also keep the averaged weights of every so many steps, as ``weights-<step>.safetensors``.

    Returns
    -------
    One ``weights.safetensors`` a recipe, in their order.

    Raises
    ------
    InputError
        As `dtfn.training.train`; a recipe in half precision other than ``bf16-mixed``; too little
        time for the shortest schedule.
    Diverged
        A network with `dtfn.training.BAD_STEPS` or more bad steps since the last look at it.
    """
    began = time.monotonic()
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # streams that run at once
    for name, recipe in recipes.items():
        states.require_empty(out / name, resume)
        if recipe.precision == "16-mixed":
            raise InputError(
                f"precision of {name}",
                "bf16-mixed or 32-true",
                recipe.precision,
                "the scale of 16-mixed needs the CPU in every step",
            )
    fabric = training.start(accelerator, 1, 1, "auto", "32-true")
    if fabric.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # attention's products run on tensor cores
        torch.backends.cudnn.benchmark = True
    tables = Tables(fabric.device)
    lanes = []
    for name, recipe in tqdm(recipes.items(), desc="prepare", unit="network"):
        lane = Lane(name, recipe, out / name, tables)
        lane.state.restore(fabric, recipe, lane.out)
        lane.begin()
        lanes.append(lane)
    saved = time.monotonic()
    with tqdm(
        total=max(lane.recipe.steps for lane in lanes),
        initial=min(lane.state.tally.step for lane in lanes),
        desc=f"{len(lanes)} networks",
        unit="round",
        mininterval=1.0,
    ) as bar:
        first, mark = bar.n, time.monotonic()
        while open_lanes := [lane for lane in lanes if lane.left]:
            rounds = min(QUEUED, max(lane.left for lane in open_lanes))
            for _ in range(rounds):
                for lane in open_lanes:
                    lane.turn(keep_every)
            tables.wait()
            bar.update(rounds)
            bar.set_postfix(loss=f"{np.mean([float(lane.loss) for lane in lanes]):.4f}")
            done = bar.n - first
            if minutes and done in range(QUEUED, 2 * QUEUED):
                mark = time.monotonic()  # the first rounds choose kernels and fill caches
            if minutes and done in range(QUEUED + MEASURED, 2 * QUEUED + MEASURED):
                round_time = (time.monotonic() - mark) / (done - QUEUED)
                round_time += sum(lane.time_of_looks(keep_every) for lane in lanes)
                left = 60 * minutes - (time.monotonic() - began) - 3 - 0.3 * len(lanes)
                steps = bar.n + math.floor(left / round_time)
                bar.total = max(lane.shorten(steps) for lane in lanes)
            every = min(lane.recipe.checkpoint_every for lane in open_lanes)
            if time.monotonic() - saved > every:
                for lane in open_lanes:
                    lane.report()
                    lane.state.save(fabric, lane.recipe, lane.out)
                saved = time.monotonic()
    for lane in lanes:
        lane.state.save(fabric, lane.recipe, lane.out)
    facts = {"processes": 1, "accumulate": 1, "side by side": len(lanes)}
    return [lane.finish(facts | {"precision": lane.recipe.precision}) for lane in lanes]


class Tables:
    """What the steps of all networks read, on the device; shared by networks that read the same."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.graphs = device.type == "cuda"
        self._made: dict[Any, Any] = {}

    def once(self, key: Any, make: Any) -> Any:
        """Return what ``make()`` returned when it was first asked for under this key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def wait(self) -> None:
        """Wait until the device has done all it was given."""
        if self.graphs:
            torch.cuda.synchronize(self.device)

    def pool(self, recipe: Recipe) -> Pictures:
        """Return the training pictures of a recipe."""
        key = ("pool", recipe.sets, recipe.scale, recipe.patch, recipe.exclude)
        return self.once(
            key, lambda: Pictures(states.guarded_pool(recipe), recipe.patch, self.device)
        )

    def draws(self, recipe: Recipe) -> tuple[Tensor, ...]:
        """Return `dtfn.patches.Draw` of all steps, each part (steps, B, ...)."""

        def make() -> tuple[Tensor, ...]:
            pool = self.pool(recipe).pool
            batches = patches.Batches(
                pool, recipe.batch, recipe.patch, recipe.seed, recipe.attention_off
            )
            steps = [batches.draw(step) for step in range(recipe.steps)]
            parts = (torch.from_numpy(np.stack(list(part))) for part in zip(*steps, strict=True))
            return tuple(part.to(self.device) for part in parts)

        of_pool = (recipe.sets, recipe.scale, recipe.patch, recipe.exclude)
        key = ("draws", of_pool, recipe.batch, recipe.seed, recipe.attention_off, recipe.steps)
        return self.once(key, make)

    def rotations(self, layer: HashedAttention, recipe: Recipe) -> Tensor | None:
        """Return the rotations of a layer's hash for all steps; None where there is no hashing."""
        width, kind = layer.conv_match[0].out_channels, layer.rotations  # type: ignore[index,union-attr]
        of_layer = (kind, width, layer.chunk_size, layer.n_hashes, layer.layer)

        def make() -> Tensor | None:
            bank = layer.bank(recipe.patch**2, range(recipe.steps))
            return None if bank is None else bank.to(self.device)

        return self.once(("rotations", of_layer, recipe.patch, recipe.seed, recipe.steps), make)


class Pictures:
    """All training pictures in the device's memory, and patches cut from them by index."""

    def __init__(self, pool: patches.Pool, patch: int, device: torch.device) -> None:
        self.pool = pool
        self._pixels = [torch.from_numpy(np.array(p)).to(device) for p in (pool.lr, pool.hr)]
        self._starts = torch.from_numpy(np.asarray(pool.starts)).to(device)
        self._widths = torch.from_numpy(pool.sizes[:, 1].copy()).to(device)
        self._places = [_turned_places(f * patch, device) for f in (1, pool.scale)]

    def cut(self, picture: Tensor, corner: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        """Return uint8 LR (B, 3, p, p) and HR (B, 3, sp, sp), in channels-last memory."""
        cuts = []
        for pixels, places, factor in zip(
            self._pixels, self._places, (1, self.pool.scale), strict=True
        ):
            rows, columns = places[turn].unbind(1)  # (B, p, p) each
            rows = rows + factor * corner[:, 0, None, None]
            columns = columns + factor * corner[:, 1, None, None]
            start = self._starts[picture][:, None, None] * factor**2
            width = self._widths[picture][:, None, None] * factor
            index = start + rows * width + columns
            flat = pixels.index_select(0, index.flatten()).view(*index.shape, 3)
            cuts.append(flat.permute(0, 3, 1, 2))
        return cuts[0], cuts[1]


def _turned_places(size: int, device: torch.device) -> Tensor:
    """Return (8, 2, size, size): row and column in a patch of each pixel of the turned patch."""
    grid = np.stack(list(np.mgrid[:size, :size]), -1)
    turned = [np.rot90(grid[:, ::-1] if k >= 4 else grid, k % 4) for k in range(8)]
    return torch.from_numpy(np.stack(turned).transpose(0, 3, 1, 2).copy()).to(device)


class Lane:
    """One network, its `dtfn.states.State` and its step; the tables are shared by all lanes."""

    def __init__(self, name: str, recipe: Recipe, out: Path, tables: Tables) -> None:
        self.name, self.recipe, self.out, self.tables = name, recipe, out, tables
        out.mkdir(parents=True, exist_ok=True)
        device = tables.device
        network = states.fresh(recipe).to(device).train()
        average = copy.deepcopy(network).requires_grad_(False) if recipe.ema else network
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.weights: list[Tensor] = list(network.parameters())
        self.averages: list[Tensor] = list(average.parameters()) if recipe.ema else []
        adam = torch.optim.Adam(
            network.parameters(),
            lr=torch.tensor(recipe.learning_rate, device=device),  # type: ignore[arg-type]
            fused=True,
            capturable=tables.graphs,
        )
        self.state = states.State(network, average, adam)
        self.objective = training.Objective(network, recipe.loss)
        self.judge: models.Network | None = None
        self.pairs = tables.once(
            ("pairs", recipe.validation, recipe.validation_count, recipe.scale),
            lambda: states.validation_pairs(recipe),
        )
        self.pool, self.draws = tables.pool(recipe), tables.draws(recipe)
        self.rates = torch.tensor([recipe.rate(s) for s in range(recipe.steps)], device=device)
        # Counters of the device; `report` brings them into the tally.
        self.clock = torch.zeros(1, dtype=torch.long, device=device)
        self.loss, self.total, self.bad, self.averaged = torch.zeros(4, device=device).unbind()
        self.since = time.monotonic()

    @property
    def left(self) -> int:
        """Number of steps that are left to do."""
        return self.recipe.steps - self.state.tally.step

    def begin(self) -> None:
        """Take the first steps eagerly, then capture the step where there is a GPU."""
        tally = self.state.tally
        self.clock.fill_(tally.step)
        self.averaged.fill_(tally.averaged)
        for layer in self.state.network.modules():
            if isinstance(layer, HashedAttention):
                layer.rotation_bank = self.tables.rotations(layer, self.recipe)
                layer.rotation_step = self.clock
        self.history = states.History(self.out, tally, active=True)
        self.since = time.monotonic()
        if not self.tables.graphs:
            self.replay = self._step
            return
        self.stream = torch.cuda.Stream()
        with torch.cuda.stream(self.stream):
            for _ in range(min(EAGER, self.left)):
                self._step()
                tally.step += 1
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self._step()
        self.replay = self._replay

    def turn(self, keep_every: int = 0) -> None:
        """Queue one step, and look at the network where its recipe says so."""
        if not self.left:
            return
        self.replay()
        tally = self.state.tally
        tally.step += 1
        if keep_every and tally.step % keep_every == 0 and self.left:
            self.tables.wait()
            file = self.out / f"weights-{tally.step:06d}.safetensors"
            states.save_weights(self.recipe, self.state.average.state_dict(), file)
        if tally.step % self.recipe.validate_every == 0 or not self.left:
            self.report()
            self.history.row(self.recipe.rate(tally.step - 1), self._psnr())

    def time_of_looks(self, keep_every: int) -> float:
        """Return the seconds a round that validating and keeping weights will take."""
        start = time.monotonic()
        self._psnr()
        every = [n for n in (self.recipe.validate_every, keep_every) if n]
        return (time.monotonic() - start) * sum(1 / n for n in every)

    def shorten(self, steps: int) -> int:
        """Lower the number of steps, and end the schedule there."""
        if steps < self.state.tally.step + 1 + self.recipe.warmup // 10:
            raise InputError(
                "minutes",
                f"time for more steps of {self.name}",
                f"time for {steps} steps",
                "allow more minutes, or train fewer networks at once",
            )
        if steps < self.recipe.steps:
            self.recipe = dataclasses.replace(self.recipe, steps=steps)
            rates = torch.tensor([self.recipe.rate(s) for s in range(steps)])
            self.rates[:steps].copy_(rates)
        return self.recipe.steps

    def report(self) -> None:
        """Bring the counters of the device into the tally.

        Raises
        ------
        Diverged
            Too many bad steps since the last report.
        """
        self.tables.wait()
        tally = self.state.tally
        bad = round(float(self.bad))
        if bad >= training.BAD_STEPS:
            raise training.Diverged(
                f"{self.name} before step {tally.step}",
                expected="a finite loss and gradient",
                found=f"NaN or infinity {bad} times",
                remedy="train it with a smaller learning_rate or clip",
            )
        tally.skipped += bad
        tally.averaged = round(float(self.averaged))
        tally.loss += float(self.total)
        last = tally.history[-1] if tally.history else {"step": 0, "skipped": 0}
        good = (tally.step - tally.skipped) - (last["step"] - last["skipped"])
        tally.losses = int(good)  # since the last row, however often it was asked in between
        self.total.zero_()
        self.bad.zero_()
        now = time.monotonic()
        tally.seconds += now - self.since
        self.since = now

    def finish(self, facts: Mapping[str, Any]) -> Path:
        """Write the weights, the history and the facts of the run."""
        weights = {key: value.cpu() for key, value in self.state.average.state_dict().items()}
        return states.finish(self.recipe, weights, self.state.tally, self.out, facts)

    def _replay(self) -> None:
        with torch.cuda.stream(self.stream):
            self.graph.replay()

    def _psnr(self) -> float:
        if self.judge is None:
            self.judge = states.tested(self.recipe).to(self.tables.device)
        return states.validation_psnr(self.judge, self.state.average.state_dict(), self.pairs)

    def _step(self) -> None:
        """Take the step that the clock shows; everything happens on the device."""
        recipe, adam = self.recipe, self.state.optimiser
        adam.zero_grad(set_to_none=True)
        picture, corner, turn, on = (part.index_select(0, self.clock)[0] for part in self.draws)
        adam.param_groups[0]["lr"].copy_(self.rates.index_select(0, self.clock)[0])
        with torch.no_grad():
            lr, hr = self.pool.cut(picture, corner, turn)
        if recipe.attention_off:
            self.state.network.attention(on)
        half = recipe.precision == "bf16-mixed"
        with torch.autocast(self.tables.device.type, torch.bfloat16, enabled=half):
            loss = self.objective(lr, hr)
        loss.backward()
        with torch.no_grad():
            norm = torch.nn.utils.clip_grad_norm_(
                self.parameters, recipe.clip or math.inf, foreach=True
            )
            good = (loss.isfinite() & norm.isfinite()).float()
            adam.found_inf = 1 - good  # a fused Adam leaves its step out where this is 1
            adam.step()
            if self.averages:
                # The first weights replace the average.
                share = torch.where(self.averaged == 0, 1.0, 1 - recipe.ema) * good
                change = torch._foreach_sub(self.weights, self.averages)
                torch._foreach_mul_(change, share)
                torch._foreach_add_(self.averages, change)
                self.averaged.add_(good)
            self.loss.copy_(loss.detach())
            self.total.add_(torch.where(good > 0, loss.detach(), 0.0))
            self.bad.add_(1 - good)
            self.clock.add_(1)
