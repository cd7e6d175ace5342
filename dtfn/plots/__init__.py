"""The look of every figure: one style, and one meaning a colour that the colour-blind tell apart.

Charts are in `dtfn.plots.curves`, pixel evidence in `dtfn.plots.pictures`. Figures are made without
pyplot, so none is registered anywhere and none leaks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

FAMILIES = {"nla": "#0072B2", "nlsa": "#009E73", "gla": "#CC79A7", "dtfn": "#D55E00"}
FAMILIES |= {"local": "#E69F00", "placebo": "#882255"}
"""Networks by the attention that they have, each in its colour in every figure."""
CONTROL = "control"  # its name among pairs
NULL_COLOUR = "#767676"  # the control, bicubic, chance
BOX = "#F0E442"  # frames what is looked at
SIGNED, POSITIVE = "RdBu_r", "viridis"  # red harmed, blue helped; errors and strengths
WIDTH = 9.6  # inches; at 100 dots an inch the width of a report's column

_STYLE: Any = {
    "figure.dpi": 200,
    "savefig.dpi": "figure",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=list(FAMILIES.values())),
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
        mpl.rcParams.update(_STYLE)
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
    """Return the colour of a network or pair: that of its attention, grey for the control.

    Parameters
    ----------
    name
        E.g. ``nla``, ``nla+tfs-x4-s0`` or `CONTROL`.
    names
        All of the figure: those of no known attention share what colours are left, in order.
    """
    if name == CONTROL:
        return NULL_COLOUR
    families = [_family(n) for n in names]
    if _family(name) in FAMILIES:
        return FAMILIES[_family(name)]
    others = [n for n, family in zip(names, families, strict=True) if family not in FAMILIES]
    left = [ink for family, ink in FAMILIES.items() if family not in families] or list(
        FAMILIES.values()
    )
    return left[[n for n in others if n != CONTROL].index(name) % len(left)]


def dashes(name: str) -> str:
    """Return the line style of a network or pair: dashed with TFS added, or taken away."""
    return ":" if name == CONTROL else "--" if "+tfs" in name or "notfs" in name else "-"


def _family(name: str) -> str:
    return name.partition("-x")[0].removesuffix("+tfs").removesuffix("-notfs")


def blank(text: str) -> Figure:
    """Return a figure that only says why there is nothing to draw."""
    figure = Figure(figsize=(WIDTH, 1.2), layout="constrained")
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure
