"""One notebook by papermill, a plan by Snakemake: what each leaves, and what does not run again."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import papermill
import pytest
import tiny
from tiny import refused, said

from dtfn import files, parameters, paths, provenance, reports, suite
from dtfn.errors import InputError


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_all(tmp_path_factory.mktemp("notebooks"))


@pytest.fixture(scope="module")
def good(notebooks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    more = [f"--reports={tmp_path_factory.mktemp('reports')}", "-p", "scale=2", "-p", "names=x,y"]
    page = Path(said("run", str(notebooks / "good.ipynb"), *more).strip())
    assert page.name == "good.html"
    return page.parent


# --- one run ---
def test_the_manifest_binds_a_run(good: Path, notebooks: Path, tmp_path: Path) -> None:
    content = json.loads((good / "manifest.json").read_text())
    assert (good.parent.name, good.name) == ("good", content["key"][:16])
    assert list(good.parent.iterdir()) == [good]
    expected = {"notebook": "good", "title": "A good one", "status": "complete"}
    expected["notebook_sha256"] = files.sha256(notebooks / "good.ipynb")
    assert expected.items() <= content.items()
    assert (content["tier"], content["parameters"]) == (None, {"scale": 2, "names": ["x", "y"]})
    assert {"python", "torch", "numpy", "dtfn"} <= set(content["versions"])
    assert content["timings"]["run"] >= content["timings"]["notebook"] > 0
    left = [f for f in good.rglob("*") if f.is_file() and f.name != "manifest.json"]
    hashes = {f.relative_to(good).as_posix(): files.sha256(f) for f in left}
    assert content["outputs"] == hashes
    kinds = {"good": ["html", "ipynb"], "figures/line": ["csv", "png", "svg"]}
    kinds |= {f"tables/{name}": [*tiny.TABLES] for name in ("checks", "numbers")}
    assert set(hashes) == {f"{stem}.{kind}" for stem, of in kinds.items() for kind in of}
    grows, unknown = content["verdicts"]
    assert (grows["measured"], grows["interval"], grows["holds"]) == (3.0, [1.0, 4.0], True)
    assert grows["printed"]["95 % interval"] == "+1.0 to +4.0 dB"
    assert (unknown["measured"], unknown["holds"]) == (None, None)
    page = good / "good.html"
    assert tiny.requests(page) == []
    assert tiny.policy(page).startswith("default-src 'none'")
    text = page.read_text()
    assert "A line &amp; &lt;b&gt;its&lt;/b&gt; end." in text
    assert "reports.begin" not in text
    assert 'href="../../../index.html#bare"' in text, "neighbours are found in the index"
    # What a cell itself wrote stays in the page, and the policy forbids the browser to fetch it.
    page = suite.run(notebooks / "requesting.ipynb", runs=tmp_path) / "requesting.html"
    assert "script" not in tiny.requests(page)
    assert "default-src 'none'; img-src data:" in tiny.policy(page)


def test_a_run_is_in_the_index_and_a_failure_is_one_line(good: Path, notebooks: Path) -> None:
    more, failing = f"--reports={good.parents[2]}", str(notebooks / "failing.ipynb")
    index = good.parents[2] / "index.html"
    assert "A good one" in index.read_text()
    index.unlink()
    assert said("report", more) == f"{index}\n"
    assert "A good one" in index.read_text()
    assert "scale: int = 4  # the scale\n" in said("run", failing, "--parameters")
    (line,) = said("run", failing, more, "-p", "scale=2", code=1).splitlines()
    assert line.startswith("failing failed: ZeroDivisionError: division by zero; see ")
    assert Path(line.partition("; see ")[2]).is_file()


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
    notebook = tiny.write(tmp_path / "n", "bare", tiny.NOTEBOOKS["bare"], kernel="julia-1.9")
    folder = suite.run(notebook, runs=tmp_path / "runs")
    (cell,) = json.loads((folder / "bare.ipynb").read_text())["cells"]
    executable, cwd, data = json.loads(cell["outputs"][0]["text"][0])
    assert (Path(executable), Path(cwd)) == (Path(sys.executable), tmp_path.resolve() / "n")
    assert Path(data) == (tmp_path / "relative" / "data").resolve()


def test_input_that_a_notebook_refuses_leaves_nothing(notebooks: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        suite.run(notebooks / "refusing.ipynb", runs=tmp_path)
    assert str(caught.value) == "Set5: expected a folder; found none; fetch it"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "broken.ipynb").write_text("{")
    refused("a Jupyter notebook", suite.run, tmp_path / "broken.ipynb", runs=tmp_path / "runs")


def test_a_wrong_parameter_starts_no_kernel(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(suite, "_execute", pytest.fail)
    plan = tmp_path / "suite.yaml"
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("scale: int = 4  # s", {"scale": 4.0}, "expected int"),
        ("scale: int = 5  # s", {}, "expected 2, 3 or 4; found 5"),
        ("datasets: list[str] = []  # d", {"datasets": "mini, Set55"}, "did you mean 'Set5'"),
    ]
    for line, given, message in wrong:
        notebook = tiny.write(tmp_path, "n", [("parameters", line)])
        refused(message, suite.run, notebook, given, runs=tmp_path / "runs")
        plan.write_text(json.dumps({"n": {"smoke": given}}))
        with pytest.raises(InputError, match=message):
            suite.reproduce("smoke", folder=tmp_path / "reports", file=plan)
    assert {file.name for file in tmp_path.iterdir()} == {"n.ipynb", "suite.yaml"}


def test_paths_are_those_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(suite, "_execute", lambda step, *_: seen.append(step.parameters))
    monkeypatch.chdir(tmp_path)
    for name in ("mine[1]", "brick", "local-x4-s0"):
        (tmp_path / name).mkdir()
    (tmp_path / "my.pt").write_bytes(b"1")
    lines = "methods: list[str] = []  # m\nimage: str = 'a'  # i\nfolders: list[str] = []  # f"
    notebook = tiny.write(tmp_path, "n", [("parameters", lines)])
    given = {"methods": "my.pt@off,local-x4-s0,A=mine[1],B=other/{dataset}", "image": "brick"}
    given["folders"] = "mine[1]"
    first = suite.run(notebook, given, runs=tmp_path / "runs")
    here = tmp_path.resolve()
    methods = [f"{here}/my.pt@off", "local-x4-s0"]
    methods += [f"A={here}/mine[1]", f"B={here}/other/{{dataset}}"]
    assert seen == [{"methods": methods, "image": "brick", "folders": [f"{here}/mine[1]"]}]
    (tmp_path / "mine[1]" / "x.png").write_bytes(b"1")  # what a folder holds is an input
    second = suite.run(notebook, given, runs=tmp_path / "runs")
    (tmp_path / "my.pt").write_bytes(b"2")  # whatever is changed in its attention
    assert len({first, second, suite.run(notebook, given, runs=tmp_path / "runs")}) == 3


# --- plans and keys ---
@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a notebook, a network, pictures and a file, and its own package."""
    names = ["zoo/one.safetensors", "package/a.py", "package/__init__.py", "file.csv"]
    for name in (*names, "data/Toy/HR/x.png", "data/Toy/LR_bicubic/X4/xx4.png"):
        files.write(tmp_path / name, "X = 1")
    files.write(tmp_path / "zoo" / "registry.json", "[]")
    monkeypatch.setattr(paths, "ZOO", tmp_path / "zoo")
    monkeypatch.setattr(paths, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "package")
    monkeypatch.setenv("DTFN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(suite, "_execute", lambda step, at: (at / "t.csv").write_text("1"))
    lines = "scale: int = 4  # s\ndatasets: list[str] = ['Toy']  # d\nmethods: list[str] = []  # m"
    lines += f"\nfile: str = '{tmp_path / 'file.csv'}'  # f"
    tiny.write(tmp_path, "a", [("parameters", lines), ("", "from dtfn import a")])
    return tmp_path


def status(folder: Path, plan: str = "a: {smoke: {}}") -> dict[str, Any]:
    (folder / "suite.yaml").write_text(plan)
    (run,) = suite.overview("smoke", folder, folder / "suite.yaml")["runs"]
    return run


def saved_in_lab(folder: Path) -> None:
    content = json.loads((folder / "a.ipynb").read_text())
    content["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["4"]}]
    content["cells"][1]["execution_count"] = 7
    (folder / "a.ipynb").write_text(json.dumps(content, indent=4))


OTHER = [("parameters", "scale: int = 4  # s"), ("", "1 + 1")]
CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "nothing": ("up to date", lambda f: None),
    "a cell": ("changed: notebook", lambda f: tiny.write(f, "a", OTHER)),
    "code": ("changed: code", lambda f: (f / "package" / "a.py").write_text("X = 2")),
    "a comment": ("up to date", lambda f: (f / "package" / "a.py").write_text("X = 1  # one")),
    "other code": ("up to date", lambda f: (f / "package" / "b.py").write_text("2")),
    "outputs": ("up to date", saved_in_lab),
    "weights": ("changed: weights", lambda f: (f / "zoo" / "one.safetensors").write_text("2")),
    "import": ("changed: weights", lambda f: files.write(f / "weights" / "my.pt", "2")),
    "HR": ("changed: inputs", lambda f: (f / "data/Toy/HR/x.png").write_text("22")),
    "LR": ("changed: inputs", lambda f: (f / "data/Toy/LR_bicubic/X4/xx4.png").write_text("2")),
    "new": ("changed: inputs", lambda f: (f / "data/Toy/HR/y.png").write_text("1")),
    "a file": ("changed: inputs", lambda f: (f / "file.csv").write_text("2")),
    "damage": ("t.csv was changed", lambda f: next(f.glob("runs/a/*/t.csv")).write_text("2")),
    "loss": ("t.csv was changed", lambda f: next(f.glob("runs/a/*/t.csv")).unlink()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_is_up_to_date(folder: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert status(folder)["reason"] == "never ran"
    (step,) = suite.plan("smoke", folder / "suite.yaml")
    first = suite.run(step, runs=folder / "runs")
    reason, act = CHANGES[change]
    act(folder)
    assert status(folder)["reason"].startswith(reason)
    assert (suite.run(step, runs=folder / "runs") == first) == (not reason.startswith("changed"))
    assert status(folder)["up_to_date"]
    assert "parameters" in status(folder, "a: {smoke: {scale: 2}}")["reason"]
    monkeypatch.setattr("dtfn.provenance.versions", lambda: {"torch": "99"})
    assert "libraries" in status(folder)["reason"]


def test_a_wrong_plan_is_refused(notebooks: Path) -> None:
    refused("expected a plan", suite.plan, "smoke", notebooks / "none.yaml")
    for plan, only, message in (
        ("good: {smoke: {}}", ["b"], "a run of the tier smoke; found 'b'; choose one of good"),
        ("god: {smoke: {}}", [], "did you mean 'good'"),
        ("good: {smokey: {}}", [], "did you mean 'smoke'"),
        ("good: {smoke: {scal: 2}}", [], "did you mean 'scale'"),
        ("good: {resources: {smoke: {gpus: 1}}, smoke: {}}", [], "did you mean 'gpu'"),
        ("good: {", [], "expected a plan"),
        ("good", [], "expected a plan"),
    ):
        (notebooks / "suite.yaml").write_text(plan)
        refused(message, suite.plan, "smoke", notebooks / "suite.yaml", only)


def test_threads_are_divided_and_never_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [suite.threads(1, jobs) for jobs in (1, 2, 9)] == [3, 1, 1]
    monkeypatch.delenv("OMP_NUM_THREADS")
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    assert suite.threads(64, 2) == max(1, cores // 2)
    assert [suite.threads(1, jobs) for jobs in (1, 2, 9)] == [1, 1, 1], "whatever the jobs"


@pytest.mark.parametrize("profile", ["slurm", "kubernetes"])
def test_a_cluster_would_run_the_plan(folder: Path, profile: str) -> None:
    for plugin in (f"executor_plugin_{profile}", "storage_plugin_fs"):
        if importlib.util.find_spec(f"snakemake_{plugin}") is None:
            pytest.skip("needs pip install '.[dev]'")
    run = status(folder, "a: {resources: {smoke: {gpu: 1, minutes: 3}}, smoke: {scale: 2}}")
    planned = folder / "plan.json"
    planned.write_text(json.dumps(suite.overview("smoke", folder, folder / "suite.yaml")))
    assert (run["name"], run["notebook"], run["parameters"]["scale"]) == ("a", "a", 2)
    assert run["resources"] == {"gpu": 1, "memory_mb": 3000, "minutes": 3, "threads": 1}
    command = ["--dry-run", "--snakefile", str(paths.SNAKEFILE), "--config", f"plan={planned}"]
    command += ["--printshellcmds", "--profile", str(paths.ROOT / "profiles" / profile)]
    python = [sys.executable, "-m", "snakemake", *command]
    done = subprocess.run(python, cwd=folder, capture_output=True, text=True, check=True)
    printed = done.stdout + done.stderr
    assert f"output: {run['folder']}/manifest.json" in printed
    assert re.search(r"resources: .*mem_mb=3000", printed)
    assert re.search(r"resources: .*gpu=1", printed)
    assert "OMP_NUM_THREADS=1 dtfn run a --tier smoke" in printed


# --- by Snakemake ---
def reproduce(folder: Path, reports: str, *options: str) -> subprocess.Popen[str]:
    command = ["reproduce", "--tier", "smoke", "--plan", str(folder / "suite.yaml")]
    command += ["--reports", str(folder / reports), *options]
    pipe, python = subprocess.PIPE, [sys.executable, "-m", "dtfn"]
    return subprocess.Popen([*python, *command], stdout=pipe, stderr=pipe, text=True, cwd=folder)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, str]:
    """A folder in which a plan with failures ran, its exit code and what it printed."""
    folder = tiny.write_all(tmp_path_factory.mktemp("planned"))
    runs = ("failing", "refusing", "good")
    (folder / "suite.yaml").write_text("\n".join(f"{name}: {{smoke: {{}}}}" for name in runs))
    return folder, *ended(reproduce(folder, "one", "--jobs", "2"))


@pytest.mark.slow
def test_a_failure_is_kept_and_does_not_stop_others(planned: tuple[Path, int, str, str]) -> None:
    folder, code, out, err = planned
    assert code == 1, err
    finished = reports.finished(folder / "one" / "runs").items()
    status = {f.parent.name: record["status"] for f, record in finished}
    assert status == {"failing": "failed", "refusing": "failed", "good": "complete"}
    (failed,) = folder.glob("one/runs/failing/*-failed")
    assert "scale / 0" in (failed / "traceback.txt").read_text()
    assert re.search(r"good: started\n(.*\n)*good: \d+ s, .*one/runs/good/", out)
    assert "failing failed: ZeroDivisionError: division by zero; see " in err
    assert err.splitlines()[-1] == "2 failed: failing, refusing"
    assert list((folder / "one" / "runs" / "good").glob(".*")) == []
    page = folder / "one" / "index.html"
    assert tiny.requests(page) == []
    text = page.read_text()
    assert "ZeroDivisionError: division by zero" in text
    assert "Set5: expected a folder; found none; fetch it" in text
    for link in re.findall(r'href="([^"#]+)"', text):
        assert (page.parent / link).is_file(), link


@pytest.mark.slow
def test_a_second_call_starts_nothing_in_10_seconds(planned: tuple[Path, int, str, str]) -> None:
    folder = planned[0]
    began = time.monotonic()
    code = """import pathlib, sys
from dtfn.suite import reproduce
reproduce('smoke', only=['good'], folder=pathlib.Path('one'), file=pathlib.Path('suite.yaml'))
print({'torch', 'papermill', 'nbconvert'} & set(sys.modules))"""
    out = subprocess.check_output([sys.executable, "-c", code], cwd=folder, text=True)
    assert time.monotonic() - began < 10
    assert out.startswith(f"good: up to date, {folder / 'one' / 'runs' / 'good'}")
    assert out.splitlines()[-1] == "set()", "nothing heavy is imported"
    record = (folder / "one" / "suite-smoke.json").read_bytes()
    (run,) = json.loads(record)["runs"].items()
    assert run[0] == "good"
    assert "tables/numbers.csv" in run[1]["outputs"]
    returned, _, err = ended(reproduce(folder, "two", "--only", "good"))
    assert returned == 0, err
    assert (folder / "two" / "suite-smoke.json").read_bytes() == record, "however many jobs"


SLOW = r"""import os, time
open('pids', 'a').write(f'{os.getpid()} {os.getppid()}\n')
end = time.monotonic() + (600 if os.path.exists('slow') else 0)
while time.monotonic() < end: time.sleep(0.1)"""


def alive(pid: str) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "(zombie)" not in status.read_text()


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_after_a_kill_the_next_call_does_the_rest(tmp_path: Path) -> None:
    tiny.write(tmp_path, "z", [("", SLOW)])
    (tmp_path / "suite.yaml").write_text("z: {smoke: }")
    (tmp_path / "slow").touch()
    started = tmp_path / "pids"
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        started.write_text("")
        process = reproduce(tmp_path, "one")
        wait_until(started.read_text, 240)
        process.send_signal(how)
        process.communicate(timeout=240)
        wait_until(lambda: not any(map(alive, started.read_text().split())), 30)
        assert reports.finished(tmp_path / "one" / "runs") == {}
    (tmp_path / "slow").unlink()
    code, _, err = ended(reproduce(tmp_path, "one"))
    assert code == 0, err
    assert [f.parent.name for f in reports.finished(tmp_path / "one" / "runs")] == ["z"]
    assert list((tmp_path / "one" / "runs").rglob(".*")) == [], "what was half done is gone"


@pytest.mark.slow
def test_two_calls_at_once_run_a_notebook_once_and_a_killed_job_fails_alone(tmp_path: Path) -> None:
    killing = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)"  # as if out of memory
    tiny.write(tmp_path, "k", [("", killing)])
    tiny.write(tmp_path, "a", [("", SLOW)])
    (tmp_path / "suite.yaml").write_text("k: {smoke: }\na: {smoke: }")
    both = [reproduce(tmp_path, "one", "--only", "a"), reproduce(tmp_path, "one", "--jobs", "2")]
    (first, _, _), (second, _, err) = (ended(process) for process in both)
    assert (first, second) == (0, 1), err
    assert len((tmp_path / "pids").read_text().splitlines()) == 1
    assert "its process ended before" in (tmp_path / "one" / "index.html").read_text()


# --- parameters: read as papermill reads them, converted without loss ---


@pytest.mark.parametrize("notebook", sorted(paths.NOTEBOOKS.glob("*.ipynb")))
def test_papermill_sees_what_we_see(notebook: Path) -> None:
    """So that its own command line knows every parameter, its type and what it means."""
    theirs = papermill.inspect_notebook(str(notebook))
    ours = parameters.read(notebook)
    assert list(theirs) == list(ours)
    for name, (kind, _) in ours.items():
        assert theirs[name]["inferred_type_name"] == kind
        assert theirs[name]["help"]


def test_names_types_and_defaults_are_read_in_order_and_others_are_told(tmp_path: Path) -> None:
    file = tiny.write(tmp_path, "n", [("parameters", "b: int = 2  # b\na: list[str] = []  # a")])
    assert [*parameters.read(file).items()] == [("b", ("int", 2)), ("a", ("list[str]", []))]
    file = tiny.write(tmp_path, "n", [("", "a: int = 1")])
    assert parameters.read(file) == {}
    refused("--parameters` lists; found 'a'", parameters.check, file, {"a": 1})
    for line in ("a = 1", "a: int = f()", "a: int", "a: Path = 'x'", "print(1)", "a: int = b"):
        file = tiny.write(tmp_path, "n", [("parameters", line)])
        refused("expected lines of the form", parameters.read, file)


def test_values_become_what_the_notebook_wants_or_are_refused(tmp_path: Path) -> None:
    wanted: list[tuple[Any, str, Any]] = [
        ("1e-3", "float", 0.001),
        (1, "float", 1.0),
        ("true", "bool", True),
        ("1", "str", "1"),
        ("Set5, Set14", "list[str]", ["Set5", "Set14"]),
        ("['a', 'b']", "list[str]", ["a", "b"]),
        ("", "list[str]", []),
        ("[[1, 2], [3, 4]]", "list[list[int]]", [[1, 2], [3, 4]]),
        (("a",), "list[str]", ["a"]),
        ('{"a": 1}', "dict", {"a": 1}),
        ("none", "int | None", None),
    ]
    for value, kind, result in wanted:
        converted = parameters.convert(value, kind)
        assert (converted, type(converted)) == (result, type(result))
    kinds: dict[str, list[Any]] = {"int": [2.0, "2.5", True], "bool": [1], "str": [1]}
    for kind, values in (kinds | {"list[str]": [3], "list[int]": [["1"], "a", "[1"]}).items():
        for value in values:
            with pytest.raises((ValueError, TypeError)):
                parameters.convert(value, kind)
    source = "scale: int = 4  # s\nnames: list[str] = ['a']  # n"
    file = tiny.write(tmp_path, "n", [("parameters", source)])
    refused("'scale' of n: .*such as 4; found None", parameters.check_namespace, file, {})
    for injected, message in (
        ("scale = 4.0", "'scale' of n: expected int such as 4; found 4.0"),
        ("names = 'Set5'", r"'names' of n: expected list\[str\] such as \['a'\]; found 'Set5'"),
        ("scael = 3", "did you mean 'scale'"),
    ):
        namespace: dict[str, Any] = {"In": ["", source]}
        exec(source, namespace)
        assert parameters.check_namespace(file, namespace) == {"scale": 4, "names": ["a"]}
        namespace["In"].append(f"# Parameters\n{injected}\n")
        exec(injected, namespace)
        refused(message, parameters.check_namespace, file, namespace)
