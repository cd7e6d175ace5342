"""The commands that run notebooks and show what they left: run, plan, reproduce, report."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from dtfn.errors import InputError

Reports = Annotated[Path | None, typer.Option(help="Folder of the report (default reports/).")]
Tier = Annotated[
    str, typer.Option(help="smoke (seconds), demo (minutes), bench or paper (full-size networks).")
]
File = Annotated[
    Path | None, typer.Option("--plan", help="Your own plan instead of notebooks/suite.yaml.")
]

Settings = Annotated[
    list[str] | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Repeatable.")
]

report_app = typer.Typer(
    help="Write reports/index.html again from the runs that are there.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


def run(
    notebook: Annotated[
        str, typer.Argument(help="Name or file of a notebook, or with --tier a run of the plan.")
    ],
    parameter: Settings = None,
    tier: Annotated[
        str | None, typer.Option(help="Run it with the parameters of this tier.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run again what is up to date.")] = False,
    reports: Reports = None,
    file: File = None,
) -> None:
    """Run one notebook, e.g.: dtfn run 02_benchmark -p datasets=Set5 -p scale=4."""
    from dtfn import paths, suite
    from dtfn.reports import page

    reports = (reports or paths.REPORTS).resolve()
    began, visible = time.monotonic(), sys.stderr.isatty()
    clear = "\r\x1b[K" if visible else ""  # the bar of another run that stands in this line
    step = suite.plan(tier, file, [notebook])[0] if tier else notebook
    given = settings(parameter)
    if tier:
        print(f"{clear}{notebook}: started", flush=True)
    try:
        folder = suite.run(step, given, runs=reports / "runs", force=force, progress=visible)
    except suite.NotebookFailed as failure:
        print(f"{clear}{failure}", file=sys.stderr)
        raise typer.Exit(1) from None
    if tier:
        print(f"{clear}{notebook}: {time.monotonic() - began:.0f} s, {folder}", flush=True)
    else:
        page.write_index(reports)
        print(folder)


def plan(
    tier: Tier = "demo",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    reports: Reports = None,
    file: File = None,
) -> None:
    """Print what a tier runs, and whether it is up to date."""
    from dtfn import suite

    content = suite.overview(tier, reports, file)
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        print(*(f"{run['name']}: {run['reason']}" for run in content["runs"]), sep="\n")


def reproduce(
    tier: Tier = "demo",
    jobs: Annotated[
        int | None, typer.Option(help="Number of runs at a time (default 1, or the profile's).")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Run this one only; repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run again what is up to date.")] = False,
    reports: Reports = None,
    file: File = None,
    profile: Annotated[
        Path | None, typer.Option(help="Folder of a Snakemake profile, to run on a cluster.")
    ] = None,
) -> None:
    """Run what is not up to date of a tier and write reports/index.html.

    A run that fails is kept, and the others go on. After a kill the next call does the rest.
    """
    from dtfn import suite

    where = {"folder": reports, "file": file, "profile": profile}
    problems = suite.reproduce(tier, jobs=jobs, only=only or (), force=force, **where)
    if problems:
        names = ", ".join(problem.notebook for problem in problems)
        print(f"{len(problems)} failed: {names}", file=sys.stderr)
        raise typer.Exit(1)


@report_app.callback()
def _report(context: typer.Context, reports: Reports = None) -> None:
    from dtfn import paths
    from dtfn.reports import page

    if context.invoked_subcommand is None:
        print(page.write_index(reports or paths.REPORTS))


@report_app.command("list")
def _list(reports: Reports = None) -> None:
    """List the runs, oldest first."""
    from dtfn import paths
    from dtfn.reports import runs

    for folder in runs.finished((reports or paths.REPORTS) / "runs"):
        print(f"{folder.parent.name}  {folder.name}  {runs.read(folder)['status']}")


@report_app.command("keep")
def _keep(
    out: Annotated[Path | None, typer.Option(help="Folder (default reports/baseline).")] = None,
    readme: Annotated[
        Path | None, typer.Option(help="File that gets the picture and the verdicts.")
    ] = None,
    reports: Reports = None,
) -> None:
    """Copy the newest suite's report, small enough to commit, and cut the README from it."""
    from dtfn import files, paths
    from dtfn.reports import page

    out = out or paths.ROOT / "reports" / "baseline"
    print(page.keep(reports or paths.REPORTS, out))
    if readme:
        link = Path(os.path.relpath(out, readme.parent)).as_posix()
        files.write(readme, page.cut(readme.read_text(encoding="utf-8"), out, link))


@report_app.command("compare")
def _compare(
    before: Annotated[str, typer.Argument(help="Folder or name of a run, or a notebook's name~1.")],
    after: Annotated[str, typer.Argument(help="The same; a notebook's name is its newest run.")],
    reports: Reports = None,
    most: Annotated[int, typer.Option(help="Number of differences that are printed.")] = 20,
) -> None:
    """Print which numbers changed from one run to another; the exit code is 1 if any did."""
    from dtfn import paths
    from dtfn.reports import runs, tables
    from dtfn.reports.compare import compare

    folder = (reports or paths.REPORTS) / "runs"
    result = compare(runs.find(before, folder), runs.find(after, folder))
    print(f"{result.before} -> {result.after}: {result.summary}")
    for name, (old, new) in result.settings.items():
        print(f"parameter {name}: {old} -> {new}")
    for frame in (result.verdicts, result.changed[:most]):
        if len(frame):
            print(tables.markdown(frame), end="")
    if len(result.changed) > most:
        print(f"and {len(result.changed) - most} more")
    if len(result.changed) or len(result.verdicts):
        raise typer.Exit(1)


def settings(given: list[str] | None) -> dict[str, str]:
    """Split ``["scale=4"]`` into ``{"scale": "4"}``.

    Raises
    ------
    InputError
        One of them is not of that form.
    """
    found = {}
    for text in given or []:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise InputError("-p", "NAME=VALUE", repr(text), "write e.g. -p scale=4")
        found[name.strip()] = value.strip()
    return found
