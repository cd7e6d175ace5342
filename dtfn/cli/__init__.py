"""The command line. Every command imports what it needs itself, so that ``--help`` is instant."""

from __future__ import annotations

import enum
import errno
import json
import math
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit, Option, Typer

from dtfn import __version__
from dtfn.cli import store
from dtfn.cli.store import Json, Reports, Settings, settings
from dtfn.errors import InputError

app = Typer(
    name="dtfn",
    help="Where non-local attention harms textures in single-image super-resolution.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # importing rich would take longer than the rest
    pretty_exceptions_enable=False,
)

Count = Annotated[int | None, Option(help="Number of pictures of each benchmark (default all).")]
Datasets = Annotated[str, Option(help="Names of benchmarks, with commas.")]
File = Annotated[Path | None, Option("--plan", help="Your own plan, not notebooks/suite.yaml.")]
Force = Annotated[bool, Option("--force", help="Run again what is up to date.")]
Scale = Annotated[int, Option(help="Scale: 2, 3 or 4.")]
Threads = Annotated[int, Option(help="CPU threads; 0 leaves torch's choice.")]
Tier = Annotated[str, Option(help="smoke (seconds), demo (minutes), bench or paper (full size).")]

SLOW = 30.0  # seconds; longer work of a network is announced
DISK = (
    *(errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)
LARGEST_MESSAGE = 200 * 2**20  # bytes: an upload is one message, and the default is 10 MB
IDLE = 120  # seconds after which the kernel of a closed page ends; it holds up to 1 GB


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; bad input is one line on stderr and exit code 2."""
    try:
        app(arguments, prog_name="dtfn")
    except InputError as error:
        message = str(error)
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = error.filename or "the disk"
        message = f"{where}: cannot be written or read: {error.strerror}"
    print(f"dtfn: {message}", file=sys.stderr)
    sys.exit(2)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, Option("--version", help="Print and exit.")] = False) -> None:
    if version:
        print(f"dtfn {__version__}")
        raise Exit


# --- notebooks and reports -------------------------------------------------------------------


@app.command()
def run(
    notebook: Annotated[str, Argument(help="Name or file; with --tier, a run of the plan.")],
    parameter: Settings = None,
    tier: Annotated[str | None, Option(help="Run it with the parameters of this tier.")] = None,
    force: Force = False,
    reports: Reports = None,
    file: File = None,
) -> None:
    """Run one notebook, e.g.: dtfn run 02_benchmark -p scale=4."""
    from dtfn import paths, suite
    from dtfn.reports import page

    reports = (reports or paths.REPORTS).resolve()
    began, visible = time.monotonic(), sys.stderr.isatty()
    clear = "\r\x1b[K" if visible else ""  # the bar of another run that stands in this line
    step = suite.plan(tier, file, [notebook])[0] if tier else notebook
    given = settings(parameter)
    if tier:
        print(f"{clear}{notebook}: started", flush=True)
    try:
        folder = suite.run(step, given, runs=reports / "runs", force=force, progress=visible)
    except suite.NotebookFailed as failure:
        print(f"{clear}{failure}", file=sys.stderr)
        raise Exit(1) from None
    if tier:
        print(f"{clear}{notebook}: {time.monotonic() - began:.0f} s, {folder}", flush=True)
    else:
        page.write_index(reports)
        print(folder)


@app.command()
def plan(
    tier: Tier = "demo", as_json: Json = False, reports: Reports = None, file: File = None
) -> None:
    """Print what a tier runs, and what is up to date."""
    from dtfn import suite

    content = suite.overview(tier, reports, file)
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        print(*(f"{run['name']}: {run['reason']}" for run in content["runs"]), sep="\n")


@app.command()
def reproduce(
    tier: Tier = "demo",
    jobs: Annotated[
        int | None, Option(min=1, help="Runs at a time (default 1, or the profile's).")
    ] = None,
    only: Annotated[list[str] | None, Option(metavar="NAME", help="Run this; repeatable.")] = None,
    force: Force = False,
    reports: Reports = None,
    file: File = None,
    profile: Annotated[
        Path | None, Option(help="Folder of a Snakemake profile: a cluster.")
    ] = None,
) -> None:
    """Run a tier and write reports/index.html.

    What is up to date is not run again. A run that fails is kept, and the others go on. After a
    kill the next call does the rest.
    """
    from dtfn import suite

    where = {"folder": reports, "file": file, "profile": profile}
    failed = suite.reproduce(tier, jobs=jobs, only=only or (), force=force, **where)
    if failed:
        print(f"{len(failed)} failed: {', '.join(failed)}", file=sys.stderr)
        raise Exit(1)


@app.command()
def explore(
    image: Annotated[Path | None, Argument(help="Your picture, taken as the truth.")] = None,
    network: Annotated[
        str | None, Option(help="Network to start with, or FILE.py:function.")
    ] = None,
    lab: Annotated[bool, Option("--lab/--voila", help="Show the notebook in JupyterLab.")] = False,
    port: Annotated[int, Option(help="Port of the server.")] = 8888,
    ip: Annotated[
        str,
        Option(
            help="Address of the server. The default is this machine alone; 0.0.0.0 is every "
            "network of it, and whoever reaches the port can use the page."
        ),
    ] = "127.0.0.1",
    allow_root: Annotated[bool, Option(help="Let JupyterLab run as root, in a container.")] = False,
    browser: Annotated[bool, Option(help="Open a browser.")] = True,
) -> None:
    """Click a texture, and see what attention did to it."""
    from dtfn import paths

    server = "jupyterlab" if lab else "voila"
    if find_spec(server) is None:
        raise InputError(server, "the package", "none", "pip install 'dtfn[notebook]'")
    # The kernel runs in the notebook's folder.
    chosen = {
        name: str(Path(os.environ[name]).expanduser().resolve())
        for name in ("DTFN_DATA", "DTFN_CACHE", "DTFN_REPORTS", "DTFN_WEIGHTS")
        if os.environ.get(name)
    }
    templates = [str(paths.PACKAGE / "explorer" / "jupyter"), os.environ.get("JUPYTER_PATH", "")]
    chosen["JUPYTER_PATH"] = os.pathsep.join(filter(None, templates))
    if image is not None:
        from dtfn import images

        images.read(image)  # refuse here what would else be refused in the page
        chosen["DTFN_EXPLORE"] = str(image.expanduser().resolve())
    if network is not None:
        from dtfn import evaluation, zoo

        evaluation.fingerprint(network)  # the same
        chosen["DTFN_EXPLORE_NETWORK"] = str(zoo.own(network) or network)
    notebook = paths.NOTEBOOKS / "07_explore.ipynb"
    kernels, application = ("Mapping", "ServerApp") if lab else ("Voila", "Voila")
    arguments = [
        *(sys.executable, "-m", server, f"--port={port}", f"--{application}.ip={ip}"),
        f"--{application}.tornado_settings={{'websocket_max_message_size': {LARGEST_MESSAGE}}}",
        f"--{kernels}KernelManager.cull_idle_timeout={IDLE}",
        f"--{kernels}KernelManager.cull_interval={IDLE // 4}",
    ]
    if lab:
        tree = f"--LabApp.default_url=/lab/tree/{notebook.name}"
        arguments += [f"--ServerApp.root_dir={notebook.parent}", tree]
    else:
        arguments += [str(notebook), "--theme=light", "--template=offline"]
    arguments += ["--allow-root"] * (lab and allow_root) + ["--no-browser"] * (not browser)
    # No parent is left that a signal could kill alone.
    os.execve(sys.executable, arguments, os.environ | chosen)


# --- networks --------------------------------------------------------------------------------


class Grey(enum.StrEnum):
    """The rules for grey pictures, as `dtfn.metrics` has them."""

    rgb = "rgb"
    y = "y"


@app.command()
def gate(
    networks: Annotated[list[str], Argument(help="Names, weights files or FILE.py:function.")],
    datasets: Datasets = "Urban100",
    count: Count = None,
    as_json: Json = False,
) -> None:
    """Print whether the attention of networks chooses.

    Printed is what interventions on the attention cost in PSNR (dB). It chooses where equal weights
    for all positions cost at least 0.10 dB at the lower end of the 95 % interval over pictures.
    """
    from dtfn import gate as gates

    table = gates.table(gates.costs(networks, _split(datasets), count))
    if as_json:
        print(table.to_json(orient="records", indent=1))
        return
    costs = [name for name in table if f"{name}_low" in table]
    for row in table.to_dict("records"):
        print(f"{row['name']} on {row['dataset']}, {row['pictures']} pictures: {row['verdict']}")
        print(f"  {'PSNR as trained':<16}{row['psnr']:7.3f} dB; cost of:")
        for cost in costs:
            if math.isnan(row[cost]):  # not of this network
                continue
            failed = cost in str(row.get("off_distribution")).split(", ")
            note = f"; {gates.OFF_DISTRIBUTION}" if failed else ""
            interval = f"[{row[f'{cost}_low']:+.3f}, {row[f'{cost}_high']:+.3f}]"
            print(f"  {cost.replace('_', ' '):<16}{row[cost]:+7.3f} dB {interval}{note}")


@app.command()
def evaluate(
    methods: Annotated[list[str], Argument(help="bicubic, names, weights or FILE.py:function.")],
    datasets: Datasets = "mini",
    scale: Scale = 4,
    count: Count = None,
    csv: Annotated[Path | None, Option(help="Write a CSV row for every picture.")] = None,
    chop: Annotated[bool, Option("--chop", help="Cut pictures as the authors' --chop.")] = False,
    tile: Annotated[int | None, Option(help="LR pixels a side of a tile.")] = None,
    overlap: Annotated[int, Option(help="LR pixels that neighbouring tiles share.")] = 16,
    memory: Annotated[str | None, Option(help="Tile what would take more, e.g. 8GB.")] = None,
    self_ensemble: Annotated[bool, Option("--self-ensemble", help="Average over 8 flips.")] = False,
    device: Annotated[str, Option(help="Device: cpu, cuda or auto.")] = "cpu",
    grey: Annotated[Grey, Option(help="Read grey pictures as RGB, or as Y itself.")] = Grey.rgb,
    rounded: Annotated[bool, Option("--round-y", help="Round Y first, as some tables do.")] = False,
) -> None:
    """Print PSNR and SSIM of networks on benchmarks.

    Printed are the means of PSNR (dB) and SSIM on Y with a border of SCALE left out. Slow work is
    announced on stderr before it starts.
    """
    from dtfn import cache, evaluation, files, metrics, tiling
    from dtfn.reports import tables

    if chop and tile is not None:
        raise InputError("tiling", "one of --chop and --tile", "both", "leave one out")
    text = "chop" if chop else memory or "whole"
    cut = tiling.way(text) if tile is None else tiling.Tiling(tile, overlap)
    if csv is not None:
        _require_place(csv)
    sets = _split(datasets)
    how: dict[str, Any] = {"tiling": cut, "self_ensemble": self_ensemble, "device": device}
    for row in evaluation.forecast(methods, sets, scale, count, **how).itertuples():
        if memory is not None and row.memory * 2**20 > cache.size(memory, "--memory"):
            wanted = f"about {row.memory:.0f} MB for {row.method}"
            remedy = "choose smaller tiles, or only --memory, which chooses their size"
            raise InputError("--memory", wanted, memory, remedy)
        if row.seconds >= SLOW:
            cost = f"about {row.seconds / 60:.1f} min and {row.memory:.0f} MB"
            work = f"{row.pictures} pictures in {row.tiles} runs"
            print(f"{row.method}: {cost} for {work}", file=sys.stderr)
    table = evaluation.evaluate(
        methods, sets, scale, count, grey=grey.value, rounded=rounded, **how
    )
    if csv is not None:
        files.write(csv, table.to_csv(index=False))
    print(tables.markdown(evaluation.summary(table)), end="")
    print(metrics.GREY[grey.value])
    given = ", ".join(table.loc[table["lr"] == "file", "dataset"].unique())
    print(f"LR: read from files for {given or 'none'}, else made from HR by MATLAB's bicubic rule")


@app.command()
def audit(
    hr: Annotated[Path, Option(help="Folder of the true pictures.")],
    with_: Annotated[str, Option("--with", help="Results A, with attention: folder or network.")],
    without: Annotated[str, Option("--without", help="Results B, without it: folder or network.")],
    out: Annotated[Path | None, Option(help="Folder for numbers (default reports/audit).")] = None,
    control: Annotated[
        list[str] | None,
        Option("--control", "--null", help="Like B, of another training seed; repeatable."),
    ] = None,
    scale: Scale = 4,
    report: Annotated[bool, Option(help="Run the notebook with figures and verdicts.")] = True,
) -> None:
    """Measure harm of anybody's results, in folders.

    Results A are compared with results B; names such as baby_RCAN_x4.png are matched.
    """
    from dtfn import audit as audits
    from dtfn import paths, suite
    from dtfn.reports import page, tables
    from dtfn.results import folder_of

    out = out or paths.REPORTS / "audit"
    _require_place(out / "summary.json")
    results = [folder_of(g, hr, scale, out) for g in (with_, without, *(control or []))]
    a, b, *controls = results
    summary, found = audits.audit(hr, a, b, scale, out, controls)
    for note in summary["notes"]:
        print(f"note: {note}")
    how = f"{summary['images']} images x{scale}, Y, a border of {scale} pixels left out"
    print(f"{how}; in brackets: 95 % interval over images")
    forms = {"psnr": "{:.3f}", "gain": "{:+.3f}", "change": "{:+.2f} %"}
    for table in (found.psnr(), found.beyond()):
        print(tables.markdown(table, forms=forms))
    for verdict in found.verdicts():
        row = verdict.row()
        ends = "" if verdict.interval is None else f" [{row['95 % interval']}]"
        print(f"{row['claim']}: {row['holds']}; {row['measured']}{ends}")
    print(out / "summary.json")
    if report and not find_spec("papermill"):
        print("no report with figures: `pip install 'dtfn[notebook]'` brings what it takes")
    elif report:
        given = {"folders": [str(f.resolve()) for f in (hr, *results)], "scale": scale}
        try:
            suite.run("09_audit", given, runs=out / "runs", progress=sys.stderr.isatty())
        except suite.NotebookFailed as failure:
            print(failure, file=sys.stderr)
            raise Exit(1) from None
        print(page.write_index(out))


@app.command()
def train(
    names: Annotated[list[str], Argument(help="Recipes: scratch-nla-x4-s0, nla-x4-s0, ...")],
    out: Annotated[Path, Option(help="Folder for weights, log and checkpoints.")],
    parameter: Settings = None,
    resume: Annotated[bool, Option(help="Continue from the folder's checkpoint.")] = False,
    side_by_side: Annotated[bool, Option("--side-by-side", help="All at once on one GPU.")] = False,
    minutes: Annotated[
        float | None, Option(help="Side by side: fewer steps, to end in time.")
    ] = None,
    keep_every: Annotated[int, Option(help="Side by side: steps between kept weights.")] = 0,
    accelerator: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[int, Option(help="Processes or GPUs a node.")] = 1,
    nodes: Annotated[int, Option("--num-nodes", "--nodes", help="Machines.")] = 1,
    strategy: Annotated[str, Option(help="auto, ddp or fsdp.")] = "auto",
    precision: Annotated[str | None, Option(help="E.g. bf16-mixed or 32-true.")] = None,
    accumulate: Annotated[int, Option(help="Parts of a batch, to save memory.")] = 1,
    threads: Threads = 0,
    compiled: Annotated[bool, Option("--compile", help="Use torch.compile.")] = False,
    tensorboard: Annotated[bool, Option("--tensorboard", help="Also log to it.")] = False,
) -> None:
    """Train networks by their recipes.

    -p changes a field of the recipe, e.g. -p steps=1000.
    """
    from dtfn import recipes

    changes = settings(parameter)
    chosen = {name: recipes.preset(name, **changes) for name in names}
    how: dict[str, Any] = {"accelerator": accelerator, "resume": resume}
    if side_by_side:
        from dtfn.side_by_side import train_together

        print(*train_together(chosen, out, minutes=minutes, keep_every=keep_every, **how), sep="\n")
        return
    if len(chosen) > 1:
        remedy = "add --side-by-side to train them at once on one GPU"
        raise InputError(
            "recipes", "one, or several with --side-by-side", ", ".join(chosen), remedy
        )
    from dtfn import training

    how |= {"devices": devices, "num_nodes": nodes, "strategy": strategy, "precision": precision}
    how |= {"accumulate": accumulate, "threads": threads}
    how |= {"compiled": compiled, "tensorboard": tensorboard}
    print(training.train(chosen[names[0]], out, **how))


@app.command()
def bench(
    sizes: Annotated[str, Option(help="LR sizes of the full-size networks.")] = "48,96,192",
    threads: Threads = 0,
    device: Annotated[str, Option(help="cpu, cuda or auto.")] = "cpu",
) -> None:
    """Print how near the networks run to this machine's limit.

    It takes minutes and needs a quiet machine.
    """
    from dtfn import bench
    from dtfn.reports import tables

    table = bench.table(tuple(int(size) for size in sizes.split(",")), threads, device)
    print(tables.markdown(table), end="")


def _split(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _require_place(file: Path) -> None:
    """Check, before the work, that a file can be written; make its folder."""
    import tempfile

    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=file.parent):
        pass
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder", file)


app.add_typer(store.report_app, name="report")
app.add_typer(store.cache_app, name="cache")
app.add_typer(store.zoo_app, name="zoo")
app.add_typer(store.weights_app, name="weights")
app.add_typer(store.data_app, name="data")
