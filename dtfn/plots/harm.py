"""Figures about harm: where N and L err, what harm goes with, how well it is predicted.

Signed maps are centred at 0. Users find these in `dtfn.plots`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from dtfn import subpixel
from dtfn.plots.style import COLOURS, COLUMNS, NULL_COLOUR, WIDTH, blank, panels, styled

SIGNED, POSITIVE = "RdBu_r", "viridis"
DECILES = range(1, 11)
TITLES = {
    "severity_db": "severity (dB)", "aliasing": "aliasing (share)",
    "inconsistency": "inconsistency (log)", "recurrence": "recurrence distance (levels)",
    "coherence": "coherence", "gradient_energy": "gradient energy (log)",
    "variance": "variance (log)",
}  # fmt: skip
"""Maps of `dtfn.texture.describe` that `causes` draws, with their titles."""


@styled
def errors(frame: pd.DataFrame, span: tuple[float, float], pitch: float) -> Figure:
    """Draw in hexagons how N's sub-pixel PSNR stands against L's, a panel a pair.

    Below the diagonal N erred more: harm. Positions are counted on a logarithmic scale.

    Parameters
    ----------
    frame
        pair, without, with (dB), positions: `dtfn.positions.Positions.errors`.
    span
        Lowest and highest PSNR.
    pitch
        Width of a hexagon, dB.
    """
    names = list(frame["pair"].unique())
    figure, axes = panels(len(names), 2.2)
    norm = LogNorm(1, max(2, frame["positions"].max()))
    # Two more hexagons on each side: matplotlib drops what is nearest to a centre outside. Rows of
    # one of the two grids lie the square root of 3 times the pitch apart.
    tall = pitch * math.sqrt(3)
    across, up = (math.ceil((span[1] - span[0]) / size - 1e-9) + 4 for size in (pitch, tall))
    low, bottom = span[0] - 2 * pitch, span[0] - 2 * tall
    extent = (low, low + across * pitch, bottom, bottom + up * tall)
    for ax, name in zip(axes, names, strict=True):
        part = frame[frame["pair"] == name]
        shown = ax.hexbin(
            part["without"], part["with"], C=part["positions"], reduce_C_function=np.sum,
            gridsize=(across, up), extent=extent, norm=norm, cmap=POSITIVE,
            linewidths=0,
        )  # fmt: skip
        ax.plot(span, span, color="black", linewidth=0.8)
        ax.set(title=_title(name), xlim=span, ylim=span, aspect="equal")
        ax.text(0.97, 0.04, "harmed", transform=ax.transAxes, ha="right", fontsize=8)
        ax.text(0.03, 0.9, "helped", transform=ax.transAxes, fontsize=8)
        ax.grid(visible=False)
        if ax.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            ax.set_ylabel("with (dB)")
    figure.colorbar(shown, ax=axes, label="LR positions", shrink=0.9)
    figure.supxlabel("sub-pixel PSNR without attention (dB)", fontsize=10)
    return figure


@styled
def deciles(frame: pd.DataFrame, pair: str, null: str | None) -> Figure:
    """Draw the harm rate by deciles of severity and inconsistency: the pair's, luck's, and net.

    Parameters
    ----------
    frame
        `dtfn.positions.Positions.deciles`.
    pair
        Whose harm.
    null
        The null pair; None: only the pair's own rates are drawn.
    """
    tables = [_rates(frame, pair)]
    titles = [f"harm rate of {pair}"]
    if null:
        tables += [_rates(frame, null), tables[0] - _rates(frame, null)]
        titles += ["harm rate of luck (null pair)", "net of luck"]
    if np.isnan(tables[-1]).all():
        return blank("no position has any detail to be inconsistent about")
    figure, axes = panels(len(tables), 3.2, 3)
    rates = np.concatenate([t.ravel() for t in tables[:2]])
    # Cells of a few positions may be at 0 or 1: all but a twentieth set the limits.
    away = max(float(np.nanpercentile(np.abs(rates - 0.5), 95)), 0.01)
    net = max(float(np.nanpercentile(np.abs(tables[-1]), 95)), 0.01)
    spans = [(0.5 - away, 0.5 + away)] * 2 + [(-net, net)]
    for ax, table, title, (low, high) in zip(axes, tables, titles, spans, strict=False):
        sns.heatmap(
            pd.DataFrame(table, DECILES, DECILES), ax=ax, vmin=low, vmax=high, cmap=SIGNED,
            square=True, xticklabels=3, yticklabels=3,
            cbar_kws={"location": "bottom", "shrink": 0.9, "format": PercentFormatter(1),
                      "ticks": MaxNLocator(4)},
        )  # fmt: skip
        ax.invert_yaxis()
        ax.tick_params(axis="y", labelrotation=0)
        ax.set(title=title, xlabel="inconsistency (decile)", ylabel="")
    axes[0].set_ylabel("severity (decile)")
    return figure


@styled
def phases(frame: pd.DataFrame) -> Figure:
    """Draw which pixels of a block suffer: change of the mean squared error, a panel a pair.

    Parameters
    ----------
    frame
        `dtfn.positions.Positions.phases`.
    """
    names = list(frame["pair"].unique())
    figure, axes = panels(len(names), 2.1)
    most = max(float(frame["change"].abs().max()), 1e-3)
    for ax, name in zip(axes, names, strict=True):
        part = frame[frame["pair"] == name]
        table = part.pivot(index="row", columns="column", values="change").to_numpy()
        sns.heatmap(
            table, ax=ax, vmin=-most, vmax=most, cmap=SIGNED, square=True, annot=True, fmt="+.2%",
            annot_kws={"fontsize": 7}, cbar=False,
        )  # fmt: skip
        _bare(ax, _title(name))
    figure.colorbar(axes[0].collections[0], ax=axes, label="change of squared error",
                    format=PercentFormatter(1), shrink=0.9)  # fmt: skip
    return figure


@styled
def correlations(frame: pd.DataFrame, null: bool) -> Figure:
    """Draw the rank correlation of harm with each cause: a panel a pair, luck's as a grey mark.

    Parameters
    ----------
    frame
        Of `dtfn.claims.correlation_table`.
    null
        Whether the frame has the null pair's.
    """
    names, causes = list(frame["pair"].unique()), list(frame["cause"].unique())
    figure, axes = panels(len(names), 0.8 + 0.26 * len(causes), sharex=True, sharey=True)
    for ax, name in zip(axes, names, strict=True):
        for y, cause in enumerate(reversed(causes)):
            row = frame[(frame["pair"] == name) & (frame["cause"] == cause)].iloc[0]
            ends = [row["correlation_low"], row["correlation_high"]]
            ax.plot(ends, [y, y], color=COLOURS[0], linewidth=2.4)
            ax.plot(row["correlation"], y, "o", color=COLOURS[0], markersize=6)
            if null:
                ax.plot(row["correlation_null"], y, "|", color=NULL_COLOUR, markersize=12, mew=2)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_title(name)
        ax.set_yticks(range(len(causes)), list(reversed(causes)))
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.grid(axis="y", visible=False)
    grey = " (grey: luck's)" if null else ""
    figure.supxlabel(f"rank correlation of being harmed{grey}", fontsize=10)
    return figure


@styled
def causes(hr: NDArray[np.uint8], maps: Mapping[str, NDArray[np.float64]], name: str) -> Figure:
    """Draw a picture and the maps of its textures, which need no network.

    Parameters
    ----------
    hr
        uint8 ``(sH, sW, 3)`` or ``(sH, sW)``.
    maps
        Of `dtfn.texture.describe`; where it was not asked, what is nearest is shown.
    name
        The picture's.
    """
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    axes = figure.subplots(2, COLUMNS).ravel()
    axes[0].imshow(hr, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    _bare(axes[0], name)
    for ax, (key, title) in zip(axes[1:], TITLES.items(), strict=True):
        values = _shown(maps[key], log="(log)" in title)
        known = values[np.isfinite(values)]
        low, high = np.percentile(known, [1, 99]) if known.size else (0, 1)
        around = 0.5 if high - low < 1e-9 else 0  # all alike: a bar that can be read
        norm = Normalize(low - around, high + around)
        shown = ax.imshow(values, cmap=POSITIVE, norm=norm, interpolation="nearest")
        _bare(ax, title)
        figure.colorbar(shown, ax=ax, location="bottom", shrink=0.9, aspect=30)
    return figure


def _title(name: str) -> str:
    return "null pair (luck)" if name == subpixel.NULL else name


def _rates(frame: pd.DataFrame, pair: str) -> NDArray[np.float64]:
    part = frame[frame["pair"] == pair]
    table = part.pivot(index="severity", columns="inconsistency", values="harm_rate")
    return table.to_numpy(dtype=float)


def _shown(values: NDArray[np.float64], log: bool) -> NDArray[np.float64]:
    """Return a map as drawn: only where it was asked, its logarithm if need be."""
    asked = ~np.isnan(values)
    rows, columns = asked.any(axis=1), asked.any(axis=0)
    part = values[rows][:, columns] if asked.any() else values
    return np.log10(np.maximum(part, 1e-3)) if log else part


def _bare(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=9)
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
