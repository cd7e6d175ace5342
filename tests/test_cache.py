"""The cache of arrays: between processes, damaged, on a full disk, its commands; keys of code."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import diskcache
import numpy as np
import pytest
from tiny import refused, said

from dtfn import cache, files, paths, provenance

RNG = np.random.default_rng(0)
KEY = "ab" + "0" * 62
MAKER = """import sys, time
from pathlib import Path
import numpy as np
from dtfn import cache, paths
paths.CACHE, log, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def make():
    with log.open("a") as file:
        file.write("made\\n")
    time.sleep(seconds)
    return {"image": np.full((2, 2, 3), 7, np.uint8)}

print(cache.remembered("ab" + "0" * 62, make)["image"].sum())
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.delenv("DTFN_CACHE_LIMIT", raising=False)


class Maker:
    """Makes two arrays, and counts how often."""

    runs = 0

    def __call__(self) -> cache.Arrays:
        self.runs += 1
        return {"index": np.arange(12, dtype=np.int32).reshape(3, 4), "empty": np.zeros((0, 2))}


def maker(tmp_path: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKER, str(paths.CACHE), str(tmp_path / "log"), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def fill(count: int) -> None:
    """Remember some images of 120 kB that cannot be packed."""
    for number in range(count):
        image = RNG.integers(0, 256, (200, 200, 3), dtype=np.uint8)
        cache.remembered(f"{number:064x}", lambda image=image: {"image": image})  # type: ignore[misc]


def test_processes_make_an_output_once_and_a_killed_one_holds_nobody_up(tmp_path: Path) -> None:
    killed = maker(tmp_path, 600)
    until = time.monotonic() + 60
    while not (tmp_path / "log").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    both = [maker(tmp_path, 1), maker(tmp_path, 1)]
    time.sleep(0.5)
    assert [process.poll() for process in both] == [None, None], "they wait"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert [process.communicate(timeout=120)[0] for process in both] == ["84\n", "84\n"]
    assert (tmp_path / "log").read_text() == "made\n" * 2


def test_arrays_are_made_once_a_key() -> None:
    make = Maker()
    for _ in range(2):
        arrays = cache.remembered(KEY, make)
        assert arrays["index"].dtype == np.int32
        assert arrays["index"].tolist() == np.arange(12).reshape(3, 4).tolist()
        assert arrays["empty"].shape == (0, 2)
    assert make.runs == 1
    # One that is made from another, under the same lock.
    one, other = f"{KEY[:-1]}1", f"{KEY[:-1]}2"
    assert "index" in cache.remembered(one, lambda: cache.remembered(other, make))
    flat = np.zeros((4, 9), np.uint8)
    others = flat + np.uint8(1), flat.reshape(9, 4), flat.view(np.int8)
    different = [("a", flat), ("b", flat), ("a", flat, "whole"), *(("a", one) for one in others)]
    assert len({cache.key(*parts) for parts in different}) == len(different)
    assert cache.key("a", flat) == cache.key("a", np.asfortranarray(flat))


def test_a_damaged_entry_is_made_again() -> None:
    make, damages = Maker(), list[Callable[[bytes], object]]()
    damages += [lambda stored: b"", lambda stored: stored[: len(stored) // 2], lambda stored: 7]
    damages += [lambda stored: stored[:90] + bytes([stored[90] ^ 1]) + stored[91:]]
    for damage in damages:
        cache.remembered(KEY, make)
        with diskcache.Cache(str(paths.CACHE / "outputs")) as store:
            store[KEY] = damage(store[KEY])
        assert cache.remembered(KEY, make)["index"][2, 3] == 11
    cache.remembered(KEY, make)
    assert make.runs == 1 + len(damages)  # the entry is whole again each time


def test_what_cannot_be_stored_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Maker()
    with monkeypatch.context() as patch:
        (tmp_path / "a file").write_text("not a folder")
        patch.setattr(paths, "CACHE", tmp_path / "a file")
        with pytest.warns(UserWarning, match=r"no cache of outputs in .*a file"):
            cache.remembered(KEY, make)

    with monkeypatch.context() as patch:
        full = mock.Mock(side_effect=OSError(28, "No space left on device"))
        patch.setattr(diskcache.Cache, "set", full)
        with pytest.warns(UserWarning, match="No space left"):
            cache.remembered(KEY, make)
    cache.remembered(KEY, make)
    assert make.runs == 3
    (paths.CACHE / "outputs" / "cache.db").write_bytes(b"no database" * 1000)
    with pytest.warns(UserWarning, match="no cache of outputs"):
        cache.remembered(KEY, make)
    assert make.runs == 4


def test_usage_and_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said("cache", "clear") == "0 removed\n"
    fill(3)
    with cache.opened() as store:
        entries, size = len(store), store.volume()
    assert entries == 3
    assert 3 * 120_000 < size < 3 * 120_000 + 100_000
    assert cache.limit() == 12 * 2**30
    monkeypatch.setenv("DTFN_CACHE_LIMIT", "2GB")
    shown = said("cache", "show")
    assert shown.startswith(f"{paths.CACHE / 'outputs'}: 3 outputs and maps, 0.")
    assert shown.endswith(" of 2048.0 MB\n")
    assert said("cache", "clear") == "3 removed\n"
    monkeypatch.setenv("DTFN_CACHE_LIMIT", "1MB")
    fill(20)
    with cache.opened() as store:
        assert 0 < store.volume() <= 2**20 + 130_000
    sizes = {"0": 0, "12": 12, "500MB": 500 * 2**20, "1.5 GiB": 3 * 2**29, "2t": 2**41}
    assert [cache.size(text, "x") for text in sizes] == list(sizes.values())
    for text in ("", "big", "-12", "4XB", "500MB 1", "2t 1"):
        refused("--memory: expected a size", cache.size, text, "--memory")


@pytest.mark.parametrize(
    ("file", "text", "changes"),
    [
        ("low.py", '"""Another text."""\n\nVALUE = (1)  # why\n', []),
        ("cli/__init__.py", "VALUE = 2", []),
        ("cli.py", "VALUE = 2", []),
        ("low.py", '"""Low."""\nVALUE = 2', ["low", ""]),
        ("group/data.csv", "22\n", ["group", ""]),
        ("group/two.py", "", ["group", ""]),
    ],
)
def test_keys_of_code(tmp_path: Path, monkeypatch: Any, file: str, text: str, changes: Any) -> None:
    for name in ("__init__.py", "cli/__init__.py", "group/__init__.py", "group/data.csv"):
        files.write(tmp_path / name, "1")
    files.write(tmp_path / "low.py", '"""Low."""\nVALUE = 1')
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)

    def keys() -> dict[str, str]:
        cache.source.cache_clear()
        return {name: cache.source(*filter(None, [name])) for name in ("group", "low", "")}

    before = keys()
    (tmp_path / file).write_text(text)
    assert [name for name, key in keys().items() if key != before[name]] == changes
    with pytest.raises(FileNotFoundError, match="typo"):
        cache.source("group", "typo")


def test_reach_follows_inner_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(tmp_path / "group/one.py", "def f():\n    from dtfn.low import VALUE")
    files.write(tmp_path / "low.py", "import dtfn.lowest, os")
    files.write(tmp_path / "lowest.py", "from dtfn import __version__")
    files.write(tmp_path / "aside.py", "from dtfn import low")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    assert provenance.reach("from dtfn.group import one") == {"__init__", "group", "low", "lowest"}


# --- files: full disks, read-only folders, several processes ---
def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    files.write(file, "old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))  # as on a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            files.write(file, "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    with pytest.raises(ZeroDivisionError), files.replacing(file) as draft:
        draft.write_text(f"half {1 / 0}")
    assert file.read_text() == "old"
    assert list(file.parent.iterdir()) == [file]
    file = tmp_path / "a"
    for text in ("", "one", "two"):
        files.write(file, text)
        expected = subprocess.check_output(["sha256sum", file], text=True).split()[0]
        assert files.sha256(file) == expected


@pytest.mark.parametrize("content", ["", "{half", "[]", "\0\0", '"text"'])
def test_a_broken_store(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "registry.json"
    assert files.read_json(file, {}) == {}
    assert not caplog.records
    file.write_text(content)
    assert files.read_json(file, {}) == {}
    (record,) = caplog.records
    assert f"{file} is empty or broken" in record.message
    assert (tmp_path / "registry.json.broken").read_text() == content
    with files.updating(file, {}) as store:
        store["a"] = 1
    assert files.read_json(file, {}) == {"a": 1}
    assert len(caplog.records) == 1


UPDATE = """import sys
from pathlib import Path
from dtfn import files
for i in range(20):
    with files.updating(Path(sys.argv[1]), {}) as store:
        store[f"{sys.argv[2]}-{i}"] = i
"""


def test_no_entry_is_lost_between_processes(tmp_path: Path) -> None:
    file = tmp_path / "registry.json"
    command = [sys.executable, "-c", UPDATE, str(file)]
    processes = [subprocess.Popen([*command, str(n)]) for n in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    with pytest.raises(ZeroDivisionError), files.updating(file, {}) as store:
        store["nothing is written when the body fails"] = 1 / 0
    assert len(files.read_json(file, {})) == 3 * 20


def dtfn(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code with dtfn in a process."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DTFN_", "XDG_"))}
    command = [sys.executable, "-P", "-c", code]
    environment = {"PYTHONPATH": str(paths.ROOT), **kept, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_an_installed_package_writes_into_the_users_folders(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "dtfn"
    package.mkdir(parents=True)
    for name in ("__init__.py", "paths.py"):
        (package / name).write_bytes((paths.PACKAGE / name).read_bytes())
    code = "from dtfn import paths as p; print(p.data_root(), p.CACHE, p.WEIGHTS, p.REPORTS, "
    code += "p.ZOO, p.NOTEBOOKS, sep='\\n')"
    home = {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(package.parent)}
    *written, zoo, notebooks = dtfn(code, **home).stdout.splitlines()
    assert [Path(folder).is_relative_to(package) for folder in written] == [False] * 4
    assert [Path(folder).is_relative_to(tmp_path / "home") for folder in written[:3]] == [True] * 3
    assert written[3] == str(Path.cwd() / "reports")
    assert (zoo, notebooks) == (f"{package}/shipped/zoo", f"{package}/shipped/notebooks")
    names = "DATA", "CACHE", "WEIGHTS", "REPORTS"
    places = {f"DTFN_{name}": str(tmp_path / name) for name in names}
    assert dtfn(code, **home, **places).stdout.splitlines()[:4] == list(places.values())


def test_import_is_quick_and_shows_the_modules() -> None:
    code = """import sys, time
began = time.perf_counter()
import dtfn
assert time.perf_counter() - began < 0.3 and not {'numpy', 'torch'} & set(sys.modules)
assert {'images', 'models', 'evaluation', 'subpixel'} <= set(dir(dtfn))
assert dtfn.images.SCALES == (2, 3, 4)
dtfn.nothing"""
    done = dtfn(code)
    assert "AttributeError: module 'dtfn' has no attribute 'nothing'" in done.stderr
