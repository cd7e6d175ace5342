"""Training patches: pictures decoded once into memory maps, batches a function of (seed, step)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dtfn import datasets, images, paths, recipes
from dtfn.errors import InputError
from dtfn.files import sha256, write_json, writing

Pixels = NDArray[np.uint8]
Source = Path | Pixels

EMBEDDED = "embedded"
FORMAT = "2"  # of the cache on disk; raise it when the same pictures would be stored otherwise


def files(folder: Path) -> list[Path]:
    """Return the pictures of a folder, sorted by name.

    Raises
    ------
    InputError
        There is no such folder or no picture in it.
    """
    found = datasets.pictures(folder)
    if not found:
        raise InputError(
            folder,
            "a folder of pictures",
            "no picture in it" if folder.is_dir() else "no such folder",
            "run `dtfn data fetch training`, or set DTFN_TRAIN to the folder of your sets",
        )
    return found


def sources(
    sets: Sequence[str], exclude: Collection[str] = recipes.KNOWN_LEAKS
) -> dict[str, Source]:
    """Return the pictures of training sets by name, ``"<set>/<stem>"``, not yet decoded.

    Parameters
    ----------
    sets
        Names of folders in `dtfn.paths.training_root`, paths of folders, or ``"embedded"``.
    exclude
        Names of pictures to leave out.

    Raises
    ------
    InputError
        A missing or empty folder, two files of one stem, or nothing left.
    """
    found: dict[str, Source] = {}
    for name in sets:
        if name == EMBEDDED:
            found |= {f"{EMBEDDED}/{k}": v for k, v in datasets.embedded_training().items()}
            continue
        folder = paths.training_root() / name
        for file in files(folder):
            picture = f"{folder.name}/{datasets.stem(file)}"
            if picture in found:
                raise InputError(
                    folder, f"one picture named {picture}", "two", "rename one of them"
                )
            found[picture] = file
    kept = {name: source for name, source in found.items() if name not in exclude}
    if not kept:
        raise InputError("training pictures", "one or more", "none", "exclude fewer")
    return kept


def content(source: Source) -> str:
    """Return the SHA-256 of a picture's file, or of its pixels and shape."""
    if isinstance(source, Path):
        return sha256(source)
    return hashlib.sha256(f"{source.shape}".encode() + source.tobytes()).hexdigest()


def decode(source: Source) -> Pixels:
    """Return a picture as uint8 RGB (H, W, 3)."""
    return images.as_rgb(images.read(source) if isinstance(source, Path) else source)


@dataclass(frozen=True, eq=False)
class Pool:
    """Decoded pictures and their LR, flat in two memory maps.

    Attributes
    ----------
    folder, patch
        What it was opened from, and for.
    scale
        HR pixels an LR pixel and axis.
    names
        One a picture.
    sizes
        (P, 2) LR height and width.
    starts
        (P,) first LR pixel of each picture in ``lr``; times scale**2 in ``hr``.
    lr, hr
        (pixels, 3) uint8 RGB.
    """

    folder: Path
    scale: int
    patch: int
    names: tuple[str, ...]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    lr: Pixels
    hr: Pixels

    def __reduce__(self) -> tuple[object, ...]:
        """Let a worker process open the maps anew; pickling them would copy all pixels."""
        return _opened, (self.folder, self.scale, self.patch)

    def picture(self, index: int) -> tuple[Pixels, Pixels]:
        """Return views (h, w, 3) and (sh, sw, 3) of one picture's LR and HR."""
        height, width = self.sizes[index]
        first, count, s = self.starts[index], height * width, self.scale
        lr = self.lr[first : first + count].reshape(height, width, 3)
        hr = self.hr[first * s * s : (first + count) * s * s].reshape(height * s, width * s, 3)
        return lr, hr


def pool(
    sets: Sequence[str], scale: int, patch: int, exclude: Collection[str] = recipes.KNOWN_LEAKS
) -> Pool:
    """Return the decoded pictures of the training sets that are at least one patch large.

    Decoded once: the cache is keyed by the files' content and the scale, so it is never stale.

    Parameters
    ----------
    sets, exclude
        See `sources`.
    scale
        2, 3 or 4.
    patch
        LR size of a patch; smaller pictures are left out.

    Raises
    ------
    InputError
        As `sources`; an unreadable picture; no picture is large enough.
    """
    pictures = sources(sets, exclude)
    digest = hashlib.sha256(f"{FORMAT} {scale}".encode())
    for name, source in pictures.items():
        digest.update(f" {name} {content(source)}".encode())
    folder = paths.CACHE / "patches" / digest.hexdigest()[:16]
    if not _whole(folder, scale):
        with writing(folder):
            _decode(pictures, scale, folder)
    return _opened(folder, scale, patch)


def _decode(pictures: Mapping[str, Source], scale: int, folder: Path) -> None:
    """Fill a folder of its own and move it into place whole, so that nobody sees half a cache."""
    partial = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    partial.mkdir(parents=True)
    try:
        index = []
        # Threads pay: decoding and resampling spend their time outside the interpreter's lock.
        with (
            (partial / "lr.raw").open("wb") as lr_file,
            (partial / "hr.raw").open("wb") as hr_file,
            ThreadPoolExecutor(os.cpu_count()) as threads,
        ):
            decoded = threads.map(lambda source: _pair(source, scale), pictures.values())
            bar = tqdm(decoded, f"decode x{scale}", len(pictures), leave=False, disable=None)
            for name, (lr, hr) in zip(pictures, bar, strict=True):
                lr_file.write(np.ascontiguousarray(lr).data)
                hr_file.write(np.ascontiguousarray(hr).data)
                index.append([name, *lr.shape[:2]])
        write_json(partial / "index.json", index)
        if folder.exists() and not _whole(folder, scale):
            shutil.rmtree(folder)
        try:
            partial.rename(folder)
        except OSError:
            if not _whole(folder, scale):  # else another process was faster: its cache is the same
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _pair(source: Source, scale: int) -> tuple[Pixels, Pixels]:
    hr = images.modcrop(decode(source), scale)
    return images.degrade(hr, scale), hr


def _whole(folder: Path, scale: int) -> bool:
    """Return whether a cache is there with all of its bytes."""
    try:
        index = json.loads((folder / "index.json").read_text())
        pixels = sum(height * width for _, height, width in index)
        sizes = [(folder / f"{kind}.raw").stat().st_size for kind in ("lr", "hr")]
    except (OSError, ValueError):
        return False
    return sizes == [3 * pixels, 3 * pixels * scale**2]


def _opened(folder: Path, scale: int, patch: int) -> Pool:
    index = json.loads((folder / "index.json").read_text())
    sizes = np.array([row[1:] for row in index], np.int64)
    starts = np.concatenate(([0], np.cumsum(sizes.prod(1))[:-1]))
    large = np.all(sizes >= patch, axis=1)
    if not large.any():
        raise InputError(
            "training pictures",
            f"some of at least {patch * scale} pixels a side",
            f"none; the largest sides are {sizes.max(0) * scale}",
            "choose a smaller patch",
        )
    # Plain arrays over the maps: slicing the memmap class itself costs more than cutting a patch.
    maps = [np.asarray(np.memmap(folder / f"{k}.raw", np.uint8, "r")) for k in ("lr", "hr")]
    lr, hr = (pixels.reshape(-1, 3) for pixels in maps)
    names = tuple(row[0] for row, keep in zip(index, large.tolist(), strict=True) if keep)
    return Pool(folder, scale, patch, names, sizes[large], starts[large], lr, hr)


class Draw(NamedTuple):
    """Which patches make one batch, as arrays with a row a patch.

    Attributes
    ----------
    picture
        (B,) index into the pool.
    corner
        (B, 2) top and left LR pixel.
    turn
        (B,) in [0, 8): quarter turns, after a flip from left to right from 4 on.
    on
        (B,) bool: False where the picture's attention is skipped.
    """

    picture: NDArray[np.int64]
    corner: NDArray[np.int64]
    turn: NDArray[np.int64]
    on: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches as a function of the step: nothing to store, so a resumed run continues exactly.

    Use as the dataset of a `torch.utils.data.DataLoader` with ``batch_size=None`` whose sampler
    yields steps; which of its workers cuts a batch makes no difference. The processes of a run cut
    disjoint parts of the same global batch.

    Attributes
    ----------
    pool
        Pictures.
    batch
        Patches of the global batch.
    patch
        LR size of a patch.
    seed
        Of the run.
    attention_off
        Probability that a picture's attention is skipped.
    rank, world
        Index and number of processes; the number divides ``batch``.
    """

    pool: Pool
    batch: int
    patch: int
    seed: int
    attention_off: float = 0.0
    rank: int = 0
    world: int = 1

    def draw(self, step: int) -> Draw:
        """Return the patches of a step's global batch, a function of (seed, step) alone."""
        rng = np.random.default_rng((self.seed, step))
        room = self.pool.sizes - self.patch + 1
        places = room.prod(1)
        # Each patch position of the whole pool is equally likely.
        picture = rng.choice(len(places), self.batch, p=places / places.sum())
        corner = (rng.random((self.batch, 2)) * room[picture]).astype(int)
        turn = rng.integers(0, 8, self.batch)
        return Draw(picture, corner, turn, rng.random(self.batch) >= self.attention_off)

    def __getitem__(self, step: int) -> tuple[Pixels, Pixels, NDArray[np.bool_]]:
        """Return LR (B, 3, p, p), HR (B, 3, sp, sp), and (B,) where attention is on."""
        drawn = self.draw(step)
        mine = slice(self.rank, None, self.world)
        places = zip(*(part[mine] for part in drawn[:3]), strict=True)
        pairs = [self._patch(*place) for place in places]
        lr, hr = (np.stack(kind) for kind in zip(*pairs, strict=True))
        return lr, hr, drawn.on[mine]

    def __iter__(self) -> Iterator[tuple[Pixels, Pixels]]:
        """Refuse iteration: there is no last step."""
        raise TypeError("iterate over steps: batches[step]")

    def _patch(self, index: int, corner: NDArray[np.int64], turn: int) -> list[Pixels]:
        """Return views (3, p, p) and (3, sp, sp) into one picture's LR and HR."""
        views = []
        for picture, factor in zip(self.pool.picture(index), (1, self.pool.scale), strict=True):
            (top, left), size = factor * corner, factor * self.patch
            part = picture[top : top + size, left : left + size]
            turned = np.rot90(part[:, ::-1] if turn >= 4 else part, turn % 4)
            views.append(turned.transpose(2, 0, 1))
        return views
