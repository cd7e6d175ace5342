"""The commands of ``dtfn data`` (pictures) and ``dtfn cache`` (what networks made of them)."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dtfn.errors import InputError

if TYPE_CHECKING:
    from dtfn.download import Source

app = typer.Typer(
    help="Pictures to evaluate and to train on: what there is, and how to get it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
cache_app = typer.Typer(
    help="What networks made, kept on disk so that it is made once.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
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


def _row(source: Source) -> dict[str, object]:
    """Return what ``--json`` says of a set."""
    keys = ("name", "aliases", "groups", "about", "bytes", "present", "state", "terms", "by_hand")
    row = {key: getattr(source, key) for key in keys}
    return row | {"files": source.count, "folder": str(source.folder)}


@app.command()
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


@app.command()
def verify(
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
            expected="pictures as listed" if sets else "some set of pictures",
            found=f"{faults} faults" if sets else "none",
            remedy="move away what is wrong, then run `dtfn data fetch`",
        )


@cache_app.command()
def show() -> None:
    """Print where the cache is, what it holds and what it may hold (DTFN_CACHE_LIMIT)."""
    from dtfn import cache

    used = cache.usage()
    sizes = f"{used.bytes / 2**20:.1f} of {used.limit / 2**20:.1f} MB"
    print(f"{used.folder}: {used.entries} outputs and maps, {sizes}")


@cache_app.command()
def clear() -> None:
    """Remove the outputs; networks are then run again where these are asked for."""
    from dtfn import cache

    print(f"{cache.clear()} removed")
