"""The shipped networks, and the checkpoints that a user has imported: names, files and cards.

Below ``data/zoo``: ``registry.json``, and for each network ``NAME.safetensors`` (weights, with the
recipe in their metadata), ``NAME.md`` (its card) and ``NAME.csv`` (its training history), which
``tools/ship.py`` writes. Below ``data/weights``: ``registry.json`` and ``NAME.safetensors`` of
`dtfn.models.import_weights`. Nothing here loads torch.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from dtfn import files, paths, recipes
from dtfn.errors import InputError, nearest
from dtfn.recipes import Recipe

REGISTRY = "registry.json"
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".tar", ".bin")  # of files with weights

_OWN = re.compile(r"(.+\.py):(\w+)(?:\?(.*))?")  # file, function, what is said of it

Entry = dict[str, Any]  # what a registry says about one network


class Own(NamedTuple):
    """A user's own network, see `own`."""

    file: Path
    function: str
    weights: Path | None
    attention: tuple[str, ...]

    def __str__(self) -> str:
        given = [f"weights={self.weights}"] if self.weights else []
        query = "&".join([*given, *(f"attention={name}" for name in self.attention)])
        return f"{self.file}:{self.function}" + (f"?{query}" if query else "")

    @property
    def inputs(self) -> list[Path]:
        """The files that it depends on."""
        return [self.file, self.weights] if self.weights else [self.file]


def own(name: str) -> Own | None:
    """Return what the name of a user's own network says, with absolute paths; None for others.

    The name is ``FILE.py:function``. The function takes nothing and returns a torch module that
    maps (N, 3, H, W) in [0, 1] to (N, 3, sH, sW). With ``?weights=FILE`` it takes that file's path;
    ``&attention=NAME`` (repeatable; a submodule) says which attention is meant. What the file
    imports is not part of what the cache depends on.
    """
    parsed = _OWN.fullmatch(name)
    if parsed is None:
        if re.fullmatch(r".+\.py:?", name):
            remedy = "name the function in it that returns the network"
            raise InputError(f"network {name!r}", "FILE.py:function", "a file alone", remedy)
        return None
    parts = [part.partition("=") for part in (parsed[3] or "").split("&") if part]
    weights = [Path(value).expanduser().absolute() for key, _, value in parts if key == "weights"]
    attention = tuple(value for key, _, value in parts if key == "attention")
    if len(weights) > 1 or len(weights) + len(attention) < len(parts):
        wanted, remedy = "weights=FILE, attention=NAME", "join several by &, and quote it all"
        raise InputError(f"network {name!r}", wanted, parsed[3], remedy)
    file = Path(parsed[1]).expanduser().absolute()
    return Own(file, parsed[2], weights[0] if weights else None, attention)


def registry() -> list[Entry]:
    """Return the shipped networks, sorted by name.

    Each has name, variant, scale, seed, parameters, file, sha256; psnr (dB), ssim and number of
    pictures by benchmark; and gate, the cost of uniform weights on Urban100 (dB) or None.
    """
    return files.read_json(paths.ZOO / REGISTRY, [])


def imported() -> list[Entry]:
    """Return the imported networks, by name.

    Each has name, network, scale, parameters, full_size (whether it is as large as the authors'),
    hyperparameters, assumed (those that the weights do not show), file, sha256, and of the imported
    file source and source_sha256.
    """
    return files.read_json(paths.WEIGHTS / REGISTRY, [])


def everything() -> list[Entry]:
    """Return the shipped and the imported networks: at least name, scale and file of each."""
    return [*registry(), *imported()]


def file_of(name_or_file: str) -> Path:
    """Return the file of a network's weights, or of a user's own code; or raise `InputError`."""
    row = next((row for row in everything() if row["name"] == name_or_file), None)
    file, remedy = Path(name_or_file).expanduser(), "correct the path, or see `dtfn zoo list`"
    if mine := own(name_or_file):
        file = mine.file
    elif row and "source" in row:
        file = paths.WEIGHTS / row["file"]
        remedy = f"import {row['source']} again with `dtfn weights import`"
    elif row:
        file, remedy = paths.ZOO / row["file"], "restore it with `git checkout data/zoo`"
    elif not (file.is_file() or file.suffix.lower() in SUFFIXES or file.parent != Path()):
        remedy = "leave bicubic out: it has no weights, and is measured in any case"
        if name_or_file != "bicubic":
            remedy = nearest(name_or_file, ["bicubic", *(row["name"] for row in everything())])
        wanted = "a name of the zoo or of imported weights, a weights file, or for some bicubic"
        raise InputError(f"method {name_or_file!r}", wanted, "none of these", remedy)
    if not file.is_file():
        raise InputError(file, "the file of a network", "no file", remedy)
    return file


def recipe(name_or_file: str) -> Recipe:
    """Return the recipe by which weights were trained; no recipe in the file is an `InputError`."""
    if found := _recipe(file := file_of(name_or_file)):
        return found
    raise InputError(file, "weights that `dtfn train` wrote", "no recipe", "name other weights")


def switched(name_or_file: str) -> bool:
    """Return whether weights were trained with attention on and off (`Recipe.attention_off`)."""
    found = _recipe(file_of(name_or_file))
    return bool(found and found.attention_off)


def _recipe(file: Path) -> Recipe | None:
    if file.suffix != ".safetensors":
        return None
    try:
        with safe_open(file, "np") as content:
            kept = content.metadata() or {}
        build, older = (json.loads(kept.get(key, "null")) or {} for key in ("build", "notes"))
        fields = dict(build.get("notes", older).get("recipe", {}))
    except (SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(file, "whole weights, notes in JSON", error, "fetch it again") from error
    return recipes.from_json(fields) if fields else None


def verify() -> list[str]:
    """Return one line for each shipped file that is missing or differs from the registry."""
    wrong = []
    for row in registry():
        file = paths.ZOO / row["file"]
        actual = files.sha256(file) if file.is_file() else "no file"
        if actual != row["sha256"]:
            wrong.append(f"{file.name}: expected {row['sha256'][:12]}, found {actual[:12]}")
    return wrong


def record(folder: Path, made: Entry) -> None:
    """Put an entry into the registry of a folder, in place of one of the same name."""
    with files.updating(folder / REGISTRY, []) as rows:
        others = [row for row in rows if row["name"] != made["name"]]
        rows[:] = sorted([*others, made], key=lambda row: row["name"])
