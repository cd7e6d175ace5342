"""What a method's name stands for: bicubic, a network of the zoo, an imported one, or a file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dtfn import zoo
from dtfn.errors import InputError, nearest
from dtfn.evaluation import cache, costs

if TYPE_CHECKING:
    import torch

BICUBIC = "bicubic"


def require(methods: Sequence[str], scale: int) -> None:
    """Check, before anything runs, that every method exists and has this scale.

    Raises
    ------
    InputError
        For no method at all, an unknown one, or one of another scale.
    """
    if not methods:
        raise InputError("methods", expected="one or more", found="none", remedy="name one")
    scales = {row["name"]: int(row["scale"]) for row in zoo.everything()}
    for method in methods:
        weights = fingerprint(method)
        if method in scales:
            require_scale(method, scales[method], scale)
        elif method != BICUBIC:
            require_scale(method, int(network(method, weights).scale), scale)  # type: ignore[arg-type]


def fingerprint(method: str) -> str:
    """Return the sha256 of a method's weights; ``"bicubic"`` for bicubic.

    Raises
    ------
    InputError
        For an unknown name, or weights that are missing.
    """
    if method == BICUBIC:
        return BICUBIC
    known = [row["name"] for row in zoo.everything()]
    if method not in known and Path(method).suffix not in zoo.SUFFIXES:
        raise InputError(
            f"method {method!r}",
            expected=f"bicubic, a network of the zoo, an imported one or a "
            f"{', '.join(zoo.SUFFIXES)} file",
            found="none of these",
            remedy=nearest(method, [BICUBIC, *known]),
        )
    return cache.sha256(zoo.file_of(method))


def require_scale(method: str, found: int, scale: int) -> None:
    """Raise `InputError` unless a network has the scale that is wanted."""
    if found != scale:
        raise InputError(
            f"network {method!r}",
            expected=f"scale {scale}",
            found=f"scale {found}",
            remedy="choose a network of that scale",
        )


def device(name: str) -> str:
    """Return what ``"auto"`` stands for, a GPU if torch has one, else the CPU; others as given."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@functools.cache
def network(method: str, weights: str, device: str = "cpu") -> torch.nn.Module:
    """Load a network, once a process; by its hash too, because a file can be trained anew.

    Parameters
    ----------
    method
        A name or file, as for `dtfn.models.load`.
    weights
        Of `fingerprint`.
    device
        ``"cpu"`` or ``"cuda"``, perhaps with a number.

    Raises
    ------
    InputError
        As `dtfn.models.load`; or this machine has no such device.
    """
    import torch

    from dtfn import models

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {device!r}", expected="cpu, or cuda where there is a GPU",
            found=str(error).splitlines()[0], remedy="leave it out, or install a torch with CUDA",
        ) from error  # fmt: skip
    loaded = models.load(method).to(device)
    costs.give_back()
    return loaded
