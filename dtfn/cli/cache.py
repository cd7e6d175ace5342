"""The commands of the cache of network outputs: show and clear."""

from __future__ import annotations

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
def clear() -> None:
    """Remove the outputs; networks are then run again where their outputs are needed."""
    from dtfn import cache

    print(f"{cache.clear()} removed")


def _size(amount: int) -> str:
    return f"{amount / 2**20:.1f} MB"
