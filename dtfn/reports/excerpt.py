"""A few runs as a folder of Markdown and pictures, small enough to commit: a forge shows it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from dtfn import __version__
from dtfn.errors import InputError
from dtfn.reports import manifest, tables

PAGE = "README.md"
QUALITY = 85  # of WebP
ROWS = 40  # of a table; a longer one is left out


def write(folder: Path, runs: Sequence[Path]) -> Path:
    """Write an excerpt of complete runs and return its page.

    Beside ``README.md`` (all verdicts, then each run's figures and short tables) stands a folder a
    run with its manifest and the figures as WebP, a third of their PNG. Of an older
    excerpt there nothing is left.

    Parameters
    ----------
    folder
        Where it goes: a new one, or that of an older excerpt.
    runs
        Folders of runs, as `dtfn.reports.compare.find` returns them.

    Raises
    ------
    InputError
        There are other things in the folder, or two runs have one name.
    """
    names = [run.parent.name for run in runs]
    if len(set(names)) < len(names):
        raise InputError(
            "runs", expected="one of each name", found=", ".join(names), remedy="name fewer"
        )
    if folder.exists():
        _clear(folder)
    verdicts, sections = [], []
    for name, run in zip(names, runs, strict=True):
        content = manifest.read(run)
        target = folder / name
        target.mkdir(parents=True)
        shutil.copyfile(run / manifest.NAME, target / manifest.NAME)
        verdicts += [{**v["printed"], "run": f"[{name}](#{name})"} for v in content["verdicts"]]
        sections.append(_section(name, run, content, target))
    head = (
        "# Where non-local attention harms textures\n\n"
        f"Written by dtfn {__version__}, `dtfn report keep`: nothing here is typed by hand. The "
        "manifests beside the figures name code, parameters, pictures and networks by hash.\n\n"
        f"{tables.markdown(pd.DataFrame(verdicts))}"
    )
    page = folder / PAGE
    page.write_text("\n".join([head, *sections]), encoding="utf-8")
    return page


def _clear(folder: Path) -> None:
    """Remove an older excerpt."""
    others = [
        path.name
        for path in folder.iterdir()
        if not (path.name == PAGE or (path.is_dir() and (path / manifest.NAME).is_file()))
    ]
    if others or (any(folder.iterdir()) and not (folder / PAGE).is_file()):
        raise InputError(
            folder, expected="a new folder, or an excerpt to replace",
            found=", ".join(others) or f"no {PAGE}", remedy="choose another folder",
        )  # fmt: skip
    shutil.rmtree(folder)


def _section(name: str, run: Path, content: dict[str, Any], target: Path) -> str:
    given = "; ".join(f"{key} = {value}" for key, value in content["parameters"].items())
    parts = [
        f'<a id="{name}"></a>\n## {content["title"]}',
        f"`{name}`, {content['started']}: {given}",
    ]
    exhibits = [("figures", e) for e in content["figures"]]
    exhibits += [("tables", e) for e in content["tables"] if e["name"] != "verdicts"]
    for kind, entry in sorted(exhibits, key=lambda pair: pair[1]["after_seconds"]):
        if kind == "figures":
            file = f"{entry['name']}.webp"
            with Image.open(run / "figures" / f"{entry['name']}.png") as image:
                image.convert("RGB").save(target / file, quality=QUALITY, method=6)
            parts.append(f"![{entry['name']}]({name}/{file})\n\n*{entry['caption']}*")
            continue
        text = (run / "tables" / f"{entry['name']}.md").read_text(encoding="utf-8")
        if text.count("\n") <= ROWS:
            parts.append(text.rstrip())
    return "\n\n".join(parts) + "\n"
