"""Audit anybody's results: the pictures that two networks, A and B, made.

A *control* is a third result that is compared with B as A is: it shows what chance alone does. Only
what pictures can carry is said. They do not show why two networks differ. Networks of unequal
quality err differently everywhere, so where A is worse is judged only if all have one PSNR.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dtfn import __version__, evaluation, files, harm, statistics
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.harm import EFFECT_DB, EFFECT_SHARE, FIFTHS, Measured, Pair
from dtfn.reports import Verdict, above_zero
from dtfn.results import Results, in_folders
from dtfn.statistics import LEAST, Interval, crossed
from dtfn.subpixel import GREY, Float, block_mean, interior, luma, psnr_of

FIGURES = ("psnr_with", "psnr_without", "harm_rate", "help_rate", "selection_bound", "fusion_bound")
"""Means over pictures: PSNR of A and of B (dB); shares of the blocks where A is worse, and better;
what the better of both in each block, and their best mixture there, would reach (dB)."""
CANNOT = "pictures do not show why they differ: nothing is said about causes or a network's inside"


@dataclass(frozen=True)
class Findings:
    """What `look` found."""

    names: tuple[str, ...]  # of A, of B, and of the controls
    pair: Pair  # A against B with all controls
    pictures: pd.DataFrame  # a row a picture: dataset, image, and `FIGURES`
    quality: pd.DataFrame  # a row a picture, a column a name: PSNR (dB)
    measured: Measured  # of `dtfn.harm.measure`, for that pair
    apart: Mapping[str, Measured]  # control -> the same with this control alone

    def psnr(self) -> pd.DataFrame:
        """Return name, psnr (dB), and gain over B with its interval: a row a result."""
        base = self.names[1]
        means = self.quality.mean().items()
        rows = [{"name": n, "psnr": m} | self._gain(str(n), base).columns("gain") for n, m in means]
        return pd.DataFrame(rows)

    def unequal(self) -> dict[str, Interval]:
        """Return those two results each whose PSNR differs: the interval of the gain holds no 0."""
        a, b, *controls = self.names
        both = [(a, b), *((c, b) for c in controls), *((a, c) for c in controls)]
        gains = {f"{x} and {y} differ in PSNR": self._gain(x, y) for x, y in both}
        return {k: one for k, one in gains.items() if above_zero(one.low, one.high) is not None}

    def _gain(self, name: str, over: str) -> Interval:
        gain = self.quality[name] - self.quality[over]
        return statistics.mean_interval(gain.fillna(0.0))  # both are infinite

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
                "no control: a second result like B, of another training seed, shows how "
                "differently two networks err by chance alone (--control)"
            )
        if count < truths:
            used = f"{count} of the {truths} pictures of the truth were used"
            notes.append(f"{used}: the results hold no others")
        if count == 1:
            notes.append("a single image: no interval")
        elif count < LEAST:
            notes.append(f"fewer than {LEAST} images: the intervals are too narrow")
        if exact := int(np.isinf(self.quality[list(self.names[:2])]).any(axis=1).sum()):
            notes.append(
                f"{exact} of {count} images are reproduced exactly: their PSNR is infinite, and so "
                "is its mean, which is null in summary.json"
            )
        return [*notes, CANNOT]

    def beyond(self) -> pd.DataFrame:
        """Return how much more error A has in each fifth of severity than B and than each control.

        Columns: fifth, than, change (% of B's error) with its interval.
        """
        table = self.measured.fifths
        table = table.assign(change=100 * (table["added"] - table["removed"]))
        mine, *others = (part for _, part in table.groupby("role", sort=False))
        changes = [0.0, *(part["change"].to_numpy() for part in others)]
        parts = []
        for than, change in zip(self.names[1:], changes, strict=True):
            rest = mine.assign(change=mine["change"] - change)
            part = statistics.crossed_by(rest, ["fifth"], ["change"], "off")
            parts.append(part.assign(than=than))
        ends = ["change", "change_low", "change_high"]
        return pd.concat(parts, ignore_index=True)[["fifth", "than", *ends]]

    def verdicts(self) -> list[Verdict]:
        """Judge whether A is better, and whether it is worse somewhere, beyond the controls."""
        a, b, *controls = self.names
        enough = (count := len(self.pictures)) >= LEAST
        few = f" — open on {count} picture{'s' * (count > 1)}; {LEAST} are needed" * (not enough)
        gain = self._gain(a, b)
        ends = (gain.low, gain.high)
        better = above_zero(*ends) if enough else None
        claim = f"{a} has a higher PSNR than {b}"
        first = Verdict(claim + few, gain.estimate, ends, better, "{:+.3f} dB")
        worse = f"where most detail was lost, {a} adds error to {b}'s"
        some = f"{a} has textures that are worse than {b}'s"
        why = "there is no control; name a second result like B"
        if controls:
            why = "; ".join(self.unequal())
            why += "; take results whose 95 % interval of the PSNR gain holds 0" * bool(why)
        if why:
            text = f"not judged: {why}"
            return [first, *(Verdict(claim, text, None, None) for claim in (worse, some))]
        by = f", beyond {' and '.join(controls)}{few}"

        last = self.beyond()[lambda t: t["fifth"] == FIFTHS].set_index("than")
        changes = {than: tuple(row) for than, row in last.drop(columns="fifth").iterrows()}
        answers = {
            than: above_zero(low, high) if enough and abs(change) >= EFFECT_SHARE else None
            for than, (change, low, high) in changes.items()
        }
        words = {True: "more", False: "less", None: "no difference"}
        on = "control" if len({answers[control] for control in controls}) > 1 else "comparison"
        if on == "control":
            del answers[b]
        del changes[b]
        second = _agreed(worse + by, changes, answers, words, "{:+.2f} %", on)

        lost, answers = {}, {}
        for control, part in self.apart.items():  # in textures that its regions do not explain
            one = crossed(part.pictures[part.pictures["role"] == "pair"], "lost")
            lost[control] = (one.estimate, one.low, one.high)
            found = enough and one.low > 0 and one.estimate >= EFFECT_DB
            answers[control] = True if found else None
        words = {True: "worse", None: "nothing found"}
        return [first, second, _agreed(some + by, lost, answers, words, "{:.3f} dB")]


def _agreed(
    claim: str,
    numbers: Mapping[Any, Sequence[float]],
    answers: Mapping[Any, bool | None],
    words: Mapping[bool | None, str],
    form: str,
    on: str = "control",
) -> Verdict:
    """Return what all answers say, with the number (and its interval) that is nearest to 0."""
    if len(set(answers.values())) > 1:
        each = "; ".join(f"{than}: {words[answer]}" for than, answer in answers.items())
        return Verdict(claim, f"depends on the {on} ({each})", None, None)
    nearest = min(numbers, key=lambda than: abs(numbers[than][0]))
    number, low, high = map(float, numbers[nearest])
    return Verdict(claim, number, (low, high), answers[nearest], form)


def look(results: Results) -> Findings:
    """Compare results picture by picture; two that are the same everywhere are an `InputError`."""
    a, b, *controls = results.names
    rows, quality = [], []
    alike = {(control, other) for control in controls for other in (a, b)}

    def errors(methods: Sequence[str], sample: Sample) -> dict[str, Float]:
        made = evaluation.block_errors(methods, sample)
        quality.append({name: psnr_of(interior(made[name])) for name in results.names})
        mine, other = (interior(made[name]) for name in (a, b))
        x, y, truth = (luma(image) for image in (sample.outputs[a], sample.outputs[b], sample.hr))
        length = block_mean((x - y) ** 2, sample.scale)
        along = block_mean((x - y) * (truth - y), sample.scale)
        weight = np.divide(along, length, out=np.zeros_like(along), where=length > 0).clip(0, 1)
        mixed = interior(made[b] - weight * (2 * along - weight * length)).clip(min=0)
        bounds = psnr_of(np.minimum(mine, other)), psnr_of(mixed)
        shares = (mine > other).mean(), (mine < other).mean()
        figures = (psnr_of(mine), psnr_of(other), *shares, *bounds)
        place = {"dataset": sample.dataset, "image": sample.image}
        rows.append(place | dict(zip(FIGURES, figures, strict=True)))
        alike.difference_update([two for two in alike if (made[two[0]] != made[two[1]]).any()])
        return made

    groups = {f"{a} against {b}": controls}
    if len(controls) > 1:
        groups |= {f"{a} against {b}, beyond {control}": [control] for control in controls}
    pairs = [
        Pair(name, "results", 0, a, b, tuple((control, b) for control in group))
        for name, group in groups.items()
    ]
    measured = harm.measure(pairs, results.samples(), errors)
    for control, other in alike:
        found = f"{control} is {other} on every picture"
        raise InputError("--control", "what another network made", found, "name another folder")
    whole, *parts = (Measured(*(t[t["pair"] == pair] for t in measured)) for pair in groups)
    apart = dict(zip(controls, parts or [whole], strict=False))
    tables = pd.DataFrame(rows), pd.DataFrame(quality)
    return Findings(results.names, pairs[0], *tables, whole, apart)


def audit(folders: Sequence[Path], scale: int, out: Path) -> tuple[dict[str, Any], Findings]:
    """Compare folders of results, and write ``summary.json`` and ``images.csv`` into ``out``.

    Folders and errors are those of `dtfn.results.in_folders` and `look`. Returned are what
    summary.json holds, and what was found. In it are `FIGURES` with their ``intervals``; ``psnr``
    of each result with its gain over B; ``curve`` of `dtfn.harm.curve`, ``fifths`` of
    `Findings.beyond`, ``textures`` of `dtfn.harm.textures`; and how all was measured (tau: the
    threshold of harm).
    """
    results = in_folders(folders, scale)
    found = look(results)
    a, b, *others = results.names
    figures = {name: vars(statistics.mean_interval(found.pictures[name])) for name in FIGURES}
    table = pd.DataFrame(figures).T.rename(columns={"pictures": "images"})
    roles = ["hr", "with", "without", *(f"control {k}" for k, _ in enumerate(others, 1))]
    report = {
        "dtfn": __version__,
        "scale": scale,
        "channel": "Y, not rounded",
        "border": scale,
        "grey": GREY["rgb"],
        "tau": 0,
        "folders": dict(zip(roles, map(str, folders), strict=True)),
        "names": {"with": a, "without": b, "controls": others},
        "images": len(found.pictures),
        "hr_images": results.truths,
        **table["estimate"].to_dict(),
        "intervals": table.drop(columns="estimate").to_dict("index"),
        "confidence": 0.95,
        "psnr": found.psnr().to_dict("records"),
        "curve": harm.curve(found.measured.fifths).to_dict("records"),
        "fifths": found.beyond().to_dict("records"),
        "textures": harm.textures(found.measured).to_dict("records"),
        "verdicts": [vars(verdict) for verdict in found.verdicts()],
        "notes": found.notes(results.truths),
    }
    files.write(out / "images.csv", found.pictures.to_csv(index=False))
    # pandas writes null for infinity and NaN, which JSON does not have.
    text = pd.Series(report).to_json(double_precision=15, force_ascii=False, indent=1)
    files.write(out / "summary.json", f"{text}\n")
    return report, found
