"""The command `dtfn explore`: the explorer as a page of Voila, or its notebook in JupyterLab."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dtfn.errors import InputError

IMAGE = "DTFN_EXPLORE"  # as `dtfn.explorer.IMAGE`, whose import would take seconds
NETWORK = "DTFN_EXPLORE_NETWORK"  # as `dtfn.explorer.NETWORK`
NOTEBOOK = "07_explore"
LARGEST_MESSAGE = 200 * 2**20  # bytes: an upload is one message, and the default is 10 MB
IDLE = 120  # seconds after which the kernel of a closed page ends; it holds up to 1 GB
FOLDERS = ("DTFN_DATA", "DTFN_CACHE", "DTFN_REPORTS", "DTFN_WEIGHTS")


def explore(
    image: Annotated[
        Path | None,
        typer.Argument(help="A picture of yours, taken as the truth (default: an embedded one)."),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(help="Network to start with, also FILE.py:function (default: of the zoo)."),
    ] = None,
    lab: Annotated[
        bool, typer.Option("--lab/--voila", help="Open the notebook in JupyterLab, with its code.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of the server.")] = 8888,
    ip: Annotated[
        str,
        typer.Option(
            help="Address that the server listens on. The default is this machine alone; 0.0.0.0 "
            "is every network of it, and whoever reaches the port can use the page."
        ),
    ] = "127.0.0.1",
    allow_root: Annotated[
        bool, typer.Option(help="Let JupyterLab run as root, for example in a container.")
    ] = False,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Click a texture: what attention looked at, what it copied, and what that did."""
    from dtfn import paths

    server = "jupyterlab" if lab else "voila"
    if importlib.util.find_spec(server) is None:
        raise InputError(server, "the package", "none", "pip install 'dtfn[notebook]'")
    if lab and not allow_root and hasattr(os, "geteuid") and os.geteuid() == 0:
        wanted = "one other than root, since JupyterLab lets its visitors run anything"
        remedy = "add --allow-root if that is meant, leave out --lab, or use another user"
        raise InputError("user", wanted, "root", remedy)
    chosen = environment()
    if image is not None:
        from dtfn import images

        images.read(image)  # refuse here what would else be refused in the page
        chosen[IMAGE] = str(image.expanduser().resolve())
    if network is not None:
        from dtfn import evaluation, zoo

        evaluation.fingerprint(network)  # the same
        chosen[NETWORK] = str(zoo.own(network) or network)
    notebook = paths.NOTEBOOKS / f"{NOTEBOOK}.ipynb"
    arguments = command(notebook, lab=lab, port=port, ip=ip, allow_root=allow_root, browser=browser)
    sys.stdout.flush()
    os.execve(arguments[0], arguments, chosen)  # no parent is left that a signal could kill alone


def environment() -> dict[str, str]:
    """Return the variables of this process for the server, which runs in another folder."""
    package = Path(importlib.import_module("dtfn").__file__ or "").parent
    templates = [str(package / "explorer" / "jupyter"), os.environ.get("JUPYTER_PATH", "")]
    folders = {
        name: str(Path(os.environ[name]).expanduser().resolve())
        for name in FOLDERS
        if os.environ.get(name)
    }
    return os.environ | folders | {"JUPYTER_PATH": os.pathsep.join(filter(None, templates))}


def command(
    notebook: Path, *, lab: bool, port: int, ip: str, allow_root: bool, browser: bool
) -> list[str]:
    """Return the command that serves a notebook; options as for `explore`."""
    settings = f"tornado_settings={{'websocket_max_message_size': {LARGEST_MESSAGE}}}"
    shared = [f"--port={port}", *([] if browser else ["--no-browser"])]
    kernels = "MappingKernelManager" if lab else "VoilaKernelManager"
    shared += [f"--{kernels}.cull_idle_timeout={IDLE}", f"--{kernels}.cull_interval={IDLE // 4}"]
    python = [sys.executable, "-m"]
    if not lab:
        page = [*python, "voila", str(notebook), f"--Voila.ip={ip}", f"--Voila.{settings}"]
        return [*page, *shared, "--theme=light", "--template=offline"]
    return [
        *(*python, "jupyterlab", f"--ServerApp.root_dir={notebook.parent}", f"--ip={ip}"),
        f"--LabApp.default_url=/lab/tree/{notebook.name}",
        f"--ServerApp.{settings}",
        *shared,
        *(["--allow-root"] if allow_root else []),
    ]
