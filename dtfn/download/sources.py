"""Where each set of pictures comes from, on what terms, and what exactly it holds."""

from __future__ import annotations

import csv
import functools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from dtfn import paths
from dtfn.errors import InputError, nearest

# Where a set lies below a copy of the data folder that somebody else serves.
_BELOW = {"data": "", "train": "train/", "val": "val/"}


@dataclass(frozen=True)
class Picture:
    """A file of a set.

    Attributes
    ----------
    file
        Below the set's folder, e.g. ``"HR/baby.png"``.
    bytes, sha256
        Of the file.
    pixels
        SHA-256 of the decoded samples, row by row as stored (grey or RGB, 8 bits); empty where
        nobody has published it.
    """

    file: str
    bytes: int
    sha256: str
    pixels: str = ""


@dataclass(frozen=True)
class Archive:
    """A zip file that holds a whole set.

    Attributes
    ----------
    file, bytes, sha256
        Its name, size and SHA-256.
    pictures
        How many are in it.
    """

    file: str
    bytes: int
    sha256: str
    pictures: int


@dataclass(frozen=True, eq=False)
class Source:
    """A set of pictures: either single files, or an archive, or one that each user applies for.

    Attributes
    ----------
    name, about
        For the user.
    terms
        What is known of the licence, in one line.
    place
        ``"data"``, ``"train"`` or ``"val"``.
    below
        Folder below the place.
    urls
        Templates, in the order to try: ``{repository}``, ``{commit}``, ``{path}``, ``{sha256}`` and
        ``{here}``, the path below a data folder.
    repository, commit, folders
        Where the single files lie; ``folders`` maps a folder of the set to one of the repository.
    pictures, archive, by_hand
        One of the three: the files, the archive, or what the user has to do.
    groups, aliases
        Other words for it, alone or with others.
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
    pictures: tuple[Picture, ...] = ()
    archive: Archive | None = None
    by_hand: str = ""
    groups: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        """The folder of its place, as the environment says now."""
        return {
            "data": paths.data_root,
            "train": paths.training_root,
            "val": paths.validation_root,
        }[self.place]()

    @property
    def folder(self) -> Path:
        """The set's folder."""
        return self.root / self.below

    @property
    def bytes(self) -> int:
        """To download."""
        return self.archive.bytes if self.archive else sum(p.bytes for p in self.pictures)

    @property
    def count(self) -> int:
        """Pictures; 0 if not known."""
        return self.archive.pictures if self.archive else len(self.pictures)

    def addresses(self, what: Picture | Archive, mirrors: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the URLs of a file, in the order to try.

        Parameters
        ----------
        what
            A picture of the set, or its archive.
        mirrors
            URLs of copies of a data folder, tried first.
        """
        if isinstance(what, Archive):
            path = here = what.file
        else:
            file = PurePosixPath(what.file)
            path = str(PurePosixPath((self.folders or {})[str(file.parent)]) / file.name)
            here = f"{_BELOW[self.place]}{self.below}/{what.file}"
        names = {
            "repository": self.repository,
            "commit": self.commit,
            "path": quote(path),
            "sha256": what.sha256,
            "here": quote(here),
        }
        own = [f"{mirror.rstrip('/')}/{{here}}" for mirror in mirrors]
        return tuple(template.format(**names) for template in [*own, *self.urls])


@functools.cache
def catalogue() -> dict[str, Source]:
    """Return every set by its name, in the order of the list that is shipped."""
    folder = resources.files("dtfn.download") / "resources"
    table = tomllib.loads((folder / "sources.toml").read_text(encoding="utf-8"))
    found = {}
    for name, row in table["sets"].items():
        terms = table["terms"][row["terms"]]
        if "archive" in row:
            row |= {"archive": Archive(**row["archive"]), "urls": tuple(table["hosts"]["div2k"])}
        elif "by_hand" not in row:
            text = (folder / "pictures" / f"{name}.csv").read_text(encoding="utf-8")
            row |= {"pictures": pictures(text), "urls": tuple(table["hosts"]["git"])}
        row |= {"name": name, "terms": terms, "below": row.pop("folder", name)}
        row |= {key: tuple(row.get(key, ())) for key in ("groups", "aliases")}
        found[name] = Source(**row)
    return found


def pictures(text: str) -> tuple[Picture, ...]:
    """Return the pictures that a CSV text of ``file,bytes,sha256,pixels`` lists."""
    return tuple(
        Picture(row["file"], int(row["bytes"]), row["sha256"], row["pixels"])
        for row in csv.DictReader(text.splitlines())
    )


def chosen(names: Iterable[str], known: Mapping[str, Source]) -> list[Source]:
    """Return the sets that names, aliases and groups mean, each once, in the order given.

    Raises
    ------
    InputError
        For a name that is none of them; the nearest is named.
    """
    meant: dict[str, list[Source]] = {}
    for source in known.values():
        for word in (source.name, *source.aliases, *source.groups):
            meant.setdefault(word, []).append(source)
    found: dict[str, Source] = {}
    for name in names:
        if name not in meant:
            raise InputError(
                "data", expected="names or groups of sets of pictures", found=repr(name),
                remedy=f"{nearest(name, meant)}; `dtfn data list` shows all",
            )  # fmt: skip
        found |= {source.name: source for source in meant[name]}
    return list(found.values())
