"""Which picture of one folder is which of another, by their names and sizes.

The field names one picture in many ways: ``baby.png`` as truth, ``babyx4.png``, ``baby_x4_SR.png``,
``baby-x4.png``, ``baby_RCAN_x4.png`` or ``img_001_SRF_4_SR.png`` as results.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dtfn import images
from dtfn.errors import InputError
from dtfn.images import codecs

UInt8 = NDArray[np.uint8]

TOLD = 12  # problems that one error tells

# What may stand behind a picture's own name in that of the truth: "_HR", "_GT", "_SRF_4", "x4".
_OF_HR = re.compile(r"([ ._-](hr|gt|srf[ ._-]?\d|\dx)|[ ._-]?x\d)+$")
# What may in that of a result: anything after a separator, or a scale.
_OF_SR = re.compile(r"$|[ ._-]|x\d(?!\d)")
# A scale in a name: x4, SRx4, 4x, SRF_4; not the 48x48 or b32x4 of a network's description.
_SCALE = re.compile(r"(?<!\d)x([1-9])(?!\d)|(?<![0-9a-z])([1-9])x(?![0-9a-z])|srf[ ._-]?([1-9])")


@dataclass(frozen=True)
class Match:
    """One picture's truth and results.

    Attributes
    ----------
    image
        Its name: the stem of the truth's file.
    hr
        The truth's file.
    results
        Role (e.g. ``"with"``) -> file.
    """

    image: str
    hr: Path
    results: Mapping[str, Path]


def match(hr: Path, results: Mapping[str, Path], scale: int) -> list[Match]:
    """Return the pictures of a folder with their results in other folders, sorted by name.

    A result belongs to the truth whose name it has or continues: after a separator (space, ``.``,
    ``_`` or ``-``) or with a scale such as ``x4``. Of two such truths the longer name counts, so
    ``img_1_x4`` is ``img_1``'s and not ``img``'s. Case does not matter. All pictures are read once,
    so that every problem is found before anything else is done.

    Parameters
    ----------
    hr
        Folder of the truth.
    results
        Role -> folder of results, each of the truth's size, or of that size cropped at the bottom
        right to a multiple of s.
    scale
        s: 2, 3 or 4.

    Raises
    ------
    InputError
        With all problems at once: folders without pictures; truths without a result or with more
        than one; results without a truth, or named for another scale; unreadable files; sizes that
        do not fit, or leave nothing when the border is left out.
    """
    images.check_scale(scale)
    problems: list[str] = []
    truths = _files(hr, problems)
    found = {role: _files(folder, problems) for role, folder in results.items()}
    if not problems:
        chosen = {
            role: _assign(role, truths, files, scale, problems) for role, files in found.items()
        }
        matches = [
            Match(file.stem, file, {role: chosen[role][file] for role in results})
            for file in truths
            if all(file in chosen[role] for role in results)
        ]
        for one in matches:
            try:
                load(one, scale)
            except InputError as error:
                problems.append(str(error))
    if problems:
        more = len(problems) - TOLD
        listed = problems[:TOLD] + ([f"and {more} more"] if more > 0 else [])
        raise InputError(
            "folders of results",
            expected=f"one result for each picture of {hr}, of its size or cropped to a multiple "
            f"of {scale}",
            found=f"{len(problems)} problem{'s' * (len(problems) > 1)}: {'; '.join(listed)}",
            remedy="mend or remove these files, or check the folders and the scale",
        )
    return matches


def load(match: Match, scale: int) -> tuple[UInt8, dict[str, UInt8]]:
    """Return a picture's truth and its results, all of one size that s divides.

    Returns
    -------
    uint8 ``(sH, sW, 3)`` RGB, or ``(sH, sW)`` for a grey file; role -> the same.

    Raises
    ------
    InputError
        For unreadable files, pictures that one can see through, grey results of a colour truth,
        sizes that do not fit, or fewer than 3 LR positions a side.
    """
    hr = images.grey_or_rgb(match.hr, opaque=True)
    cropped = images.modcrop(hr, scale)
    made = {role: images.grey_or_rgb(file, opaque=True) for role, file in match.results.items()}
    sizes = " or ".join(dict.fromkeys((_size(hr), _size(cropped))))
    for role, sr in made.items():
        if sr.ndim < hr.ndim and (hr != hr[..., :1]).any():
            raise InputError(
                match.image,
                expected=f"a colour picture {role!r}, as the truth is",
                found="a grey one, whose levels are not those of the truth's Y",
                remedy="take the colour results, or a grey truth",
            )
        if sr.shape[:2] not in (hr.shape[:2], cropped.shape[:2]):
            raise InputError(
                match.image,
                expected=f"{sizes} pixels {role!r}, as the truth has",
                found=_size(sr),
                remedy="take the pictures of this scale, without a border cut off",
            )
    if min(cropped.shape[:2]) < 3 * scale:
        raise InputError(
            match.image,
            expected=f"at least {3 * scale} pixels a side: a border of {scale} is left out",
            found=_size(hr),
            remedy="remove it",
        )
    return cropped, {role: images.modcrop(sr, scale) for role, sr in made.items()}


def _files(folder: Path, problems: list[str]) -> list[Path]:
    """Return the pictures in a folder, sorted; note where there is none."""
    if not folder.is_dir():
        problems.append(f"{folder} is no folder")
        return []
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.suffix.lower() in codecs.SUFFIXES]
    if not files:
        below = [entry.name for entry in entries if entry.is_dir()]
        problems.append(
            f"{folder} has no picture" + (f", but folders {', '.join(below)}" if below else "")
        )
    return files


def _assign(
    role: str, truths: Sequence[Path], files: Sequence[Path], scale: int, problems: list[str]
) -> dict[Path, Path]:
    """Return truth -> result of one folder; note what is missing, doubtful or of another scale."""
    names: dict[str, set[Path]] = defaultdict(set)
    for truth in truths:
        stem = truth.stem.casefold()
        names[stem].add(truth)
        names[_OF_HR.sub("", stem) or stem].add(truth)
    claims: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        name = max(filter(lambda name: _continues(file, name), names), key=len, default=None)
        if name is None:
            problems.append(f"{role!r} has {file.name}, which continues no name in the truth")
        elif len(names[name]) > 1:
            both = " or ".join(sorted(truth.name for truth in names[name]))
            problems.append(f"{role!r} has {file.name}, which may be {both}")
        else:
            (truth,) = names[name]
            claims[truth].append(file)
            told = _scales(file.stem.casefold()[len(name) :])
            if told and scale not in told:
                problems.append(f"{role!r} has {file.name}, which is named for another scale")
    for truth in truths:
        if not claims[truth]:
            problems.append(f"{role!r} lacks {truth.name}")
        elif len(claims[truth]) > 1:
            listed = " and ".join(file.name for file in claims[truth])
            problems.append(f"{role!r} has {listed} for {truth.name}")
    return {truth: claimed[0] for truth, claimed in claims.items() if len(claimed) == 1}


def _continues(file: Path, name: str) -> bool:
    stem = file.stem.casefold()
    return stem.startswith(name) and bool(_OF_SR.match(stem[len(name) :]))


def _scales(text: str) -> set[int]:
    return {int(number) for found in _SCALE.findall(text) for number in found if number}


def _size(image: UInt8) -> str:
    return f"{image.shape[0]} x {image.shape[1]}"
