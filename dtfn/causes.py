"""Why attention harms: what a texture lost, and whether what is attended to agrees with its truth.

Severity is the energy of the detail that a block lost (`dtfn.texture.severity`). Inconsistency k is
how much the true details of the attended positions differ from a position's own, weighed by the
attention: 0 where they are the same, 2 where they are unrelated and of equal energy. `measure` asks
whether, among positions of like severity, harm rises with k. It observes; `dtfn.donors` intervenes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from torch import Tensor, nn

from dtfn import cache, evaluation, statistics, texture
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.harm import FIFTHS, PICTURE, ROLE, Errors, Pair, one_control
from dtfn.interventions import attention_layers
from dtfn.metrics import Float
from dtfn.models.attention import Attention, HashedAttention
from dtfn.subpixel import interior
from dtfn.tiling import Tiling

__all__ = ["Causes", "attended", "carried", "cells", "measure", "model", "net_map", "slopes"]

FLOOR = 0.5  # MSE added to both errors before their logarithm: errors far below it count as none
CLASSES = 20  # of like severity, within which k is ranked
EVERY = 2  # the nearest patches are searched for every so many rows and columns
DECILES = 0.9  # in ranks from 0 to 1, from the middle of the lowest decile to that of the highest


class Causes(NamedTuple):
    """What `measure` found; every row also holds pair, kind, seed, role, dataset and image.

    Attributes
    ----------
    pictures
        A row a picture and kind of k, ``of``: ``attended`` (mean over layers), ``layer 1`` and so
        on, ``nearest`` (the most similar LR patches). ``slope``: by how much harm rises from the
        lowest to the highest decile of k among positions of like severity, in % of the error;
        ``steeper``: that slope in the highest decile of severity less that in the lowest;
        ``severity``: by how much harm rises from the lowest to the highest decile of severity.
        ``inconsistency``: mean k, weighed by the
        energy of the detail.
    cells
        A row a picture, ``severity`` and ``k`` (fifths, 1 to 5; of the attended): off (sum of the
        errors without attention), change (sum of what attention adds to them).
    """

    pictures: pd.DataFrame
    cells: pd.DataFrame


@contextmanager
def carried(network: nn.Module, values: ArrayLike | Tensor) -> Iterator[list[Tensor]]:
    """Show what the attention of a network makes of other values, at all positions at once.

    Every layer applies its weights a second time, to these values. The output of the network does
    not change by a bit. Works in evaluation mode, without `dtfn.interventions`.

    Parameters
    ----------
    network
        From `dtfn.models`, with attention. It must see the whole picture.
    values
        (L, C): what each position holds.

    Yields
    ------
    A list that every pass extends by one (N, L, C) a layer: the means of the values by weight.
    Layers whose weights are all equal are left out.

    Raises
    ------
    InputError
        The network has no attention that chooses.
    """
    table = torch.as_tensor(values, dtype=torch.float32)
    layers = [layer for layer in attention_layers(network) if hasattr(layer, "mix")]
    if not layers:
        raise InputError(
            "network", "attention that chooses", "equal weights only", "choose another network"
        )
    found: list[Tensor] = []
    with ExitStack() as stack:
        for layer in layers:
            layer.mix = _mixing(layer, table, found)  # type: ignore[method-assign, assignment]
            stack.callback(delattr, layer, "mix")
        yield found


def _mixing(layer: Attention, table: Tensor, found: list[Tensor]) -> Callable[..., Tensor]:
    mix: Callable[..., Tensor] = layer.mix  # type: ignore[assignment]

    def mixed(query: Tensor, second: Tensor, third: Tensor) -> Tensor:
        width = table.shape[-1]
        # Dense layers pad queries to the width of the values, so that must not be smaller.
        rows = F.pad(table.to(query.device), (0, max(0, query.shape[-1] - width)))
        rows = rows.expand(len(query), -1, -1)
        with torch.random.fork_rng(devices=[]):  # rotations may come from the global generator
            # Layers that hash take (query, value, score), dense ones (query, key, value).
            hashes = isinstance(layer, HashedAttention)
            made = mix(query, rows, third) if hashes else mix(query, second, rows)
        found.append(made[..., :width])
        return mix(query, second, third)

    return mixed


def attended(method: str, sample: Sample) -> Float:
    """Return the inconsistency k of what each layer of a network attends to.

    k(p) = sum over q of a(p, q) |D(q) - D(p)|^2 / |D(p)|^2, with the weights a and the true details
    D of `dtfn.texture.detail_blocks`. The network sees the picture as in
    `dtfn.evaluation.block_errors`. DTFN's values are read around a position, not only at it; k is
    that of the position.

    Parameters
    ----------
    method
        A network with attention that chooses.
    sample
        The picture with its truth.

    Returns
    -------
    float64 (layers, H, W), 0 or more; NaN where p has no detail.
    """
    tiling = evaluation.analysis_tiling(method)
    way = f"attended {tiling} {cache.source('causes', 'texture', 'images')}"

    def make(network: nn.Module) -> cache.Arrays:
        return {"k": _attended(network, sample, tiling).astype(np.float32)}

    return evaluation.remembered(method, sample, way, make)["k"].astype(np.float64)


def _attended(network: nn.Module, sample: Sample, tiling: Tiling | None) -> Float:
    height, width = sample.lr.shape[:2]
    details = texture.detail_blocks(sample.hr, sample.scale).astype(np.float64)
    energy = np.sum(details**2, axis=1, keepdims=True)
    table = np.concatenate([details, energy, np.ones_like(energy)], axis=1)
    table = table.reshape(height, width, -1)
    tiles = (tiling or Tiling(max(height, width), 0)).tiles(height, width)
    maps: list[Float] = []
    for rows, columns in tiles:
        part = table[rows.seen, columns.seen]
        with carried(network, part.reshape(-1, part.shape[-1])) as found:
            evaluation.upscale(network, sample.lr[rows.seen, columns.seen])
        maps = maps or [np.full((height, width), np.nan) for _ in found]
        for layer, mean in zip(maps, found, strict=True):
            k = _inconsistency(part, mean[0].double().cpu().numpy().reshape(part.shape))
            layer[rows.kept(1), columns.kept(1)] = k[rows.inner(1), columns.inner(1)]
    return np.stack(maps)


def _inconsistency(own: Float, mean: Float) -> Float:
    """Return k for tables (H, W, D + 2) of details, energy and 1, and their means by weight."""
    energy, weight = own[..., -2], mean[..., -1]
    product = np.sum(own[..., :-2] * mean[..., :-2], axis=-1)
    apart = np.maximum(weight * energy - 2 * product + mean[..., -2], 0)
    bottom = weight * energy
    return np.divide(apart, bottom, out=np.full_like(apart, np.nan), where=bottom > 0)


def measure(
    pairs: Sequence[Pair],
    samples: Iterable[Sample],
    errors: Errors = evaluation.block_errors,
    inconsistency: Callable[[str, Sample], Float] = attended,
) -> Causes:
    """Relate harm to severity and inconsistency, one picture in memory at a time.

    Parameters
    ----------
    pairs
        One or more, e.g. of `dtfn.harm.pairs_of_zoo`; k is that of the network with attention.
    samples
        The pictures with their truth.
    errors
        Where block errors come from.
    inconsistency
        (network, picture) -> (layers, H, W).

    Raises
    ------
    InputError
        As `attended`. Without pairs or pictures the tables are empty.
    """
    pictures, table = [], []
    for sample in samples if pairs else ():
        severity = interior(texture.severity(sample.hr, sample.scale))
        found = texture.remembered_patches(sample.lr, every=EVERY)
        nearest = interior(texture.inconsistency(sample.hr, sample.scale, found))
        for pair in pairs:
            made = errors(
                list(dict.fromkeys(m for two in pair.roles.values() for m in two)), sample
            )
            layers = np.stack([interior(one) for one in inconsistency(pair.on, sample)])
            named = {"attended": layers.mean(axis=0), "nearest": nearest}
            named |= {f"layer {place}": k for place, k in enumerate(layers, start=1)}
            for role, (on, off) in pair.roles.items():
                two = interior(made[on]), interior(made[off])
                key = (pair.name, pair.kind, pair.seed, role, sample.dataset, sample.image)
                for name, k in named.items():
                    known = ~np.isnan(k)
                    mean = (k * severity)[known].sum() / severity[known].sum()
                    pictures.append((*key, name, *slopes(*two, severity, k), mean))
                table += [(*key, *row) for row in cells(*two, severity, named["attended"])]
    columns = [*ROLE, *PICTURE]
    numbers = ["slope", "steeper", "severity", "inconsistency"]
    return Causes(
        pd.DataFrame(pictures, columns=[*columns, "of", *numbers]),
        pd.DataFrame(table, columns=[*columns, "severity", "k", "off", "change"]),
    )


def model(pictures: pd.DataFrame) -> pd.DataFrame:
    """Return the mean slopes over pictures and training seeds: a row a pair, kind, k and role.

    Parameters
    ----------
    pictures
        Of `measure`.

    Returns
    -------
    pair, kind, of, role (all controls are one, ``control``), seeds, pictures; slope, steeper and
    inconsistency, the first two with ``_low`` and ``_high``, the ends of their 95 % intervals.
    """
    table = one_control(pictures)
    rows = []
    for key, part in table.groupby(["pair", "kind", "of", "role"], sort=False):
        row = dict(zip(("pair", "kind", "of", "role"), key, strict=True))
        slope, steeper = (statistics.crossed(part, name) for name in ("slope", "steeper"))
        row |= {"seeds": slope.seeds, "pictures": slope.pictures}
        row |= slope.columns("slope") | steeper.columns("steeper")
        rows.append(row | {"inconsistency": part["inconsistency"].mean()})
    ends = [f"{name}{end}" for name in ("slope", "steeper") for end in ("", "_low", "_high")]
    columns = ["pair", "kind", "of", "role", "seeds", "pictures", *ends, "inconsistency"]
    return pd.DataFrame(rows, columns=columns)


def net_map(cells: pd.DataFrame) -> pd.DataFrame:
    """Return what attention changes by fifths of severity and k: pair, severity, k, net (%).

    Parameters
    ----------
    cells
        Of `measure`; controls do not count.
    """
    ours = cells[cells["role"] == "pair"]
    sums = ours.groupby(["pair", "severity", "k"], sort=False)[["off", "change"]].sum()
    return (100 * sums["change"] / sums["off"]).rename("net").reset_index()


def slopes(on: Float, off: Float, severity: Float, k: Float) -> tuple[float, float, float]:
    """Return slope, steeper and severity of `Causes` for one picture.

    A linear model of log(on / off) on the ranks of severity and of k, and on their product, each
    position weighed by the mean of its two errors. So the weighed logarithm is the harm itself to
    second order, without leaning to either network. k is ranked within classes of like severity,
    and severity so that every decile holds a tenth of the error.

    Parameters
    ----------
    on, off
        Block errors with attention and without it.
    severity, k
        Of the same positions; where k is NaN they do not count.

    Returns
    -------
    In % of the error; NaN where the positions are too few or all alike.
    """
    on, off, rank, within = _ranked(on, off, severity, k)
    weight = (on + off) / 2
    if weight.size < 2 * CLASSES or np.ptp(within) == 0:
        return (float("nan"),) * 3
    order = np.argsort(rank, kind="stable")
    share = np.cumsum(weight[order]) - weight[order] / 2
    rank[order] = share / weight.sum() - 0.5
    terms = np.stack([np.ones_like(rank), within, rank * within, rank])
    root = np.sqrt(weight)
    model = np.linalg.lstsq((terms * root).T, np.log(on / off) * root, rcond=None)[0]
    _, slope, product, level = (float(x) for x in 100 * DECILES * model)
    return slope, DECILES * product, level


def cells(on: Float, off: Float, severity: Float, k: Float) -> Iterator[tuple[float, ...]]:
    """Yield fifth of severity, fifth of k among positions of like severity, and sums of errors.

    Parameters are those of `slopes`; the sums are those without attention, and what attention adds.
    """
    on, off, rank, within = _ranked(on, off, severity, k)
    fifths = [np.minimum((FIFTHS * (r + 0.5)).astype(int), FIFTHS - 1) for r in (rank, within)]
    for row in range(FIFTHS):
        for column in range(FIFTHS):
            here = (fifths[0] == row) & (fifths[1] == column)
            base = off[here].sum() - FLOOR * here.sum()
            yield row + 1, column + 1, float(base), float((on - off)[here].sum())


def _ranked(on: Float, off: Float, severity: Float, k: Float) -> tuple[Float, ...]:
    """Return both errors above the floor, and the ranks of severity and of k, in [-0.5, 0.5]."""
    known = ~np.isnan(k)
    on, off, severity, k = (one[known] for one in (on, off, severity, k))
    rank = _ranks(severity)
    classes = np.minimum(((rank + 0.5) * CLASSES).astype(int), CLASSES - 1)
    within = np.zeros_like(rank)
    for number in range(CLASSES):
        here = classes == number
        within[here] = _ranks(k[here])
    return on + FLOOR, off + FLOOR, rank, within


def _ranks(values: Float) -> Float:
    return (rankdata(values) - 0.5) / max(values.size, 1) - 0.5
