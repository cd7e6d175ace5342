"""The gate: does the attention of a network choose, or do equal weights serve as well.

Nothing is said about an attention that does nothing. So every study asks first what equal weights
for all positions cost in PSNR. `dtfn.interventions` has them and the other interventions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dtfn import datasets, evaluation, images, statistics, zoo
from dtfn.datasets import Sample
from dtfn.subpixel import interior, psnr_of

KINDS = ("uniform", "hashing", "random", "self", "off")
WINDOWS = tuple(f"window({radius})" for radius in (4, 8, 16, 32, 64))  # radii in LR pixels
# What uniform weights must cost in dB, at the lower end of the interval. A network that never saw
# its attention changed relies on it: 0.10 dB. One that was trained with its attention on and off
# has learnt to do without: there the cost is what the choice is worth, and 0.05 dB is asked. Of 13
# networks whose attention did nothing, none lost more than 0.02 dB.
LEAST = 0.10
LEAST_SWITCHED = 0.05
OWN_KINDS = ("uniform", "random", "self")  # for a user's own network, over the keys that it has
COLLAPSE = 2.0  # dB: a network that loses more was never trained for what it is given
BELOW = 1.5  # dB below bicubic: the same
OFF_DISTRIBUTION = "off-distribution, not interpretable"


def costs(
    networks: Sequence[str],
    sets: Sequence[str] = ("Urban100",),
    count: int | None = None,
    kinds: Sequence[str] = (*KINDS, *WINDOWS),
    device: str = "cpu",
) -> pd.DataFrame:
    """Measure what each intervention costs, picture by picture.

    Each network runs once a picture and intervention; results are remembered on disk. Networks with
    dense attention run in the tiles of their card, else of
    `dtfn.evaluation.DENSE_TILE`. A user's own network has
    only the interventions of `OWN_KINDS`.

    Parameters
    ----------
    networks
        Networks with attention: names of the zoo, imported ones, weights files, or a user's own.
    sets
        Names for `dtfn.datasets.benchmark`.
    count
        Only the first so many pictures of each.
    kinds
        For `dtfn.interventions.intervened`.
    device
        ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    A row a network, picture and intervention: name, dataset, image, scale, psnr (dB, Y, border of
    ``scale``; of the network as trained), intervention, cost (dB, positive: the network loses); for
    a user's own network also bicubic (dB, its PSNR).

    Raises
    ------
    InputError
        An unknown network or data set, an unknown intervention, or a network without attention.
    """
    scales = {name: _scale(name) for name in networks}
    rows: list[dict[str, object]] = []
    pictures = sum(len(datasets.names(name)[:count]) for name in sets)
    possible = {name: _kinds(name, kinds) for name in networks}
    runs = pictures * sum(1 + len(some) for some in possible.values())
    with evaluation.progress(total=runs, unit="run", desc="gate") as bar:
        for scale in sorted(set(scales.values())):
            for sample in evaluation.samples(sets, scale, count):
                for name in (name for name in networks if scales[name] == scale):
                    some = possible[name]
                    psnr = {kind: _psnr(name, sample, kind, device) for kind in ("", *some)}
                    bar.update(len(psnr))
                    one: dict[str, object] = {
                        "name": name,
                        "dataset": sample.dataset,
                        "image": sample.image,
                    }
                    one |= {"scale": scale, "psnr": psnr[""]}
                    if zoo.own(name):
                        image = images.imresize(sample.lr, scale)
                        one |= {"bicubic": evaluation.psnr(image, sample.hr, scale)}
                    rows += [one | {"intervention": k, "cost": psnr[""] - psnr[k]} for k in some]
    return pd.DataFrame(rows)


def table(measured: pd.DataFrame) -> pd.DataFrame:
    """Return the verdict on each network and data set.

    Parameters
    ----------
    measured
        From `costs`; ``uniform`` must be among its interventions.

    Returns
    -------
    A row a network and data set: name, dataset, scale, pictures, psnr, least (what uniform weights
    must cost, dB), chooses, verdict, and the
    mean cost of each intervention with the ends of its 95 % interval over pictures, e.g. uniform,
    uniform_low, uniform_high, and window_8 and so on for ``window(8)``. If a user's own network
    loses more than `COLLAPSE` or falls more than `BELOW` under bicubic, the interventions that do
    this are named in off_distribution: they say nothing about what its attention does.
    """
    rows = []
    for (name, dataset), part in measured.groupby(["name", "dataset"], sort=False):
        pictures = part.groupby("image")["psnr"].first()
        row: dict[str, Any] = {"name": name, "dataset": dataset, "scale": part["scale"].iloc[0]}
        row |= {"pictures": len(pictures), "psnr": pictures.mean()}
        for kind, cost in part.groupby("intervention", sort=False)["cost"]:
            column = str(kind).replace("(", "_").rstrip(")")
            row |= statistics.mean_interval(cost).columns(column)
        row["least"] = least(str(name))
        row["chooses"] = bool(row["uniform_low"] >= row["least"])
        row["verdict"] = "chooses" if row["chooses"] else "not testable: does not choose"
        if collapsed := _collapsed(part):
            row["off_distribution"] = ", ".join(collapsed)
            if "uniform" in collapsed:
                row |= {"chooses": False, "verdict": f"uniform is {OFF_DISTRIBUTION}"}
        rows.append(row)
    return pd.DataFrame(rows)


def least(name: str) -> float:
    """Return what uniform weights must cost a network in dB: `LEAST`, or `LEAST_SWITCHED`."""
    if zoo.own(name) or not (Path(name).exists() or name in {r["name"] for r in zoo.registry()}):
        return LEAST
    return LEAST_SWITCHED if zoo.switched(name) else LEAST


def _collapsed(part: pd.DataFrame) -> list[str]:
    """Return the interventions under which a user's own network fails altogether."""
    if "bicubic" not in part or part["bicubic"].isna().any():
        return []
    means = part.groupby("intervention", sort=False)[["psnr", "cost", "bicubic"]].mean()
    left = means["psnr"] - means["cost"]
    failed = (means["cost"] > COLLAPSE) | (left < means["bicubic"] - BELOW)
    return [str(kind) for kind in means.index[failed]]


def dose(measured: pd.DataFrame) -> pd.DataFrame:
    """Return the dose curve: what is lost when only the keys within a radius are left.

    Columns: name, dataset, radius (LR pixels; infinite: all keys), cost, cost_low, cost_high (dB).
    """
    windows = measured[measured["intervention"].str.startswith("window")]
    radius = windows["intervention"].str.extract(r"(\d+)", expand=False).astype(float)
    rows = []
    for (name, dataset), part in windows.assign(radius=radius).groupby(["name", "dataset"]):
        one = {"name": name, "dataset": dataset}
        for size, cost in part.groupby("radius")["cost"]:
            rows.append(one | {"radius": size} | statistics.mean_interval(cost).columns("cost"))
        rows.append(one | {"radius": np.inf, "cost": 0.0, "cost_low": 0.0, "cost_high": 0.0})
    numbers = ["radius", "cost", "cost_low", "cost_high"]
    table = pd.DataFrame(rows, columns=["name", "dataset", *numbers])
    return table.astype(dict.fromkeys(numbers, float))


def chooses(name: str, sets: Sequence[str] = ("Urban100",), count: int | None = None) -> bool:
    """Return whether the attention of a network chooses; studies ask this first.

    The zoo's registry answers where it knows; otherwise the network runs.

    Parameters
    ----------
    name, sets, count
        As for `costs`. A shipped network without attention does not choose.

    Raises
    ------
    InputError
        As `costs`.
    """
    recorded = next((row for row in zoo.registry() if row["name"] == name), {})
    if recorded.get("chooses") is not None:
        return bool(recorded["chooses"])
    if str(recorded.get("variant")).startswith("local"):
        return False
    return bool(table(costs([name], sets, count, ["uniform"]))["chooses"].all())


def _scale(name: str) -> int:
    from dtfn import interventions

    network = evaluation.network(name)
    if zoo.own(name):
        network.require_attention()  # type: ignore[operator]
    else:
        interventions.attention_layers(network)
    return int(network.scale)  # type: ignore[arg-type]


def _kinds(name: str, kinds: Sequence[str]) -> list[str]:
    """Return those interventions that a network can have."""
    if not zoo.own(name):
        return list(kinds)
    shapes = evaluation.network(name).shapes.values()  # type: ignore[operator, union-attr]
    square = all(shape[-1] == shape[-2] for shape in shapes)
    return [kind for kind in kinds if kind in OWN_KINDS and (square or kind != "self")]


def _psnr(name: str, sample: Sample, kind: str, device: str) -> float:
    """Return the PSNR of a network's output under an intervention; "": as trained."""
    method = f"{name}@{kind}" if kind else name
    return psnr_of(interior(evaluation.block_errors(method, sample, device)[method]))
