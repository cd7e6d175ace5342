"""Read and write weights: safetensors that say how to build their network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dtfn import zoo
from dtfn.errors import InputError
from dtfn.models.networks import Network, create

FROZEN = ("sub_mean.", "add_mean.")  # constants that every network builds by itself


def save(network: Network, file: Path, **notes: Any) -> None:
    """Write a network's weights, with all that is needed to build it again.

    Parameters
    ----------
    network
        From `dtfn.models.create`.
    file
        ``.safetensors``; written whole or not at all.
    **notes
        JSON-able facts to keep with the weights.
    """
    state = {k: v.contiguous() for k, v in network.state_dict().items() if not k.startswith(FROZEN)}
    build = {"name": network.name, "scale": network.scale, "hyperparameters": network.hyperparameters}
    partial = file.with_suffix(".partial")
    save_file(state, partial, {"build": json.dumps(build), "notes": json.dumps(notes)})
    partial.replace(file)


def load(name_or_file: str | Path, hash_seed: int | None = 0) -> Network:
    """Return a trained network in evaluation mode.

    Parameters
    ----------
    name_or_file
        A name of the zoo (see ``dtfn zoo list``) or a ``.safetensors`` file written by `save`.
    hash_seed
        Seed of the hash rotations; the result depends on weights, image and this seed alone.

    Raises
    ------
    InputError
        No such network or file, or weights that do not fit.
    """
    file = zoo.file_of(str(name_or_file))
    try:
        with safe_open(file, "pt") as content:
            metadata = content.metadata() or {}
            state = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
        build = json.loads(metadata["build"])
    except Exception as error:
        raise InputError(
            file, expected="weights written by dtfn", found=f"{type(error).__name__}: {error}",
            remedy="fetch or train them again (`dtfn zoo verify` checks the shipped ones)",
        ) from error  # fmt: skip
    network = create(build["name"], build["scale"], hash_seed, **build["hyperparameters"])
    load_strictly(network, state, file)
    return network.eval()


def load_strictly(network: Network, state: dict[str, torch.Tensor], source: object) -> None:
    """Load every tensor or raise `InputError` with all that is missing, unexpected or mis-shaped."""
    own = {k: v for k, v in network.state_dict().items() if not k.startswith(FROZEN)}
    given = {k: v for k, v in state.items() if not k.startswith(FROZEN)}
    faults = [f"missing {k}" for k in own.keys() - given.keys()]
    faults += [f"unexpected {k}" for k in given.keys() - own.keys()]
    faults += [
        f"{k} is {tuple(given[k].shape)}, not {tuple(own[k].shape)}"
        for k in own.keys() & given.keys()
        if own[k].shape != given[k].shape
    ]
    faults += [f"{k} is not finite" for k in given if not given[k].isfinite().all()]
    if faults:
        raise InputError(
            source, expected=f"weights of {network.name} x{network.scale}",
            found="; ".join(sorted(faults)), remedy="load the checkpoint of this network and scale",
        )  # fmt: skip
    network.load_state_dict(given, strict=False)
