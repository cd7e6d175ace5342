"""Where to look: which networks have attention, and which positions of which picture."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dtfn import zoo
from dtfn.datasets import Sample
from dtfn.errors import InputError, nearest
from dtfn.subpixel import discoveries

Query = tuple[int, int]


def attentive(scale: int, seed: int) -> list[str]:
    """Return the variants of the zoo with attention that there are at a scale and training seed."""
    return [
        row["variant"]
        for row in zoo.registry()
        if (row["scale"], row["seed"]) == (scale, seed) and not row["variant"].startswith("local")
    ]


def places(
    regions: pd.DataFrame,
    samples: Sequence[Sample],
    networks: Sequence[str],
    picture: str = "",
    queries: Sequence[Sequence[int]] = (),
) -> tuple[Sample, dict[str, Query]]:
    """Return a picture and the positions to look from: those asked for, or where it matters most.

    Parameters
    ----------
    regions
        Of `dtfn.subpixel.discoveries.judge`, a pair a network, named like it.
    samples
        The pictures.
    networks
        Whose regions.
    picture
        Name of an image; empty: that with the heaviest region of harm.
    queries
        (row, column) pairs; none: the centres of the heaviest regions of harm and of help on this
        picture, or its middle, where there is none.

    Returns
    -------
    The sample, and what tells a position -> the position.

    Raises
    ------
    InputError
        None of the samples has this name.
    """
    by_name = {sample.image: sample for sample in samples}
    if picture and picture not in by_name:
        raise InputError(
            "picture", expected="one of the pictures that are looked at", found=repr(picture),
            remedy=nearest(picture, by_name),
        )  # fmt: skip
    network = discoveries.worst(regions, networks)
    chosen = discoveries.choose(regions, network, picture)
    image = picture or (chosen["image"].iloc[0] if len(chosen) else next(iter(by_name)))
    sample = by_name[str(image)]
    if len(queries):
        return sample, {f"query {n}": (q[0], q[1]) for n, q in enumerate(queries, start=1)}
    found = {
        f"where {network} {did} most": row["region"].centre()
        for row in chosen.to_dict("records")
        for did in ["harmed" if row["side"] == "harm" else "helped"]
    }
    middle = (sample.lr.shape[0] // 2, sample.lr.shape[1] // 2)
    return sample, found or {"the middle": middle}
