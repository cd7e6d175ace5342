"""``make bench``: how near the networks run to the machine's limit, in ratios within one run.

The limit of a network is the time of its bare convolutions, each timed alone on its own shape in
the same process: what is left if attention, sampling, gating and copying were free. Each row runs
in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import importlib
import multiprocessing
import resource
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from dtfn import models
from dtfn.models import attention, deform

CHANNELS_LAST = torch.channels_last
SIZES = (48, 96, 192)

Shape = tuple[int, int, int, int, int]


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Return the least wall time of ``repeats`` calls after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def convolutions(network: nn.Module, height: int, width: int) -> Counter[Shape]:
    """Count the convolutions of one forward pass by (in, out, kernel, height, width).

    A deformable convolution counts as the plain one of its size; the gates' convolutions of one
    position count for nothing.
    """
    found: Counter[Shape] = Counter()
    factor = 1
    for name, layer in network.named_modules():
        if isinstance(layer, nn.PixelShuffle):
            factor *= layer.upscale_factor
        if isinstance(layer, nn.Conv2d) and "conv_du" not in name and "_mean" not in name:
            size = (height * factor, width * factor)
            found[(layer.in_channels, layer.out_channels, layer.kernel_size[0], *size)] += 1
    return found


def limit(network: nn.Module, batch: int, size: int, backward: bool = False) -> float:
    """Return the seconds of the bare convolutions of one pass over (batch, 3, size, size)."""
    total = 0.0
    for (cin, cout, kernel, h, w), count in convolutions(network, size, size).items():
        x = torch.rand(batch, cin, h, w).contiguous(memory_format=CHANNELS_LAST)
        layer = nn.Conv2d(cin, cout, kernel, padding=kernel // 2).to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload]
        x.requires_grad_(backward)

        def run(x: Tensor = x, layer: nn.Module = layer) -> None:
            out = layer(x)
            if backward:
                out.backward(out.detach())

        total += count * seconds(run, 3)
    return total


def forward(
    name: str, scale: int, size: int, bf16: bool = False, **hyperparameters: Any
) -> dict[str, Any]:
    """Measure a whole-image forward pass of one (3, size, size) image."""
    torch.manual_seed(0)
    network = models.create(name, scale, **hyperparameters).eval().to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload]
    x = torch.rand(1, 3, size, size)
    half = torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()
    with torch.inference_mode(), half:
        spent = seconds(lambda: network(x), 3 if size < 100 else 1)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        bare = limit(network, 1, size)
    kind = "bf16" if bf16 else "fp32"
    return _row(f"{name} x{scale} forward {kind}", f"{size}x{size}", spent, bare, peak)


def step(
    name: str, scale: int, batch: int, size: int, bf16: bool = False, **hyperparameters: Any
) -> dict[str, Any]:
    """Measure forward and backward of a training step."""
    torch.manual_seed(0)
    network = models.create(name, scale, **hyperparameters).to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload]
    x = torch.rand(batch, 3, size, size).contiguous(memory_format=CHANNELS_LAST)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = network(x).abs().mean()
        loss.backward()

    spent = seconds(run, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        bare = limit(network, batch, size, backward=True)
    kind = "bf16" if bf16 else "fp32"
    return _row(f"{name} x{scale} step {kind}", f"{batch}x{size}x{size}", spent, bare, peak)


def dense(size: int) -> dict[str, Any]:
    """Measure the dense attention layer against torch's fused attention alone."""
    torch.manual_seed(0)
    layer = attention.NonLocalAttention(32).eval()
    x = torch.rand(1, 32, size, size).contiguous(memory_format=CHANNELS_LAST)
    rows = torch.rand(1, 1, size * size, 32)
    with torch.inference_mode():
        spent = seconds(lambda: layer(x), 3)
        bare = seconds(lambda: F.scaled_dot_product_attention(rows, rows, rows, scale=1.0), 3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return _row("dense NLA, 32 channels (limit: SDPA)", f"{size}x{size}", spent, bare, peak)


def deformable(size: int) -> dict[str, Any]:
    """Measure the deformable convolution; the limit is the plain one, the peer torchvision's."""
    torch.manual_seed(0)
    layer = deform.DeformableConv2d(256, 256).eval()
    nn.init.normal_(layer.offset_conv.weight, std=0.02)
    x = torch.rand(1, 256, size, size).contiguous(memory_format=CHANNELS_LAST)
    with torch.inference_mode():
        offset, logit = layer.offset_conv(x), layer.modulator_conv(x)
        spent = seconds(lambda: layer.sample(x, offset, logit), 3)
        bare = seconds(lambda: layer.regular_conv(x), 3)
        row = _row("deformable conv, 256 channels", f"{size}x{size}", spent, bare, 0.0)
        try:
            deform_conv2d = importlib.import_module("torchvision.ops").deform_conv2d
        except Exception:  # beside a torch it was not built for, importing fails anyhow
            return row | {"peer": "torchvision does not import here"}
        conv, mask = layer.regular_conv, 2 * torch.sigmoid(logit)
        plain = x.contiguous()
        other = seconds(
            lambda: deform_conv2d(plain, offset, conv.weight, conv.bias, padding=1, mask=mask), 3
        )
    return row | {"peer": f"torchvision {other:.3f} s"}


def _row(what: str, size: str, spent: float, bare: float, peak: float) -> dict[str, Any]:
    return {
        "what": what, "size": size, "seconds": round(spent, 3), "limit": round(bare, 3),
        "share": bare / spent, "peak GiB": round(peak, 2), "peer": "",
    }  # fmt: skip


def table(sizes: tuple[int, ...] = SIZES, threads: int = 0) -> pd.DataFrame:
    """Return all measurements; each runs alone in a fresh process.

    Parameters
    ----------
    sizes
        LR sizes of the full-size forward passes.
    threads
        CPU threads; 0 leaves torch's own choice.
    """
    tiny = {"n_hashes": 2, "chunk_size": 64}
    jobs: list[tuple[Callable[..., dict[str, Any]], tuple[Any, ...], dict[str, Any]]] = [
        *((forward, ("dtfn", 2, size), {}) for size in sizes),
        (forward, ("dtfn", 2, sizes[0], True), {}),
        (step, ("dtfn", 2, 1, 48), {"n_hashes": 3}),
        (step, ("mini-dtfn", 2, 16, 32), tiny),
        (step, ("mini-dtfn", 2, 16, 32, True), tiny),
        (step, ("mini-nla", 2, 16, 32, True), {}),
        (step, ("mini-local", 2, 16, 32, True), {}),
        (dense, (96,), {}),
        (deformable, (48,), {}),
    ]
    rows = []
    spawn = multiprocessing.get_context("spawn")
    for function, arguments, keywords in tqdm(jobs, desc="bench"):
        with ProcessPoolExecutor(1, spawn, initializer=_threads, initargs=(threads,)) as pool:
            rows.append(pool.submit(function, *arguments, **keywords).result())
    return pd.DataFrame(rows)


def _threads(count: int) -> None:
    if count:
        torch.set_num_threads(count)
