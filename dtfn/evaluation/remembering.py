"""What a network makes of a sample in any way, or tells about it: made once, then remembered."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dtfn import provenance
from dtfn.datasets import Sample
from dtfn.evaluation import cache, methods
from dtfn.evaluation.cache import Arrays, Output

if TYPE_CHECKING:
    from torch import nn


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
    weights = methods.fingerprint(method)
    key = cache.key(weights, sample.lr, sample.scale, way)
    with cache.opened() as known:
        return known.recall_or_make(key, shape(sample), lambda: made(method, weights, sample, make))


def remembered_arrays(
    method: str, sample: Sample, way: str, make: Callable[[nn.Module], Arrays]
) -> Arrays:
    """Return arrays that a network tells about a sample, by name.

    Parameters and errors are those of `remembered_output`; here the HR image may count as well.
    """
    weights = methods.fingerprint(method)
    way = f"arrays {provenance.array_hash(sample.hr)} {way}"
    key = cache.key(weights, sample.lr, sample.scale, way)
    with cache.opened() as known:
        return known.arrays(key, lambda: make(_network(method, weights, sample)))


def made(
    method: str,
    weights: str,
    sample: Sample,
    make: Callable[[nn.Module], NDArray[np.uint8]],
    device: str = "cpu",
) -> Output:
    """Return what ``make`` makes of the network, and how long it took; loading does not count."""
    network = _network(method, weights, sample, device)
    start = time.perf_counter()
    image = make(network)
    return Output(image, time.perf_counter() - start)


def shape(sample: Sample) -> tuple[int, int, int]:
    """Return the shape of every output of a sample."""
    return sample.scale * sample.lr.shape[0], sample.scale * sample.lr.shape[1], 3


def _network(method: str, weights: str, sample: Sample, device: str = "cpu") -> nn.Module:
    network = methods.network(method, weights, device)
    methods.require_scale(method, int(network.scale), sample.scale)  # type: ignore[arg-type]
    return network
