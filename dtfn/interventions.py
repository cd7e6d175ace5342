"""What a trained network makes with one thing changed: another hash seed, or its attention off.

Both ask how much of a result is owed to the attention of this one network. Another *hash seed* is
luck: nothing was learned from it. A *knock-out* lets every attention layer add nothing; the network
was never trained so (it is off its distribution), which speaks for the attention whatever it does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from dtfn import evaluation, statistics, subpixel, zoo
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.evaluation import cache
from dtfn.subpixel import Pairs, Picture
from dtfn.subpixel.blocks import Array

if TYPE_CHECKING:
    from torch import nn

OTHER, OFF = "other hash seed", "attention off"
MOST = 5


@contextmanager
def hash_seed(network: nn.Module, seed: int) -> Iterator[None]:
    """Give every attention layer that hashes another hash seed, for as long as it takes.

    Raises
    ------
    InputError
        The network does not hash, or has that seed already.
    """
    from dtfn.models.attention import HashedAttention

    hashed = [layer for layer in network.modules() if isinstance(layer, HashedAttention)]
    seeds = [layer.hash_seed for layer in hashed]
    if not hashed or seed in seeds:
        raise InputError(
            "hash seed", expected="a network that hashes, and a seed that it does not have",
            found=seed if hashed else "a network without hashing", remedy="choose another",
        )  # fmt: skip
    try:
        for layer in hashed:
            layer.hash_seed = seed
        yield
    finally:
        for layer, own in zip(hashed, seeds, strict=True):
            layer.hash_seed = own


@contextmanager
def knocked_out(network: nn.Module) -> Iterator[None]:
    """Let every attention layer attend to nothing, for as long as it takes.

    What attention adds is 0; all else runs as it was trained, the fusion of TFS included.

    Raises
    ------
    InputError
        The network has no attention.
    """
    import torch

    from dtfn.models.attention import HashedAttention, NonLocalAttention

    layers = [m for m in network.modules() if isinstance(m, NonLocalAttention | HashedAttention)]
    if not layers:
        raise InputError(
            "network", expected="one with attention", found="none in it", remedy="choose another"
        )
    try:
        for layer in layers:
            layer.attend = torch.zeros_like  # type: ignore[method-assign,assignment]
        yield
    finally:
        for layer in layers:
            del layer.attend


def hashes(network: nn.Module) -> bool:
    """Return whether a network has attention layers that hash."""
    from dtfn.models.attention import HashedAttention

    return any(isinstance(layer, HashedAttention) for layer in network.modules())


def controls(
    methods: Sequence[str], datasets: Sequence[str], scale: int, count: int | None = None
) -> pd.DataFrame:
    """Return `dtfn.subpixel.measure`'s figures of networks against themselves, changed.

    Parameters
    ----------
    methods
        Networks with attention.
    datasets, scale, count
        As for `dtfn.evaluation.evaluate`.

    Returns
    -------
    The table of `dtfn.subpixel.measure` without a null, in which ``pair`` is the network's name and
    ``change`` what stands for L: the network itself against what it makes with its ``other hash
    seed`` (where it hashes), and with its ``attention off``.
    """
    from dtfn import models

    loaded = {method: models.load(method) for method in methods}
    pairs: Pairs = {
        f"{method}|{change}": (method, f"{method}|{change}")
        for method, network in loaded.items()
        for change in ((OTHER, OFF) if hashes(network) else (OFF,))
    }
    table = subpixel.measure(_pictures(loaded, datasets, scale, count), pairs, None)
    names = table["pair"].str.split("|")
    return table.assign(pair=names.str[0], change=names.str[1])


def table(
    methods: Sequence[str], datasets: Sequence[str], scale: int, count: int | None = None
) -> pd.DataFrame:
    """Return the means of `controls` over pictures, at most `MOST` of each benchmark.

    A row a network and change: network, change, pictures, and psnr_gain, harm_rate, harm_mass with
    their intervals' ends; no row where there is no network.
    """
    columns = ["psnr_gain", "harm_rate", "harm_mass"]
    ends = [f"{column}{end}" for column in columns for end in ("", "_low", "_high")]
    rows = []
    few = min(count or MOST, MOST)  # each change is another pass of the network
    measured = controls(methods, datasets, scale, few) if methods else pd.DataFrame()
    groups = measured.groupby(["pair", "change"], sort=False) if methods else ()
    for (network, change), part in groups:
        row: dict[str, object] = {"network": network, "change": change, "pictures": len(part)}
        for column in columns:
            found = statistics.mean_interval(part[column])
            row |= {column: found.estimate, f"{column}_low": found.low}
            row[f"{column}_high"] = found.high
        rows.append(row)
    return pd.DataFrame(rows, columns=["network", "change", "pictures", *ends])


def _pictures(
    loaded: Mapping[str, nn.Module], datasets: Sequence[str], scale: int, count: int | None
) -> Iterator[Picture]:
    for sample in evaluation.samples(datasets, scale, count):
        outputs = evaluation.outputs(list(loaded), sample)
        made = {method: output.image for method, output in outputs.items()}
        for method, network in loaded.items():
            made[f"{method}|{OFF}"] = _changed(method, sample, OFF, network, knocked_out(network))
            if hashes(network):
                change = hash_seed(network, 1)
                made[f"{method}|{OTHER}"] = _changed(method, sample, OTHER, network, change)
        yield Picture(sample.dataset, sample.image, scale, sample.hr, made)


def _changed(
    method: str, sample: Sample, name: str, network: nn.Module, change: AbstractContextManager[None]
) -> Array:
    """Return what a network makes while it is changed, remembered like what it makes as it is."""
    way = f"{name} {cache.sha256(Path(__file__))}"
    key = cache.key(cache.sha256(zoo.file_of(method)), sample.lr, sample.scale, way)

    def make() -> cache.Output:
        start = time.perf_counter()
        with change:
            image = evaluation.upscale(network, sample.lr)
        return cache.Output(image, time.perf_counter() - start)

    with cache.opened() as known:
        return known.recall_or_make(key, (*sample.hr.shape[:2], 3), make).image
