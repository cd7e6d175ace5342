"""The commands that run notebooks and show what they left: run, plan, reproduce, report."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from dtfn.cli.text import settings

Reports = Annotated[Path | None, typer.Option(help="Folder of the report (default reports/).")]
Tier = Annotated[
    str,
    typer.Option(help="smoke (seconds), demo (minutes), bench or paper (full-size networks)."),
]
File = Annotated[
    Path | None, typer.Option("--plan", help="Your own plan instead of notebooks/suite.yaml.")
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
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Repeatable."),
    ] = None,
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
    lifeline = os.environ.get(suite.LIFELINE)
    if lifeline:
        suite.end_with(lifeline)
    began, visible = time.monotonic(), sys.stderr.isatty()
    clear = "\r\x1b[K" if visible else ""  # the bar of another run that stands in this line
    step = suite.plan(tier, file, [notebook])[0] if tier else notebook
    if tier:
        print(f"{clear}{notebook}: started", flush=True)
    try:
        folder = suite.run(
            step, settings(parameter), runs=reports / "runs", force=force, progress=visible
        )
    except suite.NotebookFailed as failure:
        print(f"{clear}{failure}", file=sys.stderr)
        raise typer.Exit(1) from None
    if tier:
        seconds = time.monotonic() - began
        print(f"{clear}{notebook}: {seconds:.0f} s, {suite.shown(folder)}", flush=True)
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
    from dtfn import paths, suite

    reports = (reports or paths.REPORTS).resolve()
    states = [suite.state(step, reports / "runs") for step in suite.plan(tier, file)]
    if as_json:
        print(json.dumps(suite.described(states, tier, reports), indent=1))
        return
    for state in states:
        print(f"{state.step.name}: {state.reason}")


def reproduce(
    tier: Tier = "demo",
    jobs: Annotated[
        int | None,
        typer.Option(help="Number of runs at a time (default 1, or what the profile says)."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Run this one only; repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run again what is up to date.")] = False,
    reports: Reports = None,
    file: File = None,
    profile: Annotated[
        Path | None,
        typer.Option(help="Folder of a Snakemake profile: run on a cluster, see profiles/."),
    ] = None,
) -> None:
    """Run what is not up to date of a tier and write reports/index.html.

    A run that fails is kept, and the others go on. After a kill the next call does the rest.
    """
    from dtfn import suite

    problems = suite.reproduce(
        tier,
        folder=reports,
        file=file,
        jobs=jobs,
        only=only or (),
        force=force,
        profile=profile,
    )
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
    names: Annotated[list[str], typer.Argument(help="Runs, named as for compare.")],
    out: Annotated[Path, typer.Option(help="Folder of the excerpt.")],
    reports: Reports = None,
) -> None:
    """Write an excerpt of some runs that can be committed: Markdown and pictures."""
    from dtfn import paths
    from dtfn.reports import page, runs

    folder = (reports or paths.REPORTS) / "runs"
    print(page.write_excerpt(out, [runs.find(name, folder) for name in names]))


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
