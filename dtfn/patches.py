"""Training pictures: the leak guard, and patches from decoded pictures in memory maps.

The guard refuses training pictures that are test pictures of the field's benchmarks. It compares
perceptual hashes (imagehash's pHash of 16 x 16 cosine signs) in eight orientations. It finds a test
picture that was resized, relit, recompressed, turned, mirrored or trimmed by up to about 3 % a
side, but not one that was pasted into a larger picture, or of which more was cut off.
"""

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.distance import cdist
from torch import Tensor
from tqdm import tqdm

from dtfn import cache, datasets, files, images, paths
from dtfn.errors import InputError
from dtfn.recipes import Recipe

SIDE = 16  # cosine frequencies an axis, so 256 signs
# Differing signs up to which two pictures are one. Of 591 training and 219 test pictures the known
# leak differs in 16 and the next pair in 86; JPEG of quality 40, a quarter of the size or other
# light change at most 4, a trim by 3 % a side 44 on average.
NEAR = 60


def sources(
    sets: Sequence[str], exclude: Collection[str] = (), root: Path | None = None
) -> dict[str, Path]:
    """Return the files of sets, folders in ``root`` or embedded, by ``"<set>/<stem>"``."""
    found: dict[str, Path] = {}
    for name in sets:
        inside, folder = datasets.embedded_training(), (root or paths.training_root()) / name
        if name != "embedded":
            remedy = "run `dtfn data fetch training`, or set DTFN_TRAIN to the folder of your sets"
            inside = datasets.by_name(folder, remedy)
        found |= {f"{folder.name}/{stem}": file for stem, file in inside.items()}
    return {name: file for name, file in found.items() if name not in exclude}


def _validation(recipe: Recipe) -> dict[str, Path]:
    found = sources([recipe.validation], root=paths.validation_root())
    return dict(list(found.items())[: recipe.validation_count])


def validation_pairs(recipe: Recipe) -> list[tuple[images.UInt8, images.UInt8]]:
    """Return (LR, HR) uint8 RGB pairs of the validation pictures."""
    return [_pair(file, recipe.scale) for file in _validation(recipe).values()]


def _pair(file: Path, scale: int) -> tuple[images.UInt8, images.UInt8]:
    hr = images.modcrop(images.as_rgb(images.read(file)), scale)
    return images.degrade(hr, scale), hr


def guard(recipe: Recipe) -> None:
    """Refuse training and validation pictures that are test pictures, and name all of them."""
    inside = {n: datasets.pictures(paths.data_root() / n / "HR") for n in datasets.BENCHMARKS}
    inside = {datasets.MINI: datasets.files(datasets.MINI)} | inside
    tested = {f"{n}/{datasets.stem(file)}": file for n, some in inside.items() for file in some}
    looked = ", ".join(name for name, some in inside.items() if some)
    if found := leaks(sources(recipe.sets, recipe.exclude) | _validation(recipe), tested):
        pairs = "; ".join(f"{name} is {test}" for name, test in found.items())
        remedy = f"delete them, or add {','.join(found)} to the recipe's exclude"
        raise InputError("training pictures", f"no test picture of {looked}", pairs, remedy)
    print(f"no training picture is a test picture of {looked}", file=sys.stderr)


def leaks(training: Mapping[str, Path], tested: Mapping[str, Path]) -> dict[str, str]:
    """Return the training pictures that are test pictures, each with the nearest of these."""
    bar = tqdm([*tested.values(), *training.values()], "hash pictures", leave=False, disable=None)
    with cache.opened():
        signs = np.stack([_signs(file) for file in bar])  # (files, 8, 256)
    upright, turns = signs[: len(tested), 0], signs[len(tested) :]
    differing = cdist(turns.reshape(-1, SIDE**2), upright, "cityblock")
    differing = differing.reshape(*turns.shape[:2], -1)
    names, pairs = list(tested), zip(training, differing.min(1), strict=True)
    return {name: names[row.argmin()] for name, row in pairs if row.min() <= NEAR}


def _signs(file: Path) -> NDArray[np.bool_]:
    def made() -> cache.Arrays:
        grey = Image.fromarray(images.as_rgb(images.read(file))).convert("L")
        # The size that pHash works at, so that the picture is resized once.
        small = np.asarray(grey.resize((4 * SIDE, 4 * SIDE), Image.Resampling.LANCZOS))
        turns = [Image.fromarray(np.ascontiguousarray(_turned(small, turn))) for turn in range(8)]
        return {"signs": np.stack([imagehash.phash(turn, SIDE).hash.ravel() for turn in turns])}

    return cache.remembered(cache.key("leaks", SIDE, files.sha256(file)), made)["signs"]


def _turned(picture: NDArray[Any], turn: int) -> NDArray[Any]:
    """Return a view after so many quarter turns, from 4 on after a flip from left to right."""
    return np.rot90(picture[:, ::-1] if turn >= 4 else picture, turn % 4)


@dataclass(frozen=True, eq=False)
class Pool:
    """Decoded pictures and their LR, each kind flat in one tensor; patches are cut by index."""

    scale: int
    sizes: NDArray[np.int64]  # (P, 2) LR height and width
    layout: Tensor  # (P, 2) the first LR pixel of each picture in its tensor, and the LR width
    pixels: tuple[Tensor, Tensor]  # LR and HR, (pixels, 3) uint8 RGB
    places: tuple[Tensor, Tensor]  # (8, 2, size, size) row and column of a turned patch's pixels

    def draw(self, recipe: Recipe, step: int) -> tuple[NDArray[Any], ...]:
        """Return a step's patches by (seed, step): picture, corner (B, 2), turn in [0, 8), on."""
        rng = np.random.default_rng((recipe.seed, step))
        room = self.sizes - recipe.patch + 1
        places = room.prod(1)
        # Each patch position of the whole pool is equally likely.
        picture = rng.choice(len(places), recipe.batch, p=places / places.sum())
        corner = (rng.random((recipe.batch, 2)) * room[picture]).astype(int)
        turn = rng.integers(0, 8, recipe.batch)
        return picture, corner, turn, rng.random(recipe.batch) >= recipe.attention_off

    def cut(self, picture: Tensor, corner: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        """Return uint8 LR (B, 3, p, p) and HR (B, 3, sp, sp), in channels-last memory."""
        start, width = self.layout[picture].T[..., None, None]  # (B, 1, 1) each
        # Places in a picture fit 32 bits, which takes a quarter of the time.
        width, (top, left) = width.int(), corner.int().T[..., None, None]
        cuts = []
        for pixels, places, factor in zip(self.pixels, self.places, (1, self.scale), strict=True):
            rows, columns = places.index_select(0, turn).unbind(1)  # (B, p, p) each
            inside = (rows + factor * top) * (factor * width) + columns + factor * left
            index = inside + factor**2 * start
            cut = pixels.index_select(0, index.flatten()).view(*index.shape, 3)
            cuts.append(cut.permute(0, 3, 1, 2))
        return cuts[0], cuts[1]

    def batch(self, recipe: Recipe, step: int, rank: int = 0, world: int = 1) -> list[Tensor]:
        """Return LR, HR and where attention is on: a process's part of the global batch."""
        drawn = [torch.from_numpy(part[rank::world]) for part in self.draw(recipe, step)]
        return [*self.cut(*drawn[:3]), drawn[3]]


def pool(recipe: Recipe, device: torch.device | str = "cpu") -> Pool:
    """Return the decoded pictures of a recipe of at least a patch, on a CPU as memory maps."""
    pictures, scale = sources(recipe.sets, recipe.exclude), recipe.scale
    named = (part for name, file in pictures.items() for part in (name, files.sha256(file)))
    # The 3 is the format of the files; raise it when pictures would be stored otherwise.
    place = paths.CACHE / "patches" / cache.key("patches", 3, scale, *named)[:16]
    index, *raw = (place.with_suffix(suffix) for suffix in (".json", ".lr", ".hr"))
    if not index.exists():
        shapes = []
        with (
            files.replacing(raw[0]) as lr_draft,
            files.replacing(raw[1]) as hr_draft,
            lr_draft.open("wb") as lr_file,
            hr_draft.open("wb") as hr_file,
            ThreadPoolExecutor(os.cpu_count()) as threads,  # decoding leaves the interpreter's lock
        ):
            decoded = threads.map(lambda file: _pair(file, scale), pictures.values())
            for pair in tqdm(decoded, f"decode x{scale}", len(pictures), leave=False, disable=None):
                for file, picture in zip((lr_file, hr_file), pair, strict=True):
                    file.write(np.ascontiguousarray(picture).data)
                shapes.append(pair[0].shape[:2])
        files.write_json(index, shapes)  # last: where it is, the others are whole
    sizes = np.array(files.read_json(index, []))
    starts = np.cumsum(sizes.prod(1)) - sizes.prod(1)
    large = np.all(sizes >= recipe.patch, axis=1)
    if not large.any():
        wanted = f"some of at least {recipe.patch * scale} pixels a side"
        raise InputError("training pictures", wanted, "none", "choose a smaller patch")
    maps = [np.asarray(np.memmap(file, np.uint8, "c")).reshape(-1, 3) for file in raw]
    lr, hr = (torch.from_numpy(pixels).to(device) for pixels in maps)
    layout = torch.from_numpy(np.stack((starts, sizes[:, 1]), 1)[large]).to(device)
    places = []
    for size in (recipe.patch, scale * recipe.patch):
        grid = np.moveaxis(np.mgrid[:size, :size], 0, -1)
        turned = np.moveaxis(np.stack([_turned(grid, turn) for turn in range(8)]), -1, 1)
        places.append(torch.from_numpy(turned.astype(np.int32, order="C")).to(device))
    return Pool(scale, sizes[large], layout, (lr, hr), (places[0], places[1]))
