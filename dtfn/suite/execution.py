"""Execute one notebook into the folder of its run."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import re
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from dtfn import parameters, paths, reports
from dtfn.errors import InputError
from dtfn.reports import page
from dtfn.reports import runs as run_folders
from dtfn.suite.plans import find, values

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
Tell = Callable[[int, int], object]


class NotebookInputError(InputError):
    """An `InputError` that a notebook met in its own process; the line as it was told there."""

    def __init__(self, line: str) -> None:
        ValueError.__init__(self, line)


class NotebookFailed(RuntimeError):
    """A notebook raised, or its process died; its remains are kept.

    Attributes
    ----------
    message
        One line.
    folder
        The failed run's folder, with traceback.txt; None where the process left none.
    """

    def __init__(self, notebook: str, message: str, folder: Path | None) -> None:
        see = f"; see {folder / 'traceback.txt'}" if folder else ""
        super().__init__(f"{notebook} failed: {message}{see}")
        self.message = message
        self.folder = folder


def run(
    notebook: str | Path,
    given: Mapping[str, Any] | None = None,
    *,
    runs: Path | None = None,
    tier: str | None = None,
    progress: bool = False,
    name: str = "",
    notes: Mapping[str, Any] | None = None,
    makes: Sequence[str] = (),
    tell: Tell | None = None,
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
        Where the run's folder goes, below a folder of its name; default reports/runs.
    tier
        Noted in the manifest.
    progress
        Show a bar of the cells.
    name
        Of the run; default the notebook's.
    notes
        Further entries of the manifest.
    makes
        Files that the notebook must leave in the folder.
    tell
        Called with the number of cells done, and of all, after each.

    Raises
    ------
    InputError
        An unknown notebook or parameter, a value of another type, a missing benchmark, or other
        input that the notebook itself refused before it made anything. Nothing is left in `runs`.
    NotebookFailed
        The notebook raised anything else, or that later; the run is kept in a folder named
        ``...-failed``.
    """
    file = find(str(notebook))
    everything = values(file, given or {})
    with new_folder(runs or paths.RUNS, name or file.stem, everything) as partial:
        began = time.perf_counter()
        record = run_folders.new_record(file, everything)
        error: BaseException | None = None
        try:
            _execute(file, partial / file.name, given or {}, partial, progress, tell)
            require(partial, makes)
        except Exception as caught:
            error = caught
        made = any((partial / kind).exists() for kind in run_folders.KINDS)
        if getattr(error, "ename", None) == InputError.__name__ and not made:
            raise NotebookInputError(str(getattr(error, "evalue", error)))
        record |= run_folders.read(partial)
        record |= {"tier": tier, **(notes or {})}
        if name:
            record["run"] = name
        if (partial / file.name).exists():
            record["title"] = page.title(partial / file.name)
            page.write_run(partial / file.name)
        record["timings"]["run"] = round(time.perf_counter() - began, 3)
        return conclude(partial, record, error)


def conclude(partial: Path, record: dict[str, Any], error: BaseException | None = None) -> Path:
    """Give a run its manifest and its name, and return its folder.

    Raises
    ------
    NotebookFailed
        There was an error; it is noted and kept.
    """
    record["status"] = "failed" if error else "complete"
    if error is not None:
        record["error"] = _described(error)
        (partial / "traceback.txt").write_text(record["error"]["traceback"], encoding="utf-8")
    run_folders.write(partial, record)
    folder = run_folders.final_folder(partial, failed=error is not None)
    partial.rename(folder)
    if error is not None:
        raise NotebookFailed(folder.parent.name, record["error"]["message"], folder) from None
    return folder


def require(folder: Path, makes: Sequence[str]) -> None:
    """Raise `FileNotFoundError` unless a run has made the files that the plan promises."""
    missing = [name for name in makes if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(f"the plan promises {', '.join(missing)}; the run made none")


@contextlib.contextmanager
def new_folder(runs: Path, name: str, everything: Mapping[str, Any]) -> Iterator[Path]:
    """Make the hidden folder of a run; what is left of it is removed, at the latest by the next.

    A lock that ends with the process tells which folder is still written to.
    """
    with lock("folders"):  # nobody sweeps between the making of a folder and its lock
        sweep(runs / name)
        partial = run_folders.new_folder(runs, name, everything)
        held = FileLock(f"{partial}.lock")
        held.acquire()
    try:
        yield partial
    finally:
        _discard(partial)
        held.release()


def lock(name: str) -> FileLock:
    """Return the lock of this name, which processes that share this checkout take in turn."""
    folder = paths.CACHE / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")


def sweep(home: Path) -> None:
    """Remove what runs that were killed left below the folder `home`."""
    for file in home.glob(".partial-*.lock"):
        with contextlib.suppress(Timeout), FileLock(file, timeout=0):
            shutil.rmtree(file.with_suffix(""), ignore_errors=True)
            file.unlink(missing_ok=True)


# --- one execution --------------------------------------------------------------------------


def _execute(
    notebook: Path, target: Path, given: Mapping[str, Any], folder: Path, progress: bool,
    tell: Tell | None,
) -> None:  # fmt: skip
    """Execute `notebook` into `target`; what its cells raise comes out as papermill's error."""
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)
    environment = {reports.RUN_DIR: str(folder.resolve()), "DTFN_DATA": str(paths.data_root())}
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    total = sum(cell["cell_type"] == "code" for cell in cells) + bool(given)  # papermill adds one
    done = itertools.count(1)
    papermill.execute_notebook(
        str(notebook),
        str(target),
        parameters=parameters.check(notebook, given),
        kernel_name="python3",  # the syntax only: the manager decides what runs
        language="python",
        progress_bar={"desc": notebook.stem, "unit": "cell"} if progress else False,
        kernel_manager_class=_kernel(notebook.parent, environment),
        on_cell_executed=lambda **_: tell(next(done), total) if tell else None,
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
    """Remove what is left under the hidden name, and the folders above if they are empty."""
    shutil.rmtree(partial, ignore_errors=True)
    Path(f"{partial}.lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty: there are other runs
        partial.parent.rmdir()
        partial.parent.parent.rmdir()
