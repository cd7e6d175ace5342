"""Put trained networks into the zoo: weights, training history, card and registry entry of each.

    python tools/ship.py RUNS [--datasets Set5,Set14,BSD100,Urban100] [--tile 96,8] [--count N]

RUNS is the folder of one training run (``weights.safetensors``, ``history.csv``, ``run.json``), or
a folder of many: ``NAME.safetensors`` with ``NAME.csv``, and ``NAME.json`` or one ``run.json``.
Every network is measured on the benchmarks, those with attention also by the gate; outputs are
cached, so a run that was stopped goes on. An entry of the same name is replaced.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from dtfn import evaluation, paths, provenance, zoo
from dtfn.errors import InputError
from dtfn.recipes import Recipe
from dtfn.tiling import Tiling

LARGEST = 2_000_000  # bytes of a shipped file; larger ones are stored in float16
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
- Machine: {machine}; processes: {processes}

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
    """The files of a finished training run; ``facts`` (``run.json``) may be missing."""

    weights: Path
    history: Path
    facts: Path | None = None


def runs(folder: Path) -> list[Run]:
    """Return the training runs in a folder.

    Raises
    ------
    InputError
        There is none, or one without its history.
    """
    single = folder / "weights.safetensors"
    files = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    made = []
    for file in files:
        history = folder / ("history.csv" if file == single else f"{file.stem}.csv")
        if not history.is_file():
            raise _unfinished(history)
        facts = (folder / f"{file.stem}.json", folder / "run.json")
        made.append(Run(file, history, next((f for f in facts if f.is_file()), None)))
    if not made:
        raise _unfinished(single)
    return made


def add(
    run: Run,
    psnr: Mapping[str, float],
    ssim: Mapping[str, float],
    gate: Mapping[str, Any] | None = None,
    tile: tuple[int, int] | None = None,
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
    shutil.copyfile(run.history, paths.ZOO / f"{name}.csv")
    made = {
        "name": name,
        "variant": variant,
        "scale": trained.scale,
        "seed": trained.seed,
        "parameters": zoo.opened(run.weights)[1],
        "psnr": {key: round(float(value), 4) for key, value in psnr.items()},
        "ssim": {key: round(float(value), 5) for key, value in ssim.items()},
        "gate": None if gate is None else round(float(gate["uniform"]), 4),
        "chooses": None if gate is None else bool(gate["chooses"]),
        "file": shipped.name,
        "sha256": provenance.file_hash(shipped),
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
        f"of {gate['dataset']}: {verdict}."
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every run of a folder and put it into the zoo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="Folder of one training run or of many.")
    parser.add_argument("--datasets", default=",".join(BENCHMARKS), help="Comma-separated.")
    parser.add_argument("--tile", help="Size and overlap of tiles in LR pixels, e.g. 96,8.")
    parser.add_argument("--count", type=int, help="Only the first pictures of each benchmark.")
    given = parser.parse_args(arguments)
    tile = tuple(int(part) for part in given.tile.split(",")) if given.tile else None
    for run in tqdm(runs(given.folder), unit="network"):
        scale = zoo.recipe(str(run.weights)).scale
        table = evaluation.evaluate(
            [str(run.weights)],
            given.datasets.split(","),
            scale,
            given.count,
            tiling=Tiling(*tile) if tile else None,
        )
        means = table.groupby("dataset", sort=False)[["psnr", "ssim"]].mean()
        made = add(run, means["psnr"].to_dict(), means["ssim"].to_dict(), tile=tile)
        tqdm.write(f"{made['name']}: {made['psnr']}")


if __name__ == "__main__":
    main()
