"""The command line: fast help, one clear line and exit code 2 for bad input."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
from tiny import call, said

from dtfn import cli, evaluation, paths, training, zoo


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of tests are not the reader's."""
    monkeypatch.setattr(paths, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(paths, "RUNS", tmp_path / "reports" / "runs")


def test_help_takes_less_than_a_second() -> None:
    took = []
    for option, words in (("--help", "\n  reproduce "), ("--help", ""), ("--version", "dtfn 0.")):
        began = time.perf_counter()
        shown = subprocess.check_output([sys.executable, "-m", "dtfn", option], text=True)
        took.append(time.perf_counter() - began)
        assert words in shown
    assert min(took[:2]) < 1  # a busy machine may be slow once


BAD = {
    "reproduce --tier dmo": "did you mean 'demo'?",
    "run 02_benchmrk": "did you mean '02_benchmark'?",
    "run 02_benchmark -p scal=2": "did you mean 'scale'?",
    "run 03_gate -p scal=2": "`dtfn run 03_gate --parameters` lists",
    "run 02_benchmark -p scale": "expected NAME=VALUE; found 'scale'",
    "evaluate bicubik": "did you mean 'bicubic'?",
    "evaluate bicubic --scale 5": "expected 2, 3 or 4",
    "evaluate bicubic --datasets=": "datasets",
    "gate nlsa-x4-s0 --datasets mini,Set55": "/Set55: ",
    "evaluate no/such/weights.safetensors": "weights.safetensors",
    "evaluate mine.py": "expected FILE.py:function",
    "zoo show no-such-network": "no-such-network",
    "bench --sizes 48,x": "--sizes",
}


@pytest.mark.parametrize("command", BAD)
def test_bad_input_is_one_line(command: str, tmp_path: Path) -> None:
    (line,) = said(*command.split(), code=2).splitlines()
    assert re.match(f"dtfn: .*{re.escape(BAD[command])}", line)
    assert "; found " in line
    assert not (tmp_path / "reports").exists()


def test_evaluate_prints_the_means_and_writes_every_picture(tmp_path: Path) -> None:
    file = tmp_path / "new" / "all.csv"
    arguments = ["evaluate", "bicubic", "--datasets=mini, mini", "--count=2", "--scale=2"]
    shown = said(*arguments, "--csv", str(file))
    assert "| mini | 2 | bicubic | 2 |" in shown
    assert "Grey pictures are read as RGB" in shown
    assert len(file.read_text().splitlines()) == 3
    assert "Grey pictures are taken as Y" in said(*arguments, "--grey=y")


def test_a_bad_path_or_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: pytest.fail("it works"))
    monkeypatch.setattr(training.Run, "step", lambda *_: pytest.fail("it works"))
    (tmp_path / "file").write_text("")
    evaluate, train = "evaluate bicubic --csv", "train demo-local-x4-s0 --out"
    for command, path in ((evaluate, "."), (evaluate, "file/x.csv"), (train, "file/run")):
        *_, line = said(*command.split(), str(tmp_path / path), code=2).splitlines()
        assert "cannot be written or read: " in line
    faults: list[Exception] = [OSError(28, "No space left on device", "results.npz")]
    faults += [OSError(5, "Input/output error"), ZeroDivisionError()]
    monkeypatch.setattr(evaluation, "evaluate", mock.Mock(side_effect=faults))
    line = "dtfn: results.npz: cannot be written or read: No space left on device\n"
    assert said("evaluate", "bicubic", code=2) == line
    for fault in faults[1:]:
        with pytest.raises(type(fault)):
            cli.main(["evaluate", "bicubic"])


def test_a_forecast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"method": "a", "pictures": 4, "tiles": 8, "seconds": 120.0, "memory": 900.0}
    rows = [row, row | {"method": "b", "seconds": 20.0}]
    monkeypatch.setattr(evaluation, "forecast", lambda *_, **__: pd.DataFrame(rows))
    assert call("evaluate", "bicubic", "--count", "1", "--memory", "1GB") == 0
    assert capsys.readouterr().err == "a: about 2.0 min and 900 MB for 4 pictures in 8 runs\n"
    assert "--memory alone" in said("evaluate", "bicubic", "--memory=1GB", "--chop", code=2)


def test_the_zoo_is_listed_and_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = zoo.registry()
    name = rows[0]["name"]
    head, *lines = said("zoo", "list").splitlines()
    assert head.split()[:6] == ["name", "variant", "scale", "seed", "parameters", "gate"]
    assert [line.split()[0] for line in lines] == [row["name"] for row in rows]
    assert json.loads(said("zoo", "list", "--json")) == [{"gate": None} | row for row in rows]
    assert said("zoo", "show", name).startswith(f"# {name}")
    assert json.loads(said("zoo", "show", name, "--json")) == rows[0]
    assert said("zoo", "verify") == "".join(f"{row['name']}: ok\n" for row in rows)
    monkeypatch.setattr(zoo, "verify", lambda: ["a.md: expected a file, found none"])
    assert "a.md: expected a file, found none" in said("zoo", "verify", code=2)


def test_bench_table(monkeypatch: pytest.MonkeyPatch) -> None:
    from dtfn import bench

    one = bench.Job("mini-dtfn", 2, 1, 12, "fp32", False)
    other = bench.Job("mini-local", 2, 2, 12, "bf16", True)
    table = mock.Mock(return_value=pd.DataFrame(map(bench.measure, (one, other))))
    monkeypatch.setattr(bench, "table", table)
    _, _, *rows = said("bench", "--sizes", "12", "--threads", "1").splitlines()
    table.assert_called_once_with((12,), 1, "cpu")
    assert len(rows) == 2
    assert all(0 < float(row.split("|")[5].strip(" %")) < 1000 for row in rows)
