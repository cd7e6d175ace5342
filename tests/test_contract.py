"""The files that speak of each other agree, and the code keeps the shape that they promise."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hygiene
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from tiny import said

from dtfn import __version__, cli, parameters, paths

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dtfn"
README = ROOT / "README.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
MODULES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PYTHONS = ("3.11", "3.12", "3.13")

# The floors of the house, from the bottom: a module imports from its own floor and those below.
PLAN = re.findall(r"^- ((?:`\w+` ?)+)$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
FLOORS = [re.findall(r"\w+", floor) for floor in reversed(PLAN)]

# What the house may hold.
MODULES_AT_MOST = 54
LINES_AT_MOST = 12_000
TEST_LINES_AT_MOST = 10_000
NAMES_AT_MOST = 12


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


KNOWN = {module_name(file) for file in MODULES}


def imports(file: Path) -> Iterator[str]:
    """Yield all that a file imports, at the top or inside a function, submodules by full name."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file.name} line {node.lineno}: import by the full name"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from (names & KNOWN) or {node.module}


def third_party(files: list[Path]) -> set[str]:
    """Return the distributions, by canonical name, that files import; Triton comes with torch."""
    owners = metadata.packages_distributions()
    tops = {name.partition(".")[0] for file in files for name in imports(file)}
    ours = {"dtfn", "triton", *(file.stem for file in (ROOT / "tests").glob("*.py"))}
    others = tops - ours - set(sys.stdlib_module_names)
    return {canonicalize_name(owners.get(top, [top])[0]) for top in others}


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files are tracked")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def test_imports_are_declared_and_what_is_declared_is_used_or_explained() -> None:
    package = third_party(MODULES)
    tests = third_party(sorted((ROOT / "tests").glob("*.py")))
    declared = names(PROJECT["dependencies"] + EXTRAS["notebook"])
    assert package <= declared
    assert tests <= declared | names(EXTRAS["dev"])
    text = (ROOT / "pyproject.toml").read_text()
    explained = re.findall(r'^ *"([\w-]+)[^"]*",  # \S', text, re.MULTILINE)
    assert declared - package <= set(explained)
    # What is imported at the top of a module is there after a bare `pip install dtfn`.
    core = names(PROJECT["dependencies"])
    owners = metadata.packages_distributions()
    widgets = PACKAGE / "explorer" / "view.py"  # imported when a notebook shows it
    for file in set(MODULES) - {widgets}:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                top = (name or "").partition(".")[0]
                if top not in {"dtfn", *sys.stdlib_module_names}:
                    assert canonicalize_name(owners[top][0]) in core, f"{file.name} imports {top}"


def test_makefile_conda_citation_and_constraints_agree_with_pyproject() -> None:
    makefile = (ROOT / "Makefile").read_text()
    low, high = re.findall(r"\((3, \d+)\)", makefile.partition("define FITS")[2])[:2]
    ours = [v for v in PYTHONS if SpecifierSet(PROJECT["requires-python"]).contains(v)]
    assert (low.replace(", ", "."), high.replace(", ", ".")) == (ours[0], ours[-1])
    (torch,) = (line for line in PROJECT["dependencies"] if line.startswith("torch>"))
    floor = torch.partition(">=")[2].replace(".", ", ")
    assert f">= ({floor})" in makefile
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert environment[:-1] == [f"python{PROJECT['requires-python']}", "pip"]
    assert environment[-1]["pip"] in [[f"-e .[{extra}]"] for extra in EXTRAS]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (__version__, PROJECT["license"])
    doi = citation["references"][0]["doi"]
    assert doi == "10.1109/TPAMI.2024.3457790"
    assert doi in README.read_text()
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    required = [line for line in metadata.requires("torch") or [] if "extra ==" not in line]
    left_to_torch = names(required)
    for line in PROJECT["dependencies"] + EXTRAS["notebook"] + EXTRAS["dev"]:
        name = canonicalize_name(Requirement(line).name)
        if name not in left_to_torch:
            assert Requirement(line).specifier.contains(pins[name]), line
    assert not left_to_torch & pins.keys(), "an installed torch may want another version"


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell: `make test` leaves its own settings in the environment."""
    ours = {"MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "PYTHON"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def readme_code() -> str:
    """Return the README's code, inline and in blocks, a piece a line."""
    text = README.read_text()
    blocks = re.findall(r"^```.*?\n(.*?)^```|^((?: {4}[^\n]*\n)+)", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"(?<!`)`([^`\n]+)`", text)
    return "\n".join([*(fenced or indented for fenced, indented in blocks), *inline])


# Commands that need no data, server or time; test_own_network runs those of its section.
QUICK = r"\bdtfn ((?:evaluate|zoo list|data list)\b(?!.*own_network)[^#\n]*)"


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    on, off, uniform = (float(n) for n in re.findall(r"([\d.]+) dB", capsys.readouterr().out))
    assert 20 < min(off, uniform) <= max(off, uniform) < on < 40
    assert len(code.splitlines()) <= 12
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("line", re.findall(QUICK, readme_code()))
def test_a_command_runs(line: str) -> None:
    less = ["--datasets", "mini", "--count", "1"] * line.startswith("evaluate")
    assert said(*shlex.split(line), *less)


def told_commands() -> str:
    """Return what the README, docstrings, errors and the Makefile tell to run, a piece a line."""
    told = [readme_code()]
    told += re.findall(r"\$\(BIN\)/(dtfn [^\n$]*)", (ROOT / "Makefile").read_text())
    for file in MODULES:
        told += re.findall(r"`((?:make|dtfn) [a-z][^`]*)`", file.read_text())
    return "\n".join(told)


def test_only_targets_commands_and_options_that_exist_are_named() -> None:
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {line.split()[1] for line in make().stdout.splitlines()} == targets
    assert set(re.findall(r"\bmake ([a-z]+)", told_commands())) <= targets
    import typer.main

    def options(command: Any) -> set[str]:
        return {"--help", *(option for one in command.params for option in one.opts)}

    for words in re.findall(r"(?<![\w/])(?<!from )dtfn((?: +[^\s#|&]+)+)", told_commands()):
        command: Any = typer.main.get_command(cli.app)
        for word in words.split():
            if getattr(command, "commands", None):
                assert word in command.commands or word in options(command), words
                command = command.commands.get(word, command)
            elif word.startswith("-"):
                assert word.partition("=")[0] in options(command), words


def test_an_installed_torch_is_found_by_the_new_environment(tmp_path: Path) -> None:
    """An active environment's torch, which --system-site-packages would not show."""
    base = tmp_path / "base"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(base)], check=True)
    (packages,) = base.glob("lib/python*/site-packages")
    (packages / "torch").mkdir()
    (packages / "torch" / "__init__.py").write_text("__version__ = '2.99'")
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    pythons = f"no-such-python {base / 'bin' / 'python'}"
    assert make(".venv/bin/python", f"PYTHON={pythons}", folder=tmp_path).returncode == 0
    asked = [".venv/bin/python", "-c", "import torch; print(torch.__version__)"]
    assert subprocess.check_output(asked, cwd=tmp_path, text=True) == "2.99\n"


def test_imports_run_downward() -> None:
    graph: dict[str, set[str]] = {}
    for file in MODULES:
        name = ([*module_name(file).split("."), ""])[1]
        inner = {i.split(".")[1] for i in imports(file) if i.startswith("dtfn.")}
        if name:
            graph.setdefault(name, set()).update(inner - {name})
    assert list(TopologicalSorter(graph).static_order())  # CycleError names a circle
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    assert set(graph) == set(floor), "CONTRIBUTING.md lists the modules that there are"
    assert not [f"{a} -> {b}" for a in graph for b in graph[a] if floor[b] > floor[a]]
    known = {"papermill": "suite", "ipywidgets": "explorer", "lightning_fabric": "training"}
    for file in MODULES:
        tops = {name.partition(".")[0] for name in imports(file)}
        assert not tops & {"lightning", "pytorch_lightning"}
        for library in tops & known.keys():
            assert module_name(file).split(".")[1] == known[library]


def test_modules_do_not_import_what_is_heavy() -> None:
    for modules, heavy in {
        "cli": "torch pandas matplotlib scipy skimage papermill IPython rich",
        "evaluation harm recipes subpixel texture plots reports suite zoo": "torch",
    }.items():
        names = ", ".join(f"dtfn.{name}" for name in modules.split())
        python = [sys.executable, "-c", f"import sys, {names}; print(*sys.modules)"]
        assert not set(heavy.split()) & set(subprocess.check_output(python, text=True).split())


def test_the_house_is_thin_and_a_module_is_one_noun_with_few_public_names() -> None:
    assert len(MODULES) <= MODULES_AT_MOST
    kinds = {LINES_AT_MOST: MODULES, TEST_LINES_AT_MOST: [*(ROOT / "tests").rglob("*.py")]}
    for most, files in kinds.items():
        assert sum(len(file.read_text().splitlines()) for file in files) <= most
    for file in MODULES:
        tree = ast.parse(file.read_text())
        assert ast.get_docstring(tree), file
        defined = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        assert len([node for node in defined if node.name[0] != "_"]) <= NAMES_AT_MOST, file
        siblings = [f for f in file.parent.glob("*.py") if f != file]
        if file.name == "__init__.py" and siblings:
            assert defined, f"{file}: a package that only passes names on"


def test_tracked_files_are_small_and_know_no_machine() -> None:
    machine = re.compile(rb"(?<![\w.])/(work|farm|root|home/\w+|Users/\w+)/")
    for file in filter(Path.is_file, tracked()):
        content = file.read_bytes()
        assert len(content) < 2.1e6, file
        if b"\0" not in content:
            found = machine.search(content)
            assert not found, f"{file.relative_to(ROOT)}: {found and found[0]!r}"


def test_the_wheel_holds_all_that_an_installation_needs(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = [*NOTEBOOKS, ROOT / "notebooks" / "suite.yaml", ROOT / "Snakefile"]
    shipped += (ROOT / "profiles").glob("*/*")
    assert {f"dtfn/shipped/{file.relative_to(ROOT).as_posix()}" for file in shipped} <= names
    zoo = {f"dtfn/shipped/zoo/{f.name}" for f in tracked() if f.parent == ROOT / "data" / "zoo"}
    assert zoo <= names
    assert {f.relative_to(ROOT).as_posix() for f in tracked() if PACKAGE in f.parents} <= names


def test_a_clone_stays_clean_in_jupyterlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks are committed in the form in which our server and then git's filter leave them."""
    from jupyter_server.services.contents.largefilemanager import LargeFileManager

    def git(*arguments: str) -> str:
        return subprocess.check_output(["git", *arguments], cwd=tmp_path, text=True)

    (options,) = re.findall(r"python -m nbstripout (--.*?)'", (ROOT / "Makefile").read_text())
    strip = [sys.executable, "-m", "nbstripout", *options.split()]
    copies = [str(tmp_path / file.relative_to(ROOT)) for file in NOTEBOOKS]
    (tmp_path / "notebooks").mkdir()
    for file in (ROOT / ".gitattributes", ROOT / ".gitignore", *NOTEBOOKS):
        (tmp_path / file.relative_to(ROOT)).write_bytes(file.read_bytes())
    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x")
    subprocess.run([*strip, *copies], check=True)  # all at once, where git would start ten
    assert git("status", "--porcelain") == ""

    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path.resolve() / "notebooks")
    manager: Any = LargeFileManager(root_dir=str(tmp_path))
    parameters._load_jupyter_server_extension(SimpleNamespace(contents_manager=manager))
    for file in NOTEBOOKS:
        content = manager.get(f"notebooks/{file.name}")["content"]
        content["metadata"]["language_info"] = {"name": "python", "version": "3.12.1"}
        for number, cell in enumerate(content["cells"]):
            cell["metadata"]["scrolled"] = True
            if cell["cell_type"] == "code":
                text = {"output_type": "stream", "name": "stdout", "text": "1\n"}
                cell |= {"outputs": [text], "execution_count": number}
        manager.save({"type": "notebook", "content": content}, f"notebooks/{file.name}")
        manager.create_checkpoint(f"notebooks/{file.name}")
    git("config", "filter.nbstripout.clean", " ".join(strip))
    assert git("diff", "--stat", copies[0]) == ""
    git("config", "--unset", "filter.nbstripout.clean")
    subprocess.run([*strip, *copies], check=True)
    assert git("status", "--porcelain") == ""


GOOD: list[dict[str, Any]] = [
    {"cell_type": "markdown", "source": "# Does it hold?", "metadata": {}},
    {"source": "scale: int = 4  # 2, 3 or 4", "metadata": {"tags": ["parameters"]}},
    {"source": "run = begin()", "metadata": {"tags": ["hide-input"]}},
    {"source": "run.figure('gain', [x for x in (1, 2)])"},
    {"source": "run.finish()"},
]


def test_notebook_hygiene(tmp_path: Path) -> None:
    assert [wrong for file in NOTEBOOKS for wrong in hygiene.problems(file)] == []
    changes: list[tuple[int, dict[str, Any], str]] = [
        (0, {}, ""),
        (0, {"cell_type": "code", "source": "1"}, "question"),
        (1, {"source": "scale = 4"}, "`name: type = default"),
        (3, {"metadata": {"tags": ["hide-input"]}}, "no other"),
        (3, {"outputs": [{"output_type": "stream"}]}, "outputs"),
        (3, {"source": "\n".join(["f()"] * 17)}, "17 lines"),
        (3, {"source": "for x in y: f(x)"}, "For"),
        (3, {"source": "%matplotlib inline"}, "plain Python"),
        (3, {"source": "open('~/x.png')"}, "absolute"),
        (4, {"source": "print('done')"}, "verdicts"),
    ]
    code: dict[str, Any] = {"cell_type": "code", "metadata": {}, "outputs": []}
    code["execution_count"] = None
    file = tmp_path / "notebook.ipynb"
    for cell, change, problem in changes:
        cells = [code | good | (change if at == cell else {}) for at, good in enumerate(GOOD)]
        file.write_text(json.dumps({"cells": cells, "nbformat": 4}))
        found = hygiene.problems(file)
        assert any(problem in line for line in found) if problem else found == []
