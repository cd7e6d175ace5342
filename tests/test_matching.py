"""Names of pictures as the field writes them, and every way in which folders do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from dtfn import audit, images
from dtfn.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 28, 3), np.uint8)


def folder(path: Path, names: Sequence[str], pixels: np.ndarray = PIXELS) -> Path:
    for name in names:
        images.write(path / name, pixels)
    return path


def matched(tmp_path: Path, hr: Sequence[str], sr: Sequence[str], scale: int = 4) -> dict[str, str]:
    found = audit.match(folder(tmp_path / "hr", hr), {"a": folder(tmp_path / "a", sr)}, scale)
    return {one.hr.name: one.results["a"].name for one in found}


@pytest.mark.parametrize(
    "sr",
    [
        "baby.png", "babyx4.png", "baby_x4.png", "baby-x4.png", "baby x4.png", "baby.x4.png",
        "baby_SR.png", "babyx4_SR.png", "baby_x4_SR.png", "baby_RCAN_x4.png", "baby_4x.png",
        "baby_EDSR_Lx4_f256b32_DIV2K_official.png", "baby_HAT_SRx4.png", "baby_x4_SwinIR.png",
        "baby_DTFN_48x48_x4.png", "baby_SRF_4_SR.png", "Baby_X4.PNG", "baby_bicubic.bmp",
        "baby_x4plus.tif",
    ],
)  # fmt: skip
def test_names_of_the_field_are_understood(tmp_path: Path, sr: str) -> None:
    """RCAN, EDSR, BasicSR, SwinIR, HAT, Real-ESRGAN and plain ways to name a result."""
    assert matched(tmp_path, ["baby.png"], [sr]) == {"baby.png": sr}


@pytest.mark.parametrize(
    ("hr", "sr"),
    [
        ("baby_HR.png", "baby_x4.png"),
        ("baby_GT.png", "baby_SR.png"),
        ("babyx4.png", "baby_RCAN_x4.png"),
        ("img_001_SRF_4_HR.png", "img_001_SRF_4_SR.png"),
        ("img_001_SRF_4_HR.png", "img_001_x4.png"),
        ("img_001_SRF_4_HR.png", "img_001_SRF_4_HR.png"),
        ("0801.png", "0801x4.png"),
        ("x4.png", "x4_SR.png"),
        ("matrix4.png", "matrix4_x4.png"),
    ],
)
def test_the_truth_may_have_an_ending_too(tmp_path: Path, hr: str, sr: str) -> None:
    assert matched(tmp_path, [hr], [sr]) == {hr: sr}


def test_the_longer_name_counts(tmp_path: Path) -> None:
    hr = ["img.png", "img_1.png", "img_10.png", "img_1_2.png"]
    sr = ["img_x4.png", "img_1_x4.png", "img_10_x4.png", "img_1_2_x4.png"]

    assert matched(tmp_path, hr, sr) == {
        "img.png": "img_x4.png",
        "img_1.png": "img_1_x4.png",
        "img_10.png": "img_10_x4.png",
        "img_1_2.png": "img_1_2_x4.png",
    }


@pytest.mark.parametrize(
    ("hr", "sr", "told"),
    [
        (["a.png"], ["b.png"], ["has b.png, which continues no name", "lacks a.png"]),
        (["a.png", "b.png"], ["a_x4.png"], ["1 problem: 'a' lacks b.png"]),
        (["img1.png"], ["img10.png"], ["has img10.png, which continues no name"]),
        (["baby.png"], ["baby2.png"], ["has baby2.png, which continues no name"]),
        (["a.png"], ["a_x4.png", "a_SR.png"], ["has a_SR.png and a_x4.png for a.png"]),
        (["a.png", "a_HR.png"], ["a_x4.png"], ["a_x4.png, which may be a.png or a_HR.png"]),
        (["A.png", "a.jpg"], ["a_x4.png"], ["a_x4.png, which may be A.png or a.jpg"]),
        (["baby.png"], ["baby_RCAN_x2.png"], ["baby_RCAN_x2.png, which is named for another"]),
        (["baby.png"], ["baby_3x.png"], ["another scale"]),
        (["img_SRF_2_HR.png"], ["img_SRF_2_SR.png"], ["another scale"]),
    ],
)
def test_doubt_is_an_error(tmp_path: Path, hr: list[str], sr: list[str], told: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        matched(tmp_path, hr, sr)
    for part in told:
        assert part in str(caught.value)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    hr = folder(tmp_path / "hr", ["a.png", "b.png", "c.png", "d.png", "e.png"])
    a = folder(tmp_path / "a", ["a_x4.png", "b_x4.png", "d_x2.png", "e.png", "more.png"])
    b = folder(tmp_path / "b", ["a.png", "b.png", "c.png", "d.png"], PIXELS[:20])
    (b / "e.png").write_bytes((a / "e.png").read_bytes()[:100])
    with pytest.raises(InputError) as caught:
        audit.match(hr, {"a": a, "b": b}, 4)
    told = str(caught.value)

    assert "6 problems" in told
    for part in ("'a' lacks c.png", "d_x2.png, which is named for another scale", "has more.png"):
        assert part in told
    assert "a: expected 28 x 24 pixels 'b', as the truth has; found 28 x 20" in told
    assert "e.png: expected" in told  # cut short
    assert "\n" not in told


def test_a_hundred_problems_are_not_all_listed(tmp_path: Path) -> None:
    hr = folder(tmp_path / "hr", [f"{k:03d}.png" for k in range(100)])
    a = folder(tmp_path / "a", ["000.png"])
    with pytest.raises(InputError, match=r"99 problems: 'a' lacks 001.png; .*; and 87 more;"):
        audit.match(hr, {"a": a}, 4)


def test_folders_without_pictures_say_what_they_have(tmp_path: Path) -> None:
    hr, a = folder(tmp_path / "hr", ["a.png"]), tmp_path / "a"
    folder(a / "X4", ["a.png"])
    (a / ".a.png").touch()
    with pytest.raises(InputError) as caught:
        audit.match(hr, {"a": a, "b": tmp_path / "none"}, 4)

    assert f"{a} has no picture, but folders X4; {tmp_path / 'none'} is no folder" in str(
        caught.value
    )


def test_the_truth_is_cropped_to_the_results(tmp_path: Path) -> None:
    """At the top left, as the LR pictures of the benchmarks were made."""
    pixels = np.random.default_rng(1).integers(0, 256, (27, 30, 3), np.uint8)
    hr = folder(tmp_path / "hr", ["a.png"], pixels)
    cropped = folder(tmp_path / "cropped", ["a.png"], pixels[:24, :28])
    whole = folder(tmp_path / "whole", ["a.png"], pixels)
    (one,) = audit.match(hr, {"cropped": cropped, "whole": whole}, 4)
    truth, made = audit.load(one, 4)

    for image in (truth, made["cropped"], made["whole"]):
        np.testing.assert_array_equal(image, pixels[:24, :28])


@pytest.mark.parametrize("size", [(26, 30), (27, 28), (23, 28), (28, 32), (30, 27)])
def test_other_sizes_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    hr = folder(tmp_path / "hr", ["a.png"], np.zeros((27, 30), np.uint8))
    a = folder(tmp_path / "a", ["a.png"], np.zeros(size, np.uint8))
    with pytest.raises(InputError, match=f"found {size[1]} x {size[0]}"):
        audit.match(hr, {"a": a}, 4)


def test_a_picture_that_is_all_border_is_refused(tmp_path: Path) -> None:
    small = np.zeros((11, 40), np.uint8)
    hr, a = folder(tmp_path / "hr", ["a.png"], small), folder(tmp_path / "a", ["a.png"], small)
    with pytest.raises(InputError, match=r"at least 12 pixels a side.*found 40 x 11"):
        audit.match(hr, {"a": a}, 4)
    assert len(audit.match(hr, {"a": a}, 3)) == 1


def test_grey_results_of_a_colour_truth_are_refused(tmp_path: Path) -> None:
    hr = folder(tmp_path / "hr", ["a.png"])
    grey = folder(tmp_path / "grey", ["a.png"], PIXELS[:, :, 0])
    with pytest.raises(InputError, match="expected a colour picture 'grey'"):
        audit.match(hr, {"grey": grey}, 4)
    same = folder(tmp_path / "same", ["a.png"], np.dstack([PIXELS[:, :, 0]] * 3))
    assert len(audit.match(same, {"grey": grey}, 4)) == 1


def test_kinds_of_file_are_made_comparable(tmp_path: Path) -> None:
    grey = PIXELS[:, :, 0]
    hr = folder(tmp_path / "hr", ["a.png"], grey)
    deep = folder(tmp_path / "deep", ["a.tif"], PIXELS.astype(np.uint16) * 257)
    (one,) = audit.match(hr, {"deep": deep}, 4)
    truth, made = audit.load(one, 4)

    np.testing.assert_array_equal(truth, grey)  # a grey file is Y itself
    np.testing.assert_array_equal(made["deep"], PIXELS)


def test_another_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected 2, 3 or 4"):
        audit.match(tmp_path, {"a": tmp_path}, 8)
