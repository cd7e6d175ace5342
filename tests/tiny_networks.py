"""Tiny networks and files of weights, for the tests of both."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dtfn.models import Network, attention, create, save

CHAIN = {"n_feats": 16, "n_resblocks": 8}
GROUPS = {"n_feats": 16, "n_resblocks": 2, "n_resgroups": 2}
HASHED = {"chunk_size": 16, "n_hashes": 2}
SMALL: dict[str, dict[str, Any]] = dict.fromkeys(("edsr", "nln", "nln+tfs"), CHAIN)
SMALL |= dict.fromkeys(("nlsn", "nlsn+tfs"), CHAIN | HASHED)
SMALL |= dict.fromkeys(("dlsn", "dtfn", "dlsn+tfs"), GROUPS | HASHED)
SMALL |= dict.fromkeys(("hspan", "hspan+tfs"), GROUPS)
# Every attention, of 16 channels; the hashed ones with chunks of 8 positions.
LAYERS: dict[str, Callable[[], attention.Attention]] = {
    "placebo": lambda: attention.PlaceboAttention(16),
    "nla": lambda: attention.NonLocalAttention(16),
    "hspa": lambda: attention.HighSimilarityPassAttention(16, topk=4),
    "nlsa": lambda: attention.NonLocalSparseAttention(16, 4, 1.0, 8, 3),
    "gla": lambda: attention.GlobalLearnableAttention(16, 4, 1.0, 8, 3),
    "gla, one round": lambda: attention.GlobalLearnableAttention(16, 4, 1.0, 8, 1),
    "dnlf": lambda: attention.DeformableNonLocalFusion(16, 4, 1.0, 8, 3),
    "dnlf without tfs": lambda: attention.DeformableNonLocalFusion(
        16, 4, 1.0, 8, 3, fidelity=False
    ),
}
# What no weight of the authors' networks shows.
HIDDEN = {name: {"res_scale"} for name in ("edsr", "nln")}
HIDDEN |= {name: {"res_scale", "n_hashes"} for name in ("dlsn", "dtfn")}
HIDDEN |= {"nlsn": {"res_scale", "n_hashes", "chunk_size"}, "hspan": {"res_scale", "topk"}}
IMAGE = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))


def small(name: str, scale: int = 2, **changes: Any) -> Network:
    torch.manual_seed(7)
    return create(name, scale, **SMALL[name] | changes).eval()


def saved(folder: Path, name: str, scale: int = 2, **changes: Any) -> str:
    """Return a weights file of `small`, as a method's name."""
    file = folder / f"{name}.safetensors"
    save(small(name, scale, **changes), file)
    return str(file)


def dense(folder: str) -> str:
    """Return a weights file of a dense x4 network as large as the zoo's, as a method's name."""
    torch.manual_seed(7)
    network = create("mini-nla", 4)
    nn.init.normal_(network.get_parameter("tail.0.weight"), std=0.05)  # zero before training
    file = Path(folder) / "nla-x4-s0.safetensors"
    save(network, file)
    return str(file)


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """Return a state dict as the authors' code writes it."""
    state: dict[str, Tensor] = {"a": torch.zeros(1), **network.state_dict()}
    for name, sign in (("sub_mean", -1.0), ("add_mean", 1.0)):
        state[f"{name}.weight"] = torch.eye(3).view(3, 3, 1, 1)
        state[f"{name}.bias"] = sign * network.get_buffer("mean").flatten()
    return state


def write(tmp_path: Path, content: object, name: str = "weights.pt", **how: Any) -> Path:
    file = tmp_path / name
    torch.save(content, file, **how)
    return file


@torch.no_grad()
def same_output(one: nn.Module, other: nn.Module) -> bool:
    return torch.equal(one(IMAGE), other(IMAGE))


def only_self(logits: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """An intervention after which each position sees itself alone."""
    return logits.masked_fill(queries[..., :, None] != keys[..., None, :], -torch.inf)
