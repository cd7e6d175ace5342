"""Leak guard: no training picture may be, contain or be cut from a test picture.

How pictures are compared, and what that cannot see, says `dtfn.leaks.likeness`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from dtfn import datasets, patches, paths
from dtfn.errors import InputError
from dtfn.leaks.likeness import Picture, matches
from dtfn.patches import Source

FORMAT = "1"  # of the remembered results; raise it when the guard decides otherwise
NEARLY = 1.15  # ratio of sides below which two pictures show the same, not one a part of the other


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
