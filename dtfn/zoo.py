"""The model zoo: small networks, really trained, shipped with a registry and a card each."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dtfn import paths
from dtfn.errors import InputError, nearest

REGISTRY = "registry.json"
SUFFIXES = (".safetensors", ".pt", ".pth")  # of files with weights


def registry() -> list[dict[str, Any]]:
    """Return the zoo: name, variant, scale, seed, parameters, psnr, ssim, file, sha256 of each."""
    file = paths.ZOO / REGISTRY
    return json.loads(file.read_text()) if file.exists() else []


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
    """Return the weights file of a name of the zoo, or the file itself.

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
    file = paths.ZOO / entry(name_or_file)["file"]
    if not file.is_file():
        raise InputError(
            file, expected="the shipped weights", found="no file",
            remedy="restore it with `git checkout data/zoo`",
        )  # fmt: skip
    return file


def verify() -> list[str]:
    """Return one line for each shipped file whose SHA-256 is not that of the registry."""
    wrong = []
    for row in registry():
        digest = hashlib.sha256(file_of(row["name"]).read_bytes()).hexdigest()
        if digest != row["sha256"]:
            wrong.append(f"{row['file']}: expected {row['sha256'][:12]}, found {digest[:12]}")
    return wrong
