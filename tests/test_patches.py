import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_training as tiny
import torch
from PIL import Image, ImageOps
from tiny import pillow, refused

from dtfn import datasets, images, patches, paths

Pixels = images.UInt8
Mini = dict[str, Pixels]
TURNS = [(k, flip) for flip in (False, True) for k in range(4)]


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.make(tmp_path)
    tiny.enter(monkeypatch, tmp_path)
    return tmp_path


def pool(scale: int = 2, **changes: Any) -> patches.Pool:
    return patches.pool(tiny.recipe(f"dtfn-x{scale}-s0", **{"patch": 8, **changes}))


def test_a_picture_is_decoded_once_a_version(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pool()
    with monkeypatch.context() as patch:
        patch.setattr(images, "read", None)
        assert torch.equal(pool(patch=12).pixels[1], first.pixels[1])
    file = world / "train" / "t" / "1.png"
    images.write(file, 255 - images.read(file))
    expected = first.pixels[1].clone()
    start, size = 4 * first.layout[1, 0], 4 * first.sizes[1].prod()
    expected[start : start + size] = 255 - expected[start : start + size]
    assert torch.equal(pool().pixels[1], expected)


def test_small_pictures_and_the_known_leak_are_left_out(world: Path) -> None:
    images.write(world / "train" / "t" / "small.png", np.zeros((30, 90, 3), np.uint8))
    assert [len(pool(patch=patch).sizes) for patch in (15, 16)] == [4, 3]
    refused("at least 92 pixels a side", pool, patch=46)
    for name in ("302003", "302004"):
        images.write(world / "train" / "BSD200" / f"{name}.png", np.zeros((9, 9, 3), np.uint8))
    assert list(patches.sources(["BSD200"], tiny.recipe().exclude)) == ["BSD200/302004"]
    assert len(patches.sources(["BSD200"])) == 2


def test_what_cannot_be_used_is_refused_and_leaves_no_cache_behind(world: Path) -> None:
    (world / "train" / "empty").mkdir()
    (world / "train" / "twice").mkdir()
    for name in ("a.png", "a.bmp"):
        (world / "train" / "twice" / name).touch()
    (world / "train" / "t" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for sets, message in {
        "T92": r"T92: expected pictures .*; found no such folder; run `dtfn data",
        "empty": "found none; run `dtfn data",
        "twice": r"one picture named 'a'; found a\.bmp and a\.png",
        "t": r"1\.png",
    }.items():
        refused(message, pool, sets=sets)
    assert not list((world / "cache" / "patches").iterdir())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_patch_and_its_lr_lie_at_the_same_place_and_orientation(world: Path, scale: int) -> None:
    files = (world / "train" / "t").iterdir()
    hrs = [images.modcrop(images.as_rgb(images.read(file)), scale) for file in files]
    pairs = [(images.imresize(hr, 1 / scale), hr) for hr in hrs]
    recipe = tiny.recipe(f"dtfn-x{scale}-s3", batch=6, patch=8)
    lr, hr, _ = (part.numpy() for part in patches.pool(recipe).batch(recipe, 5))
    assert (lr.shape, hr.shape) == ((6, 3, 8, 8), (6, 3, 8 * scale, 8 * scale))
    for small, large in zip(lr, hr, strict=True):
        assert any(is_at_home(pairs, small, large, *turn) for turn in TURNS)


def is_at_home(pairs: list[Any], small: Pixels, large: Pixels, k: int, flip: bool) -> bool:
    back = [np.rot90(part.transpose(1, 2, 0), -k) for part in (small, large)]
    small, large = (part[:, ::-1] if flip else part for part in back)
    size, s = len(small), len(large) // len(small)
    for lr, hr in pairs:
        for top, left in np.ndindex(lr.shape[0] - size + 1, lr.shape[1] - size + 1):
            if np.array_equal(lr[top : top + size, left : left + size], small):
                y, x = s * top, s * left
                return np.array_equal(hr[y : y + s * size, x : x + s * size], large)
    return False


def test_a_batch_depends_on_seed_and_step_alone_and_processes_share_it() -> None:
    recipes = [tiny.recipe(f"dtfn-x2-s{seed}", batch=6, attention_off=0.5) for seed in (1, 2)]
    pool = patches.pool(recipes[0])
    first = pool.batch(recipes[0], 7)
    pool.batch(recipes[0], 3)
    again = patches.pool(recipes[0]).batch(recipes[0], 7)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (pool.batch(recipes[0], 8), pool.batch(recipes[1], 7)):
        assert not torch.equal(first[0], other[0])
    parts = [pool.batch(recipes[0], 7, rank, 3) for rank in range(3)]
    for kind, whole in enumerate(first):
        assert torch.equal(torch.stack([part[kind] for part in parts], 1).flatten(0, 1), whole)


def test_every_position_is_equally_likely_and_so_is_every_orientation(world: Path) -> None:
    # Two pictures: one patch, and nine positions; a gradient tells place and orientation.
    for name, width in (("a", 16), ("b", 32)):
        ramp = np.arange(16 * width).reshape(16, width) % 251 + np.arange(3)[:, None, None]
        images.write(world / "train" / "two" / f"{name}.png", ramp.transpose(1, 2, 0).astype("u1"))
    recipe = tiny.recipe(sets="two", batch=10, patch=8, attention_off=0.25)
    two, seen, off = patches.pool(recipe), Counter[bytes](), 0
    for step in range(400):
        _, hr, on = two.batch(recipe, step)
        off += int((~on).sum())
        seen.update(patch.numpy().tobytes() for patch in hr)
    # 10 positions, 8 orientations: 50 of 4000 each; five standard deviations are 35.
    assert len(seen) == 80
    assert min(seen.values()) > 15
    assert max(seen.values()) < 85
    assert off / 4000 == pytest.approx(0.25, abs=0.03)  # four standard deviations
    always = tiny.recipe(sets="two", batch=10, patch=8)  # the patches do not depend on it
    assert torch.equal(two.batch(always, 399)[1], hr)


@pytest.fixture(scope="module")
def mini() -> Mini:
    return {s.image: images.as_rgb(s.hr) for s in datasets.benchmark("mini", 2)}


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(pillow(picture, "JPEG", quality=quality)))


DISGUISES: dict[str, tuple[str, Callable[[Image.Image], Image.Image]]] = {
    "itself": ("astronaut", lambda p: p),
    "half the size": ("chelsea", lambda p: p.reduce(2)),
    "mirrored, JPEG": ("coffee", lambda p: jpeg(ImageOps.mirror(p), 60)),
    "upside down": ("camera", ImageOps.flip),
    "turned by 90 degrees": ("chelsea", lambda p: p.transpose(Image.Transpose.ROTATE_90)),
    "relit and larger": ("astronaut", lambda p: p.point(lambda v: 0.8 * v + 25).resize((665, 665))),
    "trimmed, JPEG": ("coffee", lambda p: jpeg(ImageOps.crop(p, (12, 8, 12, 8)), 70)),
}


@pytest.mark.parametrize("name", DISGUISES)
def test_a_test_picture_is_found_in_disguise(name: str, mini: Mini, tmp_path: Path) -> None:
    source, disguise = DISGUISES[name]
    images.write(tmp_path / "x.png", np.asarray(disguise(Image.fromarray(mini[source]))))
    images.write(tmp_path / "fine.png", mini["coffee"][:90, :90])
    tested = {file.stem: file for file in datasets.files("mini")}
    training = {f"t/{name}": tmp_path / f"{name}.png" for name in ("x", "fine")}
    assert patches.leaks(training, tested) == {"t/x": source}


def test_the_guard(world: Path, mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in {"a": "camera", "b": "brick"}.items():
        images.write(world / "train" / "t" / f"{name}.png", mini[source])
    message = "no test picture of mini; found t/a is mini/camera; t/b is mini/brick;"
    message += ".*add t/a,t/b to the recipe's exclude"
    refused(message, patches.guard, tiny.recipe())
    monkeypatch.setattr(images, "read", pytest.fail)  # the second time costs nothing
    patches.guard(tiny.recipe(exclude="t/a,t/b"))


def test_only_known_benchmarks_are_looked_at(world: Path, mini: Mini, capsys: Any) -> None:
    """A folder of somebody's own must not stop training, whatever it holds."""
    own, known = (world / "benchmarks" / name / "HR" for name in ("RealSR", "Set5"))
    images.write(own / "x.png", mini["coffee"])
    (own / "X4").mkdir()
    images.write(known / "y.png", mini["chelsea"][:, 100:])
    (known / "._y.png").write_bytes(b"of macOS")
    images.write(world / "train" / "t" / "1.png", mini["coffee"][:200, :200])
    patches.guard(tiny.recipe(sets="t,embedded"))  # what is shipped to train on is clean
    assert "of mini, Set5\n" in capsys.readouterr().err
    images.write(world / "val" / "v" / "3.png", mini["chelsea"][:, 100:])
    refused("of mini, Set5; found v/3 is Set5/y;", patches.guard, tiny.recipe())


@pytest.mark.slow
def test_the_leak_that_the_field_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # leaves the tiny world for the real pictures
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    sets = ("T91", "BSD200", "General100", "BSDS500_test200")
    needed = [paths.training_root() / name for name in sets] + [paths.data_root() / "Set5" / "HR"]
    if not all(folder.is_dir() for folder in needed):
        pytest.skip(f"needs {', '.join(map(str, needed))}: see DTFN_TRAIN and DTFN_DATA")
    everything = [name for name in patches.sources(sets) if name != "BSD200/302003"]
    spared = [name for index, name in enumerate(everything) if index % 20]
    recipe = tiny.recipe(sets=sets, validation="embedded", exclude=spared)
    refused("found BSD200/302003 is Set5/woman; delete", patches.guard, recipe)
