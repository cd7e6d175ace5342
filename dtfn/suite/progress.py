"""What is seen of runs while they run: one bar each, one below the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_FORM = "{desc}: {bar:20} {n_fmt}/{total_fmt} [{elapsed}]"


class Bars:
    """The bars of all runs; none where nobody watches.

    Parameters
    ----------
    shown
        Whether somebody watches, i.e. there is a terminal.
    """

    def __init__(self, shown: bool) -> None:
        self._shown = shown

    @contextmanager
    def bar(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Open a bar and yield what moves it, given the steps done and of all."""
        if not self._shown:
            yield lambda done, total: None
            return
        with tqdm(desc=name, total=1, leave=False, bar_format=_FORM) as bar:

            def tell(done: int, total: int) -> None:
                bar.total, bar.n = total, done
                bar.refresh()

            yield tell

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Clear the bars while something else is printed."""
        if not self._shown:
            yield
            return
        with tqdm.external_write_mode():
            yield
