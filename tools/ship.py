"""Put trained networks into the zoo: weights, training history, card and registry entry of each.

    python tools/ship.py RUNS --jobs 2 [--device cuda]

RUNS is the folder of one finished training run, or a folder of many. Every network is measured on
the benchmarks, and where it has attention by the gate, always on the CPU; outputs are remembered,
so a script that was stopped goes on. A key ``note`` in a run's ``run.json`` says on the card what
else is to be known. Checkpoints that a run kept, ``weights-STEP.safetensors``, give its history a
column ``gate``; the history may hold earlier stages, too, their steps before those of the last. An
entry of the same name is replaced.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
from tqdm import tqdm

from dtfn import evaluation, files, gate, methods, models, paths, recipes, zoo
from dtfn.errors import InputError
from dtfn.recipes import Recipe
from dtfn.tiling import Tiling

LARGEST = 2_000_000  # bytes of a network; larger ones are shipped in half precision
COURSE = 10  # pictures on which kept checkpoints are measured
BENCHMARKS = "Set5,Set14,BSD100,Urban100"


def runs(folder: Path) -> list[Path]:
    """Return the folders of the finished training runs in a folder, one or more."""
    found = [file.parent for file in sorted(folder.glob("**/weights.safetensors"))]
    if not found:
        remedy = "finish it with `dtfn train --resume`"
        raise InputError(folder, "a finished training run", "no weights.safetensors", remedy)
    return found


def weights_of(run: Path) -> Path:
    """Return the file of a run's weights, in half precision where they would be too large."""
    file, half = run / "weights.safetensors", run / "half.safetensors"
    if file.stat().st_size <= LARGEST:
        return file
    recipe = dataclasses.asdict(zoo.recipe(str(file)))
    models.save(models.load(file).half(), half, recipe=recipe)
    return half


def ship(run: Path, sets: Sequence[str], count: int | None, few: int | None, device: str) -> str:
    """Measure one run, put it into the zoo, and return what there is to say about it."""
    weights = str(weights_of(run))
    trained = zoo.recipe(weights)
    tiling = methods.analysis_tiling(weights)
    table = evaluation.evaluate([weights], sets, trained.scale, count, tiling=tiling, device=device)
    verdict, course = None, dict[int, float]()
    if not trained.network.startswith("mini-local"):
        on = ["Urban100" if "Urban100" in sets else sets[-1]]
        costs = gate.costs([weights], on, few or count, ["uniform", "off"])
        verdict = gate.table(costs).iloc[0].to_dict()
        first = min(few or count or COURSE, COURSE)
        for file in run.glob("weights-*.safetensors"):
            cost = gate.costs([str(file)], on, first, ["uniform"])["cost"]
            course[int(file.stem.removeprefix("weights-"))] = cost.mean()
        if course:
            last = costs[costs["intervention"] == "uniform"]["cost"].iloc[:COURSE]
            course[int(pd.read_csv(run / "history.csv")["step"].iloc[-1])] = last.mean()
    entry = add(run, evaluation.summary(table), verdict, tiling, course)
    return f"{entry['name']}: PSNR {entry['psnr']}, gate {entry['gate']}"


def add(
    run: Path,
    quality: pd.DataFrame,
    gate: Mapping[str, Any] | None = None,
    tile: Tiling | None = None,
    course: Mapping[int, float] = MappingProxyType({}),
) -> dict[str, Any]:
    """Put a finished training run into the zoo, and return its entry.

    ``quality`` is of `dtfn.evaluation.summary`, ``gate`` a row of `dtfn.gate.table` (None without
    attention), ``tile`` the size and overlap of the tiles in which they were measured, ``course``
    the cost of uniform weights (dB) by step: the column ``gate`` of the history.
    """
    weights = weights_of(run)
    recipe = zoo.recipe(str(weights))
    name = f"{recipe.network.removeprefix('mini-')}-x{recipe.scale}-s{recipe.seed}"
    preset = recipes.preset(name)
    if dataclasses.replace(recipe, start=preset.start) == preset:
        recipe = preset  # says where the weights of an earlier stage lie for a reader
    paths.ZOO.mkdir(parents=True, exist_ok=True)
    shipped = paths.ZOO / f"{name}.safetensors"
    network = models.load(weights)
    stored = network.half() if weights.stem == "half" else network
    models.save(stored, shipped, recipe=dataclasses.asdict(recipe))
    history = pd.read_csv(run / "history.csv", index_col="step")
    if course:
        costs = pd.Series(course, name="gate").round(4).rename_axis("step")
        history = history.astype({"skipped": "Int64"}).join(costs, how="outer")
    history.to_csv(shipped.with_suffix(".csv"))
    facts = json.loads((run / "run.json").read_text())
    if weights.stem == "half":
        facts["note"] = f"{facts.get('note', '')} The weights are stored in half precision.".strip()
    means = quality.set_index("dataset")
    made = {
        "name": name,
        "variant": recipe.network.removeprefix("mini-"),
        "scale": recipe.scale,
        "seed": recipe.seed,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "psnr": means["psnr"].round(4).to_dict(),
        "ssim": means["ssim"].round(5).to_dict(),
        "pictures": means["images"].to_dict(),
        "gate": None if gate is None else round(float(gate["uniform"]), 4),
        "gated": None if gate is None else int(gate["pictures"]),
        "off": None if gate is None else round(float(gate["off"]), 4),
        "chooses": None if gate is None else bool(gate["chooses"]),
        "file": shipped.name,
        "sha256": files.sha256(shipped),
        "steps": recipe.steps,
        "minutes": round(facts["seconds"] / 60, 1),
        "validation_psnr": round(float(history["psnr"].dropna().iloc[-1]), 4),
        "tile": [tile.size, tile.overlap] if tile else None,
    }
    card = _card(made, recipe, facts, gate)
    shipped.with_suffix(".md").write_text(card, encoding="utf-8")
    zoo.record(paths.ZOO, made)
    return made


def _card(
    entry: Mapping[str, Any], recipe: Recipe, run: Mapping[str, Any], gate: Mapping[str, Any] | None
) -> str:
    name, scale = entry["name"], entry["scale"]
    tiles = "tiles of {} LR pixels that overlap by {}".format(*entry["tile"] or (0, 0))
    quality = [
        (dataset, pictures, f"{entry['psnr'][dataset]:.2f} / {entry['ssim'][dataset]:.4f}")
        for dataset, pictures in entry["pictures"].items()
    ]
    gated = "The network has no attention."
    if gate is not None:
        gated = (
            f"Gate: uniform attention weights cost {gate['uniform']:.3f} dB "
            f"[{gate['uniform_low']:.3f}, {gate['uniform_high']:.3f}] on {gate['pictures']} "
            f"pictures of {gate['dataset']}: "
            f"{'it chooses' if gate['chooses'] else 'it is not shown to choose'} "
            f"(the lower end must be {gate['least']:.2f} dB). "
            f"Attention off costs {gate['off']:.3f} dB."
        )
    earlier = recipe.start.removesuffix("/weights.safetensors")
    stages = [earlier, name] if earlier != recipe.start else [name]
    start = f"`{recipe.start}`, SHA-256 `{run['start']}`" if recipe.start else "random weights"
    variant = entry["variant"]
    if recipes.without_tfs(variant) != variant and recipe.start and f"{variant}-x" not in start:
        start += "; TFS was added here, such that at first it changes nothing"
    without = f" without {', '.join(recipe.exclude)}" if recipe.exclude else ""
    together = f"; {run['side by side']} networks side by side" if "side by side" in run else ""
    fields = [(k, f"`{v}`") for k, v in dataclasses.asdict(recipe).items() if v not in ("", ())]
    versions = [(package, v) for package, v in run["versions"].items() if v != "missing"]
    return f"""# {name}

`{recipe.network}`: {entry["parameters"]:,} parameters, x{scale}, training seed {recipe.seed}.
RGB in [0, 1], (N, 3, H, W) to (N, 3, {scale}H, {scale}W).

- File: `{entry["file"]}`, SHA-256 `{entry["sha256"]}`
- Use: `dtfn.models.load("{name}")`
- Train it again: {", then ".join(f"`dtfn train {stage} --out {stage}`" for stage in stages)}

## Quality

Mean PSNR (dB) and SSIM on the Y channel, not rounded, with a border of {scale} pixels left out; LR
by MATLAB's bicubic; {tiles if entry["tile"] else "whole pictures"}, no self-ensemble.

{_table(("benchmark", "pictures", "PSNR / SSIM"), quality)}

{gated}

On {recipe.validation_count} pictures of {recipe.validation}, by which nothing was chosen:
{entry["validation_psnr"]:.3f} dB.

## Training

- Data: {", ".join(recipe.sets)}{without}
- Patches: every position in every picture equally likely, flipped and turned at random; LR by
  MATLAB's bicubic. No test picture is among the data: training refuses those.
- Start: {start}
- Steps: {recipe.steps}, of {recipe.batch} patches of {recipe.patch} x {recipe.patch} LR pixels;
  {run["skipped"]} skipped as not finite
- Time: {run["seconds"] / 60:.1f} minutes, {run["seconds"] / recipe.steps:.3f} s a step,
  {100 * run["loader_share"]:.1f} % of it waiting for patches
- Machine: {", ".join(f"{key} {value}" for key, value in run["machine"].items())};
  processes: {run["processes"]}{together}
{f"- {run['note']}" if "note" in run else ""}

The recipe, field by field:

{_table(("field", "value"), fields)}

The training history is in `{name}.csv`.

## Software

{_table(("package", "version"), versions)}

## Limits

Trained to show what an architecture does at equal cost, not to lead a benchmark: the pictures are
few, and only MATLAB's bicubic degradation was seen.
"""


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every run of a folder and put it into the zoo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="Folder of one training run or of many.")
    parser.add_argument("--datasets", default=BENCHMARKS, help="Comma-separated.")
    parser.add_argument("--count", type=int, help="Only the first pictures of each benchmark.")
    parser.add_argument("--few", type=int, help="Only the first pictures for the gate.")
    parser.add_argument("--device", default="cpu", help="cpu or cuda.")
    parser.add_argument("--jobs", type=int, default=1, help="Networks measured at once.")
    given = parser.parse_args(arguments)
    sets = given.datasets.split(",")
    one = functools.partial(ship, sets=sets, count=given.count, few=given.few, device=given.device)
    found = runs(given.folder)
    pool = get_context("spawn").Pool(given.jobs) if given.jobs > 1 else None
    work = pool.imap_unordered(one, found) if pool else map(one, found)
    for line in tqdm(work, total=len(found), unit="network"):
        tqdm.write(line)


if __name__ == "__main__":
    main()
