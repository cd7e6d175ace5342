"""Benchmarks: the pairs are right, and a wrong folder is one clear line."""

import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from skimage import data as scikit_image
from tiny import refused

from dtfn import datasets, images
from dtfn.datasets import benchmark, names

RNG = np.random.default_rng(0)
Save = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root of this test's own."""
    monkeypatch.setenv("DTFN_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def save(root: Path) -> Save:
    """Write noise of the given shape to a path below the root."""

    def write(file: str, shape: tuple[int, ...] = (41, 50, 3), depth: str = "uint8") -> Path:
        noise = RNG.integers(0, np.iinfo(depth).max, shape, dtype=depth, endpoint=True)
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(images.encode(noise))  # the content decides, not the suffix
        return root / file

    return write


def test_mini_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected: dict[str, tuple[int, ...]]
    expected = dict.fromkeys(("brick", "camera", "grass", "gravel"), (512, 512))
    expected |= {"astronaut": (512, 512, 3), "chelsea": (300, 448, 3), "coffee": (400, 600, 3)}
    samples = list(benchmark("mini", 4))
    assert {sample.image: sample.hr.shape for sample in samples} == expected
    assert names("mini") == [sample.image for sample in samples] == sorted(expected)
    for sample in samples:
        official = getattr(scikit_image, sample.image)()
        np.testing.assert_array_equal(sample.hr, images.modcrop(official, 4))
        assert (sample.dataset, sample.scale) == ("mini", 4)
    one = datasets.sample("mini", "coffee", 4)
    np.testing.assert_array_equal(one.lr, samples[4].lr)
    np.testing.assert_array_equal(one.hr, samples[4].hr)
    refused("did you mean 'coffee'", datasets.sample, "mini", "cofee", 4)
    monkeypatch.setenv("DTFN_DATA", str(tmp_path / "missing"))
    monkeypatch.setitem(sys.modules, "skimage.data", None)  # any import of it now fails
    tested = [images.as_rgb(sample.hr) for sample in benchmark("mini", 2)]
    training = datasets.embedded_training()
    assert len(training) == 12
    assert not set(training) & set(names("mini"))
    for image in (images.as_rgb(images.read(file)) for file in training.values()):
        assert image.shape[2] == 3
        assert min(image.shape[:2]) >= 172
        assert not any(np.array_equal(image, hr) for hr in tested)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lr_is_made_where_it_is_absent(save: Save, scale: int) -> None:
    save("Own/HR/b.png", (45, 50, 3))
    save("Own/HR/a.png", (47, 61))
    grey, colour = benchmark("Own", scale)
    found = [(s.dataset, s.image, s.scale, s.lr_file) for s in (grey, colour)]
    assert found == [("Own", name, scale, None) for name in "ab"]
    assert grey.hr.shape == (47 // scale * scale, 61 // scale * scale)
    assert colour.hr.shape == (45 // scale * scale, 50 // scale * scale, 3)
    np.testing.assert_array_equal(colour.lr, images.degrade(colour.hr, scale))
    np.testing.assert_array_equal(grey.lr, np.dstack([images.degrade(grey.hr, scale)] * 3))


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("LR_bicubic/X4/ax4.PNG", "a"),
        ("LR_bicubic/X4/a.png", "a"),
        ("LR_bicubic/X4/a_LRBDx4.png", "a"),
        ("LR_bicubic/x4/Ax4.jpg", "a"),
        ("lr_bicubic/SRF_4/a.tif", "a"),
        ("LR_bicubic/ax4.png", "a"),
        (f"LR_bicubic/X4/{COMPOSED}x4.png", DECOMPOSED),
    ],
)
def test_lr_is_taken_where_it_is_there(save: Save, file: str, name: str) -> None:
    save(f"Own/HR/{name}.png")
    stored = images.read(lr := save(f"Own/{file}", (10, 12)))
    save(f"Own/LR_bicubic/x2/{name}x2.png", (20, 25, 3))
    (sample,) = benchmark("Own", 4)
    np.testing.assert_array_equal(sample.lr, images.as_rgb(stored))
    assert sample.lr_file == lr == datasets.sample("Own", name, 4).lr_file
    assert lr in datasets.files("Own")
    (other,) = benchmark("Own", 3)
    assert other.lr_file is None


def test_an_lr_folder_that_does_not_match_is_refused(save: Save) -> None:
    """LR made anew from HR instead of the given one moves PSNR by 20 dB without a word."""
    for file, found in {
        "1/LR_bicubic/X4/zebra.png": r"zebra\.png, which continues no name",
        "2/LR_bicubic/X4/ax3.png": r"ax3\.png, which is named for another scale",
        "3/LR_bicubic/X4/a.webp": r"found a\.webp; the folder lacks a\.png",
        "4/LR_unknown/X4/ax4.png": r"found ax4\.png; the folder lacks b\.png",
    }.items():
        save(f"{file[0]}/HR/a.png")
        save(f"{file[0]}/HR/b.png")
        save(file, (10, 12))
        refused(rf"X4: expected LR_bicubic/X4 .*{found}", benchmark, file[0], 4)


def test_every_kind_of_file_is_an_8_bit_sample(root: Path, save: Save) -> None:
    deep = images.read(save("Own/HR/a.tiff", (40, 40), "uint16"))
    alpha = images.read(save("Own/HR/b.tif", (40, 40, 2)))
    colour = images.read(save("Own/HR/c.JPG", (40, 40, 3)))
    for name in ("Thumbs.db", "README.txt", ".a.png", "._a.png"):
        (root / "Own" / "HR" / name).write_bytes(b"no image")
    a, b, c = benchmark("Own", 2)
    np.testing.assert_array_equal(a.hr, images.as_rgb(deep)[:, :, 0])
    np.testing.assert_array_equal(b.hr, images.as_rgb(alpha)[:, :, 0])
    np.testing.assert_array_equal(c.hr, colour)
    for sample in (a, b, c):
        assert sample.lr.dtype == sample.hr.dtype == np.uint8
        assert sample.lr.shape == (20, 20, 3)


def test_count_takes_the_first_of_the_sorted_and_each_is_read_alone(root: Path, save: Save) -> None:
    for name in ("b", "a"):
        save(f"B100/HR/{name}.png")
    (root / "B100" / "HR" / "c.png").write_bytes(b"no image")
    both = [(s.dataset, s.image) for s in benchmark("BSD100", 2, count=2)]  # its other name
    assert both == [("B100", "a"), ("B100", "b")]
    samples = benchmark("B100", 2, count=9)
    assert [next(samples).image, next(samples).image] == ["a", "b"]
    refused(r"c\.png: expected a whole PNG", next, samples)
    refused("count: expected at least 1 image; found 0", benchmark, "B100", 2, count=0)


def test_what_is_no_benchmark_is_one_line(root: Path, save: Save) -> None:
    for file in ("Pebbles/HR/a.png", "Twice/HR/a.png", "Twice/HR/a.jpg"):
        save(file)
    (root / "Notes" / "HR").mkdir(parents=True)
    (root / "Notes" / "HR" / "notes.txt").touch()
    (root / "Empty").mkdir()
    for asked, message in {
        "Set5": r"/Set5: expected a folder with HR/.*no such folder; .*fetch Set5`.*DTFN_DATA",
        "Urban": "did you mean 'Urban100'",
        "Pebles": "did you mean 'Pebbles'",
        "Empty": "found a folder without HR",
        "Notes": r"Notes/HR: expected pictures \(.*\.png.*\); found none",
        "Twice": r"one picture named 'a'; found a\.jpg and a\.png",
        "Pebbles/../Pebbles": "expected a folder with HR/",  # a name cannot leave the root
    }.items():
        refused(message, names, asked)
        refused(message, benchmark, asked, 4)


@pytest.mark.parametrize(("scale", "smallest"), [(2, 15), (3, 17), (4, 19)])
def test_pictures_of_a_wrong_size_are_named(save: Save, scale: int, smallest: int) -> None:
    """11 pixels of window and `scale` pixels of border on each side, after the crop."""
    fits = scale * -(-smallest // scale)
    save("Own/HR/a.png", (fits, 60))
    file = save("Own/HR/b.png", (60, fits - 1))
    samples = benchmark("Own", scale)
    assert min(next(samples).hr.shape) == fits
    refused(re.escape(f"{file}: expected at least {smallest} x {smallest} pixels"), next, samples)
    hr = save("Lr/HR/a.png", (41, 43))
    lr = save("Lr/LR_bicubic/X4/ax4.png", (10, 11))
    expected = re.escape(f"{lr}: expected 10 x 10 pixels, 1/4 of {hr}; found 11 x 10 (width")
    refused(expected, next, benchmark("Lr", 4))
