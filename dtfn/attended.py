"""What networks attend to on real pictures: maps to look at, and the patches that they copy.

Users of a single network need `dtfn.capture.record` only. Networks see the whole picture here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from dtfn import cache, capture, evaluation, texture
from dtfn.datasets import Sample
from dtfn.harm import Pair
from dtfn.own import OwnNetwork
from dtfn.regions import LEVEL

Float = NDArray[np.float64]
Query = tuple[int, int]

MOST = 8  # positions that count as copied: what is beyond has little weight


@dataclass(frozen=True)
class Look:
    """What one layer of one network attends to from one position of a picture."""

    network: str
    layer: str
    place: int  # 1 for the network's first attention layer, and so on
    query: Query
    map: Float  # (H, W), sum 1
    deviation: float  # from the layer's own output, see `dtfn.capture.Record.deviation`

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
                weights = seen[f"{layer} maps"][n]
                made.append(Look(method, layer, place, query, weights, deviation))
    return made


def at(made: Iterable[Look], query: Query) -> list[Look]:
    """Return those looks that belong to one query."""
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


def places(
    textures: pd.DataFrame, samples: Sequence[Sample], pairs: Sequence[Pair]
) -> tuple[Sample, dict[str, Query]]:
    """Return where to look: in the texture that the first pair harms most, and in one it helps.

    Parameters
    ----------
    textures
        The regions of `dtfn.harm.measure`. Those at a false discovery rate of 5 % come first.
    samples
        The pictures.
    pairs
        The first counts.

    Returns
    -------
    The picture of the most harmed texture, and name -> LR position: the middle of that texture, and
    that of the texture of this picture that is helped most. Without any, the middle of the first.
    """
    sample = samples[0]
    height, width = sample.lr.shape[:2]
    if not pairs:
        return sample, {"the middle": (height // 2, width // 2)}
    pair, key = pairs[0], ["pair", "kind", "seed", "role"]
    ours = textures[(textures[key] == [pair.name, pair.kind, pair.seed, "pair"]).all(axis=1)]
    ours = ours.assign(open=ours["q"] > LEVEL, size=ours["mass"].abs())
    ours = ours.sort_values(["open", "size"], ascending=[True, False])
    found: dict[str, Query] = {}
    for side, word in (("harm", "harms"), ("help", "helps")):
        here = ours[ours["side"] == side]
        if found:
            here = here[(here["dataset"] == sample.dataset) & (here["image"] == sample.image)]
        if len(here):
            best = here.iloc[0]
            place = (best["dataset"], best["image"])
            sample = next(one for one in samples if (one.dataset, one.image) == place)
            found[f"where {pair.name} {word} most"] = best["region"].centre()
    return sample, found or {"the middle": (height // 2, width // 2)}


def _strongest(weights: Float, most: int) -> list[Query]:
    flat = weights.ravel()
    order = np.argsort(-flat, kind="stable")[:most]
    rows, columns = np.divmod(order[flat[order] > 0], weights.shape[1])
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _looks(lr: NDArray[np.uint8], queries: Sequence[Query], network: nn.Module) -> cache.Arrays:
    """Return the layers, and by layer the maps and the deviation."""
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
    return seen
