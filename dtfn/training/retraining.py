"""Train a network of the zoo again, by its own recipe, and compare it with the shipped one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dtfn import datasets, evaluation, training, zoo
from dtfn.errors import InputError


@dataclass(frozen=True)
class Comparison:
    """The shipped weights beside those that the same recipe gave now.

    Attributes
    ----------
    table
        Columns dataset, shipped, retrained, difference: PSNR in dB. The last row is the recipe's
        validation set.
    identical
        Whether every bit of the weights is the same, as on the same machine and software; in
        float16 if that is what is shipped.
    weights
        The new ones.
    """

    table: pd.DataFrame
    identical: bool
    weights: Path


def retrain(name: str, out: Path, **options: Any) -> Comparison:
    """Repeat the recipe of a shipped network, and compare the PSNR.

    Parameters
    ----------
    name
        A name of the zoo.
    out
        Folder of the run; a run that was stopped in it goes on.
    **options
        Of `dtfn.training.train`: devices, threads, ...

    Returns
    -------
    Comparison
        On the card's benchmarks that are at hand, and on the validation set.

    Raises
    ------
    InputError
        No such network; as `dtfn.training.train`.
    """
    shipped = zoo.entry(name)
    weights = training.train(zoo.recipe(name), out, **options)
    if weights == out:  # stopped on the way
        raise InputError(out, expected="a whole run", found="a part", remedy="go on with it")
    history = pd.read_csv(out / "history.csv")
    rows = [
        (dataset, shipped["psnr"][dataset], _psnr(weights, dataset, shipped))
        for dataset in shipped["psnr"]
        if _at_hand(dataset)
    ]
    rows.append(("validation", shipped["validation_psnr"], float(history["psnr"].iloc[-1])))
    table = pd.DataFrame(rows, columns=["dataset", "shipped", "retrained"])
    table["difference"] = table["retrained"] - table["shipped"]
    same = zoo.fingerprint(weights, shipped["stored"]) == zoo.fingerprint(zoo.file_of(name))
    return Comparison(table, same, weights)


def _at_hand(dataset: str) -> bool:
    try:
        return bool(datasets.names(dataset))
    except InputError:
        return False


def _psnr(weights: Path, dataset: str, shipped: dict[str, Any]) -> float:
    tiling = evaluation.card_tiling(shipped["name"])
    table = evaluation.evaluate([str(weights)], [dataset], shipped["scale"], tiling=tiling)
    return float(table["psnr"].mean())
