"""Training patches: pictures decoded once into a memory-mapped cache, batches a function of (seed, step)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dtfn import datasets, images, paths
from dtfn.errors import InputError

Pixels = NDArray[np.uint8]

# Pictures of the training sets that are test pictures under another name.
LEAKS = {"BSD200/302003": "Set5/woman"}
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def files(name: str, root: Path) -> list[Path]:
    """Return the pictures of a training set, sorted, without those that are test pictures.

    Parameters
    ----------
    name
        Name of a folder in ``root``, or a path.
    root
        Folder that holds the sets.

    Raises
    ------
    InputError
        There is no such folder or no picture in it.
    """
    folder = root / name
    found = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(
            folder, expected="a folder of training pictures", found="none",
            remedy=f"run `dtfn data fetch {name}` or set DTFN_TRAIN to the folder of the training sets",
        )  # fmt: skip
    return [p for p in found if f"{folder.name}/{p.stem}" not in LEAKS]


@dataclass(frozen=True)
class Pool:
    """Decoded pictures and their LR, flat in two memory maps.

    Attributes
    ----------
    names
        One a picture.
    sizes
        (P, 2) LR height and width.
    starts
        (P,) first LR pixel of each picture in ``lr``; times scale**2 in ``hr``.
    lr, hr
        (pixels, 3) uint8 RGB.
    scale
        HR pixels an LR pixel and axis.
    """

    names: tuple[str, ...]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    lr: Pixels
    hr: Pixels
    scale: int

    def picture(self, index: int) -> tuple[Pixels, Pixels]:
        """Return views (h, w, 3) and (sh, sw, 3) of one picture's LR and HR."""
        height, width = self.sizes[index]
        first, count, s = self.starts[index], height * width, self.scale
        lr = self.lr[first : first + count].reshape(height, width, 3)
        hr = self.hr[first * s * s : (first + count) * s * s].reshape(height * s, width * s, 3)
        return lr, hr


def pool(sets: Sequence[str], scale: int, patch: int) -> Pool:
    """Return the decoded pictures of the training sets that are at least one patch large.

    The cache is keyed by the files' content and the scale, so it can never be stale.

    Parameters
    ----------
    sets
        Names of folders in `paths.training_root`, paths, or ``"embedded"``.
    scale
        2, 3 or 4.
    patch
        LR size of a patch; smaller pictures are left out.
    """
    sources: dict[str, Path | Pixels] = {}
    for name in sets:
        if name == "embedded":
            sources |= {f"embedded/{k}": v for k, v in datasets.embedded_training().items()}
        else:
            sources |= {f"{name}/{p.stem}": p for p in files(name, paths.training_root())}
    digest = hashlib.sha256(f"1 {scale}".encode())
    for name, source in sources.items():
        content = source.read_bytes() if isinstance(source, Path) else source.tobytes()
        digest.update(name.encode() + hashlib.sha256(content).digest())
    folder = paths.CACHE / "patches" / digest.hexdigest()[:16]
    if not (folder / "index.json").exists():
        _decode(sources, scale, folder)
    return _opened(folder, scale, patch)


def _decode(sources: Mapping[str, Path | Pixels], scale: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    index = []
    with (folder / "lr.raw").open("wb") as lr_file, (folder / "hr.raw").open("wb") as hr_file:
        for name, source in tqdm(sources.items(), desc=f"decode x{scale}", leave=False):
            stored = images.read(source) if isinstance(source, Path) else source
            hr = images.modcrop(images.as_rgb(stored), scale)
            lr = images.degrade(hr, scale)
            lr_file.write(np.ascontiguousarray(lr).tobytes())
            hr_file.write(np.ascontiguousarray(hr).tobytes())
            index.append([name, lr.shape[0], lr.shape[1]])
    # The index comes last: a decode that was cut short is done again.
    (folder / "index.json").write_text(json.dumps(index))


def _opened(folder: Path, scale: int, patch: int) -> Pool:
    index = json.loads((folder / "index.json").read_text())
    sizes = np.array([row[1:] for row in index], np.int64)
    starts = np.concatenate(([0], np.cumsum(sizes.prod(1))[:-1]))
    large = (sizes >= patch).all(1)
    if not large.any():
        raise InputError(
            "training pictures", expected=f"some of at least {patch * scale} pixels a side",
            found=f"the largest is {sizes.max(0) * scale}", remedy="choose a smaller patch",
        )  # fmt: skip
    maps = [np.memmap(folder / f"{kind}.raw", np.uint8, "r").reshape(-1, 3) for kind in ("lr", "hr")]
    names = tuple(row[0] for row, keep in zip(index, large, strict=True) if keep)
    return Pool(names, sizes[large], starts[large], maps[0], maps[1], scale)


@dataclass(frozen=True)
class Batches:
    """Batches as a function of the step: nothing to store, so a resumed run continues exactly.

    Use as the dataset of a `torch.utils.data.DataLoader` with ``batch_size=None`` whose sampler
    yields steps. Processes of one run cut disjoint parts of the same global batch.

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
    rank, world
        Index and number of processes.
    """

    pool: Pool
    batch: int
    patch: int
    seed: int
    rank: int = 0
    world: int = 1

    def __getitem__(self, step: int) -> tuple[Pixels, Pixels]:
        """Return LR (B, 3, p, p) and HR (B, 3, sp, sp) of one step, uint8, randomly flipped and turned."""
        rng = np.random.default_rng((self.seed, step))
        room = self.pool.sizes - self.patch + 1
        places = room.prod(1)
        # Each patch position of the whole pool is equally likely.
        chosen = rng.choice(len(places), self.batch, p=places / places.sum())
        corner = (rng.random((self.batch, 2)) * room[chosen]).astype(int)
        turn = rng.integers(0, 8, self.batch)
        mine = range(self.rank, self.batch, self.world)
        pairs = [self._patch(int(chosen[i]), corner[i], int(turn[i])) for i in mine]
        lr, hr = (np.stack(part).transpose(0, 3, 1, 2) for part in zip(*pairs, strict=True))
        return np.ascontiguousarray(lr), np.ascontiguousarray(hr)

    def __iter__(self) -> Iterator[tuple[Pixels, Pixels]]:
        """Refuse iteration: there is no last step."""
        raise TypeError("iterate over steps: batches[step]")

    def _patch(self, index: int, corner: NDArray[np.int64], turn: int) -> tuple[Pixels, Pixels]:
        (top, left), p, s = corner, self.patch, self.pool.scale
        lr, hr = self.pool.picture(index)
        pair = lr[top : top + p, left : left + p], hr[s * top : s * (top + p), s * left : s * (left + p)]
        small, large = (np.rot90(part[:, ::-1] if turn >= 4 else part, turn % 4) for part in pair)
        return small, large
