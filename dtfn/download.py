"""Sets of pictures: where they come from, on what terms, what is here, and how the rest gets here.

`resources/sources.toml` and `resources/pictures` list every file with its SHA-256. The mirrors
are asked in turn, twice, and pooch checks; what is here is never replaced.
"""

import datetime
import functools
import hashlib
import logging
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import pandas as pd
import pooch
import requests
from tqdm import tqdm

from dtfn import datasets, files, images, paths
from dtfn.errors import InputError, require_known

PATIENCE = 30.0  # seconds to wait for a connection, and for the next bytes

pooch.get_logger().setLevel(logging.ERROR)  # it would announce every file


class Listed(NamedTuple):
    """A file to download: a picture of a set, or the archive of all of them."""

    file: str  # its place in the set's folder
    bytes: int
    sha256: str
    pixels: str = ""  # the SHA-256 of its decoded samples


@dataclass(frozen=True, eq=False)
class Source:
    """A set of pictures: single files, or an archive, or one that each user applies for."""

    name: str
    about: str
    terms: str  # what is known of the licence, in one line
    place: str  # "data", "train" or "val"
    below: str  # the folder below it
    urls: Sequence[str] = ()  # in the order to try; attributes, path, sha256 or here in braces
    repository: str = ""
    commit: str = ""
    folders: Mapping[str, str] | None = None  # folder of the set -> folder of the repository
    pictures: Sequence[Listed] = ()  # one of these three: the files,
    archive: Listed | None = None  # the archive,
    by_hand: str = ""  # or what the user has to do
    count: int = 0  # of pictures; 0 if not known
    groups: Sequence[str] = ()  # other words for it, together with others
    aliases: Sequence[str] = ()  # or alone

    @property
    def folder(self) -> Path:
        """The set's folder."""
        roots = {"train": paths.training_root, "val": paths.validation_root}
        return roots.get(self.place, paths.data_root)() / self.below

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
            row |= {"archive": Listed(**row["archive"]), "urls": table["hosts"]["div2k"]}
        elif "by_hand" not in row:
            rows = pd.read_csv(folder / "pictures" / f"{name}.csv").to_dict("records")
            row |= {"pictures": [Listed(**r) for r in rows], "count": len(rows)}
            row |= {"urls": table["hosts"]["git"]}
        row |= {"terms": table["terms"][row["terms"]], "below": row.pop("folder", name)}
        sources[name] = Source(name=name, **row)
    return sources


def chosen(names: Iterable[str]) -> list[Source]:
    """Return the sets that names, aliases and groups mean, each once, in the order given."""
    words = {s: {s.name, *s.aliases, *s.groups} for s in catalogue().values()}
    known = set().union(*words.values())
    for name in names:
        require_known(name, known, "data", "what `dtfn data list` names")
    return list(dict.fromkeys(s for name in names for s, its in words.items() if name in its))


def verify(source: Source) -> Iterator[tuple[Path, str]]:
    """Yield each file of a set that is wrong, missing, or does not belong, with the reason."""
    if not source.pictures or not source.present:
        found = "pictures of which only the archive was checked" if source.present else "none of it"
        remedy = source.by_hand or f"run `dtfn data fetch {source.name}`"
        raise InputError(source.name, "files with known SHA-256", found, remedy)
    known = {source.folder / listed.file: listed for listed in source.pictures}
    with ThreadPoolExecutor(4) as pool:
        faults = zip(known, pool.map(_fault, known, known.values()), strict=True)
        yield from ((file, fault) for file, fault in faults if fault)
    inside = {f for folder in {f.parent for f in known} for f in datasets.pictures(folder)}
    yield from ((file, "does not belong to the set") for file in sorted(inside - known.keys()))


def _fault(file: Path, listed: Listed) -> str:
    if not file.is_file():
        return "missing"
    try:
        pixels = images.read(file)
    except InputError:
        return f"no picture ({file.stat().st_size} bytes instead of {listed.bytes})"
    if hashlib.sha256(pixels.tobytes()).hexdigest() == listed.pixels:
        return ""
    same = files.sha256(file) == listed.sha256  # JPEG decoders differ
    return "the right file, but this machine decodes other pixels" if same else "another picture"


def fetch(
    sets: Sequence[Source],
    agree: Callable[[str, list[str]], bool],
    *,
    mirrors: Sequence[str] = (),
    jobs: int = 8,
) -> int:
    """Download what is missing of sets of pictures, and return how many files that were.

    ``agree`` is asked for each text of terms that was not accepted earlier, with the names of its
    sets. ``mirrors`` are URLs of copies of a data folder, tried first. Files are always whole.
    """
    tasks: list[tuple[Source, Listed]] = []
    for source in sets:
        if source.by_hand:
            raise InputError(source.name, "a set for anyone", source.terms, source.by_hand)
        if source.archive and 0 < source.present < source.count:
            expected, remedy = "all pictures of the set, or none", "move the folder away"
            raise InputError(source.folder, expected, source.state, remedy)
        if source.archive and not source.present:
            tasks.append((source, source.archive))
        tasks += [(source, x) for x in source.pictures if not (source.folder / x.file).is_file()]

    accepted = paths.data_root() / "licences.json"  # terms -> day
    for text in dict.fromkeys(source.terms for source, _ in tasks):
        names = [source.name for source in sets if source.terms == text]
        if text in files.read_json(accepted, {}):
            continue
        if not agree(text, names):
            remedy = f"if you agree, answer y or add --yes; they are: {text}"
            raise InputError(", ".join(names), "that you accept its terms", "no", remedy)
        with files.updating(accepted, {}) as days:
            days[text] = datetime.datetime.now(datetime.UTC).date().isoformat()

    stop, failed = threading.Event(), set[str]()
    total = sum(listed.bytes for _, listed in tasks)
    bar = tqdm(total=total, unit="B", unit_scale=True, disable=None if tasks else True)

    def receive(url: str, output: str, _: object) -> None:
        answer = requests.get(url, stream=True, timeout=PATIENCE)
        with answer, Path(output).open("wb") as file:
            answer.raise_for_status()
            for chunk in answer.iter_content(1 << 16):
                if stop.is_set():
                    raise CancelledError
                bar.update(file.write(chunk))

    with bar, ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(_download, *task, mirrors, receive, failed) for task in tasks]
        try:
            for done in as_completed(running):
                done.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return len(tasks)


def _download(
    source: Source, listed: Listed, mirrors: Sequence[str], receive: Any, failed: set[str]
) -> None:
    """Download a file; ``failed`` are hosts that did not serve others: they are asked last."""
    urls = source.addresses(listed, mirrors)
    place = source.folder if listed is source.archive else source.folder / listed.file
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=place.parent) as draft:
        how = {"known_hash": f"sha256:{listed.sha256}", "path": draft, "downloader": receive}
        for url in sorted(urls, key=lambda url: urlsplit(url).netloc in failed) * 2:
            try:
                file = Path(pooch.retrieve(url, fname="file", **how))
                break
            except (requests.RequestException, ValueError) as error:
                time.sleep(1)
                failed.add(urlsplit(url).netloc)
                last = f"{type(error).__name__}: {error}"[:120]
        else:
            found = f"{2 * len(urls)} failures at {len(urls)} mirrors, the last: {last}"
            what, wanted = f"{source.name}/{listed.file}", f"SHA-256 {listed.sha256[:12]}"
            raise InputError(what, wanted, found, "try later, or name a --mirror URL")
        if listed is source.archive:
            # Whatever folder of the archive the pictures lie in.
            names = pooch.Unzip(extract_dir=".")(str(file), "download", None)
            places = {Path(name).parent for name in names}
            max(places, key=lambda p: len(datasets.pictures(p))).rename(place)
        else:
            file.chmod(0o644)  # pooch's are for their owner alone
            file.rename(place)
