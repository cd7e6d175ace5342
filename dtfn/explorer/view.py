"""The explorer's view: ipywidgets around `Explorer`. Nothing is computed here."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from ipympl.backend_nbagg import Canvas, FigureManager
from IPython.display import display
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dtfn import provenance
from dtfn.errors import InputError
from dtfn.explorer import page
from dtfn.explorer.state import (
    Deeper,
    Explorer,
    Tell,
    controls,
    networks,
    scales,
    tiles,
    trained_for_both,
)
from dtfn.images import UInt8
from dtfn.plots import BOX

SIDE = 280  # CSS pixels of a map
ARROWS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
LEAP = 8  # positions, with the shift key
ZOOMS = (1, 2, 3, 4, 6)  # screen pixels to an HR pixel
MENUS = {
    "dataset": ("benchmark", 195, "A benchmark that is here, or what you uploaded"),
    "image": ("picture", 190, "One of its pictures"),
    "network": ("network", 205, "The network whose attention is looked at"),
    "baseline": (
        "compared with",
        285,
        "The same network with its attention off, or another one. Harm is the error of the network "
        "minus the error of this",
    ),
    "layer": ("layer", 220, "The attention layer that the map shows"),
    "tile": ("part", 290, "The whole picture, or a tile of it"),
    "scale": ("scale", 120, "Enlargement; the networks follow"),
    "control": ("control", 270, "What differs by chance alone; harm below it is no harm"),
    "third": ("one more", 230, "One more network, to look at its output"),
}


class MapCanvas:
    """A clickable picture on the LR grid, with a mark at the position and rings at others.

    Parameters
    ----------
    name
        Class of the element, for styles and tests.
    ink
        Colour of the mark.
    on_click
        Called with column and row, or None and None outside of the picture.
    on_move
        Called with rows down and columns right.
    """

    def __init__(
        self,
        name: str,
        ink: str,
        on_click: Callable[[float | None, float | None], None],
        on_move: Callable[[int, int], None],
    ) -> None:
        figure = Figure(figsize=(SIDE / 100, SIDE / 100), dpi=100)
        figure.patch.set_alpha(0)  # the front end's own background shows
        self._axes = figure.add_axes((0, 0, 1, 1))
        self._axes.set_axis_off()
        self._mark = Rectangle((0, 0), 1, 1, fill=False, edgecolor=ink, linewidth=1.8)
        self._axes.add_patch(self._mark)
        self._rings = self._axes.scatter([], [], s=34, facecolors="none", edgecolors=page.RING)
        self._image: Any = None
        self._shape = (0, 0)
        self._on_click, self._on_move = on_click, on_move
        self.widget: Any = Canvas(figure)
        FigureManager(self.widget, 0)
        self.widget.header_visible = self.widget.footer_visible = False
        self.widget.resizable = False
        self.widget.toolbar_position = "right"
        self.widget.toolbar_visible = "fade-in-fade-out"
        tools = self.widget.toolbar.toolitems
        keep = {"Home", "Pan", "Zoom"}
        self.widget.toolbar.toolitems = [tool for tool in tools if tool[0] in keep]
        self.widget.layout.flex = "0 0 auto"  # else it grows with its neighbours
        self.widget.add_class(name)
        self.widget.on_msg(self._began)
        self.widget.mpl_connect("button_press_event", self._clicked)
        self.widget.mpl_connect("key_press_event", self._pressed)

    def show(
        self, image: UInt8, position: tuple[int, int], rings: Sequence[tuple[int, int]] = ()
    ) -> None:
        """Show a picture ``(H, W, 3)``, the position (row, column), and rings at others."""
        rows, columns = image.shape[:2]
        if self._shape == (rows, columns):
            self._image.set_data(image)
        else:
            if self._image is not None:
                self._image.remove()
            self._image = self._axes.imshow(image, interpolation="nearest")
            self._shape = (rows, columns)
            self.widget.toolbar.update()  # forget how another picture was zoomed
        grow = max(rows, columns) / 50
        row, column = position
        self._mark.set_bounds(column - 0.5 - grow, row - 0.5 - grow, 1 + 2 * grow, 1 + 2 * grow)
        self._rings.set_offsets([(c, r) for r, c in rings] or [(-9, -9)])
        self.widget.draw_idle()

    def _began(self, widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        # ipympl's front end makes every live canvas resizable: the corner would take no clicks.
        if content.get("type") == "initialized":
            widget.send_state("resizable")

    def _clicked(self, event: Any) -> None:
        if not self.widget.toolbar.mode:  # else the reader zooms or pans
            inside = event.inaxes is self._axes
            self._on_click(*((event.xdata, event.ydata) if inside else (None, None)))

    def _pressed(self, event: Any) -> None:
        shift, _, key = str(event.key or "").rpartition("+")
        if key in ARROWS:
            down, right = ARROWS[key]
            step = LEAP if shift == "shift" else 1
            self._on_move(step * down, step * right)


class View:
    """What a reader sees and touches.

    Parameters
    ----------
    save
        Called with the state, a `Deeper` and with ``strength``, ``shown`` and ``side`` as of
        `dtfn.explorer.page.sheet`; saves the view and returns the folder.

    Attributes
    ----------
    page
        The widget that holds everything.
    state
        Set by `start`.
    """

    state: Explorer

    def __init__(self, save: Callable[..., Path]) -> None:
        self._save = save
        self._is_filling = False
        self._deeper = Deeper()
        self._asked = 0  # counts what was drawn: deeper answers to an older position are dropped
        self._worker = ThreadPoolExecutor(1)
        self._status = _html("dtfn-status")
        self.page = widgets.VBox([widgets.HTML(page.STYLE), self._status])
        self.page.add_class("dtfn")
        self._make_controls()
        events = (self._clicked, self._moved)
        self._attention = MapCanvas("dtfn-attention", BOX, *events)
        self._harm = MapCanvas("dtfn-harm", "#000000", *events)
        self._under_attention, self._under_harm = _html("dtfn-looked"), _html("dtfn-share")
        self._numbers, self._patches = _html("dtfn-numbers"), _html("dtfn-patches")
        self._crops = _html("dtfn-crops")

    def start(self, opened: Callable[[Tell], Explorer]) -> None:
        """Show the page, then open the state, which may take seconds, and fill the page."""
        display(self.page)  # type: ignore[no-untyped-call]
        self.state = opened(self.tell)
        self._fill()
        self._draw()
        self._fit_page()
        self._worker.submit(provenance.code_key, ["dtfn"])  # what is sent would wait for it

    def tell(self, share: float, what: str) -> None:
        """Show progress; nothing once all is done."""
        self._status.value = page.progress(share, what) if share < 1 else page.message("")

    def wait(self) -> None:
        """Wait for the answers that are computed after a click."""
        self._worker.submit(lambda: None).result()

    # --- the parts ------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        self._menus: dict[str, Any] = {
            name: _labelled(widgets.Dropdown, *how) for name, how in MENUS.items()
        }
        about = "Of all layers with hashing: another one cuts other chunks"
        seed = _labelled(widgets.BoundedIntText, "hash seed", 150, about, max=2**31 - 1)
        self._menus["hash_seed"] = seed
        for name, menu in self._menus.items():
            menu.add_class(f"dtfn-{name}")
            menu.observe(partial(self._chosen, name), "value")
        self._upload = widgets.FileUpload(description="Upload", accept="image/*", multiple=False)
        self._upload.tooltip = "Show a picture of yours"
        about = (
            "From the truth, LR is made by bicubic reduction; LR alone has no harm and no errors"
        )
        kinds = [("as the truth (HR)", True), ("as LR, no truth", False)]
        self._truth = _labelled(widgets.Dropdown, "", 150, about, options=kinds)
        self._upload.observe(self._uploaded, "value")
        about = "How strongly the colours of attention cover the picture"
        self._strength = _slider("overlay", 0.9, 0, 1, 0.05, about)
        self._masked = widgets.Checkbox(
            False, description="hide harm below the threshold", indent=False
        )
        about = "The threshold is this quantile of the absolute chance differences"
        self._quantile = _slider("quantile", 0.95, 0.5, 0.99, 0.01, about)
        about = "How many of the most attended positions are ringed and shown"
        self._most = _slider("ringed", 8, 1, 16, 1, about, widgets.IntSlider)
        zooms = [(f"×{factor}", factor) for factor in ZOOMS]
        about = "Screen pixels to an HR pixel, in the crops"
        self._zoom = _labelled(widgets.Dropdown, "zoom", 110, about, options=zooms, value=3)
        self._zoom.add_class("dtfn-zoom")
        for part in (self._strength, self._masked, self._zoom):
            part.observe(lambda _: self._draw(), "value")
        for part in (self._quantile, self._most):
            part.observe(self._tuned, "value")
        about = "Save the figure, the maps and the numbers as a run, which the next report shows"
        self._send = widgets.Button(description="Send to report", icon="save", tooltip=about)
        self._send.on_click(self._sent)
        about = "More to choose: layer, part, control, hash seed, threshold, zoom, uploads"
        self._more = widgets.ToggleButton(description="More", tooltip=about)
        about = "What is shown, and how to use it"
        self._help = widgets.ToggleButton(description="?", tooltip=about)
        for button, width in ((self._send, 140), (self._more, 64), (self._help, 36)):
            button.layout.width = f"{width}px"

    def _fit_page(self) -> None:
        m = self._menus
        first = ("dataset", "image", "network", "baseline")
        tuned = (self._upload, self._truth, self._quantile, self._most, self._zoom)
        more = _flow([*(m[name] for name in m if name not in first), *tuned])
        manual = widgets.HTML(page.HELP)
        for part, button in ((more, self._more), (manual, self._help)):
            part.layout.display = "none"
            button.observe(partial(_toggle, part), "value")
        wide = {"width": f"{SIDE}px", "margin": "0 10px 0 0"}
        left = [_title("What it attends to"), self._attention.widget, self._under_attention]
        right = [_title("Harm"), self._harm.widget, self._under_harm]
        self.page.children = [
            self.page.children[0],
            _flow([*(m[name] for name in first), self._more, self._help, self._send]),
            more,
            manual,
            self._status,
            _flow(
                [
                    widgets.VBox([*left, self._strength], layout=wide),
                    widgets.VBox([*right, self._masked], layout=wide),
                    widgets.VBox([self._numbers], layout={**wide, "width": "280px"}),
                    widgets.VBox([self._patches], layout={"width": "368px"}),
                ]
            ),
            self._crops,
        ]

    # --- what the reader does -------------------------------------------------------------------

    def _try(self, event: str, *args: Any, **kwargs: Any) -> bool:
        """Let an event of the state happen, and show what follows, or why it was refused."""
        try:
            getattr(self.state, event)(*args, **kwargs)
        except InputError as error:
            self._say(str(error), is_error=True)
            return False
        self._say(self.state.notes)
        self._draw()
        return True

    def _say(self, text: str, **how: bool) -> None:
        self._status.value = page.message(text, **how)

    def _chosen(self, name: str, change: dict[str, Any]) -> None:
        if not self._is_filling:
            self._try("choose", **{name: change["new"]})
            self._fill()

    def _uploaded(self, change: dict[str, Any]) -> None:
        for file in change["new"]:
            data = bytes(file["content"])
            self._try("upload", file["name"], data, truth=self._truth.value)
            self._fill()
        if change["new"]:
            self._upload.value = ()  # so that the same file can be taken again

    def _tuned(self, _change: dict[str, Any]) -> None:
        if not self._is_filling:
            self._try("tune", self._quantile.value, self._most.value)

    def _clicked(self, x: float | None, y: float | None) -> None:
        self._try("click", x, y)

    def _moved(self, down: int, right: int) -> None:
        self._try("move", down, right)

    def _sent(self, _button: widgets.Button) -> None:
        self._say("Saving figure, maps and numbers …")
        shown = {"strength": self._strength.value, "shown": self._hidden, "side": self._side}
        try:
            with capture_output():  # a run prints and shows what it saves
                folder = self._save(self.state, self._deeper, **shown)
        except (InputError, OSError) as error:
            self._say(str(error), is_error=True)
            return
        figure = base64.b64encode((folder / "figures" / "view.png").read_bytes()).decode()
        address = f"data:image/png;base64,{figure}"
        link = f'<a download="view.png" href="{address}">Download the figure</a>'
        said = page.message(f"Saved: {folder}. It is in the next report. ")
        self._status.value = said.replace("</div>", f"{link}</div>")

    # --- what follows ---------------------------------------------------------------------------

    def _fill(self) -> None:
        """Make the menus say what is chosen and what else there is."""
        state, choice = self.state, self.state.choice
        listed = dict.fromkeys([*networks(choice.scale), *choice.methods])
        known = [(name.rpartition("/")[2], name) for name in listed if "@" not in name]
        trained = "" if trained_for_both(choice.network) else " (not trained for it)"
        off = [(f"{page.OFF}{trained}", choice.off)] if state.scene.layers else []
        chance = controls(choice.scale, choice.network, choice.baseline, choice.hash_seed)
        layers = state.scene.layers
        options: dict[str, list[tuple[str, Any]]] = {
            "dataset": [(name, name) for name in state.datasets],
            "image": [(name, name) for name in state.images(choice.dataset)],
            "tile": [("the whole picture", ())],
            "scale": [(f"×{scale}", scale) for scale in scales()],
            "network": known,
            "baseline": [*off, *known],
            "control": [(page.control(two), two) for two in chance],
            "third": [("none", ""), *known],
            "layer": [(f"{i} of {len(layers)} ({name})", name) for i, name in enumerate(layers, 1)]
            or [("none", "")],
        }
        options["tile"] += [(str(tile), tile) for tile in tiles(state.whole()[0].lr.shape)]
        self._is_filling = True
        try:
            for name, menu in self._menus.items():
                value = getattr(choice, name)
                if name in options:
                    if value not in [known for _, known in options[name]]:  # the reader's own
                        options[name].append((str(value), value))
                    menu.options = options[name]
                menu.value = value
            self._quantile.value = state.quantile
        finally:
            self._is_filling = False

    @property
    def _hidden(self) -> float:
        """Harm up to which nothing is shown."""
        return self.state.threshold if self._masked.value else 0.0

    @property
    def _side(self) -> int:
        """LR positions of a crop."""
        return max(1, round(page.CROP / self.state.choice.scale / self._zoom.value))

    def _draw(self) -> None:
        """Show what there is to say about the position, the numbers first."""
        state = self.state
        scene, answer, threshold = state.scene, state.answer, state.threshold
        self._numbers.value = page.numbers(scene, answer, threshold)
        overlay = page.attention_map(scene, answer, self._strength.value)
        self._attention.show(overlay, answer.position, [(c.row, c.column) for c in answer.copied])
        known = scene.harm is not None
        self._harm.widget.layout.display = "" if known else "none"
        if known:
            self._harm.show(page.harm_map(scene, self._hidden), answer.position)
        self._under_attention.value = page.attention(scene, answer)
        self._under_harm.value = page.harm(scene, self._hidden, threshold)
        copied = page.strip(page.copies(scene, answer), page.PATCH)
        self._patches.value = f"<h4>What it copies, heaviest first</h4>{copied}"
        self._draw_deeper(Deeper())
        self._asked += 1
        self._worker.submit(self._deepen, self._asked)

    def _deepen(self, asked: int) -> None:
        """Compute what takes seconds, in the worker, as long as nothing else was asked."""
        if asked != self._asked:
            return
        try:
            for deeper in self.state.deeper():
                if asked != self._asked:
                    return
                self._draw_deeper(deeper)
        except Exception as error:  # the worker would swallow it
            self._say(str(error), is_error=True)

    def _draw_deeper(self, deeper: Deeper) -> None:
        scene, answer = self.state.scene, self.state.answer
        self._deeper = deeper
        crops = page.crops(scene, answer, deeper, self._side)
        waits = "computing …" if answer.attention is not None and not deeper.attribution else ""
        title = f'<h4>Around the position <span class="quiet">{waits}</span></h4>'
        self._crops.value = title + page.strip(crops, page.CROP)


def _toggle(part: widgets.Widget, change: dict[str, Any]) -> None:
    part.layout.display = "" if change["new"] else "none"


def _html(name: str) -> widgets.HTML:
    made = widgets.HTML()
    made.add_class(name)
    return made


def _title(text: str) -> widgets.HTML:
    return widgets.HTML(f"<h4>{text}</h4>")


def _flow(children: Iterable[widgets.Widget]) -> widgets.Box:
    return widgets.Box(list(children), layout={"flex_flow": "row wrap"})


def _labelled(kind: Any, label: str, width: int, about: str, **values: Any) -> Any:
    """Return a control with a label as wide as its text, which has the tooltip."""
    style = {"description_width": f"{7.2 * len(label) + 12:.0f}px"}
    # A menu shows its own tooltip only where it has no label.
    text = f'<span title="{about}">{label}</span>' if label else ""
    shown = {"description": text, "description_allow_html": True, "style": style}
    return kind(tooltip=about, layout={"width": f"{width}px"}, **shown, **values)


def _slider(
    label: str, value: float, low: float, high: float, step: float, about: str, kind: Any = None
) -> Any:
    kind = kind or widgets.FloatSlider
    values = {"value": value, "min": low, "max": high, "step": step, "continuous_update": False}
    made = _labelled(kind, label, 230, about, **values)
    made.add_class(f"dtfn-{label}")
    return made
