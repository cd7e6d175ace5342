"""The commands `list`, `fetch` and `verify` of ``dtfn data``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dtfn.errors import InputError

if TYPE_CHECKING:
    from dtfn.download.sources import Source

app = typer.Typer(
    help="Pictures to evaluate and to train on: what there is, and how to get it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the sets: what is here, how large each is, and on what terms."""
    from dtfn import paths
    from dtfn.download import collection, sources

    known = sources.catalogue().values()
    if as_json:
        print(json.dumps([_row(source) for source in known], indent=1))
        return
    print(f"{'set':<26}{'files':>6}{'MB':>9}  {'here':<18}what it is")
    for source in known:
        size = f"{source.bytes / 1e6:.1f}" if source.bytes else "?"
        here = str(collection.state(source))
        print(f"{source.name:<26}{source.count or '?':>6}{size:>9}  {here:<18}{source.about}")
    print("\nTerms")
    for text in dict.fromkeys(source.terms for source in known):
        print(f"  {', '.join(s.name for s in known if s.terms == text)}: {text}")
    for source in known:
        if source.by_hand:
            print(f"\n{source.name}: {source.by_hand}")
    print(f"\nGroups: {_groups()}")
    print(f"Benchmarks are in {paths.data_root()}, training sets in {paths.training_root()}")


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
    from dtfn.download import collection, fetching, sources

    sets = sources.chosen(names, sources.catalogue())

    def agree(text: str, of: list[str]) -> bool:
        print(f"{', '.join(of)}: {text}")
        if yes or not sys.stdin.isatty():
            return yes
        return typer.confirm("Do you accept?")

    terminal = sys.stderr.isatty()
    fetching.fetch(sets, agree, mirrors=mirror or (), jobs=jobs, progress=terminal)
    for source in sets:
        print(f"{source.name}: {collection.state(source)} in {source.folder}")


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Sets or groups; left out: all that are here.")
    ] = None,
) -> None:
    """Compare every file with its SHA-256, and what it decodes to with the known pixels."""
    from dtfn.download import collection, sources

    known = sources.catalogue()
    sets = sources.chosen(names or known, known)
    if not names:
        sets = [s for s in sets if collection.contents(s) and collection.state(s).present]
    faults = 0
    for source in sets:
        found = list(collection.verify(source))
        for file, fault in found:
            print(f"{file}: {fault}")
        if not found:
            print(f"{source.name}: {len(collection.contents(source))} files ok")
        faults += len(found)
    if faults or not sets:
        raise InputError(
            "data", expected="pictures as listed" if sets else "some set of pictures",
            found=f"{faults} faults" if sets else "none",
            remedy="move away what is wrong, then run `dtfn data fetch`",
        )  # fmt: skip


def _row(source: Source) -> dict[str, object]:
    from dtfn.download import collection

    state = collection.state(source)
    return {
        "name": source.name,
        "aliases": list(source.aliases),
        "groups": list(source.groups),
        "about": source.about,
        "files": source.count,
        "bytes": source.bytes,
        "present": state.present,
        "state": str(state),
        "folder": str(source.folder),
        "terms": source.terms,
        "by_hand": source.by_hand,
    }


def _groups() -> str:
    from dtfn.download import sources

    members: dict[str, list[str]] = {}
    for source in sources.catalogue().values():
        for group in source.groups:
            members.setdefault(group, []).append(source.name)
    return "; ".join(f"{group} ({', '.join(of)})" for group, of in members.items())
