"""``dtfn bench``: how near the networks run to this machine's limit, in ratios within one run.

The limit is the time that the products (convolutions, matrix products) of a pass would take at the
measured rate of a large one, or that their bytes would take at the measured rate of a copy,
whichever is longer: that one is what limits the row.
"""

import multiprocessing
import resource
import timeit
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from tqdm import tqdm

from dtfn import methods, models

# Arithmetic: the type under autocast (None: none), and the precision of float32 products.
KINDS = {"fp32": (None, "highest"), "tf32": (None, "high"), "bf16": (torch.bfloat16, "high")}


class Job(NamedTuple):
    """One row: a forward pass of a network, or a training step, on (batch, 3, side, side)."""

    name: str
    scale: int
    batch: int
    side: int
    kind: str
    backward: bool = True


CPU_STEPS = (
    Job("dtfn", 2, 1, 48, "fp32"),
    Job("mini-dtfn", 2, 16, 32, "fp32"),
    *(Job(f"mini-{n}", 2, 16, 32, "bf16") for n in ("dtfn", "nlsa", "nla", "local")),
)
GPU_JOBS = (
    *(Job("dtfn", 2, 16, 48, kind) for kind in KINDS),
    Job("dtfn", 2, 1, 128, "bf16", False),
    Job("dtfn", 2, 1, 256, "tf32", False),
    *(Job(f"mini-{n}", 4, 16, 48, "bf16") for n in ("local", "nla", "nlsa", "gla", "dtfn")),
)


def table(sizes: tuple[int, ...], threads: int = 0, device: str = "cpu") -> pd.DataFrame:
    """Return a row a job; on a CPU also full-size passes of ``sizes``, each in its own process."""
    if methods.torch_device(device) == "cuda":
        return pd.DataFrame([measure(job, "cuda") for job in tqdm(GPU_JOBS, "bench")])
    passes = [Job("dtfn", 2, 1, size, "fp32", False) for size in sizes]
    jobs = [*passes, passes[0]._replace(kind="bf16"), *CPU_STEPS]
    spawn, count = multiprocessing.get_context("spawn"), (threads or torch.get_num_threads(),)
    with ProcessPoolExecutor(1, spawn, torch.set_num_threads, count, max_tasks_per_child=1) as pool:
        return pd.DataFrame(list(tqdm(pool.map(measure, jobs), "bench", len(jobs))))


def measure(job: Job, device: str = "cpu") -> dict[str, Any]:
    """Return one row of `table`."""
    name, scale, batch, side, kind, backward = job
    half, products = KINDS[kind]
    torch.manual_seed(0)
    if device == "cuda":  # on a CPU the setting would keep layers from their faster products
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = products == "high"
        torch.backends.cudnn.benchmark = True
    rounds = {"n_hashes": 3} if name == "dtfn" and backward else {}  # as the authors train
    network = models.create(name, scale, **rounds).to(device)
    network = network.to(memory_format=torch.channels_last).train(backward)  # type: ignore[call-overload]
    x = torch.rand(batch, 3, side, side, device=device).to(memory_format=torch.channels_last)

    def run() -> None:
        network.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(backward):
            with torch.autocast(device, half or torch.bfloat16, enabled=half is not None):
                out = network(x)
            if backward:
                out.float().abs().mean().backward()

    with Products() as made:  # type: ignore[no-untyped-call]
        run()
    if device == "cuda":  # the first pass also tried kernels
        torch.cuda.reset_peak_memory_stats()
    spent = seconds(run, 5 if device == "cuda" else 2, device)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else held
    operations, moved = rates(half or torch.float32, device)
    compute, memory = made.flops / operations, made.bytes / moved
    limit = max(compute, memory)
    return {
        "what": f"{name} x{scale} {'step' if backward else 'forward'} {kind}",
        "size": f"{batch}x{side}x{side}",
        "ms": round(1e3 * spent, 1),
        "limit ms": round(1e3 * limit, 1),
        "share of the limit": round(limit / spent, 3),
        "limited by": "products" if compute >= memory else "memory",
        "peak GiB": round(peak, 2),
    }


class Products(TorchDispatchMode):
    """Counts the operations of the products that run inside it, and the bytes that they move."""

    flops = 0  # two a multiply-add
    bytes = 0  # read and written, each tensor once

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if counter := flop_registry.get(func._overloadpacket):
            self.flops += counter(*args, **(kwargs or {}), out_val=out)
            moved = (*args, *(out if isinstance(out, tuple) else (out,)))
            self.bytes += sum(t.numel() * t.element_size() for t in moved if isinstance(t, Tensor))
        return out


def seconds(call: Callable[[], object], repeats: int, device: str) -> float:
    """Return the least wall time of ``repeats`` calls after one to warm up."""
    wait: Any = torch.cuda.synchronize if device == "cuda" else lambda: None
    return min(timeit.repeat(lambda: (call(), wait()), number=1, repeat=repeats + 1)[1:])


def rates(dtype: torch.dtype, device: str) -> tuple[float, float]:
    """Return the operations a second of a large product, and the bytes a second of a large copy.

    The product is of matrices or a convolution, whichever is faster: the libraries differ.
    """
    side, width = (8192, 192) if device == "cuda" else (2048, 96)
    a, b = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    x, weight = torch.rand(1, 256, width, width), torch.rand(256, 256, 3, 3)
    x, weight = (t.to(device, dtype, memory_format=torch.channels_last) for t in (x, weight))
    source = torch.zeros(2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    with torch.inference_mode():
        matrices = 2 * side**3 / seconds(lambda: a @ b, 5, device)
        convolution = seconds(lambda: torch.conv2d(x, weight, padding=1), 5, device)
        copy = seconds(lambda: target.copy_(source), 5, device)  # each byte is read and written
    operations = max(matrices, 2 * width**2 * weight.numel() / convolution)
    return operations, 2 * source.numel() / copy
