"""Bounds: chance and an equal network gain nothing, a planted choice gains what it must gain."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from scipy import ndimage, optimize
from tiny import crossed
from tiny_networks import saved, small

from dtfn import bounds, evaluation, harm, images, interventions, methods, paths, plots, subpixel
from dtfn.datasets import Sample
from dtfn.harm import Pair
from dtfn.plots import curves

RNG = np.random.default_rng(0)


def picture(number: int, side: int = 28) -> Sample:
    rng = np.random.default_rng(number)
    noise = ndimage.gaussian_filter(rng.normal(size=(2 * side, 2 * side)), 1)
    hr = np.clip(128 + 200 * noise, 0, 255).astype(np.uint8)
    return Sample("toy", f"{number:02}", 2, images.degrade(images.as_rgb(hr), 2), hr)


def switch(name: str, kind: str = "hash", **changes: Any) -> Pair:
    again = tuple((f"{name}@{kind}({k})", name) for k in (1, 2))
    return replace(Pair("nlsa", "switch", 0, name, f"{name}@off", again), **changes)


def test_mixtures_have_the_least_error_around_of_all_weights_of_sum_1() -> None:
    drawn, truth = RNG.normal(size=(2, 25, 16))
    index = RNG.permuted(np.tile(np.delete(np.arange(25), 12), (25, 1)), axis=1)[:, :8]
    index[::2, 3] = index[::2, 2]
    mixed = bounds.mixed_details(drawn, truth, index, (5, 5))

    def ring(details: Any, at: int) -> Any:
        row, column = divmod(at, 5)
        grown = np.pad(details.reshape(5, 5, 16), ((1, 1), (1, 1), (0, 0)), "edge")
        return np.delete(grown[row : row + 3, column : column + 3].reshape(9, 16), 4, 0).ravel()

    for at in range(25):
        chosen = [at, *index[at]]
        near, wanted = np.stack([ring(drawn, k) for k in chosen]), ring(truth, at)

        def loss(w: Any, near: Any = near, wanted: Any = wanted) -> float:
            return float(((w @ near - wanted) ** 2).sum())

        sums = {"type": "eq", "fun": lambda w: w.sum() - 1}
        how = {"bounds": [(0, 1)] * 9, "constraints": sums, "options": {"maxiter": 500}}
        best = optimize.minimize(loss, np.full(9, 1 / 9), method="SLSQP", tol=1e-10, **how)
        weights = np.linalg.lstsq(drawn[chosen].T, mixed[at], rcond=None)[0]
        np.testing.assert_allclose(drawn[chosen].T @ weights, mixed[at], atol=1e-9)
        assert weights.min() > -1e-9
        assert weights.sum() == pytest.approx(1)
        assert loss(weights) == pytest.approx(best.fun, rel=1e-4, abs=1e-6)


def test_drawn_details_are_mixed_as_planted_and_fitted_without_the_centre() -> None:
    """The truth is 0.25 d(p) + 0.75 d(q); a false truth at the centre does not change it."""
    shape, shift = (9, 10), 33
    drawn = RNG.normal(size=(90, 4))
    index = (np.arange(90)[:, None] + np.array([shift, 7])) % 90
    truth = 0.25 * drawn + 0.75 * np.roll(drawn, -shift, axis=0)
    mixed = bounds.mixed_details(drawn, truth, index, shape)
    inner = np.arange(90).reshape(shape)[1:5, 1:5].ravel()  # no neighbour of theirs wraps around
    np.testing.assert_allclose(mixed[inner], truth[inner], atol=1e-3)
    centre = inner[5]
    truth[centre] += 100
    again = bounds.mixed_details(drawn, truth, index, shape)
    np.testing.assert_array_equal(again[centre], mixed[centre])


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("bounds"), "dlsn", n_resgroups=2)


def test_every_bound_is_measured_with_its_control(network: str) -> None:
    table = bounds.measure([switch(network)], [picture(0), picture(1)])
    counted = table.groupby(["bound", "role"]).size().to_dict()
    cells = 2 * len(bounds.GRANULARITIES)
    every = {"selection": cells, "layer": cells, "matching": 2, "own keys": 2, "weights": 2}
    expected = {(bound, role): n for bound, n in every.items() for role in ("bound", "control")}
    assert counted == expected | {("on", "bound"): 2}
    means = bounds.chain(table)
    gains = means.set_index("bound")["gain"]
    assert gains["layer"] >= gains["selection"] >= max(gains["on"], 0)
    cell = bounds.by_granularity(table)
    labels = [text.get_text() for text in curves.bound_curve(cell).axes[0].get_xticklabels()]
    assert labels == ["image", "32×32", "16×16", "8×8", "4×4", "2×2", "1×1"]
    assert (cell.groupby(["bound", "role"])["gain"].diff().dropna() >= -1e-9).all()
    sample = picture(0)
    loaded = methods.network(network)
    psnr = []
    for bits in ("00", "01", "10", "11"):
        with interventions.intervened(loaded, f"layers({bits})"):
            y = images.luma(255 * evaluation.unrounded(loaded, sample.lr))
        error = np.mean((y - subpixel.luma(sample.hr))[2:-2, 2:-2] ** 2)
        psnr.append(10 * np.log10(255**2 / error))
    layer = table[(table["bound"] == "layer") & (table["granularity"] == "image")]
    found = layer[(layer["image"] == "00") & (layer["role"] == "bound")]["gain"].item()
    assert found == pytest.approx(max(psnr) - psnr[0], abs=1e-4)


def test_a_network_against_itself_gains_nothing(network: str, tmp_path: Path) -> None:
    """Attention "off" is another hash seed: choice gains by chance, and the control says so."""
    pair = switch(network, off=f"{network}@hash(9)")
    table = bounds.measure([pair], [picture(n) for n in range(6)])
    assert abs(bounds.net_gain(table, "selection").estimate) < 0.01
    table = bounds.measure([switch(saved(tmp_path, "nln"), "turn")], [picture(0)])
    assert set(table["bound"]) == {"on", "selection", "layer", "matching", "weights"}


def test_given_keys_are_attended_to_with_their_weights() -> None:
    """Against dense attention whose logits are the given weights', and blended by half."""
    network = small("nln")
    x = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    index = torch.stack([torch.randperm(42)[:5] for _ in range(42)])
    weights = torch.rand(42, 5).softmax(-1)
    logits = torch.full((42, 42), -torch.inf).scatter(1, index, weights.log())
    dense = network.intervene(lambda _, queries, keys: logits[queries][:, keys])
    with torch.inference_mode():
        with dense:
            expected = network(x)
        with interventions.attending(network, index, weights):
            found = network(x)
        with interventions.attending(network, index, weights, 1e-9):
            own = network(x)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(own, network(x))


def test_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ZOO", tmp_path)
    table = bounds.measure(harm.switches(4), [])
    assert bounds.chain(table).empty
    assert bounds.by_granularity(table).empty


def planted(gains: dict[tuple[str, str], float]) -> pd.DataFrame:
    """A table of three seeds and eight pictures with these gains, and noise of the pictures."""
    names = {"pair": ["nlsa"], "seed": range(3), "dataset": ["toy"], "image": range(8)}
    table = crossed(**names, of=list(gains), granularity=[""])
    table["bound"], table["role"] = zip(*table["of"], strict=True)
    return table.assign(gain=table["of"].map(gains) + 0.1 * np.sin(table["image"]))


MATCHED = {("on", "bound"): 0.2, ("matching", "bound"): 0.28, ("matching", "control"): 0.1}


def test_matching_gains_over_the_better_of_both_and_what_counts_is_recovered() -> None:
    for control, expected in ((0.1, 0.08), (0.25, 0.03)):
        found = bounds.net_gain(planted(MATCHED | {("matching", "control"): control}))
        assert (found.estimate, found.low) == pytest.approx((expected, expected))
        assert (found.pictures, found.seeds) == (8, 3)
    for matching, expected in ((0.28, 0.5), (0.205, np.nan)):
        gains = MATCHED | {("tfs", "bound"): 0.24, ("matching", "bound"): matching}
        row = bounds.recovery(planted(gains)).iloc[0]
        assert row["tfs"] == pytest.approx(0.04)
        assert row["recovered"] == pytest.approx(expected, nan_ok=True)
    assert bounds.recovery(planted(MATCHED)).empty


def test_the_chain_is_drawn_in_order_with_its_controls_in_grey() -> None:
    (ax,) = curves.bound_chain(bounds.chain(planted(MATCHED))).axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["matching, all keys (B)", "attention on"]
    grey = to_rgb(plots.NULL_COLOUR)
    bars = [bar for bar in ax.patches if isinstance(bar, Rectangle)]
    chance = {bar.get_width() for bar in bars if to_rgb(bar.get_facecolor()) == grey}
    wave = 0.1 * np.mean(np.sin(range(8)))
    assert list(chance) == pytest.approx([0.1 + wave])
    ours = sorted({bar.get_width() for bar in bars} - chance)
    assert ours == pytest.approx([0.2 + wave, 0.28 + wave])
