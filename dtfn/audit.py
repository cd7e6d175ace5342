"""Audit anybody's results: folders of pictures that two networks, A and B, made.

No network is needed; where one is named instead of a folder, its pictures are made first.

A *control* is a third folder that is compared with B as A is: it shows what chance alone does.
What is said is only what folders can carry. Networks of unequal quality harm each other's pictures
everywhere, whatever is in them, so harm is judged only where the PSNR is equal.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from dtfn import __version__, datasets, evaluation, files, images, patches, statistics, texture, zoo
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.images import UInt8
from dtfn.metrics import GREY, width_by_height
from dtfn.pairs import CURVE, NULL, Pairs, measure, net
from dtfn.reports import Verdict
from dtfn.subpixel import block_error, interior

LISTED = 12  # problems that one error names
FIFTHS = 5
COUNTS = 0.5  # percent of the error of a fifth: less is nothing that matters

MEASURED = (
    *("psnr_with", "psnr_without", "psnr_gain", "harm_rate", "help_rate", "harm_untied"),
    *("harm_mass", "help_mass", "harm_share", "lost_db", "won_db"),
    *CURVE.values(),
    *("selection_gain", "fusion_gain", "harm_rate_tau", "help_rate_tau", "harm_mass_tau"),
    *("help_mass_tau", "lost_db_tau", "won_db_tau"),
)
"""What is summarised, those of tau where there is a control; see `dtfn.pairs.figures`."""

PRINTED = {
    "psnr_with": "PSNR of {a} (dB)",
    "psnr_without": "PSNR of {b} (dB)",
    "psnr_gain": "{a} over {b} (dB)",
    "harm_rate": "share of blocks where {a} is worse",
    "help_rate": "share of blocks where {a} is better",
    "harm_share": "share of the changed error that {a} adds",
    "selection_gain": "the better of both in each block, over the better (dB)",
    "fusion_gain": "the best mixture in each block, over the better (dB)",
}

_SAVED = re.compile(r"(.+[ ._-])[lh]r")  # what the authors' code saves next to its results
_SCALE = re.compile(r"x?[234]x?", re.IGNORECASE)


class Match(NamedTuple):
    """A picture's name, the file of its truth, and name of a folder of results -> file."""

    image: str
    hr: Path
    results: Mapping[str, Path]


def audit(
    hr: Path, with_: Path, without: Path, scale: int, out: Path, controls: Sequence[Path] = ()
) -> dict[str, Any]:
    """Compare folders of results, and write ``summary.json`` and ``images.csv``.

    Parameters
    ----------
    hr, with_, without, scale, controls
        As for `summarise_folders`.
    out
        Folder for the two files; made as needed, files of these names replaced.

    Returns
    -------
    What summary.json holds, of `summarise_folders`.

    Raises
    ------
    InputError
        As `summarise_folders`; or if ``out`` cannot be written.
    """
    report, rows = summarise_folders(hr, with_, without, scale, controls)
    files.write(out / "images.csv", rows.to_csv(index=False))
    text = json.dumps(_finite(report), indent=1, allow_nan=False, ensure_ascii=False)
    files.write(out / "summary.json", text + "\n")
    return report


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
    looks_like_folder = not zoo.own(given) and len(folder.parts) > 1 and not folder.suffix
    if folder.is_dir() or looks_like_folder:
        return folder
    try:
        evaluation.require([given], scale)
    except InputError as error:
        raise InputError(
            f"results {given!r}",
            expected=f"a folder of pictures, or a network of scale {scale}",
            found="no such folder, and no such network",
            remedy="mend the path, or choose one of `dtfn zoo list`",
        ) from error
    made = out / "outputs" / re.sub(r"[^\w.+-]+", "_", given).strip("_")
    for file in tqdm(datasets.pictures(hr), given, unit="image", disable=None):
        truth = images.modcrop(patches.decode(file), scale)
        sample = Sample(hr.name, datasets.stem(file), scale, images.degrade(truth, scale), truth)
        output = evaluation.outputs([given], sample)[given].image
        images.write(made / f"{sample.image}.png", output)
    return made


def judge(folders: Sequence[str], scale: int) -> list[Verdict]:
    """Return the verdicts on folders of HR, A and B, and perhaps controls, in this order."""
    hr, with_, without, *controls = map(Path, folders)
    return verdicts(summarise_folders(hr, with_, without, scale, controls)[0])


def summarise_folders(
    hr: Path, with_: Path, without: Path, scale: int, controls: Sequence[Path] = ()
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Compare a folder of results, A, with another, B.

    Parameters
    ----------
    hr
        Folder of the truth. It may hold more pictures than the results.
    with_, without
        Folders of A and B, see `match_folders`.
    scale
        s: 2, 3 or 4.
    controls
        Folders that are compared with B as A is, e.g. of a network like B of another training seed.

    Returns
    -------
    A row an image, of `dtfn.pairs.measure` or `dtfn.pairs.net`; and before it how it was measured
    (dtfn, scale, channel, border, grey, tau, folders, names, images, hr_images, confidence); each
    of `MEASURED` as the mean over images, dB figures being means of dB, and with a control also
    ``noise_floor``, ``<figure>_null`` (of the first control) and ``<figure>_net``; ``intervals``:
    figure -> low, high, images, note; ``gains``: the PSNR gain over B of A and of each control;
    ``fifths``: the change of error in percent, from the blocks that lost least detail to those that
    lost most; ``verdicts`` and ``notes``.

    Raises
    ------
    InputError
        As `match_folders`; or if two of the folders hold the same results.
    """
    matches, pairs = matched(hr, with_, without, scale, controls)
    (pair, (a, b)), *others = pairs.items()
    noted: list[dict[str, Any]] = []
    samples = _noting(matched_samples(matches, hr, scale), pairs, noted)
    measured = measure(samples, pairs, NULL if controls else None)
    for name, _ in others:
        _require_other(measured, pair, name)
    rows = net(measured) if controls else measured
    rows = rows[rows["pair"] == pair]
    roles = ["hr", "with", "without", "null", *(name for name, _ in others[1:])]
    folders = dict(zip(roles, map(str, (hr, with_, without, *controls)), strict=False))
    parts = {name: measured[measured["pair"] == name] for name in pairs}
    gains = {n: statistics.mean_interval(part["psnr_gain"]) for n, part in parts.items()}
    report = {
        "dtfn": __version__,
        "scale": scale,
        "channel": "Y, not rounded",
        "border": scale,
        "grey": GREY["rgb"],
        "tau": 0,
        **({"noise_floor": float(rows["tau"].mean())} if controls else {}),
        "folders": folders,
        "names": {"with": a, "without": b, "controls": [c for _, (c, _) in others]},
        "images": len(matches),
        "hr_images": len(datasets.pictures(hr)),
        **_figures(rows, bool(controls)),
        "confidence": 0.95,
        "gains": {pairs[n][0]: (g.estimate, g.low, g.high) for n, g in gains.items()},
        "fifths": _fifths(pd.DataFrame(noted), pairs),
    }
    report["verdicts"] = [vars(verdict) for verdict in verdicts(report)]
    report["notes"] = _notes(report, rows)
    return report, rows


def matched(
    hr: Path, with_: Path, without: Path, scale: int, controls: Sequence[Path] = ()
) -> tuple[list[Match], Pairs]:
    """Return the pictures of the folders, and the pairs of names that are compared, A's first.

    Parameters and errors are those of `audit`.
    """
    given = [("--hr", hr), ("--with", with_), ("--without", without)]
    given += [("--control", folder) for folder in controls]
    for number, (option, folder) in enumerate(given):
        for other, before in given[:number]:
            if folder.resolve() == before.resolve():
                raise InputError(
                    option,
                    expected=f"another folder than {other}",
                    found=folder,
                    remedy="name the folder of other results",
                )
    a, b, *others = _names([with_, without, *controls], hr)
    pairs = {f"{a} against {b}": (a, b)}
    pairs |= {NULL if not k else f"control {k + 1}": (c, b) for k, c in enumerate(others)}
    folders = dict(zip((a, b, *others), (with_, without, *controls), strict=True))
    return match_folders(hr, folders, scale), pairs


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
            expected=f"one result for each picture of {hr}, of its size or cropped to a multiple "
            f"of {scale}",
            found=f"{len(problems)} problem{'s' * (len(problems) > 1)}: {'; '.join(listed)}",
            remedy="mend or remove these files, or check the folders and the scale",
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
                expected=f"a colour picture {name!r}, as the truth is",
                found="a grey one",
                remedy="take the colour results, or a grey truth",
            )
        if sr.shape[:2] not in (hr.shape[:2], cropped.shape[:2]):
            raise InputError(
                match.image,
                expected=f"{sizes} pixels {name!r}, as the truth has",
                found=width_by_height(sr),
                remedy="take the pictures of this scale, without a border cut off",
            )
    if min(cropped.shape[:2]) < 3 * scale:
        raise InputError(
            match.image,
            expected=f"at least {3 * scale} pixels a side: a border of {scale} is left out",
            found=width_by_height(hr),
            remedy="remove it",
        )
    return cropped, {name: images.modcrop(sr, scale) for name, sr in outputs.items()}


def _results(folder: Path) -> list[Path]:
    """Return the pictures of a folder, without the ``_LR`` and ``_HR`` that an ``_SR`` has."""
    named = [(datasets.stem(file).casefold(), file) for file in datasets.pictures(folder)]
    results = {name for name, _ in named if name.endswith("sr")}
    return [
        file
        for name, file in named
        if not ((saved := _SAVED.fullmatch(name)) and f"{saved[1]}sr" in results)
    ]


def matched_samples(matches: Sequence[Match], hr: Path, scale: int) -> Iterator[Sample]:
    """Yield matched pictures with their results, one in memory at a time."""
    dataset = _dataset(hr)
    for one in tqdm(matches, desc=dataset, unit="image", disable=None):
        truth, outputs = read_match(one, scale)
        lr = images.as_rgb(images.degrade(truth, scale))
        yield Sample(dataset, one.image, scale, lr, truth, outputs)


def verdicts(report: Mapping[str, Any]) -> list[Verdict]:
    """Judge whether A is better, and whether it is worse where most detail was lost.

    Parameters
    ----------
    report
        Of `audit`.
    """
    a, b, controls = (report["names"][role] for role in ("with", "without", "controls"))
    gain, low, high = report["gains"][a]
    better = _sign(low, high) if report["images"] >= statistics.LEAST else None
    first = Verdict(f"{a} has a higher PSNR than {b}", gain, (low, high), better, "{:+.3f} dB")
    claim = f"where most detail was lost, {a} adds error to {b}'s"
    if not controls:
        return [first, Verdict(claim, "not judged: there is no control", None, None)]
    unequal = _unequal(report)
    if unequal:
        verb = "differs" if len(unequal) == 1 else "differ"
        text = f"not judged: {' and '.join(unequal)} {verb} in PSNR from {b}"
        return [first, Verdict(f"{claim}, beyond the control", text, None, None)]
    last = [row for row in report["fifths"] if row["fifth"] == FIFTHS]
    judged = [abs(r["change"]) >= COUNTS and report["images"] >= statistics.LEAST for r in last]
    answers = [_sign(r["low"], r["high"]) if j else None for r, j in zip(last, judged, strict=True)]
    if len(set(answers)) > 1:
        words = {True: "more", False: "less", None: "no difference"}
        pairs = zip(controls, answers, strict=True)
        text = "; ".join(f"{control}: {words[answer]}" for control, answer in pairs)
        return [first, Verdict(claim, f"depends on the control ({text})", None, None)]
    change, ends = last[0]["change"], (last[0]["low"], last[0]["high"])
    claim = f"{claim}, beyond {' and '.join(controls)}"
    return [first, Verdict(claim, change, ends, answers[0], "{:+.2f} %")]


def figure_table(report: Mapping[str, Any]) -> pd.DataFrame:
    """Return a summary's main figures for print, with their intervals, control and net."""
    a, b, controls = (report["names"][role] for role in ("with", "without", "controls"))
    control = controls[0] if controls else ""
    rows = []
    for figure, label in PRINTED.items():
        row: dict[str, object] = {"figure": label.format(a=a, b=b)}
        columns = (("", "value"), ("_null", control), ("_net", f"beyond {control}"))
        for ending, column in columns:
            if (name := figure + ending) in report:
                ends = report["intervals"][name]
                row |= {column: report[name], f"{column}_low": ends["low"]}
                row[f"{column}_high"] = ends["high"]
        rows.append(row)
    return pd.DataFrame(rows)


def how_measured(report: Mapping[str, Any]) -> str:
    """Say in a line how a summary was measured."""
    return (
        f"{report['images']} images x{report['scale']}, Y, a border of {report['border']} pixels "
        "left out; in brackets: 95 % interval over images"
    )


def _noting(
    samples: Iterator[Sample], pairs: Pairs, noted: list[dict[str, Any]]
) -> Iterator[Sample]:
    """Yield samples; note how the error of each pair changes in each fifth of the blocks."""
    for sample in samples:
        yield sample
        lost = interior(texture.severity(sample.hr, sample.scale)).ravel()
        fifths = np.array_split(np.argsort(lost, kind="stable"), FIFTHS)
        errors = {
            name: interior(block_error(image, sample.hr, sample.scale)).ravel()
            for name, image in sample.outputs.items()
        }
        for pair, (n, l) in pairs.items():
            for number, blocks in enumerate(fifths, 1):
                before, after = errors[l][blocks].mean(), errors[n][blocks].mean()
                change = 100 * (after - before) / before if before else np.nan
                row = {"pair": pair, "fifth": number, "image": sample.image, "change": change}
                noted.append(row)


def _fifths(noted: pd.DataFrame, pairs: Pairs) -> list[dict[str, Any]]:
    """Return the mean change of error in each fifth, beyond each control if there is one."""
    (pair, _), *others = pairs.items()
    wide = noted.pivot(index=["fifth", "image"], columns="pair", values="change")
    rows = []
    for name, (control, _) in others or [("", ("", ""))]:
        changes = wide[pair] - wide[name] if name else wide[pair]
        for fifth, part in changes.dropna().groupby("fifth"):
            mean = statistics.mean_interval(part)
            row = {"fifth": int(fifth), "control": control, "change": mean.estimate}
            rows.append(row | {"low": mean.low, "high": mean.high})
    return rows


def _figures(rows: pd.DataFrame, has_control: bool) -> dict[str, Any]:
    """Return the mean of each figure over images, and their intervals."""
    columns = [
        name
        for base in MEASURED
        for name in (base, f"{base}_null", f"{base}_net")
        if (has_control or not base.endswith("_tau")) and name in rows and rows[name].notna().any()
    ]
    table = statistics.intervals(rows, columns, by=()).rename(columns={"clusters": "images"})
    means = dict(zip(table["metric"], table["estimate"].tolist(), strict=True))
    ends = table.set_index("metric")[["low", "high", "images", "note"]].to_dict("index")
    return {**means, "intervals": ends}


def _notes(report: Mapping[str, Any], rows: pd.DataFrame) -> list[str]:
    """Return what a reader of the summary must know, the most important first."""
    names, notes = report["names"], []
    unequal = _unequal(report)
    for name in unequal:
        gain, low, high = report["gains"][name]
        notes.append(
            f"{name} and {names['without']} differ in PSNR by {gain:+.3f} dB [{low:+.3f}, "
            f"{high:+.3f}]: networks of unequal quality look like harm or help"
        )
    if not names["controls"]:
        notes.append(
            "no control: two networks that differ by chance alone also err differently in about "
            "half of the blocks; a second result like B, of another training seed, shows how "
            "much that is (--control)"
        )
    if report["images"] < report["hr_images"]:
        notes.append(
            f"{report['images']} of the {report['hr_images']} pictures of the truth were used: "
            "the results hold no others"
        )
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


def _unequal(report: Mapping[str, Any]) -> list[str]:
    """Return the names of A and of the controls whose PSNR gain over B excludes 0."""
    return [n for n, (_, low, high) in report["gains"].items() if _sign(low, high) is not None]


def _sign(low: float, high: float) -> bool | None:
    """Return whether an interval lies above 0; None where it holds 0 or is not known."""
    return True if low > 0 else False if high < 0 else None


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


def _empty(folder: Path) -> str:
    """Say what a folder without pictures is."""
    if not folder.is_dir():
        return f"{folder} is no folder"
    below = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    return f"{folder} has no picture" + (f", but folders {', '.join(below)}" if below else "")


def _require_other(measured: pd.DataFrame, pair: str, control: str) -> None:
    """Refuse a control whose every figure is that of A: one network, twice."""
    columns = [name for name in MEASURED if name in measured]
    parts = [measured.loc[measured["pair"] == n, columns] for n in (pair, control)]
    if parts[0].reset_index(drop=True).equals(parts[1].reset_index(drop=True)):
        raise InputError(
            "--control",
            expected="what another network made",
            found="the figures of --with on every picture",
            remedy="name another folder",
        )


def _finite(value: Any) -> Any:
    """Return the same with None for infinity and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
