"""Pictures come over a real connection, from servers that do what servers do."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from loopback import Site, serving
from PIL import Image

from dtfn import cli, datasets, download, patches, paths, recipes
from dtfn.download import Listed, Source, catalogue, chosen, verify
from dtfn.errors import InputError

TERMS = "For tests only."
PATH = "/one/src/HR/a.png"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root of this test's own, and no patience."""
    monkeypatch.setenv("DTFN_DATA", str(tmp_path / "data"))
    for variable in ("DTFN_TRAIN", "HTTPS_PROXY", "HTTP_PROXY", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PATIENCE", (2.0, 0.3))
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
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


def listed(file: str, data: bytes, pixels: bytes) -> Listed:
    return Listed(file, len(data), *(hashlib.sha256(part).hexdigest() for part in (data, pixels)))


def tiny(site: Site, contents: dict[str, bytes], place: str = "data", **changes: Any) -> Source:
    """A set named Tiny, of which the site has two mirrors, /one and /two."""
    folders = {str(Path(file).parent): f"src/{Path(file).parent}" for file in contents}
    for file, data in contents.items():
        for mirror in ("one", "two"):
            site.files[f"/{mirror}/{Path('src') / file}"] = data
    urls = (f"{site.url}/one/{{path}}", f"{site.url}/two/{{path}}")
    pictures = tuple(
        listed(file, data, Image.open(io.BytesIO(data)).tobytes())
        for file, data in contents.items()
    )
    names = {"name": "Tiny", "below": "Tiny"} | changes
    return Source(
        about="",
        terms=TERMS,
        place=place,
        urls=urls,
        folders=folders,
        pictures=pictures,
        **{"count": len(pictures), **names},
    )


def zipped(site: Site, count: int = 3) -> Source:
    """A set whose archive the site has at /one and /two."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("DIV/README.txt", "hello")
        for place in ("DIV/HR/0.png", "../../1.png", "/etc/2.PNG"):
            file.writestr(place, png(int(Path(place).stem), 100))
    data = buffer.getvalue()
    site.files["/one/div.zip"] = site.files["/two/div.zip"] = data
    archive = dataclasses.replace(listed("div.zip", data, b""), pixels="")
    urls = (f"{site.url}/one/{{path}}", f"{site.url}/two/{{path}}")
    return Source("Div", "", TERMS, "train", "Div", urls, archive=archive, count=count)


def fetch(*sets: Source, yes: bool = True, **options: Any) -> int:
    return download.fetch(sets, lambda text, names: yes, **options)


def left(root: Path) -> set[str]:
    """Every file below a folder, hidden ones too."""
    return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}


# --- what the catalogue says


def test_every_address_is_of_a_pinned_commit_or_a_known_archive() -> None:
    known = catalogue()
    (baby,) = (p for p in known["Set5"].pictures if p.file == "HR/baby.png")
    commit = "4d045d18592c5771cd3990da88f292812774e538"
    assert known["Set5"].addresses(baby, ["http://copy/x/"]) == [
        "http://copy/x/Set5/HR/baby.png",
        f"https://raw.githubusercontent.com/zhaohengyuan1/PAN/{commit}/datasets/Set5/HR/baby.png",
        f"https://cdn.jsdelivr.net/gh/zhaohengyuan1/PAN@{commit}/datasets/Set5/HR/baby.png",
        f"https://archive.softwareheritage.org/api/1/content/sha256:{baby.sha256}/raw/",
    ]
    t1 = known["T91"].pictures[0]
    assert "/dataset/train/" in known["T91"].addresses(t1)[0]
    assert known["T91"].addresses(t1, ["http://c"])[0] == f"http://c/train/T91/{t1.file}"
    div = known["DIV2K_train_HR"]
    assert div.archive
    assert div.addresses(div.archive) == [
        "https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_train_HR.zip",
        "https://huggingface.co/datasets/goodfellowliu/DIV2K/resolve/main/DIV2K_train_HR.zip",
    ]


def test_the_catalogue_is_complete() -> None:
    assert {source.name: source.count for source in chosen(["benchmarks", "training"])} == {
        "Set5": 5 * 4,
        "Set14": 14 * 4,
        "BSD100": 100,
        "Urban100": 100,
        "T91": 91,
        "General100": 100,
        "BSD200": 200,
        "BSDS500_test200": 200,
        "DIV2K_valid_crop256": 100,
    }
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
    names = [source.name for source in chosen(["B100", "Set5", "benchmarks"])]
    assert names == ["BSD100", "Set5", "Set14", "Urban100"]
    with pytest.raises(InputError, match="did you mean 'Urban100'"):
        chosen(["Set5", "urban10"])
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(recipes.Recipe)}
    chosen([*defaults["sets"], defaults["validation"], *datasets.BENCHMARKS])


def test_the_real_benchmarks_are_as_listed(
    benchmarks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DTFN_DATA", str(benchmarks))
    for source in chosen(["Set5", "Set14", "BSD100"]):
        assert list(verify(source)) == []


# --- what is fetched is what the suite reads


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
    assert [f.name for f in patches.files(paths.validation_root() / "Val")] == ["v.png"]
    assert left(root) == {
        "Tiny/HR/a.png",
        "Tiny/LR_bicubic/X2/ax2.png",
        "train/Train/t.png",
        "val/Val/v.png",
        "licences.json",
        "train/licences.json",
        "val/licences.json",
    }
    assert all(list(verify(source)) == [] for source in (test, train, val))
    before = len(site.asked)
    assert fetch(test, train, val) == 0
    assert len(site.asked) == before


def test_training_sets_stay_next_to_benchmarks_where_they_are_already(
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


@pytest.mark.parametrize(
    "faults",
    [
        ["drop 9000", ""],
        ["drop 9000", "no ranges"],
        ["drop 0", ""],
        ["503", "429", ""],
        ["to /elsewhere.png"],
        ["hang", ""],
        ["short stream", ""],
        ["tamper", ""],
    ],
)
def test_a_mirror_with_a_hiccup_is_enough(site: Site, root: Path, faults: list[str]) -> None:
    data = png(0, 300)
    source = tiny(site, {"HR/a.png": data})
    site.files["/elsewhere.png"] = data
    site.faults[PATH] = faults
    fetch(source)
    assert (root / "Tiny/HR/a.png").read_bytes() == data
    assert not any(path.startswith("/two") for path, _ in site.asked)
    assert left(root) == {"Tiny/HR/a.png", "licences.json"}


REFUSED = {
    "404": "404 Not Found",
    "500": "500 Internal Server Error",
    "page": "a web page instead of the file",
    "tamper": "other content: its SHA-256 differs",
    "short": "a file of ",
    "short stream": "other content",
    "long stream": "more than",
    "drop 0": "the connection was cut again and again",
    "hang": "no answer",
    f"to {PATH}": "Exceeded 30 redirects",
    "to http://127.0.0.1:9/x": "no connection",
    "to http://nowhere.invalid/x": "unknown host: no network, or no name server",
}


@pytest.mark.parametrize("fault", REFUSED)
def test_the_next_mirror_is_tried_and_then_the_reason_said(
    site: Site, root: Path, fault: str
) -> None:
    data = png(0)
    source = tiny(site, {"HR/a.png": data})
    site.faults[PATH] = site.faults[PATH.replace("one", "two")] = [fault]
    with pytest.raises(InputError) as caught:
        fetch(source)
    assert str(caught.value).count(REFUSED[fault]) == 2
    assert "Tiny-HR-a.png: expected" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left(root) == {"licences.json"}
    site.faults[PATH.replace("one", "two")] = []
    fetch(source)
    assert (root / "Tiny/HR/a.png").read_bytes() == data
    assert left(root) == {"Tiny/HR/a.png", "licences.json"}


def test_proxy_and_certificates_are_named(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = dataclasses.replace(tiny(site, {"a.png": png(0)}), urls=("https://127.0.0.2:9/x",))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(root / "gone.pem"))
    with pytest.raises(InputError, match=r"^REQUESTS_CA_BUNDLE: .*found no .*gone\.pem"):
        fetch(source)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"the proxy does not answer \(HTTPS_PROXY"):
        fetch(source)
    monkeypatch.delenv("HTTPS_PROXY")
    speaks_no_tls = site.url.replace("http", "https").replace("127.0.0.1", "localhost")
    with pytest.raises(InputError, match="its certificate is not accepted"):
        fetch(dataclasses.replace(source, urls=(f"{speaks_no_tls}/x",)))


def test_a_host_that_does_not_answer_is_asked_last_from_then_on(site: Site, root: Path) -> None:
    made = tiny(site, {f"{i}.png": png(i) for i in range(6)})
    source = dataclasses.replace(made, urls=(f"{site.url}/dead", f"{made.urls[0]}"))
    site.files["/dead"] = b""
    site.faults["/dead"] = ["hang"]
    site.url = site.url.replace("127.0.0.1", "localhost")  # another host for the mirror
    source = dataclasses.replace(source, urls=(source.urls[0], f"{site.url}/one/{{path}}"))
    fetch(source, jobs=1)
    assert sum(path == "/dead" for path, _ in site.asked) == 1 + download.RETRIES
    assert source.state == "present"


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


# --- archives, and ends in the middle


def test_an_archive_is_unpacked_flat_recorded_and_verified(site: Site, root: Path) -> None:
    source = zipped(site)
    assert source.state == "missing"
    fetch(source)
    folder = root / "train" / "Div"
    assert left(root) == {
        *(f"train/Div/{name}" for name in ("0.png", "1.png", "2.PNG", download.RECORD)),
        "train/licences.json",
    }
    assert (folder / "1.png").read_bytes() == png(1, 100)
    assert list(verify(source)) == []
    assert fetch(source) == 0
    (folder / "1.png").write_bytes(png(7, 100))
    assert [file.name for file, _ in verify(source)] == ["1.png"]


SCRIPT = """
import pickle, sys
from dtfn import download
download.fetch(pickle.load(sys.stdin.buffer), lambda text, names: True)
"""


def fetching_process(source: Source) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(pickle.dumps([source]))
    process.stdin.close()
    return process


def wait_for(condition: Any, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_download_goes_on_where_it_was(site: Site, root: Path) -> None:
    source = zipped(site)
    assert source.archive
    size = source.archive.bytes
    site.faults["/one/div.zip"] = [f"gate {size - 5000}", ""]
    process = fetching_process(source)
    part = root / "train" / download.STAGING / "Div-div.zip.part"
    wait_for(lambda: part.exists() and part.stat().st_size > size // 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    site.gate.set()
    kept = part.stat().st_size
    assert 0 < kept < size
    site.asked.clear()
    fetch(source)
    assert site.asked == [("/one/div.zip", f"bytes={kept}-")]
    assert list(verify(source)) == []
    assert not part.parent.exists(), "what the killed process left is cleared away"


def test_an_interrupt_ends_all_downloads_at_once(
    site: Site, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    contents = {f"{i:02d}.png": png(i) for i in range(20)}
    source = tiny(site, contents)
    for file in list(contents)[10:]:
        site.faults[f"/one/src/{file}"] = ["gate 10"]
    process = fetching_process(source)
    wait_for(lambda: len(site.asked) >= 18, process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    site.gate.set()
    process.wait(30)
    assert "KeyboardInterrupt" in capfd.readouterr().err
    there = left(root / "Tiny")
    assert there <= set(contents)
    assert all((root / "Tiny" / file).read_bytes() == contents[file] for file in there)
    fetch(source)
    assert source.state == "present"


@pytest.mark.parametrize("fault", ["page", "wrong range", "short", "404"])
def test_a_wrong_answer_does_not_spoil_the_part_that_is_here(
    site: Site, root: Path, fault: str
) -> None:
    source = zipped(site)
    assert source.archive
    part = root / "train" / download.STAGING / "Div-div.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(site.files["/one/div.zip"][:8192])
    site.faults["/one/div.zip"] = site.faults["/two/div.zip"] = [fault]
    with pytest.raises(InputError, match="go on after the 8192 bytes that are here"):
        fetch(source)
    site.faults.clear()
    site.asked.clear()  # not the bytes sent: the server may still count those of the refused answer
    fetch(source)
    assert [asked for _, asked in site.asked] == ["bytes=8192-"]


def test_a_kept_part_that_is_wrong_costs_a_second_download_only(site: Site, root: Path) -> None:
    source = zipped(site)
    part = root / "train" / download.STAGING / "Div-div.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    fetch(source)
    assert [asked for _, asked in site.asked] == ["bytes=1000-", ""]
    assert list(verify(source)) == []


def test_an_archive_with_other_contents_leaves_no_folder(site: Site, root: Path) -> None:
    with pytest.raises(InputError, match="expected 4 pictures; found 3"):
        fetch(zipped(site, count=4))
    assert left(root) == {"train/licences.json"}


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
    assert source.state == "present, unchecked"
    with pytest.raises(InputError, match="unknown origin"):
        list(verify(source))
    assert not site.asked


# --- what is here already, terms, the disk


def test_nothing_that_is_here_is_overwritten(site: Site, root: Path) -> None:
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
    with pytest.raises(InputError, match=r"b\.png: .*found b\.bmp in its place"):
        fetch(source)


def test_verify_names_each_kind_of_fault(site: Site, root: Path) -> None:
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
    assert source.state == "4 of 5", "by name alone"


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
    assert (root / "licences.json.broken").exists()


def test_a_folder_that_cannot_be_written_and_a_full_disk_are_kept_apart(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, huge = tiny(site, {"a.png": png(0)}), zipped(site)
    assert huge.archive
    archive = dataclasses.replace(huge.archive, bytes=10**17)
    with pytest.raises(InputError, match=r"expected 200000000\.00 GB of room"):
        fetch(dataclasses.replace(huge, archive=archive))
    assert not site.asked
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(InputError, match=r"found File too large; .* set DTFN_DATA"):
            fetch(source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    root.parent.joinpath("file").write_text("")
    monkeypatch.setenv("DTFN_DATA", str(root.parent / "file"))
    with pytest.raises(InputError, match="a place that can be written; found Not a directory"):
        fetch(source)


def test_two_fetches_do_not_write_at_once(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny(site, {"a.png": png(0)})
    site.faults["/one/src/a.png"] = ["gate 10"]
    monkeypatch.setattr(download, "PATIENCE", (2.0, 30.0))
    first = Thread(target=fetch, args=(source,))
    first.start()
    while not site.asked:
        time.sleep(0.01)
    with pytest.raises(InputError, match="another one at work"):
        fetch(source)
    site.gate.set()
    first.join()
    assert source.state == "present"


# --- the commands


def dtfn(*arguments: str) -> int:
    """Run ``dtfn data`` in this process and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", *arguments])
    return int(ended.value.code or 0)


def test_list_shows_what_is_here(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dtfn("list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(catalogue())
    assert {row["state"] for row in rows} == {"missing"}
    assert dtfn("list") == 0
    shown = capsys.readouterr().out
    assert "apply at http://www.manga109.org/en/" in shown
    assert "benchmarks (Set5, Set14, BSD100, Urban100)" in shown
    assert all(source.terms in shown for source in catalogue().values())
    assert not root.exists(), "looking writes nothing"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fetch", "Set55"), "did you mean 'Set5'?"),
        (("fetch", "Set5", "Manga109"), "apply at http://www.manga109.org"),
        (("fetch", "Set5"), "add --yes"),
        (("verify", "Set5"), "run `dtfn data fetch Set5`"),
        (("verify",), "found none"),
    ],
)
def test_what_cannot_be_is_one_line(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert dtfn(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not root.exists() or left(root) == set()


def test_a_colleagues_folder_is_a_mirror(
    benchmarks: Path, site: Site, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way with the real Set5: command, mirror, hashes, evaluation, verification."""
    for file in (benchmarks / "Set5").rglob("*.png"):
        site.files[f"/{file.relative_to(benchmarks)}"] = file.read_bytes()
    assert dtfn("fetch", "Set5", "--yes", "--mirror", site.url) == 0
    assert "No licence is stated" in capsys.readouterr().out
    assert datasets.names("Set5") == ["baby", "bird", "butterfly", "head", "woman"]
    assert dtfn("verify") == 0
    assert capsys.readouterr().out == "Set5: 20 files ok\n"
    (root / "Set5/HR/baby.png").write_bytes(b"<html>")
    assert dtfn("verify", "Set5") == 2
    assert "baby.png: no picture" in capsys.readouterr().out
