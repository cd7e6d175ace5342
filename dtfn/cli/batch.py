"""The commands that run many: plan and reproduce."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from dtfn.errors import InputError

Tier = Annotated[
    str, typer.Option(help="smoke (seconds), demo (minutes), bench or paper (full-size networks).")
]
Reports = Annotated[Path | None, typer.Option(help="Folder of the report.")]
File = Annotated[
    Path | None, typer.Option("--plan", help="A plan of yours instead of notebooks/suite.yaml.")
]


def plan(
    tier: Tier = "demo",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    reports: Reports = None,
    file: File = None,
) -> None:
    """Print what a tier runs, after what, and whether it is up to date."""
    from dtfn.suite import batch, records

    folder, states = batch.states(tier, folder=reports, file=file)
    found = records.described(states, tier, folder)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for run in found["runs"]:
        after = f"  after {', '.join(run['after'])}" if run["after"] else ""
        print(f"{run['name']}: {run['reason']}{after}")


def reproduce(
    tier: Tier = "demo",
    jobs: Annotated[
        int, typer.Option(help="Runs at a time, with a thread each unless the plan says more.")
    ] = 1,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="This run and its needs; repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also what is up to date.")] = False,
    reports: Reports = None,
    file: File = None,
) -> None:
    """Run what is not up to date of a tier and write reports/index.html.

    A run that fails stops only those that need it. After a kill the next call does the rest.
    """
    from dtfn import suite

    failures = suite.reproduce(
        tier, folder=reports, file=file, jobs=jobs, only=only or (), force=force,
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    causes = [failure for failure in failures if not isinstance(failure, suite.Skipped)]
    if causes:
        raise typer.Exit(2 if all(isinstance(cause, InputError) for cause in causes) else 1)
