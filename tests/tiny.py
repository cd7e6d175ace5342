"""The command line in this process, notebooks that are right or wrong, what a page requests."""

import io
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tifffile
from bs4 import BeautifulSoup
from nbformat import v4
from numpy.typing import NDArray
from PIL import Image

from dtfn import cli
from dtfn.errors import InputError

PARAMETERS = "scale: int = 4  # the scale\nnames: list[str] = ['a', 'b']  # some names"
BEGIN = "from dtfn import reports\nrun = reports.begin('good', globals())"
WORK = """
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from dtfn.reports import Verdict
frame = pd.DataFrame({"method": ["x", "y"], "psnr": [1.0, scale]})
figure = Figure(dpi=200)
figure.subplots().plot(frame["psnr"])
run.figure("line", figure, data=frame, caption="A line & <b>its</b> end.")
run.table("numbers", frame, caption="50 % of it.", best=["psnr"])
run.verdict(Verdict("it grows", np.float64(3), (1.0, 4.0), True, "{:+.1f} dB"))
run.verdict(Verdict("nobody knows", float("nan"), None, None))
"""

BARE = (
    "import json, os, sys\nprint(json.dumps([sys.executable, os.getcwd(), os.getenv('DTFN_DATA')]))"
)
REFUSING = "import dtfn\nraise dtfn.errors.InputError('Set5', 'a folder', 'none', 'fetch it')"
REQUESTING = """from IPython.display import HTML, Javascript, display
display(Javascript('fetch("https://example.org")'))
display(HTML('<img src="https://example.org/x.png">'))
"""

TABLES = ("csv", "html", "md", "tex")  # the files of a table
Source = tuple[str, str]  # tag (or "" for none, or "markdown"), source
SETUP = [("parameters", PARAMETERS), ("hide-input", BEGIN)]
TITLE = ("markdown", "# A good one\n\nSee [the next](bare.ipynb).")

NOTEBOOKS: dict[str, list[Source]] = {
    "good": [TITLE, *SETUP, ("", WORK), ("", "run.finish()")],
    "bare": [("", BARE)],
    "failing": [*SETUP, ("", "scale / 0")],
    "refusing": [("", REFUSING)],
    "requesting": [("", REQUESTING)],
}


def crossed(**columns: Iterable[object]) -> pd.DataFrame:
    """Return a table with a row for each combination of the columns' values."""
    rows = pd.MultiIndex.from_product(columns.values(), names=list(columns))
    return rows.to_frame(index=False)


def refused(words: str, act: Callable[..., object], /, *given: Any, **named: Any) -> None:
    """Assert that a call is refused with these words, in one line."""
    with pytest.raises(InputError, match=words) as caught:
        act(*given, **named)
    assert "\n" not in str(caught.value)


def call(*arguments: str) -> int:
    """Run ``dtfn`` in this process and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return int(ended.value.code or 0)


def said(*arguments: str, code: int = 0) -> str:
    """Return what ``dtfn`` prints in this process, with its errors if it may end with a code."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert call(*arguments) == code, err.getvalue()
    return out.getvalue() + err.getvalue() * bool(code)


def write(folder: Path, name: str, cells: list[Source], kernel: str = "python3") -> Path:
    """Write a notebook whose metadata name a kernel."""
    make: Any = v4
    content = make.new_notebook()
    content["metadata"]["kernelspec"] = {"name": kernel, "display_name": kernel}
    for number, (tag, source) in enumerate(cells):
        new = make.new_markdown_cell if tag == "markdown" else make.new_code_cell
        about = {"tags": [tag]} if tag not in ("", "markdown") else {}
        content["cells"].append(new(source.strip(), id=f"c{number}", metadata=about))
    file = folder / f"{name}.ipynb"
    folder.mkdir(exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def write_all(folder: Path) -> Path:
    """Write the whole zoo and return its folder."""
    for name, cells in NOTEBOOKS.items():
        write(folder, name, cells)
    return folder


def requests(page: Path) -> list[str]:
    """Return what a browser would fetch from elsewhere, or run, when it opens the page."""
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    found = ["script" for _ in soup.select("script")]
    found += [rule for style in soup.select("style") for rule in _in_css(style.text)]
    for tag in soup.select("*"):
        for name, value in tag.attrs.items():
            fetched = name in ("src", "srcset", "data", "poster", "background")
            fetched |= name == "href" and tag.name != "a"  # links are not followed
            refreshes = name == "http-equiv" and str(value).lower() == "refresh"
            styled = name == "style" and bool(_in_css(str(value)))
            outside = fetched and not str(value).startswith("data:")
            if outside or refreshes or styled or name.startswith("on"):
                found.append(f"{tag.name} {name}={value}")
    return found


def _in_css(text: str) -> list[str]:
    return re.findall(r"@import[^;]*|url\(\s*['\"]?(?!data:)[^)]*\)", text)


def policy(page: Path) -> str:
    """Return the page's content security policy."""
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    meta = soup.select_one('meta[http-equiv="Content-Security-Policy"]')
    return str(meta["content"]) if meta else ""


# --- files of pictures, written without the package ---
def pillow(picture: Image.Image | NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def png(width: int, height: int, data: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """Write a PNG by its specification (one IDAT), independent of any library."""
    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    made = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        ends = (struct.pack(">I", number) for number in (len(body), zlib.crc32(kind + body)))
        made += (kind + body).join(ends)
    return made
