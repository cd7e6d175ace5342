"""The view's text and pictures as HTML: coloured by the front end's theme, light or dark."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from dtfn.explorer import numbers, pixels
from dtfn.explorer.answer import Answer
from dtfn.explorer.numbers import Line
from dtfn.explorer.pixels import Crop
from dtfn.explorer.scene import Scene
from dtfn.explorer.state import Message
from dtfn.images import encode
from dtfn.plots import SIGNED

CROP, PATCH = 192, 84  # CSS pixels: the width of a crop, of a patch; many factors divide them

# JupyterLab and Voila both define the --jp- variables, for light and for dark.
STYLE = """<style>
.dtfn { color: var(--jp-ui-font-color1, #222); font-family: var(--jp-ui-font-family, sans-serif);
        font-size: 13px; line-height: 1.45; }
.dtfn .jupyter-widgets, .dtfn .widget-label { color: var(--jp-ui-font-color1, #222); }
.dtfn h4 { margin: 0 0 2px; font-size: 13px; font-weight: 600; }
.dtfn .widget-html-content { line-height: 1.4; }
.dtfn .quiet { color: var(--jp-ui-font-color2, #666); font-size: 12px; }
.dtfn table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.dtfn td { padding: 1px 0; line-height: 1.35; text-align: left; white-space: nowrap;
           background: none; }
.dtfn td + td { text-align: right; padding-left: 10px; }
.dtfn tr { background: none !important; border-bottom: 1px solid var(--jp-border-color3, #eee); }
.dtfn tr.strong td { font-weight: 600; }
.dtfn .said { margin: 4px 0 8px; padding: 3px 8px; border-left: 4px solid #767676; }
.dtfn .harmed { border-color: #b2182b; } .dtfn .helped { border-color: #2166ac; }
.dtfn .strip { display: flex; flex-wrap: wrap; gap: 10px; }
.dtfn figure { margin: 0; text-align: center; }
.dtfn figcaption { font-size: 12px; overflow-wrap: anywhere; }
.dtfn img { image-rendering: pixelated; display: block; margin: 0; max-width: none; }
.dtfn .bar { height: 9px; border-radius: 2px; }
.dtfn .ends { display: flex; justify-content: space-between; font-size: 11px;
              color: var(--jp-ui-font-color2, #666); }
.dtfn .error { border-left: 4px solid #d55e00; padding: 4px 10px;
               background: var(--jp-layout-color2, #f3f3f3); }
.dtfn .note { border-left: 4px solid #0072b2; padding: 4px 10px;
              background: var(--jp-layout-color2, #f3f3f3); }
.dtfn .jupyter-matplotlib-canvas-container, .dtfn .jupyter-matplotlib-canvas-div {
  overflow: hidden; }
.dtfn .jupyter-matplotlib-canvas-div:focus { outline: 2px solid var(--jp-brand-color1, #2196f3); }
</style>"""


def message(said: Message) -> str:
    """Return a line for the reader; screen readers read it out."""
    if not said.text:
        return '<div role="status"></div>'
    kind = "error" if said.is_error else "note"
    return f'<div role="status" class="{kind}">{_text(said.text)}</div>'


def attention(scene: Scene, answer: Answer) -> str:
    """Return what stands under the map of attention: a legend, or why there is none."""
    if answer.attention is None:
        return f'<div class="note">{_text(answer.missing)}</div>'
    low, high = pixels.attention_range(answer)
    ends = (f"{low:.3g}×", "weight, in multiples of uniform", f"{high:.3g}×")
    return _bar(pixels.ATTENTION, ends)


def harm(scene: Scene, threshold: float) -> str:
    """Return what stands under the map of harm."""
    if scene.harm is None:
        return f'<div class="note">Harm {_text(numbers.NO_TRUTH)}.</div>'
    limit = pixels.harm_root(scene, threshold)[1]
    ends = (f"helped −{limit:.0f}", "signed root of harm, 8-bit levels", f"+{limit:.0f} harmed")
    return _bar(SIGNED, ends)


def share(scene: Scene, threshold: float) -> str:
    """Return how much of the picture is harmed, beside luck."""
    return f'<div class="quiet" data-key="share">{_text(numbers.share(scene, threshold))}</div>'


def figures(scene: Scene, answer: Answer, threshold: float) -> str:
    """Return the table of numbers."""
    head = f"<h4>Row {answer.row}, column {answer.column}</h4>"
    block = numbers.block(scene, answer)
    said = numbers.verdict(answer, threshold)
    if block:
        kind = {"N harmed": "harmed", "N helped": "helped"}.get(said[:8], "")
        block_html = f'{_table(block)}<div class="said {kind}">{_text(said)}</div>'
    else:
        block_html = f'<div class="note">Errors and bounds: {_text(numbers.NO_TRUTH)}.</div>'
    spread = numbers.spread(answer)
    return f"{head}{block_html}" + (f"<h4>Its attention</h4>{_table(spread)}" if spread else "")


def crops(shown: Sequence[Crop]) -> str:
    """Return the crops around the position, side by side, all of one size."""
    return f'<div class="strip">{"".join(_figure(crop, CROP) for crop in shown)}</div>'


def patches(shown: Sequence[Crop], missing: str) -> str:
    """Return the patch that asked and those that it copied, side by side."""
    if missing:
        return f'<div class="note">{_text(missing)}</div>'
    return f'<div class="strip">{"".join(_figure(crop, PATCH) for crop in shown)}</div>'


def _figure(crop: Crop, width: int) -> str:
    large = crop.zoomed(max(1, round(width / crop.image.shape[1])))
    data = base64.b64encode(encode(large, ".png", crop.title)).decode()
    return (
        f'<figure style="width:{large.shape[1]}px"><figcaption>{_text(crop.title)}</figcaption>'
        f'<img src="data:image/png;base64,{data}" alt="{_text(crop.title)}">'
        f'<figcaption class="quiet">{_text(crop.note).replace(" · ", "<br>")}</figcaption></figure>'
    )


def _table(lines: Sequence[Line]) -> str:
    rows = (
        f'<tr title="{_text(line.about)}"{" class=strong" * (line.key == "harm")}>'
        f'<td>{_text(line.label)}</td><td data-key="{line.key}">{_text(line.value)}</td></tr>'
        for line in lines
    )
    return f"<table>{''.join(rows)}</table>"


def _bar(cmap: str, ends: tuple[str, str, str]) -> str:
    colours = ", ".join(pixels.stops(cmap))
    labels = "".join(f"<span>{_text(end)}</span>" for end in ends)
    bar = f'<div class="bar" style="background: linear-gradient(to right, {colours})"></div>'
    return f'{bar}<div class="ends">{labels}</div>'


def _text(text: str) -> str:
    return html.escape(text)
