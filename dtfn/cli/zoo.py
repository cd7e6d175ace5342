"""The commands of the zoo: list, show, verify, retrain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dtfn.cli.text import columns
from dtfn.errors import InputError

app = typer.Typer(
    help="The small trained networks that are shipped.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(help="A name of `dtfn zoo list`.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the networks."""
    from dtfn import zoo

    rows = zoo.registry()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    keys = ("name", "variant", "scale", "seed", "parameters")
    sets = list(dict.fromkeys(dataset for row in rows for dataset in row["psnr"]))
    quality = ([_quality(row, dataset) for dataset in sets] for row in rows)
    lines = [[*(row[key] for key in keys), *more] for row, more in zip(rows, quality, strict=True)]
    columns([[*keys, *sets], *lines])


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Print the card of a network, or its entry as JSON."""
    from dtfn import zoo

    print(json.dumps(zoo.entry(name), indent=1) if as_json else zoo.show(name).rstrip())


@app.command()
def verify() -> None:
    """Compare the weights with the registry's SHA-256."""
    from dtfn import paths, zoo

    wrong = zoo.verify()
    if wrong:
        raise InputError(
            paths.ZOO, expected="the files that are shipped", found="; ".join(wrong),
            remedy="restore data/zoo, e.g. with `git checkout data/zoo`",
        )  # fmt: skip
    for name in (*(row["name"] for row in zoo.registry()), *zoo.starts()):
        print(f"{name}: ok")


@app.command()
def retrain(
    name: Name,
    out: Annotated[Path | None, typer.Option(help="Folder; ./NAME if left out.")] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[int, typer.Option(help="Processes or GPUs.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 0,
) -> None:
    """Train a network anew by its recipe, and compare.

    The PSNR is set beside the shipped one's. A run that was stopped goes on in the same folder.
    """
    from dtfn.reports import tables
    from dtfn.training import retraining

    made = retraining.retrain(
        name, out or Path(name), accelerator=accelerator, devices=devices, threads=threads
    )
    print(tables.markdown(made.table), end="")
    same = "the shipped ones, bit by bit" if made.identical else "not the shipped ones bit by bit"
    print(f"{made.weights}: the weights are {same}")


def _quality(row: dict[str, Any], dataset: str) -> str:
    if dataset not in row["psnr"]:
        return "-"
    return f"{row['psnr'][dataset]:.2f}/{row['ssim'][dataset]:.4f}"
