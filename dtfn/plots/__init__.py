"""The look of every figure: one style, colours that the colour-blind tell apart.

Figures are made without pyplot's help, so none is registered anywhere and none leaks.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from dtfn.pairs import NULL

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


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Set the house's style, whatever the user's settings are; also a decorator, ``@styled()``."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


@styled()
def save(figure: Figure, file: Path, caption: str) -> None:
    """Save a figure as SVG and PNG; the same figure has the same bytes.

    Parameters
    ----------
    figure
        What to save.
    file
        Where to, without extension; its name is the title.
    caption
        Goes into both files.
    """
    about = {"Title": file.name, "Description": caption}
    # No date, no library version, no random ids inside.
    mpl.rcParams["svg.hashsalt"] = file.name
    figure.savefig(f"{file}.svg", metadata=about | {"Date": None})
    figure.savefig(f"{file}.png", metadata=about | {"Software": "dtfn"})


def colour(name: str, names: Sequence[str]) -> str:
    """Return the colour of a pair or method among others; the null pair is grey."""
    others = [n for n in names if n != NULL]
    return NULL_COLOUR if name == NULL else COLOURS[others.index(name) % len(COLOURS)]


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
