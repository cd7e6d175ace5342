"""How an attention layer spreads its weights: numbers for each query, over chunks of queries.

Users find `summary` in `dtfn.capture`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import combinations

import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from dtfn.capture.attended import Queries, flat
from dtfn.capture.rows import Rows, attention_of, rows
from dtfn.errors import InputError
from dtfn.models.attention import HashedAttention


def summary(
    module: nn.Module,
    features: Tensor,
    queries: Queries | None = None,
    *,
    details: ArrayLike | Tensor | None = None,
    tolerance: float = 1.0,
    hash_seeds: Sequence[int] = (),
) -> pd.DataFrame:
    """Return how each query spreads its attention a.

    Parameters
    ----------
    module, features
        As for `dtfn.capture.attention_map`.
    queries
        Q times (row, column); None: every position of the image.
    details
        (H * W, D) or (H, W, D), the truth: the HR detail (HR less its bicubic) of each position's
        block, from `dtfn.texture.detail_blocks`.
    tolerance
        Inconsistency above which two details disagree, positive. Above 1, no detail at all is
        nearer to the truth than the attended one; 2 is what two unrelated details have.
    hash_seeds
        Two or more: compare the maps of these seeds.

    Returns
    -------
    DataFrame
        A row a query:

        - ``row``, ``column``
        - ``entropy``: -sum a log a, in nats
        - ``support``: exp(entropy), the effective number of positions
        - ``participation``: 1 / sum a^2, the same from the other side: less moved by a long tail
        - ``distance``: mean Euclidean distance to what is attended, in LR pixels
        - ``on_self``: the query's weight on itself, in [0, 1]
        - with ``details`` d, where the inconsistency of q for the query p is
          |d(p) - d(q)|^2 / |d(p)|^2: ``inconsistency``, its mean by weight, and ``disagreeing``,
          the share of the weight with inconsistency above ``tolerance``. NaN where the query has
          no detail, as in `dtfn.texture.inconsistency`.
        - with ``hash_seeds``: ``agreement``, the mean over pairs of seeds of the overlap
          sum min(a, a') of two maps, in [0, 1]. 1 for layers without hashing.

    Raises
    ------
    InputError
        As `dtfn.capture.attention_map`; details of another size or not finite; a single hash seed.
    """
    whole = rows(module, features)
    device = features.device
    if queries is None:
        at = torch.arange(whole.height * whole.width, device=device)
    else:
        at = flat(queries, whole.height, whole.width, device)
    detail = None if details is None else _checked_details(details, whole).to(device)
    columns: dict[str, Tensor] = {}
    start = 0
    for block in whole.blocks(at):
        positions, a = whole.look(block)
        found = _spread(block, positions, a, whole.width)
        if detail is not None:
            found |= _disagreement(block, positions, a, detail, tolerance)
        for name, values in found.items():
            # Small results, kept between large ones that are freed, would break up the heap.
            column = columns.setdefault(name, values.new_empty(len(at)))
            column[start : start + len(block)] = values
        start += len(block)
    if hash_seeds:
        columns["agreement"] = _agreement(module, features, at, hash_seeds)
    return pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})


def _spread(at: Tensor, positions: Tensor, a: Tensor, width: int) -> dict[str, Tensor]:
    row, column = at // width, at % width
    down = (positions // width).to(a) - row.to(a)[:, None]
    right = (positions % width).to(a) - column.to(a)[:, None]
    entropy = torch.special.entr(a).sum(-1)
    return {
        "row": row,
        "column": column,
        "entropy": entropy,
        "support": entropy.exp(),
        "participation": 1 / a.square().sum(-1),
        "distance": (a * torch.hypot(down, right)).sum(-1),
        "on_self": (a * (positions == at[:, None])).sum(-1),
    }


def _disagreement(
    at: Tensor, positions: Tensor, a: Tensor, detail: Tensor, tolerance: float
) -> dict[str, Tensor]:
    own, other = detail[at], detail[positions]  # (Q, D), (Q or 1, S, D)
    energy = own.square().sum(-1, keepdim=True)  # (Q, 1)
    product = torch.einsum("qd,qsd->qs", own, other)
    squared = energy - 2 * product + other.square().sum(-1)  # |d(p) - d(q)|^2
    exists = torch.where(energy > 0, 1.0, torch.nan)[:, 0]
    return {
        "inconsistency": exists * (a * squared).sum(-1) / energy[:, 0],
        "disagreeing": exists * (a * (squared > tolerance * energy)).sum(-1),
    }


def _agreement(
    module: nn.Module, features: Tensor, at: Tensor, hash_seeds: Sequence[int]
) -> Tensor:
    if len(set(hash_seeds)) < 2:
        raise InputError(
            "hash seeds", expected="two or more", found=list(hash_seeds), remedy="add another"
        )
    layer = attention_of(module)
    if not isinstance(layer, HashedAttention):
        return torch.ones(len(at))
    seeded = [copy.copy(layer) for _ in hash_seeds]  # shallow: the weights are shared
    for other, seed in zip(seeded, hash_seeds, strict=True):
        other.hash_seed = seed
    drawn = [rows(other, features) for other in seeded]
    overlaps = []
    for block in drawn[0].blocks(at):
        pairs = combinations([one.maps(block) for one in drawn], 2)
        overlaps.append(torch.stack([torch.minimum(*two).sum((1, 2)) for two in pairs]).mean(0))
    return torch.cat(overlaps)


def _checked_details(details: ArrayLike | Tensor, whole: Rows) -> Tensor:
    """Return (L, D) in float64: differences of squares lose digits."""
    blocks = torch.as_tensor(details, dtype=torch.float64)
    size = (whole.height, whole.width)
    if blocks.ndim == 3 and blocks.shape[:2] == size:
        blocks = blocks.flatten(0, 1)
    finite = bool(blocks.isfinite().all())
    if blocks.ndim != 2 or len(blocks) != size[0] * size[1] or not finite:
        raise InputError(
            "details", expected=f"finite numbers of shape {(size[0] * size[1], 'D')}",
            found=f"{tuple(blocks.shape)}{'' if finite else ' with NaN or infinity'}",
            remedy="pass dtfn.texture.detail_blocks of the HR picture",
        )  # fmt: skip
    return blocks
