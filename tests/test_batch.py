"""The batch runner: what runs, in which order, what does not run again, and what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny

from dtfn import paths, suite
from dtfn.errors import InputError
from dtfn.reports import runs as run_folders
from dtfn.suite import batch, keys, plans, records, worker
from dtfn.suite.execution import Tell
from dtfn.suite.worker import Order

SCALE: list[tuple[str, str]] = [("parameters", "scale: int = 4  # s"), ("", "print(scale)")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of notebooks a, b, c; nothing is remembered elsewhere."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(paths, "ZOO", tmp_path / "zoo")
    (tmp_path / "zoo").mkdir()
    zoo(tmp_path, {"one": b"1"})
    for name in "abc":
        tiny.write(tmp_path, name, SCALE)
    return tmp_path


def zoo(folder: Path, weights: Mapping[str, bytes]) -> None:
    rows = []
    for name, content in weights.items():
        (folder / "zoo" / f"{name}.safetensors").write_bytes(content)
        rows.append({"name": name, "file": f"{name}.safetensors", "scale": 4})
    (folder / "zoo" / "registry.json").write_text(json.dumps(rows))


def old(folder: Path) -> None:
    """Make all files older than the clock can be wrong."""
    for file in folder.rglob("*"):
        os.utime(file, (1e9, 1e9))


class Fake:
    """Takes the place of the workers: every run is there at once, and noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.orders: list[Order] = []
        self.environments: list[Mapping[str, str]] = []
        self.during: Callable[[Order], object] = lambda order: None
        monkeypatch.setattr(worker.Workers, "work", self._work)

    @property
    def ran(self) -> list[str]:
        names = [order.name for order in self.orders]
        self.orders = []
        return names

    def _work(self, order: Order, environment: Mapping[str, str], tell: Tell) -> Path:
        self.orders.append(order)
        self.environments.append(environment)
        self.during(order)
        partial = run_folders.new_folder(Path(order.runs), order.name, order.parameters)
        (partial / "tables").mkdir()
        (partial / "tables" / "t.csv").write_text(f"method,psnr\n{order.name},1.5\n")
        (partial / "weights.safetensors").write_bytes(b"w")
        record = run_folders.new_record(Path(order.notebook), order.parameters) | order.notes
        run_folders.write(partial, record | {"status": "complete", "tier": order.tier})
        final = run_folders.final_folder(partial)
        partial.rename(final)
        return final


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(monkeypatch)


def reproduce(folder: Path, plan: str | None = None, **options: Any) -> list[Exception]:
    if plan is not None:
        (folder / "suite.yaml").write_text(plan)
    return suite.reproduce(
        "smoke", folder=folder / "reports", file=folder / "suite.yaml",
        **{"say": lambda _: None} | options,
    )  # fmt: skip


THREE = "a: {smoke: {}}\nb: {needs: {runs: [a]}, smoke: {}}\nc: {smoke: {}}\n"


# --- the order of things --------------------------------------------------------------------


def test_each_runs_after_what_it_needs(folder: Path, fake: Fake) -> None:
    plan = (
        "c: {needs: {runs: [b]}, smoke: {}}\nb: {needs: {runs: [a]}, smoke: {}}\na: {smoke: {}}\n"
    )
    assert reproduce(folder, plan, jobs=3) == []
    assert fake.ran == ["a", "b", "c"]


def test_independent_runs_run_at_the_same_time_and_share_the_threads(
    folder: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    both = threading.Barrier(2, timeout=30)
    fake.during = lambda order: both.wait()  # broken unless two are there
    assert reproduce(folder, "a: {smoke: {}}\nb: {smoke: {}}\n", jobs=2) == []
    assert [e["OMP_NUM_THREADS"] for e in fake.environments] == ["4", "4"]
    assert [e["MKL_NUM_THREADS"] for e in fake.environments] == ["4", "4"]


def test_threads_are_divided_and_never_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert set(batch.threads(1, 1).values()) == {"3"}
    assert set(batch.threads(2, 1).values()) == {"1"}
    assert set(batch.threads(9, 1).values()) == {"1"}
    monkeypatch.delenv("OMP_NUM_THREADS")
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    assert set(batch.threads(2, 64).values()) == {str(max(1, cores // 2))}
    for jobs in (1, 2, 9):  # so that results do not depend on it
        assert set(batch.threads(jobs, 1).values()) == {"1"}


def test_what_needs_a_failed_run_is_skipped_and_the_rest_goes_on(
    folder: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    def during(order: Order) -> None:
        if order.name == "a":
            raise suite.NotebookFailed("a", "ValueError: no", None)

    fake.during = during
    plan = THREE + "d: {notebook: a, needs: {runs: [b, c]}, smoke: {}}\n"
    failures = reproduce(folder, plan)
    assert [type(f).__name__ for f in failures] == ["NotebookFailed", "Skipped", "Skipped"]
    assert fake.ran == ["a", "c"]
    err = capsys.readouterr().err
    assert "b: skipped: it needs a, which did not run" in err
    assert "d: skipped: it needs b, which did not run" in err
    fake.during = lambda order: None
    assert reproduce(folder) == []
    assert fake.ran == ["a", "b", "d"], "c was there already"


def test_only_runs_what_is_named_and_what_that_needs(folder: Path, fake: Fake) -> None:
    assert reproduce(folder, THREE, only=["b"]) == []
    assert fake.ran == ["a", "b"]
    assert reproduce(folder, only=["b"], force=True) == []
    assert fake.ran == ["b"], "force is for what is named"
    assert reproduce(folder, force=True) == []
    assert sorted(fake.ran) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("plan", "options", "told"),
    [
        (THREE, {"only": ["d"]}, "--only: expected runs of the plan: a, c, b; found 'd'"),
        (THREE, {"jobs": 0}, "jobs: expected at least 1; found 0"),
        ("a: {needs: {runs: [x]}, smoke: {}}", {}, "needs of a: expected runs of smoke: a"),
        ("a: {needs: {run: [x]}, smoke: {}}", {}, "did you mean 'runs'"),
        ("a: {needs: {runs: b}, smoke: {}}\nb: {smoke: }", {}, "expected a list; found 'b'"),
        ("a: {need: {}, smoke: {}}", {}, "did you mean 'needs'"),
        ("a: {resources: {smoke: {gpus: 1}}, smoke: {}}", {}, "did you mean 'gpu'"),
        ("a: {resources: {smoke: {gpu: x}}, smoke: {}}", {}, "expected a whole number"),
        ("a: {needs: {weights: [two]}, smoke: {}}", {}, "weights of a: expected zoo"),
        ("t: {train: demo-locl-x4-s0, smoke: {}}", {}, "did you mean 'local-x4-s0'"),
        ("t: {train: demo-local-x4-s0, smoke: {step: 1}}", {}, "did you mean 'steps'"),
        (
            "t: {train: demo-local-x4-s0, options: {device: 2}, smoke: {}}",
            {}, "did you mean 'devices'",
        ),
        (
            "a: {needs: {runs: [b]}, smoke: {}}\nb: {needs: {runs: [a]}, smoke: {}}",
            {}, "expected runs of which none waits for itself",
        ),
    ],
)  # fmt: skip
def test_a_wrong_plan_is_told_before_anything_runs(
    folder: Path, fake: Fake, plan: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError) as caught:
        reproduce(folder, plan, **options)
    assert told in str(caught.value)
    assert fake.ran == []
    assert not (folder / "reports").exists()


def test_a_run_gets_the_files_of_another(folder: Path, fake: Fake) -> None:
    tiny.write(folder, "w", [("parameters", "networks: list[str] = []  # n"), ("", "networks")])
    plan = "w: {smoke: {networks: ['run:a/weights.safetensors', one]}}\na: {smoke: {scale: 2}}\n"
    assert reproduce(folder, plan) == []
    (done,) = (folder / "reports" / "runs" / "a").iterdir()
    first, second = fake.orders
    assert [first.name, second.name] == ["a", "w"], "the reference is a need"
    assert second.parameters["networks"] == [str(done.resolve() / "weights.safetensors"), "one"]


# --- what is up to date ---------------------------------------------------------------------


def test_nothing_starts_where_nothing_has_changed(folder: Path, fake: Fake) -> None:
    assert reproduce(folder, THREE) == []
    assert fake.ran == ["a", "c", "b"]
    index = folder / "reports" / "index.html"
    made = index.stat().st_mtime_ns
    said: list[str] = []
    assert reproduce(folder, say=said.append) == []
    assert fake.ran == []
    assert [line.split(",")[0] for line in said[:3]] == [
        "[1/3] a: up to date", "[2/3] c: up to date", "[3/3] b: up to date",
    ]  # fmt: skip
    assert index.stat().st_mtime_ns == made, "not even the index is written again"


def test_a_second_call_imports_no_torch_and_no_papermill(folder: Path, fake: Fake) -> None:
    reproduce(folder, "a: {smoke: {}}")
    code = (
        "import sys\nfrom pathlib import Path\nfrom dtfn import paths, suite\n"
        "paths.ZOO = Path('zoo').resolve()\n"
        "suite.reproduce('smoke', folder=Path('reports'), file=Path('suite.yaml'))\n"
        "print({'torch', 'papermill', 'nbconvert'} & set(sys.modules))"
    )
    said = subprocess.check_output([sys.executable, "-c", code], cwd=folder, text=True)
    assert "a: up to date" in said
    assert said.splitlines()[-1] == "set()"


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "notebook": ("a: {smoke: {}}", lambda f: tiny.write(f, "a", [*SCALE, ("", "1 + 1")])),
    "parameters": ("a: {smoke: {scale: 2}}", lambda f: None),
    "weights": ("a: {smoke: {}}", lambda f: zoo(f, {"one": b"2"})),
    "inputs": ("a: {smoke: {}}", lambda f: (f / "data.csv").write_text("2")),
    "code": ("a: {smoke: {}}", lambda f: (f / "dtfn" / "a.py").write_text("2")),
}


@pytest.mark.parametrize("part", CHANGES)
def test_a_run_runs_again_for_each_thing_that_it_depends_on(
    folder: Path, fake: Fake, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtfn.__file__", str(folder / "dtfn" / "__init__.py"))
    (folder / "dtfn").mkdir()
    (folder / "dtfn" / "a.py").write_text("1")
    (folder / "data.csv").write_text("1")
    needs = "needs: {files: [data.csv]}, smoke"
    plan, change = CHANGES[part]
    reproduce(folder, "a: {smoke: {}}".replace("smoke", needs))
    assert fake.ran == ["a"]
    old(folder)
    reproduce(folder)
    assert fake.ran == []
    change(folder)
    (folder / "suite.yaml").write_text(plan.replace("smoke", needs))
    _, states = batch.states("smoke", folder=folder / "reports", file=folder / "suite.yaml")
    assert states["a"].reason == f"changed: {part}"
    reproduce(folder)
    assert fake.ran == ["a"]


def test_a_new_library_is_a_new_result(
    folder: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    reproduce(folder, "a: {smoke: {}}")
    monkeypatch.setattr("dtfn.provenance.versions", lambda: {"torch": "99"})
    _, states = batch.states("smoke", folder=folder / "reports", file=folder / "suite.yaml")
    assert states["a"].reason == "changed: libraries"


def test_outputs_and_saving_in_a_notebook_change_nothing(folder: Path, fake: Fake) -> None:
    reproduce(folder, "a: {smoke: {}}")
    content = json.loads((folder / "a.ipynb").read_text())
    content["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["4"]}]
    content["cells"][1] |= {"execution_count": 7, "source": ["print(scale)"]}
    (folder / "a.ipynb").write_text(json.dumps(content, indent=4))
    fake.ran  # noqa: B018
    reproduce(folder)
    assert fake.ran == []


def test_what_needs_a_changed_run_runs_again_too(folder: Path, fake: Fake) -> None:
    reproduce(folder, THREE)
    fake.ran  # noqa: B018
    tiny.write(folder, "a", [*SCALE, ("", "1 + 1")])
    reproduce(folder)
    assert fake.ran == ["a", "b"]


def test_a_damaged_or_missing_output_is_made_again(folder: Path, fake: Fake) -> None:
    reproduce(folder, "a: {smoke: {}}")
    (first,) = run_folders.finished(folder / "reports" / "runs")
    for damage in (lambda f: f.write_text("other"), Path.unlink):
        (newest,) = run_folders.finished(folder / "reports" / "runs")[-1:]
        damage(newest / "tables" / "t.csv")
        fake.ran  # noqa: B018
        reproduce(folder)
        assert fake.ran == ["a"]
    assert not (first / "tables" / "other").exists()


def test_the_parameters_of_before_are_still_there(folder: Path, fake: Fake) -> None:
    for scale in (2, 3, 2):
        reproduce(folder, f"a: {{smoke: {{scale: {scale}}}}}")
    assert len(fake.ran) == 2
    shown = (folder / "reports" / "index.html").read_text()
    assert shown.count("<section") == 1


def test_pictures_are_inputs(folder: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTFN_DATA", str(folder / "data"))
    tiny.write(folder, "d", [("parameters", "datasets: list[str] = ['Toy']  # d")])
    for name in ("HR/x.png", "LR_bicubic/X2/xx2.png"):
        (folder / "data" / "Toy" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / "Toy" / name).write_bytes(b"1")
    reproduce(folder, "d: {smoke: {}}")
    for name in ("HR/x.png", "LR_bicubic/X2/xx2.png", "HR/y.png"):
        (folder / "data" / "Toy" / name).write_bytes(b"22")
        fake.ran  # noqa: B018
        reproduce(folder)
        assert fake.ran == ["d"], name


def test_only_named_networks_count_where_a_run_says_so(folder: Path, fake: Fake) -> None:
    tiny.write(folder, "n", [("parameters", "networks: list[str] = ['one']  # n")])
    plan = "n: {needs: {weights: []}, smoke: {}}\na: {smoke: {}}\n"
    reproduce(folder, plan)
    zoo(folder, {"one": b"1", "two": b"2"})
    fake.ran  # noqa: B018
    reproduce(folder)
    assert fake.ran == ["a"], "who does not say reads the whole zoo"
    zoo(folder, {"one": b"changed", "two": b"2"})
    reproduce(folder)
    assert sorted(fake.ran) == ["a", "n"]


def test_imported_networks_count_where_they_are_named(
    folder: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "WEIGHTS", folder / "weights")
    (folder / "weights").mkdir()
    row = {"name": "edsr", "file": "edsr.safetensors", "scale": 4, "source": "edsr.pt"}
    (folder / "weights" / "registry.json").write_text(json.dumps([row]))
    file = folder / "weights" / "edsr.safetensors"
    tiny.write(folder, "n", [("parameters", "networks: list[str] = ['edsr']  # n")])
    for content in (b"1", b"22"):
        file.write_bytes(content)
        for expected in (["n"], []):
            reproduce(folder, "n: {needs: {weights: []}, smoke: {}}\n")
            assert fake.ran == expected


def test_files_are_read_again_only_when_they_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "a.ipynb"
    old(folder)
    first = keys.Hashes()
    digest = first.file(file)
    first.save()
    with monkeypatch.context() as patch:
        patch.setattr("dtfn.provenance.file_hash", pytest.fail)
        assert keys.Hashes().file(file) == digest
    os.utime(file, (1e9 + 1, 1e9 + 1))
    assert keys.Hashes().file(file) == digest
    file.write_text("new")
    assert keys.Hashes().file(file) != digest
    assert keys.Hashes().file(folder / "none") == "missing"


def test_a_broken_store_of_hashes_does_no_harm(folder: Path) -> None:
    (folder / "cache").mkdir()
    (folder / "cache" / "hashes.json").write_text("{")
    assert len(keys.Hashes().file(folder / "a.ipynb")) == 64


# --- for other programs ---------------------------------------------------------------------


def test_the_plan_as_json_tells_all_of_a_run(folder: Path, fake: Fake) -> None:
    plan = (
        "a: {makes: [tables/t.csv], resources: {smoke: {gpu: 1, minutes: 3}}, smoke: {scale: 2}}\n"
        "b: {needs: {runs: [a]}, smoke: {}}\n"
    )
    reproduce(folder, plan, only=["a"])
    where, states = batch.states("smoke", folder=folder / "reports", file=folder / "suite.yaml")
    found = json.loads(json.dumps(records.described(states, "smoke", where)))
    assert (found["tier"], found["reports"]) == ("smoke", str(folder / "reports"))
    a, b = found["runs"]
    assert (a["name"], a["notebook"], a["train"], a["after"]) == ("a", "a", None, [])
    assert (a["parameters"], a["makes"]) == ({"scale": 2}, ["tables/t.csv"])
    assert a["resources"] == {"gpu": 1, "memory_mb": 3000, "minutes": 3, "threads": 1}
    assert (a["up_to_date"], a["reason"], b["up_to_date"], b["reason"]) == (
        True, "up to date", False, "never ran",
    )  # fmt: skip
    assert b["after"] == ["a"]
    assert len(a["key"]) == 64
    assert (Path(a["folder"]) / "manifest.json").is_file()
    assert b["folder"] is None


def test_a_run_that_failed_since_is_not_in_the_record(folder: Path, fake: Fake) -> None:
    reproduce(folder, THREE)
    where, states = batch.states("smoke", folder=folder / "reports", file=folder / "suite.yaml")
    complete = {name: state.folder for name, state in states.items() if name != "b"}
    known = {name: run for name, run in complete.items() if run is not None}
    file = records.write(where, "smoke", states, known)
    assert set(json.loads(file.read_text())["runs"]) == {"a", "c"}


def test_the_record_of_a_tier_is_the_same_for_the_same_results(folder: Path, fake: Fake) -> None:
    reproduce(folder, THREE)
    file = folder / "reports" / "suite-smoke.json"
    first = file.read_bytes()
    reproduce(folder, force=True)
    assert file.read_bytes() == first
    file.unlink()
    for name in "cab":  # one by one, as another program would
        reproduce(folder, only=[name])
    assert file.read_bytes() == first
    content = json.loads(first)["runs"]
    assert set(content) == {"a", "b", "c"}
    assert set(content["a"]["outputs"]) == {"tables/t.csv"}


# --- real processes -------------------------------------------------------------------------


def test_a_run_that_does_not_make_what_it_promises_has_failed(folder: Path) -> None:
    (failure,) = reproduce(folder, "a: {makes: [tables/numbers.csv], smoke: {}}")
    assert isinstance(failure, suite.NotebookFailed)
    assert "the plan promises tables/numbers.csv" in failure.message
    assert failure.folder is not None
    assert failure.folder.name.endswith("-failed")
    (state,) = batch.states("smoke", folder=folder / "reports", file=folder / "suite.yaml")[
        1
    ].values()
    assert state.reason == "failed"


def test_a_worker_that_is_killed_fails_alone(folder: Path) -> None:
    """As when memory runs out: the notebook kills the process that runs its kernel."""
    tiny.write(folder, "k", [("", "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)")])
    (failure,) = reproduce(folder, "k: {smoke: {}}\na: {smoke: {}}\n", jobs=2)
    assert isinstance(failure, suite.NotebookFailed)
    assert "its process ended with SIGKILL" in failure.message
    (done,) = run_folders.finished(folder / "reports" / "runs")
    assert run_folders.read(done)["notebook"] == "a"
    assert "did not run: its process ended" in (folder / "reports" / "index.html").read_text()


SLOW = (
    "import os, time\nfrom pathlib import Path\n"
    "Path('pids').open('a').write(f'{os.getpid()} {os.getppid()}\\n')\n"
    "end = time.monotonic() + (600 if Path('slow').exists() else 0)\n"
    "while time.monotonic() < end: time.sleep(0.1)"
)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition: Callable[[], object], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_call_leaves_what_is_complete_and_the_next_does_the_rest(
    folder: Path, how: signal.Signals
) -> None:
    tiny.write(folder, "z", [("", SLOW)])
    (folder / "slow").touch()
    plan = "a: {needs: {weights: []}, smoke: }\nz: {needs: {runs: [a], weights: []}, smoke: }\n"
    with pytest.MonkeyPatch.context() as patch:
        Fake(patch)
        assert reproduce(folder, plan, only=["a"]) == []
    command = ["reproduce", "--tier", "smoke", "--jobs", "2", "--reports", str(folder / "reports")]
    process = subprocess.Popen(
        [sys.executable, "-m", "dtfn", *command, "--plan", str(folder / "suite.yaml")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=paths.ROOT,
    )  # fmt: skip
    wait_until(lambda: (folder / "pids").exists() and (folder / "pids").read_text())
    process.send_signal(how)
    process.wait(timeout=240)
    pids = [int(pid) for pid in (folder / "pids").read_text().split()]
    wait_until(lambda: not any(map(alive, pids)), 30)
    runs = folder / "reports" / "runs"
    assert [f.parent.name for f in run_folders.finished(runs)] == ["a"]

    (folder / "slow").unlink()
    again = subprocess.run(
        [sys.executable, "-m", "dtfn", *command, "--plan", str(folder / "suite.yaml")],
        capture_output=True, text=True, cwd=paths.ROOT,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "[1/2] a: up to date" in again.stdout
    assert sorted(f.parent.name for f in run_folders.finished(runs)) == ["a", "z"]
    assert [f.name for f in runs.rglob(".*")] == [], "what was half done is gone"


@pytest.mark.slow
def test_two_calls_at_once_run_a_notebook_once(folder: Path) -> None:
    (folder / "suite.yaml").write_text("a: {smoke: {}}")
    command = ["reproduce", "--tier", "smoke", "--reports", str(folder / "reports")]
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "dtfn", *command, "--plan", str(folder / "suite.yaml")],
            stdout=subprocess.PIPE, text=True, cwd=paths.ROOT,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    for process in both:
        process.communicate()
    assert len(run_folders.finished(folder / "reports" / "runs")) == 1


@pytest.mark.slow
def test_training_is_a_run_of_the_plan(folder: Path) -> None:
    tiny.write(
        folder, "w",
        [("parameters", "file: str = ''  # f"), ("", "import os\nprint(os.path.getsize(file))")],
    )  # fmt: skip
    plan = (
        "trained: {train: demo-local-x4-s0, makes: [weights.safetensors], options: {devices: 1},\n"
        "  smoke: {steps: 4, validate_every: 2, batch: 2, patch: 16, warmup: 1,\n"
        "          hyperparameters: {n_feats: 8}}}\n"
        "w: {smoke: {file: 'run:trained/weights.safetensors'}}\n"
    )
    assert reproduce(folder, plan) == []
    first, second = run_folders.finished(folder / "reports" / "runs")
    content = run_folders.read(first)
    assert (content["notebook"], content["status"]) == ("trained", "complete")
    assert content["parameters"]["steps"] == 4
    assert {"figures/curve.svg", "recipe.json", "weights.safetensors"} <= set(content["outputs"])
    assert len(content["verdicts"]) == 1
    assert run_folders.read(second)["parameters"]["file"].endswith("/weights.safetensors")
    assert not list((folder / "reports" / "training").iterdir()), "checkpoints are of no more use"
    assert "Training of trained" in (folder / "reports" / "index.html").read_text()


@pytest.mark.slow
def test_a_training_that_is_refused_is_one_line(folder: Path) -> None:
    plan = "t: {train: demo-local-x4-s0, smoke: {sets: [NoSuchSet], steps: 2}}"
    (failure,) = reproduce(folder, plan)
    assert isinstance(failure, InputError)
    assert "NoSuchSet" in str(failure)


def test_the_example_in_the_plan_is_a_plan(folder: Path) -> None:
    text = (paths.NOTEBOOKS / "suite.yaml").read_text()
    example = text.partition("For example")[2].partition("\n")[2]
    lines = [line[4:] for line in example.splitlines() if line.startswith("#   ")]
    (folder / "suite.yaml").write_text("\n".join(lines))
    notebook = paths.NOTEBOOKS / "02_benchmark.ipynb"
    (folder / notebook.name).write_bytes(notebook.read_bytes())
    trained, measured = plans.plan("paper", folder / "suite.yaml")
    assert (trained.train, trained.options["devices"], trained.resources.gpu) == ("dtfn_x2", 8, 8)
    assert measured.needs.runs == ("trained",)


def test_plans_know_tiers_and_keys_apart() -> None:
    assert not set(plans.TIERS) & set(plans._KEYS)
