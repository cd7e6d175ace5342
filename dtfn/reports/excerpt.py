"""A few runs as a folder of Markdown and pictures, small enough to commit: a forge shows it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from dtfn import __version__
from dtfn.errors import InputError
from dtfn.reports import manifest, tables

PAGE = "README.md"
MARK = "Written by `dtfn report keep`"  # by which an excerpt is known
QUALITY = 75  # of WebP
ACROSS = 1000  # pixels at most: what a page shows
LINES = 90  # of a table's Markdown; a longer one is left out


def write(folder: Path, runs: Sequence[Path]) -> Path:
    """Write an excerpt of complete runs and return its page.

    Beside ``README.md`` (all verdicts, then each run's figures and short tables) stands a folder a
    run with its manifest and the figures as WebP, at most `ACROSS` pixels wide. It takes the place
    of an older excerpt when it is whole.

    Parameters
    ----------
    folder
        Where it goes: a new one, or that of an older excerpt.
    runs
        Folders of runs, as `dtfn.reports.compare.find` returns them.

    Raises
    ------
    InputError
        There is something else in that place, a run is not complete, or two have one name.
    """
    names = [run.parent.name for run in runs]
    if len(set(names)) < len(names):
        raise InputError(
            "runs", expected="one of each name", found=", ".join(names), remedy="name fewer"
        )
    _require_ours(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        made = Path(place) / folder.name
        made.mkdir()
        _fill(made, dict(zip(names, runs, strict=True)))
        if folder.exists():
            folder.rename(Path(place) / "older")
        made.rename(folder)
    return folder / PAGE


def _require_ours(folder: Path) -> None:
    """Raise `InputError` where something else than an older excerpt is in the place."""
    page = folder / PAGE
    ours = page.is_file() and MARK in page.read_text(encoding="utf-8", errors="replace")
    if folder.exists() and not ours:
        raise InputError(
            folder, expected="a new folder, or an older excerpt", found="something else",
            remedy="choose another folder",
        )  # fmt: skip


def _fill(folder: Path, runs: Mapping[str, Path]) -> None:
    verdicts, sections = [], []
    for name, run in runs.items():
        content = manifest.read(run)
        if content["status"] != "complete":
            raise InputError(
                run, expected="a complete run", found=content["status"], remedy="run it again"
            )
        target = folder / name
        target.mkdir(parents=True)
        shutil.copyfile(run / manifest.NAME, target / manifest.NAME)
        verdicts += [{**v["printed"], "run": f"[{name}](#{name})"} for v in content["verdicts"]]
        sections.append(_section(name, run, content, target))
    head = (
        "# Where non-local attention harms textures\n\n"
        f"{MARK} of dtfn {__version__}: nothing here is typed by hand. The "
        "manifests beside the figures name code, parameters, pictures and networks by hash.\n\n"
        f"{tables.markdown(pd.DataFrame(verdicts))}"
    )
    (folder / PAGE).write_text("\n".join([head, *sections]), encoding="utf-8")


def _section(name: str, run: Path, content: dict[str, Any], target: Path) -> str:
    code = content["code"]
    changed = " with local changes" if code["dirty"] else ""
    given = "; ".join(f"{key} = {value}" for key, value in content["parameters"].items())
    parts = [
        f'<a id="{name}"></a>\n## {name}: {content["title"]}',
        f"`{name}`, {content['started']}, code {code['git']}{changed}: {given}",
    ]
    exhibits = [("figures", e) for e in content["figures"]]
    exhibits += [("tables", e) for e in content["tables"] if e["name"] != "verdicts"]
    for kind, entry in sorted(exhibits, key=lambda pair: pair[1]["after_seconds"]):
        if kind == "figures":
            file = f"{entry['name']}.webp"
            with Image.open(run / "figures" / f"{entry['name']}.png") as image:
                small = image.convert("RGB")
            small.thumbnail((ACROSS, 10 * ACROSS))
            small.save(target / file, quality=QUALITY, method=6)
            parts.append(f"![{entry['name']}]({name}/{file})\n\n*{entry['caption']}*")
            continue
        text = (run / "tables" / f"{entry['name']}.md").read_text(encoding="utf-8")
        if text.count("\n") <= LINES:
            parts.append(text.rstrip())
    return "\n\n".join(parts) + "\n"
