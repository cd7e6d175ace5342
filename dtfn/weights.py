"""Import checkpoints of the field: recognise, check strictly, and keep them beside the zoo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dtfn import models, paths, provenance, zoo
from dtfn.errors import InputError
from dtfn.models.networks import NETWORKS
from dtfn.zoo import imported

TRIED = 24  # LR positions a side of the image that imported weights are tried on


def load(
    file: Path,
    name: str | None = None,
    hyperparameters: Mapping[str, str] | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Import a checkpoint into ``data/weights``, so that its name stands for it everywhere.

    It is stored as safetensors, with its hyperparameters. Before it is, it must load strictly and
    run on a small image; after it, what was stored must give the same output, bit by bit.

    Parameters
    ----------
    file
        Of EDSR, NLN, NLSN, DLSN, HSPAN or DTFN, as for `dtfn.models.load`.
    name
        What to call it; by default ``<network>-x<scale>``.
    hyperparameters
        Values, as text, of those that the weights do not show, where the authors' are wrong.
    replace
        Whether weights of this name, if there are others, are replaced.

    Returns
    -------
    dict
        The entry of the registry, see `dtfn.zoo.imported.registry`.

    Raises
    ------
    InputError
        As `dtfn.models.load`; an output that is not finite; a name of the zoo; or other weights
        that have the name.
    """
    found = models.inspect(file)
    values = _typed(hyperparameters or {}, found)
    name = name or f"{found['name']}-x{found['scale']}"
    entry = {
        "name": name,
        "network": found["name"],
        "scale": found["scale"],
        "parameters": found["parameters"],
        "full_size": _full_size(found),
        "hyperparameters": found["hyperparameters"] | values,
        "assumed": [key for key in found["assumed"] if key not in values],
        "file": f"{name}.safetensors",
        "source": file.name,
        "source_sha256": provenance.file_hash(file),
    }
    before = _holder(name)
    if before is not None and _same(before, entry):
        return before
    if before is not None and not replace:
        raise InputError(
            f"weights {name!r}", expected="a name that is free",
            found=f"{before['source']}, imported as that",
            remedy="choose another with --name, or pass --replace",
        )  # fmt: skip
    network = models.load(file, **values)
    output = _tried(network, file)
    paths.WEIGHTS.mkdir(parents=True, exist_ok=True)
    stored = paths.WEIGHTS / entry["file"]
    trial = stored.with_suffix(".new.safetensors")
    models.save(network, trial, source=entry["source"], source_sha256=entry["source_sha256"])
    if not torch.equal(_tried(models.load(trial), trial), output):
        trial.unlink()
        raise InputError(
            file, expected="the same output from what was stored", found="another",
            remedy="report this: it should not happen",
        )  # fmt: skip
    trial.replace(stored)
    entry["sha256"] = provenance.file_hash(stored)
    imported.record(entry)
    return entry


def _full_size(found: Mapping[str, Any]) -> bool:
    """Return whether a network is one of the authors', in their width and depth."""
    _, full = NETWORKS.get(found["name"], (None, {}))
    sizes = ("n_feats", "n_resblocks", "n_resgroups")
    return bool(full) and all(full.get(k) == found["hyperparameters"].get(k) for k in sizes)


def _typed(given: Mapping[str, str], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as the types that the network has; `dtfn.models.load` checks the rest."""
    known = found["hyperparameters"]
    values: dict[str, Any] = {}
    for key, text in given.items():
        try:
            values[key] = type(known.get(key, 0.0))(text)
        except ValueError as error:
            raise InputError(
                f"{key} of {found['name']}", expected=f"a number such as {known.get(key, 1)}",
                found=repr(text), remedy="pass such a number",
            ) from error  # fmt: skip
    return values


def _holder(name: str) -> dict[str, Any] | None:
    """Return the entry of weights that are there; refuse what none may be called."""
    reserved = {"bicubic", *(row["name"] for row in zoo.registry())}
    if name in reserved or Path(name).name != name or Path(name).suffix in zoo.SUFFIXES:
        raise InputError(
            f"name {name!r}", expected="a plain word that no method has",
            found="a method or a file's name", remedy="choose another with --name",
        )  # fmt: skip
    there = [row for row in imported.registry() if (paths.WEIGHTS / row["file"]).is_file()]
    return next((row for row in there if row["name"] == name), None)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    keys = ("source_sha256", "hyperparameters")
    return all(one[key] == other[key] for key in keys)


def _tried(network: models.Network, file: Path) -> torch.Tensor:
    """Return the output for a small image of noise; refuse one with NaN or infinity."""
    x = torch.rand(1, 3, TRIED, TRIED, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        output = network(x)
    if not output.isfinite().all():
        raise InputError(
            file, expected=f"a finite output for {TRIED} x {TRIED} pixels", found="NaN or infinity",
            remedy="the weights are damaged, or a hyperparameter that they do not show is wrong",
        )  # fmt: skip
    return output
