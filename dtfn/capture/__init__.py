"""See what attention looks at, in live networks, without changing them.

    with capture.record(network) as record:
        network(x)
    record.layers                                    # ['body.0.body.4', ...]
    record.map("body.0.body.4", (row, column))       # (H, W), sums to 1

    run = capture.attention(your_model, "blocks.2.softmax")
    output, attentions = run(x)

Hooks copy what a layer gets or gives. They are gone afterwards, and change no bit of a result.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dtfn import evaluation
from dtfn.capture import rows
from dtfn.capture.attended import Queries, attention_map, attention_maps, flat, sampling_points
from dtfn.capture.focus import summary
from dtfn.capture.rows import Rows, attention_of, checked, layer_in
from dtfn.capture.softmax import attention
from dtfn.errors import InputError, nearest
from dtfn.models.attention import HashedAttention

__all__ = [
    "Record", "attention", "attention_map", "attention_maps", "layers", "record", "run",
    "sampling_points", "summary",
]  # fmt: skip


@dataclass(frozen=True)
class Pass:
    """What an attention layer got, and all that decides what it made of it beside its weights.

    Attributes
    ----------
    module
        A shallow copy of the layer: same weights, its own mode, step and hash seed.
    features
        (N, C, H, W).
    random
        State of torch's global generator, where the layer draws its rotations from there.
    autocast
        Arguments for `torch.autocast`.
    """

    module: nn.Module
    features: Tensor
    random: Tensor | None
    autocast: Mapping[str, Any]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Bring back the generator and the autocast of the pass, for as long as it takes."""
        with (
            torch.random.fork_rng(devices=[], enabled=self.random is not None),
            torch.autocast(**self.autocast),
        ):
            if self.random is not None:
                torch.set_rng_state(self.random)
            yield


class Record:
    """What every attention layer of a network got in its last pass.

    Made by `record`. What the maps of a layer need is computed for the first of them, with the
    weights of that moment, and kept: the next take about a millisecond. They are the attention of
    the pass up to rounding. In float32 a hash code can flip now and then, where the machine rounds
    one image of a batch otherwise than the whole batch.
    """

    def __init__(self, modules: frozenset[str]) -> None:
        self._modules = modules
        self._passes: dict[str, Pass] = {}
        self._rows: dict[tuple[str, int], Rows] = {}

    @property
    def layers(self) -> list[str]:
        """The layers that ran, in this order."""
        return list(self._passes)

    @property
    def features(self) -> dict[str, Tensor]:
        """Layer -> its input (N, C, H, W), in the order in which the layers ran."""
        return {name: seen.features for name, seen in self._passes.items()}

    def module(self, layer: str) -> nn.Module:
        """Return a layer as it was in the pass: a shallow copy with the same weights."""
        if layer not in self._passes:
            raise self._unknown(layer)
        return self._passes[layer].module

    def map(self, layer: str, query: tuple[int, int], image: int = 0) -> Tensor:
        """Return `attention_map` (H, W) of a layer; arguments as for `maps`."""
        return self.maps(layer, [query], image)[0]

    def maps(self, layer: str, queries: Queries, image: int = 0) -> Tensor:
        """Return `attention_maps` (Q, H, W) of a layer.

        Parameters
        ----------
        layer
            One of `layers`.
        queries
            Q times (row, column).
        image
            Which of the N images.

        Raises
        ------
        InputError
            No such layer; a layer without attention; a query or image that does not exist.
        """
        whole = self._rows.get((layer, image))
        if whole is None:
            with self._again(layer, image) as (module, features):
                whole = self._rows[layer, image] = rows.rows(module, features)
        device = self._passes[layer].features.device
        return whole.maps(flat(queries, whole.height, whole.width, device))

    def sampling_points(
        self, layer: str, query: tuple[int, int], image: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return `dtfn.capture.sampling_points` of a layer: (9, 2) positions, (9,) weights."""
        with self._again(layer, image) as (module, features):
            return sampling_points(module, features, query)

    def summary(
        self, layer: str, queries: Queries | None = None, image: int = 0, **options: Any
    ) -> pd.DataFrame:
        """Return `dtfn.capture.summary` of a layer, and take its options."""
        with self._again(layer, image) as (module, features):
            return summary(module, features, queries, **options)

    def deviation(self, layer: str, queries: Queries, image: int = 0) -> float:
        """Return by how much map times values misses what a layer adds at queries, at most.

        As a share of the largest number that it adds there: some 1e-6 in float32.
        """
        maps = self.maps(layer, queries, image)
        with self._again(layer, image) as (module, features), torch.no_grad():
            attention = copy.copy(attention_of(module))  # in training it counts its passes
            x = checked(attention, features)
            values, added = attention.conv_assembly(x)[0], attention.attend(x)[0]  # type: ignore[operator]
        at = flat(queries, x.shape[2], x.shape[3], x.device)
        expected = added.flatten(1)[:, at]
        found = torch.einsum("qhw,chw->cq", maps.to(values), values)
        largest = expected.abs().amax()
        return float((found - expected).abs().amax() / largest) if largest else 0.0

    def keep(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Copy what a layer gets: the hook that `record` sets."""
        x: Tensor = args[0]
        layer = attention_of(module)
        unseeded = isinstance(layer, HashedAttention) and layer.hash_seed is None
        kind = x.device.type
        autocast = {
            "device_type": kind,
            "dtype": torch.get_autocast_dtype(kind),
            "enabled": torch.is_autocast_enabled(kind),
        }
        with torch.inference_mode(False):  # else nobody could compute with the copy later
            features = x.detach().clone()
        random = torch.get_rng_state() if unseeded else None
        self._passes[name] = Pass(copy.copy(layer), features, random, autocast)
        self._rows.clear()

    @contextmanager
    def _again(self, layer: str, image: int) -> Iterator[tuple[nn.Module, Tensor]]:
        seen = self._passes.get(layer)
        if seen is None:
            raise self._unknown(layer)
        if not 0 <= image < len(seen.features):
            raise InputError(
                "image", expected=f"0 to {len(seen.features) - 1}", found=image,
                remedy="count the images of the batch from 0",
            )  # fmt: skip
        with seen.again():
            yield seen.module, seen.features[image : image + 1]

    def _unknown(self, layer: str) -> InputError:
        if not self._passes:
            return InputError(
                "record", expected="a pass of the network", found="none",
                remedy="call network(x) inside `with capture.record(network) as record:`",
            )  # fmt: skip
        without = layer in self._modules
        return InputError(
            "layer", expected="one with attention that ran",
            found=f"{layer!r}" + (", a layer without" if without else ""),
            remedy=nearest("" if without else layer, self._passes),
        )  # fmt: skip


def layers(network: nn.Module) -> list[str]:
    """Return the names of the attention layers, in the order of the network's modules.

    A `TextureFidelity` goes by its own name, so that a network and its twin with TFS have the same
    names. A network without attention has none.
    """
    return list(_watched(network))


@contextmanager
def record(network: nn.Module) -> Iterator[Record]:
    """Keep what the attention layers of a network get, while it runs inside the ``with``.

    Parameters
    ----------
    network
        Any module with layers of `dtfn.models.attention` in it. Where it runs several times (tiles,
        self-ensemble), the last pass is kept.

    Yields
    ------
    Record
        Remains valid after the ``with``.

    Raises
    ------
    InputError
        The network has no attention layer.
    """
    watched = _watched(network)
    if not watched:
        raise InputError(
            "network", expected="one with attention layers of dtfn",
            found=f"none in {getattr(network, 'name', type(network).__name__)}",
            remedy="choose a network with attention; for a module of yours see capture.attention",
        )  # fmt: skip
    kept = Record(frozenset(name for name, _ in network.named_modules()))
    hooks = [
        module.register_forward_pre_hook(partial(kept.keep, name))
        for name, module in watched.items()
    ]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def run(network: nn.Module, lr: NDArray[np.uint8]) -> tuple[Record, NDArray[np.uint8]]:
    """Run a network on a picture; return what its attention layers got, and what it made.

    Parameters
    ----------
    network
        With attention; see `record`.
    lr
        uint8 RGB ``(H, W, 3)``, seen whole.

    Returns
    -------
    The record, and uint8 ``(sH, sW, 3)`` RGB.
    """
    with record(network) as kept:
        return kept, evaluation.upscale(network, lr)


def _watched(network: nn.Module) -> dict[str, nn.Module]:
    """Return name -> layer; where there is a `TextureFidelity` around it, that.

    It calls ``attend`` of the layer, past the layer's hooks.
    """
    inside: set[nn.Module] = set()
    found: dict[str, nn.Module] = {}
    for name, module in network.named_modules():  # parents first
        within = layer_in(module)
        if within is not None and module not in inside:
            found[name] = module
            inside.add(within)
    return found
