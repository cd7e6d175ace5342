"""Read a network's name and hyperparameters back from the names and shapes of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dtfn.errors import InputError
from dtfn.models.layers import RGB_MEAN
from dtfn.models.networks import NETWORKS

State = Mapping[str, Tensor]

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
SCALES = {(4, 1): 2, (9, 1): 3, (4, 2): 4}  # (channels of the first convolution / C, convolutions)
SHOWN_KEYS = 4  # of a checkpoint that is not recognised


@dataclass(frozen=True)
class Description:
    """What a file of weights holds.

    Attributes
    ----------
    name, scale
        As for `dtfn.models.create`.
    hyperparameters
        All that `dtfn.models.create` needs to build it.
    assumed
        Those of them that the weights do not show; they have the authors' values.
    """

    name: str
    scale: int
    hyperparameters: dict[str, Any]
    assumed: tuple[str, ...] = ()


def invisible(name: str) -> frozenset[str]:
    """Return the hyperparameters that change no shape, so that no weights can show them."""
    hidden = {"res_scale", "n_hashes", "topk"}
    if name.removeprefix("mini-").removesuffix("+tfs") in ("nlsn", "nlsa"):
        hidden.add("chunk_size")  # the others have it in their score MLP
    return frozenset(hidden)


def recognise(state: State, source: object) -> Description:
    """Say which network a state dict belongs to.

    Parameters
    ----------
    state
        Names as in EDSR-PyTorch and its descendants (``head.0.weight``, ``body.0...``).
    source
        Named in errors.

    Returns
    -------
    Description
        Assumed are, where the network has them, ``res_scale``, ``n_hashes``, ``topk``, the
        ``chunk_size`` of NLSN, and ``rgb_range`` where ``sub_mean`` is missing.

    Raises
    ------
    InputError
        Not EDSR, NLN, NLSN, DLSN, HSPAN or DTFN, with or without TFS; an unknown scale; other
        colour constants than those of DIV2K.
    """
    if "tail.0.weight" in state:
        raise InputError(
            source, expected="weights that tell what they belong to",
            found="those of a mini network",
            remedy="name it: load_weights(create('mini-...', scale), file); files of save() know",
        )  # fmt: skip
    body, n_resgroups, n_resblocks = _body(state)
    kind, tfs, attention = _attention(state)
    first = state.get("tail.0.0.weight", torch.empty(0))
    if not n_resblocks or first.ndim != 4 or (body, kind) not in NAMES:
        raise _unknown(state, source)
    name = NAMES[body, kind] + ("+tfs" if tfs else "")
    n_feats = first.shape[1]
    read: dict[str, Any] = {"n_feats": n_feats, "n_resblocks": n_resblocks}
    if body == "groups":
        read["n_resgroups"] = n_resgroups
    read |= _shapes_of_attention(state, attention, n_feats)
    if "sub_mean.bias" in state:
        read["rgb_range"] = _rgb_range(state, source)
    defaults = dict(NETWORKS[NAMES[body, kind]][1])
    if name == "edsr" and n_feats == 64:
        defaults["res_scale"] = 1.0  # EDSR's baseline adds its residuals unscaled
    assumed = tuple(sorted(defaults.keys() - read.keys()))
    return Description(name, _scale(state, n_feats, source), defaults | read, assumed)


def _body(state: State) -> tuple[str, int, int]:
    """Return the kind of body, its groups, and the residual blocks of a group or of the chain."""
    grouped = [found for key in state if (found := GROUP_BLOCK.fullmatch(key))]
    if grouped:
        groups = {int(found[1]) for found in grouped}
        blocks = {int(found[2]) for found in grouped}
        return "groups", max(groups) + 1, max(blocks) + 1
    return "chain", 0, sum(CHAIN_BLOCK.fullmatch(key) is not None for key in state)


def _attention(state: State) -> tuple[str | None, bool, str]:
    """Return the kind of attention, whether it is inside TFS, and the name of its first layer."""
    found = next((m for key in state if (m := MATCH.fullmatch(key))), None)
    if found is None:
        return None, False, ""
    layer = found["layer"]
    if f"{layer}.conv_assembly.offset_conv.weight" in state:
        kind = "dnlf"
    elif f"{layer}.fc.0.weight" in state:
        kind = "gla"
    elif f"{layer}.conv_match1.0.weight" in state:
        kind = "dense"
    else:
        kind = "nlsa"
    return kind, found["tfs"] is not None, layer


def _shapes_of_attention(state: State, layer: str, n_feats: int) -> dict[str, int]:
    read = {}
    for match in (f"{layer}.conv_match.0.weight", f"{layer}.conv_match1.0.weight"):
        if match in state:
            read["reduction"] = n_feats // state[match].shape[0]
    if f"{layer}.fc.0.weight" in state:
        read["chunk_size"] = state[f"{layer}.fc.0.weight"].shape[0]
    return read


def _scale(state: State, n_feats: int, source: object) -> int:
    growth = state["tail.0.0.weight"].shape[0] // n_feats
    layers = sum(re.fullmatch(r"tail\.0\.\d+\.weight", key) is not None for key in state)
    if (growth, layers) not in SCALES:
        raise InputError(
            source, expected="an upsampler for x2, x3 or x4",
            found=f"{layers} convolution(s) of {growth} times the features",
            remedy="choose a checkpoint of one of these scales",
        )  # fmt: skip
    return SCALES[growth, layers]


def _rgb_range(state: State, source: object) -> float:
    """Return the value of white from the constant that subtracts the mean colour."""
    bias, mean = state["sub_mean.bias"].double(), torch.tensor(RGB_MEAN, dtype=torch.float64)
    weight = state.get("sub_mean.weight", torch.eye(3)).double().reshape(-1)
    white = round(float((-bias / mean).mean()), 3) if bias.shape == mean.shape else float("nan")
    plain = torch.allclose(weight, torch.eye(3, dtype=weight.dtype).reshape(-1))
    if not plain or not torch.allclose(bias, -white * mean, rtol=1e-3) or not white > 0:
        raise InputError(
            f"sub_mean of {source}", expected="the mean colour of DIV2K, and a deviation of 1",
            found=f"{bias.tolist()}", remedy="this network was trained on other colours",
        )  # fmt: skip
    return white


def _unknown(state: State, source: object) -> InputError:
    keys = sorted(state)
    some = ", ".join(keys[:SHOWN_KEYS]) or "nothing"
    return InputError(
        source,
        expected=f"weights of {', '.join(NAMES.values())}, named as in the authors' code",
        found=f"{len(keys)} tensors: {some}" + (", ..." if len(keys) > SHOWN_KEYS else ""),
        remedy="pass the state_dict of one of these networks",
    )
