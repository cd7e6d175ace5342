"""Audit anybody's results: folders of pictures made with and without attention, no network needed.

Pictures are matched by their names and sizes. The field names one picture in many ways:
``baby.png`` as truth, ``babyx4.png``, ``baby_x4_SR.png``, ``baby-x4.png``, ``baby_RCAN_x4.png`` or
``img_001_SRF_4_SR.png`` as results.

What is measured, and how, is that of `dtfn.subpixel`; here it goes from files to files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from dtfn import __version__, datasets, images, statistics
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.pairs import CURVE, NULL, Pairs, measure, net

UInt8 = NDArray[np.uint8]

TOLD = 12  # problems that one error tells

PAIR = "the audited network"

COLUMNS = (
    "psnr_with", "psnr_without", "psnr_gain", "harm_rate", "help_rate", "harm_untied", "harm_mass",
    "help_mass", "harm_share", "lost_db", "won_db", *CURVE.values(), "selection_gain",
    "fusion_gain", "harm_rate_tau", "help_rate_tau", "harm_mass_tau", "help_mass_tau",
    "lost_db_tau", "won_db_tau",
)  # fmt: skip
"""What is summarised, those of tau where there is a null; see `dtfn.pairs.figures`."""

PRINTED = {
    "psnr_with": "PSNR with (dB)",
    "psnr_without": "PSNR without (dB)",
    "psnr_gain": "with over without (dB)",
    "harm_rate": "harm rate",
    "help_rate": "help rate",
    "harm_untied": "harm rate, ties aside",
    "harm_mass": "harm mass (MSE)",
    "selection_bound": "selection bound (dB)",
    "selection_gain": "selection over the better (dB)",
    "fusion_bound": "fusion bound (dB)",
    "fusion_gain": "fusion over the better (dB)",
}

NO_NULL = (
    "no null pair: two networks that differ by luck alone also harm about half of the positions "
    "and have bounds above both; only a second result without attention, of another training "
    "seed, can tell (--null)"
)


def audit(
    hr: Path, with_: Path, without: Path, scale: int, out: Path, null: Path | None = None
) -> dict[str, Any]:
    """Measure a folder of results against another, and write ``summary.json`` and ``images.csv``.

    Parameters
    ----------
    hr
        Folder of the truth.
    with_, without
        Folders of what the networks with and without attention made, see
        `match`.
    scale
        s: 2, 3 or 4.
    out
        Folder for the two files; made as needed, files of these names replaced.
    null
        Folder of what a second network without attention made, of another training seed: with
        ``without`` it makes the null pair, whose threshold ``tau`` serves the figures of that name.

    Returns
    -------
    What summary.json holds, see `summary`.

    Raises
    ------
    InputError
        As `match`; or if two of the folders hold the same results.
    """
    matches, pairs = matched(hr, with_, without, scale, null)
    shown = pictures(matches, hr.resolve().name, scale)
    measured = measure(shown, pairs, NULL if null else None)
    if null:
        _require_another_null(measured)
    rows = net(measured) if null else measured
    folders = {"hr": hr, "with": with_, "without": without} | ({"null": null} if null else {})
    report = summary(rows, scale, {role: str(folder) for role, folder in folders.items()})
    try:
        out.mkdir(parents=True, exist_ok=True)
        rows.to_csv(out / "images.csv", index=False)
        text = json.dumps(_finite(report), indent=1, allow_nan=False, ensure_ascii=False)
        (out / "summary.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            out, expected="a folder to write to", found=error, remedy="choose another --out"
        ) from error
    return report


def matched(
    hr: Path, with_: Path, without: Path, scale: int, null: Path | None = None
) -> tuple[list[Match], Pairs]:
    """Return the pictures of the folders, and the pairs of roles that are compared.

    Parameters and errors are those of `audit`.
    """
    folders = {"with": with_, "without": without} | ({"null": null} if null else {})
    _require_different({"hr": hr} | folders)
    pairs = ({NULL: ("null", "without")} if null else {}) | {PAIR: ("with", "without")}
    return match(hr, folders, scale), pairs


def pictures(matches: Sequence[Match], dataset: str, scale: int) -> Iterator[Sample]:
    """Yield matched pictures with their results, one in memory at a time."""
    for one in tqdm(matches, desc=dataset, unit="image", disable=None):
        hr, made = load(one, scale)
        lr = images.as_rgb(images.degrade(hr, scale))
        yield Sample(dataset, one.image, scale, lr, hr, made)


def summary(rows: pd.DataFrame, scale: int, folders: Mapping[str, str]) -> dict[str, Any]:
    """Return the mean of each figure over images, with intervals.

    Parameters
    ----------
    rows
        A row an image: from `dtfn.pairs.measure` for one pair, or `dtfn.pairs.net`.
    scale, folders
        To be noted.

    Returns
    -------
    How it was measured (dtfn, scale, channel, border, tau, folders, images, confidence; with a null
    pair noise_floor, the mean of the tau that the figures ending in ``_tau`` take); each of
    `COLUMNS` as the mean over images, dB figures being means of dB; with a null pair also
    ``<figure>_null`` and ``<figure>_net``; ``intervals``: figure -> low, high, images, note; and
    ``notes``, what a reader must know.
    """
    has_null = "harm_rate_null" in rows
    columns = [
        name
        for base in COLUMNS
        for name in (base, f"{base}_null", f"{base}_net")
        if (has_null or not base.endswith("_tau")) and name in rows and rows[name].notna().any()
    ]
    found = statistics.intervals(rows, columns, by=()).set_index("metric")
    return {
        "dtfn": __version__,
        "scale": scale,
        "channel": "Y, not rounded",
        "border": scale,
        "tau": 0,
        **({"noise_floor": float(rows["tau"].mean())} if has_null else {}),
        "folders": dict(folders),
        "images": len(rows),
        **{name: float(found.loc[name, "estimate"]) for name in columns},
        "confidence": 0.95,
        "intervals": {
            name: {
                "low": float(found.loc[name, "low"]),
                "high": float(found.loc[name, "high"]),
                "images": int(found.loc[name, "clusters"]),
                "note": str(found.loc[name, "note"]),
            }
            for name in columns
        },
        "notes": _notes(rows),
    }


def _notes(rows: pd.DataFrame) -> list[str]:
    """Return what a reader of the summary must know."""
    notes = [] if "harm_rate_null" in rows else [NO_NULL]
    if len(rows) < 2:
        notes.append("a single image: no interval")
    elif len(rows) < statistics.LEAST:
        notes.append(f"fewer than {statistics.LEAST} images: the intervals are too narrow")
    exact = int(np.isinf(rows[["psnr_with", "psnr_without"]]).any(axis=1).sum())
    if exact:
        notes.append(
            f"{exact} of {len(rows)} images are reproduced exactly: their PSNR is infinite, and so "
            "is its mean, which is null in summary.json"
        )
    return notes


def table(report: Mapping[str, Any]) -> pd.DataFrame:
    """Return a summary's main figures for print, with their intervals, null and net."""
    rows = []
    for figure, label in PRINTED.items():
        row: dict[str, object] = {"figure": label}
        for ending, column in (("", "value"), ("_null", "null"), ("_net", "net")):
            if (name := figure + ending) in report:
                ends = report["intervals"][name]
                row |= {column: report[name], f"{column}_low": ends["low"]}
                row[f"{column}_high"] = ends["high"]
        rows.append(row)
    return pd.DataFrame(rows)


def told(report: Mapping[str, Any]) -> str:
    """Say in a line how a summary was measured."""
    return (
        f"{report['images']} images x{report['scale']}, Y, a border of {report['border']} pixels "
        "left out; in brackets: 95 % interval over images"
    )


def _require_another_null(measured: pd.DataFrame) -> None:
    """Refuse a null pair whose every figure is that of the audited pair: one network, twice."""
    parts = [part for _, part in measured.groupby("pair")]
    names = [name for name in COLUMNS if name in measured]
    if parts[0][names].reset_index(drop=True).equals(parts[1][names].reset_index(drop=True)):
        raise InputError(
            "--null", expected="what a second network without attention made",
            found="the very figures of --with on every picture", remedy="name another folder",
        )  # fmt: skip


def _require_different(folders: Mapping[str, Path]) -> None:
    roles: dict[Path, str] = {}
    for role, folder in folders.items():
        other = roles.setdefault(folder.resolve(), role)
        if other != role:
            raise InputError(
                f"--{role}",
                expected=f"another folder than --{other}",
                found=folder,
                remedy="name the folder of other results",
            )


def _finite(value: Any) -> Any:
    """Return the same with None for infinity and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    files = datasets.pictures(folder)
    if not folder.is_dir():
        problems.append(f"{folder} is no folder")
    elif not files:
        below = sorted(f.name for f in folder.iterdir() if f.is_dir() and f.name[0] != ".")
        problems.append(
            f"{folder} has no picture" + (f", but folders {', '.join(below)}" if below else "")
        )
    return files


def _assign(
    role: str, truths: Sequence[Path], files: Sequence[Path], scale: int, problems: list[str]
) -> dict[Path, Path]:
    """Return truth -> result of one folder; note what is missing, doubtful or of another scale."""
    matched, wrong = datasets.match(truths, files, scale)
    problems += [f"{role!r} {problem}" for problem in wrong]
    return matched


def _size(image: UInt8) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
