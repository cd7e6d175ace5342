"""Read and write weights: our own safetensors, and the checkpoints of the authors and the field.

A checkpoint from elsewhere is recognised by the names and shapes of its weights.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from dtfn import files, zoo
from dtfn.errors import InputError
from dtfn.models.attention import HashedAttention
from dtfn.models.layers import RGB_MEAN, TextureFidelity
from dtfn.models.networks import NETWORKS, Network, create

FROZEN = ("sub_mean.", "add_mean.")  # constants that every network builds by itself
UNUSED = "a"  # a scalar of the authors' networks that their forward pass never reads
# What training frameworks put around the weights; the averaged ones are the better ones.
WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "model.", "_orig_mod.")  # of DataParallel, EDSR-PyTorch and torch.compile
UPSAMPLER = "tail.0."
SHOWN_KEYS = 4  # of a checkpoint that is not recognised

# (body, attention) -> network. Softmax and sparsemax attention have the same weights; the body
# tells NLN from HSPAN.
NAMES = {
    ("chain", None): "edsr",
    ("chain", "dense"): "nln",
    ("chain", "nlsa"): "nlsn",
    ("groups", "gla"): "dlsn",
    ("groups", "dense"): "hspan",
    ("groups", "dnlf"): "dtfn",
}
GROUP_BLOCK = re.compile(r"body\.(\d+)\.body\.(\d+)\.body\.0\.weight")
CHAIN_BLOCK = re.compile(r"body\.(\d+)\.body\.0\.weight")
MATCH = re.compile(
    r"(?P<layer>body\.\d+(?:\.body\.\d+)?(?P<tfs>\.attention)?)\.conv_match1?\.0\.weight"
)
UPSAMPLERS = {(4, 1): 2, (9, 1): 3, (4, 2): 4}  # (growth of the first convolution, convolutions)
RANGES = (1.0, 255.0)  # values of white that networks are trained with
ROUNDING = 5e-3  # of constants in half precision, relative

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Description:
    """What a file of weights holds; ``assumed`` hyperparameters have the authors' values."""

    name: str
    scale: int
    hyperparameters: dict[str, Any]
    assumed: tuple[str, ...] = ()


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
    build = {key: getattr(network, key) for key in ("name", "scale", "hyperparameters")}
    # Written here, since a full disk is no OSError of safetensors'.
    metadata = {"build": json.dumps(build), "notes": json.dumps(notes)}
    files.write(file, serialised(state, metadata))


def load(
    name_or_file: str | Path,
    hash_seed: int | None = 0,
    *,
    scale: int | None = None,
    **hyperparameters: Any,
) -> Network:
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
        NLSN, ``rgb_range`` where there is no mean shift; `inspect` lists them). The defaults are
        the recorded values, or else the authors'.

    Raises
    ------
    InputError
        No such network or file; a file with more than tensors in it; weights of an unknown network,
        of another scale or other hyperparameters; keys that are missing, unexpected or mis-shaped;
        numbers that are not finite; an EDSR whose ``rgb_range`` nobody knows.
    """
    file = zoo.file_of(str(name_or_file))
    state, what, _ = _read(file)
    if scale not in (None, what.scale):
        raise InputError(
            file,
            f"weights for x{scale}",
            f"{what.name} for x{what.scale}",
            "to train on from them, use replace_upsampler(load(file), scale)",
        )
    fixed = what.hyperparameters
    free = _invisible(what.name) | set(what.assumed)
    for key, value in hyperparameters.items():
        if key in fixed and key not in free and value != fixed[key]:
            raise InputError(
                f"{key} of {file}",
                f"{fixed[key]}, as its weights have it",
                repr(value),
                "leave it out",
            )
    # EDSR was trained with 255 by its authors and with 1 by others, the rest with 1 by all.
    if what.name == "edsr" and "rgb_range" in set(what.assumed) - hyperparameters.keys():
        raise InputError(
            f"rgb_range of {file}",
            "a sub_mean among the weights, which shows it",
            "none; it is 255 in the authors' checkpoints, and 1 in others",
            (
                f"say which: dtfn weights import {file} -p rgb_range=255, or load(file, "
                "rgb_range=255.0)"
            ),
        )
    try:
        network = create(what.name, what.scale, hash_seed, **fixed | hyperparameters)
    except InputError as error:
        error.args = (f"{file}: {error}",)
        raise
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
    state, what, notes = _read(zoo.file_of(str(file)))
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
    """Return a copy of a network for another scale, with a fresh upsampler (``tail.0``).

    The authors train x3 and x4 on from the weights of x2 in this way.
    """
    seeds = [m.hash_seed for m in network.modules() if isinstance(m, HashedAttention)]
    other = create(network.name, scale, seeds[0] if seeds else 0, **network.hyperparameters)
    kept = {k: v for k, v in network.state_dict().items() if not k.startswith(UPSAMPLER)}
    other.load_state_dict(kept, strict=False)
    return other.to(next(network.parameters())).train(network.training)


def add_fidelity(network: Network) -> Network:
    """Return a copy of a network with TFS around each attention, which at first changes nothing.

    Raises
    ------
    InputError
        The network has no attention, or already has TFS.
    """
    seeds = [m.hash_seed for m in network.modules() if isinstance(m, HashedAttention)]
    name = f"{network.name}+tfs"
    other = create(name, network.scale, seeds[0] if seeds else 0, **network.hyperparameters)
    state = dict(network.state_dict())
    for place, layer in other.named_modules():
        if isinstance(layer, TextureFidelity):
            layer.begin_as_attention()
            for key in [key for key in state if key.startswith(f"{place}.")]:
                state[key.replace(place, f"{place}.attention", 1)] = state.pop(key)
    other.load_state_dict(state, strict=False)
    return other.to(next(network.parameters())).train(network.training)


def _read(file: Path) -> tuple[State, _Description, dict[str, Any]]:
    state, metadata = _tensors(file)
    if "build" not in metadata:
        return state, _recognised(state, file), {}
    try:
        build = json.loads(metadata["build"])
        what = _Description(build["name"], build["scale"], dict(build["hyperparameters"]))
        notes = json.loads(metadata.get("notes", "{}"))
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(file, error) from error
    # A damaged file must not make a network that fills the memory before its weights are compared.
    largest = max((n for value in state.values() for n in value.shape), default=0)
    most = {"n_feats": largest, "n_resgroups": len(state), "n_resblocks": len(state)}
    for key, limit in most.items():
        value = what.hyperparameters.get(key, 0)
        if isinstance(value, int) and value > limit:
            raise InputError(
                f"{key} of {file}",
                f"at most {limit}, for which it has weights",
                value,
                "the file is damaged: fetch or train it again",
            )
    return state, what, notes


def _tensors(file: Path) -> tuple[State, dict[str, str]]:
    """Return the weights of a file under their plain names, and its metadata."""
    metadata: dict[str, str] = {}
    content: object
    try:
        if file.suffix.lower() == ".safetensors":
            with safe_open(file, "pt") as opened:
                metadata = opened.metadata() or {}
                content = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickles that it then refuses
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
        file,
        "weights, and nothing but tensors",
        "a web page" if page else said,
        "fetch it again, or save the network's state_dict() where it was trained",
    )


def _unwrapped(content: object, source: object) -> State:
    """Take off what frameworks put around the weights, and in front of their names."""
    while isinstance(content, Mapping):
        inner = [content[w] for w in WRAPPERS if isinstance(content.get(w), Mapping)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        keys = f"the keys {', '.join(map(str, content))}" if isinstance(content, Mapping) else ""
        raise InputError(
            source,
            "a state dict",
            keys or type(content).__name__,
            f"save the network's state_dict(), bare or below one of {', '.join(WRAPPERS)}",
        )
    # torch's AveragedModel counts the averaged states next to the weights.
    state = {str(key): value for key, value in content.items() if key != "n_averaged"}
    for key, value in state.items():
        if value.layout != torch.strided or value.is_meta or not value.is_floating_point():
            raise InputError(
                f"{key} of {source}",
                "a dense tensor of real numbers",
                f"{value.dtype}, {value.layout}, on {value.device}",
                "save the weights in float32",
            )
    while state and (
        prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None)
    ):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


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
            source,
            f"weights of {network.name} x{network.scale}",
            _other(network, state) or "; ".join(sorted(faults)),
            "load the checkpoint of this network and scale",
        )
    network.load_state_dict(given, strict=False)


def _other(network: Network, state: State) -> str:
    """Return what the weights belong to, if it is another network or scale."""
    try:
        what = _recognised(state, "")
    except InputError:
        return ""
    same = (what.name, what.scale) == (network.name, network.scale)
    return "" if same else f"weights of {what.name} x{what.scale}"


def _invisible(name: str) -> set[str]:
    """Return the hyperparameters that change no shape, so that no weights can show them."""
    hidden = {"res_scale", "n_hashes", "topk"}
    if name.removeprefix("mini-").removesuffix("+tfs") in ("nlsn", "nlsa"):
        hidden.add("chunk_size")  # the others have it in their score MLP
    return hidden


def _recognised(state: State, source: object) -> _Description:
    """Say which network a state dict belongs to, named as in EDSR-PyTorch and its descendants.

    Raises
    ------
    InputError
        Not EDSR, NLN, NLSN, DLSN, HSPAN or DTFN, with or without TFS; an unknown scale; other
        colour constants than those of DIV2K.
    """
    if "tail.0.weight" in state:
        raise InputError(
            source,
            "weights that show what they belong to",
            "those of a mini network",
            "name it: load_weights(create('mini-...', scale), file); files of save() know",
        )
    read: dict[str, Any] = {}
    grouped = [block for key in state if (block := GROUP_BLOCK.fullmatch(key))]
    if grouped:
        body = "groups"
        # Counted, so that a damaged name does not ask for a million blocks.
        read["n_resgroups"] = len({block[1] for block in grouped})
        read["n_resblocks"] = len({block[2] for block in grouped})
    else:
        body = "chain"
        read["n_resblocks"] = sum(CHAIN_BLOCK.fullmatch(key) is not None for key in state)
    kind, tfs, layer = _attention(state)
    first = state.get("tail.0.0.weight", torch.empty(0))
    if not read["n_resblocks"] or first.ndim != 4 or (body, kind) not in NAMES:
        keys = sorted(state)
        some = ", ".join(keys[:SHOWN_KEYS]) or "nothing"
        raise InputError(
            source,
            f"weights of {', '.join(NAMES.values())}, named as in the authors' code",
            f"{len(keys)} tensors: {some}" + (", ..." if len(keys) > SHOWN_KEYS else ""),
            "pass the state_dict of one of these networks",
        )
    n_feats = read["n_feats"] = first.shape[1]
    for match in (f"{layer}.conv_match.0.weight", f"{layer}.conv_match1.0.weight"):
        if match in state:
            read["reduction"] = n_feats // state[match].shape[0]
    if f"{layer}.fc.0.weight" in state:
        read["chunk_size"] = state[f"{layer}.fc.0.weight"].shape[0]
    if "sub_mean.bias" in state:
        read["rgb_range"] = _rgb_range(state, source)
    name = NAMES[body, kind] + ("+tfs" if tfs else "")
    defaults = dict(NETWORKS[NAMES[body, kind]][1])
    if name == "edsr" and n_feats == 64:
        defaults["res_scale"] = 1.0  # EDSR's baseline adds its residuals unscaled
    growth = first.shape[0] // n_feats
    convolutions = sum(re.fullmatch(r"tail\.0\.\d+\.weight", key) is not None for key in state)
    if (growth, convolutions) not in UPSAMPLERS:
        raise InputError(
            source,
            "an upsampler for x2, x3 or x4",
            f"{convolutions} convolution(s) of {growth} times the features",
            "choose a checkpoint of one of these scales",
        )
    assumed = tuple(sorted(defaults.keys() - read.keys()))
    return _Description(name, UPSAMPLERS[growth, convolutions], defaults | read, assumed)


def _attention(state: State) -> tuple[str | None, bool, str]:
    """Return the kind of attention, whether it is inside TFS, and the name of its first layer."""
    match = next((m for key in state if (m := MATCH.fullmatch(key))), None)
    if match is None:
        return None, False, ""
    layer = match["layer"]
    kind = "nlsa"
    for part, other in (
        ("conv_match1.0", "dense"),
        ("fc.0", "gla"),
        ("conv_assembly.offset_conv", "dnlf"),
    ):
        if f"{layer}.{part}.weight" in state:
            kind = other
    return kind, match["tfs"] is not None, layer


def _rgb_range(state: State, source: object) -> float:
    """Return the value of white from the constant that subtracts the mean colour.

    Constants of half precision are rounded: a value near 1 or 255 is 1 or 255.
    """
    bias, mean = state["sub_mean.bias"].double(), torch.tensor(RGB_MEAN, dtype=torch.float64)
    weight = state.get("sub_mean.weight", torch.eye(3)).double().reshape(-1)
    white = round(float((-bias / mean).mean()), 3) if bias.shape == mean.shape else float("nan")
    white = next((known for known in RANGES if abs(white / known - 1) < ROUNDING), white)
    plain = torch.allclose(weight, torch.eye(3, dtype=weight.dtype).reshape(-1))
    if not plain or not torch.allclose(bias, -white * mean, rtol=ROUNDING) or not white > 0:
        raise InputError(
            f"sub_mean of {source}",
            "the mean colour of DIV2K, and a deviation of 1",
            f"{bias.tolist()}",
            "this network was trained on other colours",
        )
    return white
