"""Leak guard: no training picture may be, contain or be cut from a test picture.

Two stages. A perceptual hash finds candidates: the central square of one picture, as 16 x 16 pixels
in each of its eight orientations, is compared by its low cosine frequencies (those of a pHash, but
with their values instead of their signs) with every square window of the other picture, over scales
and positions. A candidate is then registered at 48 x 48 pixels, and counts if the fine detail
correlates too. Brightness, contrast, resizing and JPEG leave both alone.

What it cannot see: a square smaller than a quarter (in large pictures an eighth) of the other
picture's shorter side, an overlap that holds the centre of neither, and rotations by other angles
than 90 degrees.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dct
from scipy.ndimage import gaussian_filter
from skimage.feature import match_template
from tqdm import tqdm

from dtfn import datasets, patches, paths
from dtfn.errors import InputError
from dtfn.patches import Source

FORMAT = "1"  # of the remembered results; raise it when the guard decides otherwise
NEARLY = 1.15  # ratio of sides below which two pictures show the same, not one a part of the other
Float = NDArray[np.float32]

SKETCH = 384  # shorter side at which pictures are held: a square of an eighth of it is DETAIL
WINDOW = 16  # side of a window of the first stage
FREQUENCIES = 10  # cosine frequencies (u, v), not both 0, with u + v up to this
SCALE_STEP = 2**0.25  # between sizes of the searched picture; half of it, 9 %, changes little
# Measured on 703 pictures against 226, which hold one leak: 1 of 100 pairs passes the first stage,
# the best false one reaches 0.76 in the second, the leak 0.99. Of 150 test pictures that were
# resized, pasted, cut, turned, relit and saved as JPEG of quality 40 to 95, 147 are found.
CANDIDATE = 0.75
LIKENESS = 0.82
DOUBTFUL = 0.55  # less than this is no match, and not worth a closer look
DETAIL = 48  # side of the square of the second stage
STRETCH = (0.92, 0.96, 1.0, 1.04, 1.08)  # relative scales tried in it, as the first stage is coarse
MARGIN = 0.15  # share of the square's side by which the first stage may be off
NOISE = 2.0  # grey levels; weaker detail counts less, so that a flat sky is like no other


@dataclass(frozen=True)
class Leak:
    """A training picture that shows what a test picture shows.

    Attributes
    ----------
    training, test
        Names, ``"<set>/<stem>"``.
    relation
        ``"equals"``, ``"contains"`` or ``"is cut from"``.
    likeness
        Correlation of the fine detail, at most 1.
    """

    training: str
    test: str
    relation: str
    likeness: float


class Picture:
    """A grey picture, small: its shorter side is `SKETCH`, whatever it was.

    Attributes
    ----------
    sketch
        The small picture.
    reach
        How many times smaller than its shorter side a square may be that is looked for in it.
    """

    def __init__(self, source: Source) -> None:
        whole = Image.fromarray(patches.decode(source)).convert("L")
        self.sketch = _shorter(whole, SKETCH)
        self.reach = float(np.clip(min(whole.size) / 128, 4, 8))


def _shorter(picture: Image.Image, side: int) -> Image.Image:
    """Resize a picture to a shorter side."""
    factor = side / min(picture.size)
    width, height = (max(side, round(n * factor)) for n in picture.size)
    return picture.resize((width, height), _filter(factor))


def _filter(factor: float) -> Image.Resampling:
    return Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC


def _orient(square: NDArray[np.float32], turn: int) -> NDArray[np.float32]:
    """Return one of the eight orientations of a square."""
    return np.rot90(square[:, ::-1] if turn >= 4 else square, turn % 4)


@functools.cache
def _basis() -> tuple[Float, NDArray[np.bool_], Float]:
    """Return cosines (WINDOW, F), which pairs (F, F) of them count, and the pairs' weights (K,).

    Weights rise with frequency as natural spectra fall, so that all of it counts.
    """
    cosines = dct(np.eye(WINDOW), norm="ortho", axis=0)[:FREQUENCIES].T.astype(np.float32)
    u, v = np.indices((FREQUENCIES, FREQUENCIES))
    chosen = (u + v > 0) & (u + v <= FREQUENCIES)
    return cosines, chosen, np.hypot(u, v)[chosen].astype(np.float32)


def _hashes(picture: Image.Image) -> Float:
    """Return the unit hashes (windows, K) of all windows of a picture, row by row."""
    cosines, chosen, weights = _basis()
    across = sliding_window_view(np.asarray(picture, np.float32), WINDOW, 1) @ cosines
    both = sliding_window_view(across, WINDOW, 0) @ cosines  # (rows, columns, F, F)
    hashes = both[:, :, chosen].reshape(-1, len(weights)) * weights
    length = np.linalg.norm(hashes, axis=1, keepdims=True)
    return hashes / np.maximum(length, NOISE)


def _probes(picture: Picture) -> Float:
    """Return the hashes (8, K) of the central square in its eight orientations."""
    square = picture.sketch.resize((WINDOW, WINDOW), Image.Resampling.BOX, _central(picture.sketch))
    pixels = np.asarray(square, np.float32)
    turned = [np.ascontiguousarray(_orient(pixels, turn)) for turn in range(8)]
    return np.concatenate([_hashes(Image.fromarray(t)) for t in turned])


def _central(picture: Image.Image) -> tuple[float, float, float, float]:
    (width, height), side = picture.size, min(picture.size)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def matches(
    containers: Mapping[str, Picture], parts: Mapping[str, Picture], reach: float | None = None
) -> Iterator[tuple[str, str, float, float]]:
    """Yield (container, part, ratio of their squares' sides, likeness) of all pairs that match.

    Parameters
    ----------
    containers, parts
        By name. A picture that is in both is not compared with itself.
    reach
        How many times smaller than a container's shorter side a part's square may be; None for
        what `Picture.reach` says.

    Yields
    ------
    The part's central square lies in the container, whose shorter side is ``ratio`` times as long;
    the fine detail correlates by ``likeness``, in (`LIKENESS`, 1].
    """
    names = list(parts)
    probes = np.concatenate([_probes(part) for part in parts.values()])  # (8 parts, K)
    bar = {"desc": "compare pictures", "leave": False, "disable": None}
    for container, picture in tqdm(containers.items(), **bar):
        score, place = _search(picture, probes, reach)
        score = score.reshape(-1, 8)
        for index in np.flatnonzero(score.max(1) > CANDIDATE):
            turn = int(score[index].argmax())
            row, column, side = place[8 * index + turn]
            part = parts[names[index]]
            if part is picture:
                continue
            likeness = _register(picture, part, turn, row / side, column / side, WINDOW / side)
            if likeness > LIKENESS:
                yield container, names[index], side / WINDOW, round(likeness, 3)


def _search(
    picture: Picture, probes: Float, reach: float | None
) -> tuple[Float, NDArray[np.float64]]:
    """Return each probe's best score (P,), and the row, column and size (P, 3) there."""
    best = np.full(len(probes), CANDIDATE, np.float32)
    place = np.zeros((len(probes), 3))
    for power in range(1 + round(np.log(reach or picture.reach) / np.log(SCALE_STEP))):
        small = _shorter(picture.sketch, round(WINDOW * SCALE_STEP**power))
        hashes = _hashes(small)
        blocks = [*range(0, len(hashes), 512), len(hashes)]  # so that the scores stay in cache
        for start, stop in pairwise(blocks):
            scores = probes @ hashes[start:stop].T  # (P, windows)
            top = scores.max(1)
            better = np.flatnonzero(top > best)
            best[better] = top[better]
            row, column = np.divmod(start + scores[better].argmax(1), small.width - WINDOW + 1)
            place[better] = np.stack((row, column, np.full(len(row), min(small.size))), 1)
    return best, place


def _register(
    container: Picture, part: Picture, turn: int, top: float, left: float, side: float
) -> float:
    """Return how well the fine detail of a part's central square fits into a container.

    Parameters
    ----------
    turn
        Orientation of the part.
    top, left, side
        Where about it is, in units of the container's shorter side.
    """
    unit = min(container.sketch.size)
    square = np.array((left, top, left + side, top + side)) * unit
    likeness = _fit(container.sketch, part.sketch, turn, square, 1)
    if likeness < DOUBTFUL:
        return likeness
    # At twice the size half a pixel of misplacement costs nothing.
    return max(likeness, _fit(container.sketch, part.sketch, turn, square, 2))


def _fit(
    container: Image.Image, part: Image.Image, turn: int, square: NDArray[np.float64], zoom: int
) -> float:
    """Return the best correlation of detail at a side of ``zoom * DETAIL``, about a place.

    Parameters
    ----------
    square
        The place: left, top, right, bottom in pixels of the container.
    """
    length = square[2] - square[0]
    margin = MARGIN * length * np.array((-1, -1, 1, 1))
    x0, y0, x1, y1 = np.clip(square + margin, 0, np.tile(container.size, 2)).tolist()
    factor = zoom * DETAIL / length
    size = max(1, round((x1 - x0) * factor)), max(1, round((y1 - y0) * factor))
    region = _detail(container.resize(size, _filter(factor), (x0, y0, x1, y1)), zoom)

    def fit(side: int) -> float:
        central = _central(part)
        shown = part.resize((side, side), _filter(side / min(part.size)), central)
        template = _orient(_detail(shown, zoom), turn)
        if side > min(region.shape) or not template.any():
            return -1.0
        return float(match_template(region, template).max())  # type: ignore[no-untyped-call]

    coarse = {side: fit(side) for side in {round(zoom * DETAIL * x) for x in STRETCH}}
    near = max(coarse, key=lambda side: coarse[side])
    return max(coarse[near], fit(near - 1), fit(near + 1))


def _detail(picture: Image.Image, zoom: int) -> Float:
    """Return a picture's detail, about equally strong everywhere: no edge shall decide alone."""
    pixels = np.asarray(picture, np.float32)
    band = gaussian_filter(pixels, 0.7 * zoom) - gaussian_filter(pixels, 4 * zoom)
    return band / (np.sqrt(gaussian_filter(band**2, 4 * zoom)) + NOISE)


def guard(training: Mapping[str, Source]) -> None:
    """Refuse training pictures that are, contain or are cut from a test picture.

    The result is remembered by content: only pictures that are new, or all of them when the test
    pictures change, take time (0.2 s a picture against the four benchmarks, on one core).

    Parameters
    ----------
    training
        From `dtfn.patches.sources`.

    Raises
    ------
    InputError
        There are such pictures; all are named.
    """
    found = leaks(training)
    if found:
        listed = "; ".join(f"{x.training} {x.relation} {x.test}" for x in found)
        names = ",".join(dict.fromkeys(x.training for x in found))
        raise InputError(
            "training pictures", expected="none of the test pictures", found=listed,
            remedy=f"delete them, or leave them out by adding {names} to the recipe's exclude",
        )  # fmt: skip


def leaks(training: Mapping[str, Source]) -> list[Leak]:
    """Return the training pictures that show what a test picture of `tests` shows."""
    tested = tests()
    contents = {name: patches.content(source) for name, source in training.items()}
    state = sorted(f"{name} {patches.content(source)}" for name, source in tested.items())
    digest = hashlib.sha256("\n".join([FORMAT, *state]).encode()).hexdigest()[:16]
    file = paths.CACHE / "leaks" / f"{digest}.json"
    known = _read(file)
    new = {name: source for name, source in training.items() if contents[name] not in known}
    if new:
        found = compare(new, tested)
        for name in new:
            known[contents[name]] = [astuple(x)[1:] for x in found if x.training == name]
        _write(file, known)
    return [Leak(name, *row) for name, content in contents.items() for row in known[content]]


def _read(file: Path) -> dict[str, list[tuple[str, str, float]]]:
    try:
        return {key: [tuple(r) for r in rows] for key, rows in json.loads(file.read_text()).items()}
    except (OSError, ValueError):
        return {}  # nothing remembered, or not readable: search again


def _write(file: Path, known: Mapping[str, object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(known))
    partial.replace(file)


def tests() -> dict[str, Source]:
    """Return every test picture at hand: the benchmarks in the data root and the embedded one."""
    found: dict[str, Source] = {
        f"{s.dataset}/{s.image}": s.hr for s in datasets.benchmark(datasets.MINI, 2)
    }
    for folder in sorted(paths.data_root().glob("*/HR")):
        found |= {f"{folder.parent.name}/{f.stem}": f for f in patches.files(folder)}
    return found


def compare(training: Mapping[str, Source], tested: Mapping[str, Source]) -> list[Leak]:
    """Compare every training with every test picture, without remembering anything."""
    inner = {name: Picture(source) for name, source in tested.items()}
    outer = {name: Picture(source) for name, source in training.items()}
    best: dict[tuple[str, str], Leak] = {}
    for containers, parts, relation in (
        (outer, inner, "contains"),
        (inner, outer, "is cut from"),
    ):
        for container, part, ratio, likeness in matches(containers, parts):
            names = (container, part) if relation == "contains" else (part, container)
            equal = ratio < NEARLY and _same_shape(outer[names[0]], inner[names[1]])
            leak = Leak(*names, "equals" if equal else relation, likeness)
            best[names] = max(best.get(names, leak), leak, key=lambda x: x.likeness)
    return sorted(best.values(), key=lambda x: (x.training, x.test))


def duplicates(pictures: Mapping[str, Source]) -> list[tuple[str, str]]:
    """Return pairs of pictures of one collection that show the same."""
    known = {name: Picture(source) for name, source in pictures.items()}
    pairs = {tuple(sorted(match[:2])) for match in matches(known, known, reach=1.2)}
    return sorted((a, b) for a, b in pairs if a != b)


def _same_shape(first: Picture, second: Picture) -> bool:
    ratios = [max(picture.sketch.size) / min(picture.sketch.size) for picture in (first, second)]
    return max(ratios) < NEARLY * min(ratios)
