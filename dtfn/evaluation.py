"""Run networks over benchmarks and measure them, into one tidy table.

`dtfn.methods` says what a method is. Networks run on whole images or in tiles (`dtfn.tiling`);
outputs are kept on disk (`dtfn.cache`). `psnr` and `ssim` are those of `dtfn.subpixel`.
"""

import contextlib
import ctypes
import functools
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from dtfn import cache, images
from dtfn import datasets as benchmarks
from dtfn import methods as known
from dtfn.cache import Arrays
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.images import UInt8
from dtfn.subpixel import Float, Grey, block_error, luma
from dtfn.subpixel import psnr as psnr
from dtfn.subpixel import ssim as ssim
from dtfn.tiling import Budget, Chop, Tiling, Way

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

WHOLE = Tiling(2**20)  # a tile that is larger than any image
TRIED = 64  # LR positions a side of the image that a network's cost is measured on

Names = Sequence[str] | str
Cut = Tiling | Chop | None  # how one image is cut; None: not at all


def _listed(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else list(dict.fromkeys(names))


def outputs(
    methods: Names,
    sample: Sample,
    tiling: Way = None,
    self_ensemble: bool = False,
    device: str = "cpu",
) -> dict[str, Arrays]:
    """Return the ``image`` that each method makes of the sample's LR, and the ``seconds`` it took.

    ``tiling`` and ``self_ensemble`` are as for `upscale`; with a `dtfn.tiling.Budget`, images that
    do not fit into it are tiled. ``device`` is ``"cpu"``, ``"cuda"``, or ``"auto"`` for a GPU where
    there is one; digits may differ. An unfit method or budget is an `InputError`.
    """

    def one(method: str) -> Arrays:
        start = time.perf_counter()
        if method == known.BICUBIC:
            image = images.imresize(sample.lr, sample.scale)
            return {"image": image, "seconds": np.array(time.perf_counter() - start)}
        cut = _cut(method, sample, tiling, known.torch_device(device))

        def make(network: "Module") -> Arrays:
            start = time.perf_counter()
            image = upscale(network, sample.lr, cut, self_ensemble)
            return {"image": image, "seconds": np.array(time.perf_counter() - start)}

        return known.remembered(method, sample, f"{cut} {self_ensemble}", make, device)

    with cache.opened():
        return {method: one(method) for method in _listed(methods)}


def block_errors(methods: Names, sample: Sample) -> dict[str, Float]:
    """Return block errors (H, W), of outputs not rounded or of the 8 bits that a sample has."""
    truth = luma(sample.hr)

    def one(method: str) -> Float:
        if method in sample.outputs:
            return block_error(sample.outputs[method], truth, sample.scale)
        if method == known.BICUBIC:
            return block_error(images.imresize(sample.lr, sample.scale), truth, sample.scale)
        cut = _cut(method, sample, known.analysis_tiling(method), "cpu")

        def make(network: "Module") -> Arrays:
            y = images.luma(255 * unrounded(network, sample.lr, cut))
            return {"errors": block_error(y, truth, sample.scale).astype(np.float32)}

        way = f"errors {cut} {cache.source('subpixel')}"
        return known.remembered(method, sample, way, make)["errors"].astype(np.float64)

    with cache.opened():
        return {method: one(method) for method in _listed(methods)}


def _cut(method: str, sample: Sample, tiling: Way, device: str) -> Cut:
    size = sample.lr.shape[:2]
    tiling = tiling or known.card_tiling(method)
    if isinstance(tiling, Budget):
        rest, position, _ = _cost(known.split_change(method)[0], device)
        tiling = tiling.tiling(rest, position, *size)
    return None if tiling is None or len(tiling.tiles(*size)) == 1 else tiling


def upscale(network: "Module", lr: UInt8, tiling: Cut = None, self_ensemble: bool = False) -> UInt8:
    """Return the super-resolved image of ``lr``, uint8 RGB ``(sH, sW, 3)``, rounded half up.

    ``lr`` is uint8 RGB ``(H, W, 3)``. The network maps RGB in [0, 1] ``(1, 3, H, W)`` to ``(1, 3,
    sH, sW)``, s being its attribute ``scale``; it runs in evaluation mode. ``self_ensemble``
    averages over the 8 flips and quarter turns of the image, before rounding, as the "+" methods of
    the field do. Another input or output, NaN or infinity among it, is an `InputError`.
    """
    y = unrounded(network, lr, tiling, self_ensemble)
    return np.floor(y * 255 + np.float32(0.5)).astype(np.uint8)


def unrounded(
    network: "Module", lr: UInt8, tiling: Cut = None, self_ensemble: bool = False
) -> NDArray[np.float32]:
    """Return `upscale`'s image before it is rounded, float32 ``(sH, sW, 3)`` in [0, 1]."""
    import torch

    from dtfn.interventions import turned

    if lr.dtype != np.uint8 or lr.ndim != 3 or lr.shape[2] != 3:
        raise InputError("LR image", "uint8 (H, W, 3)", f"{lr.dtype} {lr.shape}", "use as_rgb")
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            x = torch.from_numpy(lr.copy()).to(device).permute(2, 0, 1)[None].float() / 255
            views = range(8 if self_ensemble else 1)
            ys = [turned(_tiled(network, turned(x, k), tiling), k, back=True) for k in views]
            y = torch.stack(ys).mean(0)[0].clamp(0, 1)  # (3, sH, sW)
    finally:
        network.train(was_training)
    return np.ascontiguousarray(y.permute(1, 2, 0).cpu().numpy())


def _tiled(network: "Module", x: "torch.Tensor", tiling: Cut) -> "torch.Tensor":
    import torch  # (1, 3, H, W) -> (1, 3, sH, sW)

    scale, (height, width) = int(network.scale), x.shape[2:]  # type: ignore[arg-type]
    out = x.new_empty(1, 3, scale * height, scale * width)
    for rows, columns in (tiling or WHOLE).tiles(height, width):
        seen = x[:, :, rows.seen, columns.seen]
        made = network(seen.contiguous(memory_format=torch.channels_last)).float()
        shape, found = (3, scale * seen.shape[2], scale * seen.shape[3]), tuple(made.shape[1:])
        if found != shape or not made.isfinite().all():
            text = f"{found}" if found != shape else "NaN or infinity"
            wanted = f"finite numbers of shape {shape}"
            raise InputError("network output", wanted, text, "load or train the network again")
        kept = made[:, :, rows.inner(scale), columns.inner(scale)]
        out[:, :, rows.kept(scale), columns.kept(scale)] = kept
    return out


def progress(*iterable: Iterable[Any], **options: Any) -> Any:
    """Return tqdm's bar on a terminal, and in a notebook that the suite does not run."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if type(shell).__name__ == "ZMQInteractiveShell" and "DTFN_RUN_DIR" not in os.environ:
        from tqdm.notebook import tqdm as notebook_bar

        return notebook_bar(*iterable, **options)
    return tqdm(*iterable, disable=None, **options)


def samples(datasets: Names, scale: int, count: int | None = None) -> Iterator[Sample]:
    """Yield the samples of some datasets, with a progress bar; parameters as for `evaluate`."""
    if not datasets:
        raise InputError("datasets", "one or more", "none", "name one, e.g. mini")
    totals = {name: len(benchmarks.names(name)[:count]) for name in _listed(datasets)}
    for dataset, total in totals.items():  # all of them are there
        bar = {"desc": f"{dataset} x{scale}", "total": total, "unit": "image"}
        yield from progress(benchmarks.benchmark(dataset, scale, count), **bar)


def evaluate(
    methods: Names,
    datasets: Names,
    scale: int,
    count: int | None = None,
    *,
    grey: Grey = "rgb",
    rounded: bool = False,
    **how: Any,
) -> pd.DataFrame:
    """Measure every method on every image, or the first ``count`` of each dataset.

    Datasets are names for `dtfn.datasets.benchmark`; ``grey`` and ``rounded`` are as for `psnr`,
    the rest as for `outputs`. A row an image and method: method, dataset, image, scale, psnr (dB),
    ssim, seconds, and lr: ``"file"`` where LR was given, ``"from HR"`` where it was made. Unfit
    methods are an `InputError` before anything is computed.
    """
    known.require(_listed(methods), scale)
    rows = []
    with cache.opened():
        for sample in samples(datasets, scale, count):
            place, lr = (sample.dataset, sample.image, scale), sample.lr_file
            for method, output in outputs(methods, sample, **how).items():
                both = (f(output["image"], sample.hr, scale, grey, rounded) for f in (psnr, ssim))
                last = float(output["seconds"]), "file" if lr else "from HR"
                rows.append((method, *place, *both, *last))
    columns = ["method", "dataset", "image", "scale", "psnr", "ssim", "seconds", "lr"]
    return pd.DataFrame(rows, columns=columns)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return the means over images: dataset, scale, method, images, psnr, ssim, seconds."""
    groups = table.groupby(["dataset", "scale", "method"], sort=False, as_index=False)
    means = {name: (name, "mean") for name in ("psnr", "ssim", "seconds")}
    return groups.agg(images=("image", "nunique"), **means)


def forecast(
    methods: Names, datasets: Names, scale: int, count: int | None = None, **how: Any
) -> pd.DataFrame:
    """Say what `evaluate` will cost; parameters and errors as there.

    Each network is tried on one small image, and time and memory are taken to grow with the
    positions. A row a method: method, pictures (that the cache does not hold), tiles (that the
    network will see), seconds, memory (MB of the process at its peak).
    """
    known.require(_listed(methods), scale)
    device, ensemble = known.torch_device(how.get("device", "cpu")), how.get("self_ensemble", False)
    pictures = Counter[str]()
    seen: dict[str, list[int]] = {m: [] for m in _listed(methods) if m != known.BICUBIC}
    with cache.opened() as store:
        for sample in samples(datasets, scale, count) if seen else ():
            for method, sizes in seen.items():
                cut = _cut(method, sample, how.get("tiling"), device)
                if known.key(method, sample, f"{cut} {ensemble}", device) not in store:
                    tiles = (cut or WHOLE).tiles(*sample.lr.shape[:2])
                    views = 8 if ensemble else 1
                    sizes += views * [(r.stop - r.start) * (c.stop - c.start) for r, c in tiles]
                    pictures[method] += 1
    rows = []
    for method, sizes in seen.items():
        name = known.split_change(method)[0]
        rest, position, seconds = _cost(name, device) if sizes else (0.0, 0.0, 0.0)
        memory = (rest + position * max(sizes, default=0)) / 2**20
        rows.append((method, pictures[method], len(sizes), seconds * sum(sizes), memory))
    return pd.DataFrame(rows, columns=["method", "pictures", "tiles", "seconds", "memory"])


@functools.cache
def _cost(name: str, device: str) -> tuple[float, float, float]:
    """Measure bytes of the process at rest, and bytes and seconds that a position takes."""
    import torch

    loaded = known.network(name, device)
    x = torch.rand(1, 3, TRIED, TRIED, device=device)
    with torch.inference_mode():
        _tiled(loaded, x[:, :, ::2, ::2], None)  # to warm up
        rest = _peak(device, forget=True)
        start = time.perf_counter()
        _tiled(loaded, x, None)
        seconds = time.perf_counter() - start
    return rest, max(_peak(device) - rest, 1.0) / TRIED**2, seconds / TRIED**2


def _peak(device: str, forget: bool = False) -> float:
    """Return the most bytes that this process, or the GPU, has held, or holds now: ``forget``."""
    import torch

    if device != "cpu":
        if forget:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.max_memory_allocated(device))
    if not sys.platform.startswith("linux"):
        return 0.0  # only Linux tells
    if forget:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
            Path("/proc/self/clear_refs").write_text("5")  # see proc(5)
    return 1024.0 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
