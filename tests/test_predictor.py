"""The predictor: it finds what can be known, remembers nothing, and is judged as by hand."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics
from tiny_networks import saved, small

from dtfn import capture, datasets, evaluation, images, interventions, predictor, subpixel
from dtfn.errors import InputError
from dtfn.evaluation import Output
from dtfn.predictor import signals

RNG = np.random.default_rng(0)


def table(
    pictures: int = 8,
    positions: int = 700,
    tells: float = 2.0,
    dataset: str = "mini",
    seed: int = 0,
) -> pd.DataFrame:
    """Positions whose harm is more likely where "difference" is large, the more as it ``tells``.

    "variance" names the picture, and half of the pictures are harmed more: it can be remembered.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for i in range(pictures):
        x = rng.normal(size=positions)
        bias = 1.5 * (-1) ** i if tells else 1.5 * rng.choice([-1, 1])
        harmed = rng.random(positions) < 1 / (1 + np.exp(-tells * x - (0 if tells else bias)))
        size = rng.gamma(2, 5, positions)
        l = rng.gamma(4, 20, positions) + size
        frame = pd.DataFrame({name: np.float32(0) for name in predictor.FEATURES}, range(positions))
        frame["difference"], frame["variance"] = x, rng.normal(10 * i, 0.1, positions)
        frame["entropy"] = np.nan
        frame["error_l"], frame["error_n"] = l, np.where(harmed, l + size, l - size)
        frame["error_mean"] = l - size / 4
        names = {"dataset": dataset, "image": f"{i}", "picture": f"{seed}-{i}"}
        parts.append(frame.assign(**names, row=0, column=range(positions)))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def known() -> pd.DataFrame:
    return predictor.judged(table())


def test_what_can_be_known_is_found_and_calibrated(known: pd.DataFrame) -> None:
    (row,) = predictor.areas(known, [predictor.PREDICTED]).to_dict("records")
    oracle = metrics.roc_auc_score(known["error_n"] > known["error_l"], known["difference"])
    assert row["auc"] == pytest.approx(oracle, abs=0.02)
    assert row["auc_low"] < row["auc"] < row["auc_high"]
    assert row["brier"] < 0.85 * row["brier_base"]
    bins = predictor.reliability(known)
    assert bins["positions"].sum() == len(known)
    assert (bins["predicted"] - bins["observed"]).abs().max() < 0.08


def test_what_names_the_picture_is_not_remembered() -> None:
    """Fitted to all pictures it would know each one's bias; held out, it knows nothing."""
    frame = table(10, tells=0.0, seed=3)
    features = frame[list(predictor.FEATURES)].fillna(-1).to_numpy()
    seen = predictor.fit(frame).predict_proba(features)[:, 1]
    harmed = frame["error_n"] > frame["error_l"]
    assert metrics.roc_auc_score(harmed, seen) > 0.7
    held = predictor.held_out(frame)
    assert metrics.roc_auc_score(harmed, held) < 0.62


def test_a_dataset_is_judged_by_the_others_without_their_common_pictures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dtfn.predictor import learning

    both = pd.concat([table(4, 200), table(3, 200, dataset="other", seed=1)], ignore_index=True)
    shared = both["picture"] == "0-0"
    both = pd.concat([both, both[shared].assign(dataset="other", image="same")], ignore_index=True)
    seen: list[set[str]] = []
    real = learning.fit

    def spied(frame: pd.DataFrame, **options: Any) -> Any:
        seen.append(set(frame["picture"]))
        return real(frame, **options)

    monkeypatch.setattr(learning, "fit", spied)
    found = predictor.held_out(both, "dataset")
    assert seen == [{"1-0", "1-1", "1-2"}, {"0-1", "0-2", "0-3"}]
    assert not np.isnan(found).any()


def test_the_same_table_is_judged_the_same() -> None:
    frame = table(3, 200)
    assert np.array_equal(predictor.held_out(frame), predictor.held_out(frame))


def test_roc_and_auc_are_those_of_scikit_learn(known: pd.DataFrame) -> None:
    part = known[known["image"] == "3"]
    harmed = part["error_n"] > part["error_l"]
    expected = metrics.roc_auc_score(harmed, part[predictor.PREDICTED])
    areas = predictor.auc(known).set_index("image")["auc"]
    assert areas["3"] == pytest.approx(expected)
    curve = predictor.roc(known)
    pooled = metrics.roc_auc_score(known["error_n"] > known["error_l"], known[predictor.PREDICTED])
    area = np.trapezoid(curve["true_positive"], curve["false_positive"])
    assert area == pytest.approx(pooled, abs=0.005)


def test_where_both_err_the_same_there_is_nothing_to_predict(known: pd.DataFrame) -> None:
    flat = known.copy()
    flat.loc[flat.index % 3 == 0, "error_n"] = flat["error_l"]
    flat.loc[flat.index % 3 == 0, predictor.PREDICTED] = 0.0
    rest = known[known.index % 3 != 0]
    assert predictor.auc(flat).equals(predictor.auc(rest))
    assert predictor.roc(flat).equals(predictor.roc(rest))


def test_risk_falls_with_coverage_and_lies_between_coin_and_truth(known: pd.DataFrame) -> None:
    curve = predictor.risk_coverage(known, points=10)
    assert curve["coverage"].to_numpy() == pytest.approx(np.linspace(0.1, 1, 10))
    assert curve["risk"].is_monotonic_increasing
    assert (curve["ideal"] <= curve["risk"]).all()
    assert (curve["risk"] <= curve["coin"] + 1e-12).all()
    last = curve.iloc[-1]
    rate = float((known["error_n"] > known["error_l"]).mean())
    assert (last["risk"], last["ideal"], last["coin"]) == pytest.approx((rate, rate, rate))


def psnr(mse: float) -> float:
    return float(10 * np.log10(255**2 / mse))


def test_a_gate_scores_what_it_takes(known: pd.DataFrame) -> None:
    scores = predictor.gate(known, predictor.COSTS).set_index("image")
    for image, part in known.groupby("image"):
        row, total = scores.loc[image], 0.0
        for n, l, p in part[["error_n", "error_l", predictor.COSTS]].to_numpy():
            total += l if p > 0.5 else n
        assert row["psnr_gate"] == pytest.approx(psnr(total / len(part)))
        assert row["rate"] == pytest.approx((part[predictor.COSTS] > 0.5).mean())
        assert row["selection_bound"] >= row["psnr_gate"]
        assert row["psnr_gate"] > max(row["psnr_coin"], row["psnr_with"])
        assert row["psnr_mean"] == pytest.approx(psnr(part["error_mean"].mean()))


def test_the_coin_s_expectation_is_that_of_many_coins(known: pd.DataFrame) -> None:
    part = known[known["image"] == "0"]
    (row,) = predictor.gate(part).to_dict("records")
    tosses = RNG.random((4000, len(part))) < row["rate"]
    errors = np.where(tosses, part["error_l"], part["error_n"]).mean(axis=1)
    assert row["psnr_coin"] == pytest.approx(psnr(errors.mean()), abs=0.002)


def test_costs_decide_where_harm_is_rare_but_dear() -> None:
    """One position in four loses 90, the others win 10: N costs more though it seldom harms."""
    frame = table(6, 400, tells=0.0)
    dear = np.arange(len(frame)) % 4 == 0
    frame["error_n"] = frame["error_l"] + np.where(dear, 90.0, -10.0)
    frame["difference"] = 0.0
    frame["variance"] = 0.0
    assert (predictor.held_out(frame) < 0.5).all()
    assert (predictor.held_out(frame, costs=True) > 0.5).all()


def test_the_gated_picture_has_the_gate_s_psnr() -> None:
    shape = (24, 28)
    hr, n, l = (RNG.integers(0, 256, (2 * shape[0], 2 * shape[1]), np.uint8) for _ in range(3))
    chance = RNG.random(shape)
    chance[0] = np.nan
    made = predictor.gated_output(n, l, chance)
    errors = [subpixel.block_error(sr, hr, 2) for sr in (n, l)]
    expected = np.where(chance > 0.5, errors[1], errors[0])
    assert subpixel.block_error(made, hr, 2) == pytest.approx(expected)
    colour = predictor.gated_output(np.dstack([n] * 3), np.dstack([l] * 3), chance)
    assert np.array_equal(colour[:, :, 1], made)
    with pytest.raises(InputError, match="outputs to gate"):
        predictor.gated_output(n, l[:-2], chance)


def test_a_map_of_probabilities_is_the_model_s(known: pd.DataFrame) -> None:
    model = predictor.fit(known)
    part = known[known["image"] == "0"].iloc[:60]
    maps = {name: part[name].to_numpy().reshape(6, 10) for name in predictor.FEATURES}
    maps["entropy"] = np.full((6, 10), np.nan)  # a network that has no such signal
    chance = predictor.probability(model, maps)
    values = part[list(predictor.FEATURES)].assign(entropy=-1.0).fillna(-1.0)
    expected = model.predict_proba(values.to_numpy(np.float32))[:, 1]
    assert chance.shape == (6, 10)
    assert chance.ravel().tolist() == expected.tolist()
    with pytest.raises(InputError, match="no drawn_more"):
        predictor.probability(model, {k: v for k, v in maps.items() if k != "drawn_more"})


def test_a_map_without_the_signals_of_the_fit_is_refused() -> None:
    frame = table().assign(entropy=np.float32(2))
    model = predictor.fit(frame)
    maps = {name: np.zeros((4, 5)) for name in predictor.FEATURES}
    predictor.probability(model, maps)
    flat = maps | {"inconsistency_drawn": np.full((4, 5), np.nan)}  # no detail: nothing to differ
    assert np.isfinite(predictor.probability(model, flat)).all()
    with pytest.raises(InputError, match="found no entropy"):
        predictor.probability(model, maps | {"entropy": np.full((4, 5), np.nan)})


def test_ties_do_not_make_a_coin_look_good() -> None:
    """Harm is a coin, and a third of the positions tie where variance is small."""
    frame = table(6, 900, tells=0.0)
    rng = np.random.default_rng(5)
    flat = np.arange(len(frame)) % 3 == 0
    error = rng.gamma(4, 20, len(frame))
    frame["error_l"] = error
    frame["error_n"] = error + np.where(flat, 0.0, rng.choice([-5.0, 5.0], len(frame)))
    frame["variance"] = np.where(flat, 0.0, 9.0)
    judged = predictor.judged(frame)
    curve = predictor.risk_coverage(judged)
    assert (curve["risk"] - curve["coin"]).iloc[9:].abs().max() < 0.04
    score, base = predictor.brier(judged)
    assert score > base - 0.002
    shuffled = predictor.importance(frame).set_index("feature")["importance"]
    assert abs(shuffled["variance"]) < 0.03
    assert predictor.reliability(judged)["positions"].sum() == (~flat).sum()


@pytest.mark.parametrize(
    ("frame", "by", "message"),
    [
        (table(2, 50), "picture", "pictures to hold out: expected 3 or more; found 2"),
        (table(4, 50), "dataset", "datasets to hold out: expected 2 or more; found 1"),
        (
            table(4, 50).assign(error_n=1e9),
            "picture",
            "pictures to learn harm from: .* with one of them only",
        ),
    ],
)
def test_too_little_to_learn_from_is_refused(frame: pd.DataFrame, by: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predictor.held_out(frame, by)


def test_the_feature_that_tells_is_named_first() -> None:
    found = predictor.importance(table(6, 400))
    assert found["feature"][0] == "difference"
    assert found["importance"][0] > 0.1


# --- features -------------------------------------------------------------------------------


def outputs(seed: int = 0, scale: int = 2) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    hr = rng.integers(0, 256, (2 * 20, 2 * 22, 3)).astype(np.uint8)
    near = [np.clip(hr + rng.integers(-9, 10, hr.shape), 0, 255).astype(np.uint8) for _ in "nl"]
    return images.degrade(hr, scale), *near


def test_no_feature_can_see_the_truth() -> None:
    assert not {"hr", "y", "truth"} & set(inspect.signature(predictor.describe).parameters)
    assert not [name for name in predictor.FEATURES if name.startswith("error")]


def test_features_are_what_they_say() -> None:
    lr, n, l = outputs()
    maps = predictor.describe(lr, n, l, 2)
    assert tuple(maps) == predictor.FEATURES
    assert all(m.shape == lr.shape[:2] for m in maps.values())
    assert np.isnan(maps["entropy"]).all()
    y_n, y_l = images.luma(n), images.luma(l)
    block = (y_n[8:10, 12:14] - y_l[8:10, 12:14]) ** 2
    assert maps["difference"][4, 6] == pytest.approx(block.mean())
    down = images.luma(images.degrade(n, 2)), images.luma(lr)
    assert maps["unfaithful"][4, 6] == pytest.approx((down[0][4, 6] - down[1][4, 6]) ** 2)
    up = images.luma(images.imresize(images.degrade(n, 2), 2))
    assert maps["drawn"][4, 6] == pytest.approx(((y_n - up)[8:10, 12:14] ** 2).mean())
    other = predictor.describe(lr, l, n, 2)
    assert other["drawn_more"] == pytest.approx(-maps["drawn_more"])
    assert other["unfaithful_more"] == pytest.approx(-maps["unfaithful_more"])
    same = predictor.describe(lr, n, n, 2)
    assert not same["difference_around"].any()


def test_signals_are_those_of_the_attention_and_of_the_hash(tmp_path: Path) -> None:
    network = small("dtfn", res_scale=1.0)
    name = saved(tmp_path, "dtfn", res_scale=1.0)
    hr = RNG.integers(0, 256, (28, 36, 3)).astype(np.uint8)
    sample = datasets.Sample("set", "noise", 2, images.degrade(hr, 2), hr)
    sr = evaluation.upscale(network, sample.lr)
    maps = signals.of_network(name, sample, sr, step=1)
    x = torch.from_numpy(sample.lr).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode(), capture.record(network) as record:
        network(x)
    expected = np.mean([record.summary(name)["entropy"] for name in record.layers], axis=0)
    assert maps["entropy"].ravel() == pytest.approx(expected, abs=1e-3)
    sampled = signals.of_network(name, sample, sr, step=4)
    assert sampled["entropy"][::4, ::4] == pytest.approx(maps["entropy"][::4, ::4], abs=1e-3)
    with interventions.hash_seed(network, 1):
        other = evaluation.upscale(network, sample.lr)
    expected = subpixel.block_error(images.luma(other), images.luma(sr), 2)
    assert maps["hash_difference"] == pytest.approx(expected)
    assert maps["hash_difference"].any()
    assert "hash_difference" not in signals.of_network(saved(tmp_path, "nln"), sample, sr)


def test_signals_are_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = saved(tmp_path, "dtfn")
    hr = RNG.integers(0, 256, (28, 36, 3)).astype(np.uint8)
    sample = datasets.Sample("set", "noise", 2, images.degrade(hr, 2), hr)
    maps = signals.of_network(name, sample, sample.hr)
    monkeypatch.setattr(evaluation, "upscale", None)
    monkeypatch.setattr(capture, "record", None)
    again = signals.of_network(name, sample, sample.hr)
    assert all(np.array_equal(again[key], values) for key, values in maps.items())
    with pytest.raises(TypeError):
        signals.of_network(name, sample, sample.hr, step=2)


def test_collect_measures_every_position(monkeypatch: pytest.MonkeyPatch) -> None:
    lr, n, l = outputs()
    hr = outputs(1)[1]
    sample = datasets.Sample("mini", "a", 2, lr, hr)

    def samples(*_: object) -> Iterator[datasets.Sample]:
        yield sample

    monkeypatch.setattr(evaluation, "samples", samples)
    monkeypatch.setattr(evaluation, "require", lambda *_: None)
    monkeypatch.setattr(evaluation, "fingerprint", lambda name: name)
    made = {"n": Output(n, 0.0), "l": Output(l, 0.0)}
    monkeypatch.setattr(evaluation, "outputs", lambda *_: made)
    monkeypatch.setattr(signals, "of_network", lambda *_: {"entropy": np.full((20, 22), 3.0)})
    frame = predictor.collect("n", "l", ["mini"], 2)
    assert len(frame) == 18 * 20
    assert (frame["row"].min(), frame["column"].max()) == (1, 20)
    assert (frame["entropy"] == 3).all()
    error = subpixel.interior(subpixel.block_error(n, hr, 2)).ravel()
    assert frame["error_n"].to_numpy() == pytest.approx(error)
    mean = (images.luma(n) + images.luma(l)) / 2
    error = subpixel.interior(subpixel.block_error(mean, images.luma(hr), 2)).ravel()
    assert frame["error_mean"].to_numpy() == pytest.approx(error)
    with pytest.raises(InputError, match="two different networks"):
        predictor.collect("n", "n", ["mini"], 2)
