"""The explorer in a real Chromium, on a real JupyterLab and on Voila.

Skips where there is no Chromium, unless DTFN_BROWSER is set: then that is a failure. Screenshots
are kept in the folder DTFN_ARTIFACTS, by default tests/artifacts.
"""

import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1800)]

OTHER = re.compile(r"https?://(?!127\.0\.0\.1)")
ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "07_explore.ipynb"
ARTIFACTS = Path(os.environ.get("DTFN_ARTIFACTS") or Path(__file__).parent / "artifacts")
PATIENCE = 200_000  # ms: a busy machine is no reason to fail
SMALL = 'image, tile = "astronaut", [40, 40, 32, 32]'  # so that the networks take no time
# Nothing but the view in the kernel's folders, and none of its runs among the reader's.
MOVED = """import dtfn.paths
from pathlib import Path
dtfn.paths.NOTEBOOKS = Path({!r})
dtfn.paths.RUNS = dtfn.paths.NOTEBOOKS / "runs"
"""
LAB = "lab/user-settings/@jupyterlab"
SETTINGS = {  # of Jupyter, below its folder of settings
    "jupyter_lab_config.json": {
        "ServerApp": {"port_retries": 0},
        "LabApp": {"extension_manager": "readonly", "expose_app_in_browser": True},
    },
    f"{LAB}/apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false"},
    f"{LAB}/apputils-extension/themes.jupyterlab-settings": {"theme": "JupyterLab Dark"},
    # Else it takes cells off the page that are not on the screen.
    f"{LAB}/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
}
HTML = "document.querySelector('.dtfn-{} .widget-html-content').innerHTML"
PIXELS = "document.querySelector('.dtfn-{} canvas').toDataURL()"


def chromium() -> str:
    """Return the program, or skip; with DTFN_BROWSER set, fail."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        end = pytest.fail if os.environ.get("DTFN_BROWSER") else pytest.skip
        end("no chromium on the PATH: apt-get install chromium")
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the notebook, set to something small, and with settings of its own."""
    content = json.loads(NOTEBOOK.read_text())
    content["cells"][2]["source"].insert(0, f"{SMALL}\n")  # after the parameters
    (tmp_path / "sitecustomize.py").write_text(MOVED.format(str(tmp_path)))
    (tmp_path / NOTEBOOK.name).write_text(json.dumps(content))
    for name, settings in SETTINGS.items():
        file = tmp_path / "home" / ".jupyter" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    return tmp_path


@contextmanager
def serving(folder: Path, *, lab: bool) -> Iterator[tuple[str, psutil.Process]]:
    """Serve the notebook by the command; yield the address that it prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dtfn", "explore", "--no-browser", f"--port={port}"]
    command += ["--lab", "--allow-root"] * lab
    folders = os.pathsep.join([str(folder), str(ROOT)])
    environment = os.environ | {"HOME": str(folder / "home"), "PYTHONPATH": folders}
    environment.pop("DTFN_RUN_DIR", None)
    log = folder / "server.log"
    with log.open("w") as stream:
        server = psutil.Popen(command, cwd=folder, env=environment, stdout=stream, stderr=stream)
        try:
            until = time.monotonic() + PATIENCE / 1000
            while not (addresses := re.findall(r"http://127\.0\.0\.1\S+", log.read_text())):
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.1)
            yield addresses[0], server
        finally:
            with suppress(psutil.NoSuchProcess):
                server.terminate()
                server.wait(60)


@contextmanager
def browsing(folder: Path, problems: list[str]) -> Iterator[Any]:
    """Yield a page of a fresh browser; what it logs as an error goes to ``problems``."""
    program = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options: Any = {"args": ["--no-sandbox", "--disable-gpu", "--disable-quic"]}
        options |= {"executable_path": program, "viewport": {"width": 1280, "height": 800}}
        context = playwright.chromium.launch_persistent_context(f"{folder}/profile", **options)
        page = context.pages[0]
        page.set_default_timeout(PATIENCE)

        # There may be no network.
        page.on("request", lambda sent: problems.extend([sent.url] * bool(OTHER.match(sent.url))))
        page.on("console", lambda said: problems.extend([said.text] * (said.type == "error")))
        page.on("pageerror", lambda error: problems.append(f"page: {error}"))
        try:
            yield page
        except BaseException:
            ARTIFACTS.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=ARTIFACTS / "failed.png")
            raise
        finally:
            context.close()


def changed(page: Any, what: str, before: str) -> str:
    """Wait until what an expression says differs, and return it."""
    page.wait_for_function(f"before => {what} !== before", arg=before)
    return str(page.evaluate(what))


def explored(page: Any, artifact: str) -> None:
    """Click, step, slide and refuse, and see each time what follows."""
    names = ("numbers", "crops", "status")
    numbers, crops, status = (HTML.format(name) for name in names)
    attention, harm = (PIXELS.format(name) for name in ("attention", "harm"))
    page.wait_for_selector(".dtfn-numbers td")
    # Two to a map: picture and mark.
    page.wait_for_function("document.querySelectorAll('.dtfn canvas').length >= 4")
    page.locator(".dtfn-attention").scroll_into_view_if_needed()
    target = page.locator(".dtfn-attention .jupyter-matplotlib-canvas-div")
    said, shown, harmed = (page.evaluate(what) for what in (numbers, attention, harm))
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{artifact}-before.png")
    assert "Row 16, column 16" in said

    box = target.bounding_box()
    assert box["width"] >= 270
    # The middle of row 8, column 24 of 32 x 32.
    target.click(position={"x": box["width"] * 24.5 / 32, "y": box["height"] * 8.5 / 32})
    said = changed(page, numbers, said)
    assert "Row 8, column 24" in said
    shown = changed(page, attention, shown)
    changed(page, harm, harmed)

    page.keyboard.press("ArrowDown")  # the canvas has the focus
    said = changed(page, numbers, said)
    assert "Row 9, column 24" in said
    shown = changed(page, attention, shown)

    page.wait_for_function(
        "['DI', 'without the ringed', 'uniform weights', 'attention off'].every("
        "  words => document.querySelector('.dtfn-crops').innerText.includes(words))"
    )
    page.screenshot(path=ARTIFACTS / f"{artifact}-after.png")
    for part in ("attention", "harm", "numbers", "patches", "crops") * artifact.startswith("voila"):
        seen = page.locator(f".dtfn-{part}").bounding_box()
        assert seen["y"] + seen["height"] <= 800, f"{part} is on the first screen"
    page.get_by_role("button", name="More").click()
    assert page.locator(".dtfn-hash_seed [title]").first.get_attribute("title")
    before = page.evaluate(crops)
    page.locator(".dtfn-zoom select").select_option("×6")
    changed(page, crops, before)
    handle = page.locator(".dtfn-overlay .noUi-handle")
    handle.focus()
    for _ in range(4):
        handle.press("ArrowLeft")
    changed(page, attention, shown)

    before = page.evaluate(status)
    chosen = page.locator(".dtfn-network select").evaluate("menu => menu.selectedOptions[0].text")
    page.locator(".dtfn-baseline select").select_option(label=chosen)
    assert "two different networks" in changed(page, status, before)
    target.click(position={"x": box["width"] / 2, "y": box["height"] / 2})  # it lives on
    changed(page, numbers, said)


def run_all(page: Any) -> None:
    """Run all cells of a notebook in JupyterLab, and check that each of them ran."""
    from playwright.sync_api import Error

    notebook = "window.jupyterapp?.shell.currentWidget"
    status = f"{notebook}?.sessionContext?.session?.kernel?.status"
    until = time.monotonic() + PATIENCE / 1000
    while page.evaluate(status) != "idle":  # before that, it would run nothing, without a word
        assert time.monotonic() < until, f"no kernel came: {page.evaluate(status)}"
        dialog = page.locator(".jp-Dialog .jp-mod-accept")  # it asks for a kernel if it has none
        if dialog.count():
            with suppress(Error):  # it may be gone by now
                dialog.click(timeout=2000)
        page.wait_for_timeout(500)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")  # waits for all
    cells = f"{notebook}.content.widgets.filter(cell => cell.model.type === 'code')"
    counts = page.evaluate(f"{cells}.map(cell => cell.model.executionCount)")
    assert counts == list(range(1, len(counts) + 1)), "each ran once, in this order"


def test_in_jupyterlab(folder: Path) -> None:
    chromium()
    problems: list[str] = []
    with serving(folder, lab=True) as (address, _), browsing(folder, problems) as page:
        page.goto(address)  # the notebook itself, not the launcher
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        run_all(page)
        explored(page, "jupyterlab-dark")
        page.get_by_role("button", name="Send to report").click()
        page.wait_for_function("document.querySelector('.dtfn-status').innerText.includes('Saved')")
        (run,) = (folder / "runs" / "07_explore").iterdir()
        names = {file.name for file in (run / "figures").iterdir()}
        assert names == {"view.svg", "view.png", "view.csv", "view.json"}
    assert problems == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_voila(folder: Path, number: int) -> None:
    """A page without code; a signal to the server ends its kernel, too."""
    chromium()
    problems: list[str] = []
    with serving(folder, lab=False) as (address, server), browsing(folder, problems) as page:
        page.goto(address, wait_until="commit")  # the page comes as the notebook runs
        if number == signal.SIGTERM:
            explored(page, "voila-light")
        page.wait_for_selector(".dtfn-numbers td")
        assert page.locator(".jp-InputArea-editor").count() == 0, "no code"
        assert page.locator("h1").count() == 0, "no text before the view"
        kernels = server.children(recursive=True)
        assert kernels
        server.send_signal(number)
        server.wait(60)
        assert psutil.wait_procs(kernels, timeout=60)[1] == [], "nothing is left behind"
