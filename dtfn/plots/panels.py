"""Pixel evidence: a harmed region as the truth, the networks and their errors show it.

Pixels are shown as they are, signed maps are centred at 0. Users find these in `dtfn.plots`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from dtfn import subpixel
from dtfn.plots.style import WIDTH, blank, styled
from dtfn.subpixel.regions import View, signed_root

BOX = "#F0E442"
SIGNED, POSITIVE = "RdBu_r", "viridis"


@styled
def region(views: Sequence[View]) -> Figure:
    """Draw the first region: where it is, what the networks made of it, and their errors.

    Upper row: the picture with the region boxed, HR, L, N. Lower row: LR, the errors of L and
    of N (root of the block error, one scale), the harm (signed root). With no view, the figure
    says that there was no harm beyond luck.
    """
    if not views:
        return blank("no region of harm beyond the threshold")
    view = views[0]
    figure = Figure(figsize=(WIDTH, 6.2), layout="compressed")
    axes = figure.subplots(2, 4)
    picture = view.picture
    _image(axes[0, 0], picture.hr, f"{picture.dataset} {picture.image}")
    top, left, height, width = (picture.scale * v for v in view.window)
    box = Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=BOX, linewidth=2)
    axes[0, 0].add_patch(box)
    _crops(axes[0, 1:], view)
    _image(axes[1, 0], view.lr(), f"LR (1/{picture.scale}), as it is")
    most = float(np.sqrt(max(view.error_with.max(), view.error_without.max())))
    for ax, error, name in (
        (axes[1, 1], view.error_without, view.without),
        (axes[1, 2], view.error_with, view.with_),
    ):
        shown = _map(ax, np.sqrt(error), f"error of {name}", POSITIVE, Normalize(0, most))
    _bar(figure, shown, axes[1, 1:3], "root of block MSE (8-bit levels)")
    _bar(figure, _harm(axes[1, 3], view), axes[1, 3], "signed root (8-bit levels)")
    return figure


@styled
def gallery(views: Sequence[View]) -> Figure:
    """Draw several harmed regions, a row each: HR, L, N, harm.

    With no view, the figure says that there was no harm beyond luck.
    """
    if not views:
        return blank("no region of harm beyond the threshold")
    figure = Figure(figsize=(WIDTH, 2.5 * len(views)), layout="constrained")
    rows = figure.subplots(len(views), 4, squeeze=False)
    for axes, view in zip(rows, views, strict=True):
        _crops(axes[:3], view)
        axes[0].set_ylabel(f"{view.picture.dataset} {view.picture.image}")
        shown = _harm(axes[3], view)
        figure.colorbar(shown, ax=axes[3], label="signed root (levels)", shrink=0.9)
    return figure


def _crops(axes: NDArray[Any], view: View) -> None:
    outputs = view.picture.outputs
    _image(axes[0], view.crop(view.picture.hr), "HR")
    for ax, name, error in (
        (axes[1], view.without, view.error_without),
        (axes[2], view.with_, view.error_with),
    ):
        _image(ax, view.crop(outputs[name]), f"{name}: {subpixel.psnr_of(error):.2f} dB")


def _image(ax: Axes, image: NDArray[Any], title: str) -> None:
    """Show an RGB or grey uint8 image as its pixels are."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    _bare(ax, title)


def _map(ax: Axes, values: NDArray[Any], title: str, cmap: str, norm: Normalize) -> Any:
    shown = ax.imshow(values, cmap=cmap, norm=norm, interpolation="nearest")
    _bare(ax, title)
    return shown


def _harm(ax: Axes, view: View) -> Any:
    """Show the harm of a view, its region outlined."""
    harm, norm = _signed_root(view.harm)
    shown = _map(ax, harm, "harm: red harmed, blue helped", SIGNED, norm)
    r, (top, left, _, _) = view.region, view.window
    corner = (r.left - left - 0.5, r.top - top - 0.5)
    ax.add_patch(Rectangle(corner, r.width, r.height, fill=False, linewidth=1, linestyle=":"))
    return shown


def _bar(figure: Figure, shown: Any, axes: Any, label: str) -> None:
    # Below the maps: beside them it would take the columns out of line.
    figure.colorbar(shown, ax=axes, label=label, location="bottom", shrink=0.9, aspect=30)


def _bare(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=9)
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _signed_root(harm: NDArray[np.float64]) -> tuple[NDArray[np.float64], Normalize]:
    """Return the signed root of harm, and limits centred at 0."""
    root = signed_root(harm)
    most = float(np.abs(root).max()) or 1.0
    return root, Normalize(-most, most)
