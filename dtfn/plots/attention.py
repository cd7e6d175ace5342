"""What attention looks at: maps on the LR picture, the patches it copies, where it reads them.

Users find these in `dtfn.plots.attention`. They draw what `dtfn.attended` and
`dtfn.attribution` found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from dtfn.plots.style import COLOURS, NULL_COLOUR, WIDTH, blank, styled

if TYPE_CHECKING:
    from dtfn.attended import Look
    from dtfn.attribution import Local
    from dtfn.datasets import Sample

QUERY, COPIED = "#F0E442", "#56B4E9"
AGREES, DISAGREES = "#0072B2", "#D55E00"
REACH = 4  # LR pixels shown on each side of a place that is read
PATCH = 2  # LR positions on each side of a position: the 5 x 5 of `dtfn.texture.neighbours`
METRICS = {
    "support": "effective support\n(positions)",
    "distance": "mean distance\n(LR pixels)",
    "on_self": "weight on itself",
    "disagreeing": "weight on what\ndisagrees with truth",
    "agreement": "agreement over\nhash seeds",
}


@styled
def maps(found: Sequence[Look], local: Sequence[Local], sample: Sample) -> Figure:
    """Draw what every network and layer attends to for one query, and the network's attribution.

    Parameters
    ----------
    found, local
        Of one query, on the sample.
    sample
        The picture.

    Notes
    -----
    A row a network, a column an attention layer; the last column is the attribution. Networks
    without attention share the last row. Weights are shown from none to the map's own largest, as
    their square root, and grown to the 3 x 3 positions around, or single ones would not be seen.
    """
    attentive = list(dict.fromkeys(look.network for look in found))
    lams = {one.network: one for one in local}
    others = [network for network in lams if network not in attentive]
    if not attentive and not others:
        return blank("no network to look at")
    places = max([look.place for look in found], default=3)
    shape = (len(attentive) + -(-len(others) // (places + 1)), places + 1)
    height, width = sample.lr.shape[:2]
    size = (WIDTH, shape[0] * (WIDTH / shape[1] * max(height / width, 1) + 0.4) + 0.1)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(*shape, squeeze=False)
    for ax in axes.ravel():
        _bare(ax)
        ax.set_visible(False)
    for look in found:
        line = axes[attentive.index(look.network)]
        _attended(line[look.place - 1], look, sample)
        line[0].set_ylabel(look.network, fontsize=9)
    for network, one in lams.items():
        if network in attentive:
            ax, name = axes[attentive.index(network), -1], "attribution"
        else:
            ax, name = axes[len(attentive) :].ravel()[others.index(network)], network
        _attributed(ax, one, sample)
        ax.set_title(f"{name}: DI {one.found.diffusion:.1f}", fontsize=8)
    return figure


@styled
def copies(table: pd.DataFrame, sample: Sample, most: int = 7) -> Figure:
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
    Framed blue where the detail of the position's block agrees with the query's, vermilion where
    it disagrees (inconsistency above 1: worse than to copy nothing).
    """
    if table.empty:
        return blank("no network with attention")
    networks = list(table["network"].unique())
    most = min(most, int(table["rank"].max()))
    panel = WIDTH / (most + 1)
    size = (WIDTH, len(networks) * (panel + 0.42) + 0.1)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(networks), most + 1, squeeze=False)
    for line, network in zip(axes, networks, strict=True):
        part = table[table["network"] == network].sort_values("rank")
        query = (int(part["query_row"].iloc[0]), int(part["query_column"].iloc[0]))
        _patch(line[0], sample, query, QUERY)
        line[0].set_title("query", fontsize=8)
        line[0].set_ylabel(f"{network}\nlayer {part['place'].iloc[0]}", fontsize=8)
        for ax in line[1:]:
            ax.set_visible(False)
        for ax, row in zip(line[1:], part.itertuples(), strict=False):
            ax.set_visible(True)
            apart = float(row.inconsistency)
            _patch(ax, sample, (row.row, row.column), DISAGREES if apart > 1 else AGREES)
            ax.set_title(f"{_percent(row.weight)}, k = {apart:.2g}", fontsize=8)
    return figure


@styled
def sampling(found: Sequence[Look], sample: Sample) -> Figure:
    """Draw where deformable layers read the value of the position that the query weighs most.

    A row a network, a column a layer; the box is the position, circles are the nine samples, their
    area the modulation. Looks without sampling points are left out.
    """
    shown = [look for look in found if look.points is not None]
    if not shown:
        return blank("no network with deformable values")
    networks = list(dict.fromkeys(look.network for look in shown))
    places = max(look.place for look in shown)
    panel = WIDTH / max(places, 4)
    size = (panel * places, len(networks) * (panel + 0.3))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(networks), places, squeeze=False)
    by = {(look.network, look.place): look for look in shown}
    for line, network in zip(axes, networks, strict=True):
        for place, ax in enumerate(line, start=1):
            _bare(ax)
            if (network, place) in by:
                _read(ax, by[network, place], sample)
            else:
                ax.set_visible(False)
        line[0].set_ylabel(network, fontsize=9)
    return figure


@styled
def summary(table: pd.DataFrame) -> Figure:
    """Draw the summaries by layer: a panel a number, a line a network (TFS dashed).

    Parameters
    ----------
    table
        network, place, and columns of `METRICS`: means over queries and pictures.
    """
    if table.empty:
        return blank("no network with attention")
    networks = list(table["network"].unique())
    metrics = [m for m in METRICS if m in table]
    families = list(dict.fromkeys(_family(n) for n in networks))
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    for ax, metric in zip(axes, metrics, strict=True):
        for network in networks:
            part = table[table["network"] == network]
            family = families.index(_family(network))
            ink = COLOURS[family] if family < len(COLOURS) else NULL_COLOUR
            style = "--" if "+tfs" in network or "notfs" in network else "-"
            ax.plot(part["place"], part[metric], style, color=ink, marker="o", markersize=4,
                    label=network)  # fmt: skip
        if metric == "disagreeing" and "chance" in table:
            ax.axhline(table["chance"].mean(), color=NULL_COLOUR, linestyle=":", label="chance")
        ax.set(xlabel="layer", title=METRICS[metric])
        ax.set_xticks(sorted(table["place"].unique()))
        ax.set_yscale("log" if metric == "support" else "linear")
        if metric == "support":
            ax.set_ylim(bottom=1)  # all on one position
        else:
            ax.set_ylim(0, None if metric == "distance" else max(1.0, *ax.get_ylim()[1:]))
    # The panel with most lines has chance, too.
    labels = max((ax.get_legend_handles_labels() for ax in axes), key=lambda found: len(found[1]))
    figure.legend(*labels, loc="outside lower center", ncols=5)
    return figure


def _attended(ax: Axes, look: Look, sample: Sample) -> None:
    ax.set_visible(True)
    ax.imshow(_dim(sample.lr), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    grown = maximum_filter(np.sqrt(look.map / look.map.max()), 3)
    ax.imshow(grown, cmap="magma", norm=Normalize(0, 1), alpha=0.15 + 0.85 * grown,
              interpolation="nearest")  # fmt: skip
    for row, column in look.strongest():
        ax.plot(column, row, "o", markersize=5, markerfacecolor="none", markeredgecolor=COPIED,
                markeredgewidth=0.9)  # fmt: skip
    ax.plot(look.query[1], look.query[0], "+", color=QUERY, markersize=11, markeredgewidth=1.8)
    ax.set_title(f"layer {look.place}: {_support(look.map):,.0f} positions", fontsize=8)


def _attributed(ax: Axes, one: Local, sample: Sample) -> None:
    """Show an attribution on the crop that the network saw, and box the patch."""
    ax.set_visible(True)
    top, left, height, width = one.crop
    _part(ax, _dim(sample.lr), (top, top + height), (left, left + width))
    most = float(np.abs(one.found.map).max()) or 1.0
    root = np.sign(one.found.map) * np.sqrt(np.abs(one.found.map) / most)
    extent = (left - 0.5, left + width - 0.5, top + height - 0.5, top - 0.5)
    ax.imshow(root, cmap="RdBu_r", norm=Normalize(-1, 1), alpha=np.abs(root), extent=extent,
              interpolation="nearest")  # fmt: skip
    y, x, h, w = one.window
    ax.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor=QUERY, linewidth=1))


def _read(ax: Axes, look: Look, sample: Sample) -> None:
    assert look.points is not None
    assert look.modulation is not None
    row, column = look.strongest(1)[0]
    _part(ax, sample.lr, (row - REACH, row + REACH + 1), (column - REACH, column + REACH + 1))
    ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=QUERY))
    ax.scatter(look.points[:, 1], look.points[:, 0], s=40 * look.modulation, color=DISAGREES,
               edgecolor="white", linewidth=0.7)  # fmt: skip
    ax.set_title(f"layer {look.place}: at ({row}, {column})", fontsize=8)


def _patch(ax: Axes, sample: Sample, at: tuple[int, int], ink: str) -> None:
    """Show the HR patch around a position, its own block boxed; beyond the border is nothing."""
    s, (row, column) = sample.scale, at
    rows, columns = (((at - PATCH) * s, (at + PATCH + 1) * s) for at in (row, column))
    _part(ax, sample.hr, rows, columns)
    _bare(ax)
    for spine in ax.spines.values():
        spine.set(visible=True, edgecolor=ink, linewidth=2.5)
    block = Rectangle((column * s - 0.5, row * s - 0.5), s, s, fill=False, edgecolor=QUERY)
    ax.add_patch(block)


def _part(ax: Axes, image: NDArray[Any], rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """Show some rows and columns of an image at their place; beyond its border is nothing."""
    (top, bottom), (left, right) = rows, columns
    y, x = max(top, 0), max(left, 0)
    part = image[y:bottom, x:right]
    extent = (x - 0.5, x + part.shape[1] - 0.5, y + part.shape[0] - 0.5, y - 0.5)
    ax.imshow(part, cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=extent)
    ax.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5))


def _dim(lr: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the picture in grey, dark enough for colours to stand out."""
    return lr.astype(float).mean(axis=2) * 0.67


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _support(a: NDArray[Any]) -> float:
    """Return the effective number of positions, exp of the entropy."""
    part = a[a > 0]
    return float(np.exp(-np.sum(part * np.log(part))))


def _family(network: str) -> str:
    return network.partition("-x")[0].removesuffix("+tfs").removesuffix("-notfs")


def _percent(weight: float) -> str:
    return f"{100 * weight:.2g} %"
