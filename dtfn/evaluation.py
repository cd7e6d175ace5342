"""Run networks over benchmarks and measure them, into one tidy table.

Networks run on whole images or in tiles (`dtfn.tiling`); what they made is cached on disk
(`dtfn.cache`). `psnr` and `ssim` are those of `dtfn.metrics`.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from dtfn import cache, images, provenance, zoo
from dtfn import datasets as benchmarks
from dtfn import tiling as cutting
from dtfn.cache import Arrays, Output
from dtfn.datasets import Sample
from dtfn.errors import InputError, nearest
from dtfn.metrics import psnr, ssim
from dtfn.tiling import Budget, Chop, Tiling, require_memory, told

if TYPE_CHECKING:
    import torch
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

BICUBIC = "bicubic"


def outputs(
    methods: Sequence[str],
    sample: Sample,
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
                    sizes.append(cutting.positions(chosen, *sample.lr.shape[:2]))
        row = {"method": method, "pictures": len(sizes), "tiles": 0, "seconds": 0.0, "memory": 0.0}
        if sizes:
            cost = cutting.cost(zoo.file_of(method), weights, device)
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


def samples(datasets: Sequence[str], scale: int, count: int | None = None) -> Iterator[Sample]:
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
    method: str, weights: str, sample: Sample, tiling: Way, device: str
) -> Tiling | Chop | None:
    """Return how an image is cut: None where it is a single tile, a budget's choice made."""
    size = sample.lr.shape[:2]
    tiling = tiling or card_tiling(method)
    if isinstance(tiling, Budget):
        tiling = tiling.tiling(cutting.cost(zoo.file_of(method), weights, device), *size)
    return None if tiling is None or len(tiling.tiles(*size)) == 1 else tiling


def _key(weights: str, sample: Sample, tiling: Way, self_ensemble: bool, device: str) -> str:
    parts = [repr(tiling)] * (tiling is not None) + ["self-ensemble"] * self_ensemble
    parts += [device] * (device != "cpu")
    return cache.key(weights, sample.lr, sample.scale, " ".join(parts))


def _upscaled(
    lr: NDArray[np.uint8], tiling: Tiling | Chop | None, self_ensemble: bool, network: nn.Module
) -> NDArray[np.uint8]:
    return upscale(network, lr, tiling, self_ensemble)


def _bicubic(sample: Sample) -> Output:
    start = time.perf_counter()
    image = images.imresize(sample.lr, sample.scale)
    return Output(image, time.perf_counter() - start)


def upscale(
    network: torch.nn.Module,
    lr: NDArray[np.uint8],
    tiling: Tiling | Chop | None = None,
    self_ensemble: bool = False,
) -> NDArray[np.uint8]:
    """Return the super-resolved image of ``lr``.

    Parameters
    ----------
    network
        Maps RGB in [0, 1] ``(1, 3, H, W)`` to ``(1, 3, sH, sW)``, s being its attribute ``scale``.
        It runs in evaluation mode, on the device of its weights.
    lr
        uint8 ``(H, W, 3)`` RGB.
    tiling
        How the image is cut; None: the network sees it whole.
    self_ensemble
        Average over the 8 flips and quarter turns of the image, each tiled by itself, before
        rounding, as the "+" methods of the field do.

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
            "LR image", expected="uint8 (H, W, 3)", found=f"{lr.dtype} {lr.shape}",
            remedy="use dtfn.images.as_rgb",
        )  # fmt: skip
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            x = torch.from_numpy(lr.copy()).to(device).permute(2, 0, 1)[None]  # (1, 3, H, W)
            x = x.float() / 255
            made = _ensemble(network, x, tiling) if self_ensemble else _tiled(network, x, tiling)
            sr = (made[0].clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8).permute(1, 2, 0)
    finally:
        network.train(was_training)
    return np.ascontiguousarray(sr.cpu().numpy())


def _ensemble(
    network: torch.nn.Module, x: torch.Tensor, tiling: Tiling | Chop | None
) -> torch.Tensor:
    """Return the mean (1, 3, sH, sW) over the dihedral group, each turned back."""
    total: torch.Tensor | None = None
    for turned, flips in itertools.product((False, True), ((), (2,), (3,), (2, 3))):
        seen = x.flip(flips).mT if turned else x.flip(flips)
        made = _tiled(network, seen, tiling)
        made = (made.mT if turned else made).flip(flips)
        total = made if total is None else total + made
    assert total is not None
    return total / 8


def _tiled(network: torch.nn.Module, x: torch.Tensor, tiling: Tiling | Chop | None) -> torch.Tensor:
    """Return (1, 3, sH, sW) for x (1, 3, H, W), put together from tiles."""
    if tiling is None:
        return _run(network, x)
    scale = int(network.scale)  # type: ignore[arg-type]
    height, width = x.shape[2:]
    out = x.new_empty(1, 3, scale * height, scale * width)
    for rows, columns in tiling.tiles(height, width):
        made = _run(network, x[:, :, rows.seen, columns.seen])
        kept = made[:, :, rows.inner(scale), columns.inner(scale)]
        out[:, :, rows.kept(scale), columns.kept(scale)] = kept
    return out


def _run(network: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    import torch

    y = network(x.contiguous(memory_format=torch.channels_last)).float()
    scale = int(network.scale)  # type: ignore[arg-type]
    shape = (scale * x.shape[2], scale * x.shape[3], 3)
    found = (*y.shape[2:], y.shape[1])
    finite = bool(torch.isfinite(y).all())
    if not finite or found != shape:
        raise InputError(
            "network output", expected=f"finite numbers of shape {shape}",
            found=f"{'finite numbers' if finite else 'NaN or infinity'}, {found}",
            remedy="the weights or the scale are wrong: load or train the network again",
        )  # fmt: skip
    return y


def require(methods: Sequence[str], scale: int) -> None:
    """Check, before anything runs, that every method exists and has this scale.

    Raises
    ------
    InputError
        For no method at all, an unknown one, or one of another scale.
    """
    if not methods:
        raise InputError("methods", expected="one or more", found="none", remedy="name one")
    scales = {row["name"]: int(row["scale"]) for row in zoo.everything()}
    for method in methods:
        weights = fingerprint(method)
        if method in scales:
            require_scale(method, scales[method], scale)
        elif method != BICUBIC:
            require_scale(method, int(network(method, weights).scale), scale)  # type: ignore[arg-type]


def fingerprint(method: str) -> str:
    """Return the sha256 of a method's weights; ``"bicubic"`` for bicubic.

    Raises
    ------
    InputError
        For an unknown name, or weights that are missing.
    """
    if method == BICUBIC:
        return BICUBIC
    known = [row["name"] for row in zoo.everything()]
    if method not in known and Path(method).suffix not in zoo.SUFFIXES:
        raise InputError(
            f"method {method!r}",
            expected=f"bicubic, a network of the zoo, an imported one or a "
            f"{', '.join(zoo.SUFFIXES)} file",
            found="none of these",
            remedy=nearest(method, [BICUBIC, *known]),
        )
    return cache.sha256(zoo.file_of(method))


def require_scale(method: str, found: int, scale: int) -> None:
    """Raise `InputError` unless a network has the scale that is wanted."""
    if found != scale:
        raise InputError(
            f"network {method!r}",
            expected=f"scale {scale}",
            found=f"scale {found}",
            remedy="choose a network of that scale",
        )


def device(name: str) -> str:
    """Return what ``"auto"`` stands for, a GPU if torch has one, else the CPU; others as given."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@functools.cache
def network(method: str, weights: str, device: str = "cpu") -> torch.nn.Module:
    """Load a network, once a process; by its hash too, because a file can be trained anew.

    Parameters
    ----------
    method
        A name or file, as for `dtfn.models.load`.
    weights
        Of `fingerprint`.
    device
        ``"cpu"`` or ``"cuda"``, perhaps with a number.

    Raises
    ------
    InputError
        As `dtfn.models.load`; or this machine has no such device.
    """
    import torch

    from dtfn import models

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {device!r}", expected="cpu, or cuda where there is a GPU",
            found=str(error).splitlines()[0], remedy="leave it out, or install a torch with CUDA",
        ) from error  # fmt: skip
    loaded = models.load(method).to(device)
    cutting.give_back()
    return loaded


def remembered_output(
    method: str, sample: Sample, way: str, make: Callable[[nn.Module], NDArray[np.uint8]]
) -> Output:
    """Return what a network makes of the sample's LR image in some way.

    Parameters
    ----------
    method
        A name of the zoo or of imported weights, or the path of a weights file.
    sample
        The LR image and its scale.
    way
        Names all that the output depends on besides the weights and the LR image.
    make
        The network -> uint8 ``(sH, sW, 3)`` RGB.

    Raises
    ------
    InputError
        For an unknown network, or one of another scale.
    """
    weights = fingerprint(method)
    key = cache.key(weights, sample.lr, sample.scale, way)
    with cache.opened() as known:
        return known.recall_or_make(key, shape(sample), lambda: made(method, weights, sample, make))


def remembered_arrays(
    method: str, sample: Sample, way: str, make: Callable[[nn.Module], Arrays]
) -> Arrays:
    """Return arrays that a network tells about a sample, by name.

    Parameters and errors are those of `remembered_output`; here the HR image may count as well.
    """
    weights = fingerprint(method)
    way = f"arrays {provenance.array_hash(sample.hr)} {way}"
    key = cache.key(weights, sample.lr, sample.scale, way)
    with cache.opened() as known:
        return known.arrays(key, lambda: make(_loaded(method, weights, sample)))


def made(
    method: str,
    weights: str,
    sample: Sample,
    make: Callable[[nn.Module], NDArray[np.uint8]],
    device: str = "cpu",
) -> Output:
    """Return what ``make`` makes of the network, and how long it took; loading does not count."""
    loaded = _loaded(method, weights, sample, device)
    start = time.perf_counter()
    image = make(loaded)
    return Output(image, time.perf_counter() - start)


def shape(sample: Sample) -> tuple[int, int, int]:
    """Return the shape of every output of a sample."""
    return sample.scale * sample.lr.shape[0], sample.scale * sample.lr.shape[1], 3


def _loaded(method: str, weights: str, sample: Sample, device: str = "cpu") -> nn.Module:
    loaded = network(method, weights, device)
    require_scale(method, int(loaded.scale), sample.scale)  # type: ignore[arg-type]
    return loaded
