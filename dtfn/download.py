"""Sets of pictures: where they come from, on what terms, what is here, and how the rest gets here.

`resources/sources.toml` and `resources/pictures` list every file with its SHA-256. pooch downloads,
tries again and checks; what is here is never replaced.
"""

from __future__ import annotations

import csv
import datetime
import functools
import hashlib
import logging
import tempfile
import threading
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import pooch
import requests
from tqdm import tqdm

from dtfn import datasets, files, images, paths
from dtfn.errors import InputError, nearest

RETRIES = 1  # of each mirror, after a second
PATIENCE = 30.0  # seconds to wait for a connection, and for the next bytes
LICENCES = "licences.json"  # in the data root: accepted terms -> day

_ROOTS = {"data": paths.data_root, "train": paths.training_root, "val": paths.validation_root}

pooch.get_logger().setLevel(logging.ERROR)  # it would announce every file


class Listed(NamedTuple):
    """A file to download: a picture of a set, or the archive of all of them.

    ``file`` is its place in the set's folder, ``pixels`` the SHA-256 of its decoded samples.
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
        Templates, in the order to try: attributes in braces, and ``{path}``, ``{sha256}``, and
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
    def folder(self) -> Path:
        """The set's folder, as the environment says now."""
        return _ROOTS[self.place]() / self.below

    @property
    def bytes(self) -> int:
        """To download."""
        return self.archive.bytes if self.archive else sum(p.bytes for p in self.pictures)

    @property
    def present(self) -> int:
        """How many pictures are here, by their names alone."""
        if self.pictures:
            return sum((self.folder / listed.file).is_file() for listed in self.pictures)
        return len(datasets.pictures(self.folder / "HR" if self.by_hand else self.folder))

    @property
    def state(self) -> str:
        """``"present"``, ``"3 of 5"`` or ``"missing"``."""
        partial = f"{self.present} of {self.count}" if self.present < self.count else "present"
        return partial if self.present else "missing"

    def addresses(self, listed: Listed, mirrors: Sequence[str] = ()) -> list[str]:
        """Return the URLs of a file in the order to try, copies of a data folder first."""
        path = here = PurePosixPath(listed.file)
        if listed is not self.archive:
            path = PurePosixPath((self.folders or {})[str(path.parent)]) / path.name
            here = PurePosixPath("" if self.place == "data" else self.place) / self.below / here
        facts = {"sha256": listed.sha256, "path": quote(str(path)), "here": quote(str(here))}
        templates = [f"{mirror.rstrip('/')}/{{here}}" for mirror in mirrors] + [*self.urls]
        return [template.format(**vars(self), **facts) for template in templates]


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
            with (folder / "pictures" / f"{name}.csv").open(encoding="utf-8") as file:
                rows = [*csv.DictReader(file)]
            listed = tuple(
                Listed(r["file"], int(r["bytes"]), r["sha256"], r["pixels"]) for r in rows
            )
            row |= {"pictures": listed, "count": len(listed), "urls": tuple(table["hosts"]["git"])}
        row |= {"terms": table["terms"][row["terms"]], "below": row.pop("folder", name)}
        row |= {key: tuple(row.get(key, ())) for key in ("groups", "aliases")}
        sources[name] = Source(name=name, **row)
    return sources


def chosen(names: Iterable[str]) -> list[Source]:
    """Return the sets that names, aliases and groups mean, each once, in the order given."""
    meant: dict[str, list[Source]] = {}
    for source in catalogue().values():
        for word in (source.name, *source.aliases, *source.groups):
            meant.setdefault(word, []).append(source)
    for name in names:
        if name not in meant:
            remedy = f"{nearest(name, meant)}; `dtfn data list` shows all"
            raise InputError("data", "names or groups of sets of pictures", repr(name), remedy)
    return list(dict.fromkeys(source for name in names for source in meant[name]))


def verify(source: Source) -> Iterator[tuple[Path, str]]:
    """Yield each file of a set that is wrong, missing, or does not belong, with the reason."""
    if not source.pictures or not source.present:
        found = "pictures of which only the archive was checked" if source.present else "none of it"
        remedy = source.by_hand or f"run `dtfn data fetch {source.name}`"
        raise InputError(source.name, "files with known SHA-256", found, remedy)
    known = {source.folder / listed.file: listed for listed in source.pictures}
    with ThreadPoolExecutor(4) as pool:
        for file, fault in zip(known, pool.map(_fault, known, known.values()), strict=True):
            if fault:
                yield file, fault
    for folder in sorted({file.parent for file in known}):
        for file in datasets.pictures(folder):
            if file not in known:
                yield file, "does not belong to the set"


def _fault(file: Path, listed: Listed) -> str:
    """Return what is wrong with a picture, or nothing. Other bytes of the same pixels are right.

    The pixels are compared even where the file is right: JPEG decoders differ, and the numbers of
    a benchmark with them.
    """
    if not file.is_file():
        return "missing"
    try:
        pixels = images.read(file)
    except InputError:
        return f"no picture ({file.stat().st_size} bytes instead of {listed.bytes})"
    if hashlib.sha256(pixels.tobytes()).hexdigest() == listed.pixels:
        return ""
    same = files.sha256(file) == listed.sha256
    return "the right file, but this machine decodes other pixels" if same else "another picture"


def fetch(
    sets: Sequence[Source],
    agree: Callable[[str, list[str]], bool],
    *,
    mirrors: Sequence[str] = (),
    jobs: int = 8,
    progress: bool = False,
) -> int:
    """Download what is missing of sets of pictures, and return how many files that were.

    Interrupted, killed or failed, it leaves whole files and whole sets of an archive only; the next
    call goes on from there.

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

    Raises
    ------
    InputError
        If something cannot be had, is not accepted, is in the way, or cannot be written.
    """
    tasks: list[tuple[Source, Listed]] = []
    for source in sets:
        if source.by_hand:
            expected = "a set that may be downloaded by anyone"
            raise InputError(source.name, expected, source.terms, source.by_hand)
        if source.archive and source.present < source.count:
            if source.present:
                expected, remedy = "all pictures of the set, or none", "move the folder away"
                raise InputError(source.folder, expected, source.state, remedy)
            tasks.append((source, source.archive))
        tasks += [(source, x) for x in source.pictures if not (source.folder / x.file).is_file()]

    accepted = paths.data_root() / LICENCES
    for text in dict.fromkeys(source.terms for source, _ in tasks):
        if text not in files.read_json(accepted, {}):
            names = [source.name for source in sets if source.terms == text]
            if not agree(text, names):
                remedy = f"if you agree, answer y or add --yes; they are: {text}"
                raise InputError(", ".join(names), "that you accept its terms", "no", remedy)
            with files.updating(accepted, {}) as days:
                days[text] = datetime.datetime.now(datetime.UTC).date().isoformat()

    stop, silent = threading.Event(), set[str]()
    total = sum(listed.bytes for _, listed in tasks)
    bar = tqdm(total=total, unit="B", unit_scale=True, disable=not progress or not tasks)

    def receive(url: str, output: str, _: pooch.Pooch) -> None:
        with (
            requests.get(url, stream=True, timeout=PATIENCE) as answer,
            Path(output).open("wb") as file,
        ):
            answer.raise_for_status()
            for chunk in answer.iter_content(1 << 16):
                if stop.is_set():
                    raise CancelledError
                bar.update(file.write(chunk))

    with bar, ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(_download, *task, mirrors, silent, receive) for task in tasks]
        try:
            for done in as_completed(running):
                done.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return len(tasks)


def _download(
    source: Source,
    listed: Listed,
    mirrors: Sequence[str],
    silent: set[str],
    receive: Callable[[str, str, pooch.Pooch], None],
) -> None:
    """Put a picture, or what an archive holds, into its place, whole or not at all.

    Hosts that did not answer, which cost time, are kept in ``silent`` and asked last.
    """
    failures, place = list[str](), source.folder
    with files.writing(source.folder), ExitStack() as stack:
        if listed is source.archive:
            source.folder.parent.mkdir(parents=True, exist_ok=True)
            draft = tempfile.TemporaryDirectory(prefix=".", dir=source.folder.parent)
            place = Path(stack.enter_context(draft))
        urls = source.addresses(listed, mirrors)
        for url in sorted(urls, key=lambda url: urlsplit(url).netloc in silent):
            store = pooch.create(
                place,
                base_url="",
                registry={listed.file: f"sha256:{listed.sha256}"},
                urls={listed.file: url},
                retry_if_failed=RETRIES,
            )
            try:
                file = Path(store.fetch(listed.file, downloader=receive))
                break
            except (requests.RequestException, ValueError) as error:
                host = urlsplit(url).netloc
                if isinstance(error, requests.ConnectionError | requests.Timeout):
                    silent.add(host)
                failures.append(f"{host}: {type(error).__name__}: {str(error)[:80]}")
        else:
            raise InputError(
                f"{source.name}/{listed.file}",
                f"{listed.bytes} bytes with SHA-256 {listed.sha256[:12]}...",
                "; ".join(failures),
                "check the network, try later, or name a copy with --mirror URL",
            )
        file.chmod(0o644)  # pooch's are for their owner alone
        if listed is source.archive:
            unpacked = pooch.Unzip(extract_dir=".")(str(file), "download", store)
            # Whatever folder of the archive the pictures lie in.
            places = {Path(name).parent for name in unpacked}
            max(places, key=lambda p: len(datasets.pictures(p))).rename(source.folder)
