"""What networks of a zoo attend to: against `dtfn.capture` itself, and what the figures show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from dtfn import attended, capture, evaluation, models, paths, texture
from dtfn.attended import Look
from dtfn.datasets import Sample
from dtfn.harm import Pair
from dtfn.images import degrade
from dtfn.plots import WIDTH, pictures
from dtfn.regions import Region

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


def test_looks_are_found_once(
    sample: Sample, files: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    first = attended.looks([files["mini-dtfn"]], sample, QUERIES)
    monkeypatch.setattr(evaluation, "upscale", None)
    again = attended.looks([files["mini-dtfn"]], sample, QUERIES)
    for known, one in zip(first, again, strict=True):
        assert (known.layer, known.query, known.deviation) == (one.layer, one.query, one.deviation)
        assert np.array_equal(known.map, one.map)
    with pytest.raises(TypeError):
        attended.looks([files["mini-dtfn"]], sample, [(5, 5)])


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


def test_the_places_are_in_the_heaviest_textures_of_the_picture_harmed_most(sample: Sample) -> None:
    other = Sample("set", "other", SCALE, sample.lr, sample.hr)
    rows = [
        {"pair": "n", "kind": "switch", "seed": seed, "role": role, "dataset": "set", "q": q}
        | {"image": image, "side": side, "mass": mass, "region": Region(top, top, 3, 3, 9, mass)}
        for seed, role, image, side, q, mass, top in (
            (0, "pair", "noise", "harm", 0.01, 5.0, 2),
            (0, "pair", "noise", "harm", 0.9, 50.0, 4),
            (0, "control 1", "other", "harm", 0.01, 90.0, 4),
            (1, "pair", "other", "harm", 0.01, 90.0, 4),
            (0, "pair", "other", "help", 0.01, -99.0, 6),
            (0, "pair", "noise", "help", 0.01, -7.0, 8),
        )
    ]
    pair, table = Pair("n", "switch", 0, "n", "n@off"), pd.DataFrame(rows)
    chosen, where = attended.places(table, [other, sample], [pair])
    assert chosen is sample
    assert where == {"where n harms most": (3, 3), "where n helps most": (9, 9)}
    for pairs in ([pair], []):
        expected = (sample, {"the middle": (9, 11)})
        assert attended.places(table[:0], [sample, other], pairs) == expected


# ---------------------------------------------------------------- figures


def test_maps_have_a_row_a_network_and_a_panel_a_layer(found: list[Look], sample: Sample) -> None:
    one = attended.at(found, QUERIES[0])
    figure = pictures.attention_maps(one, sample)
    figure.draw_without_rendering()

    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title().partition(":")[0] for ax in shown] == ["layer 1", "layer 2"] * 3
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


def test_without_networks_there_is_nothing_to_draw(sample: Sample) -> None:
    assert not pictures.copied_patches(attended.copies([], sample), sample).axes
