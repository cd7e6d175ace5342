"""Read and write weights: our own safetensors, and the checkpoints of the authors and the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dtfn import zoo
from dtfn.errors import InputError
from dtfn.models.attention import HashedAttention
from dtfn.models.networks import Network, create, local_layers
from dtfn.models.recognition import Description, State, invisible, recognise

FROZEN = ("sub_mean.", "add_mean.")  # constants that every network builds by itself
UNUSED = "a"  # a scalar of the authors' networks that their forward pass never reads
# What training frameworks put around the weights; the averaged ones are the better ones.
WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "model.", "_orig_mod.")  # of DataParallel, EDSR-PyTorch and torch.compile
UPSAMPLER = "tail.0."


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
    build = {
        "name": network.name,
        "scale": network.scale,
        "hyperparameters": network.hyperparameters,
    }
    partial = file.with_suffix(".partial")
    save_file(state, partial, {"build": json.dumps(build), "notes": json.dumps(notes)})
    partial.replace(file)


def load(
    name_or_file: str | Path, hash_seed: int | None = 0, *, scale: int | None = None,
    **hyperparameters: Any,
) -> Network:  # fmt: skip
    """Return a trained network in evaluation mode.

    Parameters
    ----------
    name_or_file
        A name of the zoo (see ``dtfn zoo list``), a file written by `save`, or a checkpoint of
        EDSR, NLN, NLSN, DLSN, HSPAN or DTFN (``.pt``, ``.pth``, ``.safetensors``).
    hash_seed
        Seed of the hash rotations; the result depends on weights, image and this seed alone.
    scale
        What the weights must be for; by default, what they are for.
    **hyperparameters
        What the weights do not show (``res_scale``, ``n_hashes``, ``topk``, the ``chunk_size`` of
        NLSN; `inspect` tells). The defaults are the recorded values, or else the authors'.

    Raises
    ------
    InputError
        No such network or file; a file with more than tensors in it; weights of an unknown network,
        of another scale or other hyperparameters; keys that are missing, unexpected or mis-shaped;
        numbers that are not finite.
    """
    file = zoo.file_of(str(name_or_file))
    state, what, _ = _read(file)
    if scale not in (None, what.scale):
        raise InputError(
            file, expected=f"weights for x{scale}", found=f"{what.name} for x{what.scale}",
            remedy="to train on from them, use replace_upsampler(load(file), scale)",
        )  # fmt: skip
    values = _settled(what, hyperparameters, file)
    network = create(what.name, what.scale, hash_seed, **values)
    _load_strictly(network, state, file)
    return network.eval()


def inspect(file: str | Path) -> dict[str, Any]:
    """Say what a file of weights holds, without building it.

    Returns
    -------
    dict
        ``name``, ``scale``, ``hyperparameters``, ``assumed`` (the names of those that the file does
        not show, which have the authors' values), ``parameters`` (how many), ``notes``.

    Raises
    ------
    InputError
        As for `load`.
    """
    path = zoo.file_of(str(file))
    state, what, notes = _read(path)
    return {
        "name": what.name,
        "scale": what.scale,
        "hyperparameters": what.hyperparameters,
        "assumed": list(what.assumed),
        "parameters": sum(v.numel() for v in _trained(state).values()),
        "notes": notes,
    }


def load_weights(network: Network, file: str | Path) -> None:
    """Load a file's weights into a network that exists, all of them or none.

    Raises
    ------
    InputError
        As for `load`.
    """
    path = zoo.file_of(str(file))
    _load_strictly(network, _tensors(path)[0], path)


def replace_upsampler(network: Network, scale: int) -> Network:
    """Return a copy of a network for another scale, with a fresh upsampler.

    The authors train x3 and x4 on from the weights of x2 in this way. Everything outside
    ``tail.0`` is copied.

    Parameters
    ----------
    network
        From `load` or `dtfn.models.create`.
    scale
        2, 3 or 4.
    """
    seeds = [m.hash_seed for m in network.modules() if isinstance(m, HashedAttention)]
    other = create(network.name, scale, seeds[0] if seeds else 0, **network.hyperparameters)
    kept = {k: v for k, v in network.state_dict().items() if not k.startswith(UPSAMPLER)}
    other.load_state_dict(kept, strict=False)
    return other.to(next(network.parameters())).train(network.training)


def insert_attention(
    local: Network, name: str, hash_seed: int | None = 0, **hyperparameters: Any
) -> Network:
    """Return the twin with attention of a local network: its layers copied, the attentions fresh.

    Parameters
    ----------
    local
        A network without attention.
    name, hash_seed, **hyperparameters
        Of the twin, as for `dtfn.models.create`; its backbone must be that of ``local``.

    Raises
    ------
    InputError
        ``local`` has attention, or another backbone.
    """
    network = create(name, local.scale, hash_seed, **hyperparameters)
    theirs, mine = local_layers(local), local_layers(network)
    sizes = [[p.shape for layer in layers for p in layer.parameters()] for layers in (theirs, mine)]
    copied = sum(p.numel() for layer in theirs for p in layer.parameters())
    if sizes[0] != sizes[1] or copied != sum(p.numel() for p in local.parameters()):
        raise InputError(
            f"start of {name}", expected="weights of its local twin: without attention, same sizes",
            found=f"{local.name} {local.hyperparameters}", remedy="choose a start of the same size",
        )  # fmt: skip
    for source, target in zip(theirs, mine, strict=True):
        target.load_state_dict(source.state_dict())
    return network.to(next(local.parameters())).train(local.training)


def _read(file: Path) -> tuple[State, Description, dict[str, Any]]:
    state, metadata = _tensors(file)
    if "build" not in metadata:
        return state, recognise(state, file), {}
    try:
        build = json.loads(metadata["build"])
        what = Description(build["name"], build["scale"], dict(build["hyperparameters"]))
        return state, what, json.loads(metadata.get("notes", "{}"))
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(file, error) from error


def _tensors(file: Path) -> tuple[State, dict[str, str]]:
    """Return the weights of a file under their plain names, and its metadata."""
    metadata: dict[str, str] = {}
    content: object
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                metadata = opened.metadata() or {}
                content = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the libraries raise whatever a broken file leads them to
        raise _unreadable(file, error) from error
    return _unwrapped(content, file), metadata


def _unreadable(file: Path, error: Exception) -> InputError:
    with file.open("rb") as content:
        page = content.read(64).lstrip().startswith(b"<")
    # torch goes on to advise reading the file unchecked, which may run any code in it.
    said = f"{type(error).__name__}: {str(error).partition('. ')[0].partition(chr(10))[0]}"
    return InputError(
        file, expected="weights, and nothing but tensors", found="a web page" if page else said,
        remedy="fetch it again, or save the network's state_dict() where it was trained",
    )  # fmt: skip


def _unwrapped(content: object, source: object) -> State:
    """Take off what frameworks put around the weights, and in front of their names."""
    while isinstance(content, Mapping):
        inner = [content[w] for w in WRAPPERS if isinstance(content.get(w), Mapping)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        found = f"the keys {', '.join(map(str, content))}" if isinstance(content, Mapping) else ""
        raise InputError(
            source, expected="a state dict", found=found or type(content).__name__,
            remedy=f"save the network's state_dict(), bare or below one of {', '.join(WRAPPERS)}",
        )  # fmt: skip
    state = {str(key): value for key, value in content.items()}
    while state and (
        prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None)
    ):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _settled(what: Description, given: Mapping[str, Any], source: object) -> dict[str, Any]:
    """Return the hyperparameters with the caller's; those that the weights fix must agree."""
    free = invisible(what.name) | set(what.assumed)
    for key, value in given.items():
        fixed = what.hyperparameters.get(key)
        if key in what.hyperparameters and key not in free and value != fixed:
            raise InputError(
                f"{key} of {source}", expected=f"{fixed}, as its weights have it",
                found=repr(value), remedy="leave it out",
            )  # fmt: skip
    return what.hyperparameters | dict(given)


def _trained(state: State) -> dict[str, Tensor]:
    """Return the weights without the constants and the unused scalar."""
    return {
        key: value
        for key, value in state.items()
        if not key.startswith(FROZEN) and not (key == UNUSED and value.numel() == 1)
    }


def _load_strictly(network: Network, state: State, source: object) -> None:
    own, given = _trained(network.state_dict()), _trained(state)
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
            found=_other(network, state) or "; ".join(sorted(faults)),
            remedy="load the checkpoint of this network and scale",
        )  # fmt: skip
    network.load_state_dict(given, strict=False)


def _other(network: Network, state: State) -> str:
    """Return what the weights belong to, if it is another network or scale."""
    try:
        what = recognise(state, "")
    except InputError:
        return ""
    same = (what.name, what.scale) == (network.name, network.scale)
    return "" if same else f"weights of {what.name} x{what.scale}"
