"""Where a training run runs: Lightning Fabric, and how a network is spread over its processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import lightning_fabric as lightning
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard

from dtfn.errors import InputError, nearest
from dtfn.models.networks import ResidualGroup

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

STRATEGIES = ("auto", "ddp", "fsdp")


def start(
    accelerator: str, devices: int, num_nodes: int, strategy: str, precision: str
) -> lightning.Fabric:
    """Start the processes of a run and return this one's handle.

    Parameters
    ----------
    accelerator
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    devices, num_nodes
        Processes (on a CPU) or GPUs a node, and nodes.
    strategy
        ``"auto"``; ``"ddp"``: every process has the whole network; ``"fsdp"``: a share of it.
    precision
        ``"32"`` or ``"32-true"``, ``"bf16-mixed"``, or, on a GPU, ``"16-mixed"``.

    Raises
    ------
    InputError
        An unknown strategy, hardware that is not there, or fewer processes than were asked for.
    """
    if strategy not in STRATEGIES:
        raise InputError(
            "strategy", expected=" or ".join(STRATEGIES), found=repr(strategy),
            remedy=nearest(strategy, STRATEGIES),
        )  # fmt: skip
    if accelerator == "auto" and not torch.cuda.is_available() and not torch.mps.is_available():
        accelerator = "cpu"
    if accelerator == "cpu" and precision == "16-mixed":
        raise InputError(
            "precision", expected="bf16-mixed or 32-true on a CPU", found=precision,
            remedy="choose one of these",
        )  # fmt: skip
    chosen: str | ModelParallelStrategy = strategy
    if strategy == "fsdp":
        chosen = ModelParallelStrategy(
            shard, data_parallel_size=devices * num_nodes, tensor_parallel_size=1
        )
    try:
        fabric = lightning.Fabric(
            accelerator=accelerator, devices=devices, num_nodes=num_nodes,
            strategy=chosen, precision=precision, plugins=_own_processes(),  # type: ignore[arg-type]
        )  # fmt: skip
        fabric.launch()
    except Exception as error:  # Fabric raises many kinds for what is not there
        raise InputError(
            f"{devices} x {accelerator}, strategy {strategy}, {precision}",
            expected="hardware that Lightning Fabric can use", found=str(error).splitlines()[0],
            remedy="change --devices, --strategy or --precision",
        ) from error  # fmt: skip
    if fabric.world_size != devices * num_nodes:
        raise InputError(
            "processes", expected=f"{devices} on each of {num_nodes} node(s)",
            found=f"{fabric.world_size} that were started",
            remedy="start as many tasks a node (srun --ntasks-per-node), or one task in all",
        )  # fmt: skip
    return fabric


def _own_processes() -> list[LightningEnvironment]:
    """Let Fabric start the processes in a Slurm job of one task; else it waits for Slurm's."""
    single = SLURMEnvironment.detect() and os.environ["SLURM_NTASKS"] == "1"
    return [LightningEnvironment()] if single else []


def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Spread weights over processes (FSDP): each residual group by itself, then the rest."""
    module = module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for part in module.modules():
        if isinstance(part, ResidualGroup):
            fully_shard(part, mesh=mesh["data_parallel"])
    fully_shard(module, mesh=mesh["data_parallel"])
    return module


def place_like(module: nn.Module, placed: nn.Module, fabric: lightning.Fabric) -> nn.Module:
    """Put a copy of a network where the network is: on its device, sharded if it is."""
    module = module.to(fabric.device)
    if isinstance(fabric.strategy, ModelParallelStrategy):
        return shard(module, fabric.strategy.device_mesh)
    return module
