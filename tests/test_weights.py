"""Imported checkpoints: recognised, checked, stored, and then known by their name everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_networks as tiny
import torch
from safetensors.torch import save_file

from dtfn import cli, evaluation, models, paths, weights, zoo
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.zoo import imported

HIDDEN = {
    "edsr": {"res_scale"},
    "nln": {"res_scale"},
    "nlsn": {"res_scale", "n_hashes", "chunk_size"},
    "dlsn": {"res_scale", "n_hashes"},
    "hspan": {"res_scale", "topk"},
    "dtfn": {"res_scale", "n_hashes"},
}


@pytest.fixture(autouse=True)
def _only_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "WEIGHTS", tmp_path / "imported")
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    evaluation.network.cache_clear()


def checkpoint(folder: Path, name: str, scale: int = 2, **changes: Any) -> Path:
    """Write a small network as the authors' training writes its checkpoints."""
    network = tiny.small(name, scale, **changes)
    return tiny.write(folder, tiny.state_of(network), f"{name.upper()}_x{scale}.pt")


def sample(scale: int) -> Sample:
    rng = np.random.default_rng(0)
    lr = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    hr = rng.integers(0, 256, (20 * scale, 24 * scale, 3), dtype=np.uint8)
    return Sample("toy", "noise", scale, lr, hr)


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    assert end.value.code == 0


@pytest.mark.parametrize(
    ("name", "scale"),
    [*((name, scale) for name in sorted(HIDDEN) for scale in (2, 4)), ("dtfn", 3)],
)
def test_a_checkpoint_is_recognised_and_then_a_method(
    name: str, scale: int, tmp_path: Path
) -> None:
    file = checkpoint(tmp_path, name, scale)

    entry = weights.load(file)

    assert (entry["name"], entry["network"], entry["scale"]) == (f"{name}-x{scale}", name, scale)
    assert set(entry["assumed"]) == HIDDEN[name]
    assert entry["source"] == file.name
    assert imported.registry() == [entry]
    assert not entry["full_size"]
    found = evaluation.outputs([entry["name"]], sample(scale))[entry["name"]].image
    direct = evaluation.upscale(models.load(file), sample(scale).lr)
    np.testing.assert_array_equal(found, direct)


def test_the_authors_size_is_known() -> None:
    full = {"n_feats": 256, "n_resblocks": 32, "res_scale": 0.1, "rgb_range": 255.0}
    assert weights._full_size({"name": "edsr", "hyperparameters": full})
    assert not weights._full_size({"name": "edsr", "hyperparameters": full | {"n_feats": 64}})
    assert not weights._full_size({"name": "edsr", "hyperparameters": full | {"n_resblocks": 16}})
    assert not weights._full_size({"name": "dlsn+tfs", "hyperparameters": full})


def test_an_imported_network_keeps_what_its_weights_do_not_show(tmp_path: Path) -> None:
    file = checkpoint(tmp_path, "dtfn", 2)
    weights.load(file, "rounds", {"n_hashes": "1", "res_scale": "0.5"})

    loaded = models.load("rounds")

    assert loaded.hyperparameters["n_hashes"] == 1
    assert loaded.hyperparameters["res_scale"] == 0.5
    assert imported.registry()[0]["assumed"] == []
    expected = models.load(file, n_hashes=1, res_scale=0.5)
    assert tiny.same_output(loaded, expected)
    assert not tiny.same_output(loaded, models.load(file))


def test_the_same_again_changes_nothing(tmp_path: Path) -> None:
    file = checkpoint(tmp_path, "edsr")
    entry = weights.load(file)
    stored = paths.WEIGHTS / entry["file"]
    before = stored.stat().st_mtime_ns
    assert weights.load(file) == entry
    assert stored.stat().st_mtime_ns == before


def test_other_weights_of_one_name_replace_only_when_told(tmp_path: Path) -> None:
    first = weights.load(checkpoint(tmp_path, "edsr"))
    state = {key: value * 0.5 for key, value in tiny.small("edsr").state_dict().items()}
    state |= {k: v for k, v in tiny.small("edsr").state_dict().items() if "_mean" in k}
    other = tiny.write(tmp_path, state, "other.pt")

    for file, values in ((other, None), (tmp_path / first["source"], {"res_scale": "1"})):
        with pytest.raises(InputError, match=r"found EDSR_x2\.pt.*--name.*--replace"):
            weights.load(file, hyperparameters=values)
    assert imported.registry() == [first]

    second = weights.load(other, replace=True)
    assert imported.registry() == [second]
    assert second["sha256"] != first["sha256"]
    weights.load(tmp_path / first["source"], "edsr-again")
    assert [row["name"] for row in imported.registry()] == ["edsr-again", "edsr-x2"]


@pytest.mark.parametrize("name", ["bicubic", "../escape", "a.pt"])
def test_names_that_mean_something_else_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a plain word"):
        weights.load(checkpoint(tmp_path, "edsr"), name)
    shipped = zoo.registry()[0]["name"]
    with pytest.raises(InputError, match="a plain word"):
        weights.load(checkpoint(tmp_path, "edsr"), shipped)


def test_damaged_and_foreign_files_leave_nothing(tmp_path: Path) -> None:
    state = tiny.state_of(tiny.small("dtfn"))
    missing = {k: v for k, v in state.items() if k != "body.0.body.2.fc.0.bias"}
    shape = state | {"head.0.bias": torch.zeros(3)}
    infinite = {
        k: torch.full_like(v, 1e30) if k == "head.0.weight" else v for k, v in state.items()
    }
    for content, told in (
        (missing, r"missing body\.0\.body\.2\.fc\.0\.bias"),
        (shape, r"head\.0\.bias is \(3,\)"),
        (infinite, "NaN or infinity"),
        ({"weight": torch.zeros(3)}, "weights of edsr, nln"),
    ):
        file = tiny.write(tmp_path, content, "bad.pt")
        with pytest.raises(InputError, match=told):
            weights.load(file)
    with pytest.raises(InputError, match="n_hashes of dtfn: expected a number"):
        weights.load(tiny.write(tmp_path, state), hyperparameters={"n_hashes": "four"})
    with pytest.raises(InputError, match="n_feats"):
        weights.load(tiny.write(tmp_path, state), hyperparameters={"n_feats": "8"})
    assert not paths.WEIGHTS.exists() or list(paths.WEIGHTS.iterdir()) == []


def test_weights_that_went_missing_are_told(tmp_path: Path) -> None:
    entry = weights.load(checkpoint(tmp_path, "edsr"))
    (paths.WEIGHTS / entry["file"]).unlink()
    with pytest.raises(InputError, match=r"import EDSR_x2\.pt again"):
        evaluation.outputs(["edsr-x2"], sample(2))
    again = weights.load(tmp_path / "EDSR_x2.pt")
    assert again == entry | {"sha256": again["sha256"]}  # the metadata have no order
    assert "edsr-x2" in evaluation.outputs(["edsr-x2"], sample(2))


def test_the_command_says_what_is_known_and_what_is_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(tiny.small("hspan", 4).state_dict(), file)

    run("weights", "import", str(file), "--name", "mine", "-p", "topk=32")

    first, known, assumed, last = capsys.readouterr().out.splitlines()
    assert first.startswith("mine: hspan x4, ")
    assert first.endswith("parameters, from mine.safetensors")
    assert "n_feats 16" in known
    assert "topk 32" in known
    assert "assumed, as the authors: res_scale 0.1" in assumed
    assert "the same output" in last

    run("weights", "list", "--json")
    assert json.loads(capsys.readouterr().out) == imported.registry()
    run("weights", "list")
    assert "hspan" in capsys.readouterr().out.splitlines()[1]
