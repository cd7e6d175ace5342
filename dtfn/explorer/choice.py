"""What a reader chooses, and how the rest follows when a part of it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dtfn.errors import InputError, nearest
from dtfn.explorer import networks
from dtfn.explorer.networks import Team
from dtfn.explorer.pictures import Window

FILES = "uploads"  # stands among the benchmarks for the pictures that the reader brought


@dataclass(frozen=True)
class Choice:
    """All that a reader chooses, beside the position.

    Attributes
    ----------
    dataset, image
        A benchmark and one of its pictures, or `FILES` and a name that was uploaded.
    scale
        2, 3 or 4.
    team
        The networks.
    layer
        Attention layer of N; None where N has none.
    hash_seed
        Of all layers with hashing.
    window
        The tile; None for the whole picture.
    """

    dataset: str
    image: str
    scale: int
    team: Team
    layer: str | None = None
    hash_seed: int = 0
    window: Window | None = None


def changed(old: Choice, changes: Mapping[str, Any], images: Callable[[str], list[str]]) -> Choice:
    """Return a choice after changes, with what no longer fits made to fit.

    Parameters
    ----------
    old
        The choice before.
    changes
        Fields of `Choice`, or of its team.
    images
        Benchmark -> names of its pictures.

    Raises
    ------
    InputError
        No such field; a benchmark that is not here.
    """
    own, others = Choice.__dataclass_fields__, Team.__dataclass_fields__
    for name in changes:
        if name not in own and name not in others:
            raise InputError(
                "choice", expected="a known field", found=repr(name),
                remedy=nearest(name, [*own, *others]),
            )  # fmt: skip
    new = replace(old, **{k: v for k, v in changes.items() if k in own})
    if new.dataset != old.dataset and "image" not in changes:
        new = replace(new, image=images(new.dataset)[0])
    moved = (new.dataset, new.image, new.scale) != (old.dataset, old.image, old.scale)
    if moved and "window" not in changes:
        new = replace(new, window=None)
    if new.scale != old.scale and "team" not in changes:
        new = replace(new, team=networks.team(new.scale))
    team = replace(new.team, **{k: v for k, v in changes.items() if k in others})
    new = replace(new, team=team)
    if new.team.with_ != old.team.with_ and "layer" not in changes:
        new = replace(new, layer=None)
    return new
