"""Put trained networks into the zoo: weights, training history, card and registry entry of each.

    python tools/ship.py RUNS --jobs 2 [--device cuda] [--tile 96,8]

RUNS is the folder of one training run (``weights.safetensors``, ``history.csv``, ``run.json``), a
folder of such folders, or one of files ``NAME.safetensors``, ``NAME.csv`` and perhaps
``NAME.json``. Every network is measured on the benchmarks, and by the gate where it has attention;
outputs are remembered, so a script that was stopped goes on. Checkpoints that a run kept,
``weights-STEP.safetensors``, give its history a column ``gate``. An entry of the same name is
replaced.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from dtfn import evaluation, files, gate, paths, provenance, zoo
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
- Train it again: `dtfn train --preset {name} --out {name}`

## Quality

Mean PSNR (dB) and SSIM on the Y channel, not rounded, with a border of {scale} pixels left out; LR
by MATLAB's bicubic; {how}, no self-ensemble.

{quality}

{gate}

On {validation_count} pictures of {validation}, by which nothing was chosen:
{validation_psnr:.3f} dB.

## Training

- Data: {sets}{without}
- Patches: every position in every picture equally likely, flipped and turned at random; LR by
  MATLAB's bicubic. No test picture is among the data: training refuses those.
- Start: {start}
- Steps: {steps}, of {batch} patches of {patch} x {patch} LR pixels; {skipped} skipped as not finite
- Time: {minutes:.1f} minutes, {seconds:.3f} s a step{loader}
- Machine: {machine}; processes: {processes}{together}

The recipe, field by field:

{recipe}

The training history is in `{name}.csv`.

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
    weights, history
        The averaged weights, and ``history.csv``.
    facts
        ``run.json``; None where there is none.
    kept
        Step -> weights of that step.
    """

    weights: Path
    history: Path
    facts: Path | None
    kept: Mapping[int, Path]


def runs(folder: Path) -> list[Run]:
    """Return the training runs in a folder.

    Raises
    ------
    InputError
        There is none, or one without its history.
    """
    made = []
    for place in sorted({file.parent for file in folder.glob("**/weights.safetensors")}):
        kept = {int(f.stem.split("-")[1]): f for f in sorted(place.glob("weights-*.safetensors"))}
        made.append(_run(place / "weights.safetensors", place / "history.csv", "run", kept))
    for file in [] if made else sorted(folder.glob("*.safetensors")):
        made.append(_run(file, file.with_suffix(".csv"), file.stem, {}))
    if not made:
        raise _unfinished(folder / "weights.safetensors")
    return made


def _run(weights: Path, history: Path, facts: str, kept: Mapping[int, Path]) -> Run:
    if not history.is_file():
        raise _unfinished(history)
    file = weights.with_name(f"{facts}.json")
    return Run(weights, history, file if file.is_file() else None, kept)


def add(
    run: Run,
    psnr: Mapping[str, float],
    ssim: Mapping[str, float],
    gate: Mapping[str, Any] | None = None,
    tile: tuple[int, int] | None = None,
    course: Mapping[int, float] = MappingProxyType({}),
) -> dict[str, Any]:
    """Put a finished training run into the zoo, and return its entry.

    Parameters
    ----------
    run
        From `runs`.
    psnr, ssim
        Means over each benchmark (dB, and at most 1), by dataset.
    gate
        Row of `dtfn.gate.table` on Urban100; None for a network without attention.
    tile
        Size and overlap of the tiles in which they were measured; None for whole images.
    course
        Step -> cost of uniform weights then (dB): the column ``gate`` of the history.
    """
    trained = zoo.recipe(str(run.weights))
    variant = trained.network.removeprefix("mini-")
    name = f"{variant}-x{trained.scale}-s{trained.seed}"
    with run.history.open(newline="") as handle:
        history = list(csv.DictReader(handle))
    facts = _facts(run, history)
    paths.ZOO.mkdir(parents=True, exist_ok=True)
    shipped = paths.ZOO / f"{name}.safetensors"
    _halved(run.weights, shipped)
    _write_history(paths.ZOO / f"{name}.csv", history, course)
    made = {
        "name": name,
        "variant": variant,
        "scale": trained.scale,
        "seed": trained.seed,
        "parameters": zoo.opened(run.weights)[1],
        "psnr": {key: round(float(value), 4) for key, value in psnr.items()},
        "ssim": {key: round(float(value), 5) for key, value in ssim.items()},
        "gate": None if gate is None else round(float(gate["uniform"]), 4),
        "off": None if gate is None else round(float(gate["off"]), 4),
        "chooses": None if gate is None else bool(gate["chooses"]),
        "file": shipped.name,
        "sha256": files.sha256(shipped),
        "stored": zoo.opened(shipped)[0].get("stored", "float32"),
        "steps": trained.steps,
        "minutes": round(facts["seconds"] / 60, 1),
        "validation_psnr": round(float(history[-1]["psnr"]), 4),
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
        (name, f"{entry['psnr'][name]:.2f} / {entry['ssim'][name]:.4f}") for name in entry["psnr"]
    )
    versions = ((name, v) for name, v in run["versions"].items() if v != "missing")
    fields = dataclasses.asdict(recipe).items()
    share = run.get("loader_share")
    start = f"`{recipe.start}`" if recipe.start else "random weights"
    return CARD.format(
        **{key: entry[key] for key in ("name", "scale", "seed", "parameters", "file", "sha256")},
        network=f"`{recipe.network}`",
        stored=entry["stored"],
        how="tiles of {} LR pixels that overlap by {}".format(*entry["tile"])
        if entry["tile"]
        else "whole pictures",
        quality=_table(("benchmark", "PSNR / SSIM"), quality),
        gate="The network has no attention." if gate is None else _gate(gate),
        validation=recipe.validation,
        validation_count=recipe.validation_count,
        validation_psnr=entry["validation_psnr"],
        steps=recipe.steps,
        batch=recipe.batch,
        patch=recipe.patch,
        minutes=run["seconds"] / 60,
        seconds=run["seconds"] / recipe.steps,
        loader="" if share is None else f", {100 * share:.1f} % of it waiting for patches",
        skipped=run.get("skipped", 0),
        processes=run.get("processes", 1),
        together=f"; {run['side by side']} networks side by side" if "side by side" in run else "",
        start=start + (f", SHA-256 `{run['start']}`" if run.get("start") else ""),
        machine=", ".join(f"{key} {value}" for key, value in run["machine"].items()),
        sets=", ".join(recipe.sets),
        without=f" without {', '.join(recipe.exclude)}" if recipe.exclude else "",
        recipe=_table(
            ("field", "value"), ((k, f"`{value}`") for k, value in fields if value not in ("", ()))
        ),
        versions=_table(("package", "version"), versions),
    )


def _gate(gate: Mapping[str, Any]) -> str:
    verdict = "it chooses" if gate["chooses"] else "not testable, it does not choose"
    return (
        f"Gate: uniform attention weights cost {gate['uniform']:.3f} dB "
        f"[{gate['uniform_low']:.3f}, {gate['uniform_high']:.3f}] on {gate['pictures']} pictures "
        f"of {gate['dataset']}: {verdict}. Attention off costs {gate['off']:.3f} dB."
    )


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    lines = [head, ("---", "---"), *rows]
    return "\n".join(f"| {left} | {right} |" for left, right in lines)


def _facts(run: Run, history: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the facts of a run; what ``run.json`` lacks is taken from the history and here."""
    last, seconds = 0.0, 0.0
    for row in history:
        step = float(row["step"])
        seconds += float(row.get("seconds_per_step") or 0) * (step - last)
        last = step
    here = {"versions": provenance.versions(), "machine": provenance.machine()}
    skipped = int(float(history[-1].get("skipped") or 0))
    known = json.loads(run.facts.read_text()) if run.facts else {}
    return here | {"seconds": seconds, "skipped": skipped} | known


def _write_history(
    file: Path, history: Sequence[Mapping[str, str]], course: Mapping[int, float]
) -> None:
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


def _halved(weights: Path, target: Path) -> None:
    """Copy weights, in float16 where they would take more room than is allowed."""
    partial = target.with_suffix(".partial")
    if weights.stat().st_size <= LARGEST:
        shutil.copyfile(weights, partial)
    else:
        with safe_open(weights, "np") as content:
            metadata = content.metadata()
            tensors = {k: content.get_tensor(k).astype("float16") for k in content.keys()}  # noqa: SIM118
        notes = json.loads(metadata["notes"]) | {"stored": "float16"}
        save_file(tensors, partial, metadata | {"notes": json.dumps(notes)})
    partial.replace(target)


def _unfinished(file: Path) -> InputError:
    return InputError(
        file,
        expected="a finished training run",
        found="no such file",
        remedy="finish it with `dtfn train --resume`",
    )


def ship(
    run: Run, sets: Sequence[str], count: int | None, tile: tuple[int, int] | None, device: str
) -> str:
    """Measure one run, put it into the zoo, and return what there is to say about it."""
    weights = str(run.weights)
    trained = zoo.recipe(weights)
    if tile is None and trained.network.startswith(("mini-nla", "mini-hspa")):
        tile = (evaluation.DENSE_TILE.size, evaluation.DENSE_TILE.overlap)
    tiling = Tiling(*tile) if tile else None
    table = evaluation.evaluate([weights], sets, trained.scale, count, tiling=tiling, device=device)
    means = table.groupby("dataset", sort=False)[["psnr", "ssim"]].mean()
    verdict, course = None, {}
    if not trained.network.startswith("mini-local"):
        on = "Urban100" if "Urban100" in sets else sets[-1]
        measured = gate.costs([weights], [on], count, ["uniform", "off"], device)
        verdict = gate.table(measured).iloc[0].to_dict()
        for step, file in run.kept.items():
            few = min(count or COURSE, COURSE)
            cost = gate.costs([str(file)], [on], few, ["uniform"], device)["cost"]
            course[step] = float(cost.mean())
        if course:
            whole = measured[measured["intervention"] == "uniform"]["cost"].iloc[:COURSE]
            course[trained.steps] = float(whole.mean())
    psnr, ssim = means["psnr"].to_dict(), means["ssim"].to_dict()
    entry = add(run, psnr, ssim, verdict, tile, course)
    return f"{entry['name']}: PSNR {entry['psnr']}, gate {entry['gate']}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every run of a folder and put it into the zoo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="Folder of one training run or of many.")
    parser.add_argument("--datasets", default=",".join(BENCHMARKS), help="Comma-separated.")
    parser.add_argument("--tile", help="Size and overlap of tiles in LR pixels, e.g. 96,8.")
    parser.add_argument("--count", type=int, help="Only the first pictures of each benchmark.")
    parser.add_argument("--device", default="cpu", help="cpu or cuda.")
    parser.add_argument("--jobs", type=int, default=1, help="Networks measured at once.")
    given = parser.parse_args(arguments)
    tile = tuple(int(part) for part in given.tile.split(",")) if given.tile else None
    how = (given.datasets.split(","), given.count, tile, given.device)
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
