"""Figures: what is drawn, not its pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
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

from dtfn import pairs, plots, statistics, subpixel
from dtfn.datasets import Sample
from dtfn.pairs import NULL
from dtfn.plots import WIDTH, curves, pictures
from dtfn.regions import Case, Region
from dtfn.studies import CAUSES, Study, causes_of

RNG = np.random.default_rng(0)
PAIRS = [NULL, "nla", "dtfn"]


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


def _mixed(column: pd.Series) -> pd.Series:
    """Keep the pairs' order, and let granularities come in the alphabet's."""
    return column.map({p: i for i, p in enumerate(PAIRS)}) if column.name == "pair" else column


def curve() -> pd.DataFrame:
    rows = [
        {"pair": p, "granularity": g, "estimate": k + i, "low": k + i - 1, "high": k + i + 1}
        for k, p in enumerate(PAIRS)
        for i, g in enumerate(pairs.CURVE)
    ]
    return pd.DataFrame(rows).sort_values(["pair", "granularity"], key=_mixed)


def view(grey: bool = False) -> Case:
    hr = RNG.integers(0, 255, (120, 160) if grey else (120, 160, 3)).astype(np.uint8)
    made = {name: np.roll(hr, 1, axis=0) for name in ("local", "nla")}
    errors = {name: np.abs(RNG.normal(0, 9, (30, 40))) for name in ("nla", "local")}
    sample = Sample("Set5", "baby", 4, np.zeros((30, 40, 3), np.uint8), hr, made)
    region = Region(6, 12, 10, 8, 60, 99.0)
    networks, harm = ("nla", "local"), errors["nla"] - errors["local"]
    window = (2, 9, 24, 24)
    return Case(sample, "harm", "nla", networks, region, window, 0.1, 0.2, harm, errors, {})


def causes(pictures: list[Sample]) -> tuple[pd.DataFrame, pd.DataFrame]:
    design = {0: {NULL: ("k", "l"), "nla": ("n", "l"), "dtfn": ("n", "k")}}
    return Study(design, NULL, 2, "l", lambda _: iter(pictures), {}).causes()


def noisy(seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    hr = rng.integers(0, 256, (40, 40)).astype(np.uint8)
    made = {m: np.clip(hr + rng.normal(0, 9, hr.shape), 0, 255).astype(np.uint8) for m in "nlk"}
    return Sample("mini", f"{seed}", 2, np.zeros((20, 20, 3), np.uint8), hr, made)


DECILES, CORRELATIONS = causes([noisy(seed) for seed in range(3)])
CORRELATIONS = statistics.intervals(CORRELATIONS, CAUSES, by=["pair"])
PIXELS = RNG.integers(0, 256, (48, 48, 3)).astype(np.uint8)
MAPS = causes_of(PIXELS, 4, 1)
GAINS = pd.DataFrame(
    {
        "dataset": ["Set5", "Set5", "Set14"],
        "pair": ["nla", "dtfn", "nla"],
        "gain": [0.3, 0.2, 0.4],
        "gain_null": [0.25, 0.25, 0.3],
        "gain_net_low": [0.01, -0.1, 0.05],
        "gain_net_high": [0.1, 0.02, 0.2],
    }
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
    "bounds": lambda: curves.bound_curve(curve()),
    "region": lambda: pictures.region_panel(view()),
    "no region": lambda: pictures.region_panel(None),
    "deciles": lambda: curves.decile_maps(DECILES, "nla", NULL),
    "deciles without null": lambda: curves.decile_maps(DECILES, "nla", None),
    "correlations": lambda: curves.correlation_intervals(CORRELATIONS),
    "causes": lambda: pictures.texture_maps(PIXELS, MAPS, "mine"),
    "gate": lambda: curves.gate_course(HISTORY.assign(gate=[np.nan, 0.1]), "nla", 0.05),
    "no gate": lambda: curves.gate_course(HISTORY, "nla", 0.05),
    "interventions": lambda: curves.intervention_costs(COSTS, DOSES, 0.05),
    "families": lambda: curves.bound_bars(GAINS, "gain", "gain (dB)"),
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


def test_bounds_run_from_coarse_to_fine() -> None:
    (ax,) = curves.bound_curve(curve()).axes
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["image", "32×32", "16×16", "8×8", "4×4", "2×2", "1×1", "subpixel", "fusion"]
    assert drawn(ax.lines[0])[1] == list(range(8))
    assert ax.get_legend_handles_labels()[1] == ["control (null pair)", "nla", "dtfn"]


def test_interventions_tell_networks_by_colour_and_datasets_by_marker() -> None:
    costs, _ = curves.intervention_costs(COSTS, DOSES, 0.05).axes
    drawn = [(line.get_color(), line.get_marker()) for line in costs.lines[:4]]
    nla, dtfn = (plots.FAMILIES[name] for name in ("nla", "dtfn"))
    assert drawn == [(nla, "o"), (nla, "s"), (dtfn, "o"), (dtfn, "s")]


# --- pixel evidence -------------------------------------------------------------------------


def test_a_region_is_boxed_where_it_is() -> None:
    v = view()
    whole = pictures.region_panel(v).axes[0]
    (box,) = (p for p in whole.patches if isinstance(p, Rectangle))
    # Pixel centres are whole numbers, so a pixel begins half before its number.
    assert box.get_xy() == (4 * 9 - 0.5, 4 * 2 - 0.5)
    assert (box.get_width(), box.get_height()) == (96, 96)


def test_a_region_shows_truth_outputs_errors_and_harm() -> None:
    v = view()
    shown = list(images(pictures.region_panel(v)))
    assert [i.axes.get_title().split(":")[0] for i in shown] == [
        "Set5 baby",
        "HR",
        "local",
        "nla",
        "LR (1/4)",
        "error of local",
        "error of nla",
        "harm",
    ]
    np.testing.assert_array_equal(shown[1].get_array(), v.view.hr)
    np.testing.assert_allclose(shown[5].get_array() ** 2, v.crop(v.errors["local"]))
    assert shown[5].get_clim() == shown[6].get_clim(), "errors are comparable"
    low, high = shown[7].get_clim()
    assert low == -high, "harm is centred at 0"
    np.testing.assert_allclose(shown[7].get_array(), subpixel.signed_root(v.crop(v.harm)))


def test_a_caption_above_a_crop_is_its_psnr() -> None:
    v = view()
    title = next(
        i.axes.get_title()
        for i in images(pictures.region_panel(v))
        if "local:" in i.axes.get_title()
    )
    expected = 10 * np.log10(255**2 / v.crop(v.errors["local"]).mean())
    assert title == f"local: {expected:.2f} dB"


def test_a_region_without_harm_or_help_is_drawn() -> None:
    v = view()
    flat = dict.fromkeys(v.errors, v.harm * 0)
    pictures.region_panel(replace(v, harm=v.harm * 0, errors=flat)).draw_without_rendering()


def test_no_region_says_so() -> None:
    (text,) = pictures.region_panel(None).texts
    assert text.get_text() == pictures.NO_REGION


# --- what harm goes with --------------------------------------------------------------------


def shown(ax: Any) -> Any:
    """Return the cells of a heat map, as an array of two dimensions."""
    return np.ma.filled(ax.collections[0].get_array(), np.nan)


def test_net_deciles_are_the_pair_s_less_luck_s() -> None:
    figure = curves.decile_maps(DECILES, "nla", NULL)
    own, luck, net = (shown(ax) for ax in figure.axes[:3])
    assert np.allclose(net, own - luck, equal_nan=True)
    low, high = figure.axes[2].collections[0].get_clim()
    assert low == -high, "centred at 0"
    low, high = figure.axes[0].collections[0].get_clim()
    assert (low + high) / 2 == pytest.approx(0.5)
    row = DECILES.query("pair == 'nla' and severity == 3 and inconsistency == 8").iloc[0]
    assert own[2, 7] == pytest.approx(row["harm_rate"], nan_ok=True)


def test_luck_stands_on_each_family_s_bar() -> None:
    first, second = curves.bound_bars(GAINS, "gain", "gain (dB)").axes
    widths = sorted(patch.get_width() for patch in first.patches if isinstance(patch, Rectangle))
    assert widths == pytest.approx([0.2, 0.25, 0.25, 0.3])
    assert drawn(first.lines[1])[0] == pytest.approx([0.26, 0.35]), "null and net, nla above"
    assert len(second.patches) == 2, "dtfn has nothing there"


def test_constant_pictures_are_drawn_without_a_warning() -> None:
    flat = np.full((24, 24), 77, np.uint8)
    off = np.where(np.arange(24) < 12, 77, 90).astype(np.uint8)[None].repeat(24, 0)
    made = {"n": off, "l": flat, "k": flat}
    one = Sample("mini", "flat", 2, np.zeros((12, 12, 3), np.uint8), flat, made)
    deciles, correlations = causes([one])
    for null in (NULL, None):
        figure = curves.decile_maps(deciles, "nla", null)
        assert "no position has any detail" in figure.texts[0].get_text()
    for figure in (
        curves.correlation_intervals(statistics.intervals(correlations, CAUSES, by=["pair"])),
        pictures.texture_maps(flat, causes_of(flat, 2), "flat"),
    ):
        figure.draw_without_rendering()
