"""Every figure. Each function takes tidy numbers or views and returns a Figure of its own.

The null pair is always grey. `region` and `gallery` are those of `dtfn.plots.panels`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dtfn import subpixel
from dtfn.plots.panels import gallery, region
from dtfn.plots.style import NULL_COLOUR, WIDTH, blank, colour, styled

__all__ = ["bounds", "density", "estimates", "gain_over", "gains", "gallery", "region", "training"]


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
        ax.margins(y=0.3)
    axes[0].set_yticks(range(len(names)), list(reversed(names)))
    return figure
