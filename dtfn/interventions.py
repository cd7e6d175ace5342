"""Change what the attention of a trained network does, for as long as a context lasts.

    with intervened(network, "uniform"):
        network(x)

Without an intervention outputs are bit-identical to those before. `hash_seed` changes only the
rotations of layers that hash. `oracle` and `attending` replace the match, wholly or in part.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dtfn.errors import InputError, nearest
from dtfn.models.attention import Attention, HashedAttention
from dtfn.models.networks import assign, switches
from dtfn.own import OwnNetwork

KINDS = ("uniform", "hashing", "random", "self", "off")
"""Interventions by name, and those with a number:

- ``uniform``: equal weights for all positions. Hashing is part of the choice, so it counts too.
- ``hashing``: equal weights for the keys that each query got by hashing.
- ``random``: the weights as they are, on values of randomly drawn positions.
- ``self``: each position attends to itself alone.
- ``off``: the attention module is skipped, TFS included.
- ``window(r)``: only keys at most r rows and r columns away, in LR pixels.
- ``hash(k)``: hash seed k, in layers that hash.
- ``turn(k)``: the network sees the picture flipped and turned by element k of 0 to 7 of the
  dihedral group, which is undone in its output. With ``hash(k)`` a control: what it changes is
  chance, not a choice.
- ``layers(b)``: attention is on in those layers only that have a 1 in b, one digit a layer.
"""


def intervened(network: nn.Module, kind: str) -> AbstractContextManager[object]:
    """Change the attention of a network as one of `KINDS` says, as long as the context lasts.

    In a `dtfn.own.OwnNetwork` the keys of a query are those of a weight above 0, and ``off`` sets
    all weights to 0. An unknown kind, or a network without what it changes, is an `InputError`.
    """
    match = re.fullmatch(r"(window|hash|layers)\((\d+)\)|(turn)\(([0-7])\)", kind)
    if match is None and kind not in KINDS:
        known = (*KINDS, "window(8)", "hash(1)", "turn(7)", "layers(1000)")
        raise InputError("intervention", "a known one", repr(kind), nearest(kind, known))
    name, digits = [part for part in match.groups() if part] if match else (kind, "")
    if numbered := {"hash": hash_seed, "turn": _turned, "window": _windowed}.get(name):
        return numbered(network, int(digits))
    if name == "layers":
        layers = switches(network)
        if not layers or len(digits) != len(layers) or set(digits) - {"0", "1"}:
            wanted = f"{len(layers)} digits 0 or 1, one an attention layer"
            remedy = f"write layers({'1' * len(layers)}) for all" if layers else "it has none"
            raise InputError("layers", wanted, digits, remedy)
        off = [layer for layer, bit in zip(layers, digits, strict=True) if bit == "0"]
        return assign(off, "on", False)
    if isinstance(network, OwnNetwork):
        network.require_attention()
        return network.meeting(lambda _, met: _reweighed(met.rows(slice(None)), kind))
    return _mixed(network, kind)


def turned(x: Tensor, element: int, back: bool = False) -> Tensor:
    """Return (N, C, H, W) flipped and turned by element 0 to 7 of the dihedral group, or back."""
    flips = [axis for axis, bit in ((2, 1), (3, 2)) if element & bit]
    if back:
        return (x.mT if element & 4 else x).flip(flips)
    return x.flip(flips).mT if element & 4 else x.flip(flips)


def hash_seed(network: nn.Module, seed: int) -> AbstractContextManager[object]:
    """Give every attention layer that hashes another hash seed, until the context is left."""
    hashed = [layer for layer in network.modules() if isinstance(layer, HashedAttention)]
    if not hashed or seed in [layer.hash_seed for layer in hashed]:
        found = seed if hashed else "a network without hashing"
        wanted = "a network that hashes, and a seed that it does not have"
        raise InputError("hash seed", wanted, found, "choose another")
    return assign(hashed, "hash_seed", seed)


def oracle(
    network: nn.Module, details: NDArray[Any] | Tensor, tau: float | Tensor, share: float = 1.0
) -> AbstractContextManager[object]:
    """Match by true details: weights proportional to exp(-|D_p - D_q|^2 / tau) over the keys.

    Values and later layers stay as they are. ``details`` are (H, W, D) of the whole picture, one at
    a time; ``tau`` is one number or one a query (H * W,). The trained weights keep 1 - ``share``.
    """
    single: Any = {"dtype": torch.float32, "device": next(network.parameters()).device}
    rows = torch.as_tensor(details, **single).flatten(0, 1)
    norms = rows.square().sum(-1)
    inverse = (1 / torch.as_tensor(tau, **single)).expand(len(rows))

    def change(logits: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        products = rows[queries] @ rows[keys].mT  # (..., q, k)
        squares = norms[queries][..., :, None] + norms[keys][..., None, :] - 2 * products
        return -squares.clamp(min=0).mul(inverse[queries][..., None]).to(logits.dtype)

    return _blended(network, "intervene", change, share)


def attending(
    network: nn.Module, index: Tensor, weights: Tensor, share: float = 1.0
) -> AbstractContextManager[object]:
    """Let each position attend to given keys, whatever hashing would allow; see `oracle`.

    ``index`` (H * W, K), int64, has the keys, and ``weights`` (float32) theirs, which sum to 1.
    """

    def mix(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        table, of = value[0].to(weights.dtype), weights.to(value.device)  # (L, C), (L, K)
        return F.embedding_bag(index.to(of.device), table, mode="sum", per_sample_weights=of)[None]

    return _blended(network, "mix", mix, share)


def _blended(
    network: nn.Module, name: str, changed: Callable[..., Tensor], share: float
) -> AbstractContextManager[object]:
    """Blend what layers add with what they add when an attribute is changed."""

    def blend(layer: Attention, own: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with assign([layer], name, changed):
            other = own(x)
        return other if share == 1 else own(x).lerp(other, share)

    stack = ExitStack()
    for layer in attention_layers(network):
        stack.enter_context(assign([layer], "attend", partial(blend, layer, layer.attend)))
    return stack


def attention_layers(network: nn.Module) -> list[Attention]:
    """Return the attention layers of a network; one without is an `InputError`."""
    layers = [layer for layer in network.modules() if isinstance(layer, Attention)]
    if not layers:
        raise InputError("network", "one with attention", "none", "choose another")
    return layers


@contextmanager
def _turned(network: nn.Module, element: int) -> Iterator[None]:
    before = network.register_forward_pre_hook(lambda _, inputs: turned(inputs[0], element))
    after = network.register_forward_hook(lambda _, __, made: turned(made, element, back=True))
    with before, after:
        yield


def _mixed(network: nn.Module, kind: str) -> AbstractContextManager[object]:
    def mixed(mix: Any, seed: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # Closed forms: weights are not even computed where they do not matter.
        if kind == "self":
            return value
        if kind == "random":
            return mix(query, key, value[:, _drawn(value.shape[1], seed).to(value.device)])
        return value.mean(1, keepdim=True).expand_as(value)

    layers = attention_layers(network)
    if kind == "off":
        return assign(switches(network), "on", False)
    stack = ExitStack()
    for index, layer in enumerate(layers):
        if kind == "hashing" and isinstance(layer, HashedAttention):
            equal = lambda logits, *_: torch.zeros_like(logits)  # noqa: E731
            stack.enter_context(assign([layer], "intervene", equal))
        else:
            stack.enter_context(assign([layer], "mix", partial(mixed, layer.mix, index)))
    return stack


def _drawn(length: int, seed: int) -> Tensor:
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed))


@contextmanager
def _windowed(network: nn.Module, radius: int) -> Iterator[None]:
    """Remove the keys that are more than ``radius`` rows or columns from their query."""
    if not isinstance(network, OwnNetwork):
        attention_layers(network)
    elif set(network.dense) != set(network.shapes) or not network.dense:
        wanted, remedy = "attention from all positions to all", "choose uniform, random or self"
        raise InputError(f"window({radius})", wanted, network.shapes, remedy)
    width = 0

    def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal width  # attention works on the grid of the LR picture
        width = inputs[0].shape[-1]

    def change(logits: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        rows = queries[..., :, None] // width - keys[..., None, :] // width
        columns = queries[..., :, None] % width - keys[..., None, :] % width
        near = (rows.abs() <= radius) & (columns.abs() <= radius)
        return logits.masked_fill(~near, -torch.inf)

    with network.register_forward_pre_hook(see), network.intervene(change):  # type: ignore[operator]
        yield


def _reweighed(weights: Tensor, kind: str) -> Tensor:
    length, keys = weights.shape[-2:]
    if kind == "off":
        return torch.zeros_like(weights)
    if kind == "self":
        if length != keys:
            wanted, remedy = "a key for each query", "choose another intervention"
            raise InputError("self", wanted, (length, keys), remedy)
        return torch.eye(length).to(weights).expand_as(weights)
    if kind == "random":
        return weights[..., _drawn(keys, 0).to(weights.device)]
    kept = (weights > 0).to(weights.dtype)
    return kept / kept.sum(-1, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)
