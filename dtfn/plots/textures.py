"""The worst and the best textures, and how their texture is distorted.

Pixels are shown as they are, signed maps are centred at 0. They draw the cases of
`dtfn.texture.extremes`; users find these functions in `dtfn.plots.textures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from dtfn.images import as_rgb
from dtfn.plots.style import WIDTH, blank, styled
from dtfn.subpixel import psnr_of
from dtfn.subpixel.regions import signed_root
from dtfn.texture import distortion
from dtfn.texture.extremes import Case

BOX = "#F0E442"
HEADINGS = {"harm": "worst", "help": "best"}


@styled
def gallery(cases: Sequence[Case]) -> Figure:
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
            _bare(ax)
        _whole(axes[0], case)
        _image(axes[1], case.lr(), "LR")
        _image(axes[2], case.crop(case.picture.hr), "HR")
        n, l, *others = case.networks
        for ax, network in zip(axes[3:-1], (l, n, *others), strict=False):
            psnr = psnr_of(case.region.of(case.errors[network]))
            _image(ax, case.crop(case.picture.outputs[network]), f"{_short(network)}: {psnr:.2f}")
            _outline(ax, case)
        _overlay(axes[-1], case)
    return figure


@styled
def distortions(case: Case | None) -> Figure:
    """Draw how the texture of a case is distorted: a row a network, a column a measure.

    The colours of a column are those of all its maps. With no case the figure says so.
    """
    if case is None:
        return blank("no region beyond the threshold")
    n, l, *others = case.networks
    networks = [l, n, *others]
    columns = 1 + len(distortion.TITLES)
    height = (1 + len(networks)) * (WIDTH / columns + 0.25) + 0.6
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(1 + len(networks), columns, squeeze=False)
    for ax in axes.ravel():
        _bare(ax)
    _image(axes[0, 0], case.crop(case.picture.hr), "HR")
    _image(axes[0, 1], case.lr(), "LR")
    _whole(axes[0, 2], case)
    _overlay(axes[0, 3], case)
    axes[0, 4].set_visible(False)
    for line, network in zip(axes[1:], networks, strict=True):
        _image(line[0], case.crop(case.picture.outputs[network]), network)
    for column, (measure, title) in enumerate(distortion.TITLES.items(), start=1):
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
    sure = f"q = {case.q:.2g}" if case.q <= 0.05 else f"within luck, q = {case.q:.2g}"
    means = {m: (_mean(case, l, m), _mean(case, n, m)) for m in distortion.TITLES}
    return (
        f"{HEADINGS[case.side]}: {case.picture.dataset} {case.picture.image}, {r.area} positions, "
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
    s = case.picture.scale
    _image(ax, as_rgb(case.picture.hr)[s // 2 :: s, s // 2 :: s], case.picture.image)
    top, left, height, width = case.window
    box = Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=BOX, linewidth=1)
    ax.add_patch(box)


def _overlay(ax: Axes, case: Case) -> None:
    """Show the harm over the grey picture: red harmed, blue helped."""
    grey = as_rgb(case.crop(case.picture.hr)).astype(float).mean(axis=2)
    s = case.picture.scale
    ax.imshow(grey, cmap="gray", vmin=-80, vmax=335, interpolation="nearest")
    root = signed_root(case.crop(case.harms[case.pair]))
    most = float(np.abs(root).max()) or 1.0
    extent = (-0.5, grey.shape[1] - 0.5, grey.shape[0] - 0.5, -0.5)
    ax.imshow(root, cmap="RdBu_r", norm=Normalize(-most, most), extent=extent,
              alpha=np.minimum(1, 1.4 * np.abs(root) / most), interpolation="nearest")  # fmt: skip
    _outline(ax, case, s)
    ax.set_title(f"harm, ±{most:.0f} levels", fontsize=8)


def _outline(ax: Axes, case: Case, factor: int | None = None) -> None:
    """Draw the edge of the region on a crop of `factor` pixels a position; None: of HR."""
    s = case.picture.scale if factor is None else factor
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


def _image(ax: Axes, image: NDArray[Any], title: str) -> None:
    ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_title(title, fontsize=8)


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
