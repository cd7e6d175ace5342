"""The gate: does the attention of a network choose, or do equal weights serve as well.

Nothing is said about an attention that does nothing. So every study asks first what equal weights
for all positions cost in PSNR. `dtfn.interventions` has them and the other interventions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dtfn import evaluation, images, methods, statistics, zoo
from dtfn.subpixel import interior, psnr_of

KINDS = ("uniform", "hashing", "random", "self", "off")
WINDOWS = tuple(f"window({radius})" for radius in (4, 8, 16, 32, 64))  # radii in LR pixels
# What uniform weights must cost in dB, at the lower end of the interval: 0.10 where attention was
# never changed in training, as the network relies on it; 0.05 where it was trained on and off. Of
# 13 networks whose attention did nothing, none lost more than 0.02 dB.
LEAST = 0.10
LEAST_SWITCHED = 0.05
OWN_KINDS = ("uniform", "random", "self")  # for a user's own network, over the keys that it has
COLLAPSE = 2.0  # dB: a network that loses more was never trained for what it is given
PLACEBO = "placebo"  # no intervention: the network of this seed that was trained with equal weights
CHOOSES, NOT = "chooses", "does not choose"
OFF_DISTRIBUTION = "off-distribution, not interpretable"


def costs(
    networks: Sequence[str],
    sets: Sequence[str] = ("Urban100",),
    count: int | None = None,
    kinds: Sequence[str] = (*KINDS, *WINDOWS),
) -> pd.DataFrame:
    """Measure what each intervention costs on the first ``count`` pictures of benchmarks.

    A row a network, picture and intervention: name, dataset, image, scale, psnr (dB, Y, border of
    ``scale``; of the network as trained), intervention, cost (dB, positive: the network loses); for
    a user's own network, which has only `OWN_KINDS`, also bicubic (dB, its PSNR). `PLACEBO` is left
    out where the zoo has none of the seed. A network without attention is an `InputError`.
    """
    from dtfn.interventions import attention_layers

    scales, possible = {}, {}
    for name in networks:
        loaded: Any = methods.network(name)
        scales[name], fit = int(loaded.scale), set(kinds)
        if zoo.own(name):
            loaded.require_attention()
            square = all(shape[-1] == shape[-2] for shape in loaded.shapes.values())
            fit = {kind for kind in OWN_KINDS if square or kind != "self"}
        elif not any(layer.chooses for layer in attention_layers(loaded)):
            fit = {"uniform", "off"}  # it is dense, so the others take minutes
        elif placebo_of(name) is None:
            fit.discard(PLACEBO)
        possible[name] = [kind for kind in kinds if kind in fit]
    rows = []
    for scale in sorted(set(scales.values())):
        for sample in evaluation.samples(sets, scale, count):
            for name in (name for name in networks if scales[name] == scale):
                runs = {"": name} | {kind: f"{name}@{kind}" for kind in possible[name]}
                if PLACEBO in runs:
                    runs[PLACEBO] = str(placebo_of(name))
                errors = evaluation.block_errors([*runs.values()], sample)
                psnr = {kind: psnr_of(interior(errors[run])) for kind, run in runs.items()}
                plain = psnr.pop("")
                one: dict[str, Any] = {"name": name, "dataset": sample.dataset}
                one |= {"image": sample.image, "scale": scale, "psnr": plain}
                if zoo.own(name):
                    image = images.imresize(sample.lr, scale)
                    one["bicubic"] = evaluation.psnr(image, sample.hr, scale)
                rows += [one | {"intervention": k, "cost": plain - p} for k, p in psnr.items()]
    return pd.DataFrame(rows)


def table(measured: pd.DataFrame) -> pd.DataFrame:
    """Return the verdict on each network and data set from `costs`, uniform among them.

    A row a network and data set: name, dataset, scale, pictures, few (pictures of the interventions
    that were measured on fewer), psnr, least (what uniform weights must cost, dB), chooses,
    `verdict`, and the mean cost of each intervention with the ends of its 95 % interval, e.g.
    uniform, uniform_low, uniform_high, and window_8 and so on for ``window(8)``. off_distribution
    names those under which a user's own network `collapses`.
    """
    rows: list[dict[str, Any]] = []
    for (name, dataset), part in measured.groupby(["name", "dataset"], sort=False):
        kinds, row = part.groupby("intervention", sort=False), {"name": name, "dataset": dataset}
        row |= {"scale": part["scale"].iloc[0], "pictures": part["image"].nunique()}
        row["few"] = int(kinds["image"].nunique().min())
        row["psnr"] = part.groupby("image")["psnr"].first().mean()
        collapsed = []
        for kind, some in kinds:
            column = str(kind).replace("(", "_").rstrip(")")
            row |= statistics.mean_interval(some["cost"]).columns(column)
            if "bicubic" in some and some["bicubic"].notna().all():
                cost, bicubic = some["cost"].mean(), some["bicubic"].mean()
                collapsed += [str(kind)] * collapses(some["psnr"].mean(), cost, bicubic)
        row["least"] = least(str(name))
        row["chooses"] = bool(row["uniform_low"] >= row["least"]) and "uniform" not in collapsed
        judged = verdict(row["uniform_low"], row["uniform_high"], row["least"], row["pictures"])
        row["verdict"] = f"uniform is {OFF_DISTRIBUTION}" if "uniform" in collapsed else judged
        if collapsed:
            row["off_distribution"] = ", ".join(collapsed)
        rows.append(row)
    return pd.DataFrame(rows)


def verdict(low: float, high: float, needed: float, pictures: int) -> str:
    """Return `CHOOSES`, `NOT` or why that is open, by what uniform weights cost (dB, 95 %)."""
    if pictures < statistics.LEAST:
        return f"open: {pictures} picture{'s' * (pictures > 1)}; {statistics.LEAST} are needed"
    if low < needed <= high:
        return f"open: the interval of what uniform weights cost holds {needed:.2f} dB"
    return CHOOSES if low >= needed else NOT


def collapses(psnr: float, cost: float, bicubic: float) -> bool:
    """Return whether what an intervention leaves of a PSNR (dB) says nothing about a network."""
    return bool(cost > COLLAPSE or psnr - cost < bicubic - 1.5)


def least(name: str) -> float:
    """Return what uniform weights must cost a network in dB: `LEAST`, or `LEAST_SWITCHED`."""
    known = Path(name).exists() or name in {row["name"] for row in zoo.everything()}
    return LEAST_SWITCHED if known and zoo.switched(name) else LEAST


def placebo_of(name: str) -> str | None:
    """Return the zoo's placebo of a network's scale and seed; None without one, or for itself."""
    rows = {row["name"]: row for row in zoo.registry()}
    ours = rows.get(name, {})
    placebo = f"{PLACEBO}-x{ours.get('scale')}-s{ours.get('seed')}"
    return placebo if placebo in rows and placebo != name else None


def dose(measured: pd.DataFrame) -> pd.DataFrame:
    """Return the cost (dB) of keys within a radius alone (LR pixels; infinite: all)."""
    windows = measured[measured["intervention"].str.startswith("window")]
    radius = windows["intervention"].str.extract(r"(\d+)", expand=False).astype(float)
    rows: list[dict[str, Any]] = []
    for (name, dataset), part in windows.assign(radius=radius).groupby(["name", "dataset"]):
        costs = {size: statistics.mean_interval(c) for size, c in part.groupby("radius")["cost"]}
        costs[np.inf] = statistics.Interval(0.0, 0.0, 0.0, 0)
        place = {"name": name, "dataset": dataset}
        rows += [place | {"radius": r} | one.columns("cost") for r, one in costs.items()]
    columns = ["name", "dataset", "radius", "cost", "cost_low", "cost_high"]
    return pd.DataFrame(rows, columns=columns)


def chooses(name: str, sets: Sequence[str] = ("Urban100",), count: int | None = None) -> bool:
    """Return whether the attention of a network chooses; studies ask this first.

    The zoo's registry answers where it knows, and no for a local network; else the network runs.
    """
    recorded = next((row for row in zoo.registry() if row["name"] == name), {})
    if recorded.get("chooses") is not None:
        return bool(recorded["chooses"])
    if str(recorded.get("variant")).startswith("local"):
        return False
    return bool(table(costs([name], sets, count, ["uniform"]))["chooses"].all())
