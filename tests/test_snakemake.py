"""The suite by Snakemake: the same record as `dtfn reproduce`, whatever was killed or removed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from dtfn import paths
from dtfn.reports import runs as run_folders

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("snakemake") is None, reason="needs pip install '.[batch]'"
    ),
]

BIN = Path(sys.executable).parent
PLAN = """
a: {needs: {weights: []}, smoke: {}}
b: {needs: {weights: []}, smoke: {}}
c: {needs: {weights: [], runs: [a, b]}, smoke: {}}
"""
# Both a and b wait until the other one has begun, or, while a file `slow` is there, for ever.
TOGETHER = """
import time
from pathlib import Path
Path("began-" + Path(run.folder).parent.name).touch()
end = time.monotonic() + 120
while Path("slow").exists() or len(list(Path().glob("began-*"))) < 2:
    assert time.monotonic() < end, "alone"
    time.sleep(0.1)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abc":
        begin = tiny.BEGIN.replace("good", name)
        wait = [("", TOGETHER)] if name != "c" else []
        cells = [("parameters", tiny.PARAMETERS), ("hide-input", begin), *wait, ("", tiny.WORK)]
        tiny.write(tmp_path, name, [*cells, ("", "run.finish()")])
    (tmp_path / "suite.yaml").write_text(PLAN)
    return tmp_path


def snakemake(folder: Path, reports: str, *options: str) -> subprocess.Popen[str]:
    config = [
        f"plan={folder / 'suite.yaml'}",
        f"reports={folder / reports}",
        f"dtfn={BIN / 'dtfn'}",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", "-c2", "-s", str(paths.ROOT / "Snakefile"), *options,
         "--config", "tier=smoke", *config],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, process_group=0,
    )  # fmt: skip


def complete(folder: Path, reports: str) -> None:
    process = snakemake(folder, reports)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said


def runs(folder: Path, reports: str) -> list[str]:
    return sorted(f.parent.name for f in run_folders.finished(folder / reports / "runs"))


def test_it_runs_what_the_plan_says_and_leaves_the_same_record(folder: Path) -> None:
    complete(folder, "one")
    command = ["reproduce", "--tier", "smoke", "--reports", str(folder / "two"), "--jobs", "2"]
    subprocess.run(
        [BIN / "dtfn", *command, "--plan", str(folder / "suite.yaml")],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    record = (folder / "one" / "suite-smoke.json").read_bytes()
    assert record == (folder / "two" / "suite-smoke.json").read_bytes()
    assert set(json.loads(record)["runs"]) == {"a", "b", "c"}
    assert "<section" in (folder / "one" / "index.html").read_text()
    # What is gone is made again, and nothing else; another report has nothing of this one.
    shutil.rmtree(folder / "one" / "runs" / "c")
    complete(folder, "one")
    assert runs(folder, "one") == ["a", "b", "c"]
    complete(folder, "three")
    assert runs(folder, "three") == ["a", "b", "c"]


@pytest.mark.skipif(sys.platform != "linux", reason="kills a group of processes")
def test_after_a_kill_the_next_call_does_the_rest(folder: Path) -> None:
    (folder / "slow").touch()
    process = snakemake(folder, "one")
    until = time.monotonic() + 240
    while len(list(folder.glob("began-*"))) < 2:
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert runs(folder, "one") == []
    (folder / "slow").unlink()
    unlocking = snakemake(folder, "one", "--unlock")
    said, _ = unlocking.communicate(timeout=120)
    assert unlocking.returncode == 0, said
    complete(folder, "one")
    assert runs(folder, "one") == ["a", "b", "c"]


def test_a_failure_stops_only_what_needs_it(folder: Path) -> None:
    begin = tiny.BEGIN.replace("good", "a")
    cells = [("parameters", tiny.PARAMETERS), ("hide-input", begin), ("", "1 / 0")]
    tiny.write(folder, "a", [*cells, ("", "run.finish()")])
    (folder / "began-a").touch()
    process = snakemake(folder, "one")
    said, _ = process.communicate(timeout=300)
    assert process.returncode != 0, said
    found = {
        f.parent.name: run_folders.read(f)["status"]
        for f in run_folders.finished(folder / "one/runs")
    }
    assert found == {"a": "failed", "b": "complete"}
