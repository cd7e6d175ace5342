"""What the explorer shows, as pixels, as HTML and as a figure; the same on screen and on paper."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from dtfn import images, subpixel
from dtfn.causes import mixed_patch
from dtfn.explorer import summary
from dtfn.explorer.state import WITHOUT, Float, Position, State, Window, around
from dtfn.images import UInt8
from dtfn.plots import BOX, SIGNED, WIDTH, styled
from dtfn.plots.pictures import frame, show

RING = "#56B4E9"
ATTENTION = "magma"
BRIGHTEST = 256  # weight in multiples of uniform, where the colours of attention end
FLOOR = 0.2  # of the overlay's strength where attention is least, so that the rest shows
CLIPPED = 0.002  # of the positions may have more harm than the colours reach
SPAN = 7  # LR positions a side of a copied patch
CROP, PATCH = 144, 84  # CSS pixels: the width of a crop, of a patch; many factors divide them

OFF = "attention off"
ABOUT = {
    "LR": "What the networks get",
    "HR": "The truth",
    "attention on": "The network as it was trained",
    OFF: "The same network, its attention layers skipped",
    "uniform weights": "The same network, all positions weighted alike",
    WITHOUT: "The same network; none of its layers can attend to the ringed positions",
    "attribution": "LR pixels that the detail in the box depends on, through the whole network: "
    "red adds, blue takes. DI, the diffusion index (0 to 100), grows with their number",
    "query": "The block that you look at, and what is around it",
    "weighted mix": "The mean of all patches by attention weight: what the layer could copy",
}
"""What the pictures show, for who points at them."""


class Crop(NamedTuple):
    """A piece of a picture, with what stands above and below it and a box in its pixels."""

    title: str
    note: str
    image: UInt8
    box: Window

    def zoomed(self, factor: int) -> UInt8:
        """Return the crop with every pixel enlarged by a factor, the box outlined."""
        height, width = self.image.shape[:2]
        size = (factor * width, factor * height)
        large = Image.fromarray(self.image).resize(size, Image.Resampling.NEAREST)
        top, left, height, width = (factor * side for side in self.box)
        edges = (left - 2, top - 2, left + width + 1, top + height + 1)
        ImageDraw.Draw(large).rectangle(edges, outline=BOX, width=2)
        return np.asarray(large)


def attention_map(state: State, strength: float) -> UInt8:
    """Return LR under the colours of attention, uint8 ``(H, W, 3)``.

    The scale is fixed: logarithmic, from a uniform weight or less to `BRIGHTEST` times as much.
    ``strength`` of the overlay is in [0, 1]; with 0, or without attention, LR is as it is.
    """
    if state.attention is None or strength <= 0:
        return state.sample.lr
    times = np.maximum(state.attention * state.attention.size, 1)
    level = np.minimum(np.log(times) / np.log(BRIGHTEST), 1)
    opacity = strength * (FLOOR + (1 - FLOOR) * np.sqrt(level))
    return _over(state.sample.lr, ATTENTION, level, opacity)


def harm_map(state: State, shown: float) -> tuple[UInt8, float]:
    """Return harm beyond ``shown`` (MSE) in colours centred at 0, and their limit (levels)."""
    root = subpixel.signed_root(state.harm)
    limit = float(np.quantile(np.abs(root), 1 - CLIPPED)) or 1.0
    level = np.where(np.abs(state.harm) > shown, root / limit, 0).clip(-1, 1) / 2 + 0.5
    return _over(state.sample.lr, SIGNED, level, np.ones(level.shape)), limit


def crops(state: State, side: int) -> list[Crop]:
    """Return LR, HR, the outputs and the attribution around the position.

    Crops are ``side`` LR positions wide, attribution is as wide as what was attributed.
    """
    sample, choice, at = state.sample, state.choice, state.position
    window = around(state.shape, at, side)
    shown = [_crop("LR", "input", sample.lr, 1, window, at)]
    if sample.hr.size:
        hr = images.as_rgb(sample.hr)
        shown.append(_crop("HR", "the truth", hr, sample.scale, window, at))
    uniform = f"{choice.network}@uniform"
    titles = {choice.off: OFF, uniform: "uniform weights"}
    if state.record is not None:
        titles[choice.network] = "attention on"
    order = [choice.network, choice.off, uniform, WITHOUT, choice.baseline, choice.third]
    for method in [method for method in dict.fromkeys(order) if method in state.outputs]:
        made, note = state.outputs[method], ""
        if state.has_truth:
            note = f"{made.error[at]:.2f} MSE · {subpixel.psnr_of(made.error[at]):.2f} dB"
        title = titles.get(method, choice.labels[method])
        shown.append(_crop(title, note, made.image, sample.scale, window, at))
    if state.attribution is not None and state.crop is not None:
        values = state.attribution.map
        root = subpixel.signed_root(values / (np.abs(values).max() or 1.0))
        image = _over(sample.crop(*state.crop).lr, SIGNED, root / 2 + 0.5, np.abs(root))
        box = Window(at[0] - state.crop.top, at[1] - state.crop.left, 1, 1)
        note = f"LAM, DI {state.attribution.diffusion:.1f}"
        shown.append(Crop("attribution", note, image, box))
    return shown


def copies(state: State) -> list[Crop]:
    """Return the patch of the query, the mix of all, and the most attended, heaviest first.

    They are cut from the truth; without it, from the network's output.
    """
    if state.attention is None:
        return []
    scale, hr = state.sample.scale, state.sample.hr
    source = images.as_rgb(hr if hr.size else state.outputs[state.choice.network].image)
    box = Window(SPAN // 2 * scale, SPAN // 2 * scale, scale, scale)
    mixed = Crop(
        "weighted mix", "of all positions", mixed_patch(source, state.attention, SPAN), box
    )
    patches = [("query", f"{state.position}", state.position)]
    for row, column, weight, apart in state.copied:
        differs = "" if math.isnan(apart) else f" · differs {apart:.1f}"
        patches.append((f"{weight:.2%}", f"({row}, {column}){differs}", (row, column)))
    query, *copied = (
        _crop(title, note, source, scale, around(state.shape, at, SPAN), at)
        for title, note, at in patches
    )
    return [query, mixed, *copied]


def _crop(title: str, note: str, image: UInt8, scale: int, window: Window, at: Position) -> Crop:
    top, left, height, width = (scale * side for side in window)
    piece = np.ascontiguousarray(image[top : top + height, left : left + width])
    return Crop(title, note, piece, Window(scale * at[0] - top, scale * at[1] - left, scale, scale))


def _over(lr: UInt8, cmap: str, level: Float, opacity: Float) -> UInt8:
    """Return grey LR under the colours of levels in [0, 1]."""
    grey, share = images.luma(lr)[..., None], opacity[..., None]
    colours = 255 * mpl.colormaps[cmap](level)[..., :3]
    return np.rint((1 - share) * grey + share * colours).astype(np.uint8)


def message(text: str, *, is_error: bool = False) -> str:
    """Return a line for the reader; screen readers read it out."""
    kind = f' class="{"error" if is_error else "note"}"' if text else ""
    return f'<div role="status"{kind}>{escape(text)}</div>'


def attention(state: State) -> str:
    """Return what stands under the map of attention."""
    ends = "1×", "weight, in multiples of uniform", f"{BRIGHTEST}×"
    return _under(summary.looked(state), ATTENTION, () if state.attention is None else ends)


def harm(state: State, limit: float) -> str:
    """Return what stands under the map of harm, whose colours end at ``limit``."""
    ends = f"−{limit:.0f} helped", "signed root, 8-bit levels", f"+{limit:.0f} harmed"
    return _under(summary.share(state), SIGNED, ends if state.has_truth else ())


def numbers(state: State) -> str:
    """Return the verdict and the table of numbers."""
    said = summary.verdict(state)
    kind = next((kind for kind in ("harmed", "helped") if f"{kind} here" in said), "")
    return (
        "<h4>Row {}, column {}</h4>".format(*state.position)
        + f'<div class="said {kind}">{escape(said)}</div>{_table(summary.block_lines(state))}'
        + f"<h4>Its attention</h4>{_table(summary.attention_lines(state))}"
    )


def strip(shown: Sequence[Crop], width: int) -> str:
    """Return crops side by side, about ``width`` CSS pixels each."""
    parts = []
    for crop in shown:
        large = crop.zoomed(max(1, round(width / crop.image.shape[1])))
        data = base64.b64encode(images.encode(large)).decode()
        name, note = escape(crop.title), escape(crop.note).replace(" · ", "<br>")
        parts.append(
            f'<figure style="width:{large.shape[1]}px" title="{ABOUT.get(crop.title, "")}">'
            f'<figcaption>{name}</figcaption><img src="data:image/png;base64,{data}" alt="{name}">'
            f'<figcaption class="quiet">{note}</figcaption></figure>'
        )
    return f'<div class="strip">{"".join(parts)}</div>'


def _table(lines: Sequence[summary.Line]) -> str:
    rows = (
        f'<tr title="{escape(about)}"><td>{escape(label)}</td><td>{escape(value)}</td></tr>'
        for label, value, about in lines
    )
    return f"<table>{''.join(rows)}</table>"


def _under(said: str, cmap: str, ends: tuple[str, ...]) -> str:
    """Return text under the colours of a map; without its ends there is no map."""
    if not ends:
        return f'<div class="note">{escape(said)}</div>'
    colours = ", ".join(to_hex(mpl.colormaps[cmap](i / 8)) for i in range(9))
    labels = "".join(f"<span>{end}</span>" for end in ends)
    bar = f'<div class="bar" style="background: linear-gradient(to right, {colours})"></div>'
    return f'{bar}<div class="ends">{labels}</div><div class="quiet">{escape(said)}</div>'


@styled()
def sheet(state: State, *, strength: float = 0.9, shown: float = 0.0, side: int = 12) -> Figure:
    """Draw a position: what it attends to, harm, the numbers; crops; the patches it copies.

    ``strength``, ``shown`` and ``side`` are as for `attention_map`, `harm_map` and `crops`.
    """
    figure = Figure(figsize=(WIDTH, 7.6), layout="constrained")
    parts: Any = figure.subfigures(3, 1, height_ratios=[3.4, 2.0, 1.5])
    left, right, text = parts[0].subplots(1, 3)
    rings = np.array([(copy.column, copy.row) for copy in state.copied]).reshape(-1, 2)
    left.scatter(*rings.T, s=22, facecolors="none", edgecolors=RING, linewidths=0.9)
    overlay, title = attention_map(state, strength), f"attention of {state.choice.layer}"
    ends = (0.0, math.log2(BRIGHTEST))
    maps = [(left, overlay, title, ATTENTION, ends, "log2 of weight × L", BOX)]
    if state.has_truth:
        image, limit = harm_map(state, shown)
        title, unit = "harm: red harmed, blue helped", "signed root (8-bit levels)"
        maps.append((right, image, title, SIGNED, (-limit, limit), unit, "black"))
    else:
        right.set_axis_off()
        said = f"Harm {summary.NO_TRUTH}".replace(", ", ",\n")
        right.text(0.5, 0.5, said, ha="center", va="center")
    (row, column), grow = state.position, max(state.shape) / 40
    for ax, image, title, cmap, ends, unit, ink in maps:
        show(ax, image, title)
        frame(ax, (row - grow, column - grow, 1 + 2 * grow, 1 + 2 * grow), 1, ink)
        where = {"location": "bottom", "shrink": 0.9, "aspect": 30}
        parts[0].colorbar(ScalarMappable(Normalize(*ends), cmap), ax=ax, label=unit, **where)
    numbered = summary.block_lines(state) + summary.attention_lines(state)
    lines = [f"{name}: {value}" for name, value, _ in numbered]
    said = summary.verdict(state).replace(", ", ",\n").replace(": ", ":\n")
    said = "\n".join([f"row {row}, column {column}", said, "", *lines])
    text.set_axis_off()
    text.text(0, 1, said, va="top", fontsize=7, transform=text.transAxes)
    for part, line in ((parts[1], crops(state, side)), (parts[2], copies(state))):
        axes = part.subplots(1, len(line), squeeze=False)[0] if line else []
        for ax, crop in zip(axes, line, strict=True):
            show(ax, crop.image, crop.title.replace(": ", ":\n"), 6.5)
            frame(ax, crop.box, 1)
            note = crop.note.replace(" · ", "\n")
            ax.text(0.5, -0.05, note, ha="center", va="top", fontsize=6.5, transform=ax.transAxes)
    return figure
