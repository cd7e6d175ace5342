"""The parameters of notebooks: read as papermill reads them, converted without loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import papermill
import pytest
import tiny

from dtfn import parameters
from dtfn.errors import InputError

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_papermill_sees_what_we_see(notebook: Path) -> None:
    """So that its own command line knows every parameter, its type and what it means."""
    theirs = papermill.inspect_notebook(str(notebook))
    ours = parameters.read(notebook)
    assert list(theirs) == list(ours)
    for name, parameter in ours.items():
        assert theirs[name]["inferred_type_name"] == parameters.type_name(parameter.kind)
        assert theirs[name]["help"]


def test_names_types_and_defaults_are_read_in_order(tmp_path: Path) -> None:
    file = tiny.write(tmp_path, "n", [("parameters", "b: int = 2  # b\na: list[str] = []  # a")])
    assert list(parameters.read(file).values()) == [
        parameters.Parameter("b", int, 2),
        parameters.Parameter("a", list[str], []),
    ]


def test_a_notebook_without_the_cell_has_none(tmp_path: Path) -> None:
    file = tiny.write(tmp_path, "n", [("", "a: int = 1")])
    assert parameters.read(file) == {}
    with pytest.raises(InputError, match="it has no parameters"):
        parameters.check(file, {"a": 1})


@pytest.mark.parametrize(
    "line", ["a = 1", "a: int = f()", "a: int", "a: Path = 'x'", "print(1)", "a: int = b"]
)
def test_a_line_that_is_no_parameter_is_told(tmp_path: Path, line: str) -> None:
    file = tiny.write(tmp_path, "n", [("parameters", line)])
    with pytest.raises(InputError, match="expected lines of the form"):
        parameters.read(file)


@pytest.mark.parametrize(
    ("value", "kind", "result"),
    [
        ("2", int, 2),
        (2.0, int, 2),
        ("-3", int, -3),
        ("1e-3", float, 0.001),
        (1, float, 1.0),
        ("true", bool, True),
        (False, bool, False),
        ("1", str, "1"),
        ("Set5,Set14", list[str], ["Set5", "Set14"]),
        ("Set5", list[str], ["Set5"]),
        ("['a', 'b']", list[str], ["a", "b"]),
        ("", list[str], []),
        ("1, 2", list[int], [1, 2]),
        (("a",), list[str], ["a"]),
        ('{"a": 1}', dict, {"a": 1}),
        ("none", int | None, None),
        ("4", int | None, 4),
        ("4", str | int, 4),
        ("x", str | int, "x"),
    ],
)
def test_values_become_what_the_notebook_wants(value: Any, kind: Any, result: Any) -> None:
    found = parameters.convert(value, kind)
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("two", int),
        (2.5, int),
        ("2.5", int),
        (True, int),
        (True, float),
        (1, bool),
        ("yes", bool),
        (1, str),
        (None, int),
        (3, list[str]),
        ([1], list[str]),
        ("a", list[int]),
        ("[1]", dict),
        ("x", int | None),
    ],
)
def test_what_does_not_fit_is_refused(value: Any, kind: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        parameters.convert(value, kind)
