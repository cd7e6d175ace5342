import dataclasses
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning_fabric as lightning
import numpy as np
import pandas as pd
import pytest
import tiny_training as tiny
import torch
from lightning_fabric.plugins.precision import MixedPrecision
from safetensors.numpy import load_file
from tiny import refused
from torch.optim.lr_scheduler import CosineAnnealingLR

from dtfn import models, recipes, training

TIMES = ["seconds_per_step", "loader_share"]  # columns of the history that no run repeats
# One batch in two parts is added up in another order: one part in 1e7 of a gradient. Adam divides
# it by its own size, so a step of 1e-3 is off by some 1e-10, and six steps stay far below this.
ROUNDING = 1e-6
SMALL = {"n_feats": 8, "n_resgroups": 2, "n_resblocks": 1}
BATCH = [torch.randint(0, 256, (2, 3, n, n), dtype=torch.uint8) for n in (12, 24)]
TOGETHER = {
    "local-x2-s0": tiny.recipe("local-x2-s0", hyperparameters=SMALL),
    "nla-x2-s0": tiny.recipe("nla-x2-s0", hyperparameters=SMALL),
    "hspa-x2-s0": tiny.recipe("hspa-x2-s0", hyperparameters=SMALL | {"topk": 4}),
    "dtfn-x2-s0": tiny.recipe("dtfn-x2-s0"),
    "nlsa+tfs-x2-s1": tiny.recipe("nlsa+tfs-x2-s1", hyperparameters=SMALL | {"chunk_size": 16}),
    # A patch has fewer positions than a chunk.
    "gla-x2-s0": tiny.recipe("gla-x2-s0", hyperparameters=SMALL | {"chunk_size": 145}),
}


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("world")
    tiny.make(folder)
    with pytest.MonkeyPatch.context() as patch:
        tiny.enter(patch, folder)
        yield folder


def train(out: Path, changes: dict[str, Any] | None = None, **options: Any) -> Path:
    options = {"accelerator": "cpu", "threads": 1, **options}
    return training.train(tiny.recipe(**(changes or {})), out, **options)


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted, on one process; in ``together`` several side by side."""
    out = tmp_path_factory.mktemp("whole")
    train(out)
    training.train_together(TOGETHER, out / "together", accelerator="cpu")
    return out


def assert_same(out: Path, other: Path, tolerance: float = 0.0) -> None:
    """The same weights, and the same history but for times."""
    mine, its = (load_file(folder / "weights.safetensors") for folder in (out, other))
    assert mine.keys() == its.keys()
    for key, value in mine.items():
        np.testing.assert_allclose(value, its[key], rtol=0, atol=tolerance, err_msg=key)
    tables = [pd.read_csv(folder / "history.csv").drop(columns=TIMES) for folder in (out, other)]
    pd.testing.assert_frame_equal(*tables, rtol=100 * tolerance or 1e-12)


def start(world: Path, out: Path, **options: Any) -> subprocess.Popen[str]:
    program = [sys.executable, str(tiny.HERE), str(world), str(out), json.dumps(options)]
    # Its own group, so that the processes that it starts can be ended with it.
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(program, text=True, process_group=0, **pipes)


# --- resuming ---
def test_a_killed_run_ends_in_the_same_bits(world: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(world, out)
    limit = time.monotonic() + 280
    while not (out / training.CHECKPOINT).exists() and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    train(out)
    assert_same(out, whole)


@pytest.mark.parametrize("before", [1, 4])
def test_a_stopped_run_ends_in_the_same_bits(whole: Path, tmp_path: Path, before: int) -> None:
    with tiny.stopped(before):
        train(tmp_path)
    assert not (tmp_path / "weights.safetensors").exists()
    train(tmp_path)
    assert_same(tmp_path, whole)
    left = {"history.csv", "run.json", "state.ckpt", "weights.safetensors"}
    assert {file.name for file in tmp_path.iterdir()} == left


def test_a_checkpoint_needs_resume_and_its_own_recipe(tmp_path: Path) -> None:
    with tiny.stopped(1):
        train(tmp_path)
    refused("another learning_rate; .* --out", train, tmp_path, {"learning_rate": 1e-4})
    said, lanes = "found state.ckpt; add --resume", {tmp_path.name: tiny.recipe()}
    refused(said, training.train, tiny.recipe(), tmp_path, resume=False)
    refused(said, training.train_together, lanes, tmp_path.parent, resume=False)
    state = tmp_path / "state.ckpt"
    state.write_bytes(state.read_bytes()[:1000])
    refused("expected a whole checkpoint", train, tmp_path)


def test_often_or_in_parts(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, {"validate_every": 1, "checkpoint_every": 1000.0})
    mine, its = (load_file(folder / "weights.safetensors") for folder in (tmp_path, whole))
    assert all(np.array_equal(value, its[key]) for key, value in mine.items())
    history = pd.read_csv(tmp_path / "history.csv")
    assert list(history["step"]) == [1, 2, 3, 4, 5, 6]
    assert history["loader_share"].between(0, 1).all()
    assert (history["seconds_per_step"] > 0).all()
    assert re.search(r"6/6 \[.*loss=\d.*psnr=\d", capsys.readouterr().err)
    train(tmp_path / "in parts", accumulate=2)
    assert_same(tmp_path / "in parts", whole, ROUNDING)


# --- the same on other hardware ---
@pytest.mark.parametrize(("strategy", "stop"), [("ddp", 3), ("fsdp", None), ("fsdp", 3)])
def test_two_processes_train_the_same_weights(
    world: Path, whole: Path, tmp_path: Path, strategy: str, stop: int | None, monkeypatch: Any
) -> None:
    """Alone, also in a Slurm job of one task; or until a step, from which one process goes on."""
    if strategy == "ddp":
        for name in ("PROCID", "LOCALID", "NODEID", "JOB_ID", "NTASKS", "NNODES", "JOB_NAME"):
            monkeypatch.setenv(f"SLURM_{name}", "0" if name.endswith("ID") else "1")
    process = start(world, tmp_path, devices=2, strategy=strategy, stop=stop)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    assert (tmp_path / training.CHECKPOINT).exists(), output
    if stop:
        train(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["processes"] == (1 if stop else 2)
    assert_same(tmp_path, whole, ROUNDING)


def test_what_cannot_be_trained_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for changes, options, message in (
        ({}, {"accumulate": 3}, "batch: expected a multiple of 3"),
        ({}, {"strategy": "dpp"}, "invalid strategy name.*change --accelerator"),
        ({}, {"accelerator": "abacus"}, "what Lightning Fabric can use"),
        ({"start": "none.safetensors"}, {}, "none.safetensors: expected the file of a network"),
    ):
        refused(message, train, tmp_path / "run", changes, **options)
        assert not (tmp_path / "run").exists()
    alone = lightning.Fabric(accelerator="cpu", devices=1)
    monkeypatch.setattr("lightning_fabric.Fabric", lambda **_: alone)
    how = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
    refused(r"processes: expected 2; found 1", training.start, **how)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own code
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_trains_the_same_weights(tmp_path: Path) -> None:
    changes = {"name": "local-x2-s0", "hyperparameters": SMALL | {"n_resgroups": 1}}
    for compiled in (False, True):
        train(tmp_path / str(compiled), changes, compiled=compiled)
    # Kernels may add in another order.
    assert_same(tmp_path / "True", tmp_path / "False", 10 * ROUNDING)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_a_gpu_trains_and_goes_on(tmp_path: Path, precision: str) -> None:
    options: dict[str, Any] = {"accelerator": "cuda", "precision": precision}
    with tiny.stopped(3):
        train(tmp_path, **options)
    assert not (tmp_path / "weights.safetensors").exists()
    assert all(np.isfinite(value).all() for value in load_file(train(tmp_path, **options)).values())
    facts = json.loads((tmp_path / "run.json").read_text())
    assert (facts["precision"], facts["steps"]) == (precision, 6)
    assert np.isfinite(pd.read_csv(tmp_path / "history.csv")["psnr"]).all()


# --- steps that go wrong ---
def fail(patch: pytest.MonkeyPatch, bad: tuple[int, ...], gradient: bool = False) -> None:
    """Let the loss or its gradient be not finite at some calls."""
    mean_loss, calls = training.mean_loss, itertools.count()

    def failing(*given: Any) -> torch.Tensor:
        loss = mean_loss(*given)
        if next(calls) not in bad:
            return loss
        # The root of zero has the value 0 and an infinite slope.
        return loss + (0 * loss).sqrt() if gradient else loss * math.nan

    patch.setattr(training, "mean_loss", failing)


@pytest.mark.parametrize("gradient", [False, True])
def test_steps_not_finite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gradient: bool) -> None:
    fail(monkeypatch, (1, 2, 4), gradient)
    assert all(np.isfinite(value).all() for value in load_file(train(tmp_path)).values())
    history = pd.read_csv(tmp_path / "history.csv")
    assert list(history["skipped"]) == [2, 3]
    assert np.isfinite(history["loss"]).all()
    assert json.loads((tmp_path / "run.json").read_text())["skipped"] == 3


def test_three_bad_steps_stop_and_leave_a_good_checkpoint(whole: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail(patch, (2, 3, 4))
        refused("steps 2 to 4: .* from before them", train, tmp_path)
    train(tmp_path)
    assert_same(tmp_path, whole)


def test_an_overflow_in_half_precision_halves_the_scale(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    fabric = lightning.Fabric(accelerator="cpu", devices=1, plugins=precision)
    run = training.Run(fabric, tiny.recipe("local-x2-s0", hyperparameters=SMALL), tmp_path)
    before = {key: value.clone() for key, value in run.network.state_dict().items()}
    outcomes: list[bool] = []
    while not outcomes or outcomes[-1]:
        if outcomes:
            torch.testing.assert_close(dict(run.network.state_dict()), before, rtol=0, atol=0)
            assert scaler.get_scale() == 2.0 ** (40 - len(outcomes))
        loss, overflow, _ = run.step([*BATCH, torch.ones(2, dtype=torch.bool)])
        outcomes.append(overflow)
    assert len(outcomes) > 3  # more in a row than a divergence may have
    assert math.isfinite(loss)
    assert run.tally.skipped == len(outcomes) - 1
    assert not torch.equal(run.network.state_dict()["tail.0.weight"], before["tail.0.weight"])


# --- arithmetic against torch ---
def test_losses_and_the_cosine_after_a_linear_warm_up() -> None:
    lr, hr = (torch.randint(0, 256, (2, 3, n, n), dtype=torch.uint8) for n in (4, 8))
    error = (lr.numpy().repeat(2, 2).repeat(2, 3) / 255) - hr.numpy() / 255
    losses = {"l1": np.abs(error).mean(), "charbonnier": np.sqrt(error**2 + 1e-6).mean()}
    for kind, expected in losses.items():
        loss = float(training.mean_loss(torch.nn.Upsample(scale_factor=2), lr, hr, kind))
        assert loss == pytest.approx(expected, rel=1e-6)
    recipe = tiny.recipe(steps=500, warmup=40, learning_rate=1e-4)
    assert [recipe.rate(step) for step in (0, 19, 39)] == [1e-4 / 40, 1e-4 / 2, 1e-4]
    optimiser = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1e-4)
    scheduler = CosineAnnealingLR(optimiser, 460)
    for step in range(40, 500):
        assert recipe.rate(step) == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-16)
        optimiser.step()
        scheduler.step()


@pytest.mark.parametrize("scale", [None, 2, 3])
def test_averages_and_clips(scale: int | None, tmp_path: Path) -> None:
    """An average begins at the start's weights, but holds nothing of untrained ones."""
    file, passed = tmp_path / "begin.safetensors", []
    models.save(models.create("mini-local", scale or 2, **SMALL), file)
    how: Any = {"clip": 0.01, "learning_rate": 1.0, "warmup": 0, "schedule": "steps"}
    how |= {"start": str(file) if scale else "", "hyperparameters": SMALL}
    fabric = training.start(accelerator="cpu")
    run = training.Run(fabric, tiny.recipe("local-x2-s0", **how), tmp_path)
    # Plain descent with a rate of 1: the weights move by the gradient.
    run.optimiser = run.fabric.setup_optimizers(torch.optim.SGD(run.network.parameters(), lr=1.0))
    for step in range(5):
        if step:
            run.step([*BATCH, torch.ones(2, dtype=torch.bool)])
        pair = [[p.detach().flatten() for p in n.parameters()] for n in (run.network, run.average)]
        now, average = map(torch.cat, pair)
        passed.append(now)
    seen, decay = torch.stack(passed), run.recipe.ema
    np.testing.assert_allclose(seen.diff(dim=0).norm(dim=1), 0.01, rtol=1e-3)
    shares = (1 - decay) * decay ** torch.arange(4.0, -1, -1)
    shares[0] = decay**4 if scale == 2 else 0
    torch.testing.assert_close(average, torch.tensordot(shares / shares.sum(), seen, 1))


# --- starting from weights, and what is shipped ---
def test_starts_from_weights(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the upsampler of another scale; TensorBoard has the history."""
    logged: list[dict[str, float]] = []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: logged.append(metrics))
    monkeypatch.setattr(training, "TensorBoardLogger", lambda *_: logger)
    begin = whole / "weights.safetensors"
    changes = {"name": "dtfn-x3-s0", "start": str(begin), "steps": 1, "warmup": 0}
    changes |= {"learning_rate": 1e-12, "testing": {"n_hashes": 4}}
    weights = train(tmp_path, changes, tensorboard=True)
    pd.testing.assert_frame_equal(pd.DataFrame(logged), pd.read_csv(tmp_path / "history.csv"))
    assert models.load(weights).hyperparameters["n_hashes"] == 4
    given, reached = load_file(begin), load_file(weights)
    assert reached["tail.0.weight"].shape == (27, 8, 3, 3)
    body = [key for key in given if not key.startswith("tail.0.")]
    assert len(body) > 10
    for key in body:
        np.testing.assert_allclose(reached[key], given[key], rtol=0, atol=1e-9)


def test_attention_is_skipped_for_the_drawn_pictures_alone(tmp_path: Path) -> None:
    """Always on, and always off but for rounding, train other weights than half and half."""
    runs = {off: train(tmp_path / f"{off}", {"attention_off": off}) for off in (0.0, 0.5, 0.999999)}
    trained = {off: load_file(weights) for off, weights in runs.items()}
    attention = [key for key in trained[0.0] if "conv_match" in key]
    fresh = training.Run(training.start(accelerator="cpu"), tiny.recipe(), tmp_path)
    start = {key: value.numpy() for key, value in fresh.network.state_dict().items()}
    assert attention
    for key in attention:
        np.testing.assert_array_equal(trained[0.999999][key], start[key])
        assert not np.array_equal(trained[0.0][key], trained[0.5][key])
        assert not np.array_equal(trained[0.5][key], start[key])


# --- several networks on one device ---
@pytest.mark.parametrize("name", TOGETHER)
def test_side_by_side_takes_the_same_steps(whole: Path, tmp_path: Path, name: str) -> None:
    training.train(TOGETHER[name], tmp_path, accelerator="cpu", threads=1)
    assert_same(whole / "together" / name, tmp_path, ROUNDING)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_either_trainer_goes_on(whole: Path, tmp_path: Path, order: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(training, "QUEUED", 4)  # a checkpoint after so many steps

    def together(_: Path) -> None:
        training.train_together({"run": tiny.recipe()}, tmp_path, accelerator="cpu")

    first, second = order
    with tiny.stopped(4):
        (train, together)[first](tmp_path / "run")
    (train, together)[second](tmp_path / "run")
    assert_same(tmp_path / "run", whole, ROUNDING)


def test_minutes_shorten_the_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "QUEUED", 4)
    # A clock that goes by its own looks, so that a busy machine changes nothing.
    clock = SimpleNamespace(monotonic=itertools.count(0, 0.1).__next__)
    monkeypatch.setattr(training, "time", clock)
    recipe = tiny.recipe("local-x2-s0", hyperparameters=SMALL, steps=10**5, validate_every=10**5)
    options: dict[str, Any] = {"minutes": 0.13, "keep_every": 10}
    training.train_together({"run": recipe}, tmp_path, accelerator="cpu", **options)
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    steps = int(history["step"].iloc[-1])
    assert 24 < steps < 10**5
    assert history["rate"].iloc[-1] < 1e-5  # the cosine has reached its end
    assert json.loads((tmp_path / "run" / "run.json").read_text())["steps"] == steps
    assert models.load(tmp_path / "run" / "weights-000010.safetensors").name == "mini-local"


def test_a_network_that_diverges_is_named(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"learning_rate": 1e30, "warmup": 0, "steps": 12, "clip": 0.0}
    broken = tiny.recipe("local-x2-s0", hyperparameters=SMALL, **changes)
    together = training.train_together
    refused("broken before step", together, {"broken": broken}, tmp_path, accelerator="cpu")


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream:UserWarning")
@pytest.mark.parametrize("name", TOGETHER)
def test_graphs_take_the_steps_of_the_plain_trainer(tmp_path: Path, name: str) -> None:
    changes: dict[str, Any] = {"steps": 20, "checkpoint_every": 100.0, "attention_off": 0.5}
    recipe = dataclasses.replace(TOGETHER[name], **changes)
    training.train_together({name: recipe}, tmp_path, accelerator="cuda")
    training.train(recipe, tmp_path / "plain", accelerator="cuda")
    assert_same(tmp_path / name, tmp_path / "plain", 1e-4)


# --- recipes ---
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_authors_recipe(scale: int) -> None:
    """As their paper and code say: see the constants beside each line."""
    recipe = recipes.preset(f"dtfn_x{scale}")
    assert (recipe.network, recipe.scale, recipe.sets) == ("dtfn", scale, ("DIV2K_train_HR",))
    assert (recipe.batch, recipe.patch, recipe.loss) == (16, 48, "l1")
    assert (recipe.ema, recipe.clip, recipe.precision) == (0, 0, "32-true")  # plain Adam, float32
    assert (recipe.hyperparameters, recipe.testing) == ((("n_hashes", 3),), (("n_hashes", 4),))
    epochs, halvings = (1500, (300, 600, 900, 1200)) if scale == 2 else (200, (50, 100, 150))
    assert recipe.steps == 1000 * epochs
    for epoch in range(0, epochs, 10):
        halved = sum(epoch >= mark for mark in halvings)
        assert recipe.rate(1000 * epoch) == pytest.approx(1e-4 / 2**halved, rel=1e-12)
        assert recipe.rate(1000 * epoch) == recipe.rate(1000 * epoch + 999)
    assert bool(recipe.start) == (scale > 2)


def test_the_stages_of_the_zoo() -> None:
    """Arms differ in their attention alone, and each can be switched off in the end."""

    def stages(variant: str) -> list[recipes.Recipe]:
        names = ("scratch-{}-x4-s0", "{}-x4-s0", "{}-x2-s0")
        return [recipes.preset(name.format(variant)) for name in names]

    local = stages("local")
    for variant in recipes.VARIANTS:
        scratch, last, other = stages(variant)
        assert (scratch.start, scratch.hyperparameters) == ("", ())
        plain = "dtfn-notfs" if variant == "dtfn" else variant.removesuffix("+tfs")
        assert last.start == f"scratch-{plain}-x4-s0/weights.safetensors"
        assert other.start == f"{variant}-x4-s0"
        off = 0.0 if variant.startswith("local") else 0.5
        assert [one.attention_off for one in (scratch, last, other)] == [0.0, off, off]
        for one, base in zip((scratch, last, other), local, strict=True):
            same: dict[str, Any] = {"network": base.network, "start": base.start}
            same["attention_off"] = 0.0
            assert dataclasses.replace(one, **same) == base
    assert [one.steps for one in local] == [8797, 2000, 3000]
    assert {f"mini-{variant}" for variant in recipes.VARIANTS} <= set(models.networks.known_names())
    recipe = recipes.preset("demo-nla+tfs-x3-s2")
    assert (recipe.network, recipe.scale, recipe.seed) == ("mini-nla+tfs", 3, 2)
    assert (recipe.sets, recipe.validation, recipe.start) == (("embedded",), "embedded", "")


def test_text_is_read_as_the_type_of_its_field_or_refused() -> None:
    for name, message in {"dtfn_x5": "'dtfn_x", "nlla-x4-s0": "'nla-x4-s0'"}.items():
        refused(f"did you mean {message}", recipes.preset, name)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"step": 3}, "expected a known field; found 'step'; did you mean 'steps'"),
        ({"steps": 2.5}, "steps of a recipe: expected a valid integer.* found 2.5"),
        ({"steps": 0}, "expected greater than or equal to 1; found 0"),
        ({"sets": ()}, "sets of a recipe: .* at least 1 item"),
        ({"loss": "l2"}, "expected 'l1' or 'charbonnier'; found 'l2'"),
        ({"learning_rate": float("nan")}, "expected a finite number"),
        ({"hyperparameters": 3}, "hyperparameters of a recipe: expected"),
    ]
    for changes, message in wrong:
        refused(message, recipes.preset, "local-x4-s0", **changes)
    text = {"steps": "50", "learning_rate": "1e-4", "sets": "T91, BSD200", "milestones": "3,5"}
    recipe = recipes.preset("local-x4-s0", **text, hyperparameters='{"n_feats": 16}')
    assert (recipe.steps, recipe.learning_rate, recipe.milestones) == (50, 1e-4, (3, 5))
    assert (recipe.sets, recipe.hyperparameters) == (("T91", "BSD200"), (("n_feats", 16),))
    for name in ("dtfn_x3", "demo-nla-x4-s0", "local-x2-s1"):
        recipe = recipes.preset(name)
        assert recipes.from_json(json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe
    old = recipes.from_json({"network": "mini-local", "scale": 4, "sets": ["T91"], "steps": 7})
    assert (old.schedule, old.precision, old.start) == ("cosine", "bf16-mixed", "")
    refused("scale of a recipe: .*required", recipes.from_json, {"network": "mini-local"})
