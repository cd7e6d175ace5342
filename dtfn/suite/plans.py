"""What runs in which tier, with which parameters, after what: the plan in notebooks/suite.yaml."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from dtfn import datasets, images, parameters, paths, recipes
from dtfn.errors import InputError, nearest

TIERS = ("smoke", "demo", "bench", "paper")
PLAN = "suite.yaml"
ZOO = "zoo"
REFERENCE = re.compile(r"run:([^/]+)/(.+)")
"""A parameter's text that stands for a file of another run: ``run:NAME/weights.safetensors``."""

_KEYS = ("notebook", "train", "options", "needs", "makes", "resources")
_OPTIONS = ("accelerator", "devices", "nodes", "strategy", "precision", "accumulate", "workers")


@dataclass(frozen=True)
class Needs:
    """What a run reads, so that it runs again when that changes.

    Attributes
    ----------
    runs
        Names of runs of the same tier; they run before.
    datasets
        Benchmarks, besides those of the parameter ``datasets``.
    weights
        Networks of the zoo, imported ones or weights files; ``zoo``: all that are shipped. What the
        parameters name is added. A run that does not say reads the whole zoo.
    files
        Files or folders, relative to the notebook, or names of parameters that hold such.
    """

    runs: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    weights: tuple[str, ...] = (ZOO,)
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resources:
    """What a run takes: GPUs, MB of memory, minutes and CPU threads.

    All but the threads are for clusters. Another number of threads gives other last digits.
    """

    gpu: int = 0
    memory_mb: int = 4000
    minutes: int = 30
    threads: int = 1


_RESOURCES = {
    "smoke": Resources(memory_mb=3000, minutes=10),
    "demo": Resources(minutes=30),
    "bench": Resources(memory_mb=8000, minutes=240),
    "paper": Resources(gpu=1, memory_mb=32000, minutes=1440, threads=4),
}


@dataclass(frozen=True)
class Step:
    """One run of a plan.

    Attributes
    ----------
    notebook
        The notebook of ``notebooks/`` that runs; empty for a training run.
    tier
        The tier it runs in.
    parameters
        What it gets in this tier; for a training run, what changes of its recipe.
    name
        Unique in the plan; the notebook's own name if the plan gives no other.
    train
        The preset that a training run trains; empty for a notebook.
    options
        Where a training run runs: options of ``dtfn train``.
    needs, makes, resources
        What it reads; files that it must leave in its folder; what it takes.
    """

    notebook: str
    tier: str
    parameters: dict[str, Any]
    name: str
    train: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    needs: Needs = Needs()
    makes: tuple[str, ...] = ()
    resources: Resources = Resources()


def plan(tier: str, file: Path | None = None) -> list[Step]:
    """Return the runs of a tier, each after those that it needs.

    Parameters
    ----------
    tier
        ``"smoke"`` (seconds), ``"demo"`` (minutes), ``"bench"`` (the benchmarks) or ``"paper"``
        (full-size networks).
    file
        A plan; default notebooks/suite.yaml, which says what it may hold.

    Raises
    ------
    InputError
        The tier is unknown, or the plan names an unknown notebook, tier, key, run or parameter,
        gives a parameter a value of another type, or has runs that wait for each other.
    """
    import yaml

    if tier not in TIERS:
        raise InputError(
            "tier", expected=", ".join(TIERS), found=repr(tier), remedy=nearest(tier, TIERS)
        )
    file = file or paths.NOTEBOOKS / PLAN
    entries = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    for name, entry in entries.items():
        _known(f"{file.name}: {name}", "a tier or a key", entry, (*TIERS, *_KEYS))
    steps = {
        name: _step(file, name, entry, tier) for name, entry in entries.items() if tier in entry
    }
    for step in steps.values():
        _known(f"{file.name}: needs of {step.name}", f"runs of {tier}", step.needs.runs, steps)
    try:
        order = TopologicalSorter({name: steps[name].needs.runs for name in steps}).static_order()
        return [steps[name] for name in order]
    except CycleError as error:
        raise InputError(
            file.name, expected="runs of which none waits for itself",
            found=" needs ".join(error.args[1][::-1]), remedy="take one of these needs out",
        ) from None  # fmt: skip


def _step(file: Path, name: str, entry: Mapping[str, Any], tier: str) -> Step:
    where = f"{file.name}: {name}"
    given = dict(entry[tier] or {})
    train, notebook = entry.get("train", ""), ""
    if train:
        recipe(train, given)
        _known(f"{where}: options", "options of `dtfn train`", entry.get("options", {}), _OPTIONS)
    else:
        notebook = entry.get("notebook", name)
        given = parameters.check(find(notebook, file.parent), given)
    needs = _filled(f"{where}: needs", Needs(), entry.get("needs", {}))
    named = [found[1] for text in texts(given) if (found := REFERENCE.fullmatch(text))]
    resources = entry.get("resources", {})
    _known(f"{where}: resources", "tiers", resources, TIERS)
    return Step(
        notebook, tier, given, name, train, dict(entry.get("options", {})),
        dataclasses.replace(needs, runs=tuple(dict.fromkeys([*needs.runs, *named]))),
        tuple(entry.get("makes", ())),
        _filled(f"{where}: resources", _RESOURCES[tier], resources.get(tier) or {}),
    )  # fmt: skip


def recipe(preset: str, changes: Mapping[str, Any]) -> recipes.Recipe:
    """Return the recipe of a training run: a preset and what the plan changes of it.

    Raises
    ------
    InputError
        As `dtfn.recipes.preset`.
    """
    pairs = {k: list(v.items()) if isinstance(v, dict) else v for k, v in changes.items()}
    return recipes.from_json(dataclasses.asdict(recipes.preset(preset)) | pairs)


def values(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every parameter of a notebook: those given, checked, and the defaults.

    By convention ``datasets`` (or ``dataset``) are benchmarks and ``scale`` is the scale, so that a
    folder that is missing is told before anything runs.

    Raises
    ------
    InputError
        As `dtfn.parameters.check`; a benchmark is not there, or nobody has this scale.
    """
    defaults = {name: p.default for name, p in parameters.read(notebook).items()}
    found = defaults | parameters.check(notebook, given)
    for name in texts([found.get("datasets", []), found.get("dataset", [])]):
        datasets.names(name)
    if "scale" in found:
        images.check_scale(found["scale"])
    return found


def find(notebook: str, folder: Path | None = None) -> Path:
    """Return the file of a notebook, given as its name or as a path.

    Raises
    ------
    InputError
        There is none.
    """
    folder = folder or paths.NOTEBOOKS
    for file in (Path(notebook), folder / notebook, folder / f"{notebook}.ipynb"):
        if file.suffix == ".ipynb" and file.is_file():
            return file.resolve()
    known = [f.stem for f in folder.glob("*.ipynb")]
    raise InputError(
        "notebook",
        expected="a file or the name of a notebook",
        found=repr(notebook),
        remedy=nearest(notebook, known) if known else f"put notebooks into {folder}",
    )


def texts(value: Any) -> Iterator[str]:
    """Yield every text in a value: itself, or those in its lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts(list(value.values()))
    elif isinstance(value, Sequence):
        for part in value:
            yield from texts(part)


def _known(what: str, expected: str, found: Any, known: Any) -> None:
    for name in found:
        if name not in known:
            raise InputError(
                what, expected=f"{expected}: {', '.join(known)}", found=repr(name),
                remedy=nearest(str(name), known),
            )  # fmt: skip


def _filled(what: str, blank: Any, given: Mapping[str, Any]) -> Any:
    """Return the dataclass `blank` with what is given, lists as tuples."""
    kinds = {f.name: type(getattr(blank, f.name)) for f in dataclasses.fields(blank)}
    _known(what, "keys", given, kinds)
    changes = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
    for key, value in changes.items():
        if type(value) is not kinds[key]:
            expected = {tuple: "a list", int: "a whole number"}[kinds[key]]
            raise InputError(
                f"{what}: {key}", expected=expected, found=repr(value), remedy="write it so"
            )
    return dataclasses.replace(blank, **changes)
