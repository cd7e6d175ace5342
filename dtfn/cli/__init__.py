"""The command line. Every command imports what it needs itself, so that ``--help`` is instant."""

from __future__ import annotations

import enum
import errno
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from dtfn import __version__
from dtfn.cli import explore as cli_explore
from dtfn.cli import store
from dtfn.cli import suite as cli_suite
from dtfn.cli.suite import Settings, settings
from dtfn.errors import InputError

app = typer.Typer(
    name="dtfn",
    help="Where non-local attention harms textures in single-image super-resolution.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # importing rich would take longer than the rest
    pretty_exceptions_enable=False,
)
# Short helps fit a line of the list of commands.
app.command(short_help="Run one notebook.")(cli_suite.run)
app.command(short_help="Print what a tier runs, and what is up to date.")(cli_suite.plan)
app.command(short_help="Run a tier and write reports/index.html.")(cli_suite.reproduce)
app.command(short_help="Click a texture: what did attention do to it?")(cli_explore.explore)
app.add_typer(cli_suite.report_app, name="report", short_help="Write the index again.")
app.add_typer(store.cache_app, name="cache", short_help="What networks made, kept on disk.")
app.command(short_help="Print whether the attention of networks chooses.")(store.gate)
app.add_typer(store.zoo_app, name="zoo")
app.add_typer(store.weights_app, name="weights")
app.add_typer(store.data_app, name="data", short_help="Pictures: what there is, and how to get it.")

Scale = Annotated[int, typer.Option(help="Scale: 2, 3 or 4.")]

SLOW = 30.0  # seconds; longer work of a network is announced
DISK = (
    *(errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG),
    errno.ENAMETOOLONG,
)


class Grey(enum.StrEnum):
    """The rules for grey pictures, as `dtfn.metrics` has them."""

    rgb = "rgb"
    y = "y"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dtfn {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print and exit.")
    ] = False,
) -> None:
    pass


@app.command(short_help="Print PSNR and SSIM of networks on benchmarks.")
def evaluate(
    methods: Annotated[
        list[str],
        typer.Argument(help="bicubic, names of the zoo, weights files or FILE.py:function."),
    ],
    datasets: Annotated[str, typer.Option(help="Names of benchmarks, with commas.")] = "mini",
    scale: Scale = 4,
    count: Annotated[
        int | None, typer.Option(help="Number of pictures of each benchmark (default all).")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write a CSV file with a row for every picture.")
    ] = None,
    chop: Annotated[
        bool, typer.Option("--chop", help="Cut pictures as the authors' --chop does.")
    ] = False,
    tile: Annotated[int | None, typer.Option(help="LR pixels a side of a tile.")] = None,
    overlap: Annotated[int, typer.Option(help="LR pixels that neighbouring tiles share.")] = 16,
    memory: Annotated[
        str | None, typer.Option(help="Tile the pictures that would take more, e.g. 8GB.")
    ] = None,
    self_ensemble: Annotated[
        bool, typer.Option("--self-ensemble", help="Average over 8 flips and turns.")
    ] = False,
    device: Annotated[str, typer.Option(help="Device: cpu, cuda or auto.")] = "cpu",
    grey: Annotated[
        Grey, typer.Option(help="Read grey pictures as RGB, or take them as Y (classical tables).")
    ] = Grey.rgb,
    rounded: Annotated[
        bool, typer.Option("--round-y", help="Round Y first, as some published tables do.")
    ] = False,
) -> None:
    """Print mean PSNR (dB) and SSIM on Y with a border of SCALE left out.

    Slow work is announced on stderr before it starts.
    """
    from dtfn import evaluation, files, metrics
    from dtfn.reports import tables

    cut = _tiling(chop, tile, overlap, memory)
    if csv is not None:
        _require_place(csv)
    sets = [name for text in datasets.split(",") if (name := text.strip())]
    how: dict[str, Any] = {"tiling": cut, "self_ensemble": self_ensemble, "device": device}
    for row in evaluation.forecast(methods, sets, scale, count, **how).to_dict("records"):
        _announce(row, memory)
    table = evaluation.evaluate(
        methods, sets, scale, count, grey=grey.value, rounded=rounded, **how
    )
    if csv is not None:
        files.write(csv, table.to_csv(index=False))
    print(tables.markdown(evaluation.summary(table)), end="")
    print(metrics.GREY[grey.value])
    given = ", ".join(table.loc[table["lr"] == "file", "dataset"].unique())
    print(f"LR: read from files for {given or 'none'}, else made from HR by MATLAB's bicubic rule")


@app.command(short_help="Measure harm of anybody's results, in folders.")
def audit(
    hr: Annotated[Path, typer.Option(help="Folder of the true pictures.")],
    with_: Annotated[
        str, typer.Option("--with", help="Folder of results A, e.g. with attention; or a network.")
    ],
    without: Annotated[
        str, typer.Option("--without", help="Folder of results B, without it; or a network.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for summary.json and images.csv (default reports/audit)."),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            "--control",
            "--null",
            help="Folder of results like B (or a network) of another training seed, to show what "
            "chance does; repeatable.",
        ),
    ] = None,
    scale: Scale = 4,
    report: Annotated[
        bool, typer.Option(help="Run the notebook with figures, regions and verdicts.")
    ] = True,
) -> None:
    """Compare results A with results B; names such as baby_RCAN_x4.png are matched."""
    from dtfn import audit as audits
    from dtfn import paths
    from dtfn.reports import tables
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
    if report:
        folders = [str(folder.resolve()) for folder in (hr, *results)]
        _audit_report(folders, scale, out)


@app.command(short_help="Train networks by their recipes.")
def train(
    names: Annotated[
        list[str], typer.Argument(help="Recipes: scratch-nla-x4-s0, nla-x4-s0, demo-nla-x4-s0, ...")
    ],
    out: Annotated[Path, typer.Option(help="Folder for weights, log and checkpoints.")],
    parameter: Settings = None,
    resume: Annotated[bool, typer.Option(help="Continue from the folder's checkpoint.")] = False,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Train all at once on one GPU, in OUT/NAME.")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(help="With --side-by-side: lower the steps to end in time.")
    ] = None,
    keep_every: Annotated[
        int, typer.Option(help="With --side-by-side: keep the weights of every so many steps.")
    ] = 0,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[int, typer.Option(help="Processes or GPUs a node.")] = 1,
    nodes: Annotated[int, typer.Option("--num-nodes", "--nodes", help="Machines.")] = 1,
    strategy: Annotated[str, typer.Option(help="auto, ddp or fsdp.")] = "auto",
    precision: Annotated[str | None, typer.Option(help="E.g. bf16-mixed or 32-true.")] = None,
    accumulate: Annotated[int, typer.Option(help="Parts of a batch, to save memory.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's choice.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes that cut patches.")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also log to it.")] = False,
) -> None:
    """Train a network by a recipe; -p changes a field of it, e.g. -p steps=1000."""
    from dtfn import recipes

    changes = recipes.from_text(settings(parameter))
    chosen = {name: recipes.preset(name, **changes) for name in names}
    if len(chosen) > 1 and not side_by_side:
        raise InputError(
            "recipes",
            "one, or several with --side-by-side",
            ", ".join(chosen),
            "add --side-by-side to train them at once on one GPU",
        )
    if side_by_side:
        from dtfn.side_by_side import train_together

        how: dict[str, Any] = {"accelerator": accelerator, "resume": resume}
        for weights in train_together(chosen, out, minutes=minutes, keep_every=keep_every, **how):
            print(weights)
        return
    from dtfn import training

    weights = training.train(
        next(iter(chosen.values())),
        out,
        resume=resume,
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=strategy,
        precision=precision,
        accumulate=accumulate,
        threads=threads,
        workers=workers,
        compiled=compiled,
        tensorboard=tensorboard,
    )
    print(weights)


@app.command(short_help="Print how near the networks run to this machine's limit.")
def bench(
    sizes: Annotated[str, typer.Option(help="LR sizes of the full-size networks.")] = "48,96,192",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's choice.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
) -> None:
    """Print how near the networks run to the machine's limit (minutes; needs a quiet machine)."""
    from dtfn import bench
    from dtfn.reports import tables

    table = bench.table(tuple(int(size) for size in sizes.split(",")), threads, device)
    print(tables.markdown(table), end="")


def _audit_report(folders: list[str], scale: int, out: Path) -> None:
    """Run the notebook on folders of results, and write ``out/index.html``."""
    from importlib.util import find_spec

    if not find_spec("papermill"):
        print("no report with figures: `pip install 'dtfn[notebook]'` brings what it takes")
        return
    from dtfn import suite
    from dtfn.reports import page

    given = {"folders": folders, "scale": scale}
    try:
        visible = sys.stderr.isatty()
        suite.run("09_audit", given, runs=out / "runs", progress=visible)
    except suite.NotebookFailed as failure:
        print(failure, file=sys.stderr)
        raise typer.Exit(1) from None
    print(page.write_index(out))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; bad input is one line on stderr and exit code 2."""
    try:
        app(arguments, prog_name="dtfn")
    except InputError as error:
        print(f"dtfn: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = error.filename or "the disk"
        print(f"dtfn: {where}: cannot be written or read: {error.strerror}", file=sys.stderr)
        sys.exit(2)


def _require_place(file: Path) -> None:
    """Check, before the work, that a file can be written; make its folder."""
    import tempfile

    from dtfn import files

    with files.writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder")


def _announce(row: Mapping[str, Any], memory: str | None) -> None:
    """Say what a network is about to take, if it is long; refuse what takes too much memory."""
    from dtfn import cache

    if memory is not None and row["memory"] * 2**20 > cache.size(memory, "--memory"):
        raise InputError(
            "--memory",
            f"about {row['memory']:.0f} MB for {row['method']}",
            memory,
            "choose smaller tiles, or only --memory, which chooses their size",
        )
    if row["seconds"] >= SLOW:
        told = f"{row['seconds'] / 60:.1f} min" if row["seconds"] < 5400 else ""
        told = told or f"{row['seconds'] / 3600:.1f} h"
        print(
            f"{row['method']}: about {told} and {row['memory']:.0f} MB for {row['pictures']} "
            f"pictures in {row['tiles']} runs",
            file=sys.stderr,
        )


def _tiling(chop: bool, tile: int | None, overlap: int, memory: str | None) -> Any:
    """Return how images are cut."""
    from dtfn import tiling

    if chop and tile is not None:
        raise InputError("tiling", "one of --chop and --tile", "both", "leave one out")
    if tile is not None:
        return tiling.Tiling(tile, overlap)
    return tiling.way("chop" if chop else memory or "whole")
