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
from matplotlib.patches import Rectangle, StepPatch

from dtfn import claims, plots, positions, subpixel
from dtfn.plots import WIDTH, curves, pictures
from dtfn.subpixel import Picture, regions
from dtfn.subpixel.regions import Region, View

RNG = np.random.default_rng(0)
PAIRS = [subpixel.NULL, "nla", "dtfn"]


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


def density() -> pd.DataFrame:
    edges = np.arange(-4.0, 5)
    share = np.array([0, 0.1, 0.2, 0.2, 0.2, 0.2, 0.1, 0])
    return pd.concat(
        [pd.DataFrame({"pair": p, "low": edges[:-1], "high": edges[1:], "share": share})
         for p in PAIRS]
    )  # fmt: skip


def _mixed(column: pd.Series) -> pd.Series:
    """Keep the pairs' order, and let granularities come in the alphabet's."""
    return column.map({p: i for i, p in enumerate(PAIRS)}) if column.name == "pair" else column


def curve() -> pd.DataFrame:
    rows = [
        {"pair": p, "granularity": g, "estimate": k + i, "low": k + i - 1, "high": k + i + 1}
        for k, p in enumerate(PAIRS)
        for i, g in enumerate(subpixel.CURVE)
    ]
    return pd.DataFrame(rows).sort_values(["pair", "granularity"], key=_mixed)


def net() -> pd.DataFrame:
    return pd.DataFrame(
        [{"pair": p, "metric": m, "estimate": 1.0, "low": 0.5, "high": 2.0}
         for p in PAIRS[1:] for m in ("a", "b")]
    )  # fmt: skip


def view(grey: bool = False) -> View:
    hr = RNG.integers(0, 255, (120, 160) if grey else (120, 160, 3)).astype(np.uint8)
    made = {name: np.roll(hr, 1, axis=0) for name in ("local", "nla")}
    errors = [np.abs(RNG.normal(0, 9, (24, 24))) for _ in range(2)]
    picture = Picture("Set5", "baby", 4, hr, made)
    region = Region(6, 12, 10, 8, 60, 99.0)
    return View(
        picture, region, (2, 9, 24, 24), "local", "nla", errors[0], errors[1], errors[1] - errors[0]
    )


def positions_found() -> positions.Positions:
    rng = np.random.default_rng(0)
    pictures = []
    for seed in range(3):
        hr = rng.integers(0, 256, (40, 40)).astype(np.uint8)
        made = {m: np.clip(hr + rng.normal(0, 9, hr.shape), 0, 255).astype(np.uint8) for m in "nlk"}
        pictures.append(Picture("mini", f"{seed}", 2, hr, made))
    design = {0: {subpixel.NULL: ("k", "l"), "nla": ("n", "l"), "dtfn": ("n", "k")}}
    return positions.survey(pictures, design)


FOUND = positions_found()
CORRELATIONS = claims.correlation_table(FOUND.correlations, subpixel.NULL)
SPAN = (positions.WORST, positions.BEST)
PIXELS = RNG.integers(0, 256, (48, 48, 3)).astype(np.uint8)
MAPS = positions.describe(PIXELS, 4, 1)
GAINS = pd.DataFrame(
    {"dataset": ["Set5", "Set5", "Set14"], "pair": ["nla", "dtfn", "nla"],
     "gain": [0.3, 0.2, 0.4], "gain_null": [0.25, 0.25, 0.3], "gain_net_low": [0.01, -0.1, 0.05],
     "gain_net_high": [0.1, 0.02, 0.2]}
)  # fmt: skip
HISTORY = pd.DataFrame({"step": [10, 20], "loss": [0.1, 0.05], "psnr": [24.0, 26.0]})
TITLES = {"a": "first", "b": "second"}
EVERY: dict[str, Callable[[], Figure]] = {
    "training": lambda: curves.training_curve(HISTORY, 25.0),
    "gains": lambda: curves.psnr_gains(results()),
    "no gains": lambda: curves.psnr_gains(results().query("method == 'bicubic'")),
    "density": lambda: curves.harm_density(density()),
    "bounds": lambda: curves.bound_curve(curve()),
    "estimates": lambda: curves.estimates(net(), TITLES),
    "region": lambda: pictures.region_panel([view()]),
    "no region": lambda: pictures.region_panel([]),
    "gallery": lambda: pictures.region_gallery([view(), view(grey=True)]),
    "empty gallery": lambda: pictures.region_gallery([]),
    "errors": lambda: curves.error_hexagons(FOUND.errors, SPAN, positions.PITCH),
    "deciles": lambda: curves.decile_maps(FOUND.deciles, "nla", subpixel.NULL),
    "deciles without null": lambda: curves.decile_maps(FOUND.deciles, "nla", None),
    "phases": lambda: curves.phase_maps(FOUND.phases),
    "correlations": lambda: curves.correlation_intervals(CORRELATIONS, null=True),
    "causes": lambda: pictures.texture_maps(PIXELS, MAPS, "mine"),
    "families": lambda: curves.bound_bars(GAINS, "gain", "gain (dB)"),
}


@pytest.fixture(params=EVERY)
def figure(request: pytest.FixtureRequest) -> Figure:
    return EVERY[request.param]()


# --- all of them ----------------------------------------------------------------------------


def test_a_figure_is_drawn_without_a_warning(figure: Figure) -> None:
    figure.draw_without_rendering()


def test_a_figure_fits_the_report_and_is_sharp_on_a_screen(figure: Figure) -> None:
    assert figure.get_dpi() == 200
    assert figure.get_figwidth() <= WIDTH


@pytest.mark.parametrize("name", EVERY)
def test_a_figure_is_the_same_whatever_the_readers_style(name: str) -> None:
    ours = EVERY[name]().get_facecolor()
    with mpl.rc_context({"figure.facecolor": "black", "font.size": 40, "image.cmap": "jet"}):
        assert EVERY[name]().get_facecolor() == ours
        assert mpl.rcParams["font.size"] == 40, "the reader's own settings are left alone"


def test_no_figure_stays_open_behind_the_scenes(figure: Figure) -> None:
    assert plt.get_fignums() == []


def images(figure: Figure) -> Iterator[Any]:
    for ax in figure.axes:
        # A colour bar draws its own image or mesh; it has no evidence in it.
        if ax.get_label() != "<colorbar>":
            yield from ax.get_images()


def test_pixels_are_shown_as_they_are(figure: Figure) -> None:
    for image in images(figure):
        assert image.get_interpolation() == "nearest"


def test_the_null_pair_is_grey_and_the_others_differ() -> None:
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


def test_density_draws_each_pair_over_the_null() -> None:
    figure = curves.harm_density(density())
    assert len(figure.axes) == 2
    for ax, name in zip(figure.axes, PAIRS[1:], strict=True):
        null, pair = (p for p in ax.patches if isinstance(p, StepPatch))
        assert to_hex(null.get_facecolor()) == plots.NULL_COLOUR.lower()
        assert to_hex(pair.get_edgecolor()) == plots.colour(name, PAIRS).lower()
        assert pair.get_data()[0].sum() == pytest.approx(1)
        assert ax.get_xlim() == (-3, 3), "empty bins are left out, and 0 is in the middle"


def test_density_of_the_null_pair_alone_is_drawn() -> None:
    only = density()[lambda t: t["pair"] == subpixel.NULL]
    assert len(curves.harm_density(only).axes) == 1


def test_bounds_run_from_coarse_to_fine() -> None:
    (ax,) = curves.bound_curve(curve()).axes
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["image", "32×32", "16×16", "8×8", "4×4", "2×2", "1×1", "subpixel", "fusion"]
    assert drawn(ax.lines[0])[1] == list(range(8))
    assert ax.get_legend_handles_labels()[1] == ["null pair (luck)", "nla", "dtfn"]


def test_estimates_have_a_panel_a_metric_and_mark_zero() -> None:
    figure = curves.estimates(net(), TITLES)
    assert [ax.get_xlabel() for ax in figure.axes] == ["first", "second"]
    for ax in figure.axes:
        assert [0.5, 2.0] in [drawn(line)[0] for line in ax.lines]
        assert [0, 0] in [drawn(line)[0] for line in ax.lines]


# --- pixel evidence -------------------------------------------------------------------------


def test_a_region_is_boxed_where_it_is() -> None:
    v = view()
    whole = pictures.region_panel([v]).axes[0]
    (box,) = (p for p in whole.patches if isinstance(p, Rectangle))
    # Pixel centres are whole numbers, so a pixel begins half before its number.
    assert box.get_xy() == (4 * 9 - 0.5, 4 * 2 - 0.5)
    assert (box.get_width(), box.get_height()) == (96, 96)


def test_a_region_shows_truth_outputs_errors_and_harm() -> None:
    v = view()
    shown = list(images(pictures.region_panel([v])))
    assert [i.axes.get_title().split(":")[0] for i in shown] == [
        "Set5 baby", "HR", "local", "nla", "LR (1/4), as it is", "error of local", "error of nla",
        "harm",
    ]  # fmt: skip
    np.testing.assert_array_equal(shown[1].get_array(), v.crop(v.picture.hr))
    np.testing.assert_allclose(shown[5].get_array() ** 2, v.error_without)
    assert shown[5].get_clim() == shown[6].get_clim(), "errors are comparable"
    low, high = shown[7].get_clim()
    assert low == -high, "harm is centred at 0"
    np.testing.assert_allclose(shown[7].get_array(), regions.signed_root(v.harm))


def test_a_caption_above_a_crop_is_its_psnr() -> None:
    v = view()
    title = next(
        i.axes.get_title()
        for i in images(pictures.region_panel([v]))
        if "local:" in i.axes.get_title()
    )
    expected = 10 * np.log10(255**2 / v.error_without.mean())
    assert title == f"local: {expected:.2f} dB"


def test_a_region_without_harm_or_help_is_drawn() -> None:
    v = view()
    flat = View(v.picture, v.region, v.window, "local", "nla", v.harm * 0, v.harm * 0, v.harm * 0)
    pictures.region_panel([flat]).draw_without_rendering()


def test_no_region_says_so() -> None:
    for draw in (pictures.region_panel, pictures.region_gallery):
        (text,) = draw([]).texts
        assert text.get_text() == "no region of harm beyond the threshold"


# --- what harm goes with --------------------------------------------------------------------


def test_every_position_is_drawn_in_a_hexagon() -> None:
    """Also those at the edge, which matplotlib would drop."""
    edge = pd.DataFrame(
        [
            {"pair": "nla", "without": x, "with": y, "positions": n}
            for (x, y), n in positions.hexagonal(np.full((2, 2), 1e9), np.zeros((2, 2))).items()
        ]
    )
    frame = pd.concat([FOUND.errors, edge], ignore_index=True)
    figure = curves.error_hexagons(frame, SPAN, positions.PITCH)
    panels = [ax for ax in figure.axes if ax.get_title()]
    for ax, name in zip(panels, frame["pair"].unique(), strict=True):
        drawn = np.asarray(ax.collections[0].get_array())
        part = frame[frame["pair"] == name]
        assert drawn.sum() == part["positions"].sum()
        assert np.count_nonzero(drawn) == len(part.drop_duplicates(["without", "with"]))


def shown(ax: Any) -> Any:
    """Return the cells of a heat map, as an array of two dimensions."""
    return np.ma.filled(ax.collections[0].get_array(), np.nan)


def test_net_deciles_are_the_pair_s_less_luck_s() -> None:
    figure = curves.decile_maps(FOUND.deciles, "nla", subpixel.NULL)
    own, luck, net = (shown(ax) for ax in figure.axes[:3])
    assert np.allclose(net, own - luck, equal_nan=True)
    low, high = figure.axes[2].collections[0].get_clim()
    assert low == -high, "centred at 0"
    low, high = figure.axes[0].collections[0].get_clim()
    assert (low + high) / 2 == pytest.approx(0.5)
    row = FOUND.deciles.query("pair == 'nla' and severity == 3 and inconsistency == 8").iloc[0]
    assert own[2, 7] == pytest.approx(row["harm_rate"], nan_ok=True)


def test_phases_stand_where_their_pixels_are() -> None:
    ax = curves.phase_maps(FOUND.phases).axes[1]
    assert ax.get_title() == "nla"
    row = FOUND.phases.query("pair == 'nla' and row == 1 and column == 0").iloc[0]
    assert shown(ax)[1, 0] == pytest.approx(row["change"])
    assert ax.texts[2].get_text() == f"{row['change']:+.2%}"


def test_luck_stands_on_each_family_s_bar() -> None:
    first, second = curves.bound_bars(GAINS, "gain", "gain (dB)").axes
    widths = sorted(patch.get_width() for patch in first.patches if isinstance(patch, Rectangle))
    assert widths == pytest.approx([0.2, 0.25, 0.25, 0.3])
    assert drawn(first.lines[1])[0] == pytest.approx([0.26, 0.35]), "null and net, nla above"
    assert len(second.patches) == 2, "dtfn has nothing there"


def test_constant_pictures_are_drawn_without_a_warning() -> None:
    flat = np.full((24, 24), 77, np.uint8)
    off = np.where(np.arange(24) < 12, 77, 90).astype(np.uint8)[None].repeat(24, 0)
    one = Picture("mini", "flat", 2, flat, {"n": off, "l": flat, "k": flat})
    found = positions.survey([one], {0: {subpixel.NULL: ("k", "l"), "nla": ("n", "l")}})
    for null in (subpixel.NULL, None):
        figure = curves.decile_maps(found.deciles, "nla", null)
        assert "no position has any detail" in figure.texts[0].get_text()
    correlations = claims.correlation_table(found.correlations, subpixel.NULL)
    for figure in (
        curves.error_hexagons(found.errors, SPAN, positions.PITCH),
        curves.phase_maps(found.phases),
        curves.correlation_intervals(correlations, null=True),
        pictures.texture_maps(flat, positions.describe(flat, 2), "flat"),
    ):
        figure.draw_without_rendering()
