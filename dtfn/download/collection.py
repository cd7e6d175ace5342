"""The sets of pictures in the data folder: what is there, what is missing, whether it is right."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dtfn import images, provenance
from dtfn.download import archives
from dtfn.download.sources import Picture, Source
from dtfn.errors import InputError


@dataclass(frozen=True)
class State:
    """What is there of a set, by the names of its files alone.

    Attributes
    ----------
    present, total
        Pictures; the total is 0 where it is not known.
    unchecked
        Whether the pictures of an archive are there, but not from `dtfn.download.archives.unpack`.
    """

    present: int
    total: int
    unchecked: bool = False

    @property
    def complete(self) -> bool:
        """Whether nothing is to be downloaded."""
        return self.present > 0 and self.present >= self.total

    def __str__(self) -> str:
        if self.complete:
            return "present, unchecked" if self.unchecked else "present"
        return f"{self.present} of {self.total}" if self.present else "missing"


def state(source: Source) -> State:
    """Return what is there of a set."""
    if source.by_hand:
        return State(len(_pictures(source.folder / "HR")), 0, unchecked=True)
    known = contents(source)
    if source.archive and not known:
        return State(len(_pictures(source.folder)), source.count, unchecked=True)
    there = sum(_size(source.folder / p.file) > 0 for p in known)
    return State(there, source.count)


def contents(source: Source) -> tuple[Picture, ...]:
    """Return the files of a set; of an archive, those that were in it when it was unpacked."""
    return archives.recorded(source.folder) if source.archive else source.pictures


def missing(source: Source) -> list[Picture]:
    """Return the single files of a set that are not there.

    A file with other bytes but the same pixels is as good.

    Raises
    ------
    InputError
        If a file of the same name holds another picture, or one of the same stem has another
        suffix: nothing that is there is ever overwritten.
    """
    absent = []
    for picture in source.pictures:
        file = source.folder / picture.file
        if not file.is_file():
            absent.append(picture)
            for twin in _pictures(file.parent):
                if twin.stem == file.stem:
                    raise conflict(file, f"{twin.name} beside its place")
        elif not _same_file(file, picture) and (fault := problem(picture, source.folder)):
            raise conflict(file, fault)
    return absent


def problem(picture: Picture, folder: Path) -> str:
    """Return what is wrong with a file, or nothing.

    Notes
    -----
    The pixels are compared even where the file is right: JPEG decoders differ, and the numbers of
    a benchmark with them.
    """
    file = folder / picture.file
    if not file.is_file():
        return "missing"
    same = _same_file(file, picture)
    if not picture.pixels:
        return "" if same else f"another file ({_size(file)} bytes instead of {picture.bytes})"
    try:
        pixels = images.read(file)
    except InputError:
        return f"no picture ({_size(file)} bytes instead of {picture.bytes})"
    if hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest() == picture.pixels:
        return ""
    return "the right file, but this machine decodes other pixels" if same else "another picture"


def verify(source: Source, jobs: int = 4) -> Iterator[tuple[Path, str]]:
    """Yield each file of a set that is wrong, missing, or does not belong, with the reason.

    Parameters
    ----------
    source
        The set.
    jobs
        Threads.

    Raises
    ------
    InputError
        If there is nothing to compare, or to compare with.
    """
    known, present = contents(source), state(source).present
    if not known or not present:
        raise InputError(
            source.name, expected="files with known SHA-256",
            found="pictures of unknown origin" if present else "none of it",
            remedy=source.by_hand or f"run `dtfn data fetch {source.name}`",
        )  # fmt: skip
    with ThreadPoolExecutor(jobs) as pool:
        faults = pool.map(lambda picture: problem(picture, source.folder), known)
        for picture, fault in zip(known, faults, strict=True):
            if fault:
                yield source.folder / picture.file, fault
    ours = {source.folder / picture.file for picture in known}
    for folder in sorted({file.parent for file in ours}):
        for file in _pictures(folder):
            if file not in ours:
                yield file, "does not belong to the set"


def conflict(file: Path, found: str) -> InputError:
    """Return the error for something that is in the way of a set."""
    return InputError(
        file, expected="what the set has there, or nothing", found=found,
        remedy="move it away, or set DTFN_DATA to another folder",
    )  # fmt: skip


def _same_file(file: Path, picture: Picture) -> bool:
    return _size(file) == picture.bytes and provenance.file_hash(file) == picture.sha256


def _pictures(folder: Path) -> list[Path]:
    """Return the pictures right in a folder, sorted."""
    if not folder.is_dir():
        return []
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in images.SUFFIXES and not file.name.startswith(".")
    )


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else -1
