"""The look of every figure: one style, colours that the colour-blind tell apart.

Figures are made without pyplot's help, so none is registered anywhere and none leaks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from dtfn import subpixel

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
NULL_COLOUR = "#767676"
COLUMNS = 4  # panels in a row
BOX = "#F0E442"  # frames of what is looked at
SIGNED, POSITIVE = "RdBu_r", "viridis"  # colour maps
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


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
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


def blank(text: str) -> Figure:
    """Return a figure that only says why there is nothing to draw."""
    figure = Figure(figsize=(WIDTH, 1.2), layout="constrained")
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure


def panels(
    number: int, height: float, columns: int = COLUMNS, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels, in rows; what is left over is empty."""
    columns = min(columns, max(number, 2))
    rows = math.ceil(number / columns)
    figure = Figure(figsize=(WIDTH, 0.3 + height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for ax in axes[number:]:
        ax.remove()
    return figure, list(axes[:number])


def bare(ax: Axes, title: str = "") -> None:
    """Leave only the picture and its title."""
    if title:
        ax.set_title(title, fontsize=9)
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
