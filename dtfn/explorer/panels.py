"""The view as a figure: what is saved, and what is drawn where nobody is there to click."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dtfn.explorer import numbers, pixels
from dtfn.explorer.answer import Answer
from dtfn.explorer.pixels import Crop
from dtfn.explorer.scene import Scene
from dtfn.images import UInt8
from dtfn.plots import BOX, SIGNED, WIDTH, styled

RING = "#56B4E9"


@styled
def sheet(
    scene: Scene, answer: Answer, *, strength: float = 0.9, threshold: float = 0.0, side: int = 24
) -> Figure:
    """Draw a position: what N attended to, what it copied, what that did, and what was true.

    Upper row: LR under attention (blue rings: the most attended), the harm of the whole picture,
    the numbers. Middle: crops, the block outlined. Lower: the patch that asked, and those that it
    copied, with their weights.

    Parameters
    ----------
    scene, answer
        Of `dtfn.explorer`.
    strength, threshold, side
        As for the functions of `dtfn.explorer.pixels`.
    """
    figure = Figure(figsize=(WIDTH, 8.0), layout="constrained")
    rows: Any = figure.subfigures(3, 1, height_ratios=[3.5, 2.2, 1.6])
    upper, middle, lower = rows
    left, right, text = upper.subplots(1, 3, width_ratios=[1, 1, 0.95])
    _attention(upper, left, scene, answer, strength)
    _harm(upper, right, scene, answer, threshold)
    _numbers(text, scene, answer, threshold)
    _row(middle, pixels.crops(scene, (answer.row, answer.column), side), 5, 9)
    shown = pixels.patches(scene, answer)
    _row(lower, shown, max(len(shown), 9), 7.5)
    return figure


def _attention(figure: Any, ax: Axes, scene: Scene, answer: Answer, strength: float) -> None:
    _picture(ax, pixels.attention_map(scene, answer, strength))
    _mark(ax, answer, scene)
    if answer.attention is None:
        ax.set_title("LR: N has no attention", fontsize=9)
        return
    ax.set_title(f"LR, attention of {answer.layer}", fontsize=9)
    low, high = pixels.attention_range(answer)
    _bar(figure, ax, pixels.ATTENTION, Normalize(low, high), "weight, in multiples of uniform")


def _harm(figure: Any, ax: Axes, scene: Scene, answer: Answer, threshold: float) -> None:
    if scene.harm is None:
        ax.set_axis_off()
        ax.text(0.5, 0.5, f"Harm\n{numbers.NO_TRUTH}".replace(", ", ",\n"), ha="center",
                va="center", transform=ax.transAxes)  # fmt: skip
        return
    _picture(ax, pixels.harm_map(scene, threshold))
    _mark(ax, answer, scene, rings=False, ink="black")
    what = f", above {threshold:.2g} MSE" if threshold > 0 else ""
    ax.set_title(f"harm{what}: red harmed, blue helped", fontsize=9)
    limit = pixels.harm_root(scene, threshold)[1]
    _bar(figure, ax, SIGNED, Normalize(-limit, limit), "signed root (8-bit levels)")


def _numbers(ax: Axes, scene: Scene, answer: Answer, threshold: float) -> None:
    ax.set_axis_off()
    lines = [f"row {answer.row}, column {answer.column}", ""]
    lines += [f"{line.label}:\n    {line.value}" for line in numbers.block(scene, answer)]
    said = numbers.verdict(answer, threshold) or f"Errors: {numbers.NO_TRUTH}"
    lines += [said.replace(", ", ",\n"), ""]
    lines += [f"{line.label}: {line.value}" for line in numbers.spread(answer)] or [
        answer.missing.replace(": ", ":\n")
    ]
    ax.text(0, 1, "\n".join(lines), va="top", fontsize=7.5, transform=ax.transAxes)


def _row(figure: Any, shown: list[Crop], columns: int, size: float) -> None:
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for ax in axes:
        ax.set_axis_off()
    for ax, crop in zip(axes, shown, strict=False):
        _picture(ax, crop.image)
        ax.set_title(crop.title, fontsize=size)
        top, left, height, width = crop.box
        ax.add_patch(_box(top, left, height, width, BOX))
        ax.text(0.5, -0.05, crop.note.replace(" · ", "\n"), ha="center", va="top", fontsize=size,
                transform=ax.transAxes)  # fmt: skip


def _mark(ax: Axes, answer: Answer, scene: Scene, *, rings: bool = True, ink: str = BOX) -> None:
    size = max(scene.subject.shape) / 40
    grow = size - 0.5
    ax.add_patch(_box(answer.row - grow, answer.column - grow, 1 + 2 * grow, 1 + 2 * grow, ink))
    if rings:
        at = np.array([(copy.column, copy.row) for copy in answer.copied]).reshape(-1, 2)
        ax.scatter(at[:, 0], at[:, 1], s=22, facecolors="none", edgecolors=RING, linewidths=0.9)


def _box(top: float, left: float, height: float, width: float, ink: str) -> Rectangle:
    return Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=ink)


def _picture(ax: Axes, image: UInt8) -> None:
    ax.imshow(image, interpolation="nearest")
    ax.set_axis_off()


def _bar(figure: Any, ax: Axes, cmap: str, norm: Normalize, label: str) -> None:
    drawn = ScalarMappable(norm, cmap)
    figure.colorbar(drawn, ax=ax, label=label, location="bottom", shrink=0.9, aspect=30)
