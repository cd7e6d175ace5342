"""Put finished training runs into the zoo: what is shipped, and what others start from."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import save_file

from dtfn import paths, provenance, recipes, zoo
from dtfn.errors import InputError
from dtfn.recipes import Recipe
from dtfn.zoo import cards

LARGEST = 2_000_000  # bytes of a shipped file


def add(
    folder: Path, name: str, psnr: Mapping[str, float], ssim: Mapping[str, float],
    tile: tuple[int, int] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Put a finished training run into the zoo: weights, curve, card and entry.

    An entry of the same name is replaced.

    Parameters
    ----------
    folder
        Of `dtfn.training.train`: ``weights.safetensors``, ``history.csv``, ``run.json``.
    name
        ``<variant>-x<scale>-s<seed>``, as the recipe says.
    psnr, ssim
        Means over each benchmark (dB, and at most 1), by dataset.
    tile
        Size and overlap of the tiles they were measured in; None for whole images.

    Returns
    -------
    dict
        The entry.

    Raises
    ------
    InputError
        A run that is not finished, a name that is not the recipe's, or numbers that do not pair.
    """
    weights, curve = _finished(folder)
    trained = zoo.recipe(str(weights))
    _require_name(name, trained)
    _require_numbers(psnr, ssim)
    with curve.open(newline="") as handle:
        history = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(handle)]
    facts = _facts(folder, history)
    shipped = _ship(weights, curve, name)
    made = {
        "name": name, "variant": trained.network.removeprefix("mini-"), "scale": trained.scale,
        "seed": trained.seed, "parameters": zoo.opened(weights)[1],
        "psnr": {key: round(float(value), 4) for key, value in psnr.items()},
        "ssim": {key: round(float(value), 5) for key, value in ssim.items()},
        "file": shipped.name, "sha256": provenance.file_hash(shipped),
        "stored": zoo.opened(shipped)[0].get("stored", "float32"),
        "steps": trained.steps, "minutes": round(facts["seconds"] / 60, 1),
        "validation_psnr": round(history[-1]["psnr"], 4), "tile": list(tile) if tile else None,
    }  # fmt: skip
    (paths.ZOO / f"{name}.md").write_text(cards.card(made, trained, facts, history))
    others = [row for row in zoo.registry() if row["name"] != name]
    _write(zoo.REGISTRY, sorted([*others, made], key=lambda row: row["name"]))
    return made


def add_start(folder: Path, name: str) -> str:
    """Put a finished training run into the zoo for others to start from, and return its SHA-256.

    Parameters
    ----------
    folder
        As for `add`.
    name
        What a recipe's ``start`` calls it.

    Raises
    ------
    InputError
        A run that is not finished, or the name of a network of the zoo.
    """
    weights, curve = _finished(folder)
    if recipes.split_name(name) is not None:
        raise InputError(
            "name of a start", expected="another than those of networks", found=repr(name),
            remedy="call it start-x4 or the like",
        )  # fmt: skip
    sha256 = provenance.file_hash(_ship(weights, curve, name))
    _write(zoo.STARTS, dict(sorted((zoo.starts() | {name: sha256}).items())))
    return sha256


def _finished(folder: Path) -> tuple[Path, Path]:
    """Return the weights and the curve of a training run."""
    weights, curve = folder / "weights.safetensors", folder / "history.csv"
    for file in (weights, curve):
        if not file.is_file():
            raise InputError(
                file, expected="a finished training run", found="no such file",
                remedy=f"finish it: `dtfn train --resume --out {folder}`",
            )  # fmt: skip
    return weights, curve


def _ship(weights: Path, curve: Path, name: str) -> Path:
    """Put weights and curve into the zoo under a name, and return the file of the weights."""
    paths.ZOO.mkdir(parents=True, exist_ok=True)
    partial = _halved(weights, paths.ZOO / f"{name}.partial")
    shutil.copyfile(curve, paths.ZOO / f"{name}.csv")
    return partial.replace(paths.ZOO / f"{name}.safetensors")


def _write(name: str, content: object) -> None:
    """Write a JSON file of the zoo so that nobody ever reads half of it."""
    partial = paths.ZOO / f"{name}.partial"
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(paths.ZOO / name)


def _halved(weights: Path, target: Path) -> Path:
    """Copy weights to ``target``, in float16 where they would take more room than is allowed."""
    if weights.stat().st_size <= LARGEST:
        shutil.copyfile(weights, target)
        return target
    with safe_open(weights, "np") as content:
        metadata = content.metadata()
        tensors = {key: content.get_tensor(key).astype("float16") for key in content.keys()}  # noqa: SIM118
    notes = json.loads(metadata["notes"]) | {"stored": "float16"}
    save_file(tensors, target, metadata | {"notes": json.dumps(notes)})
    return target


def _facts(folder: Path, history: list[dict[str, float]]) -> dict[str, Any]:
    """Return what ``run.json`` says; without one, what the curve and this machine say."""
    file = folder / "run.json"
    if file.is_file():
        return json.loads(file.read_text())
    last, seconds = 0.0, 0.0
    for row in history:
        seconds += row["seconds_per_step"] * (row["step"] - last)
        last = row["step"]
    return {
        "seconds": seconds, "loader_share": None, "skipped": int(history[-1]["skipped"]),
        "processes": 1, "versions": provenance.versions(), "machine": provenance.machine(),
    }  # fmt: skip


def _require_name(name: str, trained: Recipe) -> None:
    right = f"{trained.network.removeprefix('mini-')}-x{trained.scale}-s{trained.seed}"
    if recipes.split_name(name) is None or name != right:
        raise InputError(
            "name in the zoo", expected=f"{right}, as the recipe says", found=repr(name),
            remedy="choose that name",
        )  # fmt: skip


def _require_numbers(psnr: Mapping[str, float], ssim: Mapping[str, float]) -> None:
    numbers = [*psnr.values(), *ssim.values()]
    if not psnr or psnr.keys() != ssim.keys() or not all(map(math.isfinite, numbers)):
        raise InputError(
            "PSNR and SSIM", expected="finite means over the same datasets",
            found=f"{dict(psnr)} and {dict(ssim)}", remedy="evaluate the weights on them",
        )  # fmt: skip
