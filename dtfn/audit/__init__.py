"""Audit anybody's results: folders of pictures made with and without attention, no network needed.

What is measured, and how, is that of `dtfn.subpixel`; here it goes from files to files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from dtfn import __version__, statistics, subpixel
from dtfn.audit.matching import Match, load, match
from dtfn.errors import InputError
from dtfn.subpixel import NULL, Pairs, Picture

PAIR = "the audited network"

COLUMNS = (
    "psnr_with", "psnr_without", "psnr_gain", "harm_rate", "help_rate", "harm_untied", "harm_mass",
    "help_mass", "harm_share", "lost_db", "won_db", *subpixel.CURVE.values(), "selection_gain",
    "fusion_gain", "harm_rate_tau", "help_rate_tau", "harm_mass_tau", "help_mass_tau",
    "lost_db_tau", "won_db_tau",
)  # fmt: skip
"""What is summarised, those of tau where there is a null; see `dtfn.subpixel.pair`."""

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
        `dtfn.audit.matching.match`.
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
        As `dtfn.audit.matching.match`; or if two of the folders hold the same results.
    """
    matches, pairs = matched(hr, with_, without, scale, null)
    shown = pictures(matches, hr.resolve().name, scale)
    measured = subpixel.measure(shown, pairs, NULL if null else None)
    if null:
        _require_another_null(measured)
    rows = subpixel.net(measured) if null else measured
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


def pictures(matches: Sequence[Match], dataset: str, scale: int) -> Iterator[Picture]:
    """Yield matched pictures as `dtfn.subpixel` takes them, one in memory at a time."""
    for one in tqdm(matches, desc=dataset, unit="image", disable=None):
        hr, made = load(one, scale)
        yield Picture(dataset, one.image, scale, hr, made)


def summary(rows: pd.DataFrame, scale: int, folders: Mapping[str, str]) -> dict[str, Any]:
    """Return the mean of each figure over images, with intervals.

    Parameters
    ----------
    rows
        A row an image: from `dtfn.subpixel.measure` for one pair, or `dtfn.subpixel.net`.
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
