"""The explorer's view: ipywidgets around a `State`. Nothing is computed here."""

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html import escape
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
from dtfn.explorer.state import FILES, Choice, Position, State, Tell, controls, tiles
from dtfn.images import UInt8
from dtfn.methods import labels
from dtfn.plots import BOX
from dtfn.plots.pictures import COPIED

FOLDER = Path(__file__).parent
SIDE = 280  # CSS pixels of a map
ARROWS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}

_CONTROLS = {  # label, width in CSS pixels, and tooltip, in the order of the page
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
    "truth": ("", 150, "From the truth, LR is made by bicubic reduction; LR alone has no harm"),
    "quantile": ("quantile", 230, "The threshold is this quantile of absolute chance differences"),
    "ringed": ("ringed", 230, "How many of the most attended positions are ringed and shown"),
    "zoom": ("zoom", 110, "Screen pixels to an HR pixel, in the crops"),
    "overlay": ("overlay", 230, "How strongly the colours of attention cover the picture"),
}
_CHOSEN = [name for name in _CONTROLS if name in Choice.__dataclass_fields__]
_KINDS: dict[str, tuple[Any, dict[str, Any]]] = {  # what is no plain menu
    "hash_seed": (widgets.BoundedIntText, {"max": 2**31 - 1}),
    "truth": (widgets.Dropdown, {"options": {"as the truth (HR)": True, "as LR, no truth": False}}),
    "quantile": (widgets.FloatSlider, {"min": 0.5, "max": 0.99, "step": 0.01}),
    "ringed": (widgets.IntSlider, {"min": 1, "max": 16}),
    "zoom": (widgets.Dropdown, {"options": {f"×{n}": n for n in (1, 2, 3, 4, 6)}, "value": 3}),
    "overlay": (widgets.FloatSlider, {"value": 0.9, "min": 0.0, "max": 1.0, "step": 0.05}),
}


class MapCanvas(Canvas):  # type: ignore[misc]
    """A picture on the LR grid, with a mark at the position and rings at others.

    Calls ``tell`` with "looked" and (row, column), or by an arrow key "move", rows down, columns
    right.
    """

    def __init__(self, name: str, ink: str, tell: Callable[..., None]) -> None:
        figure = Figure(figsize=(SIDE / 100, SIDE / 100), dpi=100)
        figure.patch.set_alpha(0)  # the front end's own background shows
        super().__init__(figure)
        FigureManager(self, 0)
        self.header_visible = self.footer_visible = self.resizable = False
        self.toolbar_position, self.toolbar_visible = "right", "fade-in-fade-out"
        tools = ("Home", "Pan", "Zoom")
        self.toolbar.toolitems = [one for one in self.toolbar.toolitems if one[0] in tools]
        self.layout.flex = "0 0 auto"  # else it grows with its neighbours
        self.add_class(name)
        self.axes = figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.mark = Rectangle((0, 0), 1, 1, fill=False, edgecolor=ink, linewidth=1.8)
        self.axes.add_patch(self.mark)
        self.rings = self.axes.scatter([], [], s=34, facecolors="none", edgecolors=COPIED)
        self.picture: Any = self.axes.imshow([[(0, 0, 0)]])
        self.tell = tell
        self.on_msg(self._began)
        self.mpl_connect("button_press_event", self._clicked)
        self.mpl_connect("key_press_event", self._pressed)

    def show(self, image: UInt8, position: Position, rings: Any = ()) -> None:
        """Show a picture ``(H, W, 3)``, the position (row, column), and rings at (x, y)."""
        if self.picture.get_array().shape != image.shape:
            self.picture.remove()
            self.picture = self.axes.imshow(image, interpolation="nearest")
            self.toolbar.update()  # forget how another picture was zoomed
        self.picture.set_data(image)
        grow = max(image.shape) / 50
        row, column = position
        self.mark.set_bounds(column - 0.5 - grow, row - 0.5 - grow, 1 + 2 * grow, 1 + 2 * grow)
        self.rings.set_offsets(rings if len(rings) else [(-9, -9)])
        self.draw_idle()

    def _began(self, widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        # ipympl's front end makes every live canvas resizable: the corner would take no clicks.
        if content.get("type") == "initialized":
            widget.send_state("resizable")

    def _clicked(self, event: Any) -> None:
        if event.inaxes and not self.toolbar.mode:  # else the reader zooms or pans
            self.tell("looked", (round(event.ydata), round(event.xdata)))

    def _pressed(self, event: Any) -> None:
        shift, _, key = str(event.key or "").rpartition("+")
        if key in ARROWS:
            step = 8 if shift == "shift" else 1
            self.tell("move", *(step * steps for steps in ARROWS[key]))


class View:
    """What a reader sees and touches.

    ``save`` gets the state and the arguments of `dtfn.explorer.page.sheet`, and returns a folder.
    """

    state: State  # without what takes seconds; `_shown` has more and more of it

    def __init__(self, save: Callable[..., Path]) -> None:
        self._save = save
        self._is_filling = False
        self._worker = ThreadPoolExecutor(1)
        self.controls = {name: _control(name, *how) for name, how in _CONTROLS.items()}
        names = ("status", "looked", "share", "numbers", "patches", "crops")
        self.texts = {name: widgets.HTML().add_class(f"dtfn-{name}") for name in names}
        self.attention = MapCanvas("dtfn-attention", BOX, self._try)
        self.harm = MapCanvas("dtfn-harm", "#000000", self._try)
        self.masked = widgets.Checkbox(description="hide harm below the threshold", indent=False)
        about = "Show a picture of yours"
        self.upload = widgets.FileUpload(description="Upload", accept="image/*", tooltip=about)
        about = "Save the figure, the maps and the numbers as a run, which the next report shows"
        self.send = widgets.Button(description="Send to report", icon="save", tooltip=about)
        about = "More to choose: layer, part, control, hash seed, threshold, zoom, uploads"
        self.more = widgets.ToggleButton(description="More", tooltip=about)
        about = "What is shown, and how to use it"
        self.help = widgets.ToggleButton(description="?", tooltip=about)
        for button, width in ((self.send, 140), (self.more, 64), (self.help, 36)):
            button.layout.width = f"{width}px"

        for name in _CHOSEN:
            self.controls[name].observe(partial(self._chosen, name), "value")
        for part in (self.controls["overlay"], self.controls["zoom"], self.masked):
            part.observe(lambda _: self._draw(), "value")
        self.upload.observe(self._uploaded, "value")
        self.send.on_click(self._sent)

    def start(self, opened: Callable[[Tell], State]) -> None:
        """Show the page, then open the state, which may take seconds, and fill the page."""
        style = widgets.HTML(f"<style>{(FOLDER / 'style.css').read_text(encoding='utf-8')}</style>")
        self.page = widgets.VBox([style, self.texts["status"]]).add_class("dtfn")
        display(self.page)  # type: ignore[no-untyped-call]
        self.state = self._shown = opened(self.tell)
        self._fill()
        self._try("looked", self.state.position)
        parts, texts = list(self.controls.values()), self.texts
        more = _flow(*parts[4:10], self.upload, *parts[10:14])
        manual = widgets.HTML((FOLDER / "help.html").read_text(encoding="utf-8"))
        for part, button in ((more, self.more), (manual, self.help)):
            dlink((button, "value"), (part.layout, "display"), lambda on: "" if on else "none")
        wide = {"width": f"{SIDE}px", "margin": "0 10px 0 0"}
        title = widgets.HTML("<h4>What it attends to</h4>")
        left = [title, self.attention, texts["looked"], self.controls["overlay"]]
        right = [widgets.HTML("<h4>Harm</h4>"), self.harm, texts["share"], self.masked]
        self.page.children = [
            style,
            _flow(*parts[:4], self.more, self.help, self.send),
            *(more, manual, texts["status"]),
            _flow(
                *(widgets.VBox(part, layout=wide) for part in (left, right, [texts["numbers"]])),
                widgets.VBox([texts["patches"]], layout={"width": "368px"}),
            ),
            texts["crops"],
        ]
        self._worker.submit(provenance.code_key)  # what is sent would wait for it

    def tell(self, share: float, what: str) -> None:
        """Show progress; nothing once all is done."""
        bar = f'<div role="status"><progress value="{share}"></progress> {what}</div>'
        self.texts["status"].value = bar if share < 1 else message("")

    def _try(self, event: str, *args: Any, **kwargs: Any) -> None:
        """Let an event of the state happen, and show what follows, or why it was refused."""
        try:
            self.state = self._shown = getattr(self.state, event)(*args, **kwargs)
        except InputError as error:
            self.texts["status"].value = message(str(error), is_error=True)
            return
        self.texts["status"].value = message(self.state.notes)
        self._draw()
        self._worker.submit(self._deepen, self.state)

    def _chosen(self, name: str, change: dict[str, Any]) -> None:
        if not self._is_filling:
            self._try("choose", **{name: change["new"]})
            self._fill()

    def _uploaded(self, change: dict[str, Any]) -> None:
        for file in change["new"]:
            truth = self.controls["truth"].value
            self._try("upload", file["name"], bytes(file["content"]), truth=truth)
            self._fill()
            self.upload.value = ()  # so that the same file can be taken again

    def _sent(self, _button: widgets.Button) -> None:
        self.texts["status"].value = message("Saving figure, maps and numbers …")
        try:
            with capture_output():  # a run prints and shows what it saves
                folder = self._save(self._shown, **self._how)
        except (InputError, OSError) as error:
            self.texts["status"].value = message(str(error), is_error=True)
            return
        figure = base64.b64encode((folder / "figures" / "view.png").read_bytes()).decode()
        link = f'<a download="view.png" href="data:image/png;base64,{figure}">Download it</a>'
        said = message(f"Saved: {folder}. It is in the next report. ")
        self.texts["status"].value = said.replace("</div>", f"{link}</div>")

    def _fill(self) -> None:
        state, choice = self.state, self.state.choice
        listed = [str(row["name"]) for row in zoo.everything() if row["scale"] == choice.scale]
        listed += [name for name in choice.methods if "@" not in name]
        networks = {label: name for name, label in labels(listed).items()}
        off: dict[str, str] = {}
        if choice.off in state.outputs:
            said = "uniform weights" if zoo.own(choice.network) else page.OFF
            trained = "" if zoo.switched(choice.network) else " (not trained for it)"
            off = {f"{said}{trained}": choice.off}
        layers = state.record.layers if state.record else []
        benchmarks = [MINI, *sorted(hr.parent.name for hr in paths.data_root().glob("*/HR"))]
        options: dict[str, dict[str, Any]] = {  # name -> label -> value
            "dataset": {name: name for name in benchmarks + [FILES] * bool(state.files)},
            "image": {name: name for name in state.images(choice.dataset)},
            "tile": {"the whole picture": (), **{str(w): w for w in tiles(state.whole.lr.shape)}},
            "scale": {f"×{n}": n for n in sorted({row["scale"] for row in zoo.registry()})},
            "network": networks,
            "baseline": off | networks,
            "control": controls(choice.scale, choice.network, choice.baseline, choice.hash_seed),
            "third": {"none": ""} | networks,
            "layer": {f"{i} of {len(layers)} ({name})": name for i, name in enumerate(layers, 1)}
            or {"none": ""},
        }
        self._is_filling = True
        for name in _CHOSEN:
            value = getattr(choice, name)
            if name in options:
                known = options[name].items()
                own = [] if value in options[name].values() else [(str(value), value)]
                self.controls[name].options = [*known, *own]
            self.controls[name].value = value
        self._is_filling = False

    @property
    def _how(self) -> dict[str, Any]:
        """How strong the overlay is, what harm is hidden, and the LR positions of a crop."""
        hidden = self.state.threshold if self.masked.value else 0.0
        side = max(1, round(page.CROP / self.state.choice.scale / self.controls["zoom"].value))
        return {"strength": self.controls["overlay"].value, "shown": hidden, "side": side}

    def _draw(self) -> None:
        state, how, limit = self._shown, self._how, 0.0
        self.texts["numbers"].value = page.numbers(state)
        overlay = page.attention_map(state, how["strength"])
        self.attention.show(overlay, state.position, state.copied[["column", "row"]])
        self.harm.layout.display = "" if state.has_truth else "none"
        if state.has_truth:
            image, limit = page.harm_map(state, how["shown"])
            self.harm.show(image, state.position)
        self.texts["looked"].value = page.attention(state)
        self.texts["share"].value = page.harm(state, limit)
        copied = page.strip(page.copies(state), page.PATCH)
        self.texts["patches"].value = f"<h4>What it copies, heaviest first</h4>{copied}"
        self._draw_crops()

    def _draw_crops(self) -> None:
        state = self._shown
        waits = "computing …" if state.attention is not None and not state.attribution else ""
        title = f'<h4>Around the position <span class="quiet">{waits}</span></h4>'
        crops = page.strip(page.crops(state, self._how["side"]), page.CROP)
        self.texts["crops"].value = title + crops

    def _deepen(self, state: State) -> None:
        """Compute what takes seconds, in the worker, as long as nothing else was asked."""
        try:
            for deeper in state.deeper() if state is self.state else ():
                if state is not self.state:
                    return
                self._shown = deeper
                self._draw_crops()
        except Exception as error:  # the worker would swallow it
            self.texts["status"].value = message(str(error), is_error=True)


def message(text: str, *, is_error: bool = False) -> str:
    """Return a line for the reader; screen readers read it out."""
    kind = f' class="{"error" if is_error else "note"}"' if text else ""
    return f'<div role="status"{kind}>{escape(text)}</div>'


def _control(name: str, label: str, width: int, about: str) -> Any:
    """Return a control with a label as wide as its text, which has the tooltip."""
    kind, how = _KINDS.get(name, (widgets.Dropdown, {}))
    how = {"style": {"description_width": f"{7.2 * len(label) + 12:.0f}px"}, **how}
    if "continuous_update" in kind.class_trait_names():
        how["continuous_update"] = False
    # A menu shows its own tooltip only where it has no label.
    text = f'<span title="{about}">{label}</span>' if label else ""
    how |= {"description": text, "description_allow_html": True, "tooltip": about}
    return kind(layout={"width": f"{width}px"}, **how).add_class(f"dtfn-{name}")


def _flow(*children: widgets.Widget) -> widgets.Box:
    return widgets.Box(children, layout={"flex_flow": "row wrap"})
