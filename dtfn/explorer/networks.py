"""Which networks of the zoo to compare, and how large a picture each of them can take."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import nn

from dtfn import models, zoo
from dtfn.errors import InputError
from dtfn.models.attention import NonLocalAttention

PREFERRED = ("dtfn", "nla")  # as N, where the zoo has them
DENSE = 40_000  # LR positions: some 20 s on one core for a mini network, growing with the square
LARGEST = 160_000  # the same for networks whose time grows with the positions


@dataclass(frozen=True)
class Team:
    """Networks that go together.

    Attributes
    ----------
    with_, without
        N and L: the pair.
    null
        A second local twin, of N's training seed; None where there is none. It differs from N in
        the attention alone, and L in its seed from both.
    beside
        One more network to look at; None for none.
    """

    with_: str
    without: str
    null: str | None
    beside: str | None

    @property
    def names(self) -> list[str]:
        """Every network once, L first."""
        named = (self.without, self.with_, self.null, self.beside)
        return list(dict.fromkeys(name for name in named if name is not None))


def scales() -> list[int]:
    """Return the scales that the zoo has two networks or more for."""
    found = [int(row["scale"]) for row in zoo.registry()]
    return sorted({scale for scale in found if found.count(scale) > 1})


def names(scale: int) -> list[str]:
    """Return the networks of a scale, those with attention first."""
    rows = [row for row in zoo.registry() if row["scale"] == scale]
    return [row["name"] for row in sorted(rows, key=lambda row: is_local(row["name"]))]


def is_local(name: str) -> bool:
    """Return whether a network of the zoo has no attention."""
    return str(zoo.entry(name)["variant"]).startswith("local")


def team(scale: int, with_: str | None = None) -> Team:
    """Return the networks that a reader would choose.

    Parameters
    ----------
    scale
        2, 3 or 4.
    with_
        N; None: of `PREFERRED`, else the first with attention.

    Returns
    -------
    L is a local network of another training seed than N's, if there is one, and the null is the one
    of N's; beside them stands the first of `PREFERRED` that is not N.

    Raises
    ------
    InputError
        The zoo has no such network, or no two networks of this scale.
    """
    rows = {row["name"]: row for row in zoo.registry() if row["scale"] == scale}
    attending = [name for name in rows if not is_local(name)]
    if with_ is None:
        first = {rows[name]["variant"]: name for name in reversed(attending)}
        liked = [first[variant] for variant in PREFERRED if variant in first]
        with_ = next(iter([*liked, *attending, *rows]), None)
    locals_ = [name for name in rows if is_local(name) and name != with_]
    if with_ is None or not locals_:
        raise InputError(
            f"networks at x{scale}", expected="one with attention and one without in the zoo",
            found=", ".join(rows) or "none", remedy="train them with `dtfn train`",
        )  # fmt: skip
    ours = zoo.entry(with_)
    locals_.sort(key=lambda name: (rows[name]["variant"] != "local", rows[name]["seed"]))
    kind = rows[locals_[0]]["variant"]
    alike = [name for name in locals_ if rows[name]["variant"] == kind]
    twins = [name for name in alike if rows[name]["seed"] == ours["seed"]][:1] or alike[1:2]
    without = next((name for name in alike if name not in twins), alike[0])
    twins = [name for name in twins if name != without]
    others = [n for v in PREFERRED for n in attending if rows[n]["variant"] == v and n != with_]
    others = [n for n in others if rows[n]["variant"] != ours["variant"]]
    return Team(with_, without, next(iter(twins), None), next(iter(others), None))


@functools.lru_cache(maxsize=16)
def load(name: str, hash_seed: int = 0) -> models.Network:
    """Return a network of the zoo or of a weights file, loaded once; see `dtfn.models.load`."""
    return models.load(name, hash_seed)


def most_positions(network: nn.Module) -> int:
    """Return how many LR positions a picture may have for a network to be done in seconds."""
    dense = any(isinstance(module, NonLocalAttention) for module in network.modules())
    return DENSE if dense else LARGEST
