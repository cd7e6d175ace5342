"""The networks: EDSR, NLN, NLSN, DLSN, HSPAN, DTFN, and the mini family, from one description each.

Two bodies exist. *Groups* (DTFN, DLSN, HSPAN, mini): groups of residual blocks, an attention and a
convolution. *Chain* (EDSR, NLN, NLSN): residual blocks, with an attention first and after every 8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtfn import images, recipes
from dtfn.errors import InputError, require_known
from dtfn.models import attention as kinds
from dtfn.models.layers import (
    HALF,
    MeanShift,
    ResidualBlock,
    TextureFidelity,
    Upsampler,
    conv3x3,
    scaled,
    switches,
)

BLOCKS_BETWEEN = 8  # residual blocks between two attentions of a chain

# name -> class, the hyperparameters it takes beside channels and res_scale
_CHUNKS = ("reduction", "chunk_size", "n_hashes")
ATTENTIONS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "placebo": (kinds.PlaceboAttention, ()),
    "nla": (kinds.NonLocalAttention, ("reduction",)),
    "hspa": (kinds.HighSimilarityPassAttention, ("reduction", "topk")),
    "nlsa": (kinds.NonLocalSparseAttention, _CHUNKS),
    "gla": (kinds.GlobalLearnableAttention, _CHUNKS),
    "dnlf": (kinds.DeformableNonLocalFusion, _CHUNKS),
    "dnlf-notfs": (kinds.DeformableNonLocalFusion, _CHUNKS),
}

_COMMON = {"n_feats": 256, "n_resblocks": 4, "res_scale": 0.1, "rgb_range": 1.0}
_GROUPS = _COMMON | {"n_resgroups": 10}
_CHAIN = _COMMON | {"n_resblocks": 32}
_HASHED = {"reduction": 4, "chunk_size": 144, "n_hashes": 4}

# name -> (attention or None, default hyperparameters = the authors' full sizes)
NETWORKS: Mapping[str, tuple[str | None, dict[str, Any]]] = {
    "edsr": (None, _CHAIN),
    "nln": ("nla", _CHAIN | {"reduction": 2}),
    "nlsn": ("nlsa", _CHAIN | _HASHED),
    "dlsn": ("gla", _GROUPS | _HASHED | {"chunk_size": 128, "n_hashes": 3}),
    "hspan": ("hspa", _GROUPS | {"n_feats": 192, "reduction": 2, "topk": 128}),
    "dtfn": ("dnlf", _GROUPS | _HASHED | {"chunk_size": 128}),
}

MINI = {"n_feats": 32, "n_resgroups": 4, "n_resblocks": 4, "res_scale": 1.0}
MINI_HASHED = {"reduction": 4, "chunk_size": 64, "n_hashes": 2}
# variant -> (attention or None, hyperparameters that differ from MINI)
MINI_VARIANTS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "local": (None, {}),
    "local-wide": (None, {"n_feats": 40}),
    "placebo": ("placebo", {}),
    "nla": ("nla", {"reduction": 2}),
    "hspa": ("hspa", {"reduction": 2, "topk": 64}),
    "nlsa": ("nlsa", MINI_HASHED),
    "gla": ("gla", MINI_HASHED),
    "dtfn-notfs": ("dnlf-notfs", MINI_HASHED),
    "dtfn": ("dnlf", MINI_HASHED),
}


class ResidualGroup(nn.Module):
    """``body(x) * res_scale + x``: residual blocks, an attention or none, a convolution."""

    def __init__(
        self, channels: int, n_resblocks: int, attention: Sequence[nn.Module], res_scale: float
    ) -> None:
        super().__init__()
        blocks = [ResidualBlock(channels) for _ in range(n_resblocks)]
        self.body = nn.Sequential(*blocks, *attention, conv3x3(channels, channels))
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) for x of the same shape."""
        return scaled(self.body(x), self.res_scale) + x


class Network(nn.Module):
    """A super-resolution network: RGB in [0, 1], (N, 3, H, W) -> (N, 3, sH, sW).

    Built by `create` or `dtfn.models.load`.

    Attributes
    ----------
    name : str
        ``"dtfn"``, ``"dlsn+tfs"``, ``"mini-nla"``, ...
    scale : int
    hyperparameters : dict
        What was built, defaults included.
    """

    def __init__(
        self, name: str, scale: int, body: Sequence[nn.Module], values: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.name, self.scale, self.hyperparameters = name, scale, dict(values)
        channels, rgb_range = values["n_feats"], values["rgb_range"]
        self.rgb_range = rgb_range
        self.sub_mean = MeanShift(rgb_range, -1)
        self.add_mean = MeanShift(rgb_range, +1)
        self.head = nn.Sequential(conv3x3(3, channels))
        self.body = nn.Sequential(*body, conv3x3(channels, channels))
        self.tail: nn.Sequential = nn.Sequential(Upsampler(channels, scale), conv3x3(channels, 3))
        hashed = [m for m in self.modules() if isinstance(m, kinds.HashedAttention)]
        for index, layer in enumerate(hashed):
            layer.layer = index

    def attention(self, on: bool | Tensor) -> AbstractContextManager[object]:
        """Switch attention on or off, TFS and DNLF included; without attention nothing happens.

        Parameters
        ----------
        on
            For all pictures, or a bool tensor (N,) with one entry a picture of the batch.

        Returns
        -------
        A context manager that restores the switches on leaving; it need not be entered.
        """
        if isinstance(on, Tensor):
            if on.dtype != torch.bool or on.ndim != 1:
                raise InputError(
                    "attention switch",
                    "a bool, or a bool tensor (N,) with one entry a picture",
                    f"{on.dtype} of shape {tuple(on.shape)}",
                    "pass network.attention(torch.tensor([True, False]))",
                )
            on = on.to(next(self.parameters()).device)
        return _assign(switches(self), "on", on)

    def intervene(self, change: kinds.Intervention | None) -> AbstractContextManager[object]:
        """Let ``change`` alter the logits of every attention layer; None ends it.

        Returns
        -------
        A context manager as of `attention`.
        """
        layers = [m for m in self.modules() if isinstance(m, kinds.Attention)]
        return _assign(layers, "intervene", change)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 3, sH, sW) in about [0, 1] for x (N, 3, H, W), RGB in [0, 1]."""
        check_input(x)
        shallow = self.head(self.sub_mean(x * self.rgb_range))
        return self.add_mean(self.tail(self.body(shallow) + shallow)) / self.rgb_range


def _assign(layers: list[Any], attribute: str, value: object) -> AbstractContextManager[object]:
    """Set an attribute of layers, and return what restores it."""
    restore = ExitStack()
    for layer in layers:
        restore.callback(setattr, layer, attribute, getattr(layer, attribute))
        setattr(layer, attribute, value)
    return restore


class MiniNetwork(Network):
    """The DTFN backbone scaled down: one sub-pixel convolution as tail, around a bicubic skip.

    One LR position gives its s*s sub-pixels in one step, and the body has to learn only what
    bicubic interpolation misses: small networks train several times faster so.
    """

    def __init__(
        self, name: str, scale: int, body: Sequence[nn.Module], values: Mapping[str, Any]
    ) -> None:
        super().__init__(name, scale, body, values)
        del self.add_mean
        last = conv3x3(values["n_feats"], 3 * scale**2)
        nn.init.zeros_(last.weight)  # training starts near bicubic, not at noise
        self.tail = nn.Sequential(last, nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 3, sH, sW) in about [0, 1] for x (N, 3, H, W), RGB in [0, 1]."""
        check_input(x)
        shallow = self.head(self.sub_mean(x * self.rgb_range))
        # With antialias=True torch's cubic has a=-0.5 as MATLAB's; without, -0.75.
        whole = x.float() if x.dtype in HALF else x
        skip = F.interpolate(whole, scale_factor=self.scale, mode="bicubic", antialias=True)
        return self.tail(self.body(shallow) + shallow) / self.rgb_range + skip


def check_input(x: Tensor) -> None:
    """Raise `InputError` unless x is a floating (N, 3, H, W) tensor with something in it."""
    if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point() or 0 in x.shape:
        raise InputError(
            "network input",
            "a floating (N, 3, H, W) tensor, RGB in [0, 1]",
            f"{x.dtype} of shape {tuple(x.shape)}",
            "convert with tensor.permute(2, 0, 1)[None] / 255 if it is an (H, W, 3) image",
        )


def create(name: str, scale: int, hash_seed: int | None = 0, **hyperparameters: Any) -> Network:
    """Build a network with fresh weights.

    Parameters
    ----------
    name
        ``edsr``, ``nln``, ``nlsn``, ``dlsn``, ``hspan``, ``dtfn``, or ``mini-<variant>`` with the
        variants ``local``, ``local-wide``, ``placebo``, ``nla``, ``hspa``, ``nlsa``, ``gla``,
        ``dtfn-notfs``, ``dtfn``; each with attention also as ``<name>+tfs``.
    scale
        2, 3 or 4.
    hash_seed
        See `dtfn.models.attention.HashedAttention`.
    **hyperparameters
        Override the defaults (the authors' full sizes): ``n_feats``, ``n_resblocks``,
        ``n_resgroups``, ``res_scale``, ``rgb_range``, ``reduction``, ``chunk_size``, ``n_hashes``,
        ``topk``, where the network has them.

    Raises
    ------
    InputError
        Unknown network, scale or hyperparameter; a hyperparameter of the wrong type.
    """
    base, plus, _ = name.partition("+tfs")
    require_known(name, known_names(), "network")
    images.check_scale(scale)
    is_mini = base.startswith("mini-")
    if is_mini:
        kind, changes = MINI_VARIANTS[base.removeprefix("mini-")]
        values = MINI | {"rgb_range": 1.0} | changes
    else:
        kind, values = NETWORKS[base][0], dict(NETWORKS[base][1])
    values = _checked(name, hyperparameters, values)
    # DLSN and NLN add their attention unscaled; the others scale it like their blocks.
    inner = 1.0 if base in ("dlsn", "nln") else values["res_scale"]
    channels, blocks, res_scale = (values[k] for k in ("n_feats", "n_resblocks", "res_scale"))

    def attention() -> list[nn.Module]:
        if kind is None:
            return []
        cls, wanted = ATTENTIONS[kind]
        arguments = {name: values[name] for name in wanted}
        if wanted == _CHUNKS:
            arguments["hash_seed"] = hash_seed
        if kind == "dnlf-notfs":
            arguments["fidelity"] = False
        layer = cls(channels, res_scale=inner, **arguments)
        return [TextureFidelity(layer, channels, res_scale) if plus else layer]

    if "n_resgroups" in values:
        groups = range(values["n_resgroups"])
        body = [ResidualGroup(channels, blocks, attention(), res_scale) for _ in groups]
        return (MiniNetwork if is_mini else Network)(name, scale, body, values)
    chain = attention()
    for index in range(blocks):
        chain.append(ResidualBlock(channels, res_scale))
        if (index + 1) % BLOCKS_BETWEEN == 0:
            chain += attention()
    return Network(name, scale, chain, values)


def register(variant: str, attention: type[kinds.Attention], **hyperparameters: Any) -> None:
    """Make an attention from anywhere a variant of the mini networks: ``mini-<variant>``.

    In this process recipes, weights files and all that takes a network know it from then on.

    Parameters
    ----------
    variant
        A name that the package does not have; registered again, the newest counts.
    attention
        A subclass, best of `dtfn.models.attention.NonLocalAttention`, which `dtfn.capture` can map.
        It is called with the channels, ``res_scale`` and these hyperparameters.
    **hyperparameters
        Name -> default; weights files keep their values.

    Raises
    ------
    InputError
        The package has an attention of this name.
    """
    if variant in recipes.VARIANTS:
        raise InputError(
            f"variant {variant!r}", "a new name", "one of the package's", "choose another"
        )
    ATTENTIONS[variant] = (attention, tuple(hyperparameters))
    MINI_VARIANTS[variant] = (variant, hyperparameters)


def known_names() -> list[str]:
    """Return every name that `create` understands."""
    plain = dict(NETWORKS) | {f"mini-{name}": spec for name, spec in MINI_VARIANTS.items()}
    fused = [f"{n}+tfs" for n, (kind, _) in plain.items() if kind and not kind.startswith("dnlf")]
    return [*plain, *fused]


def _checked(name: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in given.items():
        require_known(key, defaults, f"hyperparameter of {name}")
        number = (int, float) if isinstance(defaults[key], float) else int
        if isinstance(value, bool) or not isinstance(value, number) or not 0 < value < math.inf:
            kind = "a positive number" if isinstance(defaults[key], float) else "a positive integer"
            raise InputError(f"{key} of {name}", kind, repr(value), "pass such a number")
    values = {**defaults, **given}
    if values.get("reduction", 1) > values["n_feats"]:
        raise InputError(
            f"reduction of {name}",
            f"at most n_feats, {values['n_feats']}",
            values["reduction"],
            "it divides the number of features",
        )
    return values
