"""Published values, how measured values are compared with them, and who beats whom."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_networks as tiny
from tiny import refused

from dtfn import datasets, evaluation, images, methods, models, paths, published, zoo
from dtfn.published import DIFFERS, MATCHES, NOT_WHOLE, UNPUBLISHED
from dtfn.statistics import LEAST
from dtfn.tiling import Tiling


def results(name: str, scale: int, of: str, pictures: int, psnr: float, ssim: float = 0.8) -> Any:
    """A table of `Study.measure` for one method, ``mine``, with a mean PSNR."""
    spread = np.linspace(-2, 2, pictures)
    columns = {"dataset": of, "scale": scale, "published": name, "ssim": ssim, "seconds": 0.0}
    images = [f"{i:03}" for i in range(pictures)]
    return pd.DataFrame({"image": images, "method": "mine", "psnr": psnr + spread, **columns})


def test_every_line_of_the_file_is_a_value_and_the_field_has_one_a_cell() -> None:
    values = published.values()
    assert len(values) == 471
    assert values["psnr"].between(20, 45).all()
    assert values["ssim"].dropna().between(0.5, 1).all()
    assert set(values["scale"]) == {2, 3, 4}
    assert set(values["dataset"]) == set(published.SIZES)
    assert not values.duplicated(["method", "scale", "dataset", "table", "remeasured"]).any()
    every, only = published.sources([2, 3, 4]), published.sources([3])
    assert every["values"].sum() == len(values)
    assert only["values"].sum() == (values["scale"] == 3).sum()
    field = published.of_the_field([2, 3, 4])
    assert not field.duplicated(["method", "scale", "dataset"]).any()
    assert list(field["dataset"].unique()) == ["Set5", "Set14", "BSD100", "Urban100", "Manga109"]
    cells = field[(field["scale"] == 4) & (field["dataset"] == "Set5")].set_index("method")["psnr"]
    assert (cells["EDSR"], cells["EDSR (re-measured by torchSR)"]) == (32.46, 32.48)


@pytest.mark.parametrize("measured", [28.4349, 28.4051, 28.4049, 28.4351, float("inf")])
def test_a_match_is_to_a_hundredth_of_what_is_printed(measured: float) -> None:
    table = published.compare(results("Bicubic", 4, "Set5", 5, measured, 0.8104))
    (row,) = table.to_dict("records")
    verdict = MATCHES if measured in (28.4349, 28.4051) else DIFFERS
    assert (row["verdict"], row["published psnr"]) == (verdict, 28.42)
    assert row["difference psnr"] == pytest.approx(measured - 28.42)
    assert row["difference ssim"] == pytest.approx(0)
    assert row["published in"] == "RCAN paper table; RDN paper table"
    (judged,) = published.verdicts(table)
    assert judged.holds == (verdict == MATCHES)


def test_part_of_a_benchmark_is_not_judged() -> None:
    rows = published.compare(results("Bicubic", 4, "Set5", 3, 28.42))
    assert rows["verdict"].tolist() == [NOT_WHOLE]
    (verdict,) = published.verdicts(rows)
    assert verdict.holds is None
    assert str(verdict.measured).startswith("no whole benchmark")
    rows = published.compare(results("EDSR", 4, "Set5", 5, 32.48))
    again = rows["published in"].str.contains("re-measured")
    assert rows[again]["published psnr"].tolist() == [32.48]
    assert rows[again]["verdict"].tolist() == [MATCHES]
    assert 32.46 in rows[~again]["published psnr"].tolist()
    (verdict,) = published.verdicts(rows)
    assert (verdict.holds, verdict.measured) == (True, "1 of 1 benchmarks")


def test_a_method_without_published_values_has_one_row() -> None:
    one, two = results("NLA", 4, "Set5", 5, 31.0), results("NLA", 4, "Set14", 14, 28.0)
    others = results("Bicubic", 4, "mini", 7, 28.0), results("Bicubic", 2, "B100", 100, 29.56)
    rows = published.compare(pd.concat([pd.concat([one, two]).assign(method="nla"), *others]))
    assert rows["method"].tolist() == ["nla", "mine", "mine"]
    assert rows["verdict"].tolist() == [UNPUBLISHED, UNPUBLISHED, MATCHES]
    assert rows["published psnr"].isna().tolist() == [True, True, False]
    assert rows["dataset"].isna().tolist() == [True, True, False]
    assert rows["dataset"].iloc[2] == "B100", "BSD100 by its other name"


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_matches(benchmarks: Path, scale: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTFN_DATA", str(benchmarks))
    measured = evaluation.evaluate("bicubic", ["Set5", "Set14"], scale, grey="y")
    table = published.compare(measured.assign(published="Bicubic"))
    assert len(table) == 2
    assert set(table["verdict"]) == {MATCHES}
    assert table["difference ssim"].abs().max() < 0.0015


def test_bicubic_has_a_row_for_each_rule_where_they_differ() -> None:
    """The first pictures of mini: one in colour, one grey."""
    both = published.Study(["mini"], [4], methods=["bicubic"], count=2).measure()
    means = both.groupby("method")["psnr"].mean()
    assert list(means.index) == ["bicubic", published.CLASSICAL]
    assert means["bicubic"] - means[published.CLASSICAL] == pytest.approx(1.3219 / 2, abs=1e-4)
    named = both.drop_duplicates("method").set_index("method")["published"]
    assert named.to_dict() == {"bicubic": "", published.CLASSICAL: "Bicubic"}
    colour = published.Study(["mini"], [4], methods=["bicubic"], count=1).measure()
    assert set(colour["published"]) == {"Bicubic"}


def test_a_gain_holds_a_loss_does_not_and_noise_is_open() -> None:
    base = results("", 4, "mini", 20, 25.0).assign(method="bicubic")
    shifts = {"up": 1.0, "down": -1.0, "noise": np.random.default_rng(0).normal(0, 1, 20)}
    others = [base.assign(method=name, psnr=base["psnr"] + up) for name, up in shifts.items()]
    table = pd.concat([base, *others])
    verdicts = published.beats(table, list(shifts))
    assert [v.holds for v in verdicts] == [True, False, None]
    assert verdicts[0].measured == pytest.approx(1.0)
    assert verdicts[0].interval is not None
    (verdict,) = published.beats(table[table["image"] < f"{LEAST - 1:03}"], ["up"])
    assert (verdict.holds, verdict.interval) == (None, None)


# --- a study: ways, scales, folders of pictures, and what is left out ---
@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark of two pictures, one imported network a scale, no zoo."""
    monkeypatch.setattr(paths, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(paths, "ZOO", tmp_path / "zoo")
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("DTFN_DATA", str(tmp_path / "data"))
    rng = np.random.default_rng(0)
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
    for sample in datasets.benchmark("toy", scale):
        made = images.imresize(sample.lr, scale)
        images.write(folder / f"{sample.image}_CUBIC_x{scale}.png", made)
    return world / "results"


def measure(of: list[str], scales: list[int], folders: Any = (), **how: Any) -> pd.DataFrame:
    return published.Study(of, scales, **how).measure(folders)


def test_every_way_of_every_network_is_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a measurement and of its forecast; where the card names tiles, the method does."""
    monkeypatch.setattr(evaluation, "_cost", lambda *_: (2.0**20, 1.0, 1e-4))
    how: dict[str, Any] = {"tilings": ["whole", "chop", "40"], "ensembles": [False, True]}
    study = published.Study(["toy"], [2, 4], **how)
    runs = study.forecast().set_index("method")["tiles"]
    table = study.measure()
    ways = ["", ", chop", ", tiles of 40"]
    names = {f"edsr-x4{plus}{way}" for plus in ("", "+") for way in ways}
    assert set(table[table["scale"] == 4]["method"]) == {"bicubic", *names}
    assert len(table) == 2 * 7 * 2
    assert set(runs.index) == set(table["method"]) - {"bicubic"}
    assert (runs["edsr-x4"], runs["edsr-x4+, chop"]) == (2, 2 * 4 * 8)
    assert (study.forecast()["pictures"] == 0).all(), "all is known"
    assert published.Study(["toy"], [3]).forecast().empty
    psnr = table[table["scale"] == 4].groupby("method")["psnr"].mean()
    assert psnr["edsr-x4"] == psnr["edsr-x4, tiles of 40"]  # a tile larger than the picture
    assert psnr["edsr-x4"] != psnr["edsr-x4+"]
    monkeypatch.setattr(methods, "card_tiling", lambda name: Tiling(8, 1))
    tiled = measure(["toy"], [4], methods=["edsr-x4"])
    assert set(tiled["method"]) == {"edsr-x4, tiles of 8"}
    assert tiled["psnr"].mean() != psnr["edsr-x4"]


def test_a_folder_of_pictures_is_a_method(world: Path) -> None:
    spec = f"cubic={others_pictures(world, 4)}/{{dataset}}/x{{scale}}"
    table = measure(["toy", "mini"], [2, 4], [spec], methods=["bicubic"], count=2)
    table = table[table["dataset"] == "toy"].set_index(["scale", "image"])
    table = table[["method", "psnr", "ssim"]]
    ours, theirs = (table[table["method"] == name] for name in ("bicubic", "cubic"))
    assert set(theirs.index.get_level_values("scale")) == {4}
    pd.testing.assert_frame_equal(theirs.iloc[:, 1:], ours.loc[[4]].iloc[:, 1:])


def test_folders_and_benchmarks_that_are_absent_are_named() -> None:
    for spec, message in {"=x": "NAME=FOLDER", "me=nowhere/{dataset}": "nowhere/toy"}.items():
        refused(message, measure, ["toy"], [4], [spec], methods=["bicubic"])
    assert published.present(["toy"], ["Manga109", "mini"]) == (["toy", "mini"], ["Manga109"])
    refused("dtfn data fetch Manga109", published.present, ["toy", "Manga109"], [])
    study = published.Study(["toy"], [2, 4])
    assert [study.contenders(scale) for scale in (4, 3)] == [["bicubic", "edsr-x4"], ["bicubic"]]
    assert study.files() == [zoo.file_of("edsr-x2"), zoo.file_of("edsr-x4")]
    assert published.Study(["toy"], [2], ["edsr-x4", "edsr-x2"]).contenders(2) == ["edsr-x2"]


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
