"""Figures about bounds: what could be gained, by how fine a choice, and who gains how much of it.

Users find these in `dtfn.plots`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dtfn import subpixel
from dtfn.plots.style import COLOURS, NULL_COLOUR, WIDTH, colour, styled

CHOICES = {
    "exemplar_random": "a stranger's",
    "exemplar_similar": "the first candidate's",
    "exemplar_bound_random": "the best of strangers",
    "exemplar_bound": "the best candidate's (bound)",
}
"""Keys of `dtfn.exemplars.exemplar_bound` -> whose detail is copied."""


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


@styled
def exemplars(frame: pd.DataFrame) -> Figure:
    """Draw what copying a detail gains over bicubic: a panel a set of candidates, 0 marked.

    Parameters
    ----------
    frame
        dataset, candidates, metric (the keys of `CHOICES`), estimate, low, high: PSNR over bicubic.
    """
    sets, datasets = list(frame["candidates"].unique()), list(frame["dataset"].unique())
    rows = len(CHOICES) * (len(datasets) + 0.6)
    figure = Figure(figsize=(WIDTH, 1.1 + 0.17 * max(rows, 8)), layout="constrained")
    axes = figure.subplots(1, len(sets), sharex=True, sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, sets, strict=True):
        for i, metric in enumerate(reversed(CHOICES)):
            for j, dataset in enumerate(datasets):
                found = frame[
                    (frame["candidates"] == name)
                    & (frame["metric"] == metric)
                    & (frame["dataset"] == dataset)
                ].iloc[0]
                y = i - 0.7 * (j - (len(datasets) - 1) / 2) / max(len(datasets), 1)
                ink = COLOURS[j % len(COLOURS)]
                label = dataset if i == 0 else None
                ax.plot([found["low"], found["high"]], [y, y], color=ink, linewidth=2)
                ax.plot(found["estimate"], y, "o", color=ink, markersize=5, label=label)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_title(name)
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(CHOICES)), list(reversed(CHOICES.values())))
    if len(datasets) > 1:
        axes[-1].legend(loc="upper right")  # strangers lie far to the left
    figure.supxlabel("PSNR over bicubic when the detail is copied (dB)", fontsize=10)
    return figure


@styled
def recoveries(frame: pd.DataFrame, metric: str = "selection_share") -> Figure:
    """Draw what share of a bound each candidate recovers: a panel a pair; 0 is N, 1 the bound.

    Parameters
    ----------
    frame
        Of `dtfn.recovery.shares`: pair, candidate, and the metric with its ends.
    metric
        Which share; NaN where there is none.
    """
    names = list(frame["pair"].unique())
    titles = list(dict.fromkeys(frame["candidate"].map(_without_network)))
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    height = 0.7 + rows * (0.5 + 0.27 * len(titles))
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax in axes[len(names) :]:
        ax.remove()
    for ax, name in zip(axes, names, strict=False):
        part = frame[frame["pair"] == name]
        for _, row in part.iterrows():
            y = len(titles) - 1 - titles.index(_without_network(row["candidate"]))
            ink = NULL_COLOUR if "luck" in row["candidate"] else COLOURS[0]
            ax.plot([row[f"{metric}_low"], row[f"{metric}_high"]], [y, y], color=ink, linewidth=2.4)
            ax.plot(row[metric], y, "o", color=ink, markersize=6)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.axvline(1, color="black", linewidth=0.8, linestyle=":")
        ax.set_title(name)
        ax.set_ylim(-0.6, len(titles) - 0.4)
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(titles)), list(reversed(titles)))
    figure.supxlabel("share of the bound recovered (0: N itself, dotted: the bound)", fontsize=10)
    return figure


def _without_network(candidate: str) -> str:
    """Return ``"with TFS"`` for ``"with TFS (dtfn)"``: one row for all families."""
    return "with TFS" if candidate.startswith("with TFS") else candidate
