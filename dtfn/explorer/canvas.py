"""A map that can be clicked: an ipympl canvas with a picture, a mark and rings, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dtfn.explorer.panels import RING
from dtfn.images import UInt8

SIDE = 340  # CSS pixels
ARROWS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
LEAP = 8  # positions, with the shift key


class MapCanvas:
    """A picture on the LR grid, with the position that is looked at.

    Parameters
    ----------
    name
        For the front end's tests and style: becomes a class of the element.
    ink
        Colour of the mark.
    on_click
        Called with column and row, or None and None outside of the picture.
    on_move
        Called with rows down and columns right.

    Attributes
    ----------
    widget
        The ipympl canvas.
    """

    def __init__(
        self,
        name: str,
        ink: str,
        on_click: Callable[[float | None, float | None], None],
        on_move: Callable[[int, int], None],
    ) -> None:
        from ipympl.backend_nbagg import Canvas, FigureManager

        figure = Figure(figsize=(SIDE / 100, SIDE / 100), dpi=100)
        figure.patch.set_alpha(0)  # the front end's own background shows, light or dark
        self._axes = figure.add_axes((0, 0, 1, 1))
        self._axes.set_axis_off()
        self._mark = Rectangle((0, 0), 1, 1, fill=False, edgecolor=ink, linewidth=1.8)
        self._axes.add_patch(self._mark)
        self._rings = self._axes.scatter([], [], s=34, facecolors="none", edgecolors=RING)
        self._image: Any = None
        self._shape = (0, 0)
        self._on_click, self._on_move = on_click, on_move
        self.widget: Any = Canvas(figure)
        FigureManager(self.widget, 0)
        self.widget.header_visible = self.widget.footer_visible = False
        self.widget.resizable = False
        self.widget.toolbar_position = "right"
        self.widget.toolbar_visible = "fade-in-fade-out"
        keep = {"Home", "Pan", "Zoom"}
        tools = self.widget.toolbar.toolitems
        self.widget.toolbar.toolitems = [tool for tool in tools if tool[0] in keep]
        self.widget.layout.flex = "0 0 auto"  # else it grows with its neighbours
        self.widget.add_class(name)
        self.widget.on_msg(self._began)
        self.widget.mpl_connect("button_press_event", self._clicked)
        self.widget.mpl_connect("key_press_event", self._pressed)

    def show(
        self,
        image: UInt8,
        position: tuple[int, int],
        rings: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Show a picture ``(H, W, 3)``, the position (row, column), and rings at others."""
        rows, columns = image.shape[:2]
        if self._shape != (rows, columns):
            if self._image is not None:
                self._image.remove()
            self._image = self._axes.imshow(image, interpolation="nearest")
            self._shape = (rows, columns)
            self.widget.toolbar.update()  # forget how another picture was zoomed
        else:
            self._image.set_data(image)
        grow = max(rows, columns) / 50
        row, column = position
        self._mark.set_bounds(column - 0.5 - grow, row - 0.5 - grow, 1 + 2 * grow, 1 + 2 * grow)
        self._rings.set_offsets([(c, r) for r, c in rings] or [(-9, -9)])
        self._rings.set_visible(bool(rings))
        self.widget.draw_idle()

    def _began(self, widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        # ipympl's front end makes every live canvas resizable: the corner would take no clicks.
        if content.get("type") == "initialized":
            widget.send_state("resizable")

    def _clicked(self, event: Any) -> None:
        if self.widget.toolbar.mode:  # the reader zooms or pans
            return
        inside = event.inaxes is self._axes
        self._on_click(*((event.xdata, event.ydata) if inside else (None, None)))

    def _pressed(self, event: Any) -> None:
        shift, _, key = str(event.key or "").rpartition("+")
        if key in ARROWS:
            step = LEAP if shift == "shift" else 1
            down, right = ARROWS[key]
            self._on_move(step * down, step * right)
