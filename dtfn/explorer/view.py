"""The explorer's view: ipywidgets around `Explorer`. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from IPython.display import display
from IPython.utils.capture import capture_output

from dtfn.errors import InputError
from dtfn.explorer import menus, page, pixels
from dtfn.explorer.canvas import SIDE, MapCanvas
from dtfn.explorer.state import Explorer, Message
from dtfn.plots import BOX

Save = Callable[..., Path]
WIDE = {"description_width": "62px"}
ZOOMS = (1, 2, 3, 4, 6)  # screen pixels to an HR pixel


class View:
    """What a reader sees and touches.

    Parameters
    ----------
    save
        Called with the state and with ``strength``, ``threshold`` and ``side`` as they are shown;
        saves the view and returns the folder.

    Attributes
    ----------
    page
        The widget that holds everything.
    state
        Set by `start`.
    """

    state: Explorer

    def __init__(self, save: Save) -> None:
        self._save = save
        self._is_filling = False
        self._progress = widgets.FloatProgress(max=1.0, layout={"width": "180px"})
        self._doing = widgets.Label()
        self._bar = widgets.HBox([self._progress, self._doing], layout={"height": "28px"})
        self._status = _html("dtfn-status")
        self.page = widgets.VBox([widgets.HTML(page.STYLE), self._bar])
        self.page.add_class("dtfn")
        self._make_menus()
        self._make_panels()

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

    # --- the parts ------------------------------------------------------------------------------

    def _make_menus(self) -> None:
        named = {
            "dataset": "pictures", "image": "picture", "window": "part", "scale": "scale",
            "with_": "N", "without": "L", "null": "null", "beside": "beside", "layer": "layer",
        }  # fmt: skip
        self._menus = {
            field: widgets.Dropdown(description=label, style=WIDE, layout={"width": "236px"})
            for field, label in named.items()
        }
        self._menus["window"].layout.width = "290px"
        self._menus["scale"].layout.width = "150px"
        self._menus["hash_seed"] = widgets.BoundedIntText(
            description="hash seed",
            max=2**31 - 1,
            style={"description_width": "72px"},
            layout={"width": "170px"},
        )
        for field, menu in self._menus.items():
            menu.add_class(f"dtfn-{field.rstrip('_')}")
            menu.observe(partial(self._chosen, field), "value")
        self._upload = widgets.FileUpload(description="Upload", accept="image/*", multiple=False)
        self._truth = widgets.Dropdown(
            options=[("as the truth (HR)", True), ("as LR, no truth", False)],
            layout={"width": "150px"},
        )
        self._upload.observe(self._uploaded, "value")
        self._overlay = widgets.Checkbox(True, description="attention", **_tight(110))
        self._strength = _slider("dtfn-strength", 0.9, 0.0, 1.0, 0.05)
        self._masked = widgets.Checkbox(False, description="only beyond luck", **_tight(150))
        self._quantile = _slider("dtfn-quantile", 0.5, 0.0, 0.99, 0.01)
        self._zoom = widgets.SelectionSlider(
            options=[(f"×{factor}", factor) for factor in ZOOMS], value=2,
            continuous_update=False, layout={"width": "230px"},
        )  # fmt: skip
        self._zoom.add_class("dtfn-zoom")
        self._most = _slider("dtfn-most", 8, 1, 16, 1, widgets.IntSlider)
        for control in (self._overlay, self._strength, self._masked, self._zoom):
            control.observe(lambda _: self._draw(), "value")
        for control in (self._quantile, self._most):
            control.observe(self._tuned, "value")

    def _make_panels(self) -> None:
        events = (self._clicked, self._moved)
        self._attention = MapCanvas("dtfn-attention", BOX, *events)
        self._harm = MapCanvas("dtfn-harm", "#000000", *events)
        self._under_attention, self._under_harm = _html(), _html()
        self._share = _html("dtfn-share")
        self._numbers = _html("dtfn-numbers")
        self._crops, self._patches = _html("dtfn-crops"), _html("dtfn-patches")
        self._send = widgets.Button(description="Send to report", icon="save")
        self._send.on_click(self._sent)

    def _fit_page(self) -> None:
        m = self._menus
        brought = widgets.HBox([self._upload, self._truth])
        maps = {"width": f"{SIDE}px", "margin": "0 14px 8px 0"}
        left = [
            _title("What N attends to", "click, or use the arrow keys"),
            self._attention.widget, self._under_attention,
            widgets.HBox([self._overlay, self._strength]),
        ]  # fmt: skip
        right = [
            _title("Harm", "error of N less error of L"),
            self._harm.widget, self._under_harm,
            widgets.HBox([self._masked, self._quantile]), self._share,
        ]  # fmt: skip
        steps = [
            self._arrow(icon, step)
            for icon, step in (("left", (0, -1)), ("up", (-1, 0)), ("down", (1, 0)),
                               ("right", (0, 1)))
        ]  # fmt: skip
        numbers = [self._numbers, widgets.HBox([*steps, self._send])]
        self.page.children = [
            *self.page.children[:1],
            _flow([m[field] for field in ("dataset", "image", "window", "scale")]),
            _flow([m[field] for field in ("with_", "without", "null", "beside")]),
            _flow([m["layer"], m["hash_seed"], brought, self._bar]),
            self._status,
            _flow([
                widgets.VBox(left, layout=maps),
                widgets.VBox(right, layout=maps),
                widgets.VBox(numbers, layout={"width": "322px"}),
            ]),
            widgets.HBox([_title("Around the position"), self._zoom]),
            self._crops,
            widgets.HBox([_title("What N copies from, heaviest first"), self._most]),
            self._patches,
        ]  # fmt: skip

    def _arrow(self, icon: str, step: tuple[int, int]) -> widgets.Button:
        button = widgets.Button(
            icon=f"arrow-{icon}", tooltip=f"one position {icon}", layout={"width": "38px"}
        )
        button.on_click(lambda _: self._moved(*step))
        return button

    # --- what the reader does -------------------------------------------------------------------

    def _chosen(self, field: str, change: dict[str, Any]) -> None:
        if not self._is_filling:
            self.state.choose(**{field: menus.meant(change["new"])})
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
        shown = {"strength": self._shown_strength, "threshold": self._shown_threshold}
        self._status.value = page.message(Message("Saving figure, maps and numbers …"))
        try:
            with capture_output():  # a run prints and shows what it saves
                folder = self._save(self.state, side=self._shown_side, **shown)
            self.state.message = Message(f"Saved: {folder}")
        except (InputError, OSError) as error:
            self.state.message = Message(str(error), is_error=True)
        self._status.value = page.message(self.state.message)

    # --- what follows ---------------------------------------------------------------------------

    def _follow(self) -> None:
        """Show the state after an event, also where it refused."""
        self.tell(1.0, "")
        self._fill()
        self._draw()

    def _fill(self) -> None:
        """Make the menus say what is chosen and what else there is."""
        values, options = menus.values(self.state.choice), menus.options(self.state)
        self._is_filling = True
        try:
            for field, menu in self._menus.items():
                if field in options:
                    menu.options = options[field]
                menu.value = values[field]
            self._quantile.value = self.state.quantile
        finally:
            self._is_filling = False

    @property
    def _shown_strength(self) -> float:
        return self._strength.value if self._overlay.value else 0.0

    @property
    def _shown_threshold(self) -> float:
        return self.state.threshold if self._masked.value else 0.0

    @property
    def _shown_side(self) -> int:
        return max(1, round(page.CROP / self.state.choice.scale / self._zoom.value))

    def _draw(self) -> None:
        """Show what there is to say about the position, the numbers first."""
        state = self.state
        scene, answer, floor = state.scene, state.answer, state.threshold
        self._status.value = page.message(state.message)
        self._numbers.value = page.figures(scene, answer, floor)
        at = (answer.row, answer.column)
        overlay = pixels.attention_map(scene, answer, self._shown_strength)
        self._attention.show(overlay, at, [(c.row, c.column) for c in answer.copied])
        shown = self._shown_threshold
        known = scene.harm is not None
        self._harm.widget.layout.display = "" if known else "none"
        if known:
            self._harm.show(pixels.harm_map(scene, shown), at)
        self._under_attention.value = page.attention(scene, answer)
        self._under_harm.value = page.harm(scene, shown)
        self._share.value = page.share(scene, floor) if known else ""
        self._crops.value = page.crops(pixels.crops(scene, at, self._shown_side))
        self._patches.value = page.patches(pixels.patches(scene, answer), answer.missing)


def _html(name: str = "") -> widgets.HTML:
    made = widgets.HTML()
    if name:
        made.add_class(name)
    return made


def _title(text: str, more: str = "") -> widgets.HTML:
    return widgets.HTML(f'<h4>{text} <span class="quiet">{more}</span></h4>')


def _flow(children: Iterable[widgets.Widget]) -> widgets.Box:
    return widgets.Box(list(children), layout={"flex_flow": "row wrap"})


def _tight(width: int) -> dict[str, Any]:
    return {"indent": False, "layout": {"width": f"{width}px"}}


def _slider(
    name: str, value: float, least: float, most: float, step: float, kind: Any = None
) -> Any:
    made = (kind or widgets.FloatSlider)(
        value=value, min=least, max=most, step=step, continuous_update=False,
        layout={"width": "230px"},
    )  # fmt: skip
    made.add_class(name)
    return made
