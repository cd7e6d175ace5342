"""Zip files of pictures: unpacked flat, with a record of what was in them."""

from __future__ import annotations

import csv
import hashlib
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from dtfn import images
from dtfn.download import sources
from dtfn.download.sources import Picture
from dtfn.errors import InputError

RECORD = ".pictures.csv"
_CHUNK = 1 << 20


def unpack(
    archive: Path, folder: Path, pictures: int, check: Callable[[], object] = lambda: None
) -> None:
    """Unpack the pictures of a zip file into a new folder, whatever folders they lie in there.

    The folder appears whole or not at all, with a record of its files.

    Parameters
    ----------
    archive
        The zip file, whose hash has been checked.
    folder
        To make; its parent need not exist.
    pictures
        How many there must be.
    check
        Called between pictures; may raise to end it.

    Raises
    ------
    InputError
        If it is no sound zip file, or holds another number of pictures.
    """
    draft = archive.with_name(f"{archive.name}.unpacked")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        with zipfile.ZipFile(archive) as file:
            members = _pictures(file)
            if len(members) != pictures:
                raise InputError(
                    archive.name, expected=f"{pictures} pictures", found=len(members),
                    remedy="tell the authors of dtfn: the archive has changed its layout",
                )  # fmt: skip
            rows = []
            for name, member in sorted(members.items()):
                check()
                rows.append((name, member.file_size, _extract(file, member, draft / name), ""))
        with (draft / RECORD).open("w", newline="", encoding="utf-8") as record:
            csv.writer(record).writerows([("file", "bytes", "sha256", "pixels"), *rows])
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft.rename(folder)
    except zipfile.BadZipFile as error:
        raise InputError(
            archive.name, expected="a sound zip file", found=error, remedy="fetch it again"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def recorded(folder: Path) -> tuple[Picture, ...]:
    """Return what `unpack` put into a folder; nothing, if it did not make it."""
    record = folder / RECORD
    return sources.pictures(record.read_text(encoding="utf-8")) if record.is_file() else ()


def _pictures(file: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the pictures by their bare names: no path in a zip file can lead out of the folder."""
    return {
        PurePosixPath(member.filename).name: member
        for member in file.infolist()
        if PurePosixPath(member.filename).suffix.lower() in images.SUFFIXES
        and not PurePosixPath(member.filename).name.startswith(".")
    }


def _extract(file: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> str:
    """Write a member and return its SHA-256."""
    digest = hashlib.sha256()
    with file.open(member) as source, target.open("wb") as copy:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            copy.write(chunk)
    return digest.hexdigest()
