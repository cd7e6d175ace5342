"""The commands of networks: `dtfn zoo` (shipped), `dtfn weights` (imported), `dtfn gate`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dtfn.cli.suite import settings
from dtfn.errors import InputError

zoo_app = typer.Typer(
    help="The small trained networks that come with the package.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
weights_app = typer.Typer(
    help="Your own checkpoints of EDSR, NLN, NLSN, DLSN, HSPAN and DTFN.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(help="A name of `dtfn zoo list`.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@zoo_app.command("list")
def list_zoo(as_json: Json = False) -> None:
    """List the networks."""
    from dtfn import zoo

    rows = [row | {"gate": row.get("gate")} for row in zoo.registry()]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    keys = ("name", "variant", "scale", "seed", "parameters")
    sets = list(dict.fromkeys(dataset for row in rows for dataset in row["psnr"]))
    lines = [
        [*(row[key] for key in keys), _gate(row), *(_quality(row, dataset) for dataset in sets)]
        for row in rows
    ]
    _columns([[*keys, "gate", *sets], *lines])


@zoo_app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Print the card of a network, or its entry as JSON."""
    from dtfn import zoo

    print(json.dumps(zoo.entry(name), indent=1) if as_json else zoo.show(name).rstrip())


@zoo_app.command()
def verify() -> None:
    """Compare the weights with the registry's SHA-256."""
    from dtfn import paths, zoo

    wrong = zoo.verify()
    if wrong:
        raise InputError(
            paths.ZOO,
            expected="the shipped files",
            found="; ".join(wrong),
            remedy="restore data/zoo, e.g. with `git checkout data/zoo`",
        )
    for row in zoo.registry():
        print(f"{row['name']}: ok")


@weights_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A .pt, .pth or .safetensors file.")],
    name: Annotated[
        str | None, typer.Option(help="Its name from now on (default e.g. dtfn-x4).")
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "-p", metavar="NAME=VALUE", help="A value that the weights do not show. Repeatable."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace other weights of this name.")
    ] = False,
) -> None:
    """Recognise a checkpoint, check it strictly, and keep it in data/weights under a name.

    The name then stands for it in `dtfn evaluate` and in every notebook.
    """
    from dtfn import zoo

    print(_summary(zoo.import_weights(file, name, settings(parameter), replace)))


@weights_app.command("list")
def list_weights(as_json: Json = False) -> None:
    """List the imported weights."""
    from dtfn import zoo

    rows = zoo.imported()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    keys = ("name", "network", "scale", "parameters", "source")
    _columns([keys, *([row[key] for key in keys] for row in rows)])


def gate(
    networks: Annotated[
        list[str],
        typer.Argument(help="Networks with attention: names, weights files or FILE.py:function."),
    ],
    datasets: Annotated[str, typer.Option(help="Benchmarks, comma-separated.")] = "Urban100",
    count: Annotated[
        int | None, typer.Option(help="Only the first pictures of each benchmark.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print what interventions on the attention cost in PSNR (dB), and whether it chooses.

    It chooses where equal weights for all positions cost at least 0.10 dB at the lower end of
    the 95 % interval over pictures.
    """
    from dtfn import gate as gates

    measured = gates.costs(networks, datasets.split(","), count)
    table = gates.table(measured)
    if as_json:
        print(table.to_json(orient="records", indent=1))
        return
    costs = [name for name in table if f"{name}_low" in table]
    for row in table.to_dict("records"):
        print(f"{row['name']} on {row['dataset']}, {row['pictures']} pictures: {row['verdict']}")
        print(f"  {'PSNR as trained':<16}{row['psnr']:7.3f} dB; cost of:")
        for cost in costs:
            low, high = row[f"{cost}_low"], row[f"{cost}_high"]
            if math.isnan(row[cost]):  # not of this network
                continue
            failed = cost in str(row.get("off_distribution")).split(", ")
            note = f"; {gates.OFF_DISTRIBUTION}" if failed else ""
            label = f"  {cost.replace('_', ' '):<16}"
            print(f"{label}{row[cost]:+7.3f} dB [{low:+.3f}, {high:+.3f}]{note}")


def _quality(row: dict[str, Any], dataset: str) -> str:
    if dataset not in row["psnr"]:
        return "-"
    return f"{row['psnr'][dataset]:.2f}/{row['ssim'][dataset]:.4f}"


def _gate(row: dict[str, Any]) -> str:
    return "-" if row["gate"] is None else f"{row['gate']:+.3f}"


def _summary(entry: dict[str, Any]) -> str:
    values = entry["hyperparameters"]
    shown = [f"{key} {value}" for key, value in values.items() if key not in entry["assumed"]]
    assumed = [f"{key} {values[key]}" for key in entry["assumed"]]
    lines = [
        f"{entry['name']}: {entry['network']} x{entry['scale']}, "
        f"{entry['parameters']:,} parameters, from {entry['source']}",
        f"  shown by its weights or given: {', '.join(shown)}",
    ]
    if assumed:
        lines.append(f"  assumed, as in the authors' code: {', '.join(assumed)} (change with -p)")
    lines.append("  loaded strictly, run on a small image, stored and run again: the same output")
    return "\n".join(lines)


def _columns(rows: Sequence[Sequence[Any]]) -> None:
    """Print rows with their columns aligned at the left."""
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(str(c).ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
