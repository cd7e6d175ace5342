"""Shipped and imported networks: names, files and cards, and how both get there."""

import dataclasses
import json
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_networks as tiny
import torch
from safetensors.torch import save_file
from tiny import refused, said

from dtfn import datasets, evaluation, files, images, methods, models, paths, recipes, tiling, zoo
from dtfn.datasets import Sample

NAME = "dtfn-x2-s0"
TOOL = Path(zoo.__file__).parent.parent / "tools" / "ship.py"
ship = SimpleNamespace(**runpy.run_path(str(TOOL)))
QUALITY = pd.DataFrame({"dataset": ["Set5", "Set14"], "images": [5, 14]})
QUALITY = QUALITY.assign(psnr=[31.23456789, 28.0], ssim=[0.8812345, 0.77])
GATE = {"dataset": "Urban100", "pictures": 100, "off": 0.3, "least": 0.05, "chooses": True}
GATE |= {"uniform": 0.26, "uniform_low": 0.2, "uniform_high": 0.31}


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ZOO", tmp_path / "zoo")
    monkeypatch.setattr(paths, "WEIGHTS", tmp_path / "imported")
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    methods._network.cache_clear()


def shown(name: str) -> str:
    return (paths.ZOO / f"{name}.md").read_text()


def finished(folder: Path, name: str = NAME, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    recipe = recipes.preset(f"demo-{name}", learning_rate=2e-3, steps=6)
    recipe = dataclasses.replace(recipe, **changes)
    torch.manual_seed(0)
    network = models.create(recipe.network, recipe.scale, n_feats=8, n_resgroups=1, n_resblocks=1)
    torch.nn.init.normal_(network.get_parameter("tail.0.weight"), std=0.1)
    models.save(network, folder / "weights.safetensors", recipe=dataclasses.asdict(recipe))
    rows = "step,loss,rate,psnr,seconds_per_step,skipped\n3,0.1,0.001,30.0,20.0,0\n"
    (folder / "history.csv").write_text(f"{rows}6,0.1,0.001,31.0,60.0,2\n")
    run = {"seconds": 90.0, "loader_share": 0.25, "skipped": 2, "processes": 1, "start": "ab12"}
    run |= {"side by side": 9, "note": "From elsewhere."}
    run |= {"versions": {"torch": "9.9"}, "machine": {"device": "cpu"}}
    (folder / "run.json").write_text(json.dumps(run))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return finished(tmp_path / "run")


@pytest.fixture
def entry(run: Path) -> dict[str, Any]:
    return ship.add(run, QUALITY, GATE)


def test_an_added_network_is_listed_and_has_a_card(run: Path, entry: dict[str, Any]) -> None:
    assert zoo.registry() == [entry] == json.loads((paths.ZOO / "registry.json").read_text())
    assert (entry["name"], entry["variant"], entry["scale"], entry["seed"]) == (NAME, "dtfn", 2, 0)
    assert entry["psnr"] == {"Set5": 31.2346, "Set14": 28.0}
    assert entry["ssim"] == {"Set5": 0.88123, "Set14": 0.77}
    assert (entry["gate"], entry["chooses"]) == (0.26, True)
    assert (entry["minutes"], entry["validation_psnr"]) == (1.5, 31.0)
    assert entry["sha256"] == files.sha256(paths.ZOO / entry["file"])
    assert zoo.verify() == []
    assert tiny.same_output(models.load(NAME), models.load(run / "weights.safetensors"))
    assert zoo.recipe(NAME) == zoo.recipe(str(run / "weights.safetensors"))
    card = shown(NAME)
    assert "cost 0.260 dB [0.200, 0.310] on 100 pictures of Urban100: it chooses (" in card
    rows = ("| Set5 | 5 | 31.23 / 0.8812 |", "| learning_rate | `0.002` |")
    assert all(part in card for part in (*rows, entry["sha256"], f"dtfn train {NAME} --out"))
    assert not re.search(r"[{}]", card)
    assert (paths.ZOO / f"{NAME}.csv").read_text() == (run / "history.csv").read_text()


def test_a_network_measured_in_tiles_is_run_in_them(run: Path) -> None:
    ship.add(run, QUALITY, tile=tiling.Tiling(20, 4))
    assert "tiles of 20 LR pixels that overlap by 4" in shown(NAME)
    assert "The network has no attention." in shown(NAME)
    picture = sample(2, 32, 36)
    output = evaluation.outputs([NAME], picture)[NAME]["image"]
    tiled = evaluation.upscale(models.load(NAME), picture.lr, tiling.Tiling(20, 4))
    np.testing.assert_array_equal(output, tiled)
    assert (output != evaluation.upscale(models.load(NAME), picture.lr)).any()


def test_a_large_network_is_shipped_in_half_precision(tmp_path: Path, monkeypatch: Any) -> None:
    run = finished(tmp_path, NAME)
    monkeypatch.setitem(ship.add.__globals__, "LARGEST", 1000)
    assert len({ship.add(run, QUALITY, GATE)["sha256"] for _ in range(9)}) == 1
    whole = models.load(run / "weights.safetensors").state_dict()
    for key, value in models.load(NAME).state_dict().items():
        assert torch.equal(value, whole[key].half().float())
    assert "The weights are stored in half precision." in shown(NAME)


def test_a_folder_of_runs_is_measured_and_shipped(tmp_path: Path) -> None:
    for name in ("nla-x4-s1", "local-x4-s0"):
        place = finished(tmp_path / "runs" / name, name)
        shutil.copy(place / "weights.safetensors", place / "weights-000003.safetensors")
    ship.main([str(tmp_path / "runs"), "--datasets", "mini", "--count", "1"])
    assert [row["name"] for row in zoo.registry()] == ["local-x4-s0", "nla-x4-s1"]
    table = evaluation.evaluate(["nla-x4-s1"], ["mini"], 4, 1)
    local, nla = zoo.registry()
    assert nla["tile"] == [96, 8]
    assert nla["psnr"]["mini"] == pytest.approx(table["psnr"][0], abs=1e-4)
    assert local["gate"] is None
    assert isinstance(nla["gate"], float)
    history = pd.read_csv(paths.ZOO / "nla-x4-s1.csv")
    assert history["step"].tolist() == [3, 6]
    assert history["gate"].notna().all()
    assert "gate" not in pd.read_csv(paths.ZOO / "local-x4-s0.csv")
    refused("expected a finished training run", ship.main, [str(tmp_path / "none")])


def test_unknown_names_and_damaged_files_are_named(entry: dict[str, Any], tmp_path: Path) -> None:
    for ask in (zoo.file_of, zoo.recipe):
        refused(f"did you mean '{NAME}'", ask, "dtfn-x2-s00")
    save_file({"x": torch.zeros(2)}, tmp_path / "bare.safetensors", {"build": "null"})
    refused("that `dtfn train` wrote", zoo.recipe, str(tmp_path / "bare.safetensors"))
    assert not zoo.switched(str(tmp_path / "bare.safetensors"))
    odd = {"hello": "in JSON", '{"recipe": 3}': "in JSON", '{"recipe": {"a": 1}}': "a known field"}
    for notes, words in odd.items():
        save_file({"x": torch.zeros(2)}, tmp_path / "odd.safetensors", {"notes": notes})
        refused(words, zoo.switched, str(tmp_path / "odd.safetensors"))
    refused("leave bicubic out", zoo.file_of, "bicubic")
    file = paths.ZOO / entry["file"]
    file.write_bytes(file.read_bytes() + b" ")
    assert zoo.verify()[0].startswith(f"{file.name}: expected {entry['sha256'][:12]}, found ")
    file.unlink()
    assert zoo.verify()[0].endswith("found no file")


def test_the_shipped_zoo_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert zoo.verify() == []
    for row in zoo.registry():
        assert row["name"] == "{variant}-x{scale}-s{seed}".format(**row)
        assert row["name"] in shown(row["name"])
        assert (paths.ZOO / row["file"]).stat().st_size <= ship.LARGEST
        assert zoo.recipe(row["name"]) == recipes.preset(row["name"]), "it can be trained again"


def checkpoint(folder: Path, name: str, scale: int = 2, **changes: Any) -> Path:
    """Write a small network as the authors' training writes its checkpoints."""
    network = tiny.small(name, scale, **changes)
    return tiny.write(folder, tiny.state_of(network), f"{name.upper()}_x{scale}.pt")


def sample(scale: int, height: int = 20, width: int = 24) -> Sample:
    hr = np.random.default_rng(0).integers(0, 256, (height * scale, width * scale, 3), np.uint8)
    return datasets.Sample("toy", "noise", scale, images.imresize(hr, 1 / scale), hr)


@pytest.mark.parametrize("name", tiny.HIDDEN)
def test_a_checkpoint_is_recognised_then_a_method(name: str, tmp_path: Path) -> None:
    scale = 2 + sorted(tiny.HIDDEN).index(name) % 3
    file = checkpoint(tmp_path, name, scale)
    entry = models.import_weights(file)
    assert (entry["name"], entry["network"], entry["scale"]) == (f"{name}-x{scale}", name, scale)
    assert (set(entry["assumed"]), entry["source"]) == (tiny.HIDDEN[name], file.name)
    assert zoo.imported() == [entry]
    assert not entry["full_size"]
    output = evaluation.outputs([entry["name"]], sample(scale))[entry["name"]]["image"]
    np.testing.assert_array_equal(output, evaluation.upscale(models.load(file), sample(scale).lr))


def test_imports_keep_what_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = checkpoint(tmp_path, "dtfn", 2)
    models.import_weights(file, "rounds", {"n_hashes": "1", "res_scale": "0.5"})
    loaded = models.load("rounds")
    assert loaded.hyperparameters["n_hashes"] == 1
    assert loaded.hyperparameters["res_scale"] == 0.5
    assert zoo.imported()[0]["assumed"] == []
    assert tiny.same_output(loaded, models.load(file, n_hashes=1, res_scale=0.5))
    assert not tiny.same_output(loaded, models.load(file))
    known = models.networks.NETWORKS
    monkeypatch.setitem(known, "edsr", (None, known["edsr"][1] | tiny.SMALL["edsr"]))
    file = checkpoint(tmp_path, "edsr")
    assert models.import_weights(file)["full_size"]
    assert not models.import_weights(checkpoint(tmp_path, "edsr", 4, n_resblocks=2))["full_size"]


def test_other_weights_of_one_name_replace_only_when_asked(tmp_path: Path) -> None:
    first = models.import_weights(checkpoint(tmp_path, "edsr"))
    before = (paths.WEIGHTS / first["file"]).stat().st_mtime_ns
    assert models.import_weights(tmp_path / first["source"]) == first
    assert (paths.WEIGHTS / first["file"]).stat().st_mtime_ns == before
    plain = tiny.state_of(tiny.small("edsr"))
    state = {key: value * (1 if "_mean" in key else 0.5) for key, value in plain.items()}
    other = tiny.write(tmp_path, state, "other.pt")
    for file, values in ((other, None), (tmp_path / first["source"], {"res_scale": "1"})):
        refused(r"EDSR_x2\.pt.*--name.*--replace", models.import_weights, file, None, values)
    assert zoo.imported() == [first]
    second = models.import_weights(other, replace=True)
    assert zoo.imported() == [second]
    assert second["sha256"] != first["sha256"]
    models.import_weights(tmp_path / first["source"], "edsr-again")
    assert [row["name"] for row in zoo.imported()] == ["edsr-again", "edsr-x2"]


def test_damaged_files_and_taken_names_leave_nothing(tmp_path: Path, entry: dict[str, Any]) -> None:
    state = tiny.state_of(tiny.small("dtfn"))
    infinite = state | {"head.0.weight": torch.full_like(state["head.0.weight"], 1e30)}
    for content, values, message in (
        (infinite, {}, "NaN or infinity"),
        (state | {"head.0.bias": torch.zeros(3)}, {}, r"size mismatch for head\.0\.bias"),
        (state, {"n_hashes": "four"}, "hyperparameters: expected numbers"),
        (state, {"n_feats": "8"}, "n_feats"),
    ):
        file = tiny.write(tmp_path, content, "bad.pt")
        refused(message, models.import_weights, file, None, values)
    assert not paths.WEIGHTS.exists() or list(paths.WEIGHTS.iterdir()) == []
    for name in ("bicubic", "../escape", "a.pt", NAME):
        refused("a plain word", models.import_weights, checkpoint(tmp_path, "edsr"), name)


def test_missing_weights_are_named_and_a_broken_registry_stops_nothing(tmp_path: Path) -> None:
    entry = models.import_weights(checkpoint(tmp_path, "edsr"))
    (paths.WEIGHTS / entry["file"]).unlink()
    refused(r"import EDSR_x2\.pt again", evaluation.outputs, ["edsr-x2"], sample(2))
    (paths.WEIGHTS / "registry.json").write_text("{")
    assert zoo.imported() == []
    assert [models.import_weights(tmp_path / "EDSR_x2.pt")] == zoo.imported()
    assert "edsr-x2" in evaluation.outputs(["edsr-x2"], sample(2))


def test_the_command_says_what_is_known_and_what_is_assumed(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(tiny.small("hspan", 4).state_dict(), file)
    shown = said("weights", "import", str(file), "--name", "mine", "-p", "topk=32")
    first, known, assumed, _ = shown.splitlines()
    assert first.startswith("mine: hspan x4, ")
    assert "n_feats 16" in known
    assert "topk 32" in known
    assert "res_scale 0.1" in assumed
    assert json.loads(said("weights", "list", "--json")) == zoo.imported()
    assert "hspan" in said("weights", "list").splitlines()[1]


def test_a_start_is_shipped_as_a_reader_finds_it(tmp_path: Path) -> None:
    preset = recipes.preset("nla+tfs-x4-s0")
    ours = {**vars(preset), "start": "/elsewhere/w.safetensors"}
    for steps, expected in ((preset.steps, preset.start), (7, "/elsewhere/w.safetensors")):
        ship.add(finished(tmp_path, "nla+tfs-x4-s0", **ours | {"steps": steps}), QUALITY, GATE)
        assert zoo.recipe("nla+tfs-x4-s0").start == expected
        assert f"`{expected}`, SHA-256 `ab12`; TFS was added" in shown("nla+tfs-x4-s0")


def test_the_script_for_a_gpu_trains_each_stage_once(tmp_path: Path) -> None:
    file = tmp_path / "scratch-gla-x4-s0" / "weights.safetensors"
    file.parent.mkdir()
    file.touch()
    script = [str(TOOL.with_name("zoo.sh")), str(tmp_path), "nlsa gla gla+tfs", "0 1"]

    def shown(scales: str) -> list[str]:
        environment = os.environ | {"PYTHON": "echo", "SCALES": scales}
        command = ["bash", *script, "--minutes", "9"]
        return subprocess.check_output(command, env=environment, text=True).splitlines()

    first, second = shown("4")
    names = "scratch-gla-x4-s1 scratch-nlsa-x4-s0 scratch-nlsa-x4-s1"
    options = "--side-by-side --resume --out . --minutes 9"
    assert first == f"-m dtfn train {names} {options}"
    wanted = {f"{v}-x4-s{s}" for v in ("gla", "gla+tfs", "nlsa") for s in (0, 1)}
    assert set(second.split()[3:9]) == wanted
    assert [line.split()[3] for line in shown("2 3")] == ["gla+tfs-x2-s0", "gla+tfs-x3-s0"]
