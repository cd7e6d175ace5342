from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_training as tiny
from PIL import Image

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


DISGUISES: dict[str, tuple[str, Callable[[Pixels], Pixels]]] = {
    "itself": ("astronaut", lambda p: p),
    "half the size": ("chelsea", lambda p: resized(p, 0.5)),
    "mirrored, JPEG": ("coffee", lambda p: recompressed(p[:, ::-1].copy(), 60)),
    "upside down": ("camera", lambda p: p[::-1].copy()),
    "turned by 90 degrees": ("chelsea", lambda p: np.rot90(p).copy()),
    "relit and larger": ("astronaut", lambda p: resized(relit(p), 1.3)),
    "trimmed, JPEG": ("coffee", lambda p: recompressed(p[8:-8, 12:-12].copy(), 70)),
}


@pytest.mark.parametrize("name", DISGUISES)
def test_a_test_picture_is_found_in_disguise(name: str, mini: dict[str, Pixels]) -> None:
    source, disguise = DISGUISES[name]
    tested = {f"mini/{k}": v for k, v in mini.items()}
    (leak,) = leaks.compare({"t/x": disguise(mini[source])}, tested)
    assert leak.test == f"mini/{source}"
    assert leak.distance <= leaks.NEAR


def test_the_guard_names_every_leak_and_what_to_do(mini: dict[str, Pixels]) -> None:
    training = {"t/a": mini["camera"], "t/b": mini["brick"], "t/fine": mini["coffee"][:90, :90]}
    with pytest.raises(InputError) as error:
        leaks.guard(training)
    assert "none of the test pictures of mini; found t/a is mini/camera; t/b is mini/brick;" in str(
        error.value
    )
    assert "adding t/a,t/b to the recipe's exclude" in str(error.value)


def test_what_is_shipped_to_train_on_is_clean() -> None:
    assert leaks.guard(patches.sources(["embedded", "t"])) == ("mini",)


def test_only_known_benchmarks_are_looked_at(world: Path, mini: dict[str, Pixels]) -> None:
    """A folder of somebody's own must not stop training, whatever it holds."""
    images.write(world / "benchmarks" / "RealSR" / "HR" / "x.png", mini["coffee"])
    (world / "benchmarks" / "RealSR" / "HR" / "X4").mkdir()
    (world / "benchmarks" / "empty" / "HR" / "X4").mkdir(parents=True)
    images.write(world / "benchmarks" / "Set5" / "HR" / "y.png", mini["chelsea"][:, 100:])
    (world / "benchmarks" / "Set5" / "HR" / "._y.png").write_bytes(b"of macOS")
    images.write(world / "train" / "t" / "1.png", mini["coffee"][:200, :200])
    assert leaks.guard(patches.sources(["t"])) == ("mini", "Set5")
    images.write(world / "train" / "t" / "1.png", mini["chelsea"][:, 100:])
    with pytest.raises(InputError, match="of mini, Set5; found t/1 is Set5/y;"):
        leaks.guard(patches.sources(["t"]))


def test_the_second_time_costs_nothing_and_damage_is_mended(
    mini: dict[str, Pixels], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    training: dict[str, patches.Source] = {"t/a": mini["camera"]}
    expected = leaks.compare(training, leaks.tests())
    with monkeypatch.context() as patch:
        patch.setattr(leaks, "_turned", None)
        assert leaks.compare(training, leaks.tests()) == expected != []
    file = paths.CACHE / f"leaks-{leaks.SIDE}.json"
    file.write_text(file.read_text()[:-3])
    assert leaks.compare(training, leaks.tests()) == expected
    assert f"{file} is empty or broken" in caplog.text


@pytest.mark.slow
def test_the_leak_that_the_field_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # leaves the tiny world for the real pictures
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    sets = ("T91", "BSD200", "General100", "BSDS500_test200")
    if not all((paths.training_root() / name).is_dir() for name in sets):
        pytest.skip(f"no training sets in {paths.training_root()}: see DTFN_TRAIN")
    if not all((paths.data_root() / name / "HR").is_dir() for name in ("Set5", "Set14")):
        pytest.skip(f"no Set5 and Set14 in {paths.data_root()}")
    everything = patches.sources(sets, exclude=())
    some = dict(list(everything.items())[::20])
    some["BSD200/302003"] = everything["BSD200/302003"]
    found = leaks.compare(some, leaks.tests())
    assert [(x.training, x.test) for x in found] == [("BSD200/302003", "Set5/woman")]
