"""Intervals and tests whose replicates are images, because the pixels of one image are not.

Positions of one image share its texture, so however many they are, they tell about one image. Every
function here first takes the mean of each cluster (an image, or an image of a dataset), then treats
those means as the sample: all images weigh the same, as in the field's tables. SciPy does the work.

What is on arrays is in `bootstrap`, `significance` and `correlation`, and here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from dtfn.errors import InputError
from dtfn.statistics.bootstrap import (
    LEAST,
    NOTHING,
    RESAMPLES,
    Interval,
    Method,
    constant,
    difference_interval,
    mean_interval,
    ratio_interval,
)
from dtfn.statistics.correlation import (
    codes,
    rank_correlation_across,
    rank_correlation_within,
    ranks,
    spearman_binary,
)
from dtfn.statistics.significance import (
    Alternative,
    Crossed,
    false_discovery,
    sign_flip,
    sign_flip_crossed,
)

__all__ = [
    "LEAST", "NOTHING", "RESAMPLES", "Alternative", "Crossed", "Interval", "Method", "codes",
    "constant", "difference_interval", "false_discovery", "intervals", "mean_interval",
    "rank_correlation_across", "rank_correlation_within", "ranks", "ratio_interval", "sign_flip",
    "sign_flip_crossed", "spearman_binary",
]  # fmt: skip


def intervals(
    table: pd.DataFrame,
    columns: Sequence[str],
    by: Sequence[str] = ("pair", "dataset", "scale"),
    clusters: Sequence[str] = ("dataset", "image"),
    **options: Any,
) -> pd.DataFrame:
    """Return the mean of columns of a tidy table with intervals, group by group.

    Parameters
    ----------
    table
        A row an image, e.g. from `dtfn.subpixel.measure` or `dtfn.evaluation.evaluate`.
    columns
        The columns to take the means of. Images where one is NaN do not count for it.
    by
        The columns that make the groups; none: the whole table is one.
    clusters
        The columns that together name an image.
    **options
        As for `mean_interval`.

    Returns
    -------
    A row a group and column: those of ``by``, metric, and the fields of `Interval`.

    Raises
    ------
    InputError
        If the table lacks a column or a group has no value at all.
    """
    missing = [name for name in (*columns, *by, *clusters) if name not in table]
    if missing:
        raise InputError(
            "table",
            expected=f"the columns {', '.join(missing)}",
            found=", ".join(map(str, table.columns)),
            remedy="choose among these",
        )
    groups = table.groupby(list(by), sort=False) if by else [((), table)]
    rows = []
    for group, part in groups:
        for column in columns:
            known = part[part[column].notna()]
            names = known.groupby(list(clusters)).ngroup()
            found = mean_interval(known[column], names, **options)
            rows.append({**dict(zip(by, group, strict=True)), "metric": column, **asdict(found)})
    return pd.DataFrame(rows)
