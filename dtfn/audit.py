"""Audit anybody's results: pictures that two networks, A and B, made, in folders or made now.

A *control* is a third result that is compared with B as A is: it shows what chance alone does. Only
what pictures can carry is said. They do not show why two networks differ. Networks of unequal
quality err differently everywhere, so where A is worse is judged only if all have one PSNR.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dtfn import __version__, datasets, evaluation, files, harm, images, statistics, zoo
from dtfn.datasets import Sample
from dtfn.errors import InputError
from dtfn.harm import EFFECT_DB, EFFECT_SHARE, FIFTHS, Measured, Pair
from dtfn.images import UInt8
from dtfn.methods import BICUBIC, labels, require, split_change
from dtfn.reports import Verdict, above_zero
from dtfn.statistics import LEAST, Interval, crossed
from dtfn.subpixel import GREY, Float, block_mean, interior, luma, psnr_of, width_by_height

FIGURES = ("psnr_with", "psnr_without", "harm_rate", "help_rate", "selection_bound", "fusion_bound")
"""Means over pictures: PSNR of A and of B (dB); shares of the blocks where A is worse, and better;
what the better of both in each block, and their best mixture there, would reach (dB)."""


@dataclass(frozen=True)
class Results:
    """What is compared."""

    names: tuple[str, ...]  # of A, of B, and of the controls
    samples: Callable[[], Iterable[Sample]]  # opens the pictures anew, with the outputs of all
    inputs: Mapping[str, str]  # name -> SHA-256 of each file that they rest on
    truths: int = 0  # true pictures that there are; the results may hold fewer


def in_folders(given: Sequence[Path | str], scale: int) -> Results:
    """Return what folders of HR, of A, of B and perhaps of controls hold, in this order."""
    places = [Path(folder).resolve() for folder in given]
    if len(places) < 3:
        raise InputError("folders", "those of the truth, of A, of B", list(given), "name three")
    if twice := [folder for folder in places if places.count(folder) > 1]:
        raise InputError("folders", "each once", f"{twice[0]} twice", "name that of other results")
    hr, *folders = map(Path, given)
    dataset = places[0].parent.name if places[0].name in ("HR", "GT") else places[0].name
    names = _names(places[1:], dataset)
    matches = match_folders(hr, dict(zip(names, folders, strict=True)), scale)
    used = {f"HR/{truth.name}": truth for truth in matches}
    used |= {f"{name}/{file.name}": file for row in matches.values() for name, file in row.items()}

    def samples() -> Iterator[Sample]:
        for file in evaluation.progress(matches, desc=dataset, unit="image"):
            truth, outputs = read_match(file, matches[file], scale)
            lr = images.as_rgb(images.degrade(truth, scale))
            yield Sample(dataset, datasets.stem(file), scale, lr, truth, outputs)

    inputs = {name: files.sha256(file) for name, file in used.items()}
    return Results(tuple(names), samples, inputs, len(datasets.pictures(hr)))


def _names(folders: Sequence[Path], dataset: str) -> list[str]:
    """Return a name for each folder of results, and one only: NETWORK of NETWORK/DATASET/x4."""
    parts = [list(folder.parts[1:]) for folder in folders]
    while len({part[-1] for part in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [part[:-1] for part in parts]
    about = re.compile(rf"{re.escape(dataset)}|(?i:x?[234]x?)")
    others = [[p for p in part if not about.fullmatch(p)] for part in parts]
    names = [(kept or part)[-1] for kept, part in zip(others, parts, strict=True)]
    twice = {name for name in names if names.count(name) > 1}
    names = ["/".join(p[-2:]) if n in twice else n for n, p in zip(names, parts, strict=True)]
    return [name if names.count(name) == 1 else f"{name} {k + 1}" for k, name in enumerate(names)]


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

    def samples() -> Iterator[Sample]:
        for sample in evaluation.samples(sets, scale, count):
            made = evaluation.outputs(methods, sample)
            yield replace(sample, outputs={names[m]: one["image"] for m, one in made.items()})

    inputs = {file.name: files.sha256(file) for some in rest_on for file in some}
    return Results(tuple(names.values()), samples, inputs)


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
            output = evaluation.outputs([one], sample)[one]["image"]
            images.write(folders[k] / f"{sample.image}.png", output)
    return folders


def match_folders(hr: Path, results: Mapping[str, Path], scale: int) -> dict[Path, dict[str, Path]]:
    """Return truth -> name of a folder -> its file, see `datasets.match`; one error for all."""
    images.check_scale(scale)
    problems = []
    for folder in (hr, *results.values()):
        if not folder.is_dir():
            problems.append(f"{folder} is no folder")
        elif not datasets.pictures(folder):
            below = ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
            problems.append(f"{folder} has no picture" + f", but folders {below}" * bool(below))
    truths, folders = datasets.pictures(hr), {} if problems else results
    found = {n: datasets.match(truths, _made(at), scale) for n, at in folders.items()}
    used = [truth for truth in truths if any(truth in files for files, _ in found.values())]
    unused = {f"lacks {truth.name}" for truth in truths if truth not in used}
    for name, (_, doubts) in found.items():
        problems += [f"{name!r} {doubt}" for doubt in doubts if doubt not in unused]
    if problems or not used:
        problems = problems or ["no picture has a result"]
        count, most = len(problems), 12
        said = f"{count} problem{'s' * (count > 1)}: {'; '.join(problems[:most])}"
        wanted = f"one result for each picture of {hr}"
        remedy = "mend or remove these files, or check the folders and the scale"
        raise InputError("folders of results", wanted, said + "; and more" * (count > most), remedy)
    return {truth: {name: files[truth] for name, (files, _) in found.items()} for truth in used}


def _made(folder: Path) -> list[Path]:
    """Return the pictures of a folder, without the ``_LR`` and ``_HR`` that an ``_SR`` has."""
    names = {file: datasets.stem(file).casefold() for file in datasets.pictures(folder)}
    made = {file: re.sub("(?<=[ ._-])[lh]r$", "sr", name) for file, name in names.items()}
    return [f for f, name in names.items() if made[f] == name or made[f] not in names.values()]


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

    def _gain(self, name: str, over: str) -> Interval:
        gain = self.quality[name] - self.quality[over]
        return statistics.mean_interval(gain.fillna(0.0))  # both are infinite

    def unequal(self) -> dict[str, Interval]:
        """Return those two results each whose PSNR differs: the interval of the gain holds no 0."""
        a, b, *controls = self.names
        both = [(a, b), *((c, b) for c in controls), *((a, c) for c in controls)]
        gains = {f"{x} and {y} differ in PSNR": self._gain(x, y) for x, y in both}
        return {k: one for k, one in gains.items() if above_zero(one.low, one.high) is not None}

    def notes(self, truths: int = 0) -> list[str]:
        """Return what a reader must know, the most important first."""
        unequal = [
            f"{text} by {one.estimate:+.3f} dB [{one.low:+.3f}, {one.high:+.3f}]: unequal quality "
            "looks like harm or help"
            for text, one in self.unequal().items()
        ]
        count = len(self.pictures)
        exact = int(np.isinf(self.quality[list(self.names[:2])]).any(axis=1).sum())
        notes = {  # note -> whether it applies
            "no control: a second result like B, of another training seed, shows how differently "
            "two networks err by chance alone (--control)": len(self.names) < 3,
            f"{count} of the {truths} pictures of the truth were used: the results hold no "
            "others": count < truths,
            "a single image: no interval": count == 1,
            f"fewer than {LEAST} images: the intervals are too narrow": 1 < count < LEAST,
            f"{exact} of {count} images are reproduced exactly: their PSNR is infinite, and so is "
            "its mean, which is null in summary.json": exact > 0,
        }
        last = "pictures do not show why they differ: nothing is said about causes or a network's "
        return [*unequal, *(note for note, here in notes.items() if here), f"{last}inside"]

    def beyond(self) -> pd.DataFrame:
        """Return fifth, than, change: by what % of B's error A exceeds B and each control."""
        table = self.measured.fifths
        table = table.assign(change=100 * (table["added"] - table["removed"]))
        mine, *others = (part for _, part in table.groupby("role", sort=False))
        changes = [0.0, *(part["change"].to_numpy() for part in others)]
        parts = [
            mine.assign(than=than, change=mine["change"] - change)
            for than, change in zip(self.names[1:], changes, strict=True)
        ]
        by = statistics.crossed_by(pd.concat(parts), ["than", "fifth"], ["change"], "off")
        return by[["fifth", "than", "change", "change_low", "change_high"]]

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

        last = self.beyond()[lambda t: t["fifth"] == FIFTHS].drop(columns="fifth")
        rows = last.itertuples(index=False)
        changes = {than: Interval(mean, low, high, count) for than, mean, low, high in rows}
        answers = {
            than: above_zero(c.low, c.high) if enough and abs(c.estimate) >= EFFECT_SHARE else None
            for than, c in changes.items()
        }
        del changes[b]  # the number is what A has beyond a control
        words = {True: "more", False: "less", None: "no difference"}
        second = _agreed(worse + by, changes, answers, words, "{:+.2f} %")

        lost, answers = {}, {}
        for control, part in self.apart.items():  # in textures that its regions do not explain
            lost[control] = one = crossed(part.pictures[part.pictures["role"] == "pair"], "lost")
            answers[control] = (enough and one.low > 0 and one.estimate >= EFFECT_DB) or None
        words = {True: "worse", None: "nothing found"}
        return [first, second, _agreed(some + by, lost, answers, words, "{:.3f} dB")]


def _agreed(
    claim: str, numbers: dict[str, Any], answers: dict[str, Any], words: dict[Any, str], form: str
) -> Verdict:
    """Return what all answers say, with the `Interval` of that control which is nearest to 0."""
    of_controls = {control: answers[control] for control in numbers}
    for on, given in {"control": of_controls, "comparison": answers}.items():
        if len(set(given.values())) > 1:
            each = "; ".join(f"{than}: {words[answer]}" for than, answer in given.items())
            return Verdict(claim, f"depends on the {on} ({each})", None, None)
    one = min(numbers.values(), key=lambda number: abs(number.estimate))
    return Verdict(claim, one.estimate, (one.low, one.high), next(iter(answers.values())), form)


def look(results: Results) -> Findings:
    """Compare results picture by picture; two that are the same everywhere are an `InputError`."""
    a, b, *controls = results.names
    rows, quality = [], []

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
        return made

    groups = {f"{a} against {b}": controls}
    if len(controls) > 1:
        groups |= {f"{a} against {b}, beyond {control}": [control] for control in controls}
    pairs = [
        Pair(name, "results", 0, a, b, tuple((control, b) for control in group))
        for name, group in groups.items()
    ]
    measured = harm.measure(pairs, results.samples(), errors)
    tables = pd.DataFrame(rows), pd.DataFrame(quality)
    for control, other in product(controls, (a, b)):
        if tables[1][control].equals(tables[1][other]):
            found = f"{control} is {other} on every picture"
            raise InputError("--control", "what another network made", found, "name another folder")
    whole, *parts = (Measured(*(t[t["pair"] == pair] for t in measured)) for pair in groups)
    apart = dict(zip(controls, parts or [whole], strict=False))
    return Findings(results.names, pairs[0], *tables, whole, apart)


def audit(folders: Sequence[Path], scale: int, out: Path) -> tuple[dict[str, Any], Findings]:
    """Compare folders of results, and write ``summary.json`` and ``images.csv`` into ``out``.

    Folders and errors are those of `in_folders` and `look`. Returned are what summary.json holds,
    and what was found. In it are `FIGURES` with their ``intervals``, and how they were measured
    (tau: the threshold of harm); ``curve`` and ``textures`` are those of `dtfn.harm`.
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
