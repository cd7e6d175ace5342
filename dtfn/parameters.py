"""The parameters of a notebook: read from its tagged cell, checked by the types written there.

Also the form in which JupyterLab saves our notebooks: without outputs, as they are committed.
"""

import ast
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from dtfn import paths
from dtfn.errors import InputError, require_known


def cell(notebook: Path) -> str:
    """Return the cell with a notebook's parameters, which says what each is; "" without one."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found, remedy = f"{type(error).__name__}: {error}", "restore the file, e.g. with git"
        raise InputError(notebook, "a Jupyter notebook", found, remedy) from None
    tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", [])]
    return "".join(tagged[0]["source"]) if tagged else ""


def read(notebook: Path) -> dict[str, tuple[str, Any]]:
    """Return name -> (kind, default) of a notebook's parameters; ``{}`` where no cell is tagged."""
    parameters = {}
    for node in ast.parse(cell(notebook)).body:
        try:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                raise ValueError(node)
            kind = ast.unparse(node.annotation)
            _adapter(kind)
            parameters[node.target.id] = kind, ast.literal_eval(node.value or "missing")
        except (ValueError, SyntaxError, NameError, TypeError):
            what, line = f"parameters of {notebook.name}", repr(ast.unparse(node))
            wanted, remedy = "lines of the form 'name: type = literal'", "write it so, or move it"
            raise InputError(what, wanted, line, remedy) from None
    return parameters


def check(
    notebook: Path, given: Mapping[str, Any], as_kind: Callable[[Any, str], Any] | None = None
) -> dict[str, Any]:
    """Return the values given as the types of their parameters; what is not is an `InputError`."""
    known, values = read(notebook), {}
    for name, value in given.items():
        wanted = f"a name that `dtfn run {notebook.stem} --parameters` lists"
        require_known(name, known, f"parameter of {notebook.stem}", wanted)
        kind, default = known[name]
        try:
            values[name] = (as_kind or convert)(value, kind)
        except (ValueError, TypeError):
            what, wanted = f"parameter {name!r} of {notebook.stem}", f"{kind} such as {default!r}"
            raise InputError(what, wanted, repr(value), "pass a value of that type") from None
    return values


def check_namespace(notebook: Path, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Check and return the parameters in the notebook's ``globals()``: papermill alone does not."""
    cells = [c for c in namespace.get("In", []) if c.startswith("# Parameters")]  # papermill's
    targets = [t for cell in cells for n in ast.parse(cell).body for t in getattr(n, "targets", [])]
    names = [*(t.id for t in targets if isinstance(t, ast.Name)), *read(notebook)]
    return check(notebook, {name: namespace.get(name) for name in names}, _strict)


def convert(value: Any, kind: str) -> Any:
    """Return text as a kind such as ``"list[str]"``, or a value that is one; or `ValueError`."""
    if not isinstance(value, str) or kind == "str":
        return _strict(value, kind)
    parsed: Any = value.strip()
    if parsed in ("none", "None", "null"):
        parsed = None
    elif parsed.startswith(("[", "{")):
        parsed = json.loads(parsed.replace("'", '"'))
    elif kind.startswith("list"):
        parsed = [part.strip() for part in parsed.split(",") if part.strip()]
    return _adapter(kind).validate_python(parsed)


def _strict(value: Any, kind: str) -> Any:
    return _adapter(kind).validate_json(json.dumps(value), strict=True)


@functools.cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(eval(kind, {}))  # the notebook's code, which is run anyway


# The server of JupyterLab finds these two names by .ci/jupyter.json.
def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    server.contents_manager.register_pre_save_hook(_strip)


def _strip(model: dict[str, Any], path: str, contents_manager: Any, **_: Any) -> None:
    """Take out of a notebook what running it added: Git's filter looks at its size first."""
    folder = (Path(contents_manager.root_dir) / path.strip("/")).resolve().parent
    if model["type"] != "notebook" or not paths.CHECKOUT or folder != paths.NOTEBOOKS:
        return
    for key in ("language_info", "widgets"):
        model["content"]["metadata"].pop(key, None)
    for cell in model["content"]["cells"]:
        cell["metadata"] = {k: v for k, v in cell["metadata"].items() if k == "tags"}
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
