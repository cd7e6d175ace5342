"""A run's folder, the index over all of them, and two runs compared; all without a kernel."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import tiny
from matplotlib.figure import Figure
from PIL import Image

from dtfn import paths, plots, provenance, reports
from dtfn.errors import InputError
from dtfn.reports import Verdict, page
from dtfn.reports import runs as run_folders

FRAME = pd.DataFrame({"x": [1.0, 2.0], "psnr": [30.123456789, 31.0]})
EMPTY = FRAME.iloc[:0]


@plots.styled()
def drawn() -> Figure:
    figure = Figure(figsize=(2, 1), dpi=200)
    figure.subplots().plot(FRAME["x"], FRAME["psnr"])
    return figure


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> reports.Run:
    """A run as begun in a notebook that nobody manages."""
    tiny.write_all(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "RUNS", tmp_path / "reports" / "runs")
    monkeypatch.delenv(reports.RUN_DIR, raising=False)
    return reports.begin("good", {"scale": 2, "names": ["a"], "more": "not a parameter"})


def test_a_run_is_there_when_it_is_finished(
    run: reports.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.table("t", FRAME, caption="Numbers.")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert provenance.git_state() == ("nogit", False), "this is no checkout"
    assert run_folders.finished(paths.RUNS) == []
    others = {reports.begin("good", {"scale": 2, "names": []}).folder for _ in range(3)}
    assert len(others) == 3, "runs of one second have names of their own"
    run.finish()
    assert run_folders.finished(paths.RUNS) == [run.folder]
    assert run_folders.read(run.folder)["parameters"] == {"scale": 2, "names": ["a"]}
    monkeypatch.setenv(reports.RUN_DIR, str(tmp_path))  # its runner names it
    reports.begin("good", {"scale": 2, "names": []}).finish()
    assert run_folders.read(tmp_path)["status"] == "complete"


def test_what_is_saved_keeps_every_digit_and_its_caption_whatever_a_matplotlibrc_says(
    run: reports.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = {"savefig.dpi": 37, "savefig.bbox": "tight", "savefig.transparent": True}
    theirs |= {"svg.fonttype": "none", "savefig.facecolor": "black", "font.size": 20}
    folder, drawings = run.folder, []
    for settings in ({}, theirs):
        with mpl.rc_context(settings):  # type: ignore[arg-type]
            run.figure("f", drawn(), data=FRAME, caption="A line.")
        drawings.append([f.read_bytes() for f in sorted(folder.glob("figures/*"))])
    assert drawings[0] == drawings[1]
    assert len(run.record["figures"]) == 1, "a cell that is run again replaces its figure"
    run.table("t", FRAME, caption="Numbers.", best={"psnr": "max"})
    run.data("d", FRAME, caption="Each picture.")
    assert {f.relative_to(folder).as_posix() for f in folder.glob("*/*")} == {
        *(f"figures/f.{ending}" for ending in ("csv", "png", "svg")),
        *(f"tables/t.{ending}" for ending in tiny.TABLES),
        "data/d.csv",
    }
    for file in folder.glob("*/*.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(file), FRAME)
    assert Image.open(folder / "figures" / "f.png").text["Description"] == "A line."  # type: ignore[attr-defined]
    assert "A line." in (folder / "figures" / "f.svg").read_text()
    assert "**31.00**" in (folder / "tables" / "t.md").read_text()
    assert r"\label{tab:t}" in (folder / "tables" / "t.tex").read_text()
    assert "data/d.csv: Each picture." in capsys.readouterr().out


def test_inputs_are_known_by_pixels_and_bytes(run: reports.Run, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"w")
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    sample = SimpleNamespace(dataset="Set5", image="baby", scale=4, lr=picture, hr=picture[:, ::-1])
    run.uses([sample], [tmp_path / "weights"])
    inputs = run.record["inputs"]
    assert list(inputs) == ["Set5/baby/x4/lr", "Set5/baby/x4/hr", "weights"]
    # Of b"w", by sha256sum.
    assert inputs["weights"] == "50e721e49c013f00c62cf59f2163542a9d8df02464efeb615d31051b0fddc326"
    assert len(set(inputs.values())) == 3
    assert provenance.array_hash(picture) == provenance.array_hash(np.asfortranarray(picture))
    others = [picture.reshape(1, 4, 3), picture.astype(np.int8), picture + np.uint8(1)]
    assert provenance.array_hash(picture) not in map(provenance.array_hash, others)


def test_the_manifest_is_json_whatever_is_put_in(run: reports.Run) -> None:
    run.record["parameters"] = {"a": np.float32(0.5), "b": Path("x"), "c": float("inf")}
    run.verdict(Verdict("c", float("nan"), None, None), Verdict("d", "text", None, False))
    run.finish()
    text = (run.folder / "manifest.json").read_text()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert content["parameters"] == {"a": 0.5, "b": "x", "c": None}
    assert [v["printed"]["holds"] for v in content["verdicts"]] == ["? open", "✗ no"]


def test_a_wrong_notebook_or_a_parameter_without_a_value_is_refused(run: reports.Run) -> None:
    with pytest.raises(InputError, match="names"):
        reports.begin("good", {"scale": 2})
    with pytest.raises(InputError, match="found FileNotFoundError"):
        reports.begin("04_nowhere", {})


def test_a_pictures_name_is_text_wherever_it_stands(run: reports.Run) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    frame = pd.DataFrame({"image": [name], "psnr": [30.0]})
    run.table("t", frame, caption=f"Of {name}.")
    run.figure("f", drawn(), data=frame, caption=f"Of {name}.")
    run.verdict(reports.Verdict(f"{name} is harmed", name, None, True))
    run.finish()
    index = page.write_index(paths.RUNS.parent, [name])
    assert (tiny.requests(index), tiny.policy(index)) == ([], page.POLICY)
    assert index.read_text().count("&lt;img src=x") >= 5
    assert "<img src=x" not in index.read_text()


def test_an_exhibit_with_nothing_in_it_becomes_a_sentence(run: reports.Run) -> None:
    run.figure("line", drawn(), data=EMPTY, caption="Harmed textures.")
    run.figure("course", Figure(), data=FRAME, caption="A course.")
    run.table("t", FRAME, caption="Numbers.")
    run.table("t", EMPTY, caption="Numbers.")
    run.data("d", EMPTY, caption="Pictures.")
    run.finish()
    assert sorted(f.name for f in run.folder.iterdir()) == ["manifest.json", "tables"]
    assert run_folders.read(run.folder)["figures"] == run_folders.read(run.folder)["tables"] == []
    text = page.write_index(paths.RUNS.parent).read_text()
    for caption in ("Harmed textures", "A course", "Numbers", "Pictures"):
        assert f"Nothing to show for: {caption}." in text
    assert "<img" not in text


def add_run(folder: Path, notebook: str, name: str, frames: Any = None, **changes: Any) -> Path:
    """Write a run with one figure and its tables into ``runs/``."""
    home = folder / "runs" / notebook / name
    for kind in ("figures", "tables"):
        (home / kind).mkdir(parents=True)
    drawn().savefig(home / "figures" / "f.png")
    for stem, table in ({"t": FRAME} if frames is None else frames).items():
        table.to_csv(home / "tables" / f"{stem}.csv", index=False)
    content = {
        **{"notebook": notebook, "title": f"About {notebook}", "notebook_sha256": "1" * 64},
        **{"status": "complete", "tier": "demo", "parameters": {"scale": 4}, "inputs": {}},
        **{"started": "2024-01-02T03:04:05+00:00", "timings": {"run": 12.3}, "verdicts": []},
        **{"versions": {"torch": "2"}, "machine": {"cores": 2}},
        "code": {"git": "abc", "dirty": True, "sha256": "0" * 64},
        "figures": [{"name": "f", "caption": "A figure."}],
        "tables": [{"name": "t", "caption": "A table."}],
    } | changes
    if content["status"] == "failed":
        content["error"] = {"message": "ValueError: no"}
    (home / "manifest.json").write_text(json.dumps(content))
    return home


def test_the_index_shows_the_newest_complete_run_of_each_notebook(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_run(tmp_path, "a", "20240101T000000Z-x-y")
    add_run(tmp_path, "a", "20240102T000000Z-x-y")
    add_run(tmp_path, "a", "20240103T000000Z-x-y-failed", status="failed")
    add_run(tmp_path, "b", "20240101T000000Z-x-y-failed", status="failed")
    add_run(tmp_path, "b", "20240104T000000Z-x-y")
    add_run(tmp_path, "b", ".partial-20240105T000000Z-x-y")
    for number, text in enumerate(["", "{", "[]", '{"status": "complete"}']):
        (add_run(tmp_path, "c", f"{number}") / "manifest.json").write_text(text)
    text = page.write_index(tmp_path, ["d"]).read_text()
    assert re.findall(r'"runs/\w/(\d{8}).*t.csv"', text) == ["20240102", "20240104"]
    assert re.findall(r"<b>(\w+)</b> did not run: (.*)</p>", text) == [
        ("d", "its process ended before its notebook did"),
        ("a", "ValueError: no"),
    ]
    assert caplog.text.count("is empty or broken") == 3
    assert not list(tmp_path.glob("*.partial"))
    assert "dtfn reproduce" in page.write_index(tmp_path / "new").read_text()


def test_the_index_lists_all_runs_and_what_changed_since_the_last(tmp_path: Path) -> None:
    add_run(tmp_path, "n", "20240101T000000Z-x", {"t": SCORES})
    add_run(tmp_path, "n", "20240102T000000Z-x", {"t": SCORES.assign(psnr=[30.0, 31.5])})
    add_run(tmp_path, "n", "20240103T000000Z-x-failed", {}, status="failed")
    text = page.write_index(tmp_path).read_text()
    assert "Since 20240101T000000Z-x: 1 of 4 numbers changed; the largest" in text
    listed = text[text.index('id="all-runs"') :]
    assert re.findall(r'href="runs/n/(\d{8})', listed) == ["20240103", "20240102", "20240101"]
    assert text.count("data:image/webp") == 1


SCORES = pd.DataFrame(
    {"method": ["a", "b"], "images": [5, 5], "psnr": [30.0, 31.0], "seconds": [1.0, 2.0]}
)
GONE = SCORES[["method", "psnr"]]
GAP = SCORES.assign(psnr=[np.nan, 31.0])
PIXELS = pd.DataFrame({"image": "x", "row": [0, 0, 1], "column": [0, 1, 0], "harm": [1.0, 2, 3]})
BINS = pd.DataFrame({"pair": "p", "low": [0.0, 1.0], "share": [0.5, 0.5]})
# A forecast depends on what is on disk from before, and on the machine.
COST = pd.DataFrame({"method": ["a"], "pictures to run": 5, "tiles to run": 9, "memory": 300.0})
CHANGES: dict[str, tuple[Any, Any, list[list[Any]]]] = {
    "time and order are no change": (SCORES, SCORES.assign(seconds=[7.0, 9.0]).iloc[::-1], []),
    "a forecast of costs is no result": (COST, COST.replace({5: 0, 9: 0, 300.0: 0.0}), []),
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
}


@pytest.mark.parametrize(("before", "after", "expected"), CHANGES.values(), ids=CHANGES)
def test_all_changes(tmp_path: Path, before: Any, after: Any, expected: list[list[Any]]) -> None:
    one, two = add_run(tmp_path, "n", "1", {"t": before}), add_run(tmp_path, "n", "2", {"t": after})
    found = run_folders.compare(one, two)
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
    def verdict(claim: str, measured: str, holds: str) -> dict[str, Any]:
        return {"printed": {"claim": claim, "measured": measured, "holds": holds}}

    one = add_run(tmp_path, "n", "1", verdicts=[verdict("it holds", "+1 dB", "✓ yes")])
    now = [verdict("it holds", "+0 dB", "? open"), verdict("new", "1", "✓ yes")]
    two = add_run(tmp_path, "n", "2", parameters={"scale": 2, "count": 1}, verdicts=now)
    found = run_folders.compare(one, two)
    assert found.settings == {"scale": (4, 2), "count": (None, 1)}
    assert found.verdicts.to_numpy().tolist() == [
        ["it holds", "+1 dB ✓ yes", "+0 dB ? open"],
        ["new", "not claimed", "1 ✓ yes"],
    ]


def test_a_fingerprint_sees_numbers_and_no_costs(tmp_path: Path) -> None:
    faster, other = SCORES.assign(seconds=[9.0, 9.0]), SCORES.assign(psnr=[30.0, 31.1])
    home = add_run(tmp_path, "n", "1", {"a": SCORES, "b": faster, "c": other})
    a, b, c = (run_folders.fingerprint(home / "tables" / f"{name}.csv") for name in "abc")
    assert a == b != c


def test_runs_are_found_by_name_and_age_and_the_command_says_whether_they_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = SCORES, SCORES.assign(psnr=[30.0, 31.5])
    homes = [
        add_run(tmp_path, "n", f"2024010{n}T0-x", {"t": table}) for n, table in enumerate(tables)
    ]
    add_run(tmp_path, "n", "20240103T000000Z-x-failed", status="failed")
    names = {"n": homes[1], "n~1": homes[0], homes[0].name: homes[0], str(homes[0]): homes[0]}
    assert {name: run_folders.find(name, tmp_path / "runs") for name in names} == names
    for name in ("m", "n~2"):
        with pytest.raises(InputError, match="expected a complete run"):
            run_folders.find(name, tmp_path / "runs")
    for before, code in (("n~1", 1), ("n", 0)):
        assert tiny.call("report", "compare", before, "n", "--reports", str(tmp_path)) == code
    out = capsys.readouterr().out
    assert "| tables/t.csv | b | psnr | 31.000 | 31.500 | 0.500 |" in out
    assert "all 4 numbers are the same" in out
