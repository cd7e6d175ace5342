"""Sets of pictures: where they come from, on what terms, what is here, and how the rest gets here.

`resources/sources.toml` and `resources/pictures` list every file with its SHA-256. pooch downloads,
tries again and checks; what is here and right is never replaced.
"""

from __future__ import annotations

import csv
import datetime
import functools
import hashlib
import logging
import os
import shutil
import threading
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

import pooch
import requests
from filelock import FileLock, Timeout
from tqdm import tqdm

from dtfn import datasets, files, images, paths
from dtfn.errors import InputError, nearest

RETRIES = 2  # of each mirror, after 1 and 2 seconds
PATIENCE = (10.0, 60.0)  # seconds to wait for a connection, and for the next bytes
STAGING = ".partial"  # folder of unfinished files, in the folder that they will stay in
RECORD = ".pictures.csv"  # what was in an archive
LICENCES = "licences.json"  # accepted terms -> day

_CHUNK = 1 << 16
_CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_ROOTS = {"data": paths.data_root, "train": paths.training_root, "val": paths.validation_root}

Agree = Callable[[str, list[str]], bool]

pooch.get_logger().setLevel(logging.ERROR)  # it would announce every file


@dataclass(frozen=True)
class Listed:
    """A file to download: a picture of a set, or the archive of all of them.

    Attributes
    ----------
    file
        Below the set's folder, e.g. ``"HR/baby.png"``.
    bytes, sha256
        Of the file.
    pixels
        SHA-256 of the decoded samples, row by row (grey or RGB, 8 bits); empty where not known.
    """

    file: str
    bytes: int
    sha256: str
    pixels: str = ""


@dataclass(frozen=True, eq=False)
class Source:
    """A set of pictures: single files, or an archive, or one that each user applies for.

    Attributes
    ----------
    name, about, terms
        For the user; the terms are what is known of the licence, in one line.
    place, below
        ``"data"``, ``"train"`` or ``"val"``, and the folder below it.
    urls
        Templates, in the order to try: ``{repository}``, ``{commit}``, ``{path}``, ``{sha256}`` and
        ``{here}``, the path below a data folder.
    repository, commit, folders
        Where the single files lie; ``folders`` maps a folder of the set to one of the repository.
    pictures, archive, by_hand
        One of the three: the files, the archive, or what the user has to do.
    count
        Pictures; 0 if not known.
    groups, aliases
        Other words for it, together with others or alone.
    """

    name: str
    about: str
    terms: str
    place: str
    below: str
    urls: tuple[str, ...] = ()
    repository: str = ""
    commit: str = ""
    folders: Mapping[str, str] | None = None
    pictures: tuple[Listed, ...] = ()
    archive: Listed | None = None
    by_hand: str = ""
    count: int = 0
    groups: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        """The folder of its place, as the environment says now."""
        return _ROOTS[self.place]()

    @property
    def folder(self) -> Path:
        """The set's folder."""
        return self.root / self.below

    @property
    def bytes(self) -> int:
        """To download."""
        return self.archive.bytes if self.archive else sum(p.bytes for p in self.pictures)

    @property
    def contents(self) -> tuple[Listed, ...]:
        """The files of the set; of an archive, those that were in it when it was unpacked."""
        record = self.folder / RECORD
        if self.archive and record.is_file():
            return _table(record.read_text(encoding="utf-8"))
        return self.pictures

    @property
    def present(self) -> int:
        """How many pictures are here, by their names alone."""
        if self.contents:
            return sum((self.folder / listed.file).is_file() for listed in self.contents)
        return len(datasets.pictures(self.folder / "HR" if self.by_hand else self.folder))

    @property
    def state(self) -> str:
        """``"present"``, ``"present, unchecked"``, ``"3 of 5"`` or ``"missing"``."""
        if not self.present:
            return "missing"
        if self.present < self.count:
            return f"{self.present} of {self.count}"
        return "present" if self.contents else "present, unchecked"

    def addresses(self, listed: Listed, mirrors: Sequence[str] = ()) -> list[str]:
        """Return the URLs of a file in the order to try, copies of a data folder first."""
        path, here = listed.file, f"{self.below}/{listed.file}"
        if listed is self.archive:
            here = path
        else:
            folder, name = str(PurePosixPath(path).parent), PurePosixPath(path).name
            path = str(PurePosixPath((self.folders or {})[folder]) / name)
            here = here if self.place == "data" else f"{self.place}/{here}"
        facts = {"repository": self.repository, "commit": self.commit, "sha256": listed.sha256}
        templates = [f"{mirror.rstrip('/')}/{{here}}" for mirror in mirrors] + [*self.urls]
        return [t.format(path=quote(path), here=quote(here), **facts) for t in templates]


@functools.cache
def catalogue() -> dict[str, Source]:
    """Return every set by its name, in the order of the list that is shipped."""
    folder = paths.PACKAGE / "resources"
    table = tomllib.loads((folder / "sources.toml").read_text(encoding="utf-8"))
    sources = {}
    for name, row in table["sets"].items():
        if "archive" in row:
            row["count"] = row["archive"].pop("pictures")
            row |= {"archive": Listed(**row["archive"]), "urls": tuple(table["hosts"]["div2k"])}
        elif "by_hand" not in row:
            listed = _table((folder / "pictures" / f"{name}.csv").read_text(encoding="utf-8"))
            row |= {"pictures": listed, "count": len(listed), "urls": tuple(table["hosts"]["git"])}
        row |= {"terms": table["terms"][row["terms"]], "below": row.pop("folder", name)}
        row |= {key: tuple(row.get(key, ())) for key in ("groups", "aliases")}
        sources[name] = Source(name=name, **row)
    return sources


def _table(text: str) -> tuple[Listed, ...]:
    rows = csv.DictReader(text.splitlines())
    return tuple(Listed(r["file"], int(r["bytes"]), r["sha256"], r["pixels"]) for r in rows)


def chosen(names: Iterable[str]) -> list[Source]:
    """Return the sets that names, aliases and groups mean, each once, in the order given.

    Raises
    ------
    InputError
        For a name that is none of them; the nearest is named.
    """
    meant: dict[str, list[Source]] = {}
    for source in catalogue().values():
        for word in (source.name, *source.aliases, *source.groups):
            meant.setdefault(word, []).append(source)
    for name in names:
        if name not in meant:
            remedy = f"{nearest(name, meant)}; `dtfn data list` shows all"
            expected = "names or groups of sets of pictures"
            raise InputError("data", expected, repr(name), remedy)
    return list(dict.fromkeys(source for name in names for source in meant[name]))


def verify(source: Source) -> Iterator[tuple[Path, str]]:
    """Yield each file of a set that is wrong, missing, or does not belong, with the reason.

    Raises
    ------
    InputError
        If there is nothing to compare, or to compare with.
    """
    if not source.contents or not source.present:
        raise InputError(
            source.name,
            "files with known SHA-256",
            "pictures of unknown origin" if source.present else "none of it",
            source.by_hand or f"run `dtfn data fetch {source.name}`",
        )
    with ThreadPoolExecutor(4) as pool:
        check = functools.partial(_fault, folder=source.folder)
        for listed, fault in zip(source.contents, pool.map(check, source.contents), strict=True):
            if fault:
                yield source.folder / listed.file, fault
    known = {source.folder / listed.file for listed in source.contents}
    for folder in sorted({file.parent for file in known}):
        for file in datasets.pictures(folder):
            if file not in known:
                yield file, "does not belong to the set"


def _fault(listed: Listed, folder: Path) -> str:
    """Return what is wrong with a file, or nothing. Other bytes of the same pixels are right.

    The pixels are compared even where the file is right: JPEG decoders differ, and the numbers of
    a benchmark with them.
    """
    file = folder / listed.file
    if not file.is_file():
        return "missing"
    size = file.stat().st_size
    same = size == listed.bytes and files.sha256(file) == listed.sha256
    sizes = f"({size} bytes instead of {listed.bytes})"
    if not listed.pixels:
        return "" if same else f"another file {sizes}"
    try:
        pixels = images.read(file)
    except InputError:
        return f"no picture {sizes}"
    if hashlib.sha256(pixels.tobytes()).hexdigest() == listed.pixels:
        return ""
    return "the right file, but this machine decodes other pixels" if same else "another picture"


def fetch(
    sets: Iterable[Source],
    agree: Agree,
    *,
    mirrors: Sequence[str] = (),
    jobs: int = 8,
    progress: bool = False,
) -> int:
    """Download what is missing of sets of pictures, and return how many files that were.

    What is here stays as it is. Interrupted, killed or failed, it leaves whole files and whole sets
    of an archive only; the next call goes on from there, inside a file too.

    Parameters
    ----------
    sets
        See `chosen`.
    agree
        Asked for each text of terms that was not accepted earlier, with the names of its sets.
    mirrors
        URLs of copies of a data folder (or of the archives), tried first.
    jobs
        Downloads at a time.
    progress
        Whether to show a bar.

    Raises
    ------
    InputError
        If something cannot be had, is not accepted, is in the way, or cannot be written.
    """
    tasks = [(source, listed) for source in sets for listed in _missing(source)]
    for variable in _CERTIFICATES:
        if tasks and (bundle := os.environ.get(variable)) and not Path(bundle).exists():
            expected, remedy = "a file of trusted certificates", f"correct or unset {variable}"
            raise InputError(variable, expected, f"no {bundle}", remedy)
    roots = list(dict.fromkeys(source.root for source, _ in tasks))
    with ExitStack() as stack:
        for root in roots:
            needed = sum(x.bytes * (1 + (x is s.archive)) for s, x in tasks if s.root == root)
            stack.enter_context(files.writing(root, "set DTFN_DATA (and DTFN_TRAIN) to another"))
            stack.callback(_clear, _staged(root, needed, stack))
        _require_terms(dict.fromkeys(source for source, _ in tasks), agree)
        if tasks:
            _Fetch(tasks, mirrors, progress).run(jobs)
    return len(tasks)


def _missing(source: Source) -> list[Listed]:
    """Return what is to be downloaded of a set.

    Raises
    ------
    InputError
        If something else is in its place: nothing that is here is ever overwritten.
    """
    folder, absent, in_the_way = source.folder, list[Listed](), ""
    if source.by_hand:
        expected = "a set that may be downloaded by anyone"
        raise InputError(source.name, expected, source.terms, source.by_hand)
    if source.archive and source.present < source.count:
        if folder.is_dir() and any(folder.iterdir()):
            in_the_way = f"{source.present} of {source.count} pictures"
        absent = [source.archive]
    for listed in () if source.archive else source.pictures:
        file = source.folder / listed.file
        if not file.is_file():
            absent.append(listed)
            twins = [f.name for f in datasets.pictures(file.parent) if f.stem == file.stem]
            in_the_way = f"{twins[0]} in its place" if twins else ""
        elif file.stat().st_size != listed.bytes or files.sha256(file) != listed.sha256:
            in_the_way = _fault(listed, source.folder)
        if in_the_way:
            folder = file
            break
    if in_the_way:
        remedy = "move it away, or set DTFN_DATA to another folder"
        expected = "what the set has there, or nothing"
        raise InputError(folder, expected, in_the_way, remedy)
    return absent


def _staged(root: Path, needed: int, stack: ExitStack) -> Path:
    """Return the folder for unfinished files, locked for this process on a disk with room."""
    staging = root / STAGING
    staging.mkdir(parents=True, exist_ok=True)
    try:
        stack.enter_context(FileLock(staging / "lock", timeout=0))
    except Timeout:
        expected, found = "one `dtfn data fetch` at a time", "another one at work"
        remedy = "wait for it to end"
        raise InputError(root, expected, found, remedy) from None
    for leftover in staging.glob("tmp*"):  # of a killed process
        leftover.unlink()
    free = shutil.disk_usage(staging).free
    if free < needed:
        expected, found = f"{needed / 1e9:.2f} GB of room", f"{free / 1e9:.2f} GB"
        remedy = "free some, or set DTFN_DATA to another disk"
        raise InputError(root, expected, found, remedy)
    return staging


def _clear(staging: Path) -> None:
    """Remove the folder for unfinished files, unless a part waits there to be continued."""
    if not any(staging.glob("*.part")):
        shutil.rmtree(staging, ignore_errors=True)


def _require_terms(sets: Iterable[Source], agree: Agree) -> None:
    """See to it that the user has accepted the terms of all sets, now or earlier.

    What is accepted is the text itself: if it ever changes, it is shown again.
    """
    accepted: dict[str, str] = {}
    for root in (root() for root in _ROOTS.values()):
        accepted |= files.read_json(root / LICENCES, {})
    for text in dict.fromkeys(source.terms for source in sets):
        of = [source for source in sets if source.terms == text]
        names = [source.name for source in of]
        if text not in accepted and not agree(text, names):
            remedy = f"if you agree, answer y or add --yes; they are: {text}"
            expected = "that you accept its terms"
            raise InputError(", ".join(names), expected, "no", remedy)
        if text not in accepted:
            for file in {source.root / LICENCES for source in of}:
                today = datetime.datetime.now(datetime.UTC).date().isoformat()
                files.write_json(file, files.read_json(file, {}) | {text: today})


class _GoneError(Exception):
    """An answer that asking again will not change; the message says what it is."""


class _StoppedError(Exception):
    """The user, or another file's failure, ended the download."""


class _Fetch:
    """Downloads that share a bar, and what they learn of the mirrors."""

    def __init__(
        self, tasks: list[tuple[Source, Listed]], mirrors: Sequence[str], progress: bool
    ) -> None:
        self.tasks, self.mirrors = tasks, mirrors
        total = sum(listed.bytes for _, listed in tasks)
        self.bar = tqdm(total=total, unit="B", unit_scale=True, disable=not progress)
        self.stop = threading.Event()
        self.silent: set[str] = set()  # hosts that cost time: asked last

    def run(self, jobs: int) -> None:
        """Download all; the first failure ends the rest and is raised."""
        with self.bar, ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(self._one, *task) for task in self.tasks]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self.stop.set()
                pool.shutdown(cancel_futures=True)
        failures = [future.exception() for future in futures if not future.cancelled()]
        for failure in failures:
            if failure is not None and not isinstance(failure, _StoppedError):
                raise failure

    def _one(self, source: Source, listed: Listed) -> None:
        """Download a file and put it into its place."""
        target = source.folder / listed.file
        with files.writing(target, "free some room, or set DTFN_DATA to another folder"):
            file = self._downloaded(source, listed)
            if listed is source.archive:
                _unpack(file, source)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)

    def _downloaded(self, source: Source, listed: Listed) -> Path:
        """Return a file in the folder for unfinished ones, from the first mirror that has it."""
        staging, name = source.root / STAGING, f"{source.name}-{listed.file}".replace("/", "-")
        failures, part = [], staging / f"{name}.part"
        urls = source.addresses(listed, self.mirrors)
        for url in sorted(urls, key=lambda url: urlsplit(url).netloc in self.silent):
            store = pooch.create(
                staging,
                base_url="",
                registry={name: f"sha256:{listed.sha256}"},
                urls={name: url},
                retry_if_failed=RETRIES,
            )
            receive = functools.partial(self._receive, part=part, size=listed.bytes)
            try:
                return Path(store.fetch(name, downloader=receive))
            except (requests.RequestException, ValueError, _GoneError) as error:
                if isinstance(error, requests.ConnectionError | requests.Timeout):
                    self.silent.add(urlsplit(url).netloc)
                failures.append(f"{urlsplit(url).netloc}: {_said(error)}")
        kept = part.stat().st_size if part.exists() else 0
        remedy = "check the network, try later, or name a copy with --mirror URL"
        raise InputError(
            name,
            f"{listed.bytes} bytes with SHA-256 {listed.sha256[:12]}...",
            "; ".join(failures) or "no mirror",
            (f"run it again to go on after the {kept} bytes that are here" if kept else remedy),
        )

    def _receive(
        self,
        url: str,
        output: str,
        pooch: object,
        check_only: bool = False,
        *,
        part: Path,
        size: int,
    ) -> None:
        """Be a downloader for pooch that goes on after the bytes that are here.

        Raises
        ------
        requests.RequestException
            If asking again may help, which pooch does.
        _GoneError
            If it will not.
        """
        start = part.stat().st_size if part.exists() else 0
        start = start if start < size else 0
        # Compressed transfer would make nonsense of positions and lengths.
        headers = {"Accept-Encoding": "identity"}
        headers |= {"Range": f"bytes={start}-"} if start else {}
        with requests.get(url, headers=headers, stream=True, timeout=PATIENCE) as answer:
            if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
                answer.raise_for_status()
            if answer.status_code >= 400:
                raise _GoneError(f"{answer.status_code} {answer.reason}")
            said = answer.headers.get("Content-Range", "")
            if answer.status_code == 206 and not said.startswith(f"bytes {start}-{size - 1}/"):
                raise _GoneError(f"another part of another file ({said})")
            start = start if answer.status_code == 206 else 0
            length = start + int(answer.headers.get("Content-Length", size - start))
            chunks = answer.iter_content(_CHUNK)
            first = next(chunks, b"")
            # Refused before the part is touched: what is there already may be good.
            if start == 0 and first.lstrip().startswith(b"<"):
                raise _GoneError("a web page instead of the file")
            if length != size:
                raise _GoneError(f"a file of {length} bytes")
            with part.open("r+b" if start else "wb") as file:
                file.seek(start)
                while first:
                    if self.stop.is_set():
                        raise _StoppedError
                    file.write(first)
                    self.bar.update(file.tell() - start)
                    start = file.tell()
                    if start > size:
                        part.unlink()
                        raise _GoneError(f"more than {size} bytes")
                    first = next(chunks, b"")
        part.replace(output)


def _said(error: Exception) -> str:
    """Say in a few words why a mirror failed."""
    text = " ".join(str(error).split())
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not answer (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names it)"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not accepted (REQUESTS_CA_BUNDLE names those to trust)"
    if isinstance(error, requests.Timeout):
        return "no answer"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut again and again"
    if isinstance(error, requests.ConnectionError):
        unknown = "resolve" in text.lower()
        return "unknown host: no network, or no name server" if unknown else "no connection"
    if isinstance(error, requests.RequestException | _GoneError):
        return text
    return "other content: its SHA-256 differs"


def _unpack(archive: Path, source: Source) -> None:
    """Unpack the pictures of a zip file into a set's folder, which appears whole or not at all.

    They lie flat there, whatever folders they lie in in the archive.
    """
    raw, draft = archive.with_suffix(".raw"), archive.with_suffix(".flat")
    try:
        pooch.Unzip(extract_dir=raw.name)(str(archive), "download", None)
        draft.mkdir()
        rows = []
        for folder in sorted({file.parent for file in raw.rglob("*.*")}):
            for file in datasets.pictures(folder):
                rows.append((file.name, file.stat().st_size, files.sha256(file), ""))
                file.replace(draft / file.name)
        if len(list(draft.iterdir())) != source.count:
            raise InputError(
                archive.name,
                f"{source.count} pictures",
                len(rows),
                "report it to the authors of dtfn: the archive has changed its layout",
            )
        with (draft / RECORD).open("w", newline="", encoding="utf-8") as record:
            csv.writer(record).writerows([("file", "bytes", "sha256", "pixels"), *rows])
        source.folder.parent.mkdir(parents=True, exist_ok=True)
        draft.rename(source.folder)
    finally:
        archive.unlink()
        for folder in (raw, draft):
            shutil.rmtree(folder, ignore_errors=True)
