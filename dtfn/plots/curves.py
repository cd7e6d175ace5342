"""Figures of numbers: charts with their intervals, and maps of rates.

Each function takes a tidy table and returns a new Figure; grey is the control.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dtfn.plots import NULL_COLOUR, SIGNED, WIDTH, blank, colour, dashes, styled

NO_PAIR = "no network was trained for attention on and off"
DONORS = {
    "consistent": ("#2166AC", "own patch again"),
    "shifted": ("#56B4E9", "at another sub-pixel phase"),
    "inconsistent": ("#B2182B", "similar patches of other detail"),
}
"""Kind of donor, see `dtfn.donors.KINDS` -> its colour and name; plain donors are the control."""

NO_SWITCH = "not testable: no network here was trained for attention on and off"
BOUNDS = {
    "on": "attention on",
    "tfs": "attention with TFS",
    "selection": "selection, each position",
    "layer": "layers, each position",
    "own keys": "matching, own keys",
    "matching": "matching, all keys (B)",
    "weights": "weights of drawn details (A)",
}
"""The bounds that `bound_chain` draws, with their names."""


@styled()
def training_curve(history: pd.DataFrame, bicubic: float) -> Figure:
    """Draw a training run: loss, and validation PSNR with that of bicubic.

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


@styled()
def gate_course(history: pd.DataFrame, name: str, least: float) -> Figure:
    """Draw what equal attention weights cost as training goes on.

    Parameters
    ----------
    history
        Columns step and gate (dB; empty where it was not measured), of a shipped network; without
        the second the figure only says so.
    name
        Of the network.
    least
        What they must cost for the attention to be judged, dB: a line.
    """
    if "gate" not in history or history["gate"].isna().all():
        return blank(f"the history of {name or 'the zoo'} does not say what equal weights cost")
    known = history.dropna(subset=["gate"])
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    ax = figure.subplots()
    ax.plot(known["step"], known["gate"], marker="o", markersize=4, label=name)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.axhline(least, color=NULL_COLOUR, linestyle="--", label="what the gate asks for")
    ax.set(xlabel="step", ylabel="cost of equal weights (dB PSNR, Y)")
    ax.legend()
    return figure


@styled()
def psnr_gains(table: pd.DataFrame, base: str = "bicubic") -> Figure:
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
    figure, axes = _rows(methods, datasets, 0.36)
    for ax, dataset in zip(axes, datasets, strict=True):
        part = frame[frame["dataset"] == dataset]
        for y, method in enumerate(reversed(methods)):
            gain = part.loc[part["method"] == method, "gain"].to_numpy()
            # Spread by rank, not at random: the same numbers draw the same figure.
            spread = np.linspace(-0.25, 0.25, len(gain))
            ink = colour(method, methods)
            ax.scatter(gain, y + spread, s=9, color=ink, alpha=0.45, linewidths=0)
            ax.scatter(gain.mean(), y, s=42, marker="D", color=ink, edgecolor="black", zorder=3)
        ax.axvline(0, color="black", linewidth=0.8)
        number = part["image"].nunique()
        ax.set_title(f"{dataset} ({number} picture{'s' * (number != 1)})")
    figure.supxlabel(f"PSNR gain over {base} (dB, Y)", fontsize=10)
    return figure


def gain_over(table: pd.DataFrame, base: str) -> pd.DataFrame:
    """Return the rows of all other methods with their PSNR gain (dB) over `base`."""
    keys = ["dataset", "image", "scale"]
    zero = table.loc[table["method"] == base, [*keys, "psnr"]]
    joined = table[table["method"] != base].merge(zero, on=keys, suffixes=("", "_base"))
    gain = joined["psnr"] - joined["psnr_base"]
    return joined.drop(columns="psnr_base").assign(gain=gain)


@styled()
def intervention_costs(table: pd.DataFrame, doses: pd.DataFrame, least: float) -> Figure:
    """Draw what interventions on attention cost, and what is lost as its window shrinks.

    A colour an attention, a marker a dataset.

    Parameters
    ----------
    table
        Of `dtfn.gate.table`.
    doses
        Of `dtfn.gate.dose`.
    least
        What equal weights must cost, dB: a line.
    """
    kinds = [k for k in table if f"{k}_low" in table and not str(k).startswith("window")]
    labels = [f"{n}, {d}" for n, d in zip(table["name"], table["dataset"], strict=True)]
    networks, datasets = (list(table[key].unique()) for key in ("name", "dataset"))
    figure = Figure(figsize=(WIDTH, max(3.6, 1.4 + 0.2 * len(labels))), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, label in enumerate(labels):
        row = table.iloc[index]
        mark = "osD^v"[datasets.index(row["dataset"]) % 5]
        style: dict[str, Any] = {"color": colour(row["name"], networks), "markersize": 4}
        style |= {"marker": mark, "linestyle": dashes(row["name"])}
        at = np.arange(len(kinds)) + 0.6 * (index + 0.5) / len(labels) - 0.3
        ends = [row[[f"{kind}_{end}" for kind in kinds]].astype(float) for end in ("low", "high")]
        left.vlines(at, *ends, color=style["color"])
        left.plot(at, row[kinds].astype(float), label=label, **style | {"linestyle": "none"})
        part = doses[(doses["name"] == row["name"]) & (doses["dataset"] == row["dataset"])]
        right.plot(range(len(part)), part["cost"], **style)
        band = range(len(part)), part["cost_low"], part["cost_high"]
        right.fill_between(*band, color=style["color"], alpha=0.15, linewidth=0)
    for ax in (left, right):
        ax.axhline(0, color="black", linewidth=0.8)
    left.axhline(least, color=NULL_COLOUR, linestyle="--")
    left.set_xticks(range(len(kinds)), kinds)
    left.set_ylabel("cost (dB PSNR, Y)")
    radii = doses["radius"].drop_duplicates().sort_values()
    names = ["all" if math.isinf(radius) else f"{radius:.0f}" for radius in radii]
    right.set_xticks(range(len(names)), names)
    right.set(xlabel="keys at most so many LR pixels away", ylabel="cost (dB PSNR, Y)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled()
def bound_chain(table: pd.DataFrame) -> Figure:
    """Draw the chain of bounds as bars: a row of panels a pair, a column a benchmark.

    Narrow grey bars are the controls. The line at a bar's end is the 95 % interval of what the
    bound gains beyond its control; without a control, of the bar.

    Parameters
    ----------
    table
        Of `dtfn.bounds.chain`.
    """
    if table.empty:
        return blank(NO_SWITCH)
    names, datasets = (list(table[key].unique()) for key in ("pair", "dataset"))
    stages = [stage for stage in BOUNDS if stage in set(table["bound"])]
    size = (WIDTH, 0.7 + (0.5 + 0.26 * len(stages)) * len(names))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(names), len(datasets), sharex="col", sharey=True, squeeze=False)
    for (i, name), (j, dataset) in itertools.product(enumerate(names), enumerate(datasets)):
        ax: Axes = axes[i, j]
        part = table[(table["pair"] == name) & (table["dataset"] == dataset)]
        for row in part.itertuples():
            y = len(stages) - 1 - stages.index(row.bound)
            ax.barh(y, row.gain, 0.7, color=colour(name, names), alpha=0.5)
            ends = np.array([row.low, row.high])
            if not math.isnan(row.control):
                ax.barh(y, row.control, 0.25, color=NULL_COLOUR)
                ends = row.gain - row.net + np.array([row.net_low, row.net_high])
            ax.plot(ends, [y, y], color="black", linewidth=1.4)
            where = max(row.gain, np.nan_to_num(ends[1], nan=row.gain), 0.0), y
            style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8}
            ax.annotate(f"{row.gain:+.2f}", where, (4, 0), va="center", **style)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.grid(axis="y", visible=False)
        ax.margins(x=0.16)
        pictures = int(table.loc[table["dataset"] == dataset, "pictures"].max())
        ax.set_title(f"{name}, {dataset} ({pictures} picture{'s' * (pictures != 1)})")
        ax.set_yticks(range(len(stages)), [BOUNDS[stage] for stage in reversed(stages)])
    figure.supxlabel(
        "PSNR over attention off (dB, Y); grey: the control of each bound", fontsize=10
    )
    return figure


@styled()
def bound_curve(table: pd.DataFrame) -> Figure:
    """Draw the selection and the layer bound against the size of cells: a panel a pair.

    Bands are 95 % intervals, grey lines the controls.

    Parameters
    ----------
    table
        Of `dtfn.bounds.by_granularity`, coarse to fine.
    """
    if table.empty:
        return blank(NO_SWITCH)
    names, steps = (list(table[key].unique()) for key in ("pair", "granularity"))
    figure, axes = _panels(len(names), 3.0, min(3, len(names)), sharex=True, sharey=True)
    for ax, name in zip(axes, names, strict=True):
        for bound, line in (("selection", "-"), ("layer", "--")):
            for role, ink in (("control", NULL_COLOUR), ("bound", colour(name, names))):
                part = table[(table["pair"] == name) & (table["bound"] == bound)]
                part = part[part["role"] == role].set_index("granularity").reindex(steps)
                label = bound if role == "bound" else f"control of {bound}"
                ax.plot(range(len(steps)), part["gain"], line, color=ink, label=label)
                band = range(len(steps)), part["low"], part["high"]
                ax.fill_between(*band, color=ink, alpha=0.12, linewidth=0)
        ax.set_xticks(range(len(steps)), [f"{g}×{g}" if g.isdigit() else g for g in steps])
        ax.tick_params(axis="x", labelrotation=45)
        ax.set_title(name)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.supxlabel("cell of the choice (LR positions)", fontsize=10)
    figure.supylabel("PSNR over attention off (dB, Y)", fontsize=10)
    return figure


@styled()
def harm_curve(table: pd.DataFrame, effect: float) -> Figure:
    """Draw what attention does to the error, by fifths of severity: a panel a pair.

    Bars: error added (red) and removed (blue); line: their net; grey: the net of the controls.

    Parameters
    ----------
    table
        Of `dtfn.harm.curve`.
    effect
        The smallest effect that counts, in %: dashed lines.
    """
    panels = list(table.groupby(["pair", "kind"], sort=False))
    figure, axes = _panels(len(panels), 3.0, min(3, len(panels)), sharex=True)
    for ax, ((name, kind), part) in zip(axes, panels, strict=True):
        ours = part[part["role"] == "pair"]
        parts = {"#B2182B": ours["added"], "#2166AC": -ours["removed"]}
        for ink, height in parts.items():
            sns.barplot(x=ours["fifth"], y=height, color=ink, alpha=0.3, native_scale=True, ax=ax)
        ax.set(xlabel="", ylabel="")
        for role, ink, shift in (("control", NULL_COLOUR, 0.12), ("pair", "black", 0.0)):
            line = part[part["role"] == role]
            if len(line):
                away = np.abs(line[["low", "high"]].to_numpy(float) - line[["net"]].to_numpy()).T
                where = line["fifth"].to_numpy(float) + shift
                style: dict[str, Any] = {"color": ink, "marker": "o", "markersize": 4, "capsize": 3}
                ax.errorbar(where, line["net"], away, **style)
        ax.axhline(0, color="black", linewidth=0.8)
        for level in (-effect, effect):
            ax.axhline(level, color=NULL_COLOUR, linewidth=0.8, linestyle="--")
        about = f", {kind} pair ({ours['seeds'].max()} seed(s))" if kind != "results" else ""
        ax.set_title(f"{name}{about}")
        ax.set_xticks(range(1, 6), ["least", "2", "3", "4", "most"])
    figure.supxlabel("fifths of the blocks by severity of the degradation", fontsize=10)
    figure.supylabel("change of error (%)", fontsize=10)
    return figure


@styled()
def cause_map(table: pd.DataFrame) -> Figure:
    """Draw what attention changes by fifths of severity and of k: a panel a pair.

    Parameters
    ----------
    table
        pair, severity, k (fifths), net: % of the error without attention, see
        `dtfn.causes.net_map`.
    """
    if table.empty:
        return blank(NO_PAIR)
    names = list(table["pair"].unique())
    figure, axes = _panels(len(names), 3.2, 3)
    most = max(float(table["net"].abs().max()), 0.5)
    for ax, name in zip(axes, names, strict=True):
        part = table[table["pair"] == name]
        wide = part.pivot(index="severity", columns="k", values="net")
        ax.imshow(wide, cmap=SIGNED, vmin=-most, vmax=most, origin="lower")
        for (row, column), value in np.ndenumerate(wide.to_numpy()):
            ink = "white" if abs(value) > 0.7 * most else "black"
            ax.text(column, row, f"{value:+.1f}", ha="center", va="center", color=ink)
        ax.set_xticks(range(len(wide.columns)), wide.columns)
        ax.set_yticks(range(len(wide.index)), wide.index)
        ax.set_title(name)
        ax.grid(visible=False)
    figure.supxlabel("inconsistency k of what is attended (fifths, low to high)", fontsize=10)
    figure.supylabel("severity (fifths)", fontsize=10)
    return figure


@styled()
def cause_slopes(table: pd.DataFrame) -> Figure:
    """Draw how harm rises with k: a panel a pair, a row a kind of k; grey: the control.

    Parameters
    ----------
    table
        Of `dtfn.causes.model`.
    """
    if table.empty:
        return blank(NO_PAIR)
    names, kinds = list(table["pair"].unique()), list(table["of"].unique())
    figure, axes = _panels(len(names), 1.1 + 0.3 * len(kinds), 3, sharex=True, sharey=True)
    for ax, name in zip(axes, names, strict=True):
        for role, ink, shift in (("control", NULL_COLOUR, 0.18), ("pair", "black", 0.0)):
            part = table[(table["pair"] == name) & (table["role"] == role)]
            at = [len(kinds) - 1 - kinds.index(of) - shift for of in part["of"]]
            ax.hlines(at, part["slope_low"], part["slope_high"], color=ink)
            ax.plot(part["slope"], at, "o", color=ink, markersize=5)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_title(name)
        ax.set_yticks(range(len(kinds)), list(reversed(kinds)))
        ax.grid(axis="y", visible=False)
    text = "rise of harm from the lowest to the highest decile of k (% of the error)"
    figure.supxlabel(f"{text}; grey: control", fontsize=10)
    return figure


@styled()
def dose_curves(table: pd.DataFrame) -> Figure:
    """Draw what donors do to the error of a query, by their number: a panel a pair.

    Parameters
    ----------
    table
        Of `dtfn.donors.curves`.
    """
    if table.empty:
        return blank(NO_PAIR)
    names = list(table["pair"].unique())
    figure, axes = _panels(len(names), 3.4, 3, sharex=True, sharey=True)
    doses = sorted(table["dose"].unique())
    for ax, name in zip(axes, names, strict=True):
        part = table[table["pair"] == name]
        for number, (donor, (ink, label)) in enumerate(DONORS.items()):
            line = part[part["donor"] == donor].set_index("dose").reindex(doses)
            effect = line["effect"].to_numpy(float)
            away = np.abs(line[["effect_low", "effect_high"]].to_numpy(float).T - effect)
            at = 1 + np.arange(len(doses)) + 0.12 * (number - 1)
            style: dict[str, Any] = {"color": ink, "marker": "o", "markersize": 4, "capsize": 3}
            bars = np.insert(away, 0, 0.0, axis=1)
            ax.errorbar(np.insert(at, 0, 0), np.insert(effect, 0, 0.0), bars, label=label, **style)
        ax.axhline(0, color=NULL_COLOUR, linewidth=1.2, linestyle="--", label="plain (control)")
        ax.set_title(f"{name}: {part['queries'].max()} textures")
        ax.set_xticks(range(1 + len(doses)), ["0", *map(str, doses)])
        ax.set_xlabel("number of donors")
    axes[0].set_ylabel("change of error (% of attention off)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _rows(names: Sequence[str], columns: Sequence[str], height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with a row a name, the first at the top, and a panel a column."""
    figure = Figure(figsize=(WIDTH, 1.1 + height * max(len(names), 2)), layout="constrained")
    axes = figure.subplots(1, len(columns), sharex=True, sharey=True, squeeze=False)[0]
    axes[0].set_yticks(range(len(names)), list(reversed(names)))
    for ax in axes:
        ax.grid(axis="y", visible=False)
    return figure, list(axes)


def _panels(
    number: int, height: float, columns: int = 4, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels, in rows; what is left over is empty."""
    columns = min(columns, max(number, 2))
    rows = math.ceil(number / columns)
    figure = Figure(figsize=(WIDTH, 0.3 + height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for ax in axes[number:]:
        ax.remove()
    return figure, list(axes[:number])
