"""Pictures come over a real connection, from servers that do what servers do."""

import contextlib
import dataclasses
import hashlib
import io
import json
import pickle
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import pillow, refused, said

from dtfn import datasets, download, patches, paths, recipes
from dtfn.download import Listed, Source, catalogue, chosen, verify

TERMS = "For tests only."
PATHS = ["/one/src/HR/a.png", "/two/src/HR/a.png"]


@dataclass
class Site:
    """A real HTTP server: files by path, and the fault of each request for one, in turn.

    ``"drop N"``: N bytes come. ``"hang"``: until `gate` is set. The last of a list lasts.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            site.asked.append(self.path)
            faults = site.faults.get(self.path, [""])
            kind, _, value = (faults.pop(0) if len(faults) > 1 else faults[0]).partition(" ")
            found = self.path in site.files and not kind.isdigit()
            body = site.files[self.path] if found else b""
            self.close_connection = kind in ("hang", "drop")
            if kind == "hang":
                site.gate.wait()
                return
            if kind == "tamper":
                body = body[:-1] + bytes([body[-1] ^ 1])
            self.send_response(200 if found else int(kind or 404))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body[: int(value)] if kind == "drop" else body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        site.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield site
        site.gate.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root of this test's own, and no patience."""
    monkeypatch.setenv("DTFN_DATA", str(tmp_path / "data"))
    for variable in ("DTFN_TRAIN", "HTTPS_PROXY", "HTTP_PROXY", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    monkeypatch.setattr("dtfn.download.time.sleep", lambda seconds: None)
    return tmp_path / "data"


def png(seed: int, size: int = 40, **options: Any) -> bytes:
    """A picture whose bytes are neither ours nor scikit-image's."""
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    return pillow(noise, **options)


def mirrors(site: Site) -> tuple[str, ...]:
    return f"{site.url}/one/{{path}}", f"{site.url}/two/{{path}}"


def tiny(site: Site, contents: dict[str, bytes], place: str = "data", **changes: Any) -> Source:
    """A set named Tiny, of which the site has two mirrors, /one and /two."""
    pictures = []
    for file, data in contents.items():
        site.files |= {f"/{mirror}/{Path('src') / file}": data for mirror in ("one", "two")}
        hashed = (data, Image.open(io.BytesIO(data)).tobytes())
        hashes = (hashlib.sha256(part).hexdigest() for part in hashed)
        pictures.append(Listed(file, len(data), *hashes))
    folders = {str(Path(file).parent): f"src/{Path(file).parent}" for file in contents}
    source = Source("Tiny", "", TERMS, place, "Tiny", mirrors(site), count=len(pictures))
    return dataclasses.replace(source, folders=folders, pictures=pictures, **changes)


def fetch(*sets: Source, yes: bool = True, **options: Any) -> int:
    return download.fetch(sets, lambda text, names: yes, **options)


def left(root: Path) -> set[str]:
    """Every file below a folder, hidden ones too, but no lock."""
    found = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
    return found - {".licences.json.lock"}


# --- what the catalogue says ---
def test_the_catalogue_is_complete_and_known_by_names_aliases_and_groups() -> None:
    counts = {source.name: source.count for source in chosen(["benchmarks", "training"])}
    benchmarks = {"Set5": 5 * 4, "Set14": 14 * 4, "BSD100": 100, "Urban100": 100}
    training = {"T91": 91, "General100": 100, "BSD200": 200, "BSDS500_test200": 200}
    assert counts == benchmarks | training | {"DIV2K_valid_crop256": 100}
    for source in catalogue().values():
        assert source.terms
        assert sum(map(bool, (source.pictures, source.archive, source.by_hand))) == 1
        for item in source.pictures or filter(None, [source.archive]):
            assert len(bytes.fromhex(item.sha256)) == 32
            assert len(bytes.fromhex(item.pixels)) == (0 if source.archive else 32)
            assert item.bytes > 0
            assert all(url.startswith("https://") for url in source.addresses(item))
    names = [source.name for source in chosen(["B100", "Set5", "benchmarks"])]
    assert names == ["BSD100", "Set5", "Set14", "Urban100"]
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(recipes.Recipe)}
    chosen([*defaults["sets"], defaults["validation"], *datasets.BENCHMARKS])
    # A mirror that a reader names comes first, then the source, then its copies.
    known = catalogue()
    (baby,) = (p for p in known["Set5"].pictures if p.file == "HR/baby.png")
    commit = "4d045d18592c5771cd3990da88f292812774e538"
    assert known["Set5"].addresses(baby, ["http://copy/x/"]) == [
        "http://copy/x/Set5/HR/baby.png",
        f"https://raw.githubusercontent.com/zhaohengyuan1/PAN/{commit}/datasets/Set5/HR/baby.png",
        f"https://cdn.jsdelivr.net/gh/zhaohengyuan1/PAN@{commit}/datasets/Set5/HR/baby.png",
        f"https://archive.softwareheritage.org/api/1/content/sha256:{baby.sha256}/raw/",
    ]
    div = known["DIV2K_train_HR"]
    assert div.archive
    first, *others = div.addresses(div.archive, ["http://c"])
    assert first == "http://c/DIV2K_train_HR.zip"
    assert others[0].startswith("https://data.vision.ee.ethz.ch/cvl/DIV2K/")


def test_real_benchmarks_are_as_listed(benchmarks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTFN_DATA", str(benchmarks))
    for source in chosen(["Set5", "Set14", "BSD100"]):
        assert list(verify(source)) == []


# --- what is fetched is what the suite reads ---
def test_the_suite_reads_what_was_fetched(site: Site, root: Path) -> None:
    hr, lr = png(0, 40), png(1, 20)
    test = tiny(site, {"HR/a.png": hr, "LR_bicubic/X2/ax2.png": lr})
    train = tiny(site, {"t.png": png(2)}, "train", name="Train", below="Train")
    val = tiny(site, {"v.png": png(3)}, "val", name="Val", below="Val")
    assert fetch(test, train, val) == 4
    (sample,) = datasets.benchmark("Tiny", 2)
    np.testing.assert_array_equal(sample.hr, np.array(Image.open(io.BytesIO(hr))))
    np.testing.assert_array_equal(sample.lr, np.array(Image.open(io.BytesIO(lr))))
    assert list(patches.sources(["Train"])) == ["Train/t"]
    assert list(patches.sources(["Val"], root=paths.validation_root())) == ["Val/v"]
    expected = {"Tiny/HR/a.png", "Tiny/LR_bicubic/X2/ax2.png", "train/Train/t.png", "val/Val/v.png"}
    assert left(root) == expected | {"licences.json"}
    assert (root / "Tiny/HR/a.png").stat().st_mode & 0o777 == 0o644
    assert all(list(verify(source)) == [] for source in (test, train, val))
    assert fetch(test, train, val) == 0
    assert len(site.asked) == 4


def test_training_sets_stay_where_they_are(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.training_root() == root / "train"
    (root.parent / "train" / "run1").mkdir(parents=True)
    assert paths.training_root() == root / "train", "somebody's folder for something else"
    (root.parent / "train" / "T91").mkdir()
    assert paths.training_root() == root.parent / "train"
    assert paths.validation_root() == root.parent / "val"
    (root / "train").mkdir(parents=True)
    assert paths.training_root() == root / "train"
    monkeypatch.setenv("DTFN_TRAIN", str(root / "elsewhere" / "t"))
    assert paths.validation_root() == root / "elsewhere" / "val"


# --- servers that misbehave ---
FAULTS = {"404": "HTTPError: 404", "503": "HTTPError: 503", "hang": "ReadTimeout"}
FAULTS |= {"tamper": "ValueError: SHA256 hash of downloaded", "drop 9": "ChunkedEncodingError"}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_mirrors_are_asked_twice(site: Site, root: Path, fault: str) -> None:
    source = tiny(site, {"HR/a.png": png(0)})
    site.faults |= {path: [fault] for path in PATHS}
    words = f"^Tiny/HR/a.png: expected .*; found 4 failures at 2 mirrors, the last: {FAULTS[fault]}"
    refused(words, fetch, source)
    assert site.asked == PATHS * 2
    assert left(root) == {"licences.json"}
    site.faults[PATHS[0]] = [fault, ""]  # a hiccup
    fetch(source)
    assert list(verify(source)) == []
    assert site.asked == PATHS * 3 + PATHS[:1]


def test_the_first_failure_ends_all_and_whole_files_stay(site: Site, root: Path) -> None:
    source = tiny(site, {f"{i:02d}.png": png(i) for i in range(40)})
    site.faults |= {f"/{mirror}/src/03.png": ["404"] for mirror in ("one", "two")}
    refused(r"03\.png", fetch, source, jobs=2)
    there = len(left(root / "Tiny"))
    assert there < 39, "the failure did not end the rest"
    site.faults.clear()
    assert fetch(source) == 40 - there
    assert list(verify(source)) == []


SCRIPT = """import pickle, sys
from dtfn import download
download.fetch(pickle.load(sys.stdin.buffer), lambda text, names: True)
"""


def test_an_interrupt_is_clean(site: Site, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    contents = {f"{i:02d}.png": png(i) for i in range(20)}
    source = tiny(site, contents)
    site.faults |= {f"/one/src/{file}": ["hang"] for file in list(contents)[10:]}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(pickle.dumps([source]))
    process.stdin.close()
    while len(site.asked) < 18:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    site.gate.set()
    process.wait(30)
    assert "KeyboardInterrupt" in capfd.readouterr().err
    assert {f"{i:02d}.png" for i in range(10)} <= left(root / "Tiny") < set(contents)
    for file in left(root / "Tiny"):
        assert (root / "Tiny" / file).read_bytes() == contents[file]


# --- archives ---
def test_an_archive_is_unpacked_whole_or_not_at_all(site: Site, root: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("README.txt", "hello")
        for number in range(3):
            file.writestr(f"Div/X2/{number}.png", png(number, 100))
    data = buffer.getvalue()
    site.files |= {"/one/div.zip": data, "/two/div.zip": data}
    archive = Listed("div.zip", len(data), hashlib.sha256(data).hexdigest())
    source = Source("Div", "", TERMS, "train", "Div/X2", mirrors(site), archive=archive, count=3)
    site.faults |= {"/one/div.zip": ["404"], "/two/div.zip": ["drop 9000"]}
    refused(r"Div/div\.zip: expected", fetch, source)
    assert left(root) == {"licences.json"}
    assert source.state == "missing"
    site.faults["/two/div.zip"] = [""]
    assert fetch(source) == 1
    pictures = {f"train/Div/X2/{number}.png" for number in range(3)}
    assert left(root) == {*pictures, "licences.json"}
    assert (source.folder / "1.png").read_bytes() == png(1, 100)
    assert fetch(source) == 0
    refused("only the archive was checked", list, verify(source))
    (source.folder / "1.png").unlink()
    refused("expected all pictures of the set, or none; found 2 of 3", fetch, source)


# --- what is here already, terms, the disk ---
def test_what_is_here_is_not_overwritten_and_each_fault_is_named(site: Site, root: Path) -> None:
    contents = {f"HR/{name}.png": png(i) for i, name in enumerate("abcde")}
    source = tiny(site, contents)
    folder = root / "Tiny" / "HR"
    folder.mkdir(parents=True)
    same_pixels = png(0, compress_level=1)
    assert same_pixels != contents["HR/a.png"]
    (folder / "a.png").write_bytes(same_pixels)
    assert fetch(source) == 4
    assert (folder / "a.png").read_bytes() == same_pixels
    assert list(verify(source)) == []
    (folder / "a.png").write_bytes(same_pixels[:-200])
    (folder / "b.png").write_bytes(contents["HR/c.png"])
    (folder / "d.png").unlink()
    (folder / "more.png").write_bytes(png(9))
    wrong = source.pictures[4]._replace(pixels="0" * 64)
    source = dataclasses.replace(source, pictures=[*source.pictures[:4], wrong])
    assert {file.name: fault.partition(" (")[0] for file, fault in verify(source)} == {
        **{"a.png": "no picture", "b.png": "another picture", "d.png": "missing"},
        "e.png": "the right file, but this machine decodes other pixels",
        "more.png": "does not belong to the set",
    }
    assert source.state == "4 of 5", "by name alone"


def test_terms_are_asked_once_and_again_when_they_change(site: Site, root: Path) -> None:
    source = tiny(site, {"a.png": png(0)})
    refused(f"Tiny: .*--yes.*{TERMS}", fetch, source, yes=False)
    assert not site.asked
    assert left(root) == set()
    fetch(source)
    (root / "Tiny/a.png").unlink()
    assert fetch(source, yes=False) == 1, "accepted already"
    (root / "Tiny/a.png").unlink()
    refused("Other terms", fetch, dataclasses.replace(source, terms="Other terms"), yes=False)


# --- the commands ---
def test_refusals(root: Path) -> None:
    for command, words in {
        "fetch Set55": "did you mean 'Set5'?",
        "fetch Set5 Manga109": "apply at http://www.manga109.org",
        "fetch Set5": "add --yes",
        "verify Set5": "run `dtfn data fetch Set5`",
        "verify": "found none",
    }.items():
        assert words in said("data", *command.split(), code=2).splitlines()[-1]
    rows = json.loads(said("data", "list", "--json"))
    assert {row["name"]: row["state"] for row in rows} == dict.fromkeys(catalogue(), "missing")
    assert catalogue()["Set5"].terms in said("data", "list")
    assert not root.exists(), "looking writes nothing"


def test_a_colleagues_folder_is_a_mirror(benchmarks: Path, site: Site, root: Path) -> None:
    """The whole way with the real Set5: command, mirror, hashes, evaluation, verification."""
    for file in (benchmarks / "Set5").rglob("*.png"):
        site.files[f"/{file.relative_to(benchmarks)}"] = file.read_bytes()
    fetched = said("data", "fetch", "Set5", "--yes", "--mirror", site.url)
    assert fetched.endswith("Set5: 20 files ok\n")
    assert datasets.names("Set5") == ["baby", "bird", "butterfly", "head", "woman"]
    (root / "Set5/HR/baby.png").write_bytes(b"<html>")
    for command in (("verify",), ("fetch", "Set5")):
        assert "baby.png: no picture" in said("data", *command, code=2)
