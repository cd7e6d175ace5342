"""Values of the field's tables, each with its source, and measured values beside them.

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

import pandas as pd

from dtfn.reports import Verdict

FILE = Path(__file__).with_suffix(".csv")
SIZES: Mapping[str, int] = {"Set5": 5, "Set14": 14, "BSD100": 100, "Urban100": 100, "Manga109": 109}
"""Benchmark -> pictures; only whole ones are compared."""

CLOSE = 0.01  # dB, between values rounded to two digits
MATCHES, DIFFERS = "matches", "differs"
NOT_WHOLE, UNPUBLISHED = "not the whole benchmark", "no published value"

_REMEASURED = re.compile(r"(?P<method>.+) \((?P<who>\w+) re-measured\)")
_SHORT = re.compile(r"[,(]? *\(?github .*|, own .*")
_NAMES = {"edsr": "EDSR", "edsr_baseline": "EDSR-baseline", "rcan": "RCAN", "rdn": "RDN"}


@functools.cache
def _values() -> pd.DataFrame:
    table = pd.read_csv(FILE)
    found = [_REMEASURED.fullmatch(name) for name in table["method"]]
    table["remeasured"] = [m["who"] if m else "" for m in found]
    table["method"] = [
        _NAMES.get(m["method"], m["method"]) if m else name
        for m, name in zip(found, table["method"], strict=True)
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


def beside(summary: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Set published values beside measured ones.

    Parameters
    ----------
    summary
        Of `dtfn.evaluation.summary`: dataset, scale, method, images, psnr, ssim.
    names
        Measured method -> what the tables call it, for those that they may have.

    Returns
    -------
    A row a measured and a published value: method, scale, dataset, psnr, published_psnr,
    psnr_difference (measured less published, dB), ssim, published_ssim, ssim_difference,
    published_in (the tables that print this value), verdict. Tables that agree share a row. A
    method that no table has, has one row a scale, without a dataset.
    """
    columns = [
        "method", "scale", "dataset", "psnr", "published_psnr", "psnr_difference", "ssim",
        "published_ssim", "ssim_difference", "published_in", "verdict",
    ]  # fmt: skip
    known = _values()
    rows: list[dict[str, object]] = []
    for (method, scale), part in summary.groupby(["method", "scale"], sort=False):
        printed = known[(known["method"] == names.get(method)) & (known["scale"] == scale)]
        found = [row for one in part.to_dict("records") for row in _cells(one, printed)]
        empty = {"method": method, "scale": scale, "verdict": UNPUBLISHED}
        rows += found or [empty]
    return pd.DataFrame(rows, columns=columns)


def paired(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `beside` for print: PSNR and SSIM as pairs, with two-level columns."""
    plain = {name: (name.replace("_", " "), "") for name in table.columns}
    plain["published_in"] = ("published in", "")
    for title, form in (
        ("measured", "{}"),
        ("published", "published_{}"),
        ("difference", "{}_difference"),
    ):
        for metric in ("psnr", "ssim"):
            plain[form.format(metric)] = (title, form.format(metric))
    order = ["method", "scale", "dataset", "psnr", "ssim", "published_psnr", "published_ssim",
             "psnr_difference", "ssim_difference", "verdict", "published_in"]  # fmt: skip
    wide = table[order].copy()
    wide.columns = pd.MultiIndex.from_tuples([plain[name] for name in order])
    return wide


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Return, for each method with published values, whether what was measured matches them.

    Parameters
    ----------
    table
        Of `beside`. Where tables disagree with each other, one that matches is enough.
    """
    found = []
    compared = table[table["verdict"].isin([MATCHES, DIFFERS])]
    for (method, scale), part in compared.groupby(["method", "scale"], sort=False):
        cells = part.groupby("dataset", sort=False)["verdict"].agg(lambda v: MATCHES in set(v))
        claim = f"{method} ×{scale} has its published PSNR, to 0.01 dB"
        told = f"{int(cells.sum())} of {len(cells)} benchmarks"
        found.append(Verdict(claim, told, None, bool(cells.all())))
    nothing = Verdict("what was published is measured again", "nothing published", None, None)
    return found or [nothing]


def _cells(measured: Mapping[str, object], printed: pd.DataFrame) -> list[dict[str, object]]:
    """Return the rows of one measured method and benchmark."""
    dataset = "BSD100" if measured["dataset"] == "B100" else str(measured["dataset"])
    here = printed[printed["dataset"] == dataset]
    whole = measured["images"] == SIZES.get(dataset)
    psnr, ssim = float(measured["psnr"]), float(measured["ssim"])  # type: ignore[arg-type]
    rows = []
    for (value, value_ssim), part in here.groupby(["psnr", "ssim"], sort=False, dropna=False):
        close = round(abs(round(psnr, 2) - value), 2) <= CLOSE if math.isfinite(psnr) else False
        rows.append(
            {key: measured[key] for key in ("method", "scale", "dataset", "psnr", "ssim")}
            | {
                "published_psnr": value,
                "psnr_difference": psnr - value,
                "published_ssim": value_ssim,
                "ssim_difference": ssim - value_ssim,
                "published_in": "; ".join(part["table"]),
                "verdict": (MATCHES if close else DIFFERS) if whole else NOT_WHOLE,
            }
        )
    return rows
