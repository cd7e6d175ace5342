"""Run networks over benchmarks and measure them, into one tidy table.

Networks run on whole images; what they made is cached on disk (`dtfn.evaluation.cache`). `psnr` and
`ssim` are those of `dtfn.evaluation.metrics`.
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

if TYPE_CHECKING:
    import torch

__all__ = [
    "Output",
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


def upscale(network: torch.nn.Module, lr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the super-resolved image of ``lr``, made whole, without tiles.

    Parameters
    ----------
    network
        Maps RGB in [0, 1] ``(1, 3, H, W)`` to ``(1, 3, sH, sW)``, s being its attribute ``scale``.
        It runs in evaluation mode, on the device of its weights.
    lr
        uint8 ``(H, W, 3)`` RGB.

    Returns
    -------
    uint8 ``(sH, sW, 3)``: the output clamped to [0, 1], times 255, rounded half up.

    Raises
    ------
    InputError
        For another input, or an output of another size or with NaN or infinity in it.
    """
    import torch

    if lr.dtype != np.uint8 or lr.ndim != 3 or lr.shape[2] != 3:
        raise InputError(
            "LR image",
            expected="uint8 (H, W, 3)",
            found=f"{lr.dtype} {lr.shape}",
            remedy="use dtfn.images.as_rgb",
        )
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            x = torch.from_numpy(lr.copy()).to(device).permute(2, 0, 1)[None]  # (1, 3, H, W)
            x = (x.float() / 255).contiguous(memory_format=torch.channels_last)
            y = network(x)[0].float()  # (3, sH, sW)
            finite = bool(torch.isfinite(y).all())
            sr = (y.clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8).permute(1, 2, 0)
    finally:
        network.train(was_training)
    shape = _shape(lr, int(network.scale))  # type: ignore[arg-type]
    if not finite or sr.shape != shape:
        raise InputError(
            "network output",
            expected=f"finite numbers of shape {shape}",
            found=f"{'finite numbers' if finite else 'NaN or infinity'}, {tuple(sr.shape)}",
            remedy="the weights or the scale are wrong: load or train the network again",
        )
    return np.ascontiguousarray(sr.cpu().numpy())


def outputs(methods: Sequence[str], sample: benchmarks.Sample) -> dict[str, Output]:
    """Return what each method makes of the sample's LR image.

    Parameters
    ----------
    methods
        ``"bicubic"``, names of the zoo, or paths of weights files.
    sample
        The LR image and its scale.

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
            key = cache.key(weights, sample.lr, sample.scale)
            output = known.recall(key, _shape(sample.lr, sample.scale))
            if output is None:
                output = _run(method, weights, sample)
                known.remember(key, output)
            results[method] = output
    return results


def evaluate(
    methods: Sequence[str], datasets: Sequence[str], scale: int, count: int | None = None
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
            for method, output in outputs(methods, sample).items()
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


def _run(method: str, weights: str, sample: benchmarks.Sample) -> Output:
    network = _network(method, weights)
    _require_scale(method, int(network.scale), sample.scale)  # type: ignore[arg-type]
    start = time.perf_counter()
    image = upscale(network, sample.lr)
    return Output(image, time.perf_counter() - start)


def _bicubic(sample: benchmarks.Sample) -> Output:
    start = time.perf_counter()
    image = images.imresize(sample.lr, sample.scale)
    return Output(image, time.perf_counter() - start)


def _shape(lr: NDArray[np.uint8], scale: int) -> tuple[int, int, int]:
    return scale * lr.shape[0], scale * lr.shape[1], 3
