"""Benchmarks: pairs of LR and HR images, embedded in the installation or in folders.

A folder has the layout of EDSR's benchmarks::

    <root>/<name>/HR/<stem>.png                     PNG, JPEG, BMP or TIFF
    <root>/<name>/LR_bicubic/X<s>/<stem>x<s>.png    optional: where absent, HR is degraded

The root is ``$DTFN_DATA``, else ``data/``. The embedded benchmark ``mini`` needs no folder: its
images come with scikit-image.
"""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dtfn import images, paths
from dtfn.errors import InputError, nearest
from dtfn.images import UInt8

MINI = "mini"

# Only PNG: what a JPEG decodes to depends on the decoder, and these numbers are compared.
_MINI_FILES = tuple(
    f"{stem}.png"
    for stem in ("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel")
)
# What else scikit-image ships and is a photograph or a page; drawings and charts teach no texture.
_TRAINING_FILES = (
    "cell.png",
    "clock_motion.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)

_FETCHED = ("B100", "BSD100", "Manga109", "Set14", "Set5", "Urban100")
_ALIASES = {"B100": "BSD100", "BSD100": "B100"}  # one set, two names in the field

# SSIM's window. With a border of `scale` pixels shaved, anything smaller has no SSIM.
_WINDOW = 11


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture at one scale, and what networks made of it.

    The one container that flows through the project: `benchmark` yields it without outputs,
    `dtfn.evaluation` adds them, the analysis reads them.

    Attributes
    ----------
    dataset
        The benchmark's name: its folder's, or ``"mini"``; ``"file"`` for a picture by itself.
    image
        The file's stem.
    scale
        2, 3 or 4.
    lr
        uint8 RGB ``(H, W, 3)`` in [0, 255]; grey is replicated.
    hr
        uint8 RGB ``(scale * H, scale * W, 3)``, or ``(scale * H, scale * W)`` where the file is
        grey. Cropped at the top left.
    outputs
        Network -> its output, shaped like an RGB ``hr``.
    """

    dataset: str
    image: str
    scale: int
    lr: UInt8
    hr: UInt8
    outputs: Mapping[str, UInt8] = field(default_factory=dict)

    def with_outputs(self, outputs: Mapping[str, UInt8]) -> Sample:
        """Return the sample with further outputs."""
        return replace(self, outputs={**self.outputs, **outputs})

    def crop(self, top: int, left: int, height: int, width: int) -> Sample:
        """Return the window of LR positions, cut from LR, HR and every output."""

        def cut(image: UInt8, factor: int) -> UInt8:
            rows = slice(factor * top, factor * (top + height))
            return image[rows, factor * left : factor * (left + width)]

        return replace(
            self,
            lr=cut(self.lr, 1),
            hr=cut(self.hr, self.scale),
            outputs={name: cut(image, self.scale) for name, image in self.outputs.items()},
        )


def names(name: str) -> list[str]:
    """Return the names of a benchmark's images, sorted.

    Raises
    ------
    InputError
        As `benchmark`, but for what only reading an image can tell.
    """
    return sorted(_hr_files(name))


def files(name: str) -> list[Path]:
    """Return all files of a benchmark: its HR images, then the LR images beside them, sorted.

    Raises
    ------
    InputError
        As `names`.
    """
    found = sorted(_hr_files(name).values())
    if name != MINI:
        found += sorted((found[0].parent.parent / "LR_bicubic").rglob("*.png"))
    return found


def benchmark(name: str, scale: int, count: int | None = None) -> Iterator[Sample]:
    """Return the samples of a benchmark in the order of `names`, each read when it is asked for.

    Parameters
    ----------
    name
        ``"mini"``, or a folder under `dtfn.paths.data_root`. ``"B100"`` and ``"BSD100"`` mean
        whichever of the two is there.
    scale
        2, 3 or 4.
    count
        Only the first so many images (all, if there are fewer).

    Raises
    ------
    InputError
        At once, for another scale, a count below 1, a missing or empty folder, or two files of one
        stem. While iterating, for an image that is unreadable or too small, or an LR image whose
        size does not fit its HR.
    """
    scale = images.check_scale(scale)
    if count is not None and count < 1:
        raise InputError(
            "count", expected="at least 1 image", found=count, remedy="leave it out to take all"
        )
    files = sorted(_hr_files(name).items())[:count]
    return (_sample(name, file, scale) for _, file in files)


def sample(name: str, image: str, scale: int) -> Sample:
    """Return one image of a benchmark by its name, without reading the others.

    Parameters
    ----------
    name, scale
        As for `benchmark`.
    image
        One of `names`.

    Raises
    ------
    InputError
        As `benchmark`, and for an image that the benchmark does not have.
    """
    scale = images.check_scale(scale)
    files = _hr_files(name)
    if image not in files:
        raise InputError(
            f"image of {name}", expected="one of its names", found=repr(image),
            remedy=nearest(image, files),
        )  # fmt: skip
    return _sample(name, files[image], scale)


def embedded_training() -> dict[str, UInt8]:
    """Return images to train on that need no download: scikit-image's, without those of ``mini``.

    Returns
    -------
    name -> uint8 RGB ``(H, W, 3)`` in [0, 255]; 12 images of 172 to 1411 pixels a side.
    """
    folder = _scikit_image_folder()
    return {Path(file).stem: images.as_rgb(images.read(folder / file)) for file in _TRAINING_FILES}


def _sample(name: str, hr_file: Path, scale: int) -> Sample:
    """Read one image and its LR, or make the LR."""
    hr = images.modcrop(images.grey_or_rgb(hr_file), scale)
    smallest = _WINDOW + 2 * scale
    if min(hr.shape[:2]) < smallest:
        raise InputError(
            hr_file,
            expected=f"at least {smallest} x {smallest} pixels at scale {scale}",
            found=f"{hr.shape[0]} x {hr.shape[1]} (a multiple of {scale})",
            remedy="remove it from the benchmark or use a smaller scale",
        )
    if name == MINI:
        return Sample(MINI, hr_file.stem, scale, images.as_rgb(images.degrade(hr, scale)), hr)
    folder = hr_file.parent.parent
    lr_file = folder / "LR_bicubic" / f"X{scale}" / f"{hr_file.stem}x{scale}.png"
    lr = images.as_rgb(images.read(lr_file) if lr_file.exists() else images.degrade(hr, scale))
    if lr.shape[:2] != (hr.shape[0] // scale, hr.shape[1] // scale):
        raise InputError(
            lr_file,
            expected=f"{hr.shape[0] // scale} x {hr.shape[1] // scale} pixels, 1/{scale} of "
            f"{hr_file}",
            found=f"{lr.shape[0]} x {lr.shape[1]}",
            remedy="delete it and it will be made from the HR image, or put the right one there",
        )
    return Sample(folder.name, hr_file.stem, scale, lr, hr)


def _hr_files(name: str) -> dict[str, Path]:
    """Return the HR files of a benchmark by stem."""
    if name == MINI:
        return {Path(file).stem: _scikit_image_folder() / file for file in _MINI_FILES}
    folder = _folder(name) / "HR"
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in images.SUFFIXES and not file.name.startswith(".")
    ]
    if not files:
        raise InputError(
            folder,
            expected=f"images ({', '.join(images.SUFFIXES)})",
            found="none",
            remedy=f"run `dtfn data fetch {name}` or put them there",
        )
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        by_stem[file.stem].append(file)
    for stem, same in by_stem.items():
        if len(same) > 1:
            raise InputError(
                folder,
                expected=f"one image named {stem!r}",
                found=" and ".join(sorted(file.name for file in same)),
                remedy="remove or rename all but one",
            )
    return {stem: file for stem, (file,) in by_stem.items()}


def _folder(name: str) -> Path:
    """Return the folder of a benchmark, under its name or its alias."""
    root = paths.data_root()
    for candidate in (name, _ALIASES.get(name, name)):
        # A name with a separator in it would leave the root.
        if Path(candidate).name == candidate and (root / candidate / "HR").is_dir():
            return root / candidate
    there = {hr.parent.name for hr in root.glob("*/HR")}
    remedy = f"run `dtfn data fetch {name}` or set DTFN_DATA to the folder that holds {name}"
    if name not in _FETCHED:
        remedy = f"{nearest(name, {MINI, *_FETCHED, *there})}; or {remedy}"
    raise InputError(
        root / name,
        expected="a folder with HR/*.png (and perhaps LR_bicubic/X2, X3, X4)",
        found="a folder without HR" if (root / name).is_dir() else "no such folder",
        remedy=remedy,
    )


def _scikit_image_folder() -> Path:
    """Return the folder of images in the installed scikit-image.

    Found without importing it: ``skimage.data`` would set up downloads, which are never wanted.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise InputError(
            "scikit-image", expected="the package", found="none", remedy="run `make install`"
        )
    return Path(spec.origin).parent / "data"
