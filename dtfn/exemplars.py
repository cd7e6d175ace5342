"""Exemplar bound: how good copying details from elsewhere in the picture could be at best.

The bicubic picture is given, in each block, the detail of one of K candidate positions, by default
those whose LR patches look most like its own. Whether the choice is made by the truth (the bound),
by likeness (what attention has to go by) or by lot makes the difference; what lies between the
first two is the *price of inconsistency*. Choosing among K by the truth gains even among strangers,
so the bound stands beside the same one over K positions drawn by lot. Needs no network.

This is the project's own definition, not the paper's number; and no strict limit of attention,
which may mix candidates where this copies one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dtfn import evaluation, images, statistics
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.evaluation import cache
from dtfn.subpixel.blocks import Array, Float, gain, interior, psnr_of
from dtfn.texture import detail_blocks
from dtfn.texture.neighbours import COUNT, Neighbours, differences, remembered, search

if TYPE_CHECKING:
    from torch import nn

LOOK_ALIKES = "look-alikes"
STEP = 4  # of the positions asked about where networks are: their rows of attention are long
AT_ONCE = 256  # queries

CHOICES = ("bicubic", "similar", "best", "random", "best_random")


def exemplar_errors(
    hr: Array, scale: int, found: Neighbours | None = None, seed: int = 0
) -> dict[str, Float]:
    """Return each block's mean squared error for each choice of its detail, ``(H, W)``, on Y.

    Parameters
    ----------
    hr
        uint8 RGB or grey, cropped at the top left to a multiple of s.
    scale
        s: 2, 3 or 4.
    found
        The candidates: from `dtfn.texture.neighbours.search` on the LR picture, or the positions
        that a network attended to, the first of them the one it weighed most. None: search now.
    seed
        Of the lots.

    Returns
    -------
    ``bicubic`` (no detail), ``similar`` (that of the first candidate), ``best`` (that of the
    candidate whose detail is nearest to the true one), ``random`` (that of any other position of
    the picture), ``best_random`` (the best of K such). NaN where a position was not asked about.

    Raises
    ------
    InputError
        As `dtfn.texture.inconsistency`; or if there is but one position.
    """
    found = search(images.degrade(hr, scale), COUNT) if found is None else found
    blocks = detail_blocks(hr, scale, found)
    lots = Neighbours(found.shape, found.asked, _lots(found, len(blocks), seed))
    alike, drawn = differences(blocks, found), differences(blocks, lots)  # (n, K)
    maps = (
        np.mean(blocks[found.asked].astype(np.float64) ** 2, axis=1),
        alike[:, 0],
        alike.min(axis=1),
        drawn[:, 0],
        drawn.min(axis=1),
    )
    return {name: found.spread(values) for name, values in zip(CHOICES, maps, strict=True)}


def exemplar_bound(
    hr: Array, scale: int, found: Neighbours | None = None, seed: int = 0
) -> dict[str, float]:
    """Return what each choice of details scores on one picture, border left out.

    Parameters and errors are those of `exemplar_errors`, and the picture needs an interior.

    Returns
    -------
    PSNRs in dB: ``exemplar_bicubic``, ``exemplar_similar``, ``exemplar_bound`` (the best),
    ``exemplar_random``, ``exemplar_bound_random``; infinite where nothing is wrong.
    ``exemplar_price``: the bound over the most similar one, dB, never negative.
    ``exemplar_price_random``: the same among strangers, which is the luck of choosing from K.
    """
    errors = exemplar_errors(hr, scale, found, seed)
    scores = {name: _psnr(error) for name, error in errors.items()}
    return {
        "exemplar_bicubic": scores["bicubic"],
        "exemplar_similar": scores["similar"],
        "exemplar_bound": scores["best"],
        "exemplar_random": scores["random"],
        "exemplar_bound_random": scores["best_random"],
        "exemplar_price": gain(scores["best"], scores["similar"]),
        "exemplar_price_random": gain(scores["best_random"], scores["random"]),
    }


def attended(method: str, sample: Sample, count: int = COUNT, every: int = STEP) -> Neighbours:
    """Return the positions that a network attends to, as candidates for `exemplar_bound`.

    Found once, then remembered.

    Parameters
    ----------
    method
        A network with attention: a name of the zoo or a weights file.
    sample
        The picture, whose LR image the network sees whole.
    count
        K: the positions of most weight, the mean over all attention layers; the most weighed first,
        never the position itself. Where a position attends to fewer, its first stands for the rest.
    every
        Ask about every so many rows and columns.

    Raises
    ------
    InputError
        As `dtfn.capture.record`; or for a picture with fewer than K + 1 positions.
    """
    height, width = sample.lr.shape[:2]
    if not 1 <= count < height * width:
        raise InputError(
            "attended positions", expected=f"1 to {height * width - 1}", found=count,
            remedy="use a larger picture",
        )  # fmt: skip
    grid = np.arange(height * width, dtype=np.int32).reshape(height, width)
    asked = grid[::every, ::every].ravel()
    way = f"attended {count} of every {every} {cache.source('capture', 'exemplars.py')}"
    found = evaluation.remembered_arrays(
        method, sample, way, lambda network: {"index": _attended(network, sample.lr, asked, count)}
    )
    return Neighbours((height, width), asked, found["index"])


def _attended(
    network: nn.Module, lr: NDArray[np.uint8], asked: NDArray[np.int32], count: int
) -> NDArray[np.int32]:
    """Return the positions of most weight, ``(n, count)``, for the flat positions asked about."""
    import torch

    from dtfn import capture

    width = lr.shape[1]
    index = np.empty((len(asked), count), np.int32)
    with torch.inference_mode():
        record, _ = capture.run(network, lr)
        for start in range(0, len(asked), AT_ONCE):
            part = asked[start : start + AT_ONCE]
            queries = np.stack((part // width, part % width), axis=1)
            weights = sum(record.maps(layer, queries).flatten(1) for layer in record.layers)
            weights = weights.scatter(1, torch.from_numpy(part).long()[:, None], -1.0)  # type: ignore[union-attr]
            most = weights.topk(count, dim=1)
            found = torch.where(most.values > 0, most.indices, most.indices[:, :1])
            index[start : start + AT_ONCE] = found.numpy()
    return index


def measure(
    datasets: Sequence[str],
    scale: int,
    count: int | None = None,
    networks: Sequence[str] = (),
    every: int = STEP,
) -> pd.DataFrame:
    """Return `exemplar_bound` of the pictures of benchmarks, for several sets of candidates.

    Parameters
    ----------
    datasets, scale, count
        As for `dtfn.evaluation.evaluate`.
    networks
        Networks with attention, whose attended positions are candidates as well.
    every
        Ask about every so many rows and columns, in all sets the same.

    Returns
    -------
    A row a picture and set: dataset, image, scale, candidates (``look-alikes`` of the LR picture,
    ``places attended by <network>``), and the keys of `exemplar_bound`.
    """
    rows = []
    for sample in evaluation.samples(datasets, scale, count):
        sets = {LOOK_ALIKES: remembered(images.degrade(sample.hr, scale), COUNT, every)}
        for name in networks:
            sets[f"places attended by {name}"] = attended(name, sample, COUNT, every)
        for name, found in sets.items():
            identity = {"dataset": sample.dataset, "image": sample.image, "scale": scale}
            scores = exemplar_bound(sample.hr, scale, found)
            rows.append(identity | {"candidates": name} | scores)
    return pd.DataFrame(rows)


def over_bicubic(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean gain of each choice over bicubic, with its interval over pictures.

    Parameters
    ----------
    table
        Of `measure`.

    Returns
    -------
    dataset, candidates, metric (``exemplar_random``, ``exemplar_similar``,
    ``exemplar_bound_random``, ``exemplar_bound``), estimate, low, high (dB), clusters, note.
    """
    columns = [name for name in table if name.startswith("exemplar_") and "price" not in name]
    gains = table.assign(**{name: table[name] - table["exemplar_bicubic"] for name in columns})
    columns.remove("exemplar_bicubic")
    return statistics.intervals(gains, columns, by=("dataset", "candidates"))


def _lots(found: Neighbours, positions: int, seed: int) -> NDArray[np.int32]:
    """Draw as many positions as there are candidates, each any but the position itself."""
    if positions < 2:
        raise InputError(
            "picture",
            expected="2 LR positions or more",
            found=positions,
            remedy="use a larger picture",
        )
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, positions - 1, found.index.shape, dtype=np.int32)
    return drawn + (drawn >= found.asked[:, None])


def _psnr(error: Float) -> float:
    """Return the PSNR of the interior's positions that were asked about."""
    inside = interior(error)
    return psnr_of(inside[~np.isnan(inside)])
