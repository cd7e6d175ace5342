"""Causes: where networks look, and planted slopes of harm on inconsistency that are found again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_networks
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from dtfn import capture, causes, evaluation, images, models, plots, statistics, texture
from dtfn.datasets import Sample
from dtfn.harm import Pair
from dtfn.plots import curves, pictures
from dtfn.regions import Region

Float = NDArray[np.float64]
Looks = dict[causes.Query, list[causes.Look]]
RNG = np.random.default_rng(0)


def sample(height: int, width: int, scale: int, name: str = "noise") -> Sample:
    rng, shape = np.random.default_rng(len(name)), (scale * height, scale * width, 3)
    hr = rng.integers(0, 256, shape).astype(np.uint8)
    return Sample("toy", name, scale, images.degrade(hr, scale), hr)


def watched(method: str, sample: Sample) -> capture.Record:
    network = models.load(method)
    with capture.record(network) as record:
        evaluation.upscale(network, sample.lr)
    return record


@pytest.mark.parametrize(("name", "shape"), [("dlsn", (9, 8)), ("nln", (9, 110))])
def test_inconsistency_by_brute_force(name: str, shape: tuple[int, int], tmp_path: Path) -> None:
    """A dense network sees 110 columns in two tiles; the first holds column 5."""
    one, method = sample(*shape, 2), tiny_networks.saved(tmp_path, name)
    found = causes.attended(method, one)
    queries = [(0, 0), (4, 5), (8, 7)]
    seen = one if name == "dlsn" else one.crop(0, 0, 9, 96)
    record = watched(method, seen)
    detail = texture.detail_blocks(one.hr, 2).astype(float).reshape(*shape, -1)
    near = detail[:, : seen.lr.shape[1]].reshape(-1, 4)
    assert len(found) == len(record.layers)
    for layer, k in zip(record.layers, found, strict=True):
        for query, weights in zip(queries, record.maps(layer, queries), strict=True):
            apart = ((near - detail[query]) ** 2).sum(axis=1)
            expected = weights.numpy().ravel() @ apart / (detail[query] ** 2).sum()
            assert k[query] == pytest.approx(expected, rel=1e-4)
    same, even = (causes.copied(f"{method}@{kind}", one) for kind in ("self", "uniform"))
    assert (same == one.hr).all(), "a position that sees itself alone copies itself"
    assert np.abs(even[:2, :2] - seen.hr.reshape(9, 2, -1, 2, 3).mean(axis=(0, 2))).max() <= 0.5


def ranks(values: Float) -> Float:
    return values.argsort().argsort() / len(values) - 0.5


def planted(slope: float, product: float = 0.0) -> tuple[Float, Float, Float, Float]:
    """Errors whose logarithms differ by known slopes on the ranks of k and severity, and noise."""
    severity, k = RNG.gamma(1, 50, 4000), RNG.gamma(2, 1, 4000)
    off = 10 + 0 * severity
    ratio = slope * ranks(k) + product * ranks(k) * ranks(severity) + RNG.normal(0, 0.1, 4000)
    return off * np.exp(ratio / 2), off * np.exp(-ratio / 2), severity, k


def test_planted_slopes_are_recovered_and_severity_alone_is_none() -> None:
    slope, steeper, _ = causes.slopes(*planted(0.2, 0.3))
    assert slope == pytest.approx(90 * 0.2, rel=0.1)
    assert steeper == pytest.approx(81 * 0.3, rel=0.2)
    table = causes._cells(*planted(0.2))
    assert len(table) == 25
    low, high = (table.loc[table["k"] == k, "change"].sum() for k in (1, 5))
    assert high - low == pytest.approx(10 * 1600 / 2 * 0.2 * 0.8, rel=0.1)
    # k falls with severity, as it does where the detail is its denominator; harm rises with it.
    severity = RNG.gamma(1, 50, 8000)
    k = RNG.gamma(2, 1, 8000) / severity
    off = np.full(8000, 10.0)
    on = off * np.exp(ranks(severity) ** 2 + RNG.normal(0, 0.05, 8000))
    assert causes.slopes(on, off, severity, k)[0] == pytest.approx(0, abs=1)
    assert np.isnan(causes.slopes(on[:9], off[:9], severity[:9], k[:9])[0])


@pytest.mark.parametrize(("shuffled", "expected"), [(False, 18), (True, 0)])
def test_slopes_of_pictures(shuffled: bool, expected: float, monkeypatch: Any) -> None:
    photos = [sample(40, 48, 2, "x" * number) for number in range(1, 7)]

    def inconsistency(_: str, one: Sample) -> Float:
        return np.random.default_rng((len(one.image), shuffled)).gamma(2, 1, (2, 40, 48))

    def errors(_: Sequence[str], one: Sample) -> Mapping[str, Float]:
        k = np.random.default_rng((len(one.image), False)).gamma(2, 1, (2, 40, 48)).mean(axis=0)
        noise = np.random.default_rng(len(one.image)).normal(0, 0.05, (3, 40, 48))
        ratio = 0.2 * ranks(k.ravel()).reshape(k.shape)
        made = {"on": 10 * np.exp(ratio + noise[0]), "off": 10 * np.exp(noise[1])}
        return made | {"on@hash(1)": 10 * np.exp(ratio + noise[2])}

    pair = Pair("nlsa", "switch", 0, "on", "off", (("on@hash(1)", "on"),))
    monkeypatch.setattr(causes, "attended", inconsistency)
    monkeypatch.setattr(evaluation, "block_errors", errors)
    found = causes.measure([pair], photos)
    assert set(found.pictures["of"]) == {"attended", "layer 1", "layer 2", "nearest"}
    rows = found.pictures[found.pictures["of"] == "attended"]
    ours, control = (rows[rows["role"] == role] for role in ("pair", "control 1"))
    slope = statistics.crossed(ours, "slope")
    assert slope.estimate == pytest.approx(expected, abs=1.5)
    assert (slope.low > 10) if expected else slope.low < 0.5 < 1.5 > slope.high
    assert statistics.crossed(control, "slope").estimate == pytest.approx(0, abs=1)
    net = causes.net_map(found.cells)
    figure = curves.cause_map(net)
    figure.draw_without_rendering()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [f"{value:+.1f}" for value in net.sort_values(["severity", "k"])["net"]]
    model = causes.model(found.pictures)
    curves.cause_slopes(model).draw_without_rendering()
    assert model["slope"].iloc[0] == pytest.approx(slope.estimate)
    assert causes.measure([], photos).cells.columns.equals(found.cells.columns)
    sums = found.cells[found.cells["role"] == "pair"].groupby("image")["off"].sum()
    assert sums.to_numpy() == pytest.approx(10 * 38 * 46, rel=0.02)


QUERIES = [(3, 4), (10, 7)]


@pytest.fixture(scope="module")
def noise() -> Sample:
    return sample(18, 22, 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder: Path = tmp_path_factory.mktemp("weights")
    return [tiny_networks.saved(folder, name) for name in ("edsr", "nln", "dtfn", "nln+tfs")]


@pytest.fixture(scope="module")
def found(noise: Sample, files: list[str]) -> Looks:
    return causes.looks(files, noise, QUERIES)


def test_looks_are_kept(noise: Sample, files: list[str], found: Looks, monkeypatch: Any) -> None:
    for query, looks in found.items():
        wanted = [(file, place) for file in files[1:] for place in (1, 2)]
        assert [(one.network, one.place) for one in looks] == wanted, "attention, two layers each"
        for look in looks:
            record = watched(look.network, noise)
            expected = record.map(record.layers[look.place - 1], query).numpy()
            np.testing.assert_allclose(look.map, expected, atol=1e-7)
            order = [look.map[at] for at in look.strongest(5)]
            assert order == sorted(look.map.ravel(), reverse=True)[:5]
    monkeypatch.setattr(evaluation, "unrounded", None)
    again = causes.looks(files, noise, QUERIES)
    np.testing.assert_array_equal(again[QUERIES[0]][0].map, found[QUERIES[0]][0].map)
    with pytest.raises(TypeError):
        causes.looks(files, noise, [(5, 5)])
    one = found[QUERIES[0]]
    figure = pictures.attention_maps(one, noise)
    figure.draw_without_rendering()
    shown = [ax for ax in figure.axes if ax.get_visible()][:-1]  # the last is the colour bar
    assert [ax.get_title().partition(":")[0] for ax in shown] == ["layer 1", "layer 2"] * 3
    support = float(np.exp(-np.sum(one[0].map * np.log(one[0].map))))
    assert shown[0].get_title() == f"layer 1: {support:,.0f} positions"
    cross = next(line for line in shown[0].lines if line.get_marker() == "+")
    assert (cross.get_xdata(), cross.get_ydata()) == ([QUERIES[0][1]], [QUERIES[0][0]])
    rings = [np.ravel(line.get_xydata()) for line in shown[0].lines if line.get_marker() == "o"]
    assert [(int(y), int(x)) for x, y in rings] == one[0].strongest()


def test_copies_are_the_strongest(found: Looks, noise: Sample) -> None:
    looks = [look for of_query in found.values() for look in of_query]
    table = causes.copies(looks, noise, most=3)
    details = texture.detail_blocks(noise.hr, 2).astype(float)
    assert len(table) == 3 * len(looks)
    for n, look in enumerate(looks):
        part = table.iloc[3 * n : 3 * n + 3]
        assert set(part["network"]) == {look.network}
        assert list(zip(part["row"], part["column"], strict=True)) == look.strongest(3)
        for row in part.itertuples():
            assert (row.query_row, row.query_column, row.place) == (*look.query, look.place)
            assert row.weight == look.map[row.row, row.column]
            own = details[look.query[0] * 22 + look.query[1]]
            other = details[row.row * 22 + row.column]
            assert row.inconsistency == pytest.approx(((own - other) ** 2).sum() / (own**2).sum())
    assert [look.place for look in causes.last_layer(found[QUERIES[0]])] == [2] * 3
    table = causes.copies(causes.last_layer(found[QUERIES[1]]), noise)
    figure = pictures.copied_patches(table, noise, most=4)
    figure.draw_without_rendering()
    part = table[table["network"] == table["network"].iloc[0]].head(4)
    for ax, row in zip(figure.axes[1:5], part.itertuples(), strict=True):
        ink = plots.BAD if row.inconsistency > 1 else plots.GOOD
        assert to_hex(ax.spines["top"].get_edgecolor()) == ink.lower()
        x, y = 2 * row.column, 2 * row.row
        (block,) = (p for p in ax.patches if isinstance(p, Rectangle))
        assert block.get_xy() == (x - 0.5, y - 0.5)
        image = ax.get_images()[0]
        left, _, _, top = image.get_extent()
        inside = np.asarray(image.get_array())[y - int(top + 0.5), x - int(left + 0.5)]
        np.testing.assert_array_equal(inside, noise.hr[y, x])


def test_the_places_are_in_the_heaviest_textures_of_the_picture_harmed_most(noise: Sample) -> None:
    other = Sample("toy", "other", 2, noise.lr, noise.hr)
    rows = [
        (0, "pair", "noise", "harm", 0.01, 5.0, slice(2, 5)),
        (0, "pair", "noise", "harm", 0.9, 50.0, slice(4, 7)),
        (0, "control 1", "other", "harm", 0.01, 90.0, slice(4, 7)),
        (1, "pair", "other", "harm", 0.01, 90.0, slice(4, 7)),
        (0, "pair", "other", "help", 0.01, 99.0, slice(6, 9)),
        (0, "pair", "noise", "help", 0.01, 7.0, slice(8, 11)),
    ]
    columns = ["seed", "role", "image", "side", "q", "mass", "span"]
    table = pd.DataFrame(rows, columns=columns).assign(pair="n", kind="switch", dataset="toy")
    table["region"] = [Region((span, span), np.ones((3, 3), bool)) for span in table["span"]]
    pair = Pair("n", "switch", 0, "n", "n@off")
    chosen, where = causes.places(table, [other, noise], [pair])
    assert chosen is noise
    assert where == {"where n harms most": (3, 3), "where n helps most": (9, 9)}
    for pairs in ([pair], []):
        assert causes.places(table[:0], [noise, other], pairs) == (noise, {"the middle": (9, 11)})
