"""Put trained networks into the zoo: weights, training history, card and registry entry of each.

    python tools/ship.py RUNS --jobs 2 [--device cuda] [--tile 96,8]

RUNS is the folder of one training run (``weights.safetensors``, ``history.csv``, ``run.json``), a
folder of such folders, or one of files ``NAME.safetensors`` with perhaps ``NAME.csv`` and
``NAME.json``. Weights that do not know their recipe get the one of the preset NAME; ``note`` in the
JSON file says on the card what else is to be known. Every network is measured on the benchmarks,
and by the gate where it has attention; outputs are remembered, so a script that was stopped goes
on. Checkpoints that a run kept, ``weights-STEP.safetensors``, give its history a column ``gate``.
An entry of the same name is replaced.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
from tqdm import tqdm

from dtfn import evaluation, files, gate, models, paths, provenance, recipes, zoo
from dtfn.errors import InputError
from dtfn.recipes import Recipe
from dtfn.tiling import Tiling

LARGEST = 2_000_000  # bytes of a shipped file; larger ones are stored in float16
COURSE = 10  # pictures on which kept checkpoints are measured
BENCHMARKS = ("Set5", "Set14", "BSD100", "Urban100")

CARD = """# {name}

{network}: {parameters:,} parameters, x{scale}, training seed {seed}. RGB in [0, 1], (N, 3, H, W) to
(N, 3, {scale}H, {scale}W).

- File: `{file}`, SHA-256 `{sha256}`
- Stored as {stored}
- Use: `dtfn.models.load("{name}")`
- Train it again: {again}

## Quality

Mean PSNR (dB) and SSIM on the Y channel, not rounded, with a border of {scale} pixels left out; LR
by MATLAB's bicubic; {how}, no self-ensemble.

{quality}

{gate}
{validation}
## Training

- Data: {sets}{without}
- Patches: every position in every picture equally likely, flipped and turned at random; LR by
  MATLAB's bicubic. No test picture is among the data: training refuses those.
- Start: {start}
- Steps: {steps}, of {batch} patches of {patch} x {patch} LR pixels{skipped}
- Time: {minutes:.1f} minutes, {seconds:.3f} s a step{loader}
- Machine: {machine}; processes: {processes}{together}
{note}
The recipe, field by field:

{recipe}

{history}

## Software

{versions}

## Limits

Trained to show what an architecture does at equal cost, not to lead a benchmark: the pictures are
few, and only MATLAB's bicubic degradation was seen.
"""


@dataclasses.dataclass(frozen=True)
class Run:
    """The files of a finished training run.

    Attributes
    ----------
    weights
        The averaged weights.
    history, facts
        ``history.csv`` and ``run.json``; None where there is none.
    kept
        Step -> weights of that step.
    """

    weights: Path
    history: Path | None
    facts: Path | None
    kept: Mapping[int, Path]


def runs(folder: Path) -> list[Run]:
    """Return the training runs in a folder.

    Raises
    ------
    InputError
        There is none.
    """
    made = []
    for place in sorted({file.parent for file in folder.glob("**/weights.safetensors")}):
        kept = {int(f.stem.split("-")[1]): f for f in sorted(place.glob("weights-*.safetensors"))}
        made.append(_run(place / "weights.safetensors", place / "history.csv", "run", kept))
    for file in [] if made else sorted(folder.glob("*.safetensors")):
        made.append(_run(file, file.with_suffix(".csv"), file.stem, {}))
    if not made:
        raise InputError(
            folder / "weights.safetensors",
            "a finished training run",
            "no such file",
            "finish it with `dtfn train --resume`",
        )
    return made


def _run(weights: Path, history: Path, facts: str, kept: Mapping[int, Path]) -> Run:
    file = weights.with_name(f"{facts}.json")
    return Run(
        weights, history if history.is_file() else None, file if file.is_file() else None, kept
    )


def recipe_of(weights: Path) -> Recipe:
    """Return the recipe of a run, as a reader repeats it.

    Raises
    ------
    InputError
        The weights know no recipe, and no preset has the name of their file.
    """
    notes = zoo.opened(weights)[0]
    if "recipe" not in notes:
        return recipes.preset(weights.stem)
    trained = recipes.from_json(notes["recipe"])
    preset = recipes.preset(_name(trained))
    # The preset says where the weights of an earlier stage lie for a reader.
    return preset if dataclasses.replace(trained, start=preset.start) == preset else trained


def _name(recipe: Recipe) -> str:
    return f"{recipe.network.removeprefix('mini-')}-x{recipe.scale}-s{recipe.seed}"


def add(
    run: Run,
    quality: pd.DataFrame,
    gate: Mapping[str, Any] | None = None,
    tile: tuple[int, int] | None = None,
    course: Mapping[int, float] = MappingProxyType({}),
) -> dict[str, Any]:
    """Put a finished training run into the zoo, and return its entry.

    Parameters
    ----------
    run
        From `runs`.
    quality
        From `dtfn.evaluation.summary`.
    gate
        Row of `dtfn.gate.table` on Urban100; None for a network without attention.
    tile
        Size and overlap of the tiles in which they were measured; None for whole images.
    course
        Step -> cost of uniform weights then (dB): the column ``gate`` of the history.
    """
    trained = recipe_of(run.weights)
    name = _name(trained)
    history = _history(run)
    facts = _facts(run, history)
    paths.ZOO.mkdir(parents=True, exist_ok=True)
    shipped = paths.ZOO / f"{name}.safetensors"
    stored = _store(run.weights, shipped, trained)
    _write_history(paths.ZOO / f"{name}.csv", history, course)
    means = quality.set_index("dataset")
    made = {
        "name": name,
        "variant": trained.network.removeprefix("mini-"),
        "scale": trained.scale,
        "seed": trained.seed,
        "parameters": zoo.opened(run.weights)[1],
        "psnr": means["psnr"].round(4).to_dict(),
        "ssim": means["ssim"].round(5).to_dict(),
        "pictures": means["images"].to_dict(),
        "gate": None if gate is None else round(float(gate["uniform"]), 4),
        "off": None if gate is None else round(float(gate["off"]), 4),
        "chooses": None if gate is None else bool(gate["chooses"]),
        "file": shipped.name,
        "sha256": files.sha256(shipped),
        "stored": stored,
        "steps": trained.steps,
        "minutes": round(facts["seconds"] / 60, 1),
        "validation_psnr": round(float(history[-1]["psnr"]), 4) if history else None,
        "tile": list(tile) if tile else None,
    }
    card = _card(made, trained, facts, gate)
    (paths.ZOO / f"{name}.md").write_text(card, encoding="utf-8")
    zoo.record(paths.ZOO, made)
    return made


def _card(
    entry: Mapping[str, Any], recipe: Recipe, run: Mapping[str, Any], gate: Mapping[str, Any] | None
) -> str:
    quality = (
        (name, entry["pictures"][name], f"{psnr:.2f} / {entry['ssim'][name]:.4f}")
        for name, psnr in entry["psnr"].items()
    )
    versions = [(name, v) for name, v in run.get("versions", {}).items() if v != "missing"]
    fields = dataclasses.asdict(recipe).items()
    share = run.get("loader_share")
    start = f"`{recipe.start}`" if recipe.start else "random weights"
    added = recipe.network.endswith("+tfs") and recipe.start and "+tfs" not in recipe.start
    first = recipe.start.removesuffix("/weights.safetensors")
    stages = [*([first] if first != recipe.start else []), entry["name"]]
    history, validation = "No training history was kept.", ""
    if entry["validation_psnr"] is not None:
        history = f"The training history is in `{entry['name']}.csv`."
        validation = (
            f"\nOn {recipe.validation_count} pictures of {recipe.validation}, by which nothing was"
            f" chosen:\n{entry['validation_psnr']:.3f} dB.\n"
        )
    return CARD.format(
        **{key: entry[key] for key in ("name", "scale", "seed", "parameters", "file", "sha256")},
        network=f"`{recipe.network}`",
        stored=entry["stored"],
        how="tiles of {} LR pixels that overlap by {}".format(*entry["tile"])
        if entry["tile"]
        else "whole pictures",
        again=", then ".join(f"`dtfn train {stage} --out {stage}`" for stage in stages),
        quality=_table(("benchmark", "pictures", "PSNR / SSIM"), quality),
        gate="The network has no attention." if gate is None else _gate(gate),
        validation=validation,
        steps=recipe.steps,
        batch=recipe.batch,
        patch=recipe.patch,
        minutes=run["seconds"] / 60,
        seconds=run["seconds"] / recipe.steps,
        loader="" if share is None else f", {100 * share:.1f} % of it waiting for patches",
        skipped=f"; {run['skipped']} skipped as not finite" if "skipped" in run else "",
        note=f"- {run['note']}\n" if "note" in run else "",
        history=history,
        processes=run.get("processes", 1),
        together=f"; {run['side by side']} networks side by side" if "side by side" in run else "",
        start=start
        + (f", SHA-256 `{run['start']}`" if run.get("start") else "")
        + ("; TFS was added here, such that at first it changes nothing" if added else ""),
        machine=", ".join(f"{key} {value}" for key, value in run["machine"].items()),
        sets=", ".join(recipe.sets),
        without=f" without {', '.join(recipe.exclude)}" if recipe.exclude else "",
        recipe=_table(
            ("field", "value"), ((k, f"`{value}`") for k, value in fields if value not in ("", ()))
        ),
        versions=_table(("package", "version"), versions) if versions else "Not recorded.",
    )


def _gate(gate: Mapping[str, Any]) -> str:
    verdict = "it chooses" if gate["chooses"] else "not testable, it does not choose"
    return (
        f"Gate: uniform attention weights cost {gate['uniform']:.3f} dB "
        f"[{gate['uniform_low']:.3f}, {gate['uniform_high']:.3f}] on {gate['pictures']} pictures "
        f"of {gate['dataset']}: {verdict} (the lower end must be {gate['least']:.2f} dB). "
        f"Attention off costs {gate['off']:.3f} dB."
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _history(run: Run) -> list[dict[str, str]]:
    if run.history is None:
        return []
    with run.history.open(newline="") as handle:
        return list(csv.DictReader(handle))


def _facts(run: Run, history: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the facts of a run; what ``run.json`` lacks is taken from the history and here."""
    known = json.loads(run.facts.read_text()) if run.facts else {}
    if not history:
        return {"seconds": 0.0, "machine": {}} | known
    last, seconds = 0.0, 0.0
    for row in history:
        step = float(row["step"])
        seconds += float(row.get("seconds_per_step") or 0) * (step - last)
        last = step
    here = {"versions": provenance.versions(), "machine": provenance.machine()}
    return (
        here | {"seconds": seconds, "skipped": int(float(history[-1].get("skipped") or 0))} | known
    )


def _write_history(
    file: Path, history: Sequence[Mapping[str, str]], course: Mapping[int, float]
) -> None:
    if not history:
        return
    rows: list[dict[str, Any]] = [dict(row) for row in history]
    if course:
        known = {int(float(row["step"])): row for row in rows}
        for step, cost in course.items():
            known.setdefault(step, {"step": step})["gate"] = round(cost, 4)
        rows = [known[step] for step in sorted(known)]
    keys = [*history[0], *(["gate"] if course else [])]
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _store(weights: Path, target: Path, recipe: Recipe) -> str:
    """Write weights with their recipe, in float16 where they would take more room than allowed."""
    network, stored = models.load(weights), "float32"
    if weights.stat().st_size > LARGEST:
        network, stored = network.half(), "float16"
    models.save(network, target, recipe=dataclasses.asdict(recipe), stored=stored)
    return stored


def ship(
    run: Run,
    sets: Sequence[str],
    count: int | None,
    few: int | None,
    tile: tuple[int, int] | None,
    device: str,
) -> str:
    """Measure one run, put it into the zoo, and return what there is to say about it."""
    weights = str(run.weights)
    trained = recipe_of(run.weights)
    if tile is None and trained.network.startswith(("mini-nla", "mini-hspa")):
        tile = (evaluation.DENSE_TILE.size, evaluation.DENSE_TILE.overlap)
    tiling = Tiling(*tile) if tile else None
    table = evaluation.evaluate([weights], sets, trained.scale, count, tiling=tiling, device=device)
    verdict, course = None, {}
    if not trained.network.startswith("mini-local"):
        on = "Urban100" if "Urban100" in sets else sets[-1]
        measured = gate.costs([weights], [on], few or count, ["uniform", "off"], device)
        verdict = gate.table(measured).iloc[0].to_dict()
        for step, file in run.kept.items():
            first = min(few or count or COURSE, COURSE)
            cost = gate.costs([str(file)], [on], first, ["uniform"], device)["cost"]
            course[step] = float(cost.mean())
        if course:
            whole = measured[measured["intervention"] == "uniform"]["cost"].iloc[:COURSE]
            course[trained.steps] = float(whole.mean())
    entry = add(run, evaluation.summary(table), verdict, tile, course)
    return f"{entry['name']}: PSNR {entry['psnr']}, gate {entry['gate']}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every run of a folder and put it into the zoo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="Folder of one training run or of many.")
    parser.add_argument("--datasets", default=",".join(BENCHMARKS), help="Comma-separated.")
    parser.add_argument("--tile", help="Size and overlap of tiles in LR pixels, e.g. 96,8.")
    parser.add_argument("--count", type=int, help="Only the first pictures of each benchmark.")
    parser.add_argument("--few", type=int, help="Only the first pictures for the gate.")
    parser.add_argument("--device", default="cpu", help="cpu or cuda.")
    parser.add_argument("--jobs", type=int, default=1, help="Networks measured at once.")
    given = parser.parse_args(arguments)
    tile = tuple(int(part) for part in given.tile.split(",")) if given.tile else None
    how = (given.datasets.split(","), given.count, given.few, tile, given.device)
    found = runs(given.folder)
    bar = tqdm(total=len(found), unit="network")
    if given.jobs == 1:
        for run in found:
            tqdm.write(ship(run, *how))
            bar.update()
        return
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        for done in as_completed([pool.submit(ship, run, *how) for run in found]):
            tqdm.write(done.result())
            bar.update()


if __name__ == "__main__":
    main()
