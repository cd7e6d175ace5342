"""The field's tables: every method measured, and compared with what has been published.

``published.csv`` holds what papers and repositories print: method, scale, dataset, PSNR (dB) and
SSIM on Y. What others measured with their own code on the authors' weights is *re-measured*.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dtfn import datasets, evaluation, methods, statistics, zoo
from dtfn import tiling as cutting
from dtfn.audit import match_folders, read_match
from dtfn.errors import InputError
from dtfn.methods import BICUBIC
from dtfn.reports import Verdict, above_zero

# Pictures of each benchmark; only whole ones are compared.
SIZES: Mapping[str, int] = {"Set5": 5, "Set14": 14, "BSD100": 100, "Urban100": 100, "Manga109": 109}
CLASSICAL = f"{BICUBIC}, grey as Y"  # the rule of the classical tables, see `dtfn.subpixel`
MATCHES, DIFFERS = "matches", "differs"
NOT_WHOLE, UNPUBLISHED = "not the whole benchmark", "no published value"


def values(scales: Iterable[int] = (2, 3, 4)) -> pd.DataFrame:
    """Return the published values of some scales: method, scale, dataset, psnr (dB), ssim or NaN.

    And remeasured (who did, if not its paper), table (its name here) and source (where that is).
    """
    table = pd.read_csv(Path(__file__).with_suffix(".csv")).fillna({"remeasured": ""})
    return table[table["scale"].isin(list(scales))]


def sources(scales: Iterable[int]) -> pd.DataFrame:
    """Return the tables that have values of these scales: table, source, values (how many)."""
    groups = values(scales).groupby(["table", "source"], sort=False, as_index=False)
    return groups.agg(values=("psnr", "size"))


def of_the_field(scales: Iterable[int]) -> pd.DataFrame:
    """Return a method's first published value a benchmark, in the form of `evaluation.summary`."""
    part = values(scales)
    by = part["remeasured"].map(lambda who: f" (re-measured by {who})" if who else "")
    part = part.assign(method=part["method"] + by, at=part["dataset"].map(list(SIZES).index))
    first = part.drop_duplicates(["method", "dataset", "scale"]).sort_values(["at", "scale"])
    return first[["dataset", "scale", "method", "psnr", "ssim"]].reset_index(drop=True)


@dataclass(frozen=True)
class Study:
    """What is measured on which benchmarks, at which scales, in which ways."""

    benchmarks: Sequence[str]
    scales: Sequence[int]
    methods: Sequence[str] = ()  # those that fit a scale; none: all, see `contenders`
    tilings: Sequence[str] = ("whole",)  # each as for `dtfn.tiling.way`
    ensembles: Sequence[bool] = (False,)  # whether by self-ensemble; (False, True) does both
    count: int | None = None
    device: str = "cpu"
    zoo: bool = True  # whether its networks are measured, too, if no methods are named

    def contenders(self, scale: int) -> list[str]:
        """Return the methods of a scale: without any named, bicubic and all networks."""
        if self.methods:
            other = {row["name"] for row in zoo.everything() if row["scale"] != scale}
            return [method for method in self.methods if method not in other]
        rows = [*zoo.imported(), *(zoo.registry() if self.zoo else [])]
        return [BICUBIC, *(row["name"] for row in rows if row["scale"] == scale)]

    def files(self) -> list[Path]:
        """Return the weights of all networks."""
        names = dict.fromkeys(name for scale in self.scales for name in self.contenders(scale))
        return [zoo.file_of(name) for name in names if name != BICUBIC]

    def _ways(self) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
        for scale, text, ensemble in product(self.scales, self.tilings, self.ensembles):
            way, labels = cutting.way(text), {}
            for name in (name for name in self.contenders(scale) if name != BICUBIC):
                cut = way or methods.card_tiling(name)
                note = ", chop" if isinstance(cut, cutting.Chop) else f", within {text}"
                note = f", tiles of {cut.size}" if isinstance(cut, cutting.Tiling) else note
                labels[name] = f"{name}{'+' * ensemble}{note if cut else ''}"
            how = {"datasets": self.benchmarks, "scale": scale, "count": self.count}
            how |= {"device": self.device, "tiling": way, "self_ensemble": ensemble}
            if labels:
                yield labels, how

    def forecast(self) -> pd.DataFrame:
        """Return `dtfn.evaluation.forecast` of all, with the method's name of `measure`, scale."""
        columns = ["method", "scale", "pictures", "tiles", "seconds", "memory"]
        parts = [pd.DataFrame(columns=columns)]
        for labels, how in self._ways():
            part = evaluation.forecast(list(labels), **how).replace({"method": labels})
            parts.append(part.assign(scale=how["scale"])[columns])
        return pd.concat(parts[1:] or parts, ignore_index=True)

    def measure(self, folders: Sequence[str] = (), rounded: bool = False) -> pd.DataFrame:
        """Measure all, and folders of pictures, ``NAME=FOLDER`` with ``{dataset}`` and ``{scale}``.

        Returned is `dtfn.evaluation.evaluate` by scale, bicubic first, then folders, whose seconds
        are NaN. The method's name says the way too: ``dtfn-x4+, chop`` is a self-ensemble, chopped.
        The column published has its name in published tables; it is empty where they cannot have
        it, as for self-ensembles and small networks.
        """
        parts = [_measured_folder(text, self, rounded) for text in folders]
        for scale in self.scales:
            if BICUBIC in self.contenders(scale):
                how: dict[str, Any] = {"count": self.count, "rounded": rounded}
                how |= {"methods": BICUBIC, "datasets": self.benchmarks, "scale": scale}
                made = evaluation.evaluate(**how)
                classical = evaluation.evaluate(**how, grey="y")  # the rule of published values
                same = bool((classical["psnr"] == made["psnr"]).all())
                parts.append(made.assign(published="Bicubic" if same else ""))
                if not same:
                    parts.append(classical.assign(method=CLASSICAL, published="Bicubic"))
        known = {row["name"]: "" for row in zoo.registry()}
        for row in zoo.imported():
            size = row["hyperparameters"]["n_feats"], row["hyperparameters"]["n_resblocks"]
            known[row["name"]] = row["network"].upper() if row["full_size"] else ""
            if (row["network"], *size) == ("edsr", 64, 16):
                known[row["name"]] = "EDSR-baseline"
        for labels, how in self._ways():
            made = evaluation.evaluate(list(labels), **how, rounded=rounded)
            names = made["method"].map(lambda name: known.get(name, name))
            made = made.assign(published="" if how["self_ensemble"] else names)
            parts.append(made.replace({"method": labels}))
        table = pd.concat(parts, ignore_index=True)
        first = table["method"].map({BICUBIC: 0, CLASSICAL: 1}).fillna(2)
        return table.iloc[np.lexsort((first, table["scale"]))].reset_index(drop=True)  # stable


def present(required: Sequence[str], optional: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the benchmarks here, and the optional ones that are not; or raise `InputError`."""
    here = {name: datasets.names(name) for name in required}
    for name in optional:
        with contextlib.suppress(InputError):
            here[name] = datasets.names(name)
    absent = [name for name in optional if name not in here]
    return list(here), absent


def _measured_folder(text: str, study: Study, rounded: bool) -> pd.DataFrame:
    name, _, pattern = text.partition("=")
    if not name or not pattern:
        raise InputError("folder of pictures", "NAME=FOLDER", repr(text), "write it so")
    rows = []
    sets = [name for name in study.benchmarks if name != datasets.MINI]
    for dataset, scale in product(sets, study.scales):
        hr = datasets.files(dataset)[0].parent
        folder = Path(pattern.format(dataset=dataset, scale=scale)).expanduser()
        matches = match_folders(hr, {name: folder}, scale) if folder.is_dir() else {}
        for file, results in matches.items():
            truth, made = read_match(file, results, scale)
            both = (evaluation.psnr, evaluation.ssim)
            scores = (metric(made[name], truth, scale, rounded=rounded) for metric in both)
            rows.append((hr.parent.name, datasets.stem(file), scale, *scores))
    if not rows:
        raise InputError(f"pictures of {name}", "a folder", f"none, e.g. {folder}", "mend the path")
    table = pd.DataFrame(rows, columns=["dataset", "image", "scale", "psnr", "ssim"])
    return table.assign(method=name, published=name, seconds=np.nan)


def compare(results: pd.DataFrame) -> pd.DataFrame:
    """Compare the means of `Study.measure` with published ones.

    A row a measured and a published value: method, scale, dataset; psnr and ssim, each *measured*,
    *published* and as their *difference*; verdict; and published in, the tables that print the
    value. A method that no table has, has one row a scale, without a dataset.
    """
    of, both = ["method", "scale"], ["psnr", "ssim"]
    table = evaluation.summary(results).join(results.groupby(of)["published"].first(), on=of)
    table["known"] = table["dataset"].replace("B100", "BSD100")
    printed = values().rename(columns={"method": "published", "dataset": "known"})
    cells = ["published", "scale", "known"]
    printed = printed.groupby([*cells, *both], sort=False, dropna=False)["table"].agg("; ".join)
    printed = printed.rename("published in").reset_index()
    found = table.merge(printed, on=cells, suffixes=("", " published"))
    for m in both:
        found[f"measured {m}"], found[f"published {m}"] = found[m], found[f"{m} published"]
        found[f"difference {m}"] = found[m] - found[f"published {m}"]
    whole = found["images"] == found["known"].map(SIZES)
    close = (found["psnr"].round(2) - found["published psnr"]).abs().round(2) <= 0.01
    found["verdict"] = np.select([~whole, close], [NOT_WHOLE, MATCHES], DIFFERS)
    kinds = product(("measured", "published", "difference"), both)
    columns = [*of, "dataset", *map(" ".join, kinds), "verdict", "published in"]
    rows = table[of].drop_duplicates().merge(found[columns], "left", on=of)
    return rows.fillna({"verdict": UNPUBLISHED})


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Return, for each method of `compare` with published values, whether a table matches."""
    judged = []
    compared = table[table["verdict"].isin([MATCHES, DIFFERS])]
    for (method, scale), part in compared.groupby(["method", "scale"], sort=False):
        cells = (part["verdict"] == MATCHES).groupby(part["dataset"]).any()
        claim = f"{method} ×{scale} has its published PSNR, to 0.01 dB"
        share = f"{int(cells.sum())} of {len(cells)} benchmarks"
        judged.append(Verdict(claim, share, None, bool(cells.all())))
    nothing = "no whole benchmark with a published value was measured"
    return judged or [Verdict("the published PSNR is met, to 0.01 dB", nothing, None, None)]


def beats(results: pd.DataFrame, methods: Sequence[str]) -> list[Verdict]:
    """Return for each method whether its mean PSNR over all pictures is above that of bicubic."""
    psnr = results.pivot(index=["dataset", "image", "scale"], columns="method", values="psnr")
    judged = []
    for method in methods:
        gain = statistics.mean_interval(psnr[method] - psnr[BICUBIC])
        ends = (gain.low, gain.high) if gain.pictures >= statistics.LEAST else None
        holds, claim = above_zero(*ends) if ends else None, f"{method} beats {BICUBIC}"
        judged.append(Verdict(claim, gain.estimate, ends, holds, "{:+.2f} dB"))
    return judged
