from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_training as tiny

from dtfn import images, patches
from dtfn.errors import InputError

TURNS = [(k, flip) for flip in (False, True) for k in range(4)]


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.make(tmp_path)
    tiny.enter(monkeypatch, tmp_path)
    return tmp_path


def test_pictures_come_back_from_the_cache_with_the_benchmarks_lr(world: Path) -> None:
    pool = patches.pool(["t"], 3, 8)
    assert pool.names == ("t/0", "t/1", "t/2")
    for index, name in enumerate("012"):
        stored_hr = images.as_rgb(images.read(world / "train" / "t" / f"{name}.png"))
        hr = images.modcrop(stored_hr, 3)
        lr, stored = pool.picture(index)
        np.testing.assert_array_equal(stored, hr)
        np.testing.assert_array_equal(lr, images.imresize(hr, 1 / 3))


def test_a_picture_is_decoded_once(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patches.pool(["t"], 2, 8)
    monkeypatch.setattr(images, "read", None)
    patches.pool(["t"], 2, 12)


def test_a_changed_picture_is_decoded_again(world: Path) -> None:
    file = world / "train" / "t" / "1.png"
    before = patches.pool(["t"], 2, 8).picture(1)[1].copy()
    images.write(file, 255 - images.read(file))
    np.testing.assert_array_equal(patches.pool(["t"], 2, 8).picture(1)[1], 255 - before)


def test_a_cut_off_cache_is_made_again(world: Path) -> None:
    pool = patches.pool(["t"], 2, 8)
    expected = np.array(pool.hr)
    del pool
    (raw,) = (world / "cache").glob("patches/*/hr.raw")
    raw.write_bytes(raw.read_bytes()[:-1])
    np.testing.assert_array_equal(patches.pool(["t"], 2, 8).hr, expected)


def test_four_processes_at_once_leave_one_whole_cache(world: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dtfn import patches, paths;"
        "paths.CACHE = Path(sys.argv[1]); print(patches.pool(['t'], 2, 8).hr.sum())"
    )
    run = [sys.executable, "-c", code, str(world / "cache")]
    started = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    sums = {process.communicate(timeout=120)[0] for process in started}
    assert sums == {f"{patches.pool(['t'], 2, 8).hr.sum()}\n"}
    assert len(list((world / "cache" / "patches").iterdir())) == 1


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_patch_and_its_lr_lie_at_the_same_place_in_the_same_orientation(scale: int) -> None:
    """Every patch is looked for in its picture by brute force, in all eight orientations."""
    pool = patches.pool(["t"], scale, 8)
    lr, hr, _ = patches.Batches(pool, 6, 8, seed=3)[5]
    assert lr.shape == (6, 3, 8, 8)
    assert hr.shape == (6, 3, 8 * scale, 8 * scale)
    for small, large in zip(lr, hr, strict=True):
        assert any(_is_at_home(pool, small, large, *turn) for turn in TURNS)


def _is_at_home(
    pool: patches.Pool, small: np.ndarray, large: np.ndarray, k: int, flip: bool
) -> bool:
    pair = [np.rot90(part.transpose(1, 2, 0), -k) for part in (small, large)]
    small, large = (part[:, ::-1] if flip else part for part in pair)
    size, s = len(small), pool.scale
    for index in range(len(pool.names)):
        lr, hr = pool.picture(index)
        for top, left in np.ndindex(lr.shape[0] - size + 1, lr.shape[1] - size + 1):
            if np.array_equal(lr[top : top + size, left : left + size], small):
                y, x = s * top, s * left
                return np.array_equal(hr[y : y + s * size, x : x + s * size], large)
    return False


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    pool = patches.pool(["t"], 2, 8)
    batches = patches.Batches(pool, 4, 8, seed=1)
    first = batches[7]
    batches[3]
    for again in (batches[7], patches.Batches(pool, 4, 8, seed=1)[7]):
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (batches[8], patches.Batches(pool, 4, 8, seed=2)[7]):
        assert not np.array_equal(first[0], other[0])


def test_processes_cut_disjoint_parts_of_one_batch() -> None:
    pool = patches.pool(["t"], 2, 8)
    whole = patches.Batches(pool, 6, 8, 1, 0.5)[2]
    parts = [patches.Batches(pool, 6, 8, 1, 0.5, rank, world=3)[2] for rank in range(3)]
    for kind in (0, 1, 2):
        joined = np.stack([part[kind] for part in parts], axis=1).reshape(whole[kind].shape)
        np.testing.assert_array_equal(joined, whole[kind])


def test_every_position_is_equally_likely_and_so_is_every_orientation() -> None:
    # Two pictures of one patch and of nine positions; a gradient tells the orientation.
    sizes = np.array([[8, 8], [8, 16]])
    ramp = np.arange(8 * 24, dtype=np.uint8).repeat(3).reshape(-1, 3)
    pool = patches.Pool(Path(), 1, 8, ("a", "b"), sizes, np.array([0, 64]), ramp, ramp)
    batches = patches.Batches(pool, 10, 8, seed=0)
    seen: dict[bytes, int] = {}
    for step in range(400):
        for lr in batches[step][0]:
            seen[lr.tobytes()] = seen.get(lr.tobytes(), 0) + 1
    # 10 positions, 8 orientations: 50 of 4000 each; five standard deviations are 35.
    assert len(seen) == 80
    assert min(seen.values()) > 15
    assert max(seen.values()) < 85


def test_attention_is_off_for_the_share_that_was_asked_for() -> None:
    pool = patches.pool(["t"], 2, 8)
    for share in (0.0, 0.25, 0.5):
        drawn = [patches.Batches(pool, 8, 8, 0, share).draw(step) for step in range(500)]
        off = 1 - np.mean([draw.on for draw in drawn])
        assert off == pytest.approx(share, abs=0.03)  # four standard deviations of 4000 draws
        always_on = patches.Batches(pool, 8, 8, 0)
        for step in range(9):  # the patches do not depend on it
            np.testing.assert_array_equal(drawn[step].corner, always_on.draw(step).corner)


def test_a_pool_sent_to_a_worker_carries_no_pixels(world: Path) -> None:
    pool = patches.pool(["t"], 2, 8)
    sent = pickle.dumps(pool)
    assert len(sent) < 1000 < pool.hr.nbytes
    np.testing.assert_array_equal(pickle.loads(sent).hr, pool.hr)


def test_pictures_smaller_than_a_patch_are_left_out(world: Path) -> None:
    images.write(world / "train" / "t" / "small.png", np.zeros((30, 90, 3), np.uint8))
    assert patches.pool(["t"], 2, 15).names == ("t/0", "t/1", "t/2", "t/small")
    assert patches.pool(["t"], 2, 16).names == ("t/0", "t/1", "t/2")


def test_the_known_leak_is_left_out_by_name(world: Path) -> None:
    for name in ("302003", "302004"):
        images.write(world / "train" / "BSD200" / f"{name}.png", np.zeros((9, 9, 3), np.uint8))
    assert list(patches.sources(["BSD200"])) == ["BSD200/302004"]
    assert len(patches.sources(["BSD200"], exclude=())) == 2


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["T92"], r"T92: expected a folder of pictures; found no such folder; run `dtfn data"),
        (["empty"], "found no picture in it"),
        (["twice"], "one picture named twice/a; found two"),
    ],
)
def test_folders_without_usable_pictures_are_refused(
    world: Path, sets: list[str], message: str
) -> None:
    (world / "train" / "empty").mkdir()
    images.write(world / "train" / "twice" / "a.png", np.zeros((9, 9, 3), np.uint8))
    (world / "train" / "twice" / "a.bmp").touch()
    with pytest.raises(InputError, match=message):
        patches.pool(sets, 2, 4)


def test_a_patch_larger_than_all_pictures_is_refused_with_their_size() -> None:
    with pytest.raises(InputError, match=r"at least 72 pixels a side; found .*\[70 80\]"):
        patches.pool(["t"], 2, 36)


def test_an_unreadable_picture_leaves_no_cache_behind(world: Path) -> None:
    (world / "train" / "t" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"1\.png"):
        patches.pool(["t"], 2, 8)
    assert not list((world / "cache" / "patches").iterdir())
