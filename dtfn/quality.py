"""PSNR and SSIM of everything at once: networks in several ways, and folders of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dtfn import audit, datasets, evaluation, zoo
from dtfn.errors import InputError
from dtfn.evaluation import BICUBIC

COLUMNS = ["method", "dataset", "image", "scale", "psnr", "ssim", "seconds", "network", "ensemble"]


def here(required: Sequence[str], optional: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the benchmarks that are here, and the optional ones that are not.

    Raises
    ------
    InputError
        A required one is not here, or none is named.
    """
    for name in required:
        datasets.names(name)
    absent = []
    for name in optional:
        try:
            datasets.names(name)
        except InputError:
            absent.append(name)
    found = list(dict.fromkeys([*required, *(name for name in optional if name not in absent)]))
    if not found:
        raise InputError(
            "benchmarks", expected="at least one that is here", found=", ".join(absent) or "none",
            remedy="name one, e.g. mini, or run `dtfn data fetch benchmarks`",
        )  # fmt: skip
    return found, absent


def contenders(scale: int, only: Sequence[str] = ()) -> list[str]:
    """Return bicubic, every imported network of a scale, and every one of the zoo.

    Parameters
    ----------
    scale
        2, 3 or 4.
    only
        If given, these methods; those of the zoo or imported for other scales are left out.
    """
    if not only:
        rows = [*zoo.imported(), *zoo.registry()]
        return [BICUBIC, *(row["name"] for row in rows if row["scale"] == scale)]
    other = {row["name"] for row in zoo.everything() if row["scale"] != scale}
    return [method for method in only if method not in other]


def of_the_user() -> list[str]:
    """Return bicubic and every imported network, of whatever scale."""
    return [BICUBIC, *(row["name"] for row in zoo.imported())]


def forecast(
    benchmarks: Sequence[str],
    scales: Sequence[int],
    tilings: Sequence[str] = ("whole",),
    ensembles: Sequence[bool] = (False,),
    *,
    methods: Sequence[str] = (),
    count: int | None = None,
    device: str = "cpu",
) -> pd.DataFrame:
    """Say what `networks` will cost, parameters as there.

    Returns
    -------
    `dtfn.evaluation.forecast`, the method's name being that of `networks`, with a column scale.
    """
    parts = []
    for scale in scales:
        chosen = [m for m in contenders(scale, methods) if m != BICUBIC]
        for tiling, ensemble in _ways(tilings, ensembles) if chosen else ():
            part = evaluation.forecast(
                chosen, benchmarks, scale, count, tiling=evaluation.tiling(tiling),
                self_ensemble=ensemble, device=device,
            )  # fmt: skip
            named = [_label(name, tiling, ensemble) for name in part["method"]]
            parts.append(part.assign(method=named, scale=scale))
    columns = ["method", "scale", "pictures", "tiles", "seconds", "memory"]
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat(parts, ignore_index=True)[columns]


def networks(
    benchmarks: Sequence[str],
    scales: Sequence[int],
    tilings: Sequence[str] = ("whole",),
    ensembles: Sequence[bool] = (False,),
    *,
    methods: Sequence[str] = (),
    count: int | None = None,
    device: str = "cpu",
) -> pd.DataFrame:
    """Measure networks on every benchmark, at every scale, in every way.

    Parameters
    ----------
    benchmarks, count, device
        As for `dtfn.evaluation.evaluate`.
    scales
        Some of 2, 3 and 4.
    tilings
        Each as for `dtfn.evaluation.tiling`.
    ensembles
        Whether by self-ensemble; ``(False, True)`` does both.
    methods
        As for `contenders`: none for all.

    Returns
    -------
    `dtfn.evaluation.evaluate`, with two more columns: network, the name of the method alone, and
    ensemble. The method's name tells the way too: ``dtfn-x4+, chop`` is a self-ensemble, chopped;
    ``nla-x4-s0, tiles of 96`` one that the zoo measures in tiles.
    """
    parts = []
    for scale in scales:
        chosen = contenders(scale, methods)
        plain = [m for m in chosen if m == BICUBIC]
        if plain:
            made = evaluation.evaluate(plain, benchmarks, scale, count)
            parts.append(made.assign(network=made["method"], ensemble=False))
        for tiling, ensemble in _ways(tilings, ensembles) if len(chosen) > len(plain) else ():
            made = evaluation.evaluate(
                [m for m in chosen if m != BICUBIC], benchmarks, scale, count,
                tiling=evaluation.tiling(tiling), self_ensemble=ensemble, device=device,
            )  # fmt: skip
            names = [_label(name, tiling, ensemble) for name in made["method"]]
            parts.append(made.assign(network=made["method"], method=names, ensemble=ensemble))
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def folders(given: Sequence[str], benchmarks: Sequence[str], scales: Sequence[int]) -> pd.DataFrame:
    """Measure pictures that others have made.

    Parameters
    ----------
    given
        Each ``NAME=FOLDER``; in FOLDER, ``{dataset}`` and ``{scale}`` stand for these. Its pictures
        are matched by name, see `dtfn.audit.match`.
    benchmarks, scales
        Where such a folder does not exist, it is left out; ``mini`` always is.

    Returns
    -------
    As `networks`; seconds is NaN.

    Raises
    ------
    InputError
        Not of that form; no folder at all; or pictures that do not match.
    """
    rows: list[dict[str, object]] = []
    for text in given:
        name, sign, pattern = text.partition("=")
        if not sign or not name or not pattern:
            raise InputError(
                "folder of pictures", expected="NAME=FOLDER", found=repr(text),
                remedy="write e.g. RCAN=results/{dataset}/x{scale}",
            )  # fmt: skip
        before = len(rows)
        for dataset in (b for b in benchmarks if b != datasets.MINI):
            hr = datasets.files(dataset)[0].parent
            for scale in scales:
                folder = Path(pattern.format(dataset=dataset, scale=scale)).expanduser()
                rows += _measured(name, hr, folder, scale) if folder.is_dir() else []
        if len(rows) == before:
            raise InputError(
                f"pictures of {name}", expected="a folder for one of the benchmarks and scales",
                found=f"none, e.g. {folder}", remedy="mend the path",
            )  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def measure(
    benchmarks: Sequence[str],
    scales: Sequence[int],
    pictures: Sequence[str] = (),
    tilings: Sequence[str] = ("whole",),
    ensembles: Sequence[bool] = (False,),
    **how: Any,
) -> pd.DataFrame:
    """Return `networks` and, of ``pictures``, `folders`: by scale, bicubic first, then pictures."""
    parts = [networks(benchmarks, scales, tilings, ensembles, **how)]
    if pictures:
        parts.insert(0, folders(pictures, benchmarks, scales))
    table = pd.concat(parts, ignore_index=True)
    order = table.assign(bicubic=table["method"] != BICUBIC)[["scale", "bicubic"]]
    return table.loc[order.sort_values(["scale", "bicubic"], kind="stable").index].reset_index(
        drop=True
    )


def files(scales: Sequence[int], methods: Sequence[str] = ()) -> list[Path]:
    """Return the weights of all networks that `networks` runs."""
    names = [name for scale in scales for name in contenders(scale, methods)]
    return [zoo.file_of(name) for name in dict.fromkeys(names) if name != BICUBIC]


def published_names(results: pd.DataFrame) -> dict[str, str]:
    """Return for each method of `networks` and `folders` what published tables may call it.

    Bicubic; EDSR, its baseline, NLSN and so on, of the authors' size; folders by their name.
    Self-ensembles and small networks have no published values.
    """
    known = {row["name"]: _published(row) for row in zoo.imported()}
    known |= {row["name"]: "" for row in zoo.registry()} | {BICUBIC: "Bicubic"}
    pairs = results[["method", "network", "ensemble"]].drop_duplicates()
    return {
        method: known.get(network, network)
        for method, network, ensemble in pairs.itertuples(index=False)
        if not ensemble and known.get(network, network)
    }


def _published(row: Mapping[str, Any]) -> str:
    size = row["hyperparameters"]["n_feats"], row["hyperparameters"]["n_resblocks"]
    if (row["network"], size) == ("edsr", (64, 16)):
        return "EDSR-baseline"
    return row["network"].upper() if row["full_size"] else ""


def _ways(tilings: Sequence[str], ensembles: Sequence[bool]) -> list[tuple[str, bool]]:
    return [(tiling, ensemble) for tiling in tilings for ensemble in ensembles]


def _label(method: str, tiling: str, ensemble: bool) -> str:
    name = f"{method}+" if ensemble else method
    if tiling == "whole":
        own = evaluation.card_tiling(method)
        return name if own is None else f"{name}, tiles of {own.size}"
    if tiling == "chop":
        return f"{name}, chop"
    return f"{name}, tiles of {tiling}" if tiling.isdigit() else f"{name}, within {tiling}"


def _measured(name: str, hr: Path, folder: Path, scale: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for one in audit.match(hr, {name: folder}, scale):
        truth, made = audit.load(one, scale)
        row = {"method": name, "dataset": hr.parent.name, "image": one.image, "scale": scale}
        row["psnr"] = evaluation.psnr(made[name], truth, scale)
        row["ssim"] = evaluation.ssim(made[name], truth, scale)
        rows.append(row | {"seconds": float("nan"), "network": name, "ensemble": False})
    return rows
