"""The commands of imported weights: import, list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dtfn.cli.text import columns, settings

app = typer.Typer(
    help="Checkpoints of the field that you have: EDSR, NLN, NLSN, DLSN, HSPAN, DTFN.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A .pt, .pth or .safetensors file.")],
    name: Annotated[str | None, typer.Option(help="By default e.g. dtfn-x4.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME=VALUE", help="What the weights do not show. Repeatable."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace other weights.")] = False,
) -> None:
    """Recognise a checkpoint, check it strictly, and keep it in data/weights under a name.

    The name then stands for it in `dtfn evaluate` and in every notebook.
    """
    from dtfn import weights

    print(_told(weights.load(file, name, settings(parameter), replace)))


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the imported weights."""
    from dtfn.zoo import imported

    rows = imported.registry()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    keys = ("name", "network", "scale", "parameters", "source")
    columns([keys, *([row[key] for key in keys] for row in rows)])


def _told(entry: dict[str, Any]) -> str:
    values = entry["hyperparameters"]
    shown = [f"{key} {value}" for key, value in values.items() if key not in entry["assumed"]]
    assumed = [f"{key} {values[key]}" for key in entry["assumed"]]
    lines = [
        f"{entry['name']}: {entry['network']} x{entry['scale']}, "
        f"{entry['parameters']:,} parameters, from {entry['source']}",
        f"  as its weights show or you say: {', '.join(shown)}",
    ]
    if assumed:
        lines.append(f"  assumed, as the authors: {', '.join(assumed)} (change with -p)")
    lines.append("  loaded strictly, run on a small image, stored and run again: the same output")
    return "\n".join(lines)
