"""What the explorer shows, as pixels, as HTML and as a figure; the same on screen and on paper."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dtfn import images, subpixel
from dtfn.explorer.state import WITHOUT, Answer, Deeper, Float, Position, Scene, Window, around
from dtfn.images import UInt8
from dtfn.models.attention import HashedAttention
from dtfn.plots import BOX, SIGNED, WIDTH, styled

FOLDER = Path(__file__).parent
RING = "#56B4E9"
ATTENTION = "magma"
BRIGHTEST = 256  # weight in multiples of uniform, where the colours of attention end
FLOOR = 0.2  # of the overlay's strength where attention is least, so that the rest shows
CLIPPED = 0.002  # of the positions may have more harm than the colours reach
EVEN = 0.8  # effective positions as a share of those in sight, from which attention is even
SPAN = 7  # LR positions a side of a copied patch
CROP, PATCH = 144, 84  # CSS pixels: the width of a crop, of a patch; many factors divide them
NO_TRUTH = "needs the truth (HR), and this picture came without"

STYLE = f"<style>{(FOLDER / 'style.css').read_text(encoding='utf-8')}</style>"
HELP = (FOLDER / "help.html").read_text(encoding="utf-8")

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


class Line(NamedTuple):
    """One number: label and value as printed, and its meaning in a sentence."""

    label: str
    value: str
    about: str


@dataclass(frozen=True, eq=False)
class Crop:
    """A piece of a picture, with what stands above and below it and a box in its pixels."""

    title: str
    note: str
    image: UInt8
    box: Window

    def zoomed(self, factor: int) -> UInt8:
        """Return the crop with every pixel enlarged by a factor, the box outlined."""
        large = self.image.repeat(factor, 0).repeat(factor, 1)
        top, left, height, width = (factor * side for side in self.box)
        rows, columns = slice(top, top + height), slice(left, left + width)
        inside = large[rows, columns].copy()
        line = 2
        outer = slice(max(top - line, 0), top + height + line)
        large[outer, max(left - line, 0) : left + width + line] = [
            round(255 * part) for part in to_rgb(BOX)
        ]
        large[rows, columns] = inside
        return large


# ---------------------------------------------------------------- in words and numbers


def title(scene: Scene, method: str) -> str:
    """Return what a method is called."""
    choice = scene.choice
    if method == choice.network and scene.record is not None:
        return "attention on"
    known = {choice.off: OFF, choice.uniform: "uniform weights"}
    return known.get(method, method.rpartition("/")[2])


def control(two: tuple[str, ...]) -> str:
    """Return what two methods that differ by chance alone are called."""
    changes = {"@hash": "another hash seed", "@turn": "the picture flipped"}
    of_one = [said for change, said in changes.items() if two and change in two[0]]
    return of_one[0] if of_one else " and ".join(two) or "none"


def verdict(scene: Scene, answer: Answer, threshold: float) -> str:
    """Return what the harm of this block means against chance."""
    if scene.harm is None:
        return f"Harm {NO_TRUTH}"
    if scene.record is None:
        return "This network has no attention: any difference is chance"
    if scene.chance is None:
        return "Chance is not known: choose a control to judge this block"
    harm, chance = scene.harm[answer.position], abs(scene.chance[answer.position])
    if abs(harm) <= threshold:
        return "No difference beyond chance"
    if abs(harm) <= chance:
        return "Beyond the threshold, but chance differs as much in this very block"
    who = "Attention" if scene.choice.baseline == scene.choice.off else "This network"
    return f"{who} {'harmed' if harm > 0 else 'helped'} here, beyond chance"


def block_lines(scene: Scene, answer: Answer, threshold: float) -> list[Line]:
    """Return the numbers of the block at the position; empty without the truth."""
    if scene.harm is None:
        return []
    switched = scene.choice.baseline == scene.choice.off
    label = "harm: on minus off" if switched else "harm: over baseline"
    about = "Error of this block, less the error of the baseline. Above 0 the network is worse"
    lines = [Line(label, _mse(scene.harm[answer.position]), about)]
    if scene.chance is not None:
        one, other = scene.choice.control
        about = f"The same difference where chance alone acts: {one} minus {other}"
        lines.append(Line("chance, this block", _mse(scene.chance[answer.position]), about))
        about = "Chance differs less at 95 % of the positions, or at the share that you set"
        lines.append(Line("threshold", f"±{threshold:.2f} MSE", about))
    return lines


def attention_lines(answer: Answer) -> list[Line]:
    """Return how the query spreads its attention; empty where there is none."""
    if answer.attention is None:
        return []
    a, total = answer.spread, answer.attention.size
    named = sum(copy.weight for copy in answer.copied)
    most = f"{answer.attention.max() * total:.3g} × uniform"
    support = f"{a['support']:,.0f} of {total:,}"
    lines = [
        Line("effective positions", support, "exp of the entropy of the weights"),
        Line("largest weight", most, "1 × is what each gets if all get the same"),
        Line(f"on the {len(answer.copied)} ringed", f"{named:.1%}", "Their summed weight"),
        Line("on itself", f"{a['on_self']:.2%}", "The weight of this very position"),
        Line("mean distance", f"{a['distance']:.1f} LR pixels", "By weight"),
    ]
    if not math.isnan(a.get("disagreeing", math.nan)):
        about = "Weight on positions whose detail is farther from the truth than no detail"
        lines.append(Line("on false detail", f"{a['disagreeing']:.0%}", about))
    return lines


def looked(scene: Scene, answer: Answer) -> str:
    """Return in words what the query attends to, or why nothing is shown."""
    if answer.attention is None or scene.record is None:
        return f"{scene.choice.network} has no attention layer: choose another network."
    reached = int((answer.attention > 0).sum())
    where = f"the {reached:,} positions that get any"
    all_ = reached == answer.attention.size
    if answer.spread["support"] >= EVEN * reached:
        said = f"Spread evenly over {'the whole picture' if all_ else where}."
    else:
        half = np.cumsum(np.sort(answer.attention, axis=None)[::-1]) < 0.5
        most = f"Half of the weight is on {int(half.sum()) + 1:,}"
        said = f"{most} positions." if all_ else f"{most} of {where}."
    if isinstance(scene.record.module(scene.choice.layer), HashedAttention):
        said += " Equal hash codes are cut into chunks row by row, hence the band."
    return said


def share(scene: Scene, threshold: float) -> str:
    """Return how often there is harm beyond a threshold on the picture, and how often by chance."""
    if scene.harm is None:
        return f"Harm {NO_TRUTH}."
    ours = subpixel.harm_rate(subpixel.interior(scene.harm), threshold)
    if scene.chance is None:
        return f"Harm above 0 at {ours:.1%} of the positions; chance is not known."
    by_chance = subpixel.harm_rate(subpixel.interior(scene.chance), threshold)
    return (
        f"Harm above {threshold:.2f} MSE at {ours:.1%} of the positions; by chance {by_chance:.1%}."
    )


def _mse(value: float) -> str:
    shown = round(value, 2) + 0.0  # no "−0.00"
    return f"{shown:+.2f} MSE".replace("-", "−") if shown else "0.00 MSE"


# ---------------------------------------------------------------- in pixels


def attention_map(scene: Scene, answer: Answer, strength: float) -> UInt8:
    """Return LR under the colours of attention, uint8 ``(H, W, 3)``.

    The scale is fixed: logarithmic, from a uniform weight or less to `BRIGHTEST` times as much.
    ``strength`` of the overlay is in [0, 1]; with 0, or without attention, LR is as it is.
    """
    lr = scene.sample.lr
    if answer.attention is None or strength <= 0:
        return lr
    times = np.maximum(answer.attention * answer.attention.size, 1)
    level = np.minimum(np.log(times) / np.log(BRIGHTEST), 1)
    grey = np.repeat(images.luma(lr)[..., None], 3, axis=2)
    colours = mpl.colormaps[ATTENTION](level)[..., :3] * 255
    opacity = strength * (FLOOR + (1 - FLOOR) * np.sqrt(level))[..., None]
    return np.rint((1 - opacity) * grey + opacity * colours).astype(np.uint8)


def harm_root(scene: Scene, threshold: float) -> tuple[Float, float]:
    """Return the signed root of harm, 0 up to a threshold, and the limit of its colours."""
    harm = scene.harm
    assert harm is not None
    root = subpixel.signed_root(harm)
    limit = float(np.quantile(np.abs(root), 1 - CLIPPED)) or 1.0
    return np.where(np.abs(harm) > threshold, root, 0.0), limit


def harm_map(scene: Scene, threshold: float) -> UInt8:
    """Return harm in colours centred at 0, uint8 ``(H, W, 3)``."""
    root, limit = harm_root(scene, threshold)
    return _coloured(root / limit)


def crops(scene: Scene, answer: Answer, deeper: Deeper, side: int) -> list[Crop]:
    """Return LR, HR, the outputs and the attribution around a position.

    Crops are ``side`` LR positions wide, attribution is as wide as what was attributed.
    """
    sample, choice, at = scene.sample, scene.choice, answer.position
    window = around(scene.shape, at, side)
    shown = [_crop("LR", "input", sample.lr, 1, window, at)]
    if scene.hr is not None:
        hr = images.as_rgb(scene.hr)
        shown.append(_crop("HR", "the truth", hr, sample.scale, window, at))
    outputs = {**scene.outputs, **deeper.outputs}
    order = [choice.network, choice.off, choice.uniform, WITHOUT, choice.baseline, choice.third]
    for method in [method for method in dict.fromkeys(order) if method in outputs]:
        error = scene.error(outputs[method], at)
        note = "" if error is None else f"{error:.2f} MSE · {subpixel.decibels(error):.2f} dB"
        image = outputs[method].image
        shown.append(_crop(title(scene, method), note, image, sample.scale, window, at))
    return [*shown, *_attributed(scene, answer, deeper)]


def copies(scene: Scene, answer: Answer) -> list[Crop]:
    """Return the patch of the query, the mix of all, and the most attended, heaviest first.

    They are cut from the truth; without it, from the network's output.
    """
    if answer.attention is None:
        return []
    scale = scene.sample.scale
    source = scene.outputs[scene.choice.network].image if scene.hr is None else scene.hr
    source = images.as_rgb(source)

    def patch(title: str, note: str, at: Position) -> Crop:
        return _crop(title, note, source, scale, around(scene.shape, at, SPAN), at)

    mixed = mix(source, answer.attention, scale)
    centre = Window(SPAN // 2 * scale, SPAN // 2 * scale, scale, scale)
    shown = [
        patch("query", f"({answer.position[0]}, {answer.position[1]})", answer.position),
        Crop("weighted mix", "of all positions", mixed, centre),
    ]
    for copy in answer.copied:
        note = f"({copy.row}, {copy.column})"
        if not math.isnan(copy.disagreement):
            note += f" · differs {copy.disagreement:.1f}"
        shown.append(patch(f"{copy.weight:.2%}", note, (copy.row, copy.column)))
    return shown


def mix(source: UInt8, attention: Float, scale: int) -> UInt8:
    """Return the mean of the patches around all positions by weight, uint8 ``(7s, 7s, 3)``."""
    height, width = attention.shape
    blocks = source.reshape(height, scale, width, scale, 3).swapaxes(1, 2)
    reach = SPAN // 2
    padded = np.pad(blocks, ((reach, reach), (reach, reach), (0, 0), (0, 0), (0, 0)), mode="edge")
    weights = attention.astype(np.float32)
    rows = [
        [
            np.tensordot(weights, padded[down : down + height, right : right + width], 2)
            for right in range(SPAN)
        ]
        for down in range(SPAN)
    ]
    mixed = np.array(rows).swapaxes(1, 2).reshape(SPAN * scale, SPAN * scale, 3)
    return np.rint(mixed).clip(0, 255).astype(np.uint8)


def _attributed(scene: Scene, answer: Answer, deeper: Deeper) -> list[Crop]:
    """Return LR under attribution, red where a pixel adds detail, blue where it takes some."""
    if deeper.attribution is None or deeper.crop is None:
        return []
    values = deeper.attribution.map
    root = np.sign(values) * np.sqrt(np.abs(values) / (np.abs(values).max() or 1.0))
    lr = scene.sample.crop(*deeper.crop).lr
    grey = np.repeat(images.luma(lr)[..., None], 3, axis=2)
    opacity = np.abs(root)[..., None]
    image = np.rint((1 - opacity) * grey + opacity * _coloured(root)).astype(np.uint8)
    row, column = answer.position[0] - deeper.crop.top, answer.position[1] - deeper.crop.left
    note = f"LAM, DI {deeper.attribution.diffusion:.1f}"
    return [Crop("attribution", note, image, Window(row, column, 1, 1))]


def _crop(
    title: str, note: str, image: UInt8, scale: int, window: Window, position: Position
) -> Crop:
    top, left, height, width = (scale * side for side in window)
    piece = np.ascontiguousarray(image[top : top + height, left : left + width])
    box = Window(scale * position[0] - top, scale * position[1] - left, scale, scale)
    return Crop(title, note, piece, box)


def _coloured(level: Float) -> UInt8:
    """Return colours of levels in [-1, 1]."""
    colours = mpl.colormaps[SIGNED](np.clip(level, -1, 1) / 2 + 0.5)
    return np.rint(colours[..., :3] * 255).astype(np.uint8)


# ---------------------------------------------------------------- in HTML


def message(text: str, *, is_error: bool = False) -> str:
    """Return a line for the reader; screen readers read it out."""
    kind = f' class="{"error" if is_error else "note"}"' if text else ""
    return f'<div role="status"{kind}>{_text(text)}</div>'


def progress(share: float, what: str) -> str:
    """Return a bar with what is being done."""
    return f'<div role="status"><progress value="{share}"></progress> {_text(what)}</div>'


def attention(scene: Scene, answer: Answer) -> str:
    """Return what stands under the map of attention."""
    words = f'<div class="quiet">{_text(looked(scene, answer))}</div>'
    if answer.attention is None:
        return words.replace("quiet", "note")
    ends = ("1×", "weight, in multiples of uniform", f"{BRIGHTEST}×")
    return _bar(ATTENTION, ends) + words


def harm(scene: Scene, shown: float, threshold: float) -> str:
    """Return what stands under the map of harm, of which harm up to ``shown`` is hidden."""
    if scene.harm is None:
        return f'<div class="note">Harm {_text(NO_TRUTH)}.</div>'
    limit = harm_root(scene, shown)[1]
    ends = (f"−{limit:.0f} helped", "signed root, 8-bit levels", f"+{limit:.0f} harmed")
    words = f'<div class="quiet" data-key="share">{_text(share(scene, threshold))}</div>'
    return _bar(SIGNED, ends) + words


def numbers(scene: Scene, answer: Answer, threshold: float) -> str:
    """Return the verdict and the table of numbers."""
    said = verdict(scene, answer, threshold)
    kind = next((kind for kind in ("harmed", "helped") if f"{kind} here" in said), "")
    return (
        f"<h4>Row {answer.position[0]}, column {answer.position[1]}</h4>"
        f'<div class="said {kind}">{_text(said)}</div>'
        f"{_table(block_lines(scene, answer, threshold))}"
        f"<h4>Its attention</h4>{_table(attention_lines(answer))}"
    )


def strip(shown: Iterable[Crop], width: int) -> str:
    """Return crops side by side, about ``width`` CSS pixels each."""
    parts = []
    for crop in shown:
        large = crop.zoomed(max(1, round(width / crop.image.shape[1])))
        data = base64.b64encode(images.encode(large)).decode()
        name, note = _text(crop.title), _text(crop.note).replace(" · ", "<br>")
        parts.append(
            f'<figure style="width:{large.shape[1]}px" title="{ABOUT.get(crop.title, "")}">'
            f'<figcaption>{name}</figcaption><img src="data:image/png;base64,{data}" alt="{name}">'
            f'<figcaption class="quiet">{note}</figcaption></figure>'
        )
    return f'<div class="strip">{"".join(parts)}</div>'


def _table(lines: Sequence[Line]) -> str:
    rows = (
        f'<tr title="{_text(line.about)}"><td>{_text(line.label)}</td>'
        f"<td>{_text(line.value)}</td></tr>"
        for line in lines
    )
    return f"<table>{''.join(rows)}</table>"


def _bar(cmap: str, ends: tuple[str, str, str]) -> str:
    colours = ", ".join(to_hex(mpl.colormaps[cmap](i / 8)) for i in range(9))
    labels = "".join(f"<span>{_text(end)}</span>" for end in ends)
    bar = f'<div class="bar" style="background: linear-gradient(to right, {colours})"></div>'
    return f'{bar}<div class="ends">{labels}</div>'


def _text(text: str) -> str:
    return html.escape(text)


# ---------------------------------------------------------------- as a figure


@styled()
def sheet(
    scene: Scene,
    answer: Answer,
    deeper: Deeper | None = None,
    *,
    strength: float = 0.9,
    shown: float = 0.0,
    threshold: float = 0.0,
    side: int = 12,
) -> Figure:
    """Draw a position: what it attends to, harm, the numbers; crops; the patches it copies.

    Parameters
    ----------
    scene, answer, deeper
        Of `dtfn.explorer.state`.
    strength, shown, threshold, side
        As for `attention_map`, `harm_map`, `verdict` and `crops`.
    """
    deeper = deeper or Deeper()
    figure = Figure(figsize=(WIDTH, 7.6), layout="constrained")
    parts: Any = figure.subfigures(3, 1, height_ratios=[3.4, 2.0, 1.5])
    upper, middle, lower = parts
    left, right, text = upper.subplots(1, 3)
    _panel(left, attention_map(scene, answer, strength), f"attention of {scene.choice.layer}")
    at = np.array([(copy.column, copy.row) for copy in answer.copied]).reshape(-1, 2)
    left.scatter(at[:, 0], at[:, 1], s=22, facecolors="none", edgecolors=RING, linewidths=0.9)
    _colours(upper, left, ATTENTION, Normalize(0, math.log2(BRIGHTEST)), "log2 of weight × L")
    if scene.harm is None:
        right.text(0.5, 0.5, f"Harm {NO_TRUTH}".replace(", ", ",\n"), ha="center", va="center")
        right.set_axis_off()
    else:
        _panel(right, harm_map(scene, shown), "harm: red harmed, blue helped")
        limit = harm_root(scene, shown)[1]
        _colours(upper, right, SIGNED, Normalize(-limit, limit), "signed root (8-bit levels)")
    grow = max(scene.shape) / 40
    row, column = answer.position
    for ax, ink in ((left, BOX), (right, "black")):
        corner = (column - 0.5 - grow, row - 0.5 - grow)
        ax.add_patch(Rectangle(corner, 1 + 2 * grow, 1 + 2 * grow, fill=False, edgecolor=ink))
    text.set_axis_off()
    lines = [*block_lines(scene, answer, threshold), *attention_lines(answer)]
    words = verdict(scene, answer, threshold)
    said = [f"row {row}, column {column}", words.replace(", ", ",\n").replace(": ", ":\n"), ""]
    said += [f"{line.label}: {line.value}" for line in lines]
    text.text(0, 1, "\n".join(said), va="top", fontsize=7, transform=text.transAxes)
    _row(middle, crops(scene, answer, deeper, side))
    _row(lower, copies(scene, answer))
    return figure


def _row(figure: Any, shown: Sequence[Crop]) -> None:
    if not shown:
        return
    for ax, crop in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _panel(ax, crop.image, crop.title.replace(": ", ":\n"), 6.5)
        top, left, height, width = crop.box
        corner = (left - 0.5, top - 0.5)
        ax.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=BOX))
        note = crop.note.replace(" · ", "\n")
        ax.text(0.5, -0.05, note, ha="center", va="top", fontsize=6.5, transform=ax.transAxes)


def _panel(ax: Any, image: UInt8, title: str, size: float = 9) -> None:
    ax.imshow(image, interpolation="nearest")
    ax.set_title(title, fontsize=size, y=1)  # to look for a place takes half a second
    ax.set_axis_off()


def _colours(figure: Any, ax: Any, cmap: str, norm: Normalize, label: str) -> None:
    drawn = ScalarMappable(norm, cmap)
    figure.colorbar(drawn, ax=ax, label=label, location="bottom", shrink=0.9, aspect=30)
