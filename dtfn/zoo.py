"""The shipped networks, and the checkpoints that a user has imported: names, files and cards.

Below ``data/zoo``: ``registry.json``, and for each network ``NAME.safetensors`` (weights, with the
recipe in their metadata), ``NAME.md`` (its card) and ``NAME.csv`` (its training history).
``tools/ship.py`` writes them. Below ``data/weights``: ``registry.json`` and ``NAME.safetensors`` of
checkpoints that `dtfn.models.import_weights` took in. Nothing here loads torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from dtfn import files, paths, recipes
from dtfn.errors import InputError, nearest, require_known
from dtfn.recipes import Recipe

REGISTRY = "registry.json"
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".tar", ".bin")  # of files with weights

_OWN = re.compile(r"(.+\.py):(\w+)(?:\?(.*))?")  # file, function, what is said of it

Entry = dict[str, Any]
"""What a registry says about one network."""


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

    def fingerprint(self) -> str:
        """Return a SHA-256 of the contents of the files, the function and the attention."""
        contents = [files.sha256(_existing(file, "mend the path")) for file in self.inputs]
        text = "\n".join([*contents, self.function, *self.attention])
        return hashlib.sha256(text.encode()).hexdigest()


def own(name: str) -> Own | None:
    """Return what the name of a user's own network says, with absolute paths; None for others.

    The name is ``FILE.py:function``. The function takes nothing and returns a torch module that
    maps (N, 3, H, W) in [0, 1] to (N, 3, sH, sW). With ``?weights=FILE`` it takes that file's path;
    ``&attention=NAME`` (repeatable; a submodule) says which attention is meant. What the file
    imports is not part of what the cache depends on. A file without a function is an `InputError`.
    """
    parsed = _OWN.fullmatch(name)
    if parsed is None and re.fullmatch(r".+\.py:?", name):
        remedy = "name the function in it that returns the network"
        raise InputError(f"network {name!r}", "FILE.py:function", "a file alone", remedy)
    if parsed is None:
        return None
    weights, attention = None, []
    for part in filter(None, (parsed[3] or "").split("&")):
        key, _, value = part.partition("=")
        if key == "weights" and value and weights is None:
            weights = Path(value).expanduser().absolute()
        elif key == "attention" and value:
            attention.append(value)
        else:
            wanted, remedy = "weights=FILE, attention=NAME", "join several by &, and quote it all"
            raise InputError(f"network {name!r}", wanted, part, remedy)
    return Own(Path(parsed[1]).expanduser().absolute(), parsed[2], weights, tuple(attention))


def labels(methods: Iterable[str]) -> dict[str, str]:
    """Return method -> a short name for figures and tables, which no other of them has.

    For a user's own network it is that of its files without folders, e.g. ``mine:network?weights``;
    for other files of weights likewise. Folders stay as far as names would be the same without.
    """
    known = list(dict.fromkeys(methods))
    for weights, code in ((w, c) for n in range(1, 9) for w, c in ((n, 1), (1, n), (n, n))):
        short = {method: _label(method, weights, code) for method in known}
        if len(set(short.values())) == len(known):
            break
    return short


def _label(method: str, weights: int, code: int) -> str:
    """Return a method's name with so many parts of the paths of its weights and its code."""

    def stem(file: str, parts: int) -> str:
        return "/".join(Path(file).with_suffix("").parts[-parts:]) if file else ""

    name, mark, change = method.rpartition("@")
    if not re.fullmatch(r"[a-z0-9()+]+", change):  # not of `dtfn.interventions`
        name, mark, change = method, "", ""
    if parsed := _OWN.fullmatch(name):
        parts = [part.partition("=")[::2] for part in (parsed[3] or "").split("&") if part]
        said = "&".join(stem(value, weights) if key == "weights" else value for key, value in parts)
        name = f"{stem(parsed[1], code)}:{parsed[2]}" + f"?{said}" * bool(said)
    elif "/" in name and name.endswith(SUFFIXES):
        name = stem(name, weights)
    return f"{name}{mark}{change}"


def registry() -> list[Entry]:
    """Return the shipped networks, sorted by name.

    Each has: name, variant, scale, seed, parameters, file, sha256; psnr (dB), ssim and number of
    pictures by benchmark; and gate, the cost of uniform attention weights on Urban100 in dB, None
    without attention.
    """
    return files.read_json(paths.ZOO / REGISTRY, [])


def imported() -> list[Entry]:
    """Return the imported networks, by name.

    Each has: name, network, scale, parameters, full_size (whether it is as large as the authors'),
    hyperparameters, assumed (those of them that the weights do not show), file, sha256, source
    (name of the imported file), source_sha256.
    """
    return files.read_json(paths.WEIGHTS / REGISTRY, [])


def everything() -> list[Entry]:
    """Return the shipped and the imported networks: at least name, scale and file of each."""
    return [*registry(), *imported()]


def entry(name: str) -> Entry:
    """Return the entry of a shipped network; an unknown name is an `InputError`."""
    known = {row["name"]: row for row in registry()}
    require_known(name, known, "network", "a name of the zoo")
    return known[name]


def file_of(name_or_file: str) -> Path:
    """Return the weights file of a shipped or imported network, or the file itself.

    For a user's own network it is the file of its code. An unknown one is an `InputError`.
    """
    if mine := own(name_or_file):
        return _existing(mine.file, "mend the path")
    for row in imported():
        if row["name"] == name_or_file:
            remedy = f"import {row['source']} again with `dtfn weights import`"
            return _existing(paths.WEIGHTS / row["file"], remedy)
    for row in registry():
        if row["name"] == name_or_file:
            return _existing(paths.ZOO / row["file"])
    given = Path(name_or_file).expanduser()
    if given.is_file() or given.suffix.lower() in SUFFIXES or given.parent != Path():
        return _existing(given, "correct the path, or name a network of `dtfn zoo list`")
    remedy = nearest(name_or_file, ["bicubic", *(row["name"] for row in everything())])
    if name_or_file == "bicubic":
        remedy = "leave bicubic out: it has no weights, and is measured in any case"
    wanted = "a name of the zoo or of imported weights, a weights file, or for some bicubic"
    raise InputError(f"method {name_or_file!r}", wanted, "none of these", remedy)


def _existing(file: Path, remedy: str = "restore it with `git checkout data/zoo`") -> Path:
    if not file.is_file():
        found = "a folder" if file.is_dir() else "no file"
        raise InputError(file, "the file of a network", found, remedy)
    return file


def show(name: str) -> str:
    """Return the card of a shipped network, as Markdown; errors as `entry`."""
    return _existing(paths.ZOO / f"{entry(name)['name']}.md").read_text(encoding="utf-8")


def recipe(name_or_file: str) -> Recipe:
    """Return the recipe by which weights were trained; no recipe in the file is an `InputError`."""
    file = file_of(name_or_file)
    if found := _recipe(file):
        return found
    expected = "weights that `dtfn train` wrote, with their recipe"
    raise InputError(file, expected, "no recipe", "train it with `dtfn train`")


def switched(name_or_file: str) -> bool:
    """Return whether weights were trained with attention on and off (`Recipe.attention_off`)."""
    found = _recipe(file_of(name_or_file))
    return bool(found and found.attention_off)


def _recipe(file: Path) -> Recipe | None:
    if file.suffix != ".safetensors":
        return None
    try:
        with safe_open(file, "np") as content:
            notes = json.loads((content.metadata() or {}).get("notes", "{}"))
    except (SafetensorError, ValueError) as error:
        remedy = "train or fetch it again"
        raise InputError(file, "a whole .safetensors file", str(error), remedy) from error
    return recipes.from_json(notes["recipe"]) if "recipe" in notes else None


def verify() -> list[str]:
    """Return one line for each shipped file that is missing or differs from the registry."""
    wrong = []
    for row in registry():
        file = paths.ZOO / row["file"]
        actual = files.sha256(file) if file.is_file() else "no file"
        if actual != row["sha256"]:
            wrong.append(f"{file.name}: expected {row['sha256'][:12]}, found {actual[:12]}")
        if not (paths.ZOO / f"{row['name']}.md").is_file():
            wrong.append(f"{row['name']}.md: expected a file, found none")
    return wrong


def record(folder: Path, made: Entry) -> None:
    """Put an entry into the registry of a folder, in place of one of the same name."""
    with files.updating(folder / REGISTRY, []) as rows:
        others = [row for row in rows if row["name"] != made["name"]]
        rows[:] = sorted([*others, made], key=lambda row: row["name"])
