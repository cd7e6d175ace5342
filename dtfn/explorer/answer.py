"""What is to be said about one position: its block in numbers, its attention, what it copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dtfn import subpixel
from dtfn.errors import InputError
from dtfn.explorer.scene import Scene
from dtfn.subpixel.blocks import Float, decibels


@dataclass(frozen=True)
class Copied:
    """One attended position.

    Attributes
    ----------
    row, column
        On the LR grid.
    weight
        In [0, 1].
    disagreement
        |d(p) - d(q)|^2 / |d(p)|^2 of the HR details of the query p and this position q: 0 the same,
        above 1 worse than copying nothing, 2 unrelated; NaN where it is not known.
    """

    row: int
    column: int
    weight: float
    disagreement: float


@dataclass(frozen=True, eq=False)
class Answer:
    """What there is to say about one position.

    Attributes
    ----------
    row, column
        On the LR grid.
    layer
        Attention layer of N; None where N has none.
    attention
        (H, W), sums to 1; None where there is none.
    missing
        Why there is no attention; empty where there is.
    spread
        Of `dtfn.capture.summary`: entropy, support, distance, on_self, and with the truth
        disagreeing.
    copied
        The most attended positions, heaviest first.
    block
        With the truth: error and psnr of each network (``error_with``, ``psnr_without``, ...),
        harm, null_harm, selection and fusion (dB, the bounds of this block) and fusion_weight (N's
        share in the best mixture).
    """

    row: int
    column: int
    layer: str | None
    attention: Float | None
    missing: str
    spread: Mapping[str, float]
    copied: tuple[Copied, ...]
    block: Mapping[str, float]


def answer(scene: Scene, layer: str | None, query: tuple[int, int], most: int = 8) -> Answer:
    """Return what there is to say about a position.

    Parameters
    ----------
    scene
        Of `dtfn.explorer.scene`.
    layer
        One of ``scene.layers``; None where N has none.
    query
        (row, column) on the LR grid.
    most
        How many attended positions are named.

    Raises
    ------
    InputError
        A position outside; a layer without attention.
    """
    row, column = inside(scene, query)
    block = _block(scene, row, column)
    if scene.record is None or layer is None:
        name = scene.team.with_
        why = f"{name} has no attention layer: choose a network with attention as N"
        return Answer(row, column, None, None, why, {}, (), block)
    attention = scene.record.map(layer, (row, column)).double().numpy()
    found = scene.record.summary(layer, [(row, column)], details=scene.detail)
    spread = {str(key): float(value) for key, value in found.iloc[0].items()}
    copied = _copied(scene, attention, (row, column), most)
    return Answer(row, column, layer, attention, "", spread, copied, block)


def inside(scene: Scene, query: tuple[int, int]) -> tuple[int, int]:
    """Return a position as whole numbers; raise `InputError` where it is outside."""
    rows, columns = scene.subject.shape
    row, column = int(query[0]), int(query[1])
    if not (0 <= row < rows and 0 <= column < columns):
        raise InputError(
            "position", expected=f"row 0 to {rows - 1} and column 0 to {columns - 1}",
            found=f"row {row}, column {column}", remedy="choose one inside the picture",
        )  # fmt: skip
    return row, column


def _copied(
    scene: Scene, attention: Float, query: tuple[int, int], most: int
) -> tuple[Copied, ...]:
    order = np.argsort(-attention, axis=None, kind="stable")[:most]
    positions = np.stack(np.unravel_index(order, attention.shape), axis=1)
    return tuple(
        Copied(int(r), int(c), float(attention[r, c]), _disagreement(scene, query, (r, c)))
        for r, c in positions
        if attention[r, c] > 0
    )


def _disagreement(scene: Scene, query: tuple[int, int], other: tuple[int, int]) -> float:
    if scene.detail is None:
        return float("nan")
    own, theirs = (scene.detail[at].astype(np.float64) for at in (query, other))
    energy = float(own @ own)
    return float(np.sum((own - theirs) ** 2)) / energy if energy > 0 else float("nan")


def _block(scene: Scene, row: int, column: int) -> dict[str, float]:
    if not scene.errors:
        return {}
    team, s = scene.team, scene.subject.scale
    members = {"with": team.with_, "without": team.without, "beside": team.beside}
    numbers: dict[str, float] = {}
    for role, name in members.items():
        if name is not None:
            error = float(scene.errors[name][row, column])
            numbers |= {f"error_{role}": error, f"psnr_{role}": decibels(error)}
    numbers["harm"] = numbers["error_with"] - numbers["error_without"]
    if scene.null_harm is not None:
        numbers["null_harm"] = float(scene.null_harm[row, column])
    pixels = (slice(s * row, s * (row + 1)), slice(s * column, s * (column + 1)))
    n, l, y = (scene.y[name][pixels] for name in (team.with_, team.without, "HR"))
    best = min(numbers["error_with"], numbers["error_without"])
    numbers["selection"] = decibels(best)
    numbers["fusion"] = decibels(float(subpixel.fusion_error(n, l, y, s)[0, 0]))
    numbers["fusion_weight"] = float(subpixel.fusion_weight(n, l, y, s)[0, 0])
    return numbers
