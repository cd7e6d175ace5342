"""What a network with attention tells about itself at each LR position, without the truth."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from dtfn import capture, evaluation, interventions
from dtfn.datasets import Sample
from dtfn.evaluation import cache
from dtfn.subpixel.blocks import Float, block_error, luma

STEP = 4  # attention varies slowly, and all rows of a dense one would take minutes
SPREAD = ("entropy", "distance", "on_self")


def of_network(
    method: str, sample: Sample, sr: NDArray[np.uint8], step: int = STEP
) -> dict[str, Float]:
    """Return the signals of a network on one picture, as maps ``(H, W)``; remembered.

    Parameters
    ----------
    method
        A network with attention: a name of the zoo or a weights file.
    sample
        The picture, whose LR image the attention sees whole.
    sr
        What the network made of it, uint8 ``(sH, sW, 3)``.
    step
        Ask the attention at every so many rows and columns, and interpolate between them.

    Returns
    -------
    ``entropy`` (nats), ``distance`` (LR pixels) and ``on_self``: `dtfn.capture.summary`, the mean
    over the attention layers; and of a network that hashes ``hash_difference``: mean squared
    difference of each block to the output with another hash seed (MSE on Y).
    """
    way = f"spread every {step} {cache.source('capture', 'predictor/signals.py')}"
    make = functools.partial(_attention, sample.lr, step)
    maps = evaluation.remembered_arrays(method, sample, way, make)
    if interventions.hashes(method):
        other = interventions.output(method, sample, interventions.OTHER)
        maps["hash_difference"] = block_error(other, luma(sr, sr), sample.scale)
    return maps


def _attention(lr: NDArray[np.uint8], step: int, network: nn.Module) -> dict[str, Float]:
    rows, columns = (np.arange(0, size, step) for size in lr.shape[:2])
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    with torch.inference_mode():
        record, _ = capture.run(network, lr)
        found = [record.summary(layer, grid)[list(SPREAD)] for layer in record.layers]
    mean = sum(table.to_numpy() for table in found) / len(found)
    at = np.indices(lr.shape[:2]) / step
    return {
        name: ndimage.map_coordinates(
            mean[:, i].reshape(len(rows), len(columns)), at, order=1, mode="nearest"
        )
        for i, name in enumerate(SPREAD)
    }
