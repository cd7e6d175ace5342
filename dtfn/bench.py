"""``dtfn bench``: how near the networks run to this machine's limit, in ratios within one run.

Two limits stand beside each measured time. *Bare convolutions*: each convolution of the network
timed alone on its own shape, as if attention, sampling, gating and copying were free. *Roofline*:
the products that the pass really makes, at the measured rate of a large matrix product, or the
bytes that they must move, at the measured rate of a copy, whichever takes longer; that one is what
limits the row.
"""

from __future__ import annotations

import functools
import multiprocessing
import resource
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from tqdm import tqdm

from dtfn import evaluation, models

SIZES = (48, 96, 192)
# Arithmetic: the type under autocast (None: none), and the precision of float32 products.
KINDS = {"fp32": (None, "highest"), "tf32": (None, "high"), "bf16": (torch.bfloat16, "high")}

Shape = tuple[int, int, int, int, int]


class Job(NamedTuple):
    """One row: a pass of a network over (batch, 3, side, side) pictures.

    Attributes
    ----------
    name, scale, hyperparameters
        See `dtfn.models.create`.
    batch, side
        Pictures, and their LR pixels a side.
    kind
        A key of `KINDS`.
    backward
        Whether it is a training step.
    """

    name: str
    scale: int
    batch: int
    side: int
    kind: str
    backward: bool
    hyperparameters: dict[str, Any] = {}  # noqa: RUF012


def table(sizes: tuple[int, ...] = SIZES, threads: int = 0, device: str = "cpu") -> pd.DataFrame:
    """Return all measurements, one row a network, size and arithmetic.

    Parameters
    ----------
    sizes
        LR sizes of the full-size forward passes on a CPU.
    threads
        CPU threads; 0 leaves torch's own choice.
    device
        ``"cpu"``, where each row runs alone in a fresh process, so that its peak memory is its own;
        ``"cuda"`` or ``"auto"``.

    Returns
    -------
    Columns what, size, ms; bare ms and roofline ms (the two limits), share of the bare and share
    of the limit (the roofline), limited by, and peak GiB.
    """
    device = evaluation.torch_device(device)
    if device == "cuda":
        return pd.DataFrame([measure(job, device) for job in tqdm(_gpu_jobs(), "bench")])
    rows = []
    spawn = multiprocessing.get_context("spawn")
    for job in tqdm(_cpu_jobs(sizes), desc="bench"):
        with ProcessPoolExecutor(1, spawn, initializer=_threads, initargs=(threads,)) as pool:
            rows.append(pool.submit(measure, job, device).result())
    return pd.DataFrame(rows)


def _cpu_jobs(sizes: tuple[int, ...]) -> list[Job]:
    tiny = {"n_hashes": 2, "chunk_size": 64}
    return [
        *(Job("dtfn", 2, 1, size, "fp32", False) for size in sizes),
        Job("dtfn", 2, 1, sizes[0], "bf16", False),
        Job("dtfn", 2, 1, 48, "fp32", True, {"n_hashes": 3}),
        Job("mini-dtfn", 2, 16, 32, "fp32", True, tiny),
        Job("mini-dtfn", 2, 16, 32, "bf16", True, tiny),
        Job("mini-nlsa", 2, 16, 32, "bf16", True, tiny),
        Job("mini-nla", 2, 16, 32, "bf16", True),
        Job("mini-local", 2, 16, 32, "bf16", True),
    ]


def _gpu_jobs() -> list[Job]:
    mini = ("local", "nla", "nlsa", "gla", "dtfn")
    return [
        *(Job("dtfn", 2, 16, 48, kind, True, {"n_hashes": 3}) for kind in KINDS),
        Job("dtfn", 2, 1, 128, "bf16", False),
        Job("dtfn", 2, 1, 256, "tf32", False),
        *(Job(f"mini-{name}", 4, 16, 48, "bf16", True) for name in mini),
    ]


def measure(job: Job, device: str = "cpu") -> dict[str, Any]:
    """Return one row of `table`."""
    name, scale, batch, side, kind, backward, hyperparameters = job
    half, products = KINDS[kind]
    torch.manual_seed(0)
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = products == "high"
    torch.backends.cudnn.benchmark = True
    network = models.create(name, scale, **hyperparameters).to(device)
    network = network.to(memory_format=torch.channels_last).train(backward)  # type: ignore[call-overload]
    x = torch.rand(batch, 3, side, side, device=device)
    x = x.contiguous(memory_format=torch.channels_last)

    def run() -> None:
        network.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(backward):
            with torch.autocast(device, half or torch.bfloat16, enabled=half is not None):
                out = network(x)
            if backward:
                out.float().abs().mean().backward()

    with Products() as counted:
        run()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    spent = seconds(run, 5 if device == "cuda" else 2, device)
    peak = (
        torch.cuda.max_memory_allocated() / 2**30
        if device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    )
    dtype = half or torch.float32
    with torch.autocast(device, dtype=half or torch.bfloat16, enabled=half is not None):
        bare = bare_convolutions(network, batch, side, backward, device)
    compute = counted.flops / product_rate(dtype, products, device)
    memory = counted.bytes / copy_rate(device)
    limit = max(compute, memory)
    return {
        "what": f"{name} x{scale} {'step' if backward else 'forward'} {kind}",
        "size": f"{batch}x{side}x{side}",
        "ms": round(1e3 * spent, 1),
        "bare ms": round(1e3 * bare, 1),
        "roofline ms": round(1e3 * limit, 1),
        "share of the bare": round(bare / spent, 3),
        "share of the limit": round(limit / spent, 3),
        "limited by": "products" if compute >= memory else "memory",
        "peak GiB": round(peak, 2),
    }


def seconds(call: Callable[[], object], repeats: int, device: str = "cpu") -> float:
    """Return the least wall time of ``repeats`` calls after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


class Products(TorchDispatchMode):
    """Counts the convolutions and matrix products that run inside it.

    Attributes
    ----------
    flops
        Floating-point operations, two a multiply-add.
    bytes
        Read and written by these products, each tensor once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops, self.bytes = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Run an operation of torch, and count it if it is a product."""
        out = func(*args, **(kwargs or {}))
        counter = flop_registry.get(func._overloadpacket)
        if counter is not None:
            self.flops += counter(*args, **(kwargs or {}), out_val=out)
            results = out if isinstance(out, tuple) else (out,)
            tensors = [t for t in (*args, *results) if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return out


@functools.cache
def product_rate(dtype: torch.dtype, precision: str, device: str) -> float:
    """Return the floating-point operations a second of a large matrix product."""
    torch.set_float32_matmul_precision(precision)
    side = 8192 if device == "cuda" else 2048
    a, b = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, 5, device)


@functools.cache
def copy_rate(device: str) -> float:
    """Return the bytes a second, read and written, of a large copy."""
    source = torch.zeros(2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source), 5, device)


def convolutions(network: nn.Module, height: int, width: int) -> Counter[Shape]:
    """Count the convolutions of one forward pass by (in, out, kernel, height, width).

    A deformable convolution counts as the plain one of its size; the gates' convolutions of one
    position count for nothing.
    """
    shapes: Counter[Shape] = Counter()
    factor = 1
    for name, layer in network.named_modules():
        if isinstance(layer, nn.PixelShuffle):
            factor *= layer.upscale_factor
        if isinstance(layer, nn.Conv2d) and "conv_du" not in name and "_mean" not in name:
            size = (height * factor, width * factor)
            shapes[(layer.in_channels, layer.out_channels, layer.kernel_size[0], *size)] += 1
    return shapes


def bare_convolutions(
    network: nn.Module, batch: int, side: int, backward: bool = False, device: str = "cpu"
) -> float:
    """Return the seconds of the bare convolutions of one pass over (batch, 3, side, side)."""
    total = 0.0
    for (cin, cout, kernel, height, width), count in convolutions(network, side, side).items():
        x = torch.rand(batch, cin, height, width, device=device)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_(backward)
        layer = nn.Conv2d(cin, cout, kernel, padding=kernel // 2).to(device)
        layer = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def run(x: Tensor = x, layer: nn.Module = layer) -> None:
            with torch.set_grad_enabled(backward):
                out = layer(x)
                if backward:
                    out.backward(out.detach())

        total += count * seconds(run, 3, device)
    return total


def _threads(count: int) -> None:
    if count:
        torch.set_num_threads(count)
