"""What networks of a zoo attend to: against `dtfn.capture` itself, and what the figures show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from dtfn import (
    attended,
    attribution,
    capture,
    evaluation,
    models,
    paths,
    texture,
    zoo,
)
from dtfn.attended import Look
from dtfn.attribution import Attribution, Local
from dtfn.datasets import Sample
from dtfn.images import degrade, luma
from dtfn.plots import WIDTH, curves, pictures

SCALE = 2
QUERIES = [(3, 4), (10, 7)]
NAMES = ["mini-local", "mini-nla", "mini-dtfn", "mini-nla+tfs"]


@pytest.fixture(scope="module")
def sample() -> Sample:
    rng = np.random.default_rng(0)
    hr = rng.integers(0, 256, (36, 44, 3), dtype=np.uint8)
    return Sample("set", "noise", SCALE, degrade(hr, SCALE), hr)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Weights files of tiny networks whose deformable values are deformed."""
    folder: Path = tmp_path_factory.mktemp("weights")
    made = {}
    for name in NAMES:
        torch.manual_seed(0)
        network = models.create(name, SCALE, n_feats=16, n_resblocks=1, n_resgroups=2)
        for key, weight in network.named_parameters():
            if "offset_conv" in key or key.startswith("tail"):
                torch.nn.init.normal_(weight, std=0.05)
        made[name] = str(folder / f"{name}.safetensors")
        models.save(network, Path(made[name]))
    return made


@pytest.fixture(scope="module")
def found(sample: Sample, files: dict[str, str]) -> list[Look]:
    return attended.looks(list(files.values()), sample, QUERIES)


def test_a_look_is_the_recorded_map(
    found: list[Look], sample: Sample, files: dict[str, str]
) -> None:
    assert len(found) == 3 * 2 * 2, "three networks with attention, two layers, two queries"
    assert files["mini-local"] not in {look.network for look in found}
    for look in found:
        network = models.load(look.network)
        with capture.record(network) as record:
            evaluation.upscale(network, sample.lr)
        assert record.layers[look.place - 1] == look.layer
        expected = record.map(look.layer, look.query).numpy()
        np.testing.assert_allclose(look.map, expected, atol=1e-7)
        assert look.deviation < 1e-5
        order = [look.map[at] for at in look.strongest(5)]
        assert order == sorted(look.map.ravel(), reverse=True)[:5]


def test_deformable_looks_tell_where_the_strongest_value_is_read(
    found: list[Look], sample: Sample, files: dict[str, str]
) -> None:
    for look in found:
        assert (look.points is not None) == (look.network == files["mini-dtfn"])
        if look.points is not None:
            network = models.load(look.network)
            with capture.record(network) as record:
                evaluation.upscale(network, sample.lr)
            expected, _ = record.sampling_points(look.layer, look.strongest(1)[0])
            np.testing.assert_allclose(look.points, expected.numpy(), atol=1e-5)
    table = attended.sampling(found)
    assert len(table) == 2 * 2 * 9
    assert table["modulation"].between(0, 2).all()


def test_looks_and_summaries_are_found_once(
    sample: Sample, files: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    deformable = [files["mini-dtfn"]]
    first = attended.looks(deformable, sample, QUERIES)
    table = attended.summaries(deformable, [sample], files["mini-local"], every=6)
    monkeypatch.setattr(evaluation, "upscale", None)
    again = attended.looks(deformable, sample, QUERIES)
    for known, one in zip(first, again, strict=True):
        assert (known.layer, known.query, known.deviation) == (one.layer, one.query, one.deviation)
        assert np.array_equal(known.map, one.map)
        assert known.points is not None
        assert one.points is not None
        assert np.array_equal(known.points, one.points)
    same = attended.summaries(deformable, [sample], files["mini-local"], every=6)
    pd.testing.assert_frame_equal(same, table)
    with pytest.raises(TypeError):
        attended.looks(deformable, sample, [(5, 5)])


def test_deviation_sees_another_layer(sample: Sample, files: dict[str, str]) -> None:
    """It is no number that is always small: values that are not the layer's are far off."""
    network = models.load(files["mini-nla"])
    with capture.record(network) as record:
        evaluation.upscale(network, sample.lr)
    layer = record.layers[0]
    assert record.deviation(layer, QUERIES) < 1e-5
    maps = record.maps(layer, QUERIES)
    record._known[layer, 0] = type(record._known[layer, 0])(
        18, 22, 396, lambda at: (torch.zeros(len(at), 1).long(), torch.ones(len(at), 1))
    )
    assert not torch.equal(record.maps(layer, QUERIES), maps)
    assert record.deviation(layer, QUERIES) > 1e-3


def test_copies_are_the_strongest_with_their_inconsistency(
    found: list[Look], sample: Sample
) -> None:
    table = attended.copies(found, sample, most=3)
    details = texture.detail_blocks(sample.hr, SCALE).astype(float)

    assert len(table) == 3 * len(found)
    for n, look in enumerate(found):
        part = table.iloc[3 * n : 3 * n + 3]
        assert set(part["network"]) == {look.network}
        assert list(zip(part["row"], part["column"], strict=True)) == look.strongest(3)
        for row in part.itertuples():
            assert (row.query_row, row.query_column, row.place) == (*look.query, look.place)
            assert row.weight == look.map[row.row, row.column]
            own = details[look.query[0] * 22 + look.query[1]]
            other = details[row.row * 22 + row.column]
            assert row.inconsistency == pytest.approx(((own - other) ** 2).sum() / (own**2).sum())
    last = attended.last_layer(found)
    assert [look.place for look in last] == [2] * 6


def test_summaries_are_those_of_the_record(sample: Sample, files: dict[str, str]) -> None:
    table = attended.summaries(
        [files["mini-local"], files["mini-dtfn"]],
        [sample],
        files["mini-local"],
        every=6,
        hash_seeds=(0, 1),
    )

    assert set(table["network"]) == {files["mini-dtfn"]}
    rows = [3, 9, 15]
    assert sorted(table["row"].unique()) == rows
    network = models.load(files["mini-dtfn"])
    with capture.record(network) as record:
        sr = evaluation.upscale(network, sample.lr)
    details = texture.detail_blocks(sample.hr, SCALE)
    queries = [(row, column) for row in rows for column in (3, 9, 15, 21)]
    expected = record.summary(record.layers[1], queries, details=details, hash_seeds=(0, 1))
    part = table[table["place"] == 2]
    np.testing.assert_allclose(part["disagreeing"], expected["disagreeing"], atol=1e-6)
    np.testing.assert_allclose(part["agreement"], expected["agreement"], atol=1e-6)
    apart = ((details[9 * 22 + 15] - details.astype(float)) ** 2).sum(1)
    disagree = np.mean(apart > (details[9 * 22 + 15].astype(float) ** 2).sum())
    assert part[(part["row"] == 9) & (part["column"] == 15)]["chance"].item() == disagree
    np.testing.assert_allclose(part["share"], expected["support"] / 396, rtol=1e-5)
    local = evaluation.upscale(models.load(files["mini-local"]), sample.lr)
    error = [_mse(one, sample.hr, (9, 15)) for one in (sr, local)]
    at = part[(part["row"] == 9) & (part["column"] == 15)]["harm"]
    assert at.item() == pytest.approx(error[0] - error[1])


def _mse(sr: Any, hr: Any, at: tuple[int, int]) -> float:
    block = np.s_[SCALE * at[0] : SCALE * (at[0] + 1), SCALE * at[1] : SCALE * (at[1] + 1)]
    return float(np.mean((luma(sr)[block] - luma(hr)[block]) ** 2))


# ---------------------------------------------------------------- where to look


def test_attentive_variants_are_those_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("local", 4, 0), ("local-wide", 4, 0), ("nla+tfs", 4, 0), ("nla", 2, 0), ("dtfn", 4, 1)]
    made = [{"variant": v, "scale": s, "seed": k} for v, s, k in rows]
    monkeypatch.setattr(zoo, "registry", lambda: made)
    assert attended.attentive(4, 0) == ["nla+tfs"]


# ---------------------------------------------------------------- attribution around a query


def test_attribution_around_a_query_is_that_of_the_crop(
    sample: Sample, files: dict[str, str]
) -> None:
    (one,) = attribution.around([files["mini-nla"]], sample, [(2, 20)], side=12, patch=4, steps=2)

    assert one.crop == (0, 10, 12, 12)
    assert one.window == (0, 18, 4, 4)
    network = models.load(files["mini-nla"])
    expected = attribution.attribute(network, sample.lr[:12, 10:22], (0, 8, 4, 4), steps=2)
    np.testing.assert_allclose(one.found.map, expected.map, atol=1e-7)
    assert attribution.numbers([one])["diffusion"].item() == pytest.approx(one.found.diffusion)


@pytest.mark.parametrize(
    ("middle", "expected"), [((0, 0), (0, 0)), ((9, 11), (5, 7)), ((17, 21), (10, 14))]
)
def test_a_square_stays_in_the_picture(middle: tuple[int, int], expected: tuple[int, int]) -> None:
    assert attribution.square(middle, 8, (18, 22, 3)) == (*expected, 8, 8)
    assert attribution.square(middle, 90, (18, 22, 3)) == (0, 0, 18, 22)


# ---------------------------------------------------------------- figures


def local_of(name: str) -> Local:
    values = np.random.default_rng(0).normal(size=(12, 12))
    return Local(name, QUERIES[0], (0, 0, 12, 12), (1, 2, 4, 4), Attribution(values, 0.0, 1.0))


def test_maps_have_a_row_a_network_and_the_attribution_last(
    found: list[Look], sample: Sample, files: dict[str, str]
) -> None:
    one = attended.at(found, QUERIES[0])
    figure = pictures.attention_maps(one, [local_of(name) for name in files.values()], sample)
    figure.draw_without_rendering()

    shown = [ax for ax in figure.axes if ax.get_visible()]
    titles = [ax.get_title().partition(":")[0] for ax in shown]
    assert titles == ["layer 1", "layer 2", "attribution"] * 3 + [files["mini-local"]]
    support = float(np.exp(-np.sum(one[0].map * np.log(one[0].map))))
    assert shown[0].get_title() == f"layer 1: {support:,.0f} positions"
    cross = next(line for line in shown[0].lines if line.get_marker() == "+")
    assert (cross.get_xdata(), cross.get_ydata()) == ([QUERIES[0][1]], [QUERIES[0][0]])
    rings = [line for line in shown[0].lines if line.get_marker() == "o"]
    at = [(int(r.get_ydata()[0]), int(r.get_xdata()[0])) for r in rings]  # type: ignore[index,call-overload,arg-type]
    assert at == one[0].strongest()
    assert figure.get_figwidth() <= WIDTH
    for ax in shown:
        assert all(image.get_interpolation() == "nearest" for image in ax.get_images())


def test_copies_frame_what_disagrees(found: list[Look], sample: Sample) -> None:
    table = attended.copies(attended.at(attended.last_layer(found), QUERIES[1]), sample)
    figure = pictures.copied_patches(table, sample, most=4)
    figure.draw_without_rendering()

    part = table[table["network"] == table["network"].iloc[0]].head(4)
    for ax, row in zip(figure.axes[1:5], part.itertuples(), strict=True):
        ink = pictures.BAD if row.inconsistency > 1 else pictures.GOOD
        assert to_hex(ax.spines["top"].get_edgecolor()) == ink.lower()
        x, y = SCALE * row.column, SCALE * row.row
        (block,) = (p for p in ax.patches if isinstance(p, Rectangle))
        assert block.get_xy() == (x - 0.5, y - 0.5)
        image = ax.get_images()[0]
        left, _, _, top = image.get_extent()
        pixels = np.asarray(image.get_array())
        inside = pixels[y - int(top + 0.5), x - int(left + 0.5)]
        np.testing.assert_array_equal(inside, sample.hr[y, x])


def test_sampling_draws_the_points(found: list[Look], sample: Sample) -> None:
    one = attended.at(found, QUERIES[0])
    figure = pictures.sampling_points(one, sample)
    figure.draw_without_rendering()
    deformed = [look for look in one if look.points is not None]
    for ax, look in zip(figure.axes, deformed, strict=True):
        offsets = np.asarray(ax.collections[0].get_offsets())
        assert look.points is not None
        np.testing.assert_allclose(offsets[:, ::-1], look.points)


def test_nothing_to_draw_says_so(sample: Sample) -> None:
    empty = attended.copies([], sample)
    for figure in (
        pictures.attention_maps([], [], sample),
        pictures.copied_patches(empty, sample),
        pictures.sampling_points([], sample),
        curves.attention_by_layer(pd.DataFrame()),
    ):
        assert figure.texts[0].get_text().startswith("no network")


# ---------------------------------------------------------------- verdicts
