"""Files survive kills, full disks, read-only folders and each other."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from dtfn import files, paths


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    files.write(file, "old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))  # as on a full disk
    try:
        with pytest.raises(OSError, match=r"File too large.*/a.txt"):
            files.write(file, "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    with pytest.raises(ZeroDivisionError), files.replacing(file) as draft:
        draft.write_text(f"half {1 / 0}")
    assert file.read_text() == "old"
    assert list(file.parent.iterdir()) == [file]


def test_a_hash_is_that_of_the_bytes_that_are_there_now(tmp_path: Path) -> None:
    file = tmp_path / "a"
    for text in ("", "one", "two"):
        files.write(file, text)
        expected = subprocess.check_output(["sha256sum", file], text=True).split()[0]
        assert files.sha256(file) == expected


@pytest.mark.parametrize("content", ["", "{half", "[]", "\0\0", '"text"'])
def test_a_broken_store_is_named_set_aside_and_counts_as_empty(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
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


UPDATE = """
import sys
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
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(paths.ROOT), **kept, **environment},
    )


def test_an_installed_package_writes_into_the_users_folders(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "dtfn"
    package.mkdir(parents=True)
    for name in ("__init__.py", "paths.py"):
        (package / name).write_bytes((paths.PACKAGE / name).read_bytes())
    code = (
        "from dtfn import paths as p; "
        "print(*[p.data_root(), p.CACHE, p.WEIGHTS, p.REPORTS, p.ZOO, p.NOTEBOOKS], sep='\\n')"
    )
    home = {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(package.parent)}
    *written, zoo, notebooks = dtfn(code, **home).stdout.splitlines()
    assert [Path(folder).is_relative_to(package) for folder in written] == [False] * 4
    assert [Path(folder).is_relative_to(tmp_path / "home") for folder in written[:3]] == [True] * 3
    assert written[3] == str(Path.cwd() / "reports")
    assert (zoo, notebooks) == (f"{package}/shipped/zoo", f"{package}/shipped/notebooks")
    places = {
        f"DTFN_{name}": str(tmp_path / name) for name in ("DATA", "CACHE", "WEIGHTS", "REPORTS")
    }
    assert dtfn(code, **home, **places).stdout.splitlines()[:4] == list(places.values())


def test_import_is_quick_and_shows_the_modules() -> None:
    code = (
        "import time; began = time.perf_counter(); import dtfn; "
        "assert time.perf_counter() - began < 0.3; "
        "import sys; assert not {'numpy', 'torch'} & set(sys.modules); "
        "assert {'images', 'models', 'evaluation', 'subpixel'} <= set(dir(dtfn)); "
        "print(dtfn.images.SCALES); dtfn.nothing"
    )
    done = dtfn(code)
    assert done.stdout == "(2, 3, 4)\n"
    assert "AttributeError: module 'dtfn' has no attribute 'nothing'" in done.stderr
