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

from dtfn.errors import InputError
from dtfn.explorer import page
from dtfn.explorer.state import OFF, Deeper, Explorer, Message, networks, scales, tiles
from dtfn.images import UInt8
from dtfn.plots import BOX

SIDE = 280  # CSS pixels of a map
ARROWS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
LEAP = 8  # positions, with the shift key
ZOOMS = (1, 2, 3, 4, 6)  # screen pixels to an HR pixel
NOTHING = ""  # stands for None: a menu shows None as if nothing were chosen
MENUS = {
    "dataset": ("pictures", 210, "A benchmark, or what you uploaded"),
    "image": ("picture", 230, "One of its pictures"),
    "with_": ("N", 200, "The network whose attention is looked at"),
    "without": ("L", 230, "What N is compared with: harm is N's error minus L's"),
    "layer": ("layer", 230, "The attention layer of N that the map shows"),
    "window": ("part", 300, "The whole picture, or a tile of it"),
    "scale": ("scale", 130, "Enlargement; the networks follow"),
    "null": ("null", 230, "A second local network: its difference from L is chance"),
    "third": ("third", 230, "One more network to look at"),
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
        self._progress = widgets.FloatProgress(max=1.0, layout={"width": "120px"})
        self._doing = widgets.Label()
        self._bar = widgets.HBox([self._progress, self._doing], layout={"height": "28px"})
        self._status = _html("dtfn-status")
        self.page = widgets.VBox([widgets.HTML(page.STYLE), self._bar])
        self.page.add_class("dtfn")
        self._make_controls()
        events = (self._clicked, self._moved)
        self._attention = MapCanvas("dtfn-attention", BOX, *events)
        self._harm = MapCanvas("dtfn-harm", "#000000", *events)
        self._under_attention, self._under_harm = _html("dtfn-looked"), _html("dtfn-share")
        self._numbers, self._attribution = _html("dtfn-numbers"), _html("dtfn-attribution")
        self._crops, self._patches = _html("dtfn-crops"), _html("dtfn-patches")

    def start(self, opened: Callable[[Callable[[float, str], None]], Explorer]) -> None:
        """Show the page, then open the state, which may take seconds, and fill the page."""
        display(self.page)  # type: ignore[no-untyped-call]
        self.state = opened(self.tell)
        self._fill()
        self._draw()
        self._fit_page()

    def tell(self, share: float, what: str) -> None:
        """Show progress; nothing once all is done."""
        self._progress.value = share
        self._doing.value = what
        self._bar.layout.visibility = "visible" if share < 1 else "hidden"

    def wait(self) -> None:
        """Wait for the answers that are computed after a click."""
        self._worker.submit(lambda: None).result()

    # --- the parts ------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        self._menus: dict[str, Any] = {}
        for name, (label, width, tooltip) in MENUS.items():
            self._menus[name] = widgets.Dropdown(
                description=label,
                tooltip=tooltip,
                style={"description_width": "56px" if width > 200 else "36px"},
                layout={"width": f"{width}px"},
            )
        self._menus["hash_seed"] = widgets.BoundedIntText(
            description="hash seed",
            tooltip="Of all layers with hashing",
            max=2**31 - 1,
            style={"description_width": "66px"},
            layout={"width": "150px"},
        )
        for name, menu in self._menus.items():
            menu.add_class(f"dtfn-{name.rstrip('_')}")
            menu.observe(partial(self._chosen, name), "value")
        self._upload = widgets.FileUpload(description="Upload", accept="image/*", multiple=False)
        self._upload.tooltip = "Show a picture of yours"
        self._truth = widgets.Dropdown(
            options=[("as the truth (HR)", True), ("as LR, no truth", False)],
            tooltip="From HR, LR is made by bicubic reduction; LR has no harm and no errors",
            layout={"width": "150px"},
        )
        self._upload.observe(self._uploaded, "value")
        self._strength = _slider("overlay", 0.9, 0, 1, 0.05, "How strongly attention covers LR")
        self._masked = widgets.Checkbox(
            False, description="only beyond chance", indent=False, layout={"width": "200px"}
        )
        about = "The threshold: this quantile of the absolute chance differences"
        self._quantile = _slider("quantile", 0.95, 0.5, 0.99, 0.01, about)
        self._zoom = widgets.Dropdown(
            options=[(f"×{factor}", factor) for factor in ZOOMS],
            value=3,
            description="zoom",
            tooltip="Screen pixels to an HR pixel",
            style={"description_width": "40px"},
            layout={"width": "110px"},
        )
        self._zoom.add_class("dtfn-zoom")
        self._most = _slider("ringed", 8, 1, 16, 1, "How many positions", widgets.IntSlider)
        for control in (self._strength, self._masked, self._zoom):
            control.observe(lambda _: self._draw(), "value")
        for control in (self._quantile, self._most):
            control.observe(self._tuned, "value")
        self._send = widgets.Button(
            description="Send to report",
            icon="save",
            tooltip="Save figure, maps and numbers as a run",
            layout={"width": "140px"},
        )
        self._send.on_click(self._sent)
        self._help = widgets.ToggleButton(
            description="?", tooltip="What is shown, and how to use it", layout={"width": "36px"}
        )
        self._more = widgets.ToggleButton(
            description="More", tooltip="More to choose, and uploads", layout={"width": "64px"}
        )

    def _fit_page(self) -> None:
        m = self._menus
        more = _flow(
            [
                *(m[name] for name in ("layer", "window", "scale", "null", "third", "hash_seed")),
                *(self._upload, self._truth, self._quantile, self._most, self._zoom),
            ]
        )
        manual = widgets.HTML(page.HELP)
        for part, button in ((more, self._more), (manual, self._help)):
            part.layout.display = "none"
            button.observe(partial(_toggle, part), "value")
        maps = {"width": f"{SIDE}px", "margin": "0 14px 0 0"}
        left = [_title("What N attends to"), self._attention.widget, self._under_attention]
        right = [_title("Harm", "error of N minus error of L"), self._harm.widget, self._under_harm]
        self.page.children = [
            self.page.children[0],
            _flow(
                [
                    *(m[name] for name in ("dataset", "image", "with_", "without")),
                    *(self._more, self._help, self._send, self._bar),
                ]
            ),
            more,
            manual,
            self._status,
            _flow(
                [
                    widgets.VBox([*left, self._strength], layout=maps),
                    widgets.VBox([*right, self._masked], layout=maps),
                    widgets.VBox(
                        [self._numbers], layout={"width": "290px", "margin": "0 14px 0 0"}
                    ),
                    self._attribution,
                ]
            ),
            self._crops,
            self._patches,
        ]

    # --- what the reader does -------------------------------------------------------------------

    def _chosen(self, name: str, change: dict[str, Any]) -> None:
        if not self._is_filling:
            value = change["new"]
            self.state.choose(**{name: None if value == NOTHING else value})
            self._follow()

    def _uploaded(self, change: dict[str, Any]) -> None:
        for file in change["new"]:
            self.state.upload(file["name"], bytes(file["content"]), truth=self._truth.value)
            self._follow()
        if change["new"]:
            self._upload.value = ()  # so that the same file can be taken again

    def _tuned(self, _change: dict[str, Any]) -> None:
        self.state.quantile, self.state.most = self._quantile.value, self._most.value
        self._draw()

    def _clicked(self, x: float | None, y: float | None) -> None:
        self.state.click(x, y)
        self._draw()

    def _moved(self, down: int, right: int) -> None:
        self.state.move(down, right)
        self._draw()

    def _sent(self, _button: widgets.Button) -> None:
        self._status.value = page.message(Message("Saving figure, maps and numbers …"))
        shown = {"strength": self._strength.value, "shown": self._hidden, "side": self._side}
        try:
            with capture_output():  # a run prints and shows what it saves
                folder = self._save(self.state, self._deeper, **shown)
        except (InputError, OSError) as error:
            self._status.value = page.message(Message(str(error), is_error=True))
            return
        figure = base64.b64encode((folder / "figures" / "view.png").read_bytes()).decode()
        address = f"data:image/png;base64,{figure}"
        link = f'<a download="view.png" href="{address}">Download the figure</a>'
        said = page.message(Message(f"Saved: {folder}. It is in the next report. "))
        self._status.value = said.replace("</div>", f"{link}</div>")

    # --- what follows ---------------------------------------------------------------------------

    def _follow(self) -> None:
        """Show the state after an event, also where it refused."""
        self.tell(1.0, "")
        self._fill()
        self._draw()

    def _fill(self) -> None:
        """Make the menus say what is chosen and what else there is."""
        state, choice = self.state, self.state.choice
        values = {**vars(choice), **vars(choice.team)}
        listed = dict.fromkeys([*networks(choice.scale), *choice.team.names])
        known = [(name, name) for name in listed]
        parts: list[tuple[str, Any]] = [("the whole picture", NOTHING)]
        parts += [(str(tile), tile) for tile in tiles(state.whole().lr.shape)]
        layers = state.scene.layers
        named = [(f"{i} of {len(layers)} ({name})", name) for i, name in enumerate(layers, 1)]
        options: dict[str, list[tuple[str, Any]]] = {
            "dataset": [(name, name) for name in state.datasets],
            "image": [(name, name) for name in state.images(choice.dataset)],
            "window": parts,
            "scale": [(f"×{scale}", scale) for scale in scales()],
            "with_": known,
            "without": [(OFF, OFF), *known],
            "null": [("none", NOTHING), *known],
            "third": [("none", NOTHING), *known],
            "layer": named or [("none", NOTHING)],
        }
        self._is_filling = True
        try:
            for name, menu in self._menus.items():
                value = NOTHING if values[name] is None else values[name]
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
        self._status.value = page.message(state.message)
        self._numbers.value = page.numbers(scene, answer, threshold)
        overlay = page.attention_map(scene, answer, self._strength.value)
        self._attention.show(overlay, answer.position, [(c.row, c.column) for c in answer.copied])
        known = scene.harm is not None
        self._harm.widget.layout.display = "" if known else "none"
        if known:
            self._harm.show(page.harm_map(scene, self._hidden), answer.position)
        self._under_attention.value = page.attention(scene, answer)
        self._under_harm.value = page.harm(scene, self._hidden, threshold)
        copied = page.strip(page.copies(scene, answer), page.PATCH) if answer.copied else ""
        self._patches.value = "<h4>What N copies, heaviest first</h4>" * bool(copied) + copied
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
            self._status.value = page.message(Message(str(error), is_error=True))

    def _draw_deeper(self, deeper: Deeper) -> None:
        scene, answer = self.state.scene, self.state.answer
        self._deeper = deeper
        crops = page.crops(scene, answer, deeper, self._side)
        self._crops.value = "<h4>Around the position</h4>" + page.strip(crops, page.CROP)
        used = page.attributed(scene, answer, deeper)
        waits = "" if answer.attention is None else '<div class="quiet">computing …</div>'
        drawn = page.strip([used], 5 * page.PATCH // 2) if used else waits
        self._attribution.value = "<h4>What the whole network used</h4>" + drawn


def _toggle(part: widgets.Widget, change: dict[str, Any]) -> None:
    part.layout.display = "" if change["new"] else "none"


def _html(name: str) -> widgets.HTML:
    made = widgets.HTML()
    made.add_class(name)
    return made


def _title(text: str, more: str = "") -> widgets.HTML:
    return widgets.HTML(f'<h4>{text} <span class="quiet">{more}</span></h4>')


def _flow(children: Iterable[widgets.Widget]) -> widgets.Box:
    return widgets.Box(list(children), layout={"flex_flow": "row wrap"})


def _slider(
    name: str, value: float, low: float, high: float, step: float, about: str, kind: Any = None
) -> Any:
    made = (kind or widgets.FloatSlider)(
        value=value,
        min=low,
        max=high,
        step=step,
        description=name,
        tooltip=about,
        continuous_update=False,
        style={"description_width": "54px"},
        layout={"width": "230px"},
    )
    made.add_class(f"dtfn-{name}")
    return made
