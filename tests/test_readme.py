"""The README's example and its commands run, as far as they need no data, server or time.

Those of its section on a network of one's own run in test_own_network; test_contract checks that
all commands and options exist.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from test_contract import readme_code
from tiny import call

README = (Path(__file__).parent.parent / "README.md").read_text()
SMALL = re.findall(
    r"\bdtfn ((?:evaluate|zoo list|data list)\b(?!.*own_network)[^#\n]*)", readme_code()
)


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    on, off, uniform = (float(n) for n in re.findall(r"([\d.]+) dB", capsys.readouterr().out))
    assert 20 < min(off, uniform) <= max(off, uniform) < on < 40
    assert len(code.splitlines()) <= 12


@pytest.mark.parametrize("line", SMALL)
def test_a_command_runs(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    less = ["--datasets", "mini", "--count", "1"] * line.startswith("evaluate")
    assert call(*shlex.split(line), *less) == 0
    assert capsys.readouterr().out


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150
