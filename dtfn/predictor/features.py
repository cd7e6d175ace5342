"""What can be known of each LR position without the truth. Users find it in `dtfn.predictor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

from dtfn import evaluation, images, positions, provenance, subpixel, texture
from dtfn.errors import InputError
from dtfn.subpixel.blocks import Array, Float, block_mean, interior, luma, lumas
from dtfn.texture.neighbours import COUNT, SIDE, remembered

SIGNALS = ("entropy", "distance", "on_self", "hash_difference")
"""What only the network with attention can tell, see `dtfn.predictor.signals`."""

FEATURES = (
    # of the LR picture
    "variance", "gradient_energy", "coherence", "recurrence",
    # of what the two networks made of it
    "difference", "difference_around", "drawn", "drawn_more", "unfaithful", "unfaithful_more",
    "inconsistency_drawn",
    # of the network with attention
    *SIGNALS,
)  # fmt: skip
"""The features, see `describe` and `dtfn.predictor.signals`; NaN where a network has none."""


def describe(
    lr: Array, sr_n: Array, sr_l: Array, scale: int, signals: Mapping[str, Float] | None = None
) -> dict[str, Float]:
    """Return all features of one picture as maps ``(H, W)``.

    Parameters
    ----------
    lr
        uint8 RGB ``(H, W, 3)``.
    sr_n, sr_l
        What N and L made of it, uint8 RGB ``(sH, sW, 3)``.
    scale
        s.
    signals
        Of `dtfn.predictor.signals.of_network`; what is missing is NaN.

    Returns
    -------
    ``variance``, ``gradient_energy``, ``coherence``, ``recurrence`` as in `dtfn.texture`;
    ``difference``: mean squared difference of N and L in the block (MSE), ``difference_around``:
    its mean over the 5 x 5 positions around;
    ``drawn``: energy of the detail that N drew, ``drawn_more``: that less L's (MSE);
    ``unfaithful``: how far N's output, degraded again, is from the LR picture, and
    ``unfaithful_more``: that less L's (MSE): the truth degrades to it exactly;
    ``inconsistency_drawn``: inconsistency of N's details among the LR look-alikes, which is that of
    `dtfn.texture` with N's output in the truth's place.
    """
    around = max(1, min(COUNT, lr.shape[0] * lr.shape[1] - 1))
    found = remembered(lr, around, positions.every(lr.shape))
    y, n, l = luma(lr, lr), luma(sr_n, sr_n), luma(sr_l, sr_l)
    difference = block_mean((n - l) ** 2, scale)
    again, again_l = images.degrade(sr_n, scale), images.degrade(sr_l, scale)
    drawn = texture.severity(sr_n, scale, again)
    drawn_l = texture.severity(sr_l, scale, again_l)
    off, off_l = ((luma(small, small) - y) ** 2 for small in (again, again_l))
    maps = {
        "variance": texture.variance(lr),
        "gradient_energy": texture.gradient_energy(lr),
        "coherence": texture.coherence(lr),
        "recurrence": texture.recurrence(lr, found),
        "difference": difference,
        "difference_around": ndimage.uniform_filter(difference, SIDE, mode="reflect"),
        "drawn": drawn,
        "drawn_more": drawn - drawn_l,
        "unfaithful": off,
        "unfaithful_more": off - off_l,
        "inconsistency_drawn": texture.inconsistency(sr_n, scale, found),
    }
    missing = np.full(y.shape, np.nan)
    return {name: (maps | dict(signals or {})).get(name, missing) for name in FEATURES}


def collect(
    n: str,
    l: str,
    datasets: Sequence[str],
    scale: int,
    count: int | None = None,
) -> pd.DataFrame:
    """Return features and errors of all positions of benchmarks, their borders left out.

    Parameters
    ----------
    n, l
        Networks with and without attention: names of the zoo or weights files.
    datasets, scale, count
        As for `dtfn.evaluation.evaluate`.

    Returns
    -------
    A row a position: dataset, image, picture (a hash of its pixels: benchmarks share pictures),
    row, column, the `FEATURES` (float32), and what no predictor may see: error_n, error_l,
    error_mean (MSE of N, of L, and of the mean of both).
    """
    from dtfn.predictor import signals

    evaluation.require([n, l], scale)
    if evaluation.fingerprint(n) == evaluation.fingerprint(l):
        raise InputError(
            "pair", expected="two different networks", found=f"{n} twice", remedy="name another"
        )
    parts = []
    for sample in evaluation.samples(datasets, scale, count):
        made = evaluation.outputs([n, l], sample)
        sr_n, sr_l = made[n].image, made[l].image
        known = describe(sample.lr, sr_n, sr_l, scale, signals.of_network(n, sample, sr_n))
        errors = _errors(sr_n, sr_l, sample.hr, scale)
        names = {"dataset": sample.dataset, "image": sample.image}
        names["picture"] = provenance.array_hash(sample.hr)[:12]
        parts.append(_table(known, errors, names))
    return pd.concat(parts, ignore_index=True)


def _table(
    known: Mapping[str, Float], errors: Mapping[str, Float], names: Mapping[str, str]
) -> pd.DataFrame:
    rows, columns = np.indices(next(iter(known.values())).shape).astype(float)
    where = {"row": interior(rows).ravel(), "column": interior(columns).ravel()}
    where = {name: place.astype(np.int32) for name, place in where.items()}
    values = {name: interior(m).ravel().astype(np.float32) for name, m in known.items()}
    measured = {name: interior(e).ravel() for name, e in errors.items()}
    table = pd.DataFrame(where | values | measured)
    for place, (name, value) in enumerate(names.items()):
        table.insert(place, name, pd.Categorical([value] * len(table)))
    return table.astype(dict.fromkeys(names, "str"))


def _errors(sr_n: Array, sr_l: Array, hr: Array, scale: int) -> dict[str, Float]:
    n, l, y = lumas(sr_n, sr_l, hr)
    made = {"error_n": n, "error_l": l, "error_mean": (n + l) / 2}
    return {name: subpixel.block_error(x, y, scale) for name, x in made.items()}
