"""The README's example and its commands run, as far as they need no data, server or time.

Those of its section on a network of one's own run in test_own_network.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main
from test_contract import readme_code

from dtfn import cli

README = (Path(__file__).parent.parent / "README.md").read_text()
COMMANDS = sorted(
    {found.strip() for found in re.findall(r"(?<!from )\bdtfn( [a-z][^#\n]*)", readme_code())}
)
# What makes a command small enough to run; the others print their help.
SMALL: dict[str, list[str]] = {"evaluate": ["--datasets", "mini", "--count", "1"], "list": []}


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    on, off, uniform = (float(n) for n in re.findall(r"([\d.]+) dB", capsys.readouterr().out))
    assert 20 < min(off, uniform) <= max(off, uniform) < on < 40
    assert len(code.splitlines()) <= 12


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_runs_or_explains_itself(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path: list[str] = []
    words, command = shlex.split(line), typer.main.get_command(cli.app)
    while (inner := getattr(command, "commands", {})) and len(path) < len(words):
        path, command = words[: len(path) + 1], inner[words[len(path)]]
    small = SMALL.get(path[-1])
    with pytest.raises(SystemExit) as ended:
        cli.main([*path, "--help"] if small is None else [*words, *small])
    assert not ended.value.code
    assert capsys.readouterr().out


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150
