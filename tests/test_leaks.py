from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_training as tiny
from PIL import Image
from scipy.ndimage import gaussian_filter

from dtfn import datasets, images, leaks, patches, paths
from dtfn.errors import InputError

Pixels = patches.Pixels


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.make(tmp_path)
    tiny.enter(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def mini() -> dict[str, Pixels]:
    return {s.image: images.as_rgb(s.hr) for s in datasets.benchmark("mini", 2)}


def resized(picture: Pixels, factor: float) -> Pixels:
    size = round(picture.shape[1] * factor), round(picture.shape[0] * factor)
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def recompressed(picture: Pixels, quality: int) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def relit(picture: Pixels) -> Pixels:
    return np.clip(0.8 * picture.astype(float) + 25, 0, 255).astype(np.uint8)


def pasted(picture: Pixels, size: int, top: int, left: int) -> Pixels:
    """Put a picture into a larger one of blurred noise."""
    noise = gaussian_filter(np.random.default_rng(0).random((size, size, 3)), (2, 2, 0))
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    frame = (255 * noise).astype(np.uint8)
    frame[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return frame


DISGUISES: dict[str, tuple[str, Callable[[Pixels], Pixels], str]] = {
    "itself": ("astronaut", lambda p: p, "equals"),
    "half the size": ("chelsea", lambda p: resized(p, 0.5), "equals"),
    "mirrored, JPEG": ("coffee", lambda p: recompressed(p[:, ::-1].copy(), 60), "equals"),
    "upside down": ("camera", lambda p: p[::-1].copy(), "equals"),
    "turned by 90 degrees": ("chelsea", lambda p: np.rot90(p).copy(), "equals"),
    "relit and larger": ("astronaut", lambda p: resized(relit(p), 1.3), "equals"),
    "pasted": ("camera", lambda p: pasted(resized(p, 0.5), 800, 131, 402), "contains"),
    "pasted, small, mirrored": (
        "astronaut", lambda p: pasted(resized(p[:, ::-1], 0.45), 700, 60, 333), "contains",
    ),
    "a corner": ("coffee", lambda p: p[10:190, 7:187].copy(), "is cut from"),
    "a quarter, JPEG": (
        "chelsea", lambda p: recompressed(resized(p[60:200, 190:330], 0.8), 70), "is cut from",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DISGUISES)
def test_a_test_picture_is_found_in_disguise(name: str, mini: dict[str, Pixels]) -> None:
    source, disguise, relation = DISGUISES[name]
    found = leaks.compare(
        {"t/x": disguise(mini[source])}, {f"mini/{k}": v for k, v in mini.items()}
    )
    assert [(leak.test, leak.relation) for leak in found] == [(f"mini/{source}", relation)]
    assert leaks.LIKENESS < found[0].likeness <= 1


def test_the_guard_names_every_leak_and_what_to_do(mini: dict[str, Pixels]) -> None:
    training = {"t/a": mini["camera"], "t/fine": mini["coffee"][:40, :40] * 0, "t/b": mini["brick"]}
    with pytest.raises(InputError) as error:
        leaks.guard(training)
    assert "t/a equals mini/camera; t/b equals mini/brick" in str(error.value)
    assert "adding t/a,t/b to the recipe's exclude" in str(error.value)


def test_what_is_shipped_to_train_on_is_clean() -> None:
    leaks.guard(patches.sources(["embedded", "t"]))


def test_the_second_time_costs_nothing_until_a_picture_changes(
    world: Path, monkeypatch: pytest.MonkeyPatch, mini: dict[str, Pixels]
) -> None:
    leaks.guard(patches.sources(["t"]))
    with monkeypatch.context() as patch:
        patch.setattr(leaks, "compare", None)
        leaks.guard(patches.sources(["t"]))
    images.write(world / "benchmarks" / "new" / "HR" / "x.png", mini["coffee"])
    images.write(world / "train" / "t" / "1.png", mini["coffee"][:, ::-1].copy())
    with pytest.raises(InputError, match="t/1 equals mini/coffee; t/1 equals new/x"):
        leaks.guard(patches.sources(["t"]))


def test_a_damaged_memory_is_searched_anew(world: Path, mini: dict[str, Pixels]) -> None:
    training: dict[str, patches.Source] = {"t/a": mini["camera"]}
    expected = leaks.leaks(training)
    (file,) = (world / "cache" / "leaks").iterdir()
    file.write_text(file.read_text()[:-3])
    assert leaks.leaks(training) == expected != []


def test_flat_and_tiny_pictures_are_like_nothing(mini: dict[str, Pixels]) -> None:
    flat = {"t/flat": np.full((50, 60, 3), 128, np.uint8), "t/dot": np.zeros((1, 1, 3), np.uint8)}
    tested = {"mini/camera": mini["camera"], "mini/flat": flat["t/flat"]}
    assert leaks.compare(flat, tested) == []


def test_duplicates_within_a_set_are_told(mini: dict[str, Pixels]) -> None:
    pictures = {"t/a": mini["camera"], "t/b": mini["grass"], "t/c": resized(mini["camera"], 0.6)}
    assert leaks.duplicates(pictures) == [("t/a", "t/c")]


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Leave the tiny world for the real pictures."""
    monkeypatch.undo()


@pytest.mark.slow
def test_the_leak_and_the_duplicates_that_the_field_has(
    real: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    sets = ("T91", "BSD200", "General100", "BSDS500_test200")
    if not all((paths.training_root() / name).is_dir() for name in sets):
        pytest.skip(f"no training sets in {paths.training_root()}: see DTFN_TRAIN")
    if not all((paths.data_root() / name / "HR").is_dir() for name in ("Set5", "Set14")):
        pytest.skip(f"no Set5 and Set14 in {paths.data_root()}")
    everything = patches.sources(sets, exclude=())
    some = dict(list(everything.items())[::20])
    known = ("BSD200/302003", "T91/t36", "T91/t65")
    found = leaks.leaks(some | {name: everything[name] for name in known})
    assert [(x.training, x.test, x.relation) for x in found] == [
        ("BSD200/302003", "Set5/woman", "equals")
    ]
    of_t91 = patches.sources(["T91"])
    assert leaks.duplicates(of_t91) == [("T91/t36", "T91/t65")]
    tested = {name: source for name, source in leaks.tests().items() if name[:3] == "Set"}
    assert leaks.duplicates(tested) == [("Set14/face", "Set5/head")]
