"""Audit anybody's results: the pictures that two networks, A and B, made.

No network is needed; where one is named instead of a folder, its pictures are made first. A
*control* is a third result that is compared with B as A is: it shows what chance alone does.

Only what pictures can carry is said. They do not show why two networks differ. Networks of unequal
quality err differently everywhere, so where A is worse is judged only if all have one PSNR.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dtfn import __version__, files, harm, statistics
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.harm import EFFECT_DB, EFFECT_SHARE, FIFTHS, Measured
from dtfn.metrics import GREY, Float
from dtfn.reports import Verdict, above_zero
from dtfn.results import Results, in_folders
from dtfn.statistics import LEAST, crossed
from dtfn.subpixel import block_mean, decibels, gain, interior, luma

__all__ = ["FIGURES", "Findings", "audit", "look"]

FIGURES = ("psnr_with", "psnr_without", "harm_rate", "help_rate", "selection_bound", "fusion_bound")
"""What a summary has as means over pictures: PSNR of A and of B (dB); shares of the blocks where A
is worse, and better; and what the better of both in each block, and their best mixture there, would
reach (dB)."""

CHANGE = ("change", "change_low", "change_high")
CANNOT = (
    "pictures do not show why they differ: nothing is said about what is inside of a network, nor "
    "about causes"
)


@dataclass(frozen=True)
class Findings:
    """What `look` found.

    Attributes
    ----------
    names
        Of A, of B, and of the controls.
    pictures
        A row a picture: dataset, image, and `FIGURES`.
    measured
        Of `dtfn.harm.measure`, for A against B with all controls.
    apart
        Control -> the same with this control alone.
    """

    names: tuple[str, ...]
    pictures: pd.DataFrame
    measured: Measured
    apart: Mapping[str, Measured]

    def psnr(self) -> pd.DataFrame:
        """Return name, psnr (dB), and gain over B with its interval: a row a result."""
        rows = []
        for name, part in self._by_name().items():
            row: dict[str, Any] = {"name": name, "psnr": part["psnr"].mean()}
            rows.append(row | self._gain(name, self.names[1]).columns("gain"))
        return pd.DataFrame(rows)

    def unequal(self) -> dict[str, statistics.Interval]:
        """Return those two results each whose PSNR differs: the interval of the gain holds no 0."""
        a, b, *controls = self.names
        both = [(a, b), *((c, b) for c in controls), *((a, c) for c in controls)]
        gains = {f"{one} and {other} differ in PSNR": self._gain(one, other) for one, other in both}
        known = {text: above_zero(one.low, one.high) for text, one in gains.items()}
        return {text: one for text, one in gains.items() if known[text] is not None}

    def notes(self, truths: int = 0) -> list[str]:
        """Return what a reader must know, the most important first."""
        count = len(self.pictures)
        notes = [
            f"{text} by {one.estimate:+.3f} dB [{one.low:+.3f}, {one.high:+.3f}]: unequal quality "
            "looks like harm or help"
            for text, one in self.unequal().items()
        ]
        if len(self.names) < 3:
            notes.append(
                "no control: two networks that differ by chance alone also err differently "
                "everywhere; a second result like B, of another training seed, shows how much "
                "that is (--control)"
            )
        if count < truths:
            used = f"{count} of the {truths} pictures of the truth were used"
            notes.append(f"{used}: the results hold no others")
        if count == 1:
            notes.append("a single image: no interval")
        elif count < LEAST:
            notes.append(f"fewer than {LEAST} images: the intervals are too narrow")
        exact = int(np.isinf(self.pictures[["psnr_with", "psnr_without"]]).any(axis=1).sum())
        if exact:
            notes.append(
                f"{exact} of {count} images are reproduced exactly: their PSNR is infinite, and so "
                "is its mean, which is null in summary.json"
            )
        return [*notes, CANNOT]

    def beyond(self) -> pd.DataFrame:
        """Return how much more error A has in each fifth of severity than B and than each control.

        A row a fifth and other result: fifth, than, change (% of B's error) with its interval.
        """
        table = self.measured.fifths
        table = table.assign(net=100 * (table["added"] - table["removed"]))
        parts = dict(zip([self.names[0], *self.names[2:]], _roles(table), strict=True))
        mine = parts[self.names[0]]
        rows = []
        for than in self.names[1:]:
            other = parts[than]["net"].to_numpy() if than in parts else 0.0
            for fifth, part in mine.assign(net=mine["net"] - other).groupby("fifth"):
                row = {"fifth": int(fifth), "than": than}
                rows.append(row | crossed(part, "net", "off").columns("change"))
        return pd.DataFrame(rows)

    def verdicts(self) -> list[Verdict]:
        """Judge whether A is better, and whether it is worse somewhere, beyond the controls."""
        a, b, *controls = self.names
        ends = self._gain(a, b)
        better = above_zero(ends.low, ends.high) if self._enough() else None
        interval = (ends.low, ends.high)
        claim = f"{a} has a higher PSNR than {b}"
        first = Verdict(claim, ends.estimate, interval, better, "{:+.3f} dB")
        worse = f"where most detail was lost, {a} adds error to {b}'s"
        some = f"{a} has textures that are worse than {b}'s"
        why = "there is no control" if not controls else "; ".join(self.unequal())
        if why:
            text = f"not judged: {why}"
            return [first, *(Verdict(claim, text, None, None) for claim in (worse, some))]
        by = f", beyond {' and '.join(controls)}"
        return [first, self._worse(worse + by), self._textures(some + by)]

    def _worse(self, claim: str) -> Verdict:
        """Judge the last fifth: more error than B's, and than each control's."""
        last = self.beyond()[lambda t: t["fifth"] == FIFTHS].set_index("than")
        answers = {
            than: above_zero(low, high) if self._enough() and abs(change) >= EFFECT_SHARE else None
            for than, (change, low, high) in last[list(CHANGE)].iterrows()
        }
        controls = {than: answer for than, answer in answers.items() if than != self.names[1]}
        words = {True: "more", False: "less", None: "no difference"}
        if text := _disagree(controls, words) or _disagree(answers, words, "comparison"):
            return Verdict(claim, text, None, None)
        nearest = last.drop(self.names[1])["change"].abs().idxmin()
        change, low, high = (float(last.loc[nearest, k]) for k in CHANGE)
        return Verdict(claim, change, (low, high), controls[nearest], "{:+.2f} %")

    def _textures(self, claim: str) -> Verdict:
        """Judge what is lost in textures that the regions of no control explain."""
        lost = {
            control: crossed(part.pictures[part.pictures["role"] == "pair"], "lost")
            for control, part in self.apart.items()
        }
        answers = {
            control: True if self._enough() and one.low > 0 and one.estimate >= EFFECT_DB else None
            for control, one in lost.items()
        }
        if text := _disagree(answers, {True: "worse", None: "nothing found"}):
            return Verdict(claim, text, None, None)
        least = min(lost, key=lambda control: lost[control].estimate)
        one = lost[least]
        return Verdict(claim, one.estimate, (one.low, one.high), answers[least], "{:.3f} dB")

    def _by_name(self) -> dict[str, pd.DataFrame]:
        """Return the pictures with the column psnr of each result."""
        mine, *others = _roles(self.measured.pictures)
        parts = [mine.assign(psnr=mine["psnr_on"]), mine.assign(psnr=mine["psnr_off"])]
        parts += [other.assign(psnr=other["psnr_on"]) for other in others]
        return dict(zip(self.names, parts, strict=True))

    def _gain(self, name: str, over: str) -> statistics.Interval:
        both = (self._by_name()[one]["psnr"] for one in (name, over))
        return statistics.mean_interval([gain(x, y) for x, y in zip(*both, strict=True)])

    def _enough(self) -> bool:
        return len(self.pictures) >= LEAST


def audit(
    hr: Path, with_: Path, without: Path, scale: int, out: Path, controls: Sequence[Path] = ()
) -> tuple[dict[str, Any], Findings]:
    """Compare folders of results, and write ``summary.json`` and ``images.csv``.

    Parameters
    ----------
    hr, with_, without, scale, controls
        As for `in_folders`.
    out
        Folder for the two files; made as needed, files of these names replaced.

    Returns
    -------
    What summary.json holds, and what was found. How it was measured (dtfn, scale, channel, border,
    grey, tau: the threshold of harm, folders, names, images, hr_images, confidence); each of
    `FIGURES`, and ``intervals``: figure -> low, high, images, note; ``psnr`` of each result with
    its gain over B; ``curve``, of `dtfn.harm.curve`; ``fifths``, of `Findings.beyond`;
    ``textures``, of `dtfn.harm.textures`; ``verdicts`` and ``notes``.

    Raises
    ------
    InputError
        As `in_folders` and `look`; or if ``out`` cannot be written.
    """
    results = in_folders([hr, with_, without, *controls], scale)
    found = look(results)
    a, b, *others = results.names
    table = statistics.intervals(found.pictures, FIGURES, by=()).rename(
        columns={"clusters": "images"}
    )
    roles = ["hr", "with", "without", *(f"control {k}" for k, _ in enumerate(others, 1))]
    report = {
        "dtfn": __version__,
        "scale": scale,
        "channel": "Y, not rounded",
        "border": scale,
        "grey": GREY["rgb"],
        "tau": 0,
        "folders": dict(zip(roles, map(str, (hr, with_, without, *controls)), strict=True)),
        "names": {"with": a, "without": b, "controls": others},
        "images": len(found.pictures),
        "hr_images": results.truths,
        **dict(zip(table["metric"], table["estimate"].tolist(), strict=True)),
        "intervals": table.set_index("metric")[["low", "high", "images", "note"]].to_dict("index"),
        "confidence": 0.95,
        "psnr": found.psnr().to_dict("records"),
        "curve": harm.curve(found.measured.fifths).to_dict("records"),
        "fifths": found.beyond().to_dict("records"),
        "textures": harm.textures(found.measured).to_dict("records"),
        "verdicts": [vars(verdict) for verdict in found.verdicts()],
        "notes": found.notes(results.truths),
    }
    files.write(out / "images.csv", found.pictures.to_csv(index=False))
    text = json.dumps(_finite(report), indent=1, allow_nan=False, ensure_ascii=False)
    files.write(out / "summary.json", text + "\n")
    return report, found


def look(results: Results) -> Findings:
    """Compare results picture by picture, one in memory at a time.

    Raises
    ------
    InputError
        Two of the results are the same on every picture.
    """
    rows: list[dict[str, Any]] = []

    def errors(methods: Sequence[str], sample: Sample) -> dict[str, Float]:
        made = harm.folder_errors(methods, sample)
        rows.append(_row(sample, made, *results.names[:2]))
        return made

    pairs = results.pairs
    measured = harm.measure(pairs, results.samples(), errors)
    parts = [Measured(*(t[t["pair"] == pair.name] for t in measured)) for pair in pairs]
    controls = results.names[2:]
    for control, part in zip(controls, _roles(parts[0].fifths)[1:], strict=True):
        _require_other(control, part, _roles(parts[0].fifths)[0], results.names[:2])
    apart = dict(zip(controls, parts[1:] or parts, strict=False))
    return Findings(results.names, pd.DataFrame(rows), parts[0], apart)


def _row(sample: Sample, errors: Mapping[str, Float], a: str, b: str) -> dict[str, Any]:
    """Return one picture's `FIGURES`; the outermost LR positions are left out."""
    mine, other = interior(errors[a]), interior(errors[b])
    x, y, truth = (luma(image) for image in (sample.outputs[a], sample.outputs[b], sample.hr))
    length = block_mean((x - y) ** 2, sample.scale)
    along = block_mean((x - y) * (truth - y), sample.scale)
    weight = np.divide(along, length, out=np.zeros_like(along), where=length > 0).clip(0, 1)
    mixed = interior(errors[b] - weight * (2 * along - weight * length)).clip(min=0)
    means = [decibels(float(part.mean())) for part in (mine, other)]
    shares = float((mine > other).mean()), float((mine < other).mean())
    bounds = [decibels(float(part.mean())) for part in (np.minimum(mine, other), mixed)]
    place = {"dataset": sample.dataset, "image": sample.image}
    return place | dict(zip(FIGURES, (*means, *shares, *bounds), strict=True))


def _roles(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the rows of the pair, then those of each of its controls."""
    return [part for _, part in table.groupby("role", sort=False)]


def _disagree(
    answers: Mapping[str, bool | None], words: Mapping[bool | None, str], on: str = "control"
) -> str:
    """Say what each control answers, if they do not all answer alike."""
    if len(set(answers.values())) < 2:
        return ""
    each = "; ".join(f"{control}: {words[answer]}" for control, answer in answers.items())
    return f"depends on the {on} ({each})"


def _require_other(
    control: str, part: pd.DataFrame, mine: pd.DataFrame, names: Sequence[str]
) -> None:
    """Refuse a control that is A or B once more."""
    changes = [table[["added", "removed"]].to_numpy() for table in (part, mine)]
    same = names[1] if not changes[0].any() else names[0]
    if not changes[0].any() or np.array_equal(*changes):
        raise InputError(
            "--control",
            "what another network made",
            f"{control} is {same} on every picture",
            "name another folder",
        )


def _finite(value: Any) -> Any:
    """Return the same with None for infinity and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, np.generic):
        return _finite(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
