"""The suite: papermill runs one notebook into a folder, Snakemake runs the plan of a tier.

A run's folder is named by the key of its content: the notebook, its parameters, the code that it
imports, the pictures and the weights that it reads. So what is there is up to date.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from dtfn import datasets, files, images, parameters, paths, provenance, recipes, reports, zoo
from dtfn.errors import InputError, nearest, require_known
from dtfn.reports import compare, page
from dtfn.reports import runs as run_folders

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager

TIERS = ("smoke", "demo", "bench", "paper")
_DEFAULTS = {  # what a run of a tier takes, unless the plan has other numbers
    "smoke": {"gpu": 0, "memory_mb": 3000, "minutes": 10, "threads": 1},
    "demo": {"gpu": 0, "memory_mb": 4000, "minutes": 30, "threads": 1},
    "bench": {"gpu": 0, "memory_mb": 8000, "minutes": 240, "threads": 1},
    "paper": {"gpu": 1, "memory_mb": 32000, "minutes": 1440, "threads": 4},
}
_LIFELINE = "DTFN_LIFELINE"  # the lock of `reproduce`; when it is free, its runs end too
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
# What of a run is compared: a table's CSV holds all that its other files show.
_COMPARED = {"figures": (".csv", ".png", ".svg"), "tables": (".csv",), "data": (".csv",)}
# Everything that starts threads: without this, each of several runs would take all cores.
_THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR")


class NotebookInputError(InputError):
    """An `InputError` that a notebook raised in its kernel; the line that it had there."""

    def __init__(self, line: str) -> None:
        ValueError.__init__(self, line)


class NotebookFailed(RuntimeError):
    """A notebook raised an error; its run is kept in ``folder`` with the traceback."""

    def __init__(self, message: str, folder: Path) -> None:
        super().__init__(f"{folder.parent.name} failed: {message}; see {folder / 'traceback.txt'}")
        self.message = message
        self.folder = folder


@dataclass(frozen=True)
class Step:
    """One notebook with its parameters.

    Attributes
    ----------
    name
        Unique in a plan; the notebook's name if the plan gives no other.
    notebook
        The notebook's file.
    parameters
        The values that differ from the notebook's defaults.
    tier
        Of the plan; None for a notebook that is run alone.
    resources
        GPUs, MB of memory and minutes for a cluster, and CPU threads: another number of threads
        gives other last digits.
    """

    name: str
    notebook: Path
    parameters: dict[str, Any]
    tier: str | None = None
    resources: dict[str, int] = field(default_factory=dict)


# --- the plan, and what of it is up to date -------------------------------------------------


def plan(tier: str, file: Path | None = None, only: Sequence[str] = ()) -> list[Step]:
    """Return the runs of a tier.

    Parameters
    ----------
    tier
        ``"smoke"`` (seconds), ``"demo"`` (minutes), ``"bench"`` (the benchmarks) or ``"paper"``
        (full-size networks).
    file
        A plan; default notebooks/suite.yaml, which explains what it may hold.
    only
        Names of runs; empty for all.

    Raises
    ------
    InputError
        There is no such tier, plan or run, or the plan names an unknown notebook, tier, key or
        parameter, or gives a parameter a value of another type.
    """
    import yaml

    _require("tier", "a tier", [tier], TIERS)
    file = _plan_file(file)
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        assert isinstance(entries, dict), "no mapping"
    except (OSError, ValueError, AssertionError, yaml.YAMLError) as error:
        raise InputError(
            file,
            "a plan such as notebooks/suite.yaml",
            " ".join(str(error).split()),
            "name a plan that is there",
        ) from None
    steps = {}
    for name, entry in entries.items():
        _require(
            f"{file.name}: {name}", "a tier or a key", entry, (*TIERS, "notebook", "resources")
        )
        if tier in entry:
            notebook = find(entry.get("notebook", name), file.parent)
            given = parameters.check(notebook, entry[tier] or {})
            changes = entry.get("resources", {}).get(tier) or {}
            _require(f"{file.name}: {name}", "a resource", changes, [*_DEFAULTS[tier]])
            steps[name] = Step(name, notebook, given, tier, _DEFAULTS[tier] | changes)
    _require("run", f"a run of the tier {tier}", only, [*steps])
    return [step for name, step in steps.items() if not only or name in only]


def find(notebook: str, folder: Path | None = None) -> Path:
    """Return the file of a notebook, given as its name or as a path.

    Raises
    ------
    InputError
        There is none; the nearest name is suggested.
    """
    folder = folder or paths.NOTEBOOKS
    for file in (Path(notebook), folder / notebook, folder / f"{notebook}.ipynb"):
        if file.suffix == ".ipynb" and file.is_file():
            return file.resolve()
    raise InputError(
        "notebook",
        "a file or the name of a notebook",
        repr(notebook),
        nearest(notebook, [f.stem for f in folder.glob("*.ipynb")]),
    )


def overview(
    tier: str, folder: Path | None = None, file: Path | None = None, only: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the plan as JSON holds it: tier, reports, plan and, for each run, its `status`.

    Parameters and errors as `reproduce`.
    """
    folder = (folder or paths.REPORTS).resolve()
    runs = [status(step, folder / "runs") for step in plan(tier, file, only)]
    return {"tier": tier, "reports": str(folder), "plan": str(_plan_file(file)), "runs": runs}


def status(step: Step, runs: Path) -> dict[str, Any]:
    """Return what a run depends on, and whether its result is there, as JSON holds it.

    Returns
    -------
    dict
        ``name``, ``notebook``, ``parameters`` (all of them), ``resources``, ``parts`` (part -> its
        hash), ``key`` (the hash of all parts), ``folder`` (of the complete run, there or not),
        ``up_to_date`` and ``reason`` (why it has to run).

    Raises
    ------
    InputError
        A parameter names a benchmark, a scale or a network that is not there.
    """
    defaults = {name: p.default for name, p in parameters.read(step.notebook).items()}
    values = defaults | step.parameters
    _require_known(values)
    cells = json.loads(step.notebook.read_text(encoding="utf-8"))["cells"]
    sources = [[c["cell_type"], "".join(c["source"])] for c in cells]  # no outputs
    code = "\n".join(source for kind, source in sources if kind == "code")
    # Imported weights count where methods can be chosen, the shipped ones always.
    weights = [paths.ZOO, *([paths.WEIGHTS] if "methods" in values else [])]
    parts = {
        "notebook": provenance.digest(sources),
        "code": provenance.code_key({"dtfn.reports", *provenance.imported(code)}),
        "libraries": provenance.digest(provenance.versions()),
        "parameters": provenance.digest(run_folders.plain(values)),
        "inputs": provenance.digest(_hashes(_inputs(values))),
        "weights": provenance.digest(_hashes(weights)),
    }
    key = provenance.digest(parts)
    folder = runs / step.name / key[:16]
    reason = _reason(folder, parts)
    return {
        "name": step.name,
        "notebook": step.notebook.stem,
        "parameters": run_folders.plain(values),
        "resources": step.resources,
        "parts": parts,
        "key": key,
        "folder": str(folder),
        "up_to_date": reason == "up to date",
        "reason": reason,
    }


def _plan_file(file: Path | None) -> Path:
    return (file or paths.NOTEBOOKS / "suite.yaml").resolve()


def _require(what: str, expected: str, given: Any, known: Sequence[str]) -> None:
    """Refuse an unknown name and suggest the nearest."""
    for name in given:
        require_known(name, known, what, f"{expected}: {', '.join(known)}")


def _require_known(values: Mapping[str, Any]) -> None:
    """Refuse a benchmark, scale, variant or network that is not there, before a kernel starts.

    What a parameter holds is known by its name.
    """
    for name in _texts([values.get("datasets"), values.get("dataset")]):
        datasets.names(name)
    for scale in [*values.get("scales", []), values.get("scale", 4)]:
        images.check_scale(scale)
    networks = [row["name"] for row in zoo.everything()]
    variants = [*dict.fromkeys([*recipes.VARIANTS, *(name.split("-x")[0] for name in networks)])]
    given = [name for name in values.get("variants", []) if not zoo.own(name)]
    _require("variants", "networks", given, variants)
    for key in ("methods", "twin", "network", "null"):
        plain = [text for text in _texts(values.get(key)) if re.fullmatch(r"[\w+-]+", text)]
        _require(key, "a network or a file", plain, [*variants, *networks, "bicubic"])


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a value that is not empty: itself, or those in its lists."""
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _inputs(values: Mapping[str, Any]) -> list[Path]:
    """Return the pictures of the benchmarks, and the files and folders that parameters name."""
    inputs = []
    for name in _texts([values.get("datasets"), values.get("dataset"), values.get("optional")]):
        with contextlib.suppress(InputError):  # only an optional one may be absent
            inputs += datasets.files(name)
    for text in _texts(list(values.values())):
        if own := zoo.own(text):
            inputs += own.inputs
            continue
        path = Path(re.sub(r"\{\w+\}", "*", text.rpartition("=")[2]))
        if path.is_absolute():
            inputs += sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    return inputs


def _hashes(places: Sequence[Path]) -> list[list[str]]:
    """Return [name, hash] of files and of all files in folders, wherever these are."""
    inside = [sorted(f.rglob("*")) if f.is_dir() else [f] for f in places]
    return [[f.name, files.sha256(f)] for part in inside for f in part if f.is_file()]


def _reason(folder: Path, parts: Mapping[str, str]) -> str:
    """Return ``"up to date"`` for a complete run, else how it differs from the newest one."""
    content = run_folders.read(folder)
    for name, before in content.get("outputs", {}).items():
        if not (folder / name).is_file() or files.sha256(folder / name) != before:
            return f"{name} was changed"
    if content:
        return "up to date"
    if _failed(folder).is_dir():
        return "failed"
    past = [run_folders.read(f) for f in run_folders.finished(folder.parent.parent)]
    mine = [content for content in past if content.get("run") == folder.parent.name]
    if not mine:
        return "never ran"
    changed = [name for name, now in parts.items() if mine[-1].get("parts", {}).get(name) != now]
    return f"changed: {', '.join(changed)}"


def _failed(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-failed")


# --- one run --------------------------------------------------------------------------------


def run(
    notebook: str | Path | Step,
    given: Mapping[str, Any] | None = None,
    *,
    runs: Path | None = None,
    force: bool = False,
    progress: bool = False,
) -> Path:
    """Execute a notebook unless its result is there, and return the folder of the complete run.

    The folder holds the executed notebook, a self-contained HTML, figures, tables and the
    manifest.

    Parameters
    ----------
    notebook
        Name or path, or a step of a plan.
    given
        Parameter -> value, in place of the notebook's or the step's; may be text as on a command
        line. Names of files are relative to the working directory.
    runs
        Where the run's folder goes, below a folder of its name; default reports/runs.
    force
        Run again what is up to date.
    progress
        Show a bar of the cells.

    Raises
    ------
    InputError
        An unknown notebook, parameter, benchmark or network, a value of another type, or other
        input that the notebook itself refused before it made anything. No run is left, unless it
        is a step of a plan.
    NotebookFailed
        The notebook raised anything else, or that later; the run is kept in a folder named
        ``...-failed``.
    """
    if os.environ.get(_LIFELINE):
        threading.Thread(target=_end_with, args=[os.environ[_LIFELINE]], daemon=True).start()
    if isinstance(notebook, Step):
        step = notebook
    else:
        file = find(str(notebook))
        step = Step(file.stem, file, {})
    known = {row["name"] for row in zoo.everything()}
    for name, value in parameters.check(step.notebook, given or {}).items():
        value = parameters.absolute(name, value, known)
        step = replace(step, parameters=step.parameters | {name: value})
    runs = (runs or paths.RUNS).resolve()
    with _lock(str(runs / step.name)):
        entry = status(step, runs)
        if entry["up_to_date"] and not force:
            return Path(entry["folder"])
        return _made(step, entry, progress)


def _lock(name: str) -> FileLock:
    """Return the lock of this name, which processes on this machine take in turn."""
    folder = paths.CACHE / "locks"
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{provenance.digest(name)[:16]}.lock")


def _end_with(lifeline: str) -> None:
    """Wait for the end of the process that holds a lock, then end this one and its group."""
    FileLock(lifeline).acquire(poll_interval=0.5)
    os.killpg(0, signal.SIGKILL)


def _made(step: Step, entry: Mapping[str, Any], progress: bool) -> Path:
    """Make a run under a hidden name, and return its folder."""
    folder = Path(entry["folder"])
    partial = folder.with_name(f".partial-{folder.name}")
    with files.writing(partial):
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        partial.mkdir(parents=True)
    try:
        began = time.perf_counter()
        record = run_folders.new_record(step.notebook, entry["parameters"])
        error: Exception | None = None
        executed = partial / step.notebook.name
        try:
            try:
                _execute(step, partial, progress)
            finally:
                if executed.exists():
                    page.write_run(executed)
        except Exception as caught:
            error = caught
        made = any((partial / kind).exists() for kind in run_folders.KINDS)
        if getattr(error, "ename", "") == InputError.__name__ and not made and not step.tier:
            raise NotebookInputError(str(getattr(error, "evalue", error)))
        record |= run_folders.read(partial) | {"run": step.name, "tier": step.tier}
        record |= {"key": entry["key"], "parts": entry["parts"]}
        record["title"] = page.title(step.notebook)
        record["timings"]["run"] = round(time.perf_counter() - began, 3)
        record["status"] = "failed" if error else "complete"
        if error:
            record["error"] = _cause(error)
            files.write(partial / "traceback.txt", record["error"]["traceback"])
        run_folders.write(partial, record)
        shutil.rmtree(_failed(folder), ignore_errors=True)
        if error:
            raise NotebookFailed(record["error"]["message"], partial.rename(_failed(folder)))
        shutil.rmtree(folder, ignore_errors=True)
        return partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # Snakemake makes it first; not empty: all is well
            folder.rmdir()
        with contextlib.suppress(OSError):
            folder.parent.rmdir()


def _execute(step: Step, folder: Path, progress: bool) -> None:
    """Execute a notebook into a folder; what its cells raise comes out as papermill's error."""
    import nbformat
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)
    target = folder / step.notebook.name
    environment = {reports.RUN_DIR: str(folder), "DTFN_DATA": str(paths.data_root())}
    if "OMP_NUM_THREADS" in os.environ:
        threads = os.environ["OMP_NUM_THREADS"]
        environment |= {f"{library}_NUM_THREADS": threads for library in _THREADS}
    papermill.execute_notebook(
        str(step.notebook),
        str(target),
        parameters=step.parameters,
        kernel_name="python3",  # the syntax only: the manager decides what runs
        language="python",
        progress_bar={"desc": step.name, "unit": "cell", "leave": False} if progress else False,
        kernel_manager_class=_kernel(step.notebook.parent, environment),
    )
    # Papermill notes the paths of this machine, which are of no use elsewhere.
    content = nbformat.read(target, as_version=4)  # type: ignore[no-untyped-call]
    for key in ("input_path", "output_path"):
        content.metadata.get("papermill", {}).pop(key, None)
    nbformat.write(content, target)  # type: ignore[no-untyped-call]


def _kernel(folder: Path, environment: dict[str, str]) -> type[AsyncKernelManager]:
    """Return a kernel manager that starts *this* Python in `folder`.

    A kernel spec found by name could be any Python that was ever registered on the machine.
    """
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    spec = KernelSpec(**get_kernel_dict(), env=environment)
    spec.argv += ["--log-level=CRITICAL"]  # its warnings are not about the notebook

    class ThisPython(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            """The running Python, whatever specs the machine has."""
            return spec

        async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
            await super().start_kernel(**(options | {"cwd": str(folder)}))

    return ThisPython


def _cause(error: Exception) -> dict[str, str]:
    """Return kind, one line and traceback of what a notebook raised, or of what kept it from it."""
    kind, text = type(error).__name__, str(error).strip()
    first, lines = text.partition("\n")[0], "".join(traceback.format_exception(error))
    if hasattr(error, "ename"):  # papermill's: it says what the notebook raised
        kind, first = error.ename, error.evalue  # type: ignore[attr-defined]
        lines = _ANSI.sub("", "\n".join(error.traceback)) + "\n"  # type: ignore[attr-defined]
    return {"kind": kind, "message": f"{kind}: {first}", "traceback": lines}


# --- all runs of a plan ---------------------------------------------------------------------


def reproduce(
    tier: str,
    *,
    folder: Path | None = None,
    file: Path | None = None,
    jobs: int | None = None,
    only: Sequence[str] = (),
    force: bool = False,
    profile: Path | None = None,
) -> list[page.Problem]:
    """Run by Snakemake what is not up to date of a tier, and write the index.

    A run that fails is kept and the others go on. What is complete stays complete when this
    process is killed; the next call runs the rest.

    Parameters
    ----------
    tier, file, only
        As `plan`.
    folder
        Where ``runs/``, ``index.html`` and ``suite-TIER.json`` go; default reports/.
    jobs
        How many runs at a time; default 1, with a profile what that says.
    force
        Run again what is up to date.
    profile
        A Snakemake profile such as profiles/slurm: runs on other machines.

    Returns
    -------
    list
        The runs that failed; empty if every run is there.

    Raises
    ------
    InputError
        The plan is wrong, or a benchmark that it needs is not there; nothing has run.
    """
    if jobs is not None and jobs < 1:
        raise InputError("jobs", "at least 1", jobs, "leave it out for 1")
    folder = (folder or paths.REPORTS).resolve()
    lock = _lock(f"report {folder}")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that writes {folder}", file=sys.stderr)
        held = lock.acquire()
    with held:
        content = overview(tier, folder, file, only)
        with files.writing(folder):
            (folder / ".suite").mkdir(parents=True, exist_ok=True)
        for entry in content["runs"]:
            if entry["up_to_date"] and not force:
                print(f"{entry['name']}: up to date, {entry['folder']}")
        todo = [entry for entry in content["runs"] if force or not entry["up_to_date"]]
        if todo:
            _snakemake(content | {"runs": todo}, jobs, profile, lock.lock_file)
        folders = {entry["name"]: Path(entry["folder"]) for entry in content["runs"]}
        complete = {n: f for n, f in folders.items() if (f / run_folders.MANIFEST).exists()}
        problems = [_problem(name, f) for name, f in folders.items() if name not in complete]
        shown = page.suite_runs(folder)
        _write_record(folder / f"suite-{tier}.json", content, complete)
        if todo or not (folder / page.INDEX).exists() or page.suite_runs(folder) != shown:
            page.write_index(folder, problems)
    print(f"report: {folder / page.INDEX}")
    return problems


def threads(planned: int, jobs: int) -> int:
    """Return the threads of one of several runs at a time on this machine.

    As many as the plan says, at most its share of the cores: with more, a network's last digits
    are others, and results would depend on how many runs there were at a time. A number in
    ``$OMP_NUM_THREADS`` is shared among the runs instead.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit():
        return max(1, int(given) // jobs)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(planned, (cores or 1) // jobs))


def _snakemake(
    content: dict[str, Any], jobs: int | None, profile: Path | None, lifeline: str
) -> None:
    """Have Snakemake make all runs of an overview; those that fail have no manifest afterwards."""
    content["program"] = [sys.executable, "-m", "dtfn"]
    folder = Path(content["reports"]) / ".suite"
    planned = folder / f"{content['tier']}.json"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(paths.SNAKEFILE)]
    command += ["--directory", str(folder), "--config", f"plan={planned}", "--forceall"]
    # Folders appear whole or not at all, and our lock ends with us: Snakemake needs no marks.
    command += ["--nolock", "--ignore-incomplete", "--drop-metadata", "--rerun-triggers", "mtime"]
    command += ["--keep-going", "--scheduler", "greedy"]
    environment = dict(os.environ)
    if profile:
        command += ["--profile", str(profile.resolve()), *(["--jobs", str(jobs)] if jobs else [])]
    else:
        jobs = jobs or 1
        for entry in content["runs"]:  # to Snakemake each takes one of as many cores as jobs
            entry["threads"] = threads(entry["resources"]["threads"], jobs)
            entry["resources"] = entry["resources"] | {"threads": 1}
        command += ["--cores", str(jobs), "--quiet", "all"]
        environment[_LIFELINE] = lifeline
    files.write_json(planned, content)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, process_group=0)
    try:
        process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _problem(name: str, folder: Path) -> page.Problem:
    """Return why there is no complete run."""
    remains = _failed(folder)
    if remains.is_dir():
        return page.Problem(name, run_folders.read(remains)["error"]["message"], remains)
    return page.Problem(name, "its process ended before its notebook did")


def _write_record(file: Path, content: Mapping[str, Any], complete: Mapping[str, Path]) -> None:
    """Write ``suite-TIER.json``, which is the same whenever the results are.

    It holds parameters, verdicts and the hashes of figures, tables and data; no folder and no time.
    Runs that an earlier call completed and this one did not ask for stay in it.
    """
    before = files.read_json(file, {}).get("runs", {})
    asked = {entry["name"] for entry in content["runs"]}
    runs = {name: run for name, run in before.items() if name not in asked}
    for name, folder in complete.items():
        record = run_folders.read(folder)
        outputs = [folder / output for output in record["outputs"]]
        runs[name] = {
            **{key: record[key] for key in ("key", "notebook", "parameters")},
            "verdicts": [verdict["printed"] for verdict in record["verdicts"]],
            "outputs": {
                f.relative_to(folder).as_posix(): compare.fingerprint(f)
                for f in outputs
                if f.suffix in _COMPARED.get(f.parent.name, ())
            },
        }
    files.write_json(file, {"tier": content["tier"], "runs": dict(sorted(runs.items()))})
