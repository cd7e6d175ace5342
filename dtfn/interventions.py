"""What a trained network makes with one thing changed: another hash seed, or its attention off.

Both ask how much of a result is owed to the attention of this one network. Another *hash seed* is
luck: nothing was learned from it. A *knock-out* lets every attention layer add nothing; the network
was never trained so (it is off its distribution), which speaks for the attention whatever it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pandas as pd

from dtfn import cache, evaluation, statistics, subpixel
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.subpixel import Pairs, Picture
from dtfn.subpixel.blocks import Array

if TYPE_CHECKING:
    from torch import nn

OTHER, OFF = "other hash seed", "attention off"
MOST = 5
SEED = 1  # the other one; the zoo's networks hash with seed 0


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


def hashes(method: str) -> bool:
    """Return whether a network, a name of the zoo or a weights file, has layers that hash."""
    from dtfn.models.attention import HashedAttention

    network = evaluation.network(method, evaluation.fingerprint(method))
    return any(isinstance(layer, HashedAttention) for layer in network.modules())


def output(method: str, sample: Sample, change: str) -> Array:
    """Return what a network makes of a picture while it is changed; remembered like its output.

    Parameters
    ----------
    method
        A name of the zoo or a weights file.
    sample
        The picture, which the network sees as `dtfn.evaluation.outputs` shows it: whole, or in the
        tiles of its card.
    change
        `OTHER` or `OFF`.

    Returns
    -------
    uint8 ``(sH, sW, 3)`` RGB.

    Raises
    ------
    InputError
        An unknown network or change, or a network that cannot be changed so.
    """
    if change not in (OTHER, OFF):
        raise InputError(
            "change", expected=f"{OTHER!r} or {OFF!r}", found=repr(change), remedy="choose one"
        )
    tiling = evaluation.card_tiling(method)

    def make(network: nn.Module) -> Array:
        with knocked_out(network) if change == OFF else hash_seed(network, SEED):
            return evaluation.upscale(network, sample.lr, tiling)

    way = f"{change} {tiling} {cache.source('interventions.py')}"
    return evaluation.remembered_output(method, sample, way, make).image


def controls(
    networks: Sequence[str], datasets: Sequence[str], scale: int, count: int | None = None
) -> pd.DataFrame:
    """Return `dtfn.subpixel.measure`'s figures of networks against themselves, changed.

    Parameters
    ----------
    networks
        Networks with attention: names of the zoo or weights files.
    datasets, scale, count
        As for `dtfn.evaluation.evaluate`.

    Returns
    -------
    The table of `dtfn.subpixel.measure` without a null, in which ``pair`` is the network's name and
    ``change`` what stands for L: the network itself against what it makes with its ``other hash
    seed`` (where it hashes), and with its ``attention off``.
    """
    tried = {name: (OTHER, OFF) if hashes(name) else (OFF,) for name in networks}
    pairs: Pairs = {
        f"{method}|{change}": (method, f"{method}|{change}")
        for method, changes in tried.items()
        for change in changes
    }
    table = subpixel.measure(_pictures(tried, datasets, scale, count), pairs, None, may_equal=True)
    names = table["pair"].str.split("|")
    return table.assign(pair=names.str[0], change=names.str[1])


def table(
    networks: Sequence[str], datasets: Sequence[str], scale: int, count: int | None = None
) -> pd.DataFrame:
    """Return the means of `controls` over pictures, at most `MOST` of each benchmark.

    A row a network and change: network, change, pictures, and psnr_gain, harm_rate, help_rate,
    harm_untied, selection_gain, fusion_gain with their intervals' ends; no row where there is no
    network.
    """
    columns = [
        "psnr_gain", "harm_rate", "help_rate", "harm_untied", "selection_gain", "fusion_gain",
    ]  # fmt: skip
    ends = [f"{column}{end}" for column in columns for end in ("", "_low", "_high")]
    rows = []
    few = min(count or MOST, MOST)  # each change is another pass of the network
    measured = controls(networks, datasets, scale, few) if networks else pd.DataFrame()
    groups = measured.groupby(["pair", "change"], sort=False) if networks else ()
    for (network, change), part in groups:
        row: dict[str, object] = {"network": network, "change": change, "pictures": len(part)}
        for column in columns:
            known = part[column].dropna()
            found = statistics.mean_interval(known) if len(known) else statistics.NOTHING
            row |= found.columns(column)
        rows.append(row)
    return pd.DataFrame(rows, columns=["network", "change", "pictures", *ends])


def _pictures(
    tried: Mapping[str, Sequence[str]], datasets: Sequence[str], scale: int, count: int | None
) -> Iterator[Picture]:
    for sample in evaluation.samples(datasets, scale, count):
        outputs = evaluation.outputs(list(tried), sample)
        made = {method: output.image for method, output in outputs.items()}
        for method, changes in tried.items():
            made |= {f"{method}|{change}": output(method, sample, change) for change in changes}
        yield Picture(sample.dataset, sample.image, scale, sample.hr, made)
