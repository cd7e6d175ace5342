"""Run networks over benchmarks and measure them, into one tidy table.

Networks run on whole images or in tiles (`dtfn.evaluation.upscaling`, `tiling`); what they made is
cached on disk (`cache`). `psnr` and `ssim` are those of `dtfn.evaluation.metrics`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from dtfn import datasets as benchmarks
from dtfn import images, zoo
from dtfn.evaluation import cache, costs
from dtfn.evaluation.cache import Output
from dtfn.evaluation.costs import Budget, require_memory, told
from dtfn.evaluation.methods import BICUBIC, device, fingerprint, require
from dtfn.evaluation.metrics import psnr, ssim
from dtfn.evaluation.remembering import made, remembered_arrays, remembered_output, shape
from dtfn.evaluation.tiling import Chop, Tiling
from dtfn.evaluation.upscaling import upscale

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Budget",
    "Chop",
    "Output",
    "Tiling",
    "card_tiling",
    "device",
    "evaluate",
    "fingerprint",
    "forecast",
    "outputs",
    "psnr",
    "remembered_arrays",
    "remembered_output",
    "require",
    "require_memory",
    "samples",
    "ssim",
    "summary",
    "tiling",
    "told",
    "upscale",
]

Way = Tiling | Chop | Budget | None
"""How images are cut. None: whole, but a network of the zoo as its card says. A tile that is larger
than any image leaves all whole."""


def outputs(
    methods: Sequence[str],
    sample: benchmarks.Sample,
    tiling: Way = None,
    self_ensemble: bool = False,
    device: str = "cpu",
) -> dict[str, Output]:
    """Return what each method makes of the sample's LR image.

    Parameters
    ----------
    methods
        ``"bicubic"``, names of the zoo or of imported weights, or paths of weights files.
    sample
        The LR image and its scale.
    tiling, self_ensemble
        As for `upscale`; with a `Budget`, images that do not fit into it are tiled.
    device
        ``"cpu"`` or ``"cuda"``. Another device gives other last digits.

    Raises
    ------
    InputError
        For an unknown method, one of another scale, or a budget that is too small.
    """
    results = {}
    with cache.opened() as known:
        for method in dict.fromkeys(methods):
            if method == BICUBIC:
                results[method] = _bicubic(sample)
                continue
            weights = fingerprint(method)
            chosen = _tiling(method, weights, sample, tiling, device)
            key = _key(weights, sample, chosen, self_ensemble, device)
            make = functools.partial(_upscaled, sample.lr, chosen, self_ensemble)
            results[method] = known.recall_or_make(
                key, shape(sample), functools.partial(made, method, weights, sample, make, device)
            )
    return results


def evaluate(
    methods: Sequence[str],
    datasets: Sequence[str],
    scale: int,
    count: int | None = None,
    *,
    tiling: Way = None,
    self_ensemble: bool = False,
    device: str = "cpu",
) -> pd.DataFrame:
    """Measure every method on every image.

    Parameters
    ----------
    methods
        As for `outputs`.
    datasets
        Names for `dtfn.datasets.benchmark`.
    scale
        2, 3 or 4.
    count
        Only the first so many images of each dataset.
    tiling, self_ensemble, device
        As for `outputs`; bicubic takes no notice.

    Returns
    -------
    A row an image and method: method, dataset, image, scale, psnr (dB), ssim, seconds.

    Raises
    ------
    InputError
        For unknown or unfit methods, before anything is computed, and for missing datasets.
    """
    require(methods, scale)
    return pd.DataFrame(
        [
            {
                "method": method,
                "dataset": sample.dataset,
                "image": sample.image,
                "scale": scale,
                "psnr": psnr(output.image, sample.hr, scale),
                "ssim": ssim(output.image, sample.hr, scale),
                "seconds": output.seconds,
            }
            for sample in samples(datasets, scale, count)
            for method, output in outputs(methods, sample, tiling, self_ensemble, device).items()
        ]
    )


def forecast(
    methods: Sequence[str],
    datasets: Sequence[str],
    scale: int,
    count: int | None = None,
    *,
    tiling: Way = None,
    self_ensemble: bool = False,
    device: str = "cpu",
) -> pd.DataFrame:
    """Say, before it is done, what `evaluate` will cost; parameters and errors as there.

    Networks are tried on small images. What the cache holds costs nothing.

    Returns
    -------
    A row a method: method, pictures (to be run), tiles (that the network will see), seconds,
    memory (MB of a process with this network alone, at its peak).
    """
    require(methods, scale)
    rows = []
    for method in (m for m in dict.fromkeys(methods) if m != BICUBIC):
        weights, sizes = fingerprint(method), []
        with cache.opened() as known:
            for sample in samples(datasets, scale, count):
                chosen = _tiling(method, weights, sample, tiling, device)
                if not known.holds(_key(weights, sample, chosen, self_ensemble, device)):
                    sizes.append(costs.positions(chosen, *sample.lr.shape[:2]))
        row = {"method": method, "pictures": len(sizes), "tiles": 0, "seconds": 0.0, "memory": 0.0}
        if sizes:
            cost = costs.cost(zoo.file_of(method), weights, device)
            tiles = [size for picture in sizes for size in picture] * (8 if self_ensemble else 1)
            row["tiles"], row["seconds"] = len(tiles), sum(map(cost.seconds_of, tiles))
            row["memory"] = max(map(cost.bytes_of, tiles)) / 2**20
        rows.append(row)
    return pd.DataFrame(rows, columns=["method", "pictures", "tiles", "seconds", "memory"])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return the means over images of `evaluate`'s table: a row a dataset, scale and method.

    Columns: dataset, scale, method, images, psnr, ssim, seconds; rows in the table's order.
    """
    return table.groupby(["dataset", "scale", "method"], sort=False, as_index=False).agg(
        images=("image", "nunique"),
        psnr=("psnr", "mean"),
        ssim=("ssim", "mean"),
        seconds=("seconds", "mean"),
    )


def tiling(text: str) -> Way:
    """Return how images are cut, from text.

    Parameters
    ----------
    text
        ``"whole"``; ``"chop"``, as the authors do; a number such as ``"128"``, the LR positions a
        side of a tile; or memory such as ``"8GB"``.

    Raises
    ------
    InputError
        It is none of these.
    """
    if text in ("whole", "chop"):
        return Chop() if text == "chop" else None
    return Tiling(int(text)) if text.isdigit() else Budget(cache.size(text, "tiling"))


def samples(
    datasets: Sequence[str], scale: int, count: int | None = None
) -> Iterator[benchmarks.Sample]:
    """Yield the samples of several datasets, with a progress bar where there is a terminal."""
    for dataset in datasets:
        total = len(benchmarks.names(dataset)[:count])
        bar = {"desc": f"{dataset} x{scale}", "total": total, "unit": "image", "disable": None}
        yield from tqdm(benchmarks.benchmark(dataset, scale, count), **bar)


def card_tiling(method: str) -> Tiling | None:
    """Return the tiles that a network of the zoo is run in; None for whole images.

    Attention from all positions to all takes minutes for a large image; such networks are measured
    in tiles, and shown as they were measured.
    """
    rows = [row for row in zoo.registry() if row["name"] == method]
    return Tiling(*rows[0]["tile"]) if rows and rows[0].get("tile") else None


def _tiling(
    method: str, weights: str, sample: benchmarks.Sample, tiling: Way, device: str
) -> Tiling | Chop | None:
    """Return how an image is cut: None where it is a single tile, a budget's choice made."""
    size = sample.lr.shape[:2]
    tiling = tiling or card_tiling(method)
    if isinstance(tiling, Budget):
        tiling = tiling.tiling(costs.cost(zoo.file_of(method), weights, device), *size)
    return None if tiling is None or len(tiling.tiles(*size)) == 1 else tiling


def _key(
    weights: str, sample: benchmarks.Sample, tiling: Way, self_ensemble: bool, device: str
) -> str:
    parts = [repr(tiling)] * (tiling is not None) + ["self-ensemble"] * self_ensemble
    parts += [device] * (device != "cpu")
    return cache.key(weights, sample.lr, sample.scale, " ".join(parts))


def _upscaled(
    lr: NDArray[np.uint8], tiling: Tiling | Chop | None, self_ensemble: bool, network: nn.Module
) -> NDArray[np.uint8]:
    return upscale(network, lr, tiling, self_ensemble)


def _bicubic(sample: benchmarks.Sample) -> Output:
    start = time.perf_counter()
    image = images.imresize(sample.lr, sample.scale)
    return Output(image, time.perf_counter() - start)
