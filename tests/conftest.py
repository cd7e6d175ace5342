"""What every test shares: the pictures, a cache apart, and that no test skips in silence."""

import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Kernels and subprocesses inherit it: no test opens a window.
os.environ["MPLBACKEND"] = "Agg"

# What a shell starts in the background ignores interrupts, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A shared or busy machine is no reason to fail, and a run that found nothing can be repeated.
settings.register_profile("dtfn", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("dtfn")


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    """The folder of the real benchmarks (``Set5/HR`` and so on), from ``DTFN_DATA``."""
    folder = os.environ.get("DTFN_DATA")
    if not folder:
        pytest.skip("set DTFN_DATA to a folder with Set5/HR, Set14/HR, BSD100/HR, Urban100/HR")
    return Path(folder).resolve()


@pytest.fixture(scope="session", autouse=True)
def cache_apart(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """What tests remember on disk is not what the project remembers."""
    from dtfn import paths

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CACHE", tmp_path_factory.getbasetemp() / "cache")
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses the benchmarks is marked so, for ``-m real_data``; a GPU must be there."""
    for item in items:
        if item.get_closest_marker("gpu") and not sys.modules["torch"].cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if "benchmarks" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real_data)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, pytest.TestReport]:
    """Fail a test that skips although its pictures are there: silence is no success."""
    report = yield
    if report.skipped and os.environ.get("DTFN_DATA") and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr)
        if item.get_closest_marker("real_data") or "DTFN_DATA" in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped although DTFN_DATA is set: {reason}"
    return report
