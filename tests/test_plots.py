"""Figures: what is drawn, not its pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from dtfn import plots
from dtfn.datasets import Sample
from dtfn.plots import CONTROL, WIDTH, curves, pictures
from dtfn.regions import Case, Region

RNG = np.random.default_rng(0)
PAIRS = [CONTROL, "nla", "dtfn"]


def results() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "method": m,
                "dataset": d,
                "image": f"{i}",
                "scale": 4,
                "psnr": 25 + k + i,
                "ssim": 0.9,
            }
            for k, m in enumerate(["bicubic", "local", "nla"])
            for d, n in (("Set5", 5), ("one", 1))
            for i in range(n)
        ]
    )


def view(grey: bool = False) -> Case:
    hr = RNG.integers(0, 255, (120, 160) if grey else (120, 160, 3)).astype(np.uint8)
    made = {name: np.roll(hr, 1, axis=0) for name in ("local", "nla")}
    errors = {name: np.abs(RNG.normal(0, 9, (30, 40))) for name in ("nla", "local")}
    sample = Sample("Set5", "baby", 4, np.zeros((30, 40, 3), np.uint8), hr, made)
    region = Region(6, 12, 10, 8, 60, 99.0)
    networks, harm = ("nla", "local"), errors["nla"] - errors["local"]
    window = (2, 9, 24, 24)
    return Case(sample, "harm", "nla", networks, region, window, 0.1, 0.2, harm, errors)


HARM = pd.DataFrame(
    [
        {"pair": p, "kind": k, "role": role, "fifth": fifth, "net": net, "low": net - 1}
        | {"high": net + 2, "added": 5.0, "removed": 5 - net, "seeds": 3}
        for p, k in (("nlsa", "switch"), ("gla", "twin"))
        for role, sign in (("pair", 1), ("control", 0))
        for fifth, net in enumerate(sign * np.linspace(-2, 2, 5), 1)
    ]
)
HISTORY = pd.DataFrame({"step": [10, 20], "loss": [0.1, 0.05], "psnr": [24.0, 26.0]})
COSTS = pd.DataFrame(
    [
        {"name": n, "dataset": d, "uniform": 1.0, "uniform_low": 0.5, "uniform_high": 2.0}
        for n in ("nla-x4-s0", "dtfn-x4-s0")
        for d in ("Set5", "Set14")
    ]
)
DOSES = pd.DataFrame(
    [
        {"name": row["name"], "dataset": row["dataset"], "radius": radius, "cost": cost}
        | {"cost_low": cost - 0.1, "cost_high": cost + 0.1}
        for _, row in COSTS.iterrows()
        for radius, cost in ((np.inf, 0.0), (8.0, 0.5))
    ]
)
EVERY: dict[str, Callable[[], Figure]] = {
    "training": lambda: curves.training_curve(HISTORY, 25.0),
    "gains": lambda: curves.psnr_gains(results()),
    "no gains": lambda: curves.psnr_gains(results().query("method == 'bicubic'")),
    "harm": lambda: curves.harm_curve(HARM, 0.5),
    "gallery": lambda: pictures.texture_gallery([view(), view(grey=True)]),
    "distortion": lambda: pictures.distortion_panel(view()),
    "no texture": lambda: pictures.texture_gallery([]),
    "gate": lambda: curves.gate_course(HISTORY.assign(gate=[np.nan, 0.1]), "nla", 0.05),
    "no gate": lambda: curves.gate_course(HISTORY, "nla", 0.05),
    "interventions": lambda: curves.intervention_costs(COSTS, DOSES, 0.05),
}


def images(figure: Figure) -> Iterator[Any]:
    for ax in figure.axes:
        # A colour bar draws its own image or mesh; it has no evidence in it.
        if ax.get_label() != "<colorbar>":
            yield from ax.get_images()


# --- all of them ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_a_figure_has_the_style_of_the_house_whatever_the_readers(name: str) -> None:
    with mpl.rc_context({"figure.facecolor": "black", "font.size": 40, "image.cmap": "jet"}):
        figure = EVERY[name]()
        assert mpl.rcParams["font.size"] == 40, "the reader's own settings are left alone"
    assert to_hex(figure.get_facecolor()) == "#ffffff"
    assert figure.get_dpi() == 200, "sharp on a screen"
    assert figure.get_figwidth() <= WIDTH, "fits the report"
    assert plt.get_fignums() == [], "no figure stays open"
    assert {image.get_interpolation() for image in images(figure)} <= {"nearest"}
    figure.draw_without_rendering()  # warnings are errors


def test_a_network_has_one_colour_in_every_figure() -> None:
    alone = plots.colour("dtfn-notfs-x4-s1", ["dtfn-notfs-x4-s1"])
    assert plots.colour("dtfn", PAIRS) == alone != plots.colour("nla", PAIRS)
    mine = ["my.pt", "nla", "yours.pt"]
    assert len({plots.colour(name, mine) for name in mine}) == 3
    assert plots.dashes("nla+tfs-x4-s0") != plots.dashes("nla-x4-s0")


def test_the_control_is_grey_and_the_others_differ() -> None:
    colours = [plots.colour(name, PAIRS) for name in PAIRS]
    assert colours[0] == plots.NULL_COLOUR
    assert len(set(colours)) == 3
    red, green, blue = (int(colours[0][i : i + 2], 16) for i in (1, 3, 5))
    assert red == green == blue


def drawn(line: Line2D) -> tuple[list[float], list[float]]:
    x, y = line.get_xdata(), line.get_ydata()
    return np.asarray(x).tolist(), np.asarray(y).tolist()


# --- charts ---------------------------------------------------------------------------------


def test_training_shows_loss_and_psnr_beside_bicubic() -> None:
    loss, psnr = curves.training_curve(HISTORY, 25.0).axes
    assert drawn(loss.lines[0])[1] == [0.1, 0.05]
    assert loss.get_yscale() == "log"
    network, bicubic = psnr.lines
    assert drawn(network)[1] == [24.0, 26.0]
    assert set(drawn(bicubic)[1]) == {25.0}


def test_gains_have_a_dot_a_picture_and_a_diamond_at_the_mean() -> None:
    figure = curves.psnr_gains(results())
    assert [ax.get_title() for ax in figure.axes] == ["Set5 (5 pictures)", "one (1 picture)"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["nla", "local"], "the first method is at the top"
    dots, mean = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)][:2]
    assert len(np.asarray(dots.get_offsets())) == 5
    assert np.asarray(mean.get_offsets()).tolist() == [[2.0, 0.0]]


def test_gain_over_compares_the_same_pictures() -> None:
    table = results().sample(frac=1, random_state=1)
    frame = curves.gain_over(table, "bicubic")
    assert set(frame["method"]) == {"local", "nla"}
    assert (frame["gain"] == frame["method"].map({"local": 1.0, "nla": 2.0})).all()


def test_interventions_tell_networks_by_colour_and_datasets_by_marker() -> None:
    costs, _ = curves.intervention_costs(COSTS, DOSES, 0.05).axes
    drawn = [(line.get_color(), line.get_marker()) for line in costs.lines[:4]]
    nla, dtfn = (plots.FAMILIES[name] for name in ("nla", "dtfn"))
    assert drawn == [(nla, "o"), (nla, "s"), (dtfn, "o"), (dtfn, "s")]


# --- pixel evidence -------------------------------------------------------------------------


# --- harm -----------------------------------------------------------------------------------


def test_the_harm_curve_shows_net_parts_and_control() -> None:
    first, second = curves.harm_curve(HARM, 0.5).axes[:2]
    assert (first.get_title(), second.get_title()) == (
        "nlsa, switch pair (3 seed(s))",
        "gla, twin pair (3 seed(s))",
    )
    heights = [patch.get_height() for patch in first.patches if isinstance(patch, Rectangle)]
    assert heights[:5] == [5.0] * 5
    assert heights[5:] == pytest.approx([-7, -6, -5, -4, -3])
    control, ours = (container.lines[0] for container in first.containers[2:])
    assert list(ours.get_ydata()) == pytest.approx([-2, -1, 0, 1, 2])
    assert set(control.get_ydata()) == {0}
    assert control.get_color() == plots.NULL_COLOUR


def test_the_gallery_shows_outputs_with_the_psnr_of_the_texture() -> None:
    v = view()
    figure = pictures.texture_gallery([v])
    titles = [ax.get_title() for ax in figure.axes]
    expected = 10 * np.log10(255**2 / v.region.of(v.errors["local"]).mean())
    assert f"local: {expected:.2f}" in titles
    assert titles.index("HR") < titles.index(f"local: {expected:.2f}")
    (text,) = pictures.texture_gallery([]).texts
    assert text.get_text() == pictures.NO_REGION


def shown(ax: Any) -> Any:
    """Return the cells of a heat map, as an array of two dimensions."""
    return np.ma.filled(ax.collections[0].get_array(), np.nan)
