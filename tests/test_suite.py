"""The runner: what it leaves behind when a notebook goes right, and when it goes wrong."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from dtfn import suite
from dtfn.errors import InputError
from dtfn.reports import runs as run_folders
from dtfn.suite import execution


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_all(tmp_path_factory.mktemp("notebooks"))


@pytest.fixture(scope="module")
def good(notebooks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete run."""
    runs = tmp_path_factory.mktemp("reports") / "runs"
    return suite.run(notebooks / "good.ipynb", {"scale": "2"}, runs=runs, tier="demo")


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# --- a complete run -------------------------------------------------------------------------


def test_a_run_is_named_by_time_code_and_parameters(good: Path) -> None:
    assert good.parent.name == "good"
    assert re.fullmatch(r"\d{8}T\d{6}Z-([0-9a-f]{8}|nogit)-[0-9a-f]{8}", good.name)
    assert [f.name for f in good.parent.iterdir()] == [good.name], "the hidden folder is gone"


def test_a_run_holds_all_that_belongs_to_it(good: Path) -> None:
    assert [name for name in everything(good) if "." in name] == [
        "figures/line.csv", "figures/line.png", "figures/line.svg", "good.html", "good.ipynb",
        "manifest.json", "tables/numbers.csv", "tables/numbers.html", "tables/numbers.md",
        "tables/numbers.tex", "tables/verdicts.csv", "tables/verdicts.html", "tables/verdicts.md",
        "tables/verdicts.tex",
    ]  # fmt: skip


def test_the_manifest_binds_the_run(good: Path, notebooks: Path) -> None:
    content = json.loads((good / "manifest.json").read_text())
    assert content["schema"] == run_folders.SCHEMA == 1
    assert content["notebook"] == "good"
    assert content["title"] == "A good one"
    assert (content["status"], content["tier"]) == ("complete", "demo")
    assert content["parameters"] == {"scale": 2, "names": ["a", "b"]}
    source = (notebooks / "good.ipynb").read_bytes()
    assert content["notebook_sha256"] == hashlib.sha256(source).hexdigest()
    assert set(content["code"]) == {"git", "dirty", "sha256"}
    assert {"python", "torch", "numpy", "dtfn"} <= set(content["versions"])
    assert {"system", "cores", "device", "threads"} == set(content["machine"])
    assert content["timings"]["run"] >= content["timings"]["notebook"] > 0
    assert content["started"].endswith("+00:00")


def test_the_manifest_has_the_hash_of_every_other_file(good: Path) -> None:
    outputs = json.loads((good / "manifest.json").read_text())["outputs"]
    files = [f for f in good.rglob("*") if f.is_file() and f.name != "manifest.json"]
    assert outputs == {
        f.relative_to(good).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }


def test_verdicts_are_kept_as_numbers_and_as_printed(good: Path) -> None:
    grows, unknown = json.loads((good / "manifest.json").read_text())["verdicts"]
    assert (grows["measured"], grows["interval"], grows["holds"]) == (3.0, [1.0, 4.0], True)
    assert grows["printed"]["measured"] == "+3.0 dB"
    assert grows["printed"]["95 % interval"] == "+1.0 to +4.0 dB"
    assert (unknown["measured"], unknown["holds"]) == (None, None)
    assert unknown["printed"]["holds"] == "? open"


def test_the_page_makes_no_request_and_hides_the_setup(good: Path) -> None:
    page = good / "good.html"
    assert tiny.requests(page) == []
    assert tiny.policy(page).startswith("default-src 'none'")
    text = page.read_text()
    assert "data:image/png;base64," in text
    assert "A line &amp; &lt;b&gt;its&lt;/b&gt; end." in text
    assert "reports.begin" not in text
    assert 'href="../../../index.html#bare"' in text, "neighbours are found in the index"


def test_the_executed_notebook_keeps_no_path_of_the_runner(good: Path) -> None:
    content = json.loads((good / "good.ipynb").read_text())
    assert not {"input_path", "output_path"} & set(content["metadata"]["papermill"])


def test_even_a_page_with_scripts_in_it_makes_no_request(notebooks: Path, tmp_path: Path) -> None:
    folder = suite.run(notebooks / "requesting.ipynb", runs=tmp_path)
    page = folder / "requesting.html"
    assert "script" not in tiny.requests(page)
    # What a cell itself wrote stays in the page, and the policy forbids the browser to fetch it.
    assert "default-src 'none'; img-src data:" in tiny.policy(page)


def test_the_kernel_is_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the notebook's kernel nor one registered as python3 decides what runs."""
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    broken = {"argv": ["/bin/false"], "display_name": "x", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(broken))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.setenv("DTFN_DATA", "relative/data")
    monkeypatch.chdir(tmp_path)
    notebook = tiny.write(tmp_path, "bare", tiny.NOTEBOOKS["bare"], kernel="julia-1.9")
    folder = suite.run(notebook, runs=tmp_path / "runs")
    (cell,) = json.loads((folder / "bare.ipynb").read_text())["cells"]
    executable, cwd, data = json.loads(cell["outputs"][0]["text"][0])
    assert Path(executable) == Path(sys.executable)
    assert Path(cwd) == tmp_path.resolve()
    assert Path(data) == (tmp_path / "relative" / "data").resolve()


# --- runs that go wrong ---------------------------------------------------------------------


def test_a_failed_run_is_kept_with_its_traceback(notebooks: Path, tmp_path: Path) -> None:
    with pytest.raises(suite.NotebookFailed, match="ZeroDivisionError: division by zero") as caught:
        suite.run(notebooks / "failing.ipynb", runs=tmp_path)
    folder = caught.value.folder
    assert folder is not None
    assert folder.name.endswith("-failed")
    assert [f.name for f in folder.parent.iterdir()] == [folder.name]
    trace = (folder / "traceback.txt").read_text()
    assert "scale / 0" in trace
    assert "\x1b" not in trace
    content = json.loads((folder / "manifest.json").read_text())
    assert content["status"] == "failed"
    assert content["error"]["kind"] == "ZeroDivisionError"
    assert "traceback.txt" in content["outputs"]
    assert "ZeroDivisionError" in (folder / "failing.html").read_text()


def test_input_that_a_notebook_refuses_is_one_line_and_leaves_nothing(
    notebooks: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        suite.run(notebooks / "refusing.ipynb", runs=tmp_path)
    assert str(caught.value) == "Set5: expected a folder; found none; fetch it"
    assert everything(tmp_path) == []


def test_input_refused_after_work_was_done_is_kept(notebooks: Path, tmp_path: Path) -> None:
    refuse = tiny.NOTEBOOKS["refusing"][-1]
    begin = ("hide-input", tiny.BEGIN.replace("good", "late"))
    cells = [("parameters", tiny.PARAMETERS), begin, ("", tiny.WORK), refuse]
    tiny.write(notebooks, "late", cells)
    with pytest.raises(suite.NotebookFailed, match="expected a folder"):
        suite.run(notebooks / "late.ipynb", runs=tmp_path)
    (folder,) = (tmp_path / "late").iterdir()
    assert folder.name.endswith("-failed")
    assert "InputError" in (folder / "traceback.txt").read_text()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"scal": 2}, "did you mean 'scale'"),
        ({"scale": "two"}, "expected int such as 4; found 'two'"),
        ({"scale": 2.5}, "expected int"),
        ({"names": 3}, r"expected list\[str\]"),
    ],
)
def test_a_wrong_parameter_is_told_before_anything_runs(
    notebooks: Path, tmp_path: Path, given: dict[str, object], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        suite.run(notebooks / "good.ipynb", given, runs=tmp_path / "runs")
    assert everything(tmp_path) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("datasets: list[str] = ['Set55']  # d", "did you mean 'Set5'"),
        ("scale: int = 5  # s", "expected 2, 3 or 4; found 5"),
    ],
)
def test_missing_pictures_and_scales_are_told_before_a_kernel_starts(
    line: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "_execute", pytest.fail)
    notebook = tiny.write(tmp_path, "n", [("parameters", line)])
    with pytest.raises(InputError, match=told):
        suite.run(notebook, runs=tmp_path / "runs")
    (tmp_path / "suite.yaml").write_text("n: {smoke: {}}")
    with pytest.raises(InputError, match=told):
        suite.reproduce("smoke", folder=tmp_path / "reports", file=tmp_path / "suite.yaml")
    assert everything(tmp_path) == ["n.ipynb", "suite.yaml"]


def test_an_unknown_notebook_names_the_nearest(notebooks: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'good'"):
        suite.find("god", notebooks)


def test_a_file_that_is_no_notebook_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.ipynb"
    broken.write_text("{")
    with pytest.raises(InputError, match="expected a Jupyter notebook"):
        suite.run(broken, runs=tmp_path / "runs")
    assert everything(tmp_path) == ["broken.ipynb"]


def test_an_interrupted_run_leaves_nothing(
    notebooks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(execution, "_execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        suite.run(notebooks / "good.ipynb", runs=tmp_path)
    assert everything(tmp_path) == []


# --- plans ----------------------------------------------------------------------------------


def planned(notebooks: Path, text: str) -> Path:
    file = notebooks / "suite.yaml"
    file.write_text(text)
    return file


def test_a_plan_gives_the_runs_of_a_tier_in_order(notebooks: Path) -> None:
    file = planned(notebooks, "good: {smoke: {scale: 2}, demo: {}}\nbare: {demo: }\n")
    assert [(s.notebook, s.parameters) for s in suite.plan("smoke", file)] == [
        ("good", {"scale": 2})
    ]
    assert [(s.notebook, s.parameters) for s in suite.plan("demo", file)] == [
        ("good", {}),
        ("bare", {}),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("god: {smoke: {}}", "did you mean 'good'"),
        ("good: {smokey: {}}", "did you mean 'smoke'"),
        ("good: {smoke: {scal: 2}}", "did you mean 'scale'"),
        ("good: {smoke: {scale: x}}", "expected int"),
    ],
)
def test_a_wrong_plan_is_told(notebooks: Path, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        suite.plan("smoke", planned(notebooks, text))


def test_an_unknown_tier_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'bench'"):
        suite.plan("bnch")


def test_a_failure_does_not_stop_the_others(
    notebooks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = planned(notebooks, "failing: {smoke: {}}\nrefusing: {smoke: {}}\ngood: {smoke: {}}\n")
    failures = suite.reproduce("smoke", folder=tmp_path, file=file)
    assert [type(f) for f in failures] == [suite.NotebookFailed, suite.NotebookInputError]
    out, err = capsys.readouterr()
    told = [line.split(":")[0] for line in err.splitlines() if line.startswith("[")]
    assert told == ["[1/3] failing", "[2/3] refusing"]
    assert [line.split(":")[0] for line in out.splitlines()] == ["[3/3] good", "report"]
    page = tmp_path / "index.html"
    assert tiny.requests(page) == []
    text = page.read_text()
    assert "ZeroDivisionError: division by zero" in text
    assert "Set5: expected a folder; found none; fetch it" in text
    assert "it grows" in text
    assert "A line &amp; &lt;b&gt;its&lt;/b&gt; end." in text
    for link in re.findall(r'href="([^"#]+)"', text):
        assert (tmp_path / link).is_file(), link


def test_nothing_but_refused_input_writes_no_report(notebooks: Path, tmp_path: Path) -> None:
    file = planned(notebooks, "refusing: {smoke: {}}\n")
    (failure,) = suite.reproduce("smoke", folder=tmp_path, file=file, say=lambda _: None)
    assert isinstance(failure, InputError)
    assert everything(tmp_path) == []


# --- without the runner ---------------------------------------------------------------------


def test_papermill_itself_runs_a_notebook_too(notebooks: Path, tmp_path: Path) -> None:
    """Then the run goes below reports/; here that is moved, so that the tests leave it alone."""
    moved = "import dtfn.paths\nfrom pathlib import Path\ndtfn.paths.RUNS = Path({!r})\n"
    (tmp_path / "sitecustomize.py").write_text(moved.format(str(tmp_path / "runs")))
    arguments = ["good.ipynb", str(tmp_path / "out.ipynb"), "-p", "scale", "3"]
    subprocess.run(
        [sys.executable, "-m", "papermill", *arguments],
        cwd=notebooks, env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": "/tmp"},
        check=True, capture_output=True,
    )  # fmt: skip
    (folder,) = (tmp_path / "runs" / "good").iterdir()
    content = json.loads((folder / "manifest.json").read_text())
    assert (content["status"], content["parameters"]["scale"]) == ("complete", 3)
