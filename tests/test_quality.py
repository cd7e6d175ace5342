"""PSNR and SSIM of everything: ways, scales, folders of pictures, and what is left out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_networks as tiny

from dtfn import datasets, evaluation, images, methods, models, paths, published, zoo
from dtfn.errors import InputError
from dtfn.tiling import Tiling


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark of two pictures, one imported network a scale, no zoo."""
    monkeypatch.setattr(paths, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(paths, "ZOO", tmp_path / "zoo")
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("DTFN_DATA", str(tmp_path / "data"))
    rng = np.random.default_rng(0)
    (tmp_path / "data" / "toy" / "HR").mkdir(parents=True)
    for name in ("a", "b"):
        image = rng.integers(0, 256, (48, 60, 3), dtype=np.uint8)
        images.write(tmp_path / "data" / "toy" / "HR" / f"{name}.png", image)
    for scale in (2, 4):
        file = tiny.write(tmp_path, tiny.state_of(tiny.small("edsr", scale)), f"edsr_x{scale}.pt")
        models.import_weights(file)
    methods._network.cache_clear()
    return tmp_path


def others_pictures(world: Path, scale: int) -> Path:
    """Make a folder of bicubic pictures, named as the field names them."""
    folder = world / "results" / "toy" / f"x{scale}"
    folder.mkdir(parents=True)
    for sample in datasets.benchmark("toy", scale):
        made = images.imresize(sample.lr, scale)
        images.write(folder / f"{sample.image}_CUBIC_x{scale}.png", made)
    return world / "results"


def measure(
    benchmarks: list[str], scales: list[int], folders: Sequence[str] = (), **how: Any
) -> pd.DataFrame:
    return published.Study(benchmarks, scales, **how).measure(folders)


def test_every_way_of_every_network_is_a_method() -> None:
    table = measure(["toy"], [2, 4], tilings=["whole", "chop", "40"], ensembles=[False, True])
    ways = ["", ", chop", ", tiles of 40"]
    names = {f"edsr-x4{plus}{way}" for plus in ("", "+") for way in ways}
    assert set(table[table["scale"] == 4]["method"]) == {"bicubic", *names}
    assert len(table) == 2 * 7 * 2
    psnr = table[table["scale"] == 4].groupby("method")["psnr"].mean()
    assert psnr["edsr-x4"] == psnr["edsr-x4, tiles of 40"]  # a tile larger than the picture
    assert psnr["edsr-x4"] != psnr["edsr-x4+"]


def test_a_network_that_is_measured_in_tiles_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure(["toy"], [4], methods=["edsr-x4"])
    monkeypatch.setattr(methods, "card_tiling", lambda name: Tiling(8, 1))
    tiled = measure(["toy"], [4], methods=["edsr-x4"])
    assert set(whole["method"]) == {"edsr-x4"}
    assert set(tiled["method"]) == {"edsr-x4, tiles of 8"}
    assert whole["psnr"].sum() != tiled["psnr"].sum()


def test_a_folder_of_pictures_is_a_method(world: Path) -> None:
    folder = others_pictures(world, 4)
    spec = f"cubic={folder}/{{dataset}}/x{{scale}}"
    table = measure(["toy", "mini"], [2, 4], [spec], methods=["bicubic"], count=2)
    table = table[table["dataset"] == "toy"].set_index(["scale", "image"])[
        ["method", "psnr", "ssim"]
    ]
    ours, theirs = (table[table["method"] == name] for name in ("bicubic", "cubic"))
    assert set(theirs.index.get_level_values("scale")) == {4}
    pd.testing.assert_frame_equal(theirs.iloc[:, 1:], ours.loc[[4]].iloc[:, 1:])


def test_folders_and_benchmarks_that_are_absent_are_named() -> None:
    for spec, message in {"=x": "NAME=FOLDER", "me=nowhere/{dataset}": "nowhere/toy"}.items():
        with pytest.raises(InputError, match=message):
            measure(["toy"], [4], [spec], methods=["bicubic"])
    assert published.present(["toy"], ["Manga109", "mini"]) == (["toy", "mini"], ["Manga109"])
    with pytest.raises(InputError, match="dtfn data fetch Manga109"):
        published.present(["toy", "Manga109"], [])
    with pytest.raises(InputError, match="at least one that is here; found Manga109"):
        published.present([], ["Manga109"])


def test_networks_of_other_scales_are_left_out() -> None:
    study = published.Study(["toy"], [2, 4])
    assert [study.contenders(scale) for scale in (4, 3)] == [["bicubic", "edsr-x4"], ["bicubic"]]
    assert study.files() == [zoo.file_of("edsr-x2"), zoo.file_of("edsr-x4")]
    named = published.Study(["toy"], [2], ["edsr-x4", "edsr-x2"])
    assert named.contenders(2) == ["edsr-x2"]


def test_only_some_have_a_published_name(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = models.create("edsr", 4, n_feats=64, n_resblocks=16)
    models.import_weights(tiny.write(world, tiny.state_of(base)), "mine")
    fake = [{**row, "full_size": row["name"] == "edsr-x4"} for row in zoo.imported()]
    monkeypatch.setattr(zoo, "imported", lambda: fake)
    spec = f"RCAN={others_pictures(world, 4)}/{{dataset}}/x{{scale}}"
    for size in ("full", "small"):
        table = measure(["toy"], [4], [spec], ensembles=[False, True])
        known = {"RCAN": "RCAN", "bicubic": "Bicubic", "mine": "EDSR-baseline", "mine+": ""}
        known |= {"edsr-x4": "EDSR" if size == "full" else "", "edsr-x4+": ""}
        assert dict(zip(table["method"], table["published"], strict=True)) == known
        fake[:] = [{**row, "full_size": False} for row in fake]


def test_the_forecast_speaks_of_the_same_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = (2.0**20, 1.0, 1e-4)
    monkeypatch.setattr(evaluation, "_cost", lambda *_: cost)
    ways: dict[str, Any] = {"tilings": ["whole", "chop"], "ensembles": [False, True]}
    expected = published.Study(["toy"], [2, 4], **ways).forecast()
    measured = measure(["toy"], [2, 4], **ways)
    named = measured[measured["method"] != "bicubic"]
    assert set(expected["method"]) == set(named["method"])
    runs = expected.set_index("method")["tiles"]
    assert runs["edsr-x4"] == 2
    assert runs["edsr-x4+, chop"] == 2 * 4 * 8
    assert published.Study(["toy"], [3]).forecast().empty
    assert (published.Study(["toy"], [2, 4], **ways).forecast()["pictures"] == 0).all()
