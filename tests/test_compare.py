"""Two runs side by side: which numbers changed, and what the index says of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image

from dtfn import cli
from dtfn.errors import InputError
from dtfn.reports import compare, page, runs

SCORES = pd.DataFrame(
    {"method": ["a", "b"], "images": [5, 5], "psnr": [30.0, 31.0], "seconds": [1.0, 2.0]}
)


def add(folder: Path, name: str, tables: dict[str, Any], **changes: Any) -> Path:
    """Write a run of the notebook n with these tables, frames or text."""
    home = folder / "runs" / "n" / name
    (home / "tables").mkdir(parents=True)
    (home / "figures").mkdir()
    Image.fromarray(np.zeros((90, 400, 3), np.uint8)).save(home / "figures" / "f.png")
    for stem, table in tables.items():
        text = table if isinstance(table, str) else table.to_csv(index=False)
        (home / "tables" / f"{stem}.csv").write_text(text)
    content = {
        "notebook": "n",
        "status": "complete",
        "tier": "demo",
        "parameters": {"scale": 4},
        "started": "2024-01-02T03:04:05+00:00",
        "notebook_sha256": "1" * 64,
        "versions": {},
        "code": {"git": "abc", "dirty": False, "sha256": "0" * 64},
        "machine": {},
        "inputs": {},
        "timings": {"run": 1.0},
        "verdicts": [verdict("it holds", "+1 dB", "✓ yes")],
        "figures": [{"name": "f", "caption": "C", "after_seconds": 1}],
        "tables": [],
    } | changes
    (home / "manifest.json").write_text(json.dumps(content))
    return home


def verdict(claim: str, measured: str, holds: str) -> dict[str, Any]:
    printed = {"claim": claim, "measured": measured, "95 % interval": "–", "holds": holds}
    return {"claim": claim, "holds": holds == "✓ yes", "printed": printed}


GONE = SCORES[["method", "psnr"]]
GAP = SCORES.assign(psnr=[np.nan, 31.0])
PIXELS = pd.DataFrame({"image": "x", "row": [0, 0, 1], "column": [0, 1, 0], "harm": [1.0, 2, 3]})
BINS = pd.DataFrame({"pair": "p", "low": [0.0, 1.0], "share": [0.5, 0.5]})
TWO_LINES = "method,Set5,Set5,Set14\n,psnr,ssim,psnr\nbicubic,28.4,0.81,26.0\n"
CHANGES: dict[str, tuple[Any, Any, list[list[Any]]]] = {
    "time and order are no change": (SCORES, SCORES.assign(seconds=[7.0, 9.0]).iloc[::-1], []),
    "the largest first": (
        SCORES,
        SCORES.assign(images=[5, 4], psnr=[30.5, 31.001]),
        [["b", "images", 5, 4], ["a", "psnr", 30, 30.5], ["b", "psnr", 31, 31.001]],
    ),
    "rows that come and go": (
        GONE,
        GONE.assign(method=["a", "c"]),
        [["b", "psnr", 31, np.nan], ["c", "psnr", np.nan, 31]],
    ),
    "missing in both": (GAP, GAP, []),
    "whole numbers tell rows apart": (
        PIXELS,
        PIXELS.assign(harm=[1.0, 2, 4]).iloc[[2, 0, 1]],
        [["x, 1, 0", "harm", 3, 4]],
    ),
    "by place": (BINS, BINS.assign(share=[0.5, 0.25]), [["row 2", "share", 0.5, 0.25]]),
    "two lines of names": (
        TWO_LINES,
        TWO_LINES.replace("0.81", "0.82"),
        [["bicubic", "Set5 ssim", 0.81, 0.82]],
    ),
}


@pytest.mark.parametrize(("before", "after", "expected"), CHANGES.values(), ids=CHANGES)
def test_every_changed_number_is_named(
    tmp_path: Path, before: Any, after: Any, expected: list[list[Any]]
) -> None:
    one, two = add(tmp_path, "1", {"t": before}), add(tmp_path, "2", {"t": after})
    found = compare.compare(one, two)
    named = found.changed[["row", "column", "before", "after"]]
    pd.testing.assert_frame_equal(
        named, pd.DataFrame(expected, columns=list(named)), check_dtype=False
    )
    np.testing.assert_allclose(
        found.changed["difference"], found.changed["after"] - found.changed["before"]
    )
    assert set(found.changed["file"]) <= {"tables/t.csv"}
    assert found.settings == {}
    assert found.verdicts.empty


def test_parameters_and_verdicts_that_changed_are_named(tmp_path: Path) -> None:
    one = add(tmp_path, "1", {})
    now = [verdict("it holds", "+0 dB", "? open"), verdict("new", "1", "✓ yes")]
    two = add(tmp_path, "2", {}, parameters={"scale": 2, "count": 1}, verdicts=now)
    found = compare.compare(one, two)
    assert found.settings == {"scale": (4, 2), "count": (None, 1)}
    assert found.verdicts.to_numpy().tolist() == [
        ["it holds", "+1 dB ✓ yes", "+0 dB ? open"],
        ["new", "not claimed", "1 ✓ yes"],
    ]


def test_a_forecast_of_costs_is_no_result(tmp_path: Path) -> None:
    """It depends on what is on disk from before, and on the machine."""
    cost = pd.DataFrame({"method": ["a"], "pictures to run": 5, "tiles to run": 9, "memory": 300.0})
    cold = add(tmp_path, "1", {"cost": cost})
    warm = add(tmp_path, "2", {"cost": cost.replace({5: 0, 9: 0, 300.0: 0.0})})
    one, two = (compare.fingerprint(home / "tables" / "cost.csv") for home in (cold, warm))
    assert one == two
    assert compare.compare(cold, warm).changed.empty


def test_a_fingerprint_sees_numbers_and_no_times(tmp_path: Path) -> None:
    home = add(
        tmp_path,
        "1",
        {
            "a": SCORES,
            "b": SCORES.assign(seconds=[9.0, 9.0]),
            "c": SCORES.assign(psnr=[30.0, 31.1]),
        },
    )
    a, b, c = (compare.fingerprint(home / "tables" / f"{name}.csv") for name in "abc")
    assert a == b != c


def test_runs_are_found_by_folder_name_and_age(tmp_path: Path) -> None:
    homes = [add(tmp_path, f"2024010{day}T000000Z-x", {}) for day in (1, 2)]
    add(tmp_path, "20240103T000000Z-x-failed", {}, status="failed")
    folder = tmp_path / "runs"
    assert runs.find("n", folder) == homes[1]
    assert runs.find("n~1", folder) == homes[0]
    assert runs.find(homes[0].name, folder) == homes[0]
    assert runs.find(str(homes[0]), folder) == homes[0]
    for name, message in (("m", "choose one of n"), ("n~2", "report list"), ("n~x", "report list")):
        with pytest.raises(InputError, match=message):
            runs.find(name, folder)


def test_the_command_tells_what_changed_and_its_exit_code_whether(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(tmp_path, "1", {"t": SCORES})
    add(tmp_path, "2", {"t": SCORES.assign(psnr=[30.0, 31.5])})
    codes = []
    for before in ("n~1", "n"):
        options = ["--reports", str(tmp_path)]
        with pytest.raises(SystemExit) as caught:
            cli.main(["report", "compare", before, "n", *options])
        codes.append(caught.value.code)
    assert codes == [1, 0]
    out = capsys.readouterr().out
    assert "1 of 4 numbers changed; the largest difference is 0.5" in out
    assert "| tables/t.csv | b | psnr | 31.000 | 31.500 | 0.500 |" in out
    assert "all 4 numbers are the same" in out


def test_the_index_lists_all_runs_and_what_changed_since_the_last(tmp_path: Path) -> None:
    add(tmp_path, "20240101T000000Z-x", {"t": SCORES})
    add(tmp_path, "20240102T000000Z-x", {"t": SCORES.assign(psnr=[30.0, 31.5])})
    failed = {"status": "failed", "error": {"message": "ValueError: no"}}
    add(tmp_path, "20240103T000000Z-x-failed", {}, **failed)
    index = page.write_index(tmp_path)
    text = index.read_text()
    assert tiny.requests(index) == []
    assert "Since 20240101T000000Z-x: 1 of 4 numbers changed; the largest" in text
    listed = text[text.index('id="all-runs"') :]
    assert re.findall(r'href="runs/n/(\d{8})', listed) == ["20240103", "20240102", "20240101"]
    assert text.count("data:image/webp") == 1
