"""What the networks of a zoo attend to on real pictures: maps to look at, numbers to compare.

Users of a single network need `dtfn.capture.record` only. Networks see the whole picture here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from dtfn import cache, capture, evaluation, texture, zoo
from dtfn.attribution import Local
from dtfn.datasets import Sample
from dtfn.models.attention import DeformableNonLocalFusion
from dtfn.own import OwnNetwork
from dtfn.subpixel import block_error

Float = NDArray[np.float64]
Query = tuple[int, int]

At = TypeVar("At", "Look", Local)

MOST = 8  # positions that count as copied: what is beyond has little weight
SEEDS = (0, 1, 2)  # of the hash rotations that are compared


@dataclass(frozen=True)
class Look:
    """What one layer of one network attends to from one position of a picture."""

    network: str
    layer: str
    place: int  # 1 for the network's first attention layer, and so on
    query: Query
    map: Float  # (H, W), sum 1
    deviation: float  # from the layer's own output, see `dtfn.capture.Record.deviation`
    # Where a deformable layer reads the strongest position: (9, 2) LR positions, (9,) weights.
    points: Float | None = None
    modulation: Float | None = None

    def strongest(self, most: int = MOST) -> list[Query]:
        """Return the positions of most weight, the strongest first; only such that have any."""
        return _strongest(self.map, most)


def looks(methods: Sequence[str], sample: Sample, queries: Sequence[Query]) -> list[Look]:
    """Return every network's and layer's map for every query, computed once and remembered.

    Parameters
    ----------
    methods
        Names of the zoo or weights files; such without attention have no looks.
    sample
        The picture.
    queries
        (row, column) pairs of its LR grid.

    Raises
    ------
    InputError
        An unknown network, or a query outside.
    """
    way = f"looks {list(queries)} {cache.source('capture', 'attended')}"
    make = functools.partial(_looks, sample.lr, queries)
    made = []
    for method in methods:
        seen = evaluation.remembered(method, sample, way, make)
        for place, layer in enumerate(seen["layers"].tolist(), start=1):
            deviation = float(seen[f"{layer} deviation"])
            for n, query in enumerate(queries):
                keys = [f"{layer} {part}" for part in ("maps", "points", "modulation")]
                weights, *read = (seen[key][n] for key in keys if key in seen)
                made.append(Look(method, layer, place, query, weights, deviation, *read))
    return made


def at(made: Iterable[At], query: Query) -> list[At]:
    """Return those looks, or attributions, that belong to one query."""
    return [one for one in made if one.query == query]


def last_layer(made: Iterable[Look]) -> list[Look]:
    """Return the looks of each network's last attention layer."""
    made = list(made)
    last = {look.network: look.place for look in sorted(made, key=lambda look: look.place)}
    return [look for look in made if look.place == last[look.network]]


def copies(made: Iterable[Look], sample: Sample, most: int = MOST) -> pd.DataFrame:
    """Return the ``most`` heaviest positions of each look, and how false their true detail is.

    Returns
    -------
    A row a look and position: network, place, query_row, query_column, rank (from 1), row, column,
    weight, inconsistency (|d - d'|^2 / |d|^2 of the true details d of the query and d' of the
    position; above 1 it is worse than none; NaN where the query has no detail).
    """
    details = texture.detail_blocks(sample.hr, sample.scale).astype(np.float64)
    rows = []
    for look in made:
        width = look.map.shape[1]
        own = details[look.query[0] * width + look.query[1]]
        energy = float(own @ own)
        for rank, (row, column) in enumerate(look.strongest(most), start=1):
            apart = float(((details[row * width + column] - own) ** 2).sum())
            false = apart / energy if energy else float("nan")
            weight = float(look.map[row, column])
            rows.append((look.network, look.place, *look.query, rank, row, column, weight, false))
    columns = ["network", "place", "query_row", "query_column", "rank", "row", "column"]
    return pd.DataFrame(rows, columns=[*columns, "weight", "inconsistency"])


def sampling(made: Iterable[Look]) -> pd.DataFrame:
    """Return where deformable layers read the value of the strongest position.

    Returns
    -------
    A row a look and tap: network, place, query_row, query_column, tap (0 to 8, row by row), row,
    column (LR positions), modulation.
    """
    rows = [
        (look.network, look.place, *look.query, tap, row, column, float(look.modulation[tap]))
        for look in made
        if look.points is not None and look.modulation is not None
        for tap, (row, column) in enumerate(look.points.tolist())
    ]
    columns = ["network", "place", "query_row", "query_column", "tap", "row", "column"]
    return pd.DataFrame(rows, columns=[*columns, "modulation"])


def summaries(
    methods: Sequence[str],
    samples: Iterable[Sample],
    twin: str,
    *,
    every: int = 8,
    hash_seeds: Sequence[int] = SEEDS,
) -> pd.DataFrame:
    """Return how each layer of each network spreads its attention, over a grid of queries.

    Parameters
    ----------
    methods, samples
        Networks as for `looks`, and pictures.
    twin
        The network against which harm is measured.
    every
        Ask at every so many rows and columns.
    hash_seeds
        As for `dtfn.capture.summary`; none: no agreement.

    Returns
    -------
    A row a query, layer, network and picture: dataset, image, network, place, harm (of the
    network against the twin in the query's block, MSE), and the columns of
    `dtfn.capture.summary` with the true details.
    """
    tables = []
    for sample in samples:
        height, width = sample.lr.shape[:2]
        rows, columns = np.mgrid[every // 2 : height : every, every // 2 : width : every]
        queries = np.stack([rows.ravel(), columns.ravel()], axis=1)
        details = texture.detail_blocks(sample.hr, sample.scale)
        chance = _chance(details, rows.ravel() * width + columns.ravel())
        local = evaluation.outputs([twin], sample)[twin].image
        base = block_error(local, sample.hr, sample.scale)[rows, columns].ravel()
        code = cache.source("capture", "attended", "images", "texture", "subpixel", "metrics")
        way = f"summaries every {every} seeds {tuple(hash_seeds)} {code}"
        make = functools.partial(_summaries, sample, queries, details, hash_seeds)
        for method in methods:
            seen = evaluation.remembered(method, sample, way, make)
            for place, layer in enumerate(seen["layers"].tolist(), start=1):
                own = (name for name in seen if name.startswith(f"{layer} "))
                table = pd.DataFrame({name.removeprefix(f"{layer} "): seen[name] for name in own})
                table = table.assign(dataset=sample.dataset, image=sample.image, network=method)
                table = table.assign(place=place, harm=seen["error"] - base, chance=chance)
                tables.append(table.assign(share=table["support"] / (height * width)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def attentive(scale: int, seed: int) -> list[str]:
    """Return the variants of the zoo with attention that there are at a scale and training seed."""
    return [
        row["variant"]
        for row in zoo.registry()
        if (row["scale"], row["seed"]) == (scale, seed)
        and not row["variant"].startswith(("local", "placebo"))
    ]


def _chance(details: NDArray[np.float32], queries: NDArray[np.int64]) -> Float:
    """Return for each query the share of all positions whose detail disagrees with its own."""
    details = details.astype(np.float64)
    energy = np.sum(details**2, axis=1)
    share = np.full(len(queries), np.nan)
    for n, query in enumerate(queries):
        if energy[query] > 0:
            apart = energy + energy[query] - 2 * details @ details[query]
            share[n] = np.mean(apart > energy[query])
    return share


def _strongest(weights: Float, most: int) -> list[Query]:
    flat = weights.ravel()
    order = np.argsort(-flat, kind="stable")[:most]
    rows, columns = np.divmod(order[flat[order] > 0], weights.shape[1])
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _looks(lr: NDArray[np.uint8], queries: Sequence[Query], network: nn.Module) -> cache.Arrays:
    """Return the layers, and by layer the maps, deviation and, if deformable, sampling points."""
    if not capture.layers(network) and not isinstance(network, OwnNetwork):  # refused in words
        return {"layers": np.array([], str)}
    record, _ = capture.watch(network, lr)
    seen: cache.Arrays = {"layers": np.array(record.layers)}
    for layer in record.layers:
        maps = record.maps(layer, queries).double().cpu().numpy()
        seen |= {
            f"{layer} maps": maps,
            f"{layer} deviation": np.array(record.deviation(layer, queries)),
        }
        if isinstance(record.module(layer), DeformableNonLocalFusion):
            strongest = (_strongest(one, 1)[0] for one in maps)
            read = zip(*(record.sampling_points(layer, at) for at in strongest), strict=True)
            points, modulation = (torch.stack(part).double().cpu().numpy() for part in read)
            seen |= {f"{layer} points": points, f"{layer} modulation": modulation}
    return seen


def _summaries(
    sample: Sample,
    queries: NDArray[np.int64],
    details: NDArray[np.float32],
    hash_seeds: Sequence[int],
    network: nn.Module,
) -> cache.Arrays:
    """Return the layers, the error of each query's block, and by layer `dtfn.capture.summary`."""
    if not capture.layers(network):
        return {"layers": np.array([], str)}
    record, sr = capture.watch(network, sample.lr)
    error = block_error(sr, sample.hr, sample.scale)[tuple(queries.T)]
    seen: cache.Arrays = {"layers": np.array(record.layers), "error": error}
    for layer in record.layers:
        table = record.summary(layer, queries, details=details, hash_seeds=hash_seeds)
        seen |= {f"{layer} {name}": table[name].to_numpy() for name in table}
    return seen
