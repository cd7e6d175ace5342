"""The parameters of notebooks: read as papermill reads them, converted without loss."""

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
        assert theirs[name]["inferred_type_name"] == parameter.kind
        assert theirs[name]["help"]


def test_names_types_and_defaults_are_read_in_order(tmp_path: Path) -> None:
    file = tiny.write(tmp_path, "n", [("parameters", "b: int = 2  # b\na: list[str] = []  # a")])
    assert [*parameters.read(file).values()] == [("b", "int", 2), ("a", "list[str]", [])]
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
        ("1e-3", "float", 0.001),
        (1, "float", 1.0),
        ("true", "bool", True),
        ("1", "str", "1"),
        ("Set5, Set14", "list[str]", ["Set5", "Set14"]),
        ("['a', 'b']", "list[str]", ["a", "b"]),
        ("", "list[str]", []),
        ("[[1, 2], [3, 4]]", "list[list[int]]", [[1, 2], [3, 4]]),
        (("a",), "list[str]", ["a"]),
        ('{"a": 1}', "dict", {"a": 1}),
        ("none", "int | None", None),
    ],
)
def test_values_become_what_the_notebook_wants(value: Any, kind: str, result: Any) -> None:
    converted = parameters.convert(value, kind)
    assert converted == result
    assert type(converted) is type(result)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("int", [2.0, "2.5", True]),
        ("bool", [1]),
        ("str", [1]),
        ("list[str]", [3]),
        ("list[int]", [["1"], "a", "[1"]),
    ],
)
def test_what_does_not_fit_is_refused(kind: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises((ValueError, TypeError)):
            parameters.convert(value, kind)


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("scale = 4.0", "'scale' of n: expected int such as 4; found 4.0"),
        ("names = 'Set5'", r"'names' of n: expected list\[str\] such as \['a'\]; found 'Set5'"),
        ("scael = 3", "did you mean 'scale'"),
    ],
)
def test_the_notebook_refuses_it_too(tmp_path: Path, injected: str, message: str) -> None:
    source = "scale: int = 4  # s\nnames: list[str] = ['a']  # n"
    file = tiny.write(tmp_path, "n", [("parameters", source)])
    with pytest.raises(InputError, match="'scale' of n: expected int such as 4; found None"):
        parameters.check_namespace(file, {})
    namespace: dict[str, Any] = {"In": ["", source]}
    exec(source, namespace)
    assert parameters.check_namespace(file, namespace) == {"scale": 4, "names": ["a"]}
    namespace["In"].append(f"# Parameters\n{injected}\n")
    exec(injected, namespace)
    with pytest.raises(InputError, match=message):
        parameters.check_namespace(file, namespace)
