"""Keys of code: what changes them, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtfn import provenance

MODULES = {
    "__init__.py": '"""The package."""\n',
    "low.py": '"""Low."""\nVALUE = 1  # one\n',
    "middle.py": "def f():\n    from dtfn import low\n    return low.VALUE\n",
    "aside.py": "VALUE = 2\n",
    "group/__init__.py": "",
    "group/one.py": "from dtfn.middle import f\n",
    "group/data.csv": "1\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in MODULES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    return tmp_path


def test_reach_follows_imports_in_functions_too(package: Path) -> None:
    everything = ["__init__.py", "group/__init__.py", "group/data.csv", "group/one.py"]
    assert provenance.reach(["dtfn.group.one"]) == [*everything, "low.py", "middle.py"]
    assert provenance.reach(["dtfn.low.VALUE"]) == ["__init__.py", "low.py"]
    assert provenance.reach(["dtfn"]) == sorted(MODULES)


@pytest.mark.parametrize(
    ("file", "text", "changes"),
    [
        ("low.py", '"""Another text."""\n\nVALUE = (1)\n', False),
        (
            "middle.py",
            'def f():\n    """Why."""\n    from dtfn import low\n    return low.VALUE',
            False,
        ),
        ("aside.py", "VALUE = 3\n", False),
        ("low.py", "VALUE = 2\n", True),
        ("group/data.csv", "22\n", True),
        ("group/__init__.py", "import dtfn.aside\n", True),
    ],
)
def test_only_code_within_reach_changes_a_key(
    package: Path, file: str, text: str, changes: bool
) -> None:
    before = provenance.code_key(["dtfn.group.one"])
    (package / file).write_text(text)
    assert (provenance.code_key(["dtfn.group.one"]) != before) == changes


def test_a_docstring_of_the_explorer_is_out_of_reach_of_the_networks() -> None:
    assert not [name for name in provenance.reach(["dtfn.models"]) if "explorer" in name]
