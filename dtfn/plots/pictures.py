"""Figures of pixels: regions, outputs, harm, and what attention looks at.

Pixels are shown as they are; signed maps are centred at 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from dtfn.images import as_rgb
from dtfn.plots import BOX, COLUMNS, POSITIVE, SIGNED, WIDTH, bare, blank, styled
from dtfn.subpixel import psnr_of, signed_root
from dtfn.texture import DISTORTIONS

if TYPE_CHECKING:
    from dtfn.attended import Look
    from dtfn.attribution import Local
    from dtfn.datasets import Sample
    from dtfn.regions import Case


TITLES = {
    "severity_db": "severity (dB)", "aliasing": "aliasing (share)",
    "inconsistency": "inconsistency (log)", "recurrence": "recurrence distance (levels)",
    "coherence": "coherence", "gradient_energy": "gradient energy (log)",
    "variance": "variance (log)",
}  # fmt: skip


@styled()
def region_panel(case: Case | None) -> Figure:
    """Draw a region: where it is, what the networks made of it, and their errors.

    Upper row: the picture with the region boxed, HR, L, N. Lower row: LR, the errors of L and
    of N (root of the block error, one scale), the harm (signed root). With no case, the figure
    says so.
    """
    if case is None:
        return blank("no region of harm beyond the threshold")
    figure = Figure(figsize=(WIDTH, 6.2), layout="compressed")
    axes = figure.subplots(2, 4)
    sample, view = case.sample, case.view
    _image(axes[0, 0], sample.hr, f"{sample.dataset} {sample.image}")
    top, left, height, width = (sample.scale * v for v in case.window)
    box = Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=BOX, linewidth=2)
    axes[0, 0].add_patch(box)
    _image(axes[0, 1], view.hr, "HR")
    n, l = case.networks[:2]
    errors = {name: case.crop(case.errors[name]) for name in (l, n)}
    _image(axes[1, 0], view.lr, f"LR (1/{sample.scale}), as it is")
    norm = Normalize(0, float(np.sqrt(max(error.max() for error in errors.values()))))
    for column, (name, error) in zip(axes[:, 2:].T, errors.items(), strict=True):
        _image(column[0], view.outputs[name], f"{name}: {psnr_of(error):.2f} dB")
    for ax, (name, error) in zip(axes[1, 1:3], errors.items(), strict=True):
        shown = _map(ax, np.sqrt(error), f"error of {name}", POSITIVE, norm)
    _bar(figure, shown, axes[1, 1:3], "root of block MSE (8-bit levels)")
    _bar(figure, _harm(axes[1, 3], case), axes[1, 3], "signed root (8-bit levels)")
    return figure


def _image(ax: Axes, image: NDArray[Any], title: str) -> None:
    """Show an RGB or grey uint8 image as its pixels are."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    bare(ax, title)


def _map(ax: Axes, values: NDArray[Any], title: str, cmap: str, norm: Normalize) -> Any:
    shown = ax.imshow(values, cmap=cmap, norm=norm, interpolation="nearest")
    bare(ax, title)
    return shown


def _harm(ax: Axes, case: Case) -> Any:
    """Show the harm of a case, its region outlined."""
    harm, norm = _signed_root(case.crop(case.harm))
    shown = _map(ax, harm, "harm: red harmed, blue helped", SIGNED, norm)
    _outline(ax, case, 1)
    return shown


def _bar(figure: Figure, shown: Any, axes: Any, label: str) -> None:
    # Below the maps: beside them it would take the columns out of line.
    figure.colorbar(shown, ax=axes, label=label, location="bottom", shrink=0.9, aspect=30)


def _signed_root(harm: NDArray[np.float64]) -> tuple[NDArray[np.float64], Normalize]:
    """Return the signed root of harm, and limits centred at 0."""
    root = signed_root(harm)
    most = float(np.abs(root).max()) or 1.0
    return root, Normalize(-most, most)


@styled()
def texture_maps(
    hr: NDArray[np.uint8], maps: Mapping[str, NDArray[np.float64]], name: str
) -> Figure:
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
    bare(axes[0], name)
    for ax, (key, title) in zip(axes[1:], TITLES.items(), strict=True):
        values = _shown(maps[key], log="(log)" in title)
        known = values[np.isfinite(values)]
        low, high = np.percentile(known, [1, 99]) if known.size else (0, 1)
        around = 0.5 if high - low < 1e-9 else 0  # all alike: a bar that can be read
        norm = Normalize(low - around, high + around)
        shown = ax.imshow(values, cmap=POSITIVE, norm=norm, interpolation="nearest")
        bare(ax, title)
        figure.colorbar(shown, ax=ax, location="bottom", shrink=0.9, aspect=30)
    return figure


def _shown(values: NDArray[np.float64], log: bool) -> NDArray[np.float64]:
    """Return a map as drawn: only where it was asked, its logarithm if need be."""
    asked = ~np.isnan(values)
    rows, columns = asked.any(axis=1), asked.any(axis=0)
    part = values[rows][:, columns] if asked.any() else values
    return np.log10(np.maximum(part, 1e-3)) if log else part


QUERY, COPIED = "#F0E442", "#56B4E9"
AGREES, DISAGREES = "#0072B2", "#D55E00"
REACH = 4  # LR pixels shown on each side of a place that is read
PATCH = 2  # LR positions on each side of a position: the 5 x 5 of `dtfn.texture.patches`


@styled()
def attention_maps(found: Sequence[Look], local: Sequence[Local], sample: Sample) -> Figure:
    """Draw what every network and layer attends to for one query, and the network's attribution.

    Parameters
    ----------
    found, local
        Of one query, on the sample.
    sample
        The picture.

    Notes
    -----
    A row a network, a column an attention layer; the last column is the attribution. Networks
    without attention share the last row. Weights are shown from none to the map's own largest, as
    their square root, and grown to the 3 x 3 positions around, or single ones would not be seen.
    """
    attentive = list(dict.fromkeys(look.network for look in found))
    lams = {one.network: one for one in local}
    others = [network for network in lams if network not in attentive]
    if not attentive and not others:
        return blank("no network to look at")
    places = max([look.place for look in found], default=3)
    shape = (len(attentive) + -(-len(others) // (places + 1)), places + 1)
    height, width = sample.lr.shape[:2]
    size = (WIDTH, shape[0] * (WIDTH / shape[1] * max(height / width, 1) + 0.4) + 0.1)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(*shape, squeeze=False)
    for ax in axes.ravel():
        bare(ax)
        ax.set_visible(False)
    for look in found:
        line = axes[attentive.index(look.network)]
        _attended(line[look.place - 1], look, sample)
        line[0].set_ylabel(look.network, fontsize=9)
    for network, one in lams.items():
        if network in attentive:
            ax, name = axes[attentive.index(network), -1], "attribution"
        else:
            ax, name = axes[len(attentive) :].ravel()[others.index(network)], network
        _attributed(ax, one, sample)
        ax.set_title(f"{name}: DI {one.found.diffusion:.1f}", fontsize=8)
    return figure


@styled()
def copied_patches(table: pd.DataFrame, sample: Sample, most: int = 7) -> Figure:
    """Draw the true patches at the query and at the positions that each network copies most.

    Parameters
    ----------
    table
        Of `dtfn.attended.copies`, one query and a layer a network.
    sample
        The picture: HR patches are shown, 5 x 5 LR positions each.
    most
        How many a network.

    Notes
    -----
    Framed blue where the detail of the position's block agrees with the query's, vermilion where
    it disagrees (inconsistency above 1: worse than to copy nothing).
    """
    if table.empty:
        return blank("no network with attention")
    networks = list(table["network"].unique())
    most = min(most, int(table["rank"].max()))
    panel = WIDTH / (most + 1)
    size = (WIDTH, len(networks) * (panel + 0.42) + 0.1)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(networks), most + 1, squeeze=False)
    for line, network in zip(axes, networks, strict=True):
        part = table[table["network"] == network].sort_values("rank")
        query = (int(part["query_row"].iloc[0]), int(part["query_column"].iloc[0]))
        _patch(line[0], sample, query, QUERY)
        line[0].set_title("query", fontsize=8)
        line[0].set_ylabel(f"{network}\nlayer {part['place'].iloc[0]}", fontsize=8)
        for ax in line[1:]:
            ax.set_visible(False)
        for ax, row in zip(line[1:], part.itertuples(), strict=False):
            ax.set_visible(True)
            apart = float(row.inconsistency)
            _patch(ax, sample, (row.row, row.column), DISAGREES if apart > 1 else AGREES)
            ax.set_title(f"{_percent(row.weight)}, k = {apart:.2g}", fontsize=8)
    return figure


@styled()
def sampling_points(found: Sequence[Look], sample: Sample) -> Figure:
    """Draw where deformable layers read the value of the position that the query weighs most.

    A row a network, a column a layer; the box is the position, circles are the nine samples, their
    area the modulation. Looks without sampling points are left out.
    """
    shown = [look for look in found if look.points is not None]
    if not shown:
        return blank("no network with deformable values")
    networks = list(dict.fromkeys(look.network for look in shown))
    places = max(look.place for look in shown)
    panel = WIDTH / max(places, 4)
    size = (panel * places, len(networks) * (panel + 0.3))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(networks), places, squeeze=False)
    by = {(look.network, look.place): look for look in shown}
    for line, network in zip(axes, networks, strict=True):
        for place, ax in enumerate(line, start=1):
            bare(ax)
            if (network, place) in by:
                _read(ax, by[network, place], sample)
            else:
                ax.set_visible(False)
        line[0].set_ylabel(network, fontsize=9)
    return figure


def _attended(ax: Axes, look: Look, sample: Sample) -> None:
    ax.set_visible(True)
    ax.imshow(_dim(sample.lr), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    grown = maximum_filter(np.sqrt(look.map / look.map.max()), 3)
    ax.imshow(grown, cmap="magma", norm=Normalize(0, 1), alpha=0.15 + 0.85 * grown,
              interpolation="nearest")  # fmt: skip
    for row, column in look.strongest():
        ax.plot(column, row, "o", markersize=5, markerfacecolor="none", markeredgecolor=COPIED,
                markeredgewidth=0.9)  # fmt: skip
    ax.plot(look.query[1], look.query[0], "+", color=QUERY, markersize=11, markeredgewidth=1.8)
    ax.set_title(f"layer {look.place}: {_support(look.map):,.0f} positions", fontsize=8)


def _attributed(ax: Axes, one: Local, sample: Sample) -> None:
    """Show an attribution on the crop that the network saw, and box the patch."""
    ax.set_visible(True)
    top, left, height, width = one.crop
    _part(ax, _dim(sample.lr), (top, top + height), (left, left + width))
    most = float(np.abs(one.found.map).max()) or 1.0
    root = np.sign(one.found.map) * np.sqrt(np.abs(one.found.map) / most)
    extent = (left - 0.5, left + width - 0.5, top + height - 0.5, top - 0.5)
    ax.imshow(root, cmap="RdBu_r", norm=Normalize(-1, 1), alpha=np.abs(root), extent=extent,
              interpolation="nearest")  # fmt: skip
    y, x, h, w = one.window
    ax.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor=QUERY, linewidth=1))


def _read(ax: Axes, look: Look, sample: Sample) -> None:
    assert look.points is not None
    assert look.modulation is not None
    row, column = look.strongest(1)[0]
    _part(ax, sample.lr, (row - REACH, row + REACH + 1), (column - REACH, column + REACH + 1))
    ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=QUERY))
    ax.scatter(look.points[:, 1], look.points[:, 0], s=40 * look.modulation, color=DISAGREES,
               edgecolor="white", linewidth=0.7)  # fmt: skip
    ax.set_title(f"layer {look.place}: at ({row}, {column})", fontsize=8)


def _patch(ax: Axes, sample: Sample, at: tuple[int, int], ink: str) -> None:
    """Show the HR patch around a position, its own block boxed; beyond the border is nothing."""
    s, (row, column) = sample.scale, at
    rows, columns = (((at - PATCH) * s, (at + PATCH + 1) * s) for at in (row, column))
    _part(ax, sample.hr, rows, columns)
    bare(ax)
    for spine in ax.spines.values():
        spine.set(visible=True, edgecolor=ink, linewidth=2.5)
    block = Rectangle((column * s - 0.5, row * s - 0.5), s, s, fill=False, edgecolor=QUERY)
    ax.add_patch(block)


def _part(ax: Axes, image: NDArray[Any], rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """Show some rows and columns of an image at their place; beyond its border is nothing."""
    (top, bottom), (left, right) = rows, columns
    y, x = max(top, 0), max(left, 0)
    part = image[y:bottom, x:right]
    extent = (x - 0.5, x + part.shape[1] - 0.5, y + part.shape[0] - 0.5, y - 0.5)
    ax.imshow(part, cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=extent)
    ax.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5))


def _dim(lr: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the picture in grey, dark enough for colours to stand out."""
    return lr.astype(float).mean(axis=2) * 0.67


def _support(a: NDArray[Any]) -> float:
    """Return the effective number of positions, exp of the entropy."""
    part = a[a > 0]
    return float(np.exp(-np.sum(part * np.log(part))))


def _percent(weight: float) -> str:
    return f"{100 * weight:.2g} %"


HEADINGS = {"harm": "worst", "help": "best"}


@styled()
def texture_gallery(cases: Sequence[Case]) -> Figure:
    """Draw cases, a row each: where it is, LR, HR, what the networks made, and the harm over HR.

    PSNR and all numbers are of the region's positions (outlined), not of the crop. With no case
    the figure says so.
    """
    if not cases:
        return blank("no region beyond the threshold")
    panels = 4 + max(len(case.networks) for case in cases)
    figure = Figure(figsize=(WIDTH, 1.95 * len(cases)), layout="constrained")
    parts = figure.subfigures(len(cases), 1, squeeze=False)[:, 0]
    for number, (part, case) in enumerate(zip(parts, cases, strict=True), start=1):
        part.suptitle(f"{number}. {_told(case)}", fontsize=8.5, x=0.01, ha="left")
        axes = part.subplots(1, panels)
        for ax in axes:
            bare(ax)
        _whole(axes[0], case)
        _small(axes[1], case.view.lr, "LR")
        _small(axes[2], case.view.hr, "HR")
        n, l, *others = case.networks
        for ax, network in zip(axes[3:-1], (l, n, *others), strict=False):
            psnr = psnr_of(case.region.of(case.errors[network]))
            _small(ax, case.view.outputs[network], f"{_short(network)}: {psnr:.2f}")
            _outline(ax, case)
        _overlay(axes[-1], case)
    return figure


@styled()
def distortion_panel(case: Case | None) -> Figure:
    """Draw how the texture of a case is distorted: a row a network, a column a measure.

    The colours of a column are those of all its maps. With no case the figure says so.
    """
    if case is None:
        return blank("no region beyond the threshold")
    n, l, *others = case.networks
    networks = [l, n, *others]
    columns = 1 + len(DISTORTIONS)
    height = (1 + len(networks)) * (WIDTH / columns + 0.25) + 0.6
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(1 + len(networks), columns, squeeze=False)
    for ax in axes.ravel():
        bare(ax)
    _small(axes[0, 0], case.view.hr, "HR")
    _small(axes[0, 1], case.view.lr, "LR")
    _whole(axes[0, 2], case)
    _overlay(axes[0, 3], case)
    axes[0, 4].set_visible(False)
    for line, network in zip(axes[1:], networks, strict=True):
        _small(line[0], case.view.outputs[network], network)
    for column, (measure, title) in enumerate(DISTORTIONS.items(), start=1):
        shown = [case.crop(case.maps[network][measure]) for network in networks]
        norm = Normalize(0, max(float(values.max()) for values in shown) or 1.0)
        for ax, network, values in zip(axes[1:, column], networks, shown, strict=True):
            drawn = ax.imshow(values, cmap="viridis", norm=norm, interpolation="nearest")
            ax.set_title(f"region: {_mean(case, network, measure):.3g}", fontsize=8)
            _outline(ax, case, 1)
        figure.colorbar(drawn, ax=axes[1:, column], location="bottom", label=title, shrink=0.9)
    return figure


def _told(case: Case) -> str:
    """Return a case in one line: which, how sure, how distorted."""
    r, n, l = case.region, *case.networks[:2]
    sure = f"q = {case.q:.2g}" if case.q <= 0.05 else f"open, q = {case.q:.2g}"
    means = {m: (_mean(case, l, m), _mean(case, n, m)) for m in DISTORTIONS}
    return (
        f"{HEADINGS[case.side]}: {case.sample.dataset} {case.sample.image}, {r.area} positions, "
        f"{sure}\n{_short(l)} → {_short(n)}: "
        f"MSE {_error(case, l):.0f} → {_error(case, n):.0f}, "
        + ", ".join(f"{NAMES[m]} {a:.{d}f} → {b:.{d}f}{UNITS[m]}"
                    for (m, (a, b)), d in zip(means.items(), (1, 1, 3, 3), strict=True))
    )  # fmt: skip


NAMES: Mapping[str, str] = {
    "orientation": "orientation", "spectrum": "spectrum", "structure": "1−SSIM",
    "gradient": "1−GMS",
}  # fmt: skip
UNITS: Mapping[str, str] = {"orientation": "°", "spectrum": " dB", "structure": "", "gradient": ""}


def _mean(case: Case, network: str, measure: str) -> float:
    return float(case.region.of(case.maps[network][measure]).mean())


def _error(case: Case, network: str) -> float:
    return float(case.region.of(case.errors[network]).mean())


def _short(network: str) -> str:
    return network.partition("-x")[0] or network


def _whole(ax: Axes, case: Case) -> None:
    """Show the whole picture, reduced to every so many pixels, and box the window."""
    s = case.sample.scale
    _small(ax, as_rgb(case.sample.hr)[s // 2 :: s, s // 2 :: s], case.sample.image)
    top, left, height, width = case.window
    box = Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=BOX, linewidth=1)
    ax.add_patch(box)


def _overlay(ax: Axes, case: Case) -> None:
    """Show the harm over the grey picture: red harmed, blue helped."""
    grey = as_rgb(case.view.hr).astype(float).mean(axis=2)
    s = case.sample.scale
    ax.imshow(grey, cmap="gray", vmin=-80, vmax=335, interpolation="nearest")
    root = signed_root(case.crop(case.harm))
    most = float(np.abs(root).max()) or 1.0
    extent = (-0.5, grey.shape[1] - 0.5, grey.shape[0] - 0.5, -0.5)
    ax.imshow(root, cmap="RdBu_r", norm=Normalize(-most, most), extent=extent,
              alpha=np.minimum(1, 1.4 * np.abs(root) / most), interpolation="nearest")  # fmt: skip
    _outline(ax, case, s)
    ax.set_title(f"harm, ±{most:.0f} levels", fontsize=8)


def _outline(ax: Axes, case: Case, factor: int | None = None) -> None:
    """Draw the edge of the region on a crop of `factor` pixels a position; None: of HR."""
    s = case.sample.scale if factor is None else factor
    lines = (s * edges(case.outline()) - 0.5)[..., ::-1]  # (n, 2, 2): (x, y) of both ends
    for ink, width in (("white", 1.2), ("black", 0.6)):
        ax.add_collection(LineCollection(list(lines), colors=ink, linewidths=width))


def edges(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the edges between inside and outside, ``(n, 2, 2)``: both ends as (row, column).

    Position (0, 0) spans from 0 to 1 down and across.
    """
    padded = np.pad(inside, 1).astype(int)
    level = np.argwhere(np.diff(padded, axis=0)) - (0, 1)
    upright = np.argwhere(np.diff(padded, axis=1)) - (1, 0)
    ends = [np.stack([level, level + (0, 1)], 1), np.stack([upright, upright + (1, 0)], 1)]
    return np.concatenate(ends).astype(float)


def _small(ax: Axes, image: NDArray[Any], title: str) -> None:
    ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_title(title, fontsize=8)
