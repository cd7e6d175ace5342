"""``python -m dtfn``: the command line."""

from dtfn.cli import main

main()
