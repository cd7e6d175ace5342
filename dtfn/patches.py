"""Training pictures: the leak guard, and patches from decoded pictures in memory maps.

The guard refuses training pictures that are test pictures of the field's benchmarks (whatever else
lies in the data folder is somebody's own). It compares perceptual hashes (imagehash's pHash of
16 x 16 cosine signs) in eight orientations. It finds a test picture that was resized, relit,
recompressed, turned, mirrored or trimmed by up to about 3 % a side, but not one that was pasted
into a larger picture, or of which more was cut off.
"""

from __future__ import annotations

import json
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
from torch import Tensor
from tqdm import tqdm

from dtfn import cache, datasets, files, images, paths
from dtfn.errors import InputError
from dtfn.recipes import Recipe

Pixels = NDArray[np.uint8]
Source = Path | Pixels

EMBEDDED = "embedded"
FORMAT = 3  # of the decoded pictures on disk; raise it when they would be stored otherwise
SIDE = 16  # cosine frequencies an axis, so 256 signs
# Differing signs up to which two pictures are one. Of 591 training and 219 test pictures the known
# leak differs in 16 and the next pair in 86; JPEG of quality 40, a quarter of the size or other
# light change at most 4, a trim by 3 % a side 44 on average.
NEAR = 60


def sources(
    sets: Sequence[str], exclude: Collection[str] = (), root: Path | None = None
) -> dict[str, Source]:
    """Return the pictures of sets by name, ``"<set>/<stem>"``, not yet decoded.

    A set is ``"embedded"`` or a folder in ``root``, by default `dtfn.paths.training_root`; a
    missing or empty one is an `InputError`.
    """
    found: dict[str, Source] = {}
    for name in sets:
        if name == EMBEDDED:
            found |= {f"{EMBEDDED}/{k}": v for k, v in datasets.embedded_training().items()}
            continue
        folder = (root or paths.training_root()) / name
        remedy = "run `dtfn data fetch training`, or set DTFN_TRAIN to the folder of your sets"
        inside = datasets.by_name(folder, remedy)
        found |= {f"{folder.name}/{stem}": file for stem, file in inside.items()}
    return {name: source for name, source in found.items() if name not in exclude}


def _validation(recipe: Recipe) -> dict[str, Source]:
    found = sources([recipe.validation], root=paths.validation_root())
    return dict(list(found.items())[: recipe.validation_count])


def validation_pairs(recipe: Recipe) -> list[tuple[Pixels, Pixels]]:
    """Return (LR, HR) uint8 RGB pairs of the validation pictures."""
    return [_pair(source, recipe.scale) for source in _validation(recipe).values()]


def _pair(source: Source, scale: int) -> tuple[Pixels, Pixels]:
    hr = images.modcrop(_decoded(source), scale)
    return images.degrade(hr, scale), hr


def _decoded(source: Source) -> Pixels:
    return images.as_rgb(images.read(source) if isinstance(source, Path) else source)


def _content(source: Source) -> str | Pixels:
    """Return what `cache.key` takes for a picture."""
    return files.sha256(source) if isinstance(source, Path) else source


def guard(recipe: Recipe) -> None:
    """Refuse training and validation pictures that are test pictures, and say what was compared.

    Hashes are remembered by content, so only new pictures take time (10 ms each). The `InputError`
    names all that are test pictures.
    """
    mini = datasets.benchmark(datasets.MINI, 2)
    tested: dict[str, Source] = {f"{one.dataset}/{one.image}": one.hr for one in mini}
    for name in datasets.BENCHMARKS:
        for file in datasets.pictures(paths.data_root() / name / "HR"):
            tested[f"{name}/{datasets.stem(file)}"] = file
    looked = ", ".join(dict.fromkeys(name.partition("/")[0] for name in tested))
    found = leaks(sources(recipe.sets, recipe.exclude) | _validation(recipe), tested)
    if found:
        pairs = "; ".join(f"{name} is {test}" for name, test in found.items())
        remedy = f"delete them, or add {','.join(found)} to the recipe's exclude"
        raise InputError("training pictures", f"no test picture of {looked}", pairs, remedy)
    print(f"no training picture is a test picture of {looked}", file=sys.stderr)


def leaks(training: Mapping[str, Source], tested: Mapping[str, Source]) -> dict[str, str]:
    """Return the training pictures that are test pictures, each with the nearest of these."""
    upright, names = _hashes(tested)[:, 0], list(tested)
    found = {}
    for name, turns in zip(training, _hashes(training), strict=True):
        distances = (turns[:, None] != upright).sum(2).min(0)
        if distances.min() <= NEAR:
            found[name] = names[distances.argmin()]
    return found


def _hashes(pictures: Mapping[str, Source]) -> NDArray[np.bool_]:
    """Return the hashes (P, 8, 256) of pictures, remembered by content."""
    with cache.opened():
        rows = []
        for source in tqdm(pictures.values(), "hash pictures", leave=False, disable=None):
            key = cache.key("leaks", SIDE, _content(source))
            rows.append(cache.remembered(key, lambda s=source: {"signs": _signs(_decoded(s))}))  # type: ignore[misc]
    return np.stack([row["signs"] for row in rows])


def _signs(picture: Pixels) -> NDArray[np.bool_]:
    """Return the hashes (8, 256) of a picture in its eight orientations."""
    size = (4 * SIDE, 4 * SIDE)  # that pHash works at, so that the picture is resized once
    grey = Image.fromarray(picture).convert("L").resize(size, Image.Resampling.LANCZOS)
    turns = [np.ascontiguousarray(_turned(np.asarray(grey), turn)) for turn in range(8)]
    return np.stack([imagehash.phash(Image.fromarray(t), SIDE).hash.ravel() for t in turns])


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
    # For LR and HR (8, 2, size, size): row and column in a patch of each pixel of the patch in
    # eight orientations.
    places: tuple[Tensor, Tensor]

    def draw(self, recipe: Recipe, step: int) -> tuple[NDArray[Any], ...]:
        """Return which patches make the global batch of a step, a function of (seed, step) alone.

        These are index of the picture (B,), top and left LR pixel (B, 2), orientation in [0, 8)
        (B,), and (B,) whether attention is on.
        """
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
        """Return LR, HR and where attention is on, as `cut` and `draw`: the share of a process.

        The processes of a run, ``rank`` of ``world``, cut disjoint parts of the same global batch.
        """
        drawn = [torch.from_numpy(part[rank::world]) for part in self.draw(recipe, step)]
        return [*self.cut(*drawn[:3]), drawn[3]]


def pool(recipe: Recipe, device: torch.device | str = "cpu") -> Pool:
    """Return the decoded pictures of a recipe's sets that are at least one patch large.

    Decoded once: the cache is keyed by the files' content and the scale, so it is never stale. On
    the CPU the pixels are memory maps. An unreadable picture, or none that is large enough, is an
    `InputError`.
    """
    pictures, scale = sources(recipe.sets, recipe.exclude), recipe.scale
    named = (part for name, source in pictures.items() for part in (name, _content(source)))
    place = paths.CACHE / "patches" / cache.key("patches", FORMAT, scale, *named)[:16]
    index, *raw = (place.with_suffix(suffix) for suffix in (".json", ".lr", ".hr"))
    if not index.exists():
        shapes = []
        # Threads pay: decoding and resampling spend their time outside the interpreter's lock.
        with (
            files.replacing(raw[0]) as lr_draft,
            files.replacing(raw[1]) as hr_draft,
            lr_draft.open("wb") as lr_file,
            hr_draft.open("wb") as hr_file,
            ThreadPoolExecutor(os.cpu_count()) as threads,
        ):
            decoded = threads.map(lambda source: _pair(source, scale), pictures.values())
            bar = tqdm(decoded, f"decode x{scale}", len(pictures), leave=False, disable=None)
            for lr, hr in bar:
                lr_file.write(np.ascontiguousarray(lr).data)
                hr_file.write(np.ascontiguousarray(hr).data)
                shapes.append(lr.shape[:2])
        files.write_json(index, shapes)  # last: where it is, the others are whole
    sizes = np.array(json.loads(index.read_text()))
    starts = np.cumsum(sizes.prod(1)) - sizes.prod(1)
    large = np.all(sizes >= recipe.patch, axis=1)
    if not large.any():
        wanted = f"some of at least {recipe.patch * scale} pixels a side"
        found = f"none; the largest sides are {sizes.max(0) * scale}"
        raise InputError("training pictures", wanted, found, "choose a smaller patch")
    maps = [np.asarray(np.memmap(file, np.uint8, "c")).reshape(-1, 3) for file in raw]
    lr, hr = (torch.from_numpy(pixels).to(device) for pixels in maps)
    layout = torch.from_numpy(np.stack((starts, sizes[:, 1]), 1)[large]).to(device)
    places = [_places(factor * recipe.patch).to(device) for factor in (1, scale)]
    return Pool(scale, sizes[large], layout, (lr, hr), (places[0], places[1]))


def _places(size: int) -> Tensor:
    grid = np.moveaxis(np.mgrid[:size, :size], 0, -1)
    turned = np.stack([_turned(grid, turn) for turn in range(8)])
    return torch.from_numpy(np.moveaxis(turned, -1, 1).astype(np.int32, order="C"))
