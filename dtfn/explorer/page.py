"""What the explorer says and shows, as pixels, HTML and a figure: on screen as on paper."""

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
from dtfn.capture import mixed_patch
from dtfn.explorer.state import WITHOUT, Position, State, Window, around
from dtfn.images import UInt8
from dtfn.models.attention import HashedAttention
from dtfn.plots import BOX, SIGNED, WIDTH, styled
from dtfn.plots.pictures import COPIED, frame, show
from dtfn.reports import tables
from dtfn.subpixel import Float

ATTENTION = "magma"
BRIGHTEST = 256  # weight in multiples of uniform, where the colours of attention end
FLOOR = 0.2  # of the overlay's strength where attention is least, so that the rest shows
SPAN = 7  # LR positions a side of a copied patch
CROP, PATCH = 144, 84  # CSS pixels: the width of a crop, of a patch; many factors divide them

NO_TRUTH = "needs the truth (HR), and this picture came without"
OFF = "attention off"
ABOUT = {  # what the pictures show, for who points at them
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

Line = tuple[str, str, str]  # label, value and meaning of a number


class Crop(NamedTuple):
    """A piece of a picture, with what stands above and below it and a box in its pixels."""

    title: str
    note: str
    image: UInt8
    box: Window

    def zoomed(self, factor: int) -> UInt8:
        """Return the crop with every pixel enlarged by a factor, the box outlined."""
        large = Image.fromarray(self.image.repeat(factor, 0).repeat(factor, 1))
        top, left, height, width = (factor * side for side in self.box)
        edges = (left - 2, top - 2, left + width + 1, top + height + 1)
        ImageDraw.Draw(large).rectangle(edges, outline=BOX, width=2)
        return np.asarray(large)


def verdict(state: State) -> str:
    """Return what the harm of this block means against chance."""
    if not state.has_truth:
        return f"Harm {NO_TRUTH}"
    if not state.is_judged:
        return "Not judged: with equal weights the network is off-distribution on this picture"
    if state.record is None and state.choice.baseline != state.choice.off:
        return "No attention is seen in this network: any difference is chance"
    if not state.choice.control:
        return "Chance is not known: choose a control to judge this block"
    harm, chance = state.harm[state.position], abs(state.chance[state.position])
    if abs(harm) <= state.threshold:
        return "No difference beyond chance"
    if abs(harm) <= chance:
        return "Beyond the threshold, but chance differs as much in this very block"
    who = "This network"
    if state.choice.baseline == state.choice.off:
        who = "Its choice of keys" if state.choice.off.endswith("@uniform") else "Attention"
    return f"{who} {'harmed' if harm > 0 else 'helped'} here, beyond chance"


def lines(state: State) -> tuple[list[Line], list[Line]]:
    """Return the numbers of the block at the position, and of how it spreads its attention."""
    choice, block, spread = state.choice, list[Line](), list[Line]()
    harm = tables.number("{:+.2f} MSE", state.harm[state.position]).replace("-", "−")
    chance = tables.number("{:+.2f} MSE", state.chance[state.position]).replace("-", "−")
    if state.has_truth:
        labels = {f"{choice.network}@off": "harm: on minus off"}
        labels[f"{choice.network}@uniform"] = "harm: over equal weights"
        about = "Error of this block minus that of the baseline. Above 0 the network is worse"
        block.append((labels.get(choice.baseline, "harm: over baseline"), harm, about))
    if state.has_truth and choice.control:
        control = " minus ".join(choice.labels[one] for one in choice.control)
        about = f"The same difference where chance alone acts: {control}"
        block.append(("chance, this block", chance, about))
        about = "Chance differs less at 95 % of the positions, or at the share that you set"
        block.append(("threshold", f"±{state.threshold:.2f} MSE", about))
    if state.attention is not None:
        a, total, named = state.spread, state.attention.size, state.copied["weight"].sum()
        support, most = f"{a['support']:,.0f} of {total:,}", state.attention.max() * total
        about = "1 × is what each gets if all get the same"
        spread = [
            ("effective positions", support, "exp of the entropy of the weights"),
            ("largest weight", f"{most:.3g} × uniform", about),
            (f"on the {len(state.copied)} ringed", f"{named:.1%}", "Their summed weight"),
            ("on itself", f"{a['on_self']:.2%}", "The weight of this very position"),
            ("mean distance", f"{a['distance']:.1f} LR pixels", "By weight"),
        ]
        if not math.isnan(a["disagreeing"]):
            about = "Weight on positions whose detail is farther from the truth than no detail"
            spread.append(("on false detail", f"{a['disagreeing']:.0%}", about))
    return block, spread


def attention_map(state: State, strength: float) -> UInt8:
    """Return LR under the colours of attention, uint8 ``(H, W, 3)``; ``strength`` is in [0, 1].

    The scale is fixed: logarithmic, from a uniform weight or less to `BRIGHTEST` times as much.
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
    limit = float(np.quantile(np.abs(root), 0.998)) or 1.0  # a few have more
    level = np.where(np.abs(state.harm) > shown, root / limit, 0).clip(-1, 1) / 2 + 0.5
    return _over(state.sample.lr, SIGNED, level, np.ones(level.shape)), limit


def crops(state: State, side: int) -> list[Crop]:
    """Return LR, HR, the outputs, ``side`` LR positions wide, and the attribution."""
    sample, choice, at, where = state.sample, state.choice, state.position, (state.shape, side)
    shown = [_crop("LR", "input", at, sample.lr, *where)]
    if state.has_truth:
        shown.append(_crop("HR", "the truth", at, images.as_rgb(sample.hr), *where))
    uniform = f"{choice.network}@uniform"
    titles = choice.labels | {choice.off: OFF, uniform: "uniform weights"}
    if state.record is not None:
        titles[choice.network] = "attention on"
    order = [choice.network, choice.off, uniform, WITHOUT, choice.baseline, choice.third]
    for method in [method for method in dict.fromkeys(order) if method in state.outputs]:
        made, note = state.outputs[method], ""
        if state.has_truth:
            note = f"{made.error[at]:.2f} MSE · {subpixel.psnr_of(made.error[at]):.2f} dB"
        shown.append(_crop(titles[method], note, at, made.image, *where))
    if state.attribution is not None and state.crop is not None:
        values = state.attribution.map
        root = subpixel.signed_root(values / (np.abs(values).max() or 1.0))
        image = _over(sample.crop(*state.crop).lr, SIGNED, root / 2 + 0.5, np.abs(root))
        box = Window(at[0] - state.crop.top, at[1] - state.crop.left, 1, 1)
        note = f"LAM, DI {state.attribution.diffusion:.1f}"
        shown.append(Crop("attribution", note, image, box))
    return shown


def copies(state: State) -> list[Crop]:
    """Return the query's patch, the mix, and the most attended, of the truth or else the output."""
    if state.attention is None:
        return []
    scale, hr = state.sample.scale, state.sample.hr
    source = images.as_rgb(hr if hr.size else state.outputs[state.choice.network].image)
    box = Window(SPAN // 2 * scale, SPAN // 2 * scale, scale, scale)
    mix = Crop("weighted mix", "of all positions", mixed_patch(source, state.attention, SPAN), box)
    patches = [("query", f"{state.position}", state.position)]
    for row, column, weight, apart in state.copied.itertuples(index=False):
        differs = "" if math.isnan(apart) else f" · differs {apart:.1f}"
        patches.append((f"{weight:.2%}", f"({row}, {column}){differs}", (row, column)))
    query, *copied = (_crop(*patch, source, state.shape, SPAN) for patch in patches)
    return [query, mix, *copied]


def _crop(title: str, note: str, at: Position, image: UInt8, shape: Position, side: int) -> Crop:
    scale = len(image) // shape[0]
    top, left, height, width = (scale * v for v in around(shape, at, side))
    piece = np.ascontiguousarray(image[top : top + height, left : left + width])
    return Crop(title, note, piece, Window(scale * at[0] - top, scale * at[1] - left, scale, scale))


def _over(lr: UInt8, cmap: str, level: Float, opacity: Float) -> UInt8:
    """Return grey LR under the colours of levels in [0, 1]."""
    grey, share = images.luma(lr)[..., None], opacity[..., None]
    colours = 255 * mpl.colormaps[cmap](level)[..., :3]
    return np.rint((1 - share) * grey + share * colours).astype(np.uint8)


def attention(state: State) -> str:
    """Return what stands under the map of attention: in words what the query attends to."""
    if state.attention is None or state.record is None:
        name = escape(state.choice.labels[state.choice.network])
        said = f"{name} has no attention layer that can be shown: choose another network."
        return f'<div class="note">{said}</div>'
    reached, total = np.count_nonzero(state.attention), state.attention.size
    of = f"the {reached:,} positions that get any" if reached < total else "all positions"
    half = np.searchsorted(np.cumsum(np.sort(state.attention, axis=None)[::-1]), 0.5) + 1
    said = f"Half of the weight is on {half:,} of {of}."
    if state.spread["support"] >= 0.8 * reached:
        said = f"Spread evenly over {of}."
    if isinstance(state.record.module(state.choice.layer), HashedAttention):
        said += " Equal hash codes are cut into chunks row by row, hence the band."
    return _under(said, ATTENTION, "1×", "weight, in multiples of uniform", f"{BRIGHTEST}×")


def harm(state: State, limit: float) -> str:
    """Return what stands under the map of harm, whose colours end at ``limit``: how often it is."""
    if not state.has_truth:
        return f'<div class="note">Harm {NO_TRUTH}.</div>'
    maps = (subpixel.interior(one) for one in (state.harm, state.chance))
    ours, by_chance = (float(np.mean(one > state.threshold)) for one in maps)
    said = f"Harm above {state.threshold:.2f} MSE at {ours:.1%} of the positions; "
    said += f"by chance {by_chance:.1%}." if state.choice.control else "chance is not known."
    ends = f"−{limit:.0f} helped", "signed root, 8-bit levels", f"+{limit:.0f} harmed"
    return _under(said, SIGNED, *ends)


def numbers(state: State) -> str:
    """Return the verdict and the table of numbers."""
    said, (row, column) = verdict(state), state.position
    kind = "harmed" if "harmed here" in said else "helped" if "helped here" in said else ""
    block, spread = (
        "".join(
            f'<tr title="{escape(about)}"><td>{escape(label)}</td><td>{escape(value)}</td></tr>'
            for label, value, about in part
        )
        for part in lines(state)
    )
    return (
        f'<h4>Row {row}, column {column}</h4><div class="said {kind}">{escape(said)}</div>'
        f"<table>{block}</table><h4>Its attention</h4><table>{spread}</table>"
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


def _under(said: str, cmap: str, *ends: str) -> str:
    """Return text under the colours of a map and what their ends mean."""
    colours = ", ".join(to_hex(mpl.colormaps[cmap](i / 8)) for i in range(9))
    labels = "".join(f"<span>{end}</span>" for end in ends)
    bar = f'<div class="bar" style="background: linear-gradient(to right, {colours})"></div>'
    return f'{bar}<div class="ends">{labels}</div><div class="quiet">{escape(said)}</div>'


@styled()
def sheet(state: State, *, strength: float = 0.9, shown: float = 0.0, side: int = 12) -> Figure:
    """Draw a position; the rest is as for `attention_map`, `harm_map` and `crops`."""
    figure = Figure(figsize=(WIDTH, 7.6), layout="constrained")
    parts: Any = figure.subfigures(3, 1, height_ratios=[3.4, 2.0, 1.5])
    left, right, text = parts[0].subplots(1, 3)
    rings = state.copied["column"], state.copied["row"]
    left.scatter(*rings, s=22, facecolors="none", edgecolors=COPIED, linewidths=0.9)
    overlay, title = attention_map(state, strength), f"attention of {state.choice.layer}"
    ends = (0.0, math.log2(BRIGHTEST))
    maps = [(left, overlay, title, ATTENTION, ends, "log2 of weight × L", BOX)]
    if state.has_truth:
        image, limit = harm_map(state, shown)
        title, unit = "harm: red harmed, blue helped", "signed root (8-bit levels)"
        maps.append((right, image, title, SIGNED, (-limit, limit), unit, "black"))
    right.set_axis_off()  # where there is nothing to show
    (row, column), grow = state.position, max(state.shape) / 40
    for ax, image, title, cmap, ends, unit, ink in maps:
        show(ax, image, title)
        frame(ax, (row - grow, column - grow, 1 + 2 * grow, 1 + 2 * grow), 1, ink)
        where = {"location": "bottom", "shrink": 0.9, "aspect": 30}
        parts[0].colorbar(ScalarMappable(Normalize(*ends), cmap), ax=ax, label=unit, **where)
    numbered = [f"{name}: {value}" for part in lines(state) for name, value, _ in part]
    said = verdict(state).replace(", ", ",\n").replace(": ", ":\n")
    said = "\n".join([f"row {row}, column {column}", said, "", *numbered])
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
