"""Figures about bounds: what could be gained, by how fine a choice, and who gains how much of it.

Users find these in `dtfn.plots`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dtfn import subpixel
from dtfn.plots.style import COLOURS, NULL_COLOUR, WIDTH, colour, styled


@styled
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
        # Colours come again after six.
        style = "--" if name == subpixel.NULL else ("-", "-.")[names.index(name) > len(COLOURS)]
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
    ax.legend(ncols=1 + len(names) // 8)
    return figure


@styled
def families(frame: pd.DataFrame, metric: str, title: str) -> Figure:
    """Draw a bound of each family on each dataset as a bar, luck's as a grey bar on it.

    The line at a bar's end is the interval of what is net of luck.

    Parameters
    ----------
    frame
        Of `dtfn.claims.beside_null`: dataset, pair, m, and with a null pair m_null, m_net_low,
        m_net_high; else m_low, m_high.
    metric
        m.
    title
        What it is, with its unit.
    """
    datasets, names = list(frame["dataset"].unique()), list(frame["pair"].unique())
    has_null = f"{metric}_null" in frame
    figure = Figure(figsize=(WIDTH, 1.0 + 0.34 * max(len(names), 2)), layout="constrained")
    axes = figure.subplots(1, len(datasets), sharex=True, sharey=True, squeeze=False)[0]
    for ax, dataset in zip(axes, datasets, strict=True):
        for y, name in enumerate(reversed(names)):
            row = frame[(frame["dataset"] == dataset) & (frame["pair"] == name)]
            if row.empty:
                continue
            one = row.iloc[0]
            ax.barh(y, one[metric], color=colour(name, names), height=0.62, alpha=0.85)
            base = one[f"{metric}_null"] if has_null else 0.0
            ends = [f"{metric}_net_low", f"{metric}_net_high"] if has_null else [
                f"{metric}_low", f"{metric}_high"]  # fmt: skip
            ax.plot(base + one[ends].to_numpy(float), [y, y], color="black", linewidth=1.4)
            if has_null:
                ax.barh(y, base, color=NULL_COLOUR, height=0.3)
        ax.set_title(dataset)
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(names)), list(reversed(names)))
    figure.supxlabel(title + ("; grey: luck's" if has_null else ""), fontsize=10)
    return figure
