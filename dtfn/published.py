"""The field's tables: every method measured, and compared with what has been published.

``published.csv`` holds what papers and repositories print: method, scale, dataset, PSNR (dB) and
SSIM on Y. What others measured with their own code on the authors' weights is *re-measured*.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dtfn import datasets, evaluation, statistics, zoo
from dtfn import tiling as cutting
from dtfn.errors import InputError
from dtfn.evaluation import BICUBIC
from dtfn.reports import Verdict, above_zero
from dtfn.results import match_folders, read_match

FILE = Path(__file__).with_suffix(".csv")
SIZES: Mapping[str, int] = {"Set5": 5, "Set14": 14, "BSD100": 100, "Urban100": 100, "Manga109": 109}
"""Benchmark -> pictures; only whole ones are compared."""

CLASSICAL = f"{BICUBIC}, grey as Y"  # the rule of the classical tables, see `dtfn.metrics`
CLOSE = 0.01  # dB, between values rounded to two digits
MATCHES, DIFFERS = "matches", "differs"
NOT_WHOLE, UNPUBLISHED = "not the whole benchmark", "no published value"


# --- what is published ------------------------------------------------------------------------


@functools.cache
def values() -> pd.DataFrame:
    """Return all published values, not to be changed.

    Returns
    -------
    A row a cell of a table: method, scale, dataset, psnr (dB), ssim (NaN where a table has none),
    remeasured (who measured it, where that is not its paper; else empty), table (its name here) and
    source (where that is).
    """
    return pd.read_csv(FILE).fillna({"remeasured": ""})


def sources(scales: Iterable[int]) -> pd.DataFrame:
    """Return the tables that have values of these scales: table, source, values (how many)."""
    part = values()[lambda t: t["scale"].isin(list(scales))]
    groups = part.groupby(["table", "source"], sort=False, as_index=False)
    return groups.agg(values=("psnr", "size"))


def of_the_field(scales: Iterable[int]) -> pd.DataFrame:
    """Return one published value a method and benchmark, in the form of `evaluation.summary`.

    Where several tables have a method, its first table counts, and where that lacks a benchmark,
    the next. Re-measured values are rows of their own: ``EDSR (re-measured by torchSR)``.
    """
    part = values()[lambda t: t["scale"].isin(list(scales))]
    by = part["remeasured"].map(lambda who: f" (re-measured by {who})" if who else "")
    part = part.assign(method=part["method"] + by)
    first = part.drop_duplicates(["method", "dataset", "scale"]).sort_values("scale", kind="stable")
    order = first["dataset"].map(list(SIZES).index).sort_values(kind="stable").index
    return first.loc[order, ["dataset", "scale", "method", "psnr", "ssim"]].reset_index(drop=True)


# --- what is measured -------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """What is measured on which benchmarks, at which scales, in which ways.

    Attributes
    ----------
    benchmarks, scales, count, device
        As for `dtfn.evaluation.evaluate`; several scales.
    methods
        Those that fit a scale; none: bicubic, every imported network and every one of the zoo.
    tilings, ensembles
        Each as for `dtfn.tiling.way`; whether by self-ensemble, ``(False, True)`` does both.
    zoo
        False: without methods only bicubic and the imported networks.
    """

    benchmarks: Sequence[str]
    scales: Sequence[int]
    methods: Sequence[str] = ()
    tilings: Sequence[str] = ("whole",)
    ensembles: Sequence[bool] = (False,)
    count: int | None = None
    device: str = "cpu"
    zoo: bool = True

    def contenders(self, scale: int) -> list[str]:
        """Return the methods of a scale."""
        rows = zoo.everything()
        if self.methods:
            other = {row["name"] for row in rows if row["scale"] != scale}
            return [method for method in self.methods if method not in other]
        rows = [*zoo.imported(), *(zoo.registry() if self.zoo else [])]
        return [BICUBIC, *(row["name"] for row in rows if row["scale"] == scale)]

    def files(self) -> list[Path]:
        """Return the weights of all networks."""
        names = dict.fromkeys(name for scale in self.scales for name in self.contenders(scale))
        return [zoo.file_of(name) for name in names if name != BICUBIC]

    def _ways(self) -> Iterator[tuple[list[str], str, dict[str, Any]]]:
        """Yield what to run, and how: at each scale bicubic once, the networks in every way."""
        for scale in self.scales:
            how = {"datasets": self.benchmarks, "scale": scale, "count": self.count}
            names = self.contenders(scale)
            if BICUBIC in names:
                yield [BICUBIC], "whole", how
            how["device"] = self.device
            chosen = [name for name in names if name != BICUBIC]
            for tiling, ensemble in product(self.tilings, self.ensembles) if chosen else ():
                way = {"tiling": cutting.way(tiling), "self_ensemble": ensemble}
                yield chosen, tiling, how | way

    def forecast(self) -> pd.DataFrame:
        """Return `dtfn.evaluation.forecast` of all, with the method's name of `measure`, scale."""
        columns = ["method", "scale", "pictures", "tiles", "seconds", "memory"]
        parts = []
        for chosen, tiling, how in self._ways():
            if chosen != [BICUBIC]:
                part = evaluation.forecast(chosen, **how)
                labels = [_label(name, tiling, how["self_ensemble"]) for name in part["method"]]
                parts.append(part.assign(method=labels, scale=how["scale"])[columns])
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)

    def measure(self, folders: Sequence[str] = (), rounded: bool = False) -> pd.DataFrame:
        """Measure all, and folders of pictures that others have made.

        Parameters
        ----------
        folders
            Each ``NAME=FOLDER``; in FOLDER, ``{dataset}`` and ``{scale}`` stand for these. A folder
            that does not exist is left out, if another does.
        rounded
            As for `dtfn.evaluation.evaluate`.

        Returns
        -------
        `dtfn.evaluation.evaluate` by scale, bicubic first, then folders, whose seconds are NaN. The
        method's name says the way too: ``dtfn-x4+, chop`` is a self-ensemble, chopped. The column
        published has its name in published tables; it is empty where they cannot have it, as for
        self-ensembles and small networks.

        Raises
        ------
        InputError
            As `dtfn.evaluation.evaluate`; or for a folder of another form, that does not exist for
            any benchmark and scale, or whose pictures do not match.
        """
        parts = [_measured_folder(text, self.benchmarks, self.scales, rounded) for text in folders]
        known = {row["name"]: _published(row) for row in zoo.imported()}
        known |= {row["name"]: "" for row in zoo.registry()} | {BICUBIC: "Bicubic"}
        for chosen, tiling, how in self._ways():
            made = evaluation.evaluate(chosen, **how, rounded=rounded)
            ensemble = how.get("self_ensemble", False)
            names = ["" if ensemble else known.get(name, name) for name in made["method"]]
            labels = [_label(name, tiling, ensemble) for name in made["method"]]
            if chosen == [BICUBIC]:  # its published values follow the classical rule
                classical = evaluation.evaluate(chosen, **how, rounded=rounded, grey="y")
                if (classical["psnr"] != made["psnr"]).any():
                    parts.append(classical.assign(method=CLASSICAL, published="Bicubic"))
                    names = [""] * len(made)
            parts.append(made.assign(method=labels, published=names))
        table = pd.concat(parts, ignore_index=True)
        first = table["method"].map({BICUBIC: 0, CLASSICAL: 1}).fillna(2)
        return table.iloc[np.lexsort((first, table["scale"]))].reset_index(drop=True)  # stable


def present(required: Sequence[str], optional: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the benchmarks that are here, and the optional ones that are not.

    A required one that is not here, or none at all, is an `InputError`.
    """
    here = {name: datasets.names(name) for name in required}
    for name in optional:
        with contextlib.suppress(InputError):
            here[name] = datasets.names(name)
    absent = [name for name in optional if name not in here]
    if not here:
        remedy = "name one, e.g. mini, or run `dtfn data fetch benchmarks`"
        found = ", ".join(absent) or "none"
        raise InputError("benchmarks", "at least one that is here", found, remedy)
    return list(here), absent


def _label(method: str, tiling: str, ensemble: bool) -> str:
    name = f"{method}+" if ensemble else method
    if tiling == "whole":
        own = None if method == BICUBIC else evaluation.card_tiling(method)
        return name if own is None else f"{name}, tiles of {own.size}"
    if tiling == "chop":
        return f"{name}, chop"
    return f"{name}, tiles of {tiling}" if tiling.isdigit() else f"{name}, within {tiling}"


def _published(row: Mapping[str, Any]) -> str:
    """Return what tables call an imported network; empty if it is not of the published size."""
    size = row["hyperparameters"]["n_feats"], row["hyperparameters"]["n_resblocks"]
    if (row["network"], size) == ("edsr", (64, 16)):
        return "EDSR-baseline"
    return str(row["network"]).upper() if row["full_size"] else ""


def _measured_folder(
    text: str, benchmarks: Sequence[str], scales: Iterable[int], rounded: bool
) -> pd.DataFrame:
    name, _, pattern = text.partition("=")
    if not name or not pattern:
        remedy = "write e.g. RCAN=results/{dataset}/x{scale}"
        raise InputError("folder of pictures", "NAME=FOLDER", repr(text), remedy)
    rows = []
    for dataset in (b for b in benchmarks if b != datasets.MINI):
        hr = datasets.files(dataset)[0].parent
        for scale in scales:
            folder = Path(pattern.format(dataset=dataset, scale=scale)).expanduser()
            for one in match_folders(hr, {name: folder}, scale) if folder.is_dir() else ():
                truth, made = read_match(one, scale)
                both = (evaluation.psnr, evaluation.ssim)
                scores = (metric(made[name], truth, scale, rounded=rounded) for metric in both)
                rows.append((hr.parent.name, one.image, scale, *scores))
    if not rows:
        wanted = "a folder for one of the benchmarks and scales"
        raise InputError(f"pictures of {name}", wanted, f"none, e.g. {folder}", "mend the path")
    table = pd.DataFrame(rows, columns=["dataset", "image", "scale", "psnr", "ssim"])
    return table.assign(method=name, published=name, seconds=np.nan)


# --- both -------------------------------------------------------------------------------------


def compare(results: pd.DataFrame) -> pd.DataFrame:
    """Compare measured means with published ones.

    ``results`` are of `dtfn.evaluation.evaluate`, with a column published as of `Study.measure`.

    Returns
    -------
    A row a measured and a published value: method, scale, dataset; psnr and ssim, each *measured*,
    *published* and as their *difference*, measured less published; verdict; and published in, the
    tables that print the value. Tables that agree share a row. A method that no table has, has one
    row a scale, without a dataset.
    """
    of = ["method", "scale"]
    names = results.groupby(of, sort=False, as_index=False)["published"].first()
    table = evaluation.summary(results).merge(names, on=of)
    table["known"] = table["dataset"].replace("B100", "BSD100")
    printed = values().add_prefix("published ").rename(columns={"published scale": "scale"})
    printed = printed.rename(
        columns={"published method": "published", "published dataset": "known"}
    )
    cells = ["published", "scale", "known", "published psnr", "published ssim"]
    groups = printed.groupby(cells, sort=False, dropna=False)["published table"]
    printed = groups.agg("; ".join).rename("published in").reset_index()
    table = table.merge(printed, how="left", on=cells[:3])
    table = table.rename(columns={"psnr": "measured psnr", "ssim": "measured ssim"})
    for metric in ("psnr", "ssim"):
        difference = table[f"measured {metric}"] - table[f"published {metric}"]
        table[f"difference {metric}"] = difference
    found = table["published psnr"].notna()
    whole = table["images"] == table["known"].map(SIZES)
    close = (table["measured psnr"].round(2) - table["published psnr"]).abs().round(2) <= CLOSE
    words = [UNPUBLISHED, NOT_WHOLE, MATCHES]
    table["verdict"] = np.select([~found, ~whole, close], words, DIFFERS)
    table.loc[~found, ["dataset", "measured psnr", "measured ssim"]] = np.nan
    none = ~found.groupby([table["method"], table["scale"]]).transform("any")
    kept = table[found | (none & ~table.duplicated(of))]
    order = kept.groupby(of, sort=False).ngroup().sort_values(kind="stable").index
    kinds = product(("measured", "published", "difference"), ("psnr", "ssim"))
    columns = [*of, "dataset", *map(" ".join, kinds), "verdict", "published in"]
    return kept.loc[order, columns].reset_index(drop=True)


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Return, for each method of `compare` with published values, whether it matches them.

    Where tables disagree with each other, one that matches is enough.
    """
    judged = []
    compared = table[table["verdict"].isin([MATCHES, DIFFERS])]
    for (method, scale), part in compared.groupby(["method", "scale"], sort=False):
        cells = (part["verdict"] == MATCHES).groupby(part["dataset"]).any()
        claim = f"{method} ×{scale} has its published PSNR, to 0.01 dB"
        share = f"{int(cells.sum())} of {len(cells)} benchmarks"
        judged.append(Verdict(claim, share, None, bool(cells.all())))
    return judged


def beats(results: pd.DataFrame, methods: Sequence[str], base: str = BICUBIC) -> list[Verdict]:
    """Return the verdict on each method having a higher mean PSNR over all pictures than `base`."""
    psnr = results.pivot(index=["dataset", "image", "scale"], columns="method", values="psnr")
    verdicts = []
    for method in methods:
        gain = statistics.mean_interval(psnr[method] - psnr[base])
        enough = gain.pictures >= statistics.LEAST
        ends = (gain.low, gain.high) if enough else None
        holds = above_zero(*ends) if ends else None
        verdicts.append(Verdict(f"{method} beats {base}", gain.estimate, ends, holds, "{:+.2f} dB"))
    return verdicts
