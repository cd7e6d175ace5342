"""Figures: what is drawn, not its pixels."""

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tiny import crossed

from dtfn import plots
from dtfn.datasets import Sample
from dtfn.harm import Case
from dtfn.plots import WIDTH, curves, pictures
from dtfn.regions import Region

RNG = np.random.default_rng(0)


def case(grey: bool = False) -> Case:
    hr = RNG.integers(0, 255, (120, 160) if grey else (120, 160, 3)).astype(np.uint8)
    made = {name: np.roll(hr, 1, axis=0) for name in ("local", "nla")}
    errors = {name: np.abs(RNG.normal(0, 9, (30, 40))) for name in ("nla", "local")}
    sample = Sample("Set5", "baby", 4, np.zeros((30, 40, 3), np.uint8), hr, made)
    region = Region(np.s_[6:16, 12:20], np.ones((10, 8), bool))
    return Case(sample, "harm", "nla", ("nla", "local"), region, 0.1, 0.2, errors)


RESULTS = crossed(method=["bicubic", "local", "nla"], dataset=["Set5", "one"], image=range(5))
MEANS = {"bicubic": 25, "local": 26, "nla": 27}
RESULTS["psnr"] = RESULTS["method"].map(MEANS) + RESULTS["image"]
RESULTS = RESULTS.assign(scale=4)[(RESULTS["dataset"] == "Set5") | (RESULTS["image"] == 0)]
HARM = crossed(pair=["nlsa", "gla"], role=["pair", "control"], fifth=range(1, 6))
HARM["net"] = (HARM["fifth"] - 3.0) * (HARM["role"] == "pair")
HARM["kind"] = HARM["pair"].map({"nlsa": "switch", "gla": "twin"})
HARM = HARM.assign(low=HARM["net"] - 1, high=HARM["net"] + 2, removed=5 - HARM["net"])
HARM = HARM.assign(added=5.0, seeds=3)
HISTORY = pd.DataFrame({"step": [10, 20], "loss": [0.1, 0.05], "psnr": [24.0, 26.0], "gate": 0.1})
COSTS = crossed(name=["nla-x4-s0", "dtfn-x4-s0"], dataset=["Set5", "Set14"])

DOSES = COSTS.merge(pd.DataFrame({"radius": [np.inf, 8.0]}), how="cross")
DOSES = DOSES.assign(cost=0.5, cost_low=0.4, cost_high=0.6)
COSTS = COSTS.assign(uniform=1.0, uniform_low=0.5, uniform_high=2.0)

EVERY: dict[str, Callable[[], Figure]] = {
    "training": lambda: curves.training_curve(HISTORY, 25.0),
    "gate": lambda: curves.gate_course(HISTORY, "nla", 0.05),
    "gains": lambda: curves.psnr_gains(RESULTS),
    "interventions": lambda: curves.intervention_costs(COSTS, DOSES, 0.05),
    "harm": lambda: curves.harm_curve(HARM, 0.5),
    "gallery": lambda: pictures.texture_gallery([case(), case(grey=True)]),
    "distortion": lambda: pictures.distortion_panel(case()),
}


@pytest.mark.parametrize("name", EVERY)
def test_a_figure_has_the_style_of_the_house_whatever_the_readers(name: str) -> None:
    with mpl.rc_context({"figure.facecolor": "black", "font.size": 40, "image.cmap": "jet"}):
        figure = EVERY[name]()
        assert mpl.rcParams["font.size"] == 40, "the reader's own settings are left alone"
    assert to_hex(figure.get_facecolor()) == "#ffffff"
    assert figure.get_dpi() == 200, "sharp on a screen"
    assert figure.get_figwidth() <= WIDTH, "fits the report"
    assert plt.get_fignums() == [], "no figure stays open"
    evidence = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    assert {i.get_interpolation() for ax in evidence for i in ax.get_images()} <= {"nearest"}
    figure.draw_without_rendering()  # warnings are errors


def test_where_there_is_nothing_to_draw_there_are_no_axes() -> None:
    names = "pair granularity of kind dose net gate bound dataset pictures"
    none = pd.DataFrame(columns=names.split())
    drawn = [draw(none) for draw in (curves.bound_chain, curves.bound_curve, curves.cause_map)]
    drawn += [curves.cause_slopes(none), curves.dose_curves(none)]
    drawn += [curves.gate_course(none, "nla", 0.05), pictures.texture_gallery([])]
    drawn += [curves.psnr_gains(RESULTS[RESULTS["method"] == "bicubic"])]
    drawn += [pictures.attention_maps([], case().sample), pictures.distortion_panel(None)]
    drawn += [pictures.copied_patches(none, case().sample), pictures.donor_panel(None)]
    assert [figure.axes for figure in drawn] == [[]] * len(drawn)


def test_a_network_has_one_colour_in_every_figure() -> None:
    alone = plots.colour("dtfn-notfs-x4-s1", ["dtfn-notfs-x4-s1"])
    assert plots.colour("dtfn", ["nla", "dtfn"]) == alone != plots.colour("nla", ["nla", "dtfn"])
    mine = ["my.pt", "nla", "yours.pt"]
    assert len({plots.colour(name, mine) for name in mine}) == 3
    red, green, blue = (int(plots.NULL_COLOUR[i : i + 2], 16) for i in (1, 3, 5))
    assert red == green == blue
    costs, _ = curves.intervention_costs(COSTS, DOSES, 0.05).axes
    drawn = [(line.get_color(), line.get_marker()) for line in costs.lines[:4]]
    nla, dtfn = (plots.FAMILIES[name] for name in ("nla", "dtfn"))
    assert drawn == [(nla, "o"), (nla, "s"), (dtfn, "o"), (dtfn, "s")]


def test_training_shows_loss_and_psnr_with_bicubic() -> None:
    axes: Any = curves.training_curve(HISTORY, 25.0).axes
    drawn = [set(line.get_ydata()) for ax in axes for line in ax.lines]
    assert drawn == [{0.1, 0.05}, {24.0, 26.0}, {25.0}]
    assert axes[0].get_yscale() == "log"


def test_gains_have_a_dot_a_picture_and_a_diamond_at_the_mean() -> None:
    figure = curves.psnr_gains(RESULTS)
    assert [ax.get_title() for ax in figure.axes] == ["Set5 (pictures: 5)", "one (pictures: 1)"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["local", "nla"]
    assert figure.axes[0].yaxis_inverted(), "the first method is at the top"
    dots, mean = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)][:2]
    assert len(np.asarray(dots.get_offsets())) == 5
    assert np.asarray(mean.get_offsets()).tolist() == [[1.0, 0.0]]
    frame = curves.gain_over(RESULTS.sample(frac=1, random_state=1), "bicubic")
    assert set(frame["method"]) == {"local", "nla"}
    assert (frame["gain"] == frame["method"].map({"local": 1.0, "nla": 2.0})).all()


def test_the_harm_curve_shows_net_parts_and_control() -> None:
    axes: Any = curves.harm_curve(HARM, 0.5).axes
    first, second = axes
    titles = [f"{name} pair, training seeds: 3" for name in ("nlsa\nswitch", "gla\ntwin")]
    assert [first.get_title(), second.get_title()] == titles
    heights = [patch.get_height() for patch in first.patches if isinstance(patch, Rectangle)]
    assert heights == pytest.approx([*[5] * 5, -7, -6, -5, -4, -3])
    control, ours = (container.lines[0] for container in first.containers[2:])
    assert list(ours.get_ydata()) == pytest.approx([-2, -1, 0, 1, 2])
    assert set(control.get_ydata()) == {0}
    assert control.get_color() == plots.NULL_COLOUR


def test_the_gallery_shows_outputs_with_the_psnr_of_the_texture() -> None:
    one = case()
    drawn = pictures.texture_gallery([one], [one.sample.hr])
    titles: list[Any] = [ax.get_title() for ax in drawn.axes]
    expected = 10 * np.log10(255**2 / one.region.of(one.errors["local"]).mean())
    assert titles.index("HR") < titles.index(f"local\n{expected:.2f} dB")
    copied = drawn.axes[titles.index("attention copies")].images[0].get_array()
    np.testing.assert_array_equal(np.asarray(copied), one.view.hr)
