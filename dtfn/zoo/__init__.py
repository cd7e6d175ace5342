"""The model zoo: small networks, really trained, shipped with a registry and a card each.

Below ``data/zoo``: ``registry.json``, and for each network ``NAME.safetensors`` (weights, with the
recipe in their metadata), ``NAME.md`` (its card) and ``NAME.csv`` (its training curve).
``starts.json`` holds the SHA-256 of the networks that others start from, which are no results and
have no card. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dtfn import paths, provenance, recipes
from dtfn.errors import InputError, nearest
from dtfn.recipes import Recipe
from dtfn.zoo import cards, imported

REGISTRY, STARTS = "registry.json", "starts.json"
SUFFIXES = (".safetensors", ".pt", ".pth")  # of files with weights


def registry() -> list[dict[str, Any]]:
    """Return the zoo: name, variant, scale, seed, parameters, psnr, ssim, file, sha256 of each."""
    file = paths.ZOO / REGISTRY
    return json.loads(file.read_text()) if file.exists() else []


def starts() -> dict[str, str]:
    """Return name -> SHA-256 of the shipped networks that those of the zoo start from."""
    file = paths.ZOO / STARTS
    return json.loads(file.read_text()) if file.exists() else {}


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
                given,
                expected="a weights file",
                found="no such file",
                remedy="mend the path, or name a network of `dtfn zoo list`",
            )
        return given
    if name_or_file in starts():
        return _shipped(f"{name_or_file}.safetensors")
    return imported.file_of(name_or_file) or _shipped(entry(name_or_file)["file"])


def show(name: str) -> str:
    """Return the card of a network, or what is known of a start, as Markdown.

    Raises
    ------
    InputError
        The zoo has no network of this name, or its card is missing.
    """
    if name in starts():
        return cards.start(name, starts()[name], recipe(name))
    return _shipped(f"{entry(name)['name']}.md").read_text()


def recipe(name_or_file: str) -> Recipe:
    """Return the recipe that weights were trained by, which is kept with them.

    Raises
    ------
    InputError
        There is no such network, or its file names no recipe.
    """
    file = file_of(name_or_file)
    notes = opened(file)[0]
    if "recipe" not in notes:
        raise InputError(
            file, expected="weights that `dtfn train` wrote, with their recipe", found="no recipe",
            remedy="train it with `dtfn train`",
        )  # fmt: skip
    return recipes.from_json(notes["recipe"])


def fingerprint(file: Path, kind: str = "float32") -> str:
    """Return the SHA-256 of the weights themselves: names, shapes and bits, but no metadata.

    Parameters
    ----------
    file
        ``.safetensors``.
    kind
        ``"float16"``: what the file would have if it were stored so.
    """
    digest = hashlib.sha256()
    with safe_open(file, "np") as content:
        for key in sorted(content.keys()):
            tensor = content.get_tensor(key)
            tensor = tensor.astype(kind) if kind == "float16" else tensor
            digest.update(f"{key} {tensor.dtype} {tensor.shape} ".encode() + tensor.tobytes())
    return digest.hexdigest()


def verify() -> list[str]:
    """Return one line for each shipped file that is missing or not the one of the registry."""
    wrong = []
    rows = [(row["name"], row["sha256"], (".md", ".csv")) for row in registry()]
    for name, expected, others in [*rows, *((*start, (".csv",)) for start in starts().items())]:
        file = paths.ZOO / f"{name}.safetensors"
        found = provenance.file_hash(file) if file.is_file() else "no file"
        if found != expected:
            wrong.append(f"{file.name}: expected {expected[:12]}, found {found[:12]}")
        for suffix in others:
            if not (paths.ZOO / f"{name}{suffix}").is_file():
                wrong.append(f"{name}{suffix}: expected a file, found none")
    return wrong


def _shipped(file: str) -> Path:
    if not (paths.ZOO / file).is_file():
        raise InputError(
            paths.ZOO / file, expected="a file that is shipped", found="no file",
            remedy="restore it with `git checkout data/zoo`",
        )  # fmt: skip
    return paths.ZOO / file


def opened(file: Path) -> tuple[dict[str, Any], int]:
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
