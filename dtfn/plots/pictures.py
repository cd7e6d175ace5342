"""Figures of pixels: regions, outputs, harm, and what attention looks at.

Pixels are shown as they are; signed maps are centred at 0, red harmed and blue helped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from dtfn.images import as_rgb
from dtfn.plots import BOX, POSITIVE, SIGNED, WIDTH, blank, styled
from dtfn.subpixel import psnr_of, signed_root
from dtfn.texture import DISTORTIONS

if TYPE_CHECKING:
    from dtfn.attended import Look
    from dtfn.datasets import Sample
    from dtfn.donors import Scene
    from dtfn.regions import Case

COPIED = "#56B4E9"  # what attention reads
BAD, GOOD = "#B2182B", "#2166AC"  # as in a signed map
NO_REGION = "no region beyond the threshold"
_PATCH = 2  # LR positions on each side of a position: the 5 x 5 of a patch
_UNITS = {
    "orientation": "orientation {:.1f} → {:.1f}°",
    "spectrum": "spectrum {:.1f} → {:.1f} dB",
    "structure": "1−SSIM {:.3f} → {:.3f}",
    "gradient": "1−GMS {:.3f} → {:.3f}",
}


@styled()
def texture_gallery(cases: Sequence[Case]) -> Figure:
    """Draw cases, a row each: where it is, LR, HR, what the networks made, and the harm over HR.

    PSNR and all numbers are of the region's positions (outlined), not of the crop. With no case
    the figure says so.
    """
    if not cases:
        return blank(NO_REGION)
    columns = 4 + max(len(case.methods) for case in cases)
    figure = Figure(figsize=(WIDTH, 1.95 * len(cases)), layout="constrained")
    parts = figure.subfigures(len(cases), 1, squeeze=False)[:, 0]
    for number, (part, case) in enumerate(zip(parts, cases, strict=True), start=1):
        part.suptitle(f"{number}. {_headline(case)}", fontsize=8.5, x=0.01, ha="left")
        axes = part.subplots(1, columns)
        n, l, *others = case.methods
        for ax in axes[3 + len(case.methods) : -1]:
            ax.set_visible(False)
        _whole(axes[0], case)
        _image(axes[1], case.view.lr, "LR")
        _image(axes[2], case.view.hr, "HR")
        for ax, network in zip(axes[3:-1], (l, n, *others), strict=False):
            psnr = psnr_of(case.region.of(case.errors[network]))
            _image(ax, case.view.outputs[network], f"{_short(network)}: {psnr:.2f}")
            _outline(ax, case, case.sample.scale)
        _overlay(axes[-1], case)
    return figure


@styled()
def distortion_panel(case: Case | None) -> Figure:
    """Draw how the texture of a case is distorted: a row a network, a column a measure.

    The colours of a column are those of all its maps. With no case the figure says so.
    """
    if case is None:
        return blank(NO_REGION)
    n, l, *others = case.methods
    networks = [l, n, *others]
    columns = 1 + len(DISTORTIONS)
    height = (1 + len(networks)) * (WIDTH / columns + 0.25) + 0.6
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(1 + len(networks), columns, squeeze=False)
    _image(axes[0, 0], case.view.hr, "HR")
    _image(axes[0, 1], case.view.lr, "LR")
    _whole(axes[0, 2], case)
    _overlay(axes[0, 3], case)
    for ax in axes[0, 4:]:
        ax.set_visible(False)
    for ax, network in zip(axes[1:, 0], networks, strict=True):
        _image(ax, case.view.outputs[network], network)
    for column, (measure, title) in enumerate(DISTORTIONS.items(), start=1):
        maps = [case.crop(case.maps[network][measure]) for network in networks]
        norm = Normalize(0, max(float(values.max()) for values in maps) or 1.0)
        for ax, network, values in zip(axes[1:, column], networks, maps, strict=True):
            mean = case.region.of(case.maps[network][measure]).mean()
            shown = _image(ax, values, f"region: {mean:.3g}", cmap=POSITIVE, norm=norm)
            _outline(ax, case, 1)
        figure.colorbar(shown, ax=axes[1:, column], location="bottom", label=title, shrink=0.9)
    return figure


@styled()
def attention_maps(looks: Sequence[Look], sample: Sample) -> Figure:
    """Draw what every network and layer attends to for one query: a row a network.

    Parameters
    ----------
    looks
        Of one query, on the sample.
    sample
        The picture.

    Notes
    -----
    Weights are shown from none to the map's own largest, as their square root, and grown to the
    3 x 3 positions around, or single ones would not be seen.
    """
    if not looks:
        return blank("no network to look at")
    networks = list(dict.fromkeys(look.network for look in looks))
    places = max(look.place for look in looks)
    height, width = sample.lr.shape[:2]
    size = (WIDTH, len(networks) * (WIDTH / places * max(height / width, 0.5) + 0.4) + 0.1)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(networks), places, squeeze=False)
    for ax in axes.ravel():
        ax.set_visible(False)
    for look in looks:
        line = axes[networks.index(look.network)]
        _attended(line[look.place - 1], look, sample)
        line[0].set_ylabel(_short(look.network), fontsize=9)
    return figure


@styled()
def copied_patches(table: pd.DataFrame, sample: Sample, most: int = 7) -> Figure:
    """Draw the true patches at the query and at the positions that each network copies most.

    Parameters
    ----------
    table
        Of `dtfn.attended.copies`, one query and a layer a network.
    sample
        The picture: HR patches are shown, 5 x 5 LR positions each.
    most
        How many a network.

    Notes
    -----
    The frame is blue where the detail of the position's block agrees with the query's, red and
    dashed where it disagrees (inconsistency above 1: worse than to copy nothing).
    """
    if table.empty:
        return blank("no network with attention")
    networks = list(table["network"].unique())
    most = min(most, int(table["rank"].max()))
    size = (WIDTH, len(networks) * (WIDTH / (most + 1) + 0.42) + 0.1)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(networks), most + 1, squeeze=False)
    for line, network in zip(axes, networks, strict=True):
        part = table[table["network"] == network].sort_values("rank")
        one = part.iloc[0]
        _patch(line[0], sample, (int(one["query_row"]), int(one["query_column"])), "query", BOX)
        line[0].set_ylabel(f"{network}\nlayer {one['place']}", fontsize=8)
        for ax in line[1 + len(part) :]:
            ax.set_visible(False)
        for ax, row in zip(line[1:], part.itertuples(), strict=False):
            apart = float(row.inconsistency)
            title = f"{100 * row.weight:.2g} %, k = {apart:.2g}"
            _patch(ax, sample, (row.row, row.column), title, BAD if apart > 1 else GOOD)
    return figure


@styled()
def donor_panel(scene: Scene | None) -> Figure:
    """Draw a query and its donors: what was pasted, what attention copied, what came out.

    Upper row: the query's truth, the output with attention off, and the unchanged window. Below, a
    row a kind of donor: the LR window (yellow: query, blue: donors), a donor's truth, the mix of
    all HR patches by attention, and the output with attention on. With no scene, the figure says
    so.
    """
    if scene is None:
        return blank("no query to show")
    kinds = [kind for kind in scene.shown if kind != "none"]
    figure = Figure(figsize=(WIDTH, 2.25 * (1 + len(kinds))), layout="compressed")
    axes = figure.subplots(1 + len(kinds), 4, squeeze=False)
    seen, sample = scene.seen, scene.query.sample
    base = scene.shown["none"]
    _image(axes[0, 0], base.lr, f"{sample.dataset} {sample.image}: LR")
    _image(axes[0, 1], scene.truth, "truth (box: the query)")
    _image(axes[0, 2], _levels(scene.off), f"attention off: MSE {scene.error:.0f}")
    _image(axes[0, 3], _levels(base.made), f"on, without donors: MSE {base.error:.0f}")
    for line, kind in zip(axes[1:], kinds, strict=True):
        one = scene.shown[kind]
        _image(line[0], one.lr, "LR with donors")
        line[0].set_ylabel(f"{kind}\ndonors", fontsize=10)
        for top, left in seen.cells[: scene.dose]:
            _box(line[0], (top, left, scene.side, scene.side), 1, COPIED)
        _image(line[1], one.donor, "a donor's truth")
        _image(line[2], np.clip(one.copied, 0, 255).astype(np.uint8), "")
        line[2].set_title(f"what layer {scene.layer} copies", fontsize=9)
        line[2].set_xlabel(f"{one.weight:.0%} from donors", fontsize=9)
        _image(line[3], _levels(one.made), f"attention on: MSE {one.error:.0f}")
    around = (scene.middle[0] - 1, scene.middle[1] - 1, 3, 3)
    for ax in (*axes[0, 1:], *axes[1:, 3]):
        _box(ax, around, sample.scale)
    for ax in axes[:, 0]:
        _box(ax, (seen.row - 1, seen.column - 1, 3, 3), 1)
    return figure


def _levels(image: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    return np.floor(255 * image + 0.5).astype(np.uint8)


def _attended(ax: Axes, look: Look, sample: Sample) -> None:
    ax.set_visible(True)
    support = np.exp(-np.sum(look.map[look.map > 0] * np.log(look.map[look.map > 0])))
    _image(ax, _dim(sample.lr), f"layer {look.place}: {support:,.0f} positions")
    grown = maximum_filter(np.sqrt(look.map / look.map.max()), 3)
    ax.imshow(grown, cmap="magma", norm=Normalize(0, 1), alpha=0.15 + 0.85 * grown)
    ring: dict[str, Any] = {"markersize": 5, "markerfacecolor": "none", "markeredgewidth": 0.9}
    for row, column in look.strongest():
        ax.plot(column, row, "o", markeredgecolor=COPIED, **ring)
    ax.plot(look.query[1], look.query[0], "+", color=BOX, markersize=11, markeredgewidth=1.8)


def _patch(ax: Axes, sample: Sample, at: tuple[int, int], title: str, ink: str) -> None:
    """Show the HR patch around a position, its own block boxed; beyond the border is nothing."""
    s = sample.scale
    rows, columns = (((place - _PATCH) * s, (place + _PATCH + 1) * s) for place in at)
    _part(ax, sample.hr, rows, columns)
    _bare(ax, title)
    for spine in ax.spines.values():
        spine.set(visible=True, edgecolor=ink, linewidth=2.5, linestyle="--" if ink == BAD else "-")
    _box(ax, (*at, 1, 1), s)


def _part(ax: Axes, image: NDArray[Any], rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """Show some rows and columns of an image at their place; beyond its border is nothing."""
    (top, bottom), (left, right) = rows, columns
    y, x = max(top, 0), max(left, 0)
    part = image[y:bottom, x:right]
    extent = (x - 0.5, x + part.shape[1] - 0.5, y + part.shape[0] - 0.5, y - 0.5)
    _image(ax, part, "", extent=extent)
    ax.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5))


def _headline(case: Case) -> str:
    """Return a case in two lines: which, how sure, how distorted."""
    n, l = case.methods[:2]
    which = {"harm": "worst", "help": "best"}[case.side]
    sure = f"q = {case.q:.2g}" if case.q <= 0.05 else f"open, q = {case.q:.2g}"
    sure = "no control" if np.isnan(case.q) else sure
    mse = [case.region.of(case.errors[network]).mean() for network in (l, n)]
    words = ["MSE {:.0f} → {:.0f}".format(*mse)]
    for measure, text in _UNITS.items():
        means = [case.region.of(case.maps[network][measure]).mean() for network in (l, n)]
        words.append(text.format(*means))
    picture = f"{case.sample.dataset} {case.sample.image}"
    head = f"{which}: {picture}, {case.region.area} positions, {sure}"
    return f"{head}\n{_short(l)} → {_short(n)}: {', '.join(words)}"


def _short(network: str) -> str:
    name, mark, change = network.rpartition("@")
    return f"{name if mark else network}".partition("-x")[0] + (f" {change}" if mark else "")


def _whole(ax: Axes, case: Case) -> None:
    """Show the whole picture, reduced to every so many pixels, and box the window."""
    s = case.sample.scale
    _image(ax, as_rgb(case.sample.hr)[s // 2 :: s, s // 2 :: s], case.sample.image)
    _box(ax, case.window, 1)


def _overlay(ax: Axes, case: Case) -> None:
    """Show the harm over the grey picture: red harmed, blue helped."""
    grey = as_rgb(case.view.hr).astype(float).mean(axis=2)
    root, norm = _signed(case)
    extent = (-0.5, grey.shape[1] - 0.5, grey.shape[0] - 0.5, -0.5)
    _image(ax, grey, f"harm, ±{norm.vmax:.0f} levels", norm=Normalize(-80, 335))
    alpha = np.minimum(1, 1.4 * np.abs(root) / norm.vmax)
    ax.imshow(root, cmap=SIGNED, norm=norm, extent=extent, alpha=alpha)
    _outline(ax, case, case.sample.scale)


def _signed(case: Case) -> tuple[NDArray[np.float64], Any]:
    """Return the signed root of a case's harm in its window, and limits centred at 0."""
    root = signed_root(case.crop(case.harm))
    most = float(np.abs(root).max()) or 1.0
    return root, Normalize(-most, most)


def _outline(ax: Axes, case: Case, pixels: int) -> None:
    """Draw the edge of the region on a crop of so many pixels a position."""
    lines = (pixels * edges(case.outline()) - 0.5)[..., ::-1]  # (n, 2, 2): (x, y) of both ends
    for ink, width in (("white", 1.2), ("black", 0.6)):
        ax.add_collection(LineCollection(list(lines), colors=ink, linewidths=width))


def edges(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the edges between inside and outside, ``(n, 2, 2)``: both ends as (row, column).

    Position (0, 0) spans from 0 to 1 down and across.
    """
    padded = np.pad(inside, 1).astype(int)
    level = np.argwhere(np.diff(padded, axis=0)) - (0, 1)
    upright = np.argwhere(np.diff(padded, axis=1)) - (1, 0)
    ends = [np.stack([level, level + (0, 1)], 1), np.stack([upright, upright + (1, 0)], 1)]
    return np.concatenate(ends).astype(float)


def _image(ax: Axes, image: NDArray[Any], title: str, **how: Any) -> Any:
    """Show an image as its pixels are: RGB or grey of 0 to 255, or a map with its colours."""
    look: dict[str, Any] = {"cmap": "gray", "norm": Normalize(0, 255)} | how
    shown = ax.imshow(image, interpolation="nearest", **look)
    _bare(ax, title)
    return shown


def _bare(ax: Axes, title: str) -> None:
    """Leave only the picture and its title."""
    ax.set_title(title, fontsize=9)
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _box(ax: Axes, window: tuple[int, int, int, int], pixels: int, ink: str = BOX) -> None:
    """Frame (top, left, height, width) in LR positions; a pixel begins half before its number."""
    top, left, height, width = (pixels * v for v in window)
    corner = (left - 0.5, top - 0.5)
    box = Rectangle(corner, width, height, fill=False, edgecolor=ink, linewidth=1.5)
    ax.add_patch(box)


def _dim(lr: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the picture in grey, dark enough for colours to stand out."""
    return lr.astype(float).mean(axis=2) * 0.67
