"""Values of the field's tables, each with its source, and measured values compared with them.

``published.csv`` holds what papers and repositories print: method, scale, dataset, PSNR (dB) and
SSIM on Y. What others measured with their own code on the authors' weights is labelled
*re-measured*.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dtfn.reports import Verdict

FILE = Path(__file__).with_suffix(".csv")
SIZES: Mapping[str, int] = {"Set5": 5, "Set14": 14, "BSD100": 100, "Urban100": 100, "Manga109": 109}
"""Benchmark -> pictures; only whole ones are compared."""

CLOSE = 0.01  # dB, between values rounded to two digits
MATCHES, DIFFERS = "matches", "differs"
NOT_WHOLE, UNPUBLISHED = "not the whole benchmark", "no published value"

COLUMNS: Mapping[str, str] = {
    "method": "method",
    "scale": "scale",
    "dataset": "dataset",
    "psnr": "measured psnr",
    "ssim": "measured ssim",
    "published_psnr": "published psnr",
    "published_ssim": "published ssim",
    "psnr_difference": "difference psnr",
    "ssim_difference": "difference ssim",
    "verdict": "verdict",
    "published_in": "published in",
}
"""Column of `compare` -> its title in print."""

_REMEASURED = re.compile(r"(?P<method>.+) \((?P<who>\w+) re-measured\)")
_SHORT = re.compile(r"[,(]? *\(?github .*|, own .*")
_NAMES = {"edsr": "EDSR", "edsr_baseline": "EDSR-baseline", "rcan": "RCAN", "rdn": "RDN"}


@functools.cache
def _values() -> pd.DataFrame:
    table = pd.read_csv(FILE)
    matches = [_REMEASURED.fullmatch(name) for name in table["method"]]
    table["remeasured"] = [m["who"] if m else "" for m in matches]
    table["method"] = [
        _NAMES.get(m["method"], m["method"]) if m else name
        for m, name in zip(matches, table["method"], strict=True)
    ]
    table["scale"] = table["scale"].str.removeprefix("x").astype(int)
    table["dataset"] = table["dataset"].replace("B100", "BSD100")
    short = table["source"].str.replace(_SHORT, "", regex=True).str.strip()
    table.insert(5, "table", short.where(table["remeasured"] == "", short + " (re-measured)"))
    return table


def values() -> pd.DataFrame:
    """Return all published values.

    Returns
    -------
    A row a cell of a table: method, scale, dataset (``BSD100`` for B100), psnr (dB), ssim (NaN
    where a table has none), table (what it is called here), source (where it stands in full), and
    remeasured (who measured it, where that is not its paper; else empty).
    """
    return _values().copy()


def sources(scales: Iterable[int]) -> pd.DataFrame:
    """Return the tables that have values of these scales: table, source, values (how many).

    What the source repeats of the table's name is left out.
    """
    part = _values()[lambda t: t["scale"].isin(list(scales))].copy()
    names = part["table"].str.removesuffix(" (re-measured)")
    pairs = zip(part["source"], names, strict=True)
    part["source"] = [source.removeprefix(name).strip(", ") or "itself" for source, name in pairs]
    return part.groupby(["table", "source"], sort=False, as_index=False).agg(
        values=("psnr", "size")
    )


def of_the_field(scales: Iterable[int]) -> pd.DataFrame:
    """Return one published value a method and benchmark, in the form of `evaluation.summary`.

    Where several tables have a method, its first table counts, and where that lacks a benchmark,
    the next. Re-measured values are rows of their own: ``EDSR (re-measured by torchSR)``.
    """
    part = _values()[lambda t: t["scale"].isin(list(scales))].copy()
    by = part["remeasured"].map(lambda who: f" (re-measured by {who})" if who else "")
    part["method"] = part["method"] + by
    first = part.drop_duplicates(["method", "dataset", "scale"]).sort_values("scale", kind="stable")
    order = {dataset: place for place, dataset in enumerate(SIZES)}
    return first.sort_values("dataset", key=lambda names: names.map(order), kind="stable")[
        ["dataset", "scale", "method", "psnr", "ssim"]
    ].reset_index(drop=True)


def compare(summary: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Compare measured values with published ones.

    Parameters
    ----------
    summary
        Of `dtfn.evaluation.summary`: dataset, scale, method, images, psnr, ssim.
    names
        Measured method -> what the tables call it, for those that they may have.

    Returns
    -------
    The `COLUMNS`, a row a measured and a published value; differences are measured less published,
    published_in names the tables that print the value. Tables that agree share a row. A method that
    no table has, has one row a scale, without a dataset.
    """
    known = _values()
    rows: list[dict[str, object]] = []
    for (method, scale), part in summary.groupby(["method", "scale"], sort=False):
        printed = known[(known["method"] == names.get(method)) & (known["scale"] == scale)]
        cells = [row for one in part.to_dict("records") for row in _cells(one, printed)]
        rows += cells or [{"method": method, "scale": scale, "verdict": UNPUBLISHED}]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def with_titles(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `compare` for print."""
    return table[list(COLUMNS)].rename(columns=COLUMNS)


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Return, for each method with published values, whether what was measured matches them.

    Parameters
    ----------
    table
        Of `compare`. Where tables disagree with each other, one that matches is enough.
    """
    judged = []
    compared = table[table["verdict"].isin([MATCHES, DIFFERS])]
    for (method, scale), part in compared.groupby(["method", "scale"], sort=False):
        cells = part.groupby("dataset", sort=False)["verdict"].agg(lambda v: MATCHES in set(v))
        claim = f"{method} ×{scale} has its published PSNR, to 0.01 dB"
        share = f"{int(cells.sum())} of {len(cells)} benchmarks"
        judged.append(Verdict(claim, share, None, bool(cells.all())))
    nothing = Verdict("what was published is measured again", "nothing published", None, None)
    return judged or [nothing]


def _cells(measured: Mapping[str, Any], printed: pd.DataFrame) -> list[dict[str, object]]:
    """Return the rows of one measured method and benchmark."""
    dataset = "BSD100" if measured["dataset"] == "B100" else measured["dataset"]
    here = printed[printed["dataset"] == dataset]
    whole = measured["images"] == SIZES.get(dataset)
    psnr, ssim = float(measured["psnr"]), float(measured["ssim"])
    rows = []
    for (value, value_ssim), part in here.groupby(["psnr", "ssim"], sort=False, dropna=False):
        close = math.isfinite(psnr) and round(abs(round(psnr, 2) - value), 2) <= CLOSE
        row = {key: measured[key] for key in ("method", "scale", "dataset", "psnr", "ssim")}
        row |= {"published_psnr": value, "published_ssim": value_ssim}
        row |= {"psnr_difference": psnr - value, "ssim_difference": ssim - value_ssim}
        row["published_in"] = "; ".join(part["table"])
        row["verdict"] = (MATCHES if close else DIFFERS) if whole else NOT_WHOLE
        rows.append(row)
    return rows
