"""Methods: what is measured, by name; their networks, and what they give, remembered on disk.

A method is ``"bicubic"``, a name of the zoo or of imported weights, the path of a weights file, or
a user's own network (see `dtfn.zoo.own`). ``METHOD@CHANGE`` has changed attention, e.g.
``nla-x4-s0@off+turn(1)``: see `dtfn.interventions.KINDS`.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtfn import cache, files, zoo
from dtfn.cache import Arrays
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.tiling import Tiling

if TYPE_CHECKING:
    from torch import nn

BICUBIC = "bicubic"
_CHANGE = re.compile(r"[a-z]+(\([0-9]+\))?(\+[a-z]+(\([0-9]+\))?)*")


def split_change(method: str) -> tuple[str, str]:
    """Return a method's network and the change of its attention, "" for none."""
    name, mark, change = method.rpartition("@")
    return (name, change) if mark and _CHANGE.fullmatch(change) else (method, "")


def labels(methods: Iterable[str]) -> dict[str, str]:
    """Return method -> a short name that no other has, e.g. ``mine:network?weights``."""

    def stem(file: Path, parts: int) -> str:
        return "/".join(file.with_suffix("").parts[-parts:])

    known = list(dict.fromkeys(methods))
    for weights, code in ((w, c) for n in range(1, 9) for w, c in ((n, 1), (1, n), (n, n))):
        short = {}
        for method in known:
            name, change = split_change(method)
            if mine := zoo.own(name):
                said = [stem(mine.weights, weights)] if mine.weights else []
                query = "&".join([*said, *mine.attention])
                name = f"{stem(mine.file, code)}:{mine.function}" + f"?{query}" * bool(query)
            elif "/" in name and name.endswith(zoo.SUFFIXES):
                name = stem(Path(name), weights)
            short[method] = f"{name}@{change}" if change else name
        if len(set(short.values())) == len(known):
            break
    return short


def fingerprint(method: str) -> str:
    """Return the SHA-256 of a method's weights, of a user's own code too; else ``"bicubic"``."""
    name, change = split_change(method)
    if change:
        return f"{fingerprint(name)} @{change} {cache.source('interventions')}"
    if mine := zoo.own(method):
        used = [method, *([str(mine.weights)] if mine.weights else [])]
        hashes = [files.sha256(zoo.file_of(name)) for name in used]
        return cache.key(*hashes, mine.function, mine.attention, cache.source("own"))
    return BICUBIC if method == BICUBIC else files.sha256(zoo.file_of(method))


def network(method: str, device: str = "cpu", scale: int | None = None) -> "nn.Module":
    """Return a method's network without its change, loaded once; or raise `InputError`."""
    name = split_change(method)[0]
    loaded = _network(name, fingerprint(name), device)
    if scale not in (None, loaded.scale):
        wanted, found = f"scale {scale}", f"scale {loaded.scale}"
        raise InputError(method, wanted, found, "choose another network")
    with _changed(loaded, method):  # fails here, before anything is computed
        return loaded


@functools.cache
def _network(name: str, weights: str, device: str) -> "nn.Module":
    from dtfn import models, own  # the weights' hash counts: a file can be trained anew

    return (own.load(name) if zoo.own(name) else models.load(name)).to(device)


@contextlib.contextmanager
def _changed(network: "nn.Module", method: str) -> Iterator[None]:
    from dtfn.interventions import intervened

    with contextlib.ExitStack() as stack:
        for kind in filter(None, split_change(method)[1].split("+")):
            stack.enter_context(intervened(network, kind))
        yield


def hashes(method: str) -> bool:
    """Return whether the attention of a method's network hashes."""
    from dtfn.models.attention import HashedAttention

    return any(isinstance(layer, HashedAttention) for layer in network(method).modules())


def require(methods: Iterable[str], scale: int) -> None:
    """Check, before anything runs, that every method exists and has this scale."""
    if not methods:
        raise InputError("methods", "one or more", "none", "name one")
    known = {row["name"] for row in zoo.everything() if row["scale"] == scale}
    for method in methods:
        fingerprint(method)
        if method not in known and method != BICUBIC:
            network(method, scale=scale)


def torch_device(name: str) -> str:
    """Return what ``"auto"`` stands for; others as given, if this machine has them."""
    import torch

    there = torch.cuda.is_available()
    if name not in ("cpu", "auto") and not there:
        raise InputError(f"device {name!r}", "cpu, or cuda where there is one", "no GPU", "use cpu")
    return name if name != "auto" else "cuda" if there else "cpu"


def card_tiling(method: str) -> Tiling | None:
    """Return the tiles in which a network of the zoo was measured, and is run; None for none."""
    name = split_change(method)[0]
    tile = next((row.get("tile") for row in zoo.registry() if row["name"] == name), None)
    return Tiling(*tile) if tile else None


def analysis_tiling(method: str) -> Tiling | None:
    """Return the tiles in which a network is analysed; None for whole images."""
    from dtfn.models.attention import NonLocalAttention

    name = split_change(method)[0]
    loaded = network(name)
    # Attention from all positions to all is quadratic in their number.
    if zoo.own(name):  # it keeps all weights at once
        return Tiling(48, 8) if loaded.dense else None
    dense = any(isinstance(layer, NonLocalAttention) for layer in loaded.modules())
    return card_tiling(name) or (Tiling(96, 8) if dense else None)


def remembered(
    method: str, sample: Sample, way: str, make: Callable[[Any], Arrays], device: str = "cpu"
) -> Arrays:
    """Return what ``make`` gives for a network and sample, once; ``way`` says what else counts."""
    name, change = split_change(method)
    if zoo.own(name) and (unfit := {"off", "hashing"} & set(change.split("+"))):
        wanted = "a change that leaves each position its keys: @uniform, @random, @self"
        found = f"@{unfit.pop()}, which is off-distribution: nobody trained the network for it"
        remedy = "compare it with another network, one without attention"
        raise InputError(f"method {method!r}", wanted, found, remedy)
    device = torch_device(device)

    def made() -> Arrays:
        loaded = network(method, device, sample.scale)
        with _changed(loaded, method):
            return make(loaded)

    return cache.remembered(key(method, sample, way, device), made)


def key(method: str, sample: Sample, way: str, device: str) -> str:
    """Return under which key `dtfn.cache` has what `remembered` returns."""
    code = cache.source("models")
    return cache.key(fingerprint(method), sample.lr, sample.hr, sample.scale, way, device, code)
