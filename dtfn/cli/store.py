"""The commands of what is kept on disk: zoo, weights, pictures, cache; and the gate of networks."""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dtfn.cli.suite import settings
from dtfn.errors import InputError

if TYPE_CHECKING:
    from dtfn.download import Source

_group = functools.partial(typer.Typer, no_args_is_help=True, rich_markup_mode=None)
zoo_app = _group(help="The small trained networks that come with the package.")
weights_app = _group(help="Your own checkpoints of EDSR, NLN, NLSN, DLSN, HSPAN and DTFN.")
data_app = _group(help="Pictures to evaluate and to train on: what there is, and how to get it.")
cache_app = _group(help="What networks made, kept on disk so that it is made once.")

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


@zoo_app.command("show")
def show_network(name: Name, as_json: Json = False) -> None:
    """Print the card of a network, or its entry as JSON."""
    from dtfn import zoo

    print(json.dumps(zoo.entry(name), indent=1) if as_json else zoo.show(name).rstrip())


@zoo_app.command("verify")
def verify_zoo() -> None:
    """Compare the weights with the registry's SHA-256."""
    from dtfn import paths, zoo

    wrong = zoo.verify()
    if wrong:
        raise InputError(
            paths.ZOO,
            "the shipped files",
            "; ".join(wrong),
            "restore data/zoo, e.g. with `git checkout data/zoo`",
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


# --- pictures and cache ----------------------------------------------------------------------


@data_app.command("list")
def list_data(as_json: Json = False) -> None:
    """List the sets: what is here, how large each is, and on what terms."""
    from dtfn import download, paths

    known = download.catalogue().values()
    if as_json:
        print(json.dumps([_row(source) for source in known], indent=1))
        return
    print(f"{'set':<26}{'files':>6}{'MB':>9}  {'here':<18}content")
    for source in known:
        size = f"{source.bytes / 1e6:.1f}" if source.bytes else "?"
        print(
            f"{source.name:<26}{source.count or '?':>6}{size:>9}  {source.state:<18}{source.about}"
        )
    print("\nTerms")
    for text in dict.fromkeys(source.terms for source in known):
        print(f"  {', '.join(s.name for s in known if s.terms == text)}: {text}")
    for source in known:
        if source.by_hand:
            print(f"\n{source.name}: {source.by_hand}")
    groups = dict.fromkeys(group for source in known for group in source.groups)
    listed = (f"{g} ({', '.join(s.name for s in known if g in s.groups)})" for g in groups)
    print(f"\nGroups: {'; '.join(listed)}")
    print(f"Benchmarks are in {paths.data_root()}, training sets in {paths.training_root()}")


@data_app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Sets or groups; see `dtfn data list`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Accept the terms of all of them.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Downloads at a time.")] = 8,
    mirror: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A copy of a data folder, tried first. Repeatable."),
    ] = None,
) -> None:
    """Download what is missing of sets, check it, and put it where the suite looks for it."""
    from dtfn import download

    sets = download.chosen(names)

    def agree(text: str, of: list[str]) -> bool:
        print(f"{', '.join(of)}: {text}")
        return yes or (sys.stdin.isatty() and typer.confirm("Do you accept?"))

    download.fetch(sets, agree, mirrors=mirror or (), jobs=jobs, progress=sys.stderr.isatty())
    for source in sets:
        print(f"{source.name}: {source.state} in {source.folder}")


@data_app.command("verify")
def verify_data(
    names: Annotated[
        list[str] | None, typer.Argument(help="Sets or groups; left out: all that are here.")
    ] = None,
) -> None:
    """Compare every file with its SHA-256, and what it decodes to with the known pixels."""
    from dtfn import download

    sets = download.chosen(names or download.catalogue())
    if not names:
        sets = [source for source in sets if source.contents and source.present]
    faults = 0
    for source in sets:
        wrong = list(download.verify(source))
        for file, fault in wrong:
            print(f"{file}: {fault}")
        if not wrong:
            print(f"{source.name}: {len(source.contents)} files ok")
        faults += len(wrong)
    if faults or not sets:
        raise InputError(
            "data",
            "pictures as listed" if sets else "some set of pictures",
            f"{faults} faults" if sets else "none",
            "move away what is wrong, then run `dtfn data fetch`",
        )


@cache_app.command("show")
def show_cache() -> None:
    """Print where the cache is, what it holds and what it may hold (DTFN_CACHE_LIMIT)."""
    from dtfn import cache

    used = cache.usage()
    sizes = f"{used.bytes / 2**20:.1f} of {used.limit / 2**20:.1f} MB"
    print(f"{used.folder}: {used.entries} outputs and maps, {sizes}")


@cache_app.command("clear")
def clear_cache() -> None:
    """Remove the outputs; networks are then run again where these are asked for."""
    from dtfn import cache

    print(f"{cache.clear()} removed")


# --- what they print -------------------------------------------------------------------------


def _row(source: Source) -> dict[str, object]:
    """Return what ``--json`` says of a set."""
    keys = ("name", "aliases", "groups", "about", "bytes", "present", "state", "terms", "by_hand")
    row = {key: getattr(source, key) for key in keys}
    return row | {"files": source.count, "folder": str(source.folder)}


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
