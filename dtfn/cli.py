"""The command line. Modules are imported when a command first uses them: ``--help`` is instant."""

import errno
import json
import os
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Context, Exit, Option, Typer, confirm

import dtfn
from dtfn.errors import InputError, NotebookFailed, require_known

app = Typer(
    name="dtfn",
    help="Where non-local attention harms textures in single-image super-resolution.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # importing rich would take longer than the rest
    pretty_exceptions_enable=False,
)


def _group(name: str, text: str) -> Typer:
    group = Typer(help=text, no_args_is_help=name != "report", rich_markup_mode=None)
    app.add_typer(group, name=name)
    return group


report_app = _group("report", "Write the index again.")
cache_app = _group("cache", "What networks made, kept on disk.")
zoo_app = _group("zoo", "The trained networks of the package.")
weights_app = _group("weights", "Your own checkpoints of EDSR, NLN, NLSN, DLSN, HSPAN or DTFN.")
data_app = _group("data", "Pictures: what there is, and how to get it.")

Count = Annotated[int | None, Option(help="Number of pictures of each benchmark (default all).")]
Datasets = Annotated[str, Option(help="Names of benchmarks, with commas.")]
File = Annotated[Path | None, Option("--plan", help="Your own plan, not notebooks/suite.yaml.")]
Force = Annotated[bool, Option("--force", help="Run again what is up to date.")]
Scale = Annotated[int, Option(help="Scale: 2, 3 or 4.")]
Threads = Annotated[int, Option(help="CPU threads; 0 leaves torch's choice.")]
Tier = Annotated[str, Option(help="smoke (seconds), demo (minutes), bench or paper (full size).")]
Json = Annotated[bool, Option("--json", help="Print JSON.")]
Reports = Annotated[Path | None, Option(help="Folder of the report (default reports/).")]
Run = Annotated[str, Argument(help="Folder or name of a run; or a notebook's newest, NAME~1.")]
_SETTING = Option("-p", "--parameter", metavar="NAME=VALUE", help="Repeatable.")
Settings = Annotated[list[str] | None, _SETTING]

CLEAR = "\r\x1b[K" if sys.stderr.isatty() else ""  # the bar of another run that stands in a line
LARGEST_MESSAGE = 200 * 2**20  # bytes: an upload is one message, and the default is 10 MB
IDLE = 120  # seconds after which the kernel of a closed page ends; it holds up to 1 GB


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; bad input is one line on stderr and exit code 2, a failed run 1."""
    try:
        app(arguments, prog_name="dtfn")
    except NotebookFailed as error:
        print(f"{CLEAR}{error}", file=sys.stderr)
        sys.exit(1)
    except InputError as error:
        message = str(error)
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if isinstance(error, FileNotFoundError) or not (is_full or error.filename):
            raise  # ours to mend, with its traceback
        message = f"{error.filename or 'disk'}: cannot be written or read: {error.strerror}"
    print(f"dtfn: {message}", file=sys.stderr)
    sys.exit(2)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, Option("--version", help="Print and exit.")] = False) -> None:
    if version:
        print(f"dtfn {dtfn.__version__}")
        raise Exit


@app.command()
def run(
    notebook: Annotated[str, Argument(help="Name or file; with --tier, a run of the plan.")],
    parameter: Settings = None,
    tier: Annotated[str | None, Option(help="Run it with the parameters of this tier.")] = None,
    force: Force = False,
    reports: Reports = None,
    file: File = None,
    listed: Annotated[bool, Option("--parameters", help="List them, and run nothing.")] = False,
) -> None:
    """Run one notebook, e.g.: dtfn run 02_benchmark -p scale=4.

    Printed is the page with its result.
    """
    from dtfn.reports import page

    if listed:
        print(dtfn.parameters.cell(dtfn.suite.find(notebook)))
        return
    reports = (reports or dtfn.paths.REPORTS).resolve()
    make = partial(dtfn.suite.run, given=settings(parameter), runs=reports / "runs", force=force)
    if not tier:
        folder = make(notebook)
        page.write_index(reports)
        print(next(folder.glob("*.html")))
        return
    began, (step,) = time.monotonic(), dtfn.suite.plan(tier, file, [notebook])
    print(f"{CLEAR}{notebook}: started", flush=True)
    folder = make(step)
    print(f"{CLEAR}{notebook}: {time.monotonic() - began:.0f} s, {folder}", flush=True)


@app.command()
def plan(
    tier: Tier = "demo", as_json: Json = False, reports: Reports = None, file: File = None
) -> None:
    """Print what a tier runs, and what is up to date."""
    content = dtfn.suite.overview(tier, reports, file)
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        print(*(f"{run['name']}: {run['reason']}" for run in content["runs"]), sep="\n")


@app.command()
def reproduce(
    tier: Tier = "demo",
    jobs: Annotated[int | None, Option(min=1, help="Runs at a time (default 1).")] = None,
    only: Annotated[list[str] | None, Option(metavar="NAME", help="Run this; repeatable.")] = None,
    force: Force = False,
    reports: Reports = None,
    file: File = None,
    profile: Annotated[Path | None, Option(help="Folder of a Snakemake profile.")] = None,
) -> None:
    """Run a tier and write reports/index.html.

    What is up to date is not run again. A run that fails is kept, and the others go on. After a
    kill the next call does the rest.
    """
    where = {"folder": reports, "file": file, "profile": profile}
    failed = dtfn.suite.reproduce(tier, jobs=jobs, only=only or (), force=force, **where)
    if failed:
        print(f"{len(failed)} failed: {', '.join(failed)}", file=sys.stderr)
        raise Exit(1)


@app.command()
def explore(
    image: Annotated[Path | None, Argument(help="Your picture, taken as the truth.")] = None,
    network: Annotated[str | None, Option(help="Network, or FILE.py:function.")] = None,
    lab: Annotated[bool, Option("--lab/--voila", help="Show the notebook in JupyterLab.")] = False,
    port: Annotated[int, Option(help="Port of the server.")] = 8888,
    ip: Annotated[str, Option(help="Address; 0.0.0.0 lets every machine in.")] = "127.0.0.1",
    allow_root: Annotated[bool, Option(help="Let JupyterLab run as root, in a container.")] = False,
    browser: Annotated[bool, Option(help="Open a browser.")] = True,
) -> None:
    """Click a texture, and see what attention did to it."""
    server = "jupyterlab" if lab else "voila"
    if find_spec(server) is None:
        raise InputError(server, "the package", "none", "pip install 'dtfn[notebook]'")
    # The kernel runs in the notebook's folder.
    folders = {"DATA": dtfn.paths.data_root(), "CACHE": dtfn.paths.CACHE}
    folders |= {"REPORTS": dtfn.paths.REPORTS, "WEIGHTS": dtfn.paths.WEIGHTS}
    chosen = {f"DTFN_{name}": str(folder) for name, folder in folders.items()}
    templates = [str(dtfn.paths.PACKAGE / "explorer" / "jupyter"), os.environ.get("JUPYTER_PATH")]
    chosen["JUPYTER_PATH"] = os.pathsep.join(filter(None, templates))
    if image is not None:
        dtfn.images.read(image)  # refuse here what would else be refused in the page
        chosen["DTFN_EXPLORE"] = str(image.expanduser().resolve())
    if network is not None:
        dtfn.methods.fingerprint(network)  # the same
        if own := dtfn.zoo.own(network):
            dtfn.methods.network(f"{network}@uniform")
        chosen["DTFN_EXPLORE_NETWORK"] = str(own or network)
    notebook = dtfn.paths.NOTEBOOKS / "07_explore.ipynb"
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


@app.command()
def gate(
    networks: Annotated[list[str], Argument(help="Names, weights files or FILE.py:function.")],
    datasets: Datasets = "Urban100",
    count: Count = None,
    as_json: Json = False,
) -> None:
    """Print whether the attention of networks chooses.

    Printed are PSNR and what interventions on the attention cost of it (dB), with 95 % intervals
    over pictures. It chooses where equal weights for all positions (uniform) cost enough at the
    lower end: 0.10 dB, or 0.05 dB after training with attention on and off. It does not choose
    where they cost less at the upper end. Otherwise, and on few pictures, it is open.
    """
    table = dtfn.gate.table(dtfn.gate.costs(networks, _split(datasets), count))
    if as_json:
        print(table.to_json(orient="records", indent=1))
    else:
        print("PSNR as trained (dB), and what it costs to change the attention (dB; + is a loss)")
        shown = dtfn.reports.tables.printed(table.drop(columns=["few", "chooses"]))
        print(shown.T.to_string(header=False))


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
    grey: Annotated[str, Option(help="Take grey pictures as rgb, or as y itself.")] = "rgb",
    rounded: Annotated[bool, Option("--round-y", help="Round Y first, as some tables do.")] = False,
) -> None:
    """Print PSNR and SSIM of networks on benchmarks.

    Printed are the means of PSNR (dB) and SSIM on Y with a border of SCALE left out. Slow work is
    announced on stderr before it starts.
    """
    require_known(grey, dtfn.subpixel.GREY, "--grey")
    if sum([chop, tile is not None, memory is not None]) > 1:
        wanted = "one of --chop, --tile and --memory"
        raise InputError("tiling", wanted, "several", "--memory alone chooses the size of tiles")
    text = "chop" if chop else memory or "whole"
    cut = dtfn.tiling.way(text) if tile is None else dtfn.tiling.Tiling(tile, overlap)
    if csv is not None:
        _require_place(csv)
    sets = _split(datasets)
    how: dict[str, Any] = {"tiling": cut, "self_ensemble": self_ensemble, "device": device}
    for row in dtfn.evaluation.forecast(methods, sets, scale, count, **how).itertuples():
        if row.seconds >= 30:
            cost = f"about {row.seconds / 60:.1f} min and {row.memory:.0f} MB for "
            work = f"{row.pictures} pictures in {row.tiles} runs"
            print(f"{row.method}: {cost}{work}", file=sys.stderr)
    how |= {"grey": grey, "rounded": rounded}
    table = dtfn.evaluation.evaluate(methods, sets, scale, count, **how)
    if csv is not None:
        dtfn.files.write(csv, table.to_csv(index=False))
    print(dtfn.reports.tables.markdown(dtfn.evaluation.summary(table)), end="")
    print(dtfn.subpixel.GREY[grey])
    given = ", ".join(table.loc[table["lr"] == "file", "dataset"].unique())
    print(f"LR: read from files for {given or 'none'}, else made from HR by MATLAB's bicubic rule")


@app.command()
def audit(
    hr: Annotated[Path, Option(help="Folder of the true pictures.")],
    with_: Annotated[str, Option("--with", help="Results A, with attention: folder or network.")],
    without: Annotated[str, Option("--without", help="Results B, without it: folder or network.")],
    out: Annotated[Path | None, Option(help="Folder for numbers (default reports/audit).")] = None,
    control: Annotated[
        list[str] | None, Option("--control", "--null", help="Like B, another seed; repeatable.")
    ] = None,
    scale: Scale = 4,
    report: Annotated[bool, Option(help="Run the notebook with figures and verdicts.")] = True,
) -> None:
    """Measure harm of anybody's results, in folders.

    Results A are compared with results B; names such as baby_RCAN_x4.png are matched.
    """
    import pandas as pd

    from dtfn.reports import page

    out = out or dtfn.paths.REPORTS / "audit"
    _require_place(out / "summary.json")
    results = dtfn.audit.folders_of([with_, without, *(control or [])], hr, scale, out)
    summary, found = dtfn.audit.audit([hr, *results], scale, out)
    for note in summary["notes"]:
        print(f"note: {note}")
    how = f"{summary['images']} images x{scale}, Y, a border of {scale} pixels left out"
    print(f"{how}; in brackets: 95 % interval over images")
    forms = {"psnr": "{:.3f}", "gain": "{:+.3f}", "change": "{:+.2f} %"}
    verdicts = pd.DataFrame(verdict.row() for verdict in found.verdicts())
    for table in (found.psnr(), found.beyond(), verdicts):
        print(dtfn.reports.tables.markdown(table, forms=forms))
    print(out / "summary.json")
    if report and not find_spec("papermill"):
        print("no report with figures: `pip install 'dtfn[notebook]'` brings what it takes")
    elif report:
        values = {"folders": [str(f.resolve()) for f in (hr, *results)], "scale": scale}
        values |= {"methods": [], "datasets": []}
        dtfn.suite.run("09_audit", values, runs=out / "runs")
        print(page.write_index(out))


@app.command()
def train(
    names: Annotated[list[str], Argument(help="Recipes: scratch-nla-x4-s0, nla-x4-s0, ...")],
    out: Annotated[Path, Option(help="Folder for weights, log and checkpoints.")],
    parameter: Settings = None,
    resume: Annotated[bool, Option(help="Continue from the folder's checkpoint.")] = False,
    side_by_side: Annotated[bool, Option("--side-by-side", help="One GPU, into OUT/NAME.")] = False,
    minutes: Annotated[float | None, Option(help="Side by side: take fewer steps.")] = None,
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
    chosen = {name: dtfn.recipes.preset(name, **settings(parameter)) for name in names}
    how: dict[str, Any] = {"accelerator": accelerator, "resume": resume}
    if side_by_side:
        how |= {"minutes": minutes, "keep_every": keep_every}
        print(*dtfn.training.train_together(chosen, out, **how), sep="\n")
        return
    if len(chosen) > 1:
        remedy = "add --side-by-side to train them at once on one GPU"
        raise InputError("recipes", "one", ", ".join(chosen), remedy)
    how |= {"devices": devices, "num_nodes": nodes, "strategy": strategy, "precision": precision}
    how |= {"accumulate": accumulate, "threads": threads, "compiled": compiled}
    print(dtfn.training.train(chosen[names[0]], out, tensorboard=tensorboard, **how))


@app.command()
def bench(
    sizes: Annotated[str, Option(help="LR sizes of the full-size networks.")] = "48,96,192",
    threads: Threads = 0,
    device: Annotated[str, Option(help="cpu, cuda or auto.")] = "cpu",
) -> None:
    """Print how near the networks run to this machine's limit.

    It takes minutes and needs a quiet machine.
    """
    sides = _split(sizes)
    if not sides or not all(side.isdigit() and int(side) for side in sides):
        raise InputError("--sizes", "numbers such as 48,96", repr(sizes), "write such numbers")
    table = dtfn.bench.table(tuple(map(int, sides)), threads, device)
    print(dtfn.reports.tables.markdown(table), end="")


def _split(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _require_place(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = not file.exists()
    file.open("a").close()
    if new:
        file.unlink()


def settings(given: list[str] | None) -> dict[str, str]:
    """Split ``["scale=4"]`` into ``{"scale": "4"}``; `InputError` for another form."""
    pairs = [text.partition("=") for text in given or []]
    for name, sign, value in pairs:
        if not sign or not name:
            raise InputError("-p", "NAME=VALUE", repr(name + sign + value), "write e.g. -p scale=4")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _listing(rows: list[Any], shown: list[dict[str, Any]], as_json: bool) -> None:
    import pandas as pd

    if as_json:
        print(json.dumps(rows, indent=1))
    elif shown:
        frame = dtfn.reports.tables.printed(pd.DataFrame(shown))
        print(frame.set_index("name").rename_axis(None).rename_axis("name", axis=1).to_string())


@report_app.callback(invoke_without_command=True)
def _report(context: Context, reports: Reports = None) -> None:
    """Write reports/index.html again from the runs that are there."""
    from dtfn.reports import page

    if context.invoked_subcommand is None:
        print(page.write_index(reports or dtfn.paths.REPORTS))


@report_app.command("list")
def _list_runs(reports: Reports = None) -> None:
    """List the runs, oldest first."""
    for folder, run in dtfn.reports.finished((reports or dtfn.paths.REPORTS) / "runs").items():
        print(f"{folder.parent.name}  {folder.name}  {run['status']}")


@report_app.command("compare")
def _compare_runs(
    before: Run,
    after: Run,
    reports: Reports = None,
    most: Annotated[int, Option(help="Number of differences that are printed.")] = 20,
) -> None:
    """Print which numbers differ between two runs.

    The exit code is 1 if any does.
    """
    folder = (reports or dtfn.paths.REPORTS) / "runs"
    first, second = (dtfn.reports.find(run, folder) for run in (before, after))
    summary, numbers, words = dtfn.reports.compare(first, second)
    print(f"{first} -> {second}: {summary}")
    for frame in (words, numbers[:most]):
        if len(frame):
            print(dtfn.reports.tables.markdown(frame), end="")
    if len(numbers) > most:
        print(f"and {len(numbers) - most} more")
    if len(numbers) or len(words):
        raise Exit(1)


@cache_app.command("show")
def _show_cache() -> None:
    """Print where the cache is, what it holds and what it may hold (DTFN_CACHE_LIMIT)."""
    with dtfn.cache.opened() as store:
        entries, size = len(store), store.volume() if store else 0
    sizes = f"{size / 2**20:.1f} of {dtfn.cache.limit() / 2**20:.1f} MB"
    print(f"{dtfn.paths.CACHE / 'outputs'}: {entries} outputs and maps, {sizes}")


@cache_app.command("clear")
def _clear_cache() -> None:
    """Remove the outputs; networks are then run again where these are asked for."""
    with dtfn.cache.opened() as store:
        print(f"{store.clear() or 0} removed")  # a dict, where there is no store, says nothing


@zoo_app.command("list")
def _list_zoo(as_json: Json = False) -> None:
    """List the networks."""
    rows = [row | {"gate": row.get("gate")} for row in dtfn.zoo.registry()]
    keys = ("name", "variant", "scale", "seed", "parameters", "gate")
    means = ({f"{n} {of}": row[of][n] for of in ("psnr", "ssim") for n in row[of]} for row in rows)
    shown = [{k: row[k] for k in keys} | more for row, more in zip(rows, means, strict=True)]
    _listing(rows, shown, as_json)


@zoo_app.command("show")
def _show_network(
    name: Annotated[str, Argument(help="A name of `dtfn zoo list`.")], as_json: Json = False
) -> None:
    """Print the card of a network, or its entry as JSON."""
    known = {row["name"]: row for row in dtfn.zoo.registry()}
    require_known(name, known, "network", "a name of the zoo")
    card = (dtfn.paths.ZOO / f"{name}.md").read_text(encoding="utf-8").rstrip()
    print(json.dumps(known[name], indent=1) if as_json else card)


@zoo_app.command("verify")
def _verify_zoo() -> None:
    """Compare the weights with the registry's SHA-256."""
    wrong = "; ".join(dtfn.zoo.verify())
    if wrong:
        remedy = "restore data/zoo, e.g. with `git checkout data/zoo`"
        raise InputError(dtfn.paths.ZOO, "the shipped files", wrong, remedy)
    for row in dtfn.zoo.registry():
        print(f"{row['name']}: ok")


@weights_app.command("import")
def _import_weights(
    file: Annotated[Path, Argument(help="A .pt, .pth or .safetensors file.")],
    name: Annotated[str | None, Option(help="Its name (default e.g. dtfn-x4).")] = None,
    parameter: Settings = None,
    replace: Annotated[bool, Option("--replace", help="Replace others of this name.")] = False,
) -> None:
    """Recognise a checkpoint, check it strictly, and keep it under a name, for every command.

    -p gives a value that the weights do not show.
    """
    entry = dtfn.models.import_weights(file, name, settings(parameter), replace)
    texts = {key: f"{key} {value}" for key, value in entry["hyperparameters"].items()}
    assumed = ", ".join(texts.pop(key) for key in entry["assumed"])
    what = f"{entry['network']} x{entry['scale']}, {entry['parameters']:,} parameters"
    print(f"{entry['name']}: {what}, from {entry['source']}")
    print(f"  shown by its weights or given: {', '.join(texts.values())}")
    if assumed:
        print(f"  assumed, as in the authors' code: {assumed} (change with -p)")
    print("  loaded strictly, and its output of a small image is finite")


@weights_app.command("list")
def _list_weights(as_json: Json = False) -> None:
    """List the imported weights."""
    rows = dtfn.zoo.imported()
    keys = ("name", "network", "scale", "parameters", "source")
    _listing(rows, [{key: row[key] for key in keys} for row in rows], as_json)


@data_app.command("list")
def _list_data(as_json: Json = False) -> None:
    """List the sets: what is here, how large each is, and on what terms."""
    import pandas as pd

    known = dtfn.download.catalogue().values()
    keys = ["name", "aliases", "groups", "about", "bytes", "present", "state", "terms", "by_hand"]
    rows = [{key: getattr(s, key) for key in [*keys, "folder"]} | {"files": s.count} for s in known]
    if as_json:
        print(json.dumps(rows, indent=1, default=str))
        return
    print(f"{'set':<26}{'files':>6}{'MB':>6}  {'here':<18}content")
    for s in known:
        size = round(s.bytes / 1e6) or "?"
        print(f"{s.name:<26}{s.count or '?':>6}{size:>6}  {s.state:<18}{s.about}")
    table = pd.DataFrame(rows).replace("", None)
    for key, title in {"terms": "Terms", "by_hand": "By hand", "groups": "Groups"}.items():
        print(f"\n{title}")
        for text, names in table.explode(key).groupby(key, sort=False)["name"]:
            print(f"  {', '.join(names)}: {text}")
    benchmarks, training = dtfn.paths.data_root(), dtfn.paths.training_root()
    print(f"\nBenchmarks are in {benchmarks}, training sets in {training}")


@data_app.command("fetch")
def _fetch_data(
    names: Annotated[list[str], Argument(help="Sets or groups; see `dtfn data list`.")],
    yes: Annotated[bool, Option("--yes", help="Accept the terms of all of them.")] = False,
    jobs: Annotated[int, Option(min=1, help="Downloads at a time.")] = 8,
    mirror: Annotated[
        list[str] | None, Option(metavar="URL", help="A copy of a data folder; repeatable.")
    ] = None,
) -> None:
    """Download what is missing of sets, check it, and put it where the suite looks for it."""
    sets = dtfn.download.chosen(names)

    def agree(text: str, of: list[str]) -> bool:
        print(f"{', '.join(of)}: {text}")
        return yes or (sys.stdin.isatty() and confirm("Do you accept?"))

    dtfn.download.fetch(sets, agree, mirrors=mirror or (), jobs=jobs)
    for source in sets:
        print(f"{source.name}: {source.state} in {source.folder}")
    if checked := [source.name for source in sets if source.pictures]:
        _verify_data(checked)


@data_app.command("verify")
def _verify_data(
    names: Annotated[list[str] | None, Argument(help="Sets or groups (default: all here).")] = None,
) -> None:
    """Compare every file with its SHA-256, and what it decodes to with the known pixels."""
    sets = dtfn.download.chosen(names or dtfn.download.catalogue())
    if not names:
        sets = [source for source in sets if source.pictures and source.present]
    faults = 0
    for source in sets:
        wrong = [f"{file}: {fault}" for file, fault in dtfn.download.verify(source)]
        print("\n".join(wrong) or f"{source.name}: {len(source.pictures)} files ok")
        faults += len(wrong)
    if faults or not sets:
        wanted = "pictures as listed" if sets else "some set of pictures"
        remedy = "move away what is wrong, then run `dtfn data fetch`"
        raise InputError("data", wanted, f"{faults} faults" if sets else "none", remedy)
