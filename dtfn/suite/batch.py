"""Run what a tier's plan asks for and is not up to date: in parallel, each after its needs."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from dtfn import paths
from dtfn.errors import InputError, nearest
from dtfn.reports import page
from dtfn.reports import runs as run_folders
from dtfn.suite import keys, plans, records
from dtfn.suite.execution import NotebookFailed, lock, sweep
from dtfn.suite.keys import State
from dtfn.suite.progress import Bars
from dtfn.suite.worker import Order, Workers

# Everything that starts threads of its own: without this, each of N runs would take all cores.
THREADS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip


class Skipped(RuntimeError):
    """A run that was not begun, because one that it needs failed."""


def reproduce(
    tier: str,
    *,
    folder: Path | None = None,
    file: Path | None = None,
    jobs: int = 1,
    only: Sequence[str] = (),
    force: bool = False,
    say: Callable[[str], None] = print,
    progress: bool = False,
) -> list[Exception]:
    """Run every notebook of a tier that is not up to date, and write the index.

    A run that fails stops those that need it, and no other. What is complete stays complete when
    this process is killed; the next call runs the rest.

    Parameters
    ----------
    tier, file
        As for `dtfn.suite.plan`.
    folder
        Where ``runs/``, ``index.html`` and ``suite-TIER.json`` go; default reports/.
    jobs
        How many runs at a time; see `threads`.
    only
        Names of runs: these, and what they need. Empty: all.
    force
        Run again what is up to date; with `only`, just what that names.
    say
        Called with one line a run that is complete; the others are told on stderr.
    progress
        Show a bar for each run.

    Returns
    -------
    list
        What went wrong: `InputError`, `NotebookFailed` and `Skipped`; empty if every run is there.

    Raises
    ------
    InputError
        The plan is wrong, or a benchmark or weights that it needs are not there; nothing has run.
    """
    if jobs < 1:
        raise InputError("jobs", expected="at least 1", found=jobs, remedy="leave it out for 1")
    folder, found = states(tier, folder=folder, file=file, only=only)
    forced = set(only or found) if force else set()
    batch = _Batch(folder, _notebooks(file), found, forced, jobs, say, progress)
    batch.run()
    return batch.conclude(tier)


def states(
    tier: str, *, folder: Path | None = None, file: Path | None = None, only: Sequence[str] = ()
) -> tuple[Path, dict[str, State]]:
    """Return the report's folder, and name -> state of the runs of a tier, in their order.

    Parameters and errors as for `reproduce`.
    """
    folder = (folder or paths.REPORTS).resolve()
    steps = selected(plans.plan(tier, file), only)
    return folder, keys.states(steps, folder / "runs", _notebooks(file))


def selected(steps: Sequence[plans.Step], only: Collection[str]) -> list[plans.Step]:
    """Return the steps that are named and those that they need, in their order; all for none.

    Raises
    ------
    InputError
        There is no step of a name.
    """
    known = {step.name: step for step in steps}
    wanted = list(only) or list(known)
    for name in wanted:
        if name not in known:
            raise InputError(
                "--only", expected=f"runs of the plan: {', '.join(known)}", found=repr(name),
                remedy=nearest(name, known) if known else "choose another tier",
            )  # fmt: skip
        wanted += known[name].needs.runs
    return [step for step in steps if step.name in set(wanted)]


def threads(jobs: int, planned: int) -> dict[str, str]:
    """Return the environment of one of several runs at a time: the threads that it may start.

    As many as the plan says, at most its share of the cores: with more a network's last digits are
    others, and results would depend on how many runs there were at a time. Who sets
    ``$OMP_NUM_THREADS`` has these shared among the runs instead.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit():
        return dict.fromkeys(THREADS, str(max(1, int(given) // jobs)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return dict.fromkeys(THREADS, str(max(1, min(planned, (cores or 1) // jobs))))


class _Batch:
    """One call of `reproduce`: what is complete by now, and what went wrong."""

    def __init__(
        self, folder: Path, notebooks: Path, states: Mapping[str, State], forced: set[str],
        jobs: int, say: Callable[[str], None], progress: bool,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.notebooks = notebooks
        self.states = states
        self.forced = forced
        self.jobs = jobs
        self.say = say
        self.bars = Bars(progress)
        self.complete: dict[str, Path] = {}
        self.failures: dict[str, Exception] = {}
        self.workers = Workers()
        self.began = False

    def run(self) -> None:
        """Run all in the order of their needs, as many at a time as there are jobs."""
        needs = {name: state.step.needs.runs for name, state in self.states.items()}
        sorter = TopologicalSorter(needs)
        sorter.prepare()
        running: dict[concurrent.futures.Future[Path], str] = {}
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            try:
                while sorter.is_active():
                    for name in sorter.get_ready():
                        if self._settled(name):
                            sorter.done(name)
                        else:
                            self.began = True
                            running[pool.submit(self._work, name)] = name
                    first = concurrent.futures.FIRST_COMPLETED
                    for future in concurrent.futures.wait(running, return_when=first).done:
                        name = running.pop(future)
                        with contextlib.suppress(InputError, NotebookFailed):
                            self.complete[name] = future.result()
                        sorter.done(name)
            except BaseException:  # interrupted: what is half done is of no use
                pool.shutdown(wait=False, cancel_futures=True)
                self.workers.end()
                for name in running.values():
                    sweep(self.folder / "runs" / name)
                raise

    def conclude(self, tier: str) -> list[Exception]:
        """Write the index and the record of the tier, and return what went wrong."""
        failures = [self.failures[name] for name in self.states if name in self.failures]
        # A report about nothing would only hide the one line that says what to do.
        if not self.complete and not any(isinstance(f, NotebookFailed) for f in failures):
            return failures
        records.write(self.folder, tier, self.states, self.complete)
        problems = [_problem(name, failure) for name, failure in self.failures.items()]
        if self.began or not (self.folder / page.INDEX).exists():
            page.write_index(self.folder, problems, self.complete)
        self.say(f"report: {_shown(self.folder / page.INDEX)}")
        return failures

    def _settled(self, name: str) -> bool:
        """Say whether a run need not begin: it is up to date, or what it needs failed."""
        state = self.states[name]
        failed = [other for other in state.step.needs.runs if other in self.failures]
        if failed:
            reason = f"it needs {', '.join(failed)}, which did not run"
            self.failures[name] = Skipped(reason)
            self._warn(f"{self._head(name)}: skipped: {reason}")
        elif state.folder is not None and name not in self.forced:
            self.complete[name] = state.folder
            self._tell(f"{self._head(name)}: up to date, {_shown(state.folder)}")
        else:
            return False
        return True

    def _work(self, name: str) -> Path:
        """Make one run, in a thread that waits for its process."""
        state, began = self.states[name], time.perf_counter()
        home = self.folder / "runs" / name
        with lock(f"run-{keys.digest(str(home))[:16]}"), self.bars.bar(name) as tell:
            try:
                # Another process may have made it while we waited for the lock.
                done = None if name in self.forced else self._made(state)
                environment = threads(self.jobs, state.step.resources.threads)
                done = done or self.workers.work(self._order(state), environment, tell)
            except (InputError, NotebookFailed) as failure:
                self.failures[name] = failure
                message = getattr(failure, "message", str(failure))
                self._warn(f"{self._head(name)}: failed: {message}")
                raise
        self._tell(f"{self._head(name)}: {time.perf_counter() - began:.0f} s, {_shown(done)}")
        return done

    def _made(self, state: State) -> Path | None:
        ours = run_folders.finished(self.folder / "runs")
        past = [f for f in ours if f.parent.name == state.step.name]
        return keys.result(past, state.key, state.parts, keys.Hashes())[0]

    def _order(self, state: State) -> Order:
        step = state.step
        notebook = str(plans.find(step.notebook, self.notebooks)) if step.notebook else ""
        return Order(
            name=step.name, tier=step.tier, runs=str(self.folder / "runs"),
            notes={"key": state.key, "parts": state.parts},
            makes=list(step.makes), notebook=notebook,
            parameters=_resolved(step.parameters, self.complete), train=step.train,
            options=step.options,
        )  # fmt: skip

    def _head(self, name: str) -> str:
        return f"[{list(self.states).index(name) + 1}/{len(self.states)}] {name}"

    def _tell(self, line: str) -> None:
        with self.bars.aside():
            self.say(line)

    def _warn(self, line: str) -> None:
        with self.bars.aside():
            print(line, file=sys.stderr)


def _notebooks(file: Path | None) -> Path:
    return (file or paths.NOTEBOOKS / plans.PLAN).resolve().parent


def _problem(name: str, failure: Exception) -> page.Problem:
    remains = getattr(failure, "folder", None)
    return page.Problem(name, getattr(failure, "message", str(failure)), remains)


def _resolved(value: Any, folders: Mapping[str, Path]) -> Any:
    """Return a value of the plan with files in the place of references to other runs' files."""
    if isinstance(value, str):
        found = plans.REFERENCE.fullmatch(value)
        return str(folders[found[1]] / found[2]) if found else value
    if isinstance(value, Mapping):
        return {key: _resolved(part, folders) for key, part in value.items()}
    return [_resolved(part, folders) for part in value] if isinstance(value, list) else value


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
