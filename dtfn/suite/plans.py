"""Which notebook runs with which parameters in which tier: the plan in notebooks/suite.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtfn import datasets, images, parameters, paths
from dtfn.errors import InputError, nearest

TIERS = ("smoke", "demo", "bench", "paper")
PLAN = "suite.yaml"


@dataclass(frozen=True)
class Step:
    """One run of a plan: a notebook of ``notebooks/`` and the parameters it gets in a tier."""

    notebook: str
    tier: str
    parameters: dict[str, Any]


def plan(tier: str, file: Path | None = None) -> list[Step]:
    """Return the runs of a tier, in order.

    Parameters
    ----------
    tier
        ``"smoke"`` (seconds), ``"demo"`` (minutes), ``"bench"`` (the benchmarks) or ``"paper"``
        (full-size networks).
    file
        A plan; default notebooks/suite.yaml. It maps notebook -> tier -> parameters.

    Raises
    ------
    InputError
        The tier is unknown, or the plan names an unknown notebook, tier or parameter, or gives
        a parameter a value of another type.
    """
    import yaml

    if tier not in TIERS:
        raise InputError(
            "tier", expected=", ".join(TIERS), found=repr(tier), remedy=nearest(tier, TIERS)
        )
    file = file or paths.NOTEBOOKS / PLAN
    steps = []
    for name, tiers in yaml.safe_load(file.read_text(encoding="utf-8")).items():
        notebook = find(name, file.parent)
        for other in set(tiers) - set(TIERS):
            raise InputError(
                f"{file.name}: {name}",
                expected=f"tiers {', '.join(TIERS)}",
                found=other,
                remedy=nearest(other, TIERS),
            )
        if tier in tiers:
            steps.append(Step(name, tier, parameters.check(notebook, tiers[tier] or {})))
    return steps


def values(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every parameter of a notebook: those given, checked, and the defaults.

    By convention ``datasets`` are benchmarks and ``scale`` is the scale, so that a folder that is
    missing is told before anything runs.

    Raises
    ------
    InputError
        As `dtfn.parameters.check`; a benchmark is not there, or nobody has this scale.
    """
    defaults = {name: p.default for name, p in parameters.read(notebook).items()}
    found = defaults | parameters.check(notebook, given)
    for name in found.get("datasets", []):
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
