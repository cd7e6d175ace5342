"""The suite: papermill runs one notebook into a folder, Snakemake runs the plan of a tier.

A run's folder is named by the key of its content: the notebook, its parameters, the code that it
imports, the pictures and the weights that it reads. So what is there is up to date.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from dtfn import datasets, files, images, keys, parameters, paths, provenance, recipes, reports, zoo
from dtfn.errors import InputError, nearest
from dtfn.reports import compare, page
from dtfn.reports import runs as run_folders

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager

TIERS = ("smoke", "demo", "bench", "paper")
LIFELINE = "DTFN_LIFELINE"
"""Environment variable: the lock that `reproduce` holds; when it ends, its runs end too."""

_PLAN = "suite.yaml"
_KEYS = ("notebook", "resources")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
# What of a run is compared: a table's CSV holds all that its other files show.
_SHOWN = {"figures": (".csv", ".png", ".svg"), "tables": (".csv",), "data": (".csv",)}
# Everything that starts threads: without this, each of several runs would take all cores.
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class NotebookInputError(InputError):
    """An `InputError` that a notebook raised in its kernel; the line that it had there."""

    def __init__(self, line: str) -> None:
        ValueError.__init__(self, line)


class NotebookFailed(RuntimeError):
    """A notebook raised an error; its run is kept with the traceback.

    Attributes
    ----------
    message
        One line.
    folder
        The failed run's folder, with traceback.txt.
    """

    def __init__(self, name: str, message: str, folder: Path) -> None:
        super().__init__(f"{name} failed: {message}; see {folder / 'traceback.txt'}")
        self.message = message
        self.folder = folder


@dataclass(frozen=True)
class Resources:
    """What a run takes: GPUs, MB of memory, minutes and CPU threads.

    All but the threads are for clusters. Another number of threads gives other last digits.
    """

    gpu: int = 0
    memory_mb: int = 4000
    minutes: int = 30
    threads: int = 1


_RESOURCES = {
    "smoke": Resources(memory_mb=3000, minutes=10),
    "demo": Resources(minutes=30),
    "bench": Resources(memory_mb=8000, minutes=240),
    "paper": Resources(gpu=1, memory_mb=32000, minutes=1440, threads=4),
}


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
        Noted in the manifest; None for a notebook that is run alone.
    resources
        What it takes.
    """

    name: str
    notebook: Path
    parameters: dict[str, Any]
    tier: str | None = None
    resources: Resources = Resources()


@dataclass(frozen=True)
class State:
    """A step, what its result depends on, and whether the result is there.

    Attributes
    ----------
    step
        The step.
    values
        The value of every parameter.
    parts
        What the result depends on -> its hash.
    key
        The hash of all parts.
    folder
        The folder of the complete run, whether it is there or not.
    reason
        ``"up to date"``, or why it has to run.
    """

    step: Step
    values: dict[str, Any]
    parts: dict[str, str]
    key: str
    folder: Path
    reason: str

    @property
    def up_to_date(self) -> bool:
        """Whether the complete run is there."""
        return self.reason == "up to date"


# --- the plan -------------------------------------------------------------------------------


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
        The tier is unknown, there is no such plan, or the plan names an unknown notebook, tier,
        key or parameter, or gives a parameter a value of another type.
    """
    import yaml

    _known("tier", "a tier", [tier], TIERS)
    file = (file or paths.NOTEBOOKS / _PLAN).resolve()
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        assert isinstance(entries, dict)
    except (OSError, ValueError, AssertionError, yaml.YAMLError) as error:
        raise InputError(
            file,
            expected="a plan such as notebooks/suite.yaml",
            found=" ".join(str(error).split()) or "no mapping",
            remedy="name a plan that is there",
        ) from None
    for name, entry in entries.items():
        _known(f"{file.name}: {name}", "a tier or a key", entry, (*TIERS, *_KEYS))
    steps = [_step(file, name, entry, tier) for name, entry in entries.items() if tier in entry]
    names = [step.name for step in steps]
    _known("run", f"a run of the tier {tier}", only, names)
    return [step for step in steps if not only or step.name in only]


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
    known = [f.stem for f in folder.glob("*.ipynb")]
    raise InputError(
        "notebook",
        expected="a file or the name of a notebook",
        found=repr(notebook),
        remedy=nearest(notebook, known) if known else f"put notebooks into {folder}",
    )


def state(step: Step, runs: Path) -> State:
    """Return the key of a step, and whether the folder of its complete run is there.

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
    parts = {
        "notebook": keys.digest(sources),
        "code": keys.code_key(_imports(sources)),
        "libraries": keys.digest(provenance.versions()),
        "parameters": keys.digest(run_folders.plain(values)),
        "inputs": keys.digest(_hashes(_inputs(values))),
        "weights": keys.digest(_hashes(_weights(values))),
    }
    key = keys.digest(parts)
    folder = runs / step.name / key[:16]
    return State(step, values, parts, key, folder, _reason(folder, parts))


def described(states: Sequence[State], tier: str, reports: Path) -> dict[str, Any]:
    """Return a plan as JSON holds it: ``tier``, ``reports`` and one entry in ``runs`` for each run.

    Parameters
    ----------
    states
        The runs.
    tier
        Their tier.
    reports
        The folder of the report.
    """
    entries = [
        {
            "name": state.step.name,
            "notebook": state.step.notebook.stem,
            "parameters": run_folders.plain(state.values),
            "key": state.key,
            "up_to_date": state.up_to_date,
            "reason": state.reason,
            "folder": str(state.folder),
            "resources": dataclasses.asdict(state.step.resources),
        }
        for state in states
    ]
    return {"tier": tier, "reports": str(reports), "runs": entries}


def _step(file: Path, name: str, entry: Mapping[str, Any], tier: str) -> Step:
    notebook = find(entry.get("notebook", name), file.parent)
    where, resources = f"{file.name}: resources of {name}", entry.get("resources", {})
    _known(where, "a tier", resources, TIERS)
    changes = resources.get(tier) or {}
    _known(where, "a resource", changes, [f.name for f in dataclasses.fields(Resources)])
    for key, value in changes.items():
        if type(value) is not int:
            raise InputError(
                f"{where}: {key}", expected="a whole number", found=repr(value), remedy="write one"
            )
    given = parameters.check(notebook, entry[tier] or {})
    return Step(name, notebook, given, tier, dataclasses.replace(_RESOURCES[tier], **changes))


def _known(what: str, expected: str, given: Any, known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise InputError(
                what,
                expected=f"{expected}: {', '.join(known)}",
                found=repr(name),
                remedy=nearest(str(name), known) if known else "choose another tier",
            )


def _require_known(values: Mapping[str, Any]) -> None:
    """Refuse a benchmark, scale, variant or network that is not there, before a kernel starts.

    What a parameter holds is known by its name.
    """
    for name in _texts([values.get("datasets"), values.get("dataset")]):
        datasets.names(name)
    for scale in [*values.get("scales", []), *([values["scale"]] if "scale" in values else [])]:
        images.check_scale(scale)
    networks = [row["name"] for row in zoo.everything()]
    variants = dict.fromkeys([*recipes.VARIANTS, *(name.split("-x")[0] for name in networks)])
    _known("variants", "networks", values.get("variants", []), [*variants])
    for key in ("methods", "twin", "network", "null"):
        plain = [text for text in _texts(values.get(key)) if re.fullmatch(r"[\w+-]+", text)]
        _known(key, "a network or a file", plain, [*variants, *networks, "bicubic"])


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a value that is not empty: itself, or those in its lists."""
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _imports(sources: Sequence[Sequence[str]]) -> set[str]:
    """Return what the code cells of a notebook import of this package, and what every run does."""
    names = {"dtfn.reports"}
    for kind, source in sources:
        if kind == "code":
            with contextlib.suppress(SyntaxError):
                names |= keys.imported(source)
    return names


def _inputs(values: Mapping[str, Any]) -> list[Path]:
    """Return the pictures of the benchmarks, and the files and folders that parameters name."""
    there = []
    for name in _texts([values.get("datasets"), values.get("dataset"), values.get("optional")]):
        with contextlib.suppress(InputError):  # only an optional one may be absent
            there += datasets.files(name)
    for text in _texts(list(values.values())):
        path = Path(re.sub(r"\{\w+\}", "*", text.rpartition("=")[2]))
        if path.is_absolute():
            there += sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    return there


def _weights(values: Mapping[str, Any]) -> list[Path]:
    """Return the shipped networks, and the imported ones where methods can be chosen."""
    return [paths.ZOO, *([paths.WEIGHTS] if "methods" in values else [])]


def _hashes(places: Sequence[Path]) -> list[list[str]]:
    """Return [name, hash] of files and of all files in folders, wherever these are."""
    inside = [sorted(f.rglob("*")) if f.is_dir() else [f] for f in places]
    return [[f.name, files.sha256(f)] for part in inside for f in part if f.is_file()]


def _reason(folder: Path, parts: Mapping[str, str]) -> str:
    """Return ``"up to date"`` for a complete run, else how it differs from the newest of it."""
    content = run_folders.read(folder)
    if content.get("status") == "complete":
        changed = [
            name
            for name, before in content["outputs"].items()
            if not (folder / name).is_file() or files.sha256(folder / name) != before
        ]
        return f"{changed[0]} was changed" if changed else "up to date"
    if _failed(folder).is_dir():
        return "failed"
    past = [
        run_folders.read(f)
        for f in run_folders.finished(folder.parent.parent)
        if f.parent == folder.parent
    ]
    before = next((content["parts"] for content in reversed(past) if "parts" in content), None)
    if before is None:
        return "never ran"
    return f"changed: {', '.join(name for name in parts if before.get(name) != parts[name])}"


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
    if isinstance(notebook, Step):
        step = notebook
    else:
        file = find(str(notebook))
        step = Step(file.stem, file, {})
    checked = parameters.check(step.notebook, given or {})
    for name, value in checked.items():
        checked[name] = parameters.absolute(name, value, _named)
    step = dataclasses.replace(step, parameters=step.parameters | checked)
    runs = (runs or paths.RUNS).resolve()
    with lock(f"{runs / step.name}"):
        wanted = state(step, runs)
        if wanted.up_to_date and not force:
            return wanted.folder
        return _made(wanted, progress)


def lock(name: str) -> FileLock:
    """Return the lock of this name, which processes on this machine take in turn."""
    folder = paths.cache("locks")
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{keys.digest(name)[:16]}.lock")


def _named(text: str) -> bool:
    """Return whether a text is the name of a network, whatever files there are."""
    return text in {row["name"] for row in zoo.everything()}


def _made(wanted: State, progress: bool) -> Path:
    """Make a run under a hidden name, which is left to nobody: its lock is ours."""
    step, folder = wanted.step, wanted.folder
    partial = folder.with_name(f".partial-{folder.name}")
    with files.writing(partial):
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        partial.mkdir(parents=True)
    try:
        began = time.perf_counter()
        record = run_folders.new_record(step.notebook, wanted.values)
        error: Exception | None = None
        try:
            _execute(step, partial, progress)
        except Exception as caught:
            error = caught
        made = any((partial / kind).exists() for kind in run_folders.KINDS)
        if getattr(error, "ename", "") == InputError.__name__ and not made and not step.tier:
            raise NotebookInputError(str(getattr(error, "evalue", error)))
        record |= run_folders.read(partial) | {"run": step.name, "tier": step.tier}
        record |= {"key": wanted.key, "parts": wanted.parts}
        executed = partial / step.notebook.name
        if executed.exists():
            record["title"] = page.title(executed)
            page.write_run(executed)
        record["timings"]["run"] = round(time.perf_counter() - began, 3)
        return _concluded(partial, folder, record, error)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: there are other runs
            folder.rmdir()  # Snakemake makes it first
        with contextlib.suppress(OSError):
            folder.parent.rmdir()


def _concluded(
    partial: Path, folder: Path, record: dict[str, Any], error: Exception | None
) -> Path:
    """Give a run its manifest and its name, in place of what has that name, and return it."""
    record["status"] = "failed" if error else "complete"
    if error is not None:
        record["error"] = _cause(error)
        files.write(partial / "traceback.txt", record["error"]["traceback"])
    run_folders.write(partial, record)
    shutil.rmtree(_failed(folder), ignore_errors=True)
    if error is not None:
        partial.rename(_failed(folder))
        raise NotebookFailed(folder.parent.name, record["error"]["message"], _failed(folder))
    shutil.rmtree(folder, ignore_errors=True)
    return partial.rename(folder)


def _execute(step: Step, folder: Path, progress: bool) -> None:
    """Execute a notebook into a folder; what its cells raise comes out as papermill's error."""
    import nbformat
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)
    bar = {"desc": step.name, "unit": "cell", "leave": False} if progress else False
    target = folder / step.notebook.name
    threads = os.environ.get("OMP_NUM_THREADS")
    environment = {
        reports.RUN_DIR: str(folder),
        "DTFN_DATA": str(paths.data_root()),
        **(dict.fromkeys(_THREADS, threads) if threads else {}),
    }
    papermill.execute_notebook(
        str(step.notebook),
        str(target),
        parameters=step.parameters,
        kernel_name="python3",  # the syntax only: the manager decides what runs
        language="python",
        progress_bar=bar,
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
    from papermill.exceptions import PapermillExecutionError

    if isinstance(error, PapermillExecutionError):
        trace = _ANSI.sub("", "\n".join(error.traceback)) + "\n"
        return {
            "kind": error.ename,
            "message": f"{error.ename}: {error.evalue}",
            "traceback": trace,
        }
    kind, text = type(error).__name__, str(error).strip()
    message = f"{kind}: {text.splitlines()[0] if text else ''}"
    return {
        "kind": kind,
        "message": message,
        "traceback": "".join(traceback.format_exception(error)),
    }


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
        raise InputError("jobs", expected="at least 1", found=jobs, remedy="leave it out for 1")
    folder = (folder or paths.REPORTS).resolve()
    with files.writing(folder):
        steps = plan(tier, file, only)
        states = [state(step, folder / "runs") for step in steps]
        (folder / ".suite").mkdir(parents=True, exist_ok=True)
    with _alone(folder) as lifeline:
        states = [state(step, folder / "runs") for step in steps]  # as another process left it
        todo = [s for s in states if force or not s.up_to_date]
        for done in states:
            if done not in todo:
                print(f"{done.step.name}: up to date, {shown(done.folder)}")
        if todo:
            _snakemake(folder, tier, file, todo, jobs, profile, lifeline)
        complete = {
            s.step.name: s.folder for s in states if (s.folder / run_folders.MANIFEST).exists()
        }
        problems = [_problem(s) for s in states if s.step.name not in complete]
        _write_record(folder / f"suite-{tier}.json", tier, states)
        if todo or not (folder / page.INDEX).exists():
            page.write_index(folder, problems, complete)
    print(f"report: {shown(folder / page.INDEX)}")
    return problems


def threads(resources: Resources, jobs: int) -> int:
    """Return the threads of one of several runs at a time on this machine.

    As many as the plan says, at most its share of the cores: with more, a network's last digits
    are others, and results would depend on how many runs there were at a time. A number in
    ``$OMP_NUM_THREADS`` is shared among the runs instead.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit():
        return max(1, int(given) // jobs)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(resources.threads, (cores or 1) // jobs))


def end_with(lifeline: str) -> None:
    """End this process and its group when the process that holds a lock ends, however that ended.

    Parameters
    ----------
    lifeline
        The file of the lock.
    """

    def watch() -> None:
        FileLock(lifeline).acquire(poll_interval=0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """Hold the lock of a report; whoever comes second waits. Return its file."""
    held = lock(f"report {folder}")
    try:
        held.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that writes {shown(folder)}", file=sys.stderr)
        held.acquire()
    try:
        yield Path(held.lock_file)
    finally:
        held.release()


def _snakemake(
    folder: Path,
    tier: str,
    file: Path | None,
    todo: Sequence[State],
    jobs: int | None,
    profile: Path | None,
    lifeline: Path,
) -> None:
    """Have Snakemake make runs; those that fail have no complete folder afterwards."""
    content = described(todo, tier, folder)
    content |= {"plan": str((file or paths.NOTEBOOKS / _PLAN).resolve())}
    content |= {"program": [sys.executable, "-m", "dtfn"]}
    if profile is None:
        jobs = jobs or 1
        for entry, wanted in zip(content["runs"], todo, strict=True):
            entry["threads"] = threads(wanted.step.resources, jobs)
            entry["resources"]["threads"] = 1  # so that `jobs` runs share the cores
    planned = folder / ".suite" / f"{tier}.json"
    files.write_json(planned, content)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(paths.SNAKEFILE)]
    command += ["--directory", str(folder / ".suite"), "--config", f"plan={planned}"]
    command += [
        "--forceall",
        "--keep-going",
        "--scheduler",
        "greedy",
        *([] if profile else ["--quiet", "all"]),
    ]
    # Folders appear whole or not at all, and our lock ends with us: Snakemake needs no marks.
    command += ["--nolock", "--ignore-incomplete", "--drop-metadata", "--rerun-triggers", "mtime"]
    command += ["--profile", str(profile)] if profile else []
    command += ["--jobs" if profile else "--cores", str(jobs)] if jobs else []
    environment = os.environ | ({} if profile else {LIFELINE: str(lifeline)})
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, process_group=0)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _problem(missing: State) -> page.Problem:
    """Return why there is no complete run."""
    content = run_folders.read(_failed(missing.folder))
    if content:
        message = content["error"]["message"]
        return page.Problem(missing.step.name, message, _failed(missing.folder))
    return page.Problem(missing.step.name, "its process ended before its notebook did")


def _write_record(file: Path, tier: str, states: Sequence[State]) -> None:
    """Write ``suite-TIER.json``, which is the same whenever the results are.

    It holds parameters, verdicts and the hashes of figures, tables and data; no folder and no time.
    Runs that an earlier call completed and this one did not ask for stay in it.
    """
    before = files.read_json(file, {}).get("runs", {})
    runs = {n: r for n, r in before.items() if n not in {s.step.name for s in states}}
    for done in states:
        content = run_folders.read(done.folder)
        if content:
            outputs = [done.folder / name for name in content["outputs"]]
            shown = [f for f in outputs if f.suffix in _SHOWN.get(f.parent.name, ())]
            runs[done.step.name] = {
                "key": done.key,
                "notebook": content["notebook"],
                "parameters": content["parameters"],
                "verdicts": [verdict["printed"] for verdict in content["verdicts"]],
                "outputs": {
                    f.relative_to(done.folder).as_posix(): compare.fingerprint(f) for f in shown
                },
            }
    if runs != before:
        files.write_json(file, {"tier": tier, "runs": dict(sorted(runs.items()))})


def shown(path: Path) -> Path:
    """Return a path as it is printed: relative if it is below the working directory."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
