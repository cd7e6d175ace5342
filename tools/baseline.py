"""Copy the newest suite's report to reports/baseline, and cut the README's findings from it.

    python tools/baseline.py [--reports reports] [--out reports/baseline] [--readme README.md]

The copy is a report in itself, small enough to commit: without notebooks, its figures as WebP. Of a
README it replaces what stands between ``<!-- picture -->`` or ``<!-- verdicts -->`` and
``<!-- end -->``. `make baseline` reproduces the bench tier first.
"""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dtfn import files, paths
from dtfn.errors import InputError
from dtfn.reports import MANIFEST, findings, page, read, tables

LARGEST = 3_000_000  # bytes of a baseline
ACROSS = 960  # pixels of its figures
MARK = "Written by `tools/baseline.py`"  # marks a folder as a baseline
README = f"""# Where non-local attention harms textures

{MARK}; nothing here is typed by hand. [index.html](index.html) is the whole report, for a browser.

<!-- picture -->
<!-- end -->

<!-- verdicts -->
<!-- end -->
"""


def keep(reports: Path, folder: Path) -> Path:
    """Copy the suite that was reproduced last, in place of an older baseline; return its page."""
    kept, about = page.suite_runs(reports), folder / "README.md"
    if not kept:
        raise InputError(reports, "runs of a suite", "none", "make them with `dtfn reproduce`")
    if folder.exists() and not (about.is_file() and MARK in about.read_text(encoding="utf-8")):
        wanted = "a new folder, or an older baseline"
        raise InputError(folder, wanted, "something else", "choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        draft = Path(place) / "draft"
        for run in kept.values():
            record, copy = read(run), draft / run.relative_to(reports)
            for figure in record["figures"]:
                file = page.picture(run, figure["name"])
                files.write(copy / "figures" / f"{file.stem}.webp", page.webp(file, ACROSS))
            for table in record["tables"]:
                name = f"tables/{table['name']}.csv"
                files.write(copy / name, (run / name).read_bytes())
            files.write_json(copy / MANIFEST, record | {"data": []})
        suite = f"suite-{record['tier']}.json"
        files.write(draft / suite, (reports / suite).read_bytes())
        files.write(draft / about.name, cut(README, draft, "."))
        page.write_index(draft)
        size = sum(file.stat().st_size for file in draft.rglob("*") if file.is_file())
        if size > LARGEST:
            wanted, remedy = f"at most {LARGEST:,} bytes", "save fewer figures or tables"
            raise InputError(reports, wanted, f"{size:,}", remedy)
        if folder.exists():
            folder.rename(Path(place) / "older")
        draft.rename(folder)
    return about


def cut(readme: str, folder: Path, link: str) -> str:
    """Return a README with the picture and the verdicts of a baseline; ``link`` leads to it."""
    kept, slots = list(page.suite_runs(folder).values()), {"picture": ""}
    if found := page.exhibit(kept, page.TEXTURES):
        place = f"{link}/{found[0].relative_to(folder).as_posix()}"
        about = "Textures that attention harmed and helped"
        slots["picture"] = f"![{about}]({place})\n\n*{found[1]}*\n"
    slots["verdicts"] = markdown(findings.merged(kept))
    for slot, content in slots.items():
        between = re.compile(rf"(?<=<!-- {slot})\b([^>]*-->\n).*?(?=<!-- end -->)", re.DOTALL)
        readme = between.sub(r"\g<1>" + content.replace("\\", r"\\"), readme)
    return readme


def markdown(rows: pd.DataFrame) -> str:
    """Return sentences, terms and the table of `dtfn.reports.findings`: a row a claim."""
    if rows.empty:
        return ""
    cells = [
        {"claim": row["claim"], "what is measured": row["about"]}
        | {
            f"×{n}": " ".join([f"**{c['verdict']}**", *c["parts"], f"({c['basis']})"])
            for n, c in row["scales"].items()
            if c
        }
        for row in findings.grid(rows)
    ]
    table = pd.DataFrame(cells)
    if not table["what is measured"].any():  # rows of an older report
        table = table.drop(columns="what is measured")
    said = "".join(f"- {tables.escape(sentence)}\n" for sentence in findings.sentences(rows))
    words = " ".join(f"*{term}*: {meaning}." for term, meaning in findings.WORDS.items())
    return f"{said}\n{words}\n\n{tables.markdown(table)}".replace(" ()", "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Keep the baseline; bad input is one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reports", type=Path, default=paths.REPORTS, help="The report to copy.")
    parser.add_argument("--out", type=Path, default=paths.ROOT / "reports" / "baseline")
    parser.add_argument("--readme", type=Path, help="File that gets picture and verdicts.")
    given = parser.parse_args(arguments)
    try:
        print(keep(given.reports, given.out))
    except InputError as error:
        sys.exit(f"baseline: {error}")
    if given.readme:
        link = Path(os.path.relpath(given.out, given.readme.parent)).as_posix()
        text = cut(given.readme.read_text(encoding="utf-8"), given.out, link)
        files.write(given.readme, text)


if __name__ == "__main__":
    main()
