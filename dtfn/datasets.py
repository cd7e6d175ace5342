"""Benchmarks: pairs of LR and HR images, embedded in the installation or in folders.

A folder has the layout of EDSR's benchmarks::

    <root>/<name>/HR/<stem>.png                     PNG, JPEG, BMP or TIFF
    <root>/<name>/LR_bicubic/X<s>/<stem>x<s>.png    optional: where absent, HR is degraded

The root is `dtfn.paths.data_root`. The embedded benchmark ``mini`` needs no folder: its images come
with scikit-image. Names are compared in Unicode's composed form, of LR and results in any case.
"""

import importlib.util
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dtfn import images, paths
from dtfn.errors import InputError, nearest, require_known
from dtfn.images import UInt8

MINI = "mini"
# The images in scikit-image, whose import would set up downloads.
_SCIKIT = Path(importlib.util.find_spec("skimage").origin).parent / "data"  # type: ignore[union-attr, arg-type]
BENCHMARKS = ("B100", "BSD100", "Manga109", "Set14", "Set5", "Urban100")

# Only PNG: what a JPEG decodes to depends on the decoder, and these numbers are compared.
_MINI = "astronaut brick camera chelsea coffee grass gravel"
# What else scikit-image ships and is a photograph or a page; drawings and charts teach no texture.
_TRAINING = (
    "cell.png clock_motion.png coins.png hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png"
    " motorcycle_right.png page.png retina.jpg rocket.jpg text.png"
)

# What may stand behind a picture's own name in that of the truth: "_HR", "_GT", "_SRF_4", "x4".
_OF_HR = re.compile(r"([ ._-](hr|gt|srf[ ._-]?\d|\dx)|[ ._-]?x\d)+$")
# What may in that of its LR or of a result: anything after a separator, or a scale.
_OF_OTHERS = re.compile(r"$|[ ._-]|x\d(?!\d)")
# A scale in a name: x4, SRx4, 4x, SRF_4; not the 48x48 or b32x4 of a network's description.
_SCALE = re.compile(r"(?<!\d)x([1-9])(?!\d)|(?<![0-9a-z])([1-9])x(?![0-9a-z])|srf[ ._-]?([1-9])")


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture at one scale, and what networks made of it; uint8 in [0, 255]."""

    dataset: str  # the benchmark's name: its folder's, or "mini"; "file" for a picture by itself
    image: str  # the file's stem
    scale: int
    lr: UInt8  # RGB (H, W, 3); grey is replicated
    hr: UInt8  # RGB (scale * H, scale * W, 3), or without channels where the file is grey
    outputs: Mapping[str, UInt8] = field(default_factory=dict)  # network -> like an RGB hr
    lr_file: Path | None = None  # what lr was read from; None where it was made from hr

    def crop(self, top: int, left: int, height: int, width: int) -> "Sample":
        """Return the window of LR positions, cut from LR, HR and every output."""

        def cut(image: UInt8, factor: int = self.scale) -> UInt8:
            rows = slice(factor * top, factor * (top + height))
            return image[rows, factor * left : factor * (left + width)]

        outputs = {name: cut(image) for name, image in self.outputs.items()}
        return replace(self, lr=cut(self.lr, 1), hr=cut(self.hr), outputs=outputs)


def pictures(folder: Path) -> list[Path]:
    """Return the pictures right in a folder, sorted by name; none where there is no folder."""
    # Hidden ones do not count: macOS puts ._baby.png next to baby.png.
    return sorted(f for f in folder.glob("[!.]*") if f.suffix.lower() in images.SUFFIXES)


def by_name(folder: Path, remedy: str) -> dict[str, Path]:
    """Return the pictures right in a folder by their `stem`; none, or two of one, is an error."""
    found: dict[str, Path] = {}
    for file in pictures(folder):
        if (other := found.setdefault(stem(file), file)) != file:
            wanted, twice = f"one picture named {stem(file)!r}", f"{other.name} and {file.name}"
            raise InputError(folder, wanted, twice, "remove or rename all but one")
    if not found:
        missing = "none" if folder.is_dir() else "no such folder"
        raise InputError(folder, f"pictures ({', '.join(images.SUFFIXES)})", missing, remedy)
    return found


def stem(file: Path) -> str:
    """Return a picture's name without its suffix, in Unicode's composed form."""
    return unicodedata.normalize("NFC", file.stem)


def match(
    truths: Sequence[Path], files: Sequence[Path], scale: int
) -> tuple[dict[Path, Path], list[str]]:
    """Match LR pictures or results to the true pictures by their names, whatever their case.

    A file belongs to the truth whose name it has or continues after a separator or with a scale
    such as ``x4``; of two such truths the longer name counts. Returns truth -> its file, and what
    is missing, doubtful or of another scale, a phrase each.
    """
    names: dict[str, set[Path]] = defaultdict(set)
    for truth in truths:
        name = stem(truth).casefold()
        names[name].add(truth)
        names[_OF_HR.sub("", name) or name].add(truth)
    claims: dict[Path, list[Path]] = {truth: [] for truth in truths}
    problems = list[str]()
    for file in files:
        own = stem(file).casefold()
        fitting = (n for n in names if own.startswith(n) and _OF_OTHERS.match(own[len(n) :]))
        name = max(fitting, key=len, default="")
        candidates = sorted(names.get(name, set()))
        if len(candidates) != 1:
            may = " or ".join(truth.name for truth in candidates)
            fault = f"may be {may}" if may else "continues no name in the truth"
            problems.append(f"has {file.name}, which {fault}")
        elif scale not in (_scales(own[len(name) :]) or {scale}):
            problems.append(f"has {file.name}, which is named for another scale")
        else:
            claims[candidates[0]].append(file)
    for truth, claimed in claims.items():
        if len(claimed) > 1:
            problems.append(f"has {' and '.join(file.name for file in claimed)} for {truth.name}")
        elif not claimed:
            problems.append(f"lacks {truth.name}")
    return {truth: claimed[0] for truth, claimed in claims.items() if len(claimed) == 1}, problems


def names(name: str) -> list[str]:
    """Return the names of a benchmark's images, sorted; errors as `benchmark`, at once."""
    return sorted(_hr_files(name))


def files(name: str) -> list[Path]:
    """Return all files of a benchmark: its HR images, then the LR images next to them, sorted."""
    hr = sorted(_hr_files(name).values())
    folders = [] if name == MINI else hr[0].parent.parent.glob("[lL][rR]*/**/")
    return hr + sorted(file for folder in folders for file in pictures(folder))


def benchmark(name: str, scale: int, count: int | None = None) -> Iterator[Sample]:
    """Return the (first ``count``) samples of a benchmark in the order of `names`, read one by one.

    ``"B100"`` and ``"BSD100"`` mean whichever of the two is there. Wrong arguments and folders are
    an `InputError` at once, a wrong picture is one while iterating.
    """
    images.check_scale(scale)
    if count is not None and count < 1:
        raise InputError("count", "at least 1 image", count, "leave it out to take all")
    chosen = sorted(_hr_files(name).items())[:count]
    lr = _lr_files(name, scale)
    return (_sample(name, file, lr.get(file), scale) for _, file in chosen)


def sample(name: str, image: str, scale: int) -> Sample:
    """Return one image of a benchmark by its name, without reading the others; errors as there."""
    images.check_scale(scale)
    hr = _hr_files(name)
    wanted = unicodedata.normalize("NFC", image)
    require_known(wanted, hr, f"image of {name}", "one of its names")
    return _sample(name, hr[wanted], _lr_files(name, scale).get(hr[wanted]), scale)


def embedded_training() -> dict[str, Path]:
    """Return the files of scikit-image's images but those of ``mini``, by name."""
    return {Path(file).stem: _SCIKIT / file for file in _TRAINING.split()}


def _sample(name: str, hr_file: Path, lr_file: Path | None, scale: int) -> Sample:
    hr = images.modcrop(images.grey_or_rgb(hr_file), scale)
    height, width = hr.shape[0] // scale, hr.shape[1] // scale
    smallest = 11 + 2 * scale  # SSIM's window, after a border of `scale` pixels is shaved
    if min(hr.shape[:2]) < smallest:
        wanted, found = f"at least {smallest} x {smallest} pixels", f"{hr.shape[1]} x {hr.shape[0]}"
        raise InputError(hr_file, wanted, found, "remove it or use a smaller scale")
    lr = images.as_rgb(images.read(lr_file) if lr_file else images.degrade(hr, scale))
    if lr.shape[:2] != (height, width):
        wanted = f"{width} x {height} pixels, 1/{scale} of {hr_file}"
        found = f"{lr.shape[1]} x {lr.shape[0]} (width x height)"
        raise InputError(lr_file, wanted, found, "move the LR folder away to have LR made from HR")
    dataset = MINI if name == MINI else hr_file.parent.parent.name
    return Sample(dataset, stem(hr_file), scale, lr, hr, lr_file=lr_file)


def _hr_files(name: str) -> dict[str, Path]:
    if name == MINI:
        return {image: _SCIKIT / f"{image}.png" for image in _MINI.split()}
    return by_name(_folder(name) / "HR", f"run `dtfn data fetch {name}` or put them there")


def _lr_files(name: str, scale: int) -> dict[Path, Path]:
    if name == MINI:
        return {}
    hr = sorted(_hr_files(name).values())
    folders = _folder(name).glob("[lL][rR]*/")
    for folder in sorted(folders, key=lambda f: (f.name.lower() != "lr_bicubic", f)):
        says = {file: file.name for file in pictures(folder)}  # its scale, e.g. ax4.png
        says |= {file: file.parent.name for file in sorted(folder.glob("[!.]*/[!.]*"))}
        inside = [f for f, name in says.items() if scale in (_scales(name.casefold()) or {scale})]
        if not inside:
            continue
        there = [f for f in inside if f.suffix.lower() in images.SUFFIXES]
        matched, problems = match(hr, there, scale)
        if len(matched) == len(hr) and folder.name.lower() == "lr_bicubic":
            return matched
        # Else LR would be made from HR unnoticed.
        wanted = f"LR_bicubic/X{scale} with the LR of every picture of HR"
        found = f"{inside[0].name}; the folder {'; '.join(problems[:2]) or 'has another name'}"
        remedy = "rename it as HR is, or move the folder away to have LR made from HR"
        raise InputError(inside[0].parent, wanted, found, remedy)
    return {}


def _scales(text: str) -> set[int]:
    return {int(number) for groups in _SCALE.findall(text) for number in groups if number}


def _folder(name: str) -> Path:
    root, aliases = paths.data_root(), {"B100": "BSD100", "BSD100": "B100"}
    for candidate in (name, aliases.get(name, name)):  # one set, two names in the field
        # A name with a separator in it would leave the root.
        if Path(candidate).name == candidate and (root / candidate / "HR").is_dir():
            return root / candidate
    there = {MINI, *BENCHMARKS, *(hr.parent.name for hr in root.glob("*/HR"))}
    remedy = f"run `dtfn data fetch {name}` or set DTFN_DATA to the folder that holds {name}"
    remedy = remedy if name in BENCHMARKS else f"{nearest(name, there)}; or {remedy}"
    found = "a folder without HR" if (root / name).is_dir() else "no such folder"
    raise InputError(root / name, "a folder with HR/*.png", found, remedy)
