"""The explorer's view: ipywidgets around a `State`. Nothing is computed here."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
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
from traitlets import dlink

from dtfn import paths, provenance, zoo
from dtfn.datasets import MINI
from dtfn.errors import InputError
from dtfn.explorer import page
from dtfn.explorer.state import (
    FILES,
    Position,
    State,
    Tell,
    controls,
    is_local,
    tiles,
    trained_for_both,
)
from dtfn.images import UInt8
from dtfn.plots import BOX

FOLDER = Path(__file__).parent
SIDE = 280  # CSS pixels of a map
ARROWS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
LEAP = 8  # positions, with the shift key
MENUS: dict[str, tuple[str, int, str]] = {
    "dataset": ("benchmark", 195, "A benchmark that is here, or what you uploaded"),
    "image": ("picture", 190, "One of its pictures"),
    "network": ("network", 205, "The network whose attention is looked at"),
    "baseline": ("compared with", 285, "Harm is the error of the network minus the error of this"),
    "layer": ("layer", 220, "The attention layer that the map shows"),
    "tile": ("part", 290, "The whole picture, or a tile of it"),
    "scale": ("scale", 120, "Enlargement; the networks follow"),
    "control": ("control", 270, "What differs by chance alone; harm below it is no harm"),
    "third": ("one more", 230, "One more network, to look at its output"),
    "hash_seed": ("hash seed", 150, "Of all layers with hashing: another one cuts other chunks"),
}
"""What chooses a field of `Choice`: label, width in CSS pixels, tooltip."""


class MapCanvas(Canvas):  # type: ignore[misc]
    """A picture on the LR grid, with a mark at the position and rings at others.

    A click calls ``tell`` with "click", column and row (None outside of the picture), an arrow key
    with "move", rows down and columns right.
    """

    def __init__(self, name: str, ink: str, tell: Callable[..., None]) -> None:
        figure = Figure(figsize=(SIDE / 100, SIDE / 100), dpi=100)
        figure.patch.set_alpha(0)  # the front end's own background shows
        super().__init__(figure)
        FigureManager(self, 0)
        self.header_visible = self.footer_visible = self.resizable = False
        self.toolbar_position, self.toolbar_visible = "right", "fade-in-fade-out"
        tools = self.toolbar.toolitems
        self.toolbar.toolitems = [tool for tool in tools if tool[0] in ("Home", "Pan", "Zoom")]
        self.layout.flex = "0 0 auto"  # else it grows with its neighbours
        self.add_class(name)
        self.axes = figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.mark = Rectangle((0, 0), 1, 1, fill=False, edgecolor=ink, linewidth=1.8)
        self.axes.add_patch(self.mark)
        self.rings = self.axes.scatter([], [], s=34, facecolors="none", edgecolors=page.RING)
        self.picture: Any = None
        self.tell = tell
        self.on_msg(self._began)
        self.mpl_connect("button_press_event", self._clicked)
        self.mpl_connect("key_press_event", self._pressed)

    def show(self, image: UInt8, position: Position, rings: Sequence[Position] = ()) -> None:
        """Show a picture ``(H, W, 3)``, the position (row, column), and rings at others."""
        if self.picture is not None and self.picture.get_array().shape == image.shape:
            self.picture.set_data(image)
        else:
            if self.picture is not None:
                self.picture.remove()
            self.picture = self.axes.imshow(image, interpolation="nearest")
            self.toolbar.update()  # forget how another picture was zoomed
        grow = max(image.shape) / 50
        row, column = position
        self.mark.set_bounds(column - 0.5 - grow, row - 0.5 - grow, 1 + 2 * grow, 1 + 2 * grow)
        self.rings.set_offsets([(c, r) for r, c in rings] or [(-9, -9)])
        self.draw_idle()

    def _began(self, widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        # ipympl's front end makes every live canvas resizable: the corner would take no clicks.
        if content.get("type") == "initialized":
            widget.send_state("resizable")

    def _clicked(self, event: Any) -> None:
        if not self.toolbar.mode:  # else the reader zooms or pans
            self.tell("click", event.xdata, event.ydata)

    def _pressed(self, event: Any) -> None:
        shift, _, key = str(event.key or "").rpartition("+")
        if key in ARROWS:
            step = LEAP if shift == "shift" else 1
            self.tell("move", *(step * steps for steps in ARROWS[key]))


class View:
    """What a reader sees and touches.

    ``save`` is called with the state and the arguments of `dtfn.explorer.page.sheet`; it saves the
    view and returns the folder.
    """

    state: State  # without what takes seconds; `_shown` has more and more of it

    def __init__(self, save: Callable[..., Path]) -> None:
        self._save = save
        self._is_filling = False
        self._worker = ThreadPoolExecutor(1)
        style = (FOLDER / "style.css").read_text(encoding="utf-8")
        self._status = _html("dtfn-status")
        self.page = widgets.VBox([widgets.HTML(f"<style>{style}</style>"), self._status])
        self.page.add_class("dtfn")
        kinds = {"hash_seed": partial(widgets.BoundedIntText, max=2**31 - 1)}
        self._menus = {
            name: _control(kinds.get(name, widgets.Dropdown), name, *how)
            for name, how in MENUS.items()
        }
        about = "From the truth, LR is made by bicubic reduction; LR alone has no harm, no errors"
        self._truth = _control(widgets.Dropdown, "truth", "", 150, about)
        self._truth.options = [("as the truth (HR)", True), ("as LR, no truth", False)]
        about = "The threshold is this quantile of the absolute chance differences"
        self._quantile = _slider(widgets.FloatSlider, "quantile", about, 0.95, 0.5, 0.99, 0.01)
        about = "How many of the most attended positions are ringed and shown"
        self._most = _slider(widgets.IntSlider, "ringed", about, 8, 1, 16, 1)
        about = "How strongly the colours of attention cover the picture"
        self._strength = _slider(widgets.FloatSlider, "overlay", about, 0.9, 0, 1, 0.05)
        about = "Screen pixels to an HR pixel, in the crops"
        self._zoom = _control(widgets.Dropdown, "zoom", "zoom", 110, about)
        self._zoom.options, self._zoom.value = [(f"×{n}", n) for n in (1, 2, 3, 4, 6)], 3
        self._masked = widgets.Checkbox(description="hide harm below the threshold", indent=False)
        self._upload = widgets.FileUpload(description="Upload", accept="image/*", multiple=False)
        self._upload.tooltip = "Show a picture of yours"
        about = "Save the figure, the maps and the numbers as a run, which the next report shows"
        self._send = widgets.Button(description="Send to report", icon="save", tooltip=about)
        about = "More to choose: layer, part, control, hash seed, threshold, zoom, uploads"
        self._more = widgets.ToggleButton(description="More", tooltip=about)
        about = "What is shown, and how to use it"
        self._help = widgets.ToggleButton(description="?", tooltip=about)
        for button, width in ((self._send, 140), (self._more, 64), (self._help, 36)):
            button.layout.width = f"{width}px"
        self._attention = MapCanvas("dtfn-attention", BOX, self._try)
        self._harm = MapCanvas("dtfn-harm", "#000000", self._try)
        names = ("dtfn-looked", "dtfn-share", "dtfn-numbers", "dtfn-patches", "dtfn-crops")
        parts = [_html(name) for name in names]
        self._looked, self._share, self._numbers, self._patches, self._crops = parts

        for name, menu in self._menus.items():
            menu.observe(partial(self._chosen, name), "value")
        for part in (self._quantile, self._most):
            part.observe(self._tuned, "value")
        for part in (self._strength, self._zoom, self._masked):
            part.observe(lambda _: self._draw(), "value")
        self._upload.observe(self._uploaded, "value")
        self._send.on_click(self._sent)

    def start(self, opened: Callable[[Tell], State]) -> None:
        """Show the page, then open the state, which may take seconds, and fill the page."""
        display(self.page)  # type: ignore[no-untyped-call]
        self.state = self._shown = opened(self.tell)
        self._fill()
        self._try("tune", self.state.quantile, self.state.most)
        menus = list(self._menus.values())
        tuned = (self._upload, self._truth, self._quantile, self._most, self._zoom)
        more = _flow(*menus[4:], *tuned)
        manual = widgets.HTML((FOLDER / "help.html").read_text(encoding="utf-8"))
        for part, button in ((more, self._more), (manual, self._help)):
            dlink((button, "value"), (part.layout, "display"), lambda on: "" if on else "none")
        wide = {"width": f"{SIDE}px", "margin": "0 10px 0 0"}
        title = widgets.HTML("<h4>What it attends to</h4>")
        left = [title, self._attention, self._looked, self._strength]
        right = [widgets.HTML("<h4>Harm</h4>"), self._harm, self._share, self._masked]
        self.page.children = [
            self.page.children[0],
            _flow(*menus[:4], self._more, self._help, self._send),
            *(more, manual, self._status),
            _flow(
                widgets.VBox(left, layout=wide),
                widgets.VBox(right, layout=wide),
                widgets.VBox([self._numbers], layout=wide),
                widgets.VBox([self._patches], layout={"width": "368px"}),
            ),
            self._crops,
        ]
        self._worker.submit(provenance.code_key)  # what is sent would wait for it

    def tell(self, share: float, what: str) -> None:
        """Show progress; nothing once all is done."""
        bar = f'<div role="status"><progress value="{share}"></progress> {what}</div>'
        self._status.value = bar if share < 1 else page.message("")

    # --- what the reader does ---

    def _try(self, event: str, *args: Any, **kwargs: Any) -> None:
        """Let an event of the state happen, and show what follows, or why it was refused."""
        try:
            self.state = self._shown = getattr(self.state, event)(*args, **kwargs)
        except InputError as error:
            self._status.value = page.message(str(error), is_error=True)
            return
        self._status.value = page.message(self.state.notes)
        self._draw()
        self._worker.submit(self._deepen, self.state)

    def _chosen(self, name: str, change: dict[str, Any]) -> None:
        if not self._is_filling:
            self._try("choose", **{name: change["new"]})
            self._fill()

    def _tuned(self, _change: dict[str, Any]) -> None:
        if not self._is_filling:
            self._try("tune", self._quantile.value, self._most.value)

    def _uploaded(self, change: dict[str, Any]) -> None:
        for file in change["new"]:
            truth = self._truth.value
            self._try("upload", file["name"], bytes(file["content"]), truth=truth)
            self._fill()
        if change["new"]:
            self._upload.value = ()  # so that the same file can be taken again

    def _sent(self, _button: widgets.Button) -> None:
        self._status.value = page.message("Saving figure, maps and numbers …")
        try:
            with capture_output():  # a run prints and shows what it saves
                folder = self._save(self._shown, **self._how)
        except (InputError, OSError) as error:
            self._status.value = page.message(str(error), is_error=True)
            return
        figure = base64.b64encode((folder / "figures" / "view.png").read_bytes()).decode()
        link = f'<a download="view.png" href="data:image/png;base64,{figure}">Download it</a>'
        said = page.message(f"Saved: {folder}. It is in the next report. ")
        self._status.value = said.replace("</div>", f"{link}</div>")

    # --- what follows ---

    def _fill(self) -> None:
        """Make the menus say what is chosen and what else there is."""
        state, choice = self.state, self.state.choice
        rows = [row for row in zoo.everything() if row["scale"] == choice.scale]
        names = [str(row["name"]) for row in sorted(rows, key=is_local)]  # with attention first
        listed = [name for name in dict.fromkeys([*names, *choice.methods]) if "@" not in name]
        known = [(name.rpartition("/")[2], name) for name in listed]
        trained = "" if trained_for_both(choice.network) else " (not trained for it)"
        off = [(f"{page.OFF}{trained}", choice.off)] if state.record else []
        chance = controls(choice.scale, choice.network, choice.baseline, choice.hash_seed)
        layers = state.record.layers if state.record else []
        ordered = [(f"{i} of {len(layers)} ({name})", name) for i, name in enumerate(layers, 1)]
        here = sorted(hr.parent.name for hr in paths.data_root().glob("*/HR"))
        cut = [(str(tile), tile) for tile in tiles(state.whole.lr.shape)]
        scales = sorted({int(row["scale"]) for row in zoo.registry()})
        options: dict[str, list[tuple[str, Any]]] = {
            "dataset": [(name, name) for name in [MINI, *here, *([FILES] if state.files else [])]],
            "image": [(name, name) for name in state.images(choice.dataset)],
            "tile": [("the whole picture", ()), *cut],
            "scale": [(f"×{scale}", scale) for scale in scales],
            "network": known,
            "baseline": [*off, *known],
            "control": [(_named(two), two) for two in chance],
            "third": [("none", ""), *known],
            "layer": ordered or [("none", "")],
        }
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
    def _how(self) -> dict[str, Any]:
        """How strong the overlay is, what harm is hidden, and the LR positions of a crop."""
        hidden = self.state.threshold if self._masked.value else 0.0
        side = max(1, round(page.CROP / self.state.choice.scale / self._zoom.value))
        return {"strength": self._strength.value, "shown": hidden, "side": side}

    def _draw(self) -> None:
        """Show what there is to say about the position, the numbers first."""
        state, how, limit = self._shown, self._how, 0.0
        self._numbers.value = page.numbers(state)
        overlay = page.attention_map(state, how["strength"])
        self._attention.show(overlay, state.position, [(c.row, c.column) for c in state.copied])
        self._harm.layout.display = "none" if state.harm is None else ""
        if state.harm is not None:
            image, limit = page.harm_map(state, how["shown"])
            self._harm.show(image, state.position)
        self._looked.value = page.attention(state)
        self._share.value = page.harm(state, limit)
        copied = page.strip(page.copies(state), page.PATCH)
        self._patches.value = f"<h4>What it copies, heaviest first</h4>{copied}"
        self._draw_crops()

    def _deepen(self, state: State) -> None:
        """Compute what takes seconds, in the worker, as long as nothing else was asked."""
        try:
            for deeper in state.deeper() if state is self.state else ():
                if state is not self.state:
                    return
                self._shown = deeper
                self._draw_crops()
        except Exception as error:  # the worker would swallow it
            self._status.value = page.message(str(error), is_error=True)

    def _draw_crops(self) -> None:
        state = self._shown
        waits = "computing …" if state.attention is not None and not state.attribution else ""
        title = f'<h4>Around the position <span class="quiet">{waits}</span></h4>'
        self._crops.value = title + page.strip(page.crops(state, self._how["side"]), page.CROP)


def _control(kind: Any, name: str, label: str, width: int, about: str, **values: Any) -> Any:
    """Return a control with a label as wide as its text, which has the tooltip."""
    style = {"description_width": f"{7.2 * len(label) + 12:.0f}px"}
    # A menu shows its own tooltip only where it has no label.
    text = f'<span title="{about}">{label}</span>' if label else ""
    shown = {"description": text, "description_allow_html": True, "style": style}
    made = kind(tooltip=about, layout={"width": f"{width}px"}, **shown, **values)
    return made.add_class(f"dtfn-{name}")


def _slider(kind: Any, name: str, about: str, value: float, *range_: float) -> Any:
    values = dict(zip(("min", "max", "step"), range_, strict=True))
    how = {"value": value, "continuous_update": False, **values}
    return _control(kind, name, name, 230, about, **how)


def _named(control: tuple[str, ...]) -> str:
    changes = {"@hash": "another hash seed", "@turn": "the picture flipped"}
    said = [words for change, words in changes.items() if control and change in control[0]]
    return said[0] if said else " and ".join(control) or "none"


def _html(name: str) -> widgets.HTML:
    return widgets.HTML().add_class(name)


def _flow(*children: widgets.Widget) -> widgets.Box:
    return widgets.Box(children, layout={"flex_flow": "row wrap"})
