"""Every figure. Each function takes tidy numbers or images and returns a Figure of its own.

Figures are made without pyplot, so none is registered anywhere and none leaks. Colours are Okabe
and Ito's, told apart by the colour-blind; the null pair is always grey; signed maps are centred
at 0 and pixels are shown as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.rcsetup import cycler
from numpy.typing import NDArray

from dtfn import subpixel

if TYPE_CHECKING:
    from dtfn.regions import View

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
NULL_COLOUR = "#767676"
BOX = "#F0E442"
SIGNED, POSITIVE = "RdBu_r", "viridis"
WIDTH = 9.6  # inches; at 100 dots an inch the width of a report's column

STYLE: Any = {
    "figure.dpi": 200,
    "savefig.dpi": "figure",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "lines.linewidth": 1.6,
}

P = ParamSpec("P")


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the house's style whatever the caller's settings are."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return drawn


def colour(name: str, names: Sequence[str]) -> str:
    """Return the colour of a pair or method among others; the null pair is grey."""
    others = [n for n in names if n != subpixel.NULL]
    return NULL_COLOUR if name == subpixel.NULL else COLOURS[others.index(name) % len(COLOURS)]


@_styled
def training(history: pd.DataFrame, bicubic: float) -> Figure:
    """Draw a training run: loss, and validation PSNR beside bicubic.

    Parameters
    ----------
    history
        Columns step, loss, psnr (dB), as in the trainer's history.csv.
    bicubic
        PSNR of bicubic on the same pictures, dB.
    """
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(history["step"], history["loss"], marker="o", markersize=3)
    left.set(xlabel="step", ylabel="training loss", yscale="log")
    left.yaxis.set_minor_formatter("{x:.3g}")
    right.plot(history["step"], history["psnr"], marker="o", markersize=3, label="network")
    right.axhline(bicubic, color=NULL_COLOUR, linestyle="--", label="bicubic")
    right.set(xlabel="step", ylabel="validation PSNR (dB, Y)")
    right.legend()
    return figure


@_styled
def gains(table: pd.DataFrame, base: str = "bicubic") -> Figure:
    """Draw each method's PSNR gain over `base`: a dot a picture, a diamond the mean.

    Parameters
    ----------
    table
        Of `dtfn.evaluation.evaluate`.
    base
        The method that is 0.
    """
    frame = gain_over(table, base)
    methods = [m for m in table["method"].unique() if m != base]
    datasets = list(frame["dataset"].unique())
    height = 1.1 + 0.36 * max(len(methods), 2)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(1, len(datasets), sharex=True, sharey=True, squeeze=False)[0]
    for ax, dataset in zip(axes, datasets, strict=True):
        part = frame[frame["dataset"] == dataset]
        for y, method in enumerate(reversed(methods)):
            gain = part.loc[part["method"] == method, "gain"].to_numpy()
            # Spread by rank, not by chance: the same numbers draw the same figure.
            spread = np.linspace(-0.25, 0.25, len(gain))
            ink = colour(method, methods)
            ax.scatter(gain, y + spread, s=9, color=ink, alpha=0.45, linewidths=0)
            ax.scatter(gain.mean(), y, s=42, marker="D", color=ink, edgecolor="black", zorder=3)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_title(f"{dataset} ({part['image'].nunique()} pictures)")
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(methods)), list(reversed(methods)))
    figure.supxlabel(f"PSNR gain over {base} (dB, Y)", fontsize=10)
    return figure


def gain_over(table: pd.DataFrame, base: str) -> pd.DataFrame:
    """Return dataset, image, method, gain (dB) of every other method over `base`."""
    keys = ["dataset", "image", "scale"]
    zero = table.loc[table["method"] == base, [*keys, "psnr"]]
    joined = table[table["method"] != base].merge(zero, on=keys, suffixes=("", "_base"))
    gain = joined["psnr"] - joined["psnr_base"]
    return joined[["dataset", "image", "method"]].assign(gain=gain)


@_styled
def density(frame: pd.DataFrame) -> Figure:
    """Draw how harm is distributed over positions, each pair over the null pair.

    Parameters
    ----------
    frame
        Of `dtfn.regions.density`.
    """
    names = list(frame["pair"].unique())
    others = [n for n in names if n != subpixel.NULL]
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots(1, max(len(others), 1), sharex=True, sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, others or names, strict=True):
        for pair in (subpixel.NULL, name):
            part = frame[frame["pair"] == pair]
            if part.empty:
                continue
            edges = np.append(part["low"].to_numpy(), part["high"].to_numpy()[-1])
            fill = pair == subpixel.NULL
            label = "null pair (luck)" if fill else f"{name} against its local twin"
            ink = colour(pair, names)
            ax.stairs(part["share"], edges, fill=fill, color=ink, alpha=0.45 if fill else 1,
                      linewidth=1.6, label=label)  # fmt: skip
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set(yscale="log", xlim=_reach(frame))
        ax.set_xlabel("← helped    signed root of harm (8-bit levels)    harmed →")
        ax.legend(loc="upper left", bbox_to_anchor=(0, 1.16), ncols=2, borderaxespad=0)
    axes[0].set_ylabel("share of LR positions")
    return figure


def _reach(frame: pd.DataFrame) -> tuple[float, float]:
    """Return symmetric limits that hold every bin with something in it."""
    full = frame[frame["share"] > 0]
    most = float(max(-full["low"].min(), full["high"].max(), 1))
    return -most, most


@_styled
def bounds(frame: pd.DataFrame) -> Figure:
    """Draw upper bounds against granularity, with bands of their intervals, and the null's.

    Parameters
    ----------
    frame
        pair, granularity (coarse to fine as in `dtfn.subpixel.CURVE`), estimate, low, high: gain
        over the better network of the pair, dB.
    """
    steps = [g for g in subpixel.CURVE if g != "fusion"]
    names = list(frame["pair"].unique())
    figure = Figure(figsize=(WIDTH * 0.8, 3.8), layout="constrained")
    ax = figure.subplots()
    for name in names:
        part = frame[frame["pair"] == name].set_index("granularity")
        curve, ink = part.reindex(steps), colour(name, names)
        style = "--" if name == subpixel.NULL else "-"
        label = "null pair (luck)" if name == subpixel.NULL else name
        ax.plot(range(len(steps)), curve["estimate"], style, color=ink, marker="o", markersize=4,
                label=label)  # fmt: skip
        ax.fill_between(range(len(steps)), curve["low"], curve["high"], color=ink, alpha=0.15,
                        linewidth=0)  # fmt: skip
        if "fusion" in part.index:
            f = part.loc["fusion"]
            error = np.array([[f["estimate"] - f["low"]], [f["high"] - f["estimate"]]])
            at = len(steps) + 0.16 * (names.index(name) - (len(names) - 1) / 2)
            ax.errorbar(at, f["estimate"], error, fmt="D", color=ink, capsize=3, markersize=5)
    labels = [f"{g}×{g}" if g.isdigit() else g for g in steps]
    ax.set_xticks(range(len(steps) + 1), [*labels, "fusion"])
    ax.axvline(len(steps) - 0.5, color="#bbbbbb", linewidth=0.8)
    ax.set(xlabel="granularity of the choice (LR positions)")
    ax.set_ylabel("bound's gain over the better network (dB)")
    ax.legend()
    return figure


@_styled
def estimates(frame: pd.DataFrame, titles: dict[str, str]) -> Figure:
    """Draw estimates with their intervals: a panel a metric, a row a pair, 0 marked.

    Parameters
    ----------
    frame
        pair, metric, estimate, low, high.
    titles
        metric -> what stands below its panel; also their order.
    """
    names = list(frame["pair"].unique())
    height = 1.0 + 0.4 * max(len(names), 2)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for ax, (metric, title) in zip(axes, titles.items(), strict=True):
        for y, name in enumerate(reversed(names)):
            row = frame[(frame["pair"] == name) & (frame["metric"] == metric)].iloc[0]
            ax.plot([row["low"], row["high"]], [y, y], color=colour(name, names), linewidth=2.4)
            ax.plot(row["estimate"], y, "o", color=colour(name, names), markersize=6)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_xlabel(title)
        ax.grid(axis="y", visible=False)
        ax.margins(y=0.3)
    axes[0].set_yticks(range(len(names)), list(reversed(names)))
    return figure


@_styled
def region(view: View) -> Figure:
    """Draw one harmed region: where it is, what the networks made of it, and their errors.

    Upper row: the picture with the region boxed, HR, L, N. Lower row: LR, the errors of L and
    of N (root of the block error, one scale), the harm (signed root).
    """
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


@_styled
def gallery(views: Sequence[View]) -> Figure:
    """Draw several harmed regions, a row each: HR, L, N, harm.

    With no view, the figure says that there was no harm beyond luck.
    """
    if not views:
        figure = Figure(figsize=(WIDTH, 1.2), layout="constrained")
        figure.text(0.5, 0.5, "no region of harm beyond the null pair's", ha="center", va="center")
        return figure
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
    """Return sign(h) sqrt(|h|), which shows small and large harm, and limits centred at 0."""
    root = np.sign(harm) * np.sqrt(np.abs(harm))
    most = float(np.abs(root).max()) or 1.0
    return root, Normalize(-most, most)
