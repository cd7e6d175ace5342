"""Run notebooks: one with parameters of your choice, or a whole tier of them into a report.

The only module that imports papermill.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtfn import parameters, paths, reports
from dtfn.errors import InputError
from dtfn.reports import gallery, manifest
from dtfn.suite.plans import PLAN, TIERS, Step, find, plan, values

__all__ = [
    "TIERS",
    "NotebookFailed",
    "NotebookInputError",
    "Step",
    "find",
    "plan",
    "reproduce",
    "run",
]

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class NotebookInputError(InputError):
    """An `InputError` that a notebook met in its own process; the line as it was told there."""

    def __init__(self, line: str) -> None:
        ValueError.__init__(self, line)


class NotebookFailed(RuntimeError):
    """A notebook raised; its remains are kept.

    Attributes
    ----------
    folder
        The failed run's folder, with traceback.txt.
    """

    def __init__(self, notebook: str, message: str, folder: Path) -> None:
        super().__init__(f"{notebook} failed: {message}; see {folder / 'traceback.txt'}")
        self.message = message
        self.folder = folder


def run(
    notebook: str | Path,
    given: Mapping[str, Any] | None = None,
    *,
    runs: Path | None = None,
    tier: str | None = None,
    progress: bool = False,
) -> Path:
    """Execute a notebook and return the folder of its complete run.

    The folder holds the executed notebook, a self-contained HTML, figures, tables and the
    manifest.

    Parameters
    ----------
    notebook
        Name or path.
    given
        Parameter -> value; values may be text as on a command line.
    runs
        Where the run's folder goes, below a folder of the notebook's name; default
        reports/runs.
    tier
        Noted in the manifest.
    progress
        Show a bar of the cells.

    Raises
    ------
    InputError
        An unknown notebook or parameter, a value of another type, a missing benchmark, or other
        input that the notebook itself refused. Nothing is left in `runs`.
    NotebookFailed
        The notebook raised anything else; the run is kept in a folder named ``...-failed``.
    """
    file = find(str(notebook))
    everything = values(file, given or {})
    partial = manifest.new_folder(runs or paths.RUNS, file.stem, everything)
    began = time.perf_counter()
    record = manifest.begin(file, everything)
    error: BaseException | None = None
    try:
        _execute(file, partial / file.name, given or {}, partial, progress)
    except Exception as caught:
        error = caught
    except BaseException:  # interrupted: half a run is of no use
        _discard(partial)
        raise
    if error is not None and getattr(error, "ename", None) == InputError.__name__:
        _discard(partial)
        raise NotebookInputError(str(getattr(error, "evalue", error)))
    record |= manifest.read(partial)
    record |= {"tier": tier, "status": "failed" if error else "complete"}
    if (partial / file.name).exists():
        record["title"] = gallery.title(partial / file.name)
        gallery.write_run(partial / file.name)
    record["timings"]["run"] = round(time.perf_counter() - began, 3)
    if error is not None:
        record["error"] = _described(error)
        (partial / "traceback.txt").write_text(record["error"]["traceback"], encoding="utf-8")
    manifest.write(partial, record)
    folder = manifest.final_folder(partial, failed=error is not None)
    partial.rename(folder)
    if error is not None:
        raise NotebookFailed(file.stem, record["error"]["message"], folder) from None
    return folder


def reproduce(
    tier: str,
    *,
    folder: Path | None = None,
    file: Path | None = None,
    say: Callable[[str], None] = print,
    progress: bool = False,
) -> list[Exception]:
    """Run every notebook of a tier, write the index and return what went wrong.

    A notebook that fails does not stop the others.

    Parameters
    ----------
    tier, file
        As for `plan`.
    folder
        Where ``runs/`` and ``index.html`` go; default reports/.
    say
        Called with one line a notebook that ran; the others are told on stderr.
    progress
        Show a bar of the cells.

    Raises
    ------
    InputError
        The plan is wrong, or a benchmark that it needs is not there; nothing has run.
    """
    folder = folder or paths.REPORTS
    steps = plan(tier, file)
    notebooks = (file or paths.NOTEBOOKS / PLAN).parent
    for step in steps:
        values(find(step.notebook, notebooks), step.parameters)
    failures: list[Exception] = []
    problems: list[gallery.Problem] = []
    for number, step in enumerate(steps, start=1):
        began = time.perf_counter()
        head = f"[{number}/{len(steps)}] {step.notebook}"
        try:
            done = run(
                find(step.notebook, notebooks),
                step.parameters,
                runs=folder / "runs",
                tier=tier,
                progress=progress,
            )
            say(f"{head}: {time.perf_counter() - began:.0f} s, {_shown(done)}")
        except (InputError, NotebookFailed) as failure:
            failures.append(failure)
            remains = failure.folder if isinstance(failure, NotebookFailed) else None
            message = failure.message if isinstance(failure, NotebookFailed) else str(failure)
            problems.append(gallery.Problem(step.notebook, message, remains))
            print(f"{head}: failed: {message}", file=sys.stderr)
    # A report about nothing would only hide the one line that says what to do.
    if len(failures) < len(steps) or not all(isinstance(f, InputError) for f in failures):
        say(f"report: {_shown(gallery.write_index(folder, problems))}")
    return failures


# --- one execution --------------------------------------------------------------------------


def _execute(
    notebook: Path, target: Path, given: Mapping[str, Any], folder: Path, progress: bool
) -> None:
    """Execute `notebook` into `target`; what its cells raise comes out as papermill's error."""
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)
    environment = {reports.RUN_DIR: str(folder), "DTFN_DATA": str(paths.data_root())}
    papermill.execute_notebook(
        str(notebook),
        str(target),
        parameters=parameters.check(notebook, given),
        kernel_name="python3",  # the syntax only: the manager decides what runs
        language="python",
        progress_bar={"desc": notebook.stem, "unit": "cell"} if progress else False,
        kernel_manager_class=_kernel(notebook.parent, environment),
    )
    _forget_paths(target)


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


def _forget_paths(notebook: Path) -> None:
    """Drop the paths that papermill notes in the metadata: they tell of this machine only."""
    import nbformat

    content = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    for key in ("input_path", "output_path"):
        content.metadata.get("papermill", {}).pop(key, None)
    nbformat.write(content, notebook)  # type: ignore[no-untyped-call]


def _described(error: BaseException) -> dict[str, str]:
    """Return kind, one line and traceback of what a notebook raised, or of what kept it from it."""
    from papermill.exceptions import PapermillExecutionError

    if isinstance(error, PapermillExecutionError):
        lines = "\n".join(error.traceback)
        return {
            "kind": error.ename,
            "message": f"{error.ename}: {error.evalue}",
            "traceback": _ANSI.sub("", lines) + "\n",
        }
    kind = type(error).__name__
    return {
        "kind": kind,
        "message": f"{kind}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
        "traceback": "".join(traceback.format_exception(error)),
    }


def _discard(partial: Path) -> None:
    shutil.rmtree(partial)
    with contextlib.suppress(OSError):  # not empty: there are other runs
        partial.parent.rmdir()
        partial.parent.parent.rmdir()


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
