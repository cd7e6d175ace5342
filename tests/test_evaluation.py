"""Running networks: rounding, cache, scale, and the tidy table; with networks of known output."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_networks as tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import refused
from torch import Tensor, nn

from dtfn import cache, evaluation, methods, models, paths, tiling
from dtfn.datasets import Sample
from dtfn.tiling import Budget, Chop, Tiling

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


Add = Callable[[str, Shifted], Shifted]


@pytest.fixture(autouse=True)
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Put networks in the place of the shipped ones."""
    networks: dict[str, Shifted] = {}

    def added(name: str, network: Shifted) -> Shifted:
        networks[name] = network
        (paths.ZOO / f"{name}.safetensors").write_text(f"{name} {network.shift.item()}")
        about = {n: {"scale": one.scale, "file": f"{n}.safetensors"} for n, one in networks.items()}
        rows = [{"name": n} | more for n, more in about.items()]
        (paths.ZOO / "registry.json").write_text(json.dumps(rows))
        return network

    caches = methods._network, evaluation._cost  # a test may put others in their places
    for place in ("ZOO", "WEIGHTS", "CACHE"):
        monkeypatch.setattr(paths, place, tmp_path / place)
    paths.ZOO.mkdir()
    monkeypatch.setattr(models, "load", lambda name: networks[Path(name).stem])
    yield added
    for remembered in caches:
        remembered.cache_clear()


def sample(scale: int = 2, size: tuple[int, int] = (7, 9)) -> Sample:
    lr = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    hr = RNG.integers(0, 256, (scale * size[0], scale * size[1], 3), dtype=np.uint8)
    return Sample(dataset="toy", image="noise", scale=scale, lr=lr, hr=hr)


@pytest.mark.parametrize("scale", [2, 3])
def test_upscale_keeps_levels_and_places_and_rounds_half_up_after_clamping(scale: int) -> None:
    seen = []

    class InPlace(Shifted):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(self.training)
            return super().forward(x).mul_(1 + 0 * x.mul_(0).sum())

    lr = RNG.integers(0, 256, (5, 8, 3), dtype=np.uint8)
    before, network = lr.copy(), InPlace(scale)
    sr = evaluation.upscale(network.train(), lr)
    assert sr.dtype == np.uint8
    np.testing.assert_array_equal(sr, before.repeat(scale, 0).repeat(scale, 1))
    assert seen == [False], "it runs in evaluation mode"
    assert network.training, "and leaves all as it was"
    np.testing.assert_array_equal(lr, before)
    levels = np.array([[[0, 100, 255]]], np.uint8)
    # 2 ** -9 * 255 is just below one half, 2 ** -9 * 257 just above.
    below, above, black = [0, 100, 255], [1, 101, 255], [0, 0, 0]
    for shift, made in ((2**-9, below), (2**-9 * 257 / 255, above), (-2.0, black)):
        assert evaluation.upscale(Shifted(scale, shift), levels)[0, 0].tolist() == made


def test_upscale_refuses_other_pictures_nan_and_a_wrong_size() -> None:
    others: list[Any] = [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3))]
    for lr in others:
        refused("expected uint8", evaluation.upscale, Shifted(), lr)
    refused("NaN", evaluation.upscale, Shifted(shift=float("nan")), sample().lr)
    liar = Shifted(3)
    liar.forward = lambda x: nn.functional.interpolate(x, scale_factor=2)  # type: ignore[method-assign]
    refused(r"\(3, 21, 27\).*found .*\(3, 14, 18\)", evaluation.upscale, liar, sample().lr)


def test_the_cache_knows_weights_and_tilings(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    network = add("one", Shifted())
    flat = np.zeros((4, 9, 3), np.uint8)
    for lr in (flat, flat + np.uint8(1), flat.reshape(9, 4, 3)):
        hr = np.zeros((2 * lr.shape[0], 2 * lr.shape[1], 3), np.uint8)
        evaluation.outputs(["one"], Sample("toy", "flat", 2, lr, hr))
    assert network.runs == 3
    brighter = add("one", Shifted(shift=0.5))
    output = evaluation.outputs(["one"], Sample("toy", "flat", 2, flat, hr))["one"]
    assert (brighter.runs, output["image"].min()) == (1, 128)
    monkeypatch.setattr(cache, "source", lambda *_: "another version")
    evaluation.outputs(["one"], Sample("toy", "flat", 2, flat, hr))
    assert brighter.runs == 2
    network = add("two", Shifted())
    picture = sample(size=(20, 30))
    cuts = (None, Tiling(16, 2), Tiling(16, 4), Chop(), Chop(12))
    ways = [*((cut, False) for cut in cuts), (None, True), (Tiling(16, 2), True)]
    for way in ways:
        before = network.runs
        evaluation.outputs(["two"], picture, *way)
        assert network.runs > before, way
    runs = network.runs
    first, *_ = [evaluation.outputs(["two", "two"], picture, *way)["two"] for way in ways]
    again = evaluation.outputs(["two"], picture, Tiling(32, 2))["two"]  # a single tile: the whole
    assert network.runs == runs
    np.testing.assert_array_equal(first["image"], again["image"])
    assert first["seconds"] == again["seconds"] > 0


def test_what_is_refused_before_anything_runs(add: Add) -> None:
    two, three = add("local-x2-s0", Shifted(2)), add("three", Shifted(3))
    file = paths.ZOO / "three.safetensors"
    for wanted, text in (
        (["bicubic", "lokal-x2-s0"], "did you mean 'local-x2-s0'"),
        ([], "expected one or more"),
        (["local-x2-s0", "three"], "expected scale 2; found scale 3"),
        (["local-x2-s0", str(file)], "expected scale 2; found scale 3"),
    ):
        refused(text, evaluation.evaluate, wanted, ["mini"], 2, 1)
    refused("expected scale 2; found scale 3", evaluation.outputs, [str(file)], sample())
    file.unlink()
    for method in ("three", str(file)):
        refused(r"\.safetensors.* found no file", evaluation.evaluate, [method], ["mini"], 3, 1)
    assert two.runs == three.runs == 0


def test_evaluate_gives_one_tidy_row_a_method_and_image(add: Add) -> None:
    add("one", Shifted(4))
    file = str(paths.ZOO / "one.safetensors")
    table = evaluation.evaluate(["bicubic", "one", file], ["mini"], 4, count=2)
    assert list(table) == ["method", "dataset", "image", "scale", "psnr", "ssim", "seconds", "lr"]
    assert table.groupby("method").size().to_dict() == {"bicubic": 2, "one": 2, file: 2}
    assert (table["scale"] == 4).all()
    wide = table.pivot_table(index="image", columns="method", values=["psnr", "ssim"])
    assert (wide["psnr", "bicubic"] > wide["psnr", "one"]).all()  # nearest neighbour is worse
    assert (wide["psnr", "one"] == wide["psnr", file]).all(), "a name or its file"
    means = evaluation.summary(table).set_index("method")
    assert list(means.index) == ["bicubic", "one", file]
    for name in ("psnr", "ssim"):
        assert means[name].to_dict() == pytest.approx(wide[name].mean().to_dict())
    assert means["images"].tolist() == [2] * 3


PEAK = """import sys, torch
from dtfn import evaluation, methods
network = methods.network(sys.argv[1])
x = torch.rand(1, 3, 160, 160)
cost = evaluation._cost(sys.argv[1], "cpu")
evaluation._peak("cpu", forget=True)
with torch.inference_mode():
    network(x.contiguous(memory_format=torch.channels_last))
print(evaluation._peak("cpu") - cost[0], cost[1] * 160**2)
"""


def test_the_memory_of_a_large_image_is_forecast_from_a_small_one(tmp_path: Path) -> None:
    file = tiny.saved(tmp_path, "dtfn", n_feats=64)
    done = subprocess.check_output([sys.executable, "-c", PEAK, file], text=True)
    peak, expected = map(float, done.split())
    assert peak > 1e7
    assert 0.65 * peak < expected < 1.6 * peak  # tiles a third too small are no harm


CUTS: list[Any] = [(None, 1, 128 * 128), (Tiling(64, 8), 9, 64 * 64), (Chop(), 4, 76 * 80)]
COST = (3e8, 4000.0, 1e-4)  # bytes at rest, bytes and seconds a position


@pytest.mark.parametrize(("cut", "runs", "largest"), CUTS)
def test_a_forecast_sums_tiles(
    add: Add, cut: Any, runs: int, largest: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(evaluation, "_cost", lambda *_: COST)
    network = add("one", Shifted(4))
    how: dict[str, Any] = {"tiling": cut, "self_ensemble": runs == 4}
    (row,) = evaluation.forecast(["bicubic", "one"], ["mini"], 4, 1, **how).to_dict("records")
    assert network.runs == 0
    assert (row["method"], row["pictures"]) == ("one", 1)
    assert row["tiles"] == runs * (8 if runs == 4 else 1)
    assert row["memory"] == pytest.approx((3e8 + 4000 * largest) / 2**20)
    if cut is None:
        assert row["seconds"] == pytest.approx(128 * 128 * 1e-4)
    evaluation.evaluate("one", "mini", 4, 1, **how)
    again = evaluation.forecast("one", "mini", 4, 2, **how)
    assert again["pictures"].tolist() == [1]  # what the cache holds costs nothing


def test_a_budget_evaluates_in_its_tiles(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_cost", lambda *_: COST)
    network = add("one", Shifted())
    picture = sample(size=(70, 80))
    memory = int((3e8 + 4000 * 64**2) / tiling.SPARE) + 1
    by_budget = evaluation.outputs("one", picture, Budget(memory))["one"]
    runs = network.runs
    by_hand = evaluation.outputs("one", picture, Tiling(64))["one"]
    np.testing.assert_array_equal(by_budget["image"], by_hand["image"])
    assert network.runs == runs > 1  # remembered under the same key


def test_what_a_trial_measures_is_used_and_a_device_is_checked(add: Add) -> None:
    add("one", Shifted())
    (row,) = evaluation.forecast("one", "mini", 2, 1, device="auto").to_dict("records")
    assert 0 < row["seconds"] < 5
    assert 50 < row["memory"] < 5000
    if not torch.cuda.is_available():
        refused("device 'cuda:99'", evaluation.outputs, "one", sample(), device="cuda:99")


# --- tiles: their geometry, the authors' chop, what networks make of them, by brute force ---
LENGTHS = st.integers(1, 90)


class Local(nn.Module):
    """Nearest-neighbour upscaling of a 5x5 sum of small integers: float32 makes no error."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(3, 3, 5, padding=2, bias=False)
        weights = torch.randint(-2, 3, (3, 3, 5, 5), generator=torch.Generator().manual_seed(0))
        self.conv.weight = nn.Parameter(weights / 64)

    def forward(self, x: Tensor) -> Tensor:
        rounded = (x * 16).round() / 16
        return nn.functional.interpolate(self.conv(rounded), scale_factor=self.scale) + 0.5


class Uneven(nn.Module):
    """Depends on the whole tile and on the place within it, as non-local attention does."""

    scale = 2

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        self.seen.append(height * width)
        ramp = torch.arange(height * width, dtype=x.dtype).reshape(height, width)
        mixed = x * 0.5 + x.mean() * 0.3 + ramp / ramp.numel() * 0.2
        return nn.functional.interpolate(mixed, scale_factor=self.scale)


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def levels(made: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(made, 0, 1) * 255 + 0.5).astype(np.uint8)


def run(network: nn.Module, x: np.ndarray) -> np.ndarray:
    """Return the output (sH, sW, 3) of a float (H, W, 3)."""
    tensor = torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None]
    with torch.no_grad():
        return network(tensor)[0].permute(1, 2, 0).numpy()


@given(LENGTHS, LENGTHS, st.integers(1, 40), st.integers(0, 12), st.integers(1, 3000))
def test_tiles_keep_all_once(height: int, width: int, size: int, overlap: int, least: int) -> None:
    """Chop also where the authors' code fails: sides below 24, widths of 28 to 31."""
    size += 2 * overlap
    for cut in (Tiling(size, overlap), Chop(overlap, least)):
        kept = np.zeros((height, width), int)
        for rows, columns in cut.tiles(height, width):
            for span, length in ((rows, height), (columns, width)):
                assert 0 <= span.start <= span.first < span.last <= span.stop <= length
                if isinstance(cut, Tiling):
                    assert span.stop - span.start == min(size, length)
                    assert span.start == span.first == 0 or span.first - span.start >= overlap
                    assert span.stop == span.last == length or span.stop - span.last >= overlap
            kept[rows.kept(1), columns.kept(1)] += 1
            kept_3, inner_3 = rows.kept(3), rows.inner(3)
            assert kept_3.stop - kept_3.start == inner_3.stop - inner_3.start
        assert (kept == 1).all()


@pytest.mark.parametrize(("height", "width", "scale"), [(23, 41, 2), (9, 64, 3), (12, 12, 2)])
def test_a_local_network_gives_the_same_in_tiles(height: int, width: int, scale: int) -> None:
    network, lr = Local(scale), picture(height, width)
    whole = evaluation.upscale(network, lr)
    for cut in (Tiling(12, 2), Chop(2, 200)):
        np.testing.assert_array_equal(evaluation.upscale(network, lr, cut), whole)


def chopped(network: nn.Module, x: np.ndarray, shave: int, min_size: int) -> np.ndarray:
    """Chop as it is described: a function of arrays that calls itself."""
    h, w = x.shape[:2]
    rows, columns = h // 2 + shave, w // 2 + shave
    rows, columns = rows + 4 - rows % 4, columns + 8 - columns % 8
    out = np.full((2 * h, 2 * w, 3), np.nan, np.float32)
    for top, left in product((True, False), repeat=2):
        quarter = x[slice(rows) if top else slice(h - rows, h)]
        quarter = quarter[:, slice(columns) if left else slice(w - columns, w)]
        small = rows * columns < min_size
        made = run(network, quarter) if small else chopped(network, quarter, shave, min_size)
        y = slice(2 * (h // 2)) if top else slice(2 * (h // 2) - 2 * h, None)
        z = slice(2 * (w // 2)) if left else slice(2 * (w // 2) - 2 * w, None)
        out[y, z] = made[y, z]
    return out


CHOPPED = [(48, 48, 10, 120_000), (25, 33, 10, 120_000), (97, 141, 4, 1000), (64, 64, 2, 400)]


@pytest.mark.parametrize(("height", "width", "shave", "min_size"), CHOPPED)
def test_chop_is_the_authors_recursion(height: int, width: int, shave: int, min_size: int) -> None:
    lr, network = picture(height, width), Uneven()
    made = evaluation.upscale(network, lr, Chop(shave, min_size))
    expected = chopped(Uneven(), (lr / 255).astype(np.float32), shave, min_size)
    np.testing.assert_array_equal(made, levels(expected))
    assert max(network.seen) < min_size


@pytest.mark.parametrize("cut", [None, Tiling(12, 3), Chop(3, 150)])
def test_self_ensemble_is_the_mean_over_flips_and_turns(cut: Tiling | Chop | None) -> None:
    lr = picture(17, 22)
    total = np.zeros((34, 44, 3))
    for k, mirrored in product(range(4), (False, True)):
        seen = np.rot90(lr[:, ::-1] if mirrored else lr, k)
        back = np.rot90(evaluation.unrounded(Uneven(), seen, cut), -k)
        total += back[:, ::-1] if mirrored else back
    made = evaluation.upscale(Uneven(), lr, cut, self_ensemble=True)
    np.testing.assert_allclose(made.astype(int), levels(total / 8).astype(int), atol=1)
    assert (made != evaluation.upscale(Uneven(), lr, cut)).mean() > 0.5


def test_ways_to_cut_are_read_from_text_and_a_budget_takes_the_largest_tiles_that_fit() -> None:
    rest, position = 3e8, 4000.0
    assert Budget(10**12).tiling(rest, position, 500, 400) is None
    for memory in (4 * 10**8, 5 * 10**8, 2 * 10**9):
        chosen = Budget(memory).tiling(rest, position, 2000, 3000)
        assert chosen is not None
        assert rest + position * chosen.size**2 <= memory
        larger = tiling.SIDES[tiling.SIDES.index(chosen.size) + 1]
        assert rest + position * larger**2 > tiling.SPARE * memory
    refused(r"expected at least 3\d\d MB", Budget(200 * 2**20).tiling, rest, position, 200, 200)
    ways = {"whole": None, "chop": Chop(), "96": Tiling(96), "8GB": Budget(8 * 2**30)}
    assert {text: tiling.way(text) for text in ways} == ways
    refused("tiling: expected a size; found 'chopp'", tiling.way, "chopp")
    assert [len(Tiling(48, 8).tiles(*size)) for size in [(48, 48), (49, 80), (49, 81)]] == [1, 4, 6]
    for size, overlap in ((32, 16), (0, 0), (8, -1)):
        refused("larger than twice", Tiling, size, overlap)
