"""What a position of an attention layer attends to, and where deformable values are read.

Users find these functions in `dtfn.capture`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dtfn.capture.rows import attention_of, checked, rows
from dtfn.errors import InputError
from dtfn.models.attention import DeformableNonLocalFusion
from dtfn.models.deform import DeformableConv2d

Queries = Sequence[tuple[int, int]] | NDArray[np.integer] | Tensor


def attention_map(module: nn.Module, features: Tensor, query: tuple[int, int]) -> Tensor:
    """Return what one position attends to, on the whole LR grid.

    Parameters
    ----------
    module
        One of the five layers of `dtfn.models.attention`, or a `TextureFidelity` around one.
    features
        (1, C, H, W): what the layer gets as input; `dtfn.capture.record` keeps it.
    query
        (row, column) of the position.

    Returns
    -------
    Tensor
        (H, W), non-negative, sum 1. The sum over positions of map times ``conv_assembly(features)``
        is what the attention adds at the query, before ``res_scale`` (and before the fusion, where
        there is one).

    Raises
    ------
    InputError
        Another module; features of another shape; a query outside.

    Notes
    -----
    Softmax and sparsemax attention are one row of scores. With hashing, the query's key positions
    are those of its own chunk and of both neighbours in every hash round. Mixing the rounds by the
    softmax of their logsumexp is one softmax over all of them together; a position that occurs
    several times (in several rounds, as a repeat that pads the last chunk, or because with two
    chunks both neighbours are the same) gets the sum.
    """
    return attention_maps(module, features, [query])[0]


def attention_maps(module: nn.Module, features: Tensor, queries: Queries) -> Tensor:
    """Return what several positions attend to: (Q, H, W), as `attention_map`.

    Parameters
    ----------
    module, features
        As for `attention_map`.
    queries
        Q times (row, column).
    """
    whole = rows(module, features)
    return whole.maps(flat(queries, whole.height, whole.width, features.device))


def sampling_points(
    module: nn.Module, features: Tensor, query: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return where a deformable layer reads the value of one position.

    Parameters
    ----------
    module, features, query
        As for `attention_map`; the layer is a `DeformableNonLocalFusion`. To see what a query
        copies, ask for the positions that it attends to.

    Returns
    -------
    positions : Tensor
        (9, 2): (row, column) of the bilinear samples in LR pixels, taps row-major. Outside of the
        image the features count as 0.
    weights : Tensor
        (9,): the modulation of the taps, in [0, 2].

    Raises
    ------
    InputError
        As for `attention_map`; a layer whose values are not deformable.
    """
    layer = attention_of(module)
    if not isinstance(layer, DeformableNonLocalFusion):
        raise InputError(
            "sampling points", expected="a layer with deformable values (DTFN's)",
            found=type(layer).__name__, remedy="its values are a plain convolution at the position",
        )  # fmt: skip
    x = checked(layer, features)
    row, column = divmod(int(flat([query], x.shape[2], x.shape[3])), x.shape[3])
    values: DeformableConv2d = layer.conv_assembly  # type: ignore[assignment]
    with torch.no_grad():
        offset = values.offset_conv(x)[0, :, row, column].view(9, 2)
        modulation = 2 * torch.sigmoid(values.modulator_conv(x)[0, :, row, column])
    tap = torch.arange(9, device=x.device)
    regular = torch.stack((row + tap // 3 - 1, column + tap % 3 - 1), -1)
    return regular + offset, modulation


def flat(queries: Queries, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Return (row, column) pairs as flat positions (Q,), int64.

    Raises
    ------
    InputError
        No pairs of whole numbers, or one that is outside.
    """
    pairs = queries.cpu().numpy() if isinstance(queries, Tensor) else np.asarray(queries)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise InputError(
            "query", expected="(row, column) pairs of whole numbers", found=queries,
            remedy="pass for example [(0, 0)]",
        )  # fmt: skip
    outside = ((pairs < 0) | (pairs >= (height, width))).any(1)
    if outside.any():
        raise InputError(
            "query", expected=f"a position of the {height} x {width} LR grid",
            found=tuple(pairs[outside][0].tolist()), remedy="choose one inside the image",
        )  # fmt: skip
    return torch.tensor(pairs[:, 0] * width + pairs[:, 1], dtype=torch.int64, device=device)
