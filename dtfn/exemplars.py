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

import numpy as np
from numpy.typing import NDArray

from dtfn import images
from dtfn.errors import InputError
from dtfn.subpixel.blocks import Array, Float, gain, interior, psnr_of
from dtfn.texture import detail_blocks
from dtfn.texture.neighbours import COUNT, Neighbours, differences, search

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
