"""What a notebook of this project may look like: `python tests/hygiene.py notebooks/*.ipynb`.

Prints one line for everything that is wrong and exits with 1, or prints nothing.
"""

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


def problems(notebook: Path) -> list[str]:
    """Return what is wrong with a notebook, a line each; an empty list if nothing is."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
    code = [(n, cell) for n, cell in enumerate(cells, start=1) if cell["cell_type"] == "code"]
    return [*_order(cells), *(f"cell {n}: {wrong}" for n, cell in code for wrong in _code(cell))]


def _order(cells: list[dict[str, Any]]) -> Iterator[str]:
    """Question first, parameters, one hidden setup, the verdicts last."""
    if not cells or cells[0]["cell_type"] != "markdown":
        yield "the first cell asks the question, in markdown"
    tags = [cell["metadata"].get("tags", []) for cell in cells if cell["cell_type"] == "code"]
    known = ("parameters", "hide-input")
    tagged = [next((tag for tag in given if tag in known), "") for given in tags]
    if tagged[:2] != [*known] or any(tagged[2:]):
        yield f"the first code cells and no other are tagged {' and '.join(known)}, not {tagged}"
    if not cells or cells[-1]["cell_type"] != "code" or ".finish(" not in cells[-1]["source"]:
        yield "the last cell shows the verdicts: run.finish()"


def _code(cell: dict[str, Any]) -> Iterator[str]:
    """Thin: no output, a few lines, calls only; every parameter has its help."""
    if cell["outputs"] or cell["execution_count"]:
        yield "outputs are not committed"
    lines = [line for line in cell["source"].splitlines() if line.strip()]
    for line in lines if "parameters" in cell["metadata"].get("tags", []) else []:
        if not PARAMETER.fullmatch(line):
            yield f"a parameter reads `name: type = default  # what it is`, not {line!r}"
    if len(lines) > MOST_LINES:
        yield f"{len(lines)} lines of code, at most {MOST_LINES}: move them into the package"
    try:
        tree = ast.parse(cell["source"])
    except SyntaxError:
        yield f"no plain Python (a `!` or `%` line?): {lines[0]!r}"
        return
    for node in ast.walk(tree):
        if isinstance(node, LOGIC):
            yield f"line {node.lineno}: {type(node).__name__} belongs into the package"
        if isinstance(node, ast.Constant) and ABSOLUTE.fullmatch(str(node.value)):
            yield f"line {node.lineno}: absolute path {node.value!r}"


if __name__ == "__main__":
    wrong = [f"{name}: {problem}" for name in sys.argv[1:] for problem in problems(Path(name))]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    sys.exit(bool(wrong))
