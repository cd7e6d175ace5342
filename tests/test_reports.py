"""A run's folder and the index over all of them, without a kernel."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import tiny
from matplotlib.figure import Figure
from PIL import Image

from dtfn import paths, plots, provenance, reports
from dtfn.errors import InputError
from dtfn.reports import Verdict, above_zero, page
from dtfn.reports import runs as run_folders

FRAME = pd.DataFrame({"x": [1.0, 2.0], "psnr": [30.123456789, 31.0]})


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


# --- a run ----------------------------------------------------------------------------------


def test_a_run_has_its_name_only_when_it_is_finished(run: reports.Run) -> None:
    home = run.folder.parent
    assert run.folder.name.startswith(".partial-")
    assert run_folders.finished(paths.RUNS) == []
    run.figure("line", drawn(), data=FRAME, caption="A line.")
    run.finish()
    assert [f.name for f in home.iterdir()] == [run.folder.name]
    assert run_folders.finished(paths.RUNS) == [run.folder]
    assert run_folders.read(run.folder)["parameters"] == {"scale": 2, "names": ["a"]}


def test_a_managed_run_is_named_by_its_runner(
    run: reports.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".partial-x"
    folder.mkdir()
    monkeypatch.setenv(reports.RUN_DIR, str(folder))
    reports.begin("good", {"scale": 2, "names": []}).finish()
    assert run_folders.read(folder)["status"] == "complete"


def test_two_runs_of_one_second_have_two_names(tmp_path: Path) -> None:
    assert len({run_folders.new_folder(tmp_path, "n") for _ in range(9)}) == 9


def test_a_figure_is_saved_with_its_data_and_caption(run: reports.Run) -> None:
    run.figure("line", drawn(), data=FRAME, caption="A line.")
    folder = run.folder / "figures"
    assert sorted(f.name for f in folder.iterdir()) == ["line.csv", "line.png", "line.svg"]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "line.csv"), FRAME)
    assert Image.open(folder / "line.png").text["Description"] == "A line."  # type: ignore[attr-defined]
    assert "A line." in (folder / "line.svg").read_text()


def test_a_users_matplotlibrc_does_not_change_a_saved_figure(run: reports.Run) -> None:
    theirs = {"savefig.dpi": 37, "savefig.bbox": "tight", "savefig.transparent": True}
    theirs |= {"svg.fonttype": "none", "savefig.facecolor": "black", "font.size": 20}
    written = []
    for settings in ({}, theirs):
        with mpl.rc_context(settings):  # type: ignore[arg-type]
            run.figure("line", drawn(), data=FRAME, caption="A line.")
        written.append({f.name: f.read_bytes() for f in (run.folder / "figures").iterdir()})
    assert written[0] == written[1]
    assert len(run.record["figures"]) == 1, "a cell that is run again replaces its figure"


def test_a_table_keeps_every_digit(run: reports.Run) -> None:
    run.table("t", FRAME, caption="Numbers.", best={"psnr": "max"})
    folder = run.folder / "tables"
    assert sorted(f.name for f in folder.iterdir()) == ["t.csv", "t.html", "t.md", "t.tex"]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "t.csv"), FRAME)
    assert "**31.00**" in (folder / "t.md").read_text()
    assert r"\label{tab:t}" in (folder / "t.tex").read_text()


def test_long_data_are_kept_but_not_shown(
    run: reports.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run.data("pictures", FRAME, caption="Each picture.")
    run.data("pictures", FRAME, caption="Each picture.")
    pd.testing.assert_frame_equal(pd.read_csv(run.folder / "data" / "pictures.csv"), FRAME)
    assert [entry["name"] for entry in run.record["data"]] == ["pictures"]
    assert "data/pictures.csv: Each picture." in capsys.readouterr().out


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


def test_the_same_pixels_have_the_same_hash_however_they_lie() -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert provenance.array_hash(picture) == provenance.array_hash(np.asfortranarray(picture))
    others = [picture.reshape(4, 2, 3), picture.astype(np.int8), picture + np.uint8(1)]
    assert provenance.array_hash(picture) not in map(provenance.array_hash, others)


def test_the_manifest_is_json_whatever_is_put_in(run: reports.Run) -> None:
    run.record["parameters"] = {"a": np.float32(0.5), "b": Path("x"), "c": float("inf")}
    run.verdict(Verdict("c", float("nan"), None, None), Verdict("d", "text", None, False))
    run.finish()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    text = (run.folder / "manifest.json").read_text()
    content = json.loads(text, parse_constant=refuse)
    assert content["parameters"] == {"a": 0.5, "b": "x", "c": None}
    assert [v["printed"]["holds"] for v in content["verdicts"]] == ["? open", "✗ no"]


def test_a_wrong_notebook_or_a_parameter_without_a_value_is_refused(run: reports.Run) -> None:
    with pytest.raises(InputError, match="names"):
        reports.begin("good", {"scale": 2})
    with pytest.raises(InputError, match="found no such file"):
        reports.begin("04_nowhere", {})


def test_a_folder_that_is_no_checkout_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert provenance.git_state() == ("nogit", False)


@pytest.mark.parametrize(
    ("low", "high", "holds"),
    [(0.1, 0.2, True), (-0.2, -0.1, False), (-0.1, 0.1, None), (float("nan"),) * 2 + (None,)],
)
def test_a_claim_is_open_where_its_interval_holds_zero(
    low: float, high: float, holds: bool | None
) -> None:
    assert above_zero(low, high) is holds


# --- the index ------------------------------------------------------------------------------


def add_run(folder: Path, notebook: str, name: str, **changes: object) -> Path:
    """Write a run with one figure and one table into ``runs/``."""
    home = folder / "runs" / notebook / name
    for kind in ("figures", "tables"):
        (home / kind).mkdir(parents=True)
    drawn().savefig(home / "figures" / "f.png")
    FRAME.to_csv(home / "tables" / "t.csv", index=False)
    content = {
        "notebook": notebook,
        "title": f"About {notebook}",
        "status": "complete",
        "tier": "demo",
        "parameters": {"scale": 4},
        "started": "2024-01-02T03:04:05+00:00",
        "code": {"git": "abc", "dirty": True, "sha256": "0" * 64},
        "notebook_sha256": "1" * 64,
        "versions": {"torch": "2"},
        "machine": {"cores": 2},
        "inputs": {},
        "timings": {"run": 12.3},
        "verdicts": [],
        "figures": [{"name": "f", "caption": "<script>alert(1)</script>", "after_seconds": 2}],
        "tables": [{"name": "t", "caption": "A table.", "after_seconds": 1}],
    } | changes
    (home / "manifest.json").write_text(json.dumps(content))
    return home


def test_the_index_shows_the_newest_complete_run_of_each_notebook(tmp_path: Path) -> None:
    add_run(tmp_path, "a", "20240101T000000Z-x-y")
    add_run(tmp_path, "a", "20240102T000000Z-x-y")
    failed = {"status": "failed", "error": {"message": "ValueError: no"}}
    add_run(tmp_path, "a", "20240103T000000Z-x-y-failed", **failed)
    add_run(tmp_path, "b", "20240101T000000Z-x-y-failed", **failed)
    add_run(tmp_path, "b", "20240104T000000Z-x-y")
    add_run(tmp_path, "b", ".partial-20240105T000000Z-x-y")
    text = page.write_index(tmp_path).read_text()
    assert re.findall(r'"runs/\w/(\d{8}).*t.csv"', text) == ["20240102", "20240104"]
    assert re.findall(r"<b>(\w+)</b> did not run: (.*)</p>", text) == [("a", "ValueError: no")]
    assert not list(tmp_path.glob("*.partial"))


def test_the_index_escapes_what_it_is_given_and_makes_no_request(tmp_path: Path) -> None:
    add_run(tmp_path, "a", "20240101T000000Z-x-y")
    index = page.write_index(tmp_path, [page.Problem("b", "<img src=x>")])
    assert tiny.requests(index) == []
    assert tiny.policy(index) == page.POLICY
    text = index.read_text()
    assert "&lt;script&gt;" in text
    assert "&lt;img src=x&gt;" in text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "complete"}'])
def test_a_broken_manifest_is_named_and_stops_nothing(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    add_run(tmp_path, "a", "20240101T000000Z-x-y")
    bad = add_run(tmp_path, "b", "20240102T000000Z-x-y") / "manifest.json"
    bad.write_text(text)
    index = page.write_index(tmp_path).read_text()
    assert re.findall(r'"runs/\w/(\d{8}).*t.csv"', index) == ["20240101"]
    assert str(bad) in caplog.text
    assert [f.parent.name for f in run_folders.finished(tmp_path / "runs")] == ["a"]
    assert "<b>b</b> did not run: the manifest in 20240102T000000Z-x-y" in index


def test_a_pictures_name_is_text_wherever_it_stands(run: reports.Run) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    frame = pd.DataFrame({"image": [name], "psnr": [30.0]})
    run.table("t", frame, caption=f"Of {name}.")
    run.figure("f", drawn(), data=frame, caption=f"Of {name}.")
    run.verdict(reports.Verdict(f"{name} is harmed", name, None, True))
    run.finish()
    index = page.write_index(paths.RUNS.parent)
    assert tiny.requests(index) == []
    assert index.read_text().count("&lt;img src=x") >= 4
    assert "<img src=x" not in index.read_text()


def test_an_exhibit_with_nothing_in_it_becomes_a_sentence(run: reports.Run) -> None:
    run.figure("line", drawn(), data=FRAME.iloc[:0], caption="Harmed textures.")
    run.table("t", FRAME, caption="Numbers.")
    run.table("t", FRAME.iloc[:0], caption="Numbers.")
    run.data("d", pd.DataFrame(), caption="Pictures.")
    run.finish()
    assert not (run.folder / "data").exists()
    assert run_folders.read(run.folder)["figures"] == run_folders.read(run.folder)["tables"] == []
    text = page.write_index(paths.RUNS.parent).read_text()
    assert "Nothing to show for: Harmed textures." in text
    assert "Nothing to show for: Numbers." in text
    assert "<img" not in text


def test_an_index_over_nothing_says_what_to_do(tmp_path: Path) -> None:
    assert "dtfn reproduce" in page.write_index(tmp_path / "new").read_text()
