"""The look of every figure: one style, and one meaning a colour that the colour-blind tell apart.

Charts are in `dtfn.plots.curves`, pixel evidence in `dtfn.plots.pictures`. Figures are made without
pyplot, so none is registered anywhere and none leaks. Where there is nothing to draw, a figure has
no axes; `dtfn.reports.Run.figure` writes a sentence instead.
"""

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
NULL_COLOUR = "#767676"  # the control, bicubic, chance
BAD, GOOD = "#B2182B", "#2166AC"  # harmed and helped, as in a signed map
BOX = "#F0E442"  # frames what is looked at
SIGNED, POSITIVE = "RdBu_r", "viridis"  # red harmed, blue helped; errors and strengths
WIDTH = 9.6  # inches; at 100 dots an inch the width of a report's column
NARROW = 5.6  # of a figure that must be read on a phone

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
    """Save a figure as SVG and PNG, ``file`` without extension; the same figure has the same bytes.

    The caption goes into both.
    """
    about = {"Title": file.name, "Description": caption}
    # No date, no library version, no random ids inside.
    mpl.rcParams["svg.hashsalt"] = file.name
    figure.savefig(f"{file}.svg", metadata=about | {"Date": None})
    figure.savefig(f"{file}.png", metadata=about | {"Software": "dtfn"})


def colour(name: str, names: Sequence[str]) -> str:
    """Return the colour of a network or pair, e.g. ``nla+tfs-x4-s0``: that of its attention.

    Of all ``names`` of the figure, those of no known attention share the colours that are left.
    """
    families = [n.partition("-x")[0].removesuffix("+tfs").removesuffix("-notfs") for n in names]
    family = families[names.index(name)]
    if family in FAMILIES:
        return FAMILIES[family]
    left = [ink for other, ink in FAMILIES.items() if other not in families]
    left = left or list(FAMILIES.values())
    others = [n for n, known in zip(names, families, strict=True) if known not in FAMILIES]
    return left[others.index(name) % len(left)]
