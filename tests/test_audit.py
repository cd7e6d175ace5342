"""From folders of pictures to a report: against a naive computation, and every refusal."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dtfn import audit, cli, images, pairs, paths, statistics
from dtfn.errors import InputError

REQUIRED = ("harm_rate", "psnr_with", "psnr_without", "selection_bound", "fusion_bound")


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
    extra = {"null": folders["null"]} if null else {}
    audit.audit(folders["hr"], folders["with"], folders["without"], 4, out, **extra)
    report: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return report


def naive(folders: dict[str, Path], n: str, l: str) -> pd.DataFrame:
    """The figures of each image, by loops over blocks of 4 x 4 pixels but the outermost."""
    rows = []
    for file in sorted(folders["hr"].iterdir()):
        hr = images.luma(images.modcrop(images.as_rgb(images.read(file)), 4))
        x, y = (
            images.luma(images.as_rgb(images.read(next(folders[role].glob(f"{file.stem}*")))))
            for role in (n, l)
        )
        sums = dict.fromkeys(("n", "l", "best", "mixed", "harmed", "blocks"), 0.0)
        for i in range(4, hr.shape[0] - 4, 4):
            for j in range(4, hr.shape[1] - 4, 4):
                block = np.s_[i : i + 4, j : j + 4]
                a, b, t = x[block], y[block], hr[block]
                e_n, e_l = np.mean((a - t) ** 2), np.mean((b - t) ** 2)
                weights = np.linspace(0, 1, 2001)[:, None, None]
                mixed = np.mean((weights * a + (1 - weights) * b - t) ** 2, axis=(1, 2)).min()
                for name, value in zip(
                    sums, (e_n, e_l, min(e_n, e_l), mixed, e_n > e_l, 1), strict=True
                ):
                    sums[name] += value
        db = {
            name: 10 * math.log10(255**2 * sums["blocks"] / sums[name])
            for name in ("n", "l", "best", "mixed")
        }
        rows.append(
            {
                "psnr_with": db["n"],
                "psnr_without": db["l"],
                "selection_bound": db["best"],
                "fusion_bound": db["mixed"],
                "harm_rate": sums["harmed"] / sums["blocks"],
            }
        )
    return pd.DataFrame(rows)


def test_the_summary_is_that_of_a_naive_computation(tmp_path: Path) -> None:
    folders = write(tmp_path)
    report = run(folders, tmp_path / "out")
    expected = naive(folders, "with", "without")

    for name in REQUIRED:
        assert report[name] == pytest.approx(expected[name].mean(), abs=1e-5), name
    written = pd.read_csv(tmp_path / "out" / "images.csv")
    assert written["image"].tolist() == ["a", "b", "c"]
    for name in REQUIRED:
        assert written[name].to_numpy() == pytest.approx(expected[name].to_numpy(), abs=1e-5)
    assert (report["scale"], report["border"], report["tau"], report["images"]) == (4, 4, 0, 3)
    assert any("no null pair" in note for note in report["notes"])
    assert not any(name.endswith(("_null", "_net", "_tau")) for name in report)


def test_the_null_pair_stands_beside(tmp_path: Path) -> None:
    folders = write(tmp_path)
    report = run(folders, tmp_path / "out", null=True)
    null = naive(folders, "null", "without")

    assert report["harm_rate_null"] == pytest.approx(null["harm_rate"].mean())
    better = null[["psnr_with", "psnr_without"]].max(axis=1)
    gain = (null["selection_bound"] - better).mean()
    assert report["selection_gain_null"] == pytest.approx(gain, abs=1e-5)
    for name in ("harm_rate", "selection_gain", "fusion_gain"):
        assert report[f"{name}_net"] == pytest.approx(report[name] - report[f"{name}_null"])
    rows = pd.read_csv(tmp_path / "out" / "images.csv")
    assert report["noise_floor"] == pytest.approx(rows["tau"].mean())
    assert 0 < report["harm_rate_tau"] < report["harm_rate"]
    # Three noises of one kind: nothing is left when luck is taken off, and much before.
    assert report["selection_gain"] > 0.2
    assert abs(report["selection_gain_net"]) < report["selection_gain"] / 5
    assert report["notes"] == ["fewer than 5 images: the intervals are too narrow"]


def test_intervals_are_over_images(tmp_path: Path) -> None:
    report = run(write(tmp_path, "abcdef"), tmp_path / "out", null=True)
    rows = pd.read_csv(tmp_path / "out" / "images.csv")

    for name in ("psnr_with", "harm_rate", "harm_rate_net"):
        found, expected = report["intervals"][name], statistics.mean_interval(rows[name])
        assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
        assert found["low"] < report[name] < found["high"]
        assert found["images"] == 6
    assert report["notes"] == []


def test_a_single_image_has_no_interval_and_says_so(tmp_path: Path) -> None:
    report = run(write(tmp_path, "a"), tmp_path / "out", null=True)

    assert report["notes"] == ["a single image: no interval"]
    assert report["intervals"]["harm_rate"] == {
        "low": None,
        "high": None,
        "images": 1,
        "note": "a single image: no interval",
    }


def test_perfect_results_are_valid_json(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("value", [0, 255])
def test_constant_pictures_are_measured(tmp_path: Path, value: int) -> None:
    flat = np.full((24, 24), value, np.uint8)
    off = flat.copy()
    off[8:12] = 128
    for role, pixels in (("hr", flat), ("with", off), ("without", flat)):
        images.write(tmp_path / role / "a.png", pixels)
    folders = {role: tmp_path / role for role in ("hr", "with", "without")}
    report = run(folders, tmp_path / "out")

    assert report["harm_rate"] == pytest.approx(4 / 16)
    assert report["psnr_without"] is None  # infinite
    assert report["selection_gain"] == 0


def test_one_and_the_same_results_are_refused(tmp_path: Path) -> None:
    folders = write(tmp_path)
    with pytest.raises(InputError, match="--without: expected another folder than --with"):
        run(folders | {"without": folders["with"]}, tmp_path / "out")
    with pytest.raises(InputError, match="--null: expected another folder than --with"):
        run(folders | {"null": folders["with"]}, tmp_path / "out", null=True)
    copy = tmp_path / "copy"
    for file in folders["with"].iterdir():
        images.write(copy / file.name, images.read(file))
    with pytest.raises(InputError, match="one and the same network"):
        run(folders | {"without": copy}, tmp_path / "out")
    with pytest.raises(InputError, match="--null: expected what a second network"):
        run(folders | {"null": copy}, tmp_path / "out", null=True)
    assert not (tmp_path / "out").exists()


def test_results_that_one_can_see_through_are_refused(tmp_path: Path) -> None:
    folders = write(tmp_path)
    file = folders["with"] / "b_x4_SR.png"
    opaque = np.dstack([images.read(file), np.full((36, 40), 255)]).astype(np.uint8)
    images.write(file, opaque)
    run(folders, tmp_path / "out")
    opaque[3, 5, 3] = 254
    images.write(file, opaque)
    with pytest.raises(InputError, match=r"b_x4_SR\.png: expected an opaque picture"):
        run(folders, tmp_path / "out")
    images.write(file, opaque[..., :3])
    truth = folders["hr"] / "a.png"
    images.write(truth, np.dstack([images.read(truth), np.zeros((35, 41))]).astype(np.uint8))
    with pytest.raises(InputError, match=r"a\.png: expected an opaque picture"):
        run(folders, tmp_path / "out")


def test_without_out_the_report_is_below_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = write(tmp_path)
    monkeypatch.setattr(paths, "REPORTS", tmp_path / "reports")
    arguments = [f"--{role}={folder}" for role, folder in folders.items() if role != "null"]
    with pytest.raises(SystemExit) as done:
        cli.main(["audit", *arguments, "--no-report"])
    assert not done.value.code
    assert (tmp_path / "reports" / "audit" / "summary.json").is_file()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="expected a folder to write to"):
        run(write(tmp_path), tmp_path / "out")


def test_the_command_prints_the_figures_and_what_they_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = write(tmp_path)
    arguments = [f"--{role}={folder}" for role, folder in folders.items() if role != "null"]
    with pytest.raises(SystemExit) as done:
        cli.main(["audit", *arguments, "--scale=4", "--no-report", f"--out={tmp_path / 'out'}"])
    told = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "summary.json").read_text())

    assert not done.value.code
    assert told.startswith("3 images x4, Y, a border of 4 pixels left out; in brackets: 95 %")
    assert f"| harm rate | {report['harm_rate']:.3f} [" in told
    assert "no null pair" in told
    assert str(tmp_path / "out") in told


@pytest.mark.slow
@pytest.mark.parametrize(("names", "null"), [("a", False), ("abc", True)])
def test_the_command_writes_the_notebook_s_report(
    tmp_path: Path, names: str, null: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = write(tmp_path / "with, a comma", names)
    chosen = {r: f for r, f in folders.items() if null or r != "null"}
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as done:
        cli.main(["audit", *(f"--{r}={f}" for r, f in chosen.items()), "--out=out"])
    assert not done.value.code
    (run,) = (out / "runs" / "03_subpixel_quality").iterdir()
    record = json.loads((run / "manifest.json").read_text())
    assert record["parameters"]["folders"] == [str(f) for f in chosen.values()]
    assert len([key for key in record["inputs"] if key.endswith(".png")]) == len(names) * len(
        chosen
    )
    figures = {figure["name"] for figure in record["figures"]}
    assert {"density", "errors", "deciles", "phases", "textures", "worst_region"} <= figures
    assert (out / "index.html").exists()
    told = pd.read_csv(run / "tables" / "harm.csv")
    report = json.loads((out / "summary.json").read_text())
    assert told["harm_rate"][0] == pytest.approx(report["harm_rate"])
    assert any("audited network" in v["claim"] for v in record["verdicts"])


def test_the_command_tells_bad_input_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = write(tmp_path)
    (folders["with"] / "b_x4_SR.png").unlink()
    arguments = [f"--{role}={folder}" for role, folder in folders.items()]
    with pytest.raises(SystemExit) as done:
        cli.main(["audit", *arguments, "--scale=4", f"--out={tmp_path / 'out'}"])
    told = capsys.readouterr().err

    assert done.value.code == 2
    assert "1 problem: 'with' lacks b.png" in told
    assert told.count("\n") == 1


def test_rcan_against_bicubic(benchmarks: Path, tmp_path: Path) -> None:
    """RCAN's own Set5 outputs have 32.63 dB and bicubic 28.43: not noise, but skill."""
    rcan = benchmarks.parent / "reference_sr" / "RCAN" / "Set5" / "X4"
    if not rcan.is_dir():
        pytest.skip("RCAN's own outputs are not beside the benchmarks")
    for file in (benchmarks / "Set5" / "HR").iterdir():
        lr = images.degrade(images.as_rgb(images.read(file)), 4)
        images.write(tmp_path / "bicubic" / f"{file.stem}x4.png", images.imresize(lr, 4))
    report = audit.audit(benchmarks / "Set5" / "HR", rcan, tmp_path / "bicubic", 4, tmp_path)

    assert report["psnr_with"] == pytest.approx(32.634, abs=0.001)
    assert report["psnr_without"] == pytest.approx(28.43, abs=0.005)
    assert 0.1 < report["harm_rate"] < 0.3
    assert report["psnr_with"] < report["selection_bound"] < report["fusion_bound"]
    assert set(pairs.CURVE.values()) <= set(report)
