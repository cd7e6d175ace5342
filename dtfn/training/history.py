"""The progress of a run: the bar, ``history.csv`` and TensorBoard."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from dtfn.errors import InputError
from dtfn.training.states import Tally


class History:
    """The progress of a run, on the terminal and on disk; silent in all processes but the first.

    A row of ``history.csv`` has the step, the mean loss since the last row, the learning rate, the
    validation PSNR (dB), seconds a step, the loader's share of them in [0, 1], and how many steps
    were skipped so far.

    Parameters
    ----------
    out
        Folder.
    tally
        Of the run; rows are added to it, so that checkpoints hold them.
    last
        Step at which the bar is full.
    active
        Whether this is the first process.
    tensorboard
        Whether to write to ``<out>/tensorboard`` too.
    """

    def __init__(
        self, out: Path, tally: Tally, last: int, active: bool, tensorboard: bool = False
    ) -> None:
        self.file, self.tally, self.active = out / "history.csv", tally, active
        self._mark = (tally.step, tally.seconds, tally.waited)
        self._writer = _summary_writer(out, tally.step) if tensorboard and active else None
        self._bar = tqdm(
            initial=tally.step, total=last, desc=out.name, unit="step", mininterval=1.0,
            disable=not active,
        )  # fmt: skip
        if active and tally.history:
            write(tally.history, self.file)  # without the rows that came after the checkpoint

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def step(self, loss: float) -> None:
        """Count a step; a loss that is not finite is left out of the mean."""
        if math.isfinite(loss):
            self.tally.loss += loss
            self.tally.losses += 1
        psnr = self.tally.history[-1]["psnr"] if self.tally.history else math.nan
        self._bar.set_postfix(loss=f"{loss:.4f}", psnr=f"{psnr:.2f}", refresh=False)
        self._bar.update()

    def row(self, rate: float, psnr: float) -> None:
        """Add a row and begin the next one."""
        tally, (step, seconds, waited) = self.tally, self._mark
        spent = tally.seconds - seconds
        row = {
            "step": tally.step,
            "loss": tally.loss / tally.losses if tally.losses else math.nan,
            "rate": rate,
            "psnr": psnr,
            "seconds_per_step": spent / max(1, tally.step - step),
            "loader_share": (tally.waited - waited) / max(spent, 1e-9),
            "skipped": tally.skipped,
        }
        tally.loss, tally.losses = 0.0, 0
        self._mark = (tally.step, tally.seconds, tally.waited)
        tally.history.append(row)
        if self.active:
            write(tally.history, self.file)
        if self._writer is not None:
            for name, value in row.items():
                self._writer.add_scalar(name, value, tally.step)


def write(history: Sequence[dict[str, float]], file: Path) -> None:
    """Write the history as CSV, whole or not at all."""
    partial = file.with_suffix(".partial")
    with partial.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, history[0])
        writer.writeheader()
        writer.writerows(history)
    partial.replace(file)


def _summary_writer(out: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "TensorBoard", expected="the package tensorboard", found="none",
            remedy="pip install tensorboard, or leave --tensorboard out; history.csv has it all",
        ) from error  # fmt: skip
    return SummaryWriter(str(out / "tensorboard"), purge_step=step)  # type: ignore[no-untyped-call]
