"""The commands of the cache of network outputs: show and clear."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    help="What networks made, kept on disk so that it is made once.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def show() -> None:
    """Print where the cache is, what it holds and what it may hold (DTFN_CACHE_LIMIT)."""
    from dtfn import cache

    found = cache.usage()
    held = f"{found.entries} outputs and maps"
    print(f"{found.folder}: {held}, {_size(found.bytes)} of {_size(found.limit)}")


@app.command()
def clear(
    keep: Annotated[str, typer.Option(help="Size that may stay, e.g. 500MB; the oldest go.")] = "0",
) -> None:
    """Remove the outputs; networks are then run again where these are asked for."""
    from dtfn import cache

    removed = cache.clear(cache.size(keep, "--keep"))
    print(f"{removed} removed, {_size(cache.usage().bytes)} left")


def _size(amount: int) -> str:
    return f"{amount / 2**20:.1f} MB"
