"""The suite: papermill runs one notebook into a folder, Snakemake runs the plan of a tier.

A run's folder is named by the key of its content: the notebook, its parameters, the code that it
imports, the pictures and the weights that it reads. So what is there is up to date.
"""

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import escape
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dtfn import datasets, files, images, methods, parameters, paths, provenance, reports, zoo
from dtfn.errors import InputError, NotebookFailed, nearest, require_known
from dtfn.reports import page

# What a run takes unless the plan says otherwise: the first three are for a cluster, and another
# number of threads gives other last digits.
_DEFAULTS = {
    "smoke": {"gpu": 0, "memory_mb": 3000, "minutes": 10, "threads": 1},
    "demo": {"gpu": 0, "memory_mb": 4000, "minutes": 30, "threads": 1},
    "bench": {"gpu": 0, "memory_mb": 8000, "minutes": 240, "threads": 1},
    "paper": {"gpu": 1, "memory_mb": 32000, "minutes": 1440, "threads": 4},
}
TIERS = tuple(_DEFAULTS)
_LIFELINE = "DTFN_LIFELINE"  # the lock of `reproduce`; when it is free, its runs end too


@dataclass(frozen=True)
class Step:
    """One notebook with the parameters that differ from its defaults."""

    name: str  # unique in a plan; the notebook's if the plan gives no other
    notebook: Path
    parameters: dict[str, Any] = field(default_factory=dict)
    tier: str | None = None  # of the plan; None for a notebook that is run alone
    resources: dict[str, int] = field(default_factory=dict)  # see `_DEFAULTS`


def plan(tier: str, file: Path | None = None, only: Sequence[str] = ()) -> list[Step]:
    """Return the runs of a tier of a plan (default notebooks/suite.yaml), or ``only`` some."""
    import yaml

    require_known(tier, TIERS, "tier", "a tier")
    file = file or paths.NOTEBOOKS / "suite.yaml"
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        entries = " ".join(str(error).split())
    if not isinstance(entries, dict):
        raise InputError(file, "a plan such as notebooks/suite.yaml", entries, "name another")
    steps = {}
    for name, entry in entries.items():
        where = f"{file.name}: {name}"
        for key in entry:
            require_known(key, (*TIERS, "notebook", "resources"), where, "a tier or a key")
        if tier in entry:
            notebook = find(entry.get("notebook", name), file.parent)
            given = parameters.check(notebook, entry[tier] or {})
            changes = entry.get("resources", {}).get(tier) or {}
            for key in changes:
                require_known(key, _DEFAULTS[tier], where, "a resource")
            steps[name] = Step(name, notebook, given, tier, _DEFAULTS[tier] | changes)
    for name in only:
        require_known(name, steps, "run", f"a run of the tier {tier}")
    return [step for name, step in steps.items() if not only or name in only]


def overview(
    tier: str, folder: Path | None = None, file: Path | None = None, only: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the plan as JSON holds it: tier, reports, plan and, for each run, its `status`."""
    folder = (folder or paths.REPORTS).resolve()
    file = (file or paths.NOTEBOOKS / "suite.yaml").resolve()
    runs = [status(step, folder / "runs") for step in plan(tier, file, only)]
    return {"tier": tier, "reports": str(folder), "plan": str(file), "runs": runs}


def status(step: Step, runs: Path) -> dict[str, Any]:
    """Return what a run depends on, its folder, there or not, and why it has to run."""
    values = {name: default for name, (_, default) in parameters.read(step.notebook).items()}
    values = reports.plain(values | step.parameters)
    for scale in [*values.get("scales", []), values.get("scale", 4)]:
        images.check_scale(scale)
    cells = json.loads(step.notebook.read_text(encoding="utf-8"))["cells"]
    sources = [[c["cell_type"], "".join(c["source"])] for c in cells]  # no outputs
    code = ["from dtfn import reports", *(text for kind, text in sources if kind == "code")]
    # Imported weights count where methods can be chosen, the shipped ones always.
    weights = [paths.ZOO, *([paths.WEIGHTS] if "methods" in values else [])]
    parts = {
        "notebook": provenance.digest(sources),
        "code": provenance.code_key(*sorted(provenance.reach("\n".join(code)))),
        "libraries": provenance.digest(provenance.versions()),
        "parameters": provenance.digest(values),
        "inputs": _hash(_inputs(values)),
        "weights": _hash(weights),
    }
    key = provenance.digest(parts)
    folder = runs / step.name / key[:16]
    made = {"name": step.name, "notebook": step.notebook.stem, "parameters": values}
    made |= {"resources": step.resources, "parts": parts, "key": key, "folder": str(folder)}
    reason = _reason(folder, parts)
    return made | {"up_to_date": reason == "up to date", "reason": reason}


def find(notebook: str, folder: Path | None = None) -> Path:
    """Return the file of a notebook, given as a path or as its name in a folder (notebooks/)."""
    folder = folder or paths.NOTEBOOKS
    for file in (Path(notebook), folder / notebook, folder / f"{notebook}.ipynb"):
        if file.suffix == ".ipynb" and file.is_file():
            return file.resolve()
    remedy = nearest(notebook, [f.stem for f in folder.glob("*.ipynb")])
    raise InputError("notebook", "a file or the name of a notebook", repr(notebook), remedy)


def _inputs(values: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the pictures of the benchmarks, and the files and folders that parameters name."""
    lists = {key: value if isinstance(value, list) else [value] for key, value in values.items()}
    texts = {key: [part for part in parts if isinstance(part, str)] for key, parts in lists.items()}
    for key in ("dataset", "datasets", "optional"):
        for name in texts.get(key, []):
            with contextlib.suppress(InputError) if key == "optional" else contextlib.nullcontext():
                yield from datasets.files(name)
    for text in chain(*texts.values()):
        method = methods.split_change(text)[0]
        if own := zoo.own(method):
            yield from own.inputs
            continue
        for path in [Path(one.rpartition("=")[2]) for one in dict.fromkeys([text, method])]:
            if path.is_absolute():  # perhaps with {dataset} in it
                pattern = escape(str(path.relative_to(path.anchor)))
                yield from sorted(Path(path.anchor).glob(re.sub(r"\{\w+\}", "*", pattern)))


def _hash(places: Iterable[Path]) -> str:
    inside = [sorted(place.rglob("*")) if place.is_dir() else [place] for place in places]
    return provenance.digest([[f.name, files.sha256(f)] for p in inside for f in p if f.is_file()])


def _reason(folder: Path, parts: Mapping[str, str]) -> str:
    if content := reports.read(folder):
        for name, before in content["outputs"].items():
            if not (folder / name).is_file() or files.sha256(folder / name) != before:
                return f"{name} was changed"
        return "up to date"
    if _failed(folder).is_dir():
        return "failed"
    past = reports.finished(folder.parent.parent).values()
    mine = [record["parts"] for record in past if record.get("run") == folder.parent.name]
    if not mine:
        return "never ran"
    return f"changed: {', '.join(name for name, now in parts.items() if mine[-1].get(name) != now)}"


def _failed(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-failed")


def run(
    notebook: str | Path | Step,
    given: Mapping[str, Any] | None = None,
    *,
    runs: Path | None = None,
    force: bool = False,
) -> Path:
    """Execute a notebook unless its result is there, and return the folder of the complete run.

    The notebook is a name, a path, or a step of a plan. The values ``given`` may be text as on a
    command line. The folder is in ``runs`` (default reports/runs), below the run's name. Input that
    a notebook refuses is an `InputError` and leaves no run, unless it is a step of a plan. What
    else it raises is a `NotebookFailed`, whose run is kept in a folder ``...-failed``.
    """
    if os.environ.get(_LIFELINE):
        threading.Thread(target=_end_with, args=[os.environ[_LIFELINE]], daemon=True).start()
    file = notebook.notebook if isinstance(notebook, Step) else find(str(notebook))
    step = notebook if isinstance(notebook, Step) else Step(file.stem, file)
    checked = parameters.check(step.notebook, given or {}).items()
    changes = {name: absolute(name, value) for name, value in checked}
    step = replace(step, parameters=step.parameters | changes)
    runs = (runs or paths.RUNS).resolve()
    with _lock(str(runs / step.name)):
        entry = status(step, runs)
        if entry["up_to_date"] and not force:
            return Path(entry["folder"])
        try:
            return _made(step, entry)
        finally:  # also after an interrupt
            shutil.rmtree(_partial(entry), ignore_errors=True)
            with contextlib.suppress(OSError):  # the run's folder is not empty: all is well
                Path(entry["folder"]).parent.rmdir()


def absolute(name: str, value: Any) -> Any:
    """Return a parameter's value with files, folders and what has a separator made absolute."""
    if isinstance(value, list):
        return [absolute(name, part) for part in value]
    if not isinstance(value, str) or value in {"", *(row["name"] for row in zoo.everything())}:
        return value
    method, change = methods.split_change(value)
    if own := zoo.own(method):
        return f"{own}@{change}" if change else str(own)
    head, sign, tail = value.rpartition("=")
    path = Path(tail).expanduser()
    folder = path.is_dir() and (sign or name == "folders")
    there = os.sep in tail or path.is_file() or Path(method).is_file() or folder
    return f"{head}{sign}{path.absolute()}" if there else value


def _lock(name: str) -> FileLock:
    return FileLock(paths.CACHE / "locks" / f"{provenance.digest(name)[:16]}.lock")


def _end_with(lifeline: str) -> None:
    FileLock(lifeline).acquire(poll_interval=0.5)  # its process has ended
    os.killpg(0, signal.SIGKILL)


def _partial(entry: Mapping[str, Any]) -> Path:
    folder = Path(entry["folder"])
    return folder.with_name(f"{reports.PARTIAL}{folder.name}")


def _made(step: Step, entry: Mapping[str, Any]) -> Path:
    folder, partial = Path(entry["folder"]), _partial(entry)
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    began = time.perf_counter()
    record = reports.new_record(step.notebook, entry["parameters"])
    record |= {"run": step.name, "tier": step.tier, "key": entry["key"], "parts": entry["parts"]}
    try:
        _execute(step, partial)
    except Exception as error:  # papermill's says what the notebook raised
        kind = getattr(error, "ename", type(error).__name__)
        said = getattr(error, "evalue", str(error).strip().partition("\n")[0])
        if kind == InputError.__name__ and not step.tier:
            raise InputError.__new__(InputError, said) from None  # the line that it had there
        lines = getattr(error, "traceback", None) or [traceback.format_exc()]
        trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines))
        record["error"] = {"message": f"{kind}: {said}", "traceback": trace}
        files.write(partial / "traceback.txt", trace)
    failed = "error" in record
    record |= reports.read(partial) | {"status": "failed" if failed else "complete"}
    record["timings"]["run"] = round(time.perf_counter() - began, 3)
    if (executed := partial / step.notebook.name).exists():
        page.write_run(executed, record)
    reports.write(partial, record)
    kept = _failed(folder) if failed else folder
    for old in (_failed(folder), kept):
        shutil.rmtree(old, ignore_errors=True)
    partial.rename(kept)
    if failed:
        text = f"{step.name} failed: {record['error']['message']}"
        raise NotebookFailed(f"{text}; see {kept / 'traceback.txt'}")
    return kept


def _execute(step: Step, folder: Path) -> None:
    import papermill
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    environment = {reports.RUN_DIR: str(folder), "DTFN_DATA": str(paths.data_root())}
    spec = KernelSpec(**get_kernel_dict(), env=environment)
    spec.argv += ["--log-level=CRITICAL"]  # its warnings are not about the notebook

    class ThisPython(AsyncKernelManager):  # a spec found by name could be any ever registered
        kernel_spec = spec

    logging.getLogger("papermill").setLevel(logging.ERROR)
    bar = {"desc": step.name, "unit": "cell", "leave": False} if sys.stderr.isatty() else False
    papermill.execute_notebook(
        str(step.notebook),
        str(folder / step.notebook.name),
        parameters=step.parameters,
        cwd=str(step.notebook.parent),
        kernel_name="python3",  # the syntax only: the manager decides what runs
        language="python",
        progress_bar=bar,
        kernel_manager_class=ThisPython,
    )


def reproduce(
    tier: str,
    *,
    folder: Path | None = None,
    file: Path | None = None,
    jobs: int | None = None,
    only: Sequence[str] = (),
    force: bool = False,
    profile: Path | None = None,
) -> list[str]:
    """Run by Snakemake what is not up to date of a `plan`, and return the names that failed.

    ``runs/``, ``index.html`` and ``suite-TIER.json`` go into ``folder`` (default reports/).
    ``jobs`` run at a time, by default 1 or what a Snakemake ``profile`` says.
    """
    folder = (folder or paths.REPORTS).resolve()
    lock = _lock(f"report {folder}")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that writes {folder}", file=sys.stderr)
        held = lock.acquire()
    with held:
        content = overview(tier, folder, file, only)
        todo = [entry for entry in content["runs"] if force or not entry["up_to_date"]]
        for entry in content["runs"]:
            if entry not in todo:
                print(f"{entry['name']}: up to date, {entry['folder']}")
        if todo:
            _snakemake(content | {"runs": todo}, jobs, profile, lock.lock_file)
        places = {entry["name"]: Path(entry["folder"]) for entry in content["runs"]}
        missing = [name for name, place in places.items() if not reports.read(place)]
        index, shown = folder / page.INDEX, page.suite_runs(folder)
        _write_record(folder / f"suite-{tier}.json", content)
        # An index that is as it should be may tell of failures that this call did not see.
        if todo or not index.exists() or page.suite_runs(folder) != shown:
            page.write_index(folder, [n for n in missing if not _failed(places[n]).is_dir()])
    print("report:", index)
    return missing


def threads(planned: int, jobs: int) -> int:
    """Return the planned threads of a run, at most its share of the cores or $OMP_NUM_THREADS."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, int(given) // jobs if given.isdigit() else min(planned, (cores or 1) // jobs))


def _snakemake(
    content: dict[str, Any], jobs: int | None, profile: Path | None, lifeline: str
) -> None:
    content["program"] = [sys.executable, "-m", "dtfn"]
    folder = Path(content["reports"]) / ".suite"
    planned = folder / f"{content['tier']}.json"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(paths.SNAKEFILE)]
    command += ["--directory", str(folder), "--config", f"plan={planned}", "--forceall"]
    # Folders appear whole or not at all, and our lock ends with us: Snakemake needs no marks.
    command += ["--nolock", "--ignore-incomplete", "--drop-metadata", "--rerun-triggers", "mtime"]
    command += ["--keep-going", "--scheduler", "greedy"]
    if profile:
        command += ["--profile", str(profile.resolve()), *(["--jobs", str(jobs)] if jobs else [])]
    else:
        for entry in content["runs"]:  # to Snakemake each takes one of as many cores as jobs
            entry["threads"] = threads(entry["resources"]["threads"], jobs or 1)
            entry["resources"] = entry["resources"] | {"threads": 1}
        command += ["--cores", str(jobs or 1), "--quiet", "all"]
    files.write_json(planned, content)
    # Snakemake ends with this process, and its runs with the lock. An interrupt is for us alone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    environment = os.environ | ({} if profile else {_LIFELINE: lifeline})
    subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, process_group=0)


def _write_record(file: Path, content: Mapping[str, Any]) -> None:
    """Write ``suite-TIER.json``, which is the same whenever the results are: no folder, no time."""
    runs = files.read_json(file, {}).get("runs", {})  # those not asked for now stay in it
    for entry in content["runs"]:
        folder = Path(entry["folder"])
        runs.pop(entry["name"], None)
        if record := reports.read(folder):
            pattern = r"figures/.*(csv|png|svg)|(tables|data)/.*csv"
            kept = [name for name in record["outputs"] if re.fullmatch(pattern, name)]
            runs[entry["name"]] = {
                **{key: record[key] for key in ("key", "notebook", "parameters")},
                "verdicts": [verdict["printed"] for verdict in record["verdicts"]],
                "outputs": {name: reports.fingerprint(folder / name) for name in kept},
            }
    files.write_json(file, {"tier": content["tier"], "runs": dict(sorted(runs.items()))})
