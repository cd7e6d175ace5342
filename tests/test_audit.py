"""From folders of pictures to a report: names, a naive computation, verdicts, every refusal."""

import json
import math
import re
from collections.abc import Sequence
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from tiny import call, refused, said
from torch import nn

from dtfn import audit, datasets, images, paths, statistics, texture


def blurred(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return np.kron(rng.integers(0, 256, (height // 4, width // 4, 3)), np.ones((4, 4, 1)))


def write(root: Path, names: str = "abc", spread: int = 20) -> dict[str, Path]:
    """Write a truth (not of a multiple of 4) and three results for each name."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(names):
        truth = blurred(rng, 32 + 4 * k, 40)
        whole = np.pad(truth, ((0, 3), (0, 1), (0, 0)), mode="edge")
        images.write(root / "hr" / f"{name}.png", whole.astype(np.uint8))
        for role, suffix in (("with", "_x4_SR"), ("without", "_L_x4"), ("null", "x4")):
            noisy = truth + rng.integers(-spread, spread + 1, truth.shape)
            made = noisy.clip(0, 255).astype(np.uint8)
            images.write(root / role / f"{name}{suffix}.png", made)
    return {role: root / role for role in ("hr", "with", "without", "null")}


def run(folders: dict[str, Path], out: Path, null: bool = False) -> dict[str, Any]:
    controls = [folders["null"]] if null else []
    audit.audit([*(folders[name] for name in ("hr", "with", "without")), *controls], 4, out)
    report: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return report


def naive(folders: dict[str, Path], n: str, l: str) -> pd.DataFrame:
    """The figures of each image, by loops over blocks of 4 x 4 pixels but the outermost."""
    rows = []
    for file in sorted(folders["hr"].iterdir()):
        hr = images.luma(images.modcrop(images.as_rgb(images.read(file)), 4))
        both = (images.read(next(folders[role].glob(f"{file.stem}*"))) for role in (n, l))
        x, y = (images.luma(images.as_rgb(one)) for one in both)
        blocks = []
        for i in range(4, hr.shape[0] - 4, 4):
            for j in range(4, hr.shape[1] - 4, 4):
                block = np.s_[i : i + 4, j : j + 4]
                a, b, t = x[block], y[block], hr[block]
                e_n, e_l = np.mean((a - t) ** 2), np.mean((b - t) ** 2)
                weights = np.linspace(0, 1, 2001)[:, None, None]
                mixed = np.mean((weights * a + (1 - weights) * b - t) ** 2, axis=(1, 2)).min()
                blocks.append((e_n, e_l, min(e_n, e_l), mixed, e_n > e_l))
        *errors, harmed = np.mean(blocks, axis=0)
        rows.append([*(10 * math.log10(255**2 / error) for error in errors), harmed])
    columns = ["psnr_with", "psnr_without", "selection_bound", "fusion_bound", "harm_rate"]
    return pd.DataFrame(rows, columns=columns)


def test_the_summary_is_that_of_a_naive_computation(tmp_path: Path) -> None:
    folders = write(tmp_path)
    expected = naive(folders, "with", "without")
    images.write(folders["hr"] / "more.png", images.read(folders["hr"] / "a.png"))
    report = run(folders, tmp_path / "out")
    written = pd.read_csv(tmp_path / "out" / "images.csv")
    assert written["image"].tolist() == ["a", "b", "c"]
    for name in expected:
        assert report[name] == pytest.approx(expected[name].mean(), abs=1e-5), name
        assert written[name].to_numpy() == pytest.approx(expected[name].to_numpy(), abs=1e-5)
    numbers = {"scale": 4, "border": 4, "tau": 0, "images": 3, "hr_images": 4}
    assert numbers.items() <= report.items()
    ends = report["intervals"]["psnr_with"]
    interval = statistics.mean_interval(written["psnr_with"])
    assert (ends["low"], ends["high"]) == pytest.approx((interval.low, interval.high))
    for words in ("no control", "3 of the 4 pictures of the truth were used"):
        assert words in " ".join(report["notes"])
    assert report["names"] == {"with": "with", "without": "without", "controls": []}
    assert {row["than"] for row in report["fifths"]} == {"without"}


def test_a_control_is_taken_off(tmp_path: Path) -> None:
    """What A has beyond a control C is the error of A less that of C: that of B cancels."""
    folders = write(tmp_path, "abcdef")
    report = run(folders, tmp_path / "out", null=True)
    against = audit.look(audit.in_folders([folders[r] for r in ("hr", "with", "null")], 4))
    changes = {(row["than"], row["fifth"]): row["change"] for row in report["fifths"]}
    parts = against.measured.fifths.assign(net=lambda t: t["added"] - t["removed"])
    bases = audit.look(audit.in_folders([folders[r] for r in ("hr", "null", "without")], 4))
    base = bases.measured.fifths.groupby("fifth")["off"].mean()
    for fifth, mean in parts.groupby("fifth")["net"].mean().items():
        assert changes["null", fifth] == pytest.approx(100 * mean / base[fifth])
    assert {row["role"] for row in report["curve"]} == {"pair", "control"}


def test_perfect_constant_and_single_results_are_valid_json(tmp_path: Path) -> None:
    """An infinite PSNR is null, with a note, since JSON has no infinity."""
    folders = write(tmp_path, "ab")
    (folders["with"] / "a_x4_SR.png").unlink()
    images.write(folders["with"] / "a.png", images.read(folders["hr"] / "a.png"))
    report = run(folders, tmp_path / "out", null=True)
    assert report["psnr_with"] is None
    assert report["intervals"]["psnr_with"]["note"] == "infinite values: no interval"
    assert any(note.startswith("1 of 2 images are reproduced exactly") for note in report["notes"])
    assert 0 < report["harm_rate"] < 1
    assert np.isfinite(report["psnr_without"])
    flat = np.zeros((24, 24), np.uint8)
    off = flat.copy()
    off[8:12] = 128
    for role, pixels in (("hr", flat), ("with", off), ("without", flat)):
        images.write(tmp_path / "flat" / role / "a.png", pixels)
    report = run({role: tmp_path / "flat" / role for role in folders}, tmp_path / "out")
    assert report["harm_rate"] == pytest.approx(4 / 16)
    assert report["psnr_without"] is report["selection_bound"] is None
    none = {"low": None, "high": None, "images": 1, "note": "a single image: no interval"}
    assert report["intervals"]["harm_rate"] == none
    assert none["note"] in report["notes"]


def noisy(root: Path, name: str, seed: int, spread: float, count: int = 8, side: int = 64) -> Path:
    """Write what a network of some quality makes of pictures below root/hr."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        truth = blurred(np.random.default_rng(k), side, side).astype(np.uint8)
        images.write(root / "hr" / f"{k}.png", truth)
        made = truth + rng.normal(0, spread, truth.shape)
        images.write(root / name / "toy" / f"{k}.png", made.round().clip(0, 255).astype(np.uint8))
    return root / name / "toy"


def train(root: Path, name: str, seed: int, steps: int, kernel: int, activation: nn.Module) -> Path:
    """Train a small network of its kind for a second; write what it makes of root/hr."""
    torch.manual_seed(seed)
    last = nn.Conv2d(12, 48, 3, padding=1)
    nn.init.zeros_(last.weight)
    first = nn.Conv2d(3, 12, kernel, padding=kernel // 2)
    network = nn.Sequential(first, activation, last, nn.PixelShuffle(4))
    truths = [images.as_rgb(images.read(file)) for file in sorted((root / "hr").iterdir())]
    lrs = [images.degrade(truth, 4) for truth in truths]
    every = (np.stack(n) for n in (truths, lrs, [images.imresize(one, 4) for one in lrs]))
    hr, lr, base = (torch.from_numpy(one).permute(0, 3, 1, 2) / 255 for one in every)
    adam = torch.optim.Adam(network.parameters(), 4e-3)
    for _ in range(steps):
        adam.zero_grad()
        (base + network(lr) - hr).square().mean().backward()
        adam.step()
    outputs = 255 * (base + network(lr)).detach().permute(0, 2, 3, 1).numpy()
    for k, output in enumerate(outputs.round().clip(0, 255).astype(np.uint8)):
        images.write(root / name / "toy" / f"{k}.png", output)
    return root / name / "toy"


def test_small_trained_networks_are_not_judged_falsely(tmp_path: Path) -> None:
    """Three unrelated networks, one of lower quality, in any order of the three roles."""
    for k, sample in enumerate(datasets.benchmark("mini", 4)):
        crop = np.ascontiguousarray(images.as_rgb(sample.hr)[:96, :96])
        images.write(tmp_path / "hr" / f"{k}.png", crop)
    made = {"weak": train(tmp_path, "weak", 3, 4, 3, nn.Tanh())}
    made |= {"p": train(tmp_path, "p", 1, 60, 3, nn.ReLU())}
    made |= {"q": train(tmp_path, "q", 2, 60, 5, nn.GELU())}
    for a, b, c in permutations(made):
        out = tmp_path / "out"
        report, found = audit.audit([tmp_path / "hr", made[a], made[b], made[c]], 4, out)
        assert report["names"] == {"with": a, "without": b, "controls": [c]}
        better, *worse = found.verdicts()
        assert better.claim == f"{a} has a higher PSNR than {b}"
        if "weak" in (a, b):
            assert better.holds is (b == "weak")
        assert [verdict.holds for verdict in worse] == [None, None]
        assert all(str(verdict.measured).startswith("not judged: ") for verdict in worse)
        assert str(worse[0].measured).endswith("95 % interval of the PSNR gain holds 0")
        assert report["notes"][0].endswith("unequal quality looks like harm or help")
        said = (out / "summary.json").read_text()
        assert not re.search("paper|twin|hash seed|first seed|attention|gate", said)


def test_planted_harm_is_found_and_the_swapped_control_does_not_turn_it(tmp_path: Path) -> None:
    """A errs more where most detail was lost, and as much less elsewhere."""
    b, c, d = (noisy(tmp_path, name, seed, 10, 12) for seed, name in enumerate("bcd", 20))
    for name, k in product("ae", range(12)):
        truth = images.read(tmp_path / "hr" / f"{k}.png").astype(float)
        lost = texture.severity(truth.astype(np.uint8), 4).repeat(4, 0).repeat(4, 1)
        worst = (lost >= np.quantile(lost, 0.8))[..., None]
        noise = np.random.default_rng(100 + k + 12 * (name == "e")).normal(0, 1, truth.shape)
        made = (truth + noise * np.where(worst, 13.0, 9.12)).round().clip(0, 255)
        images.write(tmp_path / name / "toy" / f"{k}.png", made.astype(np.uint8))
    a, e = tmp_path / "a" / "toy", tmp_path / "e" / "toy"
    for others in ([b, c], [c, b], [b, c, d]):
        found = audit.look(audit.in_folders([tmp_path / "hr", a, *others], 4))
        better, worse, _ = found.verdicts()
        assert better.holds is None
        assert worse.holds is True
        assert isinstance(worse.measured, float)
        assert worse.measured > 20
    found = audit.look(audit.in_folders([tmp_path / "hr", a, b, e], 4))  # e harms as a does
    _, worse, _ = found.verdicts()
    assert worse.measured == "depends on the comparison (b: more; e: no difference)"
    for controls in ([c, e], [e, c]):
        report, found = audit.audit([tmp_path / "hr", a, b, *controls], 4, tmp_path / "out")
        _, worse, _ = found.verdicts()
        assert worse.holds is None
        assert str(worse.measured).startswith("depends on the control (")
        assert {"c: more", "e: no difference"} == set(str(worse.measured)[24:-1].split("; "))
    assert set(report["folders"]) == {"hr", "with", "without", "control 1", "control 2"}


def test_planted_textures_are_found_where_they_are(tmp_path: Path) -> None:
    """A is worse in one place of every picture, and better by as much all around."""
    names = {"b": 20, "c": 21, "a": 22, "e": 23}
    folders = {name: noisy(tmp_path, name, seed, 10, 10, 160) for name, seed in names.items()}
    for name, k in product("ae", range(10)):
        file = folders[name] / f"{k}.png"
        truth = images.read(tmp_path / "hr" / f"{k}.png").astype(float)
        error = images.read(file) - truth
        place = np.s_[40:72, 64:96]
        factor = np.full(truth.shape[:2], 0.93)
        factor[place] = 2
        made = truth + error * factor[..., None]
        images.write(file, made.round().clip(0, 255).astype(np.uint8))
    hr, a, b, c, e = (tmp_path / "hr", *(folders[name] for name in "abce"))
    found = audit.look(audit.in_folders([hr, a, b, c], 4))
    regions = found.measured.regions
    harmed = regions[(regions["role"] == "pair") & (regions["q"] <= 0.05)]
    assert set(harmed["image"]) == set(found.pictures["image"])
    assert ((harmed["top"] + harmed["height"] / 2 - 14).abs() < 4).all()
    assert ((harmed["left"] + harmed["width"] / 2 - 20).abs() < 4).all()
    better, _, textures = found.verdicts()
    assert better.holds is None
    assert textures.holds is True
    _, _, textures = audit.look(audit.in_folders([hr, a, b, c, e], 4)).verdicts()
    assert textures.measured == "depends on the control (c: worse; e: nothing found)"


def test_results_have_the_names_of_their_folders(tmp_path: Path) -> None:
    root = tmp_path / "NAME"
    hr = folder(root / "Set5" / "HR", ["a.png"])
    for folders, names in {
        "RCAN/Set5 EDSR/Set5": "RCAN EDSR",
        "RCAN/Set5/X4 EDSR/Set5/x4": "RCAN EDSR",
        "RCAN/x4 EDSR/4x": "RCAN EDSR",
        "one two": "one two",
        "v1/net v2/net other": "v1/net v2/net other",
        "x4 EDSR": "NAME EDSR",
    }.items():
        places = [folder(root / name, ["a.png"]) for name in folders.split()]
        assert audit.in_folders([hr, *places], 4).names == tuple(names.split())


def test_one_and_the_same_results_are_refused(tmp_path: Path) -> None:
    folders, out, copy = write(tmp_path), tmp_path / "out", tmp_path / "copy"
    for file in folders["with"].iterdir():
        images.write(copy / file.name, images.read(file))
    for role, other, message in (
        ("without", folders["with"], "folders: expected each once; found .*/with twice"),
        ("null", folders["with"], "folders: expected each once; found .*/with twice"),
        ("without", copy, "with and copy have equal outputs on every picture"),
        ("null", copy, "--control: .*found copy is with on every picture"),
    ):
        refused(message, run, folders | {role: other}, out, null=role == "null")
    assert not out.exists()


def test_the_command_prints_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders, out = write(tmp_path), tmp_path / "reports" / "audit"
    monkeypatch.setattr(paths, "REPORTS", tmp_path / "reports")
    given = ["audit", f"--hr={folders['hr']}", f"--without={folders['without']}", "--no-report"]
    for results_a, more in ((str(folders["with"]), []), ("bicubic", [f"--null={folders['null']}"])):
        told = said(*given, "--with", results_a, *more)
        report = json.loads((out / "summary.json").read_text())
        name = report["names"]["with"]
        assert f"| {name} | {report['psnr_with']:.3f} | " in told
        assert "| 5 | without | " in told
        assert ("not judged: there is no control; name a s" in told) == (not more)
        assert f"{name} has a higher PSNR than without — open on 3 pictures; 5 are needed" in told
    (made,) = (out / "outputs").iterdir()
    for file in sorted(folders["hr"].iterdir()):
        lr = images.degrade(images.modcrop(images.as_rgb(images.read(file)), 4), 4)
        np.testing.assert_array_equal(images.read(made / file.name), images.imresize(lr, 4))
    refusal = said(*given, "--with", "no-such-network", code=2)
    assert "expected a name of the zoo" in refusal


@pytest.mark.slow
def test_the_command_writes_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = write(tmp_path / "with, a comma", "ab")
    chosen = {role: folders[role] for role in ("hr", "with", "without")}
    out = tmp_path / "out"
    assert call("audit", *(f"--{r}={f}" for r, f in chosen.items()), "--out=out") == 0
    (run,) = (out / "runs" / "09_audit").iterdir()
    record = json.loads((run / "manifest.json").read_text())
    assert record["parameters"]["folders"] == [str(f) for f in chosen.values()]
    assert len([key for key in record["inputs"] if key.endswith(".png")]) == 2 * 3
    assert {figure["name"] for figure in record["figures"]} == {"error_curve", "textures"}
    assert (out / "index.html").exists()
    table = pd.read_csv(run / "tables" / "fifths.csv")
    report = json.loads((out / "summary.json").read_text())
    assert table["change"].tolist() == pytest.approx([row["change"] for row in report["fifths"]])
    text = re.sub("<style.*?</style>", "", (run / "09_audit.html").read_text(), flags=re.S)
    assert not re.search(r"\bpaper\b|twin|attention|the gate", text)


def test_rcan_against_bicubic(benchmarks: Path, tmp_path: Path) -> None:
    """RCAN's own Set5 outputs have 32.63 dB and bicubic 28.43: not noise, but skill."""
    rcan = benchmarks.parent / "reference_sr" / "RCAN" / "Set5" / "X4"
    if not rcan.is_dir():
        pytest.skip("RCAN's own outputs are not beside the benchmarks")
    for file in (benchmarks / "Set5" / "HR").iterdir():
        lr = images.degrade(images.as_rgb(images.read(file)), 4)
        images.write(tmp_path / "bicubic" / f"{file.stem}x4.png", images.imresize(lr, 4))
    hr = benchmarks / "Set5" / "HR"
    report, found = audit.audit([hr, rcan, tmp_path / "bicubic"], 4, tmp_path)
    assert report["psnr_with"] == pytest.approx(32.634, abs=0.001)
    assert report["psnr_without"] == pytest.approx(28.43, abs=0.005)
    assert 0.1 < report["harm_rate"] < 0.3
    assert report["psnr_with"] < report["selection_bound"] < report["fusion_bound"]
    assert found.verdicts()[0].holds is True


PIXELS = np.random.default_rng(0).integers(0, 256, (24, 28, 3), np.uint8)


def folder(path: Path, names: Sequence[str], pixels: np.ndarray = PIXELS) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).write_bytes(images.encode(pixels))  # the content decides, not the suffix
    return path


def matched(tmp_path: Path, hr: Sequence[str], sr: Sequence[str]) -> dict[str, str]:
    found = audit.match_folders(folder(tmp_path / "hr", hr), {"a": folder(tmp_path / "a", sr)}, 4)
    return {truth.name: files["a"].name for truth, files in found.items()}


NAMES = (
    "baby.png|babyx4.png|baby_x4.png|baby-x4.png|baby x4.png|baby.x4.png|baby_SR.png|"
    "babyx4_SR.png|baby_x4_SR.png|baby_RCAN_x4.png|baby_4x.png|baby_HAT_SRx4.png|"
    "baby_EDSR_Lx4_f256b32_DIV2K_official.png|baby_x4_SwinIR.png|baby_DTFN_48x48_x4.png|"
    "baby_SRF_4_SR.png|Baby_X4.PNG|baby_bicubic.bmp|baby_x4plus.tif"
)


@pytest.mark.parametrize(
    ("hr", "sr", "doubt"),
    [
        *(("baby.png", name, "") for name in NAMES.split("|")),
        ("baby_HR.png", "baby_x4.png", ""),
        ("baby_GT.png", "baby_SR.png", ""),
        ("babyx4.png", "baby_RCAN_x4.png", ""),
        ("img_001_SRF_4_HR.png", "img_001_SRF_4_SR.png", ""),
        ("img_001_SRF_4_HR.png", "img_001_x4.png", ""),
        ("img_001_SRF_4_HR.png", "img_001_SRF_4_HR.png", ""),
        ("0801.png", "0801x4.png", ""),
        ("x4.png", "x4_SR.png", ""),
        ("matrix4.png", "matrix4_x4.png", ""),
        ("img.png|img_1.png|img_1_2.png", "img_x4.png|img_1_x4.png|img_1_2_x4.png", ""),
        ("a.png", "b.png", "has b.png, which continues no name"),
        ("img1.png", "img10.png", "has img10.png, which continues no name"),
        ("a.png", "a_x4.png|a_SR.png", "has a_SR.png and a_x4.png for a.png"),
        ("a.png|a_HR.png", "a_x4.png", "a_x4.png, which may be a.png or a_HR.png"),
        ("A.png|a.jpg", "a_x4.png", "a_x4.png, which may be A.png or a.jpg"),
        ("baby.png", "baby_RCAN_x2.png", "baby_RCAN_x2.png, which is named for another"),
        ("baby.png", "baby_3x.png", "another scale"),
        ("img_SRF_2_HR.png", "img_SRF_2_SR.png", "another scale"),
    ],
)
def test_names_of_the_field_are_understood(tmp_path: Path, hr: str, sr: str, doubt: str) -> None:
    """RCAN, EDSR, BasicSR, SwinIR, HAT, Real-ESRGAN and plain ways; the longer name counts."""
    truths, made = hr.split("|"), sr.split("|")
    if doubt:
        refused(doubt, matched, tmp_path, truths, made)
    else:
        assert matched(tmp_path, truths, made) == dict(zip(truths, made, strict=True))


def test_of_what_the_authors_code_saves_the_results_are_taken(tmp_path: Path) -> None:
    kinds = [f"{name}_x4_{kind}.png" for name in ("a", "b") for kind in ("HR", "LR", "SR")]
    hr, one = folder(tmp_path / "hr", ["a.png", "b.png"]), folder(tmp_path / "one", kinds)
    matches = audit.match_folders(hr, {"one": one}, 4)
    assert [files["one"].name for files in matches.values()] == ["a_x4_SR.png", "b_x4_SR.png"]
    (one / "b_x4_SR.png").unlink()
    refused("has b_x4_HR.png and b_x4_LR.png for b.png", audit.match_folders, hr, {"one": one}, 4)
    hr = folder(tmp_path / "hr", [f"{name}.png" for name in "abcd"])
    a = folder(tmp_path / "a", ["a_x4.png", "b_x4.png", "d_x2.png", "more.png"])
    b = folder(tmp_path / "b", ["a.png", "b.png", "c.png", "d.png"])
    for part in ("4 problems", "lacks c.png", "d_x2.png, .* for another scale", "has more.png"):
        refused(part, audit.match_folders, hr, {"a": a, "b": b}, 4)
    folder(tmp_path / "c" / "X4", ["a.png"])
    (tmp_path / "c" / ".a.png").touch()
    none = tmp_path / "none"
    text = f"{tmp_path / 'c'} has no picture, but folders X4; {none} is no folder"
    refused(re.escape(text), audit.match_folders, hr, {"a": tmp_path / "c", "b": none}, 4)


def test_truth_and_results_are_made_comparable(tmp_path: Path) -> None:
    """Cropped at the top left, as the LR pictures of the benchmarks were made; 16 bits to 8."""
    pixels = np.random.default_rng(1).integers(0, 256, (27, 30, 3), np.uint8)
    hr = folder(tmp_path / "hr", ["a.png"], pixels)
    cropped = folder(tmp_path / "cropped", ["a.png"], pixels[:24, :28])
    deep = folder(tmp_path / "deep", [])
    tifffile.imwrite(deep / "a.tif", pixels.astype(np.uint16) * 257, photometric="rgb")
    opaque = np.dstack([pixels, np.full((27, 30), 255)]).astype(np.uint8)
    alpha = folder(tmp_path / "alpha", ["a.png"], opaque)
    matches = audit.match_folders(hr, {"cropped": cropped, "deep": deep, "alpha": alpha}, 4)
    truth, made = audit.read_match(*matches.popitem(), 4)
    for image in (truth, *made.values()):
        np.testing.assert_array_equal(image, pixels[:24, :28])
    grey = folder(tmp_path / "grey", ["a.png"], PIXELS[:, :, 0])
    same = folder(tmp_path / "same", ["a.png"], np.dstack([PIXELS[:, :, 0]] * 3))
    matches = audit.match_folders(same, {"grey": grey}, 4)
    assert audit.read_match(*matches.popitem(), 4)[1]["grey"].ndim == 2

    unlike: list[tuple[Any, Any, str]] = [
        ((27, 30), (26, 30), "expected 30 x 27 pixels in 'a'.*found 30 x 26"),
        ((27, 30), (27, 28), "found 28 x 27"),
        ((27, 30), (30, 27), "found 27 x 30"),
        ((11, 40), (11, 40), "at least 12 pixels a side.*found 40 x 11"),
        ((24, 28, 3), (24, 28), "expected a colour picture 'a'"),
        ((24, 28, 3), (24, 28, 4), "expected an opaque picture"),
    ]
    for *shapes, message in unlike:
        files = [np.random.default_rng(0).integers(0, 256, s, np.uint8) for s in shapes]
        hr, a = (folder(tmp_path / n, ["a.png"], f) for n, f in zip("ha", files, strict=True))
        (one,) = audit.match_folders(hr, {"a": a}, 4).items()
        refused(message, audit.read_match, *one, 4)
