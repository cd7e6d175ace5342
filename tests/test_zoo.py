from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_training as tiny
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dtfn import (
    datasets,
    evaluation,
    images,
    leaks,
    models,
    paths,
    provenance,
    recipes,
    training,
    zoo,
)
from dtfn.errors import InputError
from dtfn.training import retraining
from dtfn.zoo import shipping

PSNR, SSIM = {"Set5": 31.23456789, "Set14": 28.0}, {"Set5": 0.8812345, "Set14": 0.77}
NAME = "dtfn-x2-s0"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    tiny.make(folder)
    return folder


@pytest.fixture(autouse=True)
def _only_the_tiny_world(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.enter(monkeypatch, world)
    monkeypatch.setattr(paths, "ZOO", tmp_path / "zoo")


@pytest.fixture(scope="module")
def run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training run."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        tiny.enter(patch, world)
        training.train(tiny.recipe(), out, accelerator="cpu", threads=1)
    return out


@pytest.fixture
def entry(run: Path) -> dict[str, Any]:
    return shipping.add(run, NAME, PSNR, SSIM)


def test_an_added_network_is_listed_with_what_others_rely_on(
    run: Path, entry: dict[str, Any]
) -> None:
    assert zoo.registry() == [entry] == json.loads((paths.ZOO / "registry.json").read_text())
    assert (entry["name"], entry["variant"], entry["scale"], entry["seed"]) == (NAME, "dtfn", 2, 0)
    assert entry["psnr"] == {"Set5": 31.2346, "Set14": 28.0}
    assert entry["ssim"] == {"Set5": 0.88123, "Set14": 0.77}
    trainable = list(models.load(run / "weights.safetensors").parameters())
    assert entry["parameters"] == sum(p.numel() for p in trainable if p.requires_grad)
    assert entry["sha256"] == provenance.file_hash(paths.ZOO / entry["file"])
    assert zoo.verify() == []


def test_what_is_too_large_is_stored_in_half_precision(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "LARGEST", 1000)
    made = shipping.add(run, NAME, PSNR, SSIM)
    assert made["stored"] == "float16"
    assert "Stored as float16" in zoo.show(NAME)
    assert zoo.verify() == []
    assert zoo.recipe(NAME) == zoo.recipe(str(run / "weights.safetensors"))
    shipped = models.load(NAME).state_dict()
    for key, value in load_file(run / "weights.safetensors").items():
        np.testing.assert_array_equal(shipped[key].numpy(), value.astype("float16"))


def test_a_network_measured_in_tiles_is_run_in_them(run: Path) -> None:
    shipping.add(run, NAME, PSNR, SSIM, tile=(20, 4))
    assert "tiles of 20 LR pixels that overlap by 4" in zoo.show(NAME)
    hr = np.random.default_rng(0).integers(0, 256, (64, 72, 3), np.uint8)
    sample = datasets.Sample("set", "image", 2, images.imresize(hr, 0.5), hr)
    network = models.load(NAME)
    made = evaluation.outputs([NAME], sample)[NAME].image
    tiles, whole = (evaluation.Tiling(size, 4) for size in (20, 1000))
    np.testing.assert_array_equal(made, evaluation.upscale(network, sample.lr, tiles))
    asked = evaluation.outputs([NAME], sample, whole)[NAME].image
    np.testing.assert_array_equal(asked, evaluation.upscale(network, sample.lr))
    assert (made != asked).any()


def test_a_shipped_network_loads_by_name_and_does_what_was_trained(
    run: Path, entry: dict[str, Any], world: Path
) -> None:
    lr = images.as_rgb(images.read(world / "val" / "v" / "3.png"))[:20, :24]
    by_name, by_file = models.load(NAME), models.load(run / "weights.safetensors")
    np.testing.assert_array_equal(evaluation.upscale(by_name, lr), evaluation.upscale(by_file, lr))


def test_the_card_says_how_to_repeat_it(run: Path, entry: dict[str, Any]) -> None:
    card = zoo.show(NAME)
    facts = json.loads((run / "run.json").read_text())
    for part in (
        entry["sha256"], f"{entry['parameters']:,} parameters", "| Set5 | 31.23 / 0.8812 |",
        f"| torch | {facts['versions']['torch']} |", "| learning_rate | `0.001` |", "- Data: t ",
        f"dtfn zoo retrain {NAME}", "Steps: 6, of 4 patches of 12 x 12 LR pixels; 0 skipped",
        "% of it waiting for patches", "1 pictures of v",
    ):  # fmt: skip
        assert part in card
    assert not re.search(r"[{}]", card)
    assert (paths.ZOO / f"{NAME}.csv").read_text() == (run / "history.csv").read_text()


def test_the_recipe_is_read_back_from_the_weights(run: Path, entry: dict[str, Any]) -> None:
    assert zoo.recipe(NAME) == tiny.recipe()
    bare = paths.ZOO / "bare.safetensors"
    save_file({"x": np.zeros(2)}, bare)
    with pytest.raises(InputError, match="expected weights that `dtfn train` wrote"):
        zoo.recipe(str(bare))


def test_adding_again_replaces_and_keeps_the_order(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    network = models.create("mini-local", 3, n_feats=8)
    recipe = {"network": "mini-local", "scale": 3, "seed": 7}
    models.save(network, other / "weights.safetensors", recipe=recipe)
    shipping.add(other, "local-x3-s7", PSNR, SSIM)
    shipping.add(run, NAME, PSNR, SSIM)
    shipping.add(run, NAME, {"Set5": 30.0}, {"Set5": 0.9})
    assert [row["name"] for row in zoo.registry()] == [NAME, "local-x3-s7"]
    assert zoo.entry(NAME)["psnr"] == {"Set5": 30.0}


def test_a_run_from_before_run_json_gets_its_time_from_the_curve(run: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(run, old)
    (old / "run.json").unlink()
    (old / "history.csv").write_text(
        "step,loss,rate,psnr,seconds_per_step,skipped\n3,0.1,1e-3,30,20,0\n6,0.1,1e-3,31,60,2\n"
    )
    assert shipping.add(old, NAME, PSNR, SSIM)["minutes"] == 4.0
    assert "2 skipped as not finite" in zoo.show(NAME)
    assert "waiting for patches" not in zoo.show(NAME)


def test_verify_names_what_is_changed_or_missing(entry: dict[str, Any]) -> None:
    file = paths.ZOO / entry["file"]
    file.write_bytes(file.read_bytes() + b" ")
    (paths.ZOO / f"{NAME}.md").unlink()
    wrong = zoo.verify()
    assert wrong[0].startswith(f"{NAME}.safetensors: expected {entry['sha256'][:12]}, found ")
    assert wrong[1] == f"{NAME}.md: expected a file, found none"
    file.unlink()
    assert zoo.verify()[0].endswith("found no file")


@pytest.mark.parametrize(
    ("name", "psnr", "ssim", "message"),
    [
        ("dtfn-x4-s0", PSNR, SSIM, "expected dtfn-x2-s0, as the recipe says; found 'dtfn-x4-s0'"),
        (NAME, PSNR, {"Set5": 0.9}, "finite means over the same datasets"),
        (NAME, {"Set5": float("nan")}, {"Set5": 0.9}, "finite means"),
        (NAME, {}, {}, "finite means"),
    ],
)
def test_what_does_not_fit_is_not_added(
    run: Path, name: str, psnr: dict[str, float], ssim: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        shipping.add(run, name, psnr, ssim)
    assert zoo.registry() == []


def test_an_unfinished_run_is_not_added(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a finished training run"):
        shipping.add(tmp_path, NAME, PSNR, SSIM)


def test_unknown_names_get_the_nearest(entry: dict[str, Any]) -> None:
    for ask in (zoo.entry, zoo.show, zoo.file_of, zoo.recipe):
        with pytest.raises(InputError, match=f"did you mean '{NAME}'"):
            ask("dtfn-x2-s00")


def test_the_fingerprint_is_of_the_weights_alone(tmp_path: Path) -> None:
    weights = {"a": np.arange(4.0), "b": np.ones((2, 2))}
    prints = []
    for index, (notes, change) in enumerate([("x", 0), ("y", 0), ("x", 1e-9)]):
        file = tmp_path / f"{index}.safetensors"
        save_file({**weights, "a": weights["a"] + change}, file, {"notes": notes})
        prints.append(zoo.fingerprint(file))
    assert prints[0] == prints[1] != prints[2]


def test_reading_the_zoo_needs_no_torch(entry: dict[str, Any]) -> None:
    code = (
        "import sys; from pathlib import Path; from dtfn import paths, zoo;"
        f"paths.ZOO = Path({str(paths.ZOO)!r}); zoo.show({NAME!r}), zoo.recipe({NAME!r}),"
        "zoo.verify(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("largest", [shipping.LARGEST, 1000], ids=["float32", "float16"])
def test_retraining_repeats_the_shipped_weights_bit_by_bit(
    world: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    monkeypatch.setattr(shipping, "LARGEST", largest)
    for index in range(2):
        shutil.copytree(world / "val" / "v", tmp_path / "data" / f"b{index}" / "HR")
    monkeypatch.setenv("DTFN_DATA", str(tmp_path / "data"))
    weights = str(run / "weights.safetensors")
    table = evaluation.evaluate([weights], ["b0"], 2)
    psnr, ssim = float(table["psnr"].mean()), float(table["ssim"].mean())
    shipping.add(run, NAME, {"b0": psnr, "Set5": 31.0}, {"b0": ssim, "Set5": 0.9})
    # The pictures above are those of the validation, which the guard would refuse.
    monkeypatch.setattr(leaks, "guard", lambda pictures: None)
    result = retraining.retrain(NAME, tmp_path / "again", accelerator="cpu", threads=1)
    assert result.identical
    assert list(result.table["dataset"]) == ["b0", "validation"]  # Set5 is not at hand
    assert result.table["difference"].abs().max() < 1e-4  # the registry's rounding
    shipped = paths.ZOO / f"{NAME}.safetensors"
    with safe_open(shipped, "np") as content:
        metadata = content.metadata()
    other = {key: value + value.dtype.type(0.1) for key, value in load_file(shipped).items()}
    save_file(other, shipped, metadata)
    assert not retraining.retrain(NAME, tmp_path / "again", threads=1).identical


def test_what_others_start_from_is_found_and_verified(run: Path, entry: dict[str, Any]) -> None:
    sha256 = shipping.add_start(run, "start-x2")
    file = zoo.file_of("start-x2")
    assert zoo.starts() == {"start-x2": sha256}
    assert sha256 == provenance.file_hash(file)
    assert [row["name"] for row in zoo.registry()] == [NAME]  # it is no result
    for part in (sha256, "| learning_rate | `0.001` |", "start-x2.csv"):
        assert part in zoo.show("start-x2")
    assert zoo.verify() == []
    file.write_bytes(file.read_bytes() + b" ")
    assert zoo.verify()[0].startswith(f"start-x2.safetensors: expected {sha256[:12]}, found ")
    file.unlink()
    (paths.ZOO / "start-x2.csv").unlink()
    assert [line.split(": ")[0] for line in zoo.verify()] == [
        "start-x2.safetensors", "start-x2.csv",
    ]  # fmt: skip
    with pytest.raises(InputError, match="name of a start"):
        shipping.add_start(run, NAME)


def test_a_variant_is_spelled_as_in_its_name() -> None:
    for variant in recipes.VARIANTS:
        assert recipes.split_name(f"{variant}-x4-s1") == (variant, 4, 1)


def test_the_shipped_zoo_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert zoo.verify() == []
    assert {zoo.recipe(row["name"]).start for row in zoo.registry()} <= zoo.starts().keys() | {""}
    for row in zoo.registry():
        assert recipes.split_name(row["name"]) == (row["variant"], row["scale"], row["seed"])
        assert row["name"] in zoo.show(row["name"])
        # At most 0.6 million parameters, in float32.
        assert (paths.ZOO / row["file"]).stat().st_size < 2e6
        assert zoo.recipe(row["name"]).seed == row["seed"]
