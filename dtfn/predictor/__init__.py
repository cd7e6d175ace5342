"""Predict harm without the truth, and take the local twin's output where it is predicted.

    table = predictor.judged(predictor.collect("nla-x4-s0", "local-x4-s0", ["Set14"], 4))
    predictor.gate(table, predictor.COSTS)   # a row a picture: what it wins, beside a coin

    model = predictor.fit(table, costs=True)   # and for a new picture (a `dtfn.datasets.Sample`):
    known = predictor.describe(lr, sr_n, sr_l, 4, signals.of_network("nla-x4-s0", sample, sr_n))
    predictor.gated_output(sr_n, sr_l, predictor.probability(model, known))

*Harm* is that N errs more than L in the s x s block of an LR position. What is known of a position
are features of the LR picture, of both outputs and of the network's attention (`FEATURES`); never
the truth. Whatever is reported is of pictures that the predictor never saw.
"""

from __future__ import annotations

from dtfn.predictor.features import FEATURES, collect, describe
from dtfn.predictor.learning import (
    COSTS,
    PREDICTED,
    fit,
    held_out,
    importance,
    judged,
    probability,
)
from dtfn.predictor.scores import (
    areas,
    auc,
    brier,
    gate,
    gated_output,
    reliability,
    risk_coverage,
    roc,
)

__all__ = [
    "COSTS", "FEATURES", "PREDICTED", "areas", "auc", "brier", "collect", "describe", "fit", "gate",
    "gated_output", "held_out", "importance", "judged", "probability", "reliability",
    "risk_coverage", "roc",
]  # fmt: skip
