"""Results to compare: pictures that networks made, in folders or made now, and which is whose."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from dtfn import datasets, evaluation, images, patches, zoo
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.files import sha256
from dtfn.harm import Pair
from dtfn.images import UInt8
from dtfn.metrics import width_by_height

__all__ = [
    "Match",
    "Results",
    "folder_of",
    "in_folders",
    "match_folders",
    "matched_samples",
    "of_methods",
    "read_match",
]

LISTED = 12  # problems that one error names

_SAVED = re.compile(r"(.+[ ._-])[lh]r")  # what the authors' code saves next to its results
_SCALE = re.compile(r"x?[234]x?", re.IGNORECASE)


@dataclass(frozen=True)
class Results:
    """What is compared.

    Attributes
    ----------
    names
        Of A, of B, and of the controls.
    scale
        2, 3 or 4.
    samples
        Opens the pictures anew, with the outputs of all names.
    files
        What they rest on: a name -> the file of a picture or of weights.
    truths
        How many true pictures there are; the results may hold fewer.
    """

    names: tuple[str, ...]
    scale: int
    samples: Callable[[], Iterable[Sample]]
    files: Mapping[str, Path]
    truths: int = 0

    def inputs(self) -> dict[str, str]:
        """Return the SHA-256 of each file by its name."""
        return {name: sha256(file) for name, file in self.files.items()}

    @property
    def pairs(self) -> list[Pair]:
        """A against B, with all controls, and then with each of several by itself."""
        a, b, *controls = self.names
        groups = {f"{a} against {b}": controls}
        if len(controls) > 1:
            groups |= {f"{a} against {b}, beyond {control}": [control] for control in controls}
        return [
            Pair(name, "results", 0, a, b, tuple((control, b) for control in group))
            for name, group in groups.items()
        ]


class Match(NamedTuple):
    """A picture's name, the file of its truth, and name of a folder of results -> file."""

    image: str
    hr: Path
    results: Mapping[str, Path]


def in_folders(given: Sequence[Path | str], scale: int) -> Results:
    """Return what folders of HR, of A, of B and perhaps of controls hold, in this order.

    HR may hold more pictures than the results.

    Raises
    ------
    InputError
        Fewer than three folders, one folder twice, or as `dtfn.results.match_folders`.
    """
    places = [Path(folder) for folder in given]
    options = ["--hr", "--with", "--without", *["--control"] * (len(places) - 3)]
    if len(places) < 3:
        remedy = "name at least three"
        wanted = "folders of the truth, of A, of B, and perhaps of controls"
        raise InputError("folders", wanted, list(given), remedy)
    for number, folder in enumerate(places):
        for other, before in zip(options, places[:number], strict=False):
            if folder.resolve() == before.resolve():
                raise InputError(
                    options[number],
                    f"another folder than {other}",
                    folder,
                    "name the folder of other results",
                )
    hr, *results = places
    names = _names(results, hr)
    matches = match_folders(hr, dict(zip(names, results, strict=True)), scale)
    used = {f"HR/{one.hr.name}": one.hr for one in matches}
    used |= {f"{name}/{file.name}": file for one in matches for name, file in one.results.items()}
    truths = len(datasets.pictures(hr))
    return Results(tuple(names), scale, lambda: matched_samples(matches, hr, scale), used, truths)


def of_methods(
    methods: Sequence[str], sets: Sequence[str], scale: int, count: int | None = None
) -> Results:
    """Return what networks A, B and perhaps controls make of benchmarks, rounded to 8 bits.

    Parameters and errors are those of `dtfn.evaluation.evaluate`; it takes two methods or more.
    """
    if len(set(methods)) < max(2, len(methods)):
        wanted, remedy = "A, B and perhaps controls, each once", "name two or more"
        raise InputError("methods", wanted, list(methods), remedy)
    evaluation.require(methods, scale)
    networks = [evaluation.split_change(m)[0] for m in methods if m != evaluation.BICUBIC]
    rest_on = [own.inputs if (own := zoo.own(n)) else [zoo.file_of(n)] for n in networks]
    used = {file.name: file for some in rest_on for file in some}
    return Results(
        tuple(methods), scale, lambda: evaluation.samples(sets, scale, count, methods=methods), used
    )


def folder_of(given: str, hr: Path, scale: int, out: Path) -> Path:
    """Return a folder of results: the given one, or what a network makes of the true pictures.

    Parameters
    ----------
    given
        A folder, or a network as `dtfn.evaluation.evaluate` takes it. A folder comes first.
    hr
        Folder of the true pictures, which the network sees degraded.
    scale
        2, 3 or 4.
    out
        Folder of the audit; a network's pictures are written to ``outputs/`` in it, as PNG.

    Raises
    ------
    InputError
        Neither a folder nor a network, or a network of another scale.
    """
    folder = Path(given).expanduser()
    network = evaluation.split_change(given)[0]
    looks_like_folder = not zoo.own(network) and len(folder.parts) > 1 and not folder.suffix
    if folder.is_dir() or looks_like_folder:
        return folder
    try:
        evaluation.require([given], scale)
    except InputError as error:
        raise InputError(
            f"results {given!r}",
            f"a folder of pictures, or a network of scale {scale}",
            f"no such folder, and for the network: {error}",
            "mend the path, or choose one of `dtfn zoo list`",
        ) from error
    made = out / "outputs" / re.sub(r"[^\w.+-]+", "_", given).strip("_")
    for file in tqdm(datasets.pictures(hr), given, unit="image", disable=None):
        truth = images.modcrop(patches.decode(file), scale)
        sample = Sample(hr.name, datasets.stem(file), scale, images.degrade(truth, scale), truth)
        output = evaluation.outputs([given], sample)[given].image
        images.write(made / f"{sample.image}.png", output)
    return made


def match_folders(hr: Path, results: Mapping[str, Path], scale: int) -> list[Match]:
    """Return the pictures of a folder with their results in other folders, sorted by name.

    Names are matched as `dtfn.datasets.match` does. Pictures of the truth that no folder has are
    left out. All pictures are read once, so that every problem is found before the work starts.

    Parameters
    ----------
    hr
        Folder of the truth.
    results
        Name -> folder of results, each picture of the truth's size, or of that size cropped at the
        bottom right to a multiple of s.
    scale
        s: 2, 3 or 4.

    Raises
    ------
    InputError
        With all problems at once: folders without pictures; pictures that some folders lack or have
        twice; results without a truth, or named for another scale; unreadable files; sizes that do
        not fit, or leave nothing when the border is left out.
    """
    images.check_scale(scale)
    truths = datasets.pictures(hr)
    problems = [
        _empty(folder) for folder in (hr, *results.values()) if not datasets.pictures(folder)
    ]
    matches: list[Match] = []
    if not problems:
        chosen, doubts = {}, []
        for name, folder in results.items():
            chosen[name], some = datasets.match(truths, _results(folder), scale)
            doubts += [(name, doubt) for doubt in some]
        used = {truth for files in chosen.values() for truth in files}
        unused = {f"lacks {truth.name}" for truth in truths if truth not in used}
        problems = [f"{name!r} {doubt}" for name, doubt in doubts if doubt not in unused]
        for truth in truths:
            if all(truth in files for files in chosen.values()):
                one = Match(datasets.stem(truth), truth, {n: chosen[n][truth] for n in results})
                matches.append(one)
                try:
                    read_match(one, scale)
                except InputError as error:
                    problems.append(str(error))
    if problems or not matches:
        problems = problems or ["no picture has a result in every folder"]
        more = len(problems) - LISTED
        listed = problems[:LISTED] + ([f"and {more} more"] if more > 0 else [])
        raise InputError(
            "folders of results",
            (
                f"one result for each picture of {hr}, of its size or cropped to a multiple "
                f"of {scale}"
            ),
            f"{len(problems)} problem{'s' * (len(problems) > 1)}: {'; '.join(listed)}",
            "mend or remove these files, or check the folders and the scale",
        )
    return matches


def read_match(match: Match, scale: int) -> tuple[UInt8, dict[str, UInt8]]:
    """Return a picture's truth and its results, all of one size that s divides.

    Returns
    -------
    uint8 ``(sH, sW, 3)`` RGB, or ``(sH, sW)`` for a grey file; name -> the same.

    Raises
    ------
    InputError
        For unreadable files, pictures that one can see through, grey results of a colour truth,
        sizes that do not fit, or fewer than 3 LR positions a side.
    """
    hr = images.grey_or_rgb(match.hr, opaque=True)
    cropped = images.modcrop(hr, scale)
    outputs = {name: images.grey_or_rgb(file, opaque=True) for name, file in match.results.items()}
    sizes = " or ".join(dict.fromkeys((width_by_height(hr), width_by_height(cropped))))
    for name, sr in outputs.items():
        if sr.ndim < hr.ndim and (hr != hr[..., :1]).any():
            raise InputError(
                match.image,
                f"a colour picture {name!r}, as the truth is",
                "a grey one",
                "take the colour results, or a grey truth",
            )
        if sr.shape[:2] not in (hr.shape[:2], cropped.shape[:2]):
            raise InputError(
                match.image,
                f"{sizes} pixels {name!r}, as the truth has",
                width_by_height(sr),
                "take the pictures of this scale, without a border cut off",
            )
    if min(cropped.shape[:2]) < 3 * scale:
        raise InputError(
            match.image,
            f"at least {3 * scale} pixels a side: a border of {scale} is left out",
            width_by_height(hr),
            "remove it",
        )
    return cropped, {name: images.modcrop(sr, scale) for name, sr in outputs.items()}


def matched_samples(matches: Sequence[Match], hr: Path, scale: int) -> Iterator[Sample]:
    """Yield matched pictures with their results, one in memory at a time."""
    dataset = _dataset(hr)
    for one in tqdm(matches, desc=dataset, unit="image", disable=None):
        truth, outputs = read_match(one, scale)
        lr = images.as_rgb(images.degrade(truth, scale))
        yield Sample(dataset, one.image, scale, lr, truth, outputs)


def _names(folders: Sequence[Path], hr: Path) -> list[str]:
    """Return a name for each folder of results, and one only: NETWORK of NETWORK/DATASET/x4."""
    parts = [list(folder.resolve().parts[1:]) for folder in folders]
    while len({part[-1] for part in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [part[:-1] for part in parts]
    others = [[p for p in part if p != _dataset(hr) and not _SCALE.fullmatch(p)] for part in parts]
    names = [(kept or part)[-1] for kept, part in zip(others, parts, strict=True)]
    twice = {name for name in names if names.count(name) > 1}
    names = ["/".join(p[-2:]) if n in twice else n for n, p in zip(names, parts, strict=True)]
    return [name if names.count(name) == 1 else f"{name} {k + 1}" for k, name in enumerate(names)]


def _dataset(hr: Path) -> str:
    """Return the name of the benchmark: that of the folder, or of the one that holds HR."""
    folder = hr.resolve()
    return folder.parent.name if folder.name in ("HR", "GT") else folder.name


def _results(folder: Path) -> list[Path]:
    """Return the pictures of a folder, without the ``_LR`` and ``_HR`` that an ``_SR`` has."""
    named = [(datasets.stem(file).casefold(), file) for file in datasets.pictures(folder)]
    results = {name for name, _ in named if name.endswith("sr")}
    return [
        file
        for name, file in named
        if not ((saved := _SAVED.fullmatch(name)) and f"{saved[1]}sr" in results)
    ]


def _empty(folder: Path) -> str:
    """Say what a folder without pictures is."""
    if not folder.is_dir():
        return f"{folder} is no folder"
    below = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    return f"{folder} has no picture" + (f", but folders {', '.join(below)}" if below else "")
