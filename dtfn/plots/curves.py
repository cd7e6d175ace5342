"""Figures of numbers: charts with their 95 % intervals; grey is the control.

Each function takes a tidy table and returns a new Figure, with no axes where the table is empty.
"""

import math
import re
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dtfn import recipes
from dtfn.methods import labels
from dtfn.plots import BAD, GOOD, NARROW, NULL_COLOUR, SIGNED, WIDTH, colour, styled

DONORS = {"consistent": GOOD, "shifted": "#56B4E9", "inconsistent": BAD}
"""Kind of donor, see `dtfn.donors.KINDS` -> its colour; plain donors are the control."""

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

_BARS: dict[str, Any] = {"marker": "o", "markersize": 4, "capsize": 3}


@styled()
def training_curve(history: pd.DataFrame, bicubic: float) -> Figure:
    """Draw a training run: loss, and validation PSNR with that of bicubic (dB).

    ``history`` has the columns step, loss and psnr (dB) of the trainer's history.csv.
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
    """Draw what equal attention weights cost as the training of the network ``name`` goes on.

    ``history`` has the columns step and gate (dB); ``least`` is what they must cost for the
    attention to be judged.
    """
    if history.empty:
        return Figure()
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    ax = figure.subplots()
    ax.plot(history["step"], history["gate"], marker="o", markersize=4, label=name)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.axhline(least, color=NULL_COLOUR, linestyle="--", label="what the gate asks for")
    ax.set(xlabel="step", ylabel="cost of equal weights (dB PSNR, Y)")
    ax.legend()
    return figure


def gain_over(table: pd.DataFrame, base: str) -> pd.DataFrame:
    """Return the rows of all other methods with their PSNR gain (dB) over the method ``base``."""
    keys = ["dataset", "image", "scale"]
    zero = table.loc[table["method"] == base, [*keys, "psnr"]]
    joined = table[table["method"] != base].merge(zero, on=keys, suffixes=("", "_base"))
    gain = joined["psnr"] - joined["psnr_base"]
    return joined.drop(columns="psnr_base").assign(gain=gain)


@styled()
def psnr_gains(table: pd.DataFrame) -> Figure:
    """Draw each method's PSNR gain over bicubic: a dot a picture, a diamond the mean.

    ``table`` is of `dtfn.evaluation.evaluate`.
    """
    frame = gain_over(table, "bicubic")
    methods, datasets = (list(frame[key].unique()) for key in ("method", "dataset"))
    if frame.empty:
        return Figure()
    size = (WIDTH, 1.1 + 0.36 * max(len(methods), 2))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(datasets), sharex=True, sharey=True, squeeze=False)[0]
    axes[0].set_yticks(range(len(methods)), list(labels(methods).values()))
    axes[0].invert_yaxis()
    for ax, dataset in zip(axes, datasets, strict=True):
        part = frame[frame["dataset"] == dataset]
        for y, method in enumerate(methods):
            gain = part.loc[part["method"] == method, "gain"].to_numpy()
            # Spread by rank, not at random: the same numbers draw the same figure.
            spread = np.linspace(-0.25, 0.25, len(gain))
            ink = colour(method, methods)
            ax.scatter(gain, y + spread, s=9, color=ink, alpha=0.45, linewidths=0)
            ax.scatter(gain.mean(), y, s=42, marker="D", color=ink, edgecolor="black", zorder=3)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.grid(axis="y", visible=False)
        ax.set_title(f"{dataset} (pictures: {part['image'].nunique()})")
    figure.supxlabel("PSNR gain over bicubic (dB, Y)", fontsize=10)
    return figure


@styled()
def intervention_costs(table: pd.DataFrame, doses: pd.DataFrame, least: float) -> Figure:
    """Draw what interventions on attention cost, and what is lost as its window shrinks.

    A colour an attention, hollow with TFS, a marker a dataset; training seeds look alike. ``table``
    is of `dtfn.gate.table`, ``doses`` of `dtfn.gate.dose`; ``least`` is what equal weights must
    cost (dB), a line.
    """
    kinds = [k for k in table if f"{k}_low" in table and not str(k).startswith("window")]
    networks, datasets = (list(table[key].unique()) for key in ("name", "dataset"))
    names = labels(networks)
    figure = Figure(figsize=(WIDTH, max(3.6, 1.4 + 0.2 * len(table))), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, (_, row) in enumerate(table.iterrows()):
        name, dataset = row["name"], row["dataset"]
        ink, mark = colour(name, networks), "osD^v"[datasets.index(dataset) % 5]
        hollow = recipes.without_tfs(variant := name.partition("-x")[0]) != variant
        style: dict[str, Any] = {"color": ink, "marker": mark, "markersize": 4}
        style["markerfacecolor"] = "white" if hollow else ink
        at = np.arange(len(kinds)) + 0.6 * (index + 0.5) / len(table) - 0.3
        ends = [row[[f"{kind}_{end}" for kind in kinds]].astype(float) for end in ("low", "high")]
        left.vlines(at, *ends, color=ink)
        label = f"{re.sub(r'-s[0-9]+$', '', names[name])}, {dataset}"
        left.plot(at, row[kinds].astype(float), label=label, linestyle="none", **style)
        part = doses[(doses["name"] == name) & (doses["dataset"] == dataset)]
        at = np.arange(len(part)) + 0.4 * (index + 0.5) / len(table) - 0.2
        right.vlines(at, part["cost_low"], part["cost_high"], color=ink, linewidth=0.8)
        right.plot(at, part["cost"], "--" if hollow else "-", **style)
    for ax in (left, right):
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_ylabel("cost (dB PSNR, Y)")
        # Self-attention and small windows cost many times as much as what the gate asks about.
        ax.set_yscale("symlog", linthresh=0.2, linscale=2)
        ax.set_yticks([-0.1, 0, 0.05, 0.1, 0.15, 0.2, 0.5, 1], minor=False)
        ax.yaxis.set_major_formatter("{x:g}")
    left.axhline(least, color=NULL_COLOUR, linestyle="--")
    left.set_xticks(range(len(kinds)), kinds)
    radii = doses["radius"].drop_duplicates().sort_values()
    ticks = ["all" if math.isinf(radius) else f"{radius:.0f}" for radius in radii]
    right.set_xticks(range(len(ticks)), ticks)
    right.set_xlabel("keys at most so many LR pixels away")
    handles, entries = left.get_legend_handles_labels()
    shown = dict(zip(entries, handles, strict=True))  # seeds share an entry
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=3)
    return figure


@styled()
def bound_chain(table: pd.DataFrame) -> Figure:
    """Draw the chain of bounds as bars: a panel a pair and benchmark.

    ``table`` is of `dtfn.bounds.chain`. Narrow grey bars are the controls, dotted is attention on.
    The line at a bar's end is the interval of net, what the bound gains beyond the better of both;
    without a control, of the bar.
    """
    stages = [stage for stage in reversed(BOUNDS) if stage in set(table["bound"])]
    pictures = table.groupby(["pair", "dataset"])["pictures"].transform("max").astype(str)
    titles = table["pair"] + ", " + table["dataset"] + " (pictures: " + pictures + ")"
    text = "PSNR over attention off (dB, Y); dotted: attention on; grey: the control"
    titled, height = table.assign(name=table["pair"], pair=titles), 0.5 + 0.26 * len(stages)
    figure, panels = _panels(titled, height, text, width=WIDTH, sharex=False)
    for ax, _, part in panels:
        ink = colour(part["name"].iloc[0], list(table["pair"].unique()))
        for row in part.itertuples():
            y = stages.index(row.bound)
            ax.barh(y, row.gain, 0.7, color=ink, alpha=0.5)
            ends = np.array([row.low, row.high])
            if not math.isnan(row.control):
                ax.barh(y, row.control, 0.25, color=NULL_COLOUR)
                ends = row.gain - row.net + np.array([row.net_low, row.net_high])
            ax.plot(ends, [y, y], color="black", linewidth=1.4)
            where = max(row.gain, np.nan_to_num(ends[1], nan=row.gain), 0.0), y
            style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8}
            gain, net = (round(number, 2) + 0.0 for number in (row.gain, row.net))  # no "-0.00"
            text = f"{gain:+.2f}" + (f", net {net:+.2f}" if row.net == row.net else "")
            ax.annotate(text, where, (4, 0), va="center", **style)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.axvline(part.loc[part["bound"] == "on", "gain"].mean(), color="black", linestyle=":")
        ax.grid(axis="y", visible=False)
        ax.margins(x=0.45)  # room for the numbers
        ax.set_yticks(range(len(stages)), [BOUNDS[stage] for stage in stages])
    return figure


@styled()
def bound_curve(table: pd.DataFrame) -> Figure:
    """Draw the selection and the layer bound against the size of cells: a panel a pair.

    ``table`` is of `dtfn.bounds.by_granularity`, coarse to fine. Bands are intervals.
    """
    labels = "cell of the choice (LR positions)", "PSNR over attention off (dB, Y)"
    figure, panels = _panels(table, 3.0, *labels)
    names, steps = (list(table[key].unique()) for key in ("pair", "granularity"))
    at = range(len(steps))
    for ax, name, here in panels:
        for bound, line in (("selection", "-"), ("layer", "--")):
            for role, ink in (("control", NULL_COLOUR), ("bound", colour(name, names))):
                part = here[(here["bound"] == bound) & (here["role"] == role)]
                part = part.set_index("granularity").reindex(steps)
                label = bound if role == "bound" else f"control of {bound}"
                ax.plot(at, part["gain"], line, color=ink, label=label)
                ax.fill_between(at, part["low"], part["high"], color=ink, alpha=0.13, linewidth=0)
        ax.set_xticks(at, [f"{g}×{g}" if g.isdigit() else g for g in steps])
        ax.tick_params(axis="x", labelrotation=45)
    return _with_legend(figure)


@styled()
def harm_curve(table: pd.DataFrame, effect: float) -> Figure:
    """Draw what attention does to the error, by fifths of severity: a panel a pair.

    Bars: error added (red) and removed (blue); line: their net; grey: the net of the controls;
    dashed: the smallest effect that counts (%). ``table`` is of `dtfn.harm.curve`.
    """
    labels = "fifths of the blocks by severity of the degradation", "change of error (%)"
    seeds = table.groupby(["pair", "kind"])["seeds"].transform("max").astype(str)
    about = "\n" + table["kind"] + " pair, training seeds: " + seeds
    titled = table.assign(pair=table["pair"] + about.mask(table["kind"] == "results", ""))
    figure, panels = _panels(titled, 2.2, *labels)
    for ax, _, part in panels:
        ours = part[part["role"] == "pair"]
        ax.bar(ours["fifth"], ours["added"], color=BAD, alpha=0.3)
        ax.bar(ours["fifth"], -ours["removed"], color=GOOD, alpha=0.3)
        for role, ink, shift in (("control", NULL_COLOUR, 0.12), ("pair", "black", 0.0)):
            line = part[part["role"] == role]
            net, *ends = line[["net", "low", "high"]].to_numpy(float).T
            if len(line):
                ax.errorbar(line["fifth"] + shift, net, np.abs(ends - net), color=ink, **_BARS)
        ax.axhline(0, color="black", linewidth=0.8)
        for level in (-effect, effect):
            ax.axhline(level, color=NULL_COLOUR, linewidth=0.8, linestyle="--")
        ax.set_xticks(range(1, 6), ["least", "2", "3", "4", "most"])
    return figure


@styled()
def cause_map(table: pd.DataFrame) -> Figure:
    """Draw what attention changes by fifths of severity and of inconsistency: a panel a pair.

    ``table`` is of `dtfn.causes.net_map`: pair, severity, k (fifths), net (% of the error without
    attention).
    """
    labels = "inconsistency of what is attended (fifths, 5: most)", "severity (fifths, 5: most)"
    figure, panels = _panels(table, 3.2, *labels)
    most = max(float(table["net"].abs().max()), 0.5)
    how: dict[str, Any] = {"cmap": SIGNED, "vmin": -most, "vmax": most, "cbar": False}
    for ax, _, part in panels:
        wide = part.pivot(index="severity", columns="k", values="net")
        sns.heatmap(wide, annot=True, fmt="+.1f", square=True, linewidths=0, ax=ax, **how)
        ax.set(xlabel="", ylabel="", ylim=(0, len(wide)))  # the figure has labels
        ax.tick_params(axis="y", labelrotation=0)
    if panels:
        about = "change of error (%); red harmed, blue helped"
        figure.colorbar(panels[0][0].collections[0], ax=figure.axes, label=about)
    return figure


@styled()
def cause_slopes(table: pd.DataFrame) -> Figure:
    """Draw how harm rises with inconsistency, by whose it is: a panel a pair; grey: the control.

    ``table`` is of `dtfn.causes.model`.
    """
    kinds = list(table["of"].unique())
    text = "rise of the error from the lowest to the highest tenth\nof inconsistency (%)"
    figure, panels = _panels(table, 1.1 + 0.3 * len(kinds), text)
    for ax, _, here in panels:
        for role, ink, shift in (("control", NULL_COLOUR, 0.18), ("pair", "black", 0.0)):
            part = here[here["role"] == role]
            at = [len(kinds) - 1 - kinds.index(of) - shift for of in part["of"]]
            ax.hlines(at, part["slope_low"], part["slope_high"], color=ink)
            ax.plot(part["slope"], at, "o", color=ink, markersize=5, label=role)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_yticks(range(len(kinds)), list(reversed(kinds)))
        ax.grid(axis="y", visible=False)
    return _with_legend(figure)


@styled()
def dose_curves(table: pd.DataFrame) -> Figure:
    """Draw what donors do to the error of a query, by their number: a panel a pair.

    ``table`` is of `dtfn.donors.curves`.
    """
    labels = "number of donors", "change of error (% of that with attention off)"
    figure, panels = _panels(table, 3.4, *labels)
    doses = [0, *sorted(table["dose"].unique())]
    for ax, name, part in panels:
        for number, (donor, ink) in enumerate(DONORS.items()):
            line = part[part["donor"] == donor].set_index("dose").reindex(doses)
            effect, *ends = line[["effect", "effect_low", "effect_high"]].fillna(0).to_numpy().T
            at = np.array(doses) + 0.12 * (number - 1)
            ax.errorbar(at, effect, np.abs(ends - effect), color=ink, label=donor, **_BARS)
        ax.axhline(0, color=NULL_COLOUR, linewidth=1.2, linestyle="--", label="plain (control)")
        ax.set_title(f"{name}: {part['queries'].max()} textures")
        ax.set_xticks(doses)
    return _with_legend(figure)


def _panels(
    table: pd.DataFrame,
    height: float,
    x: str,
    y: str = "",
    *,
    width: float = NARROW,
    sharex: bool = True,
) -> tuple[Figure, list[tuple[Axes, str, pd.DataFrame]]]:
    """Return a figure with a panel a pair, at most two in a row, and each with its rows."""
    parts = list(table.groupby("pair", sort=False))
    if not parts:
        return Figure(), []
    columns = min(2, len(parts))
    rows = math.ceil(len(parts) / columns)
    figure = Figure(figsize=(width, 0.5 + height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=True).ravel()
    for ax in axes[len(parts) :]:
        ax.remove()
    for ax, (name, _) in zip(axes, parts, strict=False):
        ax.set_title(name)
        ax.tick_params(labelbottom=True)  # also above a place that is left empty
    figure.supxlabel(x, fontsize=10)
    figure.supylabel(y, fontsize=10)
    return figure, [(ax, *part) for ax, part in zip(axes, parts, strict=False)]


def _with_legend(figure: Figure) -> Figure:
    if figure.axes:
        shown = figure.axes[0].get_legend_handles_labels()
        figure.legend(*shown, loc="outside upper center", ncols=2 if len(shown[0]) > 3 else 3)
    return figure
