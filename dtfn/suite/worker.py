"""The process that makes one run, so that a crash of it is not the crash of all.

It reads one line of JSON, tells its progress and its result as lines of JSON, and ends when the
process that started it is gone, however that ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dtfn.errors import InputError
from dtfn.suite import training
from dtfn.suite.execution import NotebookFailed, NotebookInputError, Tell, run


@dataclasses.dataclass(frozen=True)
class Order:
    """What a worker is told: the arguments of `dtfn.suite.execution.run`, or a training run's.

    Attributes
    ----------
    name, tier, runs, notes, makes
        As for `dtfn.suite.execution.run`.
    notebook, parameters
        The notebook's file, empty for a training run, and what it is given.
    train, options
        Preset and options of ``dtfn train``, for a training run.
    """

    name: str
    tier: str
    runs: str
    notes: dict[str, Any]
    makes: list[str]
    notebook: str
    parameters: dict[str, Any]
    train: str
    options: dict[str, Any]


class Workers:
    """The processes that carry out orders at this moment."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._ended = False

    def work(self, order: Order, environment: Mapping[str, str], tell: Tell) -> Path:
        """Have an order carried out by a new process and return the folder of the complete run.

        Parameters
        ----------
        order
            What to run.
        environment
            Variables added to this process's.
        tell
            Called with the steps done, and of all.

        Raises
        ------
        InputError, NotebookFailed
            As `dtfn.suite.execution.run`; the latter also where the process died.
        """
        with tempfile.TemporaryFile("w+") as log, subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env=os.environ | environment,
            start_new_session=True,  # an interrupt of the terminal is for us alone
        ) as process:  # fmt: skip
            self._running.add(process)
            if self._ended:
                _stop(process)
            try:
                result = _followed(process, order, tell)
            finally:
                self._running.discard(process)
                _stop(process)
            log.seek(0)
            return _outcome(order, result, process.returncode, log.read())

    def end(self) -> None:
        """End all processes, and those to come."""
        self._ended = True
        for process in list(self._running):
            _stop(process)


def _followed(process: subprocess.Popen[str], order: Order, tell: Tell) -> dict[str, Any]:
    """Give a process its order and return the last that it says before it ends."""
    assert process.stdin is not None
    assert process.stdout is not None
    result: dict[str, Any] = {}
    with contextlib.suppress(BrokenPipeError):  # it could not even start; its log says why
        process.stdin.write(json.dumps(dataclasses.asdict(order)) + "\n")
        process.stdin.flush()
    for line in process.stdout:
        result = json.loads(line)
        if "done" in result:
            tell(result["done"], result["total"])
    process.wait()
    return result


def _stop(process: subprocess.Popen[str]) -> None:
    """End a worker and all that it started in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _outcome(order: Order, result: Mapping[str, Any], code: int, log: str) -> Path:
    if "folder" in result:
        return Path(result["folder"])
    if "refused" in result:
        raise NotebookInputError(result["refused"])
    if "failed" in result:
        folder = Path(result["remains"]) if result["remains"] else None
        raise NotebookFailed(order.name, result["failed"], folder)
    last = [line for line in log.splitlines() if line.strip()][-1:]
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    raise NotebookFailed(order.name, ": ".join([f"its process ended with {how}", *last]), None)


# --- in the other process -------------------------------------------------------------------


def main() -> None:
    """Carry out the order on standard input."""
    say = _teller()
    order = Order(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        folder = _run(order, lambda done, total: say(done=done, total=total))
        say(folder=str(folder))
    except InputError as error:
        say(refused=str(error))
    except NotebookFailed as failure:
        say(failed=failure.message, remains=str(failure.folder or ""))


def _run(order: Order, tell: Tell) -> Path:
    runs = Path(order.runs)
    if order.train:
        return training.run(
            order.name, order.train, order.parameters, order.options, runs=runs, tier=order.tier,
            notes=order.notes, makes=order.makes, tell=tell,
        )  # fmt: skip
    return run(
        order.notebook, order.parameters, runs=runs, tier=order.tier, name=order.name,
        notes=order.notes, makes=order.makes, tell=tell,
    )  # fmt: skip


def _teller() -> Callable[..., None]:
    """Keep standard output for the lines of JSON; what else is printed goes where errors go."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**result: Any) -> None:
        print(json.dumps(result), file=channel, flush=True)

    return say


def _end_with_parent() -> None:
    """Wait for the end of standard input, which only the other process's end brings about."""
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)  # the session is our own: what we have started goes with us


if __name__ == "__main__":
    main()
