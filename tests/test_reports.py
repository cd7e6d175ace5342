"""A run's folder, the index over all of them, and two runs compared; all without a kernel."""

import json
import re
import runpy
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
from tiny import refused

from dtfn import paths, plots, provenance, reports, verdicts
from dtfn.reports import Verdict, findings, page, tables

FRAME = pd.DataFrame({"x": [1.0, 2.0], "psnr": [30.123456789, 31.0]})
EMPTY = FRAME.iloc[:0]


@plots.styled()
def drawn() -> Figure:
    figure = Figure(figsize=(2, 1), dpi=200)
    figure.subplots().plot(FRAME["x"], FRAME["psnr"])
    return figure


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> reports.Run:
    tiny.write_all(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "RUNS", tmp_path / "reports" / "runs")
    monkeypatch.delenv(reports.RUN_DIR, raising=False)
    return reports.begin("good", {"scale": 2, "names": ["a"], "more": "not a parameter"})


def test_a_finished_run(run: reports.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.table("t", FRAME, caption="Numbers.")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert provenance.git_state() == ("nogit", False), "this is no checkout"
    assert reports.finished(paths.RUNS) == {}
    others = {reports.begin("good", {"scale": 2, "names": []}).folder for _ in range(3)}
    assert len(others) == 3, "runs of one second have names of their own"
    run.finish()
    assert [*reports.finished(paths.RUNS)] == [run.folder]
    assert reports.read(run.folder)["parameters"] == {"scale": 2, "names": ["a"]}
    monkeypatch.setenv(reports.RUN_DIR, str(tmp_path))  # its runner names it
    reports.begin("good", {"scale": 2, "names": []}).finish()
    assert reports.read(tmp_path)["status"] == "complete"


def test_what_is_saved_keeps_digits(run: reports.Run, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = {"savefig.dpi": 37, "savefig.bbox": "tight", "savefig.transparent": True}
    theirs |= {"svg.fonttype": "none", "savefig.facecolor": "black", "font.size": 20}
    folder, drawings = run.folder, []
    for settings in ({}, theirs):
        with mpl.rc_context(settings):  # type: ignore[arg-type]
            run.figure("f", drawn(), data=FRAME, caption="A line.")
        drawings.append([f.read_bytes() for f in sorted(folder.glob("figures/*"))])
    assert drawings[0] == drawings[1]
    assert len(run.record["figures"]) == 1, "a cell that is run again replaces its figure"
    run.table("t", FRAME, caption="Numbers.", best=["psnr"])
    run.data("d", FRAME, caption="Each picture.")
    kinds = {"figures/f": ("csv", "png", "svg"), "tables/t": tiny.TABLES, "data/d": ("csv",)}
    wanted = {f"{stem}.{kind}" for stem, of in kinds.items() for kind in of}
    assert {f.relative_to(folder).as_posix() for f in folder.glob("*/*")} == wanted
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


def test_the_manifest_is_json_whatever_is_put_in(run: reports.Run) -> None:
    run.record["parameters"] = {"a": np.float32(0.5), "b": Path("x"), "c": float("inf")}
    run.verdict(Verdict("c", float("nan"), None, None), Verdict("d", "text", None, False))
    run.finish()
    text = (run.folder / "manifest.json").read_text()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert content["parameters"] == {"a": 0.5, "b": "x", "c": None}
    assert [v["printed"]["holds"] for v in content["verdicts"]] == ["? open", "✗ no"]
    refused("names", reports.begin, "good", {"scale": 2})
    refused("found FileNotFoundError", reports.begin, "04_nowhere", {})


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
    assert reports.read(run.folder)["figures"] == reports.read(run.folder)["tables"] == []
    text = page.write_index(paths.RUNS.parent).read_text()
    for caption in ("Harmed textures", "A course", "Numbers", "Pictures"):
        assert f"Nothing to show for: {caption}." in text
    assert "<img" not in text


def add_run(folder: Path, notebook: str, name: str, frames: Any = None, **changes: Any) -> Path:
    home = folder / "runs" / notebook / name
    for kind in ("figures", "tables"):
        (home / kind).mkdir(parents=True)
    drawn().savefig(home / "figures" / "f.png")
    for stem, table in ({"t": FRAME} if frames is None else frames).items():
        table.to_csv(home / "tables" / f"{stem}.csv", index=False)
    content: dict[str, Any] = {"notebook": notebook, "title": f"About {notebook}"}
    content |= {"status": "complete", "tier": "demo", "parameters": {"scale": 4}, "inputs": {}}
    content |= {"started": "2024-01-02T03:04:05+00:00", "timings": {"run": 12.3}, "verdicts": []}
    content |= {"versions": {"torch": "2"}, "machine": {"cores": 2}, "notebook_sha256": "1" * 64}
    content |= {"code": {"git": "abc", "dirty": True, "sha256": "0" * 64}}
    for kind in ("figure", "table"):
        content[f"{kind}s"] = [{"name": kind[0], "caption": f"A {kind}."}]
    content |= changes
    if content["status"] == "failed":
        content["error"] = {"message": "ValueError: no"}
    (home / "manifest.json").write_text(json.dumps(content))
    return home


def test_the_index_shows_the_newest_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
    failed = re.findall(r"<b>(\w+)</b> did not run: (.*)</p>", text)
    assert failed == [("d", "its process ended before its notebook did"), ("a", "ValueError: no")]
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


SCORES = pd.DataFrame({"method": ["a", "b"], "images": 5, "psnr": [30.0, 31.0], "seconds": 1.0})
GONE = SCORES[["method", "psnr"]]
GAP = SCORES.assign(psnr=[np.nan, 31.0])
PIXELS = pd.DataFrame({"image": "x", "row": [0, 0, 1], "column": [0, 1, 0], "harm": [1.0, 2, 3]})
BINS = pd.DataFrame({"pair": "p", "low": [0.0, 1.0], "share": [0.5, 0.5]})
# A forecast depends on what is on disk from before, and on the machine.
COST = pd.DataFrame({"method": ["a"], "pictures to run": 5, "tiles to run": 9, "memory": 300.0})
CHANGES: dict[str, tuple[Any, Any, list[list[Any]]]] = {
    "time and order are no change": (SCORES, SCORES.assign(seconds=[7.0, 9.0]).iloc[::-1], []),
    "a forecast of costs is no result": (COST, COST.replace({5: 0, 9: 0, 300.0: 0.0}), []),
    "missing in both": (GAP, GAP, []),
    "by place": (BINS, BINS.assign(share=[0.5, 0.25]), [["row 2", "share", 0.5, 0.25]]),
}
LARGEST = [["b", "images", 5, 4], ["a", "psnr", 30, 30.5], ["b", "psnr", 31, 31.001]]
COME = [["b", "psnr", 31, np.nan], ["c", "psnr", np.nan, 31]]  # and go
APART = PIXELS.assign(harm=[1.0, 2, 4]).iloc[[2, 0, 1]]  # whole numbers tell rows apart
CHANGES["largest first"] = SCORES, SCORES.assign(images=[5, 4], psnr=[30.5, 31.001]), LARGEST
CHANGES["rows that come and go"] = GONE, GONE.assign(method=["a", "c"]), COME
CHANGES["whole numbers"] = PIXELS, APART, [["x, 1, 0", "harm", 3, 4]]


@pytest.mark.parametrize(("before", "after", "expected"), CHANGES.values(), ids=CHANGES)
def test_all_changes(tmp_path: Path, before: Any, after: Any, expected: list[list[Any]]) -> None:
    one, two = add_run(tmp_path, "n", "1", {"t": before}), add_run(tmp_path, "n", "2", {"t": after})
    _, changed, words = reports.compare(one, two)
    named = changed[["row", "column", "before", "after"]]
    wanted = pd.DataFrame(expected, columns=list(named))
    pd.testing.assert_frame_equal(named, wanted, check_dtype=False)
    np.testing.assert_allclose(changed["difference"], changed["after"] - changed["before"])
    assert set(changed["file"]) <= {"tables/t.csv"}
    assert words.empty


def test_parameters_and_verdicts_that_changed_are_named(tmp_path: Path) -> None:
    def verdict(claim: str, measured: str, holds: str) -> dict[str, Any]:
        return {"printed": {"claim": claim, "measured": measured, "holds": holds}}

    one = add_run(tmp_path, "n", "1", verdicts=[verdict("it holds", "+1 dB", "✓ yes")])
    now = [verdict("it holds", "+0 dB", "? open"), verdict("new", "1", "✓ yes")]
    two = add_run(tmp_path, "n", "2", parameters={"scale": 2, "count": 1}, verdicts=now)
    *_, words = reports.compare(one, two)
    expected = [["parameter scale", "4", "2"], ["it holds", "+1 dB ✓ yes", "+0 dB ? open"]]
    expected += [["parameter count", "–", "1"], ["new", "–", "1 ✓ yes"]]
    assert words.to_numpy().tolist() == expected


def test_runs_are_found_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = {"a": SCORES, "b": SCORES.assign(seconds=9.0), "c": SCORES.assign(psnr=[30.0, 31.1])}
    home = add_run(tmp_path, "o", "1", tables)
    a, b, c = (reports.fingerprint(home / "tables" / f"{name}.csv") for name in "abc")
    assert a == b != c, "it sees numbers and no costs"
    first = add_run(tmp_path, "n", "20240100T0-x", {"t": SCORES})
    second = add_run(tmp_path, "n", "20240101T0-x", {"t": SCORES.assign(psnr=[30.0, 31.5])})
    add_run(tmp_path, "n", "20240103T000000Z-x-failed", status="failed")
    names = {"n": second, "n~1": first, first.name: first, str(first): first}
    assert {name: reports.find(name, tmp_path / "runs") for name in names} == names
    for name in ("m", "n~2"):
        refused("expected a complete run", reports.find, name, tmp_path / "runs")
    for before, code in (("n~1", 1), ("n", 0)):
        assert tiny.call("report", "compare", before, "n", "--reports", str(tmp_path)) == code
    out = capsys.readouterr().out
    assert "| tables/t.csv | b | psnr | 31.000 | 31.500 | 0.500 |" in out
    assert "all 4 numbers are the same" in out


# --- what a report says first: the verdicts of all runs, in words and in a table ---
ROOT = Path(__file__).parent.parent
KEPT = ROOT / "reports" / "baseline"
baseline = SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "baseline.py")))
CLAIMS = {"attention chooses": "yes", "harm grows": "no", "donors help": "open"}


def rows(scale: int, verdicts: dict[str, str], measured: float = 0.2334) -> pd.DataFrame:
    about = {"scale": scale, "unit": "dB", "seeds": 3, "pictures": 100, "measured": measured}
    about |= {"low": measured - 0.05, "high": measured + 0.1, "networks": "nlsa s0 s1"}
    about |= {"quantity": "PSNR lost", "least": 0.01, "p": None}
    about |= dict.fromkeys(("reason", "context", "sets"), "")
    frame = pd.DataFrame({"claim": list(verdicts), "verdict": list(verdicts.values()), **about})
    frame.loc[frame["verdict"] == "not testable", ["measured", "low", "high"]] = None
    return frame[[*findings.COLUMNS, *findings.MORE]]


def judged(reports: Path, name: str, frame: Any, key: str = "k" * 16, **more: object) -> Path:
    """Write a run with a table of verdicts, and the two figures of the first screen."""
    content: dict[str, Any] = {"key": key, "tables": [{"name": "verdicts", "caption": "V"}]}
    content["figures"] = [{"name": n, "caption": f"Of {n}."} for n in ("harm_curve", "textures")]
    content["inputs"] = {f"mini/{image}/x4/hr": "0" for image in "abc"}
    home = add_run(reports, name, key, {"verdicts": frame}, **(content | more))
    for figure in content["figures"]:
        drawn().savefig(home / "figures" / f"{figure['name']}.png")
    return home


def suite(reports: Path, tier: str, *folders: Path) -> None:
    names = {folder.parent.name: {"key": folder.name} for folder in folders}
    (reports / f"suite-{tier}.json").write_text(json.dumps({"tier": tier, "runs": names}))


FEW = "{} on 1 training seed; 3 are needed"


def test_every_claim_is_in_one_sentence_whatever_its_answer() -> None:
    four = rows(4, CLAIMS | {"TFS lowers the harm": "not testable"})
    yes, no = "Yes at ×4: attention chooses (0.233 dB).", "No at ×4: harm grows (0.233 dB)."
    others = "Open at ×4: donors help (0.233 dB).", "Not testable at ×4: TFS lowers the harm."
    assert findings.sentences(four) == [yes, no, *others]
    assert findings.sentences(four.iloc[:0]) == []
    open_ = rows(4, dict.fromkeys(["a", "b", "c", "d"], "open"))
    reasons = [FEW.format("yes"), f"{FEW.format('no')}; donors harm: +1.15 %", "", "PSNR falls"]
    few = "on fewer seeds or pictures than a verdict needs"
    yes = f"Yes so far at ×4, {few}: a (0.233 dB)."
    no = f"No so far at ×4, {few}: b (0.233 dB)."
    neither = "Open at ×4: c (0.233 dB); d (0.233 dB)."
    assert findings.sentences(open_.assign(reason=reasons)) == [yes, no, neither]
    four, two = rows(4, CLAIMS), rows(2, CLAIMS | {"harm grows": "open", "else": "yes"})
    both = findings.sentences(pd.concat([four, two, rows(3, CLAIMS)]))
    assert both[3:] == ["Different at ×2: harm grows (open)."]
    untested = rows(2, dict.fromkeys(CLAIMS, "not testable"))
    assert findings.sentences(pd.concat([four, untested])) == findings.sentences(four)


def test_runs_are_merged_into_at_most_eight_rows_a_scale(tmp_path: Path) -> None:
    one = judged(tmp_path, "a", rows(2, {f"claim {number}": "yes" for number in range(9)}))
    two = judged(tmp_path, "b", rows(4, CLAIMS))
    again = judged(tmp_path, "c", rows(4, {"harm grows": "yes"}))
    other = judged(tmp_path, "d", pd.DataFrame({"claim": ["of another kind"], "holds": [True]}))
    found = findings.merged([one, two, again, other, tmp_path])
    assert found["scale"].value_counts().to_dict() == {2: 8, 4: 3}
    assert found.set_index("claim").loc["harm grows", "verdict"] == "yes"


def test_few_discoveries_of_all_rows_are_false(tmp_path: Path) -> None:
    one = judged(tmp_path, "a", rows(4, {"harm grows": "yes"}).assign(p=0.04))
    two = judged(tmp_path, "b", rows(4, {"donors help": "open"}).assign(p=0.6, reason="two seeds"))
    assert findings.merged([one])["verdict"].tolist() == ["yes"]
    both = findings.merged([one, two])
    assert both["verdict"].tolist() == ["open", "open"]
    assert both["reason"].tolist() == [findings.ONE_OF_MANY, "two seeds"]
    noted = judged(tmp_path, "c", rows(4, {"harm grows": "yes"}).assign(p=0.04, reason="noted"))
    assert findings.merged([noted, two])["reason"][0] == f"{findings.ONE_OF_MANY}; noted"


def test_the_table_has_three_digits_what_they_rest_on_and_its_terms_before_it() -> None:
    about, basis = "PSNR lost; smallest effect that counts 0.01 dB", "(nlsa s0 s1; 100 pictures)"
    digits = {0.2334: "0.233 dB [0.183, 0.333]", 1234.5: "1234 dB [1234, 1235]"}
    for measured, text in digits.items():
        frame = rows(4, {"harm grows": "yes"}, measured)
        assert f"| harm grows | {about} | **yes** {text} {basis} |" in baseline.markdown(frame)
    text = baseline.markdown(rows(4, CLAIMS))
    before = text[: text.index("| claim")]
    for claim, quantity in verdicts.CLAIMS.items():
        for term in ("chance", "control", "placebo", "donors", "TFS", "attention off"):
            assert term not in f"{claim} {quantity}" or f"*{term[0].upper()}{term[1:]}*: " in before


def test_a_readers_run_takes_no_place_of_the_suite(tmp_path: Path) -> None:
    suite(tmp_path, "demo", judged(tmp_path, "a", rows(4, CLAIMS), title="The suite's"))
    judged(tmp_path, "a", rows(4, {"harm grows": "yes"}), "o" * 16, title="A reader's", tier=None)
    index = page.write_index(tmp_path)
    text = index.read_text()
    assert tiny.requests(index) == []
    assert text.index("No at ×4: harm grows") < text.index("The suite&#39;s")
    parts = "nlsa s0 s1; 100 pictures", "smallest effect that counts 0.01 dB"
    for part in (*findings.WORDS, *parts):
        assert part in text[: text.index("Contents")]
    assert text.index("The suite&#39;s") < text.index("A reader&#39;s")
    assert pd.read_csv(tmp_path / "verdicts.csv")["claim"].tolist() == list(CLAIMS)
    assert text.count("<figcaption>") == 2
    assert "Measured on 3 pictures: enough to see how, too few to judge." in text


def test_a_baseline_is_a_report_and_the_readme_is_cut_from_it(tmp_path: Path) -> None:
    reports, out, readme = tmp_path / "reports", tmp_path / "kept", tmp_path / "README.md"

    def keep(*more: str) -> None:
        baseline.main(["--reports", str(reports), "--out", str(out), *more])

    with pytest.raises(SystemExit, match="runs of a suite"):
        keep()
    suite(reports, "bench", judged(reports, "a", rows(4, CLAIMS), tier="bench"))
    marks = ["<!-- picture, by x -->", "stale", "<!-- end -->", "<!-- verdicts -->", "<!-- end -->"]
    readme.write_text("\n".join(["# R", *marks, ""]))
    keep("--readme", str(readme))
    text = readme.read_text()
    assert "](kept/runs/a/kkkkkkkkkkkkkkkk/figures/textures.webp)\n\n*Of textures.*" in text
    assert "| PSNR lost; smallest effect that counts 0.01 dB | **yes** 0.233 dB" in text
    assert "stale" not in text
    assert baseline.cut(text, out, "kept") == text
    kept = pd.read_csv(out / "verdicts.csv")
    assert tuple(kept) == (*findings.COLUMNS, *findings.MORE)
    assert len(kept) == 3
    assert "too few" not in (out / "index.html").read_text()
    assert "(./runs/a/" in (out / "README.md").read_text()

    (out / "old.png").write_text("of an older run")
    keep()
    assert not (out / "old.png").exists()
    (out / "README.md").write_text("mine")
    refused("choose another folder", baseline.keep, reports, out)


@pytest.mark.skipif(not KEPT.is_dir(), reason="no baseline is kept")
def test_the_readme_says_what_the_baseline_says() -> None:
    readme = (ROOT / "README.md").read_text()
    assert baseline.cut(readme, KEPT, "reports/baseline") == readme, "run `make baseline`"
    assert sum(f.stat().st_size for f in KEPT.rglob("*") if f.is_file()) <= baseline.LARGEST


# --- tables: the marks of the field, escaping, and joined columns ---
SCORED = pd.DataFrame({"method": ["a_1", "b|c", "<d>"], "psnr": [30.001, 30.004, 31.0]})
SCORED["ssim"] = [0.9, 0.8, 0.7]
BEST = ["psnr", "ssim"]
SUMMARY = pd.DataFrame({"method": ["bicubic", "net"] * 2, "scale": [2, 2, 4, 4], "dataset": "Set5"})
SUMMARY = SUMMARY.assign(psnr=[33.67, 38.0, 28.43, 32.0], ssim=[0.93, 0.96, 0.81, 0.89])


def body(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in lines]


def latex(frame: pd.DataFrame, groups: str | None = None) -> str:
    return tables.latex(frame, best=BEST, groups=groups, caption="50 % of {x}", label="tab:l")


def test_best_is_bold_and_second_underlined_even_where_two_print_the_same() -> None:
    cells = body(tables.markdown(SCORED, best=BEST))
    assert [row[1] for row in cells] == ["<ins>30.00</ins>", "<ins>30.00</ins>", "**31.00**"]
    assert [row[2] for row in cells] == ["**0.9000**", "<ins>0.8000</ins>", "0.7000"]
    assert "**" not in tables.markdown(SCORED.iloc[:1], best=BEST), "nothing is best of one"
    assert "**" not in tables.markdown(SCORED.assign(psnr=30.0), best=["psnr"])
    assert body(tables.markdown(SCORED[["psnr"]], forms={"psnr": "{:.0f} dB"}))[0] == ["30 dB"]
    wide = tables.by_dataset(SUMMARY)
    marked = body(tables.markdown(wide, best=["psnr"], groups="scale"))
    rows = [["2", "bicubic"], ["2", "net"], ["4", "bicubic"], ["4", "net"]]
    assert [row[:2] for row in marked] == rows
    assert [row[2].startswith("**") for row in marked] == [False, True, False, True]
    assert latex(wide, "scale").count(r"\midrule") == 2
    first = re.findall(r"<tr><td>(.*?)\d</td>", tables.html(wide, groups="scale"))
    assert first == ["", "", '<i class="rule"></i>', ""]


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA])
def test_a_missing_value_is_a_dash_and_has_no_mark(missing: object) -> None:
    frame = pd.DataFrame({"psnr": [missing, 30.0, 29.0, missing]})
    marked = [["–"], ["**30.00**"], ["<ins>29.00</ins>"], ["–"]]
    assert body(tables.markdown(frame, best=["psnr"])) == marked


def test_every_notation_escapes_text_and_multiplies_no_rows_of_one_name() -> None:
    assert r"b\|c" in tables.markdown(SCORED)
    assert r"\<d>" in tables.markdown(SCORED)
    assert "<td>&lt;d&gt;</td>" in tables.html(SCORED)
    assert r"a\_1" in latex(SCORED)
    symbols = pd.DataFrame({"claim": ["×4 · τ ≤ 1 − x\N{NO-BREAK SPACE}✓ – done, -1"]})
    printed = r"$\times$4 $\cdot$ $\tau$ $\leq$ 1 $-$ x~$\surd$ – done, $-$1 \\"
    assert printed in latex(symbols).splitlines()
    frame = pd.DataFrame({"pair": list("abc"), "psnr": [1.0, 2.0, 3.0]}, index=["x"] * 3)
    assert tables.html(frame).count("<tr>") == 4
    assert latex(frame).count(r"\\") == 4
    assert len(tables.markdown(frame).splitlines()) == 5


def test_latex_is_a_booktabs_table_in_which_long_text_breaks_and_wide_rows_are_fitted() -> None:
    text = latex(SCORED)
    head = [r"\setlength{\belowcaptionskip}{6pt}", r"\caption{50 \% of \{x\}}", r"\label{tab:l}"]
    head += [r"\begin{tabular}{lll}", r"\toprule"]
    assert [line for line in text.splitlines() if line.startswith("\\")][2:7] == head
    assert r"<d> & \textbf{31.00} & 0.7000 \\" in text
    assert text.count(r"\\") == len(SCORED) + 1
    long = latex(pd.DataFrame({"a": ["word " * 30], "b": [1.0]}))
    assert r"p{0.8" in long
    assert "resizebox" not in long
    text = latex(pd.DataFrame({f"column {i}": ["some text"] for i in range(10)}))
    assert text.index(r"\resizebox{\linewidth}{!}{%") < text.index(r"\begin{tabular}")
    assert r"\end{tabular}}" in text


def test_an_estimate_and_its_interval_share_a_cell() -> None:
    frame = pd.DataFrame({"own_gain": [0.1, 0.2], "own_gain_low": [-0.05, np.nan]})
    text = tables.markdown(frame.assign(own_gain_high=[0.25, np.nan]))
    assert text.splitlines()[0] == "| own gain |"
    assert body(text) == [["0.100 [-0.050,\xa00.250]"], ["0.200"]]
    summary = SUMMARY.assign(scale=4, dataset=["Set5", "Set5", "BSD100", "BSD100"])
    wide = tables.by_dataset(summary)
    assert list(wide) == ["method", "Set5 psnr", "Set5 ssim", "BSD100 psnr", "BSD100 ssim"]
    text = tables.markdown(wide, best=BEST)
    assert text.splitlines()[0] == "| method | Set5 | BSD100 |"
    second = "<ins>33.67</ins>/<ins>0.9300</ins>", "<ins>28.43</ins>/<ins>0.8100</ins>"
    first = "**38.00**/**0.9600**", "**32.00**/**0.8900**"
    assert body(text) == [["bicubic", *second], ["net", *first]]
    half = tables.markdown(tables.by_dataset(summary.iloc[:3]))
    assert body(half)[1] == ["net", "38.00/0.9600", "–"]
