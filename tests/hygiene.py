"""What a notebook of this project may look like: `python tests/hygiene.py notebooks/*.ipynb`.

Prints one line for everything that is wrong and exits with 1, or prints nothing.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_LINES = 16
PARAMETER = re.compile(r"[a-z]\w*: [\w\[\], |.]+ = .+  # \S.*")
ABSOLUTE = re.compile(r"(/\w+|~|[A-Za-z]:)[\\/].*")
LOGIC = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.AsyncFor, ast.While)

Cell = dict[str, Any]


def problems(notebook: Path) -> list[str]:
    """Return what is wrong with a notebook, a line each; an empty list if nothing is."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        return [f"no notebook: {error!r}"]
    found = [*_order(cells), *_parameters(cells)]
    for number, cell in enumerate(cells, start=1):
        if cell["cell_type"] == "code":
            found += [f"cell {number}: {problem}" for problem in _code(cell)]
    return found


def _source(cell: Cell) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def _tags(cell: Cell) -> list[str]:
    return list(cell.get("metadata", {}).get("tags", []))


def _order(cells: list[Cell]) -> Iterator[str]:
    """Question first, parameters, one hidden setup, the verdicts last."""
    if not cells or cells[0]["cell_type"] != "markdown":
        yield "the first cell asks the question, in markdown"
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    tagged = [next((t for t in _tags(c) if t in ("parameters", "hide-input")), "") for c in code]
    if tagged[:2] != ["parameters", "hide-input"] or any(tagged[2:]):
        yield (
            "the code begins with one cell tagged parameters and one tagged hide-input (the setup),"
            f" and no other has these tags; found {tagged}"
        )
    if not cells or cells[-1]["cell_type"] != "code" or ".finish(" not in _source(cells[-1]):
        yield "the last cell shows the verdicts: run.finish()"


def _parameters(cells: list[Cell]) -> Iterator[str]:
    """Every line is one that papermill can read the help from."""
    for cell in cells:
        if "parameters" in _tags(cell):
            for line in _source(cell).splitlines():
                if not PARAMETER.fullmatch(line):
                    yield f"a parameter reads `name: type = default  # what it is`, not {line!r}"


def _code(cell: Cell) -> Iterator[str]:
    """Thin: no output, a few lines, calls only."""
    if cell["outputs"] or cell["execution_count"]:
        yield "outputs are not committed"
    source = _source(cell)
    lines = [line for line in source.splitlines() if line.strip()]
    if len(lines) > MOST_LINES:
        yield f"{len(lines)} lines of code, at most {MOST_LINES}: move them into the package"
    try:
        tree = ast.parse(source)
    except SyntaxError:
        yield f"no plain Python (a `!` or `%` line?): {source.splitlines()[0]!r}"
        return
    for node in ast.walk(tree):
        if isinstance(node, LOGIC):
            yield f"line {node.lineno}: {type(node).__name__} belongs into the package"
        if isinstance(node, ast.Constant) and ABSOLUTE.fullmatch(str(node.value)):
            yield f"line {node.lineno}: absolute path {node.value!r}"


def main(names: list[str]) -> int:
    """Check the named notebooks; return the exit code."""
    wrong = [f"{name}: {problem}" for name in names for problem in problems(Path(name))]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
