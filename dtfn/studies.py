"""PSNR and SSIM of every network and folder of pictures at once, and what is known of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dtfn import datasets, evaluation, images, metrics, statistics, zoo
from dtfn import tiling as cutting
from dtfn.errors import InputError
from dtfn.evaluation import BICUBIC
from dtfn.images import UInt8
from dtfn.reports import Verdict, above_zero
from dtfn.results import match_folders, read_match

CLASSICAL = f"{BICUBIC}, grey as Y"  # the rule of the classical tables, see `dtfn.metrics`
KNOWN_BICUBIC: Mapping[tuple[str, int], tuple[int, float]] = {
    (name, scale): (pictures, psnr)
    for name, pictures, *known in (
        ("Set5", 5, 33.67, 30.40, 28.43),
        ("Set14", 14, 30.23, 27.54, 25.99),
        ("BSD100", 100, 29.56, 27.21, 25.96),
        ("Urban100", 100, 26.88, 24.46, 23.14),
    )
    for scale, psnr in zip((2, 3, 4), known, strict=True)
}
"""(benchmark, scale) -> its number of pictures, and bicubic's PSNR in dB on float Y.

Tables of papers differ from these by up to 0.01 dB, as some round Y to whole levels.
"""


def bicubic_is_right(results: pd.DataFrame) -> list[Verdict]:
    """Return whether bicubic has its known PSNR: a verdict a whole benchmark that is known."""
    verdicts = []
    bicubic = results[results["method"] == "bicubic"]
    for (dataset, scale), part in bicubic.groupby(["dataset", "scale"], sort=False):
        pictures, known = KNOWN_BICUBIC.get(
            ("BSD100" if dataset == "B100" else str(dataset), int(scale)), (0, 0.0)
        )
        if len(part) == pictures:
            measured = float(part["psnr"].mean())
            claim = f"bicubic on {dataset} ×{scale} has the known {known:.2f} dB, to 0.01 dB"
            # Both are rounded: 28.4351 is 28.43 or 28.44.
            holds = abs(measured - known) < 0.015
            verdicts.append(Verdict(claim, measured, None, holds, "{:.3f} dB"))
    return verdicts


def bicubic_psnr(pairs: Iterable[tuple[UInt8, UInt8]], scale: int) -> float:
    """Return the mean PSNR (dB; Y, border = scale) of bicubic over (LR, HR) pairs, uint8."""
    psnr = [metrics.psnr(images.imresize(lr, scale), hr, scale) for lr, hr in pairs]
    return sum(psnr) / len(psnr)


def beats(results: pd.DataFrame, methods: Sequence[str], base: str = BICUBIC) -> list[Verdict]:
    """Return the verdict on each method having a higher mean PSNR over all pictures than `base`."""
    psnr = results.pivot(index=["dataset", "image", "scale"], columns="method", values="psnr")
    verdicts = []
    for method in methods:
        gain = statistics.mean_interval(psnr[method] - psnr[base])
        enough = gain.clusters >= statistics.LEAST
        ends = (gain.low, gain.high) if enough else None
        holds = above_zero(*ends) if ends else None
        verdicts.append(Verdict(f"{method} beats {base}", gain.estimate, ends, holds, "{:+.2f} dB"))
    return verdicts


def measure_all(
    benchmarks: Sequence[str],
    scales: Sequence[int],
    folders: Sequence[str] = (),
    tilings: Sequence[str] = ("whole",),
    ensembles: Sequence[bool] = (False,),
    *,
    methods: Sequence[str] = (),
    count: int | None = None,
    device: str = "cpu",
    rounded: bool = False,
) -> pd.DataFrame:
    """Measure networks on every benchmark, at every scale, in every way; and folders of pictures.

    Parameters
    ----------
    benchmarks, scales, count, device, rounded
        As for `dtfn.evaluation.evaluate`; several scales.
    folders
        Pictures that others have made, each ``NAME=FOLDER``; in FOLDER, ``{dataset}`` and
        ``{scale}`` stand for these. A folder that does not exist is left out, if another does.
    tilings
        Each as for `dtfn.tiling.way`.
    ensembles
        Whether by self-ensemble; ``(False, True)`` does both.
    methods
        As for `contenders`: none for all.

    Returns
    -------
    `dtfn.evaluation.evaluate` by scale, bicubic first, then folders, whose seconds are NaN; with
    network, the name of the method alone, and ensemble. The method's name says the way too:
    ``dtfn-x4+, chop`` is a self-ensemble, chopped.

    Raises
    ------
    InputError
        As `dtfn.evaluation.evaluate`; or for a folder of another form, that does not exist for any
        benchmark and scale, or whose pictures do not match.
    """
    parts = [_measured_folder(text, benchmarks, scales, rounded) for text in folders]
    for scale in scales:
        for chosen, tiling, ensemble in _ways(scale, methods, tilings, ensembles):
            options: dict[str, Any] = {"self_ensemble": ensemble, "device": device}
            options |= {"tiling": cutting.way(tiling), "rounded": rounded}
            made = evaluation.evaluate(chosen, benchmarks, scale, count, **options)
            labels = [_label(name, tiling, ensemble) for name in made["method"]]
            parts.append(made.assign(network=made["method"], method=labels, ensemble=ensemble))
            if chosen == [BICUBIC]:
                grey = evaluation.evaluate(
                    chosen, benchmarks, scale, count, grey="y", rounded=rounded
                )
                if (grey["psnr"] != made["psnr"]).any():
                    parts.append(grey.assign(network=BICUBIC, method=CLASSICAL, ensemble=False))
    table = pd.concat(parts, ignore_index=True)
    bicubic = table["method"].isin([BICUBIC, CLASSICAL])
    order = np.lexsort((~bicubic, table["scale"]))  # stable
    return table.iloc[order].reset_index(drop=True)


def forecast_all(
    benchmarks: Sequence[str],
    scales: Sequence[int],
    tilings: Sequence[str] = ("whole",),
    ensembles: Sequence[bool] = (False,),
    *,
    methods: Sequence[str] = (),
    count: int | None = None,
    device: str = "cpu",
) -> pd.DataFrame:
    """Return what `measure_all` will cost: `dtfn.evaluation.forecast` with its method and scale."""
    parts = [pd.DataFrame(columns=["method", "scale", "pictures", "tiles", "seconds", "memory"])]
    for scale in scales:
        for chosen, tiling, ensemble in _ways(scale, methods, tilings, ensembles):
            if chosen != [BICUBIC]:
                options: dict[str, Any] = {"self_ensemble": ensemble, "device": device}
                options["tiling"] = cutting.way(tiling)
                part = evaluation.forecast(chosen, benchmarks, scale, count, **options)
                labels = [_label(name, tiling, ensemble) for name in part["method"]]
                parts.append(part.assign(method=labels, scale=scale))
    return pd.concat(parts[1:] or parts, ignore_index=True)[list(parts[0])]


def present(required: Sequence[str], optional: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the benchmarks that are here, and the optional ones that are not.

    A required one that is not here, or none at all, is an `InputError`.
    """
    for name in required:
        datasets.names(name)
    here, absent = list(required), []
    for name in optional:
        try:
            datasets.names(name)
            here.append(name)
        except InputError:
            absent.append(name)
    if not here:
        raise InputError(
            "benchmarks",
            "at least one that is here",
            ", ".join(absent) or "none",
            "name one, e.g. mini, or run `dtfn data fetch benchmarks`",
        )
    return list(dict.fromkeys(here)), absent


def contenders(scale: int | None, only: Sequence[str] = (), *, own: bool = False) -> list[str]:
    """Return bicubic, every imported network and every one of the zoo, of a scale (None: of all).

    If ``only`` is given, return these methods but those of the zoo or imported for other scales.
    ``own`` leaves out the zoo.
    """
    if only:
        other = {row["name"] for row in zoo.everything() if row["scale"] != scale}
        return [method for method in only if method not in other]
    rows = zoo.imported() if own else [*zoo.imported(), *zoo.registry()]
    return [BICUBIC, *(row["name"] for row in rows if scale in (None, row["scale"]))]


def weights_of(scales: Sequence[int], methods: Sequence[str] = ()) -> list[Path]:
    """Return the weights of all networks that `measure_all` runs."""
    names = [name for scale in scales for name in contenders(scale, methods)]
    return [zoo.file_of(name) for name in dict.fromkeys(names) if name != BICUBIC]


def published_names(results: pd.DataFrame) -> dict[str, str]:
    """Return for each method of `measure_all` what published tables may call it, if anything.

    Self-ensembles and small networks have no published values.
    """
    known = {row["name"]: _published(row) for row in zoo.imported()}
    known |= {row["name"]: "" for row in zoo.registry()} | {BICUBIC: "Bicubic"}
    if CLASSICAL in set(results["method"]):  # bicubic's published values follow this rule
        results = results[results["method"] != BICUBIC]
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


def _ways(
    scale: int, methods: Sequence[str], tilings: Sequence[str], ensembles: Sequence[bool]
) -> Iterator[tuple[list[str], str, bool]]:
    """Yield what to run at a scale, and how: bicubic once, the networks in every way."""
    names = contenders(scale, methods)
    chosen = [name for name in names if name != BICUBIC]
    if len(chosen) < len(names):
        yield [BICUBIC], "whole", False
    for tiling in tilings if chosen else ():
        for ensemble in ensembles:
            yield chosen, tiling, ensemble


def _label(method: str, tiling: str, ensemble: bool) -> str:
    name = f"{method}+" if ensemble else method
    if tiling == "whole":
        own = None if method == BICUBIC else evaluation.card_tiling(method)
        return name if own is None else f"{name}, tiles of {own.size}"
    if tiling == "chop":
        return f"{name}, chop"
    return f"{name}, tiles of {tiling}" if tiling.isdigit() else f"{name}, within {tiling}"


def _measured_folder(
    text: str, benchmarks: Sequence[str], scales: Iterable[int], rounded: bool
) -> pd.DataFrame:
    name, _, pattern = text.partition("=")
    if not name or not pattern:
        raise InputError(
            "folder of pictures",
            "NAME=FOLDER",
            repr(text),
            "write e.g. RCAN=results/{dataset}/x{scale}",
        )
    rows: list[dict[str, object]] = []
    for dataset in (b for b in benchmarks if b != datasets.MINI):
        hr = datasets.files(dataset)[0].parent
        for scale in scales:
            folder = Path(pattern.format(dataset=dataset, scale=scale)).expanduser()
            for one in match_folders(hr, {name: folder}, scale) if folder.is_dir() else ():
                truth, made = read_match(one, scale)
                both = (evaluation.psnr, evaluation.ssim)
                scores = (f(made[name], truth, scale, rounded=rounded) for f in both)
                place = (name, hr.parent.name, one.image, scale, *scores)
                keys = ("method", "dataset", "image", "scale", "psnr", "ssim")
                rows.append(dict(zip(keys, place, strict=True)))
    if not rows:
        raise InputError(
            f"pictures of {name}",
            "a folder for one of the benchmarks and scales",
            f"none, e.g. {folder}",
            "mend the path",
        )
    return pd.DataFrame(rows).assign(seconds=np.nan, network=name, ensemble=False)
