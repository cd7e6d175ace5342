"""Every figure. Each function takes tidy numbers or views and returns a Figure of its own.

The null pair is always grey. What shows harm is in `dtfn.plots.harm`, what shows bounds in
`dtfn.plots.bounds`, `region` and `gallery` in `dtfn.plots.panels`; all are here too.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dtfn import subpixel
from dtfn.plots.bounds import bounds, families
from dtfn.plots.harm import causes, correlations, deciles, errors, phases
from dtfn.plots.panels import gallery, region
from dtfn.plots.style import NULL_COLOUR, WIDTH, blank, colour, panels, styled

__all__ = [
    "bounds", "causes", "correlations", "deciles", "density", "errors", "estimates",
    "families", "gain_over", "gains", "gallery", "phases", "region",
    "training",
]  # fmt: skip


@styled
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


@styled
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
    if not methods:
        return blank(f"no network to compare with {base}")
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
        number = part["image"].nunique()
        ax.set_title(f"{dataset} ({number} picture{'s' * (number != 1)})")
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(methods)), list(reversed(methods)))
    figure.supxlabel(f"PSNR gain over {base} (dB, Y)", fontsize=10)
    return figure


def gain_over(table: pd.DataFrame, base: str) -> pd.DataFrame:
    """Return the rows of all other methods with their PSNR gain (dB) over `base`."""
    keys = ["dataset", "image", "scale"]
    zero = table.loc[table["method"] == base, [*keys, "psnr"]]
    joined = table[table["method"] != base].merge(zero, on=keys, suffixes=("", "_base"))
    gain = joined["psnr"] - joined["psnr_base"]
    return joined.drop(columns="psnr_base").assign(gain=gain)


@styled
def density(frame: pd.DataFrame) -> Figure:
    """Draw how harm is distributed over positions, each pair over the null pair.

    Parameters
    ----------
    frame
        Of `dtfn.subpixel.regions.density`.
    """
    names = list(frame["pair"].unique())
    others = [n for n in names if n != subpixel.NULL]
    figure, axes = panels(max(len(others), 1), 3.1, sharex=True, sharey=True)
    for ax, name in zip(axes, others or names, strict=True):
        for pair in (subpixel.NULL, name):
            part = frame[frame["pair"] == pair]
            if part.empty:
                continue
            edges = np.append(part["low"].to_numpy(), part["high"].to_numpy()[-1])
            fill = pair == subpixel.NULL
            label = "luck" if fill else name
            ink = colour(pair, names)
            ax.stairs(part["share"], edges, fill=fill, color=ink, alpha=0.45 if fill else 1,
                      linewidth=1.6, label=label)  # fmt: skip
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set(yscale="log", xlim=_reach(frame))
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8, borderaxespad=0.2)
    figure.supxlabel("← helped    signed root of harm (8-bit levels)    harmed →", fontsize=10)
    figure.supylabel("share of LR positions", fontsize=10)
    return figure


def _reach(frame: pd.DataFrame) -> tuple[float, float]:
    """Return symmetric limits that hold every bin with something in it."""
    full = frame[frame["share"] > 0]
    most = float(max(-full["low"].min(), full["high"].max(), 1))
    return -most, most


@styled
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
        ax.set_ylim(-0.7, len(names) - 0.3)
    axes[0].set_yticks(range(len(names)), list(reversed(names)))
    return figure
