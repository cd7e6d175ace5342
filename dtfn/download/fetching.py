"""Fetch sets of pictures: several files at once, each into its place only when it is right."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from dtfn.download import Downloads, archives, collection, terms
from dtfn.download.sources import Archive, Picture, Source
from dtfn.download.transfer import Advance, Patience, Stopped, Wanted
from dtfn.errors import InputError

STAGING = ".partial"


@dataclass(frozen=True)
class _Task:
    """A file to download, and the set that it is for."""

    source: Source
    what: Picture | Archive
    mirrors: tuple[str, ...]

    @property
    def staging(self) -> Path:
        """The folder for it while it is not whole, on the disk that it will stay on."""
        return self.source.root / STAGING

    @property
    def wanted(self) -> Wanted:
        """What to download, under a name that no other task has."""
        unique = f"{self.source.name}-{self.what.file}".replace("/", "-")
        urls = self.source.addresses(self.what, self.mirrors)
        archive = isinstance(self.what, Archive)
        return Wanted(unique, urls, self.what.bytes, self.what.sha256, resume=archive)

    @property
    def space(self) -> int:
        """Bytes on the disk at most; pictures do not shrink in a zip file."""
        return self.what.bytes * (2 if isinstance(self.what, Archive) else 1)

    def run(self, downloads: Downloads) -> None:
        """Download, and put into place."""
        file = downloads.get(self.wanted, self.staging)
        if isinstance(self.what, Archive):
            stop = downloads.stop
            archives.unpack(file, self.source.folder, self.what.pictures, lambda: _check(stop))
            file.unlink()
        else:
            target = self.source.folder / self.what.file
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)


def fetch(
    sets: Iterable[Source],
    agree: terms.Agree,
    *,
    mirrors: Sequence[str] = (),
    jobs: int = 8,
    progress: bool = False,
    patience: Patience | None = None,
) -> int:
    """Download what is missing of sets of pictures, and return how many files that were.

    What is there stays as it is. Interrupted, killed or failed, it leaves whole files and whole
    archives only; the next call goes on from there, inside an archive too.

    Parameters
    ----------
    sets
        See `dtfn.download.sources.chosen`.
    agree
        Asked for the terms that were not accepted earlier; see `dtfn.download.terms.require`.
    mirrors
        URLs of copies of a data folder (or of the archives), tried first.
    jobs
        Downloads at a time.
    progress
        Whether to show a bar.
    patience
        With each mirror.

    Raises
    ------
    InputError
        If something cannot be had, is not accepted, is in the way, or cannot be written.
    """
    tasks = [task for source in sets for task in _tasks(source, tuple(mirrors))]
    if not tasks:
        return 0
    where = tasks[0].source.root
    try:
        with ExitStack() as stack:
            for folder in dict.fromkeys(task.staging for task in tasks):
                where = folder.parent
                stack.enter_context(_staged(folder))
            _require_space(tasks)
            terms.require(dict.fromkeys(task.source for task in tasks), agree)
            _run(tasks, jobs, progress, patience or Patience())
    except OSError as error:
        raise InputError(
            where, expected="a folder that can be written",
            found=error.strerror or error,
            remedy="set DTFN_DATA (and DTFN_TRAIN) to one that you may write, with room",
        ) from error  # fmt: skip
    return len(tasks)


def _tasks(source: Source, mirrors: tuple[str, ...]) -> Iterator[_Task]:
    """Yield what is to be downloaded for a set."""
    if source.by_hand:
        raise InputError(
            source.name, expected="a set that may be downloaded by anyone", found=source.terms,
            remedy=source.by_hand,
        )  # fmt: skip
    if source.archive is None:
        yield from (_Task(source, picture, mirrors) for picture in collection.missing(source))
        return
    state = collection.state(source)
    if not state.complete:
        if state.present or (source.folder.is_dir() and any(source.folder.iterdir())):
            raise collection.conflict(source.folder, f"{state.present} of {state.total} pictures")
        yield _Task(source, source.archive, mirrors)


@contextmanager
def _staged(folder: Path) -> Iterator[None]:
    """Keep a folder for unfinished files, for one process at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            folder.parent, expected="one `dtfn data fetch` at a time", found="another one at work",
            remedy="wait for it to end",
        ) from None  # fmt: skip
    try:
        for leftover in folder.glob("tmp*"):  # of a killed process
            leftover.unlink()
        yield
    finally:
        (folder / "lock").unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):
            folder.rmdir()  # unless an archive waits there to be resumed


def _require_space(tasks: list[_Task]) -> None:
    """Raise `InputError` where a disk has too little room."""
    needed: dict[int, tuple[int, Path]] = {}
    for task in tasks:
        disk = task.staging.stat().st_dev
        so_far, _ = needed.get(disk, (0, task.staging))
        needed[disk] = (so_far + task.space, task.staging)
    for amount, folder in needed.values():
        free = shutil.disk_usage(folder).free
        if free < amount:
            raise InputError(
                folder.parent, expected=f"{amount / 1e9:.2f} GB of room",
                found=f"{free / 1e9:.2f} GB", remedy="free some, or set DTFN_DATA to another disk",
            )  # fmt: skip


def _run(tasks: list[_Task], jobs: int, progress: bool, patience: Patience) -> None:
    """Run all tasks; the first failure ends them and is raised."""
    total = sum(task.what.bytes for task in tasks)
    with (
        tqdm(total=total, unit="B", unit_scale=True, disable=not progress) as bar,
        Downloads(patience, _locked(bar.update)) as downloads,
        ThreadPoolExecutor(jobs) as pool,
    ):
        futures = [pool.submit(task.run, downloads) for task in tasks]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            downloads.stop.set()
            pool.shutdown(cancel_futures=True)
    failures = [f.exception() for f in futures if not f.cancelled()]
    for failure in failures:
        if failure is not None and not isinstance(failure, Stopped):
            raise failure


def _locked(advance: Advance) -> Advance:
    """Make a bar's update safe for threads."""
    lock = threading.Lock()

    def update(amount: int) -> None:
        with lock:
            advance(amount)

    return update


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise Stopped
