"""Leak guard: no training picture may be a test picture.

Pictures are compared by their perceptual hash (imagehash's pHash of 16 x 16 cosine signs), in eight
orientations. It finds a test picture that was resized, relit, recompressed, turned, mirrored or
trimmed by up to about 3 % a side. It does not find a test picture that was pasted into a larger
one, or of which more was cut off.

Only the benchmarks of the field are looked at: whatever else lies in the data folder is somebody's
own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from dtfn import datasets, files, patches, paths
from dtfn.errors import InputError
from dtfn.patches import Source

SIDE = 16  # cosine frequencies an axis, so 256 signs
# Differing signs up to which two pictures are one. Of 591 training and 219 test pictures the known
# leak differs in 16 and the next pair in 86; JPEG of quality 40, a quarter of the size or other
# light change at most 4, a trim by 3 % a side 44 on average.
NEAR = 60


@dataclass(frozen=True)
class Leak:
    """A training picture that is a test picture.

    Attributes
    ----------
    training, test
        Names, ``"<set>/<stem>"``.
    distance
        How many of the 256 signs of their hashes differ.
    """

    training: str
    test: str
    distance: int


def guard(training: Mapping[str, Source]) -> tuple[str, ...]:
    """Refuse training pictures that are test pictures; return the benchmarks that were looked at.

    Hashes are remembered by content, so only new pictures take time (10 ms each).

    Parameters
    ----------
    training
        From `dtfn.patches.sources`.

    Raises
    ------
    InputError
        There are such pictures; all are named.
    """
    tested = tests()
    looked = tuple(dict.fromkeys(name.partition("/")[0] for name in tested))
    logging.getLogger("dtfn").info("training pictures compared with %s", ", ".join(looked))
    leaks = compare(training, tested)
    if leaks:
        names = ",".join(dict.fromkeys(leak.training for leak in leaks))
        raise InputError(
            "training pictures",
            f"none of the test pictures of {', '.join(looked)}",
            "; ".join(f"{leak.training} is {leak.test}" for leak in leaks),
            f"delete them, or leave them out by adding {names} to the recipe's exclude",
        )
    return looked


def tests() -> dict[str, Source]:
    """Return the pictures of the known benchmarks in the data root, and of the embedded one."""
    mini = datasets.benchmark(datasets.MINI, 2)
    pictures: dict[str, Source] = {f"{s.dataset}/{s.image}": s.hr for s in mini}
    for name in datasets.BENCHMARKS:
        for file in datasets.pictures(paths.data_root() / name / "HR"):
            pictures[f"{name}/{datasets.stem(file)}"] = file
    return pictures


def compare(training: Mapping[str, Source], tested: Mapping[str, Source]) -> list[Leak]:
    """Return the training pictures that are test pictures, sorted."""
    if not (training and tested):
        return []
    outer, inner = _hashes(training), _hashes(tested)[:, 0]
    leaks = []
    for name, turns in zip(training, outer, strict=True):
        distances = (turns[:, None] != inner).sum(2).min(0)
        near = zip(tested, distances.tolist(), strict=True)
        leaks += [Leak(name, test, distance) for test, distance in near if distance <= NEAR]
    return sorted(leaks, key=lambda leak: (leak.training, leak.test))


def _hashes(pictures: Mapping[str, Source]) -> NDArray[np.bool_]:
    """Return the hashes (P, 8, 256) of pictures, remembered by content."""
    contents = {name: patches.content(source) for name, source in pictures.items()}
    file = paths.CACHE / f"leaks-{SIDE}.json"
    known: dict[str, str] = files.read_json(file, {})
    new = {contents[name]: name for name in pictures if contents[name] not in known}
    for content, name in tqdm(new.items(), desc="hash pictures", leave=False, disable=None):
        known[content] = " ".join(map(str, _turned(patches.decode(pictures[name]))))
    if new:
        with files.updating(file, {}) as store:
            store |= {content: known[content] for content in new}
    rows = [known[content].split() for content in contents.values()]
    return np.array([[imagehash.hex_to_hash(h).hash.ravel() for h in row] for row in rows])


def _turned(picture: NDArray[np.uint8]) -> list[imagehash.ImageHash]:
    """Return the hashes of a picture in its eight orientations."""
    # The size that pHash works at, so that it is resized once.
    side = 4 * SIDE
    grey = Image.fromarray(picture).convert("L").resize((side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(grey)
    turns = [np.rot90(pixels[:, ::-1] if t >= 4 else pixels, t % 4) for t in range(8)]
    return [imagehash.phash(Image.fromarray(np.ascontiguousarray(t)), SIDE) for t in turns]
