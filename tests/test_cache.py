"""The cache of outputs between processes, and what is told about it and thrown away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import diskcache
import numpy as np
import pytest

from dtfn import cache, cli, paths
from dtfn.cache import Output
from dtfn.errors import InputError

RNG = np.random.default_rng(0)
MAKER = """
import sys, time
from pathlib import Path
import numpy as np
from dtfn import cli, paths
from dtfn import cache

paths.CACHE, log, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def make():
    with log.open("a") as file:
        file.write("made\\n")
    time.sleep(seconds)
    return cache.Output(np.full((2, 2, 3), 7, np.uint8), 1.0)

with cache.opened() as known:
    print(known.recall_or_make("ab" + "0" * 62, (2, 2, 3), make).image.sum())
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.delenv(cache.LIMIT_VARIABLE, raising=False)


def maker(tmp_path: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKER, str(paths.CACHE), str(tmp_path / "log"), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(file: Path) -> None:
    until = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < until, f"no {file.name}"
        time.sleep(0.05)


def fill(count: int) -> list[str]:
    """Remember some images that PNG cannot pack, oldest first, and return their keys."""
    keys = [f"{number:064x}" for number in range(count)]
    with cache.opened() as known:
        for key in keys:
            image = RNG.integers(0, 256, (200, 200, 3), dtype=np.uint8)
            known.remember(key, Output(image, 1.0))
    return keys


def test_two_processes_make_an_output_once(tmp_path: Path) -> None:
    both = [maker(tmp_path, 2), maker(tmp_path, 2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert said == ["84\n", "84\n"]
    assert (tmp_path / "log").read_text() == "made\n"


def test_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    killed = maker(tmp_path, 600)
    wait_for(tmp_path / "log")
    second = maker(tmp_path, 0)
    time.sleep(0.5)
    assert second.poll() is None, "it waits"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert second.communicate(timeout=120)[0] == "84\n"
    assert (tmp_path / "log").read_text() == "made\n" * 2


def test_without_locks_it_is_made_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unlocked(key: str) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(cache, "_lock", unlocked)
    made = Output(np.zeros((2, 2, 3), np.uint8), 1.0)
    with cache.opened() as known, pytest.warns(UserWarning, match="no locks here"):
        assert known.recall_or_make("ab", (2, 2, 3), lambda: made) is made


def test_source_is_what_the_named_files_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cache.py", "capture/a.py", "capture/b.py", "one.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))

    def source(*names: str) -> str:
        cache.source.cache_clear()
        return cache.source(*names)

    before = source("capture", "one.py")
    assert source("capture", "one.py") == before
    assert source("capture") != before
    for name in ("capture/b.py", "one.py"):
        (tmp_path / name).write_text("changed " + name)
        assert source("capture", "one.py") != before
        (tmp_path / name).write_text(name)
    assert source("capture", "one.py") == before
    (tmp_path / "capture" / "c.py").write_text("new")
    assert cache.source("capture", "one.py") == before, "what runs is what was imported"
    assert source("capture", "one.py") != before
    cache.source.cache_clear()


def test_maps_are_made_once_and_again_when_damaged() -> None:
    made: list[int] = []

    def make() -> cache.Arrays:
        made.append(1)
        return {"index": np.arange(12, dtype=np.int32).reshape(3, 4), "empty": np.zeros((0, 2))}

    for _ in range(2):
        with cache.opened() as known:
            found = known.arrays("ab", make)
        assert found["index"].dtype == np.int32
        assert found["index"].tolist() == np.arange(12).reshape(3, 4).tolist()
        assert found["empty"].shape == (0, 2)
    assert len(made) == 1
    for damage in (lambda b: b[:-30], lambda b: b[:60] + b"?" + b[61:], lambda b: b"", lambda b: 7):
        with diskcache.Cache(str(paths.CACHE / "outputs")) as store:
            store["ab"] = damage(store["ab"])
        made.clear()
        with cache.opened() as known:
            assert known.arrays("ab", make)["index"][2, 3] == 11
        assert len(made) == 1


def test_what_the_cache_holds_is_counted() -> None:
    assert (cache.usage().entries, cache.usage().bytes) == (0, 0)
    assert not paths.CACHE.exists(), "asking makes nothing"
    fill(3)
    found = cache.usage()
    assert found.entries == 3
    assert 3 * 120_000 < found.bytes < 3 * 120_000 + 100_000
    assert found.limit == 12 * 2**30


def test_the_oldest_outputs_go_first() -> None:
    keys = fill(24)
    assert cache.clear(keep=900_000) == 20, "it removes ten at a time"
    with cache.opened() as known:
        there = [known.recall(key, (200, 200, 3)) is not None for key in keys]
    assert there == [False] * 20 + [True] * 4
    with diskcache.Cache(str(paths.CACHE / "outputs")) as store:
        assert store.size_limit == 12 * 2**30, "what is kept now is no limit for later"
    assert cache.clear() == 4
    assert cache.usage().entries == 0
    assert cache.clear() == 0


def test_the_limit_is_kept_while_outputs_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.LIMIT_VARIABLE, "1MB")
    fill(20)
    assert 0 < cache.usage().bytes <= 2**20 + 130_000
    with diskcache.Cache(str(paths.CACHE / "outputs")) as store:
        assert store.size_limit == 2**20


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("0", 0), ("12", 12), ("500MB", 500 * 2**20), ("1.5 GiB", 3 * 2**29), ("2t", 2**41)],
)
def test_sizes_are_read(text: str, bytes_: int) -> None:
    assert cache.size(text, "x") == bytes_


@pytest.mark.parametrize("text", ["", "big", "-1GB", "4XB", "4GB 1"])
def test_what_is_no_size_is_told(text: str) -> None:
    with pytest.raises(InputError, match="--keep: expected a size"):
        cache.size(text, "--keep")


def test_the_commands_show_and_clear(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.LIMIT_VARIABLE, "2GB")
    fill(12)
    for arguments in (["show"], ["clear", "--keep", "900KB"], ["clear"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(["cache", *arguments])
        assert not caught.value.code
    shown, trimmed, cleared = capsys.readouterr().out.splitlines()
    assert shown.startswith(f"{paths.CACHE / 'outputs'}: 12 outputs and maps, 1.")
    assert shown.endswith(" of 2048.0 MB")
    assert trimmed.startswith("10 removed, ")
    assert cleared.startswith("2 removed, ")
