"""Change what the attention of a trained network does, for as long as a context lasts.

    with intervened(network, "uniform"):
        network(x)

Without an intervention outputs are bit-identical to those before. `hash_seed` changes only the
rotations of layers that hash. `oracle` and `attending` replace the match, wholly or in part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dtfn.errors import InputError, nearest
from dtfn.models.attention import Attention, HashedAttention, PlaceboAttention
from dtfn.models.layers import switches
from dtfn.models.networks import Network
from dtfn.own import OwnNetwork

KINDS = ("uniform", "hashing", "random", "self", "off")
"""Interventions by name, and ``window(r)`` with a radius r in LR pixels:

- ``uniform``: equal weights for all positions. Hashing is part of the choice, so it counts too.
- ``hashing``: equal weights for the keys that each query got by hashing.
- ``random``: the weights as they are, on values of randomly drawn positions.
- ``self``: each position attends to itself alone.
- ``off``: the attention module is skipped, TFS included.
- ``window(r)``: only keys at most r rows and r columns away.
- ``hash(k)``: hash seed k, in layers that hash.
- ``turn(k)``: the network sees the picture flipped and turned by element k of 0 to 7 of the
  dihedral group, which is undone in its output. With ``hash(k)`` a control: what it changes is
  chance, not a choice.
- ``layers(b)``: attention is on in those layers only that have a 1 in b, one digit a layer.
"""

ROUNDING = 2e-2  # of a sum of probabilities, also in half precision


@contextmanager
def intervened(
    network: nn.Module, kind: str, seed: int = 0, *, softmax: str = "", width: int | None = None
) -> Iterator[None]:
    """Change the attention of a network, for as long as the context lasts.

    Parameters
    ----------
    network
        From `dtfn.models`, a `dtfn.own.OwnNetwork`, or any torch module with ``softmax``.
    kind
        One of `KINDS`, or ``window(r)``.
    seed
        Of the positions that ``random`` draws.
    softmax
        Only for a module from elsewhere: the name of a submodule, as in
        ``network.named_modules()``, that returns attention weights (..., L, S). There the keys are
        those of a weight above 0, and ``off`` sets all weights to 0.
    width
        With ``softmax`` and ``window(r)``: columns of the grid of positions.

    Raises
    ------
    InputError
        An unknown kind, a network without attention, or no such submodule.
    """
    name, digits = _parsed(kind)
    radius = int(digits) if name == "window" else None
    with ExitStack() as stack:
        if name == "hash":
            stack.enter_context(hash_seed(network, int(digits)))
        elif name == "turn":
            stack.enter_context(_turned(network, int(digits)))
        elif name == "layers":
            stack.enter_context(_switched(network, digits))
        elif softmax:
            hook = _weights_hook(kind, radius, seed, softmax, width)
            stack.enter_context(_named(network, softmax).register_forward_hook(hook))
        elif isinstance(network, OwnNetwork) and radius is None:
            network.require_attention()
            hook = _weights_hook(kind, radius, seed, "attention", width)
            every = slice(None)
            stack.enter_context(network.meeting(lambda _, met: hook(network, (), met.rows(every))))
        elif kind == "off":
            attention_layers(network)
            stack.enter_context(network.attention(False))  # type: ignore[operator]
        elif radius is not None:
            if not isinstance(network, OwnNetwork):
                attention_layers(network)
            elif set(network.dense) != set(network.shapes) or not network.dense:
                remedy = "choose uniform, random or self"
                wanted = "attention from all positions to all"
                raise InputError(kind, wanted, network.shapes, remedy)
            stack.enter_context(_windowed(network, radius))
        else:
            for index, layer in enumerate(attention_layers(network)):
                stack.enter_context(_mixed(layer, kind, seed * 1_000_003 + index))
        yield


@contextmanager
def hash_seed(network: nn.Module, seed: int) -> Iterator[None]:
    """Give every attention layer that hashes another hash seed, for as long as the context lasts.

    Raises
    ------
    InputError
        The network does not hash, or has that seed already.
    """
    hashed = [layer for layer in network.modules() if isinstance(layer, HashedAttention)]
    before = [layer.hash_seed for layer in hashed]
    if not hashed or seed in before:
        raise InputError(
            "hash seed",
            "a network that hashes, and a seed that it does not have",
            seed if hashed else "a network without hashing",
            "choose another",
        )
    try:
        for layer in hashed:
            layer.hash_seed = seed
        yield
    finally:
        for layer, own in zip(hashed, before, strict=True):
            layer.hash_seed = own


def oracle(
    network: Network, details: NDArray[Any] | Tensor, tau: float | Tensor, share: float = 1.0
) -> AbstractContextManager[object]:
    """Match by true details: weights proportional to exp(-|D_p - D_q|^2 / tau) over the keys.

    Values and later layers stay as they are, so the gain is the price of matching.

    Parameters
    ----------
    network
        With attention. It must see the whole picture, one at a time.
    details
        (H, W, D): what is compared of each LR position, e.g. of `neighbourhoods`.
    tau
        Temperature, in squared units of the details; or one for each query (H * W,).
    share
        Of these weights, in (0, 1]. The trained weights have the rest.

    Raises
    ------
    InputError
        A network without attention, details of another shape, or a temperature that is not above 0.
    """
    attention_layers(network)
    table = torch.as_tensor(details, dtype=torch.float32)
    temperature = torch.as_tensor(tau, dtype=torch.float32)
    if table.ndim != 3 or not (temperature > 0).all():
        raise InputError(
            "oracle",
            "details (H, W, D) and a temperature above 0",
            f"{tuple(table.shape)} and {tau}",
            "pass neighbourhoods of the true details",
        )
    rows = table.flatten(0, 1)
    norms = rows.square().sum(-1)
    inverse = (1 / temperature).expand(len(rows))

    def change(logits: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        products = rows[queries] @ rows[keys].mT  # (..., q, k)
        squares = norms[queries][..., :, None] + norms[keys][..., None, :] - 2 * products
        return -squares.clamp(min=0).mul(inverse[queries][..., None]).to(logits.dtype)

    return _blended(network, "intervene", lambda _: change, share)


def attending(
    network: Network, index: Tensor, weights: Tensor, share: float = 1.0
) -> AbstractContextManager[object]:
    """Let every position attend to given keys, whatever hashing or windows would allow.

    Parameters
    ----------
    network, share
        As for `oracle`.
    index, weights
        (H * W, K): the keys of each position, int64, and their weights, float32, which sum to 1.
    """

    def change(layer: Attention) -> Callable[..., Tensor]:
        hashes = isinstance(layer, HashedAttention)

        def mix(query: Tensor, second: Tensor, third: Tensor) -> Tensor:
            value = (second if hashes else third)[0].to(weights.dtype)  # (L, C)
            return F.embedding_bag(index, value, mode="sum", per_sample_weights=weights)[None]

        return mix

    return _blended(network, "mix", change, share)


@contextmanager
def _blended(
    network: nn.Module, name: str, change: Callable[[Attention], object], share: float
) -> Iterator[None]:
    """Blend what layers attend to with what they do when an attribute is changed."""

    def blend(layer: Attention) -> Callable[[Tensor], Tensor]:
        own, changed, before = layer._attended, change(layer), layer.__dict__.get(name)

        def attended(x: Tensor) -> Tensor:
            setattr(layer, name, changed)
            other = own(x)
            delattr(layer, name)
            if before is not None:
                setattr(layer, name, before)
            return other if share == 1 else own(x).lerp(other, share)

        return attended

    with ExitStack() as stack:
        for layer in attention_layers(network):
            stack.callback(layer.__dict__.pop, "_attended")
            layer._attended = blend(layer)  # type: ignore[assignment, method-assign]
        yield


def neighbourhoods(details: NDArray[Any] | Tensor, size: int = 3) -> Tensor:
    """Return (H, W, size * size * D): the details (H, W, D) of all positions around each.

    Outside of the picture the nearest position counts.
    """
    table = torch.as_tensor(details, dtype=torch.float32).permute(2, 0, 1)[None]
    padded = F.pad(table, (size // 2,) * 4, mode="replicate")
    return F.unfold(padded, size)[0].T.unflatten(0, table.shape[2:])


def attention_layers(network: nn.Module) -> list[Attention]:
    """Return the attention layers of a network.

    Raises
    ------
    InputError
        It has none.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, Attention)]
    if not layers:
        remedy = "choose another; for a module from elsewhere name its softmax"
        raise InputError("network", "one with attention", "none", remedy)
    return layers


def _parsed(kind: str) -> tuple[str, str]:
    """Return name and digits of ``name(digits)``, other kinds without digits; refuse the rest."""
    match = re.fullmatch(r"(window|hash|turn|layers)\((\d+)\)", kind)
    if match is None and kind not in KINDS:
        known = (*KINDS, "window(8)", "hash(1)", "turn(1)", "layers(1000)")
        raise InputError("intervention", "a known one", repr(kind), nearest(kind, known))
    return (match[1], match[2]) if match else (kind, "")


@contextmanager
def _turned(network: nn.Module, element: int) -> Iterator[None]:
    """Flip and turn what a network sees, and its output back."""
    if not 0 <= element < 8:
        raise InputError("turn", "0 to 7", element, "choose one of these")
    flips = [axis for axis, bit in ((2, 1), (3, 2)) if element & bit]

    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        flipped = inputs[0].flip(flips)
        return flipped.mT if element & 4 else flipped

    def after(_: nn.Module, __: object, output: Tensor) -> Tensor:
        return (output.mT if element & 4 else output).flip(flips)

    with network.register_forward_pre_hook(before), network.register_forward_hook(after):
        yield


@contextmanager
def _switched(network: nn.Module, bits: str) -> Iterator[None]:
    """Leave attention on in some layers only."""
    layers = switches(network)
    if not layers or len(bits) != len(layers) or set(bits) - {"0", "1"}:
        raise InputError(
            "layers",
            f"{len(layers)} digits 0 or 1, one an attention layer",
            bits,
            (
                f"write layers({'1' * len(layers)}) for all of them"
                if layers
                else "this network has no layers that can be switched"
            ),
        )
    with ExitStack() as stack:
        for layer, bit in zip(layers, bits, strict=True):
            stack.callback(setattr, layer, "on", layer.on)
            layer.on = bit == "1"
        yield


# Closed forms: logits are not changed, and not even computed, where their values do not matter.


@contextmanager
def _mixed(layer: Attention, kind: str, seed: int) -> Iterator[None]:
    """Replace what a layer does with its values (N, L, C)."""
    if isinstance(layer, PlaceboAttention):  # its weights are uniform anyway
        name, change = "attend", layer.conv_assembly.__call__ if kind == "self" else layer.attend
    else:
        name, change = "mix", _mixture(layer, kind, seed)
    setattr(layer, name, change)
    try:
        yield
    finally:
        delattr(layer, name)


def _mixture(layer: Attention, kind: str, seed: int) -> Callable[..., Tensor]:
    mix: Callable[..., Tensor] = layer.mix  # type: ignore[assignment]
    hashes = isinstance(layer, HashedAttention)

    def mixed(query: Tensor, second: Tensor, third: Tensor) -> Tensor:
        # Layers that hash are called with (query, value, score), dense ones (query, key, value).
        value = second if hashes else third
        if kind == "self":
            return value
        if kind == "hashing" and isinstance(layer, HashedAttention):
            return _mean_of_chunks(layer, query, value)
        if kind != "random":
            return value.mean(1, keepdim=True).expand_as(value)
        drawn = _drawn(value.shape[1], seed, value)
        return mix(query, value[:, drawn], third) if hashes else mix(query, second, value[:, drawn])

    return mixed


def _drawn(length: int, seed: int, like: Tensor) -> Tensor:
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed)).to(like.device)


def _mean_of_chunks(layer: HashedAttention, query: Tensor, value: Tensor) -> Tensor:
    """Return the mean of the values of the keys that each query gets by hashing, (N, L, C)."""
    order, m = layer.order(query)
    if m < layer.chunk_size:
        return value.mean(1, keepdim=True).expand_as(value)
    length = value.shape[1]
    out = torch.zeros_like(value)
    for image, rounds in enumerate(order):
        for wrapped in rounds:  # ((K + 2) m,): the keys of a chunk are itself and its neighbours
            sums = value[image, wrapped].unflatten(0, (-1, m)).sum(1)
            means = (sums[:-2] + sums[1:-1] + sums[2:]) / (3 * m)
            out[image, wrapped[m : m + length]] += means.repeat_interleave(m, 0)[:length]
    return out / order.shape[1]


@contextmanager
def _windowed(network: nn.Module, radius: int) -> Iterator[None]:
    """Remove the keys that are more than ``radius`` rows or columns from their query."""
    width = 0

    def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal width  # attention works on the grid of the LR picture
        width = inputs[0].shape[-1]

    def change(logits: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        return logits.masked_fill(~_near(queries, keys, width, radius), -torch.inf)

    with network.register_forward_pre_hook(see), network.intervene(change):  # type: ignore[operator]
        yield


def _near(queries: Tensor, keys: Tensor, width: int, radius: int) -> Tensor:
    """Return bool (..., q, k): which keys are in the window of which query."""
    rows = queries[..., :, None] // width - keys[..., None, :] // width
    columns = queries[..., :, None] % width - keys[..., None, :] % width
    return (rows.abs() <= radius) & (columns.abs() <= radius)


def _named(module: nn.Module, name: str) -> nn.Module:
    modules = dict(module.named_modules())
    if name not in modules:
        raise InputError(
            "submodule", "a name of network.named_modules()", repr(name), nearest(name, modules)
        )
    return modules[name]


def _weights_hook(
    kind: str, radius: int | None, seed: int, name: str, width: int | None
) -> Callable[[nn.Module, object, object], Tensor]:
    """Return a forward hook that changes attention weights (..., L, S)."""
    if radius is not None and width is None:
        raise InputError("window", "columns of the grid", "none", "pass width=...")

    def hook(_: nn.Module, __: object, weights: object) -> Tensor:
        if not isinstance(weights, Tensor) or (weights.sum(-1) - 1).abs().max() > ROUNDING:
            raise InputError(
                f"submodule {name!r}",
                "attention weights (..., L, S) whose rows sum to 1",
                tuple(weights.shape) if isinstance(weights, Tensor) else type(weights),
                "name the softmax",
            )
        length, keys = weights.shape[-2:]
        if kind == "off":
            return torch.zeros_like(weights)
        if kind == "self":
            if length != keys:
                wanted, remedy = "a key for each query", "choose another intervention"
                raise InputError("self", wanted, (length, keys), remedy)
            return torch.eye(length, keys).to(weights).expand_as(weights)
        if kind == "random":
            return weights[..., _drawn(keys, seed, weights)]
        kept = (weights > 0).to(weights.dtype)
        if radius is not None and width is not None:
            at = torch.arange(max(length, keys), device=weights.device)
            kept = weights * _near(at[:length], at[:keys], width, radius)
        return kept / kept.sum(-1, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)

    return hook
