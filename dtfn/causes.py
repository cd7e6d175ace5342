"""Why attention harms: where it looks, and whether what is attended to agrees with the truth.

`looks` and `copies` show it at some positions. `measure` asks whether, among positions of like
severity, harm rises with the inconsistency k. Severity is the energy of the detail that a block
lost (`dtfn.texture.severity`). k is how much the true details of the attended positions differ from
a position's own, weighed by the attention: 0 where they are the same, 2 where they are unrelated
and of equal energy. This observes; `dtfn.donors` intervenes.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import nn

from dtfn import cache, capture, evaluation, statistics, texture
from dtfn.datasets import Sample
from dtfn.harm import FIFTHS, PICTURE, ROLE, Pair, one_control
from dtfn.images import UInt8, as_rgb
from dtfn.methods import analysis_tiling, remembered
from dtfn.own import OwnNetwork
from dtfn.regions import heaviest
from dtfn.subpixel import Float, interior
from dtfn.tiling import Tiling

Query = tuple[int, int]

MOST = 8  # positions that count as copied: what is beyond has little weight
FLOOR = 0.5  # MSE added to both errors before their logarithm: errors far below it count as none
CLASSES = 20  # of like severity, within which k is ranked
DECILES = 0.9  # in ranks from 0 to 1, from the middle of the lowest decile to that of the highest


class Look(NamedTuple):
    """What one layer of one network attends to from one position of a picture."""

    network: str
    place: int  # 1 for the network's first attention layer, and so on
    query: Query
    map: Float  # (H, W), sum 1

    def strongest(self, most: int = MOST) -> list[Query]:
        """Return the positions of most weight, the strongest first; only such that have any."""
        flat = self.map.ravel()
        order = np.argsort(-flat, kind="stable")[:most]
        rows, columns = np.divmod(order[flat[order] > 0], self.map.shape[1])
        return list(zip(rows.tolist(), columns.tolist(), strict=True))


def looks(
    methods: Sequence[str], sample: Sample, queries: Sequence[Query]
) -> dict[Query, list[Look]]:
    """Return each network's and layer's map of the whole picture for each (row, column)."""

    def make(network: nn.Module) -> cache.Arrays:
        if not capture.layers(network) and not isinstance(network, OwnNetwork):
            return {"maps": np.zeros((0, 0, 0, 0))}
        with capture.record(network) as record:  # refuses a user's own network in words
            evaluation.unrounded(network, sample.lr)
        maps = [record.maps(layer, queries).double().cpu().numpy() for layer in record.layers]
        return {"maps": np.stack(maps)}

    way = f"looks {list(queries)} {cache.source('capture', 'causes')}"
    found: dict[Query, list[Look]] = {query: [] for query in queries}
    for method in methods:
        maps = remembered(method, sample, way, make)["maps"]
        for place, layer in enumerate(maps, start=1):
            for query, weights in zip(queries, layer, strict=True):
                found[query].append(Look(method, place, query, weights))
    return found


def last_layer(seen: Iterable[Look]) -> list[Look]:
    """Return the looks of each network's last attention layer."""
    return list({look.network: look for look in sorted(seen, key=lambda one: one.place)}.values())


def copies(seen: Iterable[Look], sample: Sample, most: int = MOST) -> pd.DataFrame:
    """Return the ``most`` heaviest positions of each look, and how false their true detail is.

    Columns: network, place, query_row, query_column, rank (from 1), row, column, weight,
    inconsistency (`dtfn.texture.disagreement` with the query).
    """
    width, details = sample.lr.shape[1], texture.detail_blocks(sample.hr, sample.scale)
    rows = []
    for look in seen:
        (k,) = texture.disagreement(details, [look.query[0] * width + look.query[1]])
        for rank, (row, column) in enumerate(look.strongest(most), start=1):
            copied = row, column, float(look.map[row, column]), k[row * width + column]
            rows.append((look.network, look.place, *look.query, rank, *copied))
    columns = ["network", "place", "query_row", "query_column", "rank", "row", "column"]
    return pd.DataFrame(rows, columns=[*columns, "weight", "inconsistency"])


def places(
    textures: pd.DataFrame | None, samples: Sequence[Sample], pairs: Sequence[Pair]
) -> tuple[Sample, dict[str, Query]]:
    """Return where to look: in the texture that the first pair harms most, and in one it helps.

    ``textures`` are the regions of `dtfn.harm.measure`. Returned are the picture of the heaviest
    harmed texture (`dtfn.regions.heaviest`), and name -> LR position: the middle of that texture
    and of the picture's heaviest helped one. Without any, it is the middle of the first picture.
    """
    sample, found = samples[0], dict[str, Query]()
    for pair in pairs[:1]:
        assert textures is not None  # where there is a pair, its textures are
        for row in heaviest(textures, pair.name, pair.kind, pair.seed).itertuples():
            best: Any = row  # of harm come first
            name, place = f"where {pair.name} {best.side}s most", (best.dataset, best.image)
            if name not in found and (not found or place == (sample.dataset, sample.image)):
                sample = next(one for one in samples if (one.dataset, one.image) == place)
                found[name] = best.region.centre()
    height, width = samples[0].lr.shape[:2]
    return sample, found or {"the middle": (height // 2, width // 2)}


class Causes(NamedTuple):
    """What `measure` found; every row also holds pair, kind, seed, role, dataset and image.

    ``pictures``, a row a picture and kind of k, ``of``: ``attended`` (mean over layers), ``layer
    1`` and so on, ``nearest`` (the most similar LR patches); with the `slopes`, and inconsistency:
    mean k, weighed by the energy of the detail. ``cells``, a row a picture, ``severity`` and ``k``
    (fifths, 1 to 5; of the attended): sums of off (errors without attention) and change.
    """

    pictures: pd.DataFrame
    cells: pd.DataFrame


def attended(method: str, sample: Sample) -> Float:
    """Return the inconsistency k of what each layer of a network attends to.

    k(p) = sum over q of a(p, q) |D(q) - D(p)|^2 / |D(p)|^2, with the weights a and the true details
    D of `dtfn.texture.detail_blocks`: float32 (layers, H, W), NaN where p has no detail. DTFN reads
    values around a position; k is that of the position.
    """

    def make(network: nn.Module) -> cache.Arrays:
        details = texture.detail_blocks(sample.hr, sample.scale).astype(np.float64)
        energy = np.sum(details**2, axis=1, keepdims=True)
        table = np.concatenate([details, energy, np.ones_like(energy)], axis=1)
        own = table.reshape(*sample.lr.shape[:2], -1)
        mean = _means(method, network, sample, own)
        product = np.sum(own[..., :-2] * mean[..., :-2], axis=-1)
        base = mean[..., -1] * own[..., -2]  # weights sum to 1 but for rounding
        apart = np.maximum(base - 2 * product + mean[..., -2], 0)
        k = np.divide(apart, base, out=np.full_like(apart, np.nan), where=base > 0)
        return {"k": k.astype(np.float32)}

    return remembered(method, sample, _way("attended", method), make)["k"]


def copied(method: str, sample: Sample) -> UInt8:
    """Return what attention looks at, as a picture (sH, sW, 3) like HR; no network sees it.

    Each block is the mean of the true blocks of all positions, by the position's weights in the
    layer whose picture is nearest to HR.
    """

    def make(network: nn.Module) -> cache.Arrays:
        (height, width), s = sample.lr.shape[:2], sample.scale
        hr = as_rgb(sample.hr)
        blocks = hr.reshape(height, s, width, s, 3).transpose(0, 2, 1, 3, 4)
        means = _means(method, network, sample, blocks.reshape(height, width, -1).astype(float))
        pictures = means.reshape(-1, height, width, s, s, 3).transpose(0, 1, 3, 2, 4, 5)
        made = pictures.reshape(-1, *hr.shape).round().clip(0, 255).astype(np.uint8)
        return {"copied": min(made, key=lambda one: float(np.mean((one - hr.astype(float)) ** 2)))}

    return remembered(method, sample, _way("copied", method), make)["copied"]


def _way(what: str, method: str) -> str:
    source = cache.source("causes", "capture", "texture", "images")
    return f"{what} {analysis_tiling(method)} {source}"


def _means(method: str, network: nn.Module, sample: Sample, values: Float) -> Float:
    """Return the means of values (H, W, C) by the weights of each layer: (layers, H, W, C)."""
    height, width = sample.lr.shape[:2]
    tiling = analysis_tiling(method) or Tiling(max(height, width), 0)
    means = np.full((len(capture.layers(network)), *values.shape), np.nan)
    for rows, columns in tiling.tiles(height, width):
        own = values[rows.seen, columns.seen]
        with capture.record(network) as record:
            evaluation.unrounded(network, sample.lr[rows.seen, columns.seen])
        for number, layer in enumerate(record.layers):
            mean = record.means(layer, own.reshape(-1, own.shape[-1])).reshape(own.shape)
            means[number, rows.kept(1), columns.kept(1)] = mean[rows.inner(1), columns.inner(1)]
    return means


def measure(pairs: Sequence[Pair], samples: Iterable[Sample]) -> Causes:
    """Relate harm to severity and to k of the network with attention, which must choose."""
    key, numbers = [*ROLE, *PICTURE], ["slope", "steeper", "severity", "inconsistency"]
    pictures, cells = [], []
    for sample in samples if pairs else ():
        severity = interior(texture.severity(sample.hr, sample.scale))
        nearest = interior(texture.inconsistency(sample.hr, sample.scale, sample.lr, every=2))
        for pair in pairs:
            methods = list(dict.fromkeys(m for two in pair.roles.values() for m in two))
            errors = evaluation.block_errors(methods, sample)
            layers = np.stack([interior(k) for k in attended(pair.on, sample).astype(np.float64)])
            named = {"attended": layers.mean(axis=0), "nearest": nearest}
            named |= {f"layer {place}": k for place, k in enumerate(layers, start=1)}
            for role, (on, off) in pair.roles.items():
                two = interior(errors[on]), interior(errors[off])
                row = (pair.name, pair.kind, pair.seed, role, sample.dataset, sample.image)
                for name, k in named.items():
                    mean = np.nansum(k * severity) / severity[~np.isnan(k)].sum()
                    pictures.append((*row, name, *slopes(*two, severity, k), mean))
                here = _cells(*two, severity, named["attended"])
                cells += [(*row, *cell) for cell in here.itertuples(index=False)]
    return Causes(
        pd.DataFrame(pictures, columns=[*key, "of", *numbers]),
        pd.DataFrame(cells, columns=[*key, "severity", "k", "off", "change"]),
    )


def model(pictures: pd.DataFrame) -> pd.DataFrame:
    """Return mean slopes over pictures and training seeds: a row a pair, kind, k and role.

    All controls are one role, ``control``. New are seeds, pictures, and the ends of the 95 %
    intervals of slope and steeper, ``_low`` and ``_high``.
    """
    names, table = ["pair", "kind", "of", "role"], one_control(pictures)
    means = table.groupby(names, sort=False)["inconsistency"].mean().reset_index()
    return statistics.crossed_by(table, names, ["slope", "steeper"]).merge(means, on=names)


def net_map(cells: pd.DataFrame) -> pd.DataFrame:
    """Return what attention changes by fifths of severity and k: pair, severity, k, net (%)."""
    ours = cells[cells["role"] == "pair"]
    sums = ours.groupby(["pair", "severity", "k"], sort=False)[["off", "change"]].sum()
    return (100 * sums["change"] / sums["off"]).rename("net").reset_index()


def slopes(on: Float, off: Float, severity: Float, k: Float) -> tuple[float, float, float]:
    """Return how much harm rises with k among positions of like severity, for one picture.

    A linear model of log(on / off) on the ranks of severity and of k, and on their product, each
    position weighed by the mean of its two errors: so the logarithm is the harm itself to second
    order. k is ranked within classes of like severity, and severity so that every decile holds a
    tenth of the error. Positions of NaN k do not count.

    Returned are, in % of the error, NaN where the positions are too few or all alike: ``slope``,
    the rise from the lowest to the highest decile of k; ``steeper``, that slope in the highest
    decile of severity less that in the lowest; ``severity``, its own rise.
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


def _cells(on: Float, off: Float, severity: Float, k: Float) -> pd.DataFrame:
    on, off, rank, within = _ranked(on, off, severity, k)
    table = pd.DataFrame({"severity": rank, "k": within})
    table = (FIFTHS * (table + 0.5)).astype(int) + 1
    table = table.assign(off=off - FLOOR, change=on - off)
    return table.groupby(["severity", "k"], as_index=False).sum()


def _ranked(on: Float, off: Float, severity: Float, k: Float) -> tuple[Float, ...]:
    """Return both errors above the floor, and the ranks of severity and of k, in (-0.5, 0.5)."""
    known = ~np.isnan(k)
    on, off, severity, k = (one[known] for one in (on, off, severity, k))
    rank = (pd.Series(severity).rank().to_numpy() - 0.5) / max(severity.size, 1)
    like = pd.Series(k).groupby((rank * CLASSES).astype(int))
    within = (like.rank() - 0.5) / like.transform("size") - 0.5
    return on + FLOOR, off + FLOOR, rank - 0.5, within.to_numpy()
