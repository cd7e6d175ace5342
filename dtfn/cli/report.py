"""The commands of the report: write the index, list runs, compare two, keep some."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Write reports/index.html anew from the runs that are there.",
    invoke_without_command=True,
    rich_markup_mode=None,
)
Reports = Annotated[Path | None, typer.Option(help="Folder of the report.")]


@app.callback()
def _report(context: typer.Context, reports: Reports = None) -> None:
    from dtfn import paths
    from dtfn.reports import page

    if context.invoked_subcommand is None:
        print(page.write_index(reports or paths.REPORTS))


@app.command("list")
def list_(reports: Reports = None) -> None:
    """List the runs, oldest first."""
    from dtfn import paths
    from dtfn.reports import runs

    for folder in runs.finished((reports or paths.REPORTS) / "runs"):
        print(f"{folder.parent.name}  {folder.name}  {runs.read(folder)['status']}")


@app.command()
def keep(
    names: Annotated[list[str], typer.Argument(help="Runs, as for compare.")],
    out: Annotated[Path, typer.Option(help="Folder of the excerpt.")],
    reports: Reports = None,
) -> None:
    """Write an excerpt of some runs that can be committed: Markdown and pictures."""
    from dtfn import paths
    from dtfn.reports import page, runs

    folder = (reports or paths.REPORTS) / "runs"
    print(page.write_excerpt(out, [runs.find(name, folder) for name in names]))


@app.command()
def compare(
    before: Annotated[str, typer.Argument(help="A run's folder or name, or a notebook's name~1.")],
    after: Annotated[str, typer.Argument(help="E.g. a notebook's name: its newest run.")],
    reports: Reports = None,
    most: Annotated[int, typer.Option(help="Numbers that are printed.")] = 20,
) -> None:
    """Say which numbers changed from one run to another; the exit code is 1 if any did."""
    from dtfn import paths
    from dtfn.reports import compare as comparing
    from dtfn.reports import runs, tables

    folder = (reports or paths.REPORTS) / "runs"
    found = comparing.compare(runs.find(before, folder), runs.find(after, folder))
    print(f"{found.before} -> {found.after}: {found.summary}")
    for name, (old, new) in found.settings.items():
        print(f"parameter {name}: {old} -> {new}")
    for frame in (found.verdicts, found.changed[:most]):
        if len(frame):
            print(tables.markdown(frame), end="")
    if len(found.changed) > most:
        print(f"and {len(found.changed) - most} more")
    if len(found.changed) or len(found.verdicts):
        raise typer.Exit(1)
