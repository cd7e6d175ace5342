"""Results to compare: pictures that networks made, in folders or made now, and which is whose."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dtfn import datasets, evaluation, images, zoo
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.files import sha256
from dtfn.images import UInt8
from dtfn.methods import BICUBIC, labels, require, split_change
from dtfn.subpixel import width_by_height

LISTED = 12  # problems that one error names
_SAVED = re.compile(r"(.+[ ._-])[lh]r")  # what the authors' code saves next to its results
_SCALE = re.compile(r"x?[234]x?", re.IGNORECASE)


@dataclass(frozen=True)
class Results:
    """What is compared."""

    names: tuple[str, ...]  # of A, of B, and of the controls
    samples: Callable[[], Iterable[Sample]]  # opens the pictures anew, with the outputs of all
    files: Mapping[str, Path]  # what they rest on: name -> file of a picture or of weights
    truths: int = 0  # true pictures that there are; the results may hold fewer

    def inputs(self) -> dict[str, str]:
        """Return the SHA-256 of each file by its name."""
        return {name: sha256(file) for name, file in self.files.items()}


def in_folders(given: Sequence[Path | str], scale: int) -> Results:
    """Return what folders of HR, of A, of B and perhaps of controls hold, in this order."""
    if len(given) < 3:
        raise InputError("folders", "those of the truth, of A, of B", list(given), "name three")
    places = [Path(folder).resolve() for folder in given]
    if twice := [folder for folder in places if places.count(folder) > 1]:
        raise InputError("folders", "each once", f"{twice[0]} twice", "name that of other results")
    hr, *results = map(Path, given)
    names = _names(results, hr)
    matches = match_folders(hr, dict(zip(names, results, strict=True)), scale)
    used = {f"HR/{truth.name}": truth for truth in matches}
    used |= {f"{name}/{file.name}": file for row in matches.values() for name, file in row.items()}

    def samples() -> Iterator[Sample]:
        for file in evaluation.progress(matches, desc=_dataset(hr), unit="image"):
            truth, outputs = read_match(file, matches[file], scale)
            lr = images.as_rgb(images.degrade(truth, scale))
            yield Sample(_dataset(hr), datasets.stem(file), scale, lr, truth, outputs)

    return Results(tuple(names), samples, used, len(datasets.pictures(hr)))


def of_methods(
    methods: Sequence[str], sets: Sequence[str], scale: int, count: int | None = None
) -> Results:
    """Return what networks A, B and perhaps controls make of benchmarks, rounded to 8 bits."""
    if len(set(methods)) < max(2, len(methods)):
        raise InputError("methods", "A, B and perhaps controls, each once", methods, "name two")
    require(methods, scale)
    names = labels(methods)
    networks = [split_change(m)[0] for m in methods if m != BICUBIC]
    rest_on = [own.inputs if (own := zoo.own(n)) else [zoo.file_of(n)] for n in networks]
    used = {file.name: file for some in rest_on for file in some}

    def samples() -> Iterator[Sample]:
        for sample in evaluation.samples(sets, scale, count):
            made = evaluation.outputs(methods, sample)
            yield sample.with_outputs({names[m]: output.image for m, output in made.items()})

    return Results(tuple(names.values()), samples, used)


def folders_of(given: Sequence[str], hr: Path, scale: int, out: Path) -> list[Path]:
    """Return folders of results: those given, or in ``out`` what networks make of the truth."""
    folders, names = [Path(one).expanduser() for one in given], labels(given)
    for k, one in enumerate(given):
        if folders[k].is_dir():
            continue
        require([one], scale)
        folders[k] = out / "outputs" / re.sub(r"[^\w.+@-]+", "_", names[one]).strip("_")
        for file in evaluation.progress(datasets.pictures(hr), desc=names[one], unit="image"):
            hr_ = images.modcrop(images.as_rgb(images.read(file)), scale)
            sample = Sample(hr.name, datasets.stem(file), scale, images.degrade(hr_, scale), hr_)
            output = evaluation.outputs([one], sample)[one].image
            images.write(folders[k] / f"{sample.image}.png", output)
    return folders


def match_folders(hr: Path, results: Mapping[str, Path], scale: int) -> dict[Path, dict[str, Path]]:
    """Return truth -> name of a folder -> its file, see `datasets.match`; one error for all."""
    images.check_scale(scale)
    truths = datasets.pictures(hr)
    problems = []
    for folder in (hr, *results.values()):
        if not folder.is_dir():
            problems.append(f"{folder} is no folder")
        elif not datasets.pictures(folder):
            below = ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
            problems.append(f"{folder} has no picture" + f", but folders {below}" * bool(below))
    folders = {} if problems else results
    found = {n: datasets.match(truths, _results(at), scale) for n, at in folders.items()}
    used = {truth for files, _ in found.values() for truth in files}
    unused = {f"lacks {truth.name}" for truth in truths if truth not in used}
    for name, (_, doubts) in found.items():
        problems += [f"{name!r} {doubt}" for doubt in doubts if doubt not in unused]
    if problems or not used:
        problems = problems or ["no picture has a result"]
        listed = "; ".join([*problems[:LISTED], *(["and more"] if len(problems) > LISTED else [])])
        wanted, count = f"one result for each picture of {hr}", len(problems)
        said = f"{count} problem{'s' * (count > 1)}: {listed}"
        remedy = "mend or remove these files, or check the folders and the scale"
        raise InputError("folders of results", wanted, said, remedy)
    return {t: {name: files[t] for name, (files, _) in found.items()} for t in truths if t in used}


def read_match(
    truth: Path, results: Mapping[str, Path], scale: int
) -> tuple[UInt8, dict[str, UInt8]]:
    """Return a picture's truth and its results by name, uint8, cropped to a size that s divides."""
    hr = images.grey_or_rgb(truth, opaque=True)
    cropped = images.modcrop(hr, scale)
    outputs = {name: images.grey_or_rgb(file, opaque=True) for name, file in results.items()}
    for name, sr in outputs.items():
        if sr.ndim < hr.ndim and (hr != hr[..., :1]).any():
            wanted, found = f"a colour picture {name!r}, as the truth is", "a grey one"
            raise InputError(truth.stem, wanted, found, "take the colour results, or a grey truth")
        if sr.shape[:2] not in (hr.shape[:2], cropped.shape[:2]):
            wanted = f"{width_by_height(hr)} pixels in {name!r}, as the truth has"
            remedy = "take the pictures of this scale, without a border cut off"
            raise InputError(truth.stem, wanted, width_by_height(sr), remedy)
    if min(cropped.shape[:2]) < 3 * scale:
        wanted = f"at least {3 * scale} pixels a side"
        raise InputError(truth.stem, wanted, width_by_height(hr), "remove it")
    return cropped, {name: images.modcrop(sr, scale) for name, sr in outputs.items()}


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
    folder = hr.resolve()
    return folder.parent.name if folder.name in ("HR", "GT") else folder.name


def _results(folder: Path) -> list[Path]:
    """Return the pictures of a folder, without the ``_LR`` and ``_HR`` that an ``_SR`` has."""
    named = {file: datasets.stem(file).casefold() for file in datasets.pictures(folder)}
    kinds = {file: _SAVED.fullmatch(name) for file, name in named.items()}
    made = set(named.values())
    return [file for file, kind in kinds.items() if not (kind and f"{kind[1]}sr" in made)]
