"""The networks: EDSR, NLN, NLSN, DLSN, HSPAN, DTFN, and the mini family, from one table.

Two bodies exist. *Groups* (DTFN, DLSN, HSPAN, mini): groups of residual blocks, an attention and a
convolution. *Chain* (EDSR, NLN, NLSN): residual blocks, with an attention first and after every 8.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtfn import images, recipes
from dtfn.errors import InputError, require_known
from dtfn.models import attention as kinds
from dtfn.models.layers import Residual, Switchable, TextureFidelity, conv3x3, exact

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, for an RGB range of 1

_COMMON = {"n_feats": 256, "n_resblocks": 4, "res_scale": 0.1, "rgb_range": 1.0}
_GROUPS = _COMMON | {"n_resgroups": 10}
_CHAIN = _COMMON | {"n_resblocks": 32}
_CHUNKS = {"reduction": 4, "chunk_size": 128, "n_hashes": 4}
_SPARSE = {"reduction": 2, "topk": 128}
_MINI = _GROUPS | {"n_feats": 32, "n_resgroups": 4, "res_scale": 1.0}
_MINI_CHUNKS = _MINI | {"reduction": 4, "chunk_size": 64, "n_hashes": 2}

Kind = Callable[..., nn.Module]
# name -> attention, and hyperparameters (full sizes); those not in _GROUPS go to the attention.
NETWORKS: dict[str, tuple[Kind | None, dict[str, Any]]] = {
    "edsr": (None, _CHAIN),
    "nln": (kinds.NonLocalAttention, _CHAIN | {"reduction": 2}),
    "nlsn": (kinds.NonLocalSparseAttention, _CHAIN | _CHUNKS | {"chunk_size": 144}),
    "dlsn": (kinds.GlobalLearnableAttention, _GROUPS | _CHUNKS | {"n_hashes": 3}),
    "hspan": (kinds.HighSimilarityPassAttention, _GROUPS | {"n_feats": 192} | _SPARSE),
    "dtfn": (kinds.DeformableNonLocalFusion, _GROUPS | _CHUNKS),
    "mini-local": (None, _MINI),
    "mini-local-wide": (None, _MINI | {"n_feats": 40}),
    "mini-placebo": (kinds.PlaceboAttention, _MINI),
    "mini-nla": (kinds.NonLocalAttention, _MINI | {"reduction": 2}),
    "mini-hspa": (kinds.HighSimilarityPassAttention, _MINI | _SPARSE | {"topk": 64}),
    "mini-nlsa": (kinds.NonLocalSparseAttention, _MINI_CHUNKS),
    "mini-gla": (kinds.GlobalLearnableAttention, _MINI_CHUNKS),
    "mini-dtfn-notfs": (partial(kinds.DeformableNonLocalFusion, fidelity=False), _MINI_CHUNKS),
    "mini-dtfn": (kinds.DeformableNonLocalFusion, _MINI_CHUNKS),
}


def _block(channels: int, res_scale: float = 1.0) -> Residual:
    first, last = conv3x3(channels, channels), conv3x3(channels, channels)
    return Residual(first, nn.ReLU(inplace=True), last, res_scale=res_scale)


class Network(nn.Module):
    """A super-resolution network: RGB in [0, 1], (N, 3, H, W) -> (N, 3, sH, sW).

    A mini network has one sub-pixel convolution as tail, around a bicubic skip: the body has to
    learn only what bicubic interpolation misses. ``name``, ``scale`` and ``hyperparameters`` say
    what was built; ``assumed`` names those that the weights do not show and nobody gave.
    """

    mean: Tensor

    def __init__(
        self, name: str, scale: int, body: Sequence[nn.Module], values: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.name, self.scale, self.hyperparameters = name, scale, dict(values)
        self.assumed: list[str] = []
        self.is_mini = name.startswith("mini-")
        channels, self.rgb_range = values["n_feats"], values["rgb_range"]
        # On the CPU even where weights are planned on the meta device: no file holds it.
        # Flat: several processes exchange buffers, which another memory format would break.
        mean = self.rgb_range * torch.tensor(RGB_MEAN, device="cpu")
        self.register_buffer("mean", mean, persistent=False)
        self.head = nn.Sequential(conv3x3(3, channels))
        self.body = nn.Sequential(*body, conv3x3(channels, channels))
        upsampler: list[nn.Module] = []  # the authors': C->4C once or twice, C->9C for x3
        for factor in (2, 2) if scale == 4 else (scale,):
            upsampler += [conv3x3(channels, factor**2 * channels), nn.PixelShuffle(factor)]
        self.tail = nn.Sequential(nn.Sequential(*upsampler), conv3x3(channels, 3))
        if self.is_mini:
            last = conv3x3(channels, 3 * scale**2)
            nn.init.zeros_(last.weight)  # training starts near bicubic, not at noise
            self.tail = nn.Sequential(last, nn.PixelShuffle(scale))

    def attention(self, on: bool | Tensor) -> AbstractContextManager[object]:
        """Switch attention on or off, or by picture (N,); the context, if entered, restores it."""
        if isinstance(on, Tensor):
            on = on.to(next(self.parameters()).device)
        return assign(switches(self), "on", on)

    def intervene(self, change: kinds.Intervention | None) -> AbstractContextManager[object]:
        """Let ``change`` alter the logits of every attention layer; a context as of `attention`."""
        layers = [m for m in self.modules() if isinstance(m, kinds.Attention)]
        return assign(layers, "intervene", change)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 3, sH, sW) in about [0, 1] for x (N, 3, H, W), RGB in [0, 1]."""
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point() or 0 in x.shape:
            wanted, found = "a floating (N, 3, H, W) in [0, 1]", f"{x.dtype} {tuple(x.shape)}"
            remedy = "convert an (H, W, 3) image with tensor.permute(2, 0, 1)[None] / 255"
            raise InputError("network input", wanted, found, remedy)
        mean = self.mean.view(3, 1, 1)
        shallow = self.head(x * self.rgb_range - mean)
        out = self.tail(self.body(shallow) + shallow)
        if not self.is_mini:
            return (out + mean) / self.rgb_range
        # With antialias=True torch's cubic has a=-0.5 as MATLAB's; without, -0.75.
        skip = F.interpolate(exact(x), scale_factor=self.scale, mode="bicubic", antialias=True)
        return out / self.rgb_range + skip


def switches(network: nn.Module) -> list[Switchable]:
    """Return what can be switched off in a network, one an attention layer, in their order."""
    layers = [module for module in network.modules() if isinstance(module, Switchable)]
    inside = {part for layer in layers for part in layer.modules() if part is not layer}
    return [layer for layer in layers if layer not in inside]


def assign(objects: Iterable[object], name: str, value: object) -> ExitStack:
    """Set an attribute of objects; closing what is returned brings back what was there."""
    restore = ExitStack()
    for own in map(vars, objects):
        if name in own:
            restore.callback(own.__setitem__, name, own[name])
        else:
            restore.callback(own.pop, name, None)
        own[name] = value
    return restore


def create(name: str, scale: int, hash_seed: int | None = 0, **hyperparameters: Any) -> Network:
    """Build a network with fresh weights.

    ``name`` is one of `NETWORKS`, each with attention also as ``<name>+tfs``; ``scale`` is 2, 3 or
    4; for ``hash_seed`` see `dtfn.models.attention.HashedAttention`. The hyperparameters override
    those of `NETWORKS`. Anything else is an `InputError`.
    """
    require_known(name, known_names(), "network")
    images.check_scale(scale)
    base, plus, _ = name.partition("+tfs")
    kind, defaults = NETWORKS[base]
    for key, value in hyperparameters.items():
        require_known(key, defaults, f"hyperparameter of {name}")
        kind_of, word = (float, "number") if isinstance(defaults[key], float) else (int, "integer")
        is_number = isinstance(value, (int, kind_of)) and not isinstance(value, bool)
        if not (is_number and 0 < value < math.inf):
            raise InputError(f"{key} of {name}", f"a positive {word}", repr(value), "mend it")
    values = defaults | hyperparameters
    channels, blocks, res_scale = (values[k] for k in ("n_feats", "n_resblocks", "res_scale"))
    if (width := values.get("reduction", 1)) > channels:
        raise InputError(f"reduction of {name}", f"at most n_feats, {channels}", width, "lower it")
    own = {key: value for key, value in values.items() if key not in _GROUPS}
    own["res_scale"] = 1.0 if base in ("dlsn", "nln") else res_scale  # the authors' choice

    def attention() -> list[nn.Module]:
        if kind is None:
            return []
        layer = kind(channels, **own)
        return [TextureFidelity(layer, channels, res_scale) if plus else layer]

    body: list[nn.Module] = []
    if "n_resgroups" in values:
        for _ in range(values["n_resgroups"]):
            last = attention()  # its weights are drawn first
            group = [*(_block(channels) for _ in range(blocks)), *last]
            body.append(Residual(*group, conv3x3(channels, channels), res_scale=res_scale))
    else:
        for index in range(blocks + 1):
            body += attention() if index % 8 == 0 else []
            body += [_block(channels, res_scale)] if index < blocks else []
    network = Network(name, scale, body, values)
    hashed = (m for m in network.modules() if isinstance(m, kinds.HashedAttention))
    for index, layer in enumerate(hashed):
        layer.layer, layer.hash_seed = index, hash_seed
    return network


def register(variant: str, attention: Kind, **hyperparameters: Any) -> None:
    """Make an attention a variant of the mini networks, ``mini-<variant>``, in this process.

    It is a subclass of `dtfn.models.attention.Attention`, best of its `NonLocalAttention`, which
    `dtfn.capture` can map. It is called with the channels, ``res_scale`` and the hyperparameters,
    given here with their defaults. Whatever takes a network, recipe or weights file then knows it.
    """
    if variant in recipes.VARIANTS:
        raise InputError(f"variant {variant!r}", "a new name", "ours", "choose another")
    NETWORKS[f"mini-{variant}"] = (attention, _MINI | hyperparameters)


def known_names() -> list[str]:
    """Return every name that `create` understands."""
    fused = [n for n, (kind, _) in NETWORKS.items() if kind is not None and "dtfn" not in n]
    return [*NETWORKS, *(f"{name}+tfs" for name in fused)]
