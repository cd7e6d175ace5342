"""Run networks over benchmarks and measure them, into one tidy table.

Networks run on whole images or in tiles (`dtfn.evaluation.upscaling`, `tiling`); what they made is
cached on disk (`cache`). `psnr` and `ssim` are those of `dtfn.evaluation.metrics`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from dtfn import datasets as benchmarks
from dtfn import images, zoo
from dtfn.errors import InputError, nearest
from dtfn.evaluation import cache
from dtfn.evaluation.cache import Output
from dtfn.evaluation.metrics import psnr, ssim
from dtfn.evaluation.tiling import Chop, Tiling
from dtfn.evaluation.upscaling import upscale

if TYPE_CHECKING:
    import torch

__all__ = [
    "Chop",
    "Output",
    "Tiling",
    "evaluate",
    "fingerprint",
    "outputs",
    "psnr",
    "require",
    "samples",
    "ssim",
    "summary",
    "upscale",
]

BICUBIC = "bicubic"


def outputs(
    methods: Sequence[str],
    sample: benchmarks.Sample,
    tiling: Tiling | Chop | None = None,
    self_ensemble: bool = False,
) -> dict[str, Output]:
    """Return what each method makes of the sample's LR image.

    Parameters
    ----------
    methods
        ``"bicubic"``, names of the zoo, or paths of weights files.
    sample
        The LR image and its scale.
    tiling, self_ensemble
        As for `upscale`.

    Raises
    ------
    InputError
        For an unknown method, or one of another scale.
    """
    results = {}
    with cache.opened() as known:
        for method in dict.fromkeys(methods):
            if method == BICUBIC:
                results[method] = _bicubic(sample)
                continue
            weights = fingerprint(method)
            key = cache.key(weights, sample.lr, sample.scale, _way(sample, tiling, self_ensemble))
            make = functools.partial(_run, method, weights, sample, tiling, self_ensemble)
            shape = _shape(sample.lr, sample.scale)
            results[method] = known.recall_or_make(key, shape, make)
    return results


def evaluate(
    methods: Sequence[str],
    datasets: Sequence[str],
    scale: int,
    count: int | None = None,
    *,
    tiling: Tiling | Chop | None = None,
    self_ensemble: bool = False,
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
    tiling, self_ensemble
        As for `upscale`; bicubic takes no notice.

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
            for method, output in outputs(methods, sample, tiling, self_ensemble).items()
        ]
    )


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


def samples(
    datasets: Sequence[str], scale: int, count: int | None = None
) -> Iterator[benchmarks.Sample]:
    """Yield the samples of several datasets, with a progress bar where there is a terminal."""
    for dataset in datasets:
        total = len(benchmarks.names(dataset)[:count])
        bar = {"desc": f"{dataset} x{scale}", "total": total, "unit": "image", "disable": None}
        yield from tqdm(benchmarks.benchmark(dataset, scale, count), **bar)


def require(methods: Sequence[str], scale: int) -> None:
    """Check, before anything runs, that every method exists and has this scale.

    Raises
    ------
    InputError
        For no method at all, an unknown one, or one of another scale.
    """
    if not methods:
        raise InputError("methods", expected="one or more", found="none", remedy="name one")
    scales = {row["name"]: int(row["scale"]) for row in zoo.registry()}
    for method in methods:
        weights = fingerprint(method)
        if method in scales:
            _require_scale(method, scales[method], scale)
        elif method != BICUBIC:
            _require_scale(method, int(_network(method, weights).scale), scale)  # type: ignore[arg-type]


def fingerprint(method: str) -> str:
    """Return the sha256 of a method's weights; ``"bicubic"`` for bicubic.

    Raises
    ------
    InputError
        For an unknown name, or weights that are missing.
    """
    if method == BICUBIC:
        return BICUBIC
    known = [row["name"] for row in zoo.registry()]
    if method not in known and Path(method).suffix not in zoo.SUFFIXES:
        raise InputError(
            f"method {method!r}",
            expected=f"bicubic, a network of the zoo or a {', '.join(zoo.SUFFIXES)} file",
            found="none of these",
            remedy=nearest(method, [BICUBIC, *known]),
        )
    return cache.sha256(zoo.file_of(method))


def _require_scale(method: str, found: int, scale: int) -> None:
    if found != scale:
        raise InputError(
            f"network {method!r}",
            expected=f"scale {scale}",
            found=f"scale {found}",
            remedy="choose a network of that scale",
        )


@functools.cache
def _network(method: str, weights: str) -> torch.nn.Module:
    """Load a network, once a process; by its hash too, because a file can be trained anew."""
    from dtfn import models

    return models.load(method)


def _way(sample: benchmarks.Sample, tiling: Tiling | Chop | None, self_ensemble: bool) -> str:
    """Name how an output is made, for its key; empty where the network sees the image whole."""
    if tiling is not None and len(tiling.tiles(*sample.lr.shape[:2])) == 1:
        tiling = None
    parts = [repr(tiling)] * (tiling is not None) + ["self-ensemble"] * self_ensemble
    return " ".join(parts)


def _run(
    method: str,
    weights: str,
    sample: benchmarks.Sample,
    tiling: Tiling | Chop | None,
    self_ensemble: bool,
) -> Output:
    network = _network(method, weights)
    _require_scale(method, int(network.scale), sample.scale)  # type: ignore[arg-type]
    start = time.perf_counter()
    image = upscale(network, sample.lr, tiling, self_ensemble)
    return Output(image, time.perf_counter() - start)


def _bicubic(sample: benchmarks.Sample) -> Output:
    start = time.perf_counter()
    image = images.imresize(sample.lr, sample.scale)
    return Output(image, time.perf_counter() - start)


def _shape(lr: NDArray[np.uint8], scale: int) -> tuple[int, int, int]:
    return scale * lr.shape[0], scale * lr.shape[1], 3
