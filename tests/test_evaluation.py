"""Running networks: rounding, cache, scale, and the tidy table; with networks of known output."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dtfn import evaluation, models, paths
from dtfn.cache import Output
from dtfn.datasets import Sample
from dtfn.errors import InputError

RNG = np.random.default_rng(0)


class Shifted(nn.Module):
    """Nearest-neighbour upscaling plus a constant; counts its runs."""

    def __init__(self, scale: int = 2, shift: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        self.shift = nn.Parameter(torch.tensor(shift))
        self.runs = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return nn.functional.interpolate(x, scale_factor=self.scale) + self.shift


@dataclass
class Zoo:
    """What the tests put in the place of the shipped networks."""

    folder: Path
    networks: dict[str, Shifted] = field(default_factory=dict)

    def add(self, name: str, network: Shifted) -> Shifted:
        self.networks[name] = network
        (self.folder / f"{name}.safetensors").write_text(f"{name} {network.shift.item()}")
        rows = [
            {"name": name, "scale": network.scale, "file": f"{name}.safetensors"}
            for name, network in self.networks.items()
        ]
        (self.folder / "registry.json").write_text(json.dumps(rows))
        return network


@pytest.fixture(autouse=True)
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Zoo]:
    fake = Zoo(tmp_path / "zoo")
    fake.folder.mkdir()
    monkeypatch.setattr(paths, "ZOO", fake.folder)
    monkeypatch.setattr(paths, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(models, "load", lambda name: fake.networks[Path(name).stem])
    yield fake
    evaluation.network.cache_clear()


def sample(scale: int = 2, size: tuple[int, int] = (7, 9)) -> Sample:
    lr = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    hr = RNG.integers(0, 256, (scale * size[0], scale * size[1], 3), dtype=np.uint8)
    return Sample(dataset="toy", image="noise", scale=scale, lr=lr, hr=hr)


# --- upscale ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3])
def test_upscale_keeps_every_level_and_every_place(scale: int) -> None:
    lr = RNG.integers(0, 256, (5, 8, 3), dtype=np.uint8)

    sr = evaluation.upscale(Shifted(scale), lr)

    assert sr.dtype == np.uint8
    np.testing.assert_array_equal(sr, lr.repeat(scale, 0).repeat(scale, 1))


def test_upscale_rounds_half_up_after_clamping() -> None:
    lr = np.array([[[0, 100, 255]]], np.uint8)

    # 2 ** -9 * 255 is just below one half, 2 ** -9 * 257 just above.
    below = evaluation.upscale(Shifted(shift=2**-9), lr)[0, 0]
    above = evaluation.upscale(Shifted(shift=2**-9 * 257 / 255), lr)[0, 0]
    dark = evaluation.upscale(Shifted(shift=-2.0), lr)[0, 0]

    assert below.tolist() == [0, 100, 255]
    assert above.tolist() == [1, 101, 255]
    assert dark.tolist() == [0, 0, 0]


def test_upscale_runs_in_evaluation_mode_and_restores_the_mode() -> None:
    network = Shifted()
    seen = []
    network.register_forward_pre_hook(lambda module, _: seen.append(module.training))

    evaluation.upscale(network.train(), sample().lr)

    assert seen == [False]
    assert network.training


def test_upscale_leaves_its_input_alone() -> None:
    lr = sample().lr
    lr.flags.writeable = False

    class InPlace(Shifted):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.mul_(0))

    before = lr.copy()
    evaluation.upscale(InPlace(), lr)
    np.testing.assert_array_equal(lr, before)


@pytest.mark.parametrize("lr", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_upscale_refuses_what_is_no_rgb_picture(lr: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected uint8"):
        evaluation.upscale(Shifted(), lr)


def test_upscale_refuses_nan_and_a_wrong_size() -> None:
    with pytest.raises(InputError, match="NaN"):
        evaluation.upscale(Shifted(shift=float("nan")), sample().lr)
    liar = Shifted(3)
    liar.scale = 2
    liar.forward = lambda x: nn.functional.interpolate(x, scale_factor=3)  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"\(14, 18, 3\).*found finite numbers, \(21, 27, 3\)"):
        evaluation.upscale(liar, sample().lr)


# --- outputs and their cache ------------------------------------------------------------------


def test_a_network_runs_once_for_one_picture(zoo: Zoo) -> None:
    network = zoo.add("one", Shifted())
    picture = sample()

    first = evaluation.outputs(["one", "one"], picture)["one"]
    second = evaluation.outputs(["one"], picture)["one"]

    assert network.runs == 1
    np.testing.assert_array_equal(first.image, second.image)
    assert first.seconds == second.seconds > 0


def test_the_cache_tells_apart_pixels_sizes_weights_and_code(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = zoo.add("one", Shifted())
    flat = np.zeros((4, 9, 3), np.uint8)
    for lr in (flat, flat + np.uint8(1), flat.reshape(9, 4, 3)):
        hr = np.zeros((2 * lr.shape[0], 2 * lr.shape[1], 3), np.uint8)
        evaluation.outputs(["one"], Sample("toy", "flat", 2, lr, hr))
    assert network.runs == 3

    brighter = zoo.add("one", Shifted(shift=0.5))
    output = evaluation.outputs(["one"], Sample("toy", "flat", 2, flat, hr))["one"]
    assert brighter.runs == 1
    assert output.image.min() == 128

    monkeypatch.setattr("dtfn.cache._code", lambda: "another version")
    evaluation.outputs(["one"], Sample("toy", "flat", 2, flat, hr))
    assert brighter.runs == 2


def test_the_cache_tells_apart_tilings_and_self_ensemble(zoo: Zoo) -> None:
    network = zoo.add("one", Shifted())
    picture = sample(size=(20, 30))
    ways: list[tuple[evaluation.Tiling | evaluation.Chop | None, bool]] = [
        (None, False), (evaluation.Tiling(16, 2), False), (evaluation.Tiling(16, 4), False),
        (evaluation.Chop(), False), (evaluation.Chop(12), False), (None, True),
        (evaluation.Tiling(16, 2), True),
    ]  # fmt: skip
    for tiling, self_ensemble in ways:
        before = network.runs
        evaluation.outputs(["one"], picture, tiling, self_ensemble)
        assert network.runs > before, (tiling, self_ensemble)
    runs = network.runs
    for tiling, self_ensemble in ways:
        evaluation.outputs(["one"], picture, tiling, self_ensemble)
    evaluation.outputs(["one"], picture, evaluation.Tiling(32, 2))  # a single tile: the whole
    assert network.runs == runs


def test_loading_a_network_is_no_part_of_its_time(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.add("one", Shifted())
    load = models.load

    def slowly(name: str) -> object:
        time.sleep(1)
        return load(name)

    monkeypatch.setattr(models, "load", slowly)
    assert evaluation.outputs(["one"], sample())["one"].seconds < 1


def test_the_cache_knows_the_networks_source() -> None:
    """Were the source not found, an output would outlive the code that made it."""
    from dtfn import cache

    cache._code.cache_clear()
    before = cache._code()
    with pytest.MonkeyPatch.context() as patch:
        plain = Path.read_bytes
        patch.setattr(
            Path, "read_bytes", lambda file: plain(file) + b" " * (file.name == "attention.py")
        )
        cache._code.cache_clear()
        assert cache._code() != before
    cache._code.cache_clear()


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: b"",
        lambda stored: stored[: len(stored) // 2],
        lambda stored: stored[:-40] + bytes([stored[-40] ^ 1]) + stored[-39:],
        lambda stored: "text",
    ],
    ids=["empty", "truncated", "one bit", "another type"],
)
def test_a_damaged_entry_is_computed_again(zoo: Zoo, damage: Callable[[bytes], object]) -> None:
    import diskcache

    network = zoo.add("one", Shifted())
    picture = sample(size=(40, 40))
    good = evaluation.outputs(["one"], picture)["one"].image
    with diskcache.Cache(str(paths.CACHE / "outputs")) as store:
        (key,) = list(store)
        store[key] = damage(store[key])

    np.testing.assert_array_equal(evaluation.outputs(["one"], picture)["one"].image, good)
    assert network.runs == 2
    evaluation.outputs(["one"], picture)
    assert network.runs == 2  # and the entry is whole again


def test_every_damaged_bit_is_noticed(zoo: Zoo) -> None:
    from dtfn import cache

    zoo.add("one", Shifted())
    with cache.opened() as known:
        image = RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        known.remember("key", Output(image, 1.5))
        assert known._store is not None
        stored = known._store["key"]
        for place in range(0, len(stored) - 4):
            known._store["key"] = stored[:place] + bytes([stored[place] ^ 16]) + stored[place + 1 :]
            found = known.recall("key", (6, 6, 3))
            assert found is None or (found.image == image).all(), place


def test_a_cache_that_cannot_be_written_only_warns(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.add("one", Shifted())
    blocked = zoo.folder / "a file"
    blocked.write_text("not a folder")
    monkeypatch.setattr(paths, "CACHE", blocked)

    with pytest.warns(UserWarning, match="no cache of outputs in .*a file"):
        output = evaluation.outputs(["one"], sample())["one"]
    assert output.image.shape == (14, 18, 3)


def test_a_cache_whose_database_is_broken_only_warns(zoo: Zoo) -> None:
    zoo.add("one", Shifted())
    evaluation.outputs(["one"], sample())
    (paths.CACHE / "outputs" / "cache.db").write_bytes(b"no database" * 1000)

    with pytest.warns(UserWarning, match="no cache of outputs"):
        evaluation.outputs(["one"], sample())


def test_a_full_disk_only_warns(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    import diskcache

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    zoo.add("one", Shifted())
    monkeypatch.setattr(diskcache.Cache, "set", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert "one" in evaluation.outputs(["one"], sample())


def test_methods_are_bicubic_zoo_names_and_files(zoo: Zoo) -> None:
    zoo.add("one", Shifted())
    file = str(zoo.folder / "one.safetensors")

    found = evaluation.outputs(["bicubic", "one", file], sample())

    assert list(found) == ["bicubic", "one", file]
    np.testing.assert_array_equal(found["one"].image, found[file].image)
    assert not (found["one"].image == found["bicubic"].image).all()


def test_evaluate_runs_networks_in_tiles(zoo: Zoo) -> None:
    network = zoo.add("one", Shifted(4))
    whole = evaluation.evaluate(["one"], ["mini"], 4, count=1)
    assert network.runs == 1
    tiled = evaluation.evaluate(["one"], ["mini"], 4, 1, tiling=evaluation.Tiling(64, 8))
    assert network.runs > 5
    assert tiled["psnr"].tolist() == whole["psnr"].tolist()


# --- what is refused --------------------------------------------------------------------------


def test_an_unknown_method_is_refused_with_its_neighbour(zoo: Zoo) -> None:
    zoo.add("local-x2-s0", Shifted())
    for call in (
        lambda: evaluation.evaluate(["bicubic", "lokal-x2-s0"], ["mini"], 2, 1),
        lambda: evaluation.outputs(["lokal-x2-s0"], sample()),
    ):
        with pytest.raises(InputError, match="did you mean 'local-x2-s0'"):
            call()


def test_a_network_of_another_scale_is_refused_before_anything_runs(zoo: Zoo) -> None:
    two, three = zoo.add("two", Shifted(2)), zoo.add("three", Shifted(3))
    for method in ("three", str(zoo.folder / "three.safetensors")):
        with pytest.raises(InputError, match="expected scale 2; found scale 3"):
            evaluation.evaluate(["two", method], ["mini"], 2, 1)
        with pytest.raises(InputError, match="expected scale 2; found scale 3"):
            evaluation.outputs([method], sample())
    assert two.runs == three.runs == 0


def test_missing_weights_and_no_method_are_refused(zoo: Zoo) -> None:
    zoo.add("one", Shifted())
    (zoo.folder / "one.safetensors").unlink()
    with pytest.raises(InputError, match=r"one\.safetensors.* found no file"):
        evaluation.evaluate(["one"], ["mini"], 2, 1)
    with pytest.raises(InputError, match="expected a weights file"):
        evaluation.evaluate([str(zoo.folder / "two.safetensors")], ["mini"], 2, 1)
    with pytest.raises(InputError, match="expected one or more"):
        evaluation.evaluate([], ["mini"], 2)


# --- the table --------------------------------------------------------------------------------


def test_evaluate_gives_one_tidy_row_a_method_and_image(zoo: Zoo) -> None:
    zoo.add("one", Shifted(4))

    table = evaluation.evaluate(["bicubic", "one"], ["mini"], 4, count=2)

    assert list(table) == ["method", "dataset", "image", "scale", "psnr", "ssim", "seconds"]
    assert table.groupby("method").size().to_dict() == {"bicubic": 2, "one": 2}
    assert table["image"].nunique() == 2
    assert (table["scale"] == 4).all()
    assert table["psnr"].between(10, 50).all()
    assert table["ssim"].between(0, 1).all()
    wide = table.pivot_table(index="image", columns="method", values="psnr")
    assert (wide["bicubic"] > wide["one"]).all()  # nearest neighbour is worse


def test_summary_means_over_images() -> None:
    table = pd.DataFrame(
        {
            "method": ["b", "a", "b", "a"],
            "dataset": "toy",
            "image": ["x", "x", "y", "y"],
            "scale": 2,
            "psnr": [30.0, 31.0, 34.0, 37.0],
            "ssim": [0.5, 0.6, 0.7, 0.8],
            "seconds": [1.0, 2.0, 3.0, 4.0],
        }
    )

    means = evaluation.summary(table).set_index("method")

    assert list(means.index) == ["b", "a"]
    assert means["psnr"].tolist() == [32.0, 34.0]
    assert means["ssim"].tolist() == pytest.approx([0.6, 0.7])
    assert means["images"].tolist() == [2, 2]


def test_measuring_does_not_import_torch() -> None:
    code = "import sys, json, dtfn.evaluation; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout) is False
