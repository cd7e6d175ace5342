"""Pictures come over a real connection, from servers that do what servers do."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from loopback import Site, serving
from PIL import Image

from dtfn import cli, datasets, patches, paths, recipes
from dtfn.download import Downloads, archives, fetching
from dtfn.download.collection import state, verify
from dtfn.download.sources import Archive, Picture, Source, catalogue, chosen
from dtfn.download.transfer import Patience, Wanted
from dtfn.errors import InputError

HASTY = Patience(tries=3, pause=0.001, connect=2.0, silence=0.3)
TERMS = "For tests only."


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root of this test's own."""
    monkeypatch.setenv("DTFN_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("DTFN_TRAIN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "data"


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as it:
        yield it


def png(seed: int, size: int = 40, **options: Any) -> bytes:
    """A picture whose bytes are neither ours nor scikit-image's."""
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG", **options)
    return buffer.getvalue()


def picture(file: str, data: bytes) -> Picture:
    pixels = Image.open(io.BytesIO(data)).tobytes()
    hashes = (hashlib.sha256(part).hexdigest() for part in (data, pixels))
    return Picture(file, len(data), *hashes)


def tiny(site: Site, contents: dict[str, bytes], place: str = "data", **changes: Any) -> Source:
    """A set named Tiny, of which the site has two mirrors, /one and /two."""
    folders = {str(Path(file).parent): f"src/{Path(file).parent}" for file in contents}
    for file, data in contents.items():
        for mirror in ("one", "two"):
            site.files[f"/{mirror}/{Path('src') / file}"] = data
    urls = (f"{site.url}/one/{{path}}", f"{site.url}/two/{{path}}")
    pictures = tuple(picture(file, data) for file, data in contents.items())
    made = Source("Tiny", "", TERMS, place, "Tiny", urls, folders=folders, pictures=pictures)
    return dataclasses.replace(made, **changes)


def zipped(site: Site, count: int = 3, **changes: Any) -> Source:
    """A set whose archive the site has at /one and /two."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("DIV/README.txt", "hello")
        for i in range(3):
            file.writestr(f"DIV/HR/{i}.png", png(i, 100))
    data = buffer.getvalue()
    site.files["/one/div.zip"] = site.files["/two/div.zip"] = data
    archive = Archive("div.zip", len(data), hashlib.sha256(data).hexdigest(), count)
    urls = (f"{site.url}/one/{{path}}", f"{site.url}/two/{{path}}")
    made = Source("Div", "", TERMS, "train", "Div", urls, archive=archive)
    return dataclasses.replace(made, **changes)


def fetch(*sets: Source, yes: bool = True, **options: Any) -> int:
    return fetching.fetch(sets, lambda text, names: yes, patience=HASTY, **options)


def left(root: Path) -> set[str]:
    """Every file below a folder, hidden ones too."""
    return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}


# --- what the catalogue says


def test_every_address_is_of_a_pinned_commit_or_a_known_archive() -> None:
    known = catalogue()
    (baby,) = (p for p in known["Set5"].pictures if p.file == "HR/baby.png")
    commit = "4d045d18592c5771cd3990da88f292812774e538"
    assert known["Set5"].addresses(baby, ["http://copy/x/"]) == (
        "http://copy/x/Set5/HR/baby.png",
        f"https://raw.githubusercontent.com/zhaohengyuan1/PAN/{commit}/datasets/Set5/HR/baby.png",
        f"https://cdn.jsdelivr.net/gh/zhaohengyuan1/PAN@{commit}/datasets/Set5/HR/baby.png",
        f"https://archive.softwareheritage.org/api/1/content/sha256:{baby.sha256}/raw/",
    )
    t1 = known["T91"].pictures[0]
    assert "/dataset/train/" in known["T91"].addresses(t1)[0]
    assert known["T91"].addresses(t1, ["http://c"])[0] == f"http://c/train/T91/{t1.file}"
    div = known["DIV2K_train_HR"]
    assert div.archive
    assert div.addresses(div.archive) == (
        "https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_train_HR.zip",
        "https://huggingface.co/datasets/goodfellowliu/DIV2K/resolve/main/DIV2K_train_HR.zip",
    )


def test_the_catalogue_is_complete() -> None:
    counts = {
        source.name: source.count for source in chosen(["benchmarks", "training"], catalogue())
    }
    assert counts == {
        "Set5": 5 * 4, "Set14": 14 * 4, "BSD100": 100, "Urban100": 100, "T91": 91,
        "General100": 100, "BSD200": 200, "BSDS500_test200": 200, "DIV2K_valid_crop256": 100,
    }  # fmt: skip
    for source in catalogue().values():
        assert source.terms
        assert sum(map(bool, (source.pictures, source.archive, source.by_hand))) == 1
        for item in source.pictures or filter(None, [source.archive]):
            assert len(bytes.fromhex(item.sha256)) == 32
            assert item.bytes > 0
            assert all(url.startswith("https://") for url in source.addresses(item))
        for item in source.pictures:
            assert len(bytes.fromhex(item.pixels)) == 32
            assert len(source.commit) == 40


def test_names_aliases_groups_and_the_nearest_name() -> None:
    names = [source.name for source in chosen(["B100", "Set5", "benchmarks"], catalogue())]
    assert names == ["BSD100", "Set5", "Set14", "Urban100"]
    with pytest.raises(InputError, match="did you mean 'Urban100'"):
        chosen(["Set5", "urban10"], catalogue())


def test_all_that_the_recipes_and_the_error_messages_name_can_be_fetched() -> None:
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(recipes.Recipe)}
    chosen([*defaults["sets"], defaults["validation"], *datasets._FETCHED], catalogue())


def test_the_real_benchmarks_are_as_listed(
    benchmarks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DTFN_DATA", str(benchmarks))
    for source in chosen(["Set5", "Set14", "BSD100"], catalogue()):
        assert list(verify(source)) == []


# --- what is fetched is what the suite reads


@pytest.mark.parametrize("by_environment", [True, False])
def test_the_suite_reads_what_was_fetched(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    if not by_environment:
        monkeypatch.delenv("DTFN_DATA")
        monkeypatch.setattr(paths, "ROOT", root.parent)
    hr, lr = png(0, 40), png(1, 20)
    test = tiny(site, {"HR/a.png": hr, "LR_bicubic/X2/ax2.png": lr})
    train = tiny(site, {"t.png": png(2)}, "train", name="Train", below="Train")
    val = tiny(site, {"v.png": png(3)}, "val", name="Val", below="Val")
    assert fetch(test, train, val) == 4
    (sample,) = datasets.benchmark("Tiny", 2)
    np.testing.assert_array_equal(sample.hr, np.array(Image.open(io.BytesIO(hr))))
    np.testing.assert_array_equal(sample.lr, np.array(Image.open(io.BytesIO(lr))))
    assert list(patches.sources(["Train"])) == ["Train/t"]
    assert [f.name for f in patches.files(paths.training_root().parent / "val" / "Val")] == [
        "v.png"
    ]
    assert left(root) == {
        "Tiny/HR/a.png", "Tiny/LR_bicubic/X2/ax2.png", "train/Train/t.png", "val/Val/v.png",
        "licences.json", "train/licences.json", "val/licences.json",
    }  # fmt: skip
    assert all(list(verify(source)) == [] for source in (test, train, val))
    before = len(site.asked)
    assert fetch(test, train, val) == 0
    assert len(site.asked) == before


def test_training_sets_stay_beside_benchmarks_where_they_are_already(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


# --- servers that misbehave

PATH = "/one/src/HR/a.png"
CHUNK = 8192  # a part of a chunk is lost when the connection is cut


@pytest.mark.parametrize(
    ("faults", "requests"),
    [
        (["drop 9000", ""], [(PATH, ""), (PATH, f"bytes={CHUNK}-")]),
        (["drop 9000"], [(PATH, ""), *((PATH, f"bytes={i * CHUNK}-") for i in (1, 2, 3))]),
        (["drop 9000", "no ranges"], [(PATH, ""), (PATH, f"bytes={CHUNK}-")]),
        (["drop 0", ""], [(PATH, ""), (PATH, "")]),
        (["503", "429", ""], [(PATH, "")] * 3),
        (["to /elsewhere.png"], [(PATH, ""), ("/elsewhere.png", "")]),
        (["hang", ""], [(PATH, ""), (PATH, "")]),
        (["short stream", ""], None),
    ],
)
def test_a_mirror_with_a_hiccup_is_enough(
    site: Site, root: Path, faults: list[str], requests: list[tuple[str, str]] | None
) -> None:
    data = png(0, 100)
    assert 3 * CHUNK < len(data) < 3 * CHUNK + 9000
    source = tiny(site, {"HR/a.png": data})
    site.files["/elsewhere.png"] = data
    site.faults[PATH] = faults
    fetch(source)
    assert (root / "Tiny/HR/a.png").read_bytes() == data
    assert requests is None or site.asked == requests
    assert not any(path.startswith("/two") for path, _ in site.asked)
    assert left(root) == {"Tiny/HR/a.png", "licences.json"}


REFUSED = {
    "404": "404 Not Found",
    "403": "403 Forbidden",
    "500": "500 Internal Server Error",
    "page": "a web page instead of the file",
    "tamper": "other content: its SHA-256 differs",
    "short": "a file of ",
    "short stream": "then the end",
    "long stream": "more than",
    "drop 0": "the connection was cut again and again",
    "hang": "no answer",
    "to /two/page": "a web page",
    f"to {PATH}": "Exceeded 30 redirects",
    "to http://127.0.0.1:9/x": "no connection",
}


@pytest.mark.parametrize("fault", REFUSED)
def test_the_next_mirror_is_tried(site: Site, root: Path, fault: str) -> None:
    data = png(0)
    source = tiny(site, {"HR/a.png": data})
    site.faults[PATH] = [fault]
    site.files["/two/page"] = b"<html></html>"
    fetch(source)
    assert (root / "Tiny/HR/a.png").read_bytes() == data
    assert left(root) == {"Tiny/HR/a.png", "licences.json"}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_no_mirror_has_is_refused_and_nothing_stays(
    site: Site, root: Path, fault: str
) -> None:
    source = tiny(site, {"HR/a.png": png(0)})
    site.files["/two/page"] = b"<html></html>"
    site.faults[PATH] = [fault]
    site.faults[PATH.replace("one", "two")] = [fault]
    with pytest.raises(InputError) as caught:
        fetch(source)
    assert REFUSED[fault] in str(caught.value)
    assert "Tiny-HR-a.png: expected" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left(root) == {"licences.json"}


def test_a_host_that_does_not_answer_is_asked_last_from_then_on(site: Site, root: Path) -> None:
    made = tiny(site, {f"{i}.png": png(i) for i in range(6)})
    dead = "http://127.0.0.1:9"
    urls = (f"{dead}/{{path}}", f"{site.url}/one/{{path}}")
    started = time.monotonic()
    slow = dataclasses.replace(HASTY, pause=0.1)  # 0.6 s for each try of the dead host
    source = dataclasses.replace(made, urls=urls)
    fetching.fetch([source], lambda text, names: True, jobs=1, patience=slow)
    assert time.monotonic() - started < 2 * 0.6 + 1
    assert state(source).complete


def test_equal_pictures_under_two_names_both_arrive(site: Site, root: Path) -> None:
    """As T91's t36 and t65."""
    contents = {f"{i}.png": png(0) for i in range(12)}
    fetch(tiny(site, contents), jobs=12)
    assert left(root / "Tiny") == set(contents)


def test_the_first_failure_ends_all_and_whole_files_stay(site: Site, root: Path) -> None:
    contents = {f"{i:02d}.png": png(i) for i in range(40)}
    source = tiny(site, contents)
    for mirror in ("one", "two"):
        site.faults[f"/{mirror}/src/03.png"] = ["404"]
    with pytest.raises(InputError, match=r"03\.png"):
        fetch(source, jobs=2)
    there = left(root / "Tiny")
    assert there < set(contents)
    assert all((root / "Tiny" / file).read_bytes() == contents[file] for file in there)
    assert len(there) < 39, "the failure did not end the rest"
    site.faults.clear()
    assert fetch(source) == 40 - len(there)


@pytest.mark.parametrize("fault", ["", "drop 9000", "no ranges", "tamper", "page", "short"])
def test_progress_counts_what_stays(site: Site, root: Path, fault: str) -> None:
    source = tiny(site, {"HR/a.png": png(0, 100)})
    site.faults[PATH] = ["drop 9000", fault]
    item, amounts = source.pictures[0], list[int]()
    root.mkdir()
    wanted = Wanted("a", source.addresses(item), item.bytes, item.sha256)
    with Downloads(HASTY, amounts.append) as downloads:
        downloads.get(wanted, root)
    assert sum(amounts) == item.bytes


# --- archives


def test_an_archive_is_unpacked_recorded_and_verified(site: Site, root: Path) -> None:
    source = zipped(site)
    assert str(state(source)) == "missing"
    fetch(source)
    folder = root / "train" / "Div"
    assert left(root / "train") == {
        "Div/0.png", "Div/1.png", "Div/2.png", f"Div/{archives.RECORD}", "licences.json",
    }  # fmt: skip
    assert (folder / "1.png").read_bytes() == png(1, 100)
    assert [f.name for f in patches.files(folder)] == ["0.png", "1.png", "2.png"]
    assert list(verify(source)) == []
    assert fetch(source) == 0
    (folder / "1.png").write_bytes(png(7, 100))
    assert [file.name for file, _ in verify(source)] == ["1.png"]


SCRIPT = """
import pickle, sys
from dtfn.download import fetching
sets, patience = pickle.load(sys.stdin.buffer)
fetching.fetch(sets, lambda text, names: True, patience=patience)
"""


def fetching_process(source: Source, patience: Patience) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(pickle.dumps(([source], patience)))
    process.stdin.close()
    return process


def test_a_killed_download_of_an_archive_goes_on_where_it_was(site: Site, root: Path) -> None:
    source = zipped(site)
    assert source.archive
    size = source.archive.bytes
    site.faults["/one/div.zip"] = [f"gate {size // 2}", ""]
    process = fetching_process(source, Patience())
    partial_file = root / "train" / fetching.STAGING / "Div-div.zip.partial"
    deadline = time.monotonic() + 60
    while not partial_file.exists() or partial_file.stat().st_size < size // 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    site.gate.set()
    kept = partial_file.stat().st_size
    assert 0 < kept < size
    site.asked.clear()
    fetch(source)
    assert site.asked == [("/one/div.zip", f"bytes={kept}-")]
    assert list(verify(source)) == []
    assert not partial_file.parent.exists(), "what the killed process left is cleared away"


def test_an_interrupt_ends_all_downloads_at_once(
    site: Site, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    contents = {f"{i:02d}.png": png(i) for i in range(20)}
    source = tiny(site, contents)
    for file in list(contents)[10:]:
        site.faults[f"/one/src/{file}"] = ["503"]
    process = fetching_process(source, Patience(tries=99, pause=60.0))
    while len(site.asked) < 18:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.wait(30)
    assert "KeyboardInterrupt" in capfd.readouterr().err
    assert left(root) == {f"Tiny/{file}" for file in list(contents)[:10]} | {"licences.json"}


def test_a_kept_part_that_is_wrong_costs_a_second_download_only(site: Site, root: Path) -> None:
    source = zipped(site)
    staging = root / "train" / fetching.STAGING
    staging.mkdir(parents=True)
    (staging / "Div-div.zip.partial").write_bytes(b"x" * 1000)
    fetch(source)
    assert [asked for _, asked in site.asked] == ["bytes=1000-", ""]
    assert list(verify(source)) == []


@pytest.mark.parametrize("fault", ["page", "wrong range", "short", "404"])
def test_a_wrong_answer_does_not_spoil_the_part_that_is_there(
    site: Site, root: Path, fault: str
) -> None:
    source = zipped(site)
    assert source.archive
    site.faults["/one/div.zip"] = ["drop 9000", "404"]
    site.faults["/two/div.zip"] = [fault]
    with pytest.raises(InputError, match="goes on after the 8192 bytes that are here"):
        fetch(source)
    kept = root / "train" / fetching.STAGING / "Div-div.zip.partial"
    assert kept.read_bytes() == site.files["/one/div.zip"][:CHUNK]
    site.faults.clear()
    site.sent = 0
    fetch(source)
    assert site.sent == source.archive.bytes - CHUNK


def test_a_page_instead_of_an_archive_leaves_nothing(site: Site, root: Path) -> None:
    source = zipped(site)
    site.faults["/one/div.zip"] = site.faults["/two/div.zip"] = ["page"]
    with pytest.raises(InputError, match="a web page instead of the file"):
        fetch(source)
    site.faults["/one/div.zip"] = site.faults["/two/div.zip"] = ["tamper"]
    with pytest.raises(InputError, match="SHA-256 differs"):
        fetch(source)
    assert left(root) == {"train/licences.json"}


def test_an_archive_with_other_contents_leaves_no_folder(site: Site, root: Path) -> None:
    with pytest.raises(InputError, match="expected 4 pictures; found 3"):
        fetch(zipped(site, count=4))
    assert not (root / "train" / "Div").exists()


def test_no_path_in_an_archive_leads_out_of_its_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("../../evil.png", png(0))
        file.writestr("/etc/worse.png", png(1))
    archives.unpack(tmp_path / "x.zip", tmp_path / "a" / "b" / "set", 2)
    assert left(tmp_path) == {
        "x.zip", "a/b/set/evil.png", "a/b/set/worse.png", f"a/b/set/{archives.RECORD}",
    }  # fmt: skip


def test_pictures_that_somebody_unpacked_by_hand_are_left_alone(site: Site, root: Path) -> None:
    source = zipped(site)
    folder = root / "train" / "Div"
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(png(0))
    with pytest.raises(InputError, match="found 1 of 3 pictures"):
        fetch(source)
    for i in (1, 2):
        (folder / f"{i}.png").write_bytes(png(i))
    assert fetch(source) == 0
    assert str(state(source)) == "present, unchecked"
    with pytest.raises(InputError, match="unknown origin"):
        list(verify(source))
    assert not site.asked


# --- what is there already, terms, the disk


def test_nothing_that_is_there_is_overwritten(site: Site, root: Path) -> None:
    source = tiny(site, {"HR/a.png": png(0), "HR/b.png": png(1)})
    file = root / "Tiny/HR/a.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(png(0, compress_level=1))  # other bytes, same pixels
    assert file.read_bytes() != png(0)
    assert fetch(source) == 1
    assert file.read_bytes() == png(0, compress_level=1)
    assert list(verify(source)) == []

    (root / "Tiny/HR/b.png").write_bytes(png(5))
    with pytest.raises(InputError, match=r"b\.png: .*found another picture"):
        fetch(source)
    (root / "Tiny/HR/b.png").rename(root / "Tiny/HR/b.bmp")
    with pytest.raises(InputError, match=r"b\.png: .*found b\.bmp beside its place"):
        fetch(source)


def test_verify_tells_each_kind_of_fault(site: Site, root: Path) -> None:
    contents = {f"HR/{name}.png": png(i) for i, name in enumerate("abcde")}
    source = tiny(site, contents)
    fetch(source)
    folder = root / "Tiny" / "HR"
    (folder / "a.png").write_bytes(contents["HR/a.png"][:-200])
    (folder / "b.png").write_bytes(contents["HR/c.png"])
    (folder / "d.png").unlink()
    (folder / "more.png").write_bytes(png(9))
    wrong = dataclasses.replace(source.pictures[4], pixels="0" * 64)
    source = dataclasses.replace(source, pictures=(*source.pictures[:4], wrong))
    assert [(file.name, fault.partition(" (")[0]) for file, fault in verify(source)] == [
        ("a.png", "no picture"),
        ("b.png", "another picture"),
        ("d.png", "missing"),
        ("e.png", "the right file, but this machine decodes other pixels"),
        ("more.png", "does not belong to the set"),
    ]
    assert str(state(source)) == "4 of 5", "by name alone"


def test_terms_are_asked_once_and_again_when_they_change(site: Site, root: Path) -> None:
    source = tiny(site, {"a.png": png(0)})
    with pytest.raises(InputError, match=f"Tiny: .*--yes.*{TERMS}"):
        fetch(source, yes=False)
    assert not site.asked
    assert left(root) == set()
    fetch(source)
    (root / "Tiny/a.png").unlink()
    assert fetch(source, yes=False) == 1, "accepted already"
    (root / "Tiny/a.png").unlink()
    with pytest.raises(InputError, match="Other terms"):
        fetch(dataclasses.replace(source, terms="Other terms"), yes=False)
    (root / "licences.json").write_text("{damaged")
    with pytest.raises(InputError, match="terms"):
        fetch(source, yes=False)


def test_a_folder_that_cannot_be_written_is_one_line(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.parent.joinpath("file").write_text("")
    monkeypatch.setenv("DTFN_DATA", str(root.parent / "file"))
    with pytest.raises(InputError, match="a folder that can be written; found Not a directory"):
        fetch(tiny(site, {"a.png": png(0)}))
    assert not site.asked


def test_a_full_disk_is_told_before_the_download(site: Site, root: Path) -> None:
    source = zipped(site)
    assert source.archive
    huge = dataclasses.replace(source.archive, bytes=10**17)
    with pytest.raises(InputError, match=r"expected 200000000\.00 GB of room"):
        fetch(dataclasses.replace(source, archive=huge))
    assert not site.asked


def test_two_fetches_do_not_write_at_once(site: Site, root: Path) -> None:
    source = tiny(site, {"a.png": png(0)})
    site.faults["/one/src/a.png"] = ["gate 10"]
    patient = dataclasses.replace(HASTY, silence=30.0)
    first = Thread(
        target=fetching.fetch, args=([source], lambda t, n: True), kwargs={"patience": patient}
    )
    first.start()
    while not site.asked:
        time.sleep(0.01)
    with pytest.raises(InputError, match="another one at work"):
        fetch(source)
    site.gate.set()
    first.join()
    assert state(source).complete


# --- the commands


def dtfn(*arguments: str) -> int:
    """Run ``dtfn data`` in this process and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", *arguments])
    return int(ended.value.code or 0)


def test_list_tells_what_is_there(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dtfn("list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(catalogue())
    assert {row["state"] for row in rows} == {"missing"}
    assert dtfn("list") == 0
    shown = capsys.readouterr().out
    assert "apply at http://www.manga109.org/en/" in shown
    assert all(source.terms in shown for source in catalogue().values())
    assert not root.exists(), "looking writes nothing"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("fetch", "Set55"), "did you mean 'Set5'?"),
        (("fetch", "Set5", "Manga109"), "apply at http://www.manga109.org"),
        (("fetch", "Set5"), "add --yes"),
        (("verify", "Set5"), "run `dtfn data fetch Set5`"),
        (("verify",), "found none"),
    ],
)
def test_what_cannot_be_is_one_line(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    assert dtfn(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert not root.exists() or left(root) == set()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_colleagues_folder_is_a_mirror(
    benchmarks: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way with the real Set5: command, mirror, hashes, evaluation, verification."""
    command = [sys.executable, "-c", "from dtfn.cli import main; main()", "data", "fetch", "Set5"]
    handler = partial(Quiet, directory=str(benchmarks))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        done = subprocess.run(
            [*command, "--yes", "--mirror", address], capture_output=True, text=True
        )
        server.shutdown()
        thread.join()
    assert done.returncode == 0, done.stderr
    assert "No licence is stated" in done.stdout
    assert datasets.names("Set5") == ["baby", "bird", "butterfly", "head", "woman"]
    assert dtfn("verify") == 0
    assert capsys.readouterr().out == "Set5: 20 files ok\n"
    (root / "Set5/HR/baby.png").write_bytes(b"<html>")
    assert dtfn("verify", "Set5") == 2
    assert "baby.png: no picture" in capsys.readouterr().out
