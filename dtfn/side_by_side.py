"""Train several small networks on one GPU at once.

A small network leaves most of a GPU idle. So each network's whole step (cut the patches, forward,
backward, clip, Adam, average) is captured as one CUDA graph, and the graphs of all networks are
replayed in turn, each on its own stream. All that depends on the step (patches, rate, rotations)
is prepared beforehand in tables that the graph reads at its own step counter.

The steps are those of `dtfn.training`, so the weights agree up to rounding, and checkpoints can be
continued by either trainer. Without a GPU the same code runs without graphs.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dtfn import patches, training
from dtfn.errors import InputError
from dtfn.recipes import Recipe

EAGER = 3  # first steps, taken without a graph: they create the optimiser's state
QUEUED = 20  # rounds that are queued on the GPU before the CPU waits for it
MEASURED = 5  # such queues, after the first, whose time decides how many steps --minutes allows


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

    Arguments and errors are as for `dtfn.training.train`, but for these.

    Parameters
    ----------
    recipes
        Name of each network, which is its folder's name, and its recipe; not in 16-mixed precision.
    out
        Folder of the folders. Returned is one ``weights.safetensors`` a recipe, in their order.
    minutes
        Time that all of it may take, from this call to the last file. The recipes' steps are
        lowered so that every network ends its whole schedule in time.
    keep_every
        Also keep the averaged weights of every so many steps, as ``weights-<step>.safetensors``.
    """
    began = time.monotonic()
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # streams that run at once
    for name, recipe in recipes.items():
        if recipe.precision == "16-mixed":
            remedy = "the scale of 16-mixed needs the CPU in every step"
            raise InputError(f"precision of {name}", "bf16-mixed or 32-true", "16-mixed", remedy)
    fabric = training.start(accelerator)
    torch.backends.cudnn.benchmark = fabric.device.type == "cuda"
    shared: dict[Any, Any] = {}
    prepared = tqdm(recipes.items(), "prepare", unit="network")
    lanes = [Lane(fabric, recipe, out / name, resume, shared) for name, recipe in prepared]
    saved = mark = time.monotonic()
    queues, first = 0, min(lane.tally.step for lane in lanes)
    shown: dict[str, Any] = {"initial": first, "unit": "round", "mininterval": 1.0}
    rounds = max(lane.recipe.steps for lane in lanes)
    with tqdm(desc=f"{len(lanes)} networks", total=rounds, **shown) as bar:
        while busy := [lane for lane in lanes if lane.left]:
            rounds = min(QUEUED, max(lane.left for lane in busy))
            for _ in range(rounds):
                for lane in busy:
                    lane.turn(keep_every)
            _wait(fabric.device)
            queues += 1
            bar.update(rounds)
            bar.set_postfix(loss=f"{np.mean([float(lane.loss) for lane in lanes]):.4f}")
            if minutes and queues == 1:
                mark = time.monotonic()  # the first rounds choose kernels and fill caches
            if minutes and queues == 1 + MEASURED:
                round_time = (time.monotonic() - mark) / (MEASURED * QUEUED)
                round_time += sum(lane.time_of_looks(keep_every) for lane in lanes)
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


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Lane(training.Run):
    """A run whose whole step happens on the device; ``shared`` holds what several lanes read."""

    def __init__(
        self, fabric: Any, recipe: Recipe, out: Path, resume: bool, shared: dict[Any, Any]
    ) -> None:
        device = fabric.device
        graphs = device.type == "cuda"
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
                bank = layer.bank(recipe.patch**2, steps)
                shared[key] = None if bank is None else bank.to(device)
            layer.rotation_bank = shared[key]
            layer.rotation_step = self.clock
        self.since = time.monotonic()
        self.replay = self._step
        if graphs:
            stream = torch.cuda.Stream()
            _wait(device)
            with torch.cuda.stream(stream):
                for _ in range(min(EAGER, self.left)):
                    self._step()
                    tally.step += 1
            _wait(device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                self._step()

            def replay() -> None:
                with torch.cuda.stream(stream):
                    graph.replay()

            self.replay = replay

    @property
    def left(self) -> int:
        """Number of steps that are left to do."""
        return self.recipe.steps - self.tally.step

    def turn(self, keep_every: int) -> None:
        """Queue one step if one is left, and look at the network where its recipe says so."""
        if not self.left:
            return
        self.replay()
        self.tally.step += 1
        step = self.tally.step
        if keep_every and step % keep_every == 0 and self.left:
            _wait(self.fabric.device)
            self.keep(self.out / f"weights-{step:06d}.safetensors")
        if step % self.recipe.validate_every == 0 or not self.left:
            self.count()
            self.look()

    def time_of_looks(self, keep_every: int) -> float:
        """Return the seconds a round that validating and keeping weights will take."""
        start = time.monotonic()
        self.validate()
        every = [n for n in (self.recipe.validate_every, keep_every) if n]
        return (time.monotonic() - start) * sum(1 / n for n in every)

    def shorten(self, steps: int) -> int:
        """Lower the number of steps, end the schedule there, and return the number."""
        if steps < self.tally.step + 1 + self.recipe.warmup // 10:
            wanted = f"time for more steps of {self.out.name}"
            remedy = "allow more minutes, or train fewer networks at once"
            raise InputError("minutes", wanted, f"time for {steps} steps", remedy)
        if steps < self.recipe.steps:
            self.recipe = dataclasses.replace(self.recipe, steps=steps)
            rates = torch.tensor([self.recipe.rate(step) for step in range(steps)])
            self.rates[:steps].copy_(rates)
        return self.recipe.steps

    def count(self) -> None:
        """Bring the counters of the device into the tally, and refuse to go on with bad steps."""
        _wait(self.fabric.device)
        tally, skipped, now = self.tally, round(float(self.skipped)), time.monotonic()
        if skipped - tally.skipped >= training.BAD_STEPS:
            what, found = f"{self.out.name} before step {tally.step}", "NaN or infinity"
            remedy = "train it with a smaller learning_rate or clip"
            raise training.Diverged(what, "finite losses and gradients", found, remedy)
        tally.skipped = skipped
        tally.loss += float(self.total)
        self.total.zero_()
        tally.seconds += now - self.since
        self.since = now

    def _step(self) -> None:
        """Take the step that the clock shows; everything happens on the device."""
        recipe, adam = self.recipe, self.optimiser.optimizer
        adam.zero_grad(set_to_none=True)
        picture, corner, turn, on = (part.index_select(0, self.clock)[0] for part in self.draws)
        adam.param_groups[0]["lr"].copy_(self.rates.index_select(0, self.clock)[0])
        lr, hr = self.pool.cut(picture, corner, turn)
        if recipe.attention_off:
            self.network.attention(on)
        half = recipe.precision == "bf16-mixed"
        with torch.autocast(self.fabric.device.type, torch.bfloat16, enabled=half):
            loss = self.model.module(lr, hr)
        loss.backward()
        weights = list(self.network.parameters())
        with torch.no_grad():
            norm = torch.nn.utils.clip_grad_norm_(weights, recipe.clip or math.inf, foreach=True)
            good = (loss.isfinite() & norm.isfinite()).float()
            adam.found_inf = 1 - good  # a fused Adam leaves its step out where this is 1
            adam.step()
            if recipe.ema:
                averages: list[Any] = list(self.average.parameters())
                # The first weights replace the average.
                share = torch.where(self.clock[0] == self.skipped, 1.0, 1 - recipe.ema) * good
                change = torch._foreach_sub(weights, averages)
                torch._foreach_mul_(change, share)
                torch._foreach_add_(averages, change)
            self.loss.copy_(loss.detach())
            self.total.add_(torch.where(good > 0, loss.detach(), 0.0))
            self.skipped.add_(1 - good)
            self.clock.add_(1)
