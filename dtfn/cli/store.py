"""The commands of what is kept on disk: runs, cache, zoo, weights and pictures."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Context, Exit, Option, Typer, confirm

from dtfn.errors import InputError

_group = functools.partial(Typer, no_args_is_help=True, rich_markup_mode=None)
report_app = Typer(help="Write the index again.", rich_markup_mode=None)
cache_app = _group(help="What networks made, kept on disk so that it is made once.")
zoo_app = _group(help="The small trained networks that come with the package.")
weights_app = _group(help="Your own checkpoints of EDSR, NLN, NLSN, DLSN, HSPAN and DTFN.")
data_app = _group(help="Pictures: what there is, and how to get it.")

Json = Annotated[bool, Option("--json", help="Print JSON.")]
Name = Annotated[str, Argument(help="A name of `dtfn zoo list`.")]
Reports = Annotated[Path | None, Option(help="Folder of the report (default reports/).")]
Run = Annotated[str, Argument(help="Folder or name of a run; or a notebook's newest, NAME~1.")]
Settings = Annotated[
    list[str] | None, Option("-p", "--parameter", metavar="NAME=VALUE", help="Repeatable.")
]


def settings(given: list[str] | None) -> dict[str, str]:
    """Split ``["scale=4"]`` into ``{"scale": "4"}``; `InputError` for another form."""
    pairs = [text.partition("=") for text in given or []]
    for name, sign, value in pairs:
        if not sign or not name:
            raise InputError("-p", "NAME=VALUE", repr(name + sign + value), "write e.g. -p scale=4")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _columns(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as a table; the first column is their name."""
    import pandas as pd

    if rows:
        first = next(iter(rows[0]))
        frame = pd.DataFrame(rows).set_index(first).rename_axis(None)
        print(frame.rename_axis(first, axis=1).to_string())


# --- runs and cache --------------------------------------------------------------------------


@report_app.callback(invoke_without_command=True)
def _report(context: Context, reports: Reports = None) -> None:
    """Write reports/index.html again from the runs that are there."""
    from dtfn import paths
    from dtfn.reports import page

    if context.invoked_subcommand is None:
        print(page.write_index(reports or paths.REPORTS))


@report_app.command("list")
def _list_runs(reports: Reports = None) -> None:
    """List the runs, oldest first."""
    from dtfn import paths
    from dtfn.reports import runs

    for folder in runs.finished((reports or paths.REPORTS) / "runs"):
        print(f"{folder.parent.name}  {folder.name}  {runs.read(folder)['status']}")


@report_app.command("keep")
def _keep_report(
    out: Annotated[Path | None, Option(help="Folder (default reports/baseline).")] = None,
    readme: Annotated[Path | None, Option(help="File that gets picture and verdicts.")] = None,
    reports: Reports = None,
) -> None:
    """Copy the newest suite's report, and cut the README from it."""
    from dtfn import files, paths
    from dtfn.reports import page

    out = out or paths.ROOT / "reports" / "baseline"
    print(page.keep(reports or paths.REPORTS, out))
    if readme:
        link = Path(os.path.relpath(out, readme.parent)).as_posix()
        files.write(readme, page.cut(readme.read_text(encoding="utf-8"), out, link))


@report_app.command("compare")
def _compare_runs(
    before: Run,
    after: Run,
    reports: Reports = None,
    most: Annotated[int, Option(help="Number of differences that are printed.")] = 20,
) -> None:
    """Print which numbers differ between two runs.

    The exit code is 1 if any does.
    """
    from dtfn import paths
    from dtfn.reports import runs, tables

    folder = (reports or paths.REPORTS) / "runs"
    first, second = runs.find(before, folder), runs.find(after, folder)
    result = runs.compare(first, second)
    print(f"{first} -> {second}: {result.summary}")
    for name, (old, new) in result.settings.items():
        print(f"parameter {name}: {old} -> {new}")
    for frame in (result.verdicts, result.changed[:most]):
        if len(frame):
            print(tables.markdown(frame), end="")
    if len(result.changed) > most:
        print(f"and {len(result.changed) - most} more")
    if len(result.changed) or len(result.verdicts):
        raise Exit(1)


@cache_app.command("show")
def _show_cache() -> None:
    """Print where the cache is, what it holds and what it may hold (DTFN_CACHE_LIMIT)."""
    from dtfn import cache, paths

    entries, size = cache.usage()
    sizes = f"{size / 2**20:.1f} of {cache.limit() / 2**20:.1f} MB"
    print(f"{paths.CACHE / 'outputs'}: {entries} outputs and maps, {sizes}")


@cache_app.command("clear")
def _clear_cache() -> None:
    """Remove the outputs; networks are then run again where these are asked for."""
    from dtfn import cache

    print(f"{cache.clear()} removed")


# --- zoo and weights -------------------------------------------------------------------------


@zoo_app.command("list")
def _list_zoo(as_json: Json = False) -> None:
    """List the networks."""
    from dtfn import zoo

    rows = [row | {"gate": row.get("gate")} for row in zoo.registry()]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    sets = list(dict.fromkeys(name for row in rows for name in row["psnr"]))
    shown = []
    for row in rows:
        line = {key: row[key] for key in ("name", "variant", "scale", "seed", "parameters")}
        line["gate"] = "-" if row["gate"] is None else f"{row['gate']:+.3f}"
        for name in sets:
            known = name in row["psnr"]
            line[name] = f"{row['psnr'][name]:.2f}/{row['ssim'][name]:.4f}" if known else "-"
        shown.append(line)
    _columns(shown)


@zoo_app.command("show")
def _show_network(name: Name, as_json: Json = False) -> None:
    """Print the card of a network, or its entry as JSON."""
    from dtfn import zoo

    print(json.dumps(zoo.entry(name), indent=1) if as_json else zoo.show(name).rstrip())


@zoo_app.command("verify")
def _verify_zoo() -> None:
    """Compare the weights with the registry's SHA-256."""
    from dtfn import paths, zoo

    wrong = "; ".join(zoo.verify())
    if wrong:
        remedy = "restore data/zoo, e.g. with `git checkout data/zoo`"
        raise InputError(paths.ZOO, "the shipped files", wrong, remedy)
    for row in zoo.registry():
        print(f"{row['name']}: ok")


@weights_app.command("import")
def _import_weights(
    file: Annotated[Path, Argument(help="A .pt, .pth or .safetensors file.")],
    name: Annotated[str | None, Option(help="Its name (default e.g. dtfn-x4).")] = None,
    parameter: Settings = None,
    replace: Annotated[bool, Option("--replace", help="Replace others of this name.")] = False,
) -> None:
    """Recognise a checkpoint, check it strictly, and keep it in data/weights under a name.

    The name then stands for it in `dtfn evaluate` and in every notebook. -p gives a value that the
    weights do not show.
    """
    from dtfn import models

    entry = models.import_weights(file, name, settings(parameter), replace)
    texts = {key: f"{key} {value}" for key, value in entry["hyperparameters"].items()}
    assumed = ", ".join(texts.pop(key) for key in entry["assumed"])
    what = f"{entry['network']} x{entry['scale']}, {entry['parameters']:,} parameters"
    print(f"{entry['name']}: {what}, from {entry['source']}")
    print(f"  shown by its weights or given: {', '.join(texts.values())}")
    if assumed:
        print(f"  assumed, as in the authors' code: {assumed} (change with -p)")
    print("  loaded strictly, run on a small image, stored and run again: the same output")


@weights_app.command("list")
def _list_weights(as_json: Json = False) -> None:
    """List the imported weights."""
    from dtfn import zoo

    rows = zoo.imported()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    keys = ("name", "network", "scale", "parameters", "source")
    _columns([{key: row[key] for key in keys} for row in rows])


# --- pictures --------------------------------------------------------------------------------


@data_app.command("list")
def _list_data(as_json: Json = False) -> None:
    """List the sets: what is here, how large each is, and on what terms."""
    from dtfn import download, paths

    known = download.catalogue().values()
    if as_json:
        said = (
            "name",
            "aliases",
            "groups",
            "about",
            "bytes",
            "present",
            "state",
            "terms",
            "by_hand",
        )
        rows = [{key: getattr(source, key) for key in said} for source in known]
        for row, source in zip(rows, known, strict=True):
            row |= {"files": source.count, "folder": str(source.folder)}
        print(json.dumps(rows, indent=1))
        return
    print(f"{'set':<26}{'files':>6}{'MB':>9}  {'here':<18}content")
    for source in known:
        size = f"{source.bytes / 1e6:.1f}" if source.bytes else "?"
        line = f"{source.name:<26}{source.count or '?':>6}{size:>9}  {source.state:<18}"
        print(f"{line}{source.about}")
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


@data_app.command("fetch")
def _fetch_data(
    names: Annotated[list[str], Argument(help="Sets or groups; see `dtfn data list`.")],
    yes: Annotated[bool, Option("--yes", help="Accept the terms of all of them.")] = False,
    jobs: Annotated[int, Option(min=1, help="Downloads at a time.")] = 8,
    mirror: Annotated[
        list[str] | None,
        Option(metavar="URL", help="A copy of a data folder, tried first. Repeatable."),
    ] = None,
) -> None:
    """Download what is missing of sets, check it, and put it where the suite looks for it."""
    from dtfn import download

    sets = download.chosen(names)

    def agree(text: str, of: list[str]) -> bool:
        print(f"{', '.join(of)}: {text}")
        return yes or (sys.stdin.isatty() and confirm("Do you accept?"))

    download.fetch(sets, agree, mirrors=mirror or (), jobs=jobs, progress=sys.stderr.isatty())
    for source in sets:
        print(f"{source.name}: {source.state} in {source.folder}")
    if checked := [source.name for source in sets if source.pictures]:
        _verify_data(checked)


@data_app.command("verify")
def _verify_data(
    names: Annotated[list[str] | None, Argument(help="Sets or groups (default: all here).")] = None,
) -> None:
    """Compare every file with its SHA-256, and what it decodes to with the known pixels."""
    from dtfn import download

    sets = download.chosen(names or download.catalogue())
    if not names:
        sets = [source for source in sets if source.pictures and source.present]
    faults = 0
    for source in sets:
        wrong = list(download.verify(source))
        for file, fault in wrong:
            print(f"{file}: {fault}")
        if not wrong:
            print(f"{source.name}: {len(source.pictures)} files ok")
        faults += len(wrong)
    if faults or not sets:
        wanted = "pictures as listed" if sets else "some set of pictures"
        remedy = "move away what is wrong, then run `dtfn data fetch`"
        raise InputError("data", wanted, f"{faults} faults" if sets else "none", remedy)
