"""Figures of pixels: regions, outputs, harm, and what attention looks at.

Pixels are shown as they are; signed maps are centred at 0, red harmed and blue helped. A figure has
no axes where there is nothing to show.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from dtfn.images import as_rgb
from dtfn.methods import labels
from dtfn.plots import BAD, BOX, GOOD, POSITIVE, SIGNED, WIDTH, styled
from dtfn.regions import LEVEL
from dtfn.subpixel import psnr_of, signed_root
from dtfn.texture import DISTORTIONS

if TYPE_CHECKING:
    from dtfn.causes import Look
    from dtfn.datasets import Sample
    from dtfn.donors import Scene
    from dtfn.harm import Case

COPIED = "#56B4E9"  # what attention reads
_PATCH = 2  # LR positions on each side of a position: the 5 x 5 of a patch


@styled()
def texture_gallery(cases: Sequence[Case], copied: Sequence[NDArray[Any]] = ()) -> Figure:
    """Draw cases, a row each: where it is, LR, HR, what the networks made, and the harm over HR.

    PSNR and all numbers are of the region's positions (outlined), not of the crop. ``copied``, a
    whole picture a case, is shown before the harm: see `dtfn.causes.copied`.
    """
    if not cases:
        return Figure()
    figure = Figure(figsize=(WIDTH, 1.95 * len(cases)), layout="constrained")
    parts = figure.subfigures(len(cases), 1, squeeze=False)[:, 0]
    columns = 4 + max(len(case.methods) for case in cases) + bool(copied)
    most = max(_largest(case) for case in cases)
    for number, (part, case) in enumerate(zip(parts, cases, strict=True), start=1):
        part.suptitle(f"{number}. {_headline(case)}", fontsize=8.5, x=0.01, ha="left")
        axes = _hidden(part.subplots(1, columns))
        _whole(axes[0], case)
        show(axes[1], case.view.lr, "LR")
        show(axes[2], case.view.hr, "HR")
        (on, off, *others), names = case.methods, _names(case.methods)
        for ax, network in zip(axes[3:], (off, on, *others), strict=False):
            psnr = psnr_of(case.region.of(case.errors[network]))
            show(ax, case.view.outputs[network], f"{fill(names[network], 20)}\n{psnr:.2f} dB")
            _outline(ax, case, case.sample.scale)
        if copied:
            show(axes[-2], case.crop(copied[number - 1], case.sample.scale), "attention copies")
            _outline(axes[-2], case, case.sample.scale)
        _overlay(axes[-1], case, most)
    return figure


@styled()
def distortion_panel(case: Case | None) -> Figure:
    """Draw how the texture of a case is distorted: a row a network, a column a measure.

    The colours of a column are those of all its maps.
    """
    if case is None:
        return Figure()
    on, off, *others = case.methods
    networks = [off, on, *others]
    columns = 1 + len(DISTORTIONS)
    height = (1 + len(networks)) * (WIDTH / columns + 0.25) + 0.6
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = _hidden(figure.subplots(1 + len(networks), columns))
    show(axes[0, 0], case.view.hr, "HR")
    show(axes[0, 1], case.view.lr, "LR")
    _whole(axes[0, 2], case)
    _overlay(axes[0, 3], case, _largest(case))
    for ax, network in zip(axes[1:, 0], networks, strict=True):
        show(ax, case.view.outputs[network], labels(networks)[network])
    for column, (measure, title) in enumerate(DISTORTIONS.items(), start=1):
        maps = [case.crop(case.maps[network][measure]) for network in networks]
        norm = Normalize(0, max(float(values.max()) for values in maps) or 1.0)
        for ax, network, values in zip(axes[1:, column], networks, maps, strict=True):
            mean = case.region.of(case.maps[network][measure]).mean()
            shown = show(ax, values, f"region: {mean:.3g}", cmap=POSITIVE, norm=norm)
            _outline(ax, case, 1)
        figure.colorbar(shown, ax=axes[1:, column], location="bottom", label=title, shrink=0.9)
    return figure


@styled()
def attention_maps(looks: Sequence[Look], sample: Sample) -> Figure:
    """Draw what every network and layer attends to for one query of a picture: a row a network.

    Weights are shown from none to the map's own largest, as their square root, and grown to the
    3 x 3 positions around, or single ones would not be seen.
    """
    if not looks:
        return Figure()
    networks = list(dict.fromkeys(look.network for look in looks))
    places = max(look.place for look in looks)
    height, width = sample.lr.shape[:2]
    size = (WIDTH, len(networks) * (WIDTH / places * max(height / width, 0.5) + 0.4) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = _hidden(figure.subplots(len(networks), places, squeeze=False))
    dim = 0.67 * sample.lr.astype(float).mean(axis=2)  # colours stand out from it
    ring: dict[str, Any] = {"markersize": 5, "markerfacecolor": "none", "markeredgewidth": 0.9}
    for look in looks:
        line = axes[networks.index(look.network)]
        line[0].set_ylabel(fill(labels(networks)[look.network], 20), fontsize=9)
        ax = line[look.place - 1]
        support = np.exp(-np.sum(look.map[look.map > 0] * np.log(look.map[look.map > 0])))
        show(ax, dim, f"layer {look.place}: {support:,.0f} positions")
        grown = maximum_filter(np.sqrt(look.map / look.map.max()), 3)
        ax.imshow(grown, cmap="magma", norm=Normalize(0, 1), alpha=0.15 + 0.85 * grown)
        for row, column in look.strongest():
            ax.plot(column, row, "o", markeredgecolor=COPIED, **ring)
        ax.plot(look.query[1], look.query[0], "+", color=BOX, markersize=11, markeredgewidth=1.8)
    text = "weight (of the map's largest, square root)"
    scale = ScalarMappable(Normalize(0, 1), "magma")
    figure.colorbar(scale, ax=axes, label=text, location="bottom", shrink=0.4, aspect=40)
    return figure


@styled()
def copied_patches(table: pd.DataFrame, sample: Sample, most: int = 7) -> Figure:
    """Draw the true patches at the query and at the ``most`` positions that each network copies.

    ``table`` is of `dtfn.causes.copies`, one query and a layer a network; patches are of HR, 5 x
    5 LR positions. The frame is blue where the detail of the position's block agrees with the
    query's, red and dashed where it disagrees (inconsistency above 1: worse than to copy nothing).
    """
    if table.empty:
        return Figure()
    networks = dict(list(table.sort_values("rank").groupby("network", sort=False)))
    most = min(most, int(table["rank"].max()))
    size = (WIDTH, len(networks) * (WIDTH / (most + 1) + 0.42) + 0.1)
    figure = Figure(figsize=size, layout="constrained")
    axes = _hidden(figure.subplots(len(networks), most + 1, squeeze=False))
    for line, (network, part) in zip(axes, networks.items(), strict=True):
        one = part.iloc[0]
        _patch(line[0], sample, (int(one["query_row"]), int(one["query_column"])), "query", BOX)
        name = fill(labels(networks)[network], 16)
        line[0].set_ylabel(f"{name}\nlayer {one['place']}", fontsize=8)
        for ax, row in zip(line[1:], part.itertuples(), strict=False):
            title = f"{100 * row.weight:.2g} %, k = {row.inconsistency:.2g}"
            ink = BAD if row.inconsistency > 1 else GOOD
            _patch(ax, sample, (row.row, row.column), title, ink)
    return figure


@styled()
def donor_panel(scene: Scene | None) -> Figure:
    """Draw a query and its donors: what was pasted, what attention copied, what came out.

    Upper row: the unchanged window, the query's truth, and the outputs with attention off and on.
    Below, a row a kind of donor: the LR window (yellow: query, blue: donors), a donor's truth, the
    mix of all HR patches by attention, and the output with attention on.
    """
    if scene is None:
        return Figure()
    kinds = [kind for kind in scene.trials if kind != "none"]
    figure = Figure(figsize=(WIDTH, 2.25 * (1 + len(kinds))), layout="compressed")
    axes = figure.subplots(1 + len(kinds), 4)
    query, sample, around = scene.query, scene.query.sample, scene.query.around(4)
    top, left = (span.start // sample.scale for span in around)

    def output(ax: Axes, kind: str, title: str) -> None:
        show(ax, scene.outputs[kind][around], f"{title}: MSE {scene.errors[kind]:.0f}")

    show(axes[0, 0], sample.lr, f"{sample.dataset} {sample.image}: LR")
    show(axes[0, 1], sample.hr[around], "truth (box: the query)")
    output(axes[0, 2], "off", "attention off")
    output(axes[0, 3], "none", "on, without donors")
    for line, kind in zip(axes[1:], kinds, strict=True):
        trial = scene.trials[kind]
        show(line[0], trial.sample.lr, "LR with donors")
        line[0].set_ylabel(f"{kind}\ndonors", fontsize=10)
        for row, column in reversed(trial.cells.tolist()):
            frame(line[0], (row, column, trial.side, trial.side), 1, COPIED)
        donor = trial.sample.crop(row, column, trial.side, trial.side)
        show(line[1], donor.hr, "a donor's truth")
        show(line[2], scene.copied[kind], f"what layer {scene.layer} copies")
        line[2].set_xlabel(f"{scene.weights[kind]:.0%} from donors", fontsize=9)
        output(line[3], kind, "attention on")
    for ax in (*axes[0, 1:], *axes[1:, 3]):
        frame(ax, (query.row - 1 - top, query.column - 1 - left, 3, 3), sample.scale)
    for ax in axes[:, 0]:
        frame(ax, (query.row - 1, query.column - 1, 3, 3), 1)
    return figure


def _headline(case: Case) -> str:
    (on, off), of, names = case.methods[:2], case.region.of, _names(case.methods)
    which = {"harm": "worst", "help": "best"}[case.side]
    sure = "no control" if np.isnan(case.q) else f"false discovery rate {case.q:.2g}"
    sure += ", not shown to exceed chance" * (case.q > LEVEL)
    picture = f"{case.sample.dataset} {case.sample.image}, {case.region.inside.sum()} LR pixels"
    error = " → ".join(f"{of(case.errors[network]).mean():.0f}" for network in (off, on))
    words = []
    for measure, title in DISTORTIONS.items():
        before, after = (of(case.maps[network][measure]).mean() for network in (off, on))
        words.append(f"{title} {before:.3g} → {after:.3g}")
    compared = f"{names[off]} → {names[on]}: MSE {error}"
    return f"{which}: {picture}, {sure}; {compared}\n{', '.join(words)}"


def _names(networks: Sequence[str]) -> dict[str, str]:
    """Return names without scale and seed, unless two would be one; what was done to it stays."""
    long = labels(networks)
    parts = {network: name.partition("@") for network, name in long.items()}
    short = {n: f"{re.sub('-x[234].*', '', p[0])} {p[2]}".strip() for n, p in parts.items()}
    return short if len(set(short.values())) == len(short) else long


def _whole(ax: Axes, case: Case) -> None:
    """Show the whole picture, reduced to every so many pixels, and box the window."""
    s = case.sample.scale
    show(ax, as_rgb(case.sample.hr)[s // 2 :: s, s // 2 :: s], case.sample.image)
    frame(ax, case.window, 1)


def _largest(case: Case) -> float:
    """Return the root of the largest harm or help on a case's crop, in grey levels."""
    return float(np.abs(signed_root(case.crop(case.harm))).max()) or 1.0


def _overlay(ax: Axes, case: Case, most: float) -> None:
    """Show the harm over the grey picture, red harmed and blue helped, up to ``most`` levels."""
    grey = as_rgb(case.view.hr).astype(float).mean(axis=2)
    root = signed_root(case.crop(case.harm))
    show(ax, grey, f"harm, ±{most:.0f} levels", norm=Normalize(-80, 335))
    extent = (-0.5, grey.shape[1] - 0.5, grey.shape[0] - 0.5, -0.5)
    alpha = np.minimum(1, 1.4 * np.abs(root) / most)
    ax.imshow(root, cmap=SIGNED, norm=Normalize(-most, most), extent=extent, alpha=alpha)
    _outline(ax, case, case.sample.scale)


def _outline(ax: Axes, case: Case, pixels: int) -> None:
    fine = np.kron(case.outline(), np.ones((8, 8)))  # so that a contour has square corners
    y, x = (pixels * (np.arange(n) + 0.5) / 8 - 0.5 for n in fine.shape)
    for ink, width in (("white", 1.2), ("black", 0.6)):
        ax.contour(x, y, fine, levels=[0.5], colors=ink, linewidths=width)


def _patch(ax: Axes, sample: Sample, at: tuple[int, int], title: str, ink: str) -> None:
    """Show the HR patch around a position, its own block boxed; beyond the border is nothing."""
    s = sample.scale
    (top, bottom), (left, right) = ((s * (n - _PATCH), s * (n + _PATCH + 1)) for n in at)
    y, x = max(top, 0), max(left, 0)
    part = sample.hr[y:bottom, x:right]
    extent = (x - 0.5, x + part.shape[1] - 0.5, y + part.shape[0] - 0.5, y - 0.5)
    show(ax, part, title, extent=extent)
    ax.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5))
    for spine in ax.spines.values():
        spine.set(visible=True, edgecolor=ink, linewidth=2.5, linestyle="--" if ink == BAD else "-")
    frame(ax, (*at, 1, 1), s)


def _hidden(axes: Any) -> Any:
    """Return axes that are seen only once something is shown on them."""
    for ax in axes.flat:
        ax.set_visible(False)
    return axes


def show(ax: Axes, image: NDArray[Any], title: str, size: float = 9, **how: Any) -> Any:
    """Show an image as its pixels are: RGB, grey of 0 to 255, or a map with its colours."""
    look: dict[str, Any] = {"cmap": "gray", "norm": Normalize(0, 255)} | how
    ax.set_title(title, fontsize=size, y=1)  # to look for a place takes half a second
    ax.set(xticks=[], yticks=[], visible=True)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return ax.imshow(image, interpolation="nearest", **look)


def frame(ax: Axes, window: Sequence[float], pixels: int, ink: str = BOX) -> None:
    """Frame (top, left, height, width) in LR positions; a pixel begins half before its number."""
    top, left, height, width = (pixels * v for v in window)
    corner = (left - 0.5, top - 0.5)
    box = Rectangle(corner, width, height, fill=False, edgecolor=ink, linewidth=1.5)
    ax.add_patch(box)
