"""The command line: fast help, one clear line and exit code 2 for bad input."""

import json
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
import tiny
from tiny import call

from dtfn import cli, evaluation, paths, training, zoo


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of tests are not the reader's."""
    monkeypatch.setattr(paths, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(paths, "RUNS", tmp_path / "reports" / "runs")


def test_help_takes_less_than_a_second() -> None:
    took = []
    for option, said in (("--help", "\n  reproduce "), ("--help", ""), ("--version", "dtfn 0.")):
        began = time.perf_counter()
        shown = subprocess.check_output([sys.executable, "-m", "dtfn", option], text=True)
        took.append(time.perf_counter() - began)
        assert said in shown
    assert min(took[:2]) < 1  # a busy machine may be slow once


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["reproduce", "--tier", "dmo"], "did you mean 'demo'?"),
        (["run", "02_benchmrk"], "did you mean '02_benchmark'?"),
        (["run", "02_benchmark", "-p", "scal=2"], "did you mean 'scale'?"),
        (["run", "02_benchmark", "-p", "scale"], "expected NAME=VALUE; found 'scale'"),
        (["evaluate", "bicubik"], "did you mean 'bicubic'?"),
        (["evaluate", "bicubic", "--scale", "5"], "expected 2, 3 or 4"),
        (["evaluate", "bicubic", "--datasets", ""], "datasets"),
        (["gate", "nlsa-x4-s0", "--datasets", "mini, Set55"], "/Set55: "),
        (["evaluate", "no/such/weights.safetensors"], "weights.safetensors"),
        (["evaluate", "mine.py"], "expected FILE.py:function"),
        (["zoo", "show", "no-such-network"], "no-such-network"),
        (["bench", "--sizes", "48,x"], "--sizes"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("dtfn: ")
    assert told in line
    assert "; found " in line
    assert not (tmp_path / "reports").exists()


def test_a_failing_notebook_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    notebook = tiny.write_all(tmp_path) / "failing.ipynb"
    assert call("run", str(notebook), "-p", "scale=2") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("failing failed: ZeroDivisionError: division by zero; see ")
    assert Path(line.partition("; see ")[2]).is_file()


def test_parameters_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run("03_gate", listed=True)
    assert "\nscale: int = 4  # 2, 3 or 4\n" in capsys.readouterr().out
    assert call("run", "03_gate", "-p", "scal=2") == 2
    assert "`dtfn run 03_gate --parameters` says what each is" in capsys.readouterr().err


def test_a_run_is_in_the_index(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    notebook = tiny.write_all(tmp_path) / "good.ipynb"
    assert call("run", str(notebook), "-p", "scale=3", "-p", "names=x,y") == 0
    page = Path(capfd.readouterr().out.strip())
    assert page.name == "good.html"
    assert page.is_file()
    folder = page.parent
    content = json.loads((folder / "manifest.json").read_text())
    assert content["parameters"] == {"scale": 3, "names": ["x", "y"]}
    index = tmp_path / "reports" / "index.html"
    assert "A good one" in index.read_text()
    index.unlink()
    assert call("report") == 0
    assert Path(capfd.readouterr().out.strip()) == index
    assert "A good one" in index.read_text()


def test_evaluate_prints_the_means_and_writes_every_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "all.csv"
    arguments = ["bicubic", "--datasets", "mini, mini", "--count", "2", "--scale", "2"]
    assert call("evaluate", *arguments, "--csv", str(file)) == 0
    shown = capsys.readouterr().out
    assert "| mini | 2 | bicubic | 2 |" in shown
    assert "Grey pictures are read as RGB" in shown
    assert len(file.read_text().splitlines()) == 3
    assert call("evaluate", *arguments, "--grey", "y") == 0
    assert "Grey pictures are taken as Y" in capsys.readouterr().out


def test_a_bad_output_path_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: pytest.fail("it works"))
    (tmp_path / "file").write_text("")
    for csv in (tmp_path, tmp_path / "file" / "x.csv"):
        assert call("evaluate", "bicubic", "--csv", str(csv)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "cannot be written or read: " in line
    monkeypatch.setattr(training.Run, "step", lambda *_: pytest.fail("it works"))
    assert call("train", "demo-local-x4-s0", "--out", str(tmp_path / "file" / "run")) == 2
    assert "cannot be written or read: " in capsys.readouterr().err


def test_a_disk_that_fails_is_one_line_and_no_other_fault_is_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faults: list[Exception] = [OSError(28, "No space left on device", "results.npz")]
    faults += [OSError(5, "Input/output error"), ZeroDivisionError()]
    monkeypatch.setattr(evaluation, "evaluate", mock.Mock(side_effect=faults))
    assert call("evaluate", "bicubic") == 2
    said = "dtfn: results.npz: cannot be written or read: No space left on device\n"
    assert capsys.readouterr().err == said
    for fault in faults[1:]:
        with pytest.raises(type(fault)):
            cli.main(["evaluate", "bicubic"])


def test_slow_work_is_announced_and_too_large_work_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"method": "a", "pictures": 4, "tiles": 8, "seconds": 120.0, "memory": 900.0}
    rows = [row, row | {"method": "b", "seconds": 20.0}]
    monkeypatch.setattr(evaluation, "forecast", lambda *_, **__: pd.DataFrame(rows))
    assert call("evaluate", "bicubic", "--count", "1", "--memory", "1GB") == 0
    said = capsys.readouterr().err
    assert said == "a: about 2.0 min and 900 MB for 4 pictures in 8 runs\n"
    assert call("evaluate", "bicubic", "--memory", "800MB") == 2
    assert "about 900 MB for a; found 800MB" in capsys.readouterr().err


def test_the_zoo_is_listed_and_verified(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = zoo.registry()
    name = rows[0]["name"]
    assert call("zoo", "list") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:6] == ["name", "variant", "scale", "seed", "parameters", "gate"]
    assert [line.split()[0] for line in lines] == [row["name"] for row in rows]
    assert call("zoo", "list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"gate": None} | row for row in rows]
    assert call("zoo", "show", name) == 0
    assert capsys.readouterr().out.startswith(zoo.show(name).rstrip())
    assert call("zoo", "show", name, "--json") == 0
    assert json.loads(capsys.readouterr().out) == rows[0]
    assert call("zoo", "verify") == 0
    assert capsys.readouterr().out == "".join(f"{row['name']}: ok\n" for row in rows)
    monkeypatch.setattr(zoo, "verify", lambda: ["a.md: expected a file, found none"])
    assert call("zoo", "verify") == 2
    assert "a.md: expected a file, found none" in capsys.readouterr().err


def test_bench_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from dtfn import bench

    def table(sizes: tuple[int, ...], threads: int, device: str) -> pd.DataFrame:
        assert (sizes, threads, device) == ((12,), 1, "cpu")
        hashed = {"n_hashes": 1, "chunk_size": 16}
        jobs = (
            ("mini-dtfn", 2, 1, 12, "fp32", False, hashed),
            ("mini-local", 2, 2, 12, "bf16", True),
        )
        return pd.DataFrame([bench.measure(bench.Job(*job)) for job in jobs])

    monkeypatch.setattr(bench, "table", table)
    assert call("bench", "--sizes", "12", "--threads", "1") == 0
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2
    assert all(0 < float(row.split("|")[5].strip(" %")) < 1000 for row in rows)
