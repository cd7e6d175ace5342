"""Causes: what attention makes of the true details, and planted slopes that are found again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny_networks
import torch
from numpy.typing import NDArray

from dtfn import capture, causes, evaluation, images, models, statistics, texture
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.harm import Pair
from dtfn.plots import curves

Float = NDArray[np.float64]
RNG = np.random.default_rng(0)


def sample(height: int, width: int, scale: int, name: str = "noise") -> Sample:
    hr = np.random.default_rng(len(name)).integers(0, 256, (scale * height, scale * width, 3))
    return Sample(
        "toy", name, scale, images.degrade(hr.astype(np.uint8), scale), hr.astype(np.uint8)
    )


@pytest.mark.parametrize("name", ["nln", "nlsn", "dlsn", "hspan", "dtfn", "dlsn+tfs"])
@pytest.mark.parametrize("width", [1, 18])
def test_carried_values_are_mixed_by_the_maps_and_the_output_stays(name: str, width: int) -> None:
    network = tiny_networks.small(name)
    x, values = torch.rand(1, 3, 9, 8), torch.rand(72, width)
    queries = [(row, column) for row in range(9) for column in range(8)]
    with torch.inference_mode():
        before = network(x)
        with capture.record(network) as record, causes.carried(network, values) as found:
            assert torch.equal(network(x), before)
        assert torch.equal(network(x), before)
    assert len(found) == len(record.layers)
    for layer, mean in zip(record.layers, found, strict=True):
        expected = record.maps(layer, queries).flatten(1) @ values
        torch.testing.assert_close(mean[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "shape"), [("dlsn", (9, 8)), ("nln", (9, 110))])
def test_inconsistency_is_that_of_brute_force(
    name: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    """A dense network sees 110 columns in two tiles; the first holds column 5."""
    one, method = sample(*shape, 2), tiny_networks.saved(tmp_path, name)
    found = causes.attended(method, one)
    queries = [(0, 0), (4, 5), (8, 7)]
    seen = one if name == "dlsn" else one.crop(0, 0, 9, 96)
    network = models.load(method)
    with capture.record(network) as record:
        evaluation.upscale(network, seen.lr)
    detail = texture.detail_blocks(one.hr, 2).astype(float).reshape(*shape, -1)
    near = detail[:, : seen.lr.shape[1]].reshape(-1, 4)
    assert len(found) == len(record.layers)
    for layer, k in zip(record.layers, found, strict=True):
        for query, weights in zip(queries, record.maps(layer, queries), strict=True):
            apart = ((near - detail[query]) ** 2).sum(axis=1)
            expected = weights.numpy().ravel() @ apart / (detail[query] ** 2).sum()
            assert k[query] == pytest.approx(expected, rel=1e-4)


def test_without_a_choice_there_is_no_cause() -> None:
    network = models.create("mini-placebo", 2, n_feats=8, n_resblocks=1, n_resgroups=1)
    with (
        pytest.raises(InputError, match="attention that chooses"),
        causes.carried(network, [[1.0]]),
    ):
        pass


def ranks(values: Float) -> Float:
    return values.argsort().argsort() / len(values) - 0.5


def planted(slope: float, product: float = 0.0) -> tuple[Float, Float, Float, Float]:
    """Errors whose logarithms differ by known slopes on the ranks of k and severity, and noise."""
    severity, k = RNG.gamma(1, 50, 4000), RNG.gamma(2, 1, 4000)
    off = 10 + 0 * severity
    ratio = slope * ranks(k) + product * ranks(k) * ranks(severity) + RNG.normal(0, 0.1, 4000)
    return off * np.exp(ratio / 2), off * np.exp(-ratio / 2), severity, k


def test_planted_slopes_are_recovered() -> None:
    slope, steeper, _ = causes.slopes(*planted(0.2, 0.3))
    assert slope == pytest.approx(90 * 0.2, rel=0.1)
    assert steeper == pytest.approx(81 * 0.3, rel=0.2)
    table = list(causes.cells(*planted(0.2)))
    assert len(table) == 25
    low, high = (sum(row[3] for row in table if row[1] == k) for k in (1, 5))
    assert high - low == pytest.approx(10 * 1600 / 2 * 0.2 * 0.8, rel=0.1)


def test_severity_alone_is_no_slope_of_k() -> None:
    """k falls with severity, as it does where the detail is its denominator; harm rises with it."""
    severity = RNG.gamma(1, 50, 8000)
    k = RNG.gamma(2, 1, 8000) / severity
    off = np.full(8000, 10.0)
    on = off * np.exp(ranks(severity) ** 2 + RNG.normal(0, 0.05, 8000))
    assert causes.slopes(on, off, severity, k)[0] == pytest.approx(0, abs=1)
    assert np.isnan(causes.slopes(on[:9], off[:9], severity[:9], k[:9])[0])


@pytest.mark.parametrize(("shuffled", "expected"), [(False, 18), (True, 0)])
def test_measured_pictures_give_the_slope_and_shuffled_k_gives_none(
    shuffled: bool, expected: float
) -> None:
    pictures = [sample(40, 48, 2, "x" * number) for number in range(1, 7)]

    def inconsistency(_: str, one: Sample) -> Float:
        return np.random.default_rng((len(one.image), shuffled)).gamma(2, 1, (2, 40, 48))

    def errors(_: Sequence[str], one: Sample) -> Mapping[str, Float]:
        k = np.random.default_rng((len(one.image), False)).gamma(2, 1, (2, 40, 48)).mean(axis=0)
        noise = np.random.default_rng(len(one.image)).normal(0, 0.05, (3, 40, 48))
        ratio = 0.2 * ranks(k.ravel()).reshape(k.shape)
        made = {"on": 10 * np.exp(ratio + noise[0]), "off": 10 * np.exp(noise[1])}
        return made | {"on@hash(1)": 10 * np.exp(ratio + noise[2])}

    pair = Pair("nlsa", "switch", 0, "on", "off", (("on@hash(1)", "on"),))
    found = causes.measure([pair], pictures, errors, inconsistency)
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
    sums = found.cells[found.cells["role"] == "pair"].groupby("image")["off"].sum()
    assert sums.to_numpy() == pytest.approx(10 * 38 * 46, rel=0.02)
