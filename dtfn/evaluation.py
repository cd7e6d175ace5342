"""Run networks over benchmarks and measure them, into one tidy table.

A method is ``"bicubic"``, a name of the zoo or of imported weights, the path of a weights file, or
a user's own network, ``FILE.py:function`` (see `dtfn.zoo.own`). ``METHOD@CHANGE`` is the same
network with changed attention, e.g. ``nlsa-x4-s0@off``: see `dtfn.interventions.KINDS`. Several
changes are joined by ``+``: ``nla-x4-s0@off+turn(1)``.
Networks run on whole images or in tiles (`dtfn.tiling`); outputs are kept on disk (`dtfn.cache`).
`psnr` and `ssim` are those of `dtfn.metrics`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from dtfn import cache, files, images, zoo
from dtfn import datasets as benchmarks
from dtfn.cache import Arrays
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.metrics import Float, Grey
from dtfn.metrics import psnr as psnr
from dtfn.metrics import ssim as ssim
from dtfn.subpixel import block_error, luma
from dtfn.tiling import Budget, Chop, Tiling, Way

if TYPE_CHECKING:
    import torch
    from torch import nn

BICUBIC = "bicubic"
DENSE_TILE = Tiling(96, 8)  # attention from all positions to all is quadratic in their number
OWN_TILE = Tiling(48, 8)  # the same in a user's own network, which keeps all weights at once
_CHANGE = re.compile(r"[a-z]+(\([0-9]+\))?(\+[a-z]+(\([0-9]+\))?)*")
TRIED = 64  # LR positions a side of the image that a network's cost is measured on

Names = Sequence[str] | str
"""Several names, or a single one."""


class Output(NamedTuple):
    """What a method made of one LR image.

    Attributes
    ----------
    image
        uint8 ``(sH, sW, 3)`` RGB.
    seconds
        Wall time of the run that made it, also where the cache remembered it.
    """

    image: NDArray[np.uint8]
    seconds: float


class _Cost(NamedTuple):
    """What a network takes: bytes of the process at rest; bytes and seconds a position."""

    rest: float
    position: float
    seconds: float


def outputs(
    methods: Names,
    sample: Sample,
    tiling: Way = None,
    self_ensemble: bool = False,
    device: str = "cpu",
) -> dict[str, Output]:
    """Return what each method makes of the sample's LR image.

    Parameters
    ----------
    methods
        One or more methods.
    sample
        The LR image and its scale.
    tiling, self_ensemble
        As for `upscale`; with a `dtfn.tiling.Budget`, images that do not fit into it are tiled.
    device
        ``"cpu"``, ``"cuda"``, or ``"auto"`` for a GPU where there is one. Another device gives
        other last digits.

    Raises
    ------
    InputError
        For an unknown method, one of another scale, or a budget that is too small.
    """
    results = {}
    with cache.opened():
        for method in _meant(methods):
            if method == BICUBIC:
                start = time.perf_counter()
                image = images.imresize(sample.lr, sample.scale)
                results[method] = Output(image, time.perf_counter() - start)
                continue
            chosen = _tiling(method, sample, tiling, torch_device(device))
            key = _key(method, sample, f"{chosen} {self_ensemble}", torch_device(device))

            def make(method: str = method, chosen: Tiling | Chop | None = chosen) -> Arrays:
                loaded = _of_scale(method, sample.scale, torch_device(device))
                start = time.perf_counter()
                with _changed(loaded, method):
                    image = upscale(loaded, sample.lr, chosen, self_ensemble)
                return {"image": image, "seconds": np.array(time.perf_counter() - start)}

            arrays = cache.remembered(key, make)
            results[method] = Output(arrays["image"], float(arrays["seconds"]))
    return results


def block_errors(methods: Names, sample: Sample, device: str = "cpu") -> dict[str, Float]:
    """Return the block errors of each method on a picture, from outputs that are not rounded.

    Networks with attention from all positions to all run in the tiles of their card, else of
    `DENSE_TILE`; others see the whole picture.

    Parameters
    ----------
    methods, device
        As for `outputs`.
    sample
        The picture with its truth.

    Returns
    -------
    Method -> float64 ``(H, W)``, see `dtfn.subpixel.block_error`; without rounding, its mean over
    the interior positions is the MSE behind the PSNR on Y.
    """
    made: dict[str, Float] = {}
    truth = luma(sample.hr)
    with cache.opened():
        for method in _meant(methods):
            if method == BICUBIC:
                image = images.imresize(sample.lr, sample.scale)
                made[method] = block_error(image, truth, sample.scale)
                continue
            tiling = analysis_tiling(method)
            tiling = None if tiling and len(tiling.tiles(*sample.lr.shape[:2])) == 1 else tiling

            def make(method: str = method, tiling: Tiling | None = tiling) -> Arrays:
                loaded = _of_scale(method, sample.scale, torch_device(device))
                with _changed(loaded, method):
                    y = images.luma(255 * unrounded(loaded, sample.lr, tiling))
                return {"errors": block_error(y, truth, sample.scale).astype(np.float32)}

            way = f"errors {tiling} {cache.source('subpixel')}"
            key = cache.key(_key(method, sample, way, torch_device(device)), sample.hr)
            made[method] = cache.remembered(key, make)["errors"].astype(np.float64)
    return made


def split_change(method: str) -> tuple[str, str]:
    """Return a method's network and the change of its attention, "" for none."""
    name, mark, change = method.rpartition("@")
    return (name, change) if mark and _CHANGE.fullmatch(change) else (method, "")


def _changed(network: nn.Module, method: str) -> AbstractContextManager[object]:
    """Return the context in which a method's network runs."""
    change = split_change(method)[1]
    stack = contextlib.ExitStack()
    if change:
        from dtfn.interventions import intervened

        for kind in change.split("+"):
            stack.enter_context(intervened(network, kind))
    return stack


def remembered(
    method: str, sample: Sample, way: str, make: Callable[[nn.Module], Arrays]
) -> Arrays:
    """Return arrays that a network gives for a sample, by name; they are computed once.

    Parameters
    ----------
    method
        A method with a network.
    sample
        The sample; LR, HR and scale may count.
    way
        Names all else that the arrays depend on, code too: see `dtfn.cache.source`.
    make
        The network -> the arrays.

    Raises
    ------
    InputError
        For an unknown network, or one of another scale.
    """
    key = cache.key(_key(method, sample, way, "cpu"), sample.hr)
    return cache.remembered(key, lambda: make(_of_scale(method, sample.scale, "cpu")))


def evaluate(
    methods: Names,
    datasets: Names,
    scale: int,
    count: int | None = None,
    *,
    tiling: Way = None,
    self_ensemble: bool = False,
    device: str = "cpu",
    grey: Grey = "rgb",
    rounded: bool = False,
) -> pd.DataFrame:
    """Measure every method on every image.

    Parameters
    ----------
    methods
        One or more methods.
    datasets
        One or more names for `dtfn.datasets.benchmark`.
    scale
        2, 3 or 4.
    count
        Only the first so many images of each dataset.
    tiling, self_ensemble, device
        As for `outputs`; bicubic does not depend on them.
    grey, rounded
        The rule for grey pictures, and whether Y is rounded: see `dtfn.metrics.psnr`.

    Returns
    -------
    A row an image and method: method, dataset, image, scale, psnr (dB), ssim, seconds, and lr:
    ``"file"`` where LR was given, ``"from HR"`` where it was made.

    Raises
    ------
    InputError
        For unknown or unfit methods, before anything is computed, and for missing datasets.
    """
    require(methods, scale)
    with cache.opened():
        rows = [
            {
                "method": method,
                "dataset": sample.dataset,
                "image": sample.image,
                "scale": scale,
                "psnr": psnr(output.image, sample.hr, scale, grey, rounded),
                "ssim": ssim(output.image, sample.hr, scale, grey, rounded),
                "seconds": output.seconds,
                "lr": "file" if sample.lr_file else "from HR",
            }
            for sample in samples(datasets, scale, count)
            for method, output in outputs(methods, sample, tiling, self_ensemble, device).items()
        ]
    return pd.DataFrame(rows)


def forecast(
    methods: Names,
    datasets: Names,
    scale: int,
    count: int | None = None,
    *,
    tiling: Way = None,
    self_ensemble: bool = False,
    device: str = "cpu",
) -> pd.DataFrame:
    """Say, before it is done, what `evaluate` will cost; parameters and errors as there.

    Each network is tried on one small image, and time and memory are taken to grow with the
    positions. What the cache holds costs nothing.

    Returns
    -------
    A row a method: method, pictures (to be run), tiles (that the network will see), seconds,
    memory (MB of the process at its peak).
    """
    require(methods, scale)
    device = torch_device(device)
    tiles: dict[str, list[list[int]]] = {m: [] for m in _meant(methods) if m != BICUBIC}
    with cache.opened():
        for sample in samples(datasets, scale, count) if tiles else ():
            for method in tiles:
                chosen = _tiling(method, sample, tiling, device)
                if cache.missing(_key(method, sample, f"{chosen} {self_ensemble}", device)):
                    cut = (chosen or Tiling(2**20)).tiles(*sample.lr.shape[:2])
                    seen = [(r.stop - r.start) * (c.stop - c.start) for r, c in cut]
                    tiles[method].append(seen * (8 if self_ensemble else 1))
    rows = []
    for method, pictures in tiles.items():
        runs = [positions for picture in pictures for positions in picture]
        name = split_change(method)[0]
        cost = _cost(name, fingerprint(name), device) if runs else _Cost(0, 0, 0)
        memory = (cost.rest + cost.position * max(runs, default=0)) / 2**20
        rows.append((method, len(pictures), len(runs), cost.seconds * sum(runs), memory))
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


def progress(*iterable: Iterable[Any], **options: Any) -> Any:
    """Return tqdm's bar where somebody looks: on a terminal, or in a notebook that a person runs.

    A notebook that the suite runs keeps no bars; parameters are tqdm's.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if type(shell).__name__ == "ZMQInteractiveShell" and "DTFN_RUN_DIR" not in os.environ:
        from tqdm.notebook import tqdm as notebook_bar

        return notebook_bar(*iterable, **options)
    return tqdm(*iterable, disable=None, **options)


def samples(
    datasets: Names, scale: int, count: int | None = None, methods: Names = ()
) -> Iterator[Sample]:
    """Yield the samples of some datasets, with a progress bar.

    Parameters
    ----------
    datasets, scale, count
        As for `evaluate`.
    methods
        Their outputs come with each sample.
    """
    totals = {name: len(benchmarks.names(name)[:count]) for name in _listed(datasets)}
    for dataset, total in totals.items():  # all of them are there
        bar = {"desc": f"{dataset} x{scale}", "total": total, "unit": "image"}
        for sample in progress(benchmarks.benchmark(dataset, scale, count), **bar):
            made = outputs(methods, sample) if methods else {}
            yield sample.with_outputs({name: output.image for name, output in made.items()})


def upscale(
    network: nn.Module | str,
    lr: NDArray[np.uint8],
    tiling: Tiling | Chop | None = None,
    self_ensemble: bool = False,
) -> NDArray[np.uint8]:
    """Return the super-resolved image of ``lr``.

    Parameters
    ----------
    network
        Maps RGB in [0, 1] ``(1, 3, H, W)`` to ``(1, 3, sH, sW)``, s being its attribute ``scale``.
        It runs in evaluation mode, on the device of its weights. Or the name of such a method.
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
    if isinstance(network, str):
        name, network = network, _network(split_change(network)[0], fingerprint(network), "cpu")
        with _changed(network, name):
            return upscale(network, lr, tiling, self_ensemble)
    y = unrounded(network, lr, tiling, self_ensemble)
    return np.floor(y * 255 + np.float32(0.5)).astype(np.uint8)


def unrounded(
    network: nn.Module,
    lr: NDArray[np.uint8],
    tiling: Tiling | Chop | None = None,
    self_ensemble: bool = False,
) -> NDArray[np.float32]:
    """Return `upscale`'s image before it is rounded, float32 ``(sH, sW, 3)`` in [0, 1]."""
    import torch

    if lr.dtype != np.uint8 or lr.ndim != 3 or lr.shape[2] != 3:
        raise InputError(
            "LR image", "uint8 (H, W, 3)", f"{lr.dtype} {lr.shape}", "use dtfn.images.as_rgb"
        )
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            x = torch.from_numpy(lr.copy()).to(device).permute(2, 0, 1)[None]  # (1, 3, H, W)
            x = x.float() / 255
            y = (_ensemble if self_ensemble else _tiled)(network, x, tiling)[0].clamp(0, 1)
    finally:
        network.train(was_training)
    made: NDArray[np.float32] = np.ascontiguousarray(y.permute(1, 2, 0).cpu().numpy())
    return made


def _ensemble(network: nn.Module, x: torch.Tensor, tiling: Tiling | Chop | None) -> torch.Tensor:
    """Return the mean (1, 3, sH, sW) over the dihedral group, each turned back."""
    total: torch.Tensor | None = None
    for turned, flips in itertools.product((False, True), ((), (2,), (3,), (2, 3))):
        seen = x.flip(flips).mT if turned else x.flip(flips)
        made = _tiled(network, seen, tiling)
        made = (made.mT if turned else made).flip(flips)
        total = made if total is None else total + made
    assert total is not None
    return total / 8


def _tiled(network: nn.Module, x: torch.Tensor, tiling: Tiling | Chop | None) -> torch.Tensor:
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


def _run(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    import torch

    y = network(x.contiguous(memory_format=torch.channels_last)).float()
    scale = int(network.scale)  # type: ignore[arg-type]
    shape = (scale * x.shape[2], scale * x.shape[3], 3)
    found = (*y.shape[2:], y.shape[1])
    finite = bool(torch.isfinite(y).all())
    if not finite or found != shape:
        raise InputError(
            "network output",
            f"finite numbers of shape {shape}",
            f"{'finite numbers' if finite else 'NaN or infinity'}, {found}",
            "the weights or the scale are wrong: load or train the network again",
        )
    return y


def require(methods: Names, scale: int) -> None:
    """Check, before anything runs, that every method exists and has this scale.

    Raises
    ------
    InputError
        For no method at all, an unknown one, or one of another scale.
    """
    if not methods:
        raise InputError("methods", "one or more", "none", "name one")
    scales = {row["name"]: int(row["scale"]) for row in zoo.everything()}
    for method in _listed(methods):
        fingerprint(method)
        name, change = split_change(method)
        if name in scales and not change:
            _require_scale(method, scales[name], scale)
        elif method != BICUBIC:
            _of_scale(method, scale, "cpu")


def fingerprint(method: str) -> str:
    """Return the SHA-256 of a method's weights, of code too for a user's own; else ``"bicubic"``.

    Raises
    ------
    InputError
        For an unknown name, or weights that are missing.
    """
    name, change = split_change(method)
    if change:
        return f"{fingerprint(name)} @{change} {cache.source('interventions')}"
    if mine := zoo.own(method):
        return f"{mine.fingerprint()} {cache.source('own')}"
    return BICUBIC if method == BICUBIC else files.sha256(zoo.file_of(method))


def network(method: str, device: str = "cpu") -> nn.Module:
    """Return the network of a method, loaded once a process.

    Parameters
    ----------
    method
        A name or file, as for `dtfn.models.load`.
    device
        ``"cpu"`` or ``"cuda"``, perhaps with a number.

    Raises
    ------
    InputError
        As `dtfn.models.load`; or this machine has no such device.
    """
    name = split_change(method)[0]
    loaded = _network(name, fingerprint(name), device)
    with _changed(loaded, method):  # fails here, before anything is computed
        return loaded


def analysis_tiling(method: str) -> Tiling | None:
    """Return the tiles in which `block_errors` runs a network; None for whole images."""
    from dtfn.models.attention import NonLocalAttention

    name = split_change(method)[0]
    loaded = network(name)
    if zoo.own(name):
        return OWN_TILE if loaded.dense else None
    dense = any(isinstance(layer, NonLocalAttention) for layer in loaded.modules())
    return card_tiling(name) or (DENSE_TILE if dense else None)


def card_tiling(method: str) -> Tiling | None:
    """Return the tiles that a network of the zoo is run in; None for whole images.

    Attention from all positions to all takes minutes for a large image; such networks are measured
    in tiles, and shown as they were measured.
    """
    name = split_change(method)[0]
    tile = next((row.get("tile") for row in zoo.registry() if row["name"] == name), None)
    return Tiling(*tile) if tile else None


def _listed(names: Names) -> list[str]:
    """Return names in their order, each once."""
    return [names] if isinstance(names, str) else list(dict.fromkeys(names))


def _meant(names: Names) -> list[str]:
    """Return names as `_listed`; refuse a change that a user's own network was not trained for."""
    for method in (listed := _listed(names)):
        name, change = split_change(method)
        kinds = change.split("+") if zoo.own(name) else []
        if unfit := [kind for kind in kinds if kind in ("off", "hashing")]:
            raise InputError(
                f"method {method!r}",
                "a change that leaves each position its keys: @uniform, @random, @self",
                f"@{unfit[0]}, which is off-distribution: nobody trained the network for it",
                "compare it with another network, one without attention",
            )
    return listed


def torch_device(name: str) -> str:
    """Return what ``"auto"`` stands for; others as given."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _tiling(method: str, sample: Sample, tiling: Way, device: str) -> Tiling | Chop | None:
    """Return how an image is cut: None where it is a single tile, a budget's choice made."""
    size = sample.lr.shape[:2]
    tiling = tiling or card_tiling(method)
    if isinstance(tiling, Budget):
        name = split_change(method)[0]
        cost = _cost(name, fingerprint(name), device)
        tiling = tiling.tiling(cost.rest, cost.position, *size)
    return None if tiling is None or len(tiling.tiles(*size)) == 1 else tiling


def _key(method: str, sample: Sample, way: str, device: str) -> str:
    """Return what an output depends on, hashed."""
    code = cache.source("models")
    return cache.key(fingerprint(method), sample.lr, sample.scale, way, device, code)


@functools.cache
def _network(method: str, weights: str, device: str) -> nn.Module:
    """Load a network; the hash of its weights counts, because a file can be trained anew."""
    import torch

    from dtfn import models, own

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {device!r}",
            "cpu, or cuda where there is a GPU",
            str(error).splitlines()[0],
            "leave it out, or install a torch with CUDA",
        ) from error
    loaded: nn.Module = own.load(method) if zoo.own(method) else models.load(method)
    return loaded.to(device)


def _of_scale(method: str, scale: int, device: str) -> nn.Module:
    loaded = network(method, device)
    _require_scale(method, int(loaded.scale), scale)  # type: ignore[arg-type]
    return loaded


def _require_scale(method: str, found: int, scale: int) -> None:
    if found != scale:
        raise InputError(
            f"network {method!r}",
            f"scale {scale}",
            f"scale {found}",
            "choose a network of that scale",
        )


@functools.cache
def _cost(method: str, weights: str, device: str) -> _Cost:
    """Measure what a network takes: one run on a small image, after a smaller one to warm up."""
    import torch

    loaded = _network(method, weights, device)
    x = torch.rand(1, 3, TRIED, TRIED, device=device)
    with torch.inference_mode():
        _run(loaded, x[:, :, ::2, ::2])
        rest = _peak(device, forget=True)
        start = time.perf_counter()
        _run(loaded, x)
        seconds = time.perf_counter() - start
    return _Cost(rest, max(_peak(device) - rest, 1.0) / TRIED**2, seconds / TRIED**2)


def _peak(device: str, forget: bool = False) -> float:
    """Return the most bytes that this process has held, of the GPU if the device is one.

    Parameters
    ----------
    forget
        Let the peak be what is held now, and return that.
    """
    import torch

    if device != "cpu":
        if forget:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.max_memory_allocated(device))
    if sys.platform != "linux":
        import resource

        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    if forget:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
            Path("/proc/self/clear_refs").write_text("5")  # see proc(5)
    status = Path("/proc/self/status").read_text()
    return 1024.0 * int(status.partition("VmHWM:")[2].split()[0])
