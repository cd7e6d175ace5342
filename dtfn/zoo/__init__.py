"""The model zoo: small networks, really trained, shipped with a registry and a card each.

Below ``data/zoo``: ``registry.json``, and for each network ``NAME.safetensors`` (weights, with the
recipe in their metadata), ``NAME.md`` (its card) and ``NAME.csv`` (its training curve). Imports no
torch.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dtfn import paths, provenance, recipes
from dtfn.errors import InputError, nearest
from dtfn.recipes import Recipe
from dtfn.zoo import cards, imported

REGISTRY = "registry.json"
LARGEST = 2_000_000  # bytes of a shipped file
SUFFIXES = (".safetensors", ".pt", ".pth")  # of files with weights


def registry() -> list[dict[str, Any]]:
    """Return the zoo: name, variant, scale, seed, parameters, psnr, ssim, file, sha256 of each."""
    file = paths.ZOO / REGISTRY
    return json.loads(file.read_text()) if file.exists() else []


def everything() -> list[dict[str, Any]]:
    """Return the zoo and what the user has imported: at least name, scale and file of each."""
    return [*registry(), *imported.registry()]


def entry(name: str) -> dict[str, Any]:
    """Return the entry of one network.

    Raises
    ------
    InputError
        The zoo has no network of this name.
    """
    known = {row["name"]: row for row in registry()}
    if name not in known:
        raise InputError(
            "network", expected="a name of the zoo or a weights file", found=repr(name),
            remedy=nearest(name, known) if known else "train one with `dtfn train`",
        )  # fmt: skip
    return known[name]


def file_of(name_or_file: str) -> Path:
    """Return the weights file of a name of the zoo or of imported weights, or the file itself.

    Raises
    ------
    InputError
        There is no such name and no such file.
    """
    given = Path(name_or_file)
    if given.suffix in SUFFIXES:
        if not given.is_file():
            raise InputError(
                given, expected="a weights file", found="none", remedy="see `dtfn zoo list`"
            )
        return given
    start = paths.ZOO / f"{name_or_file}.safetensors"
    if start.is_file():  # what networks of the zoo start from is shipped, but no result
        return start
    return imported.file_of(name_or_file) or _shipped(entry(name_or_file)["file"])


def show(name: str) -> str:
    """Return the card of a network, as Markdown.

    Raises
    ------
    InputError
        The zoo has no network of this name, or its card is missing.
    """
    return _shipped(f"{entry(name)['name']}.md").read_text()


def recipe(name_or_file: str) -> Recipe:
    """Return the recipe that weights were trained by, which is kept with them.

    Raises
    ------
    InputError
        There is no such network, or its file names no recipe.
    """
    file = file_of(name_or_file)
    notes = _opened(file)[0]
    if "recipe" not in notes:
        raise InputError(
            file, expected="weights that `dtfn train` wrote, with their recipe", found="no recipe",
            remedy="train it with `dtfn train`",
        )  # fmt: skip
    return recipes.from_json(notes["recipe"])


def fingerprint(file: Path) -> str:
    """Return the SHA-256 of the weights themselves: names, shapes and bits, but no metadata."""
    digest = hashlib.sha256()
    with safe_open(file, "np") as content:
        for key in sorted(content.keys()):
            tensor = content.get_tensor(key)
            digest.update(f"{key} {tensor.dtype} {tensor.shape} ".encode() + tensor.tobytes())
    return digest.hexdigest()


def verify() -> list[str]:
    """Return one line for each shipped file that is missing or not the one of the registry."""
    wrong = []
    for row in registry():
        file = paths.ZOO / row["file"]
        found = provenance.file_hash(file) if file.is_file() else "no file"
        if found != row["sha256"]:
            wrong.append(f"{row['file']}: expected {row['sha256'][:12]}, found {found[:12]}")
        for suffix in (".md", ".csv"):
            if not (paths.ZOO / f"{row['name']}{suffix}").is_file():
                wrong.append(f"{row['name']}{suffix}: expected a file, found none")
    return wrong


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
    weights, curve = folder / "weights.safetensors", folder / "history.csv"
    for file in (weights, curve):
        if not file.is_file():
            raise InputError(
                file, expected="a finished training run", found="no such file",
                remedy=f"finish it: `dtfn train --resume --out {folder}`",
            )  # fmt: skip
    trained = recipe(str(weights))
    _require_name(name, trained)
    _require_numbers(psnr, ssim)
    with curve.open(newline="") as handle:
        history = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(handle)]
    facts = _facts(folder, history)
    paths.ZOO.mkdir(parents=True, exist_ok=True)
    partial = _halved(weights, paths.ZOO / f"{name}.partial")
    made = {
        "name": name, "variant": trained.network.removeprefix("mini-"), "scale": trained.scale,
        "seed": trained.seed, "parameters": _opened(weights)[1],
        "psnr": {key: round(float(value), 4) for key, value in psnr.items()},
        "ssim": {key: round(float(value), 5) for key, value in ssim.items()},
        "file": f"{name}.safetensors", "sha256": provenance.file_hash(partial),
        "stored": _opened(partial)[0].get("stored", "float32"),
        "steps": trained.steps, "minutes": round(facts["seconds"] / 60, 1),
        "validation_psnr": round(history[-1]["psnr"], 4), "tile": list(tile) if tile else None,
    }  # fmt: skip
    partial.replace(paths.ZOO / f"{name}.safetensors")
    shutil.copyfile(curve, paths.ZOO / f"{name}.csv")
    (paths.ZOO / f"{name}.md").write_text(cards.card(made, trained, facts, history))
    others = [row for row in registry() if row["name"] != name]
    rows = sorted([*others, made], key=lambda row: row["name"])
    partial = paths.ZOO / f"{REGISTRY}.partial"
    partial.write_text(json.dumps(rows, indent=1) + "\n")
    partial.replace(paths.ZOO / REGISTRY)
    return made


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


def _shipped(file: str) -> Path:
    if not (paths.ZOO / file).is_file():
        raise InputError(
            paths.ZOO / file, expected="a file that is shipped", found="no file",
            remedy="restore it with `git checkout data/zoo`",
        )  # fmt: skip
    return paths.ZOO / file


def _opened(file: Path) -> tuple[dict[str, Any], int]:
    """Return the notes and the number of parameters of a weights file."""
    try:
        with safe_open(file, "np") as content:
            notes = json.loads((content.metadata() or {}).get("notes", "{}"))
            shapes = [content.get_slice(key).get_shape() for key in content.keys()]  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise InputError(
            file, expected="a whole .safetensors file", found=str(error),
            remedy="train or fetch it again",
        ) from error  # fmt: skip
    return notes, sum(math.prod(shape) for shape in shapes)


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
