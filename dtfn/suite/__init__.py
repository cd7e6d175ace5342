"""Run notebooks: one with parameters of your choice, or a whole tier of them into a report.

The only package that imports papermill. `plans` reads what is to run, `keys` says what of it is up
to date, `batch` runs the rest, `worker` is the process of one run, `execution` runs one notebook,
`training` one training, and `records` tells other programs.
"""

from dtfn.suite.batch import Skipped, reproduce
from dtfn.suite.execution import NotebookFailed, NotebookInputError, run
from dtfn.suite.plans import TIERS, Step, find, plan

__all__ = [
    "TIERS",
    "NotebookFailed",
    "NotebookInputError",
    "Skipped",
    "Step",
    "find",
    "plan",
    "reproduce",
    "run",
]
