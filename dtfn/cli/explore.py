"""The command `dtfn explore`: the explorer's notebook in JupyterLab, or as a page of Voila."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from dtfn.errors import InputError

LARGEST_MESSAGE = 200 * 2**20  # bytes: an upload is one message, and the default is 10 MB


def explore(
    image: Annotated[
        Path | None, typer.Argument(help="A picture of yours, as the truth; else an embedded one.")
    ] = None,
    voila: Annotated[bool, typer.Option("--voila", help="A page without code.")] = False,
    dark: Annotated[bool, typer.Option("--dark", help="Voila's dark theme.")] = False,
    port: Annotated[int, typer.Option(help="Of the server.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open one.")] = True,
) -> None:
    """Click a texture: what attention looked at, what it copied, and what that did."""
    from dtfn import paths
    from dtfn.explorer import session

    server = "voila" if voila else "jupyterlab"
    if importlib.util.find_spec(server) is None:
        raise InputError(
            server, expected="the package", found="none", remedy="pip install 'dtfn[notebook]'"
        )
    chosen = environment()
    if image is not None:
        session.read(image)  # refuse here what would else be refused in the page
        chosen[session.IMAGE] = str(image.expanduser().resolve())
    notebook = paths.NOTEBOOKS / f"{session.NOTEBOOK}.ipynb"
    arguments = command(notebook, voila=voila, dark=dark, port=port, browser=browser)
    raise typer.Exit(subprocess.run(arguments, env=chosen, check=False).returncode)


def environment() -> dict[str, str]:
    """Return the variables of this process, and where Voila finds the page's template."""
    from dtfn import explorer

    found = [str(Path(explorer.__file__).parent / "jupyter"), os.environ.get("JUPYTER_PATH", "")]
    return os.environ | {"JUPYTER_PATH": os.pathsep.join(filter(None, found))}


def command(notebook: Path, *, voila: bool, dark: bool, port: int, browser: bool) -> list[str]:
    """Return the command that serves a notebook; options as for `explore`."""
    settings = f"tornado_settings={{'websocket_max_message_size': {LARGEST_MESSAGE}}}"
    shared = [str(notebook), f"--port={port}", *([] if browser else ["--no-browser"])]
    if voila:
        theme = "dark" if dark else "light"
        return [
            sys.executable, "-m", "voila", *shared, f"--theme={theme}", "--template=offline",
            f"--Voila.{settings}",
        ]  # fmt: skip
    return [sys.executable, "-m", "jupyterlab", *shared, f"--ServerApp.{settings}"]
