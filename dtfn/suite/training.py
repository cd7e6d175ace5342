"""A training run of the plan: `dtfn train` into a folder that outlives a kill, then a run of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dtfn import recipes, reports
from dtfn.reports import Verdict
from dtfn.reports import runs as run_folders
from dtfn.suite import plans
from dtfn.suite.execution import NotebookInputError, Tell, conclude, new_folder, require

RECIPE = "recipe.json"
WEIGHTS = "weights.safetensors"


def run(
    name: str,
    preset: str,
    changes: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    runs: Path,
    tier: str,
    notes: Mapping[str, Any],
    makes: Sequence[str] = (),
    tell: Tell,
) -> Path:
    """Train, or go on where a killed run stopped, and return the folder of the complete run.

    It holds the weights, the curve as figure and table, the recipe and the manifest. While it
    trains, checkpoints lie in ``training/NAME-KEY`` beside the folder of the runs.

    Parameters
    ----------
    name, runs, tier, notes, makes, tell
        As for `dtfn.suite.execution.run`; `notes` holds the key.
    preset, changes
        The recipe, and what is changed of it.
    options
        Of ``dtfn train``, without dashes: devices, precision, ...

    Raises
    ------
    InputError
        ``dtfn train`` refused its input.
    NotebookFailed
        It failed otherwise; checkpoints stay, and the next run goes on from them.
    """
    recipe = plans.recipe(preset, changes)
    home = runs.parent / "training" / f"{name}-{notes['key'][:16]}"
    home.mkdir(parents=True, exist_ok=True)
    everything = run_folders.plain(dataclasses.asdict(recipe))
    with new_folder(runs, name, everything) as partial:
        began = time.perf_counter()
        error = None
        (partial / RECIPE).write_text(json.dumps(everything, indent=1) + "\n")
        try:
            _train(home, preset, changes, options, recipe.steps, tell)
            for file in ("history.csv", "run.json", WEIGHTS):
                shutil.copyfile(home / file, partial / file)
            _report(partial, name, recipe)
            require(partial, makes)
        except NotebookInputError:
            raise
        except Exception as caught:
            error = caught
        record = run_folders.new_record(partial / RECIPE, everything) | run_folders.read(partial)
        record |= {"tier": tier, **notes, "run": name, "notebook": name}
        record["title"] = f"Training of {name}"
        record["timings"]["run"] = round(time.perf_counter() - began, 3)
        folder = conclude(partial, record, error)
    shutil.rmtree(home)
    return folder


def _train(
    home: Path, preset: str, changes: Mapping[str, Any], options: Mapping[str, Any], steps: int,
    tell: Tell,
) -> None:  # fmt: skip
    """Run ``dtfn train`` and follow its curve; several devices become processes of their own."""
    flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    flags += [text for key, value in changes.items() for text in ("-p", f"{key}={_text(value)}")]
    command = [sys.executable, "-m", "dtfn", "train", "--preset", preset]
    with (home / "log.txt").open("w+") as log:
        process = subprocess.Popen(
            [*command, "--out", str(home), "--resume", *flags],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        while process.poll() is None:
            tell(_steps_done(home), steps)
            time.sleep(0.5)
        log.seek(0)
        lines = [line for line in log.read().splitlines() if line.strip()] or ["no word"]
    if process.returncode == 2 and lines[-1].startswith("dtfn: "):
        raise NotebookInputError(lines[-1].removeprefix("dtfn: "))
    if process.returncode:
        raise RuntimeError(f"{lines[-1]} (exit code {process.returncode})")


def _steps_done(home: Path) -> int:
    file = home / "history.csv"
    rows = file.read_text().splitlines()[1:] if file.exists() else []
    return int(float(rows[-1].split(",")[0])) if rows else 0


def _text(value: Any) -> str:
    """Return a value of the plan as the command line takes it."""
    if isinstance(value, list):
        return ",".join(str(part) for part in value)
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _report(partial: Path, name: str, recipe: recipes.Recipe) -> None:
    """Save the curve, and whether the network beats bicubic on the validation pictures."""
    from dtfn import claims, training
    from dtfn.plots import curves

    history = pd.read_csv(partial / "history.csv")
    bicubic = claims.bicubic_psnr(training.validation_pairs(recipe), recipe.scale)
    page = reports.Run(partial / RECIPE, dataclasses.asdict(recipe), partial, managed=True)
    caption = (
        f"Training of {name}, {recipe.steps} steps. Left: mean loss since the last point. Right: "
        f"mean PSNR on the validation pictures (×{recipe.scale}, Y, border {recipe.scale}); "
        "dashed: bicubic."
    )
    data = history.assign(bicubic=bicubic)
    page.figure("curve", curves.training_curve(history, bicubic), data=data, caption=caption)
    gain = history["psnr"].iloc[-1] - bicubic
    claim = f"after {recipe.steps} steps {name} beats bicubic on the validation pictures"
    page.verdict(Verdict(claim, gain, None, gain > 0, "{:+.2f} dB"))
    page.uses(files=[partial / WEIGHTS])
    page.finish()
